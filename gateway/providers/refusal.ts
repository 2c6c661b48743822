// Requests that mean something a target has no word for. Owns the form of such a refusal and the questions that several
// vendors answer alike; what each of them cannot do is its own encoder. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { ChatMessage, GenerationInput, InferenceRequest } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'

/** @param param The internal field's name. */
export const refuse = (param: string, message: string): Result<never, Failure> =>
  err({ code: 'invalid_request', message, param, kind: 'refused' })

/** The conversation of a request, for targets that know nothing else. */
export function chatOnly({
  input,
}: InferenceRequest): Result<(GenerationInput & { kind: 'chat' })['messages'], Failure> {
  if (input.kind === 'chat') return ok<ChatMessage[]>(input.messages)
  if (input.kind === 'embedding') return refuse('input', 'This model answers conversations only: it embeds nothing.')
  return refuse('prompt', 'This model answers conversations only: send messages in place of a prompt.')
}

/** For targets that begin each answer anew: joined with its beginning, it would be no answer. */
export const startedAnswer = (request: InferenceRequest): Result<never, Failure> | undefined =>
  request.continuesAnswer === true
    ? refuse('messages', "This model cannot go on from an answer's beginning: end with a message of the user.")
    : undefined

const TOOL_FAILED = 'The tool failed.'

/** The result of a tool that failed, for targets that have no field for it: the text says so. */
export const failedResult = (text: string): string => (text === '' ? TOOL_FAILED : `${TOOL_FAILED}\n${text}`)

/**
 * What a Messages or Converse interface has no field for and no hint is: left out, it would be another request. A seed is
 * a hint, as are an image's detail, a verbosity and a key for prompt caches: they are left out in silence.
 */
export function unsupportedSampling({ sampling, n, logprobs }: InferenceRequest): Result<never, Failure> | undefined {
  if (n !== 1) return refuse('n', 'This model gives one choice for a request: send the request several times.')
  if (logprobs !== undefined) return refuse('logprobs', 'This model does not tell the probabilities of its tokens.')
  if ((sampling.presencePenalty ?? 0) !== 0) return refuse('presencePenalty', 'This model has no presence penalty.')
  if ((sampling.frequencyPenalty ?? 0) !== 0) return refuse('frequencyPenalty', 'This model has no frequency penalty.')
  if ((sampling.repetitionPenalty ?? 1) !== 1)
    return refuse('repetitionPenalty', 'This model has no repetition penalty.')
  if ((sampling.minP ?? 0) !== 0) return refuse('minP', 'This model has no min_p sampling.')
  if (sampling.logitBias.length > 0) return refuse('logitBias', 'This model takes no bias on tokens.')
  return undefined
}
