// Tables of migrations/0013_guards.sql, which owns their meaning and constraints, as drizzle sees them.
import { integer, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })

export const guardHooks = pgTable(
  'guard_hooks',
  {
    orgId: uuid('org_id').notNull(),
    hookId: uuid('hook_id').notNull(),
    name: text('name').notNull(),
    projectId: uuid('project_id'),
    position: integer('position').notNull(),
    kind: text('kind', { enum: ['regex', 'pii', 'webhook'] }).notNull(),
    stages: text('stages').notNull(),
    settings: text('settings').notNull(),
    secretCiphertext: text('secret_ciphertext'),
    createdAt: instant('created_at').notNull(),
    updatedAt: instant('updated_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.hookId] })],
)

export const toolCapabilities = pgTable(
  'tool_capabilities',
  {
    orgId: uuid('org_id').notNull(),
    pattern: text('pattern').notNull(),
    capabilities: text('capabilities').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.pattern] })],
)

export const guardSettings = pgTable('guard_settings', {
  orgId: uuid('org_id').primaryKey(),
  untaggedTools: text('untagged_tools', { enum: ['none', 'all'] }).notNull(),
  updatedAt: instant('updated_at').notNull(),
})
