// The database port: the only way gateway code reaches Postgres. Owns the types; pool.ts (self-hosted, connections held
// in a Durable Object) and hyperdrive.ts (Cloudflare) implement it, connect.ts picks one.

/**
 * What crosses the port: anything structured clone and postgres.js both carry. An int8 goes and comes as a decimal
 * string, a timestamptz as an ISO string in UTC (`2026-11-22T01:02:03.456Z`, microseconds where there are any): the text
 * that toISOString gives comes back unchanged.
 */
export type SqlValue = string | number | boolean | null | Uint8Array

export type Statement = { text: string; params: SqlValue[] }

/** Rows as arrays in select order (`values`), and how many rows a write touched. */
export type SqlResult = { rows: unknown[][]; count: number }

export interface Database {
  /**
   * One statement, retried on serialisation failures (40001, 40P01).
   * @throws DatabaseUnavailable, QueryFailed
   */
  run(statement: Statement): Promise<SqlResult>
  /**
   * All in one transaction, in order; the whole is retried on serialisation failures (40001, 40P01).
   * @throws DatabaseUnavailable, QueryFailed
   */
  batch(statements: Statement[]): Promise<SqlResult[]>
}

/**
 * Postgres could not be reached or refused to work; the caller decides what a dead database means for it. A write may
 * have happened all the same (the answer to a commit can be lost), so it is repeated only under a unique key.
 */
export class DatabaseUnavailable extends Error {
  override name = 'DatabaseUnavailable'
}

/** SQLSTATE of a second row under a unique key. */
export const UNIQUE_VIOLATION = '23505'

/** Postgres answered, and the answer is no: a violated constraint or a bug in the statement. Carries no parameter. */
export class QueryFailed extends Error {
  override name = 'QueryFailed'
  /** Five characters, e.g. UNIQUE_VIOLATION. */
  readonly sqlState: string
  /** Name of the violated constraint or unique index, where Postgres told it. */
  readonly constraint: string | undefined

  constructor(message: string, sqlState: string, constraint?: string) {
    super(message)
    this.sqlState = sqlState
    this.constraint = constraint
  }
}
