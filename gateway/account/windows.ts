// Calendar windows in a named time zone. Owns which window an instant lies in, where it begins and ends, and its key;
// what is counted in it is counts.ts. The clock is an argument. Pure apart from a cache of the last windows of each
// zone, so that a request costs no look-up in the zone's tables.
//
//   minute    a minute of UTC: every zone in use differs from UTC by whole minutes
//   hour      instants that share the hour on the zone's clock and its offset: at half past in a half-hour zone, and the
//             hour that a clock runs through twice is two windows
//   day       from the first instant of a date to the first instant of the next one: 23, 24 or 25 hours
//   month     likewise
//   lifetime  never begins and never ends
import type { LimitWindow } from './limit.ts'

export type WindowSpan = {
  /** Part of the counter's identity: `day@2026-11-22T05:00Z`, or `lifetime`. */
  key: string
  /** Absent: since ever. */
  startMs?: number
  /** Exclusive. Absent: never ends. */
  endMs?: number
}

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
/** No zone's clock runs more than this ahead of or behind UTC. */
const OFFSET_MAX_MS = 15 * HOUR_MS
/** The window of now, its neighbours, and one for clocks that differ. */
const SPANS_KEPT = 4
/** More zones than have names; a bound all the same. */
const ZONES_KEPT = 1_000

const LIFETIME: WindowSpan = { key: 'lifetime' }

/** Kept by zone and kind of window. */
const kept = new Map<string, WindowSpan[]>()
const formats = new Map<string, Intl.DateTimeFormat>()

/** The window around an instant. @throws RangeError for an unknown zone. */
export function windowOf(window: LimitWindow, timeZone: string, atMs: number): WindowSpan {
  if (window === 'lifetime') return LIFETIME
  // Minutes are the same everywhere.
  const name = window === 'minute' ? window : `${window}/${timeZone}`
  const spans = kept.get(name)
  for (const span of spans ?? []) if (contains(span, atMs)) return span
  const span = window === 'minute' ? fixed(window, atMs, MINUTE_MS) : computed(window, timeZone, atMs)
  if (spans === undefined) {
    if (kept.size >= ZONES_KEPT) kept.clear()
    kept.set(name, [span])
  } else {
    spans.unshift(span)
    spans.length = Math.min(spans.length, SPANS_KEPT)
  }
  return span
}

/** The window before this one; absent before the first. */
export function windowBefore(window: LimitWindow, timeZone: string, span: WindowSpan): WindowSpan | undefined {
  return span.startMs === undefined ? undefined : windowOf(window, timeZone, span.startMs - 1)
}

/** The window after this one; absent after the last. */
export function windowAfter(window: LimitWindow, timeZone: string, span: WindowSpan): WindowSpan | undefined {
  return span.endMs === undefined ? undefined : windowOf(window, timeZone, span.endMs)
}

/** Whether the runtime knows a zone of this name. */
export function isTimeZone(name: string): boolean {
  // Bare offsets have no rules and no name.
  if (!/^[A-Za-z]/.test(name)) return false
  try {
    offsetMs(name, 0)
    return true
  } catch {
    return false
  }
}

/** `2026-11-22`, the UTC day of an instant, as Postgres' date type takes it. */
export const utcDay = (atMs: number): string => new Date(atMs).toISOString().slice(0, 10)

const contains = (span: WindowSpan, atMs: number): boolean =>
  (span.startMs ?? Number.NEGATIVE_INFINITY) <= atMs && atMs < (span.endMs ?? Number.POSITIVE_INFINITY)

function spanOf(window: LimitWindow, startMs: number, endMs: number): WindowSpan {
  return { key: `${window}@${new Date(startMs).toISOString().slice(0, 16)}Z`, startMs, endMs }
}

/** A unit that divides the epoch evenly: POSIX time has no leap seconds. */
function fixed(window: LimitWindow, atMs: number, lengthMs: number): WindowSpan {
  const startMs = Math.floor(atMs / lengthMs) * lengthMs
  return spanOf(window, startMs, startMs + lengthMs)
}

