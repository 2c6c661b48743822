// Where the sums of a question come from: cubes of whole hours, rollups of whole quarter hours, rows at the two ends. Owns the cut of
// a range into those and the SQL of each piece; how pieces become an answer is breakdown.ts, what is counted usage-facts.ts. Pure.
//
//   fromMs ┊ rows │ quarter hours ║ hours ║ days ║ hours ║ quarter hours │ rows ┊ toMs
//
// Days and hours come from cubes where those are made, and else from what is below them. All pieces stand in one statement, so that
// each row is counted by exactly one of them, whatever is rolled up meanwhile. What a step of time cuts (a day in which a month
// ends, an hour in a zone half an hour off) is added up from below.
//
// Days of a zone are those of UTC, but for some hours at one end. They are told by the days' cubes all the same: a day counts on the
// date that the zone shows at its noon, and hours of another date are taken away there and added where they belong.
import type { Params } from '../db/params.ts'
import { type Cube, cubeFor, DAY_MS, dayCube, HOUR_MS, LATENCY_CUBES, SUM_CUBES } from './cubes.ts'
import { isOfClass, type StatusClass } from './status-class.ts'
import { cutUnits, stepsOf, type TimeStep, timeKey } from './time-steps.ts'
import {
  BUCKET_MS,
  bucketStartMs,
  DIMENSION_COLUMNS,
  DIMENSIONS,
  type Dimension,
  factsOfRows,
  LATENCY_MS,
  OTHER_TAGS,
  SUMS,
  slotOfSql,
} from './usage-facts.ts'

export type Question = {
  orgId: string
  /** Epoch ms, inclusive. */
  fromMs: number
  /** Exclusive. */
  toMs: number
  /** Only usage with these values; NOBODY: without one. Of `tag`: `name=value`, or `!name` for usage without it. */
  filters: Partial<Record<Dimension, string | undefined>>
  statusClass?: StatusClass | undefined
  /** What lines are told apart by; the order is that of `Line.names`. */
  dimensions: readonly Dimension[]
  /** Which tag, where `tag` is among the dimensions: lower-case letters, digits, _ and -. Absent: all tags as they stand. */
  tagName?: string | undefined
  step?: TimeStep | undefined
  /** IANA name: where hours, days and months begin. */
  timeZone: string
  /** Combinations of dimensions shown, by cost over the whole range; the rest is added up as `other`. */
  top: number
  /** Percentiles of the whole, or of each line too, which costs more than all the sums. */
  latency: 'none' | 'total' | 'lines'
}

/** As a filter by user, team or backend: usage that has none. No id reads like it. */
export const NOBODY = 'none'

export const ordinals = (count: number): string => Array.from({ length: count }, (_, index) => index + 1).join(', ')
const iso = (atMs: number): string => new Date(atMs).toISOString()

export const stepsIn = ({ step, timeZone, fromMs, toMs }: Question) =>
  stepsOf(step, timeZone, bucketStartMs(fromMs), toMs)

/** Rows of sums: `t`, a column `g<n>` for each dimension, and every sum. Many rows of one combination, to be added up. */
export function sumSources(question: Question, params: Params): string {
  const sums = SUMS.map(({ column }) => column)
  const { arms, ends } = rolledUp(question, params, {
    cubes: SUM_CUBES,
    hours: 'usage_cubes',
    quarters: 'usage_rollups',
    keys: [],
    sums,
  })
  if (ends.length > 0) arms.push(factsOfRows(SUMS, rowColumns(question, params), rowRange(question, params, ends)))
  return arms.join(' UNION ALL ')
}

