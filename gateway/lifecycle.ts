// The life of a request, top to bottom: plan → hold → dispatch → first content → stream or collect → settle.
// Owns the order of the steps and the response; each step is a folder. The loop over targets is attempts.ts.
import type { Failure } from '../protocol/errors.ts'
import { err, type Result } from '../protocol/result.ts'
import type { LimitState } from './account/contract.ts'
import {
  type Attempt,
  endAttempt,
  firstToAnswer,
  type Job,
  type Progress,
  SETTLE_WAIT_MS,
  thrownFailure,
  type Won,
} from './attempts.ts'
import { failureBody, failureResponse, failureStatus, requestIdHeaders } from './errors.ts'
import { inputTokens, outputTokens } from './meter/usage.ts'
import { errorText, log } from './observe/log.ts'
import { findPlan } from './policy/catalog.ts'
import type { Plan } from './policy/plan.ts'
import type { ProviderEvent } from './providers/event.ts'
import type { AnswerEncoder } from './routes/answer.ts'
import { ClientStream } from './stream/client.ts'
import { SSE_HEADERS, sseData } from './stream/sse.ts'
import { Stop } from './stream/stop.ts'
import { takeFirstContent, takeRest, takeWhole } from './stream/take.ts'

export type Call = Job & {
  encoder: AnswerEncoder
  /** Aborts when the client's connection ends. */
  clientGone: AbortSignal
}

/**
 * Serves one generation request. Every hold it makes is ended, whatever happens: the promise must be kept alive by
 * `waitUntil`, since the client may leave before it resolves.
 */
export async function serve(call: Call): Promise<Response> {
  const { env, ports, request } = call
  const progress: Progress = { attempts: 0, headSent: false }
  const stop = new Stop()
  stop.arm(Math.max(0, call.deadlineAtMs - ports.nowMs()), 'deadline')
  if (call.clientGone.aborted) stop.stop('client_gone')
  else call.clientGone.addEventListener('abort', () => stop.stop('client_gone'), { once: true })

  const plan = await findPlan(call.principal, request.model, env, ports.nowMs())
  if (!plan.ok) {
    stop.stop('done')
    return refuse(call, plan.error, progress)
  }
  return call.isStream ? streamed(call, plan.value, stop, progress) : whole(call, plan.value, stop, progress)
}

/** The answer in one piece. Nothing has reached the client before it is complete, so any failure can fall over. */
async function whole(call: Call, plan: Plan, stop: Stop, progress: Progress): Promise<Response> {
  const won = await firstToAnswer(call, plan, stop, progress, takeWhole)
  stop.stop('done')
  if (!won.ok) return refuse(call, won.error, progress)
  const { attempt, taken } = won.value
  await settleWinner(call, attempt, undefined, progress, 200)
  const body = JSON.stringify(call.encoder.whole(taken, attempt.tally.counted().usage))
  return new Response(body, {
    headers: { 'content-type': 'application/json; charset=utf-8', ...responseHeaders(call, progress) },
  })
}

/**
 * The answer as a stream. The response waits for the first content, so that a failure before it is an honest status;
 * where that takes long, the stream begins with comments and a failure comes as its first event.
 */
async function streamed(call: Call, plan: Plan, stop: Stop, progress: Progress): Promise<Response> {
  const { keepAliveMs } = call.ports.timings
  const winning = firstToAnswer(call, plan, stop, progress, takeFirstContent)
  const early = await within(winning, keepAliveMs)
  if (early !== undefined && !early.ok) {
    stop.stop('done')
    return refuse(call, early.error, progress)
  }
  progress.headSent = true
  const headers = { ...SSE_HEADERS, ...responseHeaders(call, progress) }
  const client = new ClientStream(stop, keepAliveMs)
  call.waitUntil(pump(call, winning, client, stop, progress))
  return new Response(client.readable, { headers })
}

