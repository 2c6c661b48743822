// New versions of prices. Owns which may be added (none in the past, none that overlaps another unless that is meant, none
// that says what is said already) and the rows they become. The HTTP form is price-form.ts.
import { builder, toStatement } from '../db/orm.ts'
import type { Database, Statement } from '../db/port.ts'
import { priceParts, priceTierParts, priceVersions } from '../db/schema/catalog.ts'
import { PART_NAMES, USAGE_PARTS } from '../meter/usage.ts'
import { findPrices, type PriceVersion, priceInForce, priceKey } from '../policy/price-book.ts'
import { invalid } from './context.ts'
import { type Prices, pricesView, samePrices } from './price-form.ts'

/** For clocks that differ a little. Further back, usage was already priced: history is never priced again. */
const BACKDATE_MAX_MS = 60_000
/** Versions are planned some months ahead; this is beyond any plan. */
const HORIZON_MS = 100 * 365 * 24 * 3_600_000
/** Rows per statement: some four thousand parameters at most. */
const ROWS_PER_INSERT = 400

export type VersionRow = typeof priceVersions.$inferSelect

/** What is asked for. Instants are ISO strings in UTC. */
export type Wanted = {
  provider: string
  model: string
  serviceTier: string
  effectiveFrom?: string | undefined
  effectiveTo?: string | undefined
  prices: Prices
  source?: string | undefined
  sourceDate?: string | undefined
  /** A version that was to hold longer may be cut short. */
  supersede: boolean
}

/** `before` is what holds at the instant at which the new one begins. */
export type NewVersion = { kind: 'new'; row: VersionRow; prices: Prices; before: PriceVersion | undefined }

/** `unchanged`: a version says this already. */
type Verdict = { kind: 'unchanged'; priceVersionId: string } | NewVersion

export type KnownVersions = Map<string, PriceVersion[]>

/** What has to be known to judge these: the versions in force, and all later ones. */
export function findKnown(database: Database, wanted: Wanted[], nowMs: number): Promise<KnownVersions> {
  return findPrices(database, wanted, nowMs - BACKDATE_MAX_MS, HORIZON_MS)
}

/**
 * Whether a version may be added, and as which row.
 * @param path Of the entry, before the names of its fields, e.g. `entries[3].`.
 * @throws Refusal
 */
export function judge(wanted: Wanted, known: KnownVersions, nowMs: number, path = ''): Verdict {
  const versions = known.get(priceKey(wanted)) ?? []
  const now = new Date(nowMs).toISOString()
  const from = wanted.effectiveFrom ?? now
  const fromMs = Date.parse(from)
  const toMs = wanted.effectiveTo === undefined ? undefined : Date.parse(wanted.effectiveTo)
  const holding = versions.findLast((version) => version.effectiveFromMs <= fromMs)
  if (toMs !== undefined && toMs <= fromMs) throw invalid(`${path}effective_to`, 'must be later than effective_from')
  if (holding !== undefined && holding.effectiveToMs === toMs && samePrices(holding.quote, wanted.prices)) {
    return { kind: 'unchanged', priceVersionId: holding.quote.priceVersionId }
  }
  if (holding?.effectiveFromMs === fromMs)
    throw invalid(`${path}effective_from`, 'already has other prices; choose a later instant')
  if (fromMs < nowMs - BACKDATE_MAX_MS) {
    throw invalid(`${path}effective_from`, 'lies in the past; usage is never priced again')
  }
  if (!wanted.supersede) requireRoom(versions, fromMs, toMs, path)
  const row: VersionRow = {
    priceVersionId: crypto.randomUUID(),
    provider: wanted.provider,
    model: wanted.model,
    serviceTier: wanted.serviceTier,
    effectiveFrom: from,
    effectiveTo: wanted.effectiveTo ?? null,
    source: wanted.source ?? null,
    sourceDate: wanted.sourceDate ?? null,
    createdAt: now,
  }
  const before = priceInForce(versions, fromMs) === undefined ? undefined : holding
  return { kind: 'new', row, prices: wanted.prices, before }
}

/** @throws Refusal where two versions would hold at one time, both by their own words. */
function requireRoom(versions: PriceVersion[], fromMs: number, toMs: number | undefined, path: string): void {
  const meant = 'or set "supersede" if that is meant'
  const before = versions.findLast((version) => version.effectiveFromMs <= fromMs)
  if (before?.effectiveToMs !== undefined && before.effectiveToMs > fromMs) {
    const end = new Date(before.effectiveToMs).toISOString()
    const other = before.quote.priceVersionId
    throw invalid(`${path}effective_from`, `overlaps version ${other}, which holds until ${end}; begin then, ${meant}`)
  }
  const after = versions.find((version) => version.effectiveFromMs > fromMs)
  if (after !== undefined && toMs !== undefined && toMs > after.effectiveFromMs) {
    const begin = new Date(after.effectiveFromMs).toISOString()
    const other = after.quote.priceVersionId
    throw invalid(`${path}effective_to`, `overlaps version ${other}, which begins at ${begin}; end then, ${meant}`)
  }
}

/** The rows of new versions, for one batch. */
export function versionStatements(added: { row: VersionRow; prices: Prices }[]): Statement[] {
  const parts: (typeof priceParts.$inferInsert)[] = []
  const tierParts: (typeof priceTierParts.$inferInsert)[] = []
  for (const { row, prices } of added) {
    const { priceVersionId } = row
    for (const part of USAGE_PARTS) {
      const name = PART_NAMES[part]
      const amount = prices.perMillion[part]
      if (amount !== undefined) parts.push({ priceVersionId, part: name, nanoUsdPerMillion: amount })
      for (const { aboveInputTokens, perMillion } of prices.contextTiers ?? []) {
        const inTier = perMillion[part]
        if (inTier === undefined) continue
        tierParts.push({ priceVersionId, aboveInputTokens, part: name, nanoUsdPerMillion: inTier })
      }
    }
  }
  return [
    ...inserts(
      added.map(({ row }) => row),
      (rows) => toStatement(builder.insert(priceVersions).values(rows)),
    ),
    ...inserts(parts, (rows) => toStatement(builder.insert(priceParts).values(rows))),
    ...inserts(tierParts, (rows) => toStatement(builder.insert(priceTierParts).values(rows))),
  ]
}

function inserts<T>(rows: T[], insert: (some: T[]) => Statement): Statement[] {
  const statements: Statement[] = []
  for (let at = 0; at < rows.length; at += ROWS_PER_INSERT)
    statements.push(insert(rows.slice(at, at + ROWS_PER_INSERT)))
  return statements
}

export function versionView(row: VersionRow, prices: Prices) {
  return {
    id: row.priceVersionId,
    provider: row.provider,
    model: row.model,
    service_tier: row.serviceTier,
    effective_from: row.effectiveFrom,
    ...(row.effectiveTo === null ? {} : { effective_to: row.effectiveTo }),
    created_at: row.createdAt,
    ...pricesView(prices),
    ...(row.source === null ? {} : { source: row.source }),
    ...(row.sourceDate === null ? {} : { source_date: row.sourceDate }),
  }
}
