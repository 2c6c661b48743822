// The end of an attempt. Owns that the upstream is let go of, what the attempt costs and whom, and that its hold is ended with
// what became of it beside the counts. How an account keeps that is account/.
import type { Failure } from '../../protocol/errors.ts'
import type { SettleEnd } from '../account/contract.ts'
import { failureStatus } from '../errors.ts'
import { log } from '../observe/log.ts'
import { FLEET } from '../policy/targets.ts'
import { routeJson } from '../routing/trace.ts'
import { DRAIN_MAX_MS, isCutOff } from '../stream/cutoff.ts'
import type { Counted } from '../stream/tally.ts'
import { within } from '../stream/within.ts'
import type { Attempt, Job, Progress } from './job.ts'
import { noteRate } from './learned.ts'

/** Longer than a healthy account takes. Where one fails, nobody is kept waiting for it: the retries go on behind. */
export const SETTLE_WAIT_MS = 1000

export type AttemptEnd = {
  status: Failure['code'] | 'client_cancelled' | 'ok'
  charge: 'customer' | 'absorbed'
  /** The client's request ends with it. */
  final: boolean
  httpStatus: number
}

/**
 * Lets go of the upstream and ends the hold. What was cut off in its middle is treated as its provider's policy says:
 * read on first, at once without the client's wait; or closed, and charged to whom the policy names.
 */
export function endAttempt(job: Job, attempt: Attempt, end: AttemptEnd): Promise<void> {
  const { reader, tally, settlement, firstTokenAtMs, cutoff, candidate } = attempt
  attempt.release()
  const settle = (charge: AttemptEnd['charge']) =>
    settlement.end({
      ...endOf(tally.counted(), { ...end, charge }, job.ports.nowMs()),
      ...(firstTokenAtMs === undefined ? {} : { firstTokenAtMs }),
      ...(tally.providerCostNanoUsd === undefined ? {} : { providerCostNanoUsd: tally.providerCostNanoUsd }),
      route: routeJson(candidate.step),
      ...backendOf(attempt),
    })
  if (reader !== undefined && end.status !== 'ok' && isToBeDrained(attempt)) {
    // Nobody waits for what follows: if this isolate dies over it, what is proven by now is charged.
    settlement.checkpoint(tally.counted().usage, job.ports.nowMs(), 0)
    const drained = async () => {
      await reader.drain(DRAIN_MAX_MS)
      log('info', 'drained', { requestId: job.requestId, usageSource: tally.counted().source })
      await settle(end.charge)
    }
    job.waitUntil(drained())
    return Promise.resolve()
  }
  if (end.status === 'ok') noteRate(job, attempt)
  const { reason } = attempt.stop
  // One that another target outran is cut off as well: a provider that bills nothing then does not bill this.
  const isFree = cutoff === 'cancel_free' && end.status !== 'ok' && (isCutOff(reason) || reason === 'unwanted')
  reader?.close()
  return settle(isFree ? 'absorbed' : end.charge)
}

/** An own backend's name, as its answer is labelled: the last one where it moved. */
function backendOf({ reader, target }: Attempt): { backendId?: string } {
  const label = reader?.label
  return target.provider === FLEET && label?.startsWith(`${FLEET}/`) ? { backendId: label.slice(FLEET.length + 1) } : {}
}

export const isToBeDrained = (attempt: Attempt): boolean => attempt.cutoff === 'drain' && isCutOff(attempt.stop.reason)

/** The end of a hold in the account's terms. */
export function endOf(counted: Counted, end: AttemptEnd, nowMs: number): Omit<SettleEnd, 'holdId'> {
  const { rawUsage, inconsistent } = counted
  return {
    usage: counted.usage,
    usageSource: counted.source,
    ...(rawUsage === undefined ? {} : { rawUsage }),
    ...(inconsistent === undefined ? {} : { inconsistent }),
    status: end.status === 'cancelled' ? 'client_cancelled' : end.status,
    endedAtMs: nowMs,
    charge: end.charge,
    final: end.final,
    httpStatus: end.httpStatus,
  }
}

/**
 * What an attempt used that gave the client nothing is the gateway's own loss, unless the client itself ended it:
 * whoever hangs up, or sets a deadline that cuts the work short, has had it done.
 */
export async function settleFailed(
  job: Job,
  attempt: Attempt,
  failure: Failure,
  progress: Progress,
  final: boolean,
): Promise<void> {
  const isCallersDoing =
    failure.code === 'cancelled' ||
    // As asked, and no other target is tried after it: more than fits one piece, say.
    (failure.code === 'invalid_request' && final) ||
    (failure.code === 'deadline_exceeded' && job.deadlineIsCallers)
  const httpStatus = progress.headSent ? 200 : failureStatus(failure.code, job.errorDialect)
  // An earlier life of the request has given the client some of this answer.
  const wasShown = job.kept?.attempt === attempt.number && job.kept.wasShown
  const charge = isCallersDoing || wasShown ? 'customer' : 'absorbed'
  const settling = endAttempt(job, attempt, { status: failure.code, charge, final, httpStatus })
  // The next attempt's hold must not count beside this one's.
  if (!final) await within(settling, SETTLE_WAIT_MS, job.appointments)
}
