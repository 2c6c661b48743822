// Failures on the client's wire. Owns their HTTP status and shape in each dialect, retry headers, and the words for a denial.
// The codes themselves and whether another target may be tried are protocol/errors.ts.
import { type MessagesError, VERSION_HEADER } from '../protocol/dialects/messages.ts'
import type { ErrorCode, Failure } from '../protocol/errors.ts'
import { formatUsd } from '../protocol/units.ts'
import type { Denial } from './account/contract.ts'
import type { LimitRule, LimitScope, LimitWindow } from './account/limit.ts'

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
  conflict: { status: 409, type: 'invalid_request_error', code: 'conflict', retry: false },
  model_not_found: { status: 404, type: 'invalid_request_error', code: 'model_not_found', retry: false },
  context_length_exceeded: {
    status: 400,
    type: 'invalid_request_error',
    code: 'context_length_exceeded',
    retry: false,
  },
  request_too_large: { status: 413, type: 'invalid_request_error', code: 'request_too_large', retry: false },
  content_filtered: { status: 400, type: 'invalid_request_error', code: 'content_filter', retry: false },
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

/** Whose words an error is told in. */
export type ErrorDialect = 'openai' | 'messages'

/** Status and `error.type` of the messages dialect. Its own code stands in `error.details`, where its clients look for one. */
const MESSAGES_SHAPES: Record<ErrorCode, { status: number; type: string }> = {
  invalid_request: { status: 400, type: 'invalid_request_error' },
  invalid_api_key: { status: 401, type: 'authentication_error' },
  permission_denied: { status: 403, type: 'permission_error' },
  not_found: { status: 404, type: 'not_found_error' },
  conflict: { status: 409, type: 'conflict_error' },
  model_not_found: { status: 404, type: 'not_found_error' },
  context_length_exceeded: { status: 400, type: 'invalid_request_error' },
  request_too_large: { status: 413, type: 'request_too_large' },
  content_filtered: { status: 400, type: 'invalid_request_error' },
  rate_limited: { status: 429, type: 'rate_limit_error' },
  concurrency_limited: { status: 429, type: 'rate_limit_error' },
  budget_exhausted: { status: 402, type: 'billing_error' },
  price_unknown: { status: 500, type: 'api_error' },
  overloaded: { status: 529, type: 'overloaded_error' },
  no_target: { status: 529, type: 'overloaded_error' },
  deadline_exceeded: { status: 504, type: 'timeout_error' },
  upstream_error: { status: 500, type: 'api_error' },
  engine_lost: { status: 500, type: 'api_error' },
  backend_lost: { status: 500, type: 'api_error' },
  unavailable: { status: 529, type: 'overloaded_error' },
  cancelled: { status: 499, type: 'api_error' },
  internal: { status: 500, type: 'api_error' },
}

export const failureStatus = (code: ErrorCode, dialect: ErrorDialect = 'openai'): number =>
  (dialect === 'messages' ? MESSAGES_SHAPES : SHAPES)[code].status

const isBelow = (path: string, route: string): boolean => path === route || path.startsWith(`${route}/`)

/** By what a client called, whether it exists or not. Models are listed, and streams read again, in the words of whoever asks. */
export function errorDialectOf(path: string, headers: Headers): ErrorDialect {
  const isShared = isBelow(path, '/v1/models') || isBelow(path, '/v1/streams')
  const isMessages = isBelow(path, '/v1/messages') || (isShared && headers.has(VERSION_HEADER))
  return isMessages ? 'messages' : 'openai'
}

/** A failure in OpenAI's shape, for a body or for an event inside a stream. `type`, `param` and `code` always stand there. */
export function failureBody(failure: Failure): {
  error: { message: string; type: string; param: string | null; code: string }
} {
  const shape = SHAPES[failure.code]
  return {
    error: {
      message: failure.message,
      type: shape.type,
      param: failure.param ?? null,
      code: shape.code,
    },
  }
}

