// Whether an account lets an attempt start. Owns the order of the checks and their arithmetic; the state comes in as a
// view, so that the same decision runs against SQLite and against a model. Pure.
//
// Money fails closed here: where a money limit applies and the worst case or the money already spent is not known, the
// attempt is refused. Request and concurrency limits only ever look at what this object has counted itself.
import { err, ok, type Result } from '../../protocol/result.ts'
import { isQuote, worstCaseCost } from '../meter/price.ts'
import type { Denial, Hold, LimitRule, LimitScope, ReserveAsk } from './contract.ts'
import { type CounterKey, requestCounter, retryAfterMs, windowOf } from './counters.ts'
import { holdIdOf } from './holds.ts'

type MoneyWindow = (LimitRule & { meter: 'money' })['window']

/** What the decision needs to know of the account, as of now. */
export type AccountView = {
  keyRevoked: boolean
  outboxRows: number
  openHolds: number
  /** Requests counted under a counter. */
  requests(counter: CounterKey): number
  /** Money charged in the window around an instant; `undefined` until the sums are known to be complete. */
  settled(scope: LimitScope, scopeId: string, window: MoneyWindow, atMs: number): bigint | undefined
  /** Money set aside by open holds in that window. */
  held(scope: LimitScope, scopeId: string, window: MoneyWindow, atMs: number): bigint
  running(scope: LimitScope, scopeId: string, exceptRequestId: string): number
}

export type Admission = {
  hold: Hold
  /** Counters that move by one. */
  counted: CounterKey[]
}

/**
 * Endings that may wait for Postgres. About 200 MB of rows and, at 100 requests a second, a quarter of an hour without
 * a database; after that admission closes, because what is not recorded must not be spent.
 */
export const OUTBOX_ROWS_MAX = 100_000
/** Open holds of one account: bounds memory, and is above what one object can serve at once. */
export const OPEN_HOLDS_MAX = 20_000
const OUTBOX_RETRY_MS = 5_000
const UNAVAILABLE_RETRY_MS = 2_000

export const needsMoney = (ask: Pick<ReserveAsk, 'limits'>): boolean =>
  ask.limits.some((rule) => rule.meter === 'money')

/** Checks every limit; the first rule that says no, in the order given, is the answer. Nothing is changed. */
export function admit(ask: ReserveAsk, view: AccountView): Result<Admission, Denial> {
  if (view.keyRevoked) return err({ reason: 'key_revoked' })
  if (view.outboxRows >= OUTBOX_ROWS_MAX) return err({ reason: 'outbox_full', retryAfterMs: OUTBOX_RETRY_MS })
  if (view.openHolds >= OPEN_HOLDS_MAX) return err({ reason: 'unavailable', retryAfterMs: UNAVAILABLE_RETRY_MS })
  const worst = worstCase(ask)
  if (worst === undefined && (needsMoney(ask) || !isPriceInBounds(ask)))
    return err({ reason: 'price_unknown', model: ask.modelRequested })
  const askNanoUsd = worst ?? 0n

  const counted = new Map<string, CounterKey>()
  let tightest: Hold['requests']
  for (const rule of ask.limits) {
    const refusal = checkRule(rule, ask, askNanoUsd, view)
    if (refusal !== undefined) return err(refusal)
    if (rule.meter !== 'requests') continue
    const counter = requestCounter(rule, ask.startedAtMs)
    if (ask.attempt === 1) counted.set(`${counter.scope}/${counter.scopeId}/${counter.windowKey}`, counter)
    const used = view.requests(counter) + (ask.attempt === 1 ? 1 : 0)
    const remaining = Math.max(0, rule.max - used)
    if (tightest === undefined || remaining < tightest.remaining) {
      const span = windowOf(rule.window, ask.startedAtMs)
      tightest = { limit: rule.max, remaining, resetAtMs: span.endMs ?? span.startMs }
    }
  }
  const hold: Hold = { holdId: holdIdOf(ask), heldNanoUsd: askNanoUsd }
  if (tightest !== undefined) hold.requests = tightest
  return ok({ hold, counted: [...counted.values()] })
}

function checkRule(rule: LimitRule, ask: ReserveAsk, askNanoUsd: bigint, view: AccountView): Denial | undefined {
  const { startedAtMs } = ask
  switch (rule.meter) {
    case 'requests': {
      // A fallback is the same request: it was counted and checked with its first attempt.
      if (ask.attempt > 1 || view.requests(requestCounter(rule, startedAtMs)) < rule.max) return undefined
      return {
        reason: 'rate_limited',
        rule,
        retryAfterMs: retryAfterMs(windowOf(rule.window, startedAtMs), startedAtMs),
      }
    }
    case 'concurrency': {
      const running = view.running(rule.scope, rule.scopeId, ask.requestId)
      return running < rule.max ? undefined : { reason: 'concurrency_limited', rule, running }
    }
    case 'money': {
      const settledNanoUsd = view.settled(rule.scope, rule.scopeId, rule.window, startedAtMs)
      if (settledNanoUsd === undefined) return { reason: 'unavailable', retryAfterMs: UNAVAILABLE_RETRY_MS }
      const heldNanoUsd = view.held(rule.scope, rule.scopeId, rule.window, startedAtMs)
      if (settledNanoUsd + heldNanoUsd + askNanoUsd <= rule.maxNanoUsd) return undefined
      const denial: Denial = { reason: 'budget_exhausted', rule, settledNanoUsd, heldNanoUsd, askNanoUsd }
      const { endMs } = windowOf(rule.window, startedAtMs)
      if (endMs !== undefined) denial.resetAtMs = endMs
      return denial
    }
    default:
      return rule satisfies never
  }
}

/** A price out of bounds is a mistake of whoever wrote it, refused also where no money limit applies. */
const isPriceInBounds = (ask: ReserveAsk): boolean => ask.price === undefined || isQuote(ask.price)

/** `undefined` where the price is unknown, out of bounds, or lacks a side. */
function worstCase(ask: ReserveAsk): bigint | undefined {
  if (ask.price === undefined || !isQuote(ask.price)) return undefined
  return worstCaseCost(ask.estimate, ask.price)
}
