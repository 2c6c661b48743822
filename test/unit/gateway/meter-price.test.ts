// Tokens become money in one place: rounding, size, missing prices, and the bound that holds rest on.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { machinePrices } from '../../../gateway/meter/machine-price.ts'
import {
  BASIS_POINTS_MAX,
  charge,
  cost,
  isQuote,
  LIST_BASIS_POINTS,
  listCost,
  PRICE_MAX,
  type PriceQuote,
  type PriceTable,
  worstCaseCost,
} from '../../../gateway/meter/price.ts'
import {
  inputTokens,
  mapParts,
  NO_USAGE,
  outputTokens,
  sideOf,
  USAGE_PART_MAX,
  USAGE_PARTS,
  type Usage,
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
    const most = mapParts(() => USAGE_PART_MAX)
    expect(cost(most, quote(mapParts(() => PRICE_MAX)))).toBeLessThanOrEqual(INT8_MAX)
    const marked = { ...quote(mapParts(() => PRICE_MAX / 100n)), basisPoints: BASIS_POINTS_MAX }
    expect(isQuote(marked)).toBe(true)
    expect(cost(most, marked)).toBeLessThanOrEqual(INT8_MAX)
  })
  test('prices all thirteen parts, calls among them', () => {
    const dearer = mapParts((part) => BigInt(USAGE_PARTS.indexOf(part) + 1) * 1_000_000n)
    expect(
      cost(
        mapParts(() => 1),
        quote(dearer),
      ),
    ).toBe(91n)
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
  test('a side without any price adds nothing and is flagged, the other sides are charged', () => {
    const used = usage({ inputUncached: 3, webSearchCalls: 2 })
    const prices = quote({ inputUncached: 1_000_000n, outputText: 1n })
    expect(charge(used, prices)).toEqual({ costNanoUsd: 3n, pricing: 'part_missing' })
  })
  test('nothing but a side without any price is flagged and charged nothing', () => {
    const expected = { costNanoUsd: 0n, pricing: 'price_missing' }
    expect(charge(usage({ outputText: 2 }), quote({ inputUncached: 1n }))).toEqual(expected)
    expect(charge(usage({ outputText: 2 }), undefined)).toEqual(expected)
  })
})

describe('context tiers', () => {
  const tiered: PriceQuote = {
    ...quote({ inputUncached: 1_000_000n, inputCacheRead: 500_000n, outputText: 4_000_000n }),
    contextTiers: [
      { aboveInputTokens: 100, perMillion: { inputUncached: 2_000_000n } },
      { aboveInputTokens: 200, perMillion: { inputUncached: 3_000_000n, outputText: 9_000_000n } },
    ],
  }
  test('the whole attempt is priced by the tier of its input tokens; at the bound the tier below holds', () => {
    const costs = [100, 101, 200, 201].map((tokens) => cost(usage({ inputUncached: tokens, outputText: 1 }), tiered))
    expect(costs).toEqual([104n, 206n, 404n, 612n])
  })
  test('cached input counts towards the tier, and a part that a tier leaves out keeps the price below', () => {
    expect(cost(usage({ inputUncached: 1, inputCacheRead: 300 }), tiered)).toBe(153n)
  })
  test('output tokens do not', () => {
    expect(cost(usage({ inputUncached: 100, outputText: 1000 }), tiered)).toBe(4100n)
  })
  test('the worst case looks into each tier that the estimate can reach, and into no other', () => {
    const worst = (tokens: number) => worstCaseCost({ inputTokens: tokens, outputTokens: 10, calls: 0 }, tiered)
    expect([worst(100), worst(101), worst(201)]).toEqual([140n, 242n, 693n])
  })
  test('the worst case is in a lower tier where prices fall', () => {
    const falling = { ...tiered, contextTiers: [{ aboveInputTokens: 100, perMillion: { outputText: 0n } }] }
    expect(worstCaseCost({ inputTokens: 101, outputTokens: 1000, calls: 0 }, falling)).toBe(4101n)
  })
})

