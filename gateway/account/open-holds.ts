// The holds that are open now, as sums. Owns an in-memory projection of the `held` rows, so that a reserve costs the
// same with ten open requests and with ten thousand; the rows in SQLite stay the truth and the projection is remade from
// them whenever the object starts. Pure.
import type { LimitScope } from './contract.ts'
import { dayKey, sumWindow } from './counters.ts'
import type { HoldRecord, HoldTerms } from './holds.ts'

type ScopeSums = {
  /** Set aside, by the UTC day the attempts started on. */
  heldByDay: Map<string, bigint>
  /** Open attempts by request. */
  requests: Map<string, number>
}

const NOTHING: ReadonlyMap<string, bigint> = new Map()

/** The scopes a hold or a row counts in. */
export const scopesOf = (terms: Pick<HoldTerms, 'orgId' | 'projectId' | 'keyId'>): [LimitScope, string][] => [
  ['org', terms.orgId],
  ['project', terms.projectId],
  ['key', terms.keyId],
]

export class OpenHolds {
  readonly #scopes = new Map<string, ScopeSums>()
  readonly #holds = new Map<string, HoldRecord>()

  get count(): number {
    return this.#holds.size
  }

  /** Adding a hold twice changes nothing. */
  add(hold: HoldRecord): void {
    if (this.#holds.has(hold.granted.holdId)) return
    this.#holds.set(hold.granted.holdId, hold)
    const day = dayKey(hold.terms.startedAtMs)
    for (const [scope, scopeId] of scopesOf(hold.terms)) {
      const sums = this.#sums(scope, scopeId)
      sums.heldByDay.set(day, (sums.heldByDay.get(day) ?? 0n) + hold.granted.heldNanoUsd)
      sums.requests.set(hold.terms.requestId, (sums.requests.get(hold.terms.requestId) ?? 0) + 1)
    }
  }

  /** Removing a hold that is not open changes nothing. */
  remove(holdId: string): void {
    const hold = this.#holds.get(holdId)
    if (hold === undefined) return
    this.#holds.delete(holdId)
    const day = dayKey(hold.terms.startedAtMs)
    for (const [scope, scopeId] of scopesOf(hold.terms)) {
      const sums = this.#sums(scope, scopeId)
      const held = (sums.heldByDay.get(day) ?? 0n) - hold.granted.heldNanoUsd
      if (held === 0n) sums.heldByDay.delete(day)
      else sums.heldByDay.set(day, held)
      const attempts = (sums.requests.get(hold.terms.requestId) ?? 0) - 1
      if (attempts <= 0) sums.requests.delete(hold.terms.requestId)
      else sums.requests.set(hold.terms.requestId, attempts)
      if (sums.requests.size === 0) this.#scopes.delete(`${scope}/${scopeId}`)
    }
  }

  /** Money set aside in the window around an instant. */
  held(scope: LimitScope, scopeId: string, window: 'day' | 'month' | 'lifetime', atMs: number): bigint {
    return sumWindow(this.#scopes.get(`${scope}/${scopeId}`)?.heldByDay ?? NOTHING, window, atMs)
  }

  /** Distinct requests running, `exceptRequestId` not counted. */
  running(scope: LimitScope, scopeId: string, exceptRequestId: string): number {
    const requests = this.#scopes.get(`${scope}/${scopeId}`)?.requests
    if (requests === undefined) return 0
    return requests.size - (requests.has(exceptRequestId) ? 1 : 0)
  }

  #sums(scope: LimitScope, scopeId: string): ScopeSums {
    const key = `${scope}/${scopeId}`
    const known = this.#scopes.get(key)
    if (known !== undefined) return known
    const made: ScopeSums = { heldByDay: new Map(), requests: new Map() }
    this.#scopes.set(key, made)
    return made
  }
}
