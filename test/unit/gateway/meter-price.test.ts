// Tokens become money in one place: rounding, size, missing prices, and the bound that holds rest on.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { charge, cost, isQuote, PRICE_MAX, type PriceQuote, worstCaseCost } from '../../../gateway/meter/price.ts'
import {
  inputTokens,
  NO_USAGE,
  outputTokens,
  USAGE_PART_MAX,
  USAGE_PARTS,
  type Usage,
  type UsagePart,
} from '../../../gateway/meter/usage.ts'

const INT8_MAX = 2n ** 63n - 1n
const quote = (perMillion: PriceQuote['perMillion']): PriceQuote => ({ priceVersionId: 'v1', perMillion })
const usage = (parts: Partial<Usage>): Usage => ({ ...NO_USAGE, ...parts })

describe('cost', () => {
  test('is exact where it is whole', () => {
    expect(cost(usage({ inputUncached: 154 }), quote({ inputUncached: 12_500_000n }))).toBe(1925n)
  })
  test('rounds half up', () => {
    expect(cost(usage({ inputUncached: 1 }), quote({ inputUncached: 12_500_000n }))).toBe(13n)
    expect(cost(usage({ inputUncached: 1 }), quote({ inputUncached: 12_499_999n }))).toBe(12n)
  })
  test('rounds the sum once, not part by part', () => {
    const prices = quote({ inputUncached: 500_000n, outputText: 500_000n })
    expect(cost(usage({ inputUncached: 1, outputText: 1 }), prices)).toBe(1n)
  })
  test('stays exact beyond what a JS number or SQL arithmetic can hold', () => {
    const prices = quote({ outputText: 75_000_000_000_000n })
    expect(cost(usage({ outputText: 200_000_001 }), prices)).toBe(15_000_000_075_000_000n)
  })
  test('fits a 64-bit integer at every bound', () => {
    const prices = Object.fromEntries(USAGE_PARTS.map((part) => [part, PRICE_MAX])) as Record<UsagePart, bigint>
    const most = Object.fromEntries(USAGE_PARTS.map((part) => [part, USAGE_PART_MAX])) as Usage
    expect(cost(most, quote(prices))).toBeLessThanOrEqual(INT8_MAX)
  })
  test('is unknown where a used part has no price, and known where the part was not used', () => {
    const prices = quote({ inputUncached: 1n })
    expect(cost(usage({ outputText: 1 }), prices)).toBeUndefined()
    expect(cost(usage({ inputUncached: 1 }), prices)).toBe(0n)
  })
})

describe('charge', () => {
  test('an explicit zero is free, and priced', () => {
    const free = quote({ inputUncached: 0n, outputText: 0n })
    expect(charge(usage({ inputUncached: 10, outputText: 5 }), free)).toEqual({ costNanoUsd: 0n, pricing: 'priced' })
  })
  test('a used part without a price costs the dearest price of its side, never nothing', () => {
    const prices = quote({ inputUncached: 2_000_000n, inputCacheRead: 1_000_000n, outputText: 9_000_000n })
    expect(charge(usage({ inputCacheWrite5m: 3 }), prices)).toEqual({ costNanoUsd: 6n, pricing: 'part_missing' })
    expect(charge(usage({ outputReasoning: 2 }), prices)).toEqual({ costNanoUsd: 18n, pricing: 'part_missing' })
  })
  test('a side without any price is flagged and charged nothing', () => {
    const expected = { costNanoUsd: 0n, pricing: 'price_missing' }
    expect(charge(usage({ outputText: 2 }), quote({ inputUncached: 1n }))).toEqual(expected)
    expect(charge(usage({ outputText: 2 }), undefined)).toEqual(expected)
  })
})

describe('worst case', () => {
  test('takes the dearest price of each side and rounds up', () => {
    const prices = quote({ inputUncached: 1n, inputCacheWrite1h: 3n, outputText: 2n, outputReasoning: 5n })
    expect(worstCaseCost({ inputTokens: 100_000, outputTokens: 200_000 }, prices)).toBe(2n)
  })
  test('is unknown where a side has no price', () => {
    expect(worstCaseCost({ inputTokens: 1, outputTokens: 1 }, quote({ inputUncached: 1n }))).toBeUndefined()
  })

  const price = fc.option(fc.bigInt({ min: 0n, max: PRICE_MAX }), { nil: undefined })
  const tokens = fc.nat(USAGE_PART_MAX)
  const anyQuote = fc
    .tuple(price, price, price, price, price, price)
    .map((prices) =>
      quote(
        Object.fromEntries(
          USAGE_PARTS.flatMap((part, index) => (prices[index] === undefined ? [] : [[part, prices[index]]])),
        ),
      ),
    )
  const anyUsage = fc
    .tuple(tokens, tokens, tokens, tokens, tokens, tokens)
    .map((counts) => Object.fromEntries(USAGE_PARTS.map((part, index) => [part, counts[index]])) as Usage)

  test('bounds the charge of every usage within the estimate', () => {
    fc.assert(
      fc.property(anyQuote, anyUsage, fc.nat(1000), fc.nat(1000), (prices, used, moreInput, moreOutput) => {
        expect(isQuote(prices)).toBe(true)
        const estimate = { inputTokens: inputTokens(used) + moreInput, outputTokens: outputTokens(used) + moreOutput }
        const worst = worstCaseCost(estimate, prices)
        if (worst === undefined) return
        expect(charge(used, prices).costNanoUsd).toBeLessThanOrEqual(worst)
        expect(charge(used, prices).pricing).not.toBe('price_missing')
      }),
      { numRuns: 2000 },
    )
  })
})

test('a side that cannot be used needs no price: embeddings have no output', () => {
  expect(worstCaseCost({ inputTokens: 10, outputTokens: 0 }, quote({ inputUncached: 1_000_000n }))).toBe(10n)
  expect(worstCaseCost({ inputTokens: 10, outputTokens: 1 }, quote({ inputUncached: 1_000_000n }))).toBeUndefined()
  expect(worstCaseCost({ inputTokens: 10, outputTokens: 0 }, quote({ outputText: 1n }))).toBeUndefined()
})

test('a price that is negative or above a dollar a token is no quote', () => {
  expect(isQuote(quote({ inputUncached: -1n }))).toBe(false)
  expect(isQuote(quote({ outputText: PRICE_MAX + 1n }))).toBe(false)
  expect(isQuote(quote({ outputText: PRICE_MAX, inputUncached: 0n }))).toBe(true)
})