function computed(window: 'hour' | 'day' | 'month', timeZone: string, atMs: number): WindowSpan {
  if (window === 'hour') return hour(timeZone, atMs)
  const local = new Date(atMs + offsetMs(timeZone, atMs))
  const [year, month, day] = [local.getUTCFullYear(), local.getUTCMonth(), local.getUTCDate()]
  // A clock set back over midnight shows a date again that has ended: try from the date after the one it shows.
  for (let ahead = 1; ; ahead--) {
    const startMs = window === 'day' ? Date.UTC(year, month, day + ahead) : Date.UTC(year, month + ahead, 1)
    const beginMs = firstInstant(timeZone, startMs)
    if (beginMs > atMs) continue
    // A date that a zone skipped begins and ends at once: look further until something is left.
    for (let step = 1; ; step++) {
      const next =
        window === 'day' ? Date.UTC(year, month, day + ahead + step) : Date.UTC(year, month + ahead + step, 1)
      const endMs = firstInstant(timeZone, next)
      if (endMs > atMs) return spanOf(window, beginMs, endMs)
    }
  }
}

/** The hour on the zone's clock, cut where the clock was set. */
function hour(timeZone: string, atMs: number): WindowSpan {
  const offset = offsetMs(timeZone, atMs)
  let startMs = Math.floor((atMs + offset) / HOUR_MS) * HOUR_MS - offset
  let endMs = startMs + HOUR_MS
  if (offsetMs(timeZone, startMs) !== offset) startMs = change(timeZone, startMs, atMs)
  if (offsetMs(timeZone, endMs - MINUTE_MS) !== offset) endMs = change(timeZone, atMs, endMs - MINUTE_MS)
  return spanOf('hour', startMs, endMs)
}

/** When a zone's clock first shows a wall time or a later one. @param wallMs The wall time as if it were UTC. */
function firstInstant(timeZone: string, wallMs: number): number {
  const [fromMs, toMs] = [wallMs - OFFSET_MAX_MS, wallMs + OFFSET_MAX_MS]
  const [before, after] = [offsetMs(timeZone, fromMs), offsetMs(timeZone, toMs)]
  const candidates = [wallMs - before, wallMs - after]
  if (before !== after) candidates.push(change(timeZone, fromMs, toMs))
  candidates.sort((a, b) => a - b)
  const first = candidates.find((atMs) => atMs + offsetMs(timeZone, atMs) >= wallMs)
  if (first === undefined) throw new Error(`${timeZone} never reached ${new Date(wallMs).toISOString()}`)
  return first
}

/** The minute at which a zone's offset changed, given one instant before and one after. */
export function change(timeZone: string, beforeMs: number, afterMs: number): number {
  const after = offsetMs(timeZone, afterMs)
  let low = Math.floor(beforeMs / MINUTE_MS)
  let high = Math.ceil(afterMs / MINUTE_MS)
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (offsetMs(timeZone, middle * MINUTE_MS) === after) high = middle
    else low = middle
  }
  return high * MINUTE_MS
}

/** How far the zone's clock is ahead of UTC. @throws RangeError for an unknown zone. */
export function offsetMs(timeZone: string, atMs: number): number {
  const field = new Map(
    format(timeZone)
      .formatToParts(atMs)
      .map(({ type, value }) => [type, Number(value)]),
  )
  const get = (type: Intl.DateTimeFormatPartTypes) => field.get(type) ?? 0
  const wallMs = Date.UTC(get('year'), get('month') - 1, get('day'), get('hour'), get('minute'))
  return wallMs - Math.floor(atMs / MINUTE_MS) * MINUTE_MS
}

function format(timeZone: string): Intl.DateTimeFormat {
  const known = formats.get(timeZone)
  if (known !== undefined) return known
  const made = new Intl.DateTimeFormat('en-US', {
    timeZone,
    calendar: 'gregory',
    numberingSystem: 'latn',
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
  })
  if (formats.size >= ZONES_KEPT) formats.clear()
  formats.set(timeZone, made)
  return made
}
