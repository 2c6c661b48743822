// Usage that clients report themselves, in the admin API: calls that they made past the gateway with their own keys. Owns its filters,
// pages and sums. It is nowhere added to what the gateway counted: no cost is computed from it, and /usage does not know it.
//
//   GET /usage/client-reported?org=&from=&to=     filters: project, key, model, provider, status (answered, failed, interrupted);
//                                                 rows newest first; sums over the range, whole and by model (the 100 with most
//                                                 calls) are in every page
import { and, desc, eq, gte, lt, type SQL, sql } from 'drizzle-orm'
import type { AnyPgColumn } from 'drizzle-orm/pg-core'
import { Hono } from 'hono'
import * as z from 'zod'
import { REPORTED_STATUSES } from '../../protocol/usage-import.ts'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import { clientReportedUsage as t } from '../db/schema/client-reported.ts'
import { mapParts, type UsagePart } from '../meter/usage.ts'
import type { AdminEnv } from './context.ts'
import { readQuery } from './input.ts'
import { namesOf } from './names.ts'
import { olderThan, pageOf, pageParameters } from './paging.ts'
import { partsJson, tagsJson } from './usage-json.ts'
import { filterParameters, rangeOf, withinTimeLimit } from './usage-range.ts'

/** Lines of the sums: what a table can show. */
const MODELS_MAX = 100

const { org, project, key, model, provider, from, to } = filterParameters
const Query = z.strictObject({
  ...{ org, project, key, model, provider, from, to },
  status: z.enum(REPORTED_STATUSES).optional(),
  ...pageParameters,
})
type Query = z.infer<typeof Query>

type Row = typeof t.$inferSelect
type SumField = UsagePart | 'calls' | (typeof REPORTED_STATUSES)[number]
/** As Postgres answers them: decimal text. */
type Sums = Record<SumField, string>

const countOf = (status: (typeof REPORTED_STATUSES)[number]) =>
  sql<string>`count(*) filter (where ${t.status} = ${status})::text`
const SUMS = {
  calls: sql<string>`count(*)::text`,
  answered: countOf('answered'),
  failed: countOf('failed'),
  interrupted: countOf('interrupted'),
  ...mapParts((part) => sql<string>`coalesce(sum(${t[part]}), 0)::text`),
}

export const clientReportedRoutes = new Hono<AdminEnv>().get('/client-reported', async (c) => {
  const asked = readQuery(c, Query)
  const range = rangeOf(asked, 'UTC', Date.now())
  const [fromTime, toTime] = [new Date(range.fromMs).toISOString(), new Date(range.toMs).toISOString()]
  const where = and(wanted(asked), gte(t.startedAt, fromTime), lt(t.startedAt, toTime))
  const database = connect(c.env)
  const [rows, models, [total]] = await withinTimeLimit(
    Promise.all([
      query(database, (db) =>
        db
          .select()
          .from(t)
          .where(and(where, olderThan(asked.cursor, t.startedAt, t.reportId)))
          .orderBy(desc(t.startedAt), desc(t.reportId))
          .limit(asked.limit + 1),
      ),
      query(database, (db) =>
        db
          .select({ model: t.model, ...SUMS })
          .from(t)
          .where(where)
          .groupBy(t.model)
          .orderBy(sql`count(*) desc`, t.model)
          .limit(MODELS_MAX + 1),
      ),
      query(database, (db) => db.select(SUMS).from(t).where(where)),
    ]),
    'Shorten the range.',
  )
  const page = pageOf(rows, asked.limit, (row) => [row.startedAt, row.reportId], rowJson)
  const shown = rows.slice(0, asked.limit)
  const names = await namesOf(c, asked.org, {
    projects: shown.map(({ projectId }) => projectId),
    keys: shown.map(({ keyId }) => keyId),
  })
  return c.json({
    from: fromTime,
    to: toTime,
    /** For whoever reads the answer alone. */
    source: 'client_reported',
    billed: false,
    ...(total === undefined ? {} : { total: sumsJson(total) }),
    models: models.slice(0, MODELS_MAX).map((line) => ({ model: line.model, ...sumsJson(line) })),
    models_truncated: models.length > MODELS_MAX,
    ...page,
    names,
  })
})

function wanted(asked: Query): SQL | undefined {
  const only = (column: AnyPgColumn, value: string | undefined) => (value === undefined ? undefined : eq(column, value))
  return and(
    eq(t.orgId, asked.org),
    only(t.projectId, asked.project),
    only(t.keyId, asked.key),
    only(t.model, asked.model),
    only(t.provider, asked.provider),
    only(t.status, asked.status),
  )
}

const sumsJson = (sums: Sums) => ({
  calls: Number(sums.calls),
  answered: Number(sums.answered),
  failed: Number(sums.failed),
  interrupted: Number(sums.interrupted),
  ...partsJson(mapParts((part) => BigInt(sums[part]))),
})

const rowJson = (row: Row) => ({
  id: row.reportId,
  project_id: row.projectId,
  key_id: row.keyId,
  model: row.model,
  provider: row.provider,
  status: row.status,
  attempts: row.attempts,
  reason: row.reason,
  tags: tagsJson(row.tags),
  ...partsJson(row),
  started_at: row.startedAt,
  ended_at: row.endedAt,
  recorded_at: row.recordedAt,
})
