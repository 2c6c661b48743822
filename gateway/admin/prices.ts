// The price book in the admin API: versions are added, never changed or removed. Owns their HTTP form, with money as
// decimal dollar strings per million units; which version is in force is policy/price-book.ts.
import { and, asc, desc, eq, inArray } from 'drizzle-orm'
import { Hono } from 'hono'
import { z } from 'zod'
import { formatUsd, type NanoUsdPerMillion } from '../../protocol/units.ts'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import { type Database, QueryFailed, UNIQUE_VIOLATION } from '../db/port.ts'
import { priceParts, priceVersions } from '../db/schema/catalog.ts'
import { PRICE_MAX } from '../meter/price.ts'
import { forgetCatalog } from '../policy/catalog.ts'
import { findPrices, PART_NAMES, type PartName, priceInForce, priceKey } from '../policy/price-book.ts'
import { ModelName, ProviderName } from '../policy/targets.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, invalid } from './context.ts'
import { Instant, readInput, readQuery, Usd } from './input.ts'
import { olderThan, pageOf, pageParameters } from './paging.ts'

/** For clocks that differ a little. Further back, usage was already priced: history is never priced again. */
const BACKDATE_MAX_MS = 60_000

const price = Usd(PRICE_MAX).optional()
const NewPrice = z.strictObject({
  /** `fleet`, or a provider's name. It need not be registered yet. */
  provider: ProviderName,
  /** The model's name there, as in a model's targets. */
  model: ModelName,
  /** Default: now. */
  effective_from: Instant.optional(),
  /** Dollars per million units. A part left out has an unknown price; "0" is free. */
  usd_per_million: z
    .strictObject({
      input_uncached: price,
      input_cache_read: price,
      input_cache_write_5m: price,
      input_cache_write_1h: price,
      output_text: price,
      output_reasoning: price,
    } satisfies Record<PartName, typeof price>)
    .refine((parts) => Object.values(parts).some((part) => part !== undefined), 'must price at least one part'),
})
type NewPrice = z.infer<typeof NewPrice>

const PriceQuery = z.strictObject({
  ...pageParameters,
  provider: z.string().max(200).optional(),
  model: z.string().max(200).optional(),
})

type VersionRow = typeof priceVersions.$inferSelect
type Parts = Map<PartName, NanoUsdPerMillion>

export const priceRoutes = new Hono<AdminEnv>()
  .post('/', async (c) => {
    const input = await readInput(c, NewPrice)
    const database = connect(c.env)
    const parts = partsOf(input)
    const existing = await findSame(database, input, parts, Date.now())
    if (existing !== undefined) return c.json(versionView(existing, parts))
    const made = await add(c, database, input, parts)
    return c.json(versionView(made.version, parts), made.status)
  })
  .get('/', async (c) => {
    const { limit, cursor, provider, model } = readQuery(c, PriceQuery)
    const database = connect(c.env)
    const wanted = and(
      provider === undefined ? undefined : eq(priceVersions.provider, provider),
      model === undefined ? undefined : eq(priceVersions.model, model),
      olderThan(cursor, priceVersions.createdAt, priceVersions.priceVersionId),
    )
    const versions = await query(database, (db) =>
      db
        .select()
        .from(priceVersions)
        .where(wanted)
        .orderBy(desc(priceVersions.createdAt), desc(priceVersions.priceVersionId))
        .limit(limit + 1),
    )
    const parts = await findParts(
      database,
      versions.map(({ priceVersionId }) => priceVersionId),
    )
    const show = (row: VersionRow) => versionView(row, parts.get(row.priceVersionId) ?? new Map())
    return c.json(pageOf(versions, limit, (row) => [row.createdAt, row.priceVersionId], show))
  })

/**
 * The version that makes a new one needless: the one that begins at the very instant asked for, or, where no instant
 * is asked for, the one in force if it has the same prices. So repeating a call adds nothing.
 * @throws Refusal where the instant is taken by other prices.
 */
