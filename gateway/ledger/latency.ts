// Histograms of durations. Owns the slots, which are the same for everyone and for ever, so that counts of any two
// histograms add up slot by slot, and how a percentile is read from them. Pure; who is counted is rollups.ts.
//
// Durations are whole milliseconds. Up to 16 ms every millisecond has a slot of its own; from there each slot is 2^(1/4)
// times as wide as the one before, up to 70 minutes. A percentile is the geometric middle of its slot, so it is at most
// LATENCY_ERROR away from a duration that was measured.

/** Below this every whole millisecond is a slot. A power of two, so that the growing slots begin on a border. */
const EXACT_BELOW_MS = 16
const SLOTS_PER_DOUBLING = 4
/** 2^22 ms = 70 minutes: beyond every deadline there is. */
const TOP_EXPONENT = 22

/** Largest relative distance between a percentile that was read and the duration that stands there: half a slot, and rounding. */
export const LATENCY_ERROR = 0.091

/** Lower borders of the slots from 1 on, in ms, rising; slot 0 is below the first, the last slot has no upper end. */
export const SLOT_BORDERS_MS: readonly number[] = [
  ...Array.from({ length: EXACT_BELOW_MS - 1 }, (_, index) => index + 1),
  ...Array.from({ length: (TOP_EXPONENT - Math.log2(EXACT_BELOW_MS)) * SLOTS_PER_DOUBLING + 1 }, (_, step) =>
    Math.round(EXACT_BELOW_MS * 2 ** (step / SLOTS_PER_DOUBLING)),
  ),
]

/** Requests per slot. */
export type Histogram = ReadonlyMap<number, bigint>

export type Percentiles = { count: bigint; p50Ms: number; p95Ms: number; p99Ms: number }

/** The slot of a duration; what a clock step made negative counts as none. */
export function slotOf(durationMs: number): number {
  let slot = 0
  for (const border of SLOT_BORDERS_MS) {
    if (durationMs < border) break
    slot++
  }
  return slot
}

/** A duration that stands for everything in a slot; of the last one its lower border. Whole milliseconds where the slot has one. */
export function slotMiddleMs(slot: number): number {
  const lowMs = SLOT_BORDERS_MS[slot - 1] ?? 0
  const nextMs = SLOT_BORDERS_MS[slot]
  return nextMs === undefined ? lowMs : Math.round(Math.sqrt(lowMs * (nextMs - 1)) * 10) / 10
}

/** Percentiles by nearest rank; `undefined` where nothing was counted. */
export function percentiles(histogram: Histogram): Percentiles | undefined {
  const slots = [...histogram].filter(([, count]) => count > 0n).sort(([a], [b]) => a - b)
  const count = slots.reduce((sum, [, inSlot]) => sum + inSlot, 0n)
  if (count === 0n) return undefined
  const at = (hundredths: bigint): number => {
    const rank = (count * hundredths + 99n) / 100n
    let seen = 0n
    for (const [slot, inSlot] of slots) {
      seen += inSlot
      if (seen >= rank) return slotMiddleMs(slot)
    }
    return slotMiddleMs(slots.at(-1)?.[0] ?? 0)
  }
  return { count, p50Ms: at(50n), p95Ms: at(95n), p99Ms: at(99n) }
}
