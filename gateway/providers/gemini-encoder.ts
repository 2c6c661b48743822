// The internal request in Gemini's form. Owns which method is called and the fields of its body, and what Gemini cannot
// honour; the conversation is gemini-contents.ts, thinking gemini-thinking.ts. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { OutputFormat } from '../../protocol/output-format.ts'
import type { EmbeddingInput, InferenceRequest, Tool } from '../../protocol/request.ts'
import { ok, type Result } from '../../protocol/result.ts'
import type { Target } from '../policy/plan.ts'
import { geminiContents } from './gemini-contents.ts'
import { isSinceFour, thinkingConfig } from './gemini-thinking.ts'
import { refuse, startedAnswer } from './refusal.ts'

export type GeminiCall = {
  method: 'streamGenerateContent' | 'batchEmbedContents' | 'countTokens'
  body: Record<string, unknown>
}

/** Google's own limits. */
const CHOICES_MAX = 8
const STOP_STRINGS_MAX = 5
const TEXTS_MAX = 100
/** Seeds are 32-bit: a larger one is brought into the range, always to the same number. */
const SEED_RANGE = 2 ** 31

/** @param maxOutputTokens Thoughts count within it. */
export function encodeGemini(
  request: InferenceRequest,
  target: Pick<Target, 'model' | 'serviceTier'>,
  maxOutputTokens: number | undefined,
): Result<GeminiCall, Failure> {
  const { input } = request
  if (input.kind === 'embedding') return embedding(input, target.model)
  if (input.kind === 'completion') {
    return refuse('prompt', 'This model answers conversations only: send messages in place of a prompt.')
  }
  const refused = startedAnswer(request) ?? refusal(request) ?? ignoredSampling(request, target.model)
  if (refused !== undefined) return refused
  const conversation = geminiContents(input.messages, target.model)
  if (!conversation.ok) return conversation
  const { system, contents } = conversation.value
  const generation = generationConfig(request, target.model, maxOutputTokens)
  if (!generation.ok) return generation
  const body: Record<string, unknown> = { contents }
  if (system.length > 0) body.systemInstruction = { parts: system }
  if (request.tools !== undefined && request.tools.length > 0) {
    body.tools = [{ functionDeclarations: request.tools.map(declaration) }]
    const calling = callingConfig(request, request.tools)
    if (calling !== undefined) body.toolConfig = { functionCallingConfig: calling }
  }
  if (Object.keys(generation.value).length > 0) body.generationConfig = generation.value
  if (target.serviceTier !== undefined) body.serviceTier = target.serviceTier
  return ok({ method: 'streamGenerateContent', body })
}

/** What changes an answer's meaning and Gemini has no word for. */
function refusal(request: InferenceRequest): Result<never, Failure> | undefined {
  const { sampling } = request
  if (sampling.logitBias.length > 0) return refuse('logitBias', 'This model takes no bias on tokens.')
  if ((sampling.minP ?? 0) !== 0) return refuse('minP', 'This model has no min_p sampling: use top_p or top_k.')
  if ((sampling.repetitionPenalty ?? 1) !== 1) {
    return refuse('repetitionPenalty', 'This model has no repetition penalty: use presence or frequency penalty.')
  }
  if (request.parallelToolCalls === false && request.tools !== undefined && request.toolChoice?.mode !== 'none') {
    return refuse('parallelToolCalls', 'This model cannot be kept from calling several tools at once.')
  }
  if (request.n > CHOICES_MAX) return refuse('n', `This model gives at most ${CHOICES_MAX} choices.`)
  if (request.stop.length > STOP_STRINGS_MAX) {
    return refuse('stop', `This model takes at most ${STOP_STRINGS_MAX} stop strings.`)
  }
  return undefined
}

/** "What's new in Gemini 4": these are ignored, and an answer of another temperature is another answer. 1 is left out. */
function ignoredSampling({ sampling }: InferenceRequest, model: string): Result<never, Failure> | undefined {
  if (!isSinceFour(model)) return undefined
  const { temperature = 1, topP = 1, topK = 0 } = sampling
  if (temperature !== 1) return refuse('temperature', 'This model takes no temperature: leave it out.')
  if (topP !== 1) return refuse('topP', 'This model takes no top_p: leave it out.')
  return topK === 0 ? undefined : refuse('topK', 'This model takes no top_k: leave it out.')
}

