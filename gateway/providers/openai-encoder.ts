// The internal request as an OpenAI body. Owns which fields are sent: only what differs from the dialect's own
// defaults, since upstreams refuse parameters they do not know. Pure.
import type { InferenceRequest, Prompt } from '../../protocol/request.ts'

export type EncodedRequest = { path: '/chat/completions' | '/completions'; body: Record<string, unknown> }

/**
 * Always a stream with usage: one decoder for all, the first token seen when it comes, and tokens counted whatever the
 * client asked for.
 */
export function encodeOpenAi(
  request: InferenceRequest,
  model: string,
  maxOutputTokens: number | undefined,
): EncodedRequest {
  const { sampling, input } = request
  const body: Record<string, unknown> = { model, stream: true, stream_options: { include_usage: true } }
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

/** One prompt goes bare, the form every server knows. */
function promptField(prompts: Prompt[]): unknown {
  const fields = prompts.map((prompt) => ('text' in prompt ? prompt.text : prompt.tokenIds))
  return fields.length === 1 ? fields[0] : fields
}
