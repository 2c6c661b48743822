// Tables of migrations/0006_limits.sql, which owns their meaning and constraints, as drizzle sees them.
import { bigint, boolean, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'
import { COUNTED_METERS, LIMIT_SCOPES, LIMIT_WINDOWS } from '../../account/limit.ts'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })
const int8 = (name: string) => bigint(name, { mode: 'bigint' })

export const LIMIT_METERS = [...COUNTED_METERS, 'concurrency'] as const
/** `none`: what runs now. */
export const LIMIT_SPANS = [...LIMIT_WINDOWS, 'none'] as const

export const limitRules = pgTable(
  'limit_rules',
  {
    orgId: uuid('org_id').notNull(),
    limitId: uuid('limit_id').notNull(),
    scope: text('scope', { enum: LIMIT_SCOPES }).notNull(),
    scopeId: text('scope_id').notNull(),
    model: text('model').notNull(),
    meter: text('meter', { enum: LIMIT_METERS }).notNull(),
    timeWindow: text('time_window', { enum: LIMIT_SPANS }).notNull(),
    timeZone: text('time_zone').notNull(),
    hard: boolean('hard').notNull(),
    maxCount: int8('max_count'),
    maxNanoUsd: int8('max_nanousd'),
    createdAt: instant('created_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.limitId] })],
)

export const ruleBooks = pgTable('rule_books', {
  orgId: uuid('org_id').primaryKey(),
  version: int8('version').notNull(),
})

export const limitEvents = pgTable(
  'limit_events',
  {
    orgId: uuid('org_id').notNull(),
    limitId: uuid('limit_id').notNull(),
    subject: text('subject').notNull(),
    windowKey: text('window_key').notNull(),
    kind: text('kind', { enum: ['passed', 'refused'] }).notNull(),
    maxValue: int8('max_value').notNull(),
    value: int8('value').notNull(),
    occurredAt: instant('occurred_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.limitId, table.subject, table.windowKey, table.kind] })],
)
