// Faults of a provider in the gateway's own words, the same for every vendor: what its answers say of keys, accounts and models
// is the operator's, and is never quoted to a caller. Owns the words; who says which when is each vendor's failure file. Pure.
import type { Failure } from '../../protocol/errors.ts'
import { WAIT_MS_MAX } from './retry-after.ts'

/** Of a vendor's own words in a failure: a person reads them, and real ones are a sentence. */
export const ERROR_TEXT_MAX = 500

/** The key, its rights, or the account behind it: money, billing, a hold. */
export const credentialsFault = (): Failure => ({
  code: 'upstream_error',
  message: 'The provider does not accept the credentials it is registered with.',
  kind: 'credentials',
})

export const unknownModelFault = (): Failure => ({
  code: 'upstream_error',
  message: 'The provider does not know the model it is registered for.',
  kind: 'unknown_model',
})

/** @param kind `rate_limited`: the key is over its own limit; `overloaded`: the provider is, for everybody. */
export const limitFault = (kind: 'rate_limited' | 'overloaded'): Failure => ({
  code: 'overloaded',
  message: 'The provider is over its limit right now.',
  kind,
})

/** Statuses by which a provider says that the request itself is at fault. */
export const isRequestFault = (status: number): boolean => status === 400 || status === 413 || status === 422

/**
 * What a status means where the vendor's own words say nothing better.
 * @param words Of the vendor, for a fault of the request, which is the caller's to read.
 * @param shown The status of the answer, where `status` is what an error's name stands for.
 */
export function faultOfStatus(status: number, words: string, shown = status): Failure {
  switch (status) {
    case 400:
    case 413:
    case 422:
      return {
        code: status === 413 ? 'request_too_large' : 'invalid_request',
        message: `The provider refused the request: ${words}`,
        kind: 'refused',
      }
    case 401:
    case 402:
    case 403:
      return credentialsFault()
    case 404:
      return unknownModelFault()
    case 429:
      return limitFault('rate_limited')
    case 503:
    case 529:
      return limitFault('overloaded')
    default:
      return { code: 'upstream_error', message: `The provider answered with status ${shown}.`, kind: 'status' }
  }
}

/** The failure with the time to come back, where waiting can help against it. @param retryAfterMs Absent: nobody named one. */
export function withWait(failure: Failure, retryAfterMs: number | undefined): Failure {
  const canWait = failure.kind === 'rate_limited' || failure.kind === 'overloaded' || failure.kind === 'status'
  return retryAfterMs === undefined || !canWait
    ? failure
    : { ...failure, retryAfterMs: Math.min(WAIT_MS_MAX, Math.max(0, retryAfterMs)) }
}
