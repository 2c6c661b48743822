// One target after the other until one answers. Owns the holds of a request's attempts, what each attempt that fails
// costs and whom, and when to give up. What an answer is and where it goes is lifecycle.ts.
//
//   usable target ─reserve─▶ held ─open─▶ accepted ─take─▶ won      (settled by lifecycle.ts)
//        ▲                     │            │        │
//        └── next target ◀─────┴── failed ──┴────────┘              (settled here)

import { type Failure, mayFallOver } from '../protocol/errors.ts'
import { choiceCount, type InferenceRequest } from '../protocol/request.ts'
import { err, ok, type Result } from '../protocol/result.ts'
import type { Denial, Hold, LimitState, ReserveAsk } from './account/contract.ts'
import type { Lanes } from './account/lane.ts'
import type { Principal } from './auth/principal.ts'
import type { Env } from './env.ts'
import { denialToFailure, failureStatus } from './errors.ts'
import { errorText, log } from './observe/log.ts'
import { findProvider } from './policy/catalog.ts'
import type { CutoffPolicy, Plan, Target } from './policy/plan.ts'
import { FLEET } from './policy/targets.ts'
import { OpenAiCompatibleProvider } from './providers/openai-compatible.ts'
import type { OpenContext, Provider, Upstream } from './providers/provider.ts'
import { Settlement } from './settlement.ts'
import { DRAIN_MAX_MS, isCutOff, upstreamStop } from './stream/cutoff.ts'
import { longestTokenPrompt, maxOutputTokens, worstCase } from './stream/estimate.ts'
import { EventReader } from './stream/reader.ts'
import { type Stop, Stopped, type StopReason } from './stream/stop.ts'
import type { Taking } from './stream/take.ts'
import { Tally } from './stream/tally.ts'

/** Each attempt may compute the prompt once more: a request that fails everywhere must not do so endlessly. */
const ATTEMPTS_MAX = 4
/** Longer than a healthy account takes. Where one fails, nobody is kept waiting for it: the retries go on behind. */
export const SETTLE_WAIT_MS = 1000
/** The agent's deadline comes this much before ours, so that its own exact last count still arrives. */
const DEADLINE_MARGIN_MS = 100

export type Timings = {
  /** Longest life of a request; callers can only shorten it. */
  deadlineMs: number
  /** From sending an attempt to its first content. */
  firstContentMs: number
  /** Between two events after the first content. */
  idleMs: number
  /** Silence towards the client after which a comment is sent. */
  keepAliveMs: number
}

/** A chat answer of a full window on a slow engine ends within minutes; a queue of a minute is still worth waiting for. */
export const DEFAULT_TIMINGS: Timings = {
  deadlineMs: 600_000,
  firstContentMs: 120_000,
  idleMs: 60_000,
  keepAliveMs: 10_000,
}

/** The world outside, so that tests can stand in for it. */
export type Ports = {
  fetch: typeof fetch
  nowMs: () => number
  random: () => number
  newId: () => string
  sleep: (ms: number) => Promise<void>
  timings: Timings
  /** Own backends. */
  fleet: Provider
  /** The way to the accounts. */
  lanes: Lanes
}

export type Job = {
  env: Env
  waitUntil: (work: Promise<unknown>) => void
  requestId: string
  receivedAtMs: number
  deadlineAtMs: number
  /** The caller shortened the deadline, so what was computed until then is the caller's. */
  deadlineIsCallers: boolean
  principal: Principal
  request: InferenceRequest
  isStream: boolean
  /** Opaque tenant id on the fleet's wire. */
  tenant: string
  /** The caller's promise that a second request under its key is this one. */
  idempotency?: NonNullable<ReserveAsk['idempotency']> | undefined
  ports: Ports
}

/** What became known on the way; headers and logs read it. */
export type Progress = {
  attempts: number
  target?: Target
  label?: string
  requests?: LimitState
  tokens?: LimitState
  /** Soft limits that are passed. */
  warnings?: string[]
  /** The response head is out with status 200, whatever comes. */
  headSent: boolean
}

