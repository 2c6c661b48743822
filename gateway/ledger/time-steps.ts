// Hours, days and months on a zone's clock, in SQL and in words. Owns the key by which rows of one step are grouped and
// what it is called; when clocks are set is zones.ts. Pure.
import type { Params } from '../db/params.ts'
import { offsetText, type Stretch, stretches } from './zones.ts'

export const TIME_STEPS = ['hour', 'day', 'month'] as const
export type TimeStep = (typeof TIME_STEPS)[number]

const HOUR_S = 3_600
const DAY_S = 86_400
/** Changes of a zone's offset within a year, and room. */
const STRETCHES_MAX = 100

/** How a range is cut; without a step not at all. */
export type Steps = { step: TimeStep | undefined; fromMs: number; toMs: number; zone: readonly Stretch[] }

/** @throws RangeError for an unknown zone */
export const stepsOf = (step: TimeStep | undefined, timeZone: string, fromMs: number, toMs: number): Steps => ({
  step,
  fromMs,
  toMs,
  zone: stretches(timeZone, fromMs, toMs),
})

const iso = (atMs: number): string => new Date(atMs).toISOString()

/**
 * SQL of `t`, a whole number: for days and months the start of the step on the zone's clock in seconds, as if that were UTC; for
 * hours that times STRETCHES_MAX plus the place of the stretch, because an hour can be shown twice under two offsets.
 * @param instant the column or expression that is cut; asked for where one is
 */
export function timeKey(steps: Steps, instant: () => string, params: Params): string {
  const { step, zone } = steps
  if (step === undefined) return '0 AS t'
  const at = instant()
  const seconds = (ms: number) => `${params.add(String(ms / 1_000))}::bigint`
  const before = (start: string) => `${at} < ${params.add(start)}::timestamptz`
  const byStretch = (value: (stretch: Stretch, place: number) => string) =>
    chain(
      zone.map((stretch, place) => [iso(stretch.fromMs), value(stretch, place)]),
      before,
    )
  const local = () => `(date_part('epoch', ${at})::bigint + ${byStretch(({ offsetMs }) => seconds(offsetMs))})`
  switch (step) {
    case 'hour':
      return `(trunc(${local()} / ${HOUR_S})::bigint * ${HOUR_S * STRETCHES_MAX} + ${byStretch((_, place) => String(place))}) AS t`
    case 'day':
      return `(trunc(${local()} / ${DAY_S})::bigint * ${DAY_S}) AS t`
    case 'month': {
      return `${chain(
        localMonths(steps).map((startMs) => [iso(firstInstant(startMs, zone)), seconds(startMs)]),
        before,
      )} AS t`
    }
    default:
      return step satisfies never
  }
}

/** CASE over pieces that follow each other: the value of the last one that has begun. */
function chain<T>(pieces: readonly (readonly [start: T, value: string])[], before: (start: T) => string): string {
  const arms = pieces.slice(1).map(([start], index) => `WHEN ${before(start)} THEN ${pieces[index]?.[1]}`)
  const last = pieces.at(-1)?.[1] ?? 'NULL'
  return arms.length === 0 ? last : `CASE ${arms.join(' ')} ELSE ${last} END`
}

/** Starts of the months that the zone's clock shows in a range, on its clock, as if that were UTC. */
function localMonths({ fromMs, toMs, zone }: Steps): number[] {
  const offsets = zone.map(({ offsetMs }) => offsetMs)
  const lastMs = toMs + Math.max(...offsets)
  const first = new Date(fromMs + Math.min(...offsets))
  const months: number[] = []
  for (let month = first.getUTCMonth(); ; month++) {
    const startMs = Date.UTC(first.getUTCFullYear(), month, 1)
    if (startMs >= lastMs) return months
    months.push(startMs)
  }
}

/** When the zone's clock first shows a wall time or a later one; the time is given as if it were UTC. */
function firstInstant(wallMs: number, zone: readonly Stretch[]): number {
  for (const [place, { fromMs, offsetMs }] of zone.entries()) {
    const atMs = Math.max(fromMs, wallMs - offsetMs)
    if (atMs < (zone[place + 1]?.fromMs ?? Number.POSITIVE_INFINITY)) return atMs
  }
  return wallMs
}

/**
 * Starts of the units (an hour, say, from the epoch on) in which one step ends and the next begins: they belong to no step as a
 * whole. No hours in zones whose clock is whole hours away from UTC and set on the hour.
 */
export function cutUnits(steps: Steps, unitMs: number): number[] {
  const { step, fromMs, toMs, zone } = steps
  if (step === undefined) return []
  const starts = new Set<number>()
  const cut = (atMs: number) => {
    if (atMs % unitMs !== 0 && atMs > fromMs && atMs < toMs) starts.add(Math.floor(atMs / unitMs) * unitMs)
  }
  // Where clocks are set within a month, it goes on.
  if (step !== 'month') for (const { fromMs: beganMs } of zone) cut(beganMs)
  if (step === 'month') for (const startMs of localMonths(steps)) cut(firstInstant(startMs, zone))
  if (step !== 'day') return [...starts]
  for (const [place, { fromMs: beganMs, offsetMs }] of zone.entries()) {
    if (offsetMs % unitMs === 0) continue
    const endMs = zone[place + 1]?.fromMs ?? toMs
    const dayMs = DAY_S * 1_000
    for (let atMs = Math.ceil((beganMs + offsetMs) / dayMs) * dayMs - offsetMs; atMs < endMs; atMs += dayMs) cut(atMs)
  }
  return [...starts]
}

/** What a key of `timeKey` means. */
export function timeLabel({ step, zone }: Steps, key: number): string | undefined {
  switch (step) {
    case undefined:
      return undefined
    case 'month':
      return iso(key * 1_000).slice(0, 7)
    case 'day':
      return iso(key * 1_000).slice(0, 10)
    case 'hour': {
      const place = key % STRETCHES_MAX
      const local = iso(((key - place) / STRETCHES_MAX) * 1_000).slice(0, 16)
      return `${local}${offsetText(zone[place]?.offsetMs ?? 0)}`
    }
    default:
      return step satisfies never
  }
}
