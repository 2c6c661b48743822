// Latency histograms: slots that cover everything, add up, and give percentiles within the stated error.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { LATENCY_ERROR, percentiles, SLOT_BORDERS_MS, slotMiddleMs, slotOf } from '../../../gateway/ledger/latency.ts'

const histogramOf = (durations: readonly number[]): Map<number, bigint> => {
  const slots = new Map<number, bigint>()
  for (const durationMs of durations) slots.set(slotOf(durationMs), (slots.get(slotOf(durationMs)) ?? 0n) + 1n)
  return slots
}
const nearestRank = (durations: readonly number[], hundredths: number): number =>
  [...durations].sort((a, b) => a - b)[Math.ceil((durations.length * hundredths) / 100) - 1] ?? Number.NaN

/** From a millisecond to 70 minutes, each doubling as likely as the next. */
const duration = fc.double({ min: 0, max: 22, noNaN: true }).map((exponent) => Math.floor(2 ** exponent))

describe('slots', () => {
  test('rise without a gap: 88 borders from 1 ms to 70 minutes', () => {
    expect(SLOT_BORDERS_MS).toHaveLength(88)
    expect(SLOT_BORDERS_MS.every((border, index) => index === 0 || border > (SLOT_BORDERS_MS[index - 1] ?? 0))).toBe(
      true,
    )
    expect([SLOT_BORDERS_MS[0], SLOT_BORDERS_MS.at(-1)]).toEqual([1, 2 ** 22])
    // Stored counts belong to these numbers: moving a border would rewrite history.
    expect(SLOT_BORDERS_MS.slice(14, 24)).toEqual([15, 16, 19, 23, 27, 32, 38, 45, 54, 64])
  })
  test('begin at their border and end before the next', () => {
    for (const [index, border] of SLOT_BORDERS_MS.entries()) {
      expect(slotOf(border)).toBe(index + 1)
      expect(slotOf(border - 1)).toBe(index)
    }
    expect(slotOf(-5)).toBe(0)
    expect(slotOf(1e12)).toBe(SLOT_BORDERS_MS.length)
  })
  test('stand for both their ends within the stated error, all of them', () => {
    for (const [index, lowMs] of SLOT_BORDERS_MS.entries()) {
      const nextMs = SLOT_BORDERS_MS[index + 1]
      if (nextMs === undefined) continue
      const middleMs = slotMiddleMs(index + 1)
      expect(Math.abs(middleMs - lowMs) / lowMs).toBeLessThanOrEqual(LATENCY_ERROR)
      expect(Math.abs(middleMs - (nextMs - 1)) / (nextMs - 1)).toBeLessThanOrEqual(LATENCY_ERROR)
    }
  })
})

describe('percentiles', () => {
  test('are within the stated error of the nearest rank, for any durations', () => {
    fc.assert(
      fc.property(fc.array(duration, { minLength: 1, maxLength: 300 }), (durations) => {
        const read = percentiles(histogramOf(durations))
        expect(read?.count).toBe(BigInt(durations.length))
        for (const [hundredths, readMs] of [
          [50, read?.p50Ms ?? -1],
          [95, read?.p95Ms ?? -1],
          [99, read?.p99Ms ?? -1],
        ] as const) {
          const trueMs = nearestRank(durations, hundredths)
          expect(Math.abs(readMs - trueMs)).toBeLessThanOrEqual(trueMs * LATENCY_ERROR)
        }
      }),
    )
  })
  test('of histograms that were added up are those of all durations together', () => {
    fc.assert(
      fc.property(fc.array(duration, { maxLength: 60 }), fc.array(duration, { maxLength: 60 }), (left, right) => {
        const sum = histogramOf(left)
        for (const [slot, count] of histogramOf(right)) sum.set(slot, (sum.get(slot) ?? 0n) + count)
        expect(percentiles(sum)).toEqual(percentiles(histogramOf([...left, ...right])))
      }),
    )
  })
  test('of one duration are that duration, of none are absent', () => {
    expect(percentiles(histogramOf([7]))).toEqual({ count: 1n, p50Ms: 7, p95Ms: 7, p99Ms: 7 })
    expect(percentiles(new Map())).toBeUndefined()
    expect(percentiles(new Map([[3, 0n]]))).toBeUndefined()
  })
})
