// One logical call over all its tries: the one retry loop, with one deadline, one idempotency key and one budget for retries.
// Owns which target is asked next and when it is over; a try is attempt.ts, what a failure means verdict.ts.
import { attempt, type Begun, type Whole } from './attempt.ts'
import type { Core } from './core.ts'
import { pause, type Scope, scopeOf } from './deadline.ts'
import { type AttemptRecord, PenstockError } from './errors.ts'
import { type CallOptions, hintHeaders } from './options.ts'
import { tell } from './report.ts'
import { pauseMs, RETRY_AFTER_MOST_MS } from './retry-after.ts'
import { dialectFor, type Target, takes, type WireRequest } from './target.ts'
import type { Verdict } from './verdict.ts'

/** A call under way: everything that its tries share. */
export type Call = {
  request: WireRequest
  options: CallOptions
  idempotencyKey: string
  scope: Scope
  deadlineAtMs: number
  attempts: AttemptRecord[]
  /** The gateway has shown that it is down: direct providers may be asked. */
  isGatewayDown: boolean
}

export type Won = (Whole | Begun) & { target: Target; requestId: string | undefined }

/** @throws PenstockError `aborted` where the caller's signal has fired already. */
export function newCall(core: Core, request: WireRequest, options: CallOptions): Call {
  const scope = scopeOf(options.signal)
  const deadlineMs = options.deadlineMs ?? core.deadlineMs
  const timer = setTimeout(() => scope.abort(new Deadline(`the deadline of ${deadlineMs} ms is over`)), deadlineMs)
  scope.signal.addEventListener('abort', () => clearTimeout(timer), { once: true })
  return {
    request,
    options,
    idempotencyKey: options.idempotencyKey ?? core.newId(),
    scope,
    deadlineAtMs: core.nowMs() + deadlineMs,
    attempts: [],
    isGatewayDown: false,
  }
}

class Deadline extends Error {
  override readonly name: string = 'Deadline'
}

/**
 * Asks until somebody answers. The scope of the call stays open: it is the stream's from then on.
 * @throws PenstockError
 */
export async function answer(core: Core, call: Call): Promise<Won> {
  core.budget.earn()
  let last: { verdict: Verdict; target: Target } | undefined
  /** Tries per target, so that each waits longer than the one before. */
  const tries = new Map<string, number>()
  try {
    while (call.attempts.length < core.attemptsMax) {
      const target = nextTarget(core, call, tries)
      if (target === undefined) break
      const made = tries.get(target.name) ?? 0
      const isRetry = made > 0
      if (isRetry && !(await mayRetry(core, call, last?.verdict, made))) break
      if (last !== undefined && last.target !== target) {
        core.hook('onFallback', { from: last.target.name, to: target.name, code: last.verdict.code })
      }
      tries.set(target.name, made + 1)
      const outcome = await hedged(core, call, target, tries)
      if (outcome.kind !== 'failed') return outcome
      last = { verdict: outcome.verdict, target: outcome.target }
      if (outcome.verdict.isGatewayDown) call.isGatewayDown = true
      if (isOwnConflict(call, outcome, isRetry)) {
        call.idempotencyKey = core.newId()
        // Its Retry-After is about the old key.
        const { retryAfterMs: _, ...verdict } = outcome.verdict
        last = { verdict, target: outcome.target }
        continue
      }
      // Whatever is the caller's fault or a limit is told at once, and nobody else is asked.
      const mayGoOn = outcome.verdict.retryable || (outcome.verdict.isGatewayDown && outcome.target.isGateway)
      if (!mayGoOn && outcome.target.isGateway) break
    }
  } catch (error) {
    throw stopped(call, error)
  }
  call.scope.abort(new Error('the call is over'))
  throw failure(call, last)
}

/**
 * An earlier try of this very call was admitted, and its answer is lost with the connection: the gateway will not run it again
 * under that key. It charges what that try computed, and the answer needs a new key. A caller who named the key wants at most one.
 */
