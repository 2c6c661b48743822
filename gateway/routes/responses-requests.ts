// Bodies of the responses dialect → the internal form. Owns the mapping, what of a body every answer repeats, and which
// parameters are refused. What an earlier response contributes is loaded between the two steps, by responses.ts. Pure.
import {
  type ResponseEcho,
  type ResponseInputItem,
  ResponseRequest,
  type ResponseRequestItem,
  type ResponseTool,
} from '../../protocol/dialects/responses.ts'
import type { Failure } from '../../protocol/errors.ts'
import { grammarOf, MAX_GRAMMAR_BYTES, type OutputFormat } from '../../protocol/output-format.ts'
import { type InferenceRequest, MAX_MESSAGES, type Reasoning, type Tool } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { endUserOf } from './end-user.ts'
import { refuseUnsupported } from './parameters.ts'
import { messagesOf } from './responses-items.ts'
import { samplingOf } from './sampling.ts'
import { asObject, invalid, schemaFailure } from './schema-fault.ts'
import { type AskedChoice, offered, toolFault } from './tools.ts'

export type ParsedResponse = {
  /** What the body says; its items may be references to stored ones. */
  asked: ResponseRequest
  items: ResponseRequestItem[]
  /** The input was written as a list, so that a fault in an item has a place of its own. */
  isList: boolean
  format: OutputFormat | undefined
  offer: Offer
  endUser: { endUser?: string }
}
type Offer = Pick<InferenceRequest, 'tools' | 'toolChoice'>

/** Body of POST /v1/responses. */
export function parseResponse(body: unknown): Result<ParsedResponse, Failure> {
  const object = asObject(body)
  if (!object.ok) return object
  const unsupported = refuseUnsupported('response', object.value, ResponseRequest.shape)
  if (unsupported !== undefined) return err(unsupported)
  const parsed = ResponseRequest.safeParse(object.value)
  if (!parsed.success) return err(schemaFailure(parsed.error))
  const asked = parsed.data
  const { input } = asked
  if (input === undefined || input === null || input.length === 0) {
    return err(invalid("Missing required parameter: 'input', a text or at least one item.", 'input'))
  }
  if (asked.background === true && asked.store === false) {
    return err(invalid("'background' needs 'store': an answer that nobody waits for must be kept.", 'background'))
  }
  if (asked.stream !== true && asked.stream_options !== undefined && asked.stream_options !== null) {
    return err(invalid("'stream_options' is only allowed when 'stream' is true.", 'stream_options'))
  }
  const format = formatOf(asked)
  if (!format.ok) return format
  const offer = toolsOf(asked)
  if (!offer.ok) return offer
  // The one that counts first.
  const endUser = endUserOf([
    ['safety_identifier', asked.safety_identifier],
    ['user', asked.user],
  ])
  if (!endUser.ok) return endUser
  const items: ResponseRequestItem[] =
    typeof input === 'string' ? [{ type: 'message', role: 'user', content: input }] : input
  const isList = typeof input !== 'string'
  return ok({ asked, items, isList, format: format.value, offer: offer.value, endUser: endUser.value })
}

/**
 * The request to serve.
 * @param conversation All items, oldest first: those of earlier responses, then the body's own, references resolved.
 * @param own How many of them are the body's.
 */
export function requestOf(
  parsed: ParsedResponse,
  conversation: readonly ResponseInputItem[],
  own: number,
): Result<InferenceRequest, Failure> {
  const { asked, offer, format, endUser } = parsed
  if (conversation.length > MAX_MESSAGES) {
    const message = `The conversation has ${conversation.length} items; at most ${MAX_MESSAGES} are allowed. Begin a new one.`
    return err(invalid(message, 'input'))
  }
  const from = conversation.length - own
  const paramOf = (index: number, field = '') => {
    if (index < from) return 'previous_response_id'
    return parsed.isList ? `input[${index - from}]${field}` : 'input'
  }
  const messages = messagesOf(conversation, paramOf)
  if (!messages.ok) return messages
  const { instructions } = asked
  const first: InferenceRequest['input'] & { kind: 'chat' } = { kind: 'chat', messages: [] }
  // Those of an earlier response do not go on: each response has its own.
  if (typeof instructions === 'string' && instructions !== '') {
    first.messages.push({ role: 'system', content: [{ type: 'text', text: instructions }] })
  }
  first.messages.push(...messages.value)
  const reasoning = reasoningOf(asked)
  const verbosity = asked.text?.verbosity
  return ok({
    model: asked.model,
    input: first,
    sampling: samplingOf({ temperature: asked.temperature, topP: asked.top_p }),
    n: 1,
    stop: [],
    ...(typeof asked.max_output_tokens === 'number' ? { maxOutputTokens: asked.max_output_tokens } : {}),
    ...(wantsLogprobs(asked) ? { logprobs: { top: asked.top_logprobs ?? 0 } } : {}),
    ...(format === undefined ? {} : { outputFormat: format }),
    ...offer,
    ...(typeof asked.parallel_tool_calls === 'boolean' && offer.tools !== undefined
      ? { parallelToolCalls: asked.parallel_tool_calls }
      : {}),
    ...(reasoning === undefined ? {} : { reasoning }),
    ...(typeof verbosity === 'string' ? { verbosity } : {}),
    ...(typeof asked.prompt_cache_key === 'string' && asked.prompt_cache_key !== ''
      ? { promptCacheKey: asked.prompt_cache_key }
      : {}),
    ...(asked.prompt_cache_options?.mode === 'explicit' ? { promptCacheMode: 'explicit' } : {}),
    ...endUser,
  })
}

