// Which made units stand for which part of a range. Owns the SQL that picks them, longest first, and the hours that none stands for;
// what is read of them is sources.ts, how they are made make-cubes.ts. Pure.
//
//   … hours ║ days ║ 8 days ║ 64 days ║ 64 days ║ 8 days ║ days ║ hours …
//
// Picked in the statement that reads them, so that each row is counted by exactly one of them, whatever is made meanwhile. A unit
// that a step of time cuts (the hour in which a day begins in a zone half an hour off, the span in which a month ends) is not picked.
//
// Days of a zone are those of UTC, but for some hours at one end. They are told by the days' cubes all the same: a day counts on the
// date that the zone shows at its noon, and hours of another date are taken away there and added where they belong.
import type { Params } from '../db/params.ts'
import { type Cube, DAY_MS, HOUR_MS, hoursIn, LEVELS, type Level, levelWhere } from './cubes.ts'
import { cutUnits, type Steps, timeKey } from './time-steps.ts'

export type Span = readonly [fromMs: number, toMs: number]

export type Covered = {
  /**
   * Of a WITH: `told` has a row for each unit that is read, `untold` one for each hour that is read from below; where `shown` is there
   * it counts at that instant.
   */
  queries: string[]
  /** There is a `told`. */
  isTold: boolean
  /** Units are taken away: where `sign` of `told` says so, of `untold`. */
  isSigned: { told: boolean; untold: boolean }
}

const iso = (atMs: number): string => new Date(atMs).toISOString()
const NOON = `interval '12 hours'`
/** SQL: the start of the unit that an instant lies in. */
const startOf = (instant: string, lengthMs: number): string =>
  `to_timestamp(floor(date_part('epoch', ${instant}) / ${lengthMs / 1_000}) * ${lengthMs / 1_000})`

/** SQL of an array of instants. */
const instants = (atMs: readonly number[], params: Params): string =>
  `string_to_array(${params.add(atMs.map(iso).join(','))}::text, ',')::timestamptz[]`

/** The whole units within a span. */
export const wholeUnits = ([fromMs, toMs]: Span, unitMs: number): Span => [
  Math.ceil(fromMs / unitMs) * unitMs,
  Math.floor(toMs / unitMs) * unitMs,
]
export const hasLength = ([fromMs, toMs]: Span): boolean => fromMs < toMs

/** Levels whose units a step leaves whole, the longest first, with the units that it cuts. */
function usable(steps: Steps, cube: Cube): { level: Level; cutMs: number[] }[] {
  const upTo = { hour: HOUR_MS, day: DAY_MS, month: Number.POSITIVE_INFINITY }[steps.step ?? 'month']
  const hoursCut = cutUnits(steps, HOUR_MS)
  return LEVELS.filter(({ lengthMs }) => lengthMs <= upTo && (hoursIn(cube) !== undefined || lengthMs >= DAY_MS))
    .map((level) => {
      const { lengthMs } = level
      // Of a day what is taken away and added makes good, but no part of an hour.
      const cut = steps.step === 'month' ? cutUnits(steps, lengthMs) : []
      const started = hoursCut.map((atMs) => Math.floor(atMs / lengthMs) * lengthMs)
      return { level, cutMs: [...new Set([...cut, ...started])] }
    })
    .reverse()
}

/** Dates of the zone begin at other hours than days of UTC. */
const isMoved = ({ step, zone }: Steps): boolean =>
  step === 'day' && zone.some(({ offsetMs }) => offsetMs % DAY_MS !== 0)

/**
 * @param asked.orgId its place among the parameters
 * @param asked.span what is to be covered; the hours at its two ends are in `untold` where they are not whole
 * @param asked.firstUsed SQL of an instant at or before the first usage: what lies days before it is in no hour of `untold`
 */