/** The same in the shape of the messages dialect. */
export const messagesFailureBody = (failure: Failure, requestId: string): MessagesError => ({
  type: 'error',
  error: {
    type: MESSAGES_SHAPES[failure.code].type,
    message: failure.message,
    details: { error_code: failure.code, ...(failure.param === undefined ? {} : { param: failure.param }) },
  },
  request_id: requestId,
})

/** Headers that let a client, a proxy and a person find this request again. */
export function requestIdHeaders(requestId: string): Record<string, string> {
  return { 'x-request-id': requestId, 'request-id': requestId, 'x-penstock-request-id': requestId }
}

/**
 * The response for a request that produced nothing. `options.status` is for the few cases where HTTP knows a finer
 * status than the code has (405); `options.headers` are added.
 */
export function failureResponse(
  failure: Failure,
  requestId: string,
  options: { status?: number; headers?: Record<string, string>; dialect?: ErrorDialect } = {},
): Response {
  const { dialect = 'openai' } = options
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
  // A limit that says no time to come back at is one that waiting does not help with.
  const worthwhile = retryAfterMs === undefined ? failure.code !== 'rate_limited' : retryAfterMs <= RETRY_WORTHWHILE_MS
  headers.set('x-should-retry', String(SHAPES[failure.code].retry && worthwhile))
  const body = dialect === 'messages' ? messagesFailureBody(failure, requestId) : failureBody(failure)
  const status = options.status ?? failureStatus(failure.code, dialect)
  return new Response(JSON.stringify(body), { status, headers })
}

const SCOPE_NAMES: Record<LimitScope, string> = {
  org: 'organisation',
  project: 'project',
  team: 'team',
  user: 'user',
  key: 'API key',
  end_user: 'end user',
}
const METER_NAMES = {
  requests: 'requests',
  input_tokens: 'input tokens',
  output_tokens: 'output tokens',
} as const

/** `this project`, `this API key and model small`. */
const ownerOf = ({ scope, model }: Pick<LimitRule, 'scope' | 'model'>): string =>
  `this ${SCOPE_NAMES[scope]}${model === undefined ? '' : ` and model ${model}`}`

/** ` per month`, ` per day (Europe/Berlin)`; nothing for a lifetime. */
function spanText({ window, timeZone }: { window: LimitWindow; timeZone: string }): string {
  if (window === 'lifetime') return ' in total'
  return ` per ${window}${window === 'minute' || timeZone === 'UTC' ? '' : ` (${timeZone})`}`
}

/** A duration for people: milliseconds below a second, else seconds rounded up. */
const formatWait = (ms: number): string =>
  ms < 1000 ? `${Math.max(0, Math.ceil(ms))} ms` : `${Math.ceil(ms / 1000)} s`

