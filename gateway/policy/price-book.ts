// Prices by target and time. Owns the question for the versions that matter now, and which version is in force; what usage
// costs is meter/price.ts, what an organisation pays of the list is markup.ts.
import { and, asc, eq, inArray, lte, or, sql } from 'drizzle-orm'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { priceParts, priceTierParts, priceVersions } from '../db/schema/catalog.ts'
import type { ContextTier, PriceQuote, PriceTable } from '../meter/price.ts'
import { PART_NAMES, type PartName, USAGE_PARTS, type UsagePart } from '../meter/usage.ts'
import { STANDARD_TIER } from './targets.ts'

const PART_OF_NAME = new Map<PartName, UsagePart>(USAGE_PARTS.map((part) => [PART_NAMES[part], part]))

/** All prices of one target that hold from one instant on, until they end or the next version begins. */
export type PriceVersion = {
  effectiveFromMs: number
  /** Exclusive; absent: until the next version. */
  effectiveToMs?: number
  quote: PriceQuote
}

/** `serviceTier` absent: the standard one. */
export type PricedTarget = { provider: string; model: string; serviceTier?: string | undefined }

/** Targets per statement: three parameters each. */
const TARGETS_PER_QUERY = 100
/** Versions per statement, which are few per target. */
const VERSIONS_PER_QUERY = 500

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
  for (const some of chunksOf(targets, TARGETS_PER_QUERY)) {
    const versions = await readVersions(database, some, nowMs, horizonMs)
    const quotes = await readQuotes(
      database,
      versions.map(({ priceVersionId }) => priceVersionId),
    )
    for (const version of versions) {
      const key = priceKey(version)
      const known = book.get(key) ?? []
      book.set(key, known)
      const quote = quotes.get(version.priceVersionId)
      if (quote === undefined) continue
      known.push({
        effectiveFromMs: Date.parse(version.effectiveFrom),
        ...(version.effectiveTo === null ? {} : { effectiveToMs: Date.parse(version.effectiveTo) }),
        quote,
      })
    }
  }
  return book
}

async function readVersions(database: Database, targets: PricedTarget[], nowMs: number, horizonMs: number) {
  const now = new Date(nowMs).toISOString()
  const until = new Date(nowMs + horizonMs).toISOString()
  const newest = sql`(select max(older.effective_from) from ${priceVersions} as older
    where older.provider = ${priceVersions.provider} and older.model = ${priceVersions.model}
      and older.service_tier = ${priceVersions.serviceTier} and older.effective_from <= ${now})`
  const isTarget = ({ provider, model, serviceTier = STANDARD_TIER }: PricedTarget) =>
    and(
      eq(priceVersions.provider, provider),
      eq(priceVersions.model, model),
      eq(priceVersions.serviceTier, serviceTier),
    )
  return query(database, (db) =>
    db
      .select()
      .from(priceVersions)
      .where(
        and(
          or(...targets.map(isTarget)),
          lte(priceVersions.effectiveFrom, until),
          or(sql`${priceVersions.effectiveFrom} > ${now}`, sql`${priceVersions.effectiveFrom} = ${newest}`),
        ),
      )
      .orderBy(asc(priceVersions.effectiveFrom), asc(priceVersions.priceVersionId)),
  )
}

/** The prices of versions by their ids; a version without any part is absent. */
export async function readQuotes(database: Database, ids: string[]): Promise<Map<string, PriceQuote>> {
  const quotes = new Map<string, PriceQuote>()
  for (const some of chunksOf(ids, VERSIONS_PER_QUERY)) {
    const parts = await query(database, (db) =>
      db.select().from(priceParts).where(inArray(priceParts.priceVersionId, some)),
    )
    for (const { priceVersionId, part, nanoUsdPerMillion } of parts) {
      const quote = quotes.get(priceVersionId) ?? { priceVersionId, perMillion: {} }
      quotes.set(priceVersionId, quote)
      setPart(quote.perMillion, part, nanoUsdPerMillion)
    }
    const tierParts = await query(database, (db) =>
      db
        .select()
        .from(priceTierParts)
        .where(inArray(priceTierParts.priceVersionId, some))
        .orderBy(asc(priceTierParts.aboveInputTokens)),
    )
    for (const { priceVersionId, aboveInputTokens, part, nanoUsdPerMillion } of tierParts) {
      const quote = quotes.get(priceVersionId)
      if (quote === undefined) continue
      quote.contextTiers ??= []
      const tier = tierOf(quote.contextTiers, aboveInputTokens)
      setPart(tier.perMillion, part, nanoUsdPerMillion)
    }
  }
  return quotes
}

function tierOf(tiers: ContextTier[], aboveInputTokens: number): ContextTier {
  const last = tiers.at(-1)
  if (last?.aboveInputTokens === aboveInputTokens) return last
  const tier: ContextTier = { aboveInputTokens, perMillion: {} }
  tiers.push(tier)
  return tier
}

function setPart(table: PriceTable, name: PartName, price: bigint): void {
  const part = PART_OF_NAME.get(name)
  if (part !== undefined) table[part] = price
}

/** Key of a target in the map of `findPrices`. Names hold no line break. */
export function priceKey({ provider, model, serviceTier = STANDARD_TIER }: PricedTarget): string {
  return `${provider}\n${model}\n${serviceTier}`
}

/** Pure. The newest version that has begun, unless it has ended; `versions` oldest first. */
export function priceInForce(versions: readonly PriceVersion[], nowMs: number): PriceQuote | undefined {
  const newest = versions.findLast((version) => version.effectiveFromMs <= nowMs)
  return newest?.effectiveToMs !== undefined && newest.effectiveToMs <= nowMs ? undefined : newest?.quote
}

function chunksOf<T>(items: readonly T[], size: number): T[][] {
  const chunks: T[][] = []
  for (let at = 0; at < items.length; at += size) chunks.push(items.slice(at, at + size))
  return chunks
}
