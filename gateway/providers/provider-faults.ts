// Faults of a provider in the gateway's own words, the same for every vendor: what its answers say of keys, accounts and models
// is the operator's, and is never quoted to a caller. Owns the words; who says which when is each vendor's failure file. Pure.
import type { Failure } from '../../protocol/errors.ts'

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
