// Where the sums of a question come from: cubes of hours and longer, rollups of quarter hours, rows at the two ends. Owns the cut of a
// range into those and the SQL of each piece; which units of cubes there are for it is cover.ts, how pieces become an answer
// breakdown.ts, what is counted usage-facts.ts. Pure.
//
//   fromMs ┊ rows │ quarter hours ║ cubes of hours, days and longer ║ quarter hours │ rows ┊ toMs
//
// Units come from cubes where those are made, and else from what is below them. All pieces stand in one statement, so that each row
// is counted by exactly one of them, whatever is rolled up meanwhile. Of end users and of latencies there are cubes and rows, and no
// quarter hours.
import type { Params } from '../db/params.ts'
import { type Covered, cover, hasLength, type Span, wholeUnits } from './cover.ts'
import { type Cube, cubeFor, END_USER_CUBES, HOUR_MS, LATENCY_CUBES, LEVELS, rowsOf, SUM_CUBES } from './cubes.ts'
import { isOfClass, type StatusClass } from './status-class.ts'
import { foldOf, isTagged, valueIn } from './tag-folds.ts'
import { stepsOf, type TimeStep, timeKey } from './time-steps.ts'
import {
  BUCKET_MS,
  bucketStartMs,
  DIMENSION_COLUMNS,
  DIMENSIONS,
  type Dimension,
  factsOfRows,
  LATENCY_MS,
  type Measure,
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
  /** Of end users no unit is read: those that the question is about are not named by all. */
  rowsAlone?: boolean | undefined
}

/** As a filter by user, team or backend: usage that has none. No id reads like it. */
export const NOBODY = 'none'

export const ordinals = (count: number): string => Array.from({ length: count }, (_, index) => index + 1).join(', ')
const iso = (atMs: number): string => new Date(atMs).toISOString()

export const stepsIn = ({ step, timeZone, fromMs, toMs }: Question) =>
  stepsOf(step, timeZone, bucketStartMs(fromMs), toMs)

/** Rows of sums, absent where 0: `t`, a column `g<n>` for each dimension, and the sums. Many rows of one combination, to be added up. */
export const sumSources = (question: Question, params: Params, sums: readonly Measure[] = SUMS): string => {
  const above: Above = {
    cubes: END_USER_CUBES,
    rows: (columns) => `SELECT ${columns} FROM usage_cubes x`,
    keys: [],
    sums: sums.map(({ column }) => column),
    ofRows: (columns, where) => factsOfRows(sums, columns, where),
  }
  if (asksForEndUsers(question)) return aboveRows(question, params, above)
  return aboveQuarters(question, params, { ...above, cubes: SUM_CUBES })
}

/** The same with a slot of time, and how many first tokens and ends fell into it. */
export const slotSources = (question: Question, params: Params): string =>
  aboveRows(question, params, {
    cubes: LATENCY_CUBES,
    rows: (columns) => `SELECT ${columns} FROM cube_latencies x
      CROSS JOIN LATERAL unnest(x.slots, x.first_tokens, x.ends) AS s(slot, first_tokens, ends)`,
    keys: ['slot'],
    sums: SLOT_COUNTS,
    ofRows: (columns, where) => {
      const arm = (durationMs: string, counts: string, more: string) =>
        `SELECT ${[...columns, `${slotOfSql(durationMs)} AS slot`, counts].join(', ')} FROM usage_requests WHERE ${where}${more}`
      return [
        arm(LATENCY_MS.firstToken, '1 AS first_tokens, 0 AS ends', ' AND first_token_at IS NOT NULL'),
        arm(LATENCY_MS.end, '0 AS first_tokens, 1 AS ends', ''),
      ]
    },
  })

const SLOT_COUNTS = ['first_tokens', 'ends']
/** With the name of the table where it stands beside another that has them too. */
const MADE_SLOTS: ReadonlySet<string> = new Set(SLOT_COUNTS)

