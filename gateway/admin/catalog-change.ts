// Changing the catalog. Owns that a change is written only on what it was planned on: no provider, key or model may have
// changed in between. Otherwise a secret could follow an upstream to another host, or a model lose its provider.
import { eq, sql } from 'drizzle-orm'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import { type Database, QueryFailed, type Statement } from '../db/port.ts'
import { catalogRevision } from '../db/schema/catalog.ts'
import { forgetCatalog } from '../policy/catalog.ts'
import { type AdminContext, conflict } from './context.ts'

/** The table's one row. */
const ROW = 1
/** In each round one of the rivals gets through; people and scripts are never so many at once. */
const TRIES_MAX = 8
const PAUSE_MAX_MS = 100
const DIVISION_BY_ZERO = '22012'

/** What is written, all or nothing; without statements nothing is. */
export type CatalogChange<T> = { statements: Statement[]; answer: T }

/**
 * Plans a change on the catalog as it stands and writes it; plans anew where something else was changed meanwhile.
 * @param plan Reads and decides; may throw a Refusal. Runs once per try.
 * @throws Refusal `conflict` where others were faster each time.
 */
export async function changeCatalog<T>(
  c: AdminContext,
  plan: (database: Database) => Promise<CatalogChange<T>>,
): Promise<T> {
  const database = connect(c.env)
  for (let tries = 1; ; tries++) {
    const revision = await readRevision(database)
    let change: CatalogChange<T>
    try {
      change = await plan(database)
    } catch (error) {
      // Its reads may belong to two moments: what it says of them counts only where nothing has changed in between.
      if (tries < TRIES_MAX && (await readRevision(database)) !== revision) continue
      throw error
    }
    if (change.statements.length === 0) return change.answer
    try {
      await database.batch([advance, stillAt(revision + 1), ...change.statements])
      return change.answer
    } catch (error) {
      if (!(error instanceof QueryFailed) || error.sqlState !== DIVISION_BY_ZERO) throw error
      if (tries >= TRIES_MAX)
        throw conflict('The catalog is being changed by others; nothing was done. Repeat the call.')
      await new Promise((resolve) => setTimeout(resolve, Math.random() * PAUSE_MAX_MS))
    } finally {
      // Also where the answer was lost: the change may have been made.
      forgetCatalog()
    }
  }
}

async function readRevision(database: Database): Promise<number> {
  const [row] = await query(database, (db) =>
    db.select({ revision: catalogRevision.revision }).from(catalogRevision).where(eq(catalogRevision.id, ROW)),
  )
  return row?.revision ?? 0
}

/** First in the transaction: such transactions wait for each other here. */
const advance: Statement = toStatement(
  builder
    .insert(catalogRevision)
    .values({ id: ROW, revision: 1 })
    .onConflictDoUpdate({ target: catalogRevision.id, set: { revision: sql`catalog_revision.revision + 1` } }),
)

const stillAt = (revision: number): Statement => ({
  text: `SELECT 1 / (CASE WHEN revision = $1 THEN 1 ELSE 0 END) FROM catalog_revision WHERE id = ${ROW}`,
  params: [revision],
})