/** The same with a slot of time, and how many first tokens and ends fell into it. */
export function slotSources(question: Question, params: Params): string {
  const { arms, ends } = rolledUp(question, params, {
    cubes: LATENCY_CUBES,
    hours: 'cube_latencies',
    quarters: 'rollup_latencies',
    keys: ['slot'],
    sums: ['first_tokens', 'ends'],
  })
  if (ends.length === 0) return arms.join(' UNION ALL ')
  const columns = rowColumns(question, params)
  const where = rowRange(question, params, ends)
  const arm = (durationMs: string, counts: string, more: string) =>
    `SELECT ${[...columns, `${slotOfSql(durationMs)} AS slot`, counts].join(', ')} FROM usage_requests WHERE ${where}${more}`
  arms.push(arm(LATENCY_MS.firstToken, '1 AS first_tokens, 0 AS ends', ' AND first_token_at IS NOT NULL'))
  arms.push(arm(LATENCY_MS.end, '0 AS first_tokens, 1 AS ends', ''))
  return arms.join(' UNION ALL ')
}

type Span = readonly [fromMs: number, toMs: number]
type Tables = { cubes: readonly Cube[]; hours: string; quarters: string; keys: string[]; sums: string[] }
/** Rolled-up facts as a piece of SQL reads them: which rows, the instant of each, and where their names stand. */
type Rolled = {
  rows: string
  at: string
  /** Asked for where names are wanted: a parameter that stands nowhere is an error. */
  names: () => string
  /** Of cubes: few, and each counts once. Else many rows of one combination. */
  isCube?: boolean
  /** Subtracted; of cubes alone. */
  isTakenAway?: boolean
}

const hasLength = ([fromMs, toMs]: Span): boolean => fromMs < toMs

/** Arms for whole hours and quarter hours, few because each costs its planning, and what is left of the range at its ends. */
function rolledUp(question: Question, params: Params, tables: Tables): { arms: string[]; ends: Span[] } {
  const { fromMs, toMs } = question
  const whole: Span = [bucketStartMs(fromMs + BUCKET_MS - 1), bucketStartMs(toMs)]
  if (!hasLength(whole)) {
    // Two pieces of two quarter hours, or one of one.
    const border = Math.min(toMs, whole[0])
    return { arms: [], ends: [[fromMs, border] as const, [border, toMs] as const].filter(hasLength) }
  }
  const ends = [[fromMs, whole[0]] as const, [whole[1], toMs] as const].filter(hasLength)
  const cube = cubeOf(question, tables.cubes)
  const hours = wholeUnits(whole, HOUR_MS)
  if (cube === undefined || !hasLength(hours))
    return { arms: [rolledArm(question, params, tables, allQuarters(question, params, tables, whole))], ends }
  const days = daysOf(question, hours)
  const pieces = [
    ...(days === undefined ? [] : dayCubes(question, params, tables, cube, days)),
    hourCubes(question, params, tables, cube, hours, days),
    otherQuarters(question, params, tables, hours, whole),
  ]
  return { arms: pieces.map((piece) => rolledArm(question, params, tables, piece)), ends }
}

/** The whole units within a span. */
const wholeUnits = ([fromMs, toMs]: Span, unitMs: number): Span => [
  Math.ceil(fromMs / unitMs) * unitMs,
  Math.floor(toMs / unitMs) * unitMs,
]

/** Days of UTC that cubes can tell, if they are made; of these some are cut by a step. */
type Days = { span: Span; cutMs: number[] }

function daysOf(question: Question, hours: Span): Days | undefined {
  const span = wholeUnits(hours, DAY_MS)
  if (!hasLength(span) || question.step === 'hour') return undefined
  const steps = stepsIn(question)
  const cut = [...cutUnits(steps, HOUR_MS), ...(question.step === 'month' ? cutUnits(steps, DAY_MS) : [])]
  return { span, cutMs: [...new Set(cut.map((atMs) => Math.floor(atMs / DAY_MS) * DAY_MS))] }
}

