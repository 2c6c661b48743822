// The life of a request, top to bottom: plan → hold → dispatch → first content → filters → stream or collect → settle.
// Owns the order of the steps and the response; each step is a folder. The loop over targets is attempts.ts.
import type { Failure } from '../protocol/errors.ts'
import { err, ok, type Result } from '../protocol/result.ts'
import type { LimitState } from './account/contract.ts'
import { endAttempt, SETTLE_WAIT_MS } from './attempts/end.ts'
import { thrownFailure } from './attempts/failure.ts'
import type { Attempt, Taker } from './attempts/job.ts'
import { noteFailure } from './attempts/learned.ts'
import { firstToAnswer, type Job, type Progress, type Won } from './attempts.ts'
import { failureResponse, failureStatus, requestIdHeaders } from './errors.ts'
import { inputTokens, NO_USAGE, outputTokens } from './meter/usage.ts'
import { errorText, log } from './observe/log.ts'
import { findPlan } from './policy/catalog.ts'
import type { Plan } from './policy/plan.ts'
import type { ProviderEvent } from './providers/event.ts'
import type { AnswerEncoder } from './routes/answer.ts'
import { inCallersWords } from './routes/field-names.ts'
import { routeText } from './routing/trace.ts'
import { ClientStream } from './stream/client.ts'
import { type CollectedChoice, Collector } from './stream/collect.ts'
import { FilterChain } from './stream/filter.ts'
import { replay } from './stream/replay.ts'
import { SSE_HEADERS } from './stream/sse.ts'
import { Stop, Stopped } from './stream/stop.ts'
import { isWithheld, type Passed, takeFirstContent, takeFirstPassed, takeRest, takeWhole } from './stream/take.ts'
import { within } from './stream/within.ts'

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
  const progress: Progress = { attempts: 0, numbered: 0, steps: [], headSent: false }
  const stop = new Stop(call.appointments)
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

const WHOLE: Taker<CollectedChoice[]> = {
  take: takeWhole,
  fromWhole: (choices) => choices,
  isWithheld: (choices) => choices.every(({ finish }) => finish === 'content_filter'),
}

/** The beginning of a streamed answer, past its filters where `chain` is set. */
type Beginning = Passed & { chain?: FilterChain }

/** Each target's answer meets filters of its own: one that fails before anything passed them falls over like any other. */
const streamTaker = ({ filters = [] }: Call): Taker<Beginning> => ({
  take: async (taking) => {
    const first = await takeFirstContent(taking)
    if (!first.ok) return first
    if (filters.length === 0) return ok({ passed: first.value, isOver: false })
    const chain = new FilterChain(filters)
    const passed = await takeFirstPassed(taking, first.value, chain)
    return passed.ok ? ok({ ...passed.value, chain }) : passed
  },
  fromWhole: (choices, tally) => ({ passed: replay(choices, tally), isOver: true }),
  isWithheld: ({ passed, refusal }, choices) => refusal === undefined && isWithheld(passed, choices),
})

/** The answer in one piece. Nothing has reached the client before it is complete, so any failure can fall over. */
async function whole(call: Call, plan: Plan, stop: Stop, progress: Progress): Promise<Response> {
  const won = await firstToAnswer(call, plan, stop, progress, WHOLE)
  // It was read to its end: let go of before all else is stopped, its connection serves the next request.
  if (won.ok) won.value.attempt.reader?.close()
  stop.stop('done')
  if (!won.ok) return refuse(call, won.error, progress)
  const { attempt, taking, taken } = won.value
  const choices = await filtered(call, taken, attempt, taking.choices)
  const refusal = choices.ok ? undefined : choices.error
  const httpStatus = refusal === undefined ? 200 : failureStatus(refusal.code, call.encoder.errorDialect)
  await settleWinner(call, attempt, refusal, progress, httpStatus)
  if (!choices.ok) return answerFailure(call, choices.error, progress)
  const body = JSON.stringify(call.encoder.whole(choices.value, attempt.tally.counted().usage))
  return new Response(body, {
    headers: { 'content-type': 'application/json; charset=utf-8', ...responseHeaders(call, progress) },
  })
}

