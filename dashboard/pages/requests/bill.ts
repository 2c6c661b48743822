// How the cost of an attempt comes about, part by part. Owns the lines; the amounts are computed as the gateway does (integers, rounded
// once over all parts), so that the lines can be checked against the cost and never stand in for it. ○ Pure.
import type { AttemptRow, PartName } from '../../app/wire.ts'

export type BillLine = { label: string; units: number; perMillion: bigint | undefined; amount: bigint | undefined }

export const PART_LABELS: Readonly<Record<PartName, string>> = {
  input_uncached: 'Input',
  input_cache_read: 'Cached input',
  input_cache_write_5m: 'Cache write, 5 minutes',
  input_cache_write_1h: 'Cache write, 1 hour',
  input_audio: 'Audio input',
  input_image: 'Image input',
  output_text: 'Output',
  output_reasoning: 'Reasoning',
  output_audio: 'Audio output',
  output_image: 'Image output',
  web_search_calls: 'Web searches',
  image_calls: 'Images made',
  tool_calls: 'Tool calls',
}
const MILLION = 1_000_000n
const LIST_BASIS_POINTS = 10_000

export function billOf(attempt: Pick<AttemptRow, 'usage' | 'unit_prices'>): {
  lines: BillLine[]
  note: string | undefined
} {
  const prices = pricesOf(attempt)
  const basisPoints = attempt.unit_prices?.basis_points
  const lines = (Object.entries(attempt.usage) as [PartName, number][])
    .filter(([, units]) => units !== 0)
    .map(([part, units]) => {
      const text = prices?.[part]
      const perMillion = text === undefined ? undefined : BigInt(text)
      return {
        label: PART_LABELS[part],
        units,
        perMillion,
        // Fractions of a nano-dollar are rounded once, over all parts: a line may differ by one from what adds up.
        amount: perMillion === undefined ? undefined : (BigInt(units) * perMillion) / MILLION,
      }
    })
  const isListed = basisPoints === undefined || basisPoints === LIST_BASIS_POINTS
  return { lines, note: isListed ? undefined : `Cost, at ${basisPoints / 100} % of these prices` }
}

/** Of the context tier that the input falls into. */
function pricesOf({ usage, unit_prices: unit }: Pick<AttemptRow, 'usage' | 'unit_prices'>) {
  if (unit === null) return undefined
  const input = usage.input_uncached + usage.input_cache_read + usage.input_cache_write_5m + usage.input_cache_write_1h
  const tier = (unit.context_tiers ?? []).filter(({ above_input_tokens: above }) => input > above).at(-1)
  return { ...unit.nanousd_per_million, ...tier?.nanousd_per_million }
}