/** The cube that answers; none where it knows too little, or where the zone's hours are not those of UTC. */
function cubeOf(question: Question, cubes: readonly Cube[]): Cube | undefined {
  const { filters, dimensions, statusClass, step } = question
  if (step === 'hour' && stepsIn(question).zone.some(({ offsetMs }) => offsetMs % HOUR_MS !== 0)) return undefined
  const filtered = DIMENSIONS.filter((dimension) => filters[dimension] !== undefined)
  return cubeFor(cubes, [...dimensions, ...filtered, ...(statusClass === undefined ? [] : (['status'] as const))])
}

const NAMES = 'rollup_dimensions d ON d.dimensions_id = r.dimensions_id'

function allQuarters({ orgId }: Question, params: Params, { quarters }: Tables, [fromMs, toMs]: Span): Rolled {
  const rows = `${quarters} WHERE org_id = ${params.add(orgId)} AND bucket_start >= ${params.add(iso(fromMs))}
    AND bucket_start < ${params.add(iso(toMs))}`
  return { rows, at: 'bucket_start', names: () => NAMES }
}

/** SQL of an array of instants. */
const instants = (atMs: readonly number[], params: Params): string =>
  `string_to_array(${params.add(atMs.map(iso).join(','))}::text, ',')::timestamptz[]`
const cutHoursOf = (question: Question, params: Params): string =>
  instants(cutUnits(stepsIn(question), HOUR_MS), params)

const NOON = `interval '12 hours'`
/** As an expression over an hour of the series `h`. */
const DAY_OF_HOUR = `to_timestamp(floor(date_part('epoch', h.hour_start) / 86400) * 86400)`

const namesIn = (cube: string): string => `cube_dimensions d ON d.cube = ${cube} AND d.dimensions_id = r.dimensions_id`

/**
 * Rows looked up for each hour that is left of a series. Fenced on both sides, because a planner that cannot see how few hours are
 * left would rather read the whole range and throw most of it away.
 */
const hourByHour = (series: string, left: string, rows: string): string =>
  `(SELECT h.hour_start FROM ${series} AS h(hour_start) WHERE ${left} OFFSET 0) AS h
    CROSS JOIN LATERAL (SELECT * FROM ${rows} OFFSET 0) AS c`

/** SQL: whether a day's cubes answer for it. */
function isTold(day: string, { span, cutMs }: Days, orgId: string, params: Params): string {
  return `(${day} >= ${params.add(iso(span[0]))}::timestamptz AND ${day} < ${params.add(iso(span[1]))}::timestamptz
    AND ${day} <> ALL (${instants(cutMs, params)})
    AND EXISTS (SELECT 1 FROM rollup_days m WHERE m.org_id = ${orgId} AND m.day_start = ${day} AND m.made))`
}

/** Days on the date of their noon; where dates begin at other hours than days of UTC, with the hours that are of another date. */
function dayCubes(question: Question, params: Params, { hours: table }: Tables, cube: Cube, days: Days): Rolled[] {
  const orgId = params.add(question.orgId)
  const [from, to] = [params.add(iso(days.span[0])), params.add(iso(days.span[1]))]
  const whole = `${table} c WHERE c.org_id = ${orgId} AND c.cube = ${params.add(dayCube(cube.name))}
    AND c.hour_start >= ${from}::timestamptz AND c.hour_start < ${to}::timestamptz
    AND ${isTold('c.hour_start', days, orgId, params)}`
  const names = () => namesIn(params.add(cube.name))
  const told: Rolled = { rows: whole, at: `(hour_start + ${NOON})`, names, isCube: true }
  const steps = stepsIn(question)
  if (question.step !== 'day' || steps.zone.every(({ offsetMs }) => offsetMs % DAY_MS === 0)) return [told]
  const key = (instant: string) => timeKey(steps, () => instant, params).replace(/ AS t$/, '')
  const moved =
    () => `generate_series(${from}::timestamptz, ${to}::timestamptz - interval '1 hour', interval '1 hour') AS h(hour_start)
    JOIN ${table} c ON c.org_id = ${orgId} AND c.cube = ${params.add(cube.name)} AND c.hour_start = h.hour_start
    WHERE ${key('h.hour_start')} <> ${key(`(${DAY_OF_HOUR} + ${NOON})`)} AND ${isTold(DAY_OF_HOUR, days, orgId, params)}`
  return [
    told,
    { rows: moved(), at: 'h.hour_start', names, isCube: true },
    { rows: moved(), at: `(${DAY_OF_HOUR} + ${NOON})`, names, isCube: true, isTakenAway: true },
  ]
}

