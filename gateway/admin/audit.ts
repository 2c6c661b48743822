// The record of administrators' acts. Owns the row that each write carries in its own batch, who it names, the list of
// them and their export.
//
//   GET /audit?org_id=&actor=&action=&object_id=&from=&to=    newest first, page by page; `action` may end in `.*`
//   GET /audit/export?…&format=csv|json
import { and, desc, eq, gte, isNull, lt, sql } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { parseStored } from '../db/json.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Statement } from '../db/port.ts'
import { auditLog } from '../db/schema/tenancy.ts'
import type { AdminContext, AdminEnv } from './context.ts'
import type { Cell } from './csv.ts'
import { download, EXPORT_PAGE_ROWS } from './export-stream.ts'
import { readQuery } from './input.ts'
import { olderThan, pageOf, pageParameters } from './paging.ts'
import { Moment } from './usage-range.ts'

/** `audit_log.actor` of the deployment's operator; members have the other word and their ids beside it. */
const OPERATOR = 'operator'
const MEMBER = 'member'

export type AdminAct = {
  /** e.g. `key.create` */
  action: string
  /** Absent for what no single organisation owns. */
  orgId?: string
  objectId: string
  /** What changed, for people: `before` and `after` where both are at hand. Never a secret. */
  details: Record<string, unknown>
}

/** The audit row of an act, for the batch that does it: neither is ever there without the other. */
export function audited(c: AdminContext, act: AdminAct): Statement {
  const actor = c.get('actor')
  return toStatement(
    builder.insert(auditLog).values({
      auditId: crypto.randomUUID(),
      occurredAt: new Date().toISOString(),
      actor: actor.kind === 'operator' ? OPERATOR : MEMBER,
      actorUserId: actor.kind === 'operator' ? null : actor.userId,
      actorKeyId: actor.kind === 'operator' ? null : (actor.key?.keyId ?? null),
      address: c.get('clientAddress') ?? null,
      action: act.action,
      orgId: act.orgId ?? null,
      objectId: act.objectId,
      requestId: c.get('requestId'),
      details: JSON.stringify(act.details),
    }),
  )
}

const filters = {
  org_id: z.uuid().optional(),
  /** `operator`, or the id of a user. */
  actor: z.union([z.literal(OPERATOR), z.uuid()], 'must be "operator" or the id of a user').optional(),
  /** Exactly as it was recorded, e.g. `key.create`; or its beginning, `key.*`. */
  action: z.string().max(100).optional(),
  object_id: z.string().min(1).max(256).optional(),
  from: Moment.optional(),
  to: Moment.optional(),
}
const AuditQuery = z.strictObject({ ...filters, ...pageParameters })
const ExportQuery = z.strictObject({ ...filters, format: z.enum(['csv', 'json']).default('csv') })
type Filters = z.infer<z.ZodObject<typeof filters>>
const Details = z.record(z.string(), z.unknown())
type AuditRow = typeof auditLog.$inferSelect

function wanted({ org_id: orgId, actor, action, object_id: objectId, from, to }: Filters) {
  const t = auditLog
  const isBeginning = action?.endsWith('.*') === true
  return and(
    orgId === undefined ? undefined : eq(t.orgId, orgId),
    actor === undefined ? undefined : actor === OPERATOR ? isNull(t.actorUserId) : eq(t.actorUserId, actor),
    action === undefined || isBeginning ? undefined : eq(t.action, action),
    isBeginning ? sql`starts_with(${t.action}, ${action?.slice(0, -1)}::text)` : undefined,
    objectId === undefined ? undefined : eq(t.objectId, objectId),
    from === undefined ? undefined : gte(t.occurredAt, new Date(from).toISOString()),
    to === undefined ? undefined : lt(t.occurredAt, new Date(to).toISOString()),
  )
}

/** Rows from before there were members name their one actor by another word. */
const actorOf = (row: AuditRow): string => (row.actorUserId === null ? OPERATOR : MEMBER)

/** As a file: the newest first, like the list. */
const COLUMNS: readonly (readonly [name: string, cell: (row: AuditRow) => Cell])[] = [
  ['id', (row) => row.auditId],
  ['occurred_at', (row) => row.occurredAt],
  ['actor', actorOf],
  ['user_id', (row) => row.actorUserId],
  ['key_id', (row) => row.actorKeyId],
  ['address', (row) => row.address],
  ['action', (row) => row.action],
  ['org_id', (row) => row.orgId],
  ['object_id', (row) => row.objectId],
  ['request_id', (row) => row.requestId],
  ['details', (row) => row.details],
]

export const auditRoutes = new Hono<AdminEnv>()
  .get('/', async (c) => {
    const { limit, cursor, ...asked } = readQuery(c, AuditQuery)
    const rows = await query(connect(c.env), (db) =>
      db
        .select()
        .from(auditLog)
        .where(and(wanted(asked), olderThan(cursor, auditLog.occurredAt, auditLog.auditId)))
        .orderBy(desc(auditLog.occurredAt), desc(auditLog.auditId))
        .limit(limit + 1),
    )
    return c.json(
      pageOf(
        rows,
        limit,
        (row) => [row.occurredAt, row.auditId],
        (row) => ({
          id: row.auditId,
          occurred_at: row.occurredAt,
          actor: actorOf(row),
          user_id: row.actorUserId,
          key_id: row.actorKeyId,
          address: row.address,
          action: row.action,
          org_id: row.orgId,
          object_id: row.objectId,
          request_id: row.requestId,
          details: parseStored(row.details, Details, 'audit_log.details'),
        }),
      ),
    )
  })
  .get('/export', async (c) => {
    const { format, ...asked } = readQuery(c, ExportQuery)
    const database = connect(c.env)
    const t = auditLog
    return download(c, format, {
      fileName: `audit-${asked.org_id ?? 'all'}-${new Date().toISOString().slice(0, 10)}`,
      columns: COLUMNS.map(([name]) => name),
      page: (after: AuditRow | undefined) =>
        query(database, (db) =>
          db
            .select()
            .from(t)
            .where(
              and(
                wanted(asked),
                after === undefined
                  ? undefined
                  : sql`(${t.occurredAt}, ${t.auditId}) < (${after.occurredAt}, ${after.auditId})`,
              ),
            )
            .orderBy(desc(t.occurredAt), desc(t.auditId))
            .limit(EXPORT_PAGE_ROWS),
        ),
      cells: (row) => COLUMNS.map(([, cell]) => cell(row)),
    })
  })
