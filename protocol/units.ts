// Units of money and text. Owns their types and their decimal forms; does not own prices or rounding (gateway/meter).

/** Money: integer nano-dollars, 1e-9 USD. A bigint, because a JS number ends at 9 million dollars. */
export type NanoUsd = bigint

/** A price: integer nano-dollars per 1,000,000 units (tokens, calls). Whole even for $0.0125 per million. */
export type NanoUsdPerMillion = bigint

const NANO_PER_USD = 1_000_000_000n
const DECIMAL_USD = /^-?\d{1,12}(\.\d{1,9})?$/

/**
 * Nano-dollars as a plain decimal dollar string, without trailing zeros.
 * @example formatUsd(12_500_000n) // "0.0125"
 */
export function formatUsd(amount: NanoUsd): string {
  const sign = amount < 0n ? '-' : ''
  const magnitude = amount < 0n ? -amount : amount
  const fraction = (magnitude % NANO_PER_USD).toString().padStart(9, '0').replace(/0+$/, '')
  return `${sign}${magnitude / NANO_PER_USD}${fraction === '' ? '' : `.${fraction}`}`
}

/**
 * A decimal dollar string as nano-dollars; `undefined` where it is not one or has more than nine decimals.
 * @example parseUsd('0.0125') // 12_500_000n
 */
export function parseUsd(text: string): NanoUsd | undefined {
  if (!DECIMAL_USD.test(text)) return undefined
  const negative = text.startsWith('-')
  const [whole = '0', fraction = ''] = text.replace('-', '').split('.')
  const magnitude = BigInt(whole) * NANO_PER_USD + BigInt(fraction.padEnd(9, '0'))
  return negative ? -magnitude : magnitude
}
