// One target after the other until one answers. Owns the loop: what an attempt is followed by, and that of all the holds made
// here exactly one ends the request. The parts of it are attempts/, the decisions routing/. What an answer is and where it
// goes is lifecycle.ts.
//
//   order ─▶ candidate ─reserve─▶ held ─open─▶ accepted ─take─▶ won              (settled by lifecycle.ts)
//               ▲                   │            │        │└──▶ not good enough   (paid; a larger model next)
//               └── next, or wait ◀─┴── failed ──┴────────┘                      (settled here)
import type { Failure } from '../protocol/errors.ts'
import { err, type Result } from '../protocol/result.ts'
import { endAttempt, SETTLE_WAIT_MS, settleFailed } from './attempts/end.ts'
import { stopFailure } from './attempts/failure.ts'
import { hedged } from './attempts/hedge.ts'
import { Itinerary } from './attempts/itinerary.ts'
import type { Attempt, Candidate, Job, Progress, Taker, Won } from './attempts/job.ts'
import { noteFailure } from './attempts/learned.ts'
import { type NotHeld, reserve } from './attempts/reserve.ts'
import { newAttempt, openContext, runAttempt } from './attempts/run.ts'
import { castShadow } from './attempts/shadow.ts'
import { log } from './observe/log.ts'
import type { Plan } from './policy/plan.ts'
import { worstCostAt } from './policy/target-price.ts'
import { conversationText } from './routing/conversation.ts'
import { escalationOf } from './routing/escalation.ts'
import { targetName } from './routing/hints.ts'
import { type Decision, type Known, orderTargets } from './routing/order.ts'
import type { Settlement } from './settlement.ts'
import type { CollectedChoice } from './stream/collect.ts'
import { type Stop, Stopped } from './stream/stop.ts'
import { takeWhole } from './stream/take.ts'
import { within } from './stream/within.ts'

export { DEFAULT_TIMINGS, type Job, type Ports, type Progress, type Timings, type Won } from './attempts/job.ts'

/**
 * Tries targets until one gives what `taker` takes. Every hold made here that does not win is settled here; the winner's is
 * the caller's to settle.
 */
export async function firstToAnswer<T>(
  job: Job,
  plan: Plan,
  stop: Stop,
  progress: Progress,
  taker: Taker<T>,
): Promise<Result<Won<T>, Failure>> {
  const decision = order(job, plan)
  if (!decision.ok) return decision
  const itinerary = new Itinerary(job, plan, decision.value.places, progress)
  const { kept } = job
  if (kept !== undefined) {
    progress.attempts = kept.attempt - 1
    progress.numbered = kept.attempt - 1
  }
  const begin = await (kept === undefined ? itinerary.first() : itinerary.again(kept.target))
  if (!begin.ok) return begin
  return new Journey(job, plan, stop, progress, itinerary, taker).from(begin.value)
}

/** The order of the plan's targets for this request. */
function order(job: Job, plan: Plan): Result<Decision, Failure> {
  const { ports, request, principal } = job
  const { health } = ports
  const nowMs = ports.nowMs()
  const { sticky } = plan.policy
  const known: Known = {
    standing: (target) => health.targetStanding(target, nowMs),
    expectedMs: (target) => health.expectedMs(target, nowMs),
    firstContentMs: (target) => health.firstContentMs(target, nowMs),
    inFlight: (target) => health.inFlight(target),
    worstCost: (target) => worstCostAt(request, target),
    stickyText: sticky === undefined ? '' : `${principal.orgId}\n${stickyText(job, sticky)}`,
    hasOutput: request.input.kind !== 'embedding',
  }
  return orderTargets(plan, job.hints, known, ports.random)
}

/** Where a request names no end user, its conversation is what belongs together. */
function stickyText({ request, principal }: Job, by: 'conversation' | 'end_user'): string {
  const endUser = principal.endUser ?? request.endUser
  return by === 'end_user' && endUser !== undefined ? `end user ${endUser}` : conversationText(request)
}

/** An answer that its target kept back, as the failure that it is for routing. */
const WITHHELD: Failure = {
  code: 'content_filtered',
  message: "The target's content rules withheld its answer.",
  kind: 'content_filter',
}

/** An attempt that has come as far as it will, for better or worse. */
type Landed<T> = { attempt: Attempt; outcome: Result<Won<T>, Failure> }

