// The row of a client request, made of its attempts. Owns when a request is over and what its row says. Pure.
import type { RequestRow } from '../ledger/outbox.ts'
import { addUsage, NO_USAGE } from '../meter/usage.ts'
import { endOf, type HoldRecord, isOpen } from './holds.ts'

/**
 * The attempt a request's row speaks for: the last one that the customer pays and got, else the last one the customer pays,
 * else the last one. What is paid and not got is what another attempt outran.
 */
function decisive(ended: HoldRecord[]): HoldRecord | undefined {
  const last = (of: HoldRecord[]) =>
    of.reduce<HoldRecord | undefined>(
      (latest, hold) => (latest === undefined || hold.terms.attempt > latest.terms.attempt ? hold : latest),
      undefined,
    )
  const paid = ended.filter((hold) => endOf(hold).charge === 'customer')
  return last(paid.filter((hold) => endOf(hold).status === 'ok')) ?? last(paid) ?? last(ended)
}

/** Whether nothing is left to wait for: at least one attempt, none running, no row yet. */
export const canClose = (attempts: readonly HoldRecord[]): boolean =>
  attempts.length > 0 && !attempts.some((hold) => isOpen(hold) || hold.requestClosed)

/**
 * The row of a request: usage and cost are sums over the attempts the customer pays.
 * @param all every attempt of the request that the account remembers
 * @param finalAttempt the attempt that ended the request, where the caller said so
 * @throws Error where no attempt has ended: a bug.
 */
export function requestRow(all: readonly HoldRecord[], finalAttempt: number | undefined, nowMs: number): RequestRow {
  // A trial is beside the request: it says nothing of how that went.
  const attempts = all.filter(({ terms }) => terms.isTrial !== true)
  const ended = attempts.filter((hold) => !isOpen(hold))
  const speaker = ended.find((hold) => hold.terms.attempt === finalAttempt) ?? decisive(ended)
  if (speaker === undefined) throw new Error('a request without an ended attempt has no row')
  const paid = ended.map(endOf).filter((end) => end.charge === 'customer')
  const { terms } = speaker
  const end = endOf(speaker)
  return {
    orgId: terms.orgId,
    requestId: terms.requestId,
    projectId: terms.projectId,
    keyId: terms.keyId,
    userId: terms.userId,
    teamId: terms.teamId,
    endUser: terms.endUser,
    tags: terms.tags,
    backendId: end.backendId,
    provider: terms.provider,
    modelRequested: terms.modelRequested,
    modelServed: terms.modelServed,
    stream: terms.stream,
    status: end.status,
    httpStatus: end.httpStatus,
    usage: paid.reduce((sum, { usage }) => addUsage(sum, usage), NO_USAGE),
    costNanoUsd: paid.reduce((sum, { costNanoUsd }) => sum + costNanoUsd, 0n),
    attempts: attempts.length,
    startedAtMs: Math.min(...attempts.map((hold) => hold.terms.startedAtMs)),
    firstTokenAtMs: end.firstTokenAtMs,
    endedAtMs: end.endedAtMs,
    recordedAtMs: nowMs,
  }
}
