import { describe, expect, test } from 'vitest'
import { type Asked, PRESETS, previousOf, STEPS, spanOf, ticksOf } from '../../../dashboard/app/time-range.ts'
import { addDays, addMonths, dayStart, instantOf, localDate, offsetText } from '../../../dashboard/app/zones.ts'
import { stepsOf, timeLabel } from '../../../gateway/ledger/time-steps.ts'

const BERLIN = 'Europe/Berlin'
const HOUR_MS = 3_600_000
const at = (iso: string) => Date.parse(iso)
const iso = (ms: number) => new Date(ms).toISOString()
const span = (asked: Asked, zone: string, now: string) => {
  const { fromMs, toMs, step } = spanOf(asked, zone, at(now))
  return { from: iso(fromMs), to: iso(toMs), step }
}

describe('days of a zone', () => {
  test('a day begins at its midnight, in summer and in winter', () => {
    expect(iso(dayStart(BERLIN, '2026-07-01'))).toBe('2026-06-30T22:00:00.000Z')
    expect(iso(dayStart(BERLIN, '2026-12-01'))).toBe('2026-11-30T23:00:00.000Z')
  })

  test('the day on which clocks go forward has 23 hours, the one on which they go back 25', () => {
    const hours = (date: string) => (dayStart(BERLIN, addDays(date, 1)) - dayStart(BERLIN, date)) / HOUR_MS
    expect(hours('2026-03-29')).toBe(23)
    expect(hours('2026-10-25')).toBe(25)
    expect(hours('2026-10-26')).toBe(24)
  })

  test('where midnight does not exist, the day begins when the clock has jumped over it', () => {
    // Santiago goes from 24:00 to 01:00.
    const start = dayStart('America/Santiago', '2026-09-06')
    expect(iso(start)).toBe('2026-09-06T04:00:00.000Z')
    expect(localDate('America/Santiago', start - 1)).toBe('2026-09-05')
  })

  test('where midnight comes twice, the day begins with the first', () => {
    // Havana goes back from 01:00 to 00:00.
    const start = dayStart('America/Havana', '2026-11-01')
    expect(localDate('America/Havana', start)).toBe('2026-11-01')
    expect(localDate('America/Havana', start - 1_000)).toBe('2026-10-31')
  })

  test('a wall time within a gap is the first one behind it', () => {
    expect(iso(instantOf(BERLIN, '2026-03-29T02:30'))).toBe('2026-03-29T01:00:00.000Z')
  })

  test('months keep the day where they have it, else their last', () => {
    expect(addMonths('2026-03-31', -1)).toBe('2026-02-28')
    expect(addMonths('2026-01-15', 12)).toBe('2027-01-15')
  })

  test('offsets of half hours and of the western side are named as such', () => {
    expect(offsetText('Asia/Kolkata', 0)).toBe('+05:30')
    expect(offsetText('America/St_Johns', at('2026-01-01T00:00:00Z'))).toBe('-03:30')
  })
})

describe('presets', () => {
  const NOW = '2026-11-22T19:31:00.000Z'

  test('seven days are whole days of the zone, today the last of them', () => {
    expect(span({ preset: '7d' }, BERLIN, NOW)).toEqual({
      from: '2026-11-15T23:00:00.000Z',
      to: '2026-11-22T23:00:00.000Z',
      step: 'day',
    })
  })

  test('shortly after midnight the zone is a day ahead of UTC', () => {
    expect(span({ preset: 'month' }, BERLIN, '2026-10-31T23:30:00.000Z').from).toBe('2026-10-31T23:00:00.000Z')
  })

  test('24 hours end with the running hour of the zone, half hours included', () => {
    expect(span({ preset: '24h' }, BERLIN, NOW).to).toBe('2026-11-22T20:00:00.000Z')
    expect(span({ preset: '24h' }, 'Asia/Kolkata', NOW).to).toBe('2026-11-22T20:30:00.000Z')
  })

  test('a custom range is inclusive, may be given the wrong way round, and is at most thirteen months', () => {
    const custom = (from: string, to: string) => span({ preset: 'custom', from, to }, 'UTC', NOW)
    expect(custom('2026-11-03', '2026-11-01')).toEqual({
      from: '2026-11-01T00:00:00.000Z',
      to: '2026-11-04T00:00:00.000Z',
      step: 'hour',
    })
    expect(custom('2020-01-01', '2026-11-01').to).toBe('2021-02-01T00:00:00.000Z')
    expect(custom('2026-02-30', 'x')).toEqual(span({ preset: '7d' }, 'UTC', NOW))
  })
})

