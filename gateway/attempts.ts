// One target after the other until one answers. Owns the holds of a request's attempts, what each attempt that fails
// costs and whom, and when to give up. What an answer is and where it goes is lifecycle.ts.
//
//   usable target ─reserve─▶ held ─open─▶ accepted ─take─▶ won      (settled by lifecycle.ts)
//        ▲                     │            │        │
//        └── next target ◀─────┴── failed ──┴────────┘              (settled here)

import { type Failure, mayFallOver } from '../protocol/errors.ts'
import { choiceCount, type InferenceRequest } from '../protocol/request.ts'
import { err, ok, type Result } from '../protocol/result.ts'
import type { Denial, Hold, ReserveAsk } from './account/contract.ts'
import type { Principal } from './auth/principal.ts'
import type { Env } from './env.ts'
import { denialToFailure, failureStatus } from './errors.ts'
import { errorText, log } from './observe/log.ts'
import { findProvider } from './policy/catalog.ts'
import type { Plan, Target } from './policy/plan.ts'
import { FLEET } from './policy/targets.ts'
import { OpenAiCompatibleProvider } from './providers/openai-compatible.ts'
import type { OpenContext, Provider, Upstream } from './providers/provider.ts'
import { accountOf, Settlement } from './settlement.ts'
import { longestTokenPrompt, maxOutputTokens, worstCase } from './stream/estimate.ts'
import { EventReader } from './stream/reader.ts'
import { type Stop, Stopped, type StopReason } from './stream/stop.ts'
import type { Taking } from './stream/take.ts'
import { Tally } from './stream/tally.ts'

/** Each attempt may compute the prompt once more: a request that fails everywhere must not do so endlessly. */
const ATTEMPTS_MAX = 4
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
  ports: Ports
}

/** What became known on the way; headers and logs read it. */
export type Progress = {
  attempts: number
  target?: Target
  label?: string
  requests?: NonNullable<Hold['requests']>
  /** The response head is out with status 200, whatever comes. */
  headSent: boolean
}

export type Attempt = {
  target: Target
  settlement: Settlement
  stop: Stop
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
    const attempt: Attempt = {
      target,
      settlement: reserved.value,
      stop: stop.child(),
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
    limits: principal.limits,
    modelRequested: job.request.model,
    provider: target.provider,
    modelServed: target.model,
    estimate: worstCase(job.request, target),
    price: target.price,
    startedAtMs: ports.nowMs(),
    deadlineAtMs: job.deadlineAtMs,
    stream: job.isStream,
  }
  const account = () => accountOf(job.env, principal.orgId)
  const settlementOf = (hold: Hold) =>
    new Settlement(hold, job.requestId, { account, waitUntil: job.waitUntil, sleep: ports.sleep }, ports.nowMs())
  const reserving = account().reserve(ask)
  try {
    const reserved = await stop.race(reserving)
    if (reserved.ok) {
      if (reserved.value.requests !== undefined) progress.requests = reserved.value.requests
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

/** A refusal by a request limit says as much in its headers as an admission does. */
function noteDenial(denial: Denial, progress: Progress, nowMs: number): void {
  if (denial.reason !== 'rate_limited' || denial.rule.meter !== 'requests') return
  progress.requests = { limit: denial.rule.max, remaining: 0, resetAtMs: nowMs + denial.retryAfterMs }
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
    signal: attempt.stop.signal,
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
  let reader: EventReader | undefined
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
    reader = new EventReader(opened.value, stop, tally)
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
    if (reader === undefined) stop.stop('done')
    else reader.close()
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

/** The end of a hold in the account's terms. */
export function endOf(
  job: Job,
  counted: ReturnType<Tally['counted']>,
  status: Failure['code'] | 'ok' | 'client_cancelled',
  charge: 'customer' | 'absorbed',
  final: boolean,
  httpStatus: number,
) {
  return {
    usage: counted.usage,
    usageSource: counted.source,
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
  const { tally, settlement, firstTokenAtMs } = attempt
  const httpStatus = progress.headSent ? 200 : failureStatus(failure.code)
  const settling = settlement.end({
    ...endOf(job, tally.counted(), failure.code, isCallersDoing ? 'customer' : 'absorbed', final, httpStatus),
    ...(firstTokenAtMs === undefined ? {} : { firstTokenAtMs }),
    ...(tally.providerCostNanoUsd === undefined ? {} : { providerCostNanoUsd: tally.providerCostNanoUsd }),
  })
  // The next attempt's hold must not count beside this one's. Where the account fails, the retries go on behind.
  if (!final) await Promise.race([settling, job.ports.sleep(SETTLE_WAIT_MS)])
}

/** Longer than a healthy account takes; a failing one refuses the next hold anyway. */
const SETTLE_WAIT_MS = 1000
