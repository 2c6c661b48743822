// Usage rows as what they count for. Owns the dimensions and measures of a rollup and how each is read from the rows of
// attempts and requests: the roller writes them, the usage API reads them back, and cuts the ends of a range from the same
// rows by the same words, so that nothing can count differently in the two. Pure.
import { usageRollups } from '../db/schema/rollups.ts'
import { mapParts, PART_NAMES, USAGE_PARTS } from '../meter/usage.ts'
import { SLOT_BORDERS_MS } from './latency.ts'

/** A rollup covers this much, because time zones are whole multiples of it away from UTC. */
export const BUCKET_MS = 900_000

/** Start of the bucket that an instant lies in. Epoch ms. */
export const bucketStartMs = (atMs: number): number => Math.floor(atMs / BUCKET_MS) * BUCKET_MS

/** What usage can be told apart by: the word of the API, and the column that rows and `rollup_dimensions` have in common. */
export const DIMENSION_COLUMNS = {
  project: 'project_id',
  key: 'key_id',
  user: 'user_id',
  team: 'team_id',
  model: 'model_requested',
  model_served: 'model_served',
  provider: 'provider',
  status: 'status',
  backend: 'backend_id',
  /** Of rows alone: rollups of quarter hours leave it out (cubes.ts). */
  end_user: 'end_user',
  /** The column has all tags of a request; usage is told apart by the value of one of them. */
  tag: 'tags',
} as const
export type Dimension = keyof typeof DIMENSION_COLUMNS
export const DIMENSIONS = [
  'project',
  'key',
  'user',
  'team',
  'model',
  'model_served',
  'provider',
  'status',
  'backend',
  'end_user',
  'tag',
] as const satisfies readonly Dimension[]
/** What rollups of quarter hours tell apart: all but end users, of whom there can be as many as requests. */
export const ROLLED_DIMENSIONS = DIMENSIONS.filter((dimension) => dimension !== 'end_user')
/** By end user usage is counted but not timed: they are many, and a histogram of few requests is as long as their rows. */
export const isTimed = (dimension: Dimension): boolean => dimension !== 'end_user'

/** What adds up. */
export type SumField = Exclude<keyof typeof usageRollups.$inferSelect, 'orgId' | 'bucketStart' | 'dimensionsId'>

/** A column of `usage_rollups`, and what an attempt row and a request row add to it. */
export type Measure = { field: SumField; column: string; attempt: string; request: string }

const sum = (field: SumField, attempt: string, request = '0'): Measure => ({
  field,
  column: usageRollups[field].name,
  attempt,
  request,
})
const ofCustomer = (column: string) => `CASE WHEN charge = 'customer' THEN ${column} ELSE 0 END`
/** Corrections repeat the marks of the attempt they correct: only the attempt's own row counts. */
const ofAttempt = (condition: string) => `CASE WHEN kind = 'attempt' AND ${condition} THEN 1 ELSE 0 END`
/**
 * Attempts with the route that says their role. A hold that expired has none; where its end came after all that end's row has it, and
 * the estimate and what takes it back are of the same role. Looked up for those alone.
 */
const ATTEMPTS = `(SELECT a.*, CASE WHEN a.route IS NULL AND a.usage_source = 'estimated' AND a.kind <> 'adjustment' THEN
    (SELECT l.route FROM usage_attempts l WHERE l.org_id = a.org_id AND l.request_id = a.request_id AND l.attempt = a.attempt
      AND l.kind = 'adjustment') ELSE a.route END AS role_route FROM usage_attempts a) AS attempts`
/** Of a route, which begins with it (routing/trace.ts): cheaper by far than reading the JSON. */
const inRole = (role: string) => `role_route LIKE '{"role":"${role}"%'`
const paidInRole = (role: string, charge: string, column: string) =>
  `CASE WHEN charge = '${charge}' AND ${inRole(role)} THEN ${column} ELSE 0 END`
const FAILED = `status NOT IN ('ok', 'client_cancelled')`

/** Roles of attempts beyond a request's first that are counted one by one. */
export const COUNTED_ROLES = ['fallback', 'retry', 'hedge', 'cascade', 'shadow'] as const
export type CountedRole = (typeof COUNTED_ROLES)[number]
/** What is counted of each. */
export const ROLE_FIELDS = {
  fallback: ['fallbackAttempts', 'fallbackNanoUsd', 'fallbackAbsorbedNanoUsd'],
  retry: ['retryAttempts', 'retryNanoUsd', 'retryAbsorbedNanoUsd'],
  hedge: ['hedgeAttempts', 'hedgeNanoUsd', 'hedgeAbsorbedNanoUsd'],
  cascade: ['cascadeAttempts', 'cascadeNanoUsd', 'cascadeAbsorbedNanoUsd'],
  shadow: ['shadowAttempts', 'shadowNanoUsd', 'shadowAbsorbedNanoUsd'],
} as const satisfies Record<CountedRole, readonly [attempts: SumField, charged: SumField, absorbed: SumField]>

