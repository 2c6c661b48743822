// A request in the words of wire 2. Owns what own engines can do with it: what they cannot is refused here, before a backend is
// asked. Which backend and how is backend.ts. Pure.
import type { DispatchRequest } from '../../protocol/dispatch.ts'
import type { Failure } from '../../protocol/errors.ts'
import { FORMAT_PARAM, grammarOf } from '../../protocol/output-format.ts'
import { type ChatMessage, type InferenceRequest, messageText, type Reasoning } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Target } from '../policy/plan.ts'
import { failedResult, startedAnswer } from './refusal.ts'

export type FleetWire = {
  version: DispatchRequest['version']
  input: DispatchRequest['input']
  fields: Pick<DispatchRequest, 'grammar' | 'tools' | 'toolChoice' | 'parallelToolCalls' | 'thinking' | 'tellsThoughts'>
  /** The caller's field that only an engine with grammars can honour. */
  grammarParam?: string
}

type WireMessage = Extract<DispatchRequest['input'], { kind: 'chat' }>['messages'][number]

/** @returns Failure `invalid_request` for images, and for a form of the answer together with tools. */
export function fleetWire(request: InferenceRequest): Result<FleetWire, Failure> {
  const { input, outputFormat, tools, toolChoice, parallelToolCalls, reasoning } = request
  const grammar =
    outputFormat === undefined
      ? {}
      : { grammar: { ...grammarOf(outputFormat), param: FORMAT_PARAM[outputFormat.kind] } }
  const formatParam = outputFormat === undefined ? {} : { grammarParam: FORMAT_PARAM[outputFormat.kind] }
  if (input.kind !== 'chat') return ok({ version: 1, input, fields: grammar, ...formatParam })
  const started = startedAnswer(request)
  if (started !== undefined) return started
  if (input.messages.some(({ content }) => content.some(({ type }) => type === 'image'))) {
    return err(refused('This model reads no images.', 'messages'))
  }
  const isOffered = tools !== undefined && toolChoice?.mode !== 'none'
  if (isOffered && outputFormat !== undefined) {
    const message = 'This model cannot keep an answer to a form while it may call tools: ask for one of them.'
    return err(refused(message, FORMAT_PARAM[outputFormat.kind]))
  }
  const messages = input.messages.map(wireMessage)
  const hasCalls = messages.some(({ toolCalls, toolCallId }) => toolCalls !== undefined || toolCallId !== undefined)
  const isForced = isOffered && (toolChoice?.mode === 'required' || toolChoice?.mode === 'tool')
  return ok({
    version: isOffered || hasCalls ? 2 : 1,
    input: { kind: 'chat', messages },
    fields: {
      ...grammar,
      ...(isOffered ? { tools: tools.map(wireTool) } : {}),
      ...(isOffered && toolChoice !== undefined ? { toolChoice } : {}),
      ...(isOffered && parallelToolCalls !== undefined ? { parallelToolCalls } : {}),
      ...thinkingField(reasoning),
      tellsThoughts: true,
    },
    ...formatParam,
    ...(isForced ? { grammarParam: 'tool_choice' } : {}),
  })
}

const refused = (message: string, param: string): Failure => ({
  code: 'invalid_request',
  message,
  param,
  kind: 'refused',
})

function wireMessage(message: ChatMessage): WireMessage {
  const { role, name, toolCallId, content } = message
  const toolCalls = content.flatMap((part) =>
    part.type === 'tool_call' ? [{ id: part.id, name: part.name, arguments: part.arguments }] : [],
  )
  const thought = content.map((part) => (part.type === 'thought' ? part.text : '')).join('')
  const text = messageText(message)
  return {
    role,
    content: message.isError === true ? failedResult(text) : text,
    ...(name === undefined ? {} : { name }),
    ...(toolCalls.length === 0 ? {} : { toolCalls }),
    ...(thought === '' ? {} : { thought }),
    ...(toolCallId === undefined ? {} : { toolCallId }),
  }
}

const wireTool = ({ name, description, parameters }: NonNullable<InferenceRequest['tools']>[number]) => ({
  name,
  ...(description === undefined ? {} : { description }),
  ...(parameters === undefined ? {} : { parameters }),
})

/** Templates know thinking as on or off: any amount is on. */
function thinkingField(reasoning: Reasoning | undefined): { thinking?: boolean } {
  if (reasoning?.effort !== undefined) return { thinking: reasoning.effort !== 'none' }
  return reasoning?.budgetTokens === undefined ? {} : { thinking: reasoning.budgetTokens > 0 }
}

/** Of the attempt that a dispatch is for. */
export type DispatchContext = Pick<DispatchRequest, 'requestId' | 'attempt' | 'tenant' | 'maxOutputTokens'> & {
  deadlineInMs: number
  /** Default: ordinary. */
  service?: { priority: number }
  /** For requests that bring none. */
  seed: number
  /** What another backend has said of the answer. */
  resume?: DispatchRequest['resume']
}

/** Own engines have no defaults: the wire tells them everything. */
const OWN_DEFAULTS = {
  temperature: 1,
  topP: 1,
  topK: 0,
  minP: 0,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repetitionPenalty: 1,
}

/** What the backend is sent. */
export function dispatchOf(
  request: InferenceRequest,
  wire: FleetWire,
  target: Pick<Target, 'model'>,
  context: DispatchContext,
): DispatchRequest {
  const { resume } = context
  const isGenerated = request.input.kind !== 'embedding'
  return {
    version: resume === undefined ? wire.version : 3,
    requestId: context.requestId,
    attempt: context.attempt,
    deadlineInMs: Math.max(1, Math.ceil(context.deadlineInMs)),
    priority: context.service?.priority ?? 0,
    tenant: context.tenant,
    model: target.model,
    input: wire.input,
    sampling: { ...OWN_DEFAULTS, ...(isGenerated ? { seed: context.seed } : {}), ...request.sampling },
    n: request.n,
    ...(context.maxOutputTokens === undefined ? {} : { maxOutputTokens: context.maxOutputTokens }),
    stop: request.stop,
    ...(request.logprobs === undefined ? {} : { logprobs: request.logprobs }),
    ...wire.fields,
    ...(isGenerated ? { tellsTokens: true } : {}),
    ...(resume === undefined ? {} : { resume }),
  }
}
