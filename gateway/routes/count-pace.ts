// How often one key may have its prompts counted by vendors. Owns the bound: a count costs no money, so no limit of an account
// holds it back, but each takes of the rate that the operator has at a vendor. Of this isolate alone; beyond it a caller gets
// the estimate. Pure.

const COUNTS_PER_MINUTE_MAX = 60
const COUNTS_OPEN_MAX = 4
const MINUTE_MS = 60_000
/** More keys than count in one isolate within a minute; the one that came first is forgotten first. */
const KEYS_MAX = 10_000

type Pace = { minuteEndsAtMs: number; counts: number; open: number }

export class CountPace {
  readonly #keys = new Map<string, Pace>()

  /** Ends the count that may begin; undefined: none may now. */
  begin(keyId: string, nowMs: number): (() => void) | undefined {
    const pace = this.#keys.get(keyId) ?? { minuteEndsAtMs: 0, counts: 0, open: 0 }
    if (nowMs >= pace.minuteEndsAtMs) {
      pace.minuteEndsAtMs = nowMs + MINUTE_MS
      pace.counts = 0
    }
    if (pace.counts >= COUNTS_PER_MINUTE_MAX || pace.open >= COUNTS_OPEN_MAX) return undefined
    pace.counts++
    pace.open++
    this.#keys.set(keyId, pace)
    for (const first of this.#keys.keys()) {
      if (this.#keys.size <= KEYS_MAX) break
      this.#keys.delete(first)
    }
    let isOpen = true
    return () => {
      if (isOpen) pace.open--
      isOpen = false
    }
  }
}