const isOwnConflict = (call: Call, { verdict }: { verdict: Verdict }, isRetry: boolean): boolean =>
  isRetry && verdict.code === 'conflict' && call.options.idempotencyKey === undefined

/** The gateway while it is well; when it is down, direct providers in order, and the gateway again last. */
function nextTarget(core: Core, call: Call, tries: ReadonlyMap<string, number>): Target | undefined {
  const nowMs = core.nowMs()
  const usable = core.direct.filter((target) => takes(target, call.request))
  const isGatewayOpen = core.breaker('gateway').state(nowMs) === 'open'
  if (!call.isGatewayDown && !(isGatewayOpen && usable.length > 0)) return core.gateway
  call.isGatewayDown = true
  const fresh = usable.filter(({ name }) => !tries.has(name))
  const well = fresh.find(({ name }) => core.breaker(name).state(nowMs) !== 'open')
  return well ?? fresh[0] ?? core.gateway
}

/** Waits until the same target may be asked again. @returns false where that would not be in time, or too many have retried. */
async function mayRetry(core: Core, call: Call, verdict: Verdict | undefined, made: number): Promise<boolean> {
  const retryAfterMs = verdict?.retryAfterMs
  if (retryAfterMs !== undefined && retryAfterMs > RETRY_AFTER_MOST_MS) return false
  const waitMs = pauseMs(made - 1, retryAfterMs, core.random())
  if (core.nowMs() + waitMs >= call.deadlineAtMs || !core.budget.spend()) return false
  await pause(waitMs, call.scope.signal)
  return true
}

export type Outcome = Won | { kind: 'failed'; verdict: Verdict; target: Target }

/** One try, or two at once where the caller asked for a hedge and the first one is slow. */
async function hedged(core: Core, call: Call, target: Target, tries: Map<string, number>): Promise<Outcome> {
  const afterMs = call.options.hedgeAfterMs ?? core.hedgeAfterMs
  const second = core.direct.find((one) => takes(one, call.request) && !tries.has(one.name))
  const hasTools = Array.isArray(call.request.body?.tools) && call.request.body.tools.length > 0
  if (afterMs === undefined || !target.isGateway || second === undefined || hasTools)
    return await one(core, call, target)
  const scopes = [scopeOf(call.scope.signal), scopeOf(call.scope.signal)] as const
  const first = one(core, call, target, scopes[0].signal)
  const early = await Promise.race([first, pause(afterMs, call.scope.signal).then(() => undefined)])
  if (early !== undefined) return early
  tries.set(second.name, (tries.get(second.name) ?? 0) + 1)
  const other = one(core, call, second, scopes[1].signal)
  const winner = await Promise.race([
    first.then(async (outcome) => (outcome.kind === 'failed' ? await other : outcome)),
    other.then(async (outcome) => (outcome.kind === 'failed' ? await first : outcome)),
  ])
  scopes[winner.target === target ? 1 : 0].abort(new Lost('another target was faster'))
  // The loser's end is nobody's any more; one that had answered all the same is not handed on, and was computed.
  const left = (outcome: Outcome) => {
    const isAnswer = outcome !== winner && outcome.kind !== 'failed'
    if (isAnswer && !outcome.target.isGateway) tell(core, call, outcome, 'interrupted', undefined)
  }
  for (const promise of [first, other]) promise.then(left).catch(() => {})
  return winner
}

class Lost extends Error {
  override readonly name: string = 'Lost'
}

