// Coarser rollups: hours, days and longer spans by a few dimensions at a time. Owns which there are, which one can answer a question, and
// the SQL that makes an hour of them from what is below it and a longer unit from shorter ones; when that is done and under which
// lock is make-cubes.ts. Pure.
//
// A rollup of all dimensions has nearly as many rows as there are requests, because dimensions that do not depend on each other
// multiply: a key here, a machine there, a tag beside it. Pages ask by one or two of them and filter by another. Each cube keeps
// together what depends on each other (who asks: key, user, team, project; what for: model, provider, status) and one or two of the
// others, so that every question has one with few rows; the last one tells everything apart and answers what no other can.
//
// Units are hours, days, 8 days and 64 days, counted from the epoch. A range of n days is then a few of each, and an answer over a
// year adds up as many rows as one over a month: the number of combinations hardly grows with the length of a unit.
//
// End users are of another kind: there can be as many as requests, so no quarter hour tells them apart. Their cubes are made from
// the usage rows themselves.
import { DIMENSION_COLUMNS, DIMENSIONS, type Dimension, factsByColumns, SUMS } from './usage-facts.ts'

export const HOUR_MS = 3_600_000
export const DAY_MS = 24 * HOUR_MS

export type Cube = {
  name: string
  dimensions: readonly Dimension[]
  /**
   * No question reads its hours, which have as many rows as what is below them: they are there for the day to be made of, and go with
   * that.
   */
  isDaily?: boolean
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
export const HOUR: Level = {
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

const WHO = ['project', 'key', 'user', 'team'] as const
const WHAT = ['model', 'model_served', 'provider', 'status'] as const

/**
 * The smallest first: a question takes the first one that covers it. A change of this list comes with a migration that says no
 * unit is made (0020_spans.sql), or made ones would be missing what is new.
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

/** Made of usage rows. */
export const END_USER_CUBES: readonly Cube[] = [
  { name: 'end_user', dimensions: ['project', 'end_user'] },
  { name: 'end_user_what', dimensions: [...WHO, ...WHAT, 'end_user'], isDaily: true },
]

/** Of latencies: each combination has tens of slots, so these keep less together. */
export const LATENCY_CUBES: readonly Cube[] = [
  { name: 'total', dimensions: ['status'] },
  { name: 'model', dimensions: ['model', 'status'] },
  { name: 'models', dimensions: WHAT },
  { name: 'backend', dimensions: ['backend', 'status'] },
  { name: 'project', dimensions: ['project', 'status'] },
  { name: 'timed', dimensions: ['project', ...WHAT, 'backend'], isDaily: true },
]

/** The first cube that tells apart all of these. */
export const cubeFor = (cubes: readonly Cube[], needed: readonly Dimension[]): Cube | undefined =>
  cubes.find(({ dimensions }) => needed.every((dimension) => dimensions.includes(dimension)))

const COLUMNS = DIMENSIONS.map((dimension) => DIMENSION_COLUMNS[dimension])
const UUIDS: ReadonlySet<Dimension> = new Set(WHO)

/** The columns of a cube as cube_dimensions has them; of the others nothing. */
const selection = ({ dimensions }: Cube, of: string): string =>
  DIMENSIONS.map((dimension) => {
    const column = DIMENSION_COLUMNS[dimension]
    if (dimensions.includes(dimension)) return `${of}${column} AS ${column}`
    return `NULL::${UUIDS.has(dimension) ? 'uuid' : 'text'} AS ${column}`
  }).join(', ')

/** Lengths stand before texts, so that no two combinations can be written the same. */
const told = (column: string) => `coalesce('/' || length(${column}::text)::text || ':' || ${column}::text, '/-')`
/** Added where it is there: combinations without it keep the id they had before there were any. */
const END_USER_TOLD = `coalesce('/end_user' || length(end_user)::text || ':' || end_user, '')`
const ID = `md5(cube || ${[...COLUMNS.filter((column) => column !== 'end_user').map(told), END_USER_TOLD].join(' || ')})::uuid`

/** $1 organisation, $2 and $3 start and end of the hour: its rows of a table of rollups, told apart as a cube does. */
function ofRollups(cube: Cube, table: string, keys: readonly string[], sums: readonly string[]): string {
  const groups = [...cube.dimensions.map((dimension) => `d.${DIMENSION_COLUMNS[dimension]}`), ...keys]
  const shown = [selection(cube, 'd.'), ...keys, ...sums.map((column) => `sum(r.${column})::bigint AS ${column}`)]
  return `SELECT '${cube.name}'::text AS cube, ${shown.join(', ')}
    FROM ${table} r JOIN rollup_dimensions d ON d.org_id = $1::uuid AND d.dimensions_id = r.dimensions_id
    WHERE r.org_id = $1::uuid AND r.bucket_start >= $2::timestamptz AND r.bucket_start < $3::timestamptz
    GROUP BY ${groups.join(', ')}`
}

const IN_HOUR = `org_id = $1::uuid AND started_at >= $2::timestamptz AND started_at < $3::timestamptz
  AND usage_day = ($2::timestamptz AT TIME ZONE 'UTC')::date`

/** The same of usage rows. */
function ofRows(cube: Cube, sums: readonly string[]): string {
  const columns = cube.dimensions.map((dimension) => DIMENSION_COLUMNS[dimension]).join(', ')
  const shown = [selection(cube, ''), ...sums.map((column) => `sum(${column})::bigint AS ${column}`)]
  return `SELECT '${cube.name}'::text AS cube, ${shown.join(', ')}
    FROM (${factsByColumns(SUMS, columns, IN_HOUR)}) AS found GROUP BY ${columns}`
}

/** And their combinations alone. */
function namesOfRows(cube: Cube): string {
  const columns = cube.dimensions.map((dimension) => DIMENSION_COLUMNS[dimension]).join(', ')
  const found = (table: string) => `SELECT DISTINCT ${columns} FROM ${table} WHERE ${IN_HOUR}`
  return `SELECT '${cube.name}'::text AS cube, ${selection(cube, '')}
    FROM (${found('usage_attempts')} UNION ${found('usage_requests')}) AS found`
}

const union = (cubes: readonly Cube[], arm: (cube: Cube) => string): string => cubes.map(arm).join(' UNION ALL ')
const inserted = (what: string, columns: readonly string[], facts: string): string =>
  `INSERT INTO ${what} (org_id, hour_start, cube, dimensions_id, ${columns.join(', ')})
    SELECT $1::uuid, $2::timestamptz, cube, ${ID}, ${columns.join(', ')} FROM (${facts}) AS facts`
/** Ordered, so that makers of different hours insert new combinations in one direction. */
const named = (facts: string): string =>
  `INSERT INTO cube_dimensions (org_id, cube, dimensions_id, ${COLUMNS.join(', ')})
    SELECT $1::uuid, cube, ${ID} AS dimensions_id, ${COLUMNS.join(', ')} FROM (${facts}) AS combinations
    ORDER BY cube, dimensions_id ON CONFLICT DO NOTHING`

const SUM_COLUMNS = SUMS.map(({ column }) => column)
const LATENCY_COLUMNS = ['first_tokens', 'ends']
const ALL_SUMS = [...SUM_CUBES, ...END_USER_CUBES]

const gone = (table: string, cubes: readonly Cube[], { prefix }: Level): string =>
  `DELETE FROM ${table} WHERE org_id = $1::uuid AND cube IN (${namesOf(cubes, prefix)})
    AND hour_start >= $2::timestamptz AND hour_start < $3::timestamptz`

// Every request is in the sums, so these have the combinations of latencies too; cubes of one name tell the same apart.
const NAMED = [...new Map([...LATENCY_CUBES, ...SUM_CUBES].map((cube) => [cube.name, cube])).values()]

const MAKE_HOUR: readonly string[] = [
  named(union(NAMED, (cube) => ofRollups(cube, 'usage_rollups', [], []))),
  inserted(
    'usage_cubes',
    SUM_COLUMNS,
    union(SUM_CUBES, (cube) => ofRollups(cube, 'usage_rollups', [], SUM_COLUMNS)),
  ),
  named(union(END_USER_CUBES, namesOfRows)),
  inserted(
    'usage_cubes',
    SUM_COLUMNS,
    union(END_USER_CUBES, (cube) => ofRows(cube, SUM_COLUMNS)),
  ),
  inserted(
    'cube_latencies',
    ['slot', ...LATENCY_COLUMNS],
    union(LATENCY_CUBES, (cube) => ofRollups(cube, 'rollup_latencies', ['slot'], LATENCY_COLUMNS)),
  ),
]

type Summed = { table: string; cubes: readonly Cube[]; keys: readonly string[]; sums: readonly string[] }
const SUMMED: readonly Summed[] = [
  { table: 'usage_cubes', cubes: ALL_SUMS, keys: [], sums: SUM_COLUMNS },
  { table: 'cube_latencies', cubes: LATENCY_CUBES, keys: ['slot'], sums: LATENCY_COLUMNS },
]

/** $1 organisation, $2 and $3 start and end of the unit: its shorter units added up. */
function longer({ table, cubes, keys, sums }: Summed, level: Level, below: Level): string {
  const name = `'${level.prefix}' || substr(cube, ${below.prefix.length + 1})`
  return `INSERT INTO ${table} (org_id, hour_start, ${['cube', 'dimensions_id', ...keys, ...sums].join(', ')})
    SELECT $1::uuid, $2::timestamptz, ${[name, 'dimensions_id', ...keys].join(', ')},
      ${sums.map((column) => `sum(${column})::bigint`).join(', ')}
    FROM ${table} WHERE org_id = $1::uuid AND cube IN (${namesOf(cubes, below.prefix)})
      AND hour_start >= $2::timestamptz AND hour_start < $3::timestamptz GROUP BY ${['cube', 'dimensions_id', ...keys].join(', ')}`
}

/**
 * In their order, in one transaction that holds the unit: what was there goes, what is below it says what comes.
 * @param below the level of the shorter units, which are all made; absent for hours
 */
export function makeStatements(level: Level, below: Level | undefined): readonly string[] {
  const begin = SUMMED.map(({ table, cubes }) => gone(table, cubes, level))
  if (below === undefined) return [...begin, ...MAKE_HOUR]
  const added = SUMMED.map((summed) => longer(summed, level, below))
  const used = SUMMED.map(({ table, cubes }) =>
    gone(
      table,
      cubes.filter(({ isDaily }) => isDaily === true),
      below,
    ),
  )
  return [...begin, ...added, ...(level === DAY ? used : [])]
}

function namesOf(cubes: readonly Cube[], prefix: string): string {
  return cubes.map(({ name }) => `'${prefix}${name}'`).join(', ')
}
