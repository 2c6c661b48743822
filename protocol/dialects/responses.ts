// The responses dialect of wire 1: what clients send to /v1/responses and what they get back. Owns the zod schemas of the
// body and of its items, and the types of the answers and of their stream. Turning them into the internal form is
// gateway/routes; keeping them is gateway/runs.
import * as z from 'zod'
import { late } from '../late.ts'
import {
  IMAGE_DETAILS,
  MAX_CACHE_KEY_CHARS,
  MAX_LOGPROBS_TOP,
  MAX_MESSAGES,
  MAX_TOOLS,
  REASONING_EFFORTS,
} from '../request.ts'
import { PromptCacheOptions } from './openai-chat.ts'
import {
  boundedArray,
  isObject,
  jsonSchema,
  MAX_CALL_ID_CHARS,
  MAX_PARTS,
  toolName,
  unsupportedType,
} from './schema.ts'

/** The dialect's own limits on metadata. */
const MAX_METADATA = 16
const MAX_METADATA_KEY_CHARS = 64
const MAX_METADATA_VALUE_CHARS = 512
const id = late(() => z.string().min(1).max(MAX_CALL_ID_CHARS))
const status = late(() => z.enum(['in_progress', 'completed', 'incomplete']).nullish())

/** The exact end of what is to be kept of the prompt. */
const marked = () => ({
  prompt_cache_breakpoint: z.object({ mode: z.literal('explicit'), ttl: z.enum(['30m', '12h']).nullish() }).nullish(),
})

const InputText = late(() => z.object({ type: z.literal('input_text'), text: z.string(), ...marked() }))

const InputImage = late(() =>
  z.object({
    type: z.literal('input_image'),
    image_url: z.string({ error: "Expected 'image_url', a URL or a data URL." }).min(1),
    detail: z.enum(IMAGE_DETAILS, { error: "Expected a detail of 'auto', 'low', 'high' or 'original'." }).nullish(),
    file_id: z.null("Files are not kept here; send the image itself in 'image_url'.").optional(),
    ...marked(),
  }),
)

const OutputText = late(() => z.object({ type: z.literal('output_text'), text: z.string() }))
const Refusal = late(() => z.object({ type: z.literal('refusal'), refusal: z.string() }))

const InputPart = late(() =>
  z.discriminatedUnion('type', [InputText, InputImage], {
    error: unsupportedType('Content parts', "'input_text' and 'input_image' are here"),
  }),
)
/** Official clients send an earlier answer back as it came, or write one by hand with `input_text`. */
const MessagePart = late(() =>
  z.discriminatedUnion('type', [InputText, InputImage, OutputText, Refusal], {
    error: unsupportedType('Content parts', "'input_text', 'input_image', 'output_text' and 'refusal' are"),
  }),
)

/** Fields of items beyond these (`annotations`, `logprobs`, `phase`) are the echo of earlier answers and carry no input. */
const MessageItem = late(() =>
  z.object({
    type: z.literal('message'),
    id: id.nullish(),
    role: z.enum(['user', 'assistant', 'system', 'developer']),
    content: z.union([z.string(), boundedArray(MessagePart, 0, MAX_PARTS)], {
      error: 'Expected a string or an array of content parts.',
    }),
    status,
  }),
)

const FunctionCallItem = late(() =>
  z.object({
    type: z.literal('function_call'),
    id: id.nullish(),
    call_id: id,
    name: z.string().min(1).max(MAX_CALL_ID_CHARS),
    arguments: z.string(),
    status,
  }),
)

const FunctionCallOutputItem = late(() =>
  z.object({
    type: z.literal('function_call_output'),
    id: id.nullish(),
    call_id: id,
    output: z.union([z.string(), boundedArray(InputPart, 0, MAX_PARTS)], {
      error: 'Expected a string or an array of text and image parts.',
    }),
    status,
  }),
)

