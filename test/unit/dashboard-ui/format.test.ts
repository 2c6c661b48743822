import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  ago,
  bytes,
  change,
  count,
  countShort,
  dateTime,
  duration,
  durationShort,
  nanoUsd,
  percent,
  shareOf,
  usd,
  usdExact,
  usdShort,
} from '../../../dashboard/app/format.ts'

describe('money', () => {
  test.each([
    [0n, '$0.00'],
    [1n, '$0.000000001'],
    [31n, '$0.000000031'],
    [900n, '$0.0000009'],
    [3_100n, '$0.0000031'],
    [4_217_500n, '$0.0042'],
    [50_000_000n, '$0.0500'],
    [977_400_000n, '$0.977'],
    [999_999_999n, '$1.000'],
    [1_000_000_000n, '$1.00'],
    [17_314_999_999n, '$17.31'],
    [17_315_000_000n, '$17.32'],
    [1_234_567_890_000_000n, '$1,234,567.89'],
    [-2_500_000_000n, '−$2.50'],
    [9_223_372_036_854_775_807n, '$9,223,372,036.85'],
  ])('%d nano-dollars are %s', (amount, text) => {
    expect(usd(amount)).toBe(text)
  })

  test('the exact form loses no digit, whatever the amount', () => {
    expect(usdExact(1_234_000_000_001n)).toBe('$1,234.000000001')
    fc.assert(
      fc.property(fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n), (amount) => {
        const [whole = '', fraction = ''] = usdExact(amount).replace(/[−$,]/g, '').split('.')
        const back = BigInt(whole) * 1_000_000_000n + BigInt(fraction.padEnd(9, '0'))
        expect(amount < 0n ? -back : back).toBe(amount)
      }),
    )
  })

  test('a rounded amount is never further than half a cent away', () => {
    fc.assert(
      fc.property(fc.bigInt(1_000_000_000n, 2n ** 62n), (amount) => {
        const shown = BigInt(usd(amount).replace(/[$,.]/g, '')) * 10_000_000n
        const distance = shown > amount ? shown - amount : amount - shown
        expect(distance <= 5_000_000n).toBe(true)
      }),
    )
  })

  test('an axis is short', () => {
    expect([0n, 500_000_000n, 2_000_000_000n, 50_000_000_000n, 1_500_000_000_000n].map(usdShort)).toEqual([
      '$0',
      '$0.50',
      '$2.00',
      '$50',
      '$1.5k',
    ])
  })

  test('text of the API becomes an amount, nothing becomes zero', () => {
    expect(nanoUsd('9007199254740993')).toBe(9_007_199_254_740_993n)
    expect(nanoUsd(null)).toBe(0n)
    expect(shareOf(1n, 3n)).toBeCloseTo(0.333333, 6)
    expect(shareOf(1n, 0n)).toBe(0)
  })
})

describe('other numbers', () => {
  test('counts are grouped, and short where there is no room', () => {
    expect(count(1_234_567)).toBe('1,234,567')
    expect([999, 1_000, 1_500, 999_999, 1_234_567, 2e9].map(countShort)).toEqual([
      '999',
      '1k',
      '1.5k',
      '1M',
      '1.2M',
      '2B',
    ])
  })

  test('durations have the unit that people would take', () => {
    expect([0, 0.4, 12, 999.4, 1_240, 17_900, 59_960, 200_000, 7_260_000].map(duration)).toEqual([
      '0 ms',
      '< 1 ms',
      '12 ms',
      '999 ms',
      '1.24 s',
      '17.9 s',
      '1 min',
      '3 min 20 s',
      '2 h 1 min',
    ])
    expect([0, 500, 20_000, 600_000].map(durationShort)).toEqual(['0', '500 ms', '20 s', '10 min'])
  })

  test('shares, bytes and times', () => {
    expect([0, 0.00005, 0.0118, 0.35, 1].map(percent)).toEqual(['0 %', '< 0.01 %', '1.2 %', '35.0 %', '100 %'])
    expect([12, 1_536, 5 * 2 ** 30].map(bytes)).toEqual(['12 B', '1.5 KiB', '5 GiB'])
    expect(dateTime(Date.parse('2026-11-22T23:05:09Z'), 'Europe/Berlin')).toBe('23 Nov 2026, 00:05:09')
    expect(ago(0, 90_000)).toBe('2 min ago')
    expect(ago(3_600_000, 0)).toBe('in 1 h')
  })
})

describe('change', () => {
  test('says how much, and which way', () => {
    expect(change(112, 100)).toEqual({ text: '+12 %', direction: 'up' })
    expect(change(97.5, 100)).toEqual({ text: '−2.5 %', direction: 'down' })
    expect(change(5_000, 100)).toEqual({ text: '×50', direction: 'up' })
    expect(change(100, 100)).toEqual({ text: '0 %', direction: 'same' })
  })

  test('from nothing to something has no share', () => {
    expect(change(5, 0)).toBeUndefined()
    expect(change(0, 0)).toEqual({ text: '0 %', direction: 'same' })
  })
})
