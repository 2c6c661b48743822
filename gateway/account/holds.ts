// The life of a hold. Owns its states, the transitions between them and the facts each transition leaves for the
// record. Pure: storage is store.ts, the clock is an argument, prices are meter/price.ts.
//
//            openHold                 settleHold, something used
//   (none) ───────────▶ held ───────────────────────────────────▶ settled
//                        │ │          settleHold, failed and nothing used
//                        │ └─────────────────────────────────────▶ released
//                        │ expireHold                    settleHold
//                        └───────────▶ expired_estimated ─────────▶ settled_late
//
//   held               money is set aside, the request counts as running, no row exists
//   settled, released  one `attempt` row exists; final
//   expired_estimated  one `attempt` row exists, charging the last checkpoint; nothing is set aside any more
//   settled_late       an `adjustment` row brings the sum of the rows to what was really used; final
//
// Every transition is conditional on the state, so that a repeated or late call can never charge twice.
import type { AttemptKind, AttemptRow, Payer } from '../ledger/outbox.ts'
import { cacheSavings, charge, listCost, type Pricing } from '../meter/price.ts'
import {
  isNoUsage,
  isUsage,
  NO_USAGE,
  outputTokens,
  subtractUsage,
  type Usage,
  type UsageSource,
} from '../meter/usage.ts'
import { FLEET } from '../policy/targets.ts'
import type { AttemptStatus, Hold, ReserveAsk, SettleEnd } from './contract.ts'

export type HoldState = 'held' | 'settled' | 'released' | 'expired_estimated' | 'settled_late'

/** What was asked for. */
export type HoldTerms = ReserveAsk

/** How an attempt ended, as far as anyone knows. */
export type HoldEnd = {
  usage: Usage
  costNanoUsd: bigint
  charge: Payer
  status: AttemptStatus
  httpStatus?: number | undefined
  firstTokenAtMs?: number | undefined
  endedAtMs: number
  backendId?: string | undefined
}

export type HoldRecord = {
  terms: HoldTerms
  /** What `reserve` answered, for repeats. */
  granted: Hold
  state: HoldState
  /** Last proven usage while held. */
  checkpoint?: Usage | undefined
  /** In every state but `held`. */
  end?: HoldEnd | undefined
  /** The request's own row has been written. */
  requestClosed: boolean
  /** When the account has to look again: held: expiry; ended: close the request; closed: forget the hold. Epoch ms. */
  dueAtMs: number
}

/** What a transition changes. What the rows count for is amounts.ts. */
export type Transition = {
  hold: HoldRecord
  /** Rows for the record, in order. */
  rows: AttemptRow[]
}

/**
 * How long after its deadline a hold waits for its end before it expires: a Worker may drain an upstream for 30 s after
 * its client left, and then has to reach the account through a few retries.
 */
export const EXPIRY_GRACE_MS = 60_000
/** No hold outlives this, whatever deadline it was given: money set aside by a mistake comes back within a day. */
export const HOLD_LIFE_MAX_MS = 24 * 3_600_000
/** How long a request whose attempts all ended waits for a fallback before the account closes it by itself. */
export const REQUEST_CLOSE_GRACE_MS = 60_000
/**
 * Ended holds answer repeats for this long. Repeats come within minutes; a busy account at 300 requests a second keeps
 * some 8 GB of them, below the 10 GB an object may store.
 */
export const ENDED_HOLD_KEPT_MS = 6 * 3_600_000
/** Holds are forgotten on the hour, so that forgetting costs one alarm an hour and not one each. */
const FORGET_STEP_MS = 3_600_000

/** @throws RangeError where the identity of a hold is not `uuid.attempt`. */
export function parseHoldId(holdId: string): { requestId: string; attempt: number } {
  const match = /^([0-9a-f-]{36})\.([1-9]\d{0,3})$/.exec(holdId)
  if (match?.[1] === undefined) throw new RangeError(`not a hold id: ${holdId.slice(0, 60)}`)
  return { requestId: match[1], attempt: Number(match[2]) }
}

export const holdIdOf = (of: { requestId: string; attempt: number }): string => `${of.requestId}.${of.attempt}`

/** What an account says to the end of a hold that it never gave, or has forgotten. */
export const unknownHold = (holdId: string): string => `no hold ${holdId} is known to this account`

