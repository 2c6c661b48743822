// Messages and tools of OpenAI's chat dialect, as clients send them and as answers hold them. Owns their zod schemas and
// types; the body around them is openai.ts, the internal form gateway/routes.
import * as z from 'zod'
import { late } from '../late.ts'
import { IMAGE_DETAILS, MAX_TOOLS } from '../request.ts'
import {
  boundedArray,
  cacheControl,
  isObject,
  jsonSchema,
  MAX_CALL_ID_CHARS,
  MAX_PARTS,
  toolName,
  unsupportedType,
} from './schema.ts'

/** Extensions and hints that any part may carry: how long a provider may keep the prompt up to here. */
const cached = () => ({
  cache_control: cacheControl.nullish(),
  prompt_cache_breakpoint: z.object({ mode: z.literal('explicit'), ttl: z.enum(['30m', '12h']).nullish() }).nullish(),
})

/** How a prompt is kept is a hint; to keep it and answer nothing is another request. */
export const PromptCacheOptions = late(() =>
  z.looseObject({
    mode: z.enum(['implicit', 'explicit']).nullish(),
    prewarm: z.literal(false, { error: 'must not be true: a prompt is kept only with an answer to it' }).nullish(),
  }),
)

const textPart = late(() => z.object({ type: z.literal('text'), text: z.string(), ...cached() }))
const imagePart = late(() =>
  z.object({
    type: z.literal('image_url'),
    image_url: z.object({ url: z.string().min(1), detail: z.enum(IMAGE_DETAILS).nullish() }),
    ...cached(),
  }),
)
const refusalPart = late(() => z.object({ type: z.literal('refusal'), refusal: z.string() }))

const PARTS = 'Expected a string or an array of content parts.'
const contentOf = <T extends z.ZodType>(part: () => T) =>
  late(() => z.union([z.string(), boundedArray(part(), 1, MAX_PARTS)], { error: PARTS }))

const textContent = contentOf(() =>
  z.discriminatedUnion('type', [textPart], { error: unsupportedType('Content parts', "only 'text' is in this role") }),
)
const userContent = contentOf(() =>
  z.discriminatedUnion('type', [textPart, imagePart], {
    error: unsupportedType('Content parts', "'text' and 'image_url' are"),
  }),
)
const assistantContent = contentOf(() =>
  z.discriminatedUnion('type', [textPart, refusalPart], {
    error: unsupportedType('Content parts', "'text' and 'refusal' are in this role"),
  }),
)

const callId = late(() => z.string().min(1).max(MAX_CALL_ID_CHARS))

const toolCall = late(() =>
  z.discriminatedUnion(
    'type',
    [
      z.object({
        id: callId,
        type: z.literal('function'),
        function: z.object({ name: toolName, arguments: z.string() }),
        /** Where servers of this dialect put the proof that belongs to a call. */
        extra_content: z.object({ google: z.object({ thought_signature: z.string().nullish() }).nullish() }).nullish(),
      }),
    ],
    { error: unsupportedType('Tool calls', "only 'function' is") },
  ),
)

/** The form in which several servers of this dialect give thoughts with their proofs. */
const reasoningDetail = late(() =>
  z.object({
    type: z.enum(['reasoning.text', 'reasoning.summary', 'reasoning.encrypted']),
    text: z.string().nullish(),
    summary: z.string().nullish(),
    data: z.string().nullish(),
    signature: z.string().nullish(),
  }),
)

const name = late(() => z.string().max(256).nullish())
const plain = () => ({ content: textContent, name })

/** Fields of a message beyond these are the echo of earlier answers (`annotations`, `index`) and carry no input. */
export const Message = late(() =>
  z.discriminatedUnion(
    'role',
    [
      z.object({ role: z.literal('system'), ...plain() }),
      z.object({ role: z.literal('developer'), ...plain() }),
      z.object({ role: z.literal('user'), content: userContent, name }),
      z.object({
        role: z.literal('assistant'),
        content: assistantContent.nullish(),
        refusal: z.string().nullish(),
        name,
        tool_calls: boundedArray(toolCall, 0, MAX_TOOLS).nullish(),
        reasoning_content: z.string().nullish(),
        reasoning: z.string().nullish(),
        reasoning_details: boundedArray(reasoningDetail, 0, MAX_PARTS).nullish(),
        function_call: z.null("'function_call' is the older form of 'tool_calls'; use that.").optional(),
        audio: z.null('Audio is not supported.').optional(),
      }),
      z.object({ role: z.literal('tool'), content: userContent, tool_call_id: callId, name }),
    ],
    {
      error: (issue) =>
        isObject(issue.input) && issue.input.role === 'function'
          ? "The role 'function' is the older form of 'tool'; use that."
          : "Expected one of the roles 'system', 'developer', 'user', 'assistant' and 'tool'.",
    },
  ),
)
export type Message = z.infer<typeof Message>

const functionTool = late(() =>
  z.object({
    type: z.literal('function'),
    function: z.object({
      name: toolName,
      description: z.string().nullish(),
      parameters: jsonSchema.nullish(),
      strict: z.boolean().nullish(),
    }),
    ...cached(),
  }),
)

export const Tools = late(() =>
  boundedArray(
    z.discriminatedUnion('type', [functionTool], { error: unsupportedType('Tools', "only 'function' is") }),
    0,
    MAX_TOOLS,
  ),
)
export type Tools = z.infer<typeof Tools>

const namedTool = late(() => z.object({ type: z.literal('function'), function: z.object({ name: toolName }) }))

const choiceObject = late(() =>
  z.discriminatedUnion(
    'type',
    [
      namedTool,
      z.object({
        type: z.literal('allowed_tools'),
        allowed_tools: z.object({ mode: z.enum(['auto', 'required']), tools: boundedArray(namedTool, 1, MAX_TOOLS) }),
      }),
    ],
    { error: unsupportedType('Choices', "'function' and 'allowed_tools' are") },
  ),
)

export const ToolChoice = late(() =>
  z.union([z.enum(['auto', 'none', 'required']), choiceObject], {
    error: "Expected 'auto', 'none', 'required', or an object that names a function or the allowed functions.",
  }),
)
export type ToolChoice = z.infer<typeof ToolChoice>

export type ToolCall = {
  id: string
  type: 'function'
  function: { name: string; arguments: string }
  extra_content?: { google: { thought_signature: string } }
}

export type ReasoningDetail =
  | { type: 'reasoning.text'; text: string; signature: string; index: number }
  | { type: 'reasoning.encrypted'; data: string; index: number }

export type AssistantMessage = {
  role: 'assistant'
  /** Null where nothing was said, only called or refused. */
  content: string | null
  refusal: string | null
  tool_calls?: ToolCall[]
  /** All thoughts that the target shows. */
  reasoning_content?: string
  /** The thoughts that have a proof, for sending them back. */
  reasoning_details?: ReasoningDetail[]
}

export type MessageDelta = {
  role?: 'assistant'
  content?: string | null
  refusal?: string
  reasoning_content?: string
  reasoning_details?: ReasoningDetail[]
  /** The first piece of a call has all fields, later ones only more of its arguments. */
  tool_calls?: ((ToolCall | { function: { arguments: string } }) & { index: number })[]
}
