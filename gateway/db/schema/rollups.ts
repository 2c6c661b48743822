// Tables of migrations/0009_rollups.sql, which owns their meaning and constraints, as drizzle sees them.
import { bigint, integer, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })
const int8 = (name: string) => bigint(name, { mode: 'bigint' }).notNull()

export const rollupDimensions = pgTable(
  'rollup_dimensions',
  {
    orgId: uuid('org_id').notNull(),
    dimensionsId: uuid('dimensions_id').notNull(),
    projectId: uuid('project_id').notNull(),
    keyId: uuid('key_id'),
    userId: uuid('user_id'),
    teamId: uuid('team_id'),
    modelRequested: text('model_requested').notNull(),
    modelServed: text('model_served').notNull(),
    provider: text('provider').notNull(),
    status: text('status').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.dimensionsId] })],
)

export const usageRollups = pgTable(
  'usage_rollups',
  {
    orgId: uuid('org_id').notNull(),
    bucketStart: instant('bucket_start').notNull(),
    dimensionsId: uuid('dimensions_id').notNull(),
    requests: int8('requests'),
    attempts: int8('attempts'),
    inputUncached: int8('input_uncached'),
    inputCacheRead: int8('input_cache_read'),
    inputCacheWrite5m: int8('input_cache_write_5m'),
    inputCacheWrite1h: int8('input_cache_write_1h'),
    inputAudio: int8('input_audio'),
    inputImage: int8('input_image'),
    outputText: int8('output_text'),
    outputReasoning: int8('output_reasoning'),
    outputAudio: int8('output_audio'),
    outputImage: int8('output_image'),
    webSearchCalls: int8('web_search_calls'),
    imageCalls: int8('image_calls'),
    toolCalls: int8('tool_calls'),
    costNanoUsd: int8('cost_nanousd'),
    absorbedNanoUsd: int8('absorbed_nanousd'),
    providerCostNanoUsd: int8('provider_cost_nanousd'),
    estimatedAttempts: int8('estimated_attempts'),
    partialAttempts: int8('partial_attempts'),
    inconsistentAttempts: int8('inconsistent_attempts'),
    unpricedAttempts: int8('unpriced_attempts'),
    firstStartedAt: instant('first_started_at').notNull(),
    lastEndedAt: instant('last_ended_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.bucketStart, table.dimensionsId] })],
)

export const rollupLatencies = pgTable(
  'rollup_latencies',
  {
    orgId: uuid('org_id').notNull(),
    bucketStart: instant('bucket_start').notNull(),
    dimensionsId: uuid('dimensions_id').notNull(),
    slot: integer('slot').notNull(),
    firstTokens: int8('first_tokens'),
    ends: int8('ends'),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.bucketStart, table.dimensionsId, table.slot] })],
)

export const rollupDirty = pgTable(
  'rollup_dirty',
  {
    orgId: uuid('org_id').notNull(),
    bucketStart: instant('bucket_start').notNull(),
    markedAt: instant('marked_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.bucketStart] })],
)
