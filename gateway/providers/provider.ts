// What every upstream looks like from inside: one call that opens a stream of events. Owns the interface and the event
// types. Implementations: backend.ts (own fleet), openai-compatible.ts.
import type { LogprobEntry } from '../../protocol/dispatch.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import type { Result } from '../../protocol/result.ts'
import type { NanoUsd } from '../../protocol/units.ts'
import type { Env } from '../env.ts'
import type { Usage } from '../meter/usage.ts'
import type { Target } from '../policy/plan.ts'

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
  | { type: 'usage'; usage: Usage; providerCostNanoUsd?: NanoUsd }
  | { type: 'error'; failure: Failure; usage?: Usage }

export type OpenContext = {
  env: Env
  /** Of the client's request, for tracing upstream. */
  requestId: string
  attempt: number
  /** Own fleet only: opaque id for fair sharing between tenants. */
  tenant: string
  /** Time left to the request's deadline. */
  deadlineInMs: number
  /** Output bound the hold was taken for; absent: the target's window. */
  maxOutputTokens?: number
  /** Ends the call and the stream. Providers pass it to `fetch` and add nothing to it. */
  signal: AbortSignal
  fetch: typeof fetch
  nowMs: () => number
  random: () => number
  newId: () => string
  /** Backends this request has used already, over all attempts. The provider adds to it. */
  backendsTried: Set<string>
}

export type Upstream = {
  /** Who answers, for headers and logs: the provider's name, for own backends with the backend's id. */
  label: string
  /** Batches, as they arrived: what comes together goes on together. Throws only what the network throws. */
  events: AsyncIterable<ProviderEvent[]>
  /** Called once when the stream is over, however it ended. */
  close(): void
}

export interface Provider {
  /**
   * Sends the request. `err` where nothing was computed: refused, unreachable, over a limit.
   * The network's own errors come out as a Failure; an abort of `signal` may throw.
   */
  open(request: InferenceRequest, target: Target, context: OpenContext): Promise<Result<Upstream, Failure>>
  /** Whether another try of the same target may reach another machine. */
  hasAlternative(target: Target, context: OpenContext): Promise<boolean>
}
