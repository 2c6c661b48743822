// Table of migrations/0019_client_reported.sql, which owns its meaning and constraints, as drizzle sees it.
import { bigint, integer, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'
import { mapParts, PART_NAMES } from '../../meter/usage.ts'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })

export const clientReportedUsage = pgTable(
  'client_reported_usage',
  {
    orgId: uuid('org_id').notNull(),
    reportId: uuid('report_id').notNull(),
    projectId: uuid('project_id').notNull(),
    keyId: uuid('key_id').notNull(),
    model: text('model').notNull(),
    provider: text('provider').notNull(),
    status: text('status').notNull(),
    attempts: integer('attempts'),
    reason: text('reason'),
    tags: text('tags'),
    ...mapParts((part) => bigint(PART_NAMES[part], { mode: 'bigint' }).notNull()),
    startedAt: instant('started_at').notNull(),
    endedAt: instant('ended_at').notNull(),
    recordedAt: instant('recorded_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.reportId] })],
)