describe('the mark-up', () => {
  const prices = quote({ inputUncached: 1_000_000n })
  test('is multiplied in before the one division', () => {
    const marked = { ...prices, basisPoints: 11_500 }
    expect(cost(usage({ inputUncached: 10 }), marked)).toBe(12n)
    expect(cost(usage({ inputUncached: 9 }), marked)).toBe(10n)
    expect(worstCaseCost({ inputTokens: 9, outputTokens: 0, calls: 0 }, marked)).toBe(11n)
  })
  test('of the list price is no mark-up, and of nothing makes everything free', () => {
    const used = usage({ inputUncached: 7 })
    expect(cost(used, { ...prices, basisPoints: LIST_BASIS_POINTS })).toBe(cost(used, prices))
    expect(charge(used, { ...prices, basisPoints: 0 })).toEqual({ costNanoUsd: 0n, pricing: 'priced' })
  })
  test('is no part of what the provider charges', () => {
    const used = usage({ inputUncached: 7, outputText: 1 })
    expect(listCost(used, { ...prices, basisPoints: 20_000 })).toBe(7n)
    expect(listCost(usage({ outputText: 1 }), prices)).toBeUndefined()
    expect(listCost(used, undefined)).toBeUndefined()
  })
})

describe('worst case', () => {
  const estimate = (tokensIn: number, tokensOut: number, calls = 0) => ({
    inputTokens: tokensIn,
    outputTokens: tokensOut,
    calls,
  })
  test('takes the dearest price of each side and rounds up', () => {
    const prices = quote({ inputUncached: 1n, inputCacheWrite1h: 3n, outputText: 2n, outputReasoning: 5n })
    expect(worstCaseCost(estimate(100_000, 200_000), prices)).toBe(2n)
  })
  test('is unknown where a side that can be used has no price', () => {
    expect(worstCaseCost(estimate(1, 1), quote({ inputUncached: 1n }))).toBeUndefined()
    expect(worstCaseCost(estimate(1, 0, 1), quote({ inputUncached: 1n }))).toBeUndefined()
  })
  test('a side that cannot be used needs no price: embeddings have no output', () => {
    expect(worstCaseCost(estimate(10, 0), quote({ inputUncached: 1_000_000n }))).toBe(10n)
    expect(worstCaseCost(estimate(10, 0), quote({ outputText: 1n }))).toBeUndefined()
  })
  test('counts calls', () => {
    const prices = quote({ inputUncached: 0n, webSearchCalls: 10_000_000_000n, toolCalls: 1n })
    expect(worstCaseCost(estimate(0, 0, 3), prices)).toBe(30_000n)
  })

  const anyTable = fc
    .array(fc.option(fc.bigInt({ min: 0n, max: PRICE_MAX / 100n }), { nil: undefined }), {
      minLength: 13,
      maxLength: 13,
    })
    .map((prices) => {
      const table: PriceTable = {}
      for (const [index, part] of USAGE_PARTS.entries()) {
        const price = prices[index]
        if (price !== undefined) table[part] = price
      }
      return table
    })
  const anyTiers = fc
    .uniqueArray(fc.tuple(fc.integer({ min: 1, max: 5000 }), anyTable), { maxLength: 3, selector: ([bound]) => bound })
    .map((tiers) =>
      tiers.toSorted(([a], [b]) => a - b).map(([aboveInputTokens, perMillion]) => ({ aboveInputTokens, perMillion })),
    )
  const anyQuote = fc
    .tuple(anyTable, anyTiers, fc.option(fc.integer({ min: 0, max: BASIS_POINTS_MAX }), { nil: undefined }))
    .map(([table, contextTiers, basisPoints]): PriceQuote => ({ ...quote(table), contextTiers, basisPoints }))
  const anyUsage = fc
    .array(fc.oneof(fc.nat(1000), fc.nat(USAGE_PART_MAX)), { minLength: 13, maxLength: 13 })
    .map((counts) => mapParts((part) => counts[USAGE_PARTS.indexOf(part)] ?? 0))

  test('bounds the charge of every usage within the estimate, whatever the tiers and the mark-up', () => {
    const more = fc.nat(6000)
    fc.assert(
      fc.property(anyQuote, anyUsage, more, more, fc.nat(5), (prices, used, moreInput, moreOutput, moreCalls) => {
        expect(isQuote(prices)).toBe(true)
        const calls = USAGE_PARTS.reduce((sum, part) => (sideOf(part) === 'call' ? sum + used[part] : sum), 0)
        const worst = worstCaseCost(
          estimate(inputTokens(used) + moreInput, outputTokens(used) + moreOutput, calls + moreCalls),
          prices,
        )
        if (worst === undefined) return
        expect(charge(used, prices).costNanoUsd).toBeLessThanOrEqual(worst)
        expect(charge(used, prices).pricing).not.toBe('price_missing')
      }),
      { numRuns: 3000 },
    )
  })

  test('a charge never changes with the order in which usage is known: it is what its parts make at once', () => {
    fc.assert(
      fc.property(anyQuote, anyUsage, (prices, used) => {
        const marked = charge(used, prices)
        const list = charge(used, { ...prices, basisPoints: LIST_BASIS_POINTS })
        expect(marked.pricing).toBe(list.pricing)
        expect(marked.costNanoUsd).toBeGreaterThanOrEqual(0n)
        expect(marked.costNanoUsd).toBeLessThanOrEqual(INT8_MAX)
      }),
    )
  })
})

