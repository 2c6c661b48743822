// The messages dialect on wire 1 (Anthropic's): what clients send and what they get back. Owns the zod schemas of the request
// bodies and the types of the answers. Turning them into the internal form is gateway/routes; errors are gateway/errors.ts.
import * as z from 'zod'
import { late } from '../late.ts'
import { MAX_MESSAGES, MAX_STOP_BYTES, MAX_STOP_STRINGS, MAX_TOOLS } from '../request.ts'
import {
  boundedArray,
  cacheControl,
  isObject,
  jsonSchema,
  MAX_CALL_ID_CHARS,
  MAX_PARTS,
  toolName,
  unsupportedType,
  utf8Bytes,
} from './schema.ts'

/** Clients of this dialect send it with each request. */
export const VERSION_HEADER = 'anthropic-version'
/** The kind of provider whose seals stand in this dialect as they are. */
export const OWN_SEALS = 'anthropic'
/** Examples of one tool's arguments: each is shown to the model with every request, and real tools have a handful. */
const MAX_EXAMPLES = 64
/** The dialect's own least. */
const MIN_THINKING_TOKENS = 1024

const cached = () => ({ cache_control: cacheControl.nullish() })

const text = late(() =>
  z.strictObject({
    type: z.literal('text'),
    text: z.string(),
    ...cached(),
    /** Part of each text block of an answer, and sent back with it. */
    citations: z.array(z.unknown()).max(0, 'Citations are not supported.').nullish(),
  }),
)

const image = late(() =>
  z.strictObject({
    type: z.literal('image'),
    source: z.discriminatedUnion(
      'type',
      [
        z.strictObject({ type: z.literal('base64'), media_type: z.string().max(100), data: z.string() }),
        z.strictObject({ type: z.literal('url'), url: z.string().min(1) }),
      ],
      { error: unsupportedType('Image sources', "'base64' and 'url' are") },
    ),
    ...cached(),
  }),
)

const callId = late(() => z.string().min(1).max(MAX_CALL_ID_CHARS))

const toolUse = late(() =>
  z.strictObject({
    type: z.literal('tool_use'),
    id: callId,
    name: toolName,
    input: z.custom<Record<string, unknown>>(isObject, 'Input should be an object.'),
    ...cached(),
    caller: z.strictObject({ type: z.literal('direct', 'Only direct calls are supported.') }).nullish(),
    toolset_name: z.null('Toolsets are not supported.').optional(),
  }),
)

const resultContent = late(() =>
  z.discriminatedUnion('type', [text, image], {
    error: unsupportedType('Blocks of a tool result', "'text' and 'image' are"),
  }),
)

const toolResult = late(() =>
  z.strictObject({
    type: z.literal('tool_result'),
    tool_use_id: callId,
    content: z
      .union([z.string(), boundedArray(resultContent, 0, MAX_PARTS)], {
        error: 'Expected a string or an array of blocks.',
      })
      .nullish(),
    is_error: z.boolean().nullish(),
    ...cached(),
    toolset_name: z.null('Toolsets are not supported.').optional(),
  }),
)

const thinking = late(() =>
  z.strictObject({ type: z.literal('thinking'), thinking: z.string(), signature: z.string() }),
)
const redacted = late(() => z.strictObject({ type: z.literal('redacted_thinking'), data: z.string().min(1) }))

/** Blocks that only one role can have are the mapping's to refuse: their place is in its words. */
const block = late(() =>
  z.discriminatedUnion('type', [text, image, toolUse, toolResult, thinking, redacted], {
    error: unsupportedType(
      'Content blocks',
      "'text', 'image', 'tool_use', 'tool_result', 'thinking' and 'redacted_thinking' are",
    ),
  }),
)
export type Block = z.infer<typeof block>

const system = late(() =>
  z.union([z.string(), boundedArray(text, 0, MAX_PARTS)], {
    error: 'Expected a string or an array of text blocks.',
  }),
)

const message = late(() =>
  z.strictObject({
    role: z.enum(['user', 'assistant', 'system']),
    content: z.union([z.string(), boundedArray(block, 0, MAX_PARTS)], {
      error: 'Expected a string or an array of content blocks.',
    }),
  }),
)

