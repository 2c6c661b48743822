// When to come back ○. Owns the forms of Retry-After, full jitter and its bounds.

/** The first pause is up to this long, and each further one up to twice the one before. */
const BACKOFF_FIRST_MS = 500
const BACKOFF_MOST_MS = 8_000
/** A server that wants a longer pause is asked no more within this call. */
export const RETRY_AFTER_MOST_MS = 60_000

/**
 * Reads `retry-after-ms`, and `retry-after` as seconds or as an HTTP date.
 * @returns Milliseconds from now, at least 0; undefined where nothing sensible is said.
 */
export function readRetryAfter(headers: Headers, nowMs: number): number | undefined {
  const exact = Number.parseFloat(headers.get('retry-after-ms') ?? '')
  if (Number.isFinite(exact) && exact >= 0) return exact
  const text = headers.get('retry-after')?.trim() ?? ''
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text) * 1000
  const atMs = Date.parse(text)
  return Number.isNaN(atMs) ? undefined : Math.max(0, atMs - nowMs)
}

/**
 * The pause before a target is asked again: full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
 * 2015), and never before the time that the server named.
 * @param retries Those of this call before this one.
 * @param random In [0, 1).
 */
export function pauseMs(retries: number, retryAfterMs: number | undefined, random: number): number {
  const most = Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** retries)
  return (retryAfterMs ?? 0) + random * most
}
