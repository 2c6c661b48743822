// Usage read back: sums over a range, told apart by dimensions and by local time. Owns the statements; what is counted is
// usage-facts.ts, the HTTP form admin/usage.ts.
//
// Whole hours and quarter hours come from rollups, the two ends of a range that cut one come from its rows, under the same words
// (sources.ts). All lines of an answer come from one statement and the total is their sum, so that a breakdown adds up to its
// headline whatever is written meanwhile.
import { Params } from '../db/params.ts'
import type { Database } from '../db/port.ts'
import type { Histogram } from './latency.ts'
import { endUserFolds, NOBODY, ordinals, type Question, slotSources, stepsIn, sumSources } from './sources.ts'
import { FOLDED, wasFolded } from './tag-folds.ts'
import { timeLabel } from './time-steps.ts'
import { DIMENSIONS, type Dimension, isTimed, mapSums, SUMS, type SumField } from './usage-facts.ts'

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
  /** Absent by end user, or where there are too many lines to tell. */
  latency: Latency | undefined
}

/** Lines by time, then by cost, `other` last; all add up to `total`. */
export type Breakdown = {
  lines: Line[]
  total: Sums
  /** Absent under a filter by end user, and where it was not asked for. */
  latency: Latency | undefined
  /**
   * A tag that is asked about had more values than are told apart: a filter by it can miss usage, and a line FOLDED holds it. Or there
   * were more end users than units name: a line FOLDED holds the others.
   */
  folded: boolean
}

/** Percentiles are those of requests with this status, unless another is asked for or statuses have lines of their own. */
const ENDED_WELL = 'ok'
/** Slots of all lines together: what one answer may hold of them. */
const SLOT_ROWS_MAX = 20_000

/** @throws DatabaseUnavailable, QueryFailed; RangeError for an unknown zone */
export async function breakdown(database: Database, question: Question): Promise<Breakdown> {
  const tags = tagNamesOf(question)
  const endUsers = endUserFolds(question)
  // One end user is asked for by name: where units do not name them all, the rows do.
  const rowsAlone = endUsers.length > 0 && asksForOne(question) && (await wasFolded(database, question, endUsers))
  const names = [...(tags.length > 0 ? [...tags, FOLDED] : []), ...(rowsAlone ? [] : endUsers)]
  const [lines, slots, folded] = await Promise.all([
    readLines(database, { ...question, rowsAlone }),
    timed(database, question),
    names.length > 0 && wasFolded(database, question, names),
  ])
  const total: Sums = mapSums(() => 0n)
  for (const { sums } of lines) for (const { field } of SUMS) total[field] += sums[field]
  if (slots === undefined) return { lines, total, latency: undefined, folded }
  const latency = emptyLatency()
  const byKey = new Map(slots.byLine ? lines.map((line) => [line.key, line]) : [])
  for (const line of byKey.values()) line.latency = emptyLatency()
  const isAnyStatus = question.filters.status === undefined && question.statusClass === undefined
  const statusAt = slots.byLine && isAnyStatus ? question.dimensions.indexOf('status') : -1
  for (const { time, names, slot, counts } of slots.rows) {
    if (statusAt < 0 || names[statusAt] === ENDED_WELL) add(latency, slot, counts)
    const line = byKey.get(lineKey(time, names)) ?? byKey.get(lineKey(time, undefined))
    if (line?.latency !== undefined) add(line.latency, slot, counts)
  }
  return { lines, total, latency, folded }
}

const asksForOne = ({ filters: { end_user } }: Question): boolean => end_user !== undefined && end_user !== NOBODY