const ReasoningItem = late(() =>
  z.object({
    type: z.literal('reasoning'),
    id: id.nullish(),
    summary: boundedArray(z.object({ type: z.literal('summary_text'), text: z.string() }), 0, MAX_PARTS).nullish(),
    content: boundedArray(z.object({ type: z.literal('reasoning_text'), text: z.string() }), 0, MAX_PARTS).nullish(),
    encrypted_content: z.string().nullish(),
    status,
  }),
)

const ItemReference = late(() => z.object({ type: z.literal('item_reference'), id }))

/** An item with everything that a model is told by it: what is kept of a conversation. */
export const StoredItem = late(() =>
  z.discriminatedUnion('type', [MessageItem, FunctionCallItem, FunctionCallOutputItem, ReasoningItem]),
)
export type ResponseInputItem = z.infer<typeof StoredItem>

const Item = late(() =>
  z.discriminatedUnion('type', [MessageItem, FunctionCallItem, FunctionCallOutputItem, ReasoningItem, ItemReference], {
    error: unsupportedType(
      'Input items',
      "'message', 'function_call', 'function_call_output', 'reasoning' and 'item_reference' are",
    ),
  }),
)
export type ResponseRequestItem = z.infer<typeof Item>

/** The short forms have no type: a message has a role, a reference nothing but its id. */
const InputItem = late(() =>
  z.preprocess((value) => {
    if (!isObject(value)) return value
    if (value.type !== undefined && value.type !== null) return value
    if (value.role !== undefined) return { ...value, type: 'message' }
    return typeof value.id === 'string' && Object.keys(value).every((name) => name === 'id' || name === 'type')
      ? { ...value, type: 'item_reference' }
      : value
  }, Item),
)

const FunctionTool = late(() =>
  z.object({
    type: z.literal('function'),
    name: toolName,
    description: z.string().nullish(),
    parameters: jsonSchema.nullish(),
    strict: z.boolean().nullish(),
    allowed_callers: z
      .custom((value) => JSON.stringify(value) === '["direct"]', "Only 'direct' callers exist.")
      .nullish(),
    async: z.literal(false, 'Asynchronous tools are not supported.').nullish(),
    defer_loading: z.literal(false, 'Tools are not loaded on demand.').nullish(),
    output_schema: z.null('Schemas of outputs are not supported.').optional(),
  }),
)

const Tool = late(() =>
  z.discriminatedUnion('type', [FunctionTool], {
    error: unsupportedType('Tools', "only 'function' is, whose calls the caller runs"),
  }),
)

const ChosenFunction = late(() => z.object({ type: z.literal('function'), name: z.string().min(1) }))
const ToolChoice = late(() =>
  z.union(
    [
      z.enum(['auto', 'none', 'required']),
      ChosenFunction,
      z.object({
        type: z.literal('allowed_tools'),
        mode: z.enum(['auto', 'required']),
        tools: boundedArray(ChosenFunction, 0, MAX_TOOLS),
      }),
    ],
    { error: "Expected 'auto', 'none', 'required', a function by its name, or 'allowed_tools' with functions." },
  ),
)

const TextFormat = late(() =>
  z.discriminatedUnion(
    'type',
    [
      z.object({ type: z.literal('text') }),
      z.object({ type: z.literal('json_object') }),
      z.object({
        type: z.literal('json_schema'),
        name: z.string().regex(/^[\w-]{1,64}$/, 'A name has 1 to 64 letters, digits, dashes and underscores.'),
        description: z.string().nullish(),
        schema: jsonSchema,
        strict: z.boolean().nullish(),
      }),
    ],
    { error: "Expected an object with a type of 'text', 'json_object' or 'json_schema'." },
  ),
)

/** What can be asked for beyond the answer itself. The others belong to tools that are refused, and so ask for nothing. */
const INCLUDABLE = [
  'reasoning.encrypted_content',
  'message.output_text.logprobs',
  'message.input_image.image_url',
  'file_search_call.results',
  'web_search_call.results',
  'web_search_call.action.sources',
  'computer_call_output.output.image_url',
  'code_interpreter_call.outputs',
] as const

