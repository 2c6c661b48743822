// The Account object's contract: what callers ask and what they get. Owns the types of holds and limits.
// Durable Object: account.ts. Arithmetic: counters.ts, holds.ts (both pure).
import type { ErrorCode } from '../../protocol/errors.ts'
import type { Result } from '../../protocol/result.ts'
import type { NanoUsd } from '../../protocol/units.ts'
import type { PriceQuote } from '../meter/price.ts'
import type { Usage, UsageSource } from '../meter/usage.ts'

export type LimitScope = 'org' | 'project' | 'key'

/** `concurrency` has no window. Windows are calendar windows in UTC, part of the counter's key: a reset is a new counter. */
export type LimitRule = {
  scope: LimitScope
  scopeId: string
} & (
  | { meter: 'requests'; window: 'minute' | 'hour' | 'day'; max: number }
  | { meter: 'concurrency'; max: number }
  | { meter: 'money'; window: 'day' | 'month' | 'lifetime'; maxNanoUsd: NanoUsd }
)

/** Everything the account needs to write the usage row and the ledger later, whatever dies in between. */
export type ReserveAsk = {
  /** uuid of the client's request; with `attempt` the identity of the hold. */
  requestId: string
  /** 1 for the first target; a fallback takes its own hold. */
  attempt: number
  orgId: string
  projectId: string
  keyId: string
  limits: LimitRule[]
  modelRequested: string
  /** Catalog name of the provider, `fleet` for own backends. */
  provider: string
  /** The target's own model name. */
  modelServed: string
  /** Worst case in money; `undefined` price only where no money limit applies. */
  estimate: { inputTokens: number; outputTokens: number }
  price: PriceQuote | undefined
  startedAtMs: number
  /** The hold expires by itself some grace after this. */
  deadlineAtMs: number
  stream: boolean
}

export type Hold = {
  holdId: string
  /** Money set aside by this hold. */
  heldNanoUsd: NanoUsd
  /** For x-ratelimit-* headers: the tightest request limit, where one applies. */
  requests?: { limit: number; remaining: number; resetAtMs: number }
}

/** Why an account said no. */
export type Denial =
  | { reason: 'rate_limited'; rule: LimitRule; retryAfterMs: number }
  | { reason: 'concurrency_limited'; rule: LimitRule; running: number }
  | {
      reason: 'budget_exhausted'
      rule: LimitRule
      settledNanoUsd: NanoUsd
      heldNanoUsd: NanoUsd
      askNanoUsd: NanoUsd
      resetAtMs?: number
    }
  | { reason: 'price_unknown'; model: string }
  /** The key was revoked after this isolate cached it. */
  | { reason: 'key_revoked' }
  /** Too much is waiting to be written to Postgres: admission closes until it drains. */
  | { reason: 'outbox_full'; retryAfterMs: number }
  /** The account's money state cannot be known or kept right now; nothing was reserved. */
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
}

export type Settled = { costNanoUsd: NanoUsd; repeated: boolean }

/** Methods of the Account object, callable over Workers RPC. All are safe to repeat. */
export interface AccountRpc {
  /** Checks every limit and reserves in one transaction; durable before it answers. */
  reserve(ask: ReserveAsk): Promise<Result<Hold, Denial>>
  /** Last proven usage of a running attempt, so that an expiry charges it and no guess. */
  checkpoint(holdId: string, usage: Usage): Promise<void>
  /** Ends the hold with what was used (possibly nothing). The first end wins, later ones answer `repeated`. */
  settle(end: SettleEnd): Promise<Settled>
  /** Sets or lifts a revocation; `reserve` refuses the key from the next call on. */
  setKeyRevoked(keyId: string, revoked: boolean): Promise<void>
  /** Open holds, counters and outbox depth, for administrators and tests. */
  inspect(): Promise<AccountState>
  /** Tries to write the outbox to Postgres now; answers how many rows are left. */
  flush(): Promise<{ outboxRows: number }>
}

export type AccountState = {
  openHolds: { holdId: string; heldNanoUsd: NanoUsd; startedAtMs: number; deadlineAtMs: number }[]
  counters: { scope: LimitScope; scopeId: string; meter: string; windowKey: string; value: bigint }[]
  outboxRows: number
  /** Outbox rows that Postgres refused for what is in them; kept and retried, an operator has to look. */
  rejectedRows: number
  /** Those of them whose identity belongs to another fact in Postgres. */
  conflicts: number
}
