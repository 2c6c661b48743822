// How an attempt at an own backend failed, by the code that it gave. Owns the translation into the kinds that breakers, logs and
// usage rows know. Pure.
import type { ErrorCode, UpstreamFaultKind } from '../../protocol/errors.ts'

/** @param otherwise For what the code says nothing of: where it stood. */
export function fleetFault(code: ErrorCode, otherwise: UpstreamFaultKind): UpstreamFaultKind {
  switch (code) {
    case 'invalid_request':
    case 'request_too_large':
      return 'refused'
    case 'context_length_exceeded':
      return 'context_length'
    case 'content_filtered':
      return 'content_filter'
    case 'overloaded':
    case 'rate_limited':
    case 'concurrency_limited':
      return 'overloaded'
    case 'invalid_api_key':
    case 'permission_denied':
      return 'credentials'
    case 'model_not_found':
    case 'no_target':
      return 'unknown_model'
    case 'engine_lost':
    case 'backend_lost':
      return 'broken_off'
    case 'not_found':
    case 'conflict':
    case 'budget_exhausted':
    case 'price_unknown':
    case 'deadline_exceeded':
    case 'upstream_error':
    case 'unavailable':
    case 'cancelled':
    case 'internal':
      return otherwise
    default:
      return code satisfies never
  }
}
