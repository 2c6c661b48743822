// Failures on the client's wire. Owns their HTTP status, their OpenAI shape, retry headers, and the words for a denial.
// The codes themselves and whether another target may be tried are protocol/errors.ts.
import type { ErrorCode, Failure } from '../protocol/errors.ts'
import { formatUsd } from '../protocol/units.ts'
import type { Denial, LimitRule } from './account/contract.ts'

/** Clients that honour Retry-After stop doing so above this and fall back to blind back-off: tell those not to retry. */
const RETRY_WORTHWHILE_MS = 60_000

type Shape = {
  status: number
  /** `error.type` of the OpenAI dialect. */
  type: string
  /** `error.code`: the dialect's own word where it has one, since clients match on it. */
  code: string
  /** What `x-should-retry` says where nothing else speaks against it. */
  retry: boolean
}

const SHAPES: Record<ErrorCode, Shape> = {
  invalid_request: { status: 400, type: 'invalid_request_error', code: 'invalid_request', retry: false },
  invalid_api_key: { status: 401, type: 'invalid_request_error', code: 'invalid_api_key', retry: false },
  permission_denied: { status: 403, type: 'permission_error', code: 'permission_denied', retry: false },
  not_found: { status: 404, type: 'invalid_request_error', code: 'not_found', retry: false },
  model_not_found: { status: 404, type: 'invalid_request_error', code: 'model_not_found', retry: false },
  context_length_exceeded: {
    status: 400,
    type: 'invalid_request_error',
    code: 'context_length_exceeded',
    retry: false,
  },
  request_too_large: { status: 413, type: 'invalid_request_error', code: 'request_too_large', retry: false },
  rate_limited: { status: 429, type: 'rate_limit_error', code: 'rate_limit_exceeded', retry: true },
  concurrency_limited: { status: 429, type: 'rate_limit_error', code: 'concurrency_limit_exceeded', retry: true },
  // Waiting does not bring money back, so the client must not spend its retries on it.
  budget_exhausted: { status: 429, type: 'insufficient_quota', code: 'insufficient_quota', retry: false },
  price_unknown: { status: 503, type: 'server_error', code: 'price_unknown', retry: false },
  overloaded: { status: 503, type: 'server_error', code: 'overloaded', retry: true },
  no_target: { status: 503, type: 'server_error', code: 'no_target', retry: true },
  // A second try would cost the same time again and most likely end the same way.
  deadline_exceeded: { status: 504, type: 'server_error', code: 'deadline_exceeded', retry: false },
  upstream_error: { status: 502, type: 'server_error', code: 'upstream_error', retry: true },
  engine_lost: { status: 502, type: 'server_error', code: 'engine_lost', retry: true },
  backend_lost: { status: 502, type: 'server_error', code: 'backend_lost', retry: true },
  unavailable: { status: 503, type: 'server_error', code: 'unavailable', retry: true },
  // Nobody reads this one: the caller is gone. The status is what proxies write into their logs.
  cancelled: { status: 499, type: 'server_error', code: 'cancelled', retry: false },
  internal: { status: 500, type: 'server_error', code: 'internal_error', retry: true },
}

export const failureStatus = (code: ErrorCode): number => SHAPES[code].status

/** A failure in OpenAI's shape, for a body or for an event inside a stream. `type`, `param` and `code` always stand there. */
export function failureBody(failure: Failure): {
  error: { message: string; type: string; param: string | null; code: string }
} {
  const shape = SHAPES[failure.code]
  return {
    error: { message: failure.message, type: shape.type, param: failure.param ?? null, code: shape.code },
  }
}

/** Headers that let a client, a proxy and a person find this request again. */
export function requestIdHeaders(requestId: string): Record<string, string> {
  return { 'x-request-id': requestId, 'x-penstock-request-id': requestId }
}

/**
 * The response for a request that produced nothing. `options.status` is for the few cases where HTTP knows a finer
 * status than the code has (405); `options.headers` are added.
 */