export function cover(
  asked: { orgId: string; cube: Cube; span: Span; steps: Steps; firstUsed: string },
  params: Params,
): Covered {
  const { orgId, cube, span, steps, firstUsed } = asked
  const hours = hoursIn(cube)
  const time = (instant: string) => timeKey(steps, () => instant, params)
  const queries: string[] = []
  const told: string[] = []
  const untold: string[] = []
  // Units of longer levels, by which shorter ones are left out.
  const above: Level[] = []
  const isFree = (instant: string, levels: readonly Level[]) =>
    levels.map(({ name, lengthMs }) => `${startOf(instant, lengthMs)} NOT IN (SELECT at FROM ${name})`)
  for (const { level, cutMs } of usable(steps, cube)) {
    const [from, to] = wholeUnits(span, level.lengthMs)
    if (from >= to) continue
    const { table, start, name, prefix } = level
    const where = [
      `m.org_id = ${orgId}${levelWhere(level, 'm')} AND m.made`,
      `m.${start} >= ${params.add(iso(from))}::timestamptz AND m.${start} < ${params.add(iso(to))}::timestamptz`,
      ...(cutMs.length === 0 ? [] : [`m.${start} <> ALL (${instants(cutMs, params)})`]),
      ...isFree(`m.${start}`, above),
    ]
    queries.push(`${name} AS MATERIALIZED (SELECT m.${start} AS at FROM ${table} m WHERE ${where.join(' AND ')})`)
    const shown = level.lengthMs === DAY_MS ? `(at + ${NOON})` : 'at'
    const rows = level.lengthMs === HOUR_MS && hours !== undefined ? hours : cube.name
    told.push(`SELECT ${params.add(prefix + rows)}::text AS cube, at, ${time(shown)}, 1 AS sign FROM ${name}`)
    above.push(level)
  }
  const hasMoved = isMoved(steps) && above.some(({ lengthMs }) => lengthMs === DAY_MS)
  if (hasMoved) {
    const noon = `(${startOf('at', DAY_MS)} + ${NOON})`
    const key = (instant: string) => time(instant).replace(/ AS t$/, '')
    queries.push(`moved AS MATERIALIZED (SELECT h.at FROM day d
      CROSS JOIN LATERAL generate_series(d.at, d.at + interval '23 hours', interval '1 hour') AS h(at)
      WHERE ${key('h.at')} <> ${key(`(d.at + ${NOON})`)})`)
    if (hours === undefined) {
      untold.push('SELECT at, NULL, 1 FROM moved', `SELECT at, ${noon}, -1 FROM moved`)
    } else {
      const name = params.add(hours)
      told.push(`SELECT ${name}::text, at, ${time('at')}, 1 FROM moved`)
      told.push(`SELECT ${name}::text, at, ${time(noon)}, -1 FROM moved`)
    }
  }
  if (told.length > 0) queries.push(`told AS MATERIALIZED (${told.join(' UNION ALL ')})`)
  const ends: Span = [Math.floor(span[0] / HOUR_MS) * HOUR_MS, Math.ceil(span[1] / HOUR_MS) * HOUR_MS - HOUR_MS]
  const days: Span = [Math.floor(ends[0] / DAY_MS) * DAY_MS, Math.floor(ends[1] / DAY_MS) * DAY_MS]
  const at = (ms: number) => `${params.add(iso(ms))}::timestamptz`
  const left = [
    // So of every day and hour. The planner takes it for rare and plans for few hours, of which there are few as a rule: for the many
    // that it would expect any way to bring their rows together looks as good as another, and it sorts them.
    `date_part('hour', d.at AT TIME ZONE 'UTC') = 0 AND date_part('minute', h.at) = 0`,
    `d.at > (${firstUsed}) - interval '1 day'`,
    `h.at >= ${at(ends[0])} AND h.at <= ${at(ends[1])}`,
    ...isFree(
      'd.at',
      above.filter(({ lengthMs }) => lengthMs >= DAY_MS),
    ),
    ...above.filter(({ lengthMs }) => lengthMs === HOUR_MS).map(({ name }) => `h.at NOT IN (SELECT at FROM ${name})`),
  ]
  untold.unshift(`SELECT h.at, NULL::timestamptz AS shown, 1 AS sign FROM generate_series(${at(days[0])}, ${at(days[1])}, interval '24 hours') AS d(at)
    CROSS JOIN LATERAL generate_series(d.at, d.at + interval '23 hours', interval '1 hour') AS h(at)
    WHERE ${left.join(' AND ')}`)
  queries.push(`untold AS MATERIALIZED (${untold.join(' UNION ALL ')})`)
  const isSigned = { told: hasMoved && hours !== undefined, untold: hasMoved && hours === undefined }
  return { queries, isTold: told.length > 0, isSigned }
}
