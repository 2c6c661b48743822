// What follows from an attempt's failure: who may be asked next, and what is held against whom. Owns the table; acting on it
// is attempts/itinerary.ts and health.ts. Pure.
import { type Failure, mayFallOver, type UpstreamFaultKind } from '../../protocol/errors.ts'
import type { ModelPolicy } from '../policy/model-policy.ts'

export type Verdict = {
  /** Other targets: any, none, or only those with a larger window. */
  next: 'any' | 'none' | 'larger_window'
  /** Another key of the same provider may do better, at once. */
  otherKey: boolean
  /** The same target may do better after a wait, where no other is left. */
  sameAgain: boolean
  /** Held against the target: a failure of its own, or that it is to be left alone. */
  target: 'none' | 'failed' | 'rest'
  /** Held against the key: over its limit for this model, or refused for every one. */
  key: 'none' | 'limited' | 'refused'
}

const CALLERS: Verdict = { next: 'none', otherKey: false, sameAgain: false, target: 'none', key: 'none' }
const passing: Verdict = { next: 'any', otherKey: false, sameAgain: true, target: 'failed', key: 'none' }
const lasting: Verdict = { ...passing, sameAgain: false }
const unblamed: Verdict = { ...lasting, target: 'none' }

const BY_KIND: Record<UpstreamFaultKind, Verdict> = {
  connect: passing,
  status: passing,
  broken_off: passing,
  in_band: passing,
  ok_with_error: passing,
  overloaded: passing,
  // Each of these took its time already: another try of the same would take it again.
  head_timeout: lasting,
  first_token_timeout: lasting,
  stall: lasting,
  malformed: lasting,
  // The limit is the key's, and the provider is well.
  rate_limited: { ...passing, otherKey: true, target: 'none', key: 'limited' },
  credentials: { ...unblamed, otherKey: true, key: 'refused' },
  unknown_model: { ...lasting, target: 'rest' },
  content_filter: CALLERS,
  context_length: CALLERS,
  refused: CALLERS,
}

/** Where and when an attempt failed. */
export type FailedAt = {
  /** Own backends: their failures are remembered one by one (ledger.ts), and their queue is the place to wait in. */
  isFleet: boolean
  /** The answer had begun: what is refused then was computed first, and every target would do so again. */
  hadContent: boolean
}

/** @param policy Of the model: which faults found in the request another target may see otherwise. */
export function verdictOf(failure: Failure, policy: ModelPolicy, { isFleet, hadContent }: FailedAt): Verdict {
  const { code } = failure
  const kind = failure.kind ?? kindOf(failure)
  if (mayFallOver(code)) {
    if (isFleet || kind === undefined) return unblamed
    const verdict = BY_KIND[kind]
    return verdict === CALLERS ? unblamed : verdict
  }
  if (hadContent) return CALLERS
  switch (kind) {
    case 'content_filter': {
      const escalates = policy.cascade?.escalate_on.includes('content_filter') === true
      return escalates || policy.fallback_on.includes('content_filter') ? unblamed : CALLERS
    }
    case 'context_length':
      return policy.fallback_on.includes('context_length') ? { ...unblamed, next: 'larger_window' } : CALLERS
    case 'refused':
      return policy.fallback_on.includes('refused') ? unblamed : CALLERS
    default:
      return CALLERS
  }
}

/** What the code alone says, where nobody said more. */
function kindOf({ code }: Failure): UpstreamFaultKind | undefined {
  switch (code) {
    case 'upstream_error':
      return 'status'
    case 'content_filtered':
      return 'content_filter'
    case 'context_length_exceeded':
      return 'context_length'
    case 'invalid_request':
      return 'refused'
    default:
      return undefined
  }
}
