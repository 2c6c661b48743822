// How many retries all calls of a client may make together ○: an outage must not multiply the load on whoever is left. Owns the
// tokens; who asks is call.ts.

/** In tenths of a retry, so that sums are exact. Each call earns one. */
const RETRY = 10
/** What a client may spend at once: enough for a few calls in a row, not for all of them. */
const MOST = 10 * RETRY

export class RetryBudget {
  #tenths: number = MOST

  /** A call begins. */
  earn(): void {
    this.#tenths = Math.min(MOST, this.#tenths + 1)
  }

  /** @returns Whether a further try of the same target may be made. */
  spend(): boolean {
    if (this.#tenths < RETRY) return false
    this.#tenths -= RETRY
    return true
  }
}
