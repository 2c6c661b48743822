// The internal request as an OpenAI body. Owns which fields are sent: only what differs from the dialect's own
// defaults, since upstreams refuse parameters they do not know. Pure.
import type { OutputFormat } from '../../protocol/output-format.ts'
import type { InferenceRequest, Prompt } from '../../protocol/request.ts'
import type { Target } from '../policy/plan.ts'

export type EncodedRequest = {
  path: '/chat/completions' | '/completions' | '/embeddings'
  body: Record<string, unknown>
}

/**
 * Generations are always a stream with usage: one decoder for all, the first token seen when it comes, and tokens counted whatever the
 * client asked for.
 */
export function encodeOpenAi(
  request: InferenceRequest,
  target: Pick<Target, 'model' | 'serviceTier'>,
  maxOutputTokens: number | undefined,
): EncodedRequest {
  const { sampling, input } = request
  const { model, serviceTier } = target
  if (input.kind === 'embedding') {
    // Base64 is a third of the bytes and exact; servers that only know numbers answer with numbers.
    const asked = { model, input: promptField(input.prompts), encoding_format: 'base64' }
    const { dimensions } = input
    return { path: '/embeddings', body: dimensions === undefined ? asked : { ...asked, dimensions } }
  }
  const body: Record<string, unknown> = { model, stream: true, stream_options: { include_usage: true } }
  if (serviceTier !== undefined) body.service_tier = serviceTier
  if (maxOutputTokens !== undefined) body.max_tokens = maxOutputTokens
  if (request.n !== 1) body.n = request.n
  if (request.stop.length > 0) body.stop = request.stop
  if (sampling.temperature !== 1) body.temperature = sampling.temperature
  if (sampling.topP !== 1) body.top_p = sampling.topP
  if (sampling.topK !== 0) body.top_k = sampling.topK
  if (sampling.minP !== 0) body.min_p = sampling.minP
  if (sampling.presencePenalty !== 0) body.presence_penalty = sampling.presencePenalty
  if (sampling.frequencyPenalty !== 0) body.frequency_penalty = sampling.frequencyPenalty
  if (sampling.repetitionPenalty !== 1) body.repetition_penalty = sampling.repetitionPenalty
  if (sampling.seed !== undefined) body.seed = sampling.seed
  if (sampling.logitBias.length > 0) {
    body.logit_bias = Object.fromEntries(sampling.logitBias.map(({ tokenId, bias }) => [String(tokenId), bias]))
  }
  if (request.outputFormat !== undefined) Object.assign(body, formatFields(request.outputFormat))
  if (input.kind === 'chat') {
    if (request.logprobs !== undefined) {
      body.logprobs = true
      if (request.logprobs.top > 0) body.top_logprobs = request.logprobs.top
    }
    body.messages = input.messages
    return { path: '/chat/completions', body }
  }
  if (request.logprobs !== undefined) body.logprobs = request.logprobs.top
  if (input.echo) body.echo = true
  body.prompt = promptField(input.prompts)
  return { path: '/completions', body }
}

/** In the field the caller used: whether a server knows it is the server's to say. */
function formatFields(format: OutputFormat): Record<string, unknown> {
  switch (format.kind) {
    case 'json_object':
      return { response_format: { type: 'json_object' } }
    case 'json_schema': {
      const { kind, ...schema } = format
      return { response_format: { type: kind, json_schema: schema } }
    }
    case 'json':
      return { structured_outputs: { json: format.schema } }
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
