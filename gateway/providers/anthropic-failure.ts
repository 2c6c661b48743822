// What an error of Anthropic's API means. Owns the reading of its error objects, in an HTTP body or inside a stream, and of
// its rate limit headers. Pure.

import type { Failure } from '../../protocol/errors.ts'
import { isJson, type Json, jsonOrEmpty } from '../meter/normalise.ts'
import { jsonOrUndefined } from './json-text.ts'
import { credentialsFault, ERROR_TEXT_MAX, faultOfStatus, isRequestFault, withWait } from './provider-faults.ts'
import { retryAfter } from './retry-after.ts'

const TOO_LONG = /prompt is too long|exceeds? (the )?(context|maximum)( window| limit)|context (window|limit|length)/i
const FILTERED = /content filtering policy|content polic/i
/** The operator's account has run dry, is on hold, or has reached a limit that its owner set. */
const OUT_OF_CREDIT = /credit balance|billing|usage limits?\b|spend limit|spending limit/i
const ACCOUNT_CODES = /spend_limit|billing|organization_on_hold|^cmek_|organization_type|user_profile/

/** Statuses of the error types, for errors that come without one. */
const STATUS_OF_TYPE: Record<string, number> = {
  invalid_request_error: 400,
  authentication_error: 401,
  billing_error: 402,
  permission_error: 403,
  not_found_error: 404,
  request_too_large: 413,
  rate_limit_error: 429,
  api_error: 500,
  timeout_error: 504,
  overloaded_error: 529,
}
/** Each of the vendor's limits has headers of its own. */
const LIMITS = ['requests', 'tokens', 'input-tokens', 'output-tokens']

/**
 * An HTTP error. Faults of the request stay the caller's; key, credit, account and unknown model are the target's.
 * @param text Body, already bounded and without secrets.
 */
export function anthropicFailure(status: number, text: string, headers: Headers, nowMs: number): Failure {
  // A page of some proxy is none: the status says enough.
  const json = jsonOrUndefined(text)
  const failure = failureOf(status, errorObject(json) ?? {})
  const wait = retryAfter(headers, nowMs) ?? (status === 429 ? limitReset(headers, nowMs) : undefined)
  return withWait(failure, wait)
}

/** An error where an answer should be. @param kind Where it stood, for what nothing better is known of. */
export function anthropicInBandFailure(error: Json, kind: 'in_band' | 'ok_with_error'): Failure {
  const status = typeof error.type === 'string' ? STATUS_OF_TYPE[error.type] : undefined
  const failure = failureOf(status ?? 500, error)
  return failure.kind === 'status' ? { ...failure, kind } : failure
}

/** The error inside a body or an event; undefined where there is none. */
export function errorObject(json: unknown): Json | undefined {
  if (!isJson(json) || json.error === undefined || json.error === null) return undefined
  return isJson(json.error) ? json.error : { message: json.error }
}

function failureOf(status: number, error: Json): Failure {
  const message = typeof error.message === 'string' ? error.message.slice(0, ERROR_TEXT_MAX) : 'no message'
  const detail = jsonOrEmpty(error.details).error_code
  const isAccount = typeof detail === 'string' && ACCOUNT_CODES.test(detail)
  // Limits in money come with the status of the others, and last longer than any wait.
  if (isAccount && status === 429) return credentialsFault()
  if (isRequestFault(status)) {
    if (OUT_OF_CREDIT.test(message) || isAccount) return credentialsFault()
    if (TOO_LONG.test(message)) return { code: 'context_length_exceeded', message, kind: 'context_length' }
    if (FILTERED.test(message)) return { code: 'content_filtered', message, kind: 'content_filter' }
  }
  return faultOfStatus(status, message)
}

/** When the last of the limits that are used up is filled again. */
function limitReset(headers: Headers, nowMs: number): number | undefined {
  let waitMs: number | undefined
  for (const limit of LIMITS) {
    if (headers.get(`anthropic-ratelimit-${limit}-remaining`) !== '0') continue
    const resetMs = Date.parse(headers.get(`anthropic-ratelimit-${limit}-reset`) ?? '')
    if (!Number.isNaN(resetMs)) waitMs = Math.max(waitMs ?? 0, resetMs - nowMs)
  }
  return waitMs
}
