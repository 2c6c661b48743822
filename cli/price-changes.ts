// What an import changes in the price book, in words. Owns the form of the gateway's answer and its lines. Pure.
import { z } from 'zod'

const Change = z.object({ old: z.string().nullable(), new: z.string().nullable() })
const Named = z.looseObject({
  provider: z.string(),
  model: z.string(),
  service_tier: z.string(),
  effective_from: z.string(),
})
const Tiers = <T extends z.ZodType>(table: T) =>
  z.array(z.object({ above_input_tokens: z.number(), usd_per_million: table })).optional()
const PriceTable = z.record(z.string(), z.string())
const Changes = z.record(z.string(), Change)

export const PriceDifference = z.looseObject({
  added: z.array(Named.extend({ usd_per_million: PriceTable, context_tiers: Tiers(PriceTable) })),
  changed: z.array(Named.extend({ usd_per_million: Changes, context_tiers: Tiers(Changes) })),
  unchanged: z.number(),
  ended: z.number(),
})
type PriceDifference = z.infer<typeof PriceDifference>

const nameOf = ({ provider, model, service_tier: tier, effective_from: from }: z.infer<typeof Named>) =>
  `${provider} ${model}${tier === 'standard' ? '' : ` (${tier})`} from ${from}`

const above = (bound: number): string => (bound === 0 ? '' : `above ${bound} input tokens: `)

const tablesOf = <T>(one: {
  usd_per_million: T
  context_tiers?: { above_input_tokens: number; usd_per_million: T }[] | undefined
}) => [{ above_input_tokens: 0, usd_per_million: one.usd_per_million }, ...(one.context_tiers ?? [])]

export function priceChanges({ added, changed, unchanged, ended }: PriceDifference): string[] {
  const lines: string[] = []
  for (const one of added) {
    lines.push(`+ ${nameOf(one)}`)
    for (const { above_input_tokens: bound, usd_per_million: prices } of tablesOf(one))
      lines.push(
        `    ${above(bound)}${Object.entries(prices)
          .map(([part, price]) => `${part} ${price}`)
          .join(', ')}`,
      )
  }
  for (const one of changed) {
    lines.push(`~ ${nameOf(one)}`)
    for (const { above_input_tokens: bound, usd_per_million: prices } of tablesOf(one))
      for (const [part, change] of Object.entries(prices))
        lines.push(`    ${above(bound)}${part} ${change.old ?? 'unknown'} -> ${change.new ?? 'unknown'}`)
  }
  return [...lines, `${added.length} added, ${changed.length} changed, ${unchanged} unchanged, ${ended} ended already`]
}
