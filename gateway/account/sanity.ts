// What callers of the account must never get wrong. Owns the assertions at the object's door: callers are our own code,
// so a violation is a bug and throws; nothing a client sends reaches these. They stand in production too, because a row
// that Postgres cannot take, or counters of two organisations in one object, would be found out much later. Pure.
import { MAX_CHOICES, MAX_END_USER_CHARS } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { TOKENS_MAX } from '../policy/targets.ts'
import {
  BACKEND_CHARS_MAX,
  type Denial,
  type Hold,
  RAW_USAGE_CHARS_MAX,
  type ReserveAsk,
  ROUTE_CHARS_MAX,
  type SettleEnd,
  TAGS_CHARS_MAX,
} from './contract.ts'
import { endOf, type HoldRecord, isOpen } from './holds.ts'

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const SHA256 = /^[0-9a-f]{64}$/
/** More targets than any plan names. */
const ATTEMPTS_MAX = 1_000
/** Year 2000 to 2200: an instant in seconds or microseconds is a mistake. */
const INSTANT_MIN_MS = 946_684_800_000
const INSTANT_MAX_MS = 7_258_118_400_000
/** The longest window in the catalog, once per choice; with `PRICE_MAX` a hold still fits a 64-bit integer. */
const ESTIMATE_MAX = TOKENS_MAX * MAX_CHOICES

/** @throws RangeError naming what is wrong. */
export function assertAsk(ask: ReserveAsk): void {
  for (const name of ['requestId', 'orgId', 'projectId', 'keyId'] as const)
    if (!UUID.test(ask[name])) throw new RangeError(`${name} of a reservation is not a lower-case uuid`)
  if (!Number.isInteger(ask.attempt) || ask.attempt < 1 || ask.attempt > ATTEMPTS_MAX)
    throw new RangeError(`attempt ${ask.attempt} of request ${ask.requestId} is not in 1..${ATTEMPTS_MAX}`)
  for (const id of [ask.keyLineId, ask.userId, ask.teamId])
    if (id !== undefined && !UUID.test(id))
      throw new RangeError(`a key line, user or team of request ${ask.requestId} is not a lower-case uuid`)
  if (ask.endUser !== undefined && (ask.endUser === '' || ask.endUser.length > MAX_END_USER_CHARS))
    throw new RangeError(`the end user of request ${ask.requestId} has not 1..${MAX_END_USER_CHARS} characters`)
  if (ask.tags !== undefined && (ask.tags === '' || ask.tags.length > TAGS_CHARS_MAX))
    throw new RangeError(`the tags of request ${ask.requestId} have not 1..${TAGS_CHARS_MAX} characters`)
  if (ask.isTrial === true && ask.attempt === 1) throw new RangeError(`request ${ask.requestId} begins with a trial`)
  const { inputTokens, outputTokens, calls } = ask.estimate
  for (const units of [inputTokens, outputTokens, calls])
    if (!Number.isInteger(units) || units < 0 || units > ESTIMATE_MAX)
      throw new RangeError(`estimate of ${units} for request ${ask.requestId} is not in 0..${ESTIMATE_MAX}`)
  if (ask.idempotency !== undefined) {
    if (ask.attempt > 1) throw new RangeError(`a fallback of request ${ask.requestId} brings an idempotency key`)
    for (const hash of [ask.idempotency.keyHash, ask.idempotency.bodyHash])
      if (!SHA256.test(hash)) throw new RangeError(`a hash of request ${ask.requestId} is no SHA-256 in hex`)
  }
  assertInstant(ask.startedAtMs, 'startedAtMs')
  assertInstant(ask.deadlineAtMs, 'deadlineAtMs')
}

/** @throws RangeError naming what is wrong. */
export function assertEnd(end: SettleEnd): void {
  assertInstant(end.endedAtMs, 'endedAtMs')
  if (end.firstTokenAtMs !== undefined) assertInstant(end.firstTokenAtMs, 'firstTokenAtMs')
  if (!Number.isInteger(end.httpStatus) || end.httpStatus < 100 || end.httpStatus > 599)
    throw new RangeError(`httpStatus ${end.httpStatus} of ${end.holdId} is no HTTP status`)
  if (end.providerCostNanoUsd !== undefined && end.providerCostNanoUsd < 0n)
    throw new RangeError(`the provider cost of ${end.holdId} is negative`)
  if (end.rawUsage !== undefined && end.rawUsage.length > RAW_USAGE_CHARS_MAX)
    throw new RangeError(`the raw usage of ${end.holdId} is longer than ${RAW_USAGE_CHARS_MAX} characters`)
  if (end.route !== undefined && end.route.length > ROUTE_CHARS_MAX)
    throw new RangeError(`the route of ${end.holdId} is longer than ${ROUTE_CHARS_MAX} characters`)
  if (end.backendId !== undefined && (end.backendId === '' || end.backendId.length > BACKEND_CHARS_MAX))
    throw new RangeError(`the backend of ${end.holdId} has not 1..${BACKEND_CHARS_MAX} characters`)
}

/**
 * What a repeated reservation is answered; it asks for the same thing, and is not granted again after its end.
 * @throws Error otherwise: granting it would dispatch without money set aside.
 */
export function repeated(known: HoldRecord, ask: ReserveAsk): Result<Hold, Denial> {
  const { terms } = known
  const same =
    terms.orgId === ask.orgId &&
    terms.keyId === ask.keyId &&
    terms.provider === ask.provider &&
    terms.modelServed === ask.modelServed &&
    terms.price?.priceVersionId === ask.price?.priceVersionId &&
    terms.estimate.inputTokens === ask.estimate.inputTokens &&
    terms.estimate.outputTokens === ask.estimate.outputTokens
  if (!same) throw new Error(`hold ${known.granted.holdId} was taken for something else`)
  if (isOpen(known)) return ok(known.granted)
  return err({ reason: 'attempt_ended', status: endOf(known).status, isClosed: known.requestClosed })
}

function assertInstant(atMs: number, name: string): void {
  if (!(atMs >= INSTANT_MIN_MS && atMs <= INSTANT_MAX_MS))
    throw new RangeError(`${name} ${atMs} is not in epoch milliseconds`)
}
