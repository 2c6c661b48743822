// Why and when a request is stopped. Owns the reasons, the timers that lead to them, and waiting that ends with them.
//
//   request ──client_gone | deadline──▶ stopped            (ends every attempt)
//      └─ attempt ──first_content | idle──▶ stopped        (ends this attempt only)
//
// The first reason wins and never changes: later ones are consequences of the first.

export type StopReason = 'client_gone' | 'deadline' | 'first_content' | 'idle' | 'done'

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
  #reason: StopReason | undefined
  #timer: ReturnType<typeof setTimeout> | undefined

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  get reason(): StopReason | undefined {
    return this.#reason
  }

  stop(reason: StopReason): void {
    if (this.#reason !== undefined) return
    this.#reason = reason
    this.disarm()
    this.#controller.abort(new Stopped(reason))
  }

  /** Stops with `reason` after `ms`, unless armed again or disarmed before. One timer at a time. */
  arm(ms: number, reason: StopReason): void {
    this.disarm()
    if (this.#reason === undefined) this.#timer = setTimeout(() => this.stop(reason), ms)
  }

  disarm(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer)
    this.#timer = undefined
  }

  /** Runs `then` when stopped, at once where it already is. Returns how to take it back. */
  onStop(then: (reason: StopReason) => void): () => void {
    if (this.#reason !== undefined) {
      then(this.#reason)
      return () => {}
    }
    const listener = () => {
      if (this.#reason !== undefined) then(this.#reason)
    }
    this.signal.addEventListener('abort', listener, { once: true })
    return () => this.signal.removeEventListener('abort', listener)
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
  async race<T>(promise: Promise<T>): Promise<T> {
    if (this.#reason !== undefined) {
      promise.catch(() => {})
      throw new Stopped(this.#reason)
    }
    let release = () => {}
    const stopped = new Promise<never>((_, reject) => {
      release = this.onStop((reason) => reject(new Stopped(reason)))
    })
    try {
      return await Promise.race([promise, stopped])
    } catch (error) {
      promise.catch(() => {})
      // An aborted read rejects with the runtime's own error at the same time; the reason is what matters.
      throw this.#reason === undefined ? error : new Stopped(this.#reason)
    } finally {
      release()
    }
  }
}
