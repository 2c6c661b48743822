// Usage rows and sums as the admin API shows them. Owns the field names: tokens as numbers, money as decimal strings,
// in nano-USD for programs and in USD for people. Pure.
import { z } from 'zod'
import { formatUsd } from '../../protocol/units.ts'
import { parseStored } from '../db/json.ts'
import type { usageAttempts, usageRequests } from '../db/schema/usage.ts'

type AttemptRow = typeof usageAttempts.$inferSelect
type RequestRow = typeof usageRequests.$inferSelect

const UnitPrices = z.record(z.string(), z.string())

/** Sums as Postgres answers them: decimal text. */
export type SumRow = {
  attempts: string
  inputUncached: string
  inputCacheRead: string
  inputCacheWrite5m: string
  inputCacheWrite1h: string
  outputText: string
  outputReasoning: string
  costNanoUsd: string
  absorbedNanoUsd: string
}

type Parts = Pick<
  AttemptRow,
  'inputUncached' | 'inputCacheRead' | 'inputCacheWrite5m' | 'inputCacheWrite1h' | 'outputText' | 'outputReasoning'
>

/** Money under two names: `<name>_nanousd` and `<name>_usd`. */
export const moneyJson = (name: string, amountNanoUsd: bigint) => ({
  [`${name}_nanousd`]: amountNanoUsd.toString(),
  [`${name}_usd`]: formatUsd(amountNanoUsd),
})

function partsJson(parts: Record<keyof Parts, bigint>) {
  const input = parts.inputUncached + parts.inputCacheRead + parts.inputCacheWrite5m + parts.inputCacheWrite1h
  const output = parts.outputText + parts.outputReasoning
  return {
    usage: {
      input_uncached: Number(parts.inputUncached),
      input_cache_read: Number(parts.inputCacheRead),
      input_cache_write_5m: Number(parts.inputCacheWrite5m),
      input_cache_write_1h: Number(parts.inputCacheWrite1h),
      output_text: Number(parts.outputText),
      output_reasoning: Number(parts.outputReasoning),
    },
    input_tokens: Number(input),
    output_tokens: Number(output),
  }
}

const bigParts = (row: SumRow | undefined) => ({
  inputUncached: BigInt(row?.inputUncached ?? 0),
  inputCacheRead: BigInt(row?.inputCacheRead ?? 0),
  inputCacheWrite5m: BigInt(row?.inputCacheWrite5m ?? 0),
  inputCacheWrite1h: BigInt(row?.inputCacheWrite1h ?? 0),
  outputText: BigInt(row?.outputText ?? 0),
  outputReasoning: BigInt(row?.outputReasoning ?? 0),
})

/** One line of a breakdown; a group without rows is zeros. */
export const sumsJson = (row: SumRow | undefined, requests: string | undefined) => ({
  requests: Number(requests ?? 0),
  attempts: Number(row?.attempts ?? 0),
  ...partsJson(bigParts(row)),
  ...moneyJson('cost', BigInt(row?.costNanoUsd ?? 0)),
  ...moneyJson('absorbed', BigInt(row?.absorbedNanoUsd ?? 0)),
})

const sharedJson = (row: AttemptRow | RequestRow) => ({
  project_id: row.projectId,
  key_id: row.keyId,
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
export const requestJson = (row: RequestRow, sums: SumRow | undefined) => ({
  id: row.requestId,
  org_id: row.orgId,
  ...sharedJson(row),
  attempts: row.attempts,
  ...partsJson(sums === undefined ? row : bigParts(sums)),
  ...moneyJson('cost', sums === undefined ? row.costNanoUsd : BigInt(sums.costNanoUsd)),
  ...moneyJson('absorbed', BigInt(sums?.absorbedNanoUsd ?? 0)),
})

export const attemptJson = (row: AttemptRow) => ({
  attempt: row.attempt,
  kind: row.kind,
  ...sharedJson(row),
  charge: row.charge,
  usage_source: row.usageSource,
  ...partsJson(row),
  ...moneyJson('cost', row.costNanoUsd),
  ...(row.providerCostNanoUsd === null ? {} : moneyJson('provider_cost', row.providerCostNanoUsd)),
  pricing: row.pricing,
  price_version_id: row.priceVersionId,
  /** Nano-USD per million units, as decimal strings. */
  unit_prices: row.unitPrices === null ? null : parseStored(row.unitPrices, UnitPrices, 'usage_attempts.unit_prices'),
  recorded_at: row.recordedAt,
})
