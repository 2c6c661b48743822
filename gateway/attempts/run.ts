// One attempt: opens its target, takes of the answer, and lets go of it where that fails. Owns that whatever is thrown on the
// way comes out as a Failure with its kind, and what the isolate learns of the target by it. Ending the hold is end.ts.
import type { Failure } from '../../protocol/errors.ts'
import { choiceCount } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Plan } from '../policy/plan.ts'
import type { OpenContext, Upstream } from '../providers/provider.ts'
import { serviceOf } from '../routing/door.ts'
import { upstreamStop } from '../stream/cutoff.ts'
import { maxOutputTokens } from '../stream/estimate.ts'
import { EventReader } from '../stream/reader.ts'
import type { Stop } from '../stream/stop.ts'
import type { Taking } from '../stream/take.ts'
import { isToBeDrained } from './end.ts'
import { thrownFailure } from './failure.ts'
import type { Attempt, Candidate, Job, Won } from './job.ts'
import { noteFirstContent, noteSuccess } from './learned.ts'
import type { Held } from './reserve.ts'
import { toldOf } from './told.ts'

/** The agent's deadline comes this much before ours, so that its own exact last count still arrives. */
const DEADLINE_MARGIN_MS = 100

/** A held attempt that is not sent yet. */
export function newAttempt(job: Job, candidate: Candidate, { settlement, number }: Held, stop: Stop): Attempt {
  const { target, provider, key, step } = candidate
  const attemptStop = stop.child()
  const isKnown = step.role !== 'cache'
  const nowMs = job.ports.nowMs()
  const keptAtMs = job.kept?.attempt === number ? job.kept.firstTokenAtMs : undefined
  return {
    number,
    candidate,
    target,
    settlement,
    stop: attemptStop,
    upstreamStop: upstreamStop(attemptStop, provider.cutoff),
    cutoff: provider.cutoff,
    reader: undefined,
    tally: toldOf(job, number),
    sentAtMs: nowMs,
    firstTokenAtMs: keptAtMs,
    clientWaitMs: 0,
    onFirstContent: () => {},
    release: isKnown ? job.ports.health.began(target, key, step.role === 'retry', nowMs) : () => {},
  }
}

export function openContext(job: Job, attempt: Attempt, backendsTried: Set<string>): OpenContext {
  const { ports } = job
  const leftMs = Math.max(1, job.deadlineAtMs - ports.nowMs())
  const bound = maxOutputTokens(job.request, attempt.target)
  return {
    env: job.env,
    requestId: job.requestId,
    attempt: attempt.number,
    tenant: job.tenant,
    deadlineInMs: leftMs - Math.min(DEADLINE_MARGIN_MS, leftMs / 10),
    ...(bound === undefined ? {} : { maxOutputTokens: bound }),
    signal: attempt.upstreamStop.signal,
    fetch: ports.fetch,
    waitUntil: job.waitUntil,
    nowMs: ports.nowMs,
    random: ports.random,
    newId: ports.newId,
    backendsTried,
    onRoute: (facts) => {
      attempt.candidate.step.fleet = facts
    },
    resumeWaitMs: ports.timings.resumeMs,
    onMove: (move) => {
      const { step } = attempt.candidate
      step.moves = [...(step.moves ?? []), move]
    },
    ...(job.journal === undefined ? {} : { journal: job.journal }),
    ...(job.kept?.attempt === attempt.number ? { kept: job.kept } : {}),
  }
}

/** Opens the target and takes of its answer. Never throws. */
export async function runAttempt<T>(
  job: Job,
  { policy }: Plan,
  attempt: Attempt,
  context: OpenContext,
  take: (taking: Taking) => Promise<Result<T, Failure>>,
): Promise<Result<Won<T>, Failure>> {
  const { ports } = job
  const { stop, tally, target } = attempt
  const { provider, request } = attempt.candidate
  const firstContentMs = policy.first_token_timeout_ms ?? ports.timings.firstContentMs
  try {
    attempt.sentAtMs = ports.nowMs()
    stop.arm(firstContentMs, 'first_content')
    const service = serviceOf(policy)
    const opening = provider.open(request, target, service === undefined ? context : { ...context, service })
    const opened = await stop.race(opening).catch((error: unknown) => {
      job.waitUntil(abandon(opening))
      throw error
    })
    if (!opened.ok) {
      stop.stop('done')
      return opened
    }
    const reader = new EventReader(opened.value, stop, tally, attempt.upstreamStop)
    attempt.reader = reader
    const taking: Taking = {
      reader,
      stop,
      tally,
      choices: choiceCount(request),
      firstContentMs,
      idleMs: policy.idle_timeout_ms ?? ports.timings.idleMs,
      onProgress: () => {
        const nowMs = ports.nowMs()
        if (attempt.firstTokenAtMs === undefined) {
          attempt.firstTokenAtMs = nowMs
          noteFirstContent(job, attempt, nowMs)
          attempt.onFirstContent()
        }
        const { usage } = tally.counted()
        job.journal?.counted(attempt.number, usage, attempt.cutoff === 'cancel_free')
        attempt.settlement.checkpoint(usage, nowMs)
      },
    }
    const taken = await take(taking)
    if (taken.ok) {
      noteSuccess(job, attempt)
      return ok({ attempt, taking, taken: taken.value, isComplete: false })
    }
    reader.close()
    return taken
  } catch (error) {
    const failure = thrownFailure(job, error, attempt)
    stop.stop('done')
    if (attempt.reader === undefined) attempt.upstreamStop.stop('done')
    else if (!isToBeDrained(attempt)) attempt.reader.close()
    return err(failure)
  }
}

/** An upstream that answers after nobody waits for it any more is closed at once. */
async function abandon(opening: Promise<Result<Upstream, Failure>>): Promise<void> {
  const opened = await opening.catch(() => undefined)
  if (!opened?.ok) return
  opened.value.close()
  await opened.value.events[Symbol.asyncIterator]()
    .return?.()
    .catch(() => {})
}
