// Limits that were passed, in the admin API. Owns the list; an event is made by the account that counts, once in each
// window of a limit, and comes to Postgres with its outbox.
//
//   GET /organisations/:org/limit-events?kind=&limit_id=      newest first, page by page
import { and, desc, eq } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import { limitEvents } from '../db/schema/limits.ts'
import type { AdminEnv } from './context.ts'
import { idParam, readQuery } from './input.ts'
import { requireOrganisation } from './organisations.ts'
import { olderThan, pageOf, pageParameters } from './paging.ts'

const EventsQuery = z.strictObject({
  kind: z.enum(['passed', 'refused']).optional(),
  limit_id: z.uuid().toLowerCase().optional(),
  ...pageParameters,
})

type EventRow = typeof limitEvents.$inferSelect

export const limitEventRoutes = new Hono<AdminEnv>().get('/:org/limit-events', async (c) => {
  const orgId = idParam(c, 'org', 'organisation')
  const asked = readQuery(c, EventsQuery)
  const database = connect(c.env)
  await requireOrganisation(database, orgId)
  const t = limitEvents
  const rows = await query(database, (db) =>
    db
      .select()
      .from(t)
      .where(
        and(
          eq(t.orgId, orgId),
          asked.kind === undefined ? undefined : eq(t.kind, asked.kind),
          asked.limit_id === undefined ? undefined : eq(t.limitId, asked.limit_id),
          olderThan(asked.cursor, t.occurredAt, t.limitId, t.subject, t.windowKey, t.kind),
        ),
      )
      .orderBy(desc(t.occurredAt), desc(t.limitId), desc(t.subject), desc(t.windowKey), desc(t.kind))
      .limit(asked.limit + 1),
  )
  const position = (row: EventRow) => [row.occurredAt, row.limitId, row.subject, row.windowKey, row.kind]
  return c.json(pageOf(rows, asked.limit, position, eventView))
})

/** Values are decimal text: they may be nano-dollars. */
const eventView = (row: EventRow) => ({
  limit_id: row.limitId,
  kind: row.kind,
  subject: row.subject,
  window: row.windowKey,
  max: row.maxValue.toString(),
  value: row.value.toString(),
  occurred_at: row.occurredAt,
})
