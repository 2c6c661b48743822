// An answer that is cut off in its middle: its client left, its deadline passed, its process has to end. Owns when that is so, and the
// Stop of the upstream call, which outlives the attempt where the rest is to be read without a client.
import type { CutoffPolicy } from '../policy/plan.ts'
import { Stop, type StopReason } from './stop.ts'

/** Below the 30 s that the platform leaves to work after a response: within them the hold has to be ended as well. */
export const DRAIN_MAX_MS = 25_000

/** Silence of the target and its errors are no cut-off: it has said all that it will say. */
export const isCutOff = (reason: StopReason | undefined): boolean =>
  reason === 'client_gone' || reason === 'deadline' || reason === 'replaced'

/**
 * What ends the call to the upstream. It is the attempt's own Stop, except under `drain`: there a cut-off leaves the call
 * alone, and whoever reads the rest ends it.
 */
export function upstreamStop(attempt: Stop, policy: CutoffPolicy): Stop {
  if (policy !== 'drain') return attempt
  const upstream = new Stop()
  attempt.onStop((reason) => {
    if (!isCutOff(reason)) upstream.stop(reason)
  })
  return upstream
}
