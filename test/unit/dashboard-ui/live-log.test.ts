// The live log under more requests than it can show: what is left out is counted once, and nothing that was shown is.
import { expect, test } from 'vitest'
import type { UsageRequest, UsageRequests } from '../../../dashboard/app/wire.ts'
import { missedBy, seenAfter } from '../../../dashboard/pages/requests/live.ts'

const START_MS = Date.parse('2026-11-22T10:00:00.000Z')
const at = (ms: number) => new Date(START_MS + ms).toISOString()
/** One request a millisecond, as the gateway lists them: the newest first. */
const rows = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, index) => {
    const ms = to - 1 - index
    return { id: `row ${ms}`, recorded_at: at(ms) } as UsageRequest
  })
const answer = (from: number, to: number, leftOut: number): UsageRequests => ({
  data: rows(from, to),
  since: at(to - 1),
  left_out: leftOut,
  names: {} as UsageRequests['names'],
})

test('an answer that leaves nothing out misses nothing', () => {
  expect(missedBy(answer(0, 50, 0), at(-1), new Map())).toBe(0)
})

test('rows of the overlap that were shown before are not missed', () => {
  const seen = seenAfter(new Map(), rows(0, 100))
  // Asked from the beginning again, with room for a hundred: 0 to 99 are left out, and known.
  expect(missedBy(answer(100, 200, 100), at(-1), seen)).toBe(0)
  // 100 to 299 came in between; only these were never seen.
  expect(missedBy(answer(300, 400, 300), at(-1), seen)).toBe(200)
})

test('what came behind the newest row and is not in the answer is missed, whole', () => {
  const seen = seenAfter(new Map(), rows(0, 100))
  expect(missedBy(answer(250, 350, 150), at(99), seen)).toBe(150)
})

test('rows that can come again are remembered, and older ones forgotten', () => {
  const seen = seenAfter(seenAfter(new Map(), rows(0, 10)), rows(15_000, 15_010))
  expect(seen.size).toBe(20)
  expect(seenAfter(seen, rows(25_000, 25_001)).size).toBe(11)
})
