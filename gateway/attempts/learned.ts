// What an isolate learns of its targets by an attempt: that one answers or fails, and how fast. Owns what is worth learning from;
// the memory is routing/health.ts.
import type { Failure } from '../../protocol/errors.ts'
import { outputTokens } from '../meter/usage.ts'
import type { Plan } from '../policy/plan.ts'
import { FLEET } from '../policy/targets.ts'
import { verdictOf } from '../routing/verdict.ts'
import type { Attempt, Candidate, Job } from './job.ts'

/** Fewer tokens, or a shorter time, say nothing of a rate. */
const RATE_TOKENS_MIN = 16
const RATE_MS_MIN = 100
/** Where the client was waited for longer than this share of the time, the rate is the client's. */
const CLIENT_WAIT_SHARE_MAX = 0.2

/** A stored answer says nothing of the target that once gave it. */
const isTarget = ({ step }: Candidate): boolean => step.role !== 'cache'

/** How long the target was silent, to its first content or in vain. */
export function noteFirstContent(job: Job, { candidate, target, sentAtMs }: Attempt, nowMs: number): void {
  if (isTarget(candidate)) job.ports.health.firstContent(target, nowMs - sentAtMs, nowMs)
}

/** It answers: its first content, or all of it, is here. */
export function noteSuccess(job: Job, { candidate, target }: Attempt): void {
  if (isTarget(candidate)) job.ports.health.succeeded(target, candidate.key, job.ports.nowMs())
}

/** The rate of a complete answer. */
export function noteRate(job: Job, { candidate, target, tally, firstTokenAtMs, clientWaitMs }: Attempt): void {
  // In the middle of an answer that another process began nobody computed for a while.
  if (firstTokenAtMs === undefined || !isTarget(candidate) || job.kept !== undefined) return
  const nowMs = job.ports.nowMs()
  const tookMs = nowMs - firstTokenAtMs
  const tokens = outputTokens(tally.counted().usage)
  if (tokens < RATE_TOKENS_MIN || tookMs < RATE_MS_MIN || clientWaitMs > CLIENT_WAIT_SHARE_MAX * tookMs) return
  job.ports.health.tokenRate(target, (tokens * 1000) / tookMs, nowMs)
}

/** A failure, for the breakers and for what is told of the attempt. */
export function noteFailure(job: Job, { policy }: Plan, attempt: Attempt, failure: Failure): void {
  const { candidate, target, firstTokenAtMs } = attempt
  candidate.step.failure = failure
  if (!isTarget(candidate)) return
  const nowMs = job.ports.nowMs()
  const { kind } = failure
  if (kind === 'head_timeout' || kind === 'first_token_timeout') noteFirstContent(job, attempt, nowMs)
  const verdict = verdictOf(failure, policy, {
    isFleet: target.provider === FLEET,
    hadContent: firstTokenAtMs !== undefined,
  })
  job.ports.health.failed(target, candidate.key, verdict, failure.retryAfterMs, nowMs)
}
