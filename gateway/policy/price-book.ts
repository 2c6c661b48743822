// Prices by target and time. Owns the names of usage parts in the book, the question for the versions that matter now,
// and which version is in force; what usage costs is meter/price.ts.
import { and, asc, eq, lte, or, sql } from 'drizzle-orm'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { priceParts, priceVersions } from '../db/schema/catalog.ts'
import type { PriceQuote } from '../meter/price.ts'
import type { UsagePart } from '../meter/usage.ts'

export type PartName = (typeof priceParts.$inferSelect)['part']

/** Usage parts under their names in the book and in the admin API. */
export const PART_NAMES = {
  inputUncached: 'input_uncached',
  inputCacheRead: 'input_cache_read',
  inputCacheWrite5m: 'input_cache_write_5m',
  inputCacheWrite1h: 'input_cache_write_1h',
  outputText: 'output_text',
  outputReasoning: 'output_reasoning',
} as const satisfies Record<UsagePart, PartName>

const PART_OF_NAME = new Map<PartName, UsagePart>(
  Object.entries(PART_NAMES).map(([part, name]) => [name, part as UsagePart]),
)

/** All prices of one target that hold from one instant on, until the next version's. */
export type PriceVersion = { effectiveFromMs: number; quote: PriceQuote }

export type PricedTarget = { provider: string; model: string }

/**
 * Per target (`priceKey`): the version in force at `nowMs` and the later ones that begin within `horizonMs`, oldest
 * first. Targets without a price are absent.
 */
export async function findPrices(
  database: Database,
  targets: PricedTarget[],
  nowMs: number,
  horizonMs: number,
): Promise<Map<string, PriceVersion[]>> {
  const book = new Map<string, PriceVersion[]>()
  if (targets.length === 0) return book
  const now = new Date(nowMs).toISOString()
  const until = new Date(nowMs + horizonMs).toISOString()
  const newest = sql`(select max(older.effective_from) from ${priceVersions} as older
    where older.provider = ${priceVersions.provider} and older.model = ${priceVersions.model}
      and older.effective_from <= ${now})`
  const rows = await query(database, (db) =>
    db
      .select({ version: priceVersions, part: priceParts.part, price: priceParts.nanoUsdPerMillion })
      .from(priceVersions)
      .innerJoin(priceParts, eq(priceParts.priceVersionId, priceVersions.priceVersionId))
      .where(
        and(
          or(...targets.map((t) => and(eq(priceVersions.provider, t.provider), eq(priceVersions.model, t.model)))),
          lte(priceVersions.effectiveFrom, until),
          or(sql`${priceVersions.effectiveFrom} > ${now}`, sql`${priceVersions.effectiveFrom} = ${newest}`),
        ),
      )
      .orderBy(asc(priceVersions.effectiveFrom), asc(priceVersions.priceVersionId)),
  )
  for (const { version, part, price } of rows) {
    const key = priceKey(version)
    const versions = book.get(key) ?? []
    book.set(key, versions)
    let last = versions.at(-1)
    if (last?.quote.priceVersionId !== version.priceVersionId) {
      const quote = { priceVersionId: version.priceVersionId, perMillion: {} }
      last = { effectiveFromMs: Date.parse(version.effectiveFrom), quote }
      versions.push(last)
    }
    const usagePart = PART_OF_NAME.get(part)
    if (usagePart !== undefined) last.quote.perMillion[usagePart] = price
  }
  return book
}

/** Key of a target in the map of `findPrices`. Names hold no line break. */
export function priceKey(target: PricedTarget): string {
  return `${target.provider}\n${target.model}`
}

/** Pure. The newest version that has begun; `versions` oldest first. */
export function priceInForce(versions: readonly PriceVersion[], nowMs: number): PriceQuote | undefined {
  return versions.findLast((version) => version.effectiveFromMs <= nowMs)?.quote
}