export const isOpen = (hold: HoldRecord): boolean => hold.state === 'held'

/** (none) → held. */
export function openHold(terms: HoldTerms, granted: Hold, nowMs: number): HoldRecord {
  const deadlineMs = Math.min(terms.deadlineAtMs, nowMs + HOLD_LIFE_MAX_MS)
  return { terms, granted, state: 'held', requestClosed: false, dueAtMs: deadlineMs + EXPIRY_GRACE_MS }
}

/**
 * held → held with a newer proof of usage; unchanged in any other state, and by a proof of less output, which is an older
 * one that was overtaken. @throws RangeError on parts that are no counts.
 */
export function checkpointHold(hold: HoldRecord, usage: Usage): HoldRecord {
  if (!isUsage(usage)) throw new RangeError(`checkpoint of ${hold.granted.holdId} has parts that are no token counts`)
  const isNewer = hold.checkpoint === undefined || outputTokens(usage) >= outputTokens(hold.checkpoint)
  return hold.state === 'held' && isNewer ? { ...hold, checkpoint: usage } : hold
}

/**
 * held → settled | released, expired_estimated → settled_late; `undefined` where the hold has its final end already.
 * The full cost is charged, also above what was set aside.
 * @throws RangeError on parts that are no counts, or an end of another hold.
 */
export function settleHold(hold: HoldRecord, end: SettleEnd, nowMs: number): Transition | undefined {
  if (end.holdId !== hold.granted.holdId) throw new RangeError(`end of ${end.holdId} given to ${hold.granted.holdId}`)
  if (!isUsage(end.usage)) throw new RangeError(`end of ${end.holdId} has parts that are no token counts`)
  const { costNanoUsd, pricing } = charge(end.usage, hold.terms.price)
  const ended: HoldEnd = {
    usage: end.usage,
    costNanoUsd,
    charge: end.charge,
    status: end.status,
    httpStatus: end.httpStatus,
    firstTokenAtMs: end.firstTokenAtMs,
    endedAtMs: end.endedAtMs,
    backendId: end.backendId,
  }
  const { usageSource, rawUsage, inconsistent, route } = end
  const providerCostNanoUsd = end.providerCostNanoUsd ?? likelyProviderCost(hold.terms, end.usage)
  const cacheSavingsNanoUsd = cacheSavings(end.usage, hold.terms.price)
  const told = { usageSource, rawUsage, inconsistent, route }
  const base: RowEnd = { ...ended, ...told, pricing, providerCostNanoUsd, cacheSavingsNanoUsd }
  switch (hold.state) {
    case 'held': {
      const unused = isNoUsage(end.usage) && end.status !== 'ok'
      return {
        hold: ending(hold, unused ? 'released' : 'settled', ended, nowMs),
        rows: [attemptRow(hold.terms, 'attempt', base, nowMs)],
      }
    }
    case 'expired_estimated': {
      const guess = endOf(hold)
      return {
        hold: ending(hold, 'settled_late', ended, nowMs),
        rows: correction(hold.terms, guess, base, nowMs),
      }
    }
    case 'settled':
    case 'released':
    case 'settled_late':
      return undefined
    default:
      return hold.state satisfies never
  }
}

/** held → expired_estimated: the holder is gone; what it last proved is charged. `undefined` in any other state. */
export function expireHold(hold: HoldRecord, nowMs: number): Transition | undefined {
  if (hold.state !== 'held') return undefined
  const usage = hold.checkpoint ?? NO_USAGE
  const { costNanoUsd, pricing } = charge(usage, hold.terms.price)
  const payer: Payer = hold.terms.isTrial === true ? 'absorbed' : 'customer'
  const ended: HoldEnd = { usage, costNanoUsd, charge: payer, status: 'deadline_exceeded', endedAtMs: nowMs }
  const providerCostNanoUsd = likelyProviderCost(hold.terms, usage)
  const cacheSavingsNanoUsd = cacheSavings(usage, hold.terms.price)
  const rowEnd: RowEnd = { ...ended, pricing, usageSource: 'estimated', providerCostNanoUsd, cacheSavingsNanoUsd }
  const row = attemptRow(hold.terms, 'attempt', rowEnd, nowMs)
  return {
    hold: ending(hold, 'expired_estimated', ended, nowMs),
    rows: [row],
  }
}

