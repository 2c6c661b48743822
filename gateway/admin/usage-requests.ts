// Requests one by one in the admin API, newest first, each with its attempts. Owns their parameters and pages, the live log, and
// whether the text of one is kept; sums over ranges are usage.ts, field names usage-json.ts. What a request cost comes from the
// rows of its attempts, corrections included.
//
//   GET /usage/requests?org=&from=&to=       the filters of /usage, and id_prefix, min_cost_usd, min_duration_ms,
//                                            min_first_token_ms. Costs are those of the request's own row: corrections come later
//       &since=                              what was recorded since the answer that gave this `since`, newest first; `left_out` says
//                                            how many of them are no part of the answer
//   GET /usage/requests/:id?org=             with its attempts
//   GET /usage/requests/:id/text?org=        what was asked and answered, where the caller had it stored; audited
import { and, asc, count, desc, eq, gt, gte, inArray, lt, lte, type SQL, sql } from 'drizzle-orm'
import type { AnyPgColumn } from 'drizzle-orm/pg-core'
import { Hono } from 'hono'
import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import { withPatience } from '../db/patience.ts'
import type { Database } from '../db/port.ts'
import { usageAttempts, usageRequests } from '../db/schema/usage.ts'
import { mapParts } from '../meter/usage.ts'
import { errorText, log } from '../observe/log.ts'
import { type AdminContext, type AdminEnv, invalid, notFound } from './context.ts'
import { Instant, idParam, readQuery, Usd } from './input.ts'
import { namesOf } from './names.ts'
import { olderThan, pageOf, pageParameters } from './paging.ts'
import { requireVisibleProject } from './permissions.ts'
import { storedState, storedText } from './stored-text.ts'
import { attemptJson, requestJson } from './usage-json.ts'
import { type Filter, filterParameters, matching, type Range, rangeOf, withinTimeLimit } from './usage-range.ts'

/** One thousand million dollars: no request costs more, and it fits 64 bits. */
const COST_MAX_NANO_USD = 1_000_000_000n * 1_000_000_000n
/**
 * The live log asks again from this long before the newest row it has: rows are recorded by the account and written a moment
 * later, not always in one order. What waited longer (a database that was away) is in the list and not in the log.
 */
const SINCE_OVERLAP_MS = 15_000
/** Longer than a batch takes on its way to a Postgres that is well. */
const RECORDING_MS = 1_000
/** Rows that are counted and not shown: beyond it the number says nothing more. */
const LEFT_OUT_MAX = 100_000

const Ms = z
  .string()
  .regex(/^\d{1,9}$/, 'must be a whole number of milliseconds')
  .transform(Number)
const RequestsQuery = z
  .strictObject({
    ...filterParameters,
    id_prefix: z
      .string()
      .toLowerCase()
      .regex(/^[0-9a-f-]{4,36}$/, 'must be the first 4 to 36 characters of a request id')
      .optional(),
    min_cost_usd: Usd(COST_MAX_NANO_USD).optional(),
    min_duration_ms: Ms.optional(),
    min_first_token_ms: Ms.optional(),
    since: Instant.optional(),
    ...pageParameters,
  })
  .refine(({ since, cursor }) => since === undefined || cursor === undefined, {
    path: ['since'],
    message: 'and `cursor` go two ways: give one of them',
  })
type RequestsQuery = z.infer<typeof RequestsQuery>
const RequestQuery = z.strictObject({ org: z.uuid().toLowerCase() })

type UsageTable = typeof usageAttempts | typeof usageRequests

export const usageRequestRoutes = new Hono<AdminEnv>()

