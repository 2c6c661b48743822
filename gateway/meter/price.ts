// Prices and what usage costs. Owns the one place where tokens become money and where rounding happens.
import type { NanoUsd, NanoUsdPerMillion } from '../../protocol/units.ts'
import { USAGE_PARTS, type Usage, type UsagePart } from './usage.ts'

/** Unit prices in force for one target at one time; kept with the usage row, so history is never re-priced. */
export type PriceQuote = {
  priceVersionId: string
  /** Nano-USD per million units, by usage part. A missing part is an unknown price, an explicit 0 is free. */
  perMillion: Partial<Record<UsagePart, NanoUsdPerMillion>>
}

const MILLION = 1_000_000n

/** One dollar a token. Above it a price is a mistaken unit; with `USAGE_PART_MAX` every cost fits 64 bits. */
export const PRICE_MAX: NanoUsdPerMillion = 1_000_000_000_000_000n

type Side = 'input' | 'output'
const sideOf = (part: UsagePart): Side => (part.startsWith('input') ? 'input' : 'output')

/** Whether every known price lies in what money columns can carry. */
export function isQuote(quote: PriceQuote): boolean {
  return USAGE_PARTS.every((part) => {
    const price = quote.perMillion[part]
    return price === undefined || (price >= 0n && price <= PRICE_MAX)
  })
}

/**
 * Cost of an attempt: multiplied and summed exactly, divided once, rounded half up (never part by part).
 * `undefined` where a part that was used has no price.
 */
export function cost(usage: Usage, quote: PriceQuote): NanoUsd | undefined {
  return sum(usage, (part) => quote.perMillion[part])
}

/**
 * How a charge came about: `priced` = every used part had its own price; `part_missing` = a used part had none and was
 * priced at the dearest price of its side; `price_missing` = nothing to go by, charged 0.
 */
export type Pricing = 'priced' | 'part_missing' | 'price_missing'

/**
 * What an attempt is charged. A used part without a price of its own costs the dearest known price of its side: never
 * nothing, and never more than `worstCaseCost` set aside. Only where its whole side has no price the charge is 0, which
 * admission allows under no money limit.
 */
export function charge(usage: Usage, quote: PriceQuote | undefined): { costNanoUsd: NanoUsd; pricing: Pricing } {
  if (quote === undefined) return { costNanoUsd: 0n, pricing: 'price_missing' }
  const own = cost(usage, quote)
  if (own !== undefined) return { costNanoUsd: own, pricing: 'priced' }
  const filled = sum(usage, (part) => quote.perMillion[part] ?? dearest(quote, sideOf(part)))
  if (filled !== undefined) return { costNanoUsd: filled, pricing: 'part_missing' }
  return { costNanoUsd: 0n, pricing: 'price_missing' }
}

/**
 * The most an attempt can cost: each input token at the dearest known input price, each output token at the dearest
 * output price, rounded up. `undefined` where a side that can be used has no price at all.
 */
export function worstCaseCost(
  estimate: { inputTokens: number; outputTokens: number },
  quote: PriceQuote,
): NanoUsd | undefined {
  const input = dearest(quote, 'input')
  const output = dearest(quote, 'output')
  // A model of embeddings has no output and no price for it.
  if (input === undefined && estimate.inputTokens > 0) return undefined
  if (output === undefined && estimate.outputTokens > 0) return undefined
  const millionfold = BigInt(estimate.inputTokens) * (input ?? 0n) + BigInt(estimate.outputTokens) * (output ?? 0n)
  return (millionfold + MILLION - 1n) / MILLION
}

function sum(usage: Usage, priceOf: (part: UsagePart) => NanoUsdPerMillion | undefined): NanoUsd | undefined {
  let millionfold = 0n
  for (const part of USAGE_PARTS) {
    const units = usage[part]
    if (units === 0) continue
    const price = priceOf(part)
    if (price === undefined) return undefined
    millionfold += BigInt(units) * price
  }
  return (millionfold + MILLION / 2n) / MILLION
}

function dearest(quote: PriceQuote, side: Side): NanoUsdPerMillion | undefined {
  let most: NanoUsdPerMillion | undefined
  for (const part of USAGE_PARTS) {
    const price = sideOf(part) === side ? quote.perMillion[part] : undefined
    if (price !== undefined && (most === undefined || price > most)) most = price
  }
  return most
}
