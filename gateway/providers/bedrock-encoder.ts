// The internal request in the form of Bedrock's Converse interface. Owns the fields of the body, what only some model
// families understand, and what cannot be honoured; the conversation is bedrock-messages.ts. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { OutputFormat } from '../../protocol/output-format.ts'
import type { InferenceRequest, Reasoning } from '../../protocol/request.ts'
import { ok, type Result } from '../../protocol/result.ts'
import type { Target } from '../policy/plan.ts'
import { type BedrockConversation, bedrockConversation } from './bedrock-messages.ts'
import { type BedrockFamily, bedrockFamily, topKFields } from './bedrock-models.ts'
import { type ClaudeTraits, claudeTraits } from './claude-models.ts'
import { isForced, refusedChoice, refusedSampling, type ThinkingFields, thinkingFields } from './claude-thinking.ts'
import { closedSchema } from './closed-schema.ts'
import { effortOf } from './reasoning-effort.ts'
import { chatOnly, refuse, unsupportedSampling } from './refusal.ts'
import { checkedToolNames, plainToolName } from './tool-names.ts'

const TOOL_NAME_CHARS_MAX = 64
/** A tier that is no tier there: the same service on faster machines. */
const FAST_TIER = 'optimized'

/**
 * Stands for the tools where a conversation has calls and the model must make none: Bedrock takes no calls without tools,
 * and has no word for a model that may not call. Whoever calls it has broken the caller's rule.
 */
export const NO_TOOL = 'no_tool_available'
const NO_TOOL_SPEC = {
  toolSpec: {
    name: NO_TOOL,
    description: 'No tool can be called in this turn. Never call this one: answer in text.',
    inputSchema: { json: { type: 'object', properties: {} } },
  },
}

export type BedrockTarget = Pick<Target, 'model' | 'serviceTier' | 'contextTokens' | 'outputTokensMax'>
type Fields = Record<string, unknown>

/** The body of a ConverseStream call. */
export function encodeBedrock(
  request: InferenceRequest,
  target: BedrockTarget,
  maxOutputTokens: number | undefined,
): Result<Fields, Failure> {
  const refused = unsupportedSampling(request)
  if (refused !== undefined) return refused
  const prompt = promptOf(request, target, maxOutputTokens)
  if (!prompt.ok) return prompt
  const { fields, extra, family, traits, thinking, maxTokens } = prompt.value
  const { sampling, stop } = request
  if (family === 'claude') {
    const unsampled = refusedSampling(sampling, traits, thinking)
    if (unsampled !== undefined) return unsampled
  }
  if (sampling.topK !== undefined && sampling.topK !== 0) {
    const topK = topKFields(family, sampling.topK)
    if (topK === undefined) return refuse('topK', 'This model takes no top_k: use top_p.')
    Object.assign(extra, topK)
  }
  const format = request.outputFormat === undefined ? ok(undefined) : formatField(request.outputFormat, family, traits)
  if (!format.ok) return format
  // 1 is Claude's own default, and its newest generations take neither field; other families have defaults of their own.
  const isLeftOut = (value: number | undefined) => value === undefined || (value === 1 && family === 'claude')
  const inference = {
    ...(maxTokens === undefined ? {} : { maxTokens }),
    ...(isLeftOut(sampling.temperature) ? {} : { temperature: sampling.temperature }),
    ...(isLeftOut(sampling.topP) ? {} : { topP: sampling.topP }),
    ...(stop.length === 0 ? {} : { stopSequences: stop }),
  }
  const body: Fields = { ...fields }
  if (Object.keys(inference).length > 0) body.inferenceConfig = inference
  if (Object.keys(extra).length > 0) body.additionalModelRequestFields = extra
  // Which of the strings ended it, where the model's own answer says so.
  if (family === 'claude' && stop.length > 0) body.additionalModelResponseFieldPaths = ['/delta/stop_sequence']
  if (format.value !== undefined) body.outputConfig = { textFormat: format.value }
  if (target.serviceTier === FAST_TIER) body.performanceConfig = { latency: FAST_TIER }
  else if (target.serviceTier !== undefined) body.serviceTier = { type: target.serviceTier }
  return ok(body)
}

