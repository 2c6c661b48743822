// Usage rows and sums as the admin API shows them. Owns the field names: tokens as numbers, money as decimal strings,
// in nano-USD for programs and in USD for people. Pure.
import * as z from 'zod'
import { formatUsd } from '../../protocol/units.ts'
import { parseStored } from '../db/json.ts'
import type { usageAttempts, usageRequests } from '../db/schema/usage.ts'
import type { Percentiles } from '../ledger/latency.ts'
import { classOf } from '../ledger/status-class.ts'
import { COUNTED_ROLES, ROLE_FIELDS, type SumField } from '../ledger/usage-facts.ts'
import { mapParts, PART_NAMES, sideOf, USAGE_PARTS, type UsagePart } from '../meter/usage.ts'

type AttemptRow = typeof usageAttempts.$inferSelect
type RequestRow = typeof usageRequests.$inferSelect

/** As ledger/flush.ts stores them: amounts are decimal strings. Rows from before context tiers hold the table alone. */
const PriceTable = z.partialRecord(z.enum(USAGE_PARTS), z.string())
const UnitPrices = z.union([
  z.object({
    perMillion: PriceTable,
    contextTiers: z.array(z.object({ aboveInputTokens: z.number(), perMillion: PriceTable })).optional(),
    basisPoints: z.number().optional(),
  }),
  PriceTable.transform((perMillion) => ({ perMillion, contextTiers: undefined, basisPoints: undefined })),
])
type PriceTable = z.infer<typeof PriceTable>

/** Sums over a request's attempts as Postgres answers them: decimal text. */
type RequestSums = Record<UsagePart | 'costNanoUsd' | 'absorbedNanoUsd' | 'guessedAttempts', string>

/** Money under two names: `<name>_nanousd` and `<name>_usd`. */
export const moneyJson = (name: string, amountNanoUsd: bigint) => ({
  [`${name}_nanousd`]: amountNanoUsd.toString(),
  [`${name}_usd`]: formatUsd(amountNanoUsd),
})

export function partsJson(parts: Record<UsagePart, bigint>) {
  const side = (wanted: 'input' | 'output') =>
    USAGE_PARTS.reduce((sum, part) => (sideOf(part) === wanted ? sum + parts[part] : sum), 0n)
  return {
    usage: Object.fromEntries(USAGE_PARTS.map((part) => [PART_NAMES[part], Number(parts[part])])),
    input_tokens: Number(side('input')),
    output_tokens: Number(side('output')),
  }
}

/** One line of a breakdown. */
export const sumsJson = (sums: Record<SumField, bigint>) => ({
  requests: Number(sums.requests),
  attempts: Number(sums.attempts),
  ...partsJson(sums),
  ...moneyJson('cost', sums.costNanoUsd),
  ...moneyJson('absorbed', sums.absorbedNanoUsd),
  /** What providers charge for it, of those that say so. */
  ...moneyJson('provider_cost', sums.providerCostNanoUsd),
  estimated_attempts: Number(sums.estimatedAttempts),
  partial_attempts: Number(sums.partialAttempts),
  inconsistent_attempts: Number(sums.inconsistentAttempts),
  unpriced_attempts: Number(sums.unpricedAttempts),
  failed_requests: Number(sums.failedRequests),
  cancelled_requests: Number(sums.cancelledRequests),
  interrupted_requests: Number(sums.interruptedRequests),
  cached_answers: Number(sums.cachedAnswers),
  ...moneyJson('cache_savings', sums.cacheSavingsNanoUsd),
  /** Of attempts beyond a request's first. */
  roles: Object.fromEntries(
    COUNTED_ROLES.map((role) => {
      const [attempts, charged, absorbed] = ROLE_FIELDS[role]
      const money = { ...moneyJson('cost', sums[charged]), ...moneyJson('absorbed', sums[absorbed]) }
      return [role, { attempts: Number(sums[attempts]), ...money }]
    }),
  ),
})

/** Null where nothing was timed. */
export const percentilesJson = (read: Percentiles | undefined) =>
  read === undefined ? null : { count: Number(read.count), p50_ms: read.p50Ms, p95_ms: read.p95Ms, p99_ms: read.p99Ms }

