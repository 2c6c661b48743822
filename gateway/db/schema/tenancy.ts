// Tables of migrations/0001_tenancy.sql, which owns their meaning and constraints, as drizzle sees them.
import { bigint, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })

export const organisations = pgTable('organisations', {
  orgId: uuid('org_id').primaryKey(),
  slug: text('slug').notNull(),
  name: text('name').notNull(),
  createdAt: instant('created_at').notNull(),
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
  },
  (table) => [primaryKey({ columns: [table.orgId, table.keyId] })],
)

export const limits = pgTable(
  'limits',
  {
    orgId: uuid('org_id').notNull(),
    scope: text('scope', { enum: ['org', 'project', 'key'] }).notNull(),
    scopeId: uuid('scope_id').notNull(),
    meter: text('meter', { enum: ['requests', 'concurrency', 'money'] }).notNull(),
    timeWindow: text('time_window').notNull(),
    maxCount: bigint('max_count', { mode: 'bigint' }),
    maxNanoUsd: bigint('max_nanousd', { mode: 'bigint' }),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.scope, table.scopeId, table.meter, table.timeWindow] })],
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
})
