// Repeats what a serialisable database asks to be repeated. Owns which errors, how often and how long between; the
// work, the clock and the randomness are arguments.

/** Serialisation failure (CockroachDB, DSQL and Postgres under SERIALIZABLE) and deadlock: nothing was written. */
const RETRYABLE_STATES: ReadonlySet<string> = new Set(['40001', '40P01'])
export const TRIES_MAX = 5
/** Full jitter between these: short enough for a request that waits, wide enough to part two rivals. */
const DELAY_MIN_MS = 10
const DELAY_MAX_MS = 500

export type RetryTools = {
  /** SQLSTATE of what was thrown, `undefined` for everything that is not an answer of Postgres. */
  stateOf(error: unknown): string | undefined
  /** Uniform in [0, 1). */
  random(): number
  sleep(delayMs: number): Promise<void>
}

/** Longest wait before try `attempt` + 1, doubling from 20 ms; the real one is uniform between the minimum and this. */
export function delayCeilingMs(attempt: number): number {
  return Math.min(DELAY_MAX_MS, DELAY_MIN_MS * 2 ** attempt)
}

/**
 * Runs the whole closure again while it ends in a serialisation failure, at most TRIES_MAX times; it must have no
 * effect outside the database. The last error, and any other error, is thrown as it is.
 */
export async function withRetry<T>(work: () => Promise<T>, tools: RetryTools): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work()
    } catch (error) {
      const state = tools.stateOf(error)
      if (state === undefined || !RETRYABLE_STATES.has(state) || attempt >= TRIES_MAX) throw error
      await tools.sleep(DELAY_MIN_MS + tools.random() * (delayCeilingMs(attempt) - DELAY_MIN_MS))
    }
  }
}
