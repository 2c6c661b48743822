// The internal request in Anthropic's form. Owns the fields of the body and what the vendor cannot honour; the conversation
// is anthropic-messages.ts, thinking claude-thinking.ts. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { OutputFormat } from '../../protocol/output-format.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { ok, type Result } from '../../protocol/result.ts'
import type { Target } from '../policy/plan.ts'
import { anthropicConversation, lacksThoughts } from './anthropic-messages.ts'
import { type ClaudeTraits, claudeTraits } from './claude-models.ts'
import { isForced, refusedChoice, refusedSampling, type ThinkingFields, thinkingFields } from './claude-thinking.ts'
import { closedSchema } from './closed-schema.ts'
import { chatOnly, refuse, unsupportedSampling } from './refusal.ts'
import { checkedToolNames, plainToolName } from './tool-names.ts'

const TOOL_NAME_CHARS_MAX = 128
/** From this version of the API on no model takes temperature, top_p or top_k. */
const NO_SAMPLING_SINCE = '2026-10-21'

export type AnthropicTarget = Pick<Target, 'model' | 'serviceTier' | 'contextTokens' | 'outputTokensMax'>

/**
 * The body of a call, always a stream.
 * @param maxOutputTokens The vendor demands a bound: where neither caller nor catalog has one, it is what every model of
 * the generation can give.
 * @param options.userId Whom the request is for, as the vendor may know it.
 * @param options.apiVersion Of the call. Default: one that knows all fields.
 */
export function encodeAnthropic(
  request: InferenceRequest,
  target: AnthropicTarget,
  maxOutputTokens: number | undefined,
  { userId, apiVersion = '' }: { userId?: string | undefined; apiVersion?: string } = {},
): Result<Record<string, unknown>, Failure> {
  const refused = unsupportedSampling(request)
  if (refused !== undefined) return refused
  const known = claudeTraits(target.model)
  const traits = apiVersion < NO_SAMPLING_SINCE ? known : { ...known, hasSampling: false }
  const maxTokens = outputBound(target, traits, maxOutputTokens)
  const prompt = promptFields(request, target, traits, maxTokens)
  if (!prompt.ok) return prompt
  const { thinking, fields } = prompt.value
  const unsampled = refusedSampling(request.sampling, traits, thinking)
  if (unsampled !== undefined) return unsampled
  const body: Record<string, unknown> = { ...fields, ...samplingFields(request), max_tokens: maxTokens, stream: true }
  if (request.stop.some((text) => text.trim() === '')) {
    return refuse('stop', 'This model takes no stop string of nothing but white space.')
  }
  if (request.stop.length > 0) body.stop_sequences = request.stop
  if (userId !== undefined) body.metadata = { user_id: userId }
  if (target.serviceTier !== undefined) body.service_tier = target.serviceTier
  return ok(body)
}

/** The same prompt as a question for its length. */
export function encodeAnthropicCount(
  request: InferenceRequest,
  target: AnthropicTarget,
): Result<Record<string, unknown>, Failure> {
  const traits = claudeTraits(target.model)
  // A question has no output of its own: whatever budget of thoughts is asked for fits.
  const prompt = promptFields(request, target, traits, target.contextTokens)
  return prompt.ok ? ok(prompt.value.fields) : prompt
}

function outputBound(target: AnthropicTarget, traits: ClaudeTraits, maxOutputTokens: number | undefined): number {
  const largest = target.outputTokensMax ?? target.contextTokens
  return Math.min(maxOutputTokens ?? target.outputTokensMax ?? traits.outputTokensSafe, largest)
}

type PromptFields = { fields: Record<string, unknown>; thinking: ThinkingFields }

/** All that counts as prompt. */
function promptFields(
  request: InferenceRequest,
  target: AnthropicTarget,
  traits: ClaudeTraits,
  maxTokens: number,
): Result<PromptFields, Failure> {
  const chat = chatOnly(request)
  if (!chat.ok) return chat
  const { tools = [], toolChoice } = request
  const names = checkedToolNames(tools, TOOL_NAME_CHARS_MAX)
  if (!names.ok) return names
  const unforced = refusedChoice(toolChoice, traits)
  if (unforced !== undefined) return unforced
  const conversation = anthropicConversation(chat.value, tools, traits)
  const format = request.outputFormat === undefined ? ok(undefined) : schemaOf(request.outputFormat, traits)
  if (!format.ok) return format
  const thinking = thinkingFields(request.reasoning, {
    traits,
    maxTokens,
    isForced: isForced(toolChoice),
    lacksThoughts: lacksThoughts(conversation.messages),
  })
  if (!thinking.ok) return thinking
  const { effort } = thinking.value
  const choice = toolChoiceField(request)
  const output = {
    ...(effort === undefined ? {} : { effort }),
    ...(format.value === undefined ? {} : { format: { type: 'json_schema', schema: format.value } }),
  }
  const fields: Record<string, unknown> = { model: target.model, messages: conversation.messages }
  if (conversation.system.length > 0) fields.system = conversation.system
  if (conversation.tools.length > 0) fields.tools = conversation.tools
  if (choice !== undefined) fields.tool_choice = choice
  if (thinking.value.thinking !== undefined) fields.thinking = thinking.value.thinking
  if (Object.keys(output).length > 0) fields.output_config = output
  return ok({ fields, thinking: thinking.value })
}

/** Undefined where the vendor's own default, to call what it likes, is what is wanted. */
function toolChoiceField({
  tools,
  toolChoice,
  parallelToolCalls,
}: InferenceRequest): Record<string, unknown> | undefined {
  if (tools === undefined || tools.length === 0) return undefined
  const one = parallelToolCalls === false ? { disable_parallel_tool_use: true } : {}
  switch (toolChoice?.mode) {
    case 'none':
      return { type: 'none' }
    case 'required':
      return { type: 'any', ...one }
    case 'tool':
      return { type: 'tool', name: plainToolName(toolChoice.name), ...one }
    case 'auto':
    case undefined:
      return parallelToolCalls === false ? { type: 'auto', ...one } : undefined
    default:
      return toolChoice satisfies never
  }
}

/** What is off is left out: it is the vendor's own default, and the newest generations take no field of these at all. */
const samplingFields = ({
  sampling: { temperature = 1, topP = 1, topK = 0 },
}: InferenceRequest): Record<string, unknown> => ({
  ...(temperature === 1 ? {} : { temperature }),
  ...(topP === 1 ? {} : { top_p: topP }),
  ...(topK === 0 ? {} : { top_k: topK }),
})

/** The vendor holds answers to schemas of objects, and to nothing else: a form that it may miss would be no promise. */
function schemaOf(format: OutputFormat, traits: ClaudeTraits): Result<unknown, Failure> {
  const onlySchemas = 'This model can be held to a JSON schema of an object only: send one.'
  switch (format.kind) {
    case 'json_schema':
    case 'json':
      if (!traits.hasSchemas) return refuse('outputFormat', 'This model cannot be held to a form of its answers.')
      if (typeof format.schema !== 'object' || format.schema === null) return refuse('outputFormat', onlySchemas)
      return ok(closedSchema(format.schema))
    case 'json_object':
    case 'regex':
    case 'choice':
    case 'grammar':
      return refuse('outputFormat', onlySchemas)
    default:
      return format satisfies never
  }
}