/** The same prompt as a question for its length. */
export function encodeBedrockCount(request: InferenceRequest, target: BedrockTarget): Result<Fields, Failure> {
  // A question has no output of its own: whatever budget of thoughts is asked for fits.
  const prompt = promptOf(request, { ...target, outputTokensMax: target.contextTokens }, undefined)
  if (!prompt.ok) return prompt
  const { fields, extra } = prompt.value
  const more = Object.keys(extra).length === 0 ? {} : { additionalModelRequestFields: extra }
  return ok({ input: { converse: { ...fields, ...more } } })
}

type Prompt = {
  fields: Fields
  /** What only the family understands. */
  extra: Fields
  family: BedrockFamily
  traits: ClaudeTraits
  thinking: ThinkingFields
  maxTokens: number | undefined
}

/** All that counts as prompt. */
function promptOf(
  request: InferenceRequest,
  target: BedrockTarget,
  maxOutputTokens: number | undefined,
): Result<Prompt, Failure> {
  const chat = chatOnly(request)
  if (!chat.ok) return chat
  const { tools = [], toolChoice } = request
  const names = checkedToolNames(tools, TOOL_NAME_CHARS_MAX)
  if (!names.ok) return names
  const family = bedrockFamily(target.model)
  const traits = claudeTraits(target.model)
  const unforced = family === 'claude' ? refusedChoice(toolChoice, traits) : undefined
  if (unforced !== undefined) return unforced
  // Bedrock's own check of the newest generations' requests knows no strict tools yet.
  const hasStrictTools = family === 'claude' && traits.hasSchemas && traits.hasSampling
  const conversation = bedrockConversation(chat.value, tools, { family, hasStrictTools })
  if (!conversation.ok) return conversation
  const asked = maxOutputTokens ?? target.outputTokensMax
  const bound = asked ?? (family === 'claude' ? traits.outputTokensSafe : undefined)
  const largest = target.outputTokensMax ?? target.contextTokens
  const maxTokens = bound === undefined ? undefined : Math.min(bound, largest)
  const rules = {
    traits,
    maxTokens: maxTokens ?? largest,
    isForced: isForced(toolChoice),
    lacksThoughts: lacksThoughts(conversation.value),
  }
  const thinking: Result<ThinkingFields, Failure> =
    family === 'claude' ? thinkingFields(request.reasoning, rules) : ok({})
  if (!thinking.ok) return thinking
  const other = request.reasoning === undefined ? ok({}) : otherReasoning(request.reasoning, family, target.model)
  if (!other.ok) return other
  const toolConfig = toolFields(request, conversation.value)
  const extra: Fields = {
    ...(thinking.value.thinking === undefined ? {} : { thinking: thinking.value.thinking }),
    ...(thinking.value.effort === undefined ? {} : { output_config: { effort: thinking.value.effort } }),
    ...other.value,
  }
  if (
    toolConfig !== undefined &&
    request.parallelToolCalls === false &&
    toolChoice?.mode !== 'none' &&
    tools.length > 0
  ) {
    if (family !== 'claude' || !traits.hasSchemas) {
      return refuse('parallelToolCalls', 'This model cannot be kept from calling several tools at once.')
    }
    extra.tool_choice = { ...claudeChoice(toolChoice), disable_parallel_tool_use: true }
  }
  const { system, messages } = conversation.value
  const fields: Fields = { messages }
  if (system.length > 0) fields.system = system
  if (toolConfig !== undefined) fields.toolConfig = toolConfig
  return ok({ fields, extra, family, traits, thinking: thinking.value, maxTokens })
}

