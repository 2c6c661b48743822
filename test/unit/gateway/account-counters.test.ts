// Calendar windows in UTC and the sums over days.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { DAY_MS, dayKey, oldestDayKept, retryAfterMs, sumWindow, windowOf } from '../../../gateway/account/counters.ts'

const WINDOWS = ['minute', 'hour', 'day', 'month', 'lifetime'] as const

test.each([
  ['minute', '2026-11-22T10:05:59.999Z', 'minute:2026-11-22T10:05', '2026-11-22T10:06:00.000Z'],
  ['hour', '2026-11-22T10:59:59.999Z', 'hour:2026-11-22T10', '2026-11-22T11:00:00.000Z'],
  ['day', '2026-12-31T23:59:59.999Z', 'day:2026-12-31', '2027-01-01T00:00:00.000Z'],
  ['month', '2028-02-29T23:00:00.000Z', 'month:2028-02', '2028-03-01T00:00:00.000Z'],
  ['month', '2026-12-01T00:00:00.000Z', 'month:2026-12', '2027-01-01T00:00:00.000Z'],
] as const)('the %s of %s is %s and ends at %s', (window, at, key, end) => {
  const span = windowOf(window, Date.parse(at))
  expect(span.key).toBe(key)
  expect(new Date(span.endMs ?? 0).toISOString()).toBe(end)
})

test('a lifetime never ends', () => {
  expect(windowOf('lifetime', 0)).toMatchObject({ key: 'lifetime' })
  expect(windowOf('lifetime', 0).endMs).toBeUndefined()
})

test('an instant lies inside its window, and two instants share a key exactly when they share the window', () => {
  const instant = fc.integer({ min: Date.UTC(2000, 0), max: Date.UTC(2199, 11) })
  fc.assert(
    fc.property(fc.constantFrom(...WINDOWS), instant, fc.nat(40 * DAY_MS), (window, atMs, laterMs) => {
      const span = windowOf(window, atMs)
      expect(span.startMs).toBeLessThanOrEqual(atMs)
      expect(atMs).toBeLessThan(span.endMs ?? Number.POSITIVE_INFINITY)
      const other = windowOf(window, atMs + laterMs)
      expect(other.key === span.key).toBe(atMs + laterMs < (span.endMs ?? Number.POSITIVE_INFINITY))
      if (span.endMs !== undefined) expect(windowOf(window, span.endMs).startMs).toBe(span.endMs)
    }),
  )
})

test('a retry is told to wait for the rest of the window, and never for nothing', () => {
  const span = windowOf('minute', Date.UTC(2026, 0, 1, 0, 0, 59, 999))
  expect(retryAfterMs(span, Date.UTC(2026, 0, 1, 0, 0, 59, 999))).toBe(1)
  expect(retryAfterMs(span, Date.UTC(2026, 0, 1, 0, 5))).toBe(1)
  expect(retryAfterMs(span, span.startMs)).toBe(60_000)
})

describe('sums of days', () => {
  const days = new Map([
    ['base', 1_000n],
    ['day:2026-10-31', 100n],
    ['day:2026-11-01', 20n],
    ['day:2026-11-22', 3n],
  ])
  const atMs = Date.UTC(2026, 10, 22, 23, 59)
  test('a day is itself, a month its days, a lifetime everything', () => {
    expect(sumWindow(days, 'day', atMs)).toBe(3n)
    expect(sumWindow(days, 'month', atMs)).toBe(23n)
    expect(sumWindow(days, 'lifetime', atMs)).toBe(1_123n)
    expect(sumWindow(days, 'day', atMs + 60_000)).toBe(0n)
  })
  test('no day of a current or previous month is ever folded', () => {
    for (let atMs = Date.UTC(2027, 0, 1); atMs < Date.UTC(2029, 0, 1); atMs += DAY_MS) {
      const previous = new Date(atMs)
      previous.setUTCDate(1)
      previous.setUTCDate(0)
      previous.setUTCDate(1)
      expect(oldestDayKept(atMs) <= dayKey(previous.getTime())).toBe(true)
    }
  })
})
