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

/**
 * Cost of an attempt: multiplied and summed exactly, divided once, rounded half up (never part by part).
 * `undefined` where a part that was used has no price.
 */
export function cost(usage: Usage, quote: PriceQuote): NanoUsd | undefined {
  let sum = 0n
  for (const part of USAGE_PARTS) {
    const units = usage[part]
    if (units === 0) continue
    const price = quote.perMillion[part]
    if (price === undefined) return undefined
    sum += BigInt(units) * price
  }
  return (sum + MILLION / 2n) / MILLION
}

/**
 * The most an attempt can cost: each input token at the dearest known input price, each output token at the dearest
 * output price. `undefined` where either side has no price at all.
 */
export function worstCaseCost(
  estimate: { inputTokens: number; outputTokens: number },
  quote: PriceQuote,
): NanoUsd | undefined {
  const dearest = (side: 'input' | 'output') => {
    const prices = USAGE_PARTS.filter((part) => part.startsWith(side)).map((part) => quote.perMillion[part])
    return prices.reduce(
      (most, price) => (price !== undefined && (most === undefined || price > most) ? price : most),
      undefined,
    )
  }
  const input = dearest('input')
  const output = dearest('output')
  if (input === undefined || output === undefined) return undefined
  const sum = BigInt(estimate.inputTokens) * input + BigInt(estimate.outputTokens) * output
  return (sum + MILLION - 1n) / MILLION
}
