// Which backends may compute a prompt for the one that decodes it ○. Owns whether any is named, their order, and what is told of each; the
// grants are fleet/prefill-grant.ts, whether one is asked is the agent's own decision (it knows the tokens).
import { PREFILL_WORKERS_MAX, type PrefillLoad } from '../../protocol/dispatch.ts'
import { REMOTE_TOKENS_MIN } from '../../protocol/prediction.ts'
import type { Decision } from './decision.ts'
import type { Figures } from './figures.ts'
import type { Offer } from './predict.ts'
import type { BackendView } from './snapshot.ts'

/** A backend with prefill engines of its own is helped only where they keep a prompt waiting this long, ... */
const OVERLOADED_WAIT_MS = 500
/** ... and where another host would take so much less: moving K and V costs both sides. */
const HELP_SHARE = 0.5

export type PrefillChoice = {
  backend: BackendView
  /** To be computed there, its own prefix cache taken off. */
  uncachedTokens: number
  /** For the agent that may ask it. */
  load: PrefillLoad
}

/**
 * Best first; empty where the prompt is too short, nobody's layout of K and V fits, or computing it where it is decoded is
 * predicted to take no longer.
 * @param chunks Of the prompt.
 */
export function choosePrefill(decision: Decision, figures: Figures, chunks: readonly number[]): PrefillChoice[] {
  const { expected, offers } = decision
  if (expected === undefined || offers.length === 0 || expected.uncachedTokens < REMOTE_TOKENS_MIN) return []
  const { row, prediction, uncachedTokens } = expected
  const layout = figures.layout[row]
  const hasOwn = figures.own[row] !== undefined || figures.isDecodeOnly[row] !== 1
  if (hasOwn && prediction.waitMs < OVERLOADED_WAIT_MS) return []
  // Where handing over is the prediction, it has been compared already.
  const limitMs = prediction.place === 'away' ? Infinity : HELP_SHARE * (prediction.waitMs + prediction.workMs)
  if (!hasOwn && prediction.place !== 'away') return []
  const transferMs = uncachedTokens * (figures.transferMsPerToken[row] ?? 0)
  return offers
    .filter(({ prefill }) => prefill.layout === layout && prefill.row !== row)
    .map((offer) => ({ offer, ms: offer.waitMs + offer.workMs + transferMs }))
    .filter(({ ms }) => ms < limitMs)
    .toSorted((one, other) => one.ms - other.ms)
    .slice(0, PREFILL_WORKERS_MAX)
    .flatMap(({ offer }) => {
      const backend = figures.backends[offer.prefill.row]
      if (backend === undefined) return []
      const { uncachedTokens } = offer
      return [{ backend, uncachedTokens, load: loadOf(offer, decision, chunks) }]
    })
}

/** Of the engine that would get the prompt: a queue is shared among a backend's engines. */
function loadOf(
  { prefill, uncachedTokens, queuedTokens }: Offer,
  { promptTokens, tokensPerChunk }: Decision,
  chunks: readonly number[],
): PrefillLoad {
  const { msPerToken, waitMsPerToken, stepModel, isMeasured } = prefill
  const share = msPerToken > 0 ? waitMsPerToken / msPerToken : 1
  const heldChunk = chunks[Math.round((promptTokens - uncachedTokens) / tokensPerChunk) - 1]
  return {
    prefillTokensQueued: Math.round(queuedTokens * share),
    ...(stepModel === undefined ? {} : { stepModel }),
    ...(isMeasured && msPerToken > 0 ? { prefillTokensPerSecond: 1000 / msPerToken } : {}),
    ...(heldChunk === undefined ? {} : { heldChunk }),
  }
}
