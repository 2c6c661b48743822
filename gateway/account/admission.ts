// Whether an account lets an attempt start. Owns the order of the checks and their arithmetic; the state comes in as a
// view, so that the same decision runs against SQLite and against a model. Pure.
//
// Every hard limit fails closed: where what was used, or the worst case in money, is not known, the attempt is refused.
// A soft limit refuses nothing, and one that cannot be told is passed over.

import { err, ok, type Result } from '../../protocol/result.ts'
import { formatUsd } from '../../protocol/units.ts'
import { isQuote, worstCaseCost } from '../meter/price.ts'
import { type Amounts, amountsOfAsk } from './amounts.ts'
import type { Denial, Hold, LimitState, ReserveAsk } from './contract.ts'
import { holdIdOf } from './holds.ts'
import type { ConcurrencyLimit, CountedLimit } from './limit.ts'
import type { Notice } from './notices.ts'
import type { Applying, Gauge, Place } from './rule-index.ts'
import { type WindowSpan, windowOf } from './windows.ts'

/** What the decision needs to know of the account, as of now. */
export type AccountView = {
  keyRevoked: boolean
  outboxRows: number
  openHolds: number
  /** What was counted in a window; `undefined` where that is not known to be complete. */
  settled(gauge: Gauge, span: WindowSpan): bigint | undefined
  /** What open holds set aside in it. */
  held(gauge: Gauge, span: WindowSpan): bigint
  running(place: Place, exceptRequestId: string): number
}

/** Notices stand whether the attempt may start or not. */
export type Admission = { result: Result<Hold, Denial>; notices: Notice[] }

/**
 * Endings that may wait for Postgres. About 200 MB of rows and, at 100 requests a second, a quarter of an hour without
 * a database; after that admission closes, because what is not recorded must not be spent.
 */
export const OUTBOX_ROWS_MAX = 100_000
/** Open holds of one account: bounds memory, and is above what one object can serve at once. */
export const OPEN_HOLDS_MAX = 20_000
const OUTBOX_RETRY_MS = 5_000
export const UNAVAILABLE_RETRY_MS = 2_000
/** Events of limits without a window of their own are told once a day. */
const EVENT_WINDOW = 'day'

/** Checks every limit; the first hard one that says no, in the order given, is the answer. Nothing is changed. */
export function admit(ask: ReserveAsk, applying: Applying, view: AccountView): Admission {
  const deny = (error: Denial, notices: Notice[] = []): Admission => ({ result: err(error), notices })
  if (view.keyRevoked) return deny({ reason: 'key_revoked' })
  if (view.outboxRows >= OUTBOX_ROWS_MAX) return deny({ reason: 'outbox_full', retryAfterMs: OUTBOX_RETRY_MS })
  if (view.openHolds >= OPEN_HOLDS_MAX) return deny({ reason: 'unavailable', retryAfterMs: UNAVAILABLE_RETRY_MS })
  if (ask.isTrial === true) {
    // Its cost is written to the books all the same, so its price has to fit them.
    return isPriceInBounds(ask)
      ? { result: ok({ holdId: holdIdOf(ask), heldNanoUsd: 0n }), notices: [] }
      : deny({ reason: 'price_unknown', model: ask.modelRequested })
  }
  const worst = worstCase(ask)
  const moneyIsBound = applying.gauges.some(({ series, hard }) => hard && series.meter === 'money')
  if (worst === undefined && (moneyIsBound || !isPriceInBounds(ask)))
    return deny({ reason: 'price_unknown', model: ask.modelRequested })
  const asked = amountsOfAsk(ask, worst ?? 0n)

  const hold: Hold = { holdId: holdIdOf(ask), heldNanoUsd: asked.money }
  const passed: Notice[] = []
  const warnings: string[] = []
  for (const gauge of applying.gauges) {
    const reading = read(gauge, ask, asked, view)
    if (reading === undefined) {
      if (gauge.hard) return deny({ reason: 'unavailable', retryAfterMs: UNAVAILABLE_RETRY_MS })
      continue
    }
    const refused = reading.total > gauge.max && !isCountedAlready(gauge, ask)
    if (gauge.hard && refused) return deny(denialOf(gauge, reading, ask), noticesOf(gauge, reading, 'refused', ask))
    if (gauge.hard) noteTightest(hold, gauge, reading)
    if (gauge.hard || !refused || !('limit' in gauge.rule)) continue
    passed.push(...noticesOf(gauge, reading, 'passed', ask))
    warnings.push(warningOf(gauge.rule.limit))
  }
  for (const place of applying.places) {
    const running = view.running(place, ask.requestId)
    const { limit } = place
    if (running < limit.max) continue
    const notice = noticeOfPlace(place, running + 1, ask)
    if (limit.hard) return deny({ reason: 'concurrency_limited', rule: limit, running }, [notice])
    passed.push(notice)
    warnings.push(warningOf(limit))
  }
  if (warnings.length > 0) hold.warnings = warnings
  return { result: ok(hold), notices: passed }
}

