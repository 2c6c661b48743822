// The closed list of failures that cross a process border. Owns the codes and what each means to a caller;
// the dialects (gateway/errors.ts) own their HTTP shape.

/**
 * Every failure a caller can see. The comment of each says whose fault it is and what the caller can do.
 * Adding one is a compile error wherever a switch ends in `satisfies never`.
 */
export const ERROR_CODES = [
  'invalid_request', // caller: fix the named field
  'invalid_api_key', // caller: unknown, malformed, revoked or expired key
  'permission_denied', // caller: the key's scopes do not cover this
  'not_found', // caller: no such route or object
  'conflict', // caller: the state of things forbids it; the message says which
  'model_not_found', // caller: no such model, or not visible to this key
  'context_length_exceeded', // caller: shorten the prompt
  'request_too_large', // caller: body over the byte limit
  'content_filtered', // caller: a provider's or the operator's content rules refused the request
  'rate_limited', // caller: wait `retryAfterMs`
  'concurrency_limited', // caller: wait for own requests to end
  'budget_exhausted', // caller: money limit reached; waiting helps only at the window's end
  'price_unknown', // operator: a money limit applies and the target has no price; refused, never free
  'overloaded', // fleet: every target is full; retry after `retryAfterMs`
  'no_target', // fleet: no backend or provider is up for this model
  'deadline_exceeded', // the deadline passed before the answer was complete
  'upstream_error', // a provider answered with an error or broke off
  'engine_lost', // the engine process died while it computed this request
  'backend_lost', // the backend agent stopped answering in mid-stream
  'unavailable', // a part that money depends on cannot be reached; nothing was charged
  'cancelled', // the caller went away
  'internal', // a bug; the request id finds it in the logs
] as const

export type ErrorCode = (typeof ERROR_CODES)[number]

/** A failure as it travels between our processes. `message` is safe to show to the caller. */
export type Failure = {
  code: ErrorCode
  message: string
  /** Path of the offending field in the caller's own dialect, e.g. `messages[0].content`. */
  param?: string
  /** When another try can succeed, from now. */
  retryAfterMs?: number
  /** What went wrong between the gateway and a target; for breakers, logs and usage rows, never for the caller. */
  kind?: UpstreamFaultKind
}

/** How an attempt at a target can fail. */
export const UPSTREAM_FAULT_KINDS = [
  'connect', // no connection, or it broke before the head of an answer
  'head_timeout', // connected, and no head in time
  'first_token_timeout', // a head, and no content in time
  'stall', // content, then silence
  'broken_off', // the connection ended in the middle of an answer
  'status', // an HTTP error that none of the following names
  'rate_limited', // the provider's limit on the operator's account (429), with or without a time
  'overloaded', // the provider itself is full (503, 529)
  'credentials', // the operator's key is refused or out of credit (401, 402, 403)
  'unknown_model', // the provider does not know the model (404)
  'in_band', // an error event inside a stream
  'ok_with_error', // status 200 whose body is an error
  'malformed', // an answer of an unknown shape
  'content_filter', // the provider's content rules refused the prompt
  'context_length', // the prompt is too long for this target
  'refused', // any other fault that the provider finds in the request (400, 422)
] as const
export type UpstreamFaultKind = (typeof UPSTREAM_FAULT_KINDS)[number]

/** Whether another target may succeed where this one failed. Caller faults fail everywhere alike. */
export function mayFallOver(code: ErrorCode): boolean {
  switch (code) {
    case 'overloaded':
    case 'no_target':
    case 'upstream_error':
    case 'engine_lost':
    case 'backend_lost':
    case 'internal':
      return true
    case 'invalid_request':
    case 'invalid_api_key':
    case 'permission_denied':
    case 'not_found':
    case 'conflict':
    case 'model_not_found':
    case 'context_length_exceeded':
    case 'request_too_large':
    case 'content_filtered':
    case 'rate_limited':
    case 'concurrency_limited':
    case 'budget_exhausted':
    case 'price_unknown':
    case 'deadline_exceeded':
    case 'unavailable':
    case 'cancelled':
      return false
    default:
      return code satisfies never
  }
}
