// Prices and what usage costs. Owns the one place where tokens become money and where rounding happens. Pure.
import type { NanoUsd, NanoUsdPerMillion } from '../../protocol/units.ts'
import { inputTokens, type Side, sideOf, USAGE_PARTS, type Usage, type UsagePart } from './usage.ts'

/** Unit prices in force for one target at one time; kept with the usage row, so history is never re-priced. */
export type PriceQuote = {
  priceVersionId: string
  /** List prices of the provider. */
  perMillion: PriceTable
  /**
   * Prices of long prompts, by rising bound: an attempt whose input tokens pass a bound is priced as a whole by that tier.
   * A part that a tier does not name keeps the price of the tier below.
   */
  contextTiers?: ContextTier[] | undefined
  /** What the organisation pays of the list price, in hundredths of a per cent; absent: LIST_BASIS_POINTS. */
  basisPoints?: number | undefined
}

export type ContextTier = { aboveInputTokens: number; perMillion: PriceTable }

/** Nano-USD per million units, by usage part. A missing part is an unknown price, an explicit 0 is free. */
export type PriceTable = Partial<Record<UsagePart, NanoUsdPerMillion>>

/** The list price itself. */
export const LIST_BASIS_POINTS = 10_000
/** A hundred times the list price: above it a rule is a mistaken unit. */
export const BASIS_POINTS_MAX = 1_000_000

const MILLION = 1_000_000n

/**
 * One dollar a unit, after the mark-up too. Above it a price is a mistaken unit; with `USAGE_PART_MAX` every cost fits 64
 * bits.
 */
export const PRICE_MAX: NanoUsdPerMillion = 1_000_000_000_000_000n
/** The market has one or two bounds per model. */
export const CONTEXT_TIERS_MAX = 8

/** Whether every cost that this quote can lead to is one that money columns can carry. */
export function isQuote(quote: PriceQuote): boolean {
  const basisPoints = quote.basisPoints ?? LIST_BASIS_POINTS
  if (!Number.isInteger(basisPoints) || basisPoints < 0 || basisPoints > BASIS_POINTS_MAX) return false
  const tiers = quote.contextTiers ?? []
  if (tiers.length > CONTEXT_TIERS_MAX) return false
  let below = 0
  for (const { aboveInputTokens } of tiers) {
    if (!Number.isSafeInteger(aboveInputTokens) || aboveInputTokens <= below) return false
    below = aboveInputTokens
  }
  return [quote.perMillion, ...tiers.map((tier) => tier.perMillion)].every((table) => isTable(table, basisPoints))
}

function isTable(table: PriceTable, basisPoints: number): boolean {
  return USAGE_PARTS.every((part) => {
    const price = table[part]
    if (price === undefined) return true
    return price >= 0n && price <= PRICE_MAX && price * BigInt(basisPoints) <= PRICE_MAX * BigInt(LIST_BASIS_POINTS)
  })
}

/**
 * Cost of an attempt to the organisation: multiplied and summed exactly, mark-up included, divided once, rounded half up
 * (never part by part). `undefined` where a part that was used has no price.
 */
export function cost(usage: Usage, quote: PriceQuote): NanoUsd | undefined {
  const table = tableFor(inputTokens(usage), quote)
  return sum(usage, (part) => table[part], quote.basisPoints)
}

/**
 * How a charge came about: `priced` = every used part had its own price; `part_missing` = a used part had none and was
 * priced at the dearest price of its side, or its side has no price at all and only the other sides were charged;
 * `price_missing` = nothing to go by, charged 0.
 */
export type Pricing = 'priced' | 'part_missing' | 'price_missing'

/**
 * What an attempt is charged. A used part without a price of its own costs the dearest known price of its side: never
 * nothing, and never more than `worstCaseCost` set aside. A side that was used and has no price adds 0, which admission
 * allows under no money limit.
 */
export function charge(usage: Usage, quote: PriceQuote | undefined): { costNanoUsd: NanoUsd; pricing: Pricing } {
  if (quote === undefined) return { costNanoUsd: 0n, pricing: 'price_missing' }
  const own = cost(usage, quote)
  if (own !== undefined) return { costNanoUsd: own, pricing: 'priced' }
  const filled = filledTable(usage, quote)
  const isUnknown = USAGE_PARTS.every((part) => usage[part] === 0 || filled[part] === undefined)
  if (isUnknown) return { costNanoUsd: 0n, pricing: 'price_missing' }
  const costNanoUsd = sum(usage, (part) => filled[part] ?? 0n, quote.basisPoints) ?? 0n
  return { costNanoUsd, pricing: 'part_missing' }
}

