// What an account needs of the system of record. Owns the port: postgres-record.ts implements it, the simulation has a
// model of it. Reads and writes of one account come from its one object, one after the other.
import type { CountedMeter, LimitScope, RuleBook } from '../account/limit.ts'
import type { OutboxEntry } from './outbox.ts'

/** A fact that the record already has under the same identity with other contents. */
export type Conflict = { table: 'usage_attempts' | 'usage_requests'; identity: string }

/** `request/attempt/kind`: an attempt's row within its organisation. */
export const attemptIdentity = (row: { requestId: string; attempt: number; kind: string }): string =>
  `${row.requestId}/${row.attempt}/${row.kind}`

/** Whether a conflict is about a row of this entry. */
export const concerns = (conflict: Conflict, entry: OutboxEntry): boolean =>
  conflict.table === 'usage_attempts'
    ? entry.attempts.some((row) => attemptIdentity(row) === conflict.identity)
    : entry.request?.requestId === conflict.identity

/**
 * The sums an account starts a counter from. `requests` counts first attempts, whoever pays them; tokens and money are
 * what the customer was charged, corrections included.
 */
export type SumQuestion = {
  scope: LimitScope
  /** An id, or EACH: one sum per id. */
  scopeId: string
  model?: string | undefined
  meter: CountedMeter
  /** By the start of the attempt; absent: since ever. */
  fromMs?: number | undefined
  /** Exclusive. */
  toMs?: number | undefined
}
export type RecordedSum = { subject: string; value: bigint }

export interface AccountRecord {
  /**
   * Writes all entries in one transaction; entries that are there already change nothing.
   * @returns the rows that were kept out because another fact has their identity
   * @throws DatabaseUnavailable where it may or may not have been written: repeat. QueryFailed: nothing was written.
   */
  write(entries: OutboxEntry[]): Promise<Conflict[]>
  /** The organisation's rules as they stand now. @throws DatabaseUnavailable, QueryFailed */
  readRules(orgId: string): Promise<RuleBook>
  /** @throws DatabaseUnavailable, QueryFailed */
  sum(orgId: string, question: SumQuestion): Promise<RecordedSum[]>
}