/** What the filters leave of a whole answer. */
async function filtered(
  { filters = [] }: Call,
  choices: CollectedChoice[],
  { tally }: Attempt,
  count: number,
): Promise<Result<CollectedChoice[], Failure>> {
  if (filters.length === 0) return ok(choices)
  const passed = await throughAll(new FilterChain(filters), replay(choices, tally))
  if (!passed.ok) return passed
  const collector = new Collector()
  for (const event of passed.value) collector.see(event)
  const left = collector.complete(count)
  return left === undefined ? err(INTERNAL) : ok(left)
}

/** What waits to be streamed: the first content, past the filters. */
type Opening = {
  plan: Plan
  won: Won<Beginning>
  chain: FilterChain | undefined
  passed: ProviderEvent[]
  isOver: boolean
}
/** A failure of an attempt that had won: its hold is still open. */
type Broken = Failure & { won?: Won<Beginning> }

/**
 * The answer as a stream. The response waits for the first content, so that a failure before it is an honest status;
 * where that takes long, the stream begins with comments and a failure comes as its first event.
 */
async function streamed(call: Call, plan: Plan, stop: Stop, progress: Progress): Promise<Response> {
  const { keepAliveMs } = call.ports.timings
  const opening = open(call, plan, stop, progress)
  const early = await within(opening, keepAliveMs, call.appointments)
  if (early !== undefined && !early.ok) {
    const { won, ...failure } = early.error
    if (won === undefined) {
      stop.stop('done')
      return refuse(call, failure, progress)
    }
    await settleWinner(call, won.attempt, failure, progress, failureStatus(failure.code, call.encoder.errorDialect))
    stop.stop('done')
    return answerFailure(call, failure, progress)
  }
  progress.headSent = true
  const headers = { ...SSE_HEADERS, ...responseHeaders(call, progress) }
  const client = new ClientStream(stop, keepAliveMs, call.appointments)
  call.waitUntil(pump(call, opening, client, stop, progress))
  return new Response(client.readable, { headers })
}

/** Until there is something for the client. */
async function open(call: Call, plan: Plan, stop: Stop, progress: Progress): Promise<Result<Opening, Broken>> {
  const result = await firstToAnswer(call, plan, stop, progress, streamTaker(call))
  if (!result.ok) return result
  const won = result.value
  const { chain, passed, isOver, refusal } = won.taken
  if (refusal !== undefined) return err({ ...refusal, won })
  const { filters = [] } = call
  if (!won.isComplete || filters.length === 0) return ok({ plan, won, chain, passed, isOver })
  try {
    const whole = await throughAll(new FilterChain(filters), passed)
    return whole.ok ? ok({ plan, won, chain: undefined, passed: whole.value, isOver }) : err({ ...whole.error, won })
  } catch (error) {
    return err({ ...thrownFailure(call, error, won.attempt), won })
  }
}

/** What filters leave of a complete answer. */
async function throughAll(chain: FilterChain, events: ProviderEvent[]): Promise<Result<ProviderEvent[], Failure>> {
  const passed = await chain.push(events)
  if (!passed.ok) return passed
  const last = await chain.end()
  return last.ok ? ok([...passed.value, ...last.value]) : last
}

