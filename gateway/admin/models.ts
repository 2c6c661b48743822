// Model names in the admin API. Owns their HTTP form; how a request finds its target is policy/ and routing/.
import { and, asc, eq, inArray } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { models, providers } from '../db/schema/catalog.ts'
import { ModelPolicy, policyFault } from '../policy/model-policy.ts'
import { FLEET, ModelName, StoredTargets } from '../policy/targets.ts'
import { audited } from './audit.ts'
import { changeCatalog } from './catalog-change.ts'
import { deleteModels, type ModelRow, modelRow, normalModel, putModels } from './catalog-rows.ts'
import { type AdminContext, type AdminEnv, invalid, notFound } from './context.ts'
import { fieldPath, readInput, readQuery } from './input.ts'
import { after, PageQuery, pageOf } from './paging.ts'

const ModelInput = z.strictObject({
  /** In the order of the catalog. */
  targets: StoredTargets,
  /** How they are chosen among; absent: in their order, with the defaults of policy/model-policy.ts. */
  policy: ModelPolicy.exactOptional(),
})

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
    const model = await readInput(c, ModelInput)
    const fault = model.policy === undefined ? undefined : policyFault(model.policy, model.targets)
    if (fault !== undefined) throw invalid(fieldPath(fault.path), fault.message)
    const view = await changeCatalog(c, async (database) => {
      await requireProviders(database, model.targets)
      const row = modelRow(name, model, await modelByName(database, name), new Date().toISOString())
      return {
        statements: [
          ...putModels([row]),
          audited(c, { action: 'model.put', objectId: name, details: normalModel(row) }),
        ],
        answer: modelView(row),
      }
    })
    return c.json(view)
  })
  .delete(NAME, async (c) => {
    const name = nameParam(c)
    await changeCatalog(c, async (database) => {
      const details = normalModel(await requireModel(database, name))
      return {
        statements: [...deleteModels([name]), audited(c, { action: 'model.delete', objectId: name, details })],
        answer: undefined,
      }
    })
    return c.json({ deleted: true })
  })

async function requireModel(database: Database, name: string): Promise<ModelRow> {
  const row = await modelByName(database, name)
  if (row === undefined) throw notFound('model')
  return row
}

async function modelByName(database: Database, name: string): Promise<ModelRow | undefined> {
  const [row] = await query(database, (db) => db.select().from(models).where(eq(models.name, name)))
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
  return { name: row.name, ...normalModel(row), created_at: row.createdAt, updated_at: row.updatedAt }
}
