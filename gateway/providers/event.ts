// What an upstream's answer consists of. Owns the types of its events and their order; who makes them is provider.ts.
import type { LogprobEntry } from '../../protocol/dispatch.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { Seal } from '../../protocol/request.ts'
import type { NanoUsd } from '../../protocol/units.ts'
import type { Usage } from '../meter/usage.ts'

/** `tool_calls`: the answer waits for what the tools say. `content_filter`: the target withheld the rest. */
export type FinishReason = 'stop' | 'length' | 'content_filter' | 'tool_calls'

/** Both in the target's words. */
export type RefusalDetails = { category?: string; explanation?: string }

/**
 * The order is `accepted`, any number of `delta`, `thought`, `refusal` and `tool_call`, one `finish` per choice, `usage`; for embeddings one `embedding` per
 * choice in place of both. An `error` may come at any place
 * and is the last event. A stream that ends without `usage` or `error` ended well, but its usage is only what was
 * counted on the way.
 */
export type ProviderEvent =
  /** The prompt was taken on; `usage` is what stands so far. */
  | { type: 'accepted'; usage: Usage }
  /** `outputTokens` counts this choice's tokens so far, text held back included. */
  | { type: 'delta'; choice: number; text: string; outputTokens: number; logprobs?: LogprobEntry[] }
  /** What the model thinks aloud; `seal` comes with the last piece of one thought, which is then over. */
  | { type: 'thought'; choice: number; text: string; outputTokens: number; seal?: Seal }
  /** In place of an answer. */
  | { type: 'refusal'; choice: number; text: string; outputTokens: number }
  /**
   * A piece of one tool call. Calls of a choice are numbered 0, 1, … in `call`; the first piece of each has `id` and `name`
   * (made here where a target sends none), later ones only more of the arguments' JSON text. A call is over when the
   * next part begins.
   */
  | {
      type: 'tool_call'
      choice: number
      call: number
      id?: string
      name?: string
      arguments: string
      outputTokens: number
      seal?: Seal
    }
  /**
   * `stopString`: the one of the request's that ended it, where the target says which. `refusal`: with `content_filter`, what
   * the target says of why.
   */
  | {
      type: 'finish'
      choice: number
      reason: FinishReason
      outputTokens: number
      stopString?: string
      refusal?: RefusalDetails
    }
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
