// Usage as our own engines report it. Owns the step from the dispatch's counts to parts; the engine counts computed and
// cached prompt tokens apart, so nothing is taken out of anything. Pure.
import type { DispatchUsage } from '../../protocol/dispatch.ts'
import { CountReader, type Normalised } from '../meter/normalise.ts'

export function normaliseFleet(raw: DispatchUsage): Normalised {
  const reader = new CountReader()
  const usage = reader.usage({
    inputUncached: raw.inputTokens,
    inputCacheRead: raw.cachedInputTokens,
    outputText: raw.outputTokens,
  })
  return { usage, inconsistent: reader.inconsistent }
}
