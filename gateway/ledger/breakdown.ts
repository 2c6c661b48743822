// Usage read back: sums over a range, told apart by dimensions and by local time. Owns the statements; what is counted is
// usage-facts.ts, the HTTP form admin/usage.ts.
//
// Whole quarter hours come from rollups, the two ends of a range that cut one come from its rows, under the same words. All
// lines of an answer come from one statement and the total is their sum, so that a breakdown adds up to its headline
// whatever is written meanwhile.
import { Params } from '../db/params.ts'
import type { Database } from '../db/port.ts'
import type { Histogram } from './latency.ts'
import { stepsOf, type TimeStep, timeKey, timeLabel } from './time-steps.ts'
import {
  BUCKET_MS,
  bucketStartMs,
  DIMENSION_COLUMNS,
  DIMENSIONS,
  type Dimension,
  factsOfRows,
  isTimed,
  LATENCY_MS,
  mapSums,
  SUMS,
  type SumField,
  slotOfSql,
} from './usage-facts.ts'

export type Question = {
  orgId: string
  /** Epoch ms, inclusive. */
  fromMs: number
  /** Exclusive. */
  toMs: number
  /** Only usage with these values. */
  filters: Partial<Record<Dimension, string | undefined>>
  /** What lines are told apart by; the order is that of `Line.names`. */
  dimensions: readonly Dimension[]
  step?: TimeStep | undefined
  /** IANA name: where hours, days and months begin. */
  timeZone: string
  /** Combinations of dimensions shown, by cost over the whole range; the rest is added up as `other`. */
  top: number
  /** Percentiles of the whole, or of each line too, which costs more than all the sums. */
  latency: 'none' | 'total' | 'lines'
}

export type Sums = Record<SumField, bigint>
export type Latency = { firstToken: Histogram; end: Histogram }

export type Line = {
  /** `2026-11-22`, `2026-11`, or for hours `2026-11-22T05:00+01:00`. */
  time: string | undefined
  /** Absent: usage without a user or team. */
  names: (string | undefined)[]
  /** Everything beyond the top. */
  other: boolean
  sums: Sums
  /** Absent where latencies are not told apart like this, or there are too many lines to tell. */
  latency: Latency | undefined
}

/** Lines by time, then by cost, `other` last; all add up to `total`. */
export type Breakdown = {
  lines: Line[]
  total: Sums
  /** Absent under a filter by key, user or team, and where it was not asked for. */
  latency: Latency | undefined
}

/** Percentiles are those of requests with this status, unless another is asked for or statuses have lines of their own. */
const ENDED_WELL = 'ok'
/** Slots of all lines together: what one answer may hold of them. */
const SLOT_ROWS_MAX = 20_000

/** @throws DatabaseUnavailable, QueryFailed; RangeError for an unknown zone */
export async function breakdown(database: Database, question: Question): Promise<Breakdown> {
  const [lines, slots] = await Promise.all([readLines(database, question), timed(database, question)])
  const total: Sums = mapSums(() => 0n)
  for (const { sums } of lines) for (const { field } of SUMS) total[field] += sums[field]
  if (slots === undefined) return { lines, total, latency: undefined }
  const latency = emptyLatency()
  const byKey = new Map(slots.byLine ? lines.map((line) => [line.key, line]) : [])
  for (const line of byKey.values()) line.latency = emptyLatency()
  const statusAt = slots.byLine && question.filters.status === undefined ? question.dimensions.indexOf('status') : -1
  for (const { time, names, slot, counts } of slots.rows) {
    if (statusAt < 0 || names[statusAt] === ENDED_WELL) add(latency, slot, counts)
    const line = byKey.get(lineKey(time, names)) ?? byKey.get(lineKey(time, undefined))
    if (line?.latency !== undefined) add(line.latency, slot, counts)
  }
  return { lines, total, latency }
}

/** The slots by line where that is known and fits an answer, else over all; `undefined` where they are not known at all. */
async function timed(
  database: Database,
  question: Question,
): Promise<{ byLine: boolean; rows: SlotRow[] } | undefined> {
  const untimed = (dimension: Dimension) => !isTimed(dimension)
  const { dimensions, filters, latency } = question
  if (latency === 'none') return undefined
  if (DIMENSIONS.some((dimension) => untimed(dimension) && filters[dimension] !== undefined)) return undefined
  const ended: Question = { ...question, filters: { ...filters, status: filters.status ?? ENDED_WELL } }
  const wanted = dimensions.includes('status') ? question : ended
  const byLine = latency === 'total' || dimensions.some(untimed) ? undefined : await readSlots(database, wanted)
  if (byLine !== undefined) return { byLine: true, rows: byLine }
  const rows = await readSlots(database, { ...ended, dimensions: [], step: undefined })
  return { byLine: false, rows: rows ?? [] }
}

type MutableLatency = { firstToken: Map<number, bigint>; end: Map<number, bigint> }
type KeyedLine = Line & { key: string; place: number; timeKey: number; latency: MutableLatency | undefined }

