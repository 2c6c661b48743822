// Which backends may compute a prompt for the one that decodes it ○. Owns whether any is named, and their order; the grants are
// fleet/prefill-grant.ts, whether one is asked is the agent's own decision (it knows the tokens).
import { PREFILL_WORKERS_MAX } from '../../protocol/dispatch.ts'
import type { Decision } from './decision.ts'
import type { Figures } from './figures.ts'
import { REMOTE_TOKENS_MIN } from './predict.ts'
import type { BackendView } from './snapshot.ts'

/** A backend with prefill engines of its own is helped only where they keep a prompt waiting this long, ... */
const OVERLOADED_WAIT_MS = 500
/** ... and where another host would take so much less: moving K and V costs both sides. */
const HELP_SHARE = 0.5

export type PrefillChoice = {
  backend: BackendView
  /** To be computed there, its own prefix cache taken off. */
  uncachedTokens: number
}

/**
 * Best first; empty where the prompt is too short, nobody's layout of K and V fits, or computing it where it is decoded is
 * predicted to take no longer.
 */
export function choosePrefill(decision: Decision, figures: Figures): PrefillChoice[] {
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
      return backend === undefined ? [] : [{ backend, uncachedTokens: offer.uncachedTokens }]
    })
}
