// The Durable Object of stored responses, and of streams that their clients can come back to. Owns who may touch one, its life and its
// end; the tables are run-store.ts, the work of a run runner.ts.
//
//   keep ───────────────────────────▶ ended ──30 days──▶ (nothing)
//   start while this process is being replaced ─▶ waiting ─▶ begun by the next one: running
//   start ─▶ running ──runner ends──▶ ended                ▲
//              │ └──cancel──▶ ended     └──────remove──────┤
//              └──refused before anything was begun────────┘
//
// One object has a share of an organisation's responses, not a single one: off Cloudflare each object that ever was leaves a
// file behind, and nothing may grow with the number of requests for ever. An object that finds a run without a runner was restarted in
// the middle. Its next life goes on where own backends can go on from the journal, or nothing was told (lives.ts), under the hold that
// it had: it says from the first event what the life before said, which is left out, and then more. Else the run has failed, and its
// hold ends by the account's own clock. While anything runs an alarm stands seconds ahead: whoever dies is woken.
import { DurableObject } from 'cloudflare:workers'
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Env } from '../env.ts'
import { life } from '../handover/life.ts'
import { packed, unpacked } from '../handover/packed.ts'
import { TextDigest } from '../hash.ts'
import { errorText, log } from '../observe/log.ts'
import type { KeptAnswer } from '../providers/answer-journal.ts'
import { within } from '../stream/within.ts'
import { type LivePorts, LiveRun, type Said } from './live-run.ts'
import { DIVERGED, firstLife, INTERRUPTED, type Lives, lastBeforeOutput, NOT_CONTINUED, nextLife } from './lives.ts'
import { CANCELLED, interruptedEvent, interruptedResponse } from './run-answer.ts'
import { type JournalNews, keptOf, RunJournal } from './run-journal.ts'
import { type RunHead, RunStore } from './run-store.ts'
import { type RunHead as AnswerHead, type RunJob, Runner } from './runner.ts'
import {
  type Conversation,
  EVENTS_KEPT_MS,
  type Followed,
  type Kept,
  mayFollow,
  mayRead,
  NO_SUCH_EVENT,
  type Owner,
  RESPONSE_KEPT_MS,
  STREAM_KEPT_MS,
  STREAM_UNATTENDED_MS,
} from './stored-run.ts'

/** A follower's longest wait in one call; then it asks again. */
const WAIT_MAX_MS = 10_000
/** Longer than a healthy account takes to say no. A refusal that comes later is told by the response. */
const VERDICT_WAIT_MS = 1_000
/** Background responses of one object at a time: each may have some 30 MB in memory, and most have very little. */
const RUNNING_MAX = 64
/** Of the 10 GB that an object may store. Past it nothing new is kept here until old responses go. */
const STORED_BYTES_MAX = 8 * 1024 ** 3
/** While something runs; after the process died the runtime wakes the object by then. */
const BEAT_MS = 5_000
/** Events that come within this travel together. Whoever reads along sees them that much later. */
const BATCH_MS = 100
const STREAM_BATCH_MS = 40
/** Between two looks whether what waits can begin; whoever follows it waits as long. */
const WAITING_LOOK_MS = 1_000
/** Responses that one alarm clears; the next follows at once. */
const SWEEP_ROWS_MAX = 200

const notFound: Failure = { code: 'not_found', message: 'There is no such response.' }
const full: Failure = {
  code: 'overloaded',
  message: 'No more background responses and kept streams can be taken on right now.',
  retryAfterMs: 5_000,
}

