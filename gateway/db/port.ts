// The database port: the only way gateway code reaches Postgres. Owns the type; pool.ts (self-hosted, connections held
// in a Durable Object) and hyperdrive.ts (Cloudflare) implement it, connect.ts picks one.

/** What crosses the port: anything structured clone and postgres.js both carry. int8 arrives as a decimal string. */
export type SqlValue = string | number | boolean | null | Uint8Array

export type Statement = { text: string; params: SqlValue[] }

/** Rows as arrays in select order (`values`), and how many rows a write touched. */
export type SqlResult = { rows: unknown[][]; count: number }

export interface Database {
  /** One statement. */
  run(statement: Statement): Promise<SqlResult>
  /** All in one transaction, in order; the whole is retried on serialisation failures (40001, 40P01). */
  batch(statements: Statement[]): Promise<SqlResult[]>
}

/** Postgres could not be reached or refused to work; the caller decides what a dead database means for it. */
export class DatabaseUnavailable extends Error {
  override name = 'DatabaseUnavailable'
}
