// An own backend's answer that outlives the backend. Owns reading it, when it goes on at another backend, how long one is waited
// for, and how often it may move. What of an answer is told twice is continuation.ts, asking a backend is backend.ts.
//
//   reading ──usage | error──▶ over
//      ├─ body broken off, backend silent and gone, `moved`, engine lost
//      ▼
//   waiting ──another backend takes it──▶ reading     (nothing had begun, or none takes it in time: the failure, over)
//
// Where the gateway's process died and another one goes on, what was kept of the answer is read first, in place of a backend's.
import type { CapacityFrame } from '../../protocol/capacity.ts'
import type { DispatchEvent, DispatchRequest, DispatchUsage } from '../../protocol/dispatch.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { KvNews } from '../../protocol/report.ts'
import type { Result } from '../../protocol/result.ts'
import { errorText, log } from '../observe/log.ts'
import type { FleetSnapshot } from '../routing/snapshot.ts'
import { type KeptAnswer, newsOf } from './answer-journal.ts'
import type { Broken, Continuation } from './continuation.ts'
import { DispatchDecoder } from './dispatch-decoder.ts'
import type { ProviderEvent } from './event.ts'
import { enginesOf, FailedBackends } from './failed-backends.ts'
import { providerEvents } from './fleet-events.ts'
import type { OpenContext } from './provider.ts'
import { readToEnd } from './stream-end.ts'

/** A fleet that is replaced host by host moves a long answer once for each host at worst; more is a fleet that does not stand. */
const MOVES_MAX = 8
/**
 * A request that ends every engine which computes it must not end the fleet's: backends lost in a row, each before it came this
 * many tokens further.
 */
const FRUITLESS_MAX = 2
const FRUITFUL_TOKENS = 16
/**
 * Where all have left, the fleet is being shut down, and this gateway with it: its stop gives a stream some five seconds after the
 * agents' own, in which it still has to be settled.
 */
const LAST_WAIT_MS = 4000
/** Between two looks for a backend: a look costs a snapshot each 250 ms at most. Up to half of it more, so that streams spread. */
const LOOK_MS = 200
/** In one look: a fleet where three in a row refuse is full, not unlucky. */
const ASKED_PER_LOOK_MAX = 3
/** A backend that named no time to come back. */
const REST_MS = 1000
/** How often the fleet is asked whether a silent backend lives, and how long one is silent before it is asked. */
const LIVENESS_CHECK_MS = 1000
/** A backend that has left, or that a new Fleet object has not heard from yet, may still be at work on what it has. */
const ABSENT_SILENCE_MS = 10_000

/** One dispatch that is being answered. */
export type Leg = {
  backendId: string
  /** As they were when it was asked. */
  engines: string
  body: ReadableStream<Uint8Array>
  /** Ends the call. */
  abandon: AbortController
  /** Something was computed: once. */
  firstToken: () => void
  /** The agent's last count, where the answer came to its end. */
  counted?: (usage: DispatchUsage) => void
  /** Nothing of it is in flight any more. Safe to call again. */
  end: () => void
}

/** A backend that did not take it; undefined: there is none to ask. */
type NotTaken = { backendId: string; failure: Failure } | undefined

/** The fleet, as the stream needs it. */
export type StreamFleet = {
  model: string
  /** Of the first dispatch. */
  seed: number
  snapshot: () => Promise<FleetSnapshot>
  observe: (backendId: string, frame: CapacityFrame) => void
  hear: (backendId: string, news: KvNews) => void
  distrust: (backendId: string) => void
  reopen: (
    resume: NonNullable<DispatchRequest['resume']>,
    leftOut: Set<string>,
    deadlineInMs: number,
  ) => Promise<Result<Leg, NotTaken>>
}

export class FleetStream {
  readonly #fleet: StreamFleet
  readonly #continuation: Continuation
  readonly #context: OpenContext
  readonly #deadlineAtMs: number
  readonly #failed = new FailedBackends()
  readonly #kept: KeptAnswer | undefined
  /** Undefined while what was kept is read. */
  #leg: Leg | undefined
  #isClosed = false
  #moves = 0
  #fruitless = 0
  #tokensAtMove = 0

  constructor(
    first: Leg | KeptAnswer,
    fleet: StreamFleet,
    continuation: Continuation,
    context: OpenContext,
    deadlineAtMs: number,
  ) {
    if ('entries' in first) this.#kept = first
    else {
      this.#leg = first
      context.journal?.leg(context.attempt, { leg: first.backendId, seed: fleet.seed }, true)
    }
    this.#fleet = fleet
    this.#continuation = continuation
    this.#context = context
    this.#deadlineAtMs = deadlineAtMs
  }

  /** Who answers now. */
  get label(): string {
    return `fleet/${this.#backendId}`
  }