class Journey<T> {
  readonly #job: Job
  readonly #plan: Plan
  readonly #stop: Stop
  readonly #progress: Progress
  readonly #itinerary: Itinerary
  readonly #taker: Taker<T>
  readonly #backendsTried = new Set<string>()
  #isHedgeLeft: boolean
  /** The newest hold that has ended without ending the request. */
  #previous: Settlement | undefined
  /** An answer that was not good enough, and is better than none. */
  #kept: Won<T> | undefined

  constructor(job: Job, plan: Plan, stop: Stop, progress: Progress, itinerary: Itinerary, taker: Taker<T>) {
    this.#job = job
    this.#plan = plan
    this.#stop = stop
    this.#progress = progress
    this.#itinerary = itinerary
    this.#taker = taker
    this.#isHedgeLeft = job.hints.hedge === true && plan.policy.hedge !== undefined
  }

  async from(first: Candidate): Promise<Result<Won<T>, Failure>> {
    let candidate = first
    for (;;) {
      const stopped = await this.#wait(candidate)
      if (stopped !== undefined) return this.#giveUp(stopped)
      const held = await this.#held(candidate)
      if (!held.ok) {
        const { wasAnswered, ...failure } = held.error
        const larger = wasAnswered ? await this.#itinerary.larger(candidate) : undefined
        if (larger === undefined) return this.#giveUp(failure)
        candidate = larger
        continue
      }
      if (candidate.step.role === 'primary' && this.#job.kept === undefined)
        castShadow(this.#job, this.#plan, this.#progress)
      const { attempt, outcome } = await this.#fly(held.value)
      this.#previous = attempt.settlement
      if (attempt.reader !== undefined) this.#progress.label = attempt.reader.label
      if (outcome.ok) {
        const { value } = outcome
        const better = await (value.isComplete ? this.#escalate(attempt, value) : this.#elsewhere(attempt, value))
        if (better === undefined) return outcome
        candidate = better
        continue
      }
      const next = await this.#after(attempt, outcome.error)
      if (next === undefined) return this.#kept === undefined ? outcome : this.#giveUp(outcome.error)
      candidate = next
    }
  }

  async #wait({ waitMs, target }: Candidate): Promise<Failure | undefined> {
    if (waitMs <= 0) return undefined
    try {
      await this.#stop.race(this.#job.ports.sleep(waitMs))
      return undefined
    } catch (error) {
      if (!(error instanceof Stopped)) throw error
      return stopFailure(error.reason, target.provider, 'waiting')
    }
  }

  /** The account's yes to an attempt, before anything of it is sent. */
  async #held(candidate: Candidate): Promise<Result<Attempt, NotHeld>> {
    const { target, step } = candidate
    this.#progress.attempts++
    this.#progress.target = target
    const held = await reserve(this.#job, target, this.#progress, this.#stop)
    if (!held.ok) return held
    this.#job.onVerdict?.(undefined)
    this.#progress.steps.push(step)
    return { ok: true, value: newAttempt(this.#job, candidate, held.value, this.#stop) }
  }

  /** Sends an attempt; where the caller asked for it, a second one beside it when it is silent. */
  async #fly(attempt: Attempt): Promise<Landed<T>> {
    const send = (one: Attempt) => ({ attempt: one, outcome: this.#run(one) })
    const { hedge } = this.#plan.policy
    if (!this.#isHedgeLeft || hedge === undefined || attempt.candidate.step.role === 'cache') {
      return { attempt, outcome: await this.#run(attempt) }
    }
    const winner = await hedged(this.#job, attempt, {
      afterMs: hedge.after_ms,
      send,
      second: async () => {
        this.#isHedgeLeft = false
        const beside = await this.#itinerary.beside()
        if (beside === undefined) return undefined
        const held = await this.#held(beside)
        if (held.ok) return held.value
        // No room for two: the first goes on alone.
        this.#progress.attempts--
        return undefined
      },
      onFailed: async (failed, failure) => {
        noteFailure(this.#job, this.#plan, failed, failure)
        await settleFailed(this.#job, failed, failure, this.#progress, false)
      },
    })
    this.#progress.target = winner.attempt.target
    return { attempt: winner.attempt, outcome: await winner.outcome }
  }

  /** Of a cascade's smaller models the whole answer, since it may not be the one to give. */
  async #run(attempt: Attempt): Promise<Result<Won<T>, Failure>> {
    const context = openContext(this.#job, attempt, this.#backendsTried)
    const { cascade } = this.#plan.policy
    const isLast =
      cascade === undefined || attempt.candidate.step.role === 'cache' || !this.#itinerary.hasLarger(attempt.candidate)
    if (isLast) {
      // What only a cascade wanted is not asked of an answer that goes out as it comes.
      attempt.candidate.request = this.#job.request
      return runAttempt(this.#job, this.#plan, attempt, context, this.#taker.take)
    }
    const whole = await runAttempt(this.#job, this.#plan, attempt, context, takeWhole)
    if (!whole.ok) return whole
    const choices = this.#asAsked(whole.value.taken, attempt)
    attempt.candidate.step.escalated = escalationOf(cascade, whole.value.taken, this.#job.request)
    return {
      ok: true,
      value: { ...whole.value, taken: this.#taker.fromWhole(choices, attempt.tally), isComplete: true },
    }
  }

  /** Without the probabilities that only the cascade wanted. */
  #asAsked(choices: CollectedChoice[], { candidate }: Attempt): CollectedChoice[] {
    if (candidate.request.logprobs === this.#job.request.logprobs) return choices
    return choices.map((choice) => ({ ...choice, logprobs: [] }))
  }

  /** A larger model, where the answer falls under a rule and there is one; the smaller one's answer is paid. */
  async #escalate(attempt: Attempt, won: Won<T>): Promise<Candidate | undefined> {
    const { step } = attempt.candidate
    if (step.escalated === undefined) return undefined
    const larger = await this.#itinerary.larger(attempt.candidate)
    if (larger === undefined) {
      delete step.escalated
      return undefined
    }
    this.#kept = won
    const settling = endAttempt(this.#job, attempt, { status: 'ok', charge: 'customer', final: false, httpStatus: 200 })
    await within(settling, SETTLE_WAIT_MS, this.#job.appointments)
    return larger
  }

  /**
   * Another target, where this one withheld its answer and the policy has such requests tried elsewhere. The answer gave the
   * client nothing, so nobody is charged for it; where no target is left it is the answer.
   */
  async #elsewhere(attempt: Attempt, { taken, taking }: Won<T>): Promise<Candidate | undefined> {
    const { candidate } = attempt
    const isStored = candidate.step.place === undefined
    if (isStored || this.#stop.reason !== undefined || !this.#taker.isWithheld(taken, taking.choices)) return undefined
    const context = openContext(this.#job, attempt, this.#backendsTried)
    const next = await this.#itinerary.after(candidate, WITHHELD, context, false)
    if (next === undefined) return undefined
    candidate.step.failure = WITHHELD
    await settleFailed(this.#job, attempt, WITHHELD, this.#progress, false)
    this.#noteNext(attempt, WITHHELD, next)
    return next
  }

  /** What follows a failed attempt, whose hold is ended here. */
  async #after(attempt: Attempt, failure: Failure): Promise<Candidate | undefined> {
    const job = this.#job
    const { candidate, firstTokenAtMs } = attempt
    noteFailure(job, this.#plan, attempt, failure)
    const context = openContext(job, attempt, this.#backendsTried)
    const next =
      this.#stop.reason === undefined
        ? await this.#itinerary.after(candidate, failure, context, firstTokenAtMs !== undefined)
        : undefined
    const isFinal = next === undefined && this.#kept === undefined
    await settleFailed(job, attempt, failure, this.#progress, isFinal)
    this.#noteNext(attempt, failure, next)
    return next
  }

  #noteNext({ number, candidate, target }: Attempt, { code, kind }: Failure, next: Candidate | undefined): void {
    log('warn', 'attempt_failed', {
      requestId: this.#job.requestId,
      attempt: number,
      role: candidate.step.role,
      provider: target.provider,
      model: target.model,
      key: candidate.key?.name,
      target: this.#progress.label,
      code,
      kind,
      next: next === undefined ? undefined : targetName(next.target),
      waitMs: next === undefined ? undefined : Math.round(next.waitMs),
    })
  }

  /** No attempt follows: an answer that was kept is the answer where somebody waits for it, else this failure is. */
  #giveUp(failure: Failure): Result<Won<T>, Failure> {
    const kept = this.#kept
    const { reason } = this.#stop
    if (kept === undefined || (reason !== undefined && reason !== 'deadline')) {
      this.#previous?.conclude()
      return err(failure)
    }
    kept.attempt.settlement.conclude()
    this.#progress.target = kept.attempt.target
    if (kept.attempt.reader !== undefined) this.#progress.label = kept.attempt.reader.label
    return { ok: true, value: kept }
  }
}
