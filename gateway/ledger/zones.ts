// Local time over a range. Owns the stretches between two changes of a zone's offset, so that SQL can cut local days and
// hours with integers alone and both sides use one copy of the zone rules. Pure.
import { change, offsetMs } from '../account/windows.ts'

/** From `fromMs` until the next stretch begins, local time is UTC + `offsetMs`. */
export type Stretch = { fromMs: number; offsetMs: number }

const DAY_MS = 86_400_000

/**
 * The stretches of [fromMs, toMs), the first from `fromMs` on. A zone that changed and changed back within one day would
 * be missed, and none does.
 * @throws RangeError where the runtime does not know the zone
 */
export function stretches(timeZone: string, fromMs: number, toMs: number): [Stretch, ...Stretch[]] {
  const found: [Stretch, ...Stretch[]] = [{ fromMs, offsetMs: offsetMs(timeZone, fromMs) }]
  let last = found[0]
  for (let atMs = fromMs; atMs < toMs; ) {
    const nextMs = Math.min(atMs + DAY_MS, toMs)
    const offset = offsetMs(timeZone, nextMs)
    if (offset !== last.offsetMs) {
      last = { fromMs: change(timeZone, atMs, nextMs), offsetMs: offset }
      if (last.fromMs < toMs) found.push(last)
    }
    atMs = nextMs
  }
  return found
}

/** `+05:45`; `Z` in UTC. */
export function offsetText(offset: number): string {
  if (offset === 0) return 'Z'
  const minutes = Math.abs(offset) / 60_000
  const two = (value: number) => String(Math.floor(value)).padStart(2, '0')
  return `${offset < 0 ? '-' : '+'}${two(minutes / 60)}:${two(minutes % 60)}`
}
