// Tables of migrations/0003_usage.sql, which owns their meaning and constraints, as drizzle sees them.
import { bigint, boolean, date, integer, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })
const int8 = (name: string) => bigint(name, { mode: 'bigint' })

/** The token parts as columns, in the order of USAGE_PARTS. */
const parts = () => ({
  inputUncached: int8('input_uncached').notNull(),
  inputCacheRead: int8('input_cache_read').notNull(),
  inputCacheWrite5m: int8('input_cache_write_5m').notNull(),
  inputCacheWrite1h: int8('input_cache_write_1h').notNull(),
  outputText: int8('output_text').notNull(),
  outputReasoning: int8('output_reasoning').notNull(),
})

export const usageAttempts = pgTable(
  'usage_attempts',
  {
    orgId: uuid('org_id').notNull(),
    requestId: uuid('request_id').notNull(),
    attempt: integer('attempt').notNull(),
    kind: text('kind', { enum: ['attempt', 'adjustment', 'reversal'] }).notNull(),
    projectId: uuid('project_id').notNull(),
    keyId: uuid('key_id').notNull(),
    provider: text('provider').notNull(),
    modelRequested: text('model_requested').notNull(),
    modelServed: text('model_served').notNull(),
    stream: boolean('stream').notNull(),
    status: text('status').notNull(),
    httpStatus: integer('http_status'),
    charge: text('charge', { enum: ['customer', 'absorbed'] }).notNull(),
    usageSource: text('usage_source', { enum: ['provider', 'stream_partial', 'estimated'] }).notNull(),
    ...parts(),
    costNanoUsd: int8('cost_nanousd').notNull(),
    pricing: text('pricing', { enum: ['priced', 'part_missing', 'price_missing'] }).notNull(),
    priceVersionId: text('price_version_id'),
    unitPrices: text('unit_prices'),
    providerCostNanoUsd: int8('provider_cost_nanousd'),
    usageDay: date('usage_day', { mode: 'string' }).notNull(),
    startedAt: instant('started_at').notNull(),
    firstTokenAt: instant('first_token_at'),
    endedAt: instant('ended_at').notNull(),
    recordedAt: instant('recorded_at').notNull(),
    payloadHash: text('payload_hash').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.requestId, table.attempt, table.kind] })],
)

export const usageRequests = pgTable(
  'usage_requests',
  {
    orgId: uuid('org_id').notNull(),
    requestId: uuid('request_id').notNull(),
    projectId: uuid('project_id').notNull(),
    keyId: uuid('key_id').notNull(),
    provider: text('provider').notNull(),
    modelRequested: text('model_requested').notNull(),
    modelServed: text('model_served').notNull(),
    stream: boolean('stream').notNull(),
    status: text('status').notNull(),
    httpStatus: integer('http_status'),
    attempts: integer('attempts').notNull(),
    ...parts(),
    costNanoUsd: int8('cost_nanousd').notNull(),
    usageDay: date('usage_day', { mode: 'string' }).notNull(),
    startedAt: instant('started_at').notNull(),
    firstTokenAt: instant('first_token_at'),
    endedAt: instant('ended_at').notNull(),
    recordedAt: instant('recorded_at').notNull(),
    payloadHash: text('payload_hash').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.requestId] })],
)