/** The request's row is written: the hold only answers repeats from here on. */
export function closeHold(hold: HoldRecord, nowMs: number): HoldRecord {
  const forgetAtMs = Math.ceil((nowMs + ENDED_HOLD_KEPT_MS) / FORGET_STEP_MS) * FORGET_STEP_MS
  return { ...hold, requestClosed: true, dueAtMs: isOpen(hold) ? hold.dueAtMs : forgetAtMs }
}

/** The end of a hold that has one. @throws Error on a held hold: a bug. */
export function endOf(hold: HoldRecord): HoldEnd {
  if (hold.end === undefined) throw new Error(`hold ${hold.granted.holdId} in state ${hold.state} has no end`)
  return hold.end
}

function ending(hold: HoldRecord, state: HoldState, end: HoldEnd, nowMs: number): HoldRecord {
  const ended: HoldRecord = { ...hold, state, end, checkpoint: undefined, dueAtMs: nowMs + REQUEST_CLOSE_GRACE_MS }
  return hold.requestClosed ? closeHold(ended, nowMs) : ended
}

type RowEnd = HoldEnd & {
  pricing: Pricing
  usageSource: UsageSource
  providerCostNanoUsd?: bigint | undefined
  cacheSavingsNanoUsd: bigint
  rawUsage?: string | undefined
  inconsistent?: boolean | undefined
  route?: string | undefined
}

/** The provider's list price of what was used, where it does not say itself; own machines send no bill. */
const likelyProviderCost = (terms: HoldTerms, usage: Usage): bigint | undefined =>
  terms.provider === FLEET ? undefined : listCost(usage, terms.price)

/** Rows that turn an estimate into the truth. */
function correction(terms: HoldTerms, guess: HoldEnd, truth: RowEnd, nowMs: number): AttemptRow[] {
  const guessed = likelyProviderCost(terms, guess.usage)
  const saved = cacheSavings(guess.usage, terms.price)
  if (guess.charge === truth.charge) {
    const { providerCostNanoUsd = guessed } = truth
    const difference: RowEnd = {
      ...truth,
      usage: subtractUsage(truth.usage, guess.usage),
      costNanoUsd: truth.costNanoUsd - guess.costNanoUsd,
      cacheSavingsNanoUsd: truth.cacheSavingsNanoUsd - saved,
      providerCostNanoUsd: providerCostNanoUsd === undefined ? undefined : providerCostNanoUsd - (guessed ?? 0n),
    }
    return [attemptRow(terms, 'adjustment', difference, nowMs)]
  }
  const takenBack: RowEnd = {
    ...guess,
    usage: subtractUsage(NO_USAGE, guess.usage),
    costNanoUsd: -guess.costNanoUsd,
    cacheSavingsNanoUsd: -saved,
    pricing: truth.pricing,
    usageSource: 'estimated',
    providerCostNanoUsd: guessed === undefined ? undefined : -guessed,
  }
  return [attemptRow(terms, 'reversal', takenBack, nowMs), attemptRow(terms, 'adjustment', truth, nowMs)]
}

function attemptRow(terms: HoldTerms, kind: AttemptKind, end: RowEnd, nowMs: number): AttemptRow {
  return {
    orgId: terms.orgId,
    requestId: terms.requestId,
    attempt: terms.attempt,
    kind,
    projectId: terms.projectId,
    keyId: terms.keyId,
    keyLineId: terms.keyLineId,
    userId: terms.userId,
    teamId: terms.teamId,
    endUser: terms.endUser,
    tags: terms.tags,
    backendId: end.backendId,
    provider: terms.provider,
    modelRequested: terms.modelRequested,
    modelServed: terms.modelServed,
    stream: terms.stream,
    status: end.status,
    httpStatus: end.httpStatus,
    charge: end.charge,
    usage: end.usage,
    usageSource: end.usageSource,
    costNanoUsd: end.costNanoUsd,
    pricing: end.pricing,
    price: terms.price,
    providerCostNanoUsd: end.providerCostNanoUsd,
    cacheSavingsNanoUsd: end.cacheSavingsNanoUsd,
    rawUsage: end.rawUsage,
    inconsistent: end.inconsistent,
    route: end.route,
    startedAtMs: terms.startedAtMs,
    firstTokenAtMs: end.firstTokenAtMs,
    endedAtMs: end.endedAtMs,
    recordedAtMs: nowMs,
  }
}
