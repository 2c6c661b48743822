// Which stretch of time a page shows, and the one before it to compare with. Owns presets, custom ranges, their steps and
// the labels by which the usage API names the steps. The clock is an argument. ○ Pure.
import {
  addDays,
  addMonths,
  dayStart,
  daysBetween,
  HOUR_MS,
  localDate,
  localTime,
  monthStart,
  offsetChange,
  offsetMs,
  offsetText,
} from './zones.ts'

export const PRESETS = ['24h', '7d', '30d', '90d', 'month', 'last-month', 'custom'] as const
export type Preset = (typeof PRESETS)[number]
export const PRESET_NAMES: Readonly<Record<Preset, string>> = {
  '24h': 'Last 24 hours',
  '7d': 'Last 7 days',
  '30d': 'Last 30 days',
  '90d': 'Last 90 days',
  month: 'This month',
  'last-month': 'Last month',
  custom: 'Custom',
}
export const STEPS = ['hour', 'day', 'month'] as const
export type Step = (typeof STEPS)[number]

/** Inclusive to exclusive, epoch ms. `step` is what a chart of it is cut into. */
export type Span = { fromMs: number; toMs: number; step: Step }
/** Days of the zone: `from` inclusive, `to` inclusive as people say it. */
export type Asked = { preset: Preset; from?: string | undefined; to?: string | undefined }

const PRESET_DAYS: Partial<Record<Preset, number>> = { '7d': 7, '30d': 30, '90d': 90 }
/** The usage API sums at most thirteen months. */
const DAYS_MAX = 397
const HOURS_SHOWN_MAX_DAYS = 3
const DAYS_SHOWN_MAX = 120

const isDate = (text: string | undefined): text is string =>
  text !== undefined && /^\d{4}-\d{2}-\d{2}$/.test(text) && !Number.isNaN(Date.parse(`${text}T00:00:00Z`))

/** A custom range without usable days is the last seven; one that ends before it begins is turned round. */
export function spanOf(asked: Asked, zone: string, nowMs: number): Span {
  const today = localDate(zone, nowMs)
  const days = PRESET_DAYS[asked.preset]
  if (days !== undefined) return ofDates(zone, addDays(today, 1 - days), today)
  switch (asked.preset) {
    case '24h': {
      // Whole hours of the zone's clock, the running one last.
      const intoHour = (nowMs + offsetMs(zone, nowMs)) % HOUR_MS
      const toMs = nowMs - intoHour + HOUR_MS
      return { fromMs: toMs - 24 * HOUR_MS, toMs, step: 'hour' }
    }
    case 'month':
      return ofDates(zone, monthStart(today), today)
    case 'last-month': {
      const first = addMonths(monthStart(today), -1)
      return ofDates(zone, first, addDays(monthStart(today), -1))
    }
    default: {
      if (!isDate(asked.from) || !isDate(asked.to)) return ofDates(zone, addDays(today, -6), today)
      const [from, to] = asked.from <= asked.to ? [asked.from, asked.to] : [asked.to, asked.from]
      return ofDates(zone, from, daysBetween(from, to) >= DAYS_MAX ? addDays(from, DAYS_MAX - 1) : to)
    }
  }
}

function ofDates(zone: string, from: string, to: string): Span {
  const days = daysBetween(from, to) + 1
  const step = days <= HOURS_SHOWN_MAX_DAYS ? 'hour' : days <= DAYS_SHOWN_MAX ? 'day' : 'month'
  return { fromMs: dayStart(zone, from), toMs: dayStart(zone, addDays(to, 1)), step }
}

/**
 * The stretch to compare with, cut where the running one is cut: a month that is 10 days old is compared with the first 10
 * days of the month before it, at the same time of day.
 */
export function previousOf(asked: Asked, span: Span, zone: string, nowMs: number): Span {
  const cutMs = Math.min(nowMs, span.toMs)
  if (asked.preset === '24h') {
    const length = span.toMs - span.fromMs
    return { fromMs: span.fromMs - length, toMs: cutMs - length, step: span.step }
  }
  const first = localDate(zone, span.fromMs)
  const past = localDate(zone, span.toMs - 1)
  const whole = asked.preset === 'month' || asked.preset === 'last-month'
  const back = (date: string) => (whole ? addMonths(date, -1) : addDays(date, -(daysBetween(first, past) + 1)))
  const start = dayStart(zone, back(first))
  if (cutMs >= span.toMs) return { fromMs: start, toMs: span.fromMs, step: span.step }
  const cutDate = localDate(zone, cutMs)
  const intoDay = cutMs - dayStart(zone, cutDate)
  const toMs = Math.min(dayStart(zone, back(cutDate)) + intoDay, span.fromMs)
  return { fromMs: start, toMs: Math.max(toMs, start + 1_000), step: span.step }
}

/** One step: what the usage API calls it, and when it begins and ends. */
export type Tick = { key: string; startMs: number; endMs: number }

/** More than a year of days, or a month of hours. */
const TICKS_MAX = 800

/** Every step of a span, those without usage too. */
export function ticksOf(span: Pick<Span, 'fromMs' | 'toMs'>, step: Step, zone: string): Tick[] {
  const ticks: Tick[] = []
  for (let atMs = span.fromMs; atMs < span.toMs && ticks.length < TICKS_MAX; ) {
    const { key, endMs } = tickAt(atMs, step, zone)
    ticks.push({ key, startMs: atMs, endMs: Math.min(endMs, span.toMs) })
    atMs = endMs
  }
  return ticks
}

/** The step that an instant lies in: its name, and when it ends. */
function tickAt(atMs: number, step: Step, zone: string): { key: string; endMs: number } {
  const date = localDate(zone, atMs)
  switch (step) {
    case 'hour': {
      const offset = offsetMs(zone, atMs)
      const endMs = (Math.floor((atMs + offset) / HOUR_MS) + 1) * HOUR_MS - offset
      const key = `${localTime(zone, atMs).slice(0, 13)}:00${offsetText(zone, atMs)}`
      // Some clocks are set by half an hour: what is left of the hour is a step of its own, as at the gateway.
      return { key, endMs: offsetMs(zone, endMs - 1) === offset ? endMs : offsetChange(zone, atMs, endMs) }
    }
    case 'day':
      return { key: date, endMs: dayStart(zone, addDays(date, 1)) }
    case 'month':
      return { key: date.slice(0, 7), endMs: dayStart(zone, addMonths(monthStart(date), 1)) }
    default:
      return step satisfies never
  }
}

/** How many steps a span has at most, to offer only those that a chart can hold. */
export const stepFits = (span: Pick<Span, 'fromMs' | 'toMs'>, step: Step): boolean =>
  step !== 'hour' || span.toMs - span.fromMs <= 31 * 24 * HOUR_MS
