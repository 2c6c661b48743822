// Facts of the database that an isolate goes on with while Postgres is away. Owns when a copy is renewed and when an older one
// serves; what a fact is and how long it may be kept is its reader's.
import type { Cached, FactCache } from './cache.ts'
import { PATIENCE_MS, withPatience } from './patience.ts'
import { DatabaseUnavailable } from './port.ts'

export type Lifetimes = {
  /** How long a change can stay unseen in the isolate. */
  freshMs: number
  /** How long a copy outlives Postgres. */
  staleMaxMs: number
  /** How long that there is nothing (undefined) is believed, and no longer while Postgres is away. Default: as anything else. */
  absentMs?: number
}

/** While one request renews a copy, or after that failed, the others go on with it. */
const RENEWAL_MS = 1_000

/**
 * Where there is no copy at all, one request fetches it and the others look for it here. A gateway that has just begun meets all its
 * callers at once, and each would ask for the same: the connections would be taken for so long that many are refused.
 */
const FIRST_FETCH_MS = 2_000
const LOOK_EVERY_MS = 10

/** The copy while fresh, else a new one; an older one where Postgres is away or silent. @throws DatabaseUnavailable */
export async function renewed<T>(
  cache: FactCache<T>,
  key: string,
  nowMs: number,
  { freshMs, staleMaxMs, absentMs }: Lifetimes,
  load: () => Promise<T>,
): Promise<T> {
  const copy = cache.get(key, nowMs)
  if (copy?.fresh) return copy.value
  let isFirst = copy === undefined && cache.claim(key, nowMs, nowMs + FIRST_FETCH_MS)
  if (copy === undefined && !isFirst) {
    const fetched = await fetchedByAnother(cache, key, nowMs)
    if (fetched !== undefined && fetched !== 'claimed') return fetched.value
    isFirst = fetched === 'claimed'
  }
  cache.postpone(key, nowMs + RENEWAL_MS)
  const renewal = load().then((value) => {
    if (value === undefined && absentMs !== undefined) cache.set(key, value, nowMs + absentMs)
    else cache.set(key, value, nowMs + freshMs, nowMs + staleMaxMs)
    return value
  })
  if (copy === undefined) {
    try {
      return await renewal
    } catch (error) {
      const late = error instanceof DatabaseUnavailable ? cache.get(key, nowMs) : undefined
      if (late === undefined) throw error
      return late.value
    } finally {
      if (isFirst) cache.unclaim(key)
    }
  }
  try {
    const answer = await withPatience(renewal, PATIENCE_MS)
    return answer === undefined ? copy.value : answer.value
  } catch (error) {
    if (error instanceof DatabaseUnavailable) return copy.value
    throw error
  }
}

/**
 * `claimed`: whoever fetched it failed, and it is the caller's now. Undefined: it takes too long. Its own timers and no promise of the
 * other: in a Worker one request must not wait for another's I/O.
 */
async function fetchedByAnother<T>(
  cache: FactCache<T>,
  key: string,
  nowMs: number,
): Promise<Cached<T> | 'claimed' | undefined> {
  for (let waitedMs = 0; waitedMs < FIRST_FETCH_MS; waitedMs += LOOK_EVERY_MS) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS))
    const fetched = cache.get(key, nowMs)
    if (fetched !== undefined) return fetched
    if (cache.claim(key, nowMs + waitedMs, nowMs + waitedMs + FIRST_FETCH_MS)) return 'claimed'
  }
  return undefined
}
