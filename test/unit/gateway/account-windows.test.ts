// Calendar windows in named zones, against an oracle that walks the zone's clock minute by minute.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isTimeZone, utcDay, windowAfter, windowBefore, windowOf } from '../../../gateway/account/windows.ts'

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
const DAY_MS = 24 * HOUR_MS

const iso = (atMs: number | undefined) => (atMs === undefined ? undefined : new Date(atMs).toISOString())
const at = (text: string) => Date.parse(text)

describe('a window', () => {
  test.each([
    ['minute', 'UTC', '2026-11-22T10:05:59.999Z', 'minute@2026-11-22T10:05Z', '2026-11-22T10:06:00.000Z'],
    ['hour', 'UTC', '2026-11-22T10:59:59.999Z', 'hour@2026-11-22T10:00Z', '2026-11-22T11:00:00.000Z'],
    ['day', 'UTC', '2026-12-31T23:59:59.999Z', 'day@2026-12-31T00:00Z', '2027-01-01T00:00:00.000Z'],
    ['month', 'UTC', '2028-02-29T23:00:00.000Z', 'month@2028-02-01T00:00Z', '2028-03-01T00:00:00.000Z'],
    // Half-hour and three-quarter zones.
    ['hour', 'Asia/Kolkata', '2026-11-22T10:29:00Z', 'hour@2026-11-22T09:30Z', '2026-11-22T10:30:00.000Z'],
    ['day', 'Asia/Kathmandu', '2026-11-22T18:15:00Z', 'day@2026-11-22T18:15Z', '2026-11-23T18:15:00.000Z'],
    // 23 and 25 hours.
    ['day', 'Europe/Berlin', '2026-03-29T12:00:00Z', 'day@2026-03-28T23:00Z', '2026-03-29T22:00:00.000Z'],
    ['day', 'Europe/Berlin', '2026-10-25T12:00:00Z', 'day@2026-10-24T22:00Z', '2026-10-25T23:00:00.000Z'],
    ['day', 'America/New_York', '2026-11-22T04:59:59Z', 'day@2026-11-21T05:00Z', '2026-11-22T05:00:00.000Z'],
    ['month', 'America/New_York', '2026-11-15T00:00:00Z', 'month@2026-11-01T04:00Z', '2026-12-01T05:00:00.000Z'],
    // The hour that a clock runs through twice is two windows.
    ['hour', 'Europe/Berlin', '2026-10-25T00:30:00Z', 'hour@2026-10-25T00:00Z', '2026-10-25T01:00:00.000Z'],
    ['hour', 'Europe/Berlin', '2026-10-25T01:30:00Z', 'hour@2026-10-25T01:00Z', '2026-10-25T02:00:00.000Z'],
    // A clock set by half an hour cuts the hour.
    ['hour', 'Australia/Lord_Howe', '2026-04-04T15:10:00Z', 'hour@2026-04-04T15:00Z', '2026-04-04T15:30:00.000Z'],
    // A day that begins at one o'clock, because midnight did not happen.
    ['day', 'America/Havana', '2026-03-08T12:00:00Z', 'day@2026-03-08T05:00Z', '2026-03-09T04:00:00.000Z'],
    // A day that a zone left out.
    ['day', 'Pacific/Apia', '2011-12-30T09:00:00Z', 'day@2011-12-29T10:00Z', '2011-12-30T10:00:00.000Z'],
    ['day', 'Pacific/Apia', '2011-12-30T11:00:00Z', 'day@2011-12-30T10:00Z', '2011-12-31T10:00:00.000Z'],
  ] as const)('the %s in %s at %s is %s and ends at %s', (window, zone, instant, key, end) => {
    const span = windowOf(window, zone, at(instant))
    expect(span.key).toBe(key)
    expect(iso(span.endMs)).toBe(end)
    expect(key.endsWith(`${iso(span.startMs)?.slice(0, 16)}Z`)).toBe(true)
  })

  test('of a lifetime never begins and never ends', () => {
    expect(windowOf('lifetime', 'Europe/Berlin', 0)).toEqual({ key: 'lifetime' })
    expect(windowBefore('lifetime', 'UTC', windowOf('lifetime', 'UTC', 0))).toBeUndefined()
    expect(windowAfter('lifetime', 'UTC', windowOf('lifetime', 'UTC', 0))).toBeUndefined()
  })
})

test('a zone is one that has a name and rules', () => {
  for (const name of ['UTC', 'Europe/Berlin', 'Asia/Kolkata', 'America/Argentina/Buenos_Aires'])
    expect(isTimeZone(name)).toBe(true)
  for (const name of ['', 'Mars/Olympus', '+05:30', 'Europe/', '../etc/passwd']) expect(isTimeZone(name)).toBe(false)
})

test('a UTC day is the date of an instant', () => {
  expect(utcDay(at('2026-11-22T23:59:59.999Z'))).toBe('2026-11-22')
})

const ZONES = [
  'UTC',
  'Europe/Berlin',
  'America/New_York',
  'America/St_Johns',
  'America/Havana',
  'America/Sao_Paulo',
  'Asia/Kolkata',
  'Asia/Kathmandu',
  'Asia/Tehran',
  'Africa/Casablanca',
  'Africa/Cairo',
  'Australia/Lord_Howe',
  'Pacific/Apia',
  'Pacific/Chatham',
  'Pacific/Kiritimati',
  'Antarctica/Troll',
]

