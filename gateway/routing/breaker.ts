// Whether a target or a key is worth asking: a circuit breaker. Owns its states, what moves it between them and how long it
// rests. Pure: the clock is an argument. Where breakers are kept is health.ts, what counts as a failure verdict.ts.
//
//            failed: FAILURES_IN_ROW, or FAILURE_SHARE          time passes
//            rest: told to (Retry-After, wrong key)        ┌──────────────────┐
//   closed ──────────────────────────────────────────▶ resting            half-open
//     ▲                                                    ▲                  │  beginProbe: one request asks,
//     │                                                    └──── failed ──────┤  for all others it rests on
//     └───────────────────────────── succeeded ──────────────────────────────┘
//
//   closed     asked in its turn
//   resting    asked after all others; `barred`, where the other side named the time: not at all before it
//   half-open  the next request asks it in its turn, and how that ends decides

/** A row of failures this long is an outage: at a failure rate of 30 % one in four hundred requests begins such a row. */
export const FAILURES_IN_ROW = 5
/** And so is this share of the results of about FAILURE_MEMORY_MS, where there were enough of them. */
const FAILURE_SHARE = 0.5
const RESULTS_MIN = 20
const FAILURE_MEMORY_MS = 30_000
/** Most outages are a restart or a burst and over by then; doubled each time the probe fails. */
export const COOL_DOWN_MS = 5_000
/** A longer rest would keep a provider out of use minutes after it is well again. */
export const COOL_DOWN_MAX_MS = 120_000
/** A probe that has not ended by then does not keep the next one from asking. */
const PROBE_MAX_MS = 30_000
/** A named time is believed this far: a quota that renews tomorrow is looked at again before. */
export const REST_MAX_MS = 300_000

export type Rest = {
  untilMs: number
  /** Length of this rest, doubled by the next. */
  coolDownMs: number
  /** The other side named the time: nothing is sent before it. */
  isBarred: boolean
  /** A request asks now whether it is well; forgotten after PROBE_MAX_MS. */
  probeUntilMs?: number
}

export type Breaker = {
  failuresInRow: number
  /** Results and failures, each worth less the older it is. */
  results: number
  failures: number
  countedAtMs: number
  rest?: Rest
}

export type Standing = 'closed' | 'half_open' | 'resting' | 'barred'

export const CLOSED: Breaker = { failuresInRow: 0, results: 0, failures: 0, countedAtMs: 0 }

export function standingOf({ rest }: Breaker, nowMs: number): Standing {
  if (rest === undefined) return 'closed'
  if (nowMs < rest.untilMs) return rest.isBarred ? 'barred' : 'resting'
  return rest.probeUntilMs !== undefined && nowMs < rest.probeUntilMs ? 'resting' : 'half_open'
}

/** Half-open: this request is the one that finds out. Any other state stays as it is. */
export function beginProbe(breaker: Breaker, nowMs: number): Breaker {
  if (breaker.rest === undefined || standingOf(breaker, nowMs) !== 'half_open') return breaker
  return { ...breaker, rest: { ...breaker.rest, probeUntilMs: nowMs + PROBE_MAX_MS } }
}

/** An answer closes it, also one that was asked for before it rested. */
export function succeeded(breaker: Breaker, nowMs: number): Breaker {
  const { results, failures } = faded(breaker, nowMs)
  // A rest ends with a clean sheet: what led to it must not bring on the next one.
  if (breaker.rest !== undefined) return { ...CLOSED, results: 1, countedAtMs: nowMs }
  return { failuresInRow: 0, results: results + 1, failures, countedAtMs: nowMs }
}

/** A failure of its own: enough of them, or one of a probe, and it rests. */
export function failed(breaker: Breaker, nowMs: number): Breaker {
  const { results, failures } = faded(breaker, nowMs)
  const counted: Breaker = {
    failuresInRow: breaker.failuresInRow + 1,
    results: results + 1,
    failures: failures + 1,
    countedAtMs: nowMs,
  }
  const { rest } = breaker
  // Asked as the last resort while it rests: that it fails is no news.
  if (rest !== undefined && nowMs < rest.untilMs) return { ...counted, rest }
  if (rest !== undefined) {
    const coolDownMs = Math.min(COOL_DOWN_MAX_MS, rest.coolDownMs * 2)
    return { ...counted, rest: { untilMs: nowMs + coolDownMs, coolDownMs, isBarred: false } }
  }
  const isOutage =
    counted.failuresInRow >= FAILURES_IN_ROW ||
    (counted.results >= RESULTS_MIN && counted.failures >= FAILURE_SHARE * counted.results)
  if (!isOutage) return counted
  return { ...counted, rest: { untilMs: nowMs + COOL_DOWN_MS, coolDownMs: COOL_DOWN_MS, isBarred: false } }
}

/** Rests from now on for `forMs`, at most REST_MAX_MS; never shorter than it would anyway. */
export function rest(breaker: Breaker, nowMs: number, forMs: number, isBarred: boolean): Breaker {
  const untilMs = nowMs + Math.min(REST_MAX_MS, Math.max(0, forMs))
  const before = breaker.rest
  if (before !== undefined && before.untilMs >= untilMs) return breaker
  const coolDownMs = before?.coolDownMs ?? COOL_DOWN_MS
  return {
    ...breaker,
    rest: { untilMs, coolDownMs, isBarred: isBarred || (before?.isBarred === true && nowMs < before.untilMs) },
  }
}

function faded(breaker: Breaker, nowMs: number): { results: number; failures: number } {
  const share = Math.exp(-Math.max(0, nowMs - breaker.countedAtMs) / FAILURE_MEMORY_MS)
  return { results: breaker.results * share, failures: breaker.failures * share }
}
