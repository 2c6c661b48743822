// The Durable Object of stored responses. Owns who may touch one, its life and its end; the tables are run-store.ts, the work of
// a background response runner.ts.
//
//   keep ───────────────────────────▶ ended ──30 days──▶ (nothing)
//   start while this process is being replaced ─▶ waiting ─▶ begun by the next one: running
//   start ─▶ running ──runner ends──▶ ended                ▲
//              │ └──cancel──▶ ended     └──────remove──────┤
//              └──refused before anything was begun────────┘
//
// One object has a share of an organisation's responses, not a single one: off Cloudflare each object that ever was leaves a
// file behind, and nothing may grow with the number of requests for ever. An object that finds a response running without a
// runner was restarted in the middle: where nothing of its output was told it is begun again, once, under the hold that it had; else the
// response has failed, and its hold ends by the account's own clock.
import { DurableObject } from 'cloudflare:workers'
import type { ResponseObject } from '../../protocol/dialects/responses.ts'
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Env } from '../env.ts'
import { life } from '../handover/life.ts'
import { packed, unpacked } from '../handover/packed.ts'
import { errorText, log } from '../observe/log.ts'
import { within } from '../stream/within.ts'
import { LiveRun } from './live-run.ts'
import { type RunHead, RunStore } from './run-store.ts'
import { type RunJob, Runner } from './runner.ts'
import { EVENTS_KEPT_MS, mayRead, type Owner, RESPONSE_KEPT_MS } from './stored-run.ts'

/** A follower's longest wait in one call; then it asks again. */
const WAIT_MAX_MS = 10_000
/** Longer than a healthy account takes to say no. A refusal that comes later is told by the response. */
const VERDICT_WAIT_MS = 1_000
/** Background responses of one object at a time: each may have some 30 MB in memory, and most have very little. */
const RUNNING_MAX = 64
/** Of the 10 GB that an object may store. Past it nothing new is kept here until old responses go. */
const STORED_BYTES_MAX = 8 * 1024 ** 3
/** `response.created`, `response.queued`, `response.in_progress`. */
const LAST_EVENT_BEFORE_OUTPUT = 2
/** Between two looks whether what waits can begin; whoever follows it waits as long. */
const WAITING_LOOK_MS = 1_000
/** Responses that one alarm clears; the next follows at once. */
const SWEEP_ROWS_MAX = 200

export type Kept = {
  owner: Owner
  createdAtMs: number
  /** A ResponseObject as JSON. */
  response: string
  /** The items of its conversation up to its own output, as JSON. */
  items: string
}

export type Followed = {
  /** Events as they are sent, blank lines included; empty where none came in time. */
  text: string
  /** Number of the last of them; what was asked for where there is none. */
  last: number
  /** None will follow. */
  isOver: boolean
}

/** A response and what stands before its output. */
export type Conversation = { response: string; items: string }

const notFound: Failure = { code: 'not_found', message: 'There is no such response.' }
const full: Failure = {
  code: 'overloaded',
  message: 'No more background responses can be taken on right now.',
  retryAfterMs: 5_000,
}

/** What is to be done. `isDeferred`: it was never begun; else its hold may be taken already, and is found again. */
type Undone = { job: RunJob; isDeferred: boolean }
type Made = { runner: Runner; live: LiveRun }

export class Runs extends DurableObject<Env> {
  /** Instance fields are out of reach for Workers RPC; the suites swap it. */
  now: () => number = () => Date.now()
  readonly #store: RunStore
  readonly #live = new Map<string, LiveRun>()
  #alarmAtMs = Number.POSITIVE_INFINITY

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#store = new RunStore(ctx.storage.sql)
    for (const name of this.#store.running()) {
      if (!this.#isWaiting(name)) this.#interrupted(name)
    }
    this.#beginWaiting()
  }

