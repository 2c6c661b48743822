// Bodies of the messages dialect into the internal form. Owns the mapping of their fields and the words for a wrong one; the
// blocks of messages are messages-blocks.ts. Pure: bytes and limits are body.ts.
import type * as z from 'zod'
import { CountTokensRequest, MessagesRequest, type Prompt } from '../../protocol/dialects/messages.ts'
import type { Failure } from '../../protocol/errors.ts'
import { grammarOf, MAX_GRAMMAR_BYTES, type OutputFormat } from '../../protocol/output-format.ts'
import {
  type ChatMessage,
  type InferenceRequest,
  NEUTRAL_SAMPLING,
  type Reasoning,
  type Tool,
} from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { endUserOf } from './end-user.ts'
import { cacheHint, chatMessages } from './messages-blocks.ts'
import type { ParsedRequest } from './parsed-request.ts'
import { samplingOf } from './sampling.ts'
import { asObject, faultOf, invalid } from './schema-fault.ts'
import { type AskedChoice, offered, toolFault } from './tools.ts'

/** Providers that ask for a name of a schema show it to the model. */
const FORMAT_NAME = 'output'

const at = (path: string, message: string): Failure => invalid(`${path}: ${message}`, path)

function schemaFailure(error: z.ZodError): Failure {
  const fault = faultOf(error)
  if (fault === undefined) return invalid('The request body is not valid.')
  const path = fault.path.map(String).join('.')
  const words = fault.isUnknown ? 'Extra inputs are not permitted' : fault.isMissing ? 'Field required' : fault.message
  return path === '' ? invalid(words) : at(path, words)
}

function toolsOf(body: Prompt): Result<Pick<InferenceRequest, 'tools' | 'toolChoice' | 'parallelToolCalls'>, Failure> {
  const tools = (body.tools ?? []).map(
    (tool): Tool => ({
      name: tool.name,
      ...(typeof tool.description === 'string' ? { description: tool.description } : {}),
      parameters: tool.input_schema,
      ...(typeof tool.strict === 'boolean' ? { strict: tool.strict } : {}),
      ...(typeof tool.eager_input_streaming === 'boolean' ? { eagerInput: tool.eager_input_streaming } : {}),
      ...(tool.input_examples?.length ? { inputExamples: tool.input_examples } : {}),
      ...cacheHint(tool),
    }),
  )
  const fault = toolFault(tools)
  if (fault !== undefined) {
    const field = fault.field === 'parameters' ? 'input_schema' : fault.field
    return err(at(`tools.${fault.at}.${field}`, fault.message))
  }
  const choice = body.tool_choice ?? undefined
  const asked = offered(tools, choice === undefined ? undefined : askedChoice(choice))
  if (!asked.ok) return err(at('tool_choice', asked.error))
  const isSerial =
    asked.value.tools !== undefined &&
    choice !== undefined &&
    'disable_parallel_tool_use' in choice &&
    choice.disable_parallel_tool_use === true
  return ok({ ...asked.value, ...(isSerial ? { parallelToolCalls: false } : {}) })
}

function askedChoice(choice: NonNullable<Prompt['tool_choice']>): AskedChoice {
  switch (choice.type) {
    case 'auto':
    case 'none':
      return { mode: choice.type }
    case 'any':
      return { mode: 'required' }
    case 'tool':
      return { mode: 'tool', name: choice.name }
    default:
      return choice satisfies never
  }
}

/**
 * Thinking that is switched off is off whatever the effort, which is then only about the answer's length. Two words say so:
 * each model knows one of them, and its provider sends that.
 */
function reasoningOf({ thinking, output_config: config }: Prompt): Reasoning | undefined {
  const effort = typeof config?.effort === 'string' ? { effort: config.effort } : {}
  if (thinking === undefined || thinking === null) return config?.effort ? effort : undefined
  if (thinking.type === 'disabled' || thinking.type === 'between_tools') return { effort: 'none' }
  const show = typeof thinking.display === 'string' ? { show: thinking.display !== 'omitted' } : {}
  return thinking.type === 'adaptive'
    ? { ...effort, ...show, isRequired: true }
    : { show: true, ...effort, ...show, isRequired: true, budgetTokens: thinking.budget_tokens }
}