test.each<[string, PriceQuote, boolean]>([
  ['a negative price', quote({ inputUncached: -1n }), false],
  ['more than a dollar a unit', quote({ outputText: PRICE_MAX + 1n }), false],
  ['a dollar a unit', quote({ outputText: PRICE_MAX, inputUncached: 0n }), true],
  ['a mark-up past a dollar a unit', { ...quote({ outputText: PRICE_MAX }), basisPoints: 10_001 }, false],
  ['a negative mark-up', { ...quote({}), basisPoints: -1 }, false],
  ['a fraction of a basis point', { ...quote({}), basisPoints: 0.5 }, false],
  ['more than a hundredfold', { ...quote({}), basisPoints: BASIS_POINTS_MAX + 1 }, false],
  ['a tier without a bound', { ...quote({}), contextTiers: [{ aboveInputTokens: 0, perMillion: {} }] }, false],
  [
    'tiers that do not rise',
    {
      ...quote({}),
      contextTiers: [
        { aboveInputTokens: 2, perMillion: {} },
        { aboveInputTokens: 2, perMillion: {} },
      ],
    },
    false,
  ],
  [
    'a tier with a price out of bounds',
    { ...quote({}), contextTiers: [{ aboveInputTokens: 2, perMillion: { outputText: PRICE_MAX + 1n } }] },
    false,
  ],
])('%s: whether that is a quote is %3$s', (_, prices, expected) => {
  expect(isQuote(prices)).toBe(expected)
})

describe('a machine of one’s own', () => {
  const machine = {
    gpuHourNanoUsd: 3_600_000_000n,
    gpus: 2,
    inputTokensPerSecond: 20_000,
    outputTokensPerSecond: 1_000,
    utilisation: 1,
  }
  test('prices a token by the machine time it takes: two GPUs at 3.60 an hour cost 0.002 a second', () => {
    expect(machinePrices(machine)).toEqual({
      inputUncached: 100_000_000n,
      inputCacheRead: 0n,
      outputText: 2_000_000_000n,
      outputReasoning: 2_000_000_000n,
    })
  })
  test('spreads idle time over the tokens, and prices cached input by its own rate where one is given', () => {
    const prices = machinePrices({ ...machine, utilisation: 0.5, cachedInputTokensPerSecond: 200_000 })
    expect(prices).toMatchObject({
      inputUncached: 200_000_000n,
      inputCacheRead: 20_000_000n,
      outputText: 4_000_000_000n,
    })
  })
  test('stays exact where the division does not come out even', () => {
    const prices = machinePrices({ ...machine, gpuHourNanoUsd: 1_000_000_000n, gpus: 1, outputTokensPerSecond: 7 })
    expect(prices.outputText).toBe(39_682_539_683n)
  })
})