/** Units above usage rows. */
type Above = {
  cubes: readonly Cube[]
  /** A SELECT of columns of made units; the table is `x` there. */
  rows: (columns: string) => string
  keys: readonly string[]
  sums: readonly string[]
  /** Arms over usage rows: their columns, and the condition on each. */
  ofRows: (columns: readonly string[], where: string) => string[]
}
/** Arms for made units and for what is left of the range, few because each costs its planning. */
function aboveQuarters(question: Question, params: Params, above: Above): string {
  const { fromMs, toMs } = question
  const columns = () => rowColumns(question, params)
  const whole: Span = [bucketStartMs(fromMs + BUCKET_MS - 1), bucketStartMs(toMs)]
  // Two pieces of two quarter hours, or one of one.
  const border = Math.min(toMs, whole[0])
  const pieces: Span[] = hasLength(whole)
    ? [
        [fromMs, whole[0]],
        [whole[1], toMs],
      ]
    : [
        [fromMs, border],
        [border, toMs],
      ]
  const ends = pieces.filter(hasLength)
  const ofEnds = () => (ends.length === 0 ? [] : above.ofRows(columns(), rowRange(question, params, ends)))
  if (!hasLength(whole)) return ofEnds().join(' UNION ALL ')
  const cube = cubeOf(question, above.cubes)
  if (cube === undefined || !hasLength(wholeUnits(whole, HOUR_MS)))
    return [allQuarters(question, params, above.sums, whole), ...ofEnds()].join(' UNION ALL ')
  const orgId = params.add(question.orgId)
  const firstUsed = `SELECT min(bucket_start) FROM usage_rollups WHERE org_id = ${orgId}`
  const covered = cover({ orgId, cube, span: whole, steps: stepsIn(question), firstUsed }, params)
  const names = [namesOfCube(question, params, cube), namesOfQuarters(question, params)].flatMap((query) => query ?? [])
  const arms = [
    ...toldUnits(question, params, above, covered),
    untoldQuarters(question, params, above.sums, whole, covered),
  ]
  return `WITH ${[...covered.queries, ...names].join(', ')} ${[...arms, ...ofEnds()].join(' UNION ALL ')}`
}

const asksForEndUsers = ({ dimensions, filters }: Question): boolean =>
  dimensions.includes('end_user') || filters.end_user !== undefined

/** Under which names folds of end users are on record in the units that answer a question; none where it is about no end user. */
export function endUserFolds(question: Question): string[] {
  const cube = asksForEndUsers(question) ? cubeOf(question, END_USER_CUBES) : undefined
  return cube === undefined ? [] : rowsOf(cube).flatMap((name) => LEVELS.map(({ prefix }) => foldOf(prefix, name)))
}

/** Made units, and usage rows of the hours that none stands for; rows alone where no cube tells enough apart. */
function aboveRows(question: Question, params: Params, above: Above): string {
  const { fromMs, toMs } = question
  const cube = question.rowsAlone === true ? undefined : cubeOf(question, above.cubes)
  if (cube === undefined || !hasLength(wholeUnits([fromMs, toMs], HOUR_MS)))
    return above.ofRows(rowColumns(question, params), rowRange(question, params, [[fromMs, toMs]])).join(' UNION ALL ')
  const orgId = params.add(question.orgId)
  const firstUsed = `SELECT least((SELECT min(started_at) FROM usage_requests WHERE org_id = ${orgId}),
    (SELECT min(usage_day) FROM usage_attempts WHERE org_id = ${orgId})::timestamp AT TIME ZONE 'UTC')`
  const covered = cover({ orgId, cube, span: [fromMs, toMs], steps: stepsIn(question), firstUsed }, params)
  const inHour = `org_id = ${orgId} AND usage_day = (h.at AT TIME ZONE 'UTC')::date
    AND started_at >= greatest(h.at, ${params.add(iso(fromMs))}::timestamptz)
    AND started_at < least(h.at + interval '1 hour', ${params.add(iso(toMs))}::timestamptz)${conditions(question, params, '')}`
  const signed = (column: string) => (covered.isSigned.untold ? `c.${column} * h.sign` : `c.${column}`)
  const groups = question.dimensions.map((_, index) => `c.g${index}`)
  const shown = ['c.t', ...groups, ...above.keys.map((key) => `c.${key}`), ...above.sums.map(signed)]
  const rows = above
    .ofRows(
      rowColumns(question, params, covered.isSigned.untold ? `coalesce(h.shown, ${BUCKET_OF_ROW})` : undefined),
      inHour,
    )
    .map((arm) => `SELECT ${shown.join(', ')} FROM untold h CROSS JOIN LATERAL (${arm} OFFSET 0) AS c`)
  const names = namesOfCube(question, params, cube)
  const queries = names === undefined ? covered.queries : [...covered.queries, names]
  return `WITH ${queries.join(', ')} ${[...toldUnits(question, params, above, covered), ...rows].join(' UNION ALL ')}`
}