/** Moves events to the client until either side ends, then settles. */
async function pump(
  call: Call,
  opening: Promise<Result<Opening, Broken>>,
  client: ClientStream,
  stop: Stop,
  progress: Progress,
): Promise<void> {
  // A bug on the way must still end the stream, and never as if it were complete.
  const opened = await opening.catch((error: unknown) => {
    log('error', 'attempts_threw', { requestId: call.requestId, error: errorText(error) })
    return err<Broken>(INTERNAL)
  })
  if (!opened.ok) {
    const { won, ...failure } = opened.error
    if (won === undefined) {
      call.onVerdict?.(failure)
      summarise(call, progress, failure.code, undefined, 200)
    } else await settleWinner(call, won.attempt, failure, progress, 200)
    const usage = won === undefined ? NO_USAGE : won.attempt.tally.counted().usage
    await client.end(await call.encoder.failure(failure, usage))
    stop.stop('done')
    return
  }
  const { attempt } = opened.value.won
  const failure = await passOn(call, opened.value, client)
  if (failure !== undefined) noteFailure(call, opened.value.plan, attempt, failure)
  // Settled before the last words: what a client has had to its end is charged, whatever dies a moment later.
  await settleWinner(call, attempt, failure, progress, 200)
  const { usage } = attempt.tally.counted()
  await client.end(await (failure === undefined ? call.encoder.end(usage) : call.encoder.failure(failure, usage)))
  stop.stop('done')
}

/** Everything from the first content on. @returns what broke it off; undefined where it is complete. */
async function passOn(call: Call, opening: Opening, client: ClientStream): Promise<Failure | undefined> {
  const { won, chain, passed, isOver } = opening
  const { attempt, taking } = won
  const send = async (batch: ProviderEvent[]) => {
    const text = call.encoder.events(batch)
    if (text === '') return
    const sendingAtMs = call.ports.nowMs()
    await client.send(text)
    attempt.clientWaitMs += call.ports.nowMs() - sendingAtMs
  }
  const pass = async (batch: ProviderEvent[]): Promise<Failure | undefined> => {
    const result = chain === undefined ? ok(batch) : await chain.push(batch)
    if (result.ok) await send(result.value)
    return result.ok ? undefined : result.error
  }
  try {
    if (isOver) {
      // An answer that is complete at the deadline is given all the same: by then all of it waits for the client.
      await send(passed).catch((error: unknown) => {
        if (!(error instanceof Stopped) || error.reason !== 'deadline') throw error
      })
      return undefined
    }
    if (chain === undefined) return await takeRest(taking, passed, pass)
    taking.stop.disarm()
    await send(passed)
    const failure = await takeRest(taking, [], pass)
    if (failure !== undefined) return failure
    const last = await chain.end()
    if (last.ok) await send(last.value)
    return last.ok ? undefined : last.error
  } catch (error) {
    return thrownFailure(call, error, attempt)
  }
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
  const { step } = attempt.candidate
  if (failure === undefined) step.isAnswered = true
  else step.failure = failure
  // An own answer may have ended elsewhere than it began.
  if (attempt.reader !== undefined) progress.label = attempt.reader.label
  const settling = endAttempt(call, attempt, { status, charge: 'customer', final: true, httpStatus })
  summarise(call, progress, status, attempt, httpStatus)
  await within(settling, SETTLE_WAIT_MS, call.appointments)
}

function refuse(call: Call, failure: Failure, progress: Progress): Response {
  call.onVerdict?.(failure)
  summarise(call, progress, failure.code, undefined, failureStatus(failure.code, call.encoder.errorDialect))
  return answerFailure(call, failure, progress)
}

const answerFailure = (call: Call, failure: Failure, progress: Progress): Response =>
  failureResponse(inCallersWords(failure, call.encoder.fieldNames), call.requestId, {
    headers: responseHeaders(call, progress),
    dialect: call.encoder.errorDialect,
  })

const INTERNAL: Failure = { code: 'internal', message: 'The gateway failed to serve this request.' }

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
    route: routeText(progress.steps),
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
  if (progress.steps.length > 0) headers['x-penstock-route'] = routeText(progress.steps)
  const { requests, tokens, warnings } = progress
  const nowMs = call.ports.nowMs()
  Object.assign(headers, limitHeaders('requests', requests, nowMs), limitHeaders('tokens', tokens, nowMs))
  if (warnings !== undefined && warnings.length > 0)
    headers['x-penstock-limit-warning'] = headerText(warnings.join('; '))
  return { ...headers, ...call.answerHeaders }
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