async function findSame(
  database: Database,
  input: NewPrice,
  parts: Parts,
  nowMs: number,
): Promise<VersionRow | undefined> {
  if (input.effective_from === undefined) {
    const book = await findPrices(database, [input], nowMs, 0)
    const current = priceInForce(book.get(priceKey(input)) ?? [], nowMs)
    if (current === undefined) return undefined
    const [row] = await query(database, (db) =>
      db.select().from(priceVersions).where(eq(priceVersions.priceVersionId, current.priceVersionId)),
    )
    return row !== undefined && (await hasParts(database, row, parts)) ? row : undefined
  }
  const atInstant = and(
    eq(priceVersions.provider, input.provider),
    eq(priceVersions.model, input.model),
    eq(priceVersions.effectiveFrom, input.effective_from),
  )
  const [row] = await query(database, (db) => db.select().from(priceVersions).where(atInstant))
  if (row === undefined) return undefined
  if (await hasParts(database, row, parts)) return row
  throw invalid('effective_from', 'already has other prices; choose a later instant')
}

async function add(
  c: AdminContext,
  database: Database,
  input: NewPrice,
  parts: Parts,
): Promise<{ version: VersionRow; status: 200 | 201 }> {
  const nowMs = Date.now()
  const now = new Date(nowMs).toISOString()
  if (input.effective_from !== undefined && Date.parse(input.effective_from) < nowMs - BACKDATE_MAX_MS) {
    throw invalid('effective_from', 'lies in the past; usage is never priced again')
  }
  const version: VersionRow = {
    priceVersionId: crypto.randomUUID(),
    provider: input.provider,
    model: input.model,
    effectiveFrom: input.effective_from ?? now,
    createdAt: now,
  }
  const { priceVersionId } = version
  const rows = [...parts].map(([part, nanoUsdPerMillion]) => ({ priceVersionId, part, nanoUsdPerMillion }))
  try {
    await database.batch([
      toStatement(builder.insert(priceVersions).values(version)),
      toStatement(builder.insert(priceParts).values(rows)),
      audited(c, { action: 'price.add', objectId: priceVersionId, details: versionView(version, parts) }),
    ])
  } catch (error) {
    if (!(error instanceof QueryFailed) || error.sqlState !== UNIQUE_VIOLATION) throw error
    // Another call took the same instant first; with the same prices it did our work.
    const winner = await findSame(database, { ...input, effective_from: version.effectiveFrom }, parts, nowMs)
    if (winner === undefined) throw error
    return { version: winner, status: 200 }
  } finally {
    forgetCatalog()
  }
  return { version, status: 201 }
}

function partsOf(input: NewPrice): Parts {
  const parts: Parts = new Map()
  for (const name of Object.values(PART_NAMES)) {
    const amount = input.usd_per_million[name]
    if (amount !== undefined) parts.set(name, amount)
  }
  return parts
}

async function findParts(database: Database, ids: string[]): Promise<Map<string, Parts>> {
  const byVersion = new Map<string, Parts>()
  if (ids.length === 0) return byVersion
  const rows = await query(database, (db) =>
    db.select().from(priceParts).where(inArray(priceParts.priceVersionId, ids)).orderBy(asc(priceParts.part)),
  )
  for (const { priceVersionId, part, nanoUsdPerMillion } of rows) {
    const parts = byVersion.get(priceVersionId) ?? new Map()
    byVersion.set(priceVersionId, parts.set(part, nanoUsdPerMillion))
  }
  return byVersion
}

async function hasParts(database: Database, version: VersionRow, parts: Parts): Promise<boolean> {
  const found = (await findParts(database, [version.priceVersionId])).get(version.priceVersionId) ?? new Map()
  return found.size === parts.size && [...parts].every(([part, amount]) => found.get(part) === amount)
}

function versionView(version: VersionRow, parts: Parts) {
  return {
    id: version.priceVersionId,
    provider: version.provider,
    model: version.model,
    effective_from: version.effectiveFrom,
    created_at: version.createdAt,
    usd_per_million: Object.fromEntries([...parts].map(([part, amount]) => [part, formatUsd(amount)])),
  }
}
