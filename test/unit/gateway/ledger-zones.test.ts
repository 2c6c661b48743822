// Local time over a range: stretches of one offset each, as the runtime's calendar has them.
import { describe, expect, test } from 'vitest'
import { offsetText, stretches } from '../../../gateway/ledger/zones.ts'

const at = (text: string) => Date.parse(text)
const shown = (timeZone: string, from: string, to: string) =>
  stretches(timeZone, at(from), at(to)).map(({ fromMs, offsetMs }) => [
    new Date(fromMs).toISOString(),
    offsetText(offsetMs),
  ])

describe('the stretches of a zone', () => {
  test('are one where no clock is set', () => {
    expect(shown('UTC', '2026-01-01T00:00:00Z', '2027-01-01T00:00:00Z')).toEqual([['2026-01-01T00:00:00.000Z', 'Z']])
    expect(shown('Asia/Kathmandu', '2026-01-01T00:00:00Z', '2027-01-01T00:00:00Z')).toEqual([
      ['2026-01-01T00:00:00.000Z', '+05:45'],
    ])
  })
  test('begin where clocks are set, by an hour or by half of one', () => {
    expect(shown('Europe/Berlin', '2026-01-01T00:00:00Z', '2027-01-01T00:00:00Z')).toEqual([
      ['2026-01-01T00:00:00.000Z', '+01:00'],
      ['2026-03-29T01:00:00.000Z', '+02:00'],
      ['2026-10-25T01:00:00.000Z', '+01:00'],
    ])
    expect(shown('Australia/Lord_Howe', '2026-09-30T00:00:00Z', '2026-10-10T00:00:00Z')).toEqual([
      ['2026-09-30T00:00:00.000Z', '+10:30'],
      ['2026-10-03T15:30:00.000Z', '+11:00'],
    ])
    expect(shown('America/St_Johns', '2026-10-20T00:00:00Z', '2026-11-10T00:00:00Z')).toEqual([
      ['2026-10-20T00:00:00.000Z', '-02:30'],
      ['2026-11-01T04:30:00.000Z', '-03:30'],
    ])
  })
  test('cut at the ends of the range, exactly', () => {
    expect(shown('Europe/Berlin', '2026-10-25T01:00:00Z', '2026-10-26T00:00:00Z')).toHaveLength(1)
    expect(shown('Europe/Berlin', '2026-10-25T00:59:59Z', '2026-10-25T01:00:00Z')).toEqual([
      ['2026-10-25T00:59:59.000Z', '+02:00'],
    ])
    expect(shown('Europe/Berlin', '2026-10-25T00:59:59Z', '2026-10-25T01:00:01Z')).toHaveLength(2)
  })
  test('of an unknown zone are refused', () => {
    expect(() => stretches('Mars/Olympus', 0, 1)).toThrow(RangeError)
  })
})
