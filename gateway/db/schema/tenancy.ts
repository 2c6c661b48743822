// Tables of migrations/0001_tenancy.sql and of what later files added to it, which own their meaning and constraints, as drizzle sees them.
import { bigint, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })

export const organisations = pgTable('organisations', {
  orgId: uuid('org_id').primaryKey(),
  slug: text('slug').notNull(),
  name: text('name').notNull(),
  createdAt: instant('created_at').notNull(),
  billingMode: text('billing_mode', { enum: ['prepaid', 'postpaid'] }).notNull(),
  overdraftNanoUsd: bigint('overdraft_nanousd', { mode: 'bigint' }).notNull(),
})

export const projects = pgTable(
  'projects',
  {
    orgId: uuid('org_id').notNull(),
    projectId: uuid('project_id').notNull(),
    slug: text('slug').notNull(),
    name: text('name').notNull(),
    createdAt: instant('created_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.projectId] })],
)

export const apiKeys = pgTable(
  'api_keys',
  {
    orgId: uuid('org_id').notNull(),
    keyId: uuid('key_id').notNull(),
    projectId: uuid('project_id').notNull(),
    name: text('name').notNull(),
    hash: text('hash').notNull(),
    prefix: text('prefix').notNull(),
    scopes: text('scopes').notNull(),
    createdAt: instant('created_at').notNull(),
    expiresAt: instant('expires_at'),
    revokedAt: instant('revoked_at'),
    userId: uuid('user_id'),
    teamId: uuid('team_id'),
    rotatedFrom: uuid('rotated_from'),
    lineId: uuid('line_id'),
    madeBy: uuid('made_by'),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.keyId] })],
)

export const auditLog = pgTable('audit_log', {
  auditId: uuid('audit_id').primaryKey(),
  occurredAt: instant('occurred_at').notNull(),
  actor: text('actor').notNull(),
  action: text('action').notNull(),
  orgId: uuid('org_id'),
  objectId: text('object_id').notNull(),
  requestId: text('request_id').notNull(),
  details: text('details').notNull(),
  actorUserId: uuid('actor_user_id'),
  actorKeyId: uuid('actor_key_id'),
  address: text('address'),
})
