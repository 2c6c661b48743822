// Tables of migrations/0009_rollups.sql, 0016_rollup_cubes.sql, 0017_rollup_days.sql, 0020_spans.sql and
// 0021_sparse_rollups.sql, which own their meaning and
// constraints, as drizzle sees them.
import { bigint, boolean, integer, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })
const int8 = (name: string) => bigint(name, { mode: 'bigint' })
const counts = (name: string) => int8(name).array().notNull()

/** What adds up, in the order of columns. Absent: 0. */
const sums = () => ({
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
  fallbackAttempts: int8('fallback_attempts'),
  fallbackNanoUsd: int8('fallback_nanousd'),
  fallbackAbsorbedNanoUsd: int8('fallback_absorbed_nanousd'),
  retryAttempts: int8('retry_attempts'),
  retryNanoUsd: int8('retry_nanousd'),
  retryAbsorbedNanoUsd: int8('retry_absorbed_nanousd'),
  hedgeAttempts: int8('hedge_attempts'),
  hedgeNanoUsd: int8('hedge_nanousd'),
  hedgeAbsorbedNanoUsd: int8('hedge_absorbed_nanousd'),
  cascadeAttempts: int8('cascade_attempts'),
  cascadeNanoUsd: int8('cascade_nanousd'),
  cascadeAbsorbedNanoUsd: int8('cascade_absorbed_nanousd'),
  shadowAttempts: int8('shadow_attempts'),
  shadowNanoUsd: int8('shadow_nanousd'),
  shadowAbsorbedNanoUsd: int8('shadow_absorbed_nanousd'),
  cachedAnswers: int8('cached_answers'),
  failedRequests: int8('failed_requests'),
  cancelledRequests: int8('cancelled_requests'),
  interruptedRequests: int8('interrupted_requests'),
  cacheSavingsNanoUsd: int8('cache_savings_nanousd'),
})

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
    backendId: text('backend_id'),
    tags: text('tags'),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.dimensionsId] })],
)

export const usageRollups = pgTable('usage_rollups', {
  orgId: uuid('org_id').notNull(),
  bucketStart: instant('bucket_start').notNull(),
  dimensionsId: uuid('dimensions_id').notNull(),
  ...sums(),
})

export const rollupDirty = pgTable(
  'rollup_dirty',
  {
    orgId: uuid('org_id').notNull(),
    bucketStart: instant('bucket_start').notNull(),
    markedAt: instant('marked_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.bucketStart] })],
)

export const cubeDimensions = pgTable(
  'cube_dimensions',
  {
    orgId: uuid('org_id').notNull(),
    cube: text('cube').notNull(),
    dimensionsId: uuid('dimensions_id').notNull(),
    projectId: uuid('project_id'),
    keyId: uuid('key_id'),
    userId: uuid('user_id'),
    teamId: uuid('team_id'),
    modelRequested: text('model_requested'),
    modelServed: text('model_served'),
    provider: text('provider'),
    status: text('status'),
    backendId: text('backend_id'),
    endUser: text('end_user'),
    tags: text('tags'),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.cube, table.dimensionsId] })],
)

export const usageCubes = pgTable('usage_cubes', {
  orgId: uuid('org_id').notNull(),
  hourStart: instant('hour_start').notNull(),
  dimensionsId: uuid('dimensions_id').notNull(),
  ...sums(),
  cube: text('cube').notNull(),
})

export const cubeLatencies = pgTable('cube_latencies', {
  orgId: uuid('org_id').notNull(),
  hourStart: instant('hour_start').notNull(),
  dimensionsId: uuid('dimensions_id').notNull(),
  slots: integer('slots').array().notNull(),
  firstTokens: counts('first_tokens'),
  ends: counts('ends'),
  cube: text('cube').notNull(),
})

export const rollupHours = pgTable(
  'rollup_hours',
  {
    orgId: uuid('org_id').notNull(),
    hourStart: instant('hour_start').notNull(),
    made: boolean('made').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.hourStart] })],
)

export const rollupDays = pgTable(
  'rollup_days',
  {
    orgId: uuid('org_id').notNull(),
    dayStart: instant('day_start').notNull(),
    made: boolean('made').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.dayStart] })],
)

export const rollupSpans = pgTable(
  'rollup_spans',
  {
    orgId: uuid('org_id').notNull(),
    days: integer('days').notNull(),
    spanStart: instant('span_start').notNull(),
    made: boolean('made').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.days, table.spanStart] })],
)

export const rollupFolds = pgTable(
  'rollup_folds',
  {
    orgId: uuid('org_id').notNull(),
    bucketStart: instant('bucket_start').notNull(),
    name: text('name').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.bucketStart, table.name] })],
)