const metadata = late(() =>
  z
    .custom<Record<string, unknown>>(
      (value) => isObject(value) && Object.keys(value).length <= MAX_METADATA,
      `Expected an object with at most ${MAX_METADATA} entries.`,
    )
    .pipe(z.record(z.string().max(MAX_METADATA_KEY_CHARS), z.string().max(MAX_METADATA_VALUE_CHARS))),
)

const summary = late(() => z.enum(['auto', 'concise', 'detailed']).nullish())

/** `null` means unset everywhere, as official clients send it. */
export const ResponseRequest = late(() =>
  z.object({
    model: z.string().min(1).max(200),
    input: z
      .union([z.string(), boundedArray(InputItem, 0, MAX_MESSAGES)], {
        error: 'Expected a string or an array of input items.',
      })
      .nullish(),
    instructions: z.string().nullish(),
    previous_response_id: id.nullish(),
    store: z.boolean().nullish(),
    background: z.boolean().nullish(),
    stream: z.boolean().nullish(),
    stream_options: z.object({ include_obfuscation: z.boolean().nullish() }).strict().nullish(),
    tools: boundedArray(Tool, 0, MAX_TOOLS).nullish(),
    tool_choice: ToolChoice.nullish(),
    parallel_tool_calls: z.boolean().nullish(),
    text: z
      .object({ format: TextFormat.nullish(), verbosity: z.enum(['low', 'medium', 'high']).nullish() })
      .strict()
      .nullish(),
    reasoning: z
      .object({
        effort: z.enum(REASONING_EFFORTS).nullish(),
        summary,
        generate_summary: summary,
        mode: z.literal('standard', "Only the mode 'standard' is supported.").nullish(),
        context: z
          .literal('auto', "Which earlier thoughts a model sees again is its own choice: only 'auto'.")
          .nullish(),
      })
      .strict()
      .nullish(),
    max_output_tokens: z.int().min(1).nullish(),
    temperature: z.number().min(0).max(2).nullish(),
    top_p: z.number().min(0).max(1).nullish(),
    top_logprobs: z.int().min(0).max(MAX_LOGPROBS_TOP).nullish(),
    include: boundedArray(z.enum(INCLUDABLE), 0, INCLUDABLE.length).nullish(),
    truncation: z
      .literal('disabled', "Only 'disabled' is supported: what is dropped from a conversation is the caller's choice.")
      .nullish(),
    metadata: metadata.nullish(),
    prompt_cache_key: z.string().max(MAX_CACHE_KEY_CHARS).nullish(),
    prompt_cache_options: PromptCacheOptions.nullish(),
    service_tier: z.enum(['auto', 'default'], { error: "Only 'auto' and 'default' are supported." }).nullish(),
    safety_identifier: z.string().nullish(),
    user: z.string().nullish(),
  }),
)
export type ResponseRequest = z.infer<typeof ResponseRequest>

export type ResponseLogprob = {
  token: string
  logprob: number
  bytes: number[]
  top_logprobs: { token: string; logprob: number; bytes: number[] }[]
}

export type ItemStatus = 'in_progress' | 'completed' | 'incomplete'

export type OutputTextPart = {
  type: 'output_text'
  text: string
  annotations: never[]
  logprobs: ResponseLogprob[]
}
export type RefusalPart = { type: 'refusal'; refusal: string }
export type ReasoningTextPart = { type: 'reasoning_text'; text: string }
export type SummaryPart = { type: 'summary_text'; text: string }

export type OutputMessage = {
  id: string
  type: 'message'
  role: 'assistant'
  status: ItemStatus
  content: (OutputTextPart | RefusalPart)[]
}
export type OutputReasoning = {
  id: string
  type: 'reasoning'
  status: ItemStatus
  summary: SummaryPart[]
  content?: ReasoningTextPart[]
  encrypted_content?: string
}
export type OutputFunctionCall = {
  id: string
  type: 'function_call'
  status: ItemStatus
  call_id: string
  name: string
  arguments: string
}
export type ResponseOutputItem = OutputMessage | OutputReasoning | OutputFunctionCall

