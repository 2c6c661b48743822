// Hours and days above the quarter hours of rollups. Owns when their cubes are made and the marks that say whether they are; what is in
// them is cubes.ts, who reads them sources.ts.
//
// The rule of rollups.ts, one and two levels up: whoever rolls a quarter hour says in its transaction that hour and day are not made;
// whoever makes one holds its mark first, and says last that it is. So a made hour is the sum of its quarter hours, and a made day
// that of its hours, at every moment that a statement can see. Either is made once it is over; while it is not made, questions add
// up what is below it, so that no answer waits for it. Marks are held in one order, quarter hour, hour, day: nobody waits in a ring.
import type { Database, Statement } from '../db/port.ts'
import { QueryFailed } from '../db/port.ts'
import { errorText, log } from '../observe/log.ts'
import { DAY_MS, HOUR_MS, MAKE_DAY, MAKE_HOUR } from './cubes.ts'

/** Units that one call makes at most, beside its buckets: an hour costs as much as a few of those, a day as an hour or two. */
const UNITS_PER_ROLL = 8

type Unit = {
  name: 'hour' | 'day'
  table: string
  column: string
  lengthMs: number
  make: readonly string[]
  ready: string
}

const UNMADE_HOURS = `SELECT 1 FROM rollup_hours h WHERE h.org_id = $1::uuid AND NOT h.made`
const HOUR: Unit = {
  name: 'hour',
  table: 'rollup_hours',
  column: 'hour_start',
  lengthMs: HOUR_MS,
  make: MAKE_HOUR,
  ready: 'true',
}
const DAY: Unit = {
  name: 'day',
  table: 'rollup_days',
  column: 'day_start',
  lengthMs: DAY_MS,
  make: MAKE_DAY,
  ready: `NOT EXISTS (${UNMADE_HOURS} AND h.hour_start >= u.day_start AND h.hour_start < u.day_start + interval '1 day')`,
}

const iso = (atMs: number): string => new Date(atMs).toISOString()
const startOf = (atMs: number, lengthMs: number): number => Math.floor(atMs / lengthMs) * lengthMs

/** Holds hour and day of a bucket, and says that their cubes are not the sums of what is below them any more. */
export const unmade = (orgId: string, bucketStart: string): Statement[] =>
  [HOUR, DAY].map((unit) => mark(unit, orgId, iso(startOf(Date.parse(bucketStart), unit.lengthMs))))

const mark = ({ table, column }: Unit, orgId: string, start: string): Statement => ({
  text: `INSERT INTO ${table} (org_id, ${column}, made) VALUES ($1, $2, false)
    ON CONFLICT (org_id, ${column}) DO UPDATE SET made = false`,
  params: [orgId, start],
})

/**
 * Makes cubes of hours and days that are over, the newest first: most questions are about them.
 * @returns whether more wait
 * @throws DatabaseUnavailable
 */
export async function makeCubes(database: Database, orgId: string, nowMs: number): Promise<boolean> {
  const hoursLeft = await make(database, orgId, HOUR, nowMs)
  const daysLeft = await make(database, orgId, DAY, nowMs)
  return hoursLeft || daysLeft
}

async function make(database: Database, orgId: string, unit: Unit, nowMs: number): Promise<boolean> {
  const { table, column, lengthMs, ready } = unit
  const { rows } = await database.run({
    text: `SELECT u.${column} FROM ${table} u WHERE u.org_id = $1::uuid AND NOT u.made AND u.${column} < $2::timestamptz AND ${ready}
      ORDER BY u.${column} DESC LIMIT ${UNITS_PER_ROLL + 1}`,
    params: [orgId, iso(startOf(nowMs, lengthMs))],
  })
  for (const [at] of rows.slice(0, UNITS_PER_ROLL)) {
    const start = String(at)
    const params = [orgId, start, iso(Date.parse(start) + lengthMs)]
    // Not where a quarter hour was rolled between the look and the lock.
    const made: Statement = {
      text: `UPDATE ${table} u SET made = ${ready} WHERE u.org_id = $1::uuid AND u.${column} = $2::timestamptz`,
      params: [orgId, start],
    }
    try {
      await database.batch([mark(unit, orgId, start), ...unit.make.map((text) => ({ text, params })), made])
    } catch (error) {
      // What cannot be made is answered from below, and holds up no other.
      log('error', 'cubes_failed', { orgId, unit: unit.name, start, error: errorText(error) })
      if (!(error instanceof QueryFailed)) throw error
    }
  }
  return rows.length > UNITS_PER_ROLL
}
