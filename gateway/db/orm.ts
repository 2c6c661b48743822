// Typed queries over the database port. Owns the joint between drizzle and the port; tables are schema/.
import { DrizzleQueryError } from 'drizzle-orm'
import { drizzle, type PgRemoteDatabase } from 'drizzle-orm/pg-proxy'
import type { Database, SqlValue, Statement } from './port.ts'

export type Orm = PgRemoteDatabase<Record<string, never>>

/** Builds statements for `Database.batch`; running one of its queries directly is a bug. */
export const builder: Orm = drizzle(async () => {
  throw new Error('this query builder has no database; use toStatement() or query()')
})

/**
 * Runs one typed query.
 * @throws DatabaseUnavailable, QueryFailed
 * @example await query(database, (db) => db.select().from(models).where(eq(models.name, name)))
 */
export async function query<T>(database: Database, build: (db: Orm) => PromiseLike<T>): Promise<T> {
  const db: Orm = drizzle(async (text, params) => {
    const { rows } = await database.run({ text, params: params.map(asSqlValue) })
    return { rows }
  })
  try {
    return await build(db)
  } catch (error) {
    // drizzle's own error quotes the parameters, which can hold ciphertexts and hashes; the port's error does not.
    throw error instanceof DrizzleQueryError && error.cause !== undefined ? error.cause : error
  }
}

/** A typed query as one statement of a batch. */
export function toStatement(built: { toSQL(): { sql: string; params: unknown[] } }): Statement {
  const { sql, params } = built.toSQL()
  return { text: sql, params: params.map(asSqlValue) }
}

function asSqlValue(value: unknown): SqlValue {
  if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean')
    return value
  if (typeof value === 'bigint') return value.toString()
  if (value instanceof Uint8Array) return value
  if (value instanceof Date) return value.toISOString()
  throw new TypeError(`a value of type ${typeof value} cannot cross the database port`)
}
