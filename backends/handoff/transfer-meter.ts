// What moving K and V to an engine takes beyond computing them ○. Owns the measured rate; the counts are metrics.
//
// Blocks travel while later ones are computed, so most of a transfer hides behind the computation. What counts, and is
// measured here, is what is left over: the time from the begin of the computation to the arrival, less the computation.

/** Weight that a hand-over loses with each newer one: the last twenty or so count. */
const KEPT = 0.95
/** Faster than memory is: nothing was left over that could be measured. */
const BYTES_PER_SECOND_MAX = 1e11
/** A way that was slow is tried again after this: where nothing is handed over any more, nothing is measured any more. */
export const MEASURED_FOR_MS = 60_000

export class TransferMeter {
  #bytes = 0
  #seconds = 0
  #addedAtMs = 0
  readonly #nowMs: () => number

  /** @param nowMs monotonic milliseconds. */
  constructor(nowMs: () => number) {
    this.#nowMs = nowMs
  }

  /** @param leftOverMs from the begin of the computation to the arrival, less the computation. */
  add(bytes: number, leftOverMs: number): void {
    if (!(bytes > 0) || !(leftOverMs >= 0)) return
    this.#forgetOld()
    this.#addedAtMs = this.#nowMs()
    this.#bytes = this.#bytes * KEPT + bytes
    this.#seconds = this.#seconds * KEPT + Math.max(leftOverMs / 1000, bytes / BYTES_PER_SECOND_MAX)
  }

  /** Absent until measured, and where the last measurement is old. */
  get bytesPerSecond(): number | undefined {
    this.#forgetOld()
    return this.#seconds > 0 ? this.#bytes / this.#seconds : undefined
  }

  #forgetOld(): void {
    if (this.#nowMs() - this.#addedAtMs <= MEASURED_FOR_MS) return
    this.#bytes = 0
    this.#seconds = 0
  }
}