const sharedJson = (row: AttemptRow | RequestRow) => ({
  project_id: row.projectId,
  key_id: row.keyId,
  user_id: row.userId,
  team_id: row.teamId,
  end_user: row.endUser,
  provider: row.provider,
  model: row.modelRequested,
  model_served: row.modelServed,
  backend_id: row.backendId,
  tags: tagsJson(row.tags),
  stream: row.stream,
  status: row.status,
  status_class: classOf(row.status),
  http_status: row.httpStatus,
  started_at: row.startedAt,
  first_token_at: row.firstTokenAt,
  ended_at: row.endedAt,
})

/** By name; neither names nor values hold what stands between them. */
export const tagsJson = (tags: string | null): Record<string, string> =>
  Object.fromEntries((tags ?? '').split(',').flatMap((tag) => (tag === '' ? [] : [tag.split('=', 2)])))

const betweenMs = (from: string, to: string): number => Math.max(0, Date.parse(to) - Date.parse(from))

/** @param sums over the request's attempts: they know of corrections that came after the request's own row. */
export const requestJson = (row: RequestRow, sums: RequestSums | undefined) => ({
  id: row.requestId,
  org_id: row.orgId,
  ...sharedJson(row),
  attempts: row.attempts,
  recorded_at: row.recordedAt,
  duration_ms: betweenMs(row.startedAt, row.endedAt),
  first_token_ms: row.firstTokenAt === null ? null : betweenMs(row.startedAt, row.firstTokenAt),
  /** One of its attempts was charged by an estimate or a partial count. */
  estimated: Number(sums?.guessedAttempts ?? 0) > 0,
  ...partsJson(sums === undefined ? row : mapParts((part) => BigInt(sums[part]))),
  ...moneyJson('cost', sums === undefined ? row.costNanoUsd : BigInt(sums.costNanoUsd)),
  ...moneyJson('absorbed', BigInt(sums?.absorbedNanoUsd ?? 0)),
})

/** Of the operator's house: the names of keys, and figures over all tenants. */
const ROUTE_FOR_OPERATORS = ['key', 'figure', 'fleet']

function routeJson(stored: string, isOperator: boolean): Record<string, unknown> {
  const route = parseStored(stored, z.record(z.string(), z.unknown()), 'usage_attempts.route')
  const shown = Object.entries(route).filter(([name]) => isOperator || !ROUTE_FOR_OPERATORS.includes(name))
  return Object.fromEntries(shown)
}

/**
 * @param request Its offsets are from the start of this.
 * @param isOperator Whoever else asks sees what concerns the request alone.
 */
export const attemptJson = (row: AttemptRow, request: Pick<RequestRow, 'startedAt'>, isOperator: boolean) => ({
  attempt: row.attempt,
  kind: row.kind,
  ...sharedJson(row),
  charge: row.charge,
  usage_source: row.usageSource,
  inconsistent: row.inconsistent,
  ...partsJson(row),
  offset_ms: {
    start: betweenMs(request.startedAt, row.startedAt),
    first_token: row.firstTokenAt === null ? null : betweenMs(request.startedAt, row.firstTokenAt),
    end: betweenMs(request.startedAt, row.endedAt),
  },
  ...moneyJson('cost', row.costNanoUsd),
  ...moneyJson('cache_savings', row.cacheSavingsNanoUsd ?? 0n),
  ...(row.providerCostNanoUsd === null ? {} : moneyJson('provider_cost', row.providerCostNanoUsd)),
  pricing: row.pricing,
  price_version_id: row.priceVersionId,
  unit_prices: unitPricesJson(row.unitPrices),
  /** The provider's own usage object, as it came. */
  raw_usage: row.rawUsage,
  /** How the attempt came about; null on rows that nobody ended, and on old ones. */
  route: row.route === null ? null : routeJson(row.route, isOperator),
  recorded_at: row.recordedAt,
})

/** The prices a row was computed with: nano-USD per million units, as decimal strings. */
export function unitPricesJson(stored: string | null) {
  if (stored === null) return null
  const { perMillion, contextTiers, basisPoints } = parseStored(stored, UnitPrices, 'usage_attempts.unit_prices')
  return {
    nanousd_per_million: tableJson(perMillion),
    ...(contextTiers === undefined
      ? {}
      : {
          context_tiers: contextTiers.map((tier) => ({
            above_input_tokens: tier.aboveInputTokens,
            nanousd_per_million: tableJson(tier.perMillion),
          })),
        }),
    ...(basisPoints === undefined ? {} : { basis_points: basisPoints }),
  }
}

const tableJson = (table: PriceTable): Record<string, string> =>
  Object.fromEntries(
    USAGE_PARTS.flatMap((part) => (table[part] === undefined ? [] : [[PART_NAMES[part], table[part]]])),
  )
