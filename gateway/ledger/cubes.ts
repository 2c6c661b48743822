// Coarser rollups: hours and days by a few dimensions at a time. Owns which there are, which one can answer a question, and the SQL
// that makes an hour of them from its quarter hours and a day from its hours; when that is done and under which lock is rollups.ts.
// Pure.
//
// A rollup of all dimensions has nearly as many rows as there are requests, because dimensions that do not depend on each other
// multiply: a key here, a machine there, a tag beside it. Pages ask by one or two of them. Each cube keeps some together, so that
// every such question has one with few rows; what none covers is added up from the quarter hours, slower and just as right.
import { DIMENSION_COLUMNS, DIMENSIONS, type Dimension, SUMS } from './usage-facts.ts'

export const HOUR_MS = 3_600_000
export const DAY_MS = 24 * HOUR_MS

export type Cube = { name: string; dimensions: readonly Dimension[] }

/** Under which a cube's days stand beside its hours. Names of combinations are the same for both. */
export const dayCube = (name: string): string => `${DAY_PREFIX}${name}`
const DAY_PREFIX = 'day:'

const WHO = ['project', 'key', 'user', 'team'] as const
const WHAT = ['model', 'model_served', 'provider', 'status'] as const

/**
 * The smallest first: a question takes the first one that covers it. A change of this list comes with a migration that says no
 * hour and no day is made (0018_cubes_anew.sql), or made ones would be missing what is new.
 */
export const SUM_CUBES: readonly Cube[] = [
  { name: 'total', dimensions: ['status'] },
  { name: 'backend', dimensions: ['backend', 'status'] },
  { name: 'tag', dimensions: ['tag', 'status'] },
  { name: 'models', dimensions: WHAT },
  { name: 'model_tag', dimensions: ['model', 'tag'] },
  { name: 'who', dimensions: [...WHO, 'status'] },
  { name: 'what', dimensions: ['project', ...WHAT] },
  { name: 'what_backend', dimensions: ['project', ...WHAT, 'backend'] },
  { name: 'what_tag', dimensions: ['project', ...WHAT, 'tag'] },
  { name: 'who_what', dimensions: [...WHO, ...WHAT] },
  { name: 'who_backend', dimensions: [...WHO, 'status', 'backend'] },
  { name: 'who_tag', dimensions: [...WHO, 'status', 'tag'] },
]

/** Of latencies: each combination has tens of slots, so these keep less together. */
export const LATENCY_CUBES: readonly Cube[] = [
  { name: 'total', dimensions: ['status'] },
  { name: 'model', dimensions: ['model', 'status'] },
  { name: 'models', dimensions: WHAT },
  { name: 'backend', dimensions: ['backend', 'status'] },
  { name: 'project', dimensions: ['project', 'status'] },
]

/** The first cube that tells apart all of these. */
export const cubeFor = (cubes: readonly Cube[], needed: readonly Dimension[]): Cube | undefined =>
  cubes.find(({ dimensions }) => needed.every((dimension) => dimensions.includes(dimension)))

const COLUMNS = DIMENSIONS.map((dimension) => DIMENSION_COLUMNS[dimension])

/** The columns of a cube as rollup_dimensions has them; of the others nothing. */
const selection = ({ dimensions }: Cube): string =>
  DIMENSIONS.map((dimension) => {
    const column = DIMENSION_COLUMNS[dimension]
    if (dimensions.includes(dimension)) return `d.${column} AS ${column}`
    return `NULL::${UUIDS.has(dimension) ? 'uuid' : 'text'} AS ${column}`
  }).join(', ')
const UUIDS: ReadonlySet<Dimension> = new Set(WHO)

/** Lengths stand before texts, so that no two combinations can be written the same. */
const told = (column: string) => `coalesce('/' || length(${column}::text)::text || ':' || ${column}::text, '/-')`
const ID = `md5(cube || ${COLUMNS.map(told).join(' || ')})::uuid`

/** $1 organisation, $2 and $3 start and end of the hour: its rows of a table of rollups, told apart as a cube does. */
function hourOf(cube: Cube, table: string, keys: readonly string[], sums: readonly string[]): string {
  const groups = [...cube.dimensions.map((dimension) => `d.${DIMENSION_COLUMNS[dimension]}`), ...keys]
  const shown = [selection(cube), ...keys, ...sums.map((column) => `sum(r.${column})::bigint AS ${column}`)]
  return `SELECT '${cube.name}'::text AS cube, ${shown.join(', ')}
    FROM ${table} r JOIN rollup_dimensions d ON d.org_id = $1::uuid AND d.dimensions_id = r.dimensions_id
    WHERE r.org_id = $1::uuid AND r.bucket_start >= $2::timestamptz AND r.bucket_start < $3::timestamptz
    GROUP BY ${groups.join(', ')}`
}

