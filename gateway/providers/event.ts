// What an upstream's answer consists of. Owns the types of its events and their order; who makes them is provider.ts.
import type { LogprobEntry } from '../../protocol/dispatch.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { NanoUsd } from '../../protocol/units.ts'
import type { Usage } from '../meter/usage.ts'

/** Own engines end with `stop` or `length`; vendors also withhold content. */
export type FinishReason = 'stop' | 'length' | 'content_filter'

/**
 * The order is `accepted`, any number of `delta`, one `finish` per choice, `usage`; for embeddings one `embedding` per
 * choice in place of both. An `error` may come at any place
 * and is the last event. A stream that ends without `usage` or `error` ended well, but its usage is only what was
 * counted on the way.
 */
export type ProviderEvent =
  /** The prompt was taken on; `usage` is what stands so far. */
  | { type: 'accepted'; usage: Usage }
  /** `outputTokens` counts this choice's tokens so far, text held back included. */
  | { type: 'delta'; choice: number; text: string; outputTokens: number; logprobs?: LogprobEntry[] }
  | { type: 'finish'; choice: number; reason: FinishReason; outputTokens: number }
  /** A whole choice: little-endian 32-bit floats in base64. */
  | { type: 'embedding'; choice: number; values: string }
  /** `isRunning`: the target's count so far, with more of the answer to come. */
  | ({ type: 'usage'; isRunning?: boolean } & Reported)
  | ({ type: 'error'; failure: Failure } & Partial<Reported>)

/** What a target says of its own usage. */
export type Reported = {
  usage: Usage
  /** Its own object as JSON text, at most RAW_USAGE_CHARS_MAX. */
  rawUsage?: string
  /** Its counts contradict each other or were cut to what is possible. */
  inconsistent?: boolean
  providerCostNanoUsd?: NanoUsd
}