/** Where each sum stands among the sums of a row. */
const PLACES = new Map(SUMS.map(({ field }, index) => [field, index]))

const emptyLatency = (): MutableLatency => ({ firstToken: new Map(), end: new Map() })

function add(latency: MutableLatency, slot: number, counts: { firstToken: bigint; end: bigint }): void {
  latency.firstToken.set(slot, (latency.firstToken.get(slot) ?? 0n) + counts.firstToken)
  latency.end.set(slot, (latency.end.get(slot) ?? 0n) + counts.end)
}

/** @param names absent: the line of everything else */
const lineKey = (time: number, names: readonly string[] | undefined): string => JSON.stringify([time, names ?? null])

async function readLines(database: Database, question: Question): Promise<KeyedLine[]> {
  const params = new Params()
  const { dimensions, top } = question
  const groups = dimensions.map((_, index) => `g${index}`)
  const sums = SUMS.map(({ column }) => `sum(${column}) AS ${column}`).join(', ')
  const grouped = `SELECT ${['t', ...groups].join(', ')}, ${sums}
    FROM (${sources(question, params)}) AS facts GROUP BY ${ordinals(1 + groups.length)}`
  const text =
    groups.length === 0
      ? `SELECT t, 1, ${SUMS.map(({ column }) => column).join(', ')} FROM (${grouped}) AS grouped`
      : ranked(grouped, groups, sums, params.add(top))
  const { rows } = await database.run({ text, params: params.values })
  const first = 2 + groups.length
  const steps = stepsIn(question)
  const lines = rows.map((row): KeyedLine => {
    const time = Number(row[0])
    const other = groups.length > 0 && Number(row[1]) > top
    const names = groups.map((_, index) => String(row[2 + index] ?? ''))
    return {
      key: lineKey(time, other ? undefined : names),
      place: Number(row[1]),
      timeKey: time,
      time: timeLabel(steps, time),
      names: names.map((name) => (name === '' ? undefined : name)),
      other,
      sums: mapSums((field) => BigInt(String(row[first + (PLACES.get(field) ?? 0)]))),
      latency: undefined,
    }
  })
  return lines.sort((a, b) => a.timeKey - b.timeKey || a.place - b.place)
}

/** The combinations that cost most over the range keep their names; all others become one per time step. */
function ranked(grouped: string, groups: readonly string[], sums: string, top: string): string {
  const same = groups.join(', ')
  const names = groups.map((group) => `CASE WHEN place <= ${top}::bigint THEN ${group} END AS ${group}`).join(', ')
  return `WITH grouped AS (${grouped}),
    weighed AS (SELECT *, sum(cost_nanousd) OVER (PARTITION BY ${same}) AS weight,
      sum(requests) OVER (PARTITION BY ${same}) AS weight_requests FROM grouped),
    placed AS (SELECT *, dense_rank() OVER (ORDER BY weight DESC, weight_requests DESC, ${same}) AS place FROM weighed)
    SELECT t, least(place, ${top}::bigint + 1) AS place, ${names}, ${sums} FROM placed GROUP BY ${ordinals(2 + groups.length)}`
}

const ordinals = (count: number): string => Array.from({ length: count }, (_, index) => index + 1).join(', ')

type SlotRow = { time: number; names: string[]; slot: number; counts: { firstToken: bigint; end: bigint } }

/** Slots of every combination; `undefined` where there are more than one answer may hold. */
async function readSlots(database: Database, question: Question): Promise<SlotRow[] | undefined> {
  const params = new Params()
  const groups = question.dimensions.map((_, index) => `g${index}`)
  const columns = ['t', ...groups, 'slot']
  const { rows } = await database.run({
    text: `SELECT ${columns.join(', ')}, sum(first_tokens), sum(ends) FROM (${timedSources(question, params)}) AS timed
      GROUP BY ${ordinals(columns.length)} LIMIT ${SLOT_ROWS_MAX + 1}`,
    params: params.values,
  })
  if (rows.length > SLOT_ROWS_MAX) return undefined
  return rows.map((row) => ({
    time: Number(row[0]),
    names: groups.map((_, index) => String(row[1 + index])),
    slot: Number(row[1 + groups.length]),
    counts: { firstToken: BigInt(String(row.at(-2))), end: BigInt(String(row.at(-1))) },
  }))
}

const iso = (atMs: number): string => new Date(atMs).toISOString()

/** Whole buckets of the range, and what is left of it at its ends. */
function cut({ fromMs, toMs }: Question): {
  wholeFromMs: number
  wholeToMs: number
  ends: [fromMs: number, toMs: number][]
} {
  const wholeFromMs = bucketStartMs(fromMs + BUCKET_MS - 1)
  const wholeToMs = bucketStartMs(toMs)
  if (wholeFromMs > wholeToMs) return { wholeFromMs, wholeToMs: wholeFromMs, ends: [[fromMs, toMs]] }
  const ends: [number, number][] = [
    [fromMs, wholeFromMs],
    [wholeToMs, toMs],
  ]
  return { wholeFromMs, wholeToMs, ends: ends.filter(([startMs, endMs]) => startMs < endMs) }
}

