// Coarser rollups: hours, days and longer spans by a few dimensions at a time. Owns which there are and which one can answer a question;
// the SQL that makes them is cube-sql.ts, when that is done and under which lock make-cubes.ts. Pure.
//
// A rollup of all dimensions has nearly as many rows as there are requests, because dimensions that do not depend on each other
// multiply: a key here, a machine there, a tag beside it. Pages ask by one or two of them and filter by another. Each cube keeps
// together what depends on each other (who asks: key, user, team, project; what for: model, provider, status) and one or two of the
// others, so that every question has one with few rows; the last one tells everything apart and answers what no other can.
//
// Units are hours, days, 8 days and 64 days, counted from the epoch. A range of n days is then a few of each, and an answer over a
// year adds up as many rows as one over a month: the number of combinations hardly grows with the length of a unit.
//
// End users are of another kind: there can be as many as requests, so no quarter hour tells them apart and a unit only so many. Their
// cubes are made from the usage rows themselves.
import type { Dimension } from './usage-facts.ts'

export const HOUR_MS = 3_600_000
export const DAY_MS = 24 * HOUR_MS

export type Cube = {
  name: string
  dimensions: readonly Dimension[]
  /** It has no hours: there it would have as many rows as what is below it, or another cube's hours serve. */
  isDaily?: boolean
  /** The cube whose hours are read in the place of its own. */
  hoursOf?: string
  /**
   * Of end users: how many a unit names, those that cost most. The others are added up as FOLDED (tag-folds.ts), and the fold is on
   * record. Longer units have whom their days name.
   */
  told?: number
}

/** A length of time that cubes are made for. */
export type Level = {
  name: 'hour' | 'day' | 'days8' | 'days64'
  lengthMs: number
  /** Of the names of its cubes, beside which rows stand in the same tables. Names of combinations are the same for all. */
  prefix: string
  /** The table of marks that say which units are made; its column of starts; and where it holds several levels, which one. */
  table: string
  start: string
  days: number | undefined
}

const spanLevel = (days: number): Pick<Level, 'lengthMs' | 'prefix' | 'table' | 'start' | 'days'> => ({
  lengthMs: days * DAY_MS,
  prefix: `days${days}:`,
  table: 'rollup_spans',
  start: 'span_start',
  days,
})
const HOUR: Level = {
  name: 'hour',
  lengthMs: HOUR_MS,
  prefix: '',
  table: 'rollup_hours',
  start: 'hour_start',
  days: undefined,
}
export const DAY: Level = {
  name: 'day',
  lengthMs: DAY_MS,
  prefix: 'day:',
  table: 'rollup_days',
  start: 'day_start',
  days: undefined,
}
/** SQL: the condition that picks a level's marks from a table called `of`. */
export const levelWhere = ({ days }: Level, of: string): string =>
  days === undefined ? '' : ` AND ${of}.days = ${days}`

/** Each made of the one before it, of whose length its own is a multiple. */
export const LEVELS: readonly Level[] = [
  HOUR,
  DAY,
  { name: 'days8', ...spanLevel(8) },
  { name: 'days64', ...spanLevel(64) },
]

export const WHO = ['project', 'key', 'user', 'team'] as const
const WHAT = ['model', 'model_served', 'provider', 'status'] as const

/**
 * The smallest first: a question takes the first one that covers it. A change of this list comes with a migration that says no
 * unit is made (0021_sparse_rollups.sql), or made ones would be missing what is new.
 */
export const SUM_CUBES: readonly Cube[] = [
  { name: 'total', dimensions: ['status'] },
  { name: 'backend', dimensions: ['backend', 'status'] },
  { name: 'tag', dimensions: ['tag', 'status'] },
  { name: 'models', dimensions: WHAT },
  { name: 'who', dimensions: [...WHO, 'status'] },
  { name: 'what', dimensions: ['project', ...WHAT] },
  { name: 'what_backend', dimensions: ['project', ...WHAT, 'backend'] },
  { name: 'what_tag', dimensions: ['project', ...WHAT, 'tag'] },
  { name: 'who_what', dimensions: [...WHO, ...WHAT] },
  { name: 'who_backend', dimensions: [...WHO, 'status', 'backend'] },
  { name: 'who_tag', dimensions: [...WHO, 'status', 'tag'] },
  { name: 'what_backend_tag', dimensions: ['project', ...WHAT, 'backend', 'tag'], isDaily: true },
  { name: 'all', dimensions: [...WHO, ...WHAT, 'backend', 'tag'], isDaily: true },
]

/** Enough to name all of an hour or a day as a rule, and a bound for callers that name each request's own. */
const ALONE_TOLD = 1_000
/** Beside another dimension: each has a row for each of its values. */
const BESIDE_TOLD = 100

/** Made of usage rows. */
export const END_USER_CUBES: readonly Cube[] = [
  { name: 'end_user', dimensions: ['end_user'], isDaily: true, hoursOf: 'end_user_project', told: ALONE_TOLD },
  { name: 'end_user_project', dimensions: ['project', 'end_user'], told: ALONE_TOLD },
  { name: 'end_user_who', dimensions: [...WHO, 'end_user'], isDaily: true, told: BESIDE_TOLD },
  { name: 'end_user_models', dimensions: [...WHAT, 'end_user'], isDaily: true, told: BESIDE_TOLD },
  { name: 'end_user_backend', dimensions: ['status', 'backend', 'end_user'], isDaily: true, told: BESIDE_TOLD },
  { name: 'end_user_tag', dimensions: ['status', 'tag', 'end_user'], isDaily: true, told: BESIDE_TOLD },
]

/**
 * Of latencies, made of usage rows: each combination has tens of slots, so these keep less together. Who asks beside what for is read
 * from rows.
 */
export const LATENCY_CUBES: readonly Cube[] = [
  { name: 'total', dimensions: ['status'] },
  { name: 'model', dimensions: ['model', 'status'] },
  { name: 'models', dimensions: WHAT },
  { name: 'backend', dimensions: ['backend', 'status'] },
  { name: 'project', dimensions: ['project', 'status'] },
  { name: 'tag', dimensions: ['tag', 'status'] },
  { name: 'who', dimensions: [...WHO, 'status'] },
  { name: 'timed', dimensions: ['project', ...WHAT, 'backend'], isDaily: true },
]

/** The first cube that tells apart all of these. */
export const cubeFor = (cubes: readonly Cube[], needed: readonly Dimension[]): Cube | undefined =>
  cubes.find(({ dimensions }) => needed.every((dimension) => dimensions.includes(dimension)))

/** The cubes whose rows answer for one: its own, and those that lend it their hours. */
export const rowsOf = ({ name, hoursOf }: Cube): string[] => (hoursOf === undefined ? [name] : [name, hoursOf])

/** Which cube's hours answer for one; none, where questions read what is below them. */
export const hoursIn = ({ name, isDaily, hoursOf }: Cube): string | undefined => (isDaily === true ? hoursOf : name)
