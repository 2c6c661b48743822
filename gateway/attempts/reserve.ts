// The hold of an attempt. Owns asking the account before anything is sent, and what its answer says to the caller. Money first:
// without a durable hold nothing is sent anywhere.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Denial, Hold, LimitState, ReserveAsk } from '../account/contract.ts'
import { holdIdOf } from '../account/holds.ts'
import { denialToFailure } from '../errors.ts'
import { errorText, log } from '../observe/log.ts'
import type { Target } from '../policy/plan.ts'
import { Settlement } from '../settlement.ts'
import { worstCase } from '../stream/estimate.ts'
import { type Stop, Stopped } from '../stream/stop.ts'
import { endOf } from './end.ts'
import { stopFailure } from './failure.ts'
import type { Job, Progress } from './job.ts'
import { toldOf } from './told.ts'

export type Held = {
  settlement: Settlement
  /** Of the attempt within the request; with its id the identity of the hold. */
  number: number
}

/** `wasAnswered`: an earlier life had this target's answer, which is paid, and was about to ask a larger model. */
export type NotHeld = Failure & { wasAnswered?: true }

/** @param trial The gateway bears it whatever happens, until this instant: no limit of the caller is asked. Epoch ms. */
export async function reserve(
  job: Job,
  target: Target,
  progress: Progress,
  stop: Stop,
  trial?: { deadlineAtMs: number },
): Promise<Result<Held, NotHeld>> {
  const { principal, ports, kept } = job
  const attempt = ++progress.numbered
  if (kept !== undefined) progress.numbered = Math.max(attempt, kept.numbered)
  job.journal?.began(attempt, trial === undefined ? target : undefined)
  const ask: ReserveAsk = {
    requestId: job.requestId,
    attempt,
    orgId: principal.orgId,
    projectId: principal.projectId,
    keyId: principal.keyId,
    keyLineId: principal.keyLineId,
    userId: principal.userId,
    teamId: principal.teamId,
    endUser: principal.endUser ?? job.request.endUser,
    tags: job.tags,
    modelRequested: job.request.model,
    provider: target.provider,
    modelServed: target.model,
    estimate: worstCase(job.request, target),
    price: target.price,
    startedAtMs: ports.nowMs(),
    deadlineAtMs: trial?.deadlineAtMs ?? job.deadlineAtMs,
    stream: job.isStream,
    // A later attempt belongs to the request that the first one made known.
    idempotency: attempt === 1 ? job.idempotency : undefined,
    ...(trial === undefined ? {} : { isTrial: true }),
  }
  const account = ports.lanes.account(principal.orgId, {
    // A fresh stub each time: one that has seen an exception may stay broken.
    account: () => job.env.ACCOUNT.getByName(principal.orgId),
    waitUntil: job.waitUntil,
    nowMs: ports.nowMs,
    appointments: job.appointments,
  })
  const settlementOf = (hold: Pick<Hold, 'holdId'>) =>
    new Settlement(hold, job.requestId, { account, waitUntil: job.waitUntil, sleep: ports.sleep }, ports.nowMs())
  // Nothing will be sent: the hold is only to be ended, and may have been.
  if (kept?.attempt === attempt && kept.isWhole) {
    return ok({ settlement: settlementOf({ holdId: holdIdOf(ask) }), number: attempt })
  }
  const reserving = account.reserve(ask)
  try {
    const reserved = await stop.race(reserving)
    if (reserved.ok) {
      if (trial === undefined) noteHold(reserved.value, progress)
      return ok({ settlement: settlementOf(reserved.value), number: attempt })
    }
    const denial = reserved.error
    if (denial.reason === 'attempt_ended' && kept?.attempt === attempt) {
      // Its process died between this attempt and the next one, which has a hold of its own.
      if (!denial.isClosed && denial.status === 'ok') return err({ ...denialToFailure(denial), wasAnswered: true })
      if (!denial.isClosed) return reserve(job, target, progress, stop)
      // Where it ended by its time alone, its row is set right by what was told.
      const tally = toldOf(job, attempt)
      const charge = kept.wasShown || job.deadlineIsCallers ? 'customer' : 'absorbed'
      const end = { status: denial.status, charge, final: true, httpStatus: 200 } as const
      job.waitUntil(settlementOf({ holdId: holdIdOf(ask) }).end(endOf(tally.counted(), end, ports.nowMs())))
    }
    if (trial === undefined) noteDenial(denial, progress, ports.nowMs())
    return err(denialToFailure(denial))
  } catch (error) {
    if (error instanceof Stopped) {
      // The answer may still come, and with it a hold that nobody uses.
      const release = async () => {
        const late = await reserving
        if (!late.ok) return
        const isKept = kept?.attempt === attempt
        const tally = toldOf(job, attempt)
        // What an earlier life of the request has given its caller is paid all the same; else as after any failure (end.ts).
        const isCallersDoing = error.reason === 'client_gone' || job.deadlineIsCallers
        const isPaid = isKept && (isCallersDoing || kept.wasShown)
        const status = isKept && error.reason === 'deadline' ? 'deadline_exceeded' : 'client_cancelled'
        // Of a later attempt, the one before it says that the request has ended; that is not known in a next life.
        const final = isKept || attempt === 1
        const end = { status, charge: isPaid ? 'customer' : 'absorbed', final, httpStatus: 499 } as const
        await settlementOf(late.value).end(endOf(tally.counted(), end, ports.nowMs()))
      }
      job.waitUntil(release().catch(() => {}))
      return err(stopFailure(error.reason, target.provider, 'waiting'))
    }
    log('error', 'reserve_failed', { requestId: job.requestId, error: errorText(error) })
    const message = 'The account of this caller cannot be reached; nothing was sent and nothing was charged.'
    return err({ code: 'unavailable', message, retryAfterMs: 1000 })
  }
}

function noteHold({ requests, tokens, warnings }: Hold, progress: Progress): void {
  if (requests !== undefined) progress.requests = requests
  if (tokens !== undefined) progress.tokens = tokens
  if (warnings !== undefined) progress.warnings = warnings
}

/** A refusal by a limit on requests or tokens says as much in its headers as an admission does. */
function noteDenial(denial: Denial, progress: Progress, nowMs: number): void {
  if (denial.reason !== 'rate_limited') return
  const { rule, used, held, retryAfterMs } = denial
  if (rule.meter === 'money' || rule.meter === 'concurrency') return
  const state: LimitState = {
    limit: rule.max,
    remaining: Math.max(0, rule.max - Number(used + held)),
    ...(retryAfterMs === undefined ? {} : { resetAtMs: nowMs + retryAfterMs }),
  }
  if (rule.meter === 'requests') progress.requests = state
  else progress.tokens = state
}
