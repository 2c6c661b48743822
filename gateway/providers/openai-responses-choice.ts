// Which of OpenAI's two routes serves a conversation. Owns the choice: what only one of them can do decides it, the chat route
// where both can. Reading the answer depends on it, so it looks at nothing but the request, the target and the registration. Pure.
import type { InferenceRequest } from '../../protocol/request.ts'
import type { ProviderApi, Target } from '../policy/plan.ts'
import { openAiTraits } from './openai-models.ts'
import { effortOf } from './reasoning-effort.ts'

export type ResponsesHabit = {
  api: ProviderApi
  /** Whose seals are given back. */
  mark: string
  /** Whether what the model thinks may be asked for in summary. */
  hasSummaries: boolean
}

/** Shorter answers the route refuses to be asked for. */
export const RESPONSE_TOKENS_MIN = 16

export function isForResponses(
  request: InferenceRequest,
  { model }: Pick<Target, 'model'>,
  { api, mark, hasSummaries }: ResponsesHabit,
): boolean {
  if (request.input.kind !== 'chat' || api === 'chat_completions') return false
  const { needsResponses, needsResponsesForTools, thinks } = openAiTraits(model)
  if (api === 'responses' || needsResponses) return true
  if (thinks === false || needsChat(request)) return false
  const { tools, reasoning } = request
  if (tools !== undefined && (wantsThought(request) || (needsResponsesForTools && reasoning?.effort !== 'none'))) {
    return true
  }
  return (hasSummaries && reasoning?.show === true && wantsThought(request)) || hasSealed(request, mark)
}

/** Whether the caller says that the model is to think. */
export function wantsThought({ reasoning }: InferenceRequest): boolean {
  return reasoning !== undefined && effortOf(reasoning) !== 'none'
}

/** Whether the conversation has thoughts that only their vendor can read. */
export const hasSealed = ({ input }: InferenceRequest, mark: string): boolean =>
  input.kind === 'chat' &&
  input.messages.some(({ content }) => content.some((part) => part.type === 'thought' && part.seal?.by === mark))

function needsChat({ n, stop, sampling, maxOutputTokens }: InferenceRequest): boolean {
  return (
    n !== 1 ||
    stop.length > 0 ||
    (sampling.presencePenalty ?? 0) !== 0 ||
    (sampling.frequencyPenalty ?? 0) !== 0 ||
    sampling.logitBias.length > 0 ||
    (maxOutputTokens !== undefined && maxOutputTokens < RESPONSE_TOKENS_MIN)
  )
}
