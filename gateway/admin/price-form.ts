// How prices stand in the admin API and in import files. Owns the schemas and both directions between decimal dollar
// strings per million units and a price table; which versions may be added is price-versions.ts.
import * as z from 'zod'
import { formatUsd } from '../../protocol/units.ts'
import { CONTEXT_TIERS_MAX, type ContextTier, PRICE_MAX, type PriceQuote, type PriceTable } from '../meter/price.ts'
import { mapParts, PART_NAMES, type PartName, USAGE_PARTS } from '../meter/usage.ts'
import { ModelName, ProviderName, ServiceTier, STANDARD_TIER, TOKENS_MAX } from '../policy/targets.ts'
import { Instant, Usd } from './input.ts'

/** Entries of one import: with all parts and a tier some 3,000 rows, the most that one transaction should carry. */
const IMPORT_ENTRIES_MAX = 200

const price = Usd(PRICE_MAX).optional()
const byName = mapParts(() => price)
/** Dollars per million units. A part left out has an unknown price; "0" is free. */
const PriceTableInput = z
  .strictObject({
    input_uncached: byName.inputUncached,
    input_cache_read: byName.inputCacheRead,
    input_cache_write_5m: byName.inputCacheWrite5m,
    input_cache_write_1h: byName.inputCacheWrite1h,
    input_audio: byName.inputAudio,
    input_image: byName.inputImage,
    output_text: byName.outputText,
    output_reasoning: byName.outputReasoning,
    output_audio: byName.outputAudio,
    output_image: byName.outputImage,
    web_search_calls: byName.webSearchCalls,
    image_calls: byName.imageCalls,
    tool_calls: byName.toolCalls,
  } satisfies Record<PartName, typeof price>)
  .refine((parts) => Object.values(parts).some((part) => part !== undefined), 'must price at least one part')
type PriceTableInput = z.infer<typeof PriceTableInput>

const ContextTiersInput = z
  .array(
    z.strictObject({
      above_input_tokens: z.int().min(1).max(TOKENS_MAX),
      usd_per_million: PriceTableInput,
    }),
  )
  .max(CONTEXT_TIERS_MAX)
  .superRefine((tiers, context) => {
    for (const [index, tier] of tiers.entries()) {
      const before = tiers[index - 1]?.above_input_tokens ?? 0
      if (tier.above_input_tokens > before) continue
      context.addIssue({ code: 'custom', path: [index, 'above_input_tokens'], message: 'must rise from tier to tier' })
    }
  })

/** Where a price was read. */
const sourceFields = {
  source: z
    .string()
    .min(1)
    .max(500)
    .regex(/^[^\p{Cc}]*$/u, 'must not hold control characters')
    .optional(),
  source_date: z.iso.date('must be a date such as 2026-11-22').optional(),
}

const priceFields = {
  /** `fleet`, or a provider's name. It need not be registered yet. */
  provider: ProviderName,
  /** The model's name there, as in a model's targets. */
  model: ModelName,
  service_tier: ServiceTier.default(STANDARD_TIER),
  /** Default: now. */
  effective_from: Instant.optional(),
  /** Default: until the next version begins. */
  effective_to: Instant.optional(),
  usd_per_million: PriceTableInput,
  /** Prices of long prompts; a part left out keeps the price of the tier below. */
  context_tiers: ContextTiersInput.optional(),
  ...sourceFields,
}

const endsAfterItBegins = (input: { effective_from?: string | undefined; effective_to?: string | undefined }) =>
  input.effective_to === undefined || input.effective_to > (input.effective_from ?? '')
const endMessage = { path: ['effective_to'], message: 'must be later than effective_from' }

/** `supersede`: it is meant that the version cuts short one that was to hold longer. */
export const PriceInput = z
  .strictObject({ ...priceFields, supersede: z.boolean().default(false) })
  .refine(endsAfterItBegins, endMessage)

const PriceEntry = z.strictObject(priceFields).refine(endsAfterItBegins, endMessage)
type PriceEntry = z.infer<typeof PriceEntry>

