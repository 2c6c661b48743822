// The record of administrators' acts. Owns the row that each write carries in its own batch, who it names, and the list
// of them.
import { and, desc, eq, isNull } from 'drizzle-orm'
import { Hono } from 'hono'
import { z } from 'zod'
import { connect } from '../db/connect.ts'
import { parseStored } from '../db/json.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Statement } from '../db/port.ts'
import { auditLog } from '../db/schema/tenancy.ts'
import type { AdminContext, AdminEnv } from './context.ts'
import { readQuery } from './input.ts'
import { olderThan, pageOf, pageParameters } from './paging.ts'

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

const AuditQuery = z.strictObject({
  ...pageParameters,
  org_id: z.uuid().optional(),
  /** `operator`, or the id of a user. */
  actor: z.union([z.literal(OPERATOR), z.uuid()], 'must be "operator" or the id of a user').optional(),
  /** Exactly as it was recorded, e.g. `key.create`. */
  action: z.string().max(100).optional(),
})
const Details = z.record(z.string(), z.unknown())

export const auditRoutes = new Hono<AdminEnv>().get('/', async (c) => {
  const { limit, cursor, org_id: orgId, actor, action } = readQuery(c, AuditQuery)
  const wanted = and(
    orgId === undefined ? undefined : eq(auditLog.orgId, orgId),
    actor === undefined
      ? undefined
      : actor === OPERATOR
        ? isNull(auditLog.actorUserId)
        : eq(auditLog.actorUserId, actor),
    action === undefined ? undefined : eq(auditLog.action, action),
    olderThan(cursor, auditLog.occurredAt, auditLog.auditId),
  )
  const rows = await query(connect(c.env), (db) =>
    db
      .select()
      .from(auditLog)
      .where(wanted)
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
        // Rows from before there were members name their one actor by another word.
        actor: row.actorUserId === null ? OPERATOR : MEMBER,
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