/** The cube that answers; none where it knows too little, or where the zone's hours are not those of UTC. */
function cubeOf(question: Question, cubes: readonly Cube[]): Cube | undefined {
  const { filters, dimensions, statusClass, step } = question
  if (step === 'hour' && stepsIn(question).zone.some(({ offsetMs }) => offsetMs % HOUR_MS !== 0)) return undefined
  const filtered = DIMENSIONS.filter((dimension) => filters[dimension] !== undefined)
  return cubeFor(cubes, [...dimensions, ...filtered, ...(statusClass === undefined ? [] : (['status'] as const))])
}

/**
 * The columns of an arm: sums as whole numbers of 64 bits in each, because one that is wider would make all of them so, and adding
 * those up takes longer than all else.
 */
const shownOf = ({ dimensions }: Question, { keys, sums }: Pick<Above, 'keys' | 'sums'>): string =>
  ['r.t', ...dimensions.map((_, index) => `n.g${index}`), ...keys.map((key) => `r.${key}`), ...sums].join(', ')

const CUBE_NAMES = 'cube_names'
const QUARTER_NAMES = 'quarter_names'

const hasNames = ({ dimensions, filters, statusClass }: Question): boolean =>
  dimensions.length > 0 || statusClass !== undefined || DIMENSIONS.some((dimension) => filters[dimension] !== undefined)

/**
 * Query of a WITH: combinations that pass the filters, and what they are called; none where all are one. Names are written once for
 * each combination, and rows meet them in a hash: a planner that cannot see how many rows there are would look each one up.
 */
function namesQuery(name: string, question: Question, params: Params, from: string): string | undefined {
  if (!hasNames(question)) return undefined
  const shown = ['dimensions_id', ...groupColumns(question, params, 'd.')].join(', ')
  return `${name} AS MATERIALIZED (SELECT ${shown} FROM ${from}
    AND d.org_id = ${params.add(question.orgId)}${conditions(question, params, 'd.')})`
}
function namesOfCube(question: Question, params: Params, cube: Cube): string | undefined {
  if (!hasNames(question)) return undefined
  const cubes = rowsOf(cube).map((name) => params.add(name))
  return namesQuery(CUBE_NAMES, question, params, `cube_dimensions d WHERE d.cube IN (${cubes.join(', ')})`)
}
const namesOfQuarters = (question: Question, params: Params): string | undefined =>
  namesQuery(QUARTER_NAMES, question, params, 'rollup_dimensions d WHERE true')

const joined = (question: Question, names: string): string =>
  hasNames(question) ? ` JOIN ${names} n ON n.dimensions_id = r.dimensions_id` : ''

/**
 * Rows looked up unit by unit: fenced, because a planner that cannot see how few units there are would rather read the whole range and
 * throw most of it away.
 */
function toldUnits(
  question: Question,
  params: Params,
  { rows, keys, sums }: Pick<Above, 'rows' | 'keys' | 'sums'>,
  covered: Covered,
): string[] {
  if (!covered.isTold) return []
  const summed = sums.map(signedBy(covered.isSigned.told))
  const columns = ['dimensions_id', ...keys, ...sums].map((column) => (MADE_SLOTS.has(column) ? `s.${column}` : column))
  const found = `SELECT u.t, u.sign, c.* FROM told u CROSS JOIN LATERAL (${rows(columns.join(', '))}
    WHERE x.org_id = ${params.add(question.orgId)} AND x.cube = u.cube AND x.hour_start = u.at OFFSET 0) AS c`
  return [`SELECT ${shownOf(question, { keys, sums: summed })} FROM (${found}) AS r${joined(question, CUBE_NAMES)}`]
}

const signedBy =
  (isSigned: boolean) =>
  (column: string): string =>
    isSigned ? `r.${column} * r.sign AS ${column}` : `r.${column}`

