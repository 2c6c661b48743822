// What an account needs of the world. Owns the ports alone: account.ts fills them from a Durable Object, a simulation
// from SQLite in memory. Pure: the clock is a port, and no port makes random numbers or waits.
import type { AccountRecord } from '../ledger/record.ts'
import type { LogFields, LogLevel } from '../observe/log.ts'

export type SqlRow = Record<string, string | number | null>

export interface SqlCursor<Row> extends Iterable<Row> {
  toArray(): Row[]
  /** Rows of tables and indexes that the statement wrote. */
  readonly rowsWritten: number
}

/** SQLite. The part of a Durable Object's storage that an account uses; no statement opens or ends a transaction. */
export interface Sql {
  exec<Row extends SqlRow>(query: string, ...bindings: (string | number | null)[]): SqlCursor<Row>
}

export type AccountPorts = {
  sql: Sql
  /**
   * All of the work's writes or, where it throws, none. Calls nest: an inner one that throws undoes what it wrote
   * itself, and the outer one goes on.
   */
  transaction<T>(work: () => T): T
  /** Epoch milliseconds. May jump either way. */
  now(): number
  /** Asks for `alarm()` at a time, in place of the time asked for before. */
  setAlarm(atMs: number): void
  /**
   * Runs work soon after the answers of this event are on their way, so that they need not wait for its writes. An instance
   * that dies before loses it. Absent: at once.
   */
  afterwards?: (work: () => void) => void
  record: AccountRecord
  /**
   * Waits for work that never rejects, or for as long as callers can be kept waiting for a silent record; the work goes on
   * behind. Absent: waits to the end.
   */
  patience?: (work: Promise<void>) => Promise<void>
  log(level: LogLevel, event: string, fields: LogFields): void
}