  get #backendId(): string {
    return this.#leg?.backendId ?? lastLegOf(this.#kept)
  }

  close(): void {
    this.#isClosed = true
    this.#leg?.end()
  }

  async *events(): AsyncGenerator<ProviderEvent[]> {
    for (;;) {
      const broken = yield* this.#leg === undefined ? this.#readKept() : this.#read(this.#leg)
      if (broken === undefined) return
      const failure = yield* this.#move(broken)
      if (failure === undefined) continue
      yield providerEvents([failure])
      return
    }
  }

  /** What the process before this one heard, taken as if it came now. @returns as `#read`. */
  async *#readKept(): AsyncGenerator<ProviderEvent[], Broken | undefined> {
    const continuation = this.#continuation
    let broken: Broken | undefined
    for (const [at, entry] of (this.#kept?.entries ?? []).entries()) {
      if ('leg' in entry) {
        if (at > 0) continuation.resume()
        continue
      }
      const taken = continuation.take(entry.told)
      broken = taken.broken
      yield providerEvents(taken.events)
      if (taken.isOver) return undefined
    }
    if (broken?.reason === 'diverged') return broken
    const lost = continuation.lost()
    if (lost.events.length > 0) yield providerEvents(lost.events)
    return lost.broken === undefined ? undefined : { ...lost.broken, reason: 'gateway_lost' }
  }

  /** The running dispatch's events. @returns what broke it off; undefined where the answer is over. */
  async *#read(leg: Leg): AsyncGenerator<ProviderEvent[], Broken | undefined> {
    const { backendId, body, abandon, firstToken } = leg
    const { signal, journal, attempt } = this.#context
    const reader = body.getReader()
    const decoder = new DispatchDecoder()
    const silence = this.#watch(backendId, abandon)
    let error = 'the answer ended early'
    let isComputing = false
    let isRead = false
    try {
      for (;;) {
        const { done, value } = await reader.read()
        silence.broken()
        const decoded = done ? decoder.end() : decoder.push(value)
        for (const frame of decoded.frames) this.#fleet.observe(backendId, frame)
        for (const news of decoded.kv) this.#fleet.hear(backendId, news)
        for (const event of decoded.events) if (event.type === 'usage') leg.counted?.(event.usage)
        if (journal !== undefined) journal.told(attempt, newsOf(decoded.events))
        if (!isComputing && decoded.events.some(isComputed)) {
          isComputing = true
          firstToken()
        }
        const { events, isOver, broken } = this.#continuation.take(decoded.events)
        if (decoded.events.length > 0) yield providerEvents(events)
        isRead = done || isOver
        if (isOver && !done) this.#context.waitUntil(readToEnd(reader))
        if (isOver || broken !== undefined) return broken
        if (done) break
      }
    } catch (thrown) {
      if (signal.aborted) throw thrown
      error = errorText(thrown)
    } finally {
      silence.end()
      // Closing the answer is the cancel: an agent still generating stops at its next write.
      if (!isRead) await reader.cancel().catch(() => {})
    }
    this.#fleet.distrust(backendId)
    log('warn', 'backend_lost', { requestId: this.#context.requestId, backendId, error })
    const { events, broken } = this.#continuation.lost()
    if (events.length > 0) yield providerEvents(events)
    return broken
  }

  /** Ends the call where the backend is silent and the fleet has not heard from it either: its host may be gone without a word. */
  #watch(backendId: string, abandon: AbortController): { broken: () => void; end: () => void } {
    const { nowMs } = this.#context
    let heardAtMs = nowMs()
    const check = async () => {
      const silentMs = nowMs() - heardAtMs
      if (silentMs < LIVENESS_CHECK_MS) return
      const snapshot = await this.#fleet.snapshot()
      const backend = snapshot.backends.find((one) => one.backendId === backendId)
      const isGone = backend === undefined ? silentMs >= ABSENT_SILENCE_MS : backend.reportAgeMs > snapshot.staleAfterMs
      if (isGone && nowMs() - heardAtMs >= silentMs) abandon.abort(new Error('the backend stopped reporting'))
    }
    const timer = setInterval(() => void check().catch(() => {}), LIVENESS_CHECK_MS)
    return {
      broken: () => {
        heardAtMs = nowMs()
      },
      end: () => clearInterval(timer),
    }
  }

  /** Finds a backend that goes on. @returns what the caller is told where none does. */
  async *#move(broken: Broken): AsyncGenerator<ProviderEvent[], ErrorEvent | undefined> {
    const context = this.#context
    const leg = this.#leg
    const from = this.#backendId
    const { nowMs, requestId } = context
    const { reason, failure } = broken
    leg?.end()
    if (reason === 'engine_lost') this.#fleet.distrust(from)
    if (!this.#mayMove(broken)) return failure
    const brokeAtMs = nowMs()
    // Where the gateway died its backend is as good as any.
    if (leg !== undefined) this.#failed.note(from, leg.engines, brokeAtMs, restAfter(broken))
    this.#tokensAtMove = this.#continuation.tokensSampled
    const resume = this.#continuation.resume()
    // Before its first content the answer can still begin elsewhere, at a vendor too: nobody waits for an own backend then. A gateway
    // that is new has yet to hear from its backends.
    const mayWait = this.#continuation.hasPassed || reason === 'gateway_lost'
    const untilMs = brokeAtMs + (mayWait ? context.resumeWaitMs : 0)
    for (;;) {
      const next = await this.#look(resume)
      if (next !== undefined) {
        this.#moves++
        this.#leg = next
        context.journal?.leg(context.attempt, { leg: next.backendId, seed: this.#fleet.seed }, false)
        if (this.#isClosed) next.end()
        const waitedMs = nowMs() - brokeAtMs
        const fields = { from, to: next.backendId, reason, tokens: this.#tokensAtMove, waitedMs }
        log('warn', 'stream_moved', { requestId, ...fields })
        context.onMove?.({ from, reason })
        return undefined
      }
      if (nowMs() >= this.#deadlineAtMs) return late(failure)
      const isLast =
        reason === 'draining' && nowMs() - brokeAtMs >= LAST_WAIT_MS && !(await this.#isServed().catch(() => true))
      if (isLast || nowMs() >= untilMs) break
      yield []
      const waitMs = Math.min(LOOK_MS * (1 + context.random() / 2), this.#deadlineAtMs - nowMs())
      await pause(waitMs, context.signal)
    }
    log('warn', 'stream_not_moved', { requestId, from, reason, waitedMs: nowMs() - brokeAtMs })
    return failure
  }

  /** Anybody serves the model, whatever room there is. */
  async #isServed(): Promise<boolean> {
    const { model, snapshot } = this.#fleet
    const { backends, staleAfterMs } = await snapshot()
    return backends.some(
      ({ frames, reportAgeMs }) => reportAgeMs <= staleAfterMs && frames.some((frame) => frame.model === model),
    )
  }

  #mayMove({ reason }: Broken): boolean {
    if (reason === 'diverged') {
      log('error', 'stream_diverged', { requestId: this.#context.requestId, backendId: this.#backendId })
      return false
    }
    const hasComeFurther = this.#continuation.tokensSampled - this.#tokensAtMove >= FRUITFUL_TOKENS
    if (hasComeFurther) this.#fruitless = 0
    else if (reason !== 'draining' && this.#moves > 0) this.#fruitless++
    return this.#continuation.hasBegun && this.#moves < MOVES_MAX && this.#fruitless < FRUITLESS_MAX
  }

  /** Asks those backends that can be asked now. */
  async #look(resume: NonNullable<DispatchRequest['resume']>): Promise<Leg | undefined> {
    const { nowMs, signal } = this.#context
    for (let asked = 0; asked < ASKED_PER_LOOK_MAX; asked++) {
      const leftMs = this.#deadlineAtMs - nowMs()
      if (leftMs <= 0) return undefined
      const snapshot = await this.#fleet.snapshot().catch(() => undefined)
      if (snapshot === undefined) return undefined
      const answer = await this.#fleet.reopen(resume, this.#failed.leftOut(snapshot, nowMs()), leftMs)
      if (answer.ok && signal.aborted) answer.value.end()
      signal.throwIfAborted()
      if (answer.ok) return answer.value
      if (answer.error === undefined) return undefined
      const { backendId, failure } = answer.error
      this.#failed.note(backendId, enginesOf(snapshot, backendId), nowMs(), restMs(failure))
    }
    return undefined
  }
}

type ErrorEvent = Extract<DispatchEvent, { type: 'error' }>

/** Who told the end of what was kept. */
function lastLegOf(kept: KeptAnswer | undefined): string {
  const last = kept?.entries.findLast((entry) => 'leg' in entry)
  return last !== undefined && 'leg' in last ? last.leg : ''
}

const isComputed = ({ type }: DispatchEvent): boolean =>
  type === 'tokens' || type === 'delta' || type === 'thought' || type === 'tool_call' || type === 'finish'

/** How long a backend that left an answer is let alone; undefined: it is gone, or seems so. */
function restAfter({ reason, failure }: Broken): number | undefined {
  if (reason === 'overloaded') return failure.retryAfterMs ?? REST_MS
  return reason === 'refused' ? Number.POSITIVE_INFINITY : undefined
}

/** What a backend's refusal says of when to ask again; undefined: it could not be reached. */
function restMs({ code, kind, retryAfterMs }: Failure): number | undefined {
  if (kind === 'connect') return undefined
  const passes = code === 'overloaded' || code === 'engine_lost' || code === 'no_target'
  return passes ? (retryAfterMs ?? REST_MS) : Number.POSITIVE_INFINITY
}

const late = ({ usage }: ErrorEvent): ErrorEvent => ({
  type: 'error',
  code: 'deadline_exceeded',
  message: 'The deadline passed before the answer was complete.',
  ...(usage === undefined ? {} : { usage }),
})

/** @throws the signal's reason. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  await new Promise<void>((resolve) => {
    const done = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal.addEventListener('abort', done)
  })
  signal.throwIfAborted()
}