/**
 * The same without the organisation's mark-up: what the provider charges by its list, where it does not say itself.
 * `undefined` where no price is known.
 */
export function listCost(usage: Usage, quote: PriceQuote | undefined): NanoUsd | undefined {
  if (quote === undefined) return undefined
  const { costNanoUsd, pricing } = charge(usage, { ...quote, basisPoints: LIST_BASIS_POINTS })
  return pricing === 'price_missing' ? undefined : costNanoUsd
}

/**
 * What input that was read from a cache would have cost more as uncached input, mark-up included: the whole attempt priced both
 * ways, so that tiers and rounding are those of the charge. Below zero where a cache costs more. Nothing where either has no price.
 */
export function cacheSavings(usage: Usage, quote: PriceQuote | undefined): NanoUsd {
  if (quote === undefined || usage.inputCacheRead === 0) return 0n
  const table = tableFor(inputTokens(usage), quote)
  if (table.inputCacheRead === undefined || table.inputUncached === undefined) return 0n
  const uncached: Usage = {
    ...usage,
    inputUncached: usage.inputUncached + usage.inputCacheRead,
    inputCacheRead: 0,
  }
  return charge(uncached, quote).costNanoUsd - charge(usage, quote).costNanoUsd
}

/**
 * The most an attempt can cost: in each tier that the estimate can reach, every unit at the dearest price of its side;
 * of these sums the largest, rounded up. `undefined` where a side that can be used has no price at all.
 */
export function worstCaseCost(
  estimate: { inputTokens: number; outputTokens: number; calls: number },
  quote: PriceQuote,
): NanoUsd | undefined {
  const units: [Side, number][] = [
    ['input', estimate.inputTokens],
    ['output', estimate.outputTokens],
    ['call', estimate.calls],
  ]
  let most = 0n
  // A prompt shorter than estimated lands in a lower tier, whose prices may be higher.
  for (const table of tablesUpTo(estimate.inputTokens, quote)) {
    let millionfold = 0n
    for (const [side, count] of units) {
      if (count === 0) continue
      const price = dearest(table, side)
      // A model of embeddings has no output and no price for it: only what can be used needs one.
      if (price === undefined) return undefined
      millionfold += BigInt(count) * price
    }
    if (millionfold > most) most = millionfold
  }
  const divisor = MILLION * BigInt(LIST_BASIS_POINTS)
  return (most * basisPointsOf(quote.basisPoints) + divisor - 1n) / divisor
}

function sum(
  usage: Usage,
  priceOf: (part: UsagePart) => NanoUsdPerMillion | undefined,
  basisPoints: number | undefined,
): NanoUsd | undefined {
  let millionfold = 0n
  for (const part of USAGE_PARTS) {
    const units = usage[part]
    if (units === 0) continue
    const price = priceOf(part)
    if (price === undefined) return undefined
    millionfold += BigInt(units) * price
  }
  const divisor = MILLION * BigInt(LIST_BASIS_POINTS)
  return (millionfold * basisPointsOf(basisPoints) + divisor / 2n) / divisor
}

const basisPointsOf = (basisPoints: number | undefined): bigint => BigInt(basisPoints ?? LIST_BASIS_POINTS)

/** The tables that hold for up to so many input tokens, each with what it takes over from those below; at least one. */
function tablesUpTo(tokens: number, quote: PriceQuote): PriceTable[] {
  const tables = [quote.perMillion]
  let table = quote.perMillion
  for (const tier of quote.contextTiers ?? []) {
    if (tokens <= tier.aboveInputTokens) break
    table = { ...table, ...tier.perMillion }
    tables.push(table)
  }
  return tables
}

const tableFor = (tokens: number, quote: PriceQuote): PriceTable => tablesUpTo(tokens, quote).at(-1) ?? quote.perMillion

/** The table of an attempt with each missing part at the dearest price of its side. */
function filledTable(usage: Usage, quote: PriceQuote): PriceTable {
  const table = tableFor(inputTokens(usage), quote)
  const filled: PriceTable = {}
  for (const part of USAGE_PARTS) {
    const price = table[part] ?? dearest(table, sideOf(part))
    if (price !== undefined) filled[part] = price
  }
  return filled
}

function dearest(table: PriceTable, side: Side): NanoUsdPerMillion | undefined {
  let most: NanoUsdPerMillion | undefined
  for (const part of USAGE_PARTS) {
    const price = sideOf(part) === side ? table[part] : undefined
    if (price !== undefined && (most === undefined || price > most)) most = price
  }
  return most
}
