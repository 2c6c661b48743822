// How many log lines of one kind may be written. Owns the arithmetic. Pure: the clock is an argument.

/** A log flood has taken down more systems than the fault it described. */
const LINES_PER_SECOND = 50
const LINES_BURST = 200

type Bucket = { lines: number; filledAtMs: number; dropped: number }

export class LineLimiter {
  readonly #buckets = new Map<string, Bucket>()

  /**
   * Whether a line of this kind may be written, and how many were dropped since the last one that was.
   * Kinds are the program's own words, so their number is bounded.
   */
  take(kind: string, nowMs: number): { write: boolean; droppedBefore: number } {
    const bucket = this.#buckets.get(kind) ?? { lines: LINES_BURST, filledAtMs: nowMs, dropped: 0 }
    this.#buckets.set(kind, bucket)
    const elapsedMs = Math.max(0, nowMs - bucket.filledAtMs)
    bucket.lines = Math.min(LINES_BURST, bucket.lines + (elapsedMs * LINES_PER_SECOND) / 1000)
    bucket.filledAtMs = nowMs
    if (bucket.lines < 1) {
      bucket.dropped++
      return { write: false, droppedBefore: 0 }
    }
    bucket.lines -= 1
    const droppedBefore = bucket.dropped
    bucket.dropped = 0
    return { write: true, droppedBefore }
  }
}