export function failureResponse(
  failure: Failure,
  requestId: string,
  options: { status?: number; headers?: Record<string, string> } = {},
): Response {
  const shape = SHAPES[failure.code]
  const retryAfterMs = failure.retryAfterMs
  const headers = new Headers({
    'content-type': 'application/json; charset=utf-8',
    ...requestIdHeaders(requestId),
    ...options.headers,
  })
  if (retryAfterMs !== undefined) {
    const wholeMs = Math.max(0, Math.ceil(retryAfterMs))
    headers.set('retry-after', String(Math.ceil(wholeMs / 1000)))
    headers.set('retry-after-ms', String(wholeMs))
  }
  const worthwhile = retryAfterMs === undefined || retryAfterMs <= RETRY_WORTHWHILE_MS
  headers.set('x-should-retry', String(shape.retry && worthwhile))
  return new Response(JSON.stringify(failureBody(failure)), { status: options.status ?? shape.status, headers })
}

const SCOPE_NAMES = { org: 'organisation', project: 'project', key: 'API key' } as const

const ruleOwner = (rule: LimitRule): string => `this ${SCOPE_NAMES[rule.scope]}`

/** A duration for people: milliseconds below a second, else seconds rounded up. */
const formatWait = (ms: number): string =>
  ms < 1000 ? `${Math.max(0, Math.ceil(ms))} ms` : `${Math.ceil(ms / 1000)} s`

/** What an account's refusal means to the caller: which limit, how much of it, and when to come back. */
export function denialToFailure(denial: Denial): Failure {
  switch (denial.reason) {
    case 'rate_limited': {
      const { rule, retryAfterMs } = denial
      const limit = rule.meter === 'requests' ? `${rule.max} requests per ${rule.window}` : `the ${rule.meter} limit`
      return {
        code: 'rate_limited',
        message: `Rate limit reached: ${limit} for ${ruleOwner(rule)}. Try again in ${formatWait(retryAfterMs)}.`,
        retryAfterMs,
      }
    }
    case 'concurrency_limited': {
      const { rule, running } = denial
      const limit = rule.meter === 'concurrency' ? ` of ${rule.max}` : ''
      return {
        code: 'concurrency_limited',
        message:
          `Concurrency limit${limit} reached for ${ruleOwner(rule)}: ` +
          `${running} requests are running. Wait for one of them to end.`,
        // Nobody knows when one ends; a second keeps clients from asking in a loop.
        retryAfterMs: 1000,
      }
    }
    case 'budget_exhausted': {
      const { rule, settledNanoUsd, heldNanoUsd, askNanoUsd, resetAtMs } = denial
      const budget =
        rule.meter === 'money'
          ? `$${formatUsd(rule.maxNanoUsd)}${rule.window === 'lifetime' ? '' : ` per ${rule.window}`}`
          : 'money'
      const reset = resetAtMs === undefined ? '' : ` The budget renews at ${new Date(resetAtMs).toISOString()}.`
      return {
        code: 'budget_exhausted',
        message:
          `Budget of ${budget} exhausted for ${ruleOwner(rule)}: $${formatUsd(settledNanoUsd)} spent, ` +
          `$${formatUsd(heldNanoUsd)} held by running requests, and this request may cost up to ` +
          `$${formatUsd(askNanoUsd)}.${reset}`,
      }
    }
    case 'price_unknown':
      return {
        code: 'price_unknown',
        message: `A money limit applies to this caller and no price is known for ${denial.model}.`,
      }
    case 'key_revoked':
      return { code: 'invalid_api_key', message: 'This API key was revoked.' }
    case 'outbox_full':
      return {
        code: 'unavailable',
        message: 'Usage records are waiting to be written; no new request is admitted until they are.',
        retryAfterMs: denial.retryAfterMs,
      }
    case 'unavailable':
      return {
        code: 'unavailable',
        message: 'The account of this caller cannot be reached; nothing was sent and nothing was charged.',
        retryAfterMs: denial.retryAfterMs,
      }
    default:
      return denial satisfies never
  }
}
