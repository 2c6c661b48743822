// The Account object's contract: what callers ask and what they get. Owns the types of holds, ends and denials.
// Durable Object: account.ts. Limits: limit.ts. Arithmetic: admission.ts, amounts.ts, holds.ts (pure).
import type { ErrorCode } from '../../protocol/errors.ts'
import type { Result } from '../../protocol/result.ts'
import type { NanoUsd } from '../../protocol/units.ts'
import type { PriceQuote } from '../meter/price.ts'
import type { Usage, UsageSource } from '../meter/usage.ts'
import type { CreditTerms, LimitRule, RuleBook } from './limit.ts'

/** Whom an attempt counts for. Ids are lower-case uuids, `endUser` is the caller's own word for its customer. */
export type Subject = {
  orgId: string
  projectId: string
  /** The credential: an API key, or the user whose token was presented. */
  keyId: string
  /** The first key of the line of rotations that an API key belongs to: limits on a key count by it. Absent: `keyId`. */
  keyLineId?: string | undefined
  /** Who the credential belongs to. */
  userId?: string | undefined
  teamId?: string | undefined
  /** 1 to 256 characters. */
  endUser?: string | undefined
}

/** Everything the account needs to write the usage row and the ledger later, whatever dies in between. */
export type ReserveAsk = Subject & {
  /** uuid of the client's request; with `attempt` the identity of the hold. */
  requestId: string
  /** 1 for the first target; a fallback takes its own hold. */
  attempt: number
  modelRequested: string
  /** Catalog name of the provider, `fleet` for own backends. */
  provider: string
  /** The target's own model name. */
  modelServed: string
  /** What reports file it under: `name=value` by name, joined by commas. At most TAGS_CHARS_MAX. */
  tags?: string | undefined
  /** The most the attempt can use; no count of what a caller asks for may exceed it. */
  estimate: Estimate
  price: PriceQuote | undefined
  startedAtMs: number
  /** The hold expires by itself some grace after this. */
  deadlineAtMs: number
  stream: boolean
  /** With attempt 1 only: the caller's promise that a second request under this key is the same one. SHA-256, hex. */
  idempotency?: { keyHash: string; bodyHash: string } | undefined
  /**
   * Never with attempt 1: a trial beside the request, whose answer nobody gets. The gateway bears it however it ends, so it
   * holds nothing, asks no limit and does not keep the request running.
   */
  isTrial?: boolean | undefined
}

/** Calls are what a provider bills by the piece: searches, images, tools. */
export type Estimate = { inputTokens: number; outputTokens: number; calls: number }

export type Hold = {
  holdId: string
  /** Money set aside by this hold. */
  heldNanoUsd: NanoUsd
  /** For x-ratelimit-* headers: the tightest hard limit on requests and on tokens, where one applies. */
  requests?: LimitState
  tokens?: LimitState
  /** Soft limits that are passed with this hold. */
  warnings?: string[]
}

export type LimitState = { limit: number; remaining: number /** Absent: never. */; resetAtMs?: number }

/** Why an account said no. Counts are of the limit's own meter: requests, tokens, or nano-USD. */
export type Denial =
  /** Requests or tokens of a window. `retryAfterMs` is absent where waiting cannot help: the ask alone is above the limit. */
  | { reason: 'rate_limited'; rule: LimitRule; used: bigint; held: bigint; asked: bigint; retryAfterMs?: number }
  | { reason: 'concurrency_limited'; rule: LimitRule; running: number }
  | {
      reason: 'budget_exhausted'
      rule: LimitRule
      settledNanoUsd: NanoUsd
      heldNanoUsd: NanoUsd
      askNanoUsd: NanoUsd
      resetAtMs?: number
    }
  /** Prepaid credit does not cover the worst case. */
  | {
      reason: 'credit_exhausted'
      credit: CreditTerms
      settledNanoUsd: NanoUsd
      heldNanoUsd: NanoUsd
      askNanoUsd: NanoUsd
    }
  | { reason: 'price_unknown'; model: string }
  /** The key was revoked after this isolate cached it. */
  | { reason: 'key_revoked' }
  /** The request's row is written: an attempt that comes now would stand in no request. */
  | { reason: 'request_closed' }
  /** This very attempt has ended: by the one who had asked before, or by its time. `isClosed`: no other may follow it. */
  | { reason: 'attempt_ended'; status: AttemptStatus; isClosed: boolean }
  /** The idempotency key belongs to a request with another body. */
  | { reason: 'idempotency_conflict'; requestId: string }
  /** The same request is running now, or was answered; it is neither run nor charged again. */
  | { reason: 'idempotency_running' | 'idempotency_answered'; requestId: string }
  /** Too much is waiting to be written to Postgres: admission closes until it drains. */
  | { reason: 'outbox_full'; retryAfterMs: number }
  /** The account's state cannot be known or kept right now; nothing was reserved. */
  | { reason: 'unavailable'; retryAfterMs: number }

