// What usage reports are asked for. Owns the filters and the range that all of them take, and the words for one too long.
import { and, eq, isNull, type SQL, sql } from 'drizzle-orm'
import type { AnyPgColumn } from 'drizzle-orm/pg-core'
import * as z from 'zod'
import { isTimeZone, offsetMs, windowOf } from '../account/windows.ts'
import { DatabaseUnavailable } from '../db/port.ts'
import type { usageAttempts, usageRequests } from '../db/schema/usage.ts'
import { NOBODY, type Question } from '../ledger/sources.ts'
import { isOfClass, STATUS_CLASSES } from '../ledger/status-class.ts'
import { BUCKET_MS, bucketStartMs } from '../ledger/usage-facts.ts'
import { invalid, Refusal } from './context.ts'
import { Instant } from './input.ts'

const DAY_MS = 24 * 3_600_000
const RANGE_DEFAULT_MS = 30 * DAY_MS
/** Thirteen months, so that a month stands beside itself a year before. */
const RANGE_MAX_DAYS = 397
/** And the hours by which clocks are set back meanwhile. */
const RANGE_MAX_MS = RANGE_MAX_DAYS * DAY_MS + 2 * 3_600_000

/** An instant, or a day: its first moment in the time zone asked for, UTC where none is. */
export const Moment = z.union([z.iso.date(), Instant])

export const TimeZone = z
  .string()
  .max(64)
  .refine(isTimeZone, 'must be the name of a time zone, such as Europe/Berlin')
  .default('UTC')

/** An id, or NOBODY: usage without one. */
const IdOrNone = z.union([z.literal(NOBODY), z.uuid().toLowerCase()], `must be an id, or "${NOBODY}"`)
const TAG_NAME = '[a-z][a-z0-9_-]{0,31}'
/** `name=value`, or `!name` for usage without that tag. */
const TagFilter = z
  .string()
  .regex(new RegExp(`^(${TAG_NAME}=[A-Za-z0-9_.:/@+-]{1,64}|!${TAG_NAME})$`), 'must be name=value, or !name')
export const TAG_WORD = new RegExp(`^tag:(${TAG_NAME})$`)

export const filterParameters = {
  org: z.uuid().toLowerCase(),
  project: z.uuid().toLowerCase().optional(),
  key: z.uuid().toLowerCase().optional(),
  user: IdOrNone.optional(),
  team: IdOrNone.optional(),
  model: z.string().max(128).optional(),
  model_served: z.string().max(256).optional(),
  provider: z.string().max(64).optional(),
  status: z.string().max(64).optional(),
  status_class: z.enum(STATUS_CLASSES).optional(),
  backend: z.union([z.literal(NOBODY), z.string().min(1).max(64)]).optional(),
  end_user: z.string().min(1).max(256).optional(),
  tag: TagFilter.optional(),
  from: Moment.optional(),
  to: Moment.optional(),
}
export type Filter = z.infer<z.ZodObject<typeof filterParameters>>

/** Rows that a filter names; the organisation is asked for, the range is each table's own matter. */
export function matching(table: typeof usageAttempts | typeof usageRequests, filter: Filter): SQL | undefined {
  const only = (column: AnyPgColumn, value: string | undefined) => (value === undefined ? undefined : eq(column, value))
  const onlyOrNone = (column: AnyPgColumn, value: string | undefined) =>
    value === NOBODY ? isNull(column) : only(column, value)
  return and(
    eq(table.orgId, filter.org),
    only(table.projectId, filter.project),
    only(table.keyId, filter.key),
    onlyOrNone(table.userId, filter.user),
    onlyOrNone(table.teamId, filter.team),
    only(table.modelRequested, filter.model),
    only(table.modelServed, filter.model_served),
    only(table.provider, filter.provider),
    only(table.status, filter.status),
    filter.status_class === undefined ? undefined : sql.raw(isOfClass('status', filter.status_class)),
    onlyOrNone(table.backendId, filter.backend),
    onlyOrNone(table.endUser, filter.end_user),
    tagged(table.tags, filter.tag),
  )
}

function tagged(column: AnyPgColumn, wanted: string | undefined): SQL | undefined {
  if (wanted === undefined) return undefined
  if (wanted.startsWith('!')) return sql`coalesce(strpos(',' || ${column}, ${`,${wanted.slice(1)}=`}::text), 0) = 0`
  return sql`strpos(',' || ${column} || ',', ${`,${wanted},`}::text) > 0`
}

/** The filters of a question over sums. */
export function questionFilters(filter: Filter): Pick<Question, 'filters' | 'statusClass'> {
  const { project, key, user, team, model, model_served, provider, status, backend, end_user, tag } = filter
  return {
    filters: { project, key, user, team, model, model_served, provider, status, backend, end_user, tag },
    statusClass: filter.status_class,
  }
}

/** From inclusive to exclusive, epoch ms. */
export type Range = { fromMs: number; toMs: number }

/** By default the last 30 days. @throws Refusal */
export function rangeOf(asked: Pick<Filter, 'from' | 'to'>, timeZone: string, nowMs: number): Range {
  // The end of the default range lies ahead, so that a request of this very moment is inside; on a border of rollups.
  const toMs = asked.to === undefined ? bucketStartMs(nowMs) + DAY_MS + BUCKET_MS : momentMs(asked.to, timeZone)
  const fromMs = asked.from === undefined ? toMs - RANGE_DEFAULT_MS : momentMs(asked.from, timeZone)
  if (fromMs >= toMs) throw invalid('from', 'must be before `to`')
  if (toMs - fromMs > RANGE_MAX_MS) throw invalid('from', `must be at most ${RANGE_MAX_DAYS} days before \`to\``)
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
