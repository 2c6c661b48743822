// What an error of Google's APIs means. Owns the reading of `google.rpc.Status` with its details, in an HTTP body, in an
// array of one, or inside a stream. Pure.

import type { Failure } from '../../protocol/errors.ts'
import { isJson, type Json, jsonOrEmpty } from '../meter/normalise.ts'
import { jsonOrUndefined } from './json-text.ts'
import { credentialsFault, ERROR_TEXT_MAX, faultOfStatus, isRequestFault, withWait } from './provider-faults.ts'
import { retryAfter } from './retry-after.ts'

/** A protobuf duration. */
const SECONDS = /^(\d{1,9}(?:\.\d{1,9})?)s$/
const TOO_LONG = /exceeds the maximum (number of )?tokens|input token count|context (window|length)/i
const BAD_KEY = /api[ _]key (not valid|not found|expired|invalid)|invalid api key/i
/** A day's quota is still used up when the few seconds have passed that Google asks to wait. */
const DAY_QUOTA_WAIT_MS = 10 * 60 * 1000

/**
 * An HTTP error. Faults of the request stay the caller's; key, quota, billing, place and unknown model are the target's.
 * @param text Body, already bounded and without secrets.
 */
export function geminiFailure(status: number, text: string, headers: Headers, nowMs: number): Failure {
  // A page of some proxy is none: the status says enough.
  const json = jsonOrUndefined(text)
  const failure = rpcFailure(status, rpcError(json) ?? {})
  const wait = retryAfter(headers, nowMs)
  return withWait(failure, wait === undefined ? undefined : Math.max(wait, failure.retryAfterMs ?? 0))
}

/**
 * An error where an answer should be.
 * @param kind Where it stood, for what nothing better is known of.
 */
export function geminiInBandFailure(error: Json, kind: 'in_band' | 'ok_with_error'): Failure {
  const failure = rpcFailure(typeof error.code === 'number' ? error.code : 500, error)
  if (failure.kind !== 'status') return failure
  return { ...failure, message: `The provider broke off with an error: ${wordsOf(error)}`, kind }
}

/** The error of a body or of an event: Google sends it bare or in an array of one. */
export function rpcError(json: unknown): Json | undefined {
  const body = Array.isArray(json) ? json[0] : json
  if (!isJson(body) || body.error === undefined || body.error === null) return undefined
  return isJson(body.error) ? body.error : { message: body.error }
}

function rpcFailure(status: number, error: Json): Failure {
  const message = wordsOf(error)
  const details = (Array.isArray(error.details) ? error.details : []).filter(isJson)
  if (isRequestFault(status)) {
    const isKey =
      error.status === 'FAILED_PRECONDITION' || BAD_KEY.test(message) || isReason(details, 'API_KEY_INVALID')
    if (isKey) return credentialsFault()
    if (TOO_LONG.test(message)) return { code: 'context_length_exceeded', message, kind: 'context_length' }
  }
  return withWait(faultOfStatus(status, message), waitOf(details))
}

const wordsOf = ({ message }: Json): string =>
  typeof message === 'string' ? message.slice(0, ERROR_TEXT_MAX) : 'no message'

const isOfType = (detail: Json, name: string): boolean => detail['@type'] === `type.googleapis.com/google.rpc.${name}`

const isReason = (details: Json[], reason: string): boolean => details.some((detail) => detail.reason === reason)

function waitOf(details: Json[]): number | undefined {
  let waitMs: number | undefined
  for (const detail of details) {
    if (isOfType(detail, 'RetryInfo') && typeof detail.retryDelay === 'string') {
      const seconds = SECONDS.exec(detail.retryDelay)?.[1]
      if (seconds !== undefined) waitMs = Math.max(waitMs ?? 0, Math.ceil(Number(seconds) * 1000))
    }
    if (isOfType(detail, 'QuotaFailure') && Array.isArray(detail.violations)) {
      const isDays = detail.violations.some((one) => /PerDay/i.test(String(jsonOrEmpty(one).quotaId ?? '')))
      if (isDays) waitMs = Math.max(waitMs ?? 0, DAY_QUOTA_WAIT_MS)
    }
  }
  return waitMs
}