export type Attempt = {
  target: Target
  settlement: Settlement
  /** Ends the waits for its answer. */
  stop: Stop
  /** Ends the call to the upstream: the same, unless the rest of a cut-off answer is read without a client. */
  upstreamStop: Stop
  cutoff: CutoffPolicy
  /** Set once the upstream has begun to answer. */
  reader: EventReader | undefined
  tally: Tally
  firstTokenAtMs: number | undefined
}

export type Won<T> = { attempt: Attempt; taking: Taking; taken: T }

type Candidate = { index: number; target: Target; provider: Provider }

/**
 * Tries targets in the plan's order until `take` succeeds at one. Every hold made here that does not win is settled
 * here; the winner's is the caller's to settle.
 */
export async function firstToAnswer<T>(
  job: Job,
  plan: Plan,
  stop: Stop,
  progress: Progress,
  take: (taking: Taking) => Promise<Result<T, Failure>>,
): Promise<Result<Won<T>, Failure>> {
  const backendsTried = new Set<string>()
  const usable = await nextUsable(job, plan, 0)
  if (!usable.ok) return usable
  let candidate: Candidate | undefined = usable.value
  let previous: Settlement | undefined
  let failure: Failure = { code: 'no_target', message: `No target is up for model '${plan.model}'.` }
  while (candidate !== undefined) {
    const current: Candidate = candidate
    const { target, provider, index } = current
    progress.attempts++
    progress.target = target
    const reserved = await reserve(job, target, progress, stop)
    if (!reserved.ok) {
      previous?.conclude()
      return reserved
    }
    previous = reserved.value
    const attemptStop = stop.child()
    const attempt: Attempt = {
      target,
      settlement: reserved.value,
      stop: attemptStop,
      upstreamStop: upstreamStop(attemptStop, provider.cutoff),
      cutoff: provider.cutoff,
      reader: undefined,
      tally: new Tally(),
      firstTokenAtMs: undefined,
    }
    const context = openContext(job, attempt, progress, backendsTried)
    const outcome = await runAttempt(job, attempt, provider, context, progress, take)
    if (outcome.ok) return outcome
    failure = outcome.error
    const mayGoOn = mayFallOver(failure.code) && stop.reason === undefined && progress.attempts < ATTEMPTS_MAX
    candidate = undefined
    if (mayGoOn) {
      const again: boolean = await provider.hasAlternative(target, context)
      const next: Result<Candidate, Failure> = again ? ok(current) : await nextUsable(job, plan, index + 1)
      candidate = next.ok ? next.value : undefined
    }
    await settleFailed(job, attempt, failure, progress, candidate === undefined)
    log('warn', 'attempt_failed', {
      requestId: job.requestId,
      attempt: progress.attempts,
      provider: target.provider,
      target: progress.label,
      code: failure.code,
      willRetry: candidate !== undefined,
    })
  }
  return err(failure)
}

/** The first target from `from` on that is registered and whose window can hold a prompt of known length. */
async function nextUsable(job: Job, plan: Plan, from: number): Promise<Result<Candidate, Failure>> {
  const promptTokens = longestTokenPrompt(job.request)
  let failure: Failure = { code: 'no_target', message: `No target is up for model '${plan.model}'.` }
  for (const [index, target] of plan.targets.entries()) {
    if (index < from) continue
    if (promptTokens >= target.contextTokens) {
      const message = `The prompt has ${promptTokens} tokens; the context window has ${target.contextTokens}, and the answer needs room too.`
      failure = { code: 'context_length_exceeded', message, param: 'prompt' }
      continue
    }
    if (target.provider === FLEET) return ok({ index, target, provider: job.ports.fleet })
    try {
      const config = await findProvider(target.provider, job.env, job.ports.nowMs())
      if (config !== undefined) return ok({ index, target, provider: new OpenAiCompatibleProvider(config) })
      log('warn', 'provider_not_registered', { requestId: job.requestId, provider: target.provider })
    } catch (error) {
      log('error', 'provider_unreadable', {
        requestId: job.requestId,
        provider: target.provider,
        error: errorText(error),
      })
    }
  }
  return err(failure)
}

