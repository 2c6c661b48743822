// What usage costs, once more: the price table written out by hand. Owns the books' own arithmetic of money; the
// product's is gateway/meter/price.ts.
import type { ReserveAsk } from '../../gateway/account/contract.ts'
import type { PriceQuote, PriceTable } from '../../gateway/meter/price.ts'
import type { Usage } from '../../gateway/meter/usage.ts'

/** Prices are per million units and mark-ups in ten-thousandths. */
const SCALE = 1_000_000n * 10_000n

export const inputsOf = (u: Usage): number =>
  u.inputUncached + u.inputCacheRead + u.inputCacheWrite5m + u.inputCacheWrite1h + u.inputAudio + u.inputImage
export const outputsOf = (u: Usage): number => u.outputText + u.outputReasoning + u.outputAudio + u.outputImage

/** Histories use three parts; prices of histories name all three or stand for an unknown price. */
export function costOf(usage: Usage, price: PriceQuote | undefined): bigint {
  if (price === undefined) return 0n
  const table = tableAt(inputsOf(usage), price)
  const exact =
    BigInt(usage.inputUncached) * (table.inputUncached ?? 0n) +
    BigInt(usage.inputCacheRead) * (table.inputCacheRead ?? 0n) +
    BigInt(usage.outputText) * (table.outputText ?? 0n)
  return (exact * BigInt(price.basisPoints ?? 10_000) + SCALE / 2n) / SCALE
}

/** What a target charges the gateway: what it says, else its list price; own machines send no bill. */
export function owedOf(
  usage: Usage,
  ask: Pick<ReserveAsk, 'provider' | 'price'>,
  saidNanoUsd: bigint | undefined,
): bigint {
  if (saidNanoUsd !== undefined) return saidNanoUsd
  if (ask.provider === 'fleet' || ask.price === undefined) return 0n
  return costOf(usage, { ...ask.price, basisPoints: 10_000 })
}

/** The most an ask can cost: the dearest of every prompt length up to the estimate; undefined where no price is known. */
export function worstOf({ estimate, price }: Pick<ReserveAsk, 'estimate' | 'price'>): bigint | undefined {
  if (price === undefined) return undefined
  const tables = [price.perMillion]
  for (const tier of price.contextTiers ?? [])
    if (estimate.inputTokens > tier.aboveInputTokens) tables.push(tableAt(tier.aboveInputTokens + 1, price))
  let most = 0n
  for (const table of tables) {
    const input = larger(table.inputUncached ?? 0n, table.inputCacheRead ?? 0n)
    const exact = BigInt(estimate.inputTokens) * input + BigInt(estimate.outputTokens) * (table.outputText ?? 0n)
    most = larger(most, (exact * BigInt(price.basisPoints ?? 10_000) + SCALE - 1n) / SCALE)
  }
  return most
}

function tableAt(inputTokens: number, price: PriceQuote): PriceTable {
  let table = price.perMillion
  for (const tier of price.contextTiers ?? [])
    if (inputTokens > tier.aboveInputTokens) table = { ...table, ...tier.perMillion }
  return table
}

const larger = (a: bigint, b: bigint): bigint => (a > b ? a : b)
