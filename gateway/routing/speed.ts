// How fast a target has been lately, as this isolate saw it. Owns the averages and the time they predict. Pure: the clock is
// an argument.

export type Speed = {
  /** From sending an attempt to its first content, averaged. */
  firstContentMs: number
  /** Output tokens a second after the first content; absent: never measured. */
  tokensPerSecond?: number
  measuredAtMs: number
}

/** An answer of ordinary length: what `fastest` compares targets by. */
export const TYPICAL_OUTPUT_TOKENS = 200
/** A measurement this old counts a third of a new one. */
const MEMORY_MS = 60_000
/** Each measurement moves the average by at least this share, also in a burst. */
const SHARE_MIN = 0.1
/** Of a rate: the first content of the same answer has just been measured, so the time since the one before is not known. */
const RATE_SHARE = 0.2
/** What was last seen before that is taken as never measured, and so tried again. */
export const SPEED_FORGOTTEN_MS = 600_000
/** Of a target whose rate is unknown: between slow and quick models of today. */
const TYPICAL_TOKENS_PER_SECOND = 50

/** One more first content, or the time a target was silent for in vain. */
export function measuredFirstContent(speed: Speed | undefined, ms: number, nowMs: number): Speed {
  if (speed === undefined) return { firstContentMs: ms, measuredAtMs: nowMs }
  const share = shareOf(nowMs - speed.measuredAtMs)
  return { ...speed, firstContentMs: speed.firstContentMs + share * (ms - speed.firstContentMs), measuredAtMs: nowMs }
}

/** One more answer's rate. The measurement of its first content came before. */
export function measuredRate(speed: Speed, tokensPerSecond: number, nowMs: number): Speed {
  const before = speed.tokensPerSecond ?? tokensPerSecond
  return { ...speed, tokensPerSecond: before + RATE_SHARE * (tokensPerSecond - before), measuredAtMs: nowMs }
}

/** How long an answer of ordinary length takes; undefined: not known. */
export function expectedMs(speed: Speed | undefined, nowMs: number): number | undefined {
  if (speed === undefined || nowMs - speed.measuredAtMs > SPEED_FORGOTTEN_MS) return undefined
  const rate = speed.tokensPerSecond ?? TYPICAL_TOKENS_PER_SECOND
  return speed.firstContentMs + (TYPICAL_OUTPUT_TOKENS * 1000) / Math.max(1, rate)
}

const shareOf = (ageMs: number): number => Math.max(SHARE_MIN, 1 - Math.exp(-Math.max(0, ageMs) / MEMORY_MS))