  /** Keeps a response that has ended; one that is there already stays as it is. @throws Error where there is no room. */
  async keep(name: string, { owner, createdAtMs, response, items }: Kept): Promise<void> {
    if (this.#store.head(name) !== undefined) return
    if (this.#isFull()) throw new Error('the storage of responses is full')
    const expiresAtMs = createdAtMs + RESPONSE_KEPT_MS
    this.ctx.storage.transactionSync(() => {
      this.#store.putHead(name, { owner, state: 'ended', isBackground: false, expiresAtMs })
      this.#store.putText(name, 'items', items)
      this.#store.putText(name, 'response', response)
    })
    this.#wakeAt(expiresAtMs)
  }

  /**
   * Begins a background response and answers how it stands: queued. Under an idempotency key the second call answers how the
   * first one's response stands, and runs nothing. One that is refused (a limit, the budget, no target) is told to the
   * caller and leaves nothing here: whoever is over a limit gets no storage by asking.
   */
  async start(job: RunJob): Promise<Result<string, Failure>> {
    const { name } = job
    const begun = this.#begin(job)
    if (!begun.ok) return begun
    const live = this.#live.get(name)
    if (live?.runner === undefined) return begun
    const refusal = await within(live.runner.verdict, VERDICT_WAIT_MS)
    if (refusal === undefined) return begun
    if (this.#live.get(name) === live) this.#live.delete(name)
    if (!this.#live.has(name)) this.ctx.storage.transactionSync(() => this.#store.remove(name))
    live.wake()
    return err(refusal)
  }

  #begin(job: RunJob): Result<string, Failure> {
    const { name, owner } = job
    const { receivedAtMs, idempotency } = job.carried
    const known = this.#store.head(name)
    if (known !== undefined) {
      const isSame = known.bodyHash !== undefined && known.bodyHash === idempotency?.bodyHash
      // Without a key the name is of this one call: it has come twice, since its answer was lost.
      const isRepeated = known.bodyHash === undefined && idempotency === undefined
      if ((isSame || isRepeated) && mayRead(known.owner, owner)) return ok(this.#store.text(name, 'response'))
      return err({ code: 'conflict', message: 'This idempotency key belongs to another request. Use a new key.' })
    }
    if (this.#store.running().length >= RUNNING_MAX || this.#isFull()) return err(full)
    const made = this.#make(job)
    const { runner } = made
    const expiresAtMs = receivedAtMs + RESPONSE_KEPT_MS
    const response = JSON.stringify(runner.response())
    this.ctx.storage.transactionSync(() => {
      const bodyHash = idempotency === undefined ? {} : { bodyHash: idempotency.bodyHash }
      this.#store.putHead(name, { owner, state: 'running', isBackground: true, expiresAtMs, ...bodyHash })
      this.#store.putText(name, 'items', job.items)
      this.#store.putText(name, 'response', response)
      this.#store.append(name, runner.begin())
      this.#store.putText(name, 'job', packed({ job, isDeferred: life.defersRuns } satisfies Undone))
    })
    // What runs here ends here; this process has to wait for it before it can be replaced.
    if (life.defersRuns) this.#wakeAt(this.now() + WAITING_LOOK_MS)
    else this.#run(name, made)
    return ok(response)
  }

  /** Those that came while the process before this one was being replaced, or that it had told nothing of when it died. */
  #beginWaiting(): void {
    const waiting = this.#store.running().filter((name) => this.#isWaiting(name))
    if (waiting.length === 0) return
    if (life.defersRuns) return this.#wakeAt(this.now() + WAITING_LOOK_MS)
    for (const name of waiting) {
      try {
        this.#beginNow(name)
      } catch (error) {
        // Of another release, perhaps: the other responses that are kept here must not be lost with it.
        log('error', 'run_not_begun', { run: name, error: errorText(error) })
        this.#store.dropText(name, 'job')
        this.#interrupted(name)
      }
    }
  }

  #isWaiting(name: string): boolean {
    return !this.#live.has(name) && this.#store.hasText(name, 'job')
  }

  #beginNow(name: string): void {
    // Written by this class alone.
    const { job, isDeferred } = unpacked(this.#store.text(name, 'job')) as Undone
    const { receivedAtMs, deadlineAtMs, deadlineIsCallers } = job.carried
    // The hold of one that was begun ends by its first deadline.
    const waitedMs = deadlineIsCallers || !isDeferred ? 0 : Math.max(0, this.now() - receivedAtMs)
    const made = this.#make({ ...job, carried: { ...job.carried, deadlineAtMs: deadlineAtMs + waitedMs } })
    this.ctx.storage.transactionSync(() => {
      this.#store.dropEvents(name)
      this.#store.append(name, made.runner.begin())
      // Once: what ends the process that begins it must not end each that follows.
      this.#store.dropText(name, 'job')
    })
    this.#run(name, made)
  }

  #run(name: string, { runner, live }: Made): void {
    this.#live.set(name, live)
    life.runBegan()
    this.ctx.waitUntil(runner.run().finally(() => life.runEnded()))
  }

  #make(job: RunJob): Made {
    const { name } = job
    const isOurs = () => this.#live.get(name) === live
    const live: LiveRun = new LiveRun({
      write: (text) => {
        if (isOurs()) this.#write(name, text)
      },
      lose: () => {
        if (isOurs()) this.#lose(name)
      },
    })
    const runner = new Runner(job, this.env, (work) => this.ctx.waitUntil(work), {
      append: (text) => live.append(text),
      started: (response) => this.#store.putText(name, 'response', response),
      ended: (response, wasRefused) => {
        if (isOurs()) this.#ended(name, live, response, wasRefused)
      },
    })
    live.runner = runner
    return { runner, live }
  }

  /** The response as it stands, as JSON. */
  async read(name: string, asking: Owner): Promise<Result<string, Failure>> {
    return this.#find(name, asking) === undefined ? err(notFound) : ok(this.#store.text(name, 'response'))
  }

  async state(name: string, asking: Owner): Promise<Result<'running' | 'ended', Failure>> {
    const head = this.#find(name, asking)
    return head === undefined ? err(notFound) : ok(head.state)
  }

  /** The items that stand before its output, as JSON. */
  async items(name: string, asking: Owner): Promise<Result<string, Failure>> {
    return this.#find(name, asking) === undefined ? err(notFound) : ok(this.#store.text(name, 'items'))
  }

  /** What a request that goes on from here needs. */
  async conversation(name: string, asking: Owner): Promise<Result<Conversation, Failure>> {
    const head = this.#find(name, asking)
    if (head === undefined) return err(notFound)
    if (head.state === 'running') {
      return err({ code: 'conflict', message: 'That response is still in progress; wait for its end to continue it.' })
    }
    return ok({ response: this.#store.text(name, 'response'), items: this.#store.text(name, 'items') })
  }

  /**
   * Events after a number; waits for them where there are none yet.
   * @param after Number of an event, or -1.
   */
  async follow(name: string, asking: Owner, after: number, waitMs: number): Promise<Result<Followed, Failure>> {
    const before = this.#find(name, asking)
    if (before === undefined) return err(notFound)
    if (!before.isBackground) {
      const message = 'Only a response that was created with "background": true can be streamed again.'
      return err({ code: 'invalid_request', message, param: 'stream' })
    }
    if (this.#isWaiting(name) && waitMs > 0) await new Promise((resolve) => setTimeout(resolve, WAITING_LOOK_MS))
    const live = this.#live.get(name)
    if (live !== undefined && waitMs > 0 && after >= this.#store.lastEvent(name)) {
      if (live.isCrowded) {
        const message = 'Too many clients follow this response already.'
        return err({ code: 'concurrency_limited', message, retryAfterMs: 1000 })
      }
      await live.news(Math.min(waitMs, WAIT_MAX_MS))
    }
    const head = this.#find(name, asking)
    if (head === undefined) return err(notFound)
    if (head.areEventsLost === true) {
      const message = 'The events of this response are not kept any more; get it without "stream".'
      return err({ code: 'invalid_request', message, param: 'stream' })
    }
    const page = this.#store.page(name, after)
    const last = page?.last ?? after
    // What is not live ends here, whatever its state says: nobody asks in a loop for events that will never come.
    const isOver = !this.#live.has(name) && !this.#isWaiting(name) && last >= this.#store.lastEvent(name)
    return ok({ text: page?.text ?? '', last, isOver })
  }

  /** Ends a background response that runs; one that has ended stays as it is. */
  async cancel(name: string, asking: Owner): Promise<Result<string, Failure>> {
    const head = this.#find(name, asking)
    if (head === undefined) return err(notFound)
    if (!head.isBackground) {
      const message = 'Only a response that was created with "background": true can be cancelled.'
      return err({ code: 'invalid_request', message })
    }
    if (this.#isWaiting(name)) this.#beginNow(name)
    this.#live.get(name)?.runner?.cancel()
    return ok(this.#store.text(name, 'response'))
  }

  /** Deletes the response and all that came with it; one that runs is cancelled first. */
  async remove(name: string, asking: Owner): Promise<Result<true, Failure>> {
    if (this.#find(name, asking) === undefined) return err(notFound)
    this.#live.get(name)?.runner?.cancel()
    this.ctx.storage.transactionSync(() => this.#store.remove(name))
    return ok(true)
  }

  override async alarm(): Promise<void> {
    this.#alarmAtMs = Number.POSITIVE_INFINITY
    this.#beginWaiting()
    const nowMs = this.now()
    this.ctx.storage.transactionSync(() => {
      for (const name of this.#store.due(nowMs, SWEEP_ROWS_MAX)) this.#sweep(name, nowMs)
    })
    this.#wakeAt(this.#store.nextDueAtMs())
  }

  #sweep(name: string, nowMs: number): void {
    const head = this.#store.head(name)
    if (head === undefined) return
    if (nowMs >= head.expiresAtMs) return this.#store.remove(name)
    this.#store.dropEvents(name)
    const { eventsUntilMs: _, ...rest } = head
    this.#store.putHead(name, { ...rest, areEventsLost: true })
  }

  /** The response, for those who may know of it. */
  #find(name: string, asking: Owner): RunHead | undefined {
    const head = this.#store.head(name)
    if (head === undefined || !mayRead(head.owner, asking) || this.now() >= head.expiresAtMs) return undefined
    return head
  }

  #isFull(): boolean {
    return this.ctx.storage.sql.databaseSize > STORED_BYTES_MAX
  }

  /** From a live run: a batch of events. */
  #write(name: string, text: string): void {
    if (this.#store.head(name) === undefined) return
    this.ctx.storage.transactionSync(() => {
      this.#store.append(name, text)
      // What was told cannot be told again: another life would cut it into other events.
      if (this.#store.lastEvent(name) > LAST_EVENT_BEFORE_OUTPUT) this.#store.dropText(name, 'job')
    })
  }

  #lose(name: string): void {
    const head = this.#store.head(name)
    if (head === undefined) return
    log('warn', 'run_events_lost', { run: name })
    this.ctx.storage.transactionSync(() => {
      this.#store.dropEvents(name)
      this.#store.putHead(name, { ...head, areEventsLost: true })
    })
  }

  /** From a runner, once. */
  #ended(name: string, live: LiveRun, response: string, wasRefused: boolean): void {
    live.flush()
    this.#live.delete(name)
    const head = this.#store.head(name)
    if (head === undefined) return live.wake()
    const eventsUntilMs = this.now() + EVENTS_KEPT_MS
    this.ctx.storage.transactionSync(() => {
      this.#store.putText(name, 'response', response)
      this.#store.dropText(name, 'job')
      // Of what was refused only the refusal is kept, for as long as its caller may still look for it.
      if (wasRefused) this.#store.putText(name, 'items', '[]')
      const expiresAtMs = wasRefused ? Math.min(head.expiresAtMs, eventsUntilMs) : head.expiresAtMs
      this.#store.putHead(name, { ...head, state: 'ended', eventsUntilMs, expiresAtMs })
    })
    live.wake()
    this.#wakeAt(eventsUntilMs)
  }

  /** Found without its runner. */
  #interrupted(name: string): void {
    const head = this.#store.head(name)
    if (head === undefined) return
    const eventsUntilMs = this.now() + EVENTS_KEPT_MS
    this.ctx.storage.transactionSync(() => {
      // Written by this class alone.
      const stored = JSON.parse(this.#store.text(name, 'response')) as ResponseObject
      const message = 'The response was interrupted by a restart of the gateway. Send it again.'
      const response: ResponseObject = { ...stored, status: 'failed', error: { code: 'server_error', message } }
      const event = { type: 'response.failed', sequence_number: this.#store.lastEvent(name) + 1, response }
      this.#store.append(name, `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
      this.#store.putText(name, 'response', JSON.stringify(response))
      this.#store.putHead(name, { ...head, state: 'ended', eventsUntilMs })
    })
    this.#wakeAt(eventsUntilMs)
  }

  /** The one alarm, for all of them: the earliest of their times. */
  #wakeAt(atMs: number | undefined): void {
    if (atMs === undefined || this.#alarmAtMs <= atMs) return
    // A fresh object does not know of its alarm, and may only ever bring it forward.
    this.#alarmAtMs = Math.min(atMs, this.#store.nextDueAtMs() ?? atMs)
    // Not awaited: it is part of this event's writes, and the answer waits for those. A failure resets the object.
    void this.ctx.storage.setAlarm(this.#alarmAtMs)
  }
}