function generationConfig(
  request: InferenceRequest,
  model: string,
  maxOutputTokens: number | undefined,
): Result<Record<string, unknown>, Failure> {
  const { sampling } = request
  const config: Record<string, unknown> = {}
  if (maxOutputTokens !== undefined) config.maxOutputTokens = maxOutputTokens
  if (request.n !== 1) config.candidateCount = request.n
  if (request.stop.length > 0) config.stopSequences = request.stop
  const isSampled = !isSinceFour(model)
  if (sampling.temperature !== undefined && isSampled) config.temperature = sampling.temperature
  if (sampling.topP !== undefined && isSampled) config.topP = sampling.topP
  // 0 is no number of candidates to Gemini.
  if (sampling.topK !== undefined && sampling.topK !== 0) config.topK = sampling.topK
  if (sampling.presencePenalty !== undefined) config.presencePenalty = sampling.presencePenalty
  if (sampling.frequencyPenalty !== undefined) config.frequencyPenalty = sampling.frequencyPenalty
  if (sampling.seed !== undefined) config.seed = Math.abs(sampling.seed) % SEED_RANGE
  if (request.logprobs !== undefined) {
    config.responseLogprobs = true
    if (request.logprobs.top > 0) config.logprobs = request.logprobs.top
  }
  const thinking = thinkingConfig(request.reasoning, model)
  if (thinking !== undefined) config.thinkingConfig = thinking
  if (request.outputFormat === undefined) return ok(config)
  const format = formatFields(request.outputFormat)
  return format.ok ? ok({ ...config, ...format.value }) : format
}

function formatFields(format: OutputFormat): Result<Record<string, unknown>, Failure> {
  const json = { responseMimeType: 'application/json' }
  switch (format.kind) {
    case 'json_object':
      return ok(json)
    case 'json_schema':
    case 'json':
      if (format.schema === false) return refuse('outputFormat', 'No JSON matches this schema.')
      if (format.schema === undefined || format.schema === true) return ok(json)
      return ok({ ...json, responseJsonSchema: format.schema })
    case 'choice':
      return ok({ responseMimeType: 'text/x.enum', responseSchema: { type: 'STRING', enum: format.choices } })
    case 'regex':
    case 'grammar':
      return refuse('outputFormat', `This model cannot be held to a ${format.kind}: use a JSON schema.`)
    default:
      return format satisfies never
  }
}

const declaration = ({ name, description, parameters }: Tool): Record<string, unknown> => ({
  name,
  ...(description === undefined ? {} : { description }),
  ...(parameters === undefined ? {} : { parametersJsonSchema: parameters }),
})

/** Undefined where Gemini's own default, to call what it likes, is what is wanted. */
function callingConfig({ toolChoice }: InferenceRequest, tools: Tool[]): Record<string, unknown> | undefined {
  switch (toolChoice?.mode) {
    case 'none':
      return { mode: 'NONE' }
    case 'required':
      return { mode: 'ANY' }
    case 'tool':
      return { mode: 'ANY', allowedFunctionNames: [toolChoice.name] }
    case 'auto':
    case undefined:
      // As `AUTO`, with arguments that are held to the schema.
      return tools.some((tool) => tool.strict === true) ? { mode: 'VALIDATED' } : undefined
    default:
      return toolChoice satisfies never
  }
}

function embedding({ prompts, dimensions }: EmbeddingInput, model: string): Result<GeminiCall, Failure> {
  if (prompts.length > TEXTS_MAX) return refuse('input', `This model embeds at most ${TEXTS_MAX} texts at once.`)
  const requests: Record<string, unknown>[] = []
  for (const prompt of prompts) {
    if (!('text' in prompt)) return refuse('input', 'This model embeds text, not token ids.')
    const size = dimensions === undefined ? {} : { outputDimensionality: dimensions }
    requests.push({ model: modelParts(model).join('/'), content: { parts: [{ text: prompt.text }] }, ...size })
  }
  return ok({ method: 'batchEmbedContents', body: { requests } })
}

/** Resource name: tuned models bring their collection along. */
export function modelParts(model: string): [collection: string, name: string] {
  const [, collection, name] = /^(models|tunedModels)\/(.+)$/s.exec(model) ?? []
  return collection === undefined || name === undefined ? ['models', model] : [collection, name]
}
