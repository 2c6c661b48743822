// What a vendor's file says about its HTTP: how a request is written, how an answer is read, what its errors mean. Owns the
// interface; sending, reading and letting go are http.ts, the same for all.
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import type { Result } from '../../protocol/result.ts'
import type { ProviderConfig, ProviderKey, Target } from '../policy/plan.ts'
import type { ProviderEvent } from './event.ts'

/** One call as it goes over the wire. */
export type HttpCall = {
  /** Below the provider's base URL, made of encoded parts, never of a caller's text as it is. */
  url: string
  headers: Record<string, string>
  body: string
}

export type EncodeContext = {
  config: ProviderConfig
  key: ProviderKey
  /** Output bound the hold was taken for; absent: the target's window. A target that needs one is given it. */
  maxOutputTokens?: number
  requestId: string
  nowMs: () => number
}

/**
 * Reads one answer. Tolerant of what it does not know, strict in what it counts. The order of events is event.ts, without
 * `accepted`, which http.ts puts in front. Pure; never throws.
 */
export interface AnswerDecoder {
  /** Bytes of a stream, cut anywhere. */
  push(chunk: Uint8Array): ProviderEvent[]
  /** The stream is over: what its last bytes mean. */
  end(): ProviderEvent[]
  /** A body that came in one piece. */
  whole(text: string): ProviderEvent[]
  /** After its end mark or an error nothing more counts. */
  readonly isOver: boolean
  /** The end mark, an error, or every choice finished where a vendor has no end mark. */
  readonly isComplete: boolean
  /** The vendor's counts contradicted each other: an operator may want to look. */
  readonly hasInconsistentUsage: boolean
}

export interface Vendor {
  /**
   * The request in the vendor's form. `err` with `invalid_request` and the internal field's name as `param` where the
   * vendor cannot honour something that changes the meaning; what is only a hint is left out.
   */
  encode(request: InferenceRequest, target: Target, context: EncodeContext): Promise<Result<HttpCall, Failure>>
  /** @param contentType Of the response, lower case; says whether it is a stream. */
  decoder(request: InferenceRequest, target: Target, config: ProviderConfig): AnswerDecoder
  /** Whether a response of this content type comes piece by piece. */
  isStream(contentType: string): boolean
  /**
   * An HTTP error. Faults of the caller's request stay the caller's; everything about the operator's account (key, quota,
   * unknown model) is the target's, and another target may do better. Always with `kind`.
   * @param text Body, already bounded and without secrets.
   */
  failure(status: number, text: string, headers: Headers, nowMs: number): Failure
  /** How long a prompt is, by the vendor's own count; absent: it does not say. */
  countTokens?: TokenCounter
}

export interface TokenCounter {
  /** As `Vendor.encode`. */
  encode(request: InferenceRequest, target: Target, context: EncodeContext): Promise<Result<HttpCall, Failure>>
  /** Tokens of the prompt in the body of a 200; `undefined` where it holds none. */
  read(text: string): number | undefined
}
