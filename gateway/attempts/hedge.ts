// Two attempts beside each other: where the first is silent for long, a second target is asked, and whichever shows content
// first goes on. Owns the race, and that the one that lost is let go of and its hold ended. Never more than two.
//
//   first ──silent for afterMs──▶ both ──content of one──▶ that one      the other: cancelled, charged what was counted
//     │                            └───── one fails ─────▶ the other     the failed one: borne by the gateway
//     └──content, or its end──▶ first
//
// The caller asked for it and has both done, so the caller pays both.
import type { Failure } from '../../protocol/errors.ts'
import type { Result } from '../../protocol/result.ts'
import { within } from '../stream/within.ts'
import { endAttempt } from './end.ts'
import type { Attempt, Job, Won } from './job.ts'

/** One attempt on its way. */
export type Flight<T> = { attempt: Attempt; outcome: Promise<Result<Won<T>, Failure>> }

type Racer<T> = Flight<T> & { content: Promise<void> }

export type Race<T> = {
  afterMs: number
  /** The second attempt, held and not sent yet; undefined where there is no target, or no room in the caller's limits. */
  second: () => Promise<Attempt | undefined>
  send: (attempt: Attempt) => Flight<T>
  /** What follows from a failure while the other runs on. */
  onFailed: (attempt: Attempt, failure: Failure) => Promise<void>
}

/** The flight that goes on: its outcome may still be a failure. Every other one has ended, its hold too. */
export async function hedged<T>(job: Job, first: Attempt, race: Race<T>): Promise<Flight<T>> {
  const leader = launch(first, race.send)
  const isDecided = await within(
    Promise.race([leader.content, leader.outcome.then(() => {})]).then(() => true),
    race.afterMs,
  )
  if (isDecided === true) return leader
  const second = await race.second()
  if (second === undefined) return leader
  if (leader.attempt.firstTokenAtMs !== undefined || second.stop.reason !== undefined) {
    // Decided while the hold was made: nothing is sent under it.
    endLoser(job, second)
    return leader
  }
  const chaser = launch(second, race.send)
  const decision = await Promise.race([decided(leader, chaser), decided(chaser, leader)])
  const { winner, loser, failure } = decision
  if (failure !== undefined) {
    await race.onFailed(loser.attempt, failure)
    return winner
  }
  loser.attempt.stop.stop('unwanted')
  const lost = await loser.outcome
  // It may have failed by itself in the same moment: that is no work that anybody ordered.
  if (lost.ok || lost.error.code === 'cancelled') endLoser(job, loser.attempt)
  else job.waitUntil(race.onFailed(loser.attempt, lost.error))
  return winner
}

function launch<T>(attempt: Attempt, send: Race<T>['send']): Racer<T> {
  let seen = () => {}
  const content = new Promise<void>((resolve) => {
    seen = resolve
  })
  attempt.onFirstContent = seen
  return { ...send(attempt), content }
}

type Decision<T> = { winner: Flight<T>; loser: Flight<T>; failure?: Failure }

/** What this one's first content, or its end, decides. */
async function decided<T>(one: Racer<T>, other: Racer<T>): Promise<Decision<T>> {
  const outcome = await Promise.race([one.content, one.outcome])
  if (outcome === undefined || outcome.ok) return { winner: one, loser: other }
  return { winner: other, loser: one, failure: outcome.error }
}

function endLoser(job: Job, attempt: Attempt): void {
  attempt.stop.stop('unwanted')
  const end = { status: 'client_cancelled', charge: 'customer', final: false, httpStatus: 499 } as const
  attempt.candidate.step.failure = { code: 'cancelled', message: 'Another target answered first.' }
  // The winner is not kept waiting; its own end comes later over the same way to the account.
  job.waitUntil(endAttempt(job, attempt, end))
}
