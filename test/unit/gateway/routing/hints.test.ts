import { describe, expect, test } from 'vitest'
import type { Target } from '../../../../gateway/policy/plan.ts'
import { parseHints, withinHints } from '../../../../gateway/routing/hints.ts'

const parse = (headers: Record<string, string>) => parseHints(new Headers(headers))

test('no header, no wish', () => {
  expect(parse({})).toEqual({ ok: true, value: {} })
})

test('all of them together', () => {
  const parsed = parse({
    'x-penstock-order': 'first, second/org/model-1',
    'x-penstock-only': 'first,second',
    'x-penstock-ignore': 'third',
    'x-penstock-max-price': 'in=0.5,out=2',
    'x-penstock-max-latency-ms': '800',
    'x-penstock-region': 'eu-west',
    'x-penstock-hedge': 'true',
  })
  expect(parsed).toEqual({
    ok: true,
    value: {
      order: ['first', 'second/org/model-1'],
      only: ['first', 'second'],
      ignore: ['third'],
      maxPrice: { input: 500_000_000n, output: 2_000_000_000n },
      maxLatencyMs: 800,
      region: 'eu-west',
      hedge: true,
    },
  })
})

test.each([
  ['x-penstock-order', ''],
  ['x-penstock-order', 'Upper'],
  ['x-penstock-only', 'a,,b'],
  ['x-penstock-only', 'https://evil.example'],
  ['x-penstock-ignore', Array.from({ length: 17 }, (_, index) => `p${index}`).join(',')],
  ['x-penstock-max-price', 'cheap'],
  ['x-penstock-max-price', '-1'],
  ['x-penstock-max-price', 'in=1,in=2'],
  ['x-penstock-max-price', '1e3'],
  ['x-penstock-max-price', 'in=1;out=2'],
  ['x-penstock-max-latency-ms', '0'],
  ['x-penstock-max-latency-ms', '1.5'],
  ['x-penstock-region', 'a b'],
  ['x-penstock-hedge', 'yes'],
])('%s: %s is refused by the header’s name', (header, value) => {
  expect(parse({ [header]: value })).toMatchObject({ ok: false, error: { code: 'invalid_request', param: header } })
})

const PRICE = { priceVersionId: 'v', perMillion: { inputUncached: 1_000_000_000n, outputText: 4_000_000_000n } }

describe('a target is left', () => {
  const target: Target = {
    provider: 'p',
    model: 'm',
    contextTokens: 1000,
    region: 'EU',
    price: PRICE,
  }
  const isLeft = (headers: Record<string, string>, over: Partial<Target> = {}, firstMs?: number, hasOutput = true) => {
    const hints = parse(headers)
    if (!hints.ok) throw new Error(hints.error.message)
    return withinHints([{ target: { ...target, ...over } }], hints.value, () => firstMs, hasOutput).left.length === 1
  }

  test('by provider or by provider and model', () => {
    expect(isLeft({ 'x-penstock-only': 'p' })).toBe(true)
    expect(isLeft({ 'x-penstock-only': 'p/m' })).toBe(true)
    expect(isLeft({ 'x-penstock-only': 'p/other' })).toBe(false)
    expect(isLeft({ 'x-penstock-ignore': 'p/m' })).toBe(false)
    expect(isLeft({ 'x-penstock-ignore': 'p/other' })).toBe(true)
  })

  test('within a price, mark-up included; an unknown price is above every bound', () => {
    expect(isLeft({ 'x-penstock-max-price': '4' })).toBe(true)
    expect(isLeft({ 'x-penstock-max-price': '3.99' })).toBe(false)
    expect(isLeft({ 'x-penstock-max-price': 'in=1' })).toBe(true)
    expect(isLeft({ 'x-penstock-max-price': 'in=1' }, { price: { ...PRICE, basisPoints: 10_001 } })).toBe(false)
    expect(isLeft({ 'x-penstock-max-price': '100' }, { price: undefined })).toBe(false)
    const embedding = { priceVersionId: 'v', perMillion: { inputUncached: 1n } }
    expect(isLeft({ 'x-penstock-max-price': '1' }, { price: embedding })).toBe(false)
    expect(isLeft({ 'x-penstock-max-price': '1' }, { price: embedding }, undefined, false)).toBe(true)
  })

  test('by measured latency; what was not measured passes', () => {
    expect(isLeft({ 'x-penstock-max-latency-ms': '500' }, {}, 500)).toBe(true)
    expect(isLeft({ 'x-penstock-max-latency-ms': '500' }, {}, 501)).toBe(false)
    expect(isLeft({ 'x-penstock-max-latency-ms': '500' })).toBe(true)
  })

  test('by region, in any case of letters; a target without one is in none', () => {
    expect(isLeft({ 'x-penstock-region': 'eu' })).toBe(true)
    expect(isLeft({ 'x-penstock-region': 'us' })).toBe(false)
    const { region: _region, ...nowhere } = target
    const hints = parse({ 'x-penstock-region': 'eu' })
    expect(hints.ok && withinHints([{ target: nowhere }], hints.value, () => undefined, true).left).toEqual([])
  })
})