function formatOf(body: Prompt): Result<OutputFormat | undefined, Failure> {
  const inConfig = body.output_config?.format ?? undefined
  const older = body.output_format ?? undefined
  if (inConfig !== undefined && older !== undefined) {
    return err(at('output_format', "Only one of 'output_config.format' and 'output_format' can be used."))
  }
  const asked = inConfig ?? older
  if (asked === undefined) return ok(undefined)
  const format: OutputFormat = { kind: 'json_schema', name: FORMAT_NAME, strict: true, schema: asked.schema }
  const bytes = new TextEncoder().encode(grammarOf(format).text).byteLength
  if (bytes <= MAX_GRAMMAR_BYTES) return ok(format)
  const path = older === undefined ? 'output_config.format.schema' : 'output_format.schema'
  return err(at(path, `The schema has ${bytes} bytes; at most ${MAX_GRAMMAR_BYTES} are allowed.`))
}

/** What the model is shown and how it is to answer: all that an answer and a count have in common. */
function promptOf(body: Prompt): Result<InferenceRequest, Failure> {
  const messages = chatMessages(body.messages)
  if (!messages.ok) return messages
  const system = systemOf(body.system)
  const tools = toolsOf(body)
  if (!tools.ok) return tools
  const format = formatOf(body)
  if (!format.ok) return format
  const reasoning = reasoningOf(body)
  const all = [...system, ...messages.value]
  if (body.cache_control !== undefined && body.cache_control !== null) {
    markLast(all, { ttl: body.cache_control.ttl ?? '5m' })
  }
  return ok({
    model: body.model,
    input: { kind: 'chat', messages: all },
    sampling: NEUTRAL_SAMPLING,
    n: 1,
    stop: [],
    ...tools.value,
    ...(all.at(-1)?.role === 'assistant' ? { continuesAnswer: true } : {}),
    ...(format.value === undefined ? {} : { outputFormat: format.value }),
    ...(reasoning === undefined ? {} : { reasoning }),
  })
}

function systemOf(system: Prompt['system']): ChatMessage[] {
  if (system === undefined || system === null) return []
  if (typeof system === 'string') return [{ role: 'system', content: [{ type: 'text', text: system }] }]
  const content = system.map((block) => ({ type: 'text' as const, text: block.text, ...cacheHint(block) }))
  return content.length === 0 ? [] : [{ role: 'system', content }]
}

/** A hint for the whole prompt stands on its last part that can have one. */
function markLast(messages: ChatMessage[], cache: { ttl: '5m' | '1h' }): void {
  for (const { content } of messages.toReversed()) {
    const last = content.findLast(({ type }) => type !== 'thought')
    if (last === undefined) continue
    last.cache ??= cache
    return
  }
}

/** Body of POST /v1/messages. */
export function parseMessages(body: unknown): Result<ParsedRequest, Failure> {
  const object = asObject(body)
  if (!object.ok) return object
  const parsed = MessagesRequest.safeParse(object.value)
  if (!parsed.success) return err(schemaFailure(parsed.error))
  const asked = parsed.data
  if (asked.thinking?.type === 'enabled' && asked.thinking.budget_tokens >= asked.max_tokens) {
    return err(at('thinking.budget_tokens', "'max_tokens' must be greater: thoughts count within it."))
  }
  const prompt = promptOf(asked)
  if (!prompt.ok) return prompt
  const endUser = endUserOf([['metadata.user_id', asked.metadata?.user_id]])
  if (!endUser.ok) return endUser
  const request: InferenceRequest = {
    ...prompt.value,
    sampling: samplingOf({ temperature: asked.temperature, topP: asked.top_p, topK: asked.top_k }),
    maxOutputTokens: asked.max_tokens,
    stop: asked.stop_sequences ?? [],
    ...endUser.value,
  }
  return ok({ request, delivery: { stream: asked.stream === true, includeUsage: true } })
}

/** Body of POST /v1/messages/count_tokens. */
export function parseCount(body: unknown): Result<InferenceRequest, Failure> {
  const object = asObject(body)
  if (!object.ok) return object
  const parsed = CountTokensRequest.safeParse(object.value)
  return parsed.success ? promptOf(parsed.data) : err(schemaFailure(parsed.error))
}
