// Usage in the admin API: what was counted and charged. Owns the parameters, the sums and their HTTP form; rows are
// written by ledger/flush.ts alone. Tokens and money come from the rows of attempts, corrections included, and so every
// breakdown adds up to its total; a request is counted once, under the target that ended it.
//
//   GET /usage?org=&project=&key=&model=&from=&to=&group_by=model|key|project|provider|day|none
//   GET /usage/requests?org=&project=&key=&model=&from=&to=     newest first, page by page
//   GET /usage/requests/:id?org=                                with its attempts
import { and, asc, desc, eq, gte, inArray, lt, lte, type SQL, sql } from 'drizzle-orm'
import type { AnyPgColumn } from 'drizzle-orm/pg-core'
import { Hono } from 'hono'
import { z } from 'zod'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import { usageAttempts, usageRequests } from '../db/schema/usage.ts'
import { type AdminEnv, invalid, notFound } from './context.ts'
import { Instant, idParam, readQuery } from './input.ts'
import { olderThan, pageOf, pageParameters } from './paging.ts'
import { attemptJson, requestJson, type SumRow, sumsJson } from './usage-json.ts'

const DAY_MS = 24 * 3_600_000
const RANGE_DEFAULT_MS = 30 * DAY_MS
/** A year and its leap day: sums run over rows, and a statement has seconds. */
const RANGE_MAX_MS = 366 * DAY_MS
/** Groups shown; the total is over all of them. */
const GROUPS_MAX = 1_000

/** An instant, or a day in UTC. */
const Moment = z.union([z.iso.date().transform((day) => `${day}T00:00:00.000Z`), Instant])
const filterParameters = {
  org: z.uuid(),
  project: z.uuid().optional(),
  key: z.uuid().optional(),
  model: z.string().max(128).optional(),
  from: Moment.optional(),
  to: Moment.optional(),
}
const GroupBy = z.enum(['model', 'key', 'project', 'provider', 'day', 'none'])
const SumsQuery = z.strictObject({ ...filterParameters, group_by: GroupBy.default('none') })
const RequestsQuery = z.strictObject({ ...filterParameters, ...pageParameters })
const RequestQuery = z.strictObject({ org: z.uuid() })

type Filter = z.infer<z.ZodObject<typeof filterParameters>>
type Range = { from: string; to: string }
type UsageTable = typeof usageAttempts | typeof usageRequests

export const usageRoutes = new Hono<AdminEnv>()

usageRoutes.get('/', async (c) => {
  const asked = readQuery(c, SumsQuery)
  const range = rangeOf(asked, Date.now())
  const database = connect(c.env)
  const sums = (by: AnyPgColumn | undefined) =>
    query(database, (db) => {
      const rows = db
        .select({ group: groupText(by), ...SUMS })
        .from(usageAttempts)
        .where(wanted(usageAttempts, asked, range))
      return by === undefined
        ? rows
        : rows
            .groupBy(by)
            .orderBy(asc(by))
            .limit(GROUPS_MAX + 1)
    })
  const counts = (by: AnyPgColumn | undefined) =>
    query(database, (db) => {
      const rows = db
        .select({ group: groupText(by), requests: sql<string>`count(*)::text` })
        .from(usageRequests)
        .where(wanted(usageRequests, asked, range))
      return by === undefined
        ? rows
        : rows
            .groupBy(by)
            .orderBy(asc(by))
            .limit(GROUPS_MAX + 1)
    })
  const attemptsBy = groupColumn(usageAttempts, asked.group_by)
  const [groups, requests, [total], [requestsTotal]] = await Promise.all([
    attemptsBy === undefined ? [] : sums(attemptsBy),
    attemptsBy === undefined ? [] : counts(groupColumn(usageRequests, asked.group_by)),
    sums(undefined),
    counts(undefined),
  ])
  const requestsOf = new Map(requests.map((row) => [row.group, row.requests]))
  // A request can stand under a group that none of its tokens do: its last attempt used nothing there.
  const names = [...new Set([...groups, ...requests].map((row) => row.group ?? ''))].sort()
  const sumsOf = new Map(groups.map((row) => [row.group, row]))
  const shown = names.slice(0, GROUPS_MAX)
  return c.json({
    ...range,
    group_by: asked.group_by,
    total: sumsJson(total, requestsTotal?.requests),
    ...(asked.group_by === 'none' ? {} : { truncated: names.length > GROUPS_MAX }),
    data:
      asked.group_by === 'none'
        ? [sumsJson(total, requestsTotal?.requests)]
        : shown.map((name) => ({
            [GROUP_FIELDS[asked.group_by]]: name,
            ...sumsJson(sumsOf.get(name), requestsOf.get(name)),
          })),
  })
})

