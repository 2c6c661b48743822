// What one request waits for by the clock. Owns that all of its appointments together cost about one timer of the runtime: most
// are kept for seconds or minutes and dropped within milliseconds, and a timer costs more than the appointment.

/**
 * The first look at the clock is no later than this, so that what is arranged meanwhile finds a timer that is early enough; a
 * request that takes longer pays for a second one.
 */
const FIRST_LOOK_MS = 1_000

/** Something to be done once, at a time that may be moved. */
export class Appointment {
  atMs = 0
  readonly act: () => void

  constructor(act: () => void) {
    this.act = act
  }
}

export class Appointments {
  readonly #kept = new Set<Appointment>()
  /** What the wall clock showed last, and how far it has been set back since. */
  #wallMs = 0
  #setBackMs = 0
  #timer: { handle: ReturnType<typeof setTimeout>; firesAtMs: number } | undefined

  /** Does it after `ms`, in place of the time that was set before. */
  set(appointment: Appointment, ms: number): void {
    const nowMs = this.#nowMs()
    appointment.atMs = nowMs + ms
    this.#kept.add(appointment)
    // A timer that fires too early looks again; only one that would fire too late has to go.
    if (this.#timer !== undefined && this.#timer.firesAtMs <= appointment.atMs) return
    this.#clear()
    this.#start(nowMs, Math.min(ms, FIRST_LOOK_MS))
  }

  /** Without effect where it is done or was never set. */
  drop(appointment: Appointment): void {
    this.#kept.delete(appointment)
    // Nothing stays behind for long: in an object that lives on, it would pile up.
    if (this.#kept.size === 0 && this.#timer !== undefined && this.#timer.firesAtMs > this.#nowMs() + FIRST_LOOK_MS)
      this.#clear()
  }

  /** A clock that never goes back: one that is set back by an hour must not make anybody wait for an hour. */
  #nowMs(): number {
    const wallMs = Date.now()
    this.#setBackMs += Math.max(0, this.#wallMs - wallMs)
    this.#wallMs = wallMs
    return wallMs + this.#setBackMs
  }

  #start(nowMs: number, ms: number): void {
    const firesAtMs = nowMs + ms
    const handle = setTimeout(() => {
      // It fired, so its time has come, whatever the wall clock says.
      this.#setBackMs += Math.max(0, firesAtMs - this.#nowMs())
      this.#look()
    }, ms)
    this.#timer = { handle, firesAtMs }
  }

  #clear(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer.handle)
    this.#timer = undefined
  }

  #look(): void {
    this.#timer = undefined
    const nowMs = this.#nowMs()
    for (const appointment of [...this.#kept]) {
      // One before it may have dropped or moved it.
      if (!this.#kept.has(appointment) || appointment.atMs > nowMs) continue
      this.#kept.delete(appointment)
      appointment.act()
    }
    this.#startNext(nowMs)
  }

  /** What was done may have made a timer of its own, for a later appointment than another one that is kept. */
  #startNext(nowMs: number): void {
    if (this.#kept.size === 0) return
    let nextMs = Number.POSITIVE_INFINITY
    for (const { atMs } of this.#kept) nextMs = Math.min(nextMs, atMs)
    if (this.#timer !== undefined && this.#timer.firesAtMs <= nextMs) return
    this.#clear()
    this.#start(nowMs, Math.max(0, nextMs - nowMs))
  }
}
