// How full limits are, read once for all who look at them. Owns how long a reading is shared and how many are kept; what is in one is
// account/limit-reader.ts.
//
// Pages ask every few seconds, each viewer for himself, and the account is one thread that reservations wait for: an isolate reads an
// organisation's limits once a second at most while one viewer follows the other. No request waits for another one's call, which
// dies with the request that made it: who asks while a reading is under way gets the one before, or makes his own where that is old.
import type { LimitReadings } from '../account/limit-reader.ts'
import type { Env } from '../env.ts'

const SHARED_FOR_MS = 1_000
/** While a newer one is under way. Past this its reader may be gone. */
const SHARED_MEANWHILE_MS = 5_000
/** Organisations whose last reading an isolate keeps; the one that was read longest ago goes. */
const ORGANISATIONS_KEPT = 64

export type Reading = { readAtMs: number; readings: LimitReadings }
type Kept = Reading & { isBeingRead: boolean }
/** In the order in which they were read. */
const kept = new Map<string, Kept>()
/** How often readings were forgotten: one that began before that is not kept. */
let forgotten = 0

/** @throws where the account cannot be reached */
export async function readLimits(env: Env, orgId: string, nowMs: number): Promise<Reading> {
  const known = kept.get(orgId)
  const ageMs = known === undefined ? Number.POSITIVE_INFINITY : nowMs - known.readAtMs
  if (known !== undefined && ageMs >= 0 && ageMs < (known.isBeingRead ? SHARED_MEANWHILE_MS : SHARED_FOR_MS))
    return known
  if (known !== undefined) known.isBeingRead = true
  const before = forgotten
  try {
    const readings = await env.ACCOUNT.getByName(orgId).limits(orgId)
    const read: Kept = { readAtMs: nowMs, readings, isBeingRead: false }
    // Rules that changed meanwhile may have made it old: it is an answer, and not kept.
    if (forgotten === before) keep(orgId, read)
    return read
  } finally {
    if (known !== undefined) known.isBeingRead = false
  }
}

function keep(orgId: string, read: Kept): void {
  kept.delete(orgId)
  kept.set(orgId, read)
  for (const oldest of kept.keys()) {
    if (kept.size <= ORGANISATIONS_KEPT) return
    kept.delete(oldest)
  }
}

/** Rules changed: who asks next sees them. Other isolates follow within the time that readings are shared. */
export function forgetLimits(orgId: string): void {
  forgotten++
  kept.delete(orgId)
}
