// What usage reports are asked for. Owns the filters and the range that all of them take, and the words for one too long.
import { and, eq, type SQL } from 'drizzle-orm'
import type { AnyPgColumn } from 'drizzle-orm/pg-core'
import { z } from 'zod'
import { isTimeZone, offsetMs, windowOf } from '../account/windows.ts'
import { DatabaseUnavailable } from '../db/port.ts'
import type { usageAttempts, usageRequests } from '../db/schema/usage.ts'
import { BUCKET_MS, bucketStartMs } from '../ledger/usage-facts.ts'
import { invalid, Refusal } from './context.ts'
import { Instant } from './input.ts'

const DAY_MS = 24 * 3_600_000
const RANGE_DEFAULT_MS = 30 * DAY_MS
/** A year and its leap day: a statement has seconds. */
const RANGE_MAX_MS = 366 * DAY_MS

/** An instant, or a day: its first moment in the time zone asked for, UTC where none is. */
export const Moment = z.union([z.iso.date(), Instant])

export const TimeZone = z
  .string()
  .max(64)
  .refine(isTimeZone, 'must be the name of a time zone, such as Europe/Berlin')
  .default('UTC')

export const filterParameters = {
  org: z.uuid().toLowerCase(),
  project: z.uuid().toLowerCase().optional(),
  key: z.uuid().toLowerCase().optional(),
  user: z.uuid().toLowerCase().optional(),
  team: z.uuid().toLowerCase().optional(),
  model: z.string().max(128).optional(),
  model_served: z.string().max(256).optional(),
  provider: z.string().max(64).optional(),
  status: z.string().max(64).optional(),
  from: Moment.optional(),
  to: Moment.optional(),
}
export type Filter = z.infer<z.ZodObject<typeof filterParameters>>

/** Rows that a filter names; the organisation is asked for, the range is each table's own matter. */
export function matching(table: typeof usageAttempts | typeof usageRequests, filter: Filter): SQL | undefined {
  const only = (column: AnyPgColumn, value: string | undefined) => (value === undefined ? undefined : eq(column, value))
  return and(
    eq(table.orgId, filter.org),
    only(table.projectId, filter.project),
    only(table.keyId, filter.key),
    only(table.userId, filter.user),
    only(table.teamId, filter.team),
    only(table.modelRequested, filter.model),
    only(table.modelServed, filter.model_served),
    only(table.provider, filter.provider),
    only(table.status, filter.status),
  )
}

/** From inclusive to exclusive, epoch ms. */
export type Range = { fromMs: number; toMs: number }

/** By default the last 30 days. @throws Refusal */
export function rangeOf(asked: Pick<Filter, 'from' | 'to'>, timeZone: string, nowMs: number): Range {
  // The end of the default range lies ahead, so that a request of this very moment is inside; on a border of rollups.
  const toMs = asked.to === undefined ? bucketStartMs(nowMs) + DAY_MS + BUCKET_MS : momentMs(asked.to, timeZone)
  const fromMs = asked.from === undefined ? toMs - RANGE_DEFAULT_MS : momentMs(asked.from, timeZone)
  if (fromMs >= toMs) throw invalid('from', 'must be before `to`')
  if (toMs - fromMs > RANGE_MAX_MS) throw invalid('from', `must be at most ${RANGE_MAX_MS / DAY_MS} days before \`to\``)
  return { fromMs, toMs }
}

/** SQLSTATE of a statement that ran into its time limit. */
const TIMED_OUT = /\b57014\b/

/** What the work gives; where the database gave up on it for its length, the refusal says what to do. @throws Refusal */
export async function withinTimeLimit<T>(work: Promise<T>, advice: string): Promise<T> {
  try {
    return await work
  } catch (error) {
    if (!(error instanceof DatabaseUnavailable) || !TIMED_OUT.test(error.message)) throw error
    throw new Refusal({ code: 'unavailable', message: `This is too much for one statement of the database. ${advice}` })
  }
}

function momentMs(moment: string, timeZone: string): number {
  const atMs = Date.parse(moment)
  // Rules of time zones begin here, and nothing was used before.
  if (!(atMs >= 0)) throw invalid('from', 'must not be before 1970')
  if (moment.length > '2026-11-22'.length) return atMs
  // Noon is on the date in every zone; its day begins where the zone says.
  const noonMs = atMs + DAY_MS / 2
  return windowOf('day', timeZone, noonMs - offsetMs(timeZone, noonMs)).startMs ?? atMs
}
