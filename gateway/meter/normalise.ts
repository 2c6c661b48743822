// What a provider said of its usage, in disjoint parts. Owns the type and the careful reading that all dialects share:
// counts that may be missing, null, absurd or contradictory, and the provider's own words kept as text. Pure; never
// throws, whatever it reads. The dialects are providers/<dialect>-usage.ts.
import type { NanoUsd } from '../../protocol/units.ts'
import { addUsage, mapParts, NO_USAGE, USAGE_PART_MAX, type Usage } from './usage.ts'

export type Normalised = {
  usage: Usage
  /** The counts contradict each other or were cut to what is possible; the row stays chargeable, a person may look. */
  inconsistent: boolean
  /** What the provider says it charges, where it says so. */
  providerCostNanoUsd?: NanoUsd
  /** What other models used on the way, beside `usage`, where the provider bills them at their own prices. */
  otherModels?: OtherModel[]
  /** The model that really answered, where the provider says that it was not the one asked for. */
  servedModel?: string
}

export type OtherModel = { model: string; usage: Usage }

export type Json = Record<string, unknown>

export const isJson = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Details that are missing or null are details without any count. */
export const jsonOrEmpty = (value: unknown): Json => (isJson(value) ? value : {})

/**
 * The reading as one row can carry it. A row has one model and one price: what other models used is counted and charged
 * at that price and flagged, as is an answer by another model than the one asked for; the raw usage says which.
 */
export function withOtherModels(normalised: Normalised): Normalised {
  const { otherModels = [], servedModel } = normalised
  if (otherModels.length === 0 && servedModel === undefined) return normalised
  const reader = new CountReader()
  const usage = reader.usage(otherModels.reduce((sum, other) => addUsage(sum, other.usage), normalised.usage))
  return { ...normalised, usage, inconsistent: true }
}

/** Servers that tell their price do so in ticks of 1e-10 USD. */
const TICKS_PER_NANO_USD = 10n

/** The reading with the provider's own price beside it, where it gives one in ticks. */
export function withTicks(normalised: Normalised, ticks: unknown): Normalised {
  if (typeof ticks !== 'number' || !Number.isSafeInteger(ticks) || ticks < 0) return normalised
  return { ...normalised, providerCostNanoUsd: (BigInt(ticks) + TICKS_PER_NANO_USD / 2n) / TICKS_PER_NANO_USD }
}

/** Reads the counts of one usage object and remembers whether any of them could not be right. */
export class CountReader {
  inconsistent = false

  /** A count, or `undefined` where there is none; what cannot be a count is noted and left out. */
  count(value: unknown): number | undefined {
    if (value === undefined || value === null) return undefined
    // Adding 0 makes -0, which JSON knows, a plain zero.
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= USAGE_PART_MAX) return value + 0
    this.inconsistent = true
    return undefined
  }

  /** As `count`, where missing and zero mean the same. */
  countOrZero(value: unknown): number {
    return this.count(value) ?? 0
  }

  /** Takes details out of a sum, in the order given; what exceeds the sum is cut and noted. */
  take(sum: number, details: readonly number[]): { taken: number[]; rest: number } {
    let rest = sum
    const taken = details.map((detail) => {
      const some = Math.min(detail, rest)
      if (some < detail) this.inconsistent = true
      rest -= some
      return some
    })
    return { taken, rest }
  }

  /** The usage of these parts, the others zero; a part beyond belief is cut and noted. */
  usage(parts: Partial<Usage>): Usage {
    const whole = { ...NO_USAGE, ...parts }
    return mapParts((part) => {
      if (whole[part] <= USAGE_PART_MAX) return whole[part]
      this.inconsistent = true
      return USAGE_PART_MAX
    })
  }
}

/**
 * The provider's own usage object as JSON text of at most `charsMax` characters. A larger one is replaced as a whole, so
 * that the text is always JSON; `undefined` where there is nothing that JSON can say.
 */
export function rawUsageText(raw: unknown, charsMax: number): string | undefined {
  let text: string | undefined
  try {
    text = JSON.stringify(raw)
  } catch {
    return undefined
  }
  if (text === undefined || text.length <= charsMax) return text
  return JSON.stringify({ truncated: true, chars: text.length })
}
