// What a target's price means to routing: which target is cheapest for a request, and which are within a caller's bound.
// Owns the comparison; prices are meter/price.ts, the order of targets routing/order.ts. Pure.
import type { InferenceRequest } from '../../protocol/request.ts'
import { parseUsd } from '../../protocol/units.ts'
import { LIST_BASIS_POINTS, type PriceQuote, worstCaseCost } from '../meter/price.ts'
import { worstCase } from '../stream/estimate.ts'
import type { Target } from './plan.ts'

/** Nano-USD per million tokens, as the organisation pays them. */
export type PriceBound = { input?: bigint; output?: bigint }

/** What the request can cost at a target at most, in nano-USD; undefined: its price is not known. */
export const worstCostAt = (request: InferenceRequest, target: Target): bigint | undefined =>
  target.price === undefined ? undefined : worstCaseCost(worstCase(request, target), target.price)

/**
 * USD per million tokens: one decimal for input and output alike, or `in=0.5,out=2`, or one of the two.
 * @returns undefined where the text is none of these.
 */
export function parsePriceBound(text: string): PriceBound | undefined {
  const both = usd(text)
  if (both !== undefined) return { input: both, output: both }
  const bound: PriceBound = {}
  for (const part of text.split(',')) {
    const [, side, amount = ''] = /^\s*(in|out)=(\S+)\s*$/.exec(part) ?? []
    const value = usd(amount)
    if (value === undefined || side === undefined) return undefined
    const name = side === 'in' ? 'input' : 'output'
    if (bound[name] !== undefined) return undefined
    bound[name] = value
  }
  return bound
}

function usd(text: string): bigint | undefined {
  const value = parseUsd(text.trim())
  return value === undefined || value < 0n ? undefined : value
}

/**
 * Whether a target's prices of plain text, mark-up included, are within the bound. An unknown price is not; a model without
 * output has none for it and needs none.
 */
export function isWithin(price: PriceQuote | undefined, bound: PriceBound, hasOutput: boolean): boolean {
  if (price === undefined) return false
  const { perMillion, basisPoints = LIST_BASIS_POINTS } = price
  const fits = (most: bigint | undefined, list: bigint | undefined): boolean =>
    most === undefined || (list !== undefined && list * BigInt(basisPoints) <= most * BigInt(LIST_BASIS_POINTS))
  return fits(bound.input, perMillion.inputUncached) && (!hasOutput || fits(bound.output, perMillion.outputText))
}
