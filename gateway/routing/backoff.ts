// How long to wait before a target is asked again. Owns the arithmetic. Pure: randomness is an argument.

/** Doubled with each try. Shorter than a person notices, longer than a restart of a connection. */
export const BACKOFF_BASE_MS = 200
export const BACKOFF_MAX_MS = 5_000
/**
 * Nobody waits longer in here for a target to be willing: the caller is told instead, and its own client knows best what
 * else to do. Also well below the time after which an account closes a request without an open attempt.
 */
export const WAIT_MAX_MS = 5_000
/** Many who were told the same time must not come back in the same millisecond. */
const SPREAD_MAX_MS = 250

/**
 * Full jitter: anything from nothing to the bound, so that those who failed together do not come back together. Where the
 * target named a time, that time and a little more.
 * @param tries How often it was asked already, at least 1.
 * @param random In [0, 1).
 * @returns undefined where the time named is too long to be waited for here.
 */
export function retryWaitMs(tries: number, retryAfterMs: number | undefined, random: number): number | undefined {
  const bound = Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** (tries - 1))
  if (retryAfterMs === undefined) return random * bound
  const waitMs = retryAfterMs + random * Math.min(SPREAD_MAX_MS, bound)
  return waitMs <= WAIT_MAX_MS ? waitMs : undefined
}