/** Columns by which facts are grouped; `of` names the table that has the dimensions. */
const groupColumns = ({ dimensions }: Question, of: string): string[] =>
  dimensions.map((dimension, index) => `coalesce(${of}${DIMENSION_COLUMNS[dimension]}::text, '') AS g${index}`)

function conditions({ filters }: Question, params: Params, of: string): string {
  return Object.entries(DIMENSION_COLUMNS)
    .map(([dimension, column]) => {
      const value = Object.entries(filters).find(([name]) => name === dimension)?.[1]
      return value === undefined ? '' : ` AND ${of}${column} = ${params.add(value)}`
    })
    .join('')
}

const stepsIn = ({ step, timeZone, fromMs, toMs }: Question) => stepsOf(step, timeZone, bucketStartMs(fromMs), toMs)

/**
 * Whole buckets out of a table of rollups, added up by step and combination before the names of combinations come in and
 * filters take some away: names are longer than ids, and a filter first tempts a planner that cannot see how many
 * combinations pass it to read the range once for each.
 */
function wholeBuckets(
  question: Question,
  params: Params,
  from: { table: string; keys: string[]; sums: string[] },
): string {
  const { wholeFromMs, wholeToMs } = cut(question)
  const orgId = params.add(question.orgId)
  const filter = conditions(question, params, 'd.')
  // Where no name is asked for there is nothing to join, and far fewer groups.
  const named = question.dimensions.length > 0 || filter !== ''
  const ids = named ? ['dimensions_id'] : []
  const keys = [timeKey(stepsIn(question), () => 'bucket_start', params), ...ids, ...from.keys]
  const added = from.sums.map((column) => `sum(${column}) AS ${column}`)
  const shown = ['r.t', ...groupColumns(question, 'd.'), ...from.keys, ...from.sums]
  const names = `JOIN rollup_dimensions d ON d.org_id = ${orgId} AND d.dimensions_id = r.dimensions_id${filter}`
  return `SELECT ${shown.join(', ')}
    FROM (SELECT ${[...keys, ...added].join(', ')} FROM ${from.table}
      WHERE org_id = ${orgId} AND bucket_start >= ${params.add(iso(wholeFromMs))}
      AND bucket_start < ${params.add(iso(wholeToMs))} GROUP BY ${ordinals(keys.length)}) AS r ${named ? names : ''}`
}

/** Step and names of the rows at an end of the range. */
const endColumns = (question: Question, params: Params, [fromMs]: [number, number]): string[] => [
  timeKey(stepsIn(question), () => `${params.add(iso(bucketStartMs(fromMs)))}::timestamptz`, params),
  ...groupColumns(question, ''),
]

/** Rows of a piece of one bucket, which lies in one UTC day. */
function rowRange(question: Question, params: Params, [fromMs, toMs]: [number, number]): string {
  return `org_id = ${params.add(question.orgId)} AND usage_day = ${params.add(iso(fromMs).slice(0, 10))}
    AND started_at >= ${params.add(iso(fromMs))} AND started_at < ${params.add(iso(toMs))}${conditions(question, params, '')}`
}

function sources(question: Question, params: Params): string {
  const { wholeFromMs, wholeToMs, ends } = cut(question)
  const sums = SUMS.map(({ column }) => column)
  const arms = ends.map((end) => factsOfRows(SUMS, endColumns(question, params, end), rowRange(question, params, end)))
  if (wholeFromMs < wholeToMs) arms.unshift(wholeBuckets(question, params, { table: 'usage_rollups', keys: [], sums }))
  return arms.join(' UNION ALL ')
}

function timedSources(question: Question, params: Params): string {
  const { wholeFromMs, wholeToMs, ends } = cut(question)
  const arms: string[] = []
  if (wholeFromMs < wholeToMs) {
    const sums = ['first_tokens', 'ends']
    arms.push(wholeBuckets(question, params, { table: 'rollup_latencies', keys: ['slot'], sums }))
  }
  for (const end of ends) {
    const columns = endColumns(question, params, end)
    const where = rowRange(question, params, end)
    const arm = (durationMs: string, counts: string, more: string) =>
      `SELECT ${[...columns, `${slotOfSql(durationMs)} AS slot`, counts].join(', ')} FROM usage_requests WHERE ${where}${more}`
    arms.push(arm(LATENCY_MS.firstToken, '1 AS first_tokens, 0 AS ends', ' AND first_token_at IS NOT NULL'))
    arms.push(arm(LATENCY_MS.end, '0 AS first_tokens, 1 AS ends', ''))
  }
  return arms.join(' UNION ALL ')
}
