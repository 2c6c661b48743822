// What a request asks for and a server of OpenAI's dialect may lack. Owns which field of the internal form asks for which feature,
// and the words of the refusal; which server lacks what is presets.ts. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { OutputFormat } from '../../protocol/output-format.ts'
import type { ContentPart, InferenceRequest } from '../../protocol/request.ts'
import type { Feature } from './presets.ts'

type Ask = { feature: Feature; param: string; isAsked: (request: InferenceRequest) => boolean }

const hasImage = (request: InferenceRequest, isMeant: (part: ContentPart & { type: 'image' }) => boolean): boolean =>
  request.input.kind === 'chat' &&
  request.input.messages.some(({ content }) => content.some((part) => part.type === 'image' && isMeant(part)))

const forces = ({ toolChoice }: InferenceRequest): boolean =>
  toolChoice?.mode === 'required' || toolChoice?.mode === 'tool'

/** Which field of the internal form asks for a feature, and when. */
const ASKS: readonly Ask[] = [
  { feature: 'completions', param: 'prompts', isAsked: ({ input }) => input.kind === 'completion' },
  { feature: 'embeddings', param: 'prompts', isAsked: ({ input }) => input.kind === 'embedding' },
  {
    feature: 'frequency_penalty',
    param: 'frequencyPenalty',
    isAsked: ({ sampling }) => (sampling.frequencyPenalty ?? 0) !== 0,
  },
  { feature: 'image', param: 'messages', isAsked: (request) => hasImage(request, () => true) },
  {
    feature: 'image_url',
    param: 'messages',
    isAsked: (request) => hasImage(request, ({ source }) => source.kind === 'url'),
  },
  {
    feature: 'json_schema',
    param: 'outputFormat',
    isAsked: ({ outputFormat }) => outputFormat?.kind === 'json_schema' || outputFormat?.kind === 'json',
  },
  { feature: 'logit_bias', param: 'logitBias', isAsked: ({ sampling }) => sampling.logitBias.length > 0 },
  { feature: 'logprobs', param: 'logprobs', isAsked: ({ logprobs }) => logprobs !== undefined },
  { feature: 'min_p', param: 'minP', isAsked: ({ sampling }) => (sampling.minP ?? 0) !== 0 },
  { feature: 'n', param: 'n', isAsked: ({ n }) => n !== 1 },
  {
    feature: 'parallel_tool_calls',
    param: 'parallelToolCalls',
    isAsked: ({ parallelToolCalls, tools }) => parallelToolCalls === false && tools !== undefined,
  },
  {
    feature: 'presence_penalty',
    param: 'presencePenalty',
    isAsked: ({ sampling }) => (sampling.presencePenalty ?? 0) !== 0,
  },
  {
    feature: 'repetition_penalty',
    param: 'repetitionPenalty',
    isAsked: ({ sampling }) => (sampling.repetitionPenalty ?? 1) !== 1,
  },
  { feature: 'stop', param: 'stop', isAsked: ({ stop }) => stop.length > 0 },
  {
    feature: 'structured_outputs',
    param: 'outputFormat',
    isAsked: ({ outputFormat }) => outputFormat !== undefined && !isSchemaFormat(outputFormat),
  },
  { feature: 'tool_choice', param: 'toolChoice', isAsked: forces },
  { feature: 'top_k', param: 'topK', isAsked: ({ sampling }) => (sampling.topK ?? 0) !== 0 },
]

/** Formats with a place in `response_format`; a schema that is only `true` or `false` has none. */
const isSchemaFormat = (format: OutputFormat): boolean =>
  format.kind === 'json_object' ||
  format.kind === 'json_schema' ||
  (format.kind === 'json' && typeof format.schema !== 'boolean')

/** Why a server that lacks these cannot serve the request; undefined where it asks for none of them. */
export function firstLacking(request: InferenceRequest, lacks: readonly Feature[]): Failure | undefined {
  const ask = ASKS.find(({ feature, isAsked }) => lacks.includes(feature) && isAsked(request))
  if (ask === undefined) return undefined
  return {
    code: 'invalid_request',
    message: `The provider of this model ${LACKED[ask.feature]}.`,
    param: ask.param,
    kind: 'refused',
  }
}

const LACKED: Record<Feature, string> = {
  completions: 'answers conversations only: send messages in place of a prompt',
  embeddings: 'serves no embeddings',
  frequency_penalty: 'has no frequency_penalty on the route that serves this request',
  image: 'reads no images',
  image_url: 'reads images as data only, not by address: send the image as a data URL',
  json_schema: "keeps no answer to a schema: use a response_format of type 'json_object'",
  logit_bias: 'takes no logit_bias',
  logprobs: 'tells no logprobs',
  min_p: 'has no min_p: use top_p',
  n: 'gives one choice at a time: n must be 1',
  parallel_tool_calls: 'cannot be kept to one tool call at a time',
  presence_penalty: 'has no presence_penalty on the route that serves this request',
  repetition_penalty: 'has no repetition_penalty: use presence_penalty or frequency_penalty',
  stop: 'has no stop strings on the route that serves this request',
  structured_outputs: 'keeps answers to JSON schemas only',
  tool_choice: "cannot be made to call a tool: use a tool_choice of 'auto'",
  top_k: 'has no top_k: use top_p',
}
