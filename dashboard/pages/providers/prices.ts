// Which price of a target holds. Owns the choice among versions, as the gateway makes it: the newest that has begun and not ended,
// of the target's own service tier. ○ Pure.
import type { Price, Target } from '../../app/wire-admin.ts'

export function priceOf(
  prices: readonly Price[],
  { provider, model, service_tier: tier = 'standard' }: Pick<Target, 'provider' | 'model' | 'service_tier'>,
  nowMs: number,
): Price | undefined {
  return prices
    .filter(
      (price) =>
        price.provider === provider &&
        price.model === model &&
        price.service_tier === tier &&
        Date.parse(price.effective_from) <= nowMs &&
        (price.effective_to === undefined || Date.parse(price.effective_to) > nowMs),
    )
    .toSorted((a, b) => Date.parse(b.effective_from) - Date.parse(a.effective_from))[0]
}

/** `$2.00`: the decimal text of the API, with two decimals at the least. */
export const amountText = (usd: string): string => {
  const [whole = '0', decimals = ''] = usd.split('.')
  return `$${whole}.${decimals.padEnd(2, '0')}`
}

/** `$2.00 in · $8.00 out` */
export function priceText(price: Price | undefined): string {
  if (price === undefined) return 'no price'
  const { input_uncached: input, output_text: output } = price.usd_per_million
  const words = [
    input === undefined ? [] : [`${amountText(input)} in`],
    output === undefined ? [] : [`${amountText(output)} out`],
  ].flat()
  return words.length === 0 ? 'priced by other parts' : words.join(' · ')
}