const unsupportedTool = ({ input }: { input?: unknown }): string => {
  const known = "only the client's own, without a type or 'custom', are"
  return typeof input === 'string'
    ? `Tools of type '${input.slice(0, 50)}' are not supported; ${known}.`
    : `The type of a tool is a text; ${known} supported.`
}

/** Tools that the vendor's own servers run have another `type`, with a date in it. */
const tool = late(() =>
  z.strictObject({
    type: z.literal('custom', { error: unsupportedTool }).nullish(),
    name: toolName,
    description: z.string().nullish(),
    input_schema: jsonSchema,
    strict: z.boolean().nullish(),
    ...cached(),
    /** Whether arguments may be sent before they are known to be valid. */
    eager_input_streaming: z.boolean().nullish(),
    input_examples: boundedArray(
      z.custom<Record<string, unknown>>(isObject, 'Each example should be an object.'),
      0,
      MAX_EXAMPLES,
    ).nullish(),
    defer_loading: z.literal(false, 'Tools are always loaded.').nullish(),
    allowed_callers: z.array(z.literal('direct', 'Only direct calls are supported.')).max(1).nullish(),
  }),
)

const choice = () => ({ disable_parallel_tool_use: z.boolean().nullish() })
const toolChoice = late(() =>
  z.discriminatedUnion(
    'type',
    [
      z.strictObject({ type: z.literal('auto'), ...choice() }),
      z.strictObject({ type: z.literal('any'), ...choice() }),
      z.strictObject({ type: z.literal('tool'), name: toolName, ...choice() }),
      z.strictObject({ type: z.literal('none') }),
    ],
    { error: unsupportedType('Choices', "'auto', 'any', 'tool' and 'none' are") },
  ),
)

const display = late(() => z.enum(['summarized', 'omitted']).nullish())
const thinkingConfig = late(() =>
  z.discriminatedUnion(
    'type',
    [
      z.strictObject({ type: z.literal('enabled'), budget_tokens: z.int().min(MIN_THINKING_TOKENS), display }),
      z.strictObject({ type: z.literal('adaptive'), display }),
      z.strictObject({ type: z.literal('between_tools') }),
      z.strictObject({ type: z.literal('disabled') }),
    ],
    { error: unsupportedType('Thinking settings', "'enabled', 'adaptive', 'between_tools' and 'disabled' are") },
  ),
)

const outputFormat = late(() =>
  z.strictObject({
    type: z.literal('json_schema', "Only the type 'json_schema' is supported."),
    schema: jsonSchema,
  }),
)

const stopSequence = late(() =>
  z
    .string()
    .min(1, 'A stop sequence must not be empty.')
    .refine((one) => utf8Bytes(one) <= MAX_STOP_BYTES, `A stop sequence may have at most ${MAX_STOP_BYTES} bytes.`),
)

/** Nothing of a conversation is ever cleared here: only the settings that ask for just that are honoured. */
const contextManagement = late(() =>
  z.strictObject({
    edits: boundedArray(
      z.strictObject({
        type: z.literal('clear_thinking_20251015', 'Only keeping all thoughts is supported.'),
        keep: z.literal('all', 'Only keeping all thoughts is supported.'),
      }),
      0,
      1,
    ).nullish(),
  }),
)

/** What says what the model is shown; the same for an answer and for a count. */
const prompt = () => ({
  model: z.string().min(1).max(200),
  messages: boundedArray(message, 1, MAX_MESSAGES),
  system: system.nullish(),
  tools: boundedArray(tool, 0, MAX_TOOLS).nullish(),
  tool_choice: toolChoice.nullish(),
  thinking: thinkingConfig.nullish(),
  output_config: z
    .strictObject({
      effort: z.enum(['low', 'medium', 'high', 'xhigh', 'max']).nullish(),
      format: outputFormat.nullish(),
    })
    .nullish(),
  /** The older place of `output_config.format`. */
  output_format: outputFormat.nullish(),
  ...cached(),
  speed: z.literal('standard', "Only the speed 'standard' is supported.").nullish(),
})