export const SUMS: readonly Measure[] = [
  sum('requests', '0', '1'),
  sum('attempts', `CASE WHEN kind = 'attempt' THEN 1 ELSE 0 END`),
  ...USAGE_PARTS.map((part) => sum(part, ofCustomer(PART_NAMES[part]))),
  sum('costNanoUsd', ofCustomer('cost_nanousd')),
  sum('absorbedNanoUsd', `CASE WHEN charge = 'absorbed' THEN cost_nanousd ELSE 0 END`),
  sum('providerCostNanoUsd', 'coalesce(provider_cost_nanousd, 0)'),
  sum('estimatedAttempts', ofAttempt(`usage_source = 'estimated'`)),
  sum('partialAttempts', ofAttempt(`usage_source = 'stream_partial'`)),
  sum('inconsistentAttempts', ofAttempt('inconsistent')),
  sum('unpricedAttempts', ofAttempt(`pricing = 'price_missing'`)),
  ...COUNTED_ROLES.flatMap((role) => {
    const [attempts, charged, absorbed] = ROLE_FIELDS[role]
    return [
      sum(attempts, ofAttempt(inRole(role))),
      sum(charged, paidInRole(role, 'customer', 'cost_nanousd')),
      sum(absorbed, paidInRole(role, 'absorbed', 'cost_nanousd')),
    ]
  }),
  sum('cachedAnswers', ofAttempt(inRole('cache'))),
  sum('failedRequests', '0', `CASE WHEN ${FAILED} THEN 1 ELSE 0 END`),
  sum('cancelledRequests', '0', `CASE WHEN status = 'client_cancelled' THEN 1 ELSE 0 END`),
  sum('interruptedRequests', '0', `CASE WHEN stream AND first_token_at IS NOT NULL AND ${FAILED} THEN 1 ELSE 0 END`),
  sum('cacheSavingsNanoUsd', ofCustomer('coalesce(cache_savings_nanousd, 0)')),
]

/** Time to the first token and to the end of a request row, in whole ms; the first is NULL where there was none. */
export const LATENCY_MS = {
  firstToken: `round(date_part('epoch', first_token_at - started_at) * 1000)::bigint`,
  end: `round(date_part('epoch', ended_at - started_at) * 1000)::bigint`,
} as const

/**
 * SELECTs of what the rows count for, one line per row: of attempts, and of requests.
 * @param extra further columns, the same for both tables
 * @param where condition on the columns that attempts and requests have in common
 */
export function factsOfRows(sums: readonly Measure[], extra: readonly string[], where: string): string[] {
  const select = (table: string, of: 'attempt' | 'request') => {
    const columns = [...extra, ...sums.map((measure) => `${measure[of]} AS ${measure.column}`)]
    return `SELECT ${columns.join(', ')} FROM ${table} WHERE ${where}`
  }
  return [select(ATTEMPTS, 'attempt'), select('usage_requests', 'request')]
}

/**
 * The same brought together by columns: at most one line per table and combination, so that what is done with them costs
 * nothing per row.
 */
export function factsByColumns(columns: string, where: string): string {
  const select = (table: string, of: 'attempt' | 'request') => {
    const merged = SUMS.map((measure) => `${mergedOf(measure[of])} AS ${measure.column}`)
    return `SELECT ${columns}, ${merged.join(', ')} FROM ${table} WHERE ${where} GROUP BY ${columns}`
  }
  return `${select(ATTEMPTS, 'attempt')} UNION ALL ${select('usage_requests', 'request')}`
}

/** Constants are not added up row by row. */
function mergedOf(expression: string): string {
  if (expression === '0') return '0'
  if (expression === '1') return 'count(*)'
  return `sum(${expression})`
}

/** One value for every sum. */
export const mapSums = <T>(value: (field: SumField) => T): Record<SumField, T> => ({
  ...mapParts(value),
  requests: value('requests'),
  attempts: value('attempts'),
  costNanoUsd: value('costNanoUsd'),
  absorbedNanoUsd: value('absorbedNanoUsd'),
  providerCostNanoUsd: value('providerCostNanoUsd'),
  estimatedAttempts: value('estimatedAttempts'),
  partialAttempts: value('partialAttempts'),
  inconsistentAttempts: value('inconsistentAttempts'),
  unpricedAttempts: value('unpricedAttempts'),
  fallbackAttempts: value('fallbackAttempts'),
  fallbackNanoUsd: value('fallbackNanoUsd'),
  fallbackAbsorbedNanoUsd: value('fallbackAbsorbedNanoUsd'),
  retryAttempts: value('retryAttempts'),
  retryNanoUsd: value('retryNanoUsd'),
  retryAbsorbedNanoUsd: value('retryAbsorbedNanoUsd'),
  hedgeAttempts: value('hedgeAttempts'),
  hedgeNanoUsd: value('hedgeNanoUsd'),
  hedgeAbsorbedNanoUsd: value('hedgeAbsorbedNanoUsd'),
  cascadeAttempts: value('cascadeAttempts'),
  cascadeNanoUsd: value('cascadeNanoUsd'),
  cascadeAbsorbedNanoUsd: value('cascadeAbsorbedNanoUsd'),
  shadowAttempts: value('shadowAttempts'),
  shadowNanoUsd: value('shadowNanoUsd'),
  shadowAbsorbedNanoUsd: value('shadowAbsorbedNanoUsd'),
  cachedAnswers: value('cachedAnswers'),
  failedRequests: value('failedRequests'),
  cancelledRequests: value('cancelledRequests'),
  interruptedRequests: value('interruptedRequests'),
  cacheSavingsNanoUsd: value('cacheSavingsNanoUsd'),
})

/** SQL: the slot of a duration in ms (latency.ts). */
export const slotOfSql = (durationMs: string): string =>
  `width_bucket(${durationMs}, ARRAY[${SLOT_BORDERS_MS.join(', ')}]::bigint[])`