describe('the period before', () => {
  const previousText = (asked: Asked, zone: string, now: string) => {
    const { fromMs, toMs } = previousOf(asked, spanOf(asked, zone, at(now)), zone, at(now))
    return [iso(fromMs), iso(toMs)]
  }

  test('is as many days, cut at the same time of day as the running one', () => {
    expect(previousText({ preset: '7d' }, 'UTC', '2026-11-22T19:31:00.000Z')).toEqual([
      '2026-11-09T00:00:00.000Z',
      '2026-11-15T19:31:00.000Z',
    ])
  })

  test('is whole where the range is over', () => {
    expect(
      previousText({ preset: 'custom', from: '2026-11-01', to: '2026-11-03' }, 'UTC', '2026-11-22T12:00:00Z'),
    ).toEqual(['2026-10-29T00:00:00.000Z', '2026-11-01T00:00:00.000Z'])
  })

  test('of a running month is the same part of the month before, also where that one is shorter', () => {
    expect(previousText({ preset: 'month' }, 'UTC', '2026-11-10T06:00:00.000Z')).toEqual([
      '2026-10-01T00:00:00.000Z',
      '2026-10-10T06:00:00.000Z',
    ])
    // There is no 31 February: what is compared ends before the running month begins.
    const [, to] = previousText({ preset: 'month' }, 'UTC', '2026-03-31T12:00:00.000Z')
    expect(to).toBe('2026-02-28T12:00:00.000Z')
  })

  test('keeps the time of day across a change of clocks', () => {
    // 22 October is summer time, 29 October is not: the same 12:00 on the wall.
    expect(previousText({ preset: '7d' }, BERLIN, '2026-10-29T11:00:00.000Z')).toEqual([
      '2026-10-15T22:00:00.000Z',
      '2026-10-22T10:00:00.000Z',
    ])
  })

  test.each(PRESETS)('never overlaps the range itself: %s', (preset) => {
    for (const now of [
      '2026-03-29T00:30:00Z',
      '2026-10-25T00:30:00Z',
      '2026-11-30T23:59:00Z',
      '2026-03-01T00:00:00Z',
    ]) {
      const asked: Asked = { preset, from: '2026-02-27', to: '2026-03-02' }
      const shown = spanOf(asked, BERLIN, at(now))
      const previous = previousOf(asked, shown, BERLIN, at(now))
      expect(previous.fromMs).toBeLessThan(previous.toMs)
      expect(previous.toMs).toBeLessThanOrEqual(shown.fromMs)
    }
  })
})

describe('steps', () => {
  test('an hour that the clock runs through twice has two steps of its own', () => {
    const day = { fromMs: dayStart(BERLIN, '2026-10-25'), toMs: dayStart(BERLIN, '2026-10-26') }
    const keys = ticksOf(day, 'hour', BERLIN).map(({ key }) => key)
    expect(keys).toHaveLength(25)
    expect(keys.slice(2, 4)).toEqual(['2026-10-25T02:00+02:00', '2026-10-25T02:00+01:00'])
  })

  test('a clock that is set by half an hour cuts an hour in two', () => {
    const zone = 'Australia/Lord_Howe'
    const day = { fromMs: dayStart(zone, '2026-04-05'), toMs: dayStart(zone, '2026-04-06') }
    const ticks = ticksOf(day, 'hour', zone)
    expect(ticks.slice(1, 3).map(({ key, startMs, endMs }) => [key, (endMs - startMs) / HOUR_MS])).toEqual([
      ['2026-04-05T01:00+11:00', 1],
      ['2026-04-05T01:00+10:30', 0.5],
    ])
  })

  test.each(['UTC', BERLIN, 'Asia/Kolkata', 'America/New_York', 'Australia/Lord_Howe', 'America/Santiago'])(
    'cover the range without holes and are called as the gateway calls them: %s',
    (zone) => {
      for (const step of STEPS) {
        const range = { fromMs: dayStart(zone, '2026-03-20'), toMs: dayStart(zone, '2026-04-12') }
        const ticks = ticksOf(range, step, zone)
        expect(ticks[0]?.startMs).toBe(range.fromMs)
        expect(ticks.at(-1)?.endMs).toBe(range.toMs)
        const steps = stepsOf(step, zone, range.fromMs, range.toMs)
        for (const [index, tick] of ticks.entries()) {
          expect(tick.startMs).toBe(index === 0 ? range.fromMs : ticks[index - 1]?.endMs)
          if (step !== 'hour') expect(timeLabel(steps, localSeconds(tick.key))).toBe(tick.key)
        }
        expect(new Set(ticks.map(({ key }) => key)).size).toBe(ticks.length)
      }
    },
  )
})

const localSeconds = (key: string): number => Date.parse(`${key.length === 7 ? `${key}-01` : key}T00:00:00Z`) / 1_000
