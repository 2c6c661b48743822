// Calendar time in a named zone: local dates, when they begin, and what the zone is called. Owns the arithmetic around
// daylight saving, so that no other file adds 24 hours to a day. ○ Pure.

const MINUTE_MS = 60_000
export const HOUR_MS = 60 * MINUTE_MS
/** No zone's clock runs more than this ahead of or behind UTC. */
const OFFSET_MAX_MS = 15 * HOUR_MS

const formats = new Map<string, Intl.DateTimeFormat>()

function partsFormat(zone: string): Intl.DateTimeFormat {
  const known = formats.get(zone)
  if (known !== undefined) return known
  const made = new Intl.DateTimeFormat('en-GB', {
    timeZone: zone,
    hourCycle: 'h23',
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
  })
  formats.set(zone, made)
  return made
}

export function isZone(name: string): boolean {
  if (!/^[A-Za-z]/.test(name)) return false
  try {
    partsFormat(name)
    return true
  } catch {
    return false
  }
}

/** What a zone's clock shows at an instant, as if that were UTC. @throws RangeError for an unknown zone */
function wallMs(zone: string, atMs: number): number {
  const parts: Record<string, number> = {}
  for (const { type, value } of partsFormat(zone).formatToParts(atMs)) parts[type] = Number(value)
  const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = parts
  return Date.UTC(year, month - 1, day, hour, minute, second)
}

/** Clock minus UTC, in ms. */
export const offsetMs = (zone: string, atMs: number): number => wallMs(zone, atMs) - Math.floor(atMs / 1_000) * 1_000

/** `2026-11-22` as the zone's clock shows it. */
export const localDate = (zone: string, atMs: number): string => new Date(wallMs(zone, atMs)).toISOString().slice(0, 10)

/** `2026-11-22T05:30:00` as the zone's clock shows it. */
export const localTime = (zone: string, atMs: number): string => new Date(wallMs(zone, atMs)).toISOString().slice(0, 19)

/** When a zone's clock first shows a wall time, or the first one after a gap. `2026-11-22T05:30`. */
export function instantOf(zone: string, local: string): number {
  const wall = Date.parse(`${local.length === 10 ? `${local}T00:00` : local}Z`)
  const offsets = [offsetMs(zone, wall - OFFSET_MAX_MS), offsetMs(zone, wall), offsetMs(zone, wall + OFFSET_MAX_MS)]
  const candidates = offsets.map((offset) => wall - offset).sort((a, b) => a - b)
  const exact = candidates.find((atMs) => wallMs(zone, atMs) === wall)
  if (exact !== undefined) return exact
  // The clock jumps over it: the first instant behind the gap.
  let before = candidates[0] ?? wall
  let after = candidates.at(-1) ?? wall
  while (after - before > 1_000) {
    const middle = Math.floor((before + after) / 2_000) * 1_000
    if (wallMs(zone, middle) >= wall) after = middle
    else before = middle
  }
  return after
}

/** When the clock is set between two instants that have different offsets; to the second. */
export function offsetChange(zone: string, fromMs: number, toMs: number): number {
  const offset = offsetMs(zone, fromMs)
  let [before, after] = [fromMs, toMs]
  while (after - before > 1_000) {
    const middle = Math.floor((before + after) / 2_000) * 1_000
    if (offsetMs(zone, middle) === offset) before = middle
    else after = middle
  }
  return after
}

/** First instant of a date. */
export const dayStart = (zone: string, date: string): number => instantOf(zone, date)

/** A date so many days on; calendar arithmetic, so a day of 23 hours counts as one. */
export function addDays(date: string, days: number): string {
  const at = new Date(`${date}T00:00:00Z`)
  at.setUTCDate(at.getUTCDate() + days)
  return at.toISOString().slice(0, 10)
}

/** The same day of another month, or its last day where that month is shorter. */
export function addMonths(date: string, months: number): string {
  const [year = 1970, month = 1, day = 1] = date.split('-').map(Number)
  const last = new Date(Date.UTC(year, month - 1 + months + 1, 0)).getUTCDate()
  return new Date(Date.UTC(year, month - 1 + months, Math.min(day, last))).toISOString().slice(0, 10)
}

export const monthStart = (date: string): string => `${date.slice(0, 7)}-01`

/** Whole days from one date to another. */
export const daysBetween = (from: string, to: string): number =>
  Math.round((Date.parse(`${to}T00:00:00Z`) - Date.parse(`${from}T00:00:00Z`)) / (24 * HOUR_MS))

/** `+01:00` */
export function offsetText(zone: string, atMs: number): string {
  const minutes = Math.round(offsetMs(zone, atMs) / MINUTE_MS)
  const two = (value: number) => String(value).padStart(2, '0')
  return `${minutes < 0 ? '-' : '+'}${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`
}
