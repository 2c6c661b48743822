// Requests one by one in the admin API, newest first, each with its attempts. Owns their parameters and pages; sums over
// ranges are usage.ts, field names usage-json.ts. What a request cost comes from the rows of its attempts, corrections
// included.
//
//   GET /usage/requests?org=&project=&key=&user=&team=&model=&model_served=&provider=&status=&end_user=&from=&to=
//   GET /usage/requests/:id?org=                                with its attempts
import { and, asc, desc, eq, gte, inArray, lt, lte, type SQL, sql } from 'drizzle-orm'
import type { AnyPgColumn } from 'drizzle-orm/pg-core'
import { Hono } from 'hono'
import { z } from 'zod'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import { usageAttempts, usageRequests } from '../db/schema/usage.ts'
import { mapParts } from '../meter/usage.ts'
import { type AdminEnv, notFound } from './context.ts'
import { idParam, readQuery } from './input.ts'
import { olderThan, pageOf, pageParameters } from './paging.ts'
import { requireVisibleProject } from './permissions.ts'
import { attemptJson, requestJson } from './usage-json.ts'
import { type Filter, filterParameters, matching, type Range, rangeOf } from './usage-range.ts'

const RequestsQuery = z.strictObject({
  ...filterParameters,
  end_user: z.string().max(256).optional(),
  ...pageParameters,
})
const RequestQuery = z.strictObject({ org: z.uuid() })

type UsageTable = typeof usageAttempts | typeof usageRequests

export const usageRequestRoutes = new Hono<AdminEnv>()

usageRequestRoutes.get('/requests', async (c) => {
  const asked = readQuery(c, RequestsQuery)
  const range = rangeOf(asked, 'UTC', Date.now())
  const database = connect(c.env)
  const rows = await query(database, (db) =>
    db
      .select()
      .from(usageRequests)
      .where(
        and(
          requestsWanted(asked, range),
          asked.end_user === undefined ? undefined : eq(usageRequests.endUser, asked.end_user),
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
  const sumsOf = new Map(sums.map((row) => [row.requestId, row]))
  return c.json(
    pageOf(
      rows,
      asked.limit,
      (row) => [row.startedAt, row.requestId],
      (row) => requestJson(row, sumsOf.get(row.requestId)),
    ),
  )
})

usageRequestRoutes.get('/requests/:id', async (c) => {
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
  requireVisibleProject(c.get('actor'), request.projectId, 'request, or it has not ended')
  const isOperator = c.get('actor').kind === 'operator'
  const rows = attempts.map((row) => attemptJson(row, isOperator))
  return c.json({ ...requestJson(request, sums), attempt_rows: rows })
})

/** Sums over attempt rows. Parts and cost are the customer's; what the gateway absorbs stands apart. */
const customer = (column: AnyPgColumn) =>
  sql<string>`coalesce(sum(case when ${usageAttempts.charge} = 'customer' then ${column} else 0 end), 0)::text`
const SUMS = {
  ...mapParts((part) => customer(usageAttempts[part])),
  costNanoUsd: customer(usageAttempts.costNanoUsd),
  absorbedNanoUsd: sql<string>`coalesce(sum(case when ${usageAttempts.charge} = 'absorbed'
    then ${usageAttempts.costNanoUsd} else 0 end), 0)::text`,
}

function requestsWanted(filter: Filter, { fromMs, toMs }: Range): SQL | undefined {
  const table = usageRequests
  const [from, to] = [new Date(fromMs).toISOString(), new Date(toMs).toISOString()]
  return and(
    matching(table, filter),
    gte(table.usageDay, from.slice(0, 10)),
    lte(table.usageDay, to.slice(0, 10)),
    gte(table.startedAt, from),
    lt(table.startedAt, to),
  )
}