/** What an account's refusal means to the caller: which limit, how much of it is gone, and when to come back. */
export function denialToFailure(denial: Denial): Failure {
  switch (denial.reason) {
    case 'rate_limited':
      return rateLimited(denial)
    case 'concurrency_limited': {
      const { rule, running } = denial
      const limit = rule.meter === 'concurrency' ? ` of ${rule.max}` : ''
      return {
        code: 'concurrency_limited',
        message:
          `Concurrency limit${limit} reached for ${ownerOf(rule)}: ` +
          `${running} requests are running. Wait for one of them to end.`,
        // Nobody knows when one ends; a second keeps clients from asking in a loop.
        retryAfterMs: CONCURRENCY_RETRY_MS,
      }
    }
    case 'budget_exhausted': {
      const { rule, resetAtMs } = denial
      const budget =
        rule.meter === 'money'
          ? `$${formatUsd(rule.maxNanoUsd)}${rule.window === 'lifetime' ? '' : spanText(rule)}`
          : 'money'
      const reset = resetAtMs === undefined ? '' : ` The budget renews at ${new Date(resetAtMs).toISOString()}.`
      return {
        code: 'budget_exhausted',
        message: `Budget of ${budget} exhausted for ${ownerOf(rule)}: ${spentText(denial)}.${reset}`,
      }
    }
    case 'credit_exhausted': {
      const { grantedNanoUsd, overdraftNanoUsd } = denial.credit
      const overdraft = overdraftNanoUsd === 0n ? '' : ` and an overdraft of $${formatUsd(overdraftNanoUsd)}`
      return {
        code: 'budget_exhausted',
        message:
          `Prepaid credit of $${formatUsd(grantedNanoUsd)}${overdraft} is used up for this organisation: ` +
          `${spentText(denial)}. Add credit, or ask for less.`,
      }
    }
    case 'price_unknown':
      return {
        code: 'price_unknown',
        message: `A money limit applies to this caller and no price is known for ${denial.model}.`,
      }
    case 'key_revoked':
      return { code: 'invalid_api_key', message: 'This API key was revoked.' }
    case 'idempotency_conflict':
      return {
        code: 'conflict',
        message: `This idempotency key belongs to request ${denial.requestId}, whose body is another one. Use a new key.`,
      }
    case 'idempotency_running':
      return {
        code: 'conflict',
        message: `Request ${denial.requestId} under this idempotency key is still running; it is not run a second time.`,
        retryAfterMs: RUNNING_RETRY_MS,
      }
    case 'idempotency_answered':
      return {
        code: 'conflict',
        message:
          `Request ${denial.requestId} under this idempotency key was answered and charged; it is not run again. ` +
          'Use a new key for a new answer.',
      }
    case 'attempt_ended':
      return attemptEnded(denial)
    case 'request_closed':
      return {
        code: 'unavailable',
        message: 'The request took so long between two targets that it was closed; send it again.',
        retryAfterMs: 1000,
      }
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

/** Of a request whose process died between its end and the word of it. */
function attemptEnded({ status }: Denial & { reason: 'attempt_ended' }): Failure {
  if (status !== 'ok') {
    const code = status === 'client_cancelled' ? 'cancelled' : status
    return { code, message: `The request had ended (${status}) when the gateway was restarted.` }
  }
  const message =
    'The answer was complete and paid when the gateway was restarted, and is lost. Send the request again.'
  return { code: 'unavailable', message }
}

const CONCURRENCY_RETRY_MS = 1_000
/** A request that runs takes seconds; whoever repeats it under its key learns then how it ended. */
const RUNNING_RETRY_MS = 2_000

function rateLimited({ rule, used, held, asked, retryAfterMs }: Denial & { reason: 'rate_limited' }): Failure {
  if (rule.meter === 'money' || rule.meter === 'concurrency') {
    return { code: 'rate_limited', message: `Limit reached for ${ownerOf(rule)}.`, ...retry(retryAfterMs) }
  }
  const unit = METER_NAMES[rule.meter]
  const limit = `${rule.max} ${unit}${spanText(rule)} for ${ownerOf(rule)}`
  const spent =
    rule.meter === 'requests'
      ? `${used + held} made`
      : `${used} used, ${held} held by running requests, and this request may use up to ${asked}`
  if (asked > BigInt(rule.max) && rule.meter !== 'requests') {
    const remedy = rule.meter === 'output_tokens' ? 'Lower max_tokens' : 'Shorten the input'
    const message = `This request may use up to ${asked} ${unit}, and the limit is ${limit}. ${remedy}: waiting does not help.`
    return { code: 'rate_limited', message }
  }
  const wait = retryAfterMs === undefined ? 'The limit does not renew.' : `Try again in ${formatWait(retryAfterMs)}.`
  return { code: 'rate_limited', message: `Rate limit reached: ${limit}: ${spent}. ${wait}`, ...retry(retryAfterMs) }
}

const retry = (retryAfterMs: number | undefined): Pick<Failure, 'retryAfterMs'> =>
  retryAfterMs === undefined ? {} : { retryAfterMs }

type Spent = { settledNanoUsd: bigint; heldNanoUsd: bigint; askNanoUsd: bigint }
const spentText = ({ settledNanoUsd, heldNanoUsd, askNanoUsd }: Spent): string =>
  `$${formatUsd(settledNanoUsd)} spent, $${formatUsd(heldNanoUsd)} held by running requests, and this request may cost ` +
  `up to $${formatUsd(askNanoUsd)}`