usageRequestRoutes.get('/requests', async (c) => {
  const asked = readQuery(c, RequestsQuery)
  const nowMs = Date.now()
  const range = rangeOf(asked, 'UTC', nowMs)
  const database = connect(c.env)
  const t = usageRequests
  const isLive = asked.since !== undefined
  if (asked.cursor === undefined && !isLive) await recorded(c, asked.org)
  const wanted = and(requestsWanted(asked, range), isLive ? gt(t.recordedAt, asked.since ?? '') : undefined)
  const rows = await withinTimeLimit(
    query(database, (db) =>
      db
        .select()
        .from(t)
        .where(and(wanted, olderThan(asked.cursor, t.startedAt, t.requestId)))
        .orderBy(...(isLive ? [desc(t.recordedAt), desc(t.requestId)] : [desc(t.startedAt), desc(t.requestId)]))
        .limit(asked.limit + 1),
    ),
    'Shorten the range.',
  )
  const shown = rows.slice(0, asked.limit)
  const isCut = isLive && rows.length > asked.limit
  const [sums, names, found] = await Promise.all([
    sumsOfRequests(
      c,
      asked.org,
      shown.map(({ requestId }) => requestId),
    ),
    namesOf(c, asked.org, idsOf(shown)),
    isCut ? countOf(database, wanted) : 0,
  ])
  const page = pageOf(
    rows,
    asked.limit,
    (row) => [row.startedAt, row.requestId],
    (row) => requestJson(row, sums.get(row.requestId)),
  )
  return c.json({
    data: page.data,
    ...(isLive || page.next_cursor === undefined ? {} : { next_cursor: page.next_cursor }),
    since: sinceOf(
      shown.map(({ recordedAt }) => recordedAt),
      asked.since,
      nowMs,
    ),
    ...(isLive ? { left_out: isCut ? Math.max(0, found - shown.length) : 0 } : {}),
    names,
  })
})

/**
 * What has ended is in Postgres a moment later; who asks at once, with the answer in hand, need not wait for that moment. As far
 * as that does not take long: the list is as good as the record.
 */
async function recorded(c: AdminContext, orgId: string): Promise<void> {
  const account = c.env.ACCOUNT.getByName(orgId)
  await withPatience(account.flush({ includeRejected: false }), RECORDING_MS).catch((error: unknown) => {
    log('warn', 'outbox_not_asked', { org: orgId, error: errorText(error) })
  })
}

async function countOf(database: Database, wanted: SQL | undefined): Promise<number> {
  const [row] = await query(database, (db) =>
    db.select({ found: count() }).from(
      db
        .select({ one: sql`1`.as('one') })
        .from(usageRequests)
        .where(wanted)
        .limit(LEFT_OUT_MAX)
        .as('some'),
    ),
  )
  return Number(row?.found ?? 0)
}

/** From where to ask on: a little before the newest row, and never back behind where it was asked from. */
function sinceOf(recorded: readonly string[], asked: string | undefined, nowMs: number): string {
  const newestMs = recorded.reduce((most, at) => Math.max(most, Date.parse(at)), 0)
  const from = new Date((newestMs === 0 ? nowMs : newestMs) - SINCE_OVERLAP_MS).toISOString()
  return asked !== undefined && asked > from ? asked : from
}

async function sumsOfRequests(c: AdminContext, orgId: string, ids: string[]) {
  if (ids.length === 0) return new Map<string, never>()
  const rows = await query(connect(c.env), (db) =>
    db
      .select({ requestId: usageAttempts.requestId, ...SUMS })
      .from(usageAttempts)
      .where(and(eq(usageAttempts.orgId, orgId), inArray(usageAttempts.requestId, ids)))
      .groupBy(usageAttempts.requestId),
  )
  return new Map(rows.map((row) => [row.requestId, row]))
}

const idsOf = (rows: readonly (typeof usageRequests.$inferSelect)[]) => ({
  projects: rows.map(({ projectId }) => projectId),
  keys: rows.map(({ keyId }) => keyId),
  users: rows.map(({ userId }) => userId),
  teams: rows.map(({ teamId }) => teamId),
  backends: rows.map(({ backendId }) => backendId),
})

