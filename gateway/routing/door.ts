// Whether a request is worth beginning at the own fleet ○: the best prediction against what the request may take. Owns what each
// class of priority sees of the queue, when a request is turned away before anything of it is sent, and when it is told to
// come back. Whoever is turned away goes on to the model's next target, as from any backend that is full.
//
// Only a queue turns anybody away: an idle fleet takes what it can, however slow it is, and so does one that nobody has measured.
import type { Failure } from '../../protocol/errors.ts'
import { USUAL_OUTPUT_TOKENS } from '../../protocol/prediction.ts'
import type { ModelPolicy } from '../policy/model-policy.ts'
import type { Expected } from './decision.ts'

/** What an operator has promised for a model. */
export type Service = {
  /** Of its dispatches; higher goes first, 0 is ordinary. */
  priority: number
  targets?: { firstTokenMs?: number; interTokenMs?: number }
}

/**
 * What a class sees of the wait that an ordinary request has. Agents serve higher priorities first, so those pass most of a
 * queue; lower ones are passed by some of what comes after them.
 */
const WAIT_SHARE = { above: 0.25, ordinary: 1, below: 1.5 } as const
/** Bounds of what a caller is told: less is a busy loop, and a fleet changes within a minute. */
const RETRY_MIN_MS = 250
const RETRY_MAX_MS = 60_000

/** Nothing where the policy says nothing of it. */
export function serviceOf(policy: ModelPolicy): Service | undefined {
  const { priority = 0, first_token_target_ms: firstTokenMs, inter_token_target_ms: interTokenMs } = policy
  const targets = {
    ...(firstTokenMs === undefined ? {} : { firstTokenMs }),
    ...(interTokenMs === undefined ? {} : { interTokenMs }),
  }
  const hasTargets = firstTokenMs !== undefined || interTokenMs !== undefined
  if (priority === 0 && !hasTargets) return undefined
  return { priority, ...(hasTargets ? { targets } : {}) }
}

/**
 * @param expected Of the best backend there is.
 * @returns why the request is turned away; undefined: it may be sent.
 */
export function turnedAway(
  { prediction, isMeasured }: Expected,
  deadlineInMs: number,
  service: Service | undefined,
): Failure | undefined {
  if (!isMeasured) return undefined
  const { firstTokenMs = Number.POSITIVE_INFINITY, interTokenMs = Number.POSITIVE_INFINITY } = service?.targets ?? {}
  const { ttftMs, waitMs, itlMs, itlAloneMs } = prediction
  const seenMs = waitMs * waitShare(service?.priority ?? 0)
  const ownMs = ttftMs - waitMs
  const limitMs = Math.min(deadlineInMs, firstTokenMs)
  // A prompt that takes longer than the limit by itself may still have all the limit to wait in: no empty queue would help it.
  const waitLimitMs = ownMs <= limitMs ? limitMs - ownMs : limitMs
  if (seenMs > waitLimitMs) {
    const what = deadlineInMs <= firstTokenMs ? 'the deadline leaves' : 'this model promises'
    const message = `Every backend is busy: the first token would take ${seconds(ownMs + seenMs)}, ${what} ${seconds(limitMs)}.`
    return overloaded(message, seenMs - waitLimitMs)
  }
  if (itlMs > interTokenMs && itlAloneMs <= interTokenMs) {
    const message = `Every backend is busy: a token would take ${Math.ceil(itlMs)} ms, this model promises ${interTokenMs} ms.`
    // So large a share of the sequences has to end first; each stays for a usual answer.
    return overloaded(message, USUAL_OUTPUT_TOKENS * itlMs * (1 - interTokenMs / itlMs))
  }
  return undefined
}

const waitShare = (priority: number): number =>
  priority > 0 ? WAIT_SHARE.above : priority < 0 ? WAIT_SHARE.below : WAIT_SHARE.ordinary

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`

const overloaded = (message: string, afterMs: number): Failure => ({
  code: 'overloaded',
  message,
  kind: 'overloaded',
  retryAfterMs: Math.round(Math.min(RETRY_MAX_MS, Math.max(RETRY_MIN_MS, afterMs))),
})
