// Facts of the database that an isolate goes on with while Postgres is away. Owns when a copy is renewed and when an older one
// serves; what a fact is and how long it may be kept is its reader's.
import type { FactCache } from './cache.ts'
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
  cache.postpone(key, nowMs + RENEWAL_MS)
  const renewal = load().then((value) => {
    if (value === undefined && absentMs !== undefined) cache.set(key, value, nowMs + absentMs)
    else cache.set(key, value, nowMs + freshMs, nowMs + staleMaxMs)
    return value
  })
  if (copy === undefined) return renewal
  try {
    const answer = await withPatience(renewal, PATIENCE_MS)
    return answer === undefined ? copy.value : answer.value
  } catch (error) {
    if (error instanceof DatabaseUnavailable) return copy.value
    throw error
  }
}
