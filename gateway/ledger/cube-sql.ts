// The SQL that makes a unit of cubes (cubes.ts): an hour from quarter hours and usage rows, a longer unit from shorter ones, and of a
// day what has no hours from what an hour is made of. Owns the ids of combinations; in which order and under which lock the statements
// run is make-cubes.ts. Pure.
//
// Sums that are 0 are not written: of some forty most are, and absent ones take no room.
import { type Cube, DAY, END_USER_CUBES, LATENCY_CUBES, type Level, SUM_CUBES, WHO } from './cubes.ts'
import { FOLDED, foldOf, foldsOf } from './tag-folds.ts'
import {
  DIMENSION_COLUMNS,
  DIMENSIONS,
  type Dimension,
  factsOfRows,
  LATENCY_MS,
  ROLLED_DIMENSIONS,
  SUMS,
  slotOfSql,
} from './usage-facts.ts'

const columnsOf = (dimensions: readonly Dimension[]): string[] =>
  dimensions.map((dimension) => DIMENSION_COLUMNS[dimension])
const COLUMNS = columnsOf(DIMENSIONS)
const SUM_COLUMNS = SUMS.map(({ column }) => column)
const UUIDS: ReadonlySet<Dimension> = new Set(WHO)

/** The columns of a cube as cube_dimensions has them; of the others nothing. */
const selection = ({ dimensions }: Cube): string =>
  DIMENSIONS.map((dimension) => {
    const column = DIMENSION_COLUMNS[dimension]
    if (dimensions.includes(dimension)) return column
    return `NULL::${UUIDS.has(dimension) ? 'uuid' : 'text'} AS ${column}`
  }).join(', ')

/** Lengths stand before texts, so that no two combinations can be written the same. Cubes never meet: each id begins with its name. */
const idOf = ({ name, dimensions }: Cube): string => {
  const told = columnsOf(dimensions).map(
    (column) => `coalesce('/' || length(${column}::text)::text || ':' || ${column}::text, '/-')`,
  )
  return `md5('${name}' || ${told.join(' || ')})::uuid AS dimensions_id`
}

/** All that some cubes tell apart. */
const dimensionsOf = (cubes: readonly Cube[]): Dimension[] =>
  DIMENSIONS.filter((one) => cubes.some(({ dimensions }) => dimensions.includes(one)))

/** SQL: rows of `$1` in `$2` to `$3`. */
const IN_UNIT = `org_id = $1::uuid AND started_at >= $2::timestamptz AND started_at < $3::timestamptz
  AND usage_day >= ($2::timestamptz AT TIME ZONE 'UTC')::date
  AND usage_day <= (($3::timestamptz - interval '1 microsecond') AT TIME ZONE 'UTC')::date`

const union = (cubes: readonly Cube[], arm: (cube: Cube) => string): string => cubes.map(arm).join(' UNION ALL ')

/**
 * Writes what `made` has, and its combinations that are new: these in an order, so that makers of different units insert them in one
 * direction.
 */
const written = (level: Level, table: string, columns: readonly string[], values: readonly string[]): string => `
  names AS (INSERT INTO cube_dimensions (org_id, cube, dimensions_id, ${COLUMNS.join(', ')})
    SELECT $1::uuid, cube, dimensions_id, ${COLUMNS.join(', ')} FROM made ORDER BY cube, dimensions_id ON CONFLICT DO NOTHING)
  INSERT INTO ${table} (org_id, cube, hour_start, dimensions_id, ${columns.join(', ')})
  SELECT $1::uuid, '${level.prefix}' || cube, $2::timestamptz, dimensions_id, ${values.join(', ')} FROM made`

const sumsWritten = (level: Level): string =>
  written(
    level,
    'usage_cubes',
    SUM_COLUMNS,
    SUM_COLUMNS.map((column) => `nullif(${column}, 0)`),
  )

const summed = (cube: Cube, of: string): string =>
  `SELECT '${cube.name}'::text AS cube, ${idOf(cube)}, ${selection(cube)},
    ${SUM_COLUMNS.map((column) => `sum(${column})::bigint AS ${column}`).join(', ')}
    FROM ${of} GROUP BY ${columnsOf(cube.dimensions).join(', ')}`

/** Of rollups of quarter hours. */
const ofRollups = (cubes: readonly Cube[], level: Level): string => {
  const columns = [
    ...columnsOf(ROLLED_DIMENSIONS).map((column) => `d.${column}`),
    ...SUM_COLUMNS.map((column) => `r.${column}`),
  ]
  return `WITH rolled AS MATERIALIZED (SELECT ${columns.join(', ')}
      FROM usage_rollups r JOIN rollup_dimensions d ON d.org_id = $1::uuid AND d.dimensions_id = r.dimensions_id
      WHERE r.org_id = $1::uuid AND r.bucket_start >= $2::timestamptz AND r.bucket_start < $3::timestamptz),
    made AS MATERIALIZED (${union(cubes, (cube) => summed(cube, 'rolled'))}), ${sumsWritten(level)}`
}

