import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { axisOf, OTHER, type Series, stacked, topSeries, total } from '../../../dashboard/app/stack.ts'
import type { Tick } from '../../../dashboard/app/time-range.ts'
import { METRICS, nameOf, seriesBy, shareText } from '../../../dashboard/app/usage.ts'
import type { Usage, UsageLine } from '../../../dashboard/app/wire.ts'

const series = (id: string, ...values: (bigint | undefined)[]): Series => ({ id, label: id, values })

describe('a stack', () => {
  test('each series stands on the ones before it; gaps have no height', () => {
    expect(stacked([series('a', 1n, undefined, 3n), series('b', 2n, 5n, undefined)])).toEqual([
      [1, 0, 3],
      [3, 5, 3],
    ])
  })

  test('the top edge is the sum of all', () => {
    const values = fc.array(fc.array(fc.nat(1_000_000), { minLength: 3, maxLength: 3 }), { minLength: 1, maxLength: 9 })
    fc.assert(
      fc.property(values, (all) => {
        const top = stacked(all.map((one) => ({ values: one }))).at(-1)
        expect(top).toEqual([0, 1, 2].map((index) => all.reduce((sum, one) => sum + (one[index] ?? 0), 0)))
      }),
    )
  })
})

describe('the largest with the rest as one', () => {
  const all = [series('a', 1n, 1n), series('b', 9n, undefined), series('c', 3n, 3n), series(OTHER, 1n, 0n)]

  test('sums are kept to the last digit', () => {
    const top = topSeries(all, 1)
    expect(top.map(({ id }) => id)).toEqual(['b', OTHER])
    expect(top[1]?.values).toEqual([5n, 4n])
    const sum = (list: Series[]) => total(list.map(({ values }) => total(values)))
    expect(sum(top)).toBe(sum(all))
  })

  test('without a rest there is no such series', () => {
    expect(topSeries(all.slice(0, 2), 5).map(({ id }) => id)).toEqual(['b', 'a'])
  })

  test('a sum of nothing is nothing, not zero', () => {
    expect(total([undefined, undefined])).toBeUndefined()
    expect(total([2n ** 62n, 1n])).toBe(2n ** 62n + 1n)
  })
})

describe('an axis', () => {
  test('ends above the largest value, at round steps', () => {
    expect(axisOf(0.91, 4)).toEqual({ max: 1, splits: [0, 0.5, 1] })
    expect(axisOf(0, 4)).toEqual({ max: 1, splits: [0, 1] })
    fc.assert(
      fc.property(
        fc.double({ min: 1e-9, max: 1e18, noNaN: true }),
        fc.integer({ min: 2, max: 6 }),
        (largest, lines) => {
          const { max, splits } = axisOf(largest, lines)
          expect(max).toBeGreaterThanOrEqual(largest * 0.999_999)
          expect(splits.length).toBeLessThanOrEqual(lines + 1)
          expect(splits.at(-1)).toBeCloseTo(max, -Math.floor(Math.log10(max)) + 6)
        },
      ),
    )
  })
})

describe('answers of the usage API', () => {
  const ticks: Tick[] = ['2026-11-21', '2026-11-22'].map((key, index) => ({ key, startMs: index, endMs: index + 1 }))
  const line = (fields: object): UsageLine => ({ cost_nanousd: '0', requests: 0, ...fields }) as UsageLine
  const answer = (data: UsageLine[]): Usage =>
    ({ data, names: { keys: { k1: { name: 'ci', prefix: 'psk_a', revoked: true } } } }) as unknown as Usage

  test('become series, largest first, other last, with zeros where nothing was used', () => {
    const usage = answer([
      line({ day: '2026-11-22', model: 'small', cost_nanousd: '1' }),
      line({ day: '2026-11-21', model: 'large', cost_nanousd: '9007199254740993' }),
      line({ day: '2026-11-21', model: null, other: true, cost_nanousd: '99999999999999999' }),
    ])
    expect(seriesBy(usage, ticks, 'day', 'model', METRICS.spend)).toEqual([
      { id: 'large', label: 'large', values: [9_007_199_254_740_993n, 0n] },
      { id: 'small', label: 'small', values: [0n, 1n] },
      { id: OTHER, label: 'Other', values: [99_999_999_999_999_999n, 0n] },
    ])
  })

  test('a percentile of nothing is a gap', () => {
    const usage = answer([
      line({
        day: '2026-11-22',
        model: 'm',
        latency: { total: { count: 1, p50_ms: 5, p95_ms: 6, p99_ms: 7 }, first_token: null },
      }),
    ])
    expect(seriesBy(usage, ticks, 'day', 'model', METRICS.p95)[0]?.values).toEqual([undefined, 6])
  })

  test('ids have names, and those without one are told apart', () => {
    const { names } = answer([])
    expect(nameOf(line({ key_id: 'k1' }), 'key', names)).toEqual({ id: 'k1', label: 'ci (revoked)' })
    expect(nameOf(line({ user_id: null }), 'user', names)).toEqual({ id: 'none', label: 'No user' })
    expect(nameOf(line({ tag: '*' }), 'tag:env', names).label).toBe('Too many to tell apart')
    expect(nameOf(line({ end_user: '*' }), 'end_user', names)).toEqual({ id: '*', label: 'Too many to tell apart' })
    expect(nameOf(line({ tag: null }), 'tag:env', names).id).toBe('none')
  })

  test('money in files is the exact decimal', () => {
    expect([1n, 12_500_000_000n, -5n].map(METRICS.spend.decimal)).toEqual(['0.000000001', '12.5', '-0.000000005'])
    expect(shareText(1n, 4n)).toBe('25.0 %')
    expect(shareText(1n, 10n ** 12n)).toBe('< 0.01 %')
    expect(shareText(1n, 0n)).toBe('')
  })
})
