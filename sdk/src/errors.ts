// What can go wrong with a call, as one class and its closed list of codes. Owns the words; what leads to which is verdict.ts.

/**
 * Why a call failed.
 *
 * - `invalid_request`, `authentication`, `permission`, `not_found`, `conflict`, `too_large`, `context_length`, `content_filter`:
 *   the request itself; asking again changes nothing.
 * - `budget_exhausted`, `rate_limited`: a limit of yours at the gateway. Never avoided by going past it.
 * - `overloaded`, `provider_failed`: nobody could serve it now.
 * - `gateway_unreachable`: no answer of the gateway, and no direct provider that could take the call.
 * - `timeout`: `deadlineMs` is over. `aborted`: your signal. `interrupted`: see {@link StreamInterruptedError}.
 * - `malformed`: an answer that is none.
 *
 * @example
 * ```ts
 * const isMine = (code: ErrorCode) => code === 'rate_limited' || code === 'budget_exhausted'
 * ```
 */
export type ErrorCode =
  | 'invalid_request'
  | 'authentication'
  | 'permission'
  | 'not_found'
  | 'conflict'
  | 'too_large'
  | 'context_length'
  | 'content_filter'
  | 'budget_exhausted'
  | 'rate_limited'
  | 'overloaded'
  | 'provider_failed'
  | 'gateway_unreachable'
  | 'timeout'
  | 'aborted'
  | 'interrupted'
  | 'malformed'

/**
 * Who is at fault: the caller, the gateway, or a provider behind it or called directly.
 *
 * @example
 * ```ts
 * const isOurs = (origin: ErrorOrigin) => origin === 'gateway'
 * ```
 */
export type ErrorOrigin = 'client' | 'gateway' | 'provider'

/**
 * One try of one target.
 *
 * @example
 * ```ts
 * const failed = (attempts: readonly AttemptRecord[]) => attempts.filter(({ code }) => code !== undefined)
 * ```
 */
export type AttemptRecord = {
  /** From 1. */
  attempt: number
  /** `gateway`, or the name of a direct provider. */
  target: string
  startedAtMs: number
  durationMs: number
  /** Absent where no answer came. */
  status?: number
  /** Absent where it answered. */
  code?: ErrorCode
  /** Of the answer: `x-request-id`, or what the provider calls so. */
  requestId?: string
}

/**
 * What an error is made of.
 *
 * @example
 * ```ts
 * const fields: ErrorFields = { code: 'aborted', origin: 'client', retryable: false }
 * throw new PenstockError('enough', fields)
 * ```
 */
export type ErrorFields = {
  code: ErrorCode
  origin: ErrorOrigin
  /** Whether the same call may succeed later. */
  retryable: boolean
  target?: string
  status?: number
  requestId?: string
  /** When to come back, where somebody said so. */
  retryAfterMs?: number
  attempts?: readonly AttemptRecord[]
  cause?: unknown
}

/**
 * Every error of this package.
 *
 * @example
 * ```ts
 * try {
 *   await penstock.chat.completions.create({ model: 'small', messages })
 * } catch (error) {
 *   if (error instanceof PenstockError && error.code === 'budget_exhausted') showBudgetPage()
 *   else throw error
 * }
 * ```
 */
export class PenstockError extends Error {
  override readonly name: string = 'PenstockError'
  readonly code: ErrorCode
  readonly origin: ErrorOrigin
  readonly retryable: boolean
  /** `gateway`, or the direct provider whose answer this is. */
  readonly target: string | undefined
  readonly status: number | undefined
  readonly requestId: string | undefined
  readonly retryAfterMs: number | undefined
  /** Every try that was made, in order. */
  readonly attempts: readonly AttemptRecord[]

  constructor(message: string, fields: ErrorFields) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause })
    this.code = fields.code
    this.origin = fields.origin
    this.retryable = fields.retryable
    this.target = fields.target
    this.status = fields.status
    this.requestId = fields.requestId
    this.retryAfterMs = fields.retryAfterMs
    this.attempts = fields.attempts ?? []
  }
}

/**
 * What had arrived of a stream that broke off.
 *
 * @example
 * ```ts
 * const { text, resumeToken }: PartialAnswer = error.partial
 * if (resumeToken !== undefined) await penstock.responses.resume(resumeToken)
 * else show(text)
 * ```
 */
export type PartialAnswer = {
  /** Text of the first choice, or of all output. */
  text: string
  /** As counted by whoever answered; absent where they had not told by then. */
  usage: Usage | undefined
  /** Continues the stream with `responses.resume()`; absent where the answer cannot be resumed. */
  resumeToken: string | undefined
}

/**
 * Tokens of one answer, in disjoint parts: their sum is all of them.
 *
 * @example
 * ```ts
 * const total = (usage: Usage) =>
 *   usage.inputTokens + usage.cachedInputTokens + usage.cacheWriteTokens + usage.outputTokens + usage.reasoningTokens
 * ```
 */
export type Usage = {
  /** Prompt tokens that were computed. */
  inputTokens: number
  /** Prompt tokens from a cache. */
  cachedInputTokens: number
  /** Prompt tokens written to a cache that charges for it. */
  cacheWriteTokens: number
  /** Text, calls and refusals. */
  outputTokens: number
  /** Thoughts. */
  reasoningTokens: number
}

/**
 * A stream broke off after content had come. Nothing was hidden: `partial` is what you have seen.
 *
 * @example
 * ```ts
 * try {
 *   for await (const event of stream) show(event)
 * } catch (error) {
 *   if (!(error instanceof StreamInterruptedError)) throw error
 *   keepDraft(error.partial.text)
 * }
 * ```
 */
export class StreamInterruptedError extends PenstockError {
  override readonly name: string = 'StreamInterruptedError'
  readonly partial: PartialAnswer

  constructor(message: string, fields: Omit<ErrorFields, 'code' | 'retryable'>, partial: PartialAnswer) {
    super(message, { ...fields, code: 'interrupted', retryable: true })
    this.partial = partial
  }
}
