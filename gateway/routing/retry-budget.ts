// How many of a target's requests may be repeats: a provider in trouble must not get more traffic for it. Owns the count over
// the last seconds. Pure: the clock is an argument.

/** Repeats of one target stay within this share of its requests … */
export const RETRY_SHARE = 0.2
/** … or this many, so that an isolate with little traffic repeats at all. */
export const RETRIES_MIN = 5
const SLOT_MS = 1000
const SLOTS = 10

type Slot = { second: number; requests: number; retries: number }

export class RetryBudget {
  readonly #slots: Slot[] = Array.from({ length: SLOTS }, () => ({ second: -1, requests: 0, retries: 0 }))

  /** A request that asks the target for the first time. */
  noteRequest(nowMs: number): void {
    this.#slot(nowMs).requests++
  }

  /** Takes one repeat, where one is left. */
  takeRetry(nowMs: number): boolean {
    const now = Math.floor(nowMs / SLOT_MS)
    let requests = 0
    let retries = 0
    for (const slot of this.#slots) {
      if (slot.second <= now - SLOTS) continue
      requests += slot.requests
      retries += slot.retries
    }
    if (retries >= Math.max(RETRIES_MIN, RETRY_SHARE * requests)) return false
    this.#slot(nowMs).retries++
    return true
  }

  #slot(nowMs: number): Slot {
    const second = Math.floor(nowMs / SLOT_MS)
    const slot = this.#slots[second % SLOTS]
    if (slot === undefined) throw new Error('the clock is before 1970')
    if (slot.second !== second) Object.assign(slot, { second, requests: 0, retries: 0 })
    return slot
  }
}