/** What is to be done. `isDeferred`: it was never begun; else its hold may be taken already, and is found again. */
type Undone = { job: RunJob; isDeferred: boolean }
type Made = { runner: Runner; live: LiveRun }
/** As what it is asked for. */
type Form = 'response' | 'stream'

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
      if (!this.#isWaiting(name)) this.#interrupted(name, undefined, INTERRUPTED)
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

  /**
   * Begins a stream, or finds the one that the same call has begun, and answers what its caller is told first. One that is refused leaves
   * nothing here.
   */
  async startStream(job: RunJob): Promise<Result<AnswerHead, Failure>> {
    const begun = this.#begin(job)
    if (!begun.ok) return begun
    const runner = this.#live.get(job.name)?.runner
    return ok(runner === undefined ? { status: 200, headers: [] } : await runner.head)
  }

  #begin(job: RunJob): Result<string, Failure> {
    const { name, owner, stream, echo } = job
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
    const response = runner.response()
    // What runs here ends here; this process has to wait for it before it can be replaced. Whoever reads a stream waits for no process.
    const isDeferred = life.defersRuns && stream === undefined
    this.ctx.storage.transactionSync(() => {
      const bodyHash = idempotency === undefined ? {} : { bodyHash: idempotency.bodyHash }
      const isKept = echo?.store === true
      const form = stream === undefined ? {} : ({ stream: isKept ? 'also' : 'only' } as const)
      const head = { owner, state: 'running', isBackground: stream === undefined, expiresAtMs } as const
      this.#store.putHead(name, { ...head, ...form, ...bodyHash })
      this.#store.putText(name, 'items', job.items)
      this.#store.putText(name, 'response', response)
      const first = runner.begin()
      if (first !== '') this.#store.append(name, first)
      this.#store.putText(name, 'job', packed({ job, isDeferred } satisfies Undone))
    })
    if (isDeferred) this.#wakeAt(this.now() + WAITING_LOOK_MS)
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
        this.#interrupted(name, this.#jobOf(name), INTERRUPTED)
      }
    }
  }

  #jobOf(name: string): RunJob | undefined {
    try {
      return (unpacked(this.#store.text(name, 'job')) as Undone).job
    } catch {
      return undefined
    }
  }

  #isWaiting(name: string): boolean {
    return !this.#live.has(name) && this.#store.hasText(name, 'job')
  }

  /** A further life of a run, or the first one of a run that was deferred. */
  #beginNow(name: string): void {
    // Written by this class alone.
    const { job, isDeferred } = unpacked(this.#store.text(name, 'job')) as Undone
    const { receivedAtMs, deadlineAtMs, deadlineIsCallers, request } = job.carried
    const events = this.#store.lastEvent(name)
    const found = keptOf(this.#store.text(name, 'attempt'), this.#store.journal(name), request)
    const tokens = found?.tokens ?? 0
    const told = this.#store.text(name, 'lives')
    const before: Lives = told === '' ? firstLife(isDeferred ? 0 : 1) : JSON.parse(told)
    const areLost = this.#store.head(name)?.areEventsLost === true
    const hasOutput = areLost || events > lastBeforeOutput(job)
    const lives = nextLife({ before, events, tokens, hasOutput, kept: found?.kept })
    if (!lives.ok) return this.#interrupted(name, job, lives.error)
    // The hold of one that was begun ends by its first deadline.
    const waitedMs = deadlineIsCallers || !isDeferred ? 0 : Math.max(0, this.now() - receivedAtMs)
    const next: RunJob = { ...job, carried: { ...job.carried, deadlineAtMs: deadlineAtMs + waitedMs } }
    const made = this.#make(next, { said: this.#said(name), ...found })
    this.ctx.storage.transactionSync(() => {
      if (isDeferred) this.#store.putText(name, 'job', packed({ job: next, isDeferred: false } satisfies Undone))
      this.#store.putText(name, 'lives', JSON.stringify(lives.value))
    })
    if (before.lives > 0) log('warn', 'run_lives_again', { run: name, lives: before.lives, events: events + 1, tokens })
    if (areLost) made.live.loseEvents()
    this.#run(name, made, made.runner.begin())
  }

  #said(name: string): Said {
    const said = new TextDigest()
    for (const piece of this.#store.pieces(name)) said.add(piece)
    return { chars: said.chars, digest: said.hex() }
  }

  /** @param first Of a further life: what is stored already, to be compared with that. */
  #run(name: string, { runner, live }: Made, first = ''): void {
    this.#live.set(name, live)
    this.#wakeAt(this.now() + BEAT_MS)
    life.runBegan()
    this.ctx.waitUntil(runner.run(first).finally(() => life.runEnded()))
  }

  #make(job: RunJob, { said, kept }: { said?: Said; kept?: KeptAnswer } = {}): Made {
    const { name, stream } = job
    const isOurs = () => this.#live.get(name) === live
    const ports: LivePorts = {
      write: (text, journal) => {
        if (isOurs()) this.#write(name, text, journal)
      },
      lose: () => {
        if (isOurs()) this.#lose(name)
      },
      diverged: () => {
        if (isOurs()) this.#giveUp(name, live, job, DIVERGED)
      },
    }
    const live = new LiveRun(ports, stream === undefined ? BATCH_MS : STREAM_BATCH_MS, this.now(), said)
    const journal = new RunJournal(this.now, (isUrgent) => live.changed(isUrgent), kept)
    live.journal = journal
    const work = {
      append: (text: string) => live.append(text),
      started: (response: string) => {
        if (isOurs()) this.#store.putText(name, 'response', response)
      },
      ended: (response: string, wasRefused: boolean) => {
        if (!isOurs()) return
        // What it says now is not what followers have by number.
        if (live.isBehind) this.#giveUp(name, live, job, runner.isCancelled ? CANCELLED : NOT_CONTINUED)
        else this.#ended(name, live, { response, wasRefused, isFirstLife: said === undefined })
      },
      journal,
    }
    const runner = new Runner(job, this.env, (one) => this.ctx.waitUntil(one), work, kept)
    live.runner = runner
    return { runner, live }
  }

  /** Its next life cannot say what its last one said. */
  #giveUp(name: string, live: LiveRun, job: RunJob, failure: Failure): void {
    this.#live.delete(name)
    this.#interrupted(name, job, failure)
    live.runner?.stop()
    live.wake()
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
  async follow(
    name: string,
    asking: Owner,
    after: number,
    waitMs: number,
    form: Form = 'response',
  ): Promise<Result<Followed, Failure>> {
    const before = this.#find(name, asking, form)
    if (before === undefined) return err(notFound)
    if (form === 'response' && !before.isBackground) {
      const message = 'Only a response that was created with "background": true can be streamed again.'
      return err({ code: 'invalid_request', message, param: 'stream' })
    }
    if (form === 'stream' && !before.areEventsLost && after > this.#store.lastEvent(name)) return err(NO_SUCH_EVENT)
    if (this.#isWaiting(name) && waitMs > 0) await new Promise((resolve) => setTimeout(resolve, WAITING_LOOK_MS))
    const live = this.#live.get(name)
    if (live !== undefined) live.attendedAtMs = this.now()
    if (live !== undefined && waitMs > 0 && after >= this.#store.lastEvent(name)) {
      if (live.isCrowded) {
        const message = 'Too many clients follow this response already.'
        return err({ code: 'concurrency_limited', message, retryAfterMs: 1000 })
      }
      await live.news(Math.min(waitMs, WAIT_MAX_MS))
      live.attendedAtMs = this.now()
    }
    const head = this.#find(name, asking, form)
    if (head === undefined) return err(notFound)
    if (head.areEventsLost === true) {
      const message =
        form === 'stream'
          ? 'This stream is longer than what is kept of one.'
          : 'The events of this response are not kept any more; get it without "stream".'
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
    this.#cancel(name)
    return ok(this.#store.text(name, 'response'))
  }

  /** Ends a stream that runs, for good; its client's going does not. */
  async cancelStream(name: string, asking: Owner): Promise<Result<'running' | 'ended', Failure>> {
    if (this.#find(name, asking, 'stream') === undefined) return err(notFound)
    this.#cancel(name)
    return ok(this.#store.head(name)?.state ?? 'ended')
  }

  #cancel(name: string): void {
    if (this.#isWaiting(name)) this.#beginNow(name)
    this.#live.get(name)?.runner?.cancel()
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
    for (const [name, { attendedAtMs, runner }] of this.#live) {
      if (this.#store.head(name)?.stream === undefined || nowMs - attendedAtMs < STREAM_UNATTENDED_MS) continue
      log('info', 'stream_unattended', { run: name })
      runner?.cancel()
    }
    if (this.#live.size > 0) this.#wakeAt(nowMs + BEAT_MS)
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

  /** The run, for those who may know of it. */
  #find(name: string, asking: Owner, form: Form = 'response'): RunHead | undefined {
    const head = this.#store.head(name)
    if (head === undefined || this.now() >= head.expiresAtMs) return undefined
    const isFound =
      form === 'stream'
        ? head.stream !== undefined && mayFollow(head.owner, asking)
        : head.stream !== 'only' && mayRead(head.owner, asking)
    return isFound ? head : undefined
  }

  #isFull(): boolean {
    return this.ctx.storage.sql.databaseSize > STORED_BYTES_MAX
  }

  /** From a live run: a batch of events, with what stands behind them. */
  #write(name: string, text: string, journal: JournalNews | undefined): void {
    if (this.#store.head(name) === undefined) return
    this.ctx.storage.transactionSync(() => {
      if (journal !== undefined) this.#store.addToJournal(name, journal)
      if (text !== '') this.#store.append(name, text)
    })
  }

  #lose(name: string): void {
    const head = this.#store.head(name)
    if (head === undefined) return
    log('warn', 'run_events_lost', { run: name })
    // Nobody can read the rest of it, and a response is more than its stream.
    if (head.stream === 'only') queueMicrotask(() => this.#live.get(name)?.runner?.cancel())
    this.ctx.storage.transactionSync(() => {
      this.#store.dropEvents(name)
      this.#store.putHead(name, { ...head, areEventsLost: true })
    })
  }

  /** From a runner, once. */
  #ended(
    name: string,
    live: LiveRun,
    { response, wasRefused, isFirstLife }: { response: string; wasRefused: boolean; isFirstLife: boolean },
  ): void {
    this.ctx.storage.transactionSync(() => {
      // With its end: the last event says when that was, and no further life would say the same.
      live.flush()
      this.#live.delete(name)
      const head = this.#store.head(name)
      if (head === undefined) return
      // Its caller waits for the refusal, and has got nothing else.
      if (wasRefused && isFirstLife && head.stream !== undefined) return this.#store.remove(name)
      this.#store.putText(name, 'response', response)
      // Of what was refused only the refusal is kept, for as long as its caller may still look for it.
      if (wasRefused) this.#store.putText(name, 'items', '[]')
      this.#putEnded(name, head, wasRefused)
    })
    live.wake()
  }

  /** In a transaction. */
  #putEnded(name: string, head: RunHead, isShort: boolean): void {
    const eventsUntilMs = this.now() + (head.stream === undefined ? EVENTS_KEPT_MS : STREAM_KEPT_MS)
    const expiresAtMs = isShort || head.stream === 'only' ? Math.min(head.expiresAtMs, eventsUntilMs) : head.expiresAtMs
    this.#store.dropWork(name)
    this.#store.putHead(name, { ...head, state: 'ended', eventsUntilMs, expiresAtMs })
    this.#wakeAt(eventsUntilMs)
  }

  /** It was found without its runner, and does not go on. @param job Absent: not known any more. */
  #interrupted(name: string, job: RunJob | undefined, failure: Failure): void {
    const head = this.#store.head(name)
    if (head === undefined) return
    log('warn', 'run_interrupted', { run: name, message: failure.message })
    this.ctx.storage.transactionSync(() => {
      const stored = this.#store.text(name, 'response')
      if (stored !== '') {
        const { event, text } = interruptedResponse(stored, this.#store.lastEvent(name) + 1, failure)
        this.#store.append(name, event)
        this.#store.putText(name, 'response', text)
      } else if (job !== undefined) this.#store.append(name, interruptedEvent(job, failure))
      this.#putEnded(name, head, false)
    })
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
