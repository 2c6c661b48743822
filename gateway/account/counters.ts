// Calendar windows and the keys of counters. Owns UTC window arithmetic: which counter an instant belongs to, when it
// ends, when it may be forgotten. Pure; storage is store.ts, the clock is an argument.
import type { LimitRule, LimitScope } from './contract.ts'

export type Window = 'minute' | 'hour' | 'day' | 'month' | 'lifetime'

/** One calendar window. The key sorts by time among keys of its kind and is part of the counter's identity. */
export type WindowSpan = { key: string; startMs: number /** Absent: never ends. */; endMs?: number }

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
export const DAY_MS = 24 * HOUR_MS

/** A request counter is read only while its window is open; the rest is room for clocks that differ. */
const REQUEST_COUNTER_KEPT_MS = HOUR_MS

/** Day totals older than this fold into one `base` row per scope: longer than any month plus the latest late end. */
const MONEY_DAYS_KEPT = 62

/** The key of the row that carries all folded days of a scope. Sorts before every `day:` key. */
export const MONEY_BASE_KEY = 'base'

/** The calendar window in UTC around an instant. */
export function windowOf(window: Window, atMs: number): WindowSpan {
  const iso = new Date(atMs).toISOString()
  switch (window) {
    case 'minute':
      return fixed(`minute:${iso.slice(0, 16)}`, atMs, MINUTE_MS)
    case 'hour':
      return fixed(`hour:${iso.slice(0, 13)}`, atMs, HOUR_MS)
    case 'day':
      return fixed(dayKey(atMs), atMs, DAY_MS)
    case 'month': {
      const date = new Date(atMs)
      const [year, month] = [date.getUTCFullYear(), date.getUTCMonth()]
      return { key: `month:${iso.slice(0, 7)}`, startMs: Date.UTC(year, month, 1), endMs: Date.UTC(year, month + 1, 1) }
    }
    case 'lifetime':
      return { key: 'lifetime', startMs: Number.MIN_SAFE_INTEGER }
    default:
      return window satisfies never
  }
}

/** Days and the units below divide the epoch evenly: POSIX time has no leap seconds. */
function fixed(key: string, atMs: number, lengthMs: number): WindowSpan {
  const startMs = Math.floor(atMs / lengthMs) * lengthMs
  return { key, startMs, endMs: startMs + lengthMs }
}

/** `2026-11-22`, the UTC day of an instant, as Postgres' date type takes it. */
export const utcDay = (atMs: number): string => new Date(atMs).toISOString().slice(0, 10)

export const dayKey = (atMs: number): string => `day:${utcDay(atMs)}`

/** From now until the window ends, at least 1 ms: a retry before that cannot succeed. */
export const retryAfterMs = (span: WindowSpan, nowMs: number): number =>
  span.endMs === undefined ? DAY_MS : Math.max(1, span.endMs - nowMs)

/** Identity of a request counter and when it may be dropped. */
export type CounterKey = { scope: LimitScope; scopeId: string; windowKey: string; dropAfterMs: number }

export function requestCounter(rule: LimitRule & { meter: 'requests' }, atMs: number): CounterKey {
  const span = windowOf(rule.window, atMs)
  const endMs = span.endMs ?? span.startMs
  return {
    scope: rule.scope,
    scopeId: rule.scopeId,
    windowKey: span.key,
    dropAfterMs: endMs + REQUEST_COUNTER_KEPT_MS,
  }
}

/**
 * Sums day totals into the window around an instant: money is kept by UTC day only, a month is its days and a lifetime
 * all of them, so one settle moves one row per scope and the windows can never disagree.
 * @param days from `day:YYYY-MM-DD` (and `base`) to nano-USD
 */
export function sumWindow(days: ReadonlyMap<string, bigint>, window: 'day' | 'month' | 'lifetime', atMs: number) {
  const today = dayKey(atMs)
  if (window === 'day') return days.get(today) ?? 0n
  const monthPrefix = today.slice(0, 'day:YYYY-MM'.length)
  let total = 0n
  for (const [key, amount] of days) if (window === 'lifetime' || key.startsWith(monthPrefix)) total += amount
  return total
}

/** Days that fold into `base` at this time. */
export const oldestDayKept = (nowMs: number): string => dayKey(nowMs - MONEY_DAYS_KEPT * DAY_MS)