const union = (cubes: readonly Cube[], arm: (cube: Cube) => string): string => cubes.map(arm).join(' UNION ALL ')
const inserted = (what: string, columns: readonly string[], facts: string): string =>
  `INSERT INTO ${what} (org_id, hour_start, cube, dimensions_id, ${columns.join(', ')})
    SELECT $1::uuid, $2::timestamptz, cube, ${ID}, ${columns.join(', ')} FROM (${facts}) AS facts`

const SUM_COLUMNS = SUMS.map(({ column }) => column)
/** Every request is in the sums, so these have the combinations of latencies too; cubes of one name tell the same apart. */
const NAMED = [...new Map([...LATENCY_CUBES, ...SUM_CUBES].map((cube) => [cube.name, cube])).values()]

/** In their order, in one transaction that holds the hour: what was there goes, what its quarter hours say comes. */
export const MAKE_HOUR: readonly string[] = [
  `DELETE FROM usage_cubes WHERE org_id = $1::uuid AND cube IN (${namesOf(SUM_CUBES)})
    AND hour_start >= $2::timestamptz AND hour_start < $3::timestamptz`,
  `DELETE FROM cube_latencies WHERE org_id = $1::uuid AND cube IN (${namesOf(LATENCY_CUBES)})
    AND hour_start >= $2::timestamptz AND hour_start < $3::timestamptz`,
  // Ordered, so that makers of different hours insert new combinations in one direction.
  `INSERT INTO cube_dimensions (org_id, cube, dimensions_id, ${COLUMNS.join(', ')})
    SELECT $1::uuid, cube, ${ID} AS dimensions_id, ${COLUMNS.join(', ')}
    FROM (${union(NAMED, (cube) => hourOf(cube, 'usage_rollups', [], []))}) AS combinations
    ORDER BY cube, dimensions_id ON CONFLICT DO NOTHING`,
  inserted(
    'usage_cubes',
    SUM_COLUMNS,
    union(SUM_CUBES, (cube) => hourOf(cube, 'usage_rollups', [], SUM_COLUMNS)),
  ),
  inserted(
    'cube_latencies',
    ['slot', 'first_tokens', 'ends'],
    union(LATENCY_CUBES, (cube) => hourOf(cube, 'rollup_latencies', ['slot'], ['first_tokens', 'ends'])),
  ),
]

/** $1 organisation, $2 and $3 start and end of the day: its hours added up. */
const dayOf = (table: string, cubes: readonly Cube[], keys: readonly string[], sums: readonly string[]): string => {
  const same = ['cube', 'dimensions_id', ...keys]
  return `INSERT INTO ${table} (org_id, hour_start, ${[...same, ...sums].join(', ')})
    SELECT $1::uuid, $2::timestamptz, '${DAY_PREFIX}' || cube, ${['dimensions_id', ...keys].join(', ')},
      ${sums.map((column) => `sum(${column})::bigint`).join(', ')}
    FROM ${table} WHERE org_id = $1::uuid AND cube IN (${namesOf(cubes)})
      AND hour_start >= $2::timestamptz AND hour_start < $3::timestamptz GROUP BY ${same.join(', ')}`
}
const noDay = (table: string, cubes: readonly Cube[]): string =>
  `DELETE FROM ${table} WHERE org_id = $1::uuid AND cube IN (${cubes.map(({ name }) => `'${dayCube(name)}'`).join(', ')})
    AND hour_start >= $2::timestamptz AND hour_start < $3::timestamptz`

/** In their order, in one transaction that holds the day, whose hours are all made. */
export const MAKE_DAY: readonly string[] = [
  noDay('usage_cubes', SUM_CUBES),
  noDay('cube_latencies', LATENCY_CUBES),
  dayOf('usage_cubes', SUM_CUBES, [], SUM_COLUMNS),
  dayOf('cube_latencies', LATENCY_CUBES, ['slot'], ['first_tokens', 'ends']),
]

function namesOf(cubes: readonly Cube[]): string {
  return cubes.map(({ name }) => `'${name}'`).join(', ')
}
