// A request as routing over the own fleet sees it ○. Owns which of the dispatch's words make its prompt's beginning and its
// length; what follows from them is routing/pick.ts.
import { chunkHashes, promptPieces } from '../../protocol/prefix.ts'
import { choiceCount, type InferenceRequest } from '../../protocol/request.ts'
import type { Target } from '../policy/plan.ts'
import type { Ask } from '../routing/pick.ts'
import type { FleetWire } from './fleet-wire.ts'
import type { OpenContext } from './provider.ts'

/** Several prompts in one request share their machine, not their beginning: they are routed by the first one's. */
export function fleetAsk(
  request: InferenceRequest,
  { input, fields, grammarParam }: FleetWire,
  { model }: Pick<Target, 'model'>,
  { tenant, maxOutputTokens, service }: Pick<OpenContext, 'tenant' | 'maxOutputTokens' | 'service'>,
): Ask {
  const described = { ...fields, input }
  const pieces = promptPieces(described)
  let promptChars = pieces.reduce((chars, { text }) => chars + text.length, 0)
  let tokenIds = 0
  let isAllIds = input.kind !== 'chat'
  const longest = { chars: 0, tokens: 0 }
  if (input.kind !== 'chat') {
    promptChars = 0
    for (const prompt of input.prompts) {
      if ('text' in prompt) {
        promptChars += prompt.text.length
        longest.chars = Math.max(longest.chars, prompt.text.length)
        isAllIds = false
      } else {
        tokenIds += prompt.tokenIds.length
        longest.tokens = Math.max(longest.tokens, prompt.tokenIds.length)
      }
    }
  }
  return {
    model,
    // An embedding's K and V are thrown away.
    chunks: input.kind === 'embedding' ? [] : chunkHashes(pieces, tenant, model),
    promptChars: isAllIds ? pieces.reduce((chars, { text }) => chars + text.length, 0) : promptChars,
    ...(isAllIds ? { promptTokens: tokenIds } : {}),
    ...(input.kind !== 'chat' && input.prompts.length > 1 ? { longest } : {}),
    sequences: choiceCount(request),
    ...(maxOutputTokens === undefined ? {} : { outputTokensMax: maxOutputTokens }),
    ...(input.kind === 'embedding' ? { isEmbedding: true } : {}),
    wantsGrammar: grammarParam !== undefined,
    ...(service?.targets === undefined ? {} : { targets: service.targets }),
  }
}

/** Of a request that is not known any more: whether anybody could take one. */
export const anyAsk = (model: string): Ask => ({ model, chunks: [], promptChars: 0, sequences: 1, wantsGrammar: false })