/** What the zone's clock shows, to the minute, as if it were UTC. Slow, and nothing but Intl. */
function clock(zone: string): (atMs: number) => number {
  const format = new Intl.DateTimeFormat('sv-SE', {
    timeZone: zone,
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
  })
  return (atMs) => at(`${format.format(atMs).replace(' ', 'T')}:00Z`)
}

const CLOCKS = new Map(ZONES.map((zone) => [zone, clock(zone)]))
const STEP_MS = 15 * MINUTE_MS

/** Every instant at which a zone's offset changes, found by walking. */
function changesOf(zone: string, fromMs: number, toMs: number): number[] {
  const shown = CLOCKS.get(zone) ?? clock(zone)
  const offset = (atMs: number) => shown(atMs) - Math.floor(atMs / MINUTE_MS) * MINUTE_MS
  const changes: number[] = []
  for (let day = fromMs; day < toMs; day += DAY_MS) {
    if (offset(day) === offset(day + DAY_MS)) continue
    for (let minute = day; minute < day + DAY_MS; minute += MINUTE_MS)
      if (offset(minute) !== offset(minute + MINUTE_MS)) changes.push(minute + MINUTE_MS)
  }
  return changes
}

/**
 * The start of the day or month around an instant: the first instant at which the clock has reached the latest date
 * (month) that it has reached by then. Walks back in steps of which no offset is a fraction, then by minutes.
 */
function oracleStart(window: 'day' | 'month', zone: string, atMs: number): number {
  const shown = CLOCKS.get(zone) ?? clock(zone)
  const unit = (instant: number) => new Date(shown(instant)).toISOString().slice(0, window === 'day' ? 10 : 7)
  const backMs = window === 'day' ? 30 * HOUR_MS : 33 * DAY_MS
  const now = Math.floor(atMs / MINUTE_MS) * MINUTE_MS
  let reached = unit(now)
  // A clock that was set back may have shown a later date before.
  for (let minute = now - 3 * HOUR_MS; minute < now; minute += MINUTE_MS) {
    const seen = unit(minute)
    if (seen > reached) reached = seen
  }
  let low = now - backMs - (now % STEP_MS)
  while (unit(low) >= reached) low -= DAY_MS
  while (unit(low + STEP_MS) < reached) low += STEP_MS
  while (unit(low) < reached) low += MINUTE_MS
  return low
}

describe('against a clock that is watched', () => {
  const instants = fc.integer({ min: Date.UTC(2001, 0), max: Date.UTC(2036, 0) })

  test('days and months begin where the oracle says, on any day', () => {
    fc.assert(
      fc.property(fc.constantFrom(...ZONES), fc.constantFrom('day', 'month'), instants, (zone, window, atMs) => {
        const span = windowOf(window, zone, atMs)
        expect(iso(span.startMs)).toBe(iso(oracleStart(window, zone, atMs)))
      }),
      { numRuns: 150 },
    )
  })

  test('days and hours begin where the oracle says, around every change of a clock in two years', () => {
    const from = Date.UTC(2025, 5)
    for (const zone of ZONES) {
      const shown = CLOCKS.get(zone) ?? clock(zone)
      for (const change of changesOf(zone, from, from + 2 * 366 * DAY_MS)) {
        for (const aside of [-25 * HOUR_MS, -HOUR_MS, -MINUTE_MS, 0, MINUTE_MS, 59 * MINUTE_MS, 20 * HOUR_MS]) {
          const atMs = change + aside
          expect(iso(windowOf('day', zone, atMs).startMs), `${zone} ${iso(atMs)}`).toBe(
            iso(oracleStart('day', zone, atMs)),
          )
          // An hour: the same hour on the clock, and the clock runs evenly.
          const hour = windowOf('hour', zone, atMs)
          let start = Math.floor(atMs / MINUTE_MS) * MINUTE_MS
          const sameHour = (a: number, b: number) =>
            Math.floor(shown(a) / HOUR_MS) === Math.floor(shown(b) / HOUR_MS) && shown(b) - shown(a) === b - a
          while (sameHour(start - MINUTE_MS, start)) start -= MINUTE_MS
          expect(iso(hour.startMs), `${zone} ${iso(atMs)}`).toBe(iso(start))
        }
      }
    }
  })

  test('windows of a kind meet without a gap and share a key exactly when they are the same', () => {
    const kinds = fc.constantFrom('minute', 'hour', 'day', 'month')
    fc.assert(
      fc.property(kinds, fc.constantFrom(...ZONES), instants, fc.nat(40 * DAY_MS), (window, zone, atMs, laterMs) => {
        const span = windowOf(window, zone, atMs)
        const [start, end] = [span.startMs ?? 0, span.endMs ?? 0]
        expect(start).toBeLessThanOrEqual(atMs)
        expect(atMs).toBeLessThan(end)
        expect(windowOf(window, zone, end).startMs).toBe(end)
        expect(windowOf(window, zone, start - 1).endMs).toBe(start)
        expect(windowOf(window, zone, atMs + laterMs).key === span.key).toBe(atMs + laterMs < end)
        expect(windowBefore(window, zone, span)?.endMs).toBe(start)
        expect(windowAfter(window, zone, span)?.startMs).toBe(end)
      }),
      { numRuns: 300 },
    )
  })
})