/** How an attempt ended, for the usage row. `ok` also when the client left after the last byte. */
export type AttemptStatus = 'ok' | 'client_cancelled' | ErrorCode

export type SettleEnd = {
  holdId: string
  usage: Usage
  usageSource: UsageSource
  status: AttemptStatus
  /** Epoch ms; absent: no content was ever seen. */
  firstTokenAtMs?: number
  endedAtMs: number
  /** Whether the caller pays (the winning attempt) or the gateway absorbs the cost. */
  charge: 'customer' | 'absorbed'
  /** The client request ends with this attempt: also writes the request's row. */
  final: boolean
  httpStatus: number
  /** What the target itself charges for the attempt, where it says so; own backends: absent. */
  providerCostNanoUsd?: NanoUsd
  /** The target's own usage object as JSON text, at most RAW_USAGE_CHARS_MAX; absent where it sent none. */
  rawUsage?: string
  /** The target's counts contradict each other or were cut to what is possible. */
  inconsistent?: boolean
  /** How the attempt came about, as JSON text of at most ROUTE_CHARS_MAX. */
  route?: string
  /** Which of the own machines computed it, the last one where it moved. */
  backendId?: string
}

export const RAW_USAGE_CHARS_MAX = 4096
export const ROUTE_CHARS_MAX = 1024
/** Eight pairs of the longest names and values. */
export const TAGS_CHARS_MAX = 1024
/** A uuid, and room. */
export const BACKEND_CHARS_MAX = 64

export type Settled = { costNanoUsd: NanoUsd; repeated: boolean }

/** One of several calls that an isolate sends together. */
export type AccountCall =
  | { kind: 'reserve'; ask: ReserveAsk }
  | { kind: 'checkpoint'; holdId: string; usage: Usage }
  | { kind: 'settle'; end: SettleEnd }

/** The answer to the call at the same place. `failed` carries what the call alone would have thrown. */
export type AccountReply =
  | { kind: 'reserve'; result: Result<Hold, Denial> }
  | { kind: 'checkpoint' }
  | { kind: 'settle'; settled: Settled }
  | { kind: 'failed'; error: string }

/** Methods of the Account object, callable over Workers RPC. All are safe to repeat. */
export interface AccountRpc {
  /** Checks every limit and reserves in one transaction; durable before it answers. */
  reserve(ask: ReserveAsk): Promise<Result<Hold, Denial>>
  /** Last proven usage of a running attempt, so that an expiry charges it and no guess. */
  checkpoint(holdId: string, usage: Usage): Promise<void>
  /** Ends the hold with what was used (possibly nothing). The first end wins, later ones answer `repeated`. */
  settle(end: SettleEnd): Promise<Settled>
  /** Several calls in their order, in one transaction: one durable write for all. One that fails does not touch the others. */
  batch(calls: AccountCall[]): Promise<AccountReply[]>
  /** Sets or lifts a revocation; `reserve` refuses the key from the next call on. */
  setKeyRevoked(keyId: string, revoked: boolean): Promise<void>
  /** Limits and credit from now on. An older version than the account has changes nothing. */
  setRules(book: RuleBook): Promise<void>
  /** Open holds, counters and outbox depth, for administrators and tests. */
  inspect(): Promise<AccountState>
  /** Tries to write the outbox to Postgres now; answers how many rows are left. Default: also what Postgres has refused before. */
  flush(options?: { includeRejected: boolean }): Promise<{ outboxRows: number }>
}

export type AccountState = {
  /** The first of them by expiry. */
  openHolds: { holdId: string; heldNanoUsd: NanoUsd; startedAtMs: number; deadlineAtMs: number }[]
  /** Set aside by all open holds. */
  heldNanoUsd: NanoUsd
  /** What each limit has counted in its windows; `subject` is the id at its scope. */
  counters: { series: string; subject: string; windowKey: string; value: bigint }[]
  /** Version of the rules in force; undefined before they were ever read. */
  rulesVersion: number | undefined
  outboxRows: number
  /** Outbox rows that Postgres refused for what is in them; kept and retried, an operator has to look. */
  rejectedRows: number
  /** Those of them whose identity belongs to another fact in Postgres. */
  conflicts: number
}
