// The internal request as an OpenAI body. Owns which fields are sent: only what the caller said,
// since upstreams refuse parameters they do not know; what a server lacks is refused here where it changes the answer, and
// left out where it is a hint. Messages are openai-messages.ts, what asks for a feature openai-features.ts, servers'
// deviations presets.ts. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { OutputFormat } from '../../protocol/output-format.ts'
import type { InferenceRequest, Prompt, Reasoning, Tool, ToolChoice } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Target } from '../policy/plan.ts'
import { cacheModeField, withMarksOf } from './cache-hints.ts'
import { firstLacking } from './openai-features.ts'
import { openAiMessages, type SealMark } from './openai-messages.ts'
import { PLAIN, type Preset } from './presets.ts'
import { effortOf, nearestEffort } from './reasoning-effort.ts'
import { startedAnswer } from './refusal.ts'

export type EncodedRequest = {
  path: '/chat/completions' | '/completions' | '/embeddings'
  body: Json
}

export type EncodeOptions = {
  /** Default: a server of which nothing is known. */
  preset?: Preset
  maxOutputTokens?: number
  /** Whose seals are given back. */
  sealMark?: SealMark
}

type Json = Record<string, unknown>

/**
 * Generations are always a stream with usage: one decoder for all, the first token seen when it comes, and tokens counted
 * whatever the client asked for.
 * @returns Failure `invalid_request` with the field that the server lacks.
 */
export function encodeOpenAi(
  request: InferenceRequest,
  target: Pick<Target, 'model' | 'serviceTier'>,
  options: EncodeOptions = {},
): Result<EncodedRequest, Failure> {
  const { maxOutputTokens, sealMark } = options
  const preset = withMarksOf(options.preset ?? PLAIN, target.model)
  const started = startedAnswer(request)
  if (started !== undefined) return started
  const lacking = firstLacking(request, preset.lacks)
  if (lacking !== undefined) return err(lacking)
  const { input } = request
  if (input.kind === 'embedding') {
    // Base64 is a third of the bytes and exact; servers that only know numbers answer with numbers.
    const body: Json = { model: target.model, input: promptField(input.prompts), encoding_format: 'base64' }
    if (input.dimensions !== undefined) body[preset.dimensionsField] = input.dimensions
    return ok({ path: '/embeddings', body })
  }
  const body: Json = { model: target.model, stream: true, ...samplingFields(request, preset) }
  if (preset.hasStreamOptions) body.stream_options = { include_usage: true }
  if (target.serviceTier !== undefined) body.service_tier = target.serviceTier
  if (request.n !== 1) body.n = request.n
  if (request.stop.length > 0) body.stop = request.stop
  if (request.outputFormat !== undefined) Object.assign(body, formatFields(request.outputFormat, preset))
  if (input.kind === 'completion') {
    // The older route knows the older name everywhere.
    if (maxOutputTokens !== undefined) body.max_tokens = maxOutputTokens
    if (request.logprobs !== undefined) body.logprobs = request.logprobs.top
    if (input.echo) body.echo = true
    body.prompt = promptField(input.prompts)
    return ok({ path: '/completions', body: { ...body, ...routingFields(body, preset) } })
  }
  if (maxOutputTokens !== undefined) body[preset.limitField] = maxOutputTokens
  if (request.logprobs !== undefined) Object.assign(body, logprobFields(request.logprobs.top, preset))
  Object.assign(body, toolFields(request, preset))
  if (request.reasoning !== undefined) Object.assign(body, reasoningFields(request.reasoning, preset))
  if (request.verbosity !== undefined && preset.hasVerbosity) body.verbosity = request.verbosity
  if (request.promptCacheKey !== undefined && preset.hasPromptCacheKey) body.prompt_cache_key = request.promptCacheKey
  Object.assign(body, cacheModeField(request, preset))
  body.messages = openAiMessages(input.messages, preset, sealMark)
  return ok({ path: '/chat/completions', body: { ...body, ...routingFields(body, preset) } })
}

/** A router drops these silently for servers that do not know them, and the answer would be another one. */
const MUST_BE_KNOWN = [
  'top_k',
  'min_p',
  'repetition_penalty',
  'logit_bias',
  'logprobs',
  'parallel_tool_calls',
  'response_format',
  'tool_choice',
  'tools',
] as const

/** @param body With everything else in it. */
const routingFields = (body: Json, preset: Preset): Json =>
  preset.isRouter === true && (MUST_BE_KNOWN.some((field) => field in body) || asksToThink(body.reasoning))
    ? { provider: { require_parameters: true } }
    : {}

/** Not to think, and not to show it, is what a server does that knows nothing of it. */
const asksToThink = (reasoning: unknown): boolean =>
  typeof reasoning === 'object' &&
  reasoning !== null &&
  ('max_tokens' in reasoning || ('effort' in reasoning && reasoning.effort !== 'none'))

/** The fields of plain numbers, each with its value in the dialect where the caller says nothing. */
const SAMPLING_FIELDS = [
  { name: 'temperature', field: 'temperature', byDefault: 1 },
  { name: 'topP', field: 'top_p', byDefault: 1 },
  { name: 'topK', field: 'top_k', byDefault: 0 },
  { name: 'minP', field: 'min_p', byDefault: 0 },
  { name: 'presencePenalty', field: 'presence_penalty', byDefault: 0 },
  { name: 'frequencyPenalty', field: 'frequency_penalty', byDefault: 0 },
  { name: 'repetitionPenalty', field: 'repetition_penalty', byDefault: 1 },
] as const