/**
 * Of usage rows, with those end users by name who cost most, and tags folded as those of a quarter hour are. Rows meet places and folds
 * in full joins, though there is none without a row: they cannot be made by looking each row up in all of them, which a planner that
 * expects few rows would do.
 */
function ofEndUsers(cubes: readonly Cube[], level: Level): string {
  const others = DIMENSIONS.filter(
    (one) => one !== 'end_user' && cubes.some(({ dimensions }) => dimensions.includes(one)),
  )
  const columns = columnsOf(others)
  const isTagged = others.includes('tag')
  const facts = factsOfRows(SUMS, [...columns, 'end_user'], IN_UNIT).join(' UNION ALL ')
  const shown = columns.map((column) => (column === 'tags' ? 'folds.folded AS tags' : `f.${column}`))
  const cost = `SELECT end_user, CASE WHEN charge = 'customer' THEN cost_nanousd ELSE 0 END AS cost FROM usage_attempts`
  const named = ({ told }: Cube) =>
    `(SELECT ${[...columns, ...SUM_COLUMNS].join(', ')}, CASE WHEN place > ${told} THEN '${FOLDED}' ELSE end_user END AS end_user
      FROM placed) AS named`
  const folds = cubes.map((cube) => `('${foldOf(level.prefix, cube.name)}', ${cube.told})`).join(', ')
  return `WITH ${isTagged ? `${foldsOf(IN_UNIT)},` : ''}
    places AS MATERIALIZED (SELECT end_user AS name, row_number() OVER (ORDER BY sum(cost) DESC, count(*) DESC, end_user) AS place
      FROM (${cost} WHERE ${IN_UNIT} UNION ALL SELECT end_user, 0 FROM usage_requests WHERE ${IN_UNIT}) AS used
      WHERE end_user IS NOT NULL GROUP BY end_user),
    placed AS MATERIALIZED (SELECT ${[...shown, ...SUM_COLUMNS.map((column) => `f.${column}`), 'f.end_user', 'p.place'].join(', ')}
      FROM (${facts}) AS f FULL JOIN places p ON p.name = f.end_user${isTagged ? ' FULL JOIN folds ON folds.tags = f.tags' : ''}),
    folded AS (INSERT INTO rollup_folds (org_id, bucket_start, name)
      SELECT $1::uuid, $2::timestamptz, name FROM (VALUES ${folds}) AS o(name, told) WHERE told < (SELECT count(*) FROM places)
      ${isTagged ? 'UNION ALL SELECT $1::uuid, $2::timestamptz, name FROM folded_names' : ''} ON CONFLICT DO NOTHING),
    made AS MATERIALIZED (${union(cubes, (cube) => summed(cube, named(cube)))}), ${sumsWritten(level)}`
}

/** Of usage rows: one row has all slots of a combination. */
function ofLatencies(cubes: readonly Cube[], level: Level): string {
  const columns = columnsOf(dimensionsOf(cubes))
  const all = columns.join(', ')
  const isTagged = columns.includes('tags')
  const shown = columns.map((column) => (column === 'tags' ? 'folds.folded AS tags' : `f.${column}`))
  const slots = (cube: Cube) => {
    const own = columnsOf(cube.dimensions).join(', ')
    return `SELECT '${cube.name}'::text AS cube, ${idOf(cube)}, ${selection(cube)}, ${SLOT_ARRAYS}
      FROM (SELECT ${own}, slot, sum(first_tokens)::bigint AS first_tokens, sum(ends)::bigint AS ends FROM counted
        GROUP BY ${own}, slot) AS one GROUP BY ${own}`
  }
  return `WITH ${isTagged ? `${foldsOf(IN_UNIT)},` : ''}
    ended AS MATERIALIZED (SELECT ${shown.join(', ')}, ${slotOfSql(LATENCY_MS.end)} AS end_slot,
      CASE WHEN first_token_at IS NOT NULL THEN ${slotOfSql(LATENCY_MS.firstToken)} END AS token_slot
      FROM (SELECT * FROM usage_requests WHERE ${IN_UNIT}) AS f${isTagged ? ' FULL JOIN folds ON folds.tags = f.tags' : ''}),
    counted AS MATERIALIZED (SELECT ${all}, slot, sum(first_tokens)::bigint AS first_tokens, sum(ends)::bigint AS ends
      FROM (SELECT ${all}, token_slot AS slot, 1 AS first_tokens, 0 AS ends FROM ended WHERE token_slot IS NOT NULL
        UNION ALL SELECT ${all}, end_slot, 0, 1 FROM ended WHERE end_slot IS NOT NULL) AS timed GROUP BY ${all}, slot),
    made AS MATERIALIZED (${union(cubes, slots)}), ${written(level, 'cube_latencies', SLOT_COLUMNS, SLOT_COLUMNS)}`
}
const SLOT_COLUMNS = ['slots', 'first_tokens', 'ends']
const SLOT_ARRAYS = `array_agg(slot ORDER BY slot) AS slots, array_agg(first_tokens ORDER BY slot) AS first_tokens,
  array_agg(ends ORDER BY slot) AS ends`

