// Tables of migrations/0003_usage.sql, 0008_usage_dimensions.sql and 0012_attempt_route.sql, which own their meaning and
// constraints, as drizzle sees them.
import { bigint, boolean, date, integer, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })
const int8 = (name: string) => bigint(name, { mode: 'bigint' })

/** The token parts as columns, in the order of USAGE_PARTS. */
const parts = () => ({
  inputUncached: int8('input_uncached').notNull(),
  inputCacheRead: int8('input_cache_read').notNull(),
  inputCacheWrite5m: int8('input_cache_write_5m').notNull(),
  inputCacheWrite1h: int8('input_cache_write_1h').notNull(),
  inputAudio: int8('input_audio').notNull(),
  inputImage: int8('input_image').notNull(),
  outputText: int8('output_text').notNull(),
  outputReasoning: int8('output_reasoning').notNull(),
  outputAudio: int8('output_audio').notNull(),
  outputImage: int8('output_image').notNull(),
  webSearchCalls: int8('web_search_calls').notNull(),
  imageCalls: int8('image_calls').notNull(),
  toolCalls: int8('tool_calls').notNull(),
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
    keyLineId: uuid('key_line_id'),
    userId: uuid('user_id'),
    teamId: uuid('team_id'),
    endUser: text('end_user'),
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
    rawUsage: text('raw_usage'),
    inconsistent: boolean('inconsistent').notNull(),
    usageDay: date('usage_day', { mode: 'string' }).notNull(),
    startedAt: instant('started_at').notNull(),
    firstTokenAt: instant('first_token_at'),
    endedAt: instant('ended_at').notNull(),
    recordedAt: instant('recorded_at').notNull(),
    payloadHash: text('payload_hash').notNull(),
    route: text('route'),
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
    userId: uuid('user_id'),
    teamId: uuid('team_id'),
    endUser: text('end_user'),
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
