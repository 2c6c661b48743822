// The internal request as a body of OpenAI's Responses API. Owns which fields are sent, and that the vendor keeps nothing: thoughts
// come encrypted and go back with the conversation. What the route lacks is refused where it changes the answer. Items are
// openai-responses-items.ts, the choice of the route openai-responses-choice.ts. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { OutputFormat } from '../../protocol/output-format.ts'
import type { InferenceRequest, Reasoning, Tool } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Target } from '../policy/plan.ts'
import { cacheModeField, withMarksOf } from './cache-hints.ts'
import { firstLacking } from './openai-features.ts'
import { openAiTraits } from './openai-models.ts'
import { hasSealed, RESPONSE_TOKENS_MIN, type ResponsesHabit, wantsThought } from './openai-responses-choice.ts'
import { responseItems } from './openai-responses-items.ts'
import type { Feature, Preset } from './presets.ts'
import { effortOf, nearestEffort } from './reasoning-effort.ts'
import { chatOnly, refuse, startedAnswer } from './refusal.ts'
import { checkedToolNames, plainToolName } from './tool-names.ts'

type Json = Record<string, unknown>

/** API reference, "Create a model response": none of these is among its fields. A seed is a hint, and left out. */
const LACKS: readonly Feature[] = [
  'frequency_penalty',
  'logit_bias',
  'min_p',
  'n',
  'presence_penalty',
  'repetition_penalty',
  'stop',
  'structured_outputs',
  'top_k',
]

const TOOL_NAME_CHARS_MAX = 128

/** A router drops these silently for servers that do not know them, and the answer would be another one. */
const MUST_BE_KNOWN = ['parallel_tool_calls', 'reasoning', 'text', 'tool_choice', 'tools', 'top_logprobs'] as const

export type ResponsesOptions = { preset: Preset; habit: ResponsesHabit; maxOutputTokens?: number }

/**
 * Always a stream, as on the chat route.
 * @returns Failure `invalid_request` with the field that the route lacks.
 */
export function encodeResponses(
  request: InferenceRequest,
  target: Pick<Target, 'model' | 'serviceTier'>,
  { preset, habit, maxOutputTokens }: ResponsesOptions,
): Result<Json, Failure> {
  const messages = chatOnly(request)
  if (!messages.ok) return messages
  const started = startedAnswer(request)
  if (started !== undefined) return started
  const lacking = firstLacking(request, [...preset.lacks, ...LACKS])
  if (lacking !== undefined) return err(lacking)
  const names = checkedToolNames(request.tools ?? [], TOOL_NAME_CHARS_MAX)
  if (!names.ok) return names
  if (maxOutputTokens !== undefined && maxOutputTokens < RESPONSE_TOKENS_MIN) {
    return refuse(
      'maxOutputTokens',
      `This model gives answers of at least ${RESPONSE_TOKENS_MIN} tokens on the route that serves this request.`,
    )
  }
  const { thinks } = openAiTraits(target.model)
  const mark = thinks === false ? undefined : habit.mark
  const marks = withMarksOf(preset, target.model)
  const body: Json = {
    model: target.model,
    input: responseItems(messages.value, marks, mark),
    stream: true,
    store: false,
    ...samplingFields(request, preset),
    ...toolFields(request, preset),
    ...reasoningFields(request.reasoning, preset, habit),
    ...textFields(request, preset),
    ...cacheModeField(request, marks),
  }
  const include = includeOf(request, thinks ?? (wantsThought(request) || hasSealed(request, habit.mark)))
  if (include.length > 0) body.include = include
  if ((request.logprobs?.top ?? 0) > 0) body.top_logprobs = request.logprobs?.top
  if (maxOutputTokens !== undefined) body.max_output_tokens = maxOutputTokens
  if (target.serviceTier !== undefined) body.service_tier = target.serviceTier
  if (request.promptCacheKey !== undefined && preset.hasPromptCacheKey) body.prompt_cache_key = request.promptCacheKey
  const isRouted = preset.isRouter === true && MUST_BE_KNOWN.some((field) => field in body)
  return ok(isRouted ? { ...body, provider: { require_parameters: true } } : body)
}

/** A model that never thinks refuses to be asked for its thoughts. */
const includeOf = ({ logprobs }: InferenceRequest, thinks: boolean): string[] => [
  ...(thinks ? ['reasoning.encrypted_content'] : []),
  ...(logprobs === undefined ? [] : ['message.output_text.logprobs']),
]

/** Models that think refuse the fields whatever they say: the route's own default is left out. */
function samplingFields({ sampling: { temperature, topP } }: InferenceRequest, preset: Preset): Json {
  const isSaid = (value: number | undefined) =>
    value !== undefined && !(value === 1 && preset.hasDialectDefaults === true)
  return { ...(isSaid(temperature) ? { temperature } : {}), ...(isSaid(topP) ? { top_p: topP } : {}) }
}

function toolFields({ tools, toolChoice, parallelToolCalls }: InferenceRequest, preset: Preset): Json {
  if (tools === undefined) return {}
  const hasChoice = !preset.lacks.includes('tool_choice')
  if (!hasChoice && toolChoice?.mode === 'none') return {}
  const fields: Json = { tools: tools.map((tool) => toolField(tool, preset)) }
  if (hasChoice && toolChoice !== undefined && toolChoice.mode !== 'auto') {
    fields.tool_choice =
      toolChoice.mode === 'tool' ? { type: 'function', name: plainToolName(toolChoice.name) } : toolChoice.mode
  }
  if (parallelToolCalls !== undefined && !preset.lacks.includes('parallel_tool_calls')) {
    fields.parallel_tool_calls = parallelToolCalls
  }
  return fields
}

/** Where nothing is said of it the route is strict, which changes the schema: the caller's silence means that it is not. */
function toolField({ name, description, parameters, strict }: Tool, preset: Preset): Json {
  const isStrict = strict === true && preset.hasStrict
  const none = { type: 'object', properties: {}, ...(isStrict ? { additionalProperties: false } : {}) }
  return {
    type: 'function',
    name: plainToolName(name),
    ...(description === undefined ? {} : { description }),
    parameters: parameters ?? none,
    strict: isStrict,
  }
}

function reasoningFields(reasoning: Reasoning | undefined, preset: Preset, { hasSummaries }: ResponsesHabit): Json {
  if (reasoning === undefined) return {}
  const asked = effortOf(reasoning)
  const effort = asked === undefined ? undefined : nearestEffort(asked, preset.efforts)
  const isShown = hasSummaries && reasoning.show === true && asked !== 'none'
  const fields = { ...(effort === undefined ? {} : { effort }), ...(isShown ? { summary: 'auto' } : {}) }
  return Object.keys(fields).length === 0 ? {} : { reasoning: fields }
}

function textFields({ outputFormat, verbosity }: InferenceRequest, preset: Preset): Json {
  const fields = {
    ...(outputFormat === undefined ? {} : { format: formatField(outputFormat) }),
    ...(verbosity === undefined || !preset.hasVerbosity ? {} : { verbosity }),
  }
  return Object.keys(fields).length === 0 ? {} : { text: fields }
}

/** Of formats that are no schema the route has none: they were refused. */
function formatField(format: OutputFormat): Json {
  switch (format.kind) {
    case 'json_schema': {
      const { kind, ...schema } = format
      // Without a schema it is any object, for which the route has a word of its own.
      return schema.schema === undefined ? { type: 'json_object' } : { type: kind, ...schema }
    }
    case 'json':
      return { type: 'json_schema', name: 'answer', schema: format.schema }
    default:
      return { type: 'json_object' }
  }
}
