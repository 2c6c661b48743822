// What an answer that is none means ○: whose fault it is, whether to ask again, and whether the gateway itself is down, which alone
// opens the way past it. Owns statuses and error bodies; the loop that acts on it is call.ts.
import type { ErrorCode, ErrorOrigin } from './errors.ts'
import { readRetryAfter } from './retry-after.ts'

export type Verdict = {
  code: ErrorCode
  origin: ErrorOrigin
  message: string
  /** The same target may answer a second try. */
  retryable: boolean
  /** The gateway is not there, or cannot do its work: direct providers may be asked. */
  isGatewayDown: boolean
  status?: number
  retryAfterMs?: number
  requestId?: string
}

type Told = { code: ErrorCode; origin: ErrorOrigin; retryable: boolean; isGatewayDown?: boolean }

/** The gateway's own words: `error.code` of the OpenAI dialect, `error.details.error_code` of the messages dialect. */
const GATEWAY_CODES: Record<string, Told> = {
  invalid_request: { code: 'invalid_request', origin: 'client', retryable: false },
  invalid_api_key: { code: 'authentication', origin: 'client', retryable: false },
  permission_denied: { code: 'permission', origin: 'client', retryable: false },
  not_found: { code: 'not_found', origin: 'client', retryable: false },
  model_not_found: { code: 'not_found', origin: 'client', retryable: false },
  conflict: { code: 'conflict', origin: 'client', retryable: false },
  context_length_exceeded: { code: 'context_length', origin: 'client', retryable: false },
  request_too_large: { code: 'too_large', origin: 'client', retryable: false },
  content_filter: { code: 'content_filter', origin: 'client', retryable: false },
  rate_limit_exceeded: { code: 'rate_limited', origin: 'gateway', retryable: true },
  concurrency_limit_exceeded: { code: 'rate_limited', origin: 'gateway', retryable: true },
  insufficient_quota: { code: 'budget_exhausted', origin: 'gateway', retryable: false },
  content_filtered: { code: 'content_filter', origin: 'client', retryable: false },
  rate_limited: { code: 'rate_limited', origin: 'gateway', retryable: true },
  concurrency_limited: { code: 'rate_limited', origin: 'gateway', retryable: true },
  budget_exhausted: { code: 'budget_exhausted', origin: 'gateway', retryable: false },
  overloaded: { code: 'overloaded', origin: 'provider', retryable: true },
  no_target: { code: 'overloaded', origin: 'provider', retryable: true },
  upstream_error: { code: 'provider_failed', origin: 'provider', retryable: true },
  engine_lost: { code: 'provider_failed', origin: 'provider', retryable: true },
  backend_lost: { code: 'provider_failed', origin: 'provider', retryable: true },
  deadline_exceeded: { code: 'timeout', origin: 'provider', retryable: false },
  unavailable: { code: 'gateway_unreachable', origin: 'gateway', retryable: true, isGatewayDown: true },
  internal: { code: 'gateway_unreachable', origin: 'gateway', retryable: true, isGatewayDown: true },
  internal_error: { code: 'gateway_unreachable', origin: 'gateway', retryable: true, isGatewayDown: true },
}

/** Where nothing but the status tells. */
function byStatus(status: number, isGateway: boolean): Told {
  const provider: ErrorOrigin = isGateway ? 'gateway' : 'provider'
  switch (status) {
    case 400:
    case 422:
      return { code: 'invalid_request', origin: 'client', retryable: false }
    case 401:
      return { code: 'authentication', origin: 'client', retryable: false }
    case 402:
      return { code: 'budget_exhausted', origin: provider, retryable: false }
    case 403:
      return { code: 'permission', origin: 'client', retryable: false }
    case 404:
      return { code: 'not_found', origin: 'client', retryable: false }
    case 409:
      return { code: 'conflict', origin: 'client', retryable: false }
    case 413:
      return { code: 'too_large', origin: 'client', retryable: false }
    case 408:
      return { code: 'timeout', origin: provider, retryable: true }
    case 429:
      return { code: 'rate_limited', origin: provider, retryable: true }
    case 529:
      return { code: 'overloaded', origin: 'provider', retryable: true }
    default:
      // What stands before a gateway answers for it while it is away: such an answer has no request id of ours.
      return status >= 500
        ? {
            code: isGateway ? 'gateway_unreachable' : 'provider_failed',
            origin: provider,
            retryable: true,
            isGatewayDown: isGateway,
          }
        : { code: 'malformed', origin: provider, retryable: false }
  }
}

/** On every answer of the gateway: whatever stands before it has none. */
const GATEWAY_HEADER = 'x-penstock-request-id'
const MESSAGE_CHARS_MAX = 500

/** @param text The body, which may be anything. */
export function verdictOf(response: Response, text: string, isGateway: boolean, nowMs: number): Verdict {
  const { status, headers } = response
  const requestId = headers.get('x-request-id') ?? headers.get('request-id') ?? undefined
  const error = errorOf(text)
  const isOurs = isGateway && headers.has(GATEWAY_HEADER)
  const told = (isOurs ? GATEWAY_CODES[error.code ?? ''] : undefined) ?? byStatus(status, isGateway && !isOurs)
  const isQuota = !isGateway && status === 429 && error.code === 'insufficient_quota'
  const retryAfterMs = readRetryAfter(headers, nowMs)
  return {
    code: isQuota ? 'budget_exhausted' : told.code,
    origin: told.origin,
    message: error.message ?? `HTTP ${status}`,
    retryable: headers.get('x-should-retry') === 'false' ? false : told.retryable && !isQuota,
    isGatewayDown: told.isGatewayDown === true,
    status,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    ...(requestId === undefined ? {} : { requestId }),
  }
}

/** An error inside a 200 or inside a stream. */
export function inBandVerdict(text: string, isGateway: boolean): Verdict {
  const error = errorOf(text)
  const told = GATEWAY_CODES[error.code ?? ''] ?? { code: 'provider_failed', origin: 'provider', retryable: true }
  return {
    code: told.code,
    origin: told.origin,
    message: error.message ?? 'The answer is an error.',
    retryable: told.retryable,
    isGatewayDown: isGateway && told.isGatewayDown === true,
  }
}

/** No answer at all. */
export const unreachable = (message: string, isGateway: boolean): Verdict => ({
  code: isGateway ? 'gateway_unreachable' : 'provider_failed',
  origin: isGateway ? 'gateway' : 'provider',
  message,
  retryable: true,
  isGatewayDown: isGateway,
})

/** Both dialects: `{ error: { message, code, details } }`. */
function errorOf(text: string): { message?: string; code?: string } {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return {}
  }
  const error = field(value, 'error') ?? field(field(value, 'response'), 'error') ?? value
  const message = field(error, 'message')
  const code = field(field(error, 'details'), 'error_code') ?? field(error, 'code')
  return {
    ...(typeof message === 'string' ? { message: message.slice(0, MESSAGE_CHARS_MAX) } : {}),
    ...(typeof code === 'string' ? { code } : {}),
  }
}

export function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined
}
