// Calendar windows once more, the slow and obvious way: a table of offsets for the zones and dates that histories use.
// Owns nothing of the product's; the books tell windows apart by these names.
import type { LimitWindow } from '../../gateway/account/limit.ts'

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS

/** Minutes ahead of UTC: before, and from an instant on. */
const ZONES: Record<string, { before: number; changesAtMs: number; after: number }> = {
  UTC: { before: 0, changesAtMs: 0, after: 0 },
  // Summer time begins on 30 March 2031 at 01:00 UTC.
  'Europe/Berlin': { before: 60, changesAtMs: Date.UTC(2031, 2, 30, 1), after: 120 },
  'Asia/Kolkata': { before: 330, changesAtMs: 0, after: 330 },
}

export const ZONE_NAMES = Object.keys(ZONES)

/** The same text for instants of one window, different text for others. */
export function windowName(window: LimitWindow, timeZone: string, atMs: number): string {
  if (window === 'lifetime') return 'ever'
  if (window === 'minute') return `minute ${Math.floor(atMs / MINUTE_MS)}`
  const zone = ZONES[timeZone]
  if (zone === undefined) throw new RangeError(`the model does not know ${timeZone}`)
  const offset = atMs < zone.changesAtMs ? zone.before : zone.after
  const wallMs = atMs + offset * MINUTE_MS
  if (window === 'hour') return `hour ${Math.floor(wallMs / HOUR_MS)} at ${offset}`
  return `${window} ${new Date(wallMs).toISOString().slice(0, window === 'day' ? 10 : 7)}`
}
