// Why and when a request is stopped. Owns the reasons, the timers that lead to them, and waiting that ends with them.
//
//   request ──client_gone | deadline──▶ stopped            (ends every attempt)
//      └─ attempt ──first_content | idle | unwanted──▶ stopped   (ends this attempt only)
//
// The first reason wins and never changes: later ones are consequences of the first. Every event of every stream passes
// here, so waiting and arming cost no runtime objects: plain callbacks, and one timer that is moved rather than replaced.

/** `unwanted`: another target answered first, or a trial took too long. */
export type StopReason = 'client_gone' | 'deadline' | 'first_content' | 'idle' | 'unwanted' | 'done'

/** A wait ended because its Stop did. */
export class Stopped extends Error {
  override name = 'Stopped'
  readonly reason: StopReason
  constructor(reason: StopReason) {
    super(`stopped: ${reason}`)
    this.reason = reason
  }
}

export class Stop {
  readonly #controller = new AbortController()
  readonly #listeners = new Set<(reason: StopReason) => void>()
  #reason: StopReason | undefined
  #due: { atMs: number; reason: StopReason } | undefined
  #timer: { handle: ReturnType<typeof setTimeout>; firesAtMs: number } | undefined

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  get reason(): StopReason | undefined {
    return this.#reason
  }

  stop(reason: StopReason): void {
    if (this.#reason !== undefined) return
    this.#reason = reason
    this.#due = undefined
    this.#clearTimer()
    this.#controller.abort(new Stopped(reason))
    const listeners = [...this.#listeners]
    this.#listeners.clear()
    for (const listener of listeners) listener(reason)
  }

  /** Stops with `reason` after `ms`, unless armed again or disarmed before: one appointment at a time. */
  arm(ms: number, reason: StopReason): void {
    if (this.#reason !== undefined) return
    const atMs = Date.now() + ms
    this.#due = { atMs, reason }
    // A timer that fires too early looks again; only one that would fire too late has to go.
    if (this.#timer !== undefined && this.#timer.firesAtMs <= atMs) return
    this.#clearTimer()
    this.#startTimer(ms)
  }

  disarm(): void {
    this.#due = undefined
  }

  /** Runs `then` when stopped, at once where it already is. Returns how to take it back. */
  onStop(then: (reason: StopReason) => void): () => void {
    if (this.#reason !== undefined) {
      then(this.#reason)
      return () => {}
    }
    this.#listeners.add(then)
    return () => this.#listeners.delete(then)
  }

  /** A Stop that ends with this one, for the same reason, or earlier for its own. */
  child(): Stop {
    const child = new Stop()
    const release = this.onStop((reason) => child.stop(reason))
    child.onStop(release)
    return child
  }

  /**
   * The promise's outcome, or Stopped as soon as this is stopped. A rejection that comes after that is dropped: what
   * was waited for was told to end by the same signal.
   */
  race<T>(promise: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const release = this.onStop((reason) => reject(new Stopped(reason)))
      promise.then(
        (value) => {
          release()
          resolve(value)
        },
        (error: unknown) => {
          release()
          // An aborted read rejects with the runtime's own error at the same time; the reason is what matters.
          reject(this.#reason === undefined ? error : new Stopped(this.#reason))
        },
      )
    })
  }

  #startTimer(ms: number): void {
    const handle = setTimeout(() => {
      this.#timer = undefined
      const due = this.#due
      if (due === undefined) return
      const leftMs = due.atMs - Date.now()
      if (leftMs <= 0) this.stop(due.reason)
      else this.#startTimer(leftMs)
    }, ms)
    this.#timer = { handle, firesAtMs: Date.now() + ms }
  }

  #clearTimer(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer.handle)
    this.#timer = undefined
  }
}
