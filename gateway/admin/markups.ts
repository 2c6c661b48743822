// Mark-up rules in the admin API: what an organisation pays of the list price. Rules are added, never changed or removed;
// one without basis points ends the rule of its kind. Owns their HTTP form; which rule wins is policy/markup.ts.
import { and, desc, eq } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import { type Database, QueryFailed, UNIQUE_VIOLATION } from '../db/port.ts'
import { priceMarkups } from '../db/schema/catalog.ts'
import { BASIS_POINTS_MAX } from '../meter/price.ts'
import { forgetCatalog } from '../policy/catalog.ts'
import { ANY, findMarkups, MARKUP_KINDS_MAX, type Markup } from '../policy/markup.ts'
import { ModelName, ProviderName } from '../policy/targets.ts'
import { audited } from './audit.ts'
import { type AdminEnv, conflict, invalid } from './context.ts'
import { Instant, idParam, readInput } from './input.ts'
import { listOfOrganisation } from './organisation-list.ts'
import { requireOrganisation } from './organisations.ts'
import { olderThan } from './paging.ts'

/** For clocks that differ a little. Further back, usage was already priced. */
const BACKDATE_MAX_MS = 60_000

const MarkupInput = z.strictObject({
  /** A provider's name, or `*`. */
  provider: z.union([z.literal(ANY), ProviderName]).default(ANY),
  /** A target's own model name, or `*`. */
  model: z.union([z.literal(ANY), ModelName]).default(ANY),
  /** Of the list price: 10000 is the list price, 11000 ten per cent more. null ends the rule of this kind. */
  basis_points: z.int().min(0).max(BASIS_POINTS_MAX).nullable(),
  /** Default: now. */
  effective_from: Instant.optional(),
})

type MarkupRow = typeof priceMarkups.$inferSelect

export const markupRoutes = new Hono<AdminEnv>()
  .post('/:org/markups', async (c) => {
    const orgId = idParam(c, 'org', 'organisation')
    const input = await readInput(c, MarkupInput)
    const database = connect(c.env)
    await requireOrganisation(database, orgId)
    const nowMs = Date.now()
    const from = input.effective_from ?? new Date(nowMs).toISOString()
    if (Date.parse(from) < nowMs - BACKDATE_MAX_MS) {
      throw invalid('effective_from', 'lies in the past; usage is never priced again')
    }
    const markups = await findMarkups(database, orgId, Date.parse(from), 0)
    const current = markups.findLast((one) => one.provider === input.provider && one.model === input.model)
    const basisPoints = input.basis_points ?? undefined
    if (current === undefined && basisPoints === undefined) {
      throw invalid('basis_points', 'there is no rule of this kind to end')
    }
    if (current !== undefined && current.basisPoints === basisPoints) {
      return c.json(markupView(await findMarkup(database, orgId, current)), 200)
    }
    if (current === undefined && markups.length >= MARKUP_KINDS_MAX) {
      throw conflict(`The organisation has ${MARKUP_KINDS_MAX} kinds of mark-up rules already.`)
    }
    const row: MarkupRow = {
      orgId,
      markupId: crypto.randomUUID(),
      provider: input.provider,
      model: input.model,
      basisPoints: input.basis_points,
      effectiveFrom: from,
      createdAt: new Date(nowMs).toISOString(),
    }
    try {
      await database.batch([
        toStatement(builder.insert(priceMarkups).values(row)),
        audited(c, { action: 'markup.add', orgId, objectId: row.markupId, details: markupView(row) }),
      ])
    } catch (error) {
      if (!(error instanceof QueryFailed) || error.sqlState !== UNIQUE_VIOLATION) throw error
      throw invalid('effective_from', 'already has another rule of this kind; choose a later instant')
    } finally {
      forgetCatalog()
    }
    return c.json(markupView(row), 201)
  })
  .get('/:org/markups', (c) =>
    listOfOrganisation(c, {
      rows: (database, orgId, { limit, cursor }) =>
        query(database, (db) =>
          db
            .select()
            .from(priceMarkups)
            .where(and(eq(priceMarkups.orgId, orgId), olderThan(cursor, priceMarkups.createdAt, priceMarkups.markupId)))
            .orderBy(desc(priceMarkups.createdAt), desc(priceMarkups.markupId))
            .limit(limit + 1),
        ),
      position: (row) => [row.createdAt, row.markupId],
      show: markupView,
    }),
  )

async function findMarkup(database: Database, orgId: string, markup: Markup): Promise<MarkupRow> {
  const isMarkup = and(
    eq(priceMarkups.orgId, orgId),
    eq(priceMarkups.provider, markup.provider),
    eq(priceMarkups.model, markup.model),
    eq(priceMarkups.effectiveFrom, new Date(markup.effectiveFromMs).toISOString()),
  )
  const [row] = await query(database, (db) => db.select().from(priceMarkups).where(isMarkup))
  if (row === undefined) throw new Error(`a mark-up of organisation ${orgId} was read and is gone`)
  return row
}

function markupView(row: MarkupRow) {
  return {
    id: row.markupId,
    org_id: row.orgId,
    provider: row.provider,
    model: row.model,
    basis_points: row.basisPoints,
    effective_from: row.effectiveFrom,
    created_at: row.createdAt,
  }
}