/** Money first: without a durable hold nothing is sent anywhere. */
async function reserve(job: Job, target: Target, progress: Progress, stop: Stop): Promise<Result<Settlement, Failure>> {
  const { principal, ports } = job
  const ask: ReserveAsk = {
    requestId: job.requestId,
    attempt: progress.attempts,
    orgId: principal.orgId,
    projectId: principal.projectId,
    keyId: principal.keyId,
    keyLineId: principal.keyLineId,
    userId: principal.userId,
    teamId: principal.teamId,
    endUser: principal.endUser ?? job.request.endUser,
    modelRequested: job.request.model,
    provider: target.provider,
    modelServed: target.model,
    estimate: worstCase(job.request, target),
    price: target.price,
    startedAtMs: ports.nowMs(),
    deadlineAtMs: job.deadlineAtMs,
    stream: job.isStream,
    // A later attempt belongs to the request that the first one made known.
    idempotency: progress.attempts === 1 ? job.idempotency : undefined,
  }
  const account = ports.lanes.account(principal.orgId, {
    // A fresh stub each time: one that has seen an exception may stay broken.
    account: () => job.env.ACCOUNT.getByName(principal.orgId),
    waitUntil: job.waitUntil,
    nowMs: ports.nowMs,
  })
  const settlementOf = (hold: Hold) =>
    new Settlement(hold, job.requestId, { account, waitUntil: job.waitUntil, sleep: ports.sleep }, ports.nowMs())
  const reserving = account.reserve(ask)
  try {
    const reserved = await stop.race(reserving)
    if (reserved.ok) {
      noteHold(reserved.value, progress)
      return ok(settlementOf(reserved.value))
    }
    noteDenial(reserved.error, progress, ports.nowMs())
    return err(denialToFailure(reserved.error))
  } catch (error) {
    if (error instanceof Stopped) {
      // The answer may still come, and with it a hold that nobody uses.
      const release = async () => {
        const late = await reserving
        if (!late.ok) return
        const counted = new Tally().counted()
        await settlementOf(late.value).end(endOf(job, counted, 'client_cancelled', 'absorbed', true, 499))
      }
      job.waitUntil(release().catch(() => {}))
      return err(stopFailure(error.reason, target.provider))
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

function openContext(job: Job, attempt: Attempt, progress: Progress, backendsTried: Set<string>): OpenContext {
  const { ports } = job
  const leftMs = Math.max(1, job.deadlineAtMs - ports.nowMs())
  const bound = maxOutputTokens(job.request, attempt.target)
  return {
    env: job.env,
    requestId: job.requestId,
    attempt: progress.attempts,
    tenant: job.tenant,
    deadlineInMs: leftMs - Math.min(DEADLINE_MARGIN_MS, leftMs / 10),
    ...(bound === undefined ? {} : { maxOutputTokens: bound }),
    signal: attempt.upstreamStop.signal,
    fetch: ports.fetch,
    nowMs: ports.nowMs,
    random: ports.random,
    newId: ports.newId,
    backendsTried,
  }
}

/** Opens the target and takes of its answer. Whatever is thrown on the way comes out as a Failure. */
async function runAttempt<T>(
  job: Job,
  attempt: Attempt,
  provider: Provider,
  context: OpenContext,
  progress: Progress,
  take: (taking: Taking) => Promise<Result<T, Failure>>,
): Promise<Result<Won<T>, Failure>> {
  const { ports } = job
  const { stop, tally, target } = attempt
  try {
    stop.arm(ports.timings.firstContentMs, 'first_content')
    const opening = provider.open(job.request, target, context)
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
    progress.label = reader.label
    const taking: Taking = {
      reader,
      stop,
      tally,
      choices: choiceCount(job.request),
      idleMs: ports.timings.idleMs,
      onProgress: () => {
        const nowMs = ports.nowMs()
        attempt.firstTokenAtMs ??= nowMs
        attempt.settlement.checkpoint(tally.counted().usage, nowMs)
      },
    }
    const taken = await take(taking)
    if (taken.ok) return ok({ attempt, taking, taken: taken.value })
    reader.close()
    return taken
  } catch (error) {
    const failure = thrownFailure(job, error, stop, target)
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

/** An exception on the path as what the caller may know of it. */
export function thrownFailure(job: Job, error: unknown, stop: Stop, target: Target): Failure {
  const reason = error instanceof Stopped ? error.reason : stop.reason
  if (reason !== undefined) return stopFailure(reason, target.provider)
  log('error', 'attempt_threw', { requestId: job.requestId, provider: target.provider, error: errorText(error) })
  return { code: 'internal', message: 'The gateway failed to serve this request.' }
}

function stopFailure(reason: StopReason, provider: string): Failure {
  const silent = provider === FLEET ? 'backend_lost' : 'upstream_error'
  switch (reason) {
    case 'client_gone':
    case 'done':
      return { code: 'cancelled', message: 'The caller went away.' }
    case 'deadline':
      return { code: 'deadline_exceeded', message: 'The deadline passed before the answer was complete.' }
    case 'first_content':
      return { code: silent, message: 'The target did not begin its answer in time.' }
    case 'idle':
      return { code: silent, message: 'The target stopped sending in the middle of its answer.' }
    default:
      return reason satisfies never
  }
}

export type AttemptEnd = {
  status: Failure['code'] | 'ok'
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
  const { reader, tally, settlement, firstTokenAtMs, cutoff } = attempt
  const settle = (charge: AttemptEnd['charge']) =>
    settlement.end({
      ...endOf(job, tally.counted(), end.status, charge, end.final, end.httpStatus),
      ...(firstTokenAtMs === undefined ? {} : { firstTokenAtMs }),
      ...(tally.providerCostNanoUsd === undefined ? {} : { providerCostNanoUsd: tally.providerCostNanoUsd }),
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
  const isFree = cutoff === 'cancel_free' && end.status !== 'ok' && isCutOff(attempt.stop.reason)
  reader?.close()
  return settle(isFree ? 'absorbed' : end.charge)
}

const isToBeDrained = (attempt: Attempt): boolean => attempt.cutoff === 'drain' && isCutOff(attempt.stop.reason)

/** The end of a hold in the account's terms. */
function endOf(
  job: Job,
  counted: ReturnType<Tally['counted']>,
  status: Failure['code'] | 'ok' | 'client_cancelled',
  charge: 'customer' | 'absorbed',
  final: boolean,
  httpStatus: number,
) {
  const { rawUsage, inconsistent } = counted
  return {
    usage: counted.usage,
    usageSource: counted.source,
    ...(rawUsage === undefined ? {} : { rawUsage }),
    ...(inconsistent === undefined ? {} : { inconsistent }),
    status: status === 'cancelled' ? ('client_cancelled' as const) : status,
    endedAtMs: job.ports.nowMs(),
    charge,
    final,
    httpStatus,
  }
}

/**
 * What an attempt used that gave the client nothing is the gateway's own loss, unless the client itself ended it:
 * whoever hangs up, or sets a deadline that cuts the work short, has had it done.
 */
async function settleFailed(
  job: Job,
  attempt: Attempt,
  failure: Failure,
  progress: Progress,
  final: boolean,
): Promise<void> {
  const isCallersDoing =
    failure.code === 'cancelled' ||
    // Asked for more than fits one piece: it was computed as asked.
    failure.code === 'invalid_request' ||
    (failure.code === 'deadline_exceeded' && job.deadlineIsCallers)
  const httpStatus = progress.headSent ? 200 : failureStatus(failure.code)
  const charge = isCallersDoing ? 'customer' : 'absorbed'
  const settling = endAttempt(job, attempt, { status: failure.code, charge, final, httpStatus })
  // The next attempt's hold must not count beside this one's.
  if (!final) await Promise.race([settling, job.ports.sleep(SETTLE_WAIT_MS)])
}