export const CountTokensRequest = late(() => z.strictObject(prompt()))

export const MessagesRequest = late(() =>
  z.strictObject({
    ...prompt(),
    max_tokens: z.int().min(1),
    stream: z.boolean().nullish(),
    stop_sequences: boundedArray(stopSequence, 0, MAX_STOP_STRINGS).nullish(),
    temperature: z.number().min(0).max(1).nullish(),
    top_p: z.number().min(0).max(1).nullish(),
    top_k: z.int().min(0).max(1_000_000).nullish(),
    metadata: z.strictObject({ user_id: z.string().nullish() }).nullish(),
    service_tier: z.enum(['auto', 'standard_only']).nullish(),
    container: z.null('Containers are not supported.').optional(),
    inference_geo: z.null('A place to compute at is chosen by the operator.').optional(),
    diagnostics: z.null('Diagnostics are not supported.').optional(),
    mcp_servers: z.array(z.unknown()).max(0, 'Servers of tools are not supported.').nullish(),
    context_management: contextManagement.nullish(),
  }),
)
export type MessagesRequest = z.infer<typeof MessagesRequest>
export type Prompt = z.infer<typeof CountTokensRequest>

export type StopReason = 'end_turn' | 'max_tokens' | 'stop_sequence' | 'tool_use' | 'refusal'

export type AnswerBlock =
  | { type: 'text'; text: string; citations: null }
  | { type: 'thinking'; thinking: string; signature: string }
  | { type: 'redacted_thinking'; data: string }
  | { type: 'tool_use'; id: string; name: string; input: unknown; caller: { type: 'direct' } }

export type BlockDelta =
  | { type: 'text_delta'; text: string }
  | { type: 'thinking_delta'; thinking: string }
  | { type: 'signature_delta'; signature: string }
  | { type: 'input_json_delta'; partial_json: string }

/** Counts of the whole message so far. */
export type DeltaUsage = {
  /** Neither read from nor written to a cache. */
  input_tokens: number
  cache_creation_input_tokens: number
  cache_read_input_tokens: number
  output_tokens: number
  output_tokens_details: { thinking_tokens: number }
  server_tool_use: null
}

export type Usage = DeltaUsage & {
  cache_creation: { ephemeral_5m_input_tokens: number; ephemeral_1h_input_tokens: number }
  inference_geo: null
  service_tier: null
  speed: null
}

export const REFUSAL_CATEGORIES = ['cyber', 'bio', 'frontier_llm', 'reasoning_extraction', 'general_harms'] as const
/** `category`: null also where the target's is not one of the dialect's. */
type StopDetails = {
  type: 'refusal'
  category: (typeof REFUSAL_CATEGORIES)[number] | null
  explanation: string | null
}

/** How an answer ended; all null while it has not. */
export type Stopped = {
  stop_reason: StopReason | null
  stop_sequence: string | null
  stop_details: StopDetails | null
}

export type Message = Stopped & {
  id: string
  type: 'message'
  role: 'assistant'
  model: string
  content: AnswerBlock[]
  container: null
  diagnostics: null
  usage: Usage
}

export type StreamEvent =
  | { type: 'message_start'; message: Message }
  | { type: 'content_block_start'; index: number; content_block: AnswerBlock }
  | { type: 'content_block_delta'; index: number; delta: BlockDelta }
  | { type: 'content_block_stop'; index: number }
  | { type: 'message_delta'; delta: Stopped & { container: null }; usage: DeltaUsage }
  | { type: 'message_stop' }
  | MessagesError

export type MessagesError = {
  type: 'error'
  error: { type: string; message: string; details: { error_code: string; param?: string } }
  request_id: string
}

/** `capabilities` and the like are the vendor's knowledge of its own models. */
export type ModelInfo = {
  type: 'model'
  id: string
  display_name: string
  created_at: string
  capabilities: null
  lifecycle: 'active'
  line: null
  deprecated_at: null
  retires_at: null
  max_input_tokens: null
  max_tokens: null
}

export type ModelList = { data: ModelInfo[]; has_more: boolean; first_id: string | null; last_id: string | null }