/** Hours of days that no cube of days answers for, looked up hour by hour. */
function hourCubes(
  question: Question,
  params: Params,
  { hours: table }: Tables,
  cube: Cube,
  [fromMs, toMs]: Span,
  days: Days | undefined,
): Rolled {
  const orgId = params.add(question.orgId)
  const [first, last] = [params.add(iso(fromMs)), params.add(iso(toMs - HOUR_MS))]
  const name = params.add(cube.name)
  const rows = hourByHour(
    `generate_series(${first}::timestamptz, ${last}::timestamptz, interval '1 hour')`,
    `EXISTS (SELECT 1 FROM rollup_hours m WHERE m.org_id = ${orgId} AND m.hour_start = h.hour_start AND m.made)
      AND h.hour_start <> ALL (${cutHoursOf(question, params)})
      ${days === undefined ? '' : `AND NOT ${isTold(DAY_OF_HOUR, days, orgId, params)}`}`,
    `${table} WHERE org_id = ${orgId} AND cube = ${name} AND hour_start = h.hour_start`,
  )
  return { rows, at: 'h.hour_start', names: () => namesIn(name), isCube: true }
}

/** Quarter hours of the hours that no cube answers for, looked up hour by hour: mostly the first and the last of the range. */
function otherQuarters(question: Question, params: Params, { quarters }: Tables, hours: Span, whole: Span): Rolled {
  const orgId = params.add(question.orgId)
  const at = (ms: number) => `${params.add(iso(ms))}::timestamptz`
  const [first, last] = [Math.floor(whole[0] / HOUR_MS) * HOUR_MS, Math.floor((whole[1] - 1) / HOUR_MS) * HOUR_MS]
  const made = `SELECT 1 FROM rollup_hours m WHERE m.org_id = ${orgId} AND m.hour_start = h.hour_start AND m.made`
  const rows = hourByHour(
    `generate_series(${at(first)}, ${at(last)}, interval '1 hour')`,
    `h.hour_start < ${at(hours[0])} OR h.hour_start >= ${at(hours[1])} OR NOT EXISTS (${made})
      OR h.hour_start = ANY (${cutHoursOf(question, params)})`,
    `${quarters} WHERE org_id = ${orgId} AND bucket_start >= greatest(h.hour_start, ${at(whole[0])})
      AND bucket_start < least(h.hour_start + interval '1 hour', ${at(whole[1])})`,
  )
  return { rows, at: 'bucket_start', names: () => NAMES }
}

/**
 * Sums as whole numbers of 64 bits in every arm: one that is wider would make all of them so, and adding those up takes longer
 * than all else.
 */
