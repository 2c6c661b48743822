// From a request to the targets that may serve it. Owns the types of the catalog's answer; the order in which targets are
// tried is routing/, how a model's policy is stored model-policy.ts.
import type { PriceQuote } from '../meter/price.ts'
import type { ProviderKind } from '../providers/kinds.ts'
import type { UsageDialect } from '../providers/usage-dialect.ts'
import type { ModelPolicy } from './model-policy.ts'
import type { Reach } from './reach.ts'

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
  /** Tokens that the target makes of one image at most; absent: IMAGE_TOKENS_MAX. */
  imageTokensMax?: number
  /** Share among the model's targets where its policy is `weighted`. Default 1; 0: only after all others failed. */
  weight?: number
  /** Where it computes, in the operator's words; for callers that ask for a region. */
  region?: string
  price: PriceQuote | undefined
}

export type Plan = {
  model: string
  /** In the order of the catalog, at least one. */
  targets: Target[]
  /** How the targets are ordered and what happens between them. */
  policy: ModelPolicy
}

/** One of a provider's keys; `secret` is decrypted in isolate memory only. */
export type ProviderKey = {
  /** The operator's name for it; safe to log. */
  name: string
  secret: string
  /** Share of the requests among the keys that are usable. At least 1. */
  weight: number
}

/** A registered upstream. */
export type ProviderConfig = {
  name: string
  kind: ProviderKind
  /** Registered by an administrator; no caller ever chooses a host. No slash at the end. */
  baseUrl: string
  reach: Reach
  /** At least one. Which one a call uses is decided before it is opened. */
  keys: ProviderKey[]
  /** Known deviations of a server from its dialect, by name; see providers/presets.ts. */
  preset?: string
  /** What only one kind of provider needs; checked by that kind when it is registered. */
  options: ProviderOptions
  /** What its usage objects mean. */
  usageDialect: UsageDialect
  cutoff: CutoffPolicy
}

export type ProviderOptions = {
  /** Of a cloud provider's address and signature. */
  region?: string
  /** Version of a provider's API, where it has to be named. */
  apiVersion?: string
  /** Sent with each call; values are no secrets. */
  headers?: Record<string, string>
  /** Which route of the provider serves conversations, where it has two. Default: by kind. */
  api?: ProviderApi
  /** Whether what a model thinks may be asked for in summary. Default: no. */
  reasoningSummary?: boolean
}

/** `auto`: whichever the request needs, `chat_completions` where both can serve it. */
export const PROVIDER_APIS = ['chat_completions', 'responses', 'auto'] as const
export type ProviderApi = (typeof PROVIDER_APIS)[number]

/**
 * When the client leaves or the deadline cuts an answer off in its middle: `drain` reads on without a client for the true
 * count; `cancel` closes and charges what was counted; `cancel_free` closes, and the gateway bears what was counted.
 */
export const CUTOFF_POLICIES = ['drain', 'cancel', 'cancel_free'] as const
export type CutoffPolicy = (typeof CUTOFF_POLICIES)[number]
