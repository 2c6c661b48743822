// Model names in the admin API. Owns their HTTP form; how a request finds its target is policy/ and routing/.
import { and, asc, eq, inArray, sql } from 'drizzle-orm'
import { Hono } from 'hono'
import { z } from 'zod'
import { connect } from '../db/connect.ts'
import { parseStored } from '../db/json.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { models, providers } from '../db/schema/catalog.ts'
import { forgetCatalog } from '../policy/catalog.ts'
import { FLEET, ModelName, StoredTargets } from '../policy/targets.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, invalid, notFound } from './context.ts'
import { readInput, readQuery } from './input.ts'
import { after, PageQuery, pageOf } from './paging.ts'

const ModelInput = z.strictObject({ targets: StoredTargets })

type ModelRow = typeof models.$inferSelect

/** Names may hold slashes, so the parameter takes the rest of the path. */
const NAME = '/:name{.+}'

export const modelRoutes = new Hono<AdminEnv>()
  .get('/', async (c) => {
    const { limit, cursor } = readQuery(c, PageQuery)
    const rows = await query(connect(c.env), (db) =>
      db
        .select()
        .from(models)
        .where(and(after(cursor, models.name)))
        .orderBy(asc(models.name))
        .limit(limit + 1),
    )
    return c.json(pageOf(rows, limit, (row) => [row.name], modelView))
  })
  .get(NAME, async (c) => c.json(modelView(await requireModel(connect(c.env), nameParam(c)))))
  .put(NAME, async (c) => {
    const name = nameParam(c)
    const { targets } = await readInput(c, ModelInput)
    const database = connect(c.env)
    await requireProviders(database, targets)
    const now = new Date().toISOString()
    const row: ModelRow = { name, targets: JSON.stringify(targets), createdAt: now, updatedAt: now }
    const put = builder
      .insert(models)
      .values(row)
      .onConflictDoUpdate({
        target: models.name,
        set: { targets: sql`excluded.targets`, updatedAt: sql`excluded.updated_at` },
      })
    await database.batch([toStatement(put), audited(c, { action: 'model.put', objectId: name, details: { targets } })])
    forgetCatalog()
    return c.json(modelView(await requireModel(database, name)))
  })
  .delete(NAME, async (c) => {
    const name = nameParam(c)
    const database = connect(c.env)
    const row = await requireModel(database, name)
    await database.batch([
      toStatement(builder.delete(models).where(eq(models.name, name))),
      audited(c, { action: 'model.delete', objectId: name, details: { targets: modelView(row).targets } }),
    ])
    forgetCatalog()
    return c.json({ deleted: true })
  })

async function requireModel(database: Database, name: string): Promise<ModelRow> {
  const [row] = await query(database, (db) => db.select().from(models).where(eq(models.name, name)))
  if (row === undefined) throw notFound('model')
  return row
}

/** A target whose provider is not there would fail every request that reaches it. */
async function requireProviders(database: Database, targets: StoredTargets): Promise<void> {
  const names = targets.map(({ provider }) => provider)
  const rows = await query(database, (db) =>
    db.select({ name: providers.name }).from(providers).where(inArray(providers.name, names)),
  )
  const known = new Set([FLEET, ...rows.map(({ name }) => name)])
  for (const [index, name] of names.entries()) {
    if (!known.has(name)) throw invalid(`targets[${index}].provider`, 'is neither "fleet" nor a registered provider')
  }
}

function nameParam(c: AdminContext): string {
  const parsed = ModelName.safeParse(c.req.param('name'))
  if (!parsed.success) throw invalid('name', parsed.error.issues[0]?.message ?? 'is not a model name')
  return parsed.data
}

function modelView(row: ModelRow) {
  return {
    name: row.name,
    targets: parseStored(row.targets, StoredTargets, 'models.targets'),
    created_at: row.createdAt,
    updated_at: row.updatedAt,
  }
}
