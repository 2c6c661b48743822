// The pace of rolling up: fresh while it is cheap, rare while it is dear, never forgotten.
import { describe, expect, test } from 'vitest'
import { RollPace } from '../../../gateway/ledger/roll-pace.ts'

describe('the pace of rolling up', () => {
  test('looks once after a start, for what an object before it left', () => {
    expect(new RollPace(1_000).dueAtMs).toBe(6_000)
  })
  test('rests until rows are written', () => {
    const pace = new RollPace(0)
    pace.begin()
    pace.end(5_000, 5_100, false)
    expect(pace.dueAtMs).toBeUndefined()
    pace.rowsWritten()
    expect(pace.dueAtMs).toBe(10_100)
  })
  test('rows that are written during a roll want another one', () => {
    const pace = new RollPace(0)
    pace.begin()
    pace.rowsWritten()
    pace.end(5_000, 5_100, false)
    expect(pace.dueAtMs).toBe(10_100)
  })
  test('goes on where buckets are left', () => {
    const pace = new RollPace(0)
    pace.begin()
    pace.end(5_000, 5_100, true)
    expect(pace.dueAtMs).toBe(10_100)
  })
  test('spends at most a twentieth of the time, and pauses at most five minutes', () => {
    const pace = new RollPace(0)
    pace.begin()
    pace.end(10_000, 12_000, true)
    expect(pace.dueAtMs).toBe(12_000 + 19 * 2_000)
    pace.begin()
    pace.end(100_000, 160_000, true)
    expect(pace.dueAtMs).toBe(160_000 + 300_000)
  })
  test('pauses double while the database refuses, and a success forgets the failures', () => {
    const pace = new RollPace(0)
    const pauses = Array.from({ length: 7 }, () => {
      pace.begin()
      pace.fail(0)
      return pace.dueAtMs
    })
    expect(pauses).toEqual([10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000])
    pace.begin()
    pace.end(0, 0, true)
    expect(pace.dueAtMs).toBe(5_000)
  })
})