usageRequestRoutes.get('/requests/:id', async (c) => {
  const { org } = readQuery(c, RequestQuery)
  const requestId = idParam(c, 'id', 'request')
  const database = connect(c.env)
  const where = (table: UsageTable) => and(eq(table.orgId, org), eq(table.requestId, requestId))
  const request = await requireRequest(c, org, requestId)
  const [attempts, [sums]] = await Promise.all([
    query(database, (db) =>
      db
        .select()
        .from(usageAttempts)
        .where(where(usageAttempts))
        .orderBy(asc(usageAttempts.attempt), asc(usageAttempts.recordedAt)),
    ),
    query(database, (db) => db.select(SUMS).from(usageAttempts).where(where(usageAttempts))),
  ])
  const isOperator = c.get('actor').kind === 'operator'
  const [names, stored] = await Promise.all([
    namesOf(c, org, { ...idsOf([request]), backends: attempts.map(({ backendId }) => backendId) }),
    storedState(c, request),
  ])
  return c.json({
    ...requestJson(request, sums),
    names,
    attempt_rows: attempts.map((row) => attemptJson(row, request, isOperator)),
    stored_response: stored,
  })
})

usageRequestRoutes.get('/requests/:id/text', async (c) => {
  const { org } = readQuery(c, RequestQuery)
  return c.json(await storedText(c, await requireRequest(c, org, idParam(c, 'id', 'request'))))
})

/** @throws Refusal 404, also where its project is not the actor's to see */
async function requireRequest(c: AdminContext, orgId: string, requestId: string) {
  const find = async () => {
    const isIt = and(eq(usageRequests.orgId, orgId), eq(usageRequests.requestId, requestId))
    const [found] = await query(connect(c.env), (db) => db.select().from(usageRequests).where(isIt))
    return found
  }
  const request = (await find()) ?? (await recorded(c, orgId).then(find))
  if (request === undefined) throw notFound('request, or it has not ended')
  requireVisibleProject(c.get('actor'), request.projectId, 'request, or it has not ended')
  return request
}

/** Sums over attempt rows. Parts and cost are the customer's; what the gateway absorbs stands apart. */
const customer = (column: AnyPgColumn) =>
  sql<string>`coalesce(sum(case when ${usageAttempts.charge} = 'customer' then ${column} else 0 end), 0)::text`
const SUMS = {
  ...mapParts((part) => customer(usageAttempts[part])),
  costNanoUsd: customer(usageAttempts.costNanoUsd),
  absorbedNanoUsd: sql<string>`coalesce(sum(case when ${usageAttempts.charge} = 'absorbed'
    then ${usageAttempts.costNanoUsd} else 0 end), 0)::text`,
  guessedAttempts: sql<string>`count(*) filter (where ${usageAttempts.kind} = 'attempt'
    and ${usageAttempts.usageSource} <> 'provider')::text`,
}

function requestsWanted(asked: RequestsQuery, { fromMs, toMs }: Range): SQL | undefined {
  const t = usageRequests
  const [from, to] = [new Date(fromMs).toISOString(), new Date(toMs).toISOString()]
  const { min_cost_usd: minCost, min_duration_ms: minMs, min_first_token_ms: minFirstMs } = asked
  return and(
    matching(t, asked satisfies Filter),
    gte(t.usageDay, from.slice(0, 10)),
    lte(t.usageDay, to.slice(0, 10)),
    gte(t.startedAt, from),
    lt(t.startedAt, to),
    ...idsWith(asked.id_prefix),
    minCost === undefined ? undefined : gte(t.costNanoUsd, minCost),
    minMs === undefined ? undefined : lasted(t.endedAt, minMs),
    minFirstMs === undefined ? undefined : lasted(t.firstTokenAt, minFirstMs),
  )
}

/** Whole ids between the first and the last that begin so: the key's own order finds them. @throws Refusal */
function idsWith(prefix: string | undefined): SQL[] {
  if (prefix === undefined) return []
  const [first, last] = ['0', 'f'].map((digit) => `${prefix}${UUID_FORM.slice(prefix.length).replaceAll('0', digit)}`)
  if (first === undefined || last === undefined || !z.guid().safeParse(first).success)
    throw invalid('id_prefix', 'must be the beginning of a request id, with its hyphens')
  return [gte(usageRequests.requestId, first), lte(usageRequests.requestId, last)]
}
const UUID_FORM = '00000000-0000-0000-0000-000000000000'

const lasted = (until: AnyPgColumn, ms: number): SQL =>
  sql`${until} >= ${usageRequests.startedAt} + ${ms}::int * interval '1 millisecond'`
