// What a token costs on a machine of one's own. Owns the formula: a second of the machine costs gpus x (price of a
// GPU-hour) / 3600, and a token costs the part of a second that it takes. Pure.
//
//   price per million tokens = gpu_hour x gpus x 1,000,000 / (3600 x tokens_per_second x utilisation)
//
// Input and output each have their own rate, measured with the machine doing only that: prefill reads thousands of tokens
// in the time in which decode writes one, so one rate for both would price one of them wrong by that factor. The
// utilisation is the part of each paid hour in which the machine computes; idle time is paid by the tokens too.
import type { NanoUsd, NanoUsdPerMillion } from '../../protocol/units.ts'
import type { PriceTable } from './price.ts'

export type Machine = {
  gpuHourNanoUsd: NanoUsd
  gpus: number
  /** Of the whole machine at full load, above 0. */
  inputTokensPerSecond: number
  outputTokensPerSecond: number
  /** Absent: cached prompt tokens take no machine time and are free. */
  cachedInputTokensPerSecond?: number | undefined
  /** (0, 1]. */
  utilisation: number
}

/** Rates and shares are taken to this part of one: finer than any measurement. */
const PARTS_OF_ONE = 10_000
const SECONDS_PER_HOUR = 3600n
const TOKENS = 1_000_000n

/** Prices of text in and out; parts that the machine does not compute have none. */
export function machinePrices(machine: Machine): PriceTable {
  const { inputTokensPerSecond, outputTokensPerSecond, cachedInputTokensPerSecond } = machine
  return {
    inputUncached: priceAt(machine, inputTokensPerSecond),
    inputCacheRead: cachedInputTokensPerSecond === undefined ? 0n : priceAt(machine, cachedInputTokensPerSecond),
    outputText: priceAt(machine, outputTokensPerSecond),
    outputReasoning: priceAt(machine, outputTokensPerSecond),
  }
}

/** Rounded half up to whole nano-dollars per million. */
function priceAt({ gpuHourNanoUsd, gpus, utilisation }: Machine, tokensPerSecond: number): NanoUsdPerMillion {
  const scale = BigInt(PARTS_OF_ONE) * BigInt(PARTS_OF_ONE)
  const dividend = gpuHourNanoUsd * BigInt(gpus) * TOKENS * scale
  const divisor = SECONDS_PER_HOUR * inParts(tokensPerSecond) * inParts(utilisation)
  return (dividend + divisor / 2n) / divisor
}

/** At least one part, so that nothing is divided by zero. */
const inParts = (value: number): bigint => BigInt(Math.max(1, Math.round(value * PARTS_OF_ONE)))
