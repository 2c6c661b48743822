// Usage as OpenAI-compatible servers report it, in disjoint parts. Owns reading the counts of chat completions,
// completions and responses, and telling from the total whether a server counts cached and reasoning tokens inside or
// beside the sums: the dialect says inside, some servers of that dialect do not. Pure; never throws, whatever it reads.
import type { NanoUsd } from '../../protocol/units.ts'
import { USAGE_PART_MAX, type Usage } from './usage.ts'

export type Normalised = {
  usage: Usage
  /** The counts contradict each other or were cut to what is possible; the row stays chargeable, a person may look. */
  inconsistent: boolean
  /** What the provider says it charges, where it says so. */
  providerCostNanoUsd?: NanoUsd
}

/** Servers that tell their price do so in ticks of 1e-10 USD. */
const TICKS_PER_NANO_USD = 10n

type Json = Record<string, unknown>

/**
 * The parts of a `usage` object; `undefined` where it holds no count at all, which is not the same as counts of zero.
 * @example normaliseOpenAi({ prompt_tokens: 10, completion_tokens: 2 })?.usage.outputText // 2
 */
export function normaliseOpenAi(raw: unknown): Normalised | undefined {
  if (!isJson(raw)) return undefined
  const reader = new Reader()
  const prompt = reader.count(raw.prompt_tokens ?? raw.input_tokens)
  const completion = reader.count(raw.completion_tokens ?? raw.output_tokens)
  const total = reader.count(raw.total_tokens)
  if (prompt === undefined && completion === undefined && total === undefined) return undefined
  const inputDetails = detailsOf(raw.prompt_tokens_details ?? raw.input_tokens_details)
  const outputDetails = detailsOf(raw.completion_tokens_details ?? raw.output_tokens_details)
  const cached = reader.count(inputDetails.cached_tokens) ?? 0
  const written = reader.count(inputDetails.cache_write_tokens) ?? 0
  const reasoning = reader.count(outputDetails.reasoning_tokens)

  const beside = reader.besides(prompt, completion, total, { cached, reasoning })
  const input = reader.split(prompt ?? 0, beside.cached ? written : cached + written)
  const output = reader.split(completion ?? 0, beside.reasoning ? 0 : (reasoning ?? 0))
  // Where details exceed their sum, cached tokens are believed before written ones: they are the cheaper.
  const cacheRead = beside.cached ? cached : Math.min(cached, input.inside)
  const normalised: Normalised = {
    usage: {
      inputUncached: input.rest,
      inputCacheRead: cacheRead,
      inputCacheWrite5m: beside.cached ? input.inside : input.inside - cacheRead,
      inputCacheWrite1h: 0,
      outputText: output.rest,
      outputReasoning: beside.reasoning ? (reasoning ?? beside.unexplained) : output.inside,
    },
    inconsistent: reader.inconsistent,
  }
  const providerCostNanoUsd = nanoOfTicks(raw.cost_in_usd_ticks)
  if (providerCostNanoUsd !== undefined) normalised.providerCostNanoUsd = providerCostNanoUsd
  return normalised
}

/** Which details stand beside the sums; `unexplained` are output tokens that only the total knows of. */
type Beside = { cached: boolean; reasoning: boolean; unexplained: number }

class Reader {
  inconsistent = false

  /** A count, or `undefined` where there is none; what cannot be a count is noted and left out. */
  count(value: unknown): number | undefined {
    if (value === undefined || value === null) return undefined
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= USAGE_PART_MAX) return value
    this.inconsistent = true
    return undefined
  }

  besides(
    prompt: number | undefined,
    completion: number | undefined,
    total: number | undefined,
    details: { cached: number; reasoning: number | undefined },
  ): Beside {
    const inside: Beside = { cached: false, reasoning: false, unexplained: 0 }
    if (total === undefined) return inside
    const gap = total - (prompt ?? 0) - (completion ?? 0)
    const { cached, reasoning = 0 } = details
    if (gap === 0) return inside
    if (gap === reasoning) return { ...inside, reasoning: true }
    if (gap === cached) return { ...inside, cached: true }
    if (gap === cached + reasoning) return { cached: true, reasoning: true, unexplained: 0 }
    if (gap > 0 && details.reasoning === undefined) return { ...inside, reasoning: true, unexplained: gap }
    this.inconsistent = true
    return inside
  }

  /** A sum as its details and the rest; details never exceed their sum. */
  split(sum: number, details: number): { inside: number; rest: number } {
    if (details > sum) this.inconsistent = true
    const inside = Math.min(details, sum)
    return { inside, rest: sum - inside }
  }
}

const isJson = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)

const detailsOf = (value: unknown): Json => (isJson(value) ? value : {})

function nanoOfTicks(ticks: unknown): NanoUsd | undefined {
  if (typeof ticks !== 'number' || !Number.isSafeInteger(ticks) || ticks < 0) return undefined
  return (BigInt(ticks) + TICKS_PER_NANO_USD / 2n) / TICKS_PER_NANO_USD
}
