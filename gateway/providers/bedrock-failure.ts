// What an error of Bedrock means. Owns the reading of its exceptions, by HTTP status and name or inside a stream. Pure.

import type { Failure } from '../../protocol/errors.ts'
import { isJson, type Json } from '../meter/normalise.ts'
import { jsonOrUndefined } from './json-text.ts'
import {
  credentialsFault,
  ERROR_TEXT_MAX,
  faultOfStatus,
  isRequestFault,
  unknownModelFault,
  withWait,
} from './provider-faults.ts'
import { retryAfter } from './retry-after.ts'

const TOO_LONG =
  /(input|prompt) is too long|too many (input )?tokens|maximum context length|context (window|limit|length)|max(imum)? input tokens/i
const FILTERED = /content filter|content polic|blocked by/i
/** Models that the account may not use as it is registered. */
const UNKNOWN_MODEL =
  /model identifier is invalid|on-demand throughput isn.t supported|end of its life|counting tokens/i
const NO_RIGHTS = /operation not allowed|marketplace/i

/** Statuses of the exceptions, for those that come without one. */
const STATUS_OF_EXCEPTION: Record<string, number> = {
  accessDeniedException: 403,
  expiredTokenException: 403,
  incompleteSignatureException: 403,
  internalServerException: 500,
  invalidSignatureException: 403,
  missingAuthenticationTokenException: 403,
  modelErrorException: 424,
  modelNotReadyException: 503,
  modelStreamErrorException: 424,
  modelTimeoutException: 408,
  resourceNotFoundException: 404,
  serviceQuotaExceededException: 429,
  serviceUnavailableException: 503,
  throttlingException: 429,
  unrecognizedClientException: 403,
  validationException: 400,
}

/**
 * An HTTP error. Faults of the request stay the caller's; key, rights, quota and unknown model are the target's. Words are
 * never quoted where the signature is refused: they hold the session's token.
 * @param text Body, already bounded and without secrets.
 */
export function bedrockFailure(status: number, text: string, headers: Headers, nowMs: number): Failure {
  // A page of some proxy is none: the status says enough.
  const json = jsonOrUndefined(text)
  // `ThrottlingException:http://…`, and capital where events write small.
  const [name = ''] = (headers.get('x-amzn-errortype') ?? '').split(':')
  const exception = name.slice(0, 1).toLowerCase() + name.slice(1)
  const failure = failureOf(STATUS_OF_EXCEPTION[exception] ?? status, isJson(json) ? json : {}, status)
  return withWait(failure, retryAfter(headers, nowMs))
}

/**
 * An exception where an answer should be.
 * @param exception Its name as events write it.
 * @param kind Where it stood, for what nothing better is known of.
 */
export function bedrockInBandFailure(exception: string, body: Json, kind: 'in_band' | 'ok_with_error'): Failure {
  const status = STATUS_OF_EXCEPTION[exception] ?? 500
  const failure = failureOf(status, body, status)
  return failure.kind === 'status' ? { ...failure, kind } : failure
}

/** @param meant What the exception's name stands for. @param status What the answer says. */
function failureOf(meant: number, body: Json, status: number): Failure {
  const words = body.message ?? body.Message
  const message = typeof words === 'string' ? words.slice(0, ERROR_TEXT_MAX) : 'no message'
  if (isRequestFault(meant)) {
    if (TOO_LONG.test(message)) return { code: 'context_length_exceeded', message, kind: 'context_length' }
    if (FILTERED.test(message)) return { code: 'content_filtered', message, kind: 'content_filter' }
    if (UNKNOWN_MODEL.test(message)) return unknownModelFault()
    if (NO_RIGHTS.test(message)) return credentialsFault()
  }
  return faultOfStatus(meant, message, status)
}
