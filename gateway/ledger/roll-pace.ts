// When an account rolls up. Owns the pace: at most a small share of the time, never in a hurry, and less often the longer
// a roll takes, so that a database under load gets room. Pure: the clock is an argument, rolling is rollups.ts.

/** Dashboards are at most this much older than the rows while the database keeps up. */
const PAUSE_MIN_MS = 5_000
/** And this while it does not. */
const PAUSE_MAX_MS = 300_000
/** Pauses are this many times as long as the roll before: one twentieth of the time is spent rolling. */
const PAUSE_PER_ROLL = 19

export class RollPace {
  /** An object that has just started does not know what one before it left: it looks once. */
  #wanted = true
  #notBeforeMs: number
  #failures = 0

  constructor(nowMs: number) {
    this.#notBeforeMs = nowMs + PAUSE_MIN_MS
  }

  /** Usage rows were written: their buckets are dirty. */
  rowsWritten(): void {
    this.#wanted = true
  }

  /** Epoch ms of the next roll; `undefined` where there is nothing to roll. */
  get dueAtMs(): number | undefined {
    return this.#wanted ? this.#notBeforeMs : undefined
  }

  /** A roll begins; rows that are written from here on want another. */
  begin(): void {
    this.#wanted = false
  }

  /** @param left buckets are still dirty */
  end(startedAtMs: number, endedAtMs: number, left: boolean): void {
    this.#failures = 0
    if (left) this.#wanted = true
    this.#notBeforeMs = endedAtMs + bounded((endedAtMs - startedAtMs) * PAUSE_PER_ROLL)
  }

  /** The database did not take it: pauses double. */
  fail(endedAtMs: number): void {
    this.#failures++
    this.#wanted = true
    this.#notBeforeMs = endedAtMs + bounded(PAUSE_MIN_MS * 2 ** Math.min(this.#failures, 10))
  }
}

const bounded = (pauseMs: number): number => Math.min(PAUSE_MAX_MS, Math.max(PAUSE_MIN_MS, pauseMs))
