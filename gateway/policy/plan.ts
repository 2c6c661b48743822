// From a request to the ordered targets that may serve it. Owns the types of the catalog's answer.
import type { PriceQuote } from '../meter/price.ts'
import type { UsageDialect } from '../providers/usage-dialect.ts'

/** One place that can serve the model. */
export type Target = {
  /** Catalog name of the provider: `fleet` for own backends, else a registered provider's name. */
  provider: string
  /** The model's name there. */
  model: string
  /** Largest prompt + output; bounds the worst case when the caller sets no maximum. */
  contextTokens: number
  /** Largest output the target gives, where it is smaller than the context. */
  outputTokensMax?: number
  /** What the provider is asked for and priced by; absent: its standard service. */
  serviceTier?: string
  price: PriceQuote | undefined
}

export type Plan = {
  model: string
  /** In order of preference, at least one. */
  targets: Target[]
}

/** A registered upstream; `secret` is decrypted in isolate memory only. */
export type ProviderConfig = {
  name: string
  kind: 'openai_compatible'
  /** Registered by an administrator; no caller ever chooses a host. */
  baseUrl: string
  secret: string
  /** What its usage objects mean. */
  usageDialect: UsageDialect
  cutoff: CutoffPolicy
}

/**
 * When the client leaves or the deadline cuts an answer off in its middle: `drain` reads on without a client for the true
 * count; `cancel` closes and charges what was counted; `cancel_free` closes, and the gateway bears what was counted.
 */
export const CUTOFF_POLICIES = ['drain', 'cancel', 'cancel_free'] as const
export type CutoffPolicy = (typeof CUTOFF_POLICIES)[number]
