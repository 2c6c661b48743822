// Usage rows and sums as the admin API shows them. Owns the field names: tokens as numbers, money as decimal strings,
// in nano-USD for programs and in USD for people. Pure.
import { z } from 'zod'
import { formatUsd } from '../../protocol/units.ts'
import { parseStored } from '../db/json.ts'
import type { usageAttempts, usageRequests } from '../db/schema/usage.ts'
import type { SumField } from '../ledger/usage-facts.ts'
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
type RequestSums = Record<UsagePart | 'costNanoUsd' | 'absorbedNanoUsd', string>

/** Money under two names: `<name>_nanousd` and `<name>_usd`. */
export const moneyJson = (name: string, amountNanoUsd: bigint) => ({
  [`${name}_nanousd`]: amountNanoUsd.toString(),
  [`${name}_usd`]: formatUsd(amountNanoUsd),
})

function partsJson(parts: Record<UsagePart, bigint>) {
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
})

const sharedJson = (row: AttemptRow | RequestRow) => ({
  project_id: row.projectId,
  key_id: row.keyId,
  user_id: row.userId,
  team_id: row.teamId,
  end_user: row.endUser,
  provider: row.provider,
  model: row.modelRequested,
  model_served: row.modelServed,
  stream: row.stream,
  status: row.status,
  http_status: row.httpStatus,
  started_at: row.startedAt,
  first_token_at: row.firstTokenAt,
  ended_at: row.endedAt,
})

/** @param sums over the request's attempts: they know of corrections that came after the request's own row. */
export const requestJson = (row: RequestRow, sums: RequestSums | undefined) => ({
  id: row.requestId,
  org_id: row.orgId,
  ...sharedJson(row),
  attempts: row.attempts,
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

/** @param isOperator Whoever else asks sees what concerns the request alone. */
export const attemptJson = (row: AttemptRow, isOperator: boolean) => ({
  attempt: row.attempt,
  kind: row.kind,
  ...sharedJson(row),
  charge: row.charge,
  usage_source: row.usageSource,
  inconsistent: row.inconsistent,
  ...partsJson(row),
  ...moneyJson('cost', row.costNanoUsd),
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
