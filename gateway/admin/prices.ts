// The price book in the admin API: versions are added, never changed or removed. Owns the routes for one price at a time
// and for the prices of own machines; imports are price-import.ts, which version is in force is policy/price-book.ts.
import { and, desc, eq } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { formatUsd } from '../../protocol/units.ts'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import { type Database, QueryFailed, UNIQUE_VIOLATION } from '../db/port.ts'
import { priceVersions } from '../db/schema/catalog.ts'
import { type Machine, machinePrices } from '../meter/machine-price.ts'
import { PRICE_MAX } from '../meter/price.ts'
import { forgetCatalog } from '../policy/catalog.ts'
import { readQuotes } from '../policy/price-book.ts'
import { FLEET, ModelName, STANDARD_TIER } from '../policy/targets.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, invalid } from './context.ts'
import { readInput, readQuery, Usd } from './input.ts'
import { olderThan, pageOf, pageParameters } from './paging.ts'
import { PriceInput, pricesOf, pricesView } from './price-form.ts'
import { importPrices } from './price-import.ts'
import { findKnown, judge, type VersionRow, versionStatements, versionView, type Wanted } from './price-versions.ts'

const PriceQuery = z.strictObject({
  ...pageParameters,
  provider: z.string().max(200).optional(),
  model: z.string().max(200).optional(),
  service_tier: z.string().max(200).optional(),
})

/** Far above any machine, and small enough that a thousandth of a token is kept. */
const RATE_MAX = 1_000_000_000
const GPUS_MAX = 10_000
/** A hundred thousand dollars an hour for one GPU is a mistaken unit. */
const GPU_HOUR_MAX_NANO_USD = 100_000n * 1_000_000_000n

const rate = z.number().min(0.001).max(RATE_MAX)
const SelfHostedInput = z.strictObject({
  model: ModelName,
  gpu_hour_usd: Usd(GPU_HOUR_MAX_NANO_USD),
  gpus: z.int().min(1).max(GPUS_MAX),
  input_tokens_per_second: rate,
  output_tokens_per_second: rate,
  cached_input_tokens_per_second: rate.optional(),
  utilisation: z.number().min(0.01).max(1).default(1),
  dry_run: z.boolean().default(false),
})
type SelfHostedInput = z.infer<typeof SelfHostedInput>

export const priceRoutes = new Hono<AdminEnv>()
  .post('/', async (c) => {
    const input = await readInput(c, PriceInput)
    const { status, view } = await add(c, {
      provider: input.provider,
      model: input.model,
      serviceTier: input.service_tier,
      effectiveFrom: input.effective_from,
      effectiveTo: input.effective_to,
      prices: pricesOf(input),
      source: input.source,
      sourceDate: input.source_date,
      supersede: input.supersede,
    })
    return c.json(view, status)
  })
  .post('/import', importPrices)
  .post('/self-hosted', async (c) => {
    const input = await readInput(c, SelfHostedInput)
    const prices = { perMillion: machinePrices(machineOf(input)) }
    const source = sourceOf(input)
    for (const amount of Object.values(prices.perMillion)) {
      if (amount > PRICE_MAX) throw invalid('output_tokens_per_second', 'makes a token dearer than a dollar')
    }
    if (input.dry_run) return c.json({ provider: FLEET, model: input.model, ...pricesView(prices), source })
    const sourceDate = new Date().toISOString().slice(0, 10)
    const wanted = { provider: FLEET, model: input.model, serviceTier: STANDARD_TIER, prices, source, sourceDate }
    const { status, view } = await add(c, { ...wanted, supersede: false })
    return c.json(view, status)
  })
  .get('/', async (c) => {
    const { limit, cursor, provider, model, service_tier: tier } = readQuery(c, PriceQuery)
    const database = connect(c.env)
    const wanted = and(
      provider === undefined ? undefined : eq(priceVersions.provider, provider),
      model === undefined ? undefined : eq(priceVersions.model, model),
      tier === undefined ? undefined : eq(priceVersions.serviceTier, tier),
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
    const quotes = await readQuotes(
      database,
      versions.map(({ priceVersionId }) => priceVersionId),
    )
    const show = (row: VersionRow) => versionView(row, quotes.get(row.priceVersionId) ?? { perMillion: {} })
    return c.json(pageOf(versions, limit, (row) => [row.createdAt, row.priceVersionId], show))
  })

type Added = { status: 200 | 201; view: ReturnType<typeof versionView> }

/**
 * Adds a version, or finds the one that says the same: repeating a call adds nothing.
 * @throws Refusal as in `judge`
 */
async function add(c: AdminContext, wanted: Wanted): Promise<Added> {
  const database = connect(c.env)
  const nowMs = Date.now()
  const verdict = judge(wanted, await findKnown(database, [wanted], nowMs), nowMs)
  if (verdict.kind === 'unchanged') return found(database, verdict.priceVersionId)
  const { row, prices } = verdict
  const view = versionView(row, prices)
  try {
    await database.batch([
      ...versionStatements([{ row, prices }]),
      audited(c, { action: 'price.add', objectId: row.priceVersionId, details: view }),
    ])
  } catch (error) {
    if (!(error instanceof QueryFailed) || error.sqlState !== UNIQUE_VIOLATION) throw error
    // Another call took the same instant first; with the same prices it did our work.
    const asked = { ...wanted, effectiveFrom: row.effectiveFrom }
    const again = judge(asked, await findKnown(database, [asked], nowMs), nowMs)
    if (again.kind === 'new') throw error
    return found(database, again.priceVersionId)
  } finally {
    forgetCatalog()
  }
  return { status: 201, view }
}

async function found(database: Database, priceVersionId: string): Promise<Added> {
  const [row] = await query(database, (db) =>
    db.select().from(priceVersions).where(eq(priceVersions.priceVersionId, priceVersionId)),
  )
  const quotes = await readQuotes(database, [priceVersionId])
  if (row === undefined) throw new Error(`price version ${priceVersionId} was read and is gone`)
  return { status: 200, view: versionView(row, quotes.get(priceVersionId) ?? { perMillion: {} }) }
}

const machineOf = (input: SelfHostedInput): Machine => ({
  gpuHourNanoUsd: input.gpu_hour_usd,
  gpus: input.gpus,
  inputTokensPerSecond: input.input_tokens_per_second,
  outputTokensPerSecond: input.output_tokens_per_second,
  cachedInputTokensPerSecond: input.cached_input_tokens_per_second,
  utilisation: input.utilisation,
})

/** How the price came about, to be checked by hand. */
function sourceOf(input: SelfHostedInput): string {
  const cost = `${formatUsd(input.gpu_hour_usd)} USD per GPU-hour x ${input.gpus} GPUs`
  const rates = `${input.input_tokens_per_second} input and ${input.output_tokens_per_second} output tokens per second`
  return `${cost}, ${rates}, utilisation ${input.utilisation}`
}