/** What every answer repeats of its request. */
export function echoOf({ asked }: ParsedResponse): ResponseEcho {
  return {
    access_programs: null,
    background: asked.background === true,
    instructions: asked.instructions ?? null,
    max_output_tokens: asked.max_output_tokens ?? null,
    metadata: asked.metadata ?? {},
    model: asked.model,
    parallel_tool_calls: asked.parallel_tool_calls ?? true,
    previous_response_id: asked.previous_response_id ?? null,
    prompt_cache_key: asked.prompt_cache_key ?? null,
    reasoning: { effort: asked.reasoning?.effort ?? null, summary: summaryOf(asked) ?? null },
    safety_identifier: asked.safety_identifier ?? null,
    service_tier: 'default',
    store: asked.store !== false,
    temperature: asked.temperature ?? 1,
    text: { format: echoedFormat(asked), verbosity: asked.text?.verbosity ?? 'medium' },
    tool_choice: asked.tool_choice ?? 'auto',
    tools: (asked.tools ?? []).map(
      (tool): ResponseTool => ({
        type: 'function',
        name: tool.name,
        description: tool.description ?? null,
        parameters: tool.parameters ?? null,
        strict: tool.strict ?? null,
      }),
    ),
    top_logprobs: asked.top_logprobs ?? 0,
    top_p: asked.top_p ?? 1,
    truncation: 'disabled',
    ...(typeof asked.user === 'string' ? { user: asked.user } : {}),
  }
}

/** How much of the thoughts the caller wants as a summary; absent: they are shown as the target shows them. */
const summaryOf = (asked: ResponseRequest): 'auto' | 'concise' | 'detailed' | undefined =>
  asked.reasoning?.summary ?? asked.reasoning?.generate_summary ?? undefined

function wantsLogprobs(asked: ResponseRequest): boolean {
  return (asked.top_logprobs ?? 0) > 0 || asked.include?.includes('message.output_text.logprobs') === true
}

function reasoningOf(asked: ResponseRequest): Reasoning | undefined {
  const effort = asked.reasoning?.effort
  const wantsSummary = summaryOf(asked) !== undefined
  if (typeof effort !== 'string' && !wantsSummary) return undefined
  return { ...(typeof effort === 'string' ? { effort } : {}), ...(wantsSummary ? { show: true } : {}) }
}

function formatOf(asked: ResponseRequest): Result<OutputFormat | undefined, Failure> {
  const format = asked.text?.format
  switch (format?.type) {
    case undefined:
    case 'text':
      return ok(undefined)
    case 'json_object':
      return ok({ kind: 'json_object' })
    case 'json_schema': {
      const { name, description, schema, strict } = format
      const wanted: OutputFormat = {
        kind: 'json_schema',
        name,
        schema,
        ...(typeof description === 'string' ? { description } : {}),
        ...(typeof strict === 'boolean' ? { strict } : {}),
      }
      const bytes = new TextEncoder().encode(grammarOf(wanted).text).byteLength
      if (bytes <= MAX_GRAMMAR_BYTES) return ok(wanted)
      const message = `Invalid value for 'text.format.schema': it has ${bytes} bytes; at most ${MAX_GRAMMAR_BYTES} are allowed.`
      return err(invalid(message, 'text.format.schema'))
    }
    default:
      return format satisfies never
  }
}

function echoedFormat(asked: ResponseRequest): ResponseEcho['text']['format'] {
  const format = asked.text?.format
  if (format?.type !== 'json_schema') return { type: format?.type ?? 'text' }
  const { name, description, schema, strict } = format
  return {
    type: 'json_schema',
    name,
    ...(typeof description === 'string' ? { description } : {}),
    schema,
    strict: strict ?? null,
  }
}

/** The tools that may be called, and which must be. */
function toolsOf(asked: ResponseRequest): Result<Offer, Failure> {
  const tools = (asked.tools ?? []).map(
    (tool): Tool => ({
      name: tool.name,
      ...(typeof tool.description === 'string' ? { description: tool.description } : {}),
      ...(tool.parameters === undefined || tool.parameters === null ? {} : { parameters: tool.parameters }),
      ...(typeof tool.strict === 'boolean' ? { strict: tool.strict } : {}),
    }),
  )
  const fault = toolFault(tools)
  if (fault !== undefined) return err(invalid(fault.message, `tools[${fault.at}].${fault.field}`))
  const offer = offered(tools, choiceOf(asked))
  return offer.ok ? offer : err(invalid(offer.error, 'tool_choice'))
}

function choiceOf({ tool_choice: choice }: ResponseRequest): AskedChoice | undefined {
  if (choice === undefined || choice === null) return undefined
  if (typeof choice === 'string') return { mode: choice }
  if (choice.type === 'function') return { mode: 'tool', name: choice.name }
  return { mode: choice.mode, among: choice.tools.map(({ name }) => name) }
}