/** A default that the caller wrote is sent: servers have their own, and models files with others. */
function samplingFields({ sampling }: InferenceRequest, preset: Preset): Json {
  const fields: Json = {}
  for (const { name, field, byDefault } of SAMPLING_FIELDS) {
    const value = sampling[name]
    const isKnown = !preset.lacks.some((feature) => feature === field)
    const isImplied = value === byDefault && (preset.hasDialectDefaults === true || !isKnown)
    if (value !== undefined && !isImplied) fields[field] = value
  }
  if (sampling.seed !== undefined && preset.seedField !== undefined) fields[preset.seedField] = sampling.seed
  if (sampling.logitBias.length > 0) {
    fields.logit_bias = Object.fromEntries(sampling.logitBias.map(({ tokenId, bias }) => [String(tokenId), bias]))
  }
  return fields
}

function logprobFields(top: number, preset: Preset): Json {
  if (preset.logprobs === 'count') return { logprobs: Math.max(1, top) }
  return top > 0 ? { logprobs: true, top_logprobs: top } : { logprobs: true }
}

/** Without a choice of its own a server that has tools decides itself; where it has no choice, none is no tools at all. */
function toolFields({ tools, toolChoice, parallelToolCalls }: InferenceRequest, preset: Preset): Json {
  if (tools === undefined) return {}
  const hasChoice = !preset.lacks.includes('tool_choice')
  if (!hasChoice && toolChoice?.mode === 'none') return {}
  const fields: Json = { tools: tools.map((tool) => toolField(tool, preset)) }
  if (hasChoice && toolChoice !== undefined && toolChoice.mode !== 'auto') {
    fields.tool_choice = choiceField(toolChoice, preset)
  }
  if (parallelToolCalls !== undefined && !preset.lacks.includes('parallel_tool_calls')) {
    fields.parallel_tool_calls = parallelToolCalls
  }
  return fields
}

/** Servers disagree on what a missing schema means; an empty object is no arguments everywhere. */
function toolField(tool: Tool, preset: Preset): Json {
  const { name, description, parameters, strict, cache } = tool
  const isStrict = strict === true && preset.hasStrict
  const none = { type: 'object', properties: {}, ...(isStrict ? { additionalProperties: false } : {}) }
  return {
    type: 'function',
    function: {
      name,
      ...(description === undefined ? {} : { description }),
      parameters: parameters ?? none,
      ...(isStrict ? { strict } : {}),
    },
    ...(cache === undefined || preset.cacheMarks !== 'control' ? {} : { cache_control: { type: 'ephemeral' } }),
  }
}

function choiceField(choice: ToolChoice, preset: Preset): unknown {
  switch (choice.mode) {
    case 'tool':
      return { type: 'function', function: { name: choice.name } }
    case 'required':
      return preset.requiredChoice
    case 'auto':
    case 'none':
      return choice.mode
    default:
      return choice satisfies never
  }
}

function reasoningFields(reasoning: Reasoning, preset: Preset): Json {
  const asked = effortOf(reasoning)
  const effort = asked === undefined ? undefined : nearestEffort(asked, preset.efforts)
  switch (preset.reasoning) {
    case 'effort': {
      const hidden =
        preset.thoughtSwitch !== undefined && reasoning.show === false ? { [preset.thoughtSwitch]: false } : {}
      return { ...(effort === undefined ? {} : { reasoning_effort: effort }), ...hidden }
    }
    case 'toggle':
      if (effort === undefined) return {}
      return effort === 'none'
        ? { thinking: { type: 'disabled' } }
        : { thinking: { type: 'enabled' }, reasoning_effort: effort }
    case 'object': {
      const { budgetTokens, show } = reasoning
      const amount =
        reasoning.effort === undefined && budgetTokens !== undefined && budgetTokens > 0
          ? { max_tokens: budgetTokens }
          : effort === undefined
            ? {}
            : { effort }
      const fields = { ...amount, ...(show === false ? { exclude: true } : {}) }
      return Object.keys(fields).length === 0 ? {} : { reasoning: fields }
    }
    default:
      return preset.reasoning satisfies never
  }
}

/** In the field the caller used: whether a server knows it is the server's to say, except where a schema has another place. */
function formatFields(format: OutputFormat, preset: Preset): Json {
  switch (format.kind) {
    case 'json_object':
      return { response_format: { type: 'json_object' } }
    case 'json_schema': {
      const { kind, ...schema } = format
      return { response_format: { type: kind, json_schema: schema } }
    }
    case 'json':
      return preset.lacks.includes('structured_outputs')
        ? { response_format: { type: 'json_schema', json_schema: { name: 'answer', schema: format.schema } } }
        : { structured_outputs: { json: format.schema } }
    case 'regex':
      return { structured_outputs: { regex: format.pattern } }
    case 'choice':
      return { structured_outputs: { choice: format.choices } }
    case 'grammar':
      return { structured_outputs: { grammar: format.text } }
    default:
      return format satisfies never
  }
}

/** One prompt goes bare, the form every server knows. */
function promptField(prompts: Prompt[]): unknown {
  const fields = prompts.map((prompt) => ('text' in prompt ? prompt.text : prompt.tokenIds))
  return fields.length === 1 ? fields[0] : fields
}
