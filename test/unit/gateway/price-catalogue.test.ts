// The catalogue that comes with Penstock, held against the schema of the import and against common sense.
import { expect, test } from 'vitest'
import file from '../../../deploy/price-catalogue.json'
import { ImportInput, pricesOf } from '../../../gateway/admin/price-form.ts'
import { isQuote, type PriceTable } from '../../../gateway/meter/price.ts'
import { sideOf, USAGE_PARTS } from '../../../gateway/meter/usage.ts'

const catalogue = ImportInput.parse(file)
const entries = catalogue.entries.map((entry) => [`${entry.provider} ${entry.model}`, entry] as const)

test('the catalogue prices the main models of eight providers at least', () => {
  expect(new Set(catalogue.entries.map(({ provider }) => provider)).size).toBeGreaterThanOrEqual(8)
  expect(catalogue.entries.length).toBeGreaterThanOrEqual(60)
})

test.each(entries)('%s is a quote, and says where and when its price was read', (_, entry) => {
  const { perMillion, contextTiers } = pricesOf(entry)
  expect(isQuote({ priceVersionId: 'v', perMillion, contextTiers })).toBe(true)
  expect(entry.source).toMatch(/^https:\/\//)
  expect(entry.source_date).toMatch(/^202[56]-\d\d-\d\d$/)
  expect(perMillion.inputUncached).toBeGreaterThan(0n)
  expect(perMillion.outputText).toBe(perMillion.outputReasoning)
})

test.each(entries)(
  '%s has no price of a mistaken unit: caches and tiers stand to each other as they do',
  (_, entry) => {
    const { perMillion, contextTiers = [] } = pricesOf(entry)
    const tables: PriceTable[] = [perMillion, ...contextTiers.map((tier) => tier.perMillion)]
    const dollars = 1_000_000_000n
    for (const { inputUncached = 0n, inputCacheRead, inputCacheWrite5m, inputCacheWrite1h, outputText } of tables) {
      expect(inputUncached).toBeLessThanOrEqual(150n * dollars)
      if (outputText !== undefined) expect(outputText).toBeGreaterThanOrEqual(inputUncached)
      if (inputCacheRead !== undefined) expect(inputCacheRead).toBeLessThan(inputUncached)
      if (inputCacheWrite5m !== undefined) expect(inputCacheWrite5m * 4n).toBe(inputUncached * 5n)
      if (inputCacheWrite1h !== undefined) expect(inputCacheWrite1h).toBe(inputUncached * 2n)
    }
    for (const tier of contextTiers) {
      for (const part of USAGE_PARTS) {
        const price = tier.perMillion[part]
        if (sideOf(part) === 'call' || price === undefined) continue
        expect(price).toBeGreaterThan(perMillion[part] ?? 0n)
      }
    }
  },
)