function rolledArm(question: Question, params: Params, { keys, sums }: Tables, piece: Rolled): string {
  const { rows, at, names, isCube, isTakenAway = false } = piece
  const filter = conditions(question, params, 'd.')
  // Where no name is asked for there is nothing to join, and far fewer groups.
  const named = question.dimensions.length > 0 || filter !== ''
  const ids = named ? ['dimensions_id'] : []
  const time = timeKey(stepsIn(question), () => at, params)
  const shown = ['r.t', ...groupColumns(question, params, 'd.'), ...keys, ...sums]
  const join = named ? `JOIN ${names()} AND d.org_id = ${params.add(question.orgId)}${filter}` : ''
  const added = (column: string) => (isTakenAway ? `-${column} AS ${column}` : column)
  // Cubes have few combinations, and their rows are as good as added up. Quarter hours are brought together before the names of
  // combinations come in and filters take some away: names are longer than ids, and a filter first tempts a planner that cannot
  // see how many combinations pass it to read the range once for each.
  const source = isCube
    ? `SELECT ${[time, ...ids, ...keys, ...sums.map(added)].join(', ')} FROM ${rows}`
    : `SELECT ${[time, ...ids, ...keys, ...sums.map((column) => `sum(${column})::bigint AS ${column}`)].join(', ')}
      FROM ${rows} GROUP BY ${ordinals(1 + ids.length + keys.length)}`
  return `SELECT ${shown.join(', ')} FROM (${source}) AS r ${join}`
}

/** Columns by which facts are grouped; `of` names the table that has the dimensions. */
const groupColumns = ({ dimensions, tagName }: Question, params: Params, of: string): string[] =>
  dimensions.map((dimension, index) => {
    const column = `${of}${DIMENSION_COLUMNS[dimension]}`
    if (dimension !== 'tag' || tagName === undefined) return `coalesce(${column}::text, '') AS g${index}`
    // Nothing in the name means anything in a pattern.
    const value = `substring(',' || ${column} || ',' from ',' || ${params.add(tagName)}::text || '=([^,]*),')`
    return `CASE WHEN ${column} = '${OTHER_TAGS}' THEN '${OTHER_TAGS}' ELSE coalesce(${value}, '') END AS g${index}`
  })

function conditions({ filters, statusClass }: Question, params: Params, of: string): string {
  const wanted = DIMENSIONS.flatMap((dimension) => {
    const value = filters[dimension]
    return value === undefined ? [] : [conditionOn(`${of}${DIMENSION_COLUMNS[dimension]}`, dimension, value, params)]
  })
  if (statusClass !== undefined) wanted.push(isOfClass(`${of}status`, statusClass))
  return wanted.map((condition) => ` AND ${condition}`).join('')
}

function conditionOn(column: string, dimension: Dimension, value: string, params: Params): string {
  if (dimension === 'tag') return isTagged(column, value, (text) => params.add(text))
  if (value === NOBODY && CAN_BE_ABSENT.has(dimension)) return `${column} IS NULL`
  return `${column} = ${params.add(value)}`
}

const CAN_BE_ABSENT: ReadonlySet<Dimension> = new Set(['user', 'team', 'backend'])

/** SQL: whether a text of tags has `name=value`, or for `!name` none of that name. */
function isTagged(column: string, wanted: string, place: (text: string) => string): string {
  if (!wanted.startsWith('!')) return `strpos(',' || ${column} || ',', ${place(`,${wanted},`)}) > 0`
  return `coalesce(strpos(',' || ${column}, ${place(`,${wanted.slice(1)}=`)}), 0) = 0`
}

/** As rollups know it: fractions of a second would be rounded into the next step. */
const BUCKET_OF_ROW = `to_timestamp(floor(date_part('epoch', started_at) / ${BUCKET_MS / 1_000}) * ${BUCKET_MS / 1_000})`

/** Step and names of rows at the ends. */
const rowColumns = (question: Question, params: Params): string[] => [
  timeKey(stepsIn(question), () => BUCKET_OF_ROW, params),
  ...groupColumns(question, params, ''),
]

/** Rows of pieces of one bucket each, which lies in one UTC day. */
function rowRange(question: Question, params: Params, ends: readonly Span[]): string {
  const pieces = ends.map(
    ([fromMs, toMs]) => `(usage_day = ${params.add(iso(fromMs).slice(0, 10))}
      AND started_at >= ${params.add(iso(fromMs))} AND started_at < ${params.add(iso(toMs))})`,
  )
  return `org_id = ${params.add(question.orgId)} AND (${pieces.join(' OR ')})${conditions(question, params, '')}`
}