usageRoutes.get('/requests', async (c) => {
  const asked = readQuery(c, RequestsQuery)
  const range = rangeOf(asked, Date.now())
  const database = connect(c.env)
  const rows = await query(database, (db) =>
    db
      .select()
      .from(usageRequests)
      .where(
        and(
          wanted(usageRequests, asked, range),
          olderThan(asked.cursor, usageRequests.startedAt, usageRequests.requestId),
        ),
      )
      .orderBy(desc(usageRequests.startedAt), desc(usageRequests.requestId))
      .limit(asked.limit + 1),
  )
  const ids = rows.slice(0, asked.limit).map((row) => row.requestId)
  const sums =
    ids.length === 0
      ? []
      : await query(database, (db) =>
          db
            .select({ requestId: usageAttempts.requestId, ...SUMS })
            .from(usageAttempts)
            .where(and(eq(usageAttempts.orgId, asked.org), inArray(usageAttempts.requestId, ids)))
            .groupBy(usageAttempts.requestId),
        )
  const sumsOf = new Map<string, SumRow>(sums.map((row) => [row.requestId, row]))
  return c.json(
    pageOf(
      rows,
      asked.limit,
      (row) => [row.startedAt, row.requestId],
      (row) => requestJson(row, sumsOf.get(row.requestId)),
    ),
  )
})

usageRoutes.get('/requests/:id', async (c) => {
  const { org } = readQuery(c, RequestQuery)
  const requestId = idParam(c, 'id', 'request')
  const database = connect(c.env)
  const where = (table: UsageTable) => and(eq(table.orgId, org), eq(table.requestId, requestId))
  const [[request], attempts, [sums]] = await Promise.all([
    query(database, (db) => db.select().from(usageRequests).where(where(usageRequests))),
    query(database, (db) =>
      db
        .select()
        .from(usageAttempts)
        .where(where(usageAttempts))
        .orderBy(asc(usageAttempts.attempt), asc(usageAttempts.recordedAt)),
    ),
    query(database, (db) => db.select(SUMS).from(usageAttempts).where(where(usageAttempts))),
  ])
  if (request === undefined) throw notFound('request, or it has not ended')
  return c.json({ ...requestJson(request, sums), attempt_rows: attempts.map(attemptJson) })
})

/** Sums over attempt rows. Parts and cost are the customer's; what the gateway absorbs stands apart. */
const customer = (column: AnyPgColumn) =>
  sql<string>`coalesce(sum(case when ${usageAttempts.charge} = 'customer' then ${column} else 0 end), 0)::text`
const SUMS = {
  attempts: sql<string>`coalesce(sum(case when ${usageAttempts.kind} = 'attempt' then 1 else 0 end), 0)::text`,
  inputUncached: customer(usageAttempts.inputUncached),
  inputCacheRead: customer(usageAttempts.inputCacheRead),
  inputCacheWrite5m: customer(usageAttempts.inputCacheWrite5m),
  inputCacheWrite1h: customer(usageAttempts.inputCacheWrite1h),
  outputText: customer(usageAttempts.outputText),
  outputReasoning: customer(usageAttempts.outputReasoning),
  costNanoUsd: customer(usageAttempts.costNanoUsd),
  absorbedNanoUsd: sql<string>`coalesce(sum(case when ${usageAttempts.charge} = 'absorbed'
    then ${usageAttempts.costNanoUsd} else 0 end), 0)::text`,
}

const GROUP_FIELDS = {
  model: 'model',
  key: 'key_id',
  project: 'project_id',
  provider: 'provider',
  day: 'day',
  none: 'all',
} as const

function groupColumn(table: UsageTable, by: z.infer<typeof GroupBy>): AnyPgColumn | undefined {
  switch (by) {
    case 'model':
      return table.modelRequested
    case 'key':
      return table.keyId
    case 'project':
      return table.projectId
    case 'provider':
      return table.provider
    case 'day':
      return table.usageDay
    case 'none':
      return undefined
    default:
      return by satisfies never
  }
}

const groupText = (by: AnyPgColumn | undefined) =>
  by === undefined ? sql<string | null>`null` : sql<string | null>`${by}::text`

function wanted(table: UsageTable, filter: Filter, { from, to }: Range): SQL | undefined {
  return and(
    eq(table.orgId, filter.org),
    // The day leads the index of attempts; the instants cut exactly.
    gte(table.usageDay, from.slice(0, 10)),
    lte(table.usageDay, to.slice(0, 10)),
    gte(table.startedAt, from),
    lt(table.startedAt, to),
    filter.project === undefined ? undefined : eq(table.projectId, filter.project),
    filter.key === undefined ? undefined : eq(table.keyId, filter.key),
    filter.model === undefined ? undefined : eq(table.modelRequested, filter.model),
  )
}

/** From inclusive to exclusive; by default the last 30 days. @throws Refusal */
function rangeOf({ from, to }: Pick<Filter, 'from' | 'to'>, nowMs: number): Range {
  // The end of the default range lies ahead, so that a request of this very moment is inside.
  const toMs = to === undefined ? nowMs + DAY_MS : Date.parse(to)
  const fromMs = from === undefined ? toMs - RANGE_DEFAULT_MS : Date.parse(from)
  if (fromMs >= toMs) throw invalid('from', 'must be before `to`')
  if (toMs - fromMs > RANGE_MAX_MS) throw invalid('from', `must be at most ${RANGE_MAX_MS / DAY_MS} days before \`to\``)
  return { from: new Date(fromMs).toISOString(), to: new Date(toMs).toISOString() }
}