/** The body of an import, and an import file. `source` and `source_date` hold for entries without their own. */
export const ImportInput = z
  .strictObject({
    ...sourceFields,
    dry_run: z.boolean().default(false),
    supersede: z.boolean().default(false),
    entries: z.array(PriceEntry).min(1).max(IMPORT_ENTRIES_MAX),
  })
  .superRefine(({ entries }, context) => {
    const seen = new Map<string, number>()
    for (const [index, { provider, model, service_tier, effective_from }] of entries.entries()) {
      const key = [provider, model, service_tier, effective_from ?? ''].join('\n')
      const first = seen.get(key)
      if (first === undefined) seen.set(key, index)
      else
        context.addIssue({ code: 'custom', path: ['entries', index], message: `prices the same as entries[${first}]` })
    }
  })

export type ImportInput = z.infer<typeof ImportInput>

/** What a version says, without when it says so. */
export type Prices = Pick<PriceQuote, 'perMillion' | 'contextTiers'>

export function pricesOf(input: Pick<PriceEntry, 'usd_per_million' | 'context_tiers'>): Prices {
  const perMillion = tableOf(input.usd_per_million)
  const contextTiers = (input.context_tiers ?? []).map((tier) => ({
    aboveInputTokens: tier.above_input_tokens,
    perMillion: tableOf(tier.usd_per_million),
  }))
  return contextTiers.length === 0 ? { perMillion } : { perMillion, contextTiers }
}

function tableOf(input: PriceTableInput): PriceTable {
  const table: PriceTable = {}
  for (const part of USAGE_PARTS) {
    const amount = input[PART_NAMES[part]]
    if (amount !== undefined) table[part] = amount
  }
  return table
}

export function pricesView({ perMillion, contextTiers = [] }: Prices) {
  const tiers = contextTiers.map((tier) => ({
    above_input_tokens: tier.aboveInputTokens,
    usd_per_million: tableView(tier.perMillion),
  }))
  return { usd_per_million: tableView(perMillion), ...(tiers.length === 0 ? {} : { context_tiers: tiers }) }
}

function tableView(table: PriceTable): Partial<Record<PartName, string>> {
  const view: Partial<Record<PartName, string>> = {}
  for (const part of USAGE_PARTS) {
    const amount = table[part]
    if (amount !== undefined) view[PART_NAMES[part]] = formatUsd(amount)
  }
  return view
}

/** Whether two versions say the same. */
export const samePrices = (a: Prices, b: Prices): boolean =>
  JSON.stringify(pricesView(a)) === JSON.stringify(pricesView(b))

type Change = { old: string | null; new: string | null }

/** What differs between two versions, part by part; null where one does not price the part itself. */
export function pricesDifference(before: Prices, after: Prices) {
  const bounds = [...(before.contextTiers ?? []), ...(after.contextTiers ?? [])].map((tier) => tier.aboveInputTokens)
  const tiers = [...new Set(bounds)]
    .sort((a, b) => a - b)
    .map((bound) => ({
      above_input_tokens: bound,
      usd_per_million: tableDifference(tierAt(before.contextTiers, bound), tierAt(after.contextTiers, bound)),
    }))
    .filter((tier) => Object.keys(tier.usd_per_million).length > 0)
  return {
    usd_per_million: tableDifference(before.perMillion, after.perMillion),
    ...(tiers.length === 0 ? {} : { context_tiers: tiers }),
  }
}

const tierAt = (tiers: ContextTier[] | undefined, bound: number): PriceTable =>
  tiers?.find((tier) => tier.aboveInputTokens === bound)?.perMillion ?? {}

function tableDifference(before: PriceTable, after: PriceTable): Partial<Record<PartName, Change>> {
  const [old, now] = [tableView(before), tableView(after)]
  const changes: Partial<Record<PartName, Change>> = {}
  for (const name of Object.values(PART_NAMES)) {
    if (old[name] !== now[name]) changes[name] = { old: old[name] ?? null, new: now[name] ?? null }
  }
  return changes
}