/** Undefined where the request is better off without any tool. */
function toolFields(
  { tools = [], toolChoice }: InferenceRequest,
  conversation: BedrockConversation,
): Fields | undefined {
  if (tools.length === 0 || toolChoice?.mode === 'none') {
    return conversation.hasCalls ? { tools: [NO_TOOL_SPEC] } : undefined
  }
  const offered = { tools: conversation.tools }
  switch (toolChoice?.mode) {
    case 'required':
      return { ...offered, toolChoice: { any: {} } }
    case 'tool':
      return { ...offered, toolChoice: { tool: { name: plainToolName(toolChoice.name) } } }
    default:
      return offered
  }
}

const claudeChoice = (toolChoice: InferenceRequest['toolChoice']): Fields => {
  if (toolChoice?.mode === 'tool') return { type: 'tool', name: plainToolName(toolChoice.name) }
  return { type: toolChoice?.mode === 'required' ? 'any' : 'auto' }
}

/** Whether the turn that goes on called tools without thinking first, in Bedrock's sight. */
function lacksThoughts({ messages }: BedrockConversation): boolean {
  const content = messages.findLast(({ role }) => role === 'assistant')?.content ?? []
  const [first] = content
  return content.some((block) => 'toolUse' in block) && first !== undefined && !('reasoningContent' in first)
}

const NOVA_THINKS = /nova-(2|[3-9])/
const EFFORTS_OF_THREE = {
  none: undefined,
  minimal: 'low',
  low: 'low',
  medium: 'medium',
  high: 'high',
  xhigh: 'high',
  max: 'high',
} as const

/** These think whatever they are told. */
const THINKS_ALWAYS = /deepseek\.r1|-thinking/
/** Of Nova, where thinking was asked for and no amount of it. */
const NOVA_MEDIUM = 'medium'

/**
 * How much families other than Claude think. Those that are not told here think as they like: no effort is promised of them,
 * and to think at all only where they always do.
 */
function otherReasoning(reasoning: Reasoning, family: BedrockFamily, model: string): Result<Fields, Failure> {
  const effort = effortOf(reasoning)
  const word = effort === undefined ? undefined : EFFORTS_OF_THREE[effort]
  const isWanted = effort !== 'none' && (reasoning.isRequired === true || (reasoning.budgetTokens ?? 0) > 0)
  if (family === 'claude') return ok({})
  if (family === 'gpt') return ok(effort === undefined ? {} : { reasoning_effort: word ?? 'low' })
  if (family === 'nova' && NOVA_THINKS.test(model)) {
    if (effort === 'none') return ok({ reasoningConfig: { type: 'disabled' } })
    if (word === undefined && !isWanted) return ok({})
    return ok({ reasoningConfig: { type: 'enabled', maxReasoningEffort: word ?? NOVA_MEDIUM } })
  }
  return isWanted && !THINKS_ALWAYS.test(model.toLowerCase())
    ? refuse('reasoning', 'This model cannot be told to think: leave it out, or choose another model.')
    : ok({})
}

function formatField(format: OutputFormat, family: BedrockFamily, traits: ClaudeTraits): Result<Fields, Failure> {
  const onlySchemas = 'This model can be held to a JSON schema of an object only: send one.'
  switch (format.kind) {
    case 'json_schema':
    case 'json': {
      if (family === 'claude' && !traits.hasSchemas) {
        return refuse('outputFormat', 'This model cannot be held to a form of its answers.')
      }
      if (typeof format.schema !== 'object' || format.schema === null) return refuse('outputFormat', onlySchemas)
      const { name, description } = format.kind === 'json_schema' ? format : { name: undefined, description: undefined }
      const jsonSchema = {
        schema: JSON.stringify(closedSchema(format.schema)),
        ...(name === undefined ? {} : { name }),
        ...(description === undefined ? {} : { description }),
      }
      return ok({ type: 'json_schema', structure: { jsonSchema } })
    }
    case 'json_object':
    case 'regex':
    case 'choice':
    case 'grammar':
      return refuse('outputFormat', onlySchemas)
    default:
      return format satisfies never
  }
}