/** Of tags that a question tells apart or filters by: `name=value` or `!name`. */
function tagNamesOf({ dimensions, tagName, filters }: Question): string[] {
  const filtered = filters.tag?.replace(/^!/, '').split('=')[0]
  const grouped = dimensions.includes('tag') ? tagName : undefined
  return [filtered, grouped].filter((name) => name !== undefined)
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
  const status = filters.status ?? (question.statusClass === undefined ? ENDED_WELL : undefined)
  const ended: Question = { ...question, filters: { ...filters, status } }
  const wanted = dimensions.includes('status') ? question : ended
  const byLine = latency === 'total' || dimensions.some(untimed) ? undefined : await readSlots(database, wanted)
  if (byLine !== undefined) return { byLine: true, rows: byLine }
  const rows = await readSlots(database, { ...ended, dimensions: [], step: undefined })
  return { byLine: false, rows: rows ?? [] }
}

type MutableLatency = { firstToken: Map<number, bigint>; end: Map<number, bigint> }
type KeyedLine = Line & { key: string; place: number; timeKey: number; latency: MutableLatency | undefined }

/** What the order of combinations rests on. */
const WEIGHTS = SUMS.filter(({ field }) => field === 'costNanoUsd' || field === 'requests')

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
  const sums = SUMS.map(({ column }) => `coalesce(sum(${column}), 0) AS ${column}`).join(', ')
  const text = groups.length === 0 ? whole(question, params, sums) : ranked(question, params, groups, sums)
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
  // Of hours that were taken away from a day (cover.ts): a combination that is in no other of its hours leaves zeros there.
  const used =
    question.step === 'day' ? lines.filter(({ sums }) => SUMS.some(({ field }) => sums[field] !== 0n)) : lines
  return used.sort((a, b) => a.timeKey - b.timeKey || a.place - b.place)
}

const whole = (question: Question, params: Params, sums: string): string =>
  `SELECT t, 1, ${sums} FROM (${sumSources(question, params)}) AS facts GROUP BY t`

/**
 * The combinations that cost most over the range keep their names; all others become one per time step. Who they are is found first, by
 * cost and number of requests alone and over the range as a whole: there can be thousands, at each of hundreds of steps.
 */
function ranked(question: Question, params: Params, groups: readonly string[], sums: string): string {
  const same = groups.join(', ')
  const weighed = sumSources({ ...question, step: undefined }, params, WEIGHTS)
  const top = params.add(question.top)
  const names = groups.map((group) => `b.${group}`)
  const isSame = groups.map((group) => `b.${group} = f.${group}`).join(' AND ')
  return `WITH best AS MATERIALIZED (SELECT ${same}, row_number() OVER (ORDER BY weight DESC, weight_requests DESC, ${same}) AS place
      FROM (SELECT ${same}, coalesce(sum(cost_nanousd), 0) AS weight,
          coalesce(sum(requests), 0) AS weight_requests FROM (${weighed}) AS facts
        GROUP BY ${same}, ${IN_A_HASH}) AS weighed
      ORDER BY place LIMIT ${top}::bigint)
    SELECT t, coalesce(b.place, ${top}::bigint + 1) AS place, ${names.join(', ')}, ${sums}
    FROM (${sumSources(question, params)}) AS f LEFT JOIN best b ON ${isSame}
    GROUP BY ${ordinals(2 + groups.length)}, ${IN_A_HASH}`
}

/**
 * SQL to group by beside what tells lines apart: one value of a type that has no order, so that rows are brought together in a hash. A
 * planner that cannot see how many rows there are would sort all of them, which takes longer than everything else.
 */
const IN_A_HASH = `'0'::xid`

type SlotRow = { time: number; names: string[]; slot: number; counts: { firstToken: bigint; end: bigint } }

/** Slots of every combination; `undefined` where there are more than one answer may hold. */
async function readSlots(database: Database, question: Question): Promise<SlotRow[] | undefined> {
  const params = new Params()
  const groups = question.dimensions.map((_, index) => `g${index}`)
  const columns = ['t', ...groups, 'slot']
  const { rows } = await database.run({
    text: `SELECT ${columns.join(', ')}, sum(first_tokens), sum(ends) FROM (${slotSources(question, params)}) AS timed
      GROUP BY ${ordinals(columns.length)}, ${IN_A_HASH} LIMIT ${SLOT_ROWS_MAX + 1}`,
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
