// This isolate's own dispatches. Owns the in-flight counts and the short memory of failures. Pure: the clock is an argument.

/** A backend that just failed is left alone this long: long enough for its report to go stale or its agent to recover. */
export const INHIBIT_MS = 5000
/** Bounds the memory of failures; the oldest is forgotten. Fleets are smaller than this. */
const INHIBITED_MAX = 10_000

export class Dispatches {
  readonly #inFlight = new Map<string, number>()
  readonly #inhibitedUntilMs = new Map<string, number>()

  get inFlight(): ReadonlyMap<string, number> {
    return this.#inFlight
  }

  /** Counts one dispatch until the returned function is called; calling it again does nothing. */
  begin(backendId: string): () => void {
    this.#inFlight.set(backendId, (this.#inFlight.get(backendId) ?? 0) + 1)
    let ended = false
    return () => {
      if (ended) return
      ended = true
      const left = (this.#inFlight.get(backendId) ?? 1) - 1
      if (left > 0) this.#inFlight.set(backendId, left)
      else this.#inFlight.delete(backendId)
    }
  }

  inhibit(backendId: string, nowMs: number, forMs = INHIBIT_MS): void {
    this.#inhibitedUntilMs.delete(backendId)
    if (this.#inhibitedUntilMs.size >= INHIBITED_MAX) {
      const oldest = this.#inhibitedUntilMs.keys().next().value
      if (oldest !== undefined) this.#inhibitedUntilMs.delete(oldest)
    }
    this.#inhibitedUntilMs.set(backendId, nowMs + forMs)
  }

  /** An answer came: whatever was wrong is over. */
  recovered(backendId: string): void {
    this.#inhibitedUntilMs.delete(backendId)
  }

  inhibited(nowMs: number): ReadonlySet<string> {
    for (const [backendId, untilMs] of this.#inhibitedUntilMs) {
      if (untilMs <= nowMs) this.#inhibitedUntilMs.delete(backendId)
    }
    return new Set(this.#inhibitedUntilMs.keys())
  }
}
