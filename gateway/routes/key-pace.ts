// How often one key may use a route that no limit of an account holds back, since it costs no money: each call takes of something that
// the operator has little of. Owns the counting; the bounds are the routes'. Of this isolate alone. Pure.

const MINUTE_MS = 60_000
/** More keys than use such a route in one isolate within a minute; the one that came first is forgotten first. */
const KEYS_MAX = 10_000

export type PaceBounds = { perMinuteMax: number; openMax: number }
type Pace = { minuteEndsAtMs: number; calls: number; open: number }

export class KeyPace {
  readonly #bounds: PaceBounds
  readonly #keys = new Map<string, Pace>()

  constructor(bounds: PaceBounds) {
    this.#bounds = bounds
  }

  /** Ends the call that may begin; undefined: none may now. */
  begin(keyId: string, nowMs: number): (() => void) | undefined {
    const pace = this.#keys.get(keyId) ?? { minuteEndsAtMs: 0, calls: 0, open: 0 }
    if (nowMs >= pace.minuteEndsAtMs) {
      pace.minuteEndsAtMs = nowMs + MINUTE_MS
      pace.calls = 0
    }
    if (pace.calls >= this.#bounds.perMinuteMax || pace.open >= this.#bounds.openMax) return undefined
    pace.calls++
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
