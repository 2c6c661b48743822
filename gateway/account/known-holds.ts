// The attempts of requests that are under way, as copies of their rows: what a settle asks for was written moments before by
// the same object, and reading it back costs more than settling. Owns which requests are kept and for how long; the rows
// are store.ts, and whoever undoes a transaction forgets the copies. Pure.
import { type HoldRecord, isOpen } from './holds.ts'

/** Above what one account has open at a time; the oldest goes first, and its rows are read instead. Some 2 KB each. */
const REQUESTS_MAX = 10_000

export const byAttempt = (one: HoldRecord, other: HoldRecord): number => one.terms.attempt - other.terms.attempt

export class KnownHolds {
  readonly #requests = new Map<string, readonly HoldRecord[]>()

  /** Every remembered attempt of a request, first attempt first; `undefined` where only the rows know. */
  of(requestId: string): readonly HoldRecord[] | undefined {
    return this.#requests.get(requestId)
  }

  /** These are all attempts that the rows have. */
  learn(requestId: string, attempts: readonly HoldRecord[]): void {
    if (attempts.every((hold) => hold.requestClosed && !isOpen(hold))) {
      // Only repeats ask for these.
      this.#requests.delete(requestId)
      return
    }
    if (this.#requests.size >= REQUESTS_MAX && !this.#requests.has(requestId)) {
      const oldest = this.#requests.keys().next().value
      if (oldest !== undefined) this.#requests.delete(oldest)
    }
    this.#requests.set(requestId, attempts)
  }

  /** A row has changed, or come to those of a request that is known. */
  put(hold: HoldRecord): void {
    const { requestId, attempt } = hold.terms
    const known = this.#requests.get(requestId)
    if (known === undefined) return
    const others = known.filter(({ terms }) => terms.attempt !== attempt)
    this.learn(requestId, [...others, hold].sort(byAttempt))
  }

  forget(requestId: string): void {
    this.#requests.delete(requestId)
  }

  clear(): void {
    this.#requests.clear()
  }
}