type Reading = { span: WindowSpan; settled: bigint; held: bigint; asked: bigint; total: bigint }

function read(gauge: Gauge, ask: ReserveAsk, amounts: Amounts, view: AccountView): Reading | undefined {
  const { series } = gauge
  const span = windowOf(series.window, series.timeZone, ask.startedAtMs)
  const settled = view.settled(gauge, span)
  if (settled === undefined) return undefined
  const held = view.held(gauge, span)
  const asked = amounts[series.meter]
  return { span, settled, held, asked, total: settled + held + asked }
}

/** A fallback is the same request: it was counted and checked with its first attempt. */
const isCountedAlready = (gauge: Gauge, ask: ReserveAsk): boolean =>
  gauge.series.meter === 'requests' && ask.attempt > 1

function denialOf({ rule, max }: Gauge, { span, settled, held, asked }: Reading, ask: ReserveAsk): Denial {
  const spent = { settledNanoUsd: settled, heldNanoUsd: held, askNanoUsd: asked }
  if ('credit' in rule) return { reason: 'credit_exhausted', credit: rule.credit, ...spent }
  const { limit } = rule
  if (limit.meter === 'money') {
    const denial: Denial = { reason: 'budget_exhausted', rule: limit, ...spent }
    if (span.endMs !== undefined) denial.resetAtMs = span.endMs
    return denial
  }
  const denial: Denial = { reason: 'rate_limited', rule: limit, used: settled, held, asked }
  // Waiting for the next window helps only what fits into an empty one. At least 1 ms: before that nothing changes.
  if (span.endMs !== undefined && asked <= max) denial.retryAfterMs = Math.max(1, span.endMs - ask.startedAtMs)
  return denial
}

function noteTightest(hold: Hold, { series, max }: Gauge, { span, total }: Reading): void {
  if (series.meter === 'money') return
  const left = max - total
  const state: LimitState = { limit: Number(max), remaining: left > 0n ? Number(left) : 0 }
  if (span.endMs !== undefined) state.resetAtMs = span.endMs
  const name = series.meter === 'requests' ? 'requests' : 'tokens'
  const known = hold[name]
  if (known === undefined || state.remaining < known.remaining) hold[name] = state
}

/** Credit has no limit of its own that an event could name. */
function noticesOf({ rule, subject, max }: Gauge, reading: Reading, kind: Notice['kind'], ask: ReserveAsk): Notice[] {
  if ('credit' in rule) return []
  const { span, total: value } = reading
  return [{ limitId: rule.limit.limitId, subject, span, kind, max, value, occurredAtMs: ask.startedAtMs }]
}

function noticeOfPlace({ limit, subject }: Place, running: number, ask: ReserveAsk): Notice {
  return {
    limitId: limit.limitId,
    subject,
    span: windowOf(EVENT_WINDOW, 'UTC', ask.startedAtMs),
    kind: limit.hard ? 'refused' : 'passed',
    max: BigInt(limit.max),
    value: BigInt(running),
    occurredAtMs: ask.startedAtMs,
  }
}

/** `project input_tokens 1000 per day`, `org money $5 per month`, `key concurrency 3`. */
function warningOf(limit: CountedLimit | ConcurrencyLimit): string {
  const model = limit.model === undefined ? '' : ` for ${limit.model}`
  if (limit.meter === 'concurrency') return `${limit.scope} ${limit.meter} ${limit.max}${model}`
  const max = limit.meter === 'money' ? `$${formatUsd(limit.maxNanoUsd)}` : String(limit.max)
  return `${limit.scope} ${limit.meter} ${max} per ${limit.window}${model}`
}

/** A price out of bounds is a mistake of whoever wrote it, refused also where no money limit applies. */
const isPriceInBounds = (ask: ReserveAsk): boolean => ask.price === undefined || isQuote(ask.price)

/** `undefined` where the price is unknown, out of bounds, or lacks a side. */
function worstCase(ask: ReserveAsk): bigint | undefined {
  if (ask.price === undefined || !isQuote(ask.price)) return undefined
  return worstCaseCost(ask.estimate, ask.price)
}