const namesOf = (cubes: readonly Cube[], prefix: string): string =>
  cubes.map(({ name }) => `'${prefix}${name}'`).join(', ')
const ofUnits = (cubes: readonly Cube[], { prefix }: Level): string =>
  `org_id = $1::uuid AND cube IN (${namesOf(cubes, prefix)}) AND hour_start >= $2::timestamptz AND hour_start < $3::timestamptz`
const longerName = (level: Level, below: Level) => `'${level.prefix}' || substr(cube, ${below.prefix.length + 1})`

/** Of the shorter units in it. */
const ofShorterSums = (cubes: readonly Cube[], level: Level, below: Level): string =>
  `INSERT INTO usage_cubes (org_id, hour_start, cube, dimensions_id, ${SUM_COLUMNS.join(', ')})
    SELECT $1::uuid, $2::timestamptz, ${longerName(level, below)}, dimensions_id,
      ${SUM_COLUMNS.map((column) => `nullif(sum(${column}), 0)::bigint`).join(', ')}
    FROM usage_cubes WHERE ${ofUnits(cubes, below)} GROUP BY cube, dimensions_id`
const ofShorterLatencies = (cubes: readonly Cube[], level: Level, below: Level): string =>
  `INSERT INTO cube_latencies (org_id, hour_start, cube, dimensions_id, ${SLOT_COLUMNS.join(', ')})
    SELECT $1::uuid, $2::timestamptz, ${longerName(level, below)}, dimensions_id, ${SLOT_ARRAYS}
    FROM (SELECT x.cube, x.dimensions_id, s.slot, sum(s.first_tokens)::bigint AS first_tokens, sum(s.ends)::bigint AS ends
      FROM cube_latencies x CROSS JOIN LATERAL unnest(x.slots, x.first_tokens, x.ends) AS s(slot, first_tokens, ends)
      WHERE ${ofUnits(cubes, below)} GROUP BY x.cube, x.dimensions_id, s.slot) AS one GROUP BY cube, dimensions_id`

const gone = (level: Level): string[] => [
  `DELETE FROM usage_cubes WHERE ${ofUnits([...SUM_CUBES, ...END_USER_CUBES], level)}`,
  `DELETE FROM cube_latencies WHERE ${ofUnits(LATENCY_CUBES, level)}`,
  `DELETE FROM rollup_folds WHERE org_id = $1::uuid AND bucket_start >= $2::timestamptz AND bucket_start < $3::timestamptz
    AND name IN (${END_USER_CUBES.map(({ name }) => `'${foldOf(level.prefix, name)}'`).join(', ')})`,
]

const isHourly = ({ isDaily }: Cube): boolean => isDaily !== true
const isDaily = (cube: Cube): boolean => !isHourly(cube)

/**
 * With $1 organisation, $2 and $3 start and end of the unit, in their order, in one transaction that holds the unit: what was there
 * goes, what is below it says what comes. Days name end users anew: hours name others.
 * @param below the level of the shorter units, which are all made; absent for hours
 */
export function makeStatements(level: Level, below: Level | undefined): readonly string[] {
  const fromBelow = (keep: (cube: Cube) => boolean, endUsers: readonly Cube[]): string[] => [
    ofRollups(SUM_CUBES.filter(keep), level),
    ofEndUsers(endUsers, level),
    ofLatencies(LATENCY_CUBES.filter(keep), level),
  ]
  const fromShorter = (from: Level, sums: readonly Cube[], latencies: readonly Cube[]): string[] => [
    ofShorterSums(sums, level, from),
    ofShorterLatencies(latencies, level, from),
  ]
  if (below === undefined) return [...gone(level), ...fromBelow(isHourly, END_USER_CUBES.filter(isHourly))]
  if (level !== DAY) return [...gone(level), ...fromShorter(below, [...SUM_CUBES, ...END_USER_CUBES], LATENCY_CUBES)]
  return [
    ...gone(level),
    ...fromBelow(isDaily, END_USER_CUBES),
    ...fromShorter(below, SUM_CUBES.filter(isHourly), LATENCY_CUBES.filter(isHourly)),
  ]
}