/** Moves events to the client until either side ends, then settles. */
async function pump(
  call: Call,
  winning: Promise<Result<Won<ProviderEvent[]>, Failure>>,
  client: ClientStream,
  stop: Stop,
  progress: Progress,
): Promise<void> {
  // A bug on the way must still end the stream, and never as if it were complete.
  const won = await winning.catch((error: unknown) => {
    log('error', 'attempts_threw', { requestId: call.requestId, error: errorText(error) })
    return err<Failure>({ code: 'internal', message: 'The gateway failed to serve this request.' })
  })
  if (!won.ok) {
    await client.end(sseData(failureBody(won.error)))
    stop.stop('done')
    summarise(call, progress, won.error.code, undefined, 200)
    return
  }
  const { attempt, taking, taken } = won.value
  let failure: Failure | undefined
  try {
    failure = await takeRest(taking, taken, async (batch) => {
      const text = call.encoder.events(batch)
      if (text !== '') await client.send(text)
    })
  } catch (error) {
    failure = thrownFailure(call, error, attempt.stop, attempt.target)
  }
  // Settled before the last words: what a client has had to its end is charged, whatever dies a moment later.
  await settleWinner(call, attempt, failure, progress, 200)
  const { usage } = attempt.tally.counted()
  await client.end(failure === undefined ? call.encoder.end(usage) : sseData(failureBody(failure)))
  stop.stop('done')
}

/**
 * Ends the winner's hold. Its content reached the client, so the client pays for what was computed. Resolves when that
 * is durable, or at SETTLE_WAIT_MS: an account that fails does not keep the answer, and the retries go on behind.
 */
async function settleWinner(
  call: Call,
  attempt: Attempt,
  failure: Failure | undefined,
  progress: Progress,
  httpStatus: number,
): Promise<void> {
  const status = failure?.code ?? 'ok'
  const settling = endAttempt(call, attempt, { status, charge: 'customer', final: true, httpStatus })
  summarise(call, progress, status, attempt, httpStatus)
  await within(settling, SETTLE_WAIT_MS)
}

function refuse(call: Call, failure: Failure, progress: Progress): Response {
  summarise(call, progress, failure.code, undefined, failureStatus(failure.code))
  return failureResponse(failure, call.requestId, { headers: responseHeaders(call, progress) })
}

/** One line per request: ids, counts and durations; never text of the caller. */
function summarise(
  call: Call,
  progress: Progress,
  outcome: string,
  attempt: Attempt | undefined,
  httpStatus: number,
): void {
  const counted = attempt?.tally.counted()
  log('info', 'request', {
    requestId: call.requestId,
    org: call.principal.orgId,
    key: call.principal.keyPrefix,
    model: call.request.model,
    provider: progress.target?.provider,
    target: progress.label,
    attempts: progress.attempts,
    stream: call.isStream,
    status: httpStatus,
    outcome,
    inputTokens: counted && inputTokens(counted.usage),
    outputTokens: counted && outputTokens(counted.usage),
    usageSource: counted?.source,
    firstTokenMs: attempt?.firstTokenAtMs === undefined ? undefined : attempt.firstTokenAtMs - call.receivedAtMs,
    totalMs: call.ports.nowMs() - call.receivedAtMs,
  })
}

function responseHeaders(call: Call, progress: Progress): Record<string, string> {
  const headers = requestIdHeaders(call.requestId)
  if (progress.attempts > 0) headers['x-penstock-attempts'] = String(progress.attempts)
  if (progress.label !== undefined) headers['x-penstock-target'] = progress.label
  const { requests, tokens, warnings } = progress
  const nowMs = call.ports.nowMs()
  Object.assign(headers, limitHeaders('requests', requests, nowMs), limitHeaders('tokens', tokens, nowMs))
  if (warnings !== undefined && warnings.length > 0)
    headers['x-penstock-limit-warning'] = headerText(warnings.join('; '))
  return headers
}

/** The usual headers of one limit; a limit that never renews has no reset. */
function limitHeaders(
  unit: 'requests' | 'tokens',
  state: LimitState | undefined,
  nowMs: number,
): Record<string, string> {
  if (state === undefined) return {}
  const { limit, remaining, resetAtMs } = state
  return {
    [`x-ratelimit-limit-${unit}`]: String(limit),
    [`x-ratelimit-remaining-${unit}`]: String(remaining),
    ...(resetAtMs === undefined
      ? {}
      : { [`x-ratelimit-reset-${unit}`]: `${Math.max(0, Math.ceil(resetAtMs - nowMs))}ms` }),
  }
}

/** A soft limit can carry a caller's own word, and a header takes no line break and no letter outside ASCII. */
const headerText = (text: string): string => text.slice(0, WARNING_CHARS_MAX).replace(/[^\x20-\x7e]/g, '?')
/** Some proxies refuse a response whose headers are larger than a few kilobytes. */
const WARNING_CHARS_MAX = 1024

/** The promise's value if it comes in time. */
async function within<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: ReturnType<typeof setTimeout> | null = null
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
