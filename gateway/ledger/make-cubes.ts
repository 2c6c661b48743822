// Hours, days and longer spans above the quarter hours of rollups. Owns when their cubes are made and the marks that say whether they
// are; what is in them is cubes.ts and cube-sql.ts, who reads them sources.ts.
//
// The rule of rollups.ts, some levels up: whoever rolls a quarter hour says in its transaction that the units it lies in are not made;
// whoever makes one holds its mark first, and says last that it is. So a made hour is the sum of its quarter hours, and a made unit
// that of the shorter ones in it, at every moment that a statement can see. Each is made once it is over; while it is not made,
// questions add up what is below it, so that no answer waits for it. Whoever makes a unit holds one mark; whoever rolls holds that
// of its quarter hour, then those above it, the longest unit first: nobody waits in a ring.
import type { Database, Statement } from '../db/port.ts'
import { QueryFailed } from '../db/port.ts'
import { errorText, log } from '../observe/log.ts'
import { makeStatements } from './cube-sql.ts'
import { LEVELS, type Level, levelWhere } from './cubes.ts'

/** Units of each level that one call makes at most, beside its buckets: an hour costs as much as a few of those. */
const UNITS_PER_ROLL = 8

const iso = (atMs: number): string => new Date(atMs).toISOString()
const startOf = (atMs: number, lengthMs: number): number => Math.floor(atMs / lengthMs) * lengthMs

/** Holds the units of a bucket, and says that their cubes are not the sums of what is below them any more. */
export const unmade = (orgId: string, bucketStart: string): Statement[] =>
  [...LEVELS].reverse().map((level) => mark(level, orgId, iso(startOf(Date.parse(bucketStart), level.lengthMs))))

function mark({ table, start, days }: Level, orgId: string, at: string): Statement {
  const key = ['org_id', ...(days === undefined ? [] : ['days']), start].join(', ')
  const values = ['$1', ...(days === undefined ? [] : [String(days)]), '$2'].join(', ')
  return {
    text: `INSERT INTO ${table} (${key}, made) VALUES (${values}, false) ON CONFLICT (${key}) DO UPDATE SET made = false`,
    params: [orgId, at],
  }
}

/**
 * Makes cubes of units that are over, the newest first: most questions are about them.
 * @returns whether more wait
 * @throws DatabaseUnavailable
 */
export async function makeCubes(database: Database, orgId: string, nowMs: number): Promise<boolean> {
  let left = false
  for (const [place, level] of LEVELS.entries())
    if (await make(database, orgId, { level, below: LEVELS[place - 1], nowMs })) left = true
  return left
}

type Making = { level: Level; below: Level | undefined; nowMs: number }

/** SQL: whether all shorter units in a unit `u` are made. */
function readyOf({ level, below }: Making): string {
  if (below === undefined) return 'true'
  return `NOT EXISTS (SELECT 1 FROM ${below.table} b WHERE b.org_id = $1::uuid AND NOT b.made${levelWhere(below, 'b')}
    AND b.${below.start} >= u.${level.start} AND b.${below.start} < u.${level.start} + interval '${level.lengthMs / 3_600_000} hours')`
}

async function make(database: Database, orgId: string, making: Making): Promise<boolean> {
  const { level, below, nowMs } = making
  const { table, start, lengthMs } = level
  const ready = readyOf(making)
  const { rows } = await database.run({
    text: `SELECT u.${start} FROM ${table} u WHERE u.org_id = $1::uuid AND NOT u.made${levelWhere(level, 'u')}
      AND u.${start} < $2::timestamptz AND ${ready} ORDER BY u.${start} DESC LIMIT ${UNITS_PER_ROLL + 1}`,
    params: [orgId, iso(startOf(nowMs, lengthMs))],
  })
  for (const [found] of rows.slice(0, UNITS_PER_ROLL)) {
    const at = String(found)
    const params = [orgId, at, iso(Date.parse(at) + lengthMs)]
    // Not where a quarter hour was rolled between the look and the lock.
    const made: Statement = {
      text: `UPDATE ${table} u SET made = ${ready} WHERE u.org_id = $1::uuid AND u.${start} = $2::timestamptz${levelWhere(level, 'u')}`,
      params: [orgId, at],
    }
    try {
      const statements = makeStatements(level, below).map((text) => ({ text, params }))
      await database.batch([mark(level, orgId, at), ...statements, made])
    } catch (error) {
      // What cannot be made is answered from below, and holds up no other.
      log('error', 'cubes_failed', { orgId, unit: level.name, start: at, error: errorText(error) })
      if (!(error instanceof QueryFailed)) throw error
    }
  }
  return rows.length > UNITS_PER_ROLL
}