export type ResponseUsage = {
  input_tokens: number
  input_tokens_details: { cached_tokens: number; cache_write_tokens: number }
  output_tokens: number
  output_tokens_details: { reasoning_tokens: number }
  total_tokens: number
}

export type ResponseErrorCode = 'server_error' | 'rate_limit_exceeded' | 'invalid_prompt'

/** What was asked, as every answer repeats it. */
export type ResponseEcho = {
  access_programs: null
  background: boolean
  instructions: string | null
  max_output_tokens: number | null
  metadata: Record<string, string>
  model: string
  parallel_tool_calls: boolean
  previous_response_id: string | null
  prompt_cache_key: string | null
  reasoning: { effort: (typeof REASONING_EFFORTS)[number] | null; summary: 'auto' | 'concise' | 'detailed' | null }
  safety_identifier: string | null
  service_tier: 'default'
  store: boolean
  temperature: number
  text: { format: ResponseTextFormat; verbosity: 'low' | 'medium' | 'high' }
  tool_choice: z.infer<typeof ToolChoice>
  tools: ResponseTool[]
  top_logprobs: number
  top_p: number
  truncation: 'disabled'
  user?: string
}
export type ResponseTextFormat =
  | { type: 'text' }
  | { type: 'json_object' }
  | {
      type: 'json_schema'
      name: string
      description?: string
      schema: Record<string, unknown>
      strict: boolean | null
    }
export type ResponseTool = {
  type: 'function'
  name: string
  description: string | null
  parameters: Record<string, unknown> | null
  strict: boolean | null
}

export type ResponseState = 'queued' | 'in_progress' | 'completed' | 'incomplete' | 'failed' | 'cancelled'

export type ResponseObject = ResponseEcho & {
  id: string
  object: 'response'
  created_at: number
  completed_at: number | null
  status: ResponseState
  error: { code: ResponseErrorCode; message: string } | null
  incomplete_details: { reason: 'max_output_tokens' | 'content_filter' } | null
  output: ResponseOutputItem[]
  usage: ResponseUsage | null
}

type At = { item_id: string; output_index: number }
type AtContent = At & { content_index: number }
type AtSummary = At & { summary_index: number }
type Part = OutputTextPart | RefusalPart | ReasoningTextPart

/** An event without its number. */
export type ResponseEventBody =
  | { type: 'response.created' | 'response.queued' | 'response.in_progress'; response: ResponseObject }
  | { type: 'response.completed' | 'response.incomplete' | 'response.failed'; response: ResponseObject }
  | { type: 'response.output_item.added' | 'response.output_item.done'; output_index: number; item: ResponseOutputItem }
  | ({ type: 'response.content_part.added' | 'response.content_part.done'; part: Part } & AtContent)
  | ({ type: 'response.output_text.delta'; delta: string; logprobs: ResponseLogprob[] } & AtContent)
  | ({ type: 'response.output_text.done'; text: string; logprobs: ResponseLogprob[] } & AtContent)
  | ({ type: 'response.refusal.delta'; delta: string } & AtContent)
  | ({ type: 'response.refusal.done'; refusal: string } & AtContent)
  | ({ type: 'response.reasoning_text.delta'; delta: string } & AtContent)
  | ({ type: 'response.reasoning_text.done'; text: string } & AtContent)
  | ({
      type: 'response.reasoning_summary_part.added' | 'response.reasoning_summary_part.done'
      part: SummaryPart
    } & AtSummary)
  | ({ type: 'response.reasoning_summary_text.delta'; delta: string } & AtSummary)
  | ({ type: 'response.reasoning_summary_text.done'; text: string } & AtSummary)
  | ({ type: 'response.function_call_arguments.delta'; delta: string } & At)
  | ({ type: 'response.function_call_arguments.done'; name: string; arguments: string } & At)
  | { type: 'error'; code: string; message: string; param: string | null }

/** An item of /v1/responses/:id/input_items: each has an id, and messages have parts. */
export type ResponseListedItem = Record<string, unknown> & { id: string; type: ResponseInputItem['type'] }
