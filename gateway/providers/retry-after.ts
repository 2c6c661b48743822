// How long a provider asks to wait, in all the ways in which it is said. Owns the reading; what is done about it is the
// caller's. Pure.

/** What a provider asks for at most: longer is a mistake or another unit. */
const WAIT_MS_MAX = 24 * 60 * 60 * 1000
/** Numbers from here on are moments since 1970 in seconds, and from there in milliseconds. */
const EPOCH_SECONDS_MIN = 1e9
const EPOCH_MS_MIN = 1e12

/** `retry-after-ms`, or `retry-after` in seconds or as a date. */
export function retryAfter(headers: Headers, nowMs: number): number | undefined {
  const ms = Number(headers.get('retry-after-ms') ?? Number.NaN)
  if (Number.isFinite(ms) && ms >= 0) return ms
  const text = headers.get('retry-after')
  if (text === null) return undefined
  const seconds = Number(text)
  if (Number.isFinite(seconds)) return seconds >= 0 ? seconds * 1000 : undefined
  const dateMs = Date.parse(text)
  return Number.isNaN(dateMs) ? undefined : Math.max(0, dateMs - nowMs)
}

/**
 * When the limits that are used up are full again: `x-ratelimit-reset-requests` and `-tokens` with durations as OpenAI
 * writes them ("6m0s", "20ms") or plain seconds, `x-ratelimit-reset` as a moment. The longest of those with nothing
 * remaining; undefined where none is said to be used up.
 */
export function limitReset(headers: Headers, nowMs: number): number | undefined {
  const waits = ['-requests', '-tokens', ''].flatMap((what) => {
    const remaining = headers.get(`x-ratelimit-remaining${what}`)
    const reset = headers.get(`x-ratelimit-reset${what}`)
    if (remaining === null || reset === null || Number(remaining) > 0) return []
    return durationMs(reset, nowMs) ?? []
  })
  return waits.length === 0 ? undefined : Math.min(WAIT_MS_MAX, Math.max(...waits))
}

/** The time in a sentence that asks to try again in it; undefined where there is none. */
export function waitInWords(message: string): number | undefined {
  const found = /(?:try again|retry)(?: in| after)? ((?:\d+(?:\.\d+)?(?:ms|h|m|s))+)/i.exec(message)?.[1]
  return found === undefined ? undefined : durationMs(found, 0)
}

const UNIT_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }

function durationMs(text: string, nowMs: number): number | undefined {
  const trimmed = text.trim().toLowerCase()
  if (/^\d+(\.\d+)?$/.test(trimmed)) {
    const value = Number(trimmed)
    if (value >= EPOCH_MS_MIN) return Math.max(0, value - nowMs)
    return value >= EPOCH_SECONDS_MIN ? Math.max(0, value * 1000 - nowMs) : value * 1000
  }
  if (!/^(\d+(\.\d+)?(ms|d|h|m|s))+$/.test(trimmed)) return undefined
  let sum = 0
  for (const [, amount, unit] of trimmed.matchAll(/(\d+(?:\.\d+)?)(ms|d|h|m|s)/g)) {
    sum += Number(amount) * (UNIT_MS[unit ?? ''] ?? 0)
  }
  return Math.ceil(sum)
}
