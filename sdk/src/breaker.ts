// Whether a target is asked at all ○. Owns the rolling window and the probe.
//
//   closed ──half of at least FAILURES_LEAST in the window fail──▶ open ──rest is over──▶ half-open (one probe)
//     ▲                                                             ▲                        │
//     └──────────────── the probe answers ──────────────────────────┴── the probe fails ─────┘

const WINDOW_MS = 30_000
const FAILURES_LEAST = 3
const FAILING_SHARE = 0.5
const REST_MS = 5_000
/** Calls remembered: the window of a busy client is shorter, and still long enough to judge by. */
const CALLS_MOST = 256

/**
 * How a target stands. `closed`: asked; `open`: asked last; `half_open`: one probe is due.
 *
 * @example
 * ```ts
 * const isAsked = (state: BreakerState) => state !== 'open'
 * ```
 */
export type BreakerState = 'closed' | 'open' | 'half_open'

type Past = { atMs: number; failed: boolean }

/**
 * Keep one for several clients by passing it as `breakers`.
 *
 * @example
 * ```ts
 * const breakers = new Map<string, Breaker>()
 * const one = new Penstock({ ...options, breakers })
 * const other = new Penstock({ ...options, breakers })
 * ```
 */
export class Breaker {
  #past: Past[] = []
  #openUntilMs: number | undefined
  #probing = false

  /** How the target stands now. */
  state(nowMs: number): BreakerState {
    if (this.#openUntilMs === undefined) return 'closed'
    return nowMs < this.#openUntilMs || this.#probing ? 'open' : 'half_open'
  }

  /** @returns Whether a try may begin now; in half-open for one alone, who must call `ended`. */
  admit(nowMs: number): boolean {
    const state = this.state(nowMs)
    if (state === 'half_open') this.#probing = true
    return state !== 'open'
  }

  /** @param failed undefined: it says nothing about the target, as where the caller gave up. */
  ended(failed: boolean | undefined, nowMs: number): void {
    const wasProbe = this.#probing
    this.#probing = false
    if (failed === undefined) return
    if (wasProbe || (this.#openUntilMs !== undefined && !failed)) {
      this.#past = []
      this.#openUntilMs = failed ? nowMs + REST_MS : undefined
      return
    }
    this.#past.push({ atMs: nowMs, failed })
    this.#past = this.#past.filter(({ atMs }) => atMs > nowMs - WINDOW_MS).slice(-CALLS_MOST)
    const failures = this.#past.filter((one) => one.failed).length
    if (failures >= FAILURES_LEAST && failures >= this.#past.length * FAILING_SHARE) this.#openUntilMs = nowMs + REST_MS
  }
}