/** A single try. @throws only what `signal` was aborted with. */
export async function one(
  core: Core,
  call: Call,
  target: Target,
  signal: AbortSignal = call.scope.signal,
): Promise<Outcome> {
  const startedAtMs = core.nowMs()
  const breaker = core.breaker(target.name)
  const before = breaker.state(startedAtMs)
  // An open breaker only puts a target last: where it is all there is, it is asked.
  breaker.admit(startedAtMs)
  const attemptNumber = call.attempts.length + 1
  const record: AttemptRecord = { attempt: attemptNumber, target: target.name, startedAtMs, durationMs: 0 }
  call.attempts.push(record)
  const own: Record<string, string> = {
    'idempotency-key': call.idempotencyKey,
    ...(target.isGateway
      ? {
          ...hintHeaders(call.options.hints),
          ...resumeHeader(core, call),
          'x-penstock-deadline-ms': String(Math.max(1, Math.floor(call.deadlineAtMs - startedAtMs))),
        }
      : {}),
    ...call.options.headers,
  }
  let hasFailed: boolean | undefined
  let isTold = target.isGateway
  try {
    const given = { fetch: core.fetch, timeouts: core.timeouts, signal, nowMs: core.nowMs }
    const outcome = await attempt(target, call.request, dialectFor(call.request), own, given)
    if (outcome.kind === 'failed') {
      const { verdict } = outcome
      // A limit or a mistake of the caller's says that the target is well.
      hasFailed = target.isGateway ? verdict.isGatewayDown : verdict.origin === 'provider'
      record.code = verdict.code
      if (verdict.status !== undefined) record.status = verdict.status
      if (verdict.requestId !== undefined) record.requestId = verdict.requestId
      if (!isTold) tell(core, call, { target }, 'failed', undefined)
      isTold = true
      if (target.isGateway && !verdict.isGatewayDown) core.reports.wake()
      return { ...outcome, target }
    }
    hasFailed = false
    // Whoever hands the answer on tells of it.
    isTold = true
    if (target.isGateway) core.reports.wake()
    record.status = outcome.status
    const requestId = outcome.headers.get('x-request-id') ?? outcome.headers.get('request-id') ?? undefined
    if (requestId !== undefined) record.requestId = requestId
    return { ...outcome, target, requestId }
  } finally {
    // Stopped by the caller, the deadline or a faster target: it may have cost something all the same.
    if (!isTold) tell(core, call, { target }, 'interrupted', undefined)
    const nowMs = core.nowMs()
    record.durationMs = nowMs - startedAtMs
    breaker.ended(hasFailed, nowMs)
    const after = breaker.state(nowMs)
    if (after !== before) core.hook('onBreaker', { target: target.name, state: after })
    core.hook('onAttempt', { ...record, model: modelOf(call), idempotencyKey: call.idempotencyKey })
  }
}

/** A background response is kept whatever is said. */
function resumeHeader(core: Core, { request, options }: Call): Record<string, string> {
  const isWanted = (options.resume ?? core.resume) && request.isStream && request.method === 'POST'
  return isWanted && request.body?.background !== true ? { 'x-penstock-resumable': 'true' } : {}
}

export const modelOf = ({ request }: Call): string | undefined =>
  typeof request.body?.model === 'string' ? request.body.model : request.began?.model

/** The call's own end, as its error. */
export function stopped(call: Call, error: unknown): unknown {
  const { signal } = call.scope
  if (!signal.aborted) {
    call.scope.abort(error)
    return error
  }
  if (error instanceof PenstockError) return error
  const common = { retryable: false, attempts: call.attempts, cause: signal.reason }
  if (signal.reason instanceof Deadline) {
    return new PenstockError(signal.reason.message, { ...common, code: 'timeout', origin: 'client' })
  }
  return new PenstockError('the call was aborted', { ...common, code: 'aborted', origin: 'client' })
}

function failure(call: Call, last: { verdict: Verdict; target: Target } | undefined): PenstockError {
  if (last === undefined) {
    return new PenstockError('no target could be asked', {
      code: 'gateway_unreachable',
      origin: 'gateway',
      retryable: true,
      attempts: call.attempts,
    })
  }
  const { verdict, target } = last
  return new PenstockError(verdict.message, {
    code: verdict.code,
    origin: verdict.origin,
    retryable: verdict.retryable,
    target: target.name,
    attempts: call.attempts,
    ...(verdict.status === undefined ? {} : { status: verdict.status }),
    ...(verdict.requestId === undefined ? {} : { requestId: verdict.requestId }),
    ...(verdict.retryAfterMs === undefined ? {} : { retryAfterMs: verdict.retryAfterMs }),
  })
}