/** Quarter hours of the hours that no unit stands for: mostly the first and the last of the range. */
function untoldQuarters(
  question: Question,
  params: Params,
  sums: readonly string[],
  [fromMs, toMs]: Span,
  { isSigned }: Covered,
): string {
  const columns = ['bucket_start', 'dimensions_id', ...sums].join(', ')
  const at = (ms: number) => `${params.add(iso(ms))}::timestamptz`
  const time = timeKey(
    stepsIn(question),
    () => (isSigned.untold ? 'coalesce(h.shown, c.bucket_start)' : 'c.bucket_start'),
    params,
  )
  const rows = `SELECT ${time}, h.sign, c.* FROM untold h CROSS JOIN LATERAL (SELECT ${columns} FROM usage_rollups x
    WHERE x.org_id = ${params.add(question.orgId)} AND x.bucket_start >= greatest(h.at, ${at(fromMs)})
      AND x.bucket_start < least(h.at + interval '1 hour', ${at(toMs)}) OFFSET 0) AS c`
  const summed = sums.map(signedBy(isSigned.untold))
  return `SELECT ${shownOf(question, { keys: [], sums: summed })} FROM (${rows}) AS r${joined(question, QUARTER_NAMES)}`
}

/**
 * All quarter hours of the range, brought together before the names of combinations come in and filters take some away: names are
 * longer than ids, and a filter first tempts a planner that cannot see how many combinations pass it to read the range once for each.
 */
function allQuarters(question: Question, params: Params, sums: readonly string[], [fromMs, toMs]: Span): string {
  const names = namesOfQuarters(question, params)
  const ids = names === undefined ? [] : ['dimensions_id']
  const time = timeKey(stepsIn(question), () => 'bucket_start', params)
  const summed = sums.map((column) => `sum(${column})::bigint AS ${column}`)
  const rows = `SELECT ${[time, ...ids, ...summed].join(', ')} FROM usage_rollups WHERE org_id = ${params.add(question.orgId)}
    AND bucket_start >= ${params.add(iso(fromMs))} AND bucket_start < ${params.add(iso(toMs))}
    GROUP BY ${ordinals(1 + ids.length)}`
  const queries = names === undefined ? '' : `WITH ${names} `
  return `${queries}SELECT ${shownOf(question, { keys: [], sums })} FROM (${rows}) AS r${joined(question, QUARTER_NAMES)}`
}

/** Columns by which facts are grouped; `of` names the table that has the dimensions. */
const groupColumns = ({ dimensions, tagName }: Question, params: Params, of: string): string[] =>
  dimensions.map((dimension, index) => {
    const column = `${of}${DIMENSION_COLUMNS[dimension]}`
    if (dimension === 'tag' && tagName !== undefined) return `${valueIn(column, tagName, params)} AS g${index}`
    return `coalesce(${column}::text, '') AS g${index}`
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
  if (dimension === 'tag') return isTagged(column, value, params)
  if (value === NOBODY && CAN_BE_ABSENT.has(dimension)) return `${column} IS NULL`
  return `${column} = ${params.add(value)}`
}

const CAN_BE_ABSENT: ReadonlySet<Dimension> = new Set(['user', 'team', 'backend', 'end_user'])

/** As rollups know it: fractions of a second would be rounded into the next step. */
const BUCKET_OF_ROW = `to_timestamp(floor(date_part('epoch', started_at) / ${BUCKET_MS / 1_000}) * ${BUCKET_MS / 1_000})`

/** Step and names of rows at the ends. */
const rowColumns = (question: Question, params: Params, at = BUCKET_OF_ROW): string[] => [
  timeKey(stepsIn(question), () => at, params),
  ...groupColumns(question, params, ''),
]

/** Rows that began in one of the pieces. Their days lead an index of the attempts. */
function rowRange(question: Question, params: Params, pieces: readonly Span[]): string {
  const began = pieces.map(([fromMs, toMs]) => {
    const [from, to] = [iso(fromMs), iso(toMs)].map((at) => params.add(at))
    const days = `usage_day >= ${params.add(iso(fromMs).slice(0, 10))} AND usage_day <= ${params.add(iso(toMs - 1).slice(0, 10))}`
    return `(${days} AND started_at >= ${from} AND started_at < ${to})`
  })
  return `org_id = ${params.add(question.orgId)} AND (${began.join(' OR ')})${conditions(question, params, '')}`
}
