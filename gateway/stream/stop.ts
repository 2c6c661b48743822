// Why and when a request is stopped. Owns the reasons, the timers that lead to them, and waiting that ends with them.
//
//   request ──client_gone | deadline | replaced──▶ stopped            (ends every attempt)
//      └─ attempt ──first_content | idle | unwanted──▶ stopped   (ends this attempt only)
//
// The first reason wins and never changes: later ones are consequences of the first. Every event of every stream passes
// here, so waiting and arming cost no runtime objects: plain callbacks, and the one timer of the request (appointments.ts).
import { Appointment, Appointments } from './appointments.ts'

/** `unwanted`: another target answered first, or a trial took too long. `replaced`: the process has to end. */
export type StopReason = 'client_gone' | 'deadline' | 'replaced' | 'first_content' | 'idle' | 'unwanted' | 'done'

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
  /** Made for the first who asks. */
  #controller: AbortController | undefined
  readonly #listeners = new Set<(reason: StopReason) => void>()
  #reason: StopReason | undefined
  readonly #appointments: Appointments
  readonly #due = new Appointment(() => this.stop(this.#dueReason))
  #dueReason: StopReason = 'deadline'

  /** @param appointments Of the request. Default: for this Stop and its children alone. */
  constructor(appointments = new Appointments()) {
    this.#appointments = appointments
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#reason !== undefined) this.#controller.abort(new Stopped(this.#reason))
    }
    return this.#controller.signal
  }

  get reason(): StopReason | undefined {
    return this.#reason
  }

  stop(reason: StopReason): void {
    if (this.#reason !== undefined) return
    this.#end(reason)
    this.#controller?.abort(new Stopped(reason))
  }

  /** It ended by itself: `done` like any other stop, but the signal stays silent, since nobody is left to be told. */
  finish(): void {
    if (this.#reason === undefined) this.#end('done')
  }

  /** Stops with `reason` after `ms`, unless armed again or disarmed before: one appointment at a time. */
  arm(ms: number, reason: StopReason): void {
    if (this.#reason !== undefined) return
    this.#dueReason = reason
    this.#appointments.set(this.#due, ms)
  }

  disarm(): void {
    this.#appointments.drop(this.#due)
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
    const child = new Stop(this.#appointments)
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

  #end(reason: StopReason): void {
    this.#reason = reason
    this.disarm()
    const listeners = [...this.#listeners]
    this.#listeners.clear()
    for (const listener of listeners) listener(reason)
  }
}
