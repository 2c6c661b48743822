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
import { errorText, log } from '../observe/log.ts'
import { within } from '../stream/within.ts'
import { type LivePorts, LiveRun } from './live-run.ts'
import { DIVERGED, INTERRUPTED, NO_ROOM, NOT_CONTINUED, NOT_WRITTEN } from './lives.ts'
import { OwedEnds, type OwedPorts } from './owed-ends.ts'
import { hasOutput, type Past, pastOf } from './past.ts'
import { CANCELLED, interruptedEnd } from './run-answer.ts'
import { type JournalNews, RunJournal } from './run-journal.ts'
import { type Form, noSuch, RunReader, WAITING_LOOK_MS } from './run-reader.ts'
import { type RunHead, RunStore } from './run-store.ts'
import { type RunHead as AnswerHead, type RunEnd, type RunJob, Runner } from './runner.ts'
import {
  type Conversation,
  EVENTS_KEPT_MS,
  type Followed,
  type Kept,
  mayRead,
  type Owner,
  RESPONSE_KEPT_MS,
  STREAM_KEPT_MS,
  STREAM_UNATTENDED_MS,
} from './stored-run.ts'

/** Longer than a healthy account takes to say no. A refusal that comes later is told by the response. */
const VERDICT_WAIT_MS = 1_000
/** Background responses of one object at a time: each may have some 30 MB in memory, and most have very little. */
const RUNNING_MAX = 64
/** Of the 10 GB that an object may store. Past it nothing new is kept here until old responses go. */
const STORED_BYTES_MAX = 8 * 1024 ** 3
/** Past it what runs is given no more room either: what is left of the 10 GB is for the ends of 64 runs. */
const RUNNING_BYTES_MAX = 9e9
/** While something runs; after the process died the runtime wakes the object by then. */
const BEAT_MS = 5_000
/** Events that come within this travel together. Whoever reads along sees them that much later. */
const BATCH_MS = 100
const STREAM_BATCH_MS = 40
/** Responses that one alarm clears; the next follows at once. */
const SWEEP_ROWS_MAX = 200

const full: Failure = {
  code: 'overloaded',
  message: 'No more background responses and kept streams can be taken on right now.',
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
  readonly #reader: RunReader
  readonly #owed: OwedEnds
  #alarmAtMs = Number.POSITIVE_INFINITY

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#store = new RunStore(ctx.storage.sql)
    const nowMs = () => this.now()
    const live = (name: string) => this.#live.get(name)
    this.#reader = new RunReader(this.#store, { nowMs, live, isWaiting: (name) => this.#isWaiting(name) })
    // A fresh stub each time: one that has seen an exception may stay broken.
    const settle: OwedPorts['settle'] = (orgId, end) => env.ACCOUNT.getByName(orgId).settle(end)
    this.#owed = new OwedEnds(this.#store, { nowMs, settle })
    for (const name of this.#store.running()) {
      if (!this.#isWaiting(name)) this.#interrupted(name, undefined, INTERRUPTED)
    }
    this.#beginWaiting()
    this.#settleOwed()
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
    if (known !== undefined && this.now() >= known.expiresAtMs) this.#store.remove(name)
    else if (known !== undefined) {
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
    const { receivedAtMs, deadlineAtMs, deadlineIsCallers } = job.carried
    const past = pastOf(this.#store, job, isDeferred)
    const lives = past.next
    if (!lives.ok) return this.#interrupted(name, job, lives.error)
    // The hold of one that was begun ends by its first deadline.
    const waitedMs = deadlineIsCallers || !isDeferred ? 0 : Math.max(0, this.now() - receivedAtMs)
    const next: RunJob = { ...job, carried: { ...job.carried, deadlineAtMs: deadlineAtMs + waitedMs } }
    const made = this.#make(next, past)
    this.ctx.storage.transactionSync(() => {
      if (isDeferred) this.#store.putText(name, 'job', packed({ job: next, isDeferred: false } satisfies Undone))
      this.#store.putText(name, 'lives', JSON.stringify(lives.value))
    })
    const { lastEvent, found } = past
    if (past.lives > 0) {
      log('warn', 'run_lives_again', {
        run: name,
        lives: past.lives,
        events: lastEvent + 1,
        tokens: found?.tokens ?? 0,
      })
    }
    if (past.areEventsLost) made.live.loseEvents()
    this.#run(name, made, made.runner.begin())
  }

  /** @param first Of a further life: what is stored already, to be compared with that. */
  #run(name: string, { runner, live }: Made, first = ''): void {
    this.#live.set(name, live)
    this.#wakeAt(this.now() + BEAT_MS)
    life.runBegan()
    this.ctx.waitUntil(runner.run(first).finally(() => life.runEnded()))
  }

  /** @param before Of a further life: what the lives before it have said and heard. */
  #make(job: RunJob, before?: Pick<Past, 'said' | 'found'>): Made {
    const { name, stream } = job
    const isOurs = () => this.#live.get(name) === live
    const ports: LivePorts = {
      write: (text, news) => {
        if (!isOurs()) return
        if (this.#store.bytes > RUNNING_BYTES_MAX && !runner.hasEnded) return this.#noRoom(live, job, news)
        this.#write(live, job, text, news)
      },
      lose: () => {
        if (isOurs()) this.#lose(name)
      },
      diverged: () => {
        if (isOurs()) this.#giveUp(live, job, DIVERGED)
      },
    }
    const live = new LiveRun(ports, stream === undefined ? BATCH_MS : STREAM_BATCH_MS, this.now(), before?.said)
    const journal = new RunJournal(this.now, (isUrgent) => live.changed(isUrgent), before?.found)
    live.journal = journal
    const work = {
      append: (text: string) => live.append(text),
      started: (response: string) => {
        if (isOurs()) this.#store.putText(name, 'response', response)
      },
      ended: (end: RunEnd) => {
        if (!isOurs()) return
        // What it says now is not what followers have by number.
        const why = runner.isCancelled ? CANCELLED : (runner.refusal ?? NOT_CONTINUED)
        if (live.isBehind) this.#giveUp(live, job, why)
        else this.#ended(live, job, end, before === undefined)
      },
      journal,
    }
    const runner = new Runner(job, this.env, (one) => this.ctx.waitUntil(one), work, before?.found?.kept)
    live.runner = runner
    return { runner, live }
  }

  /** It cannot go on as it has begun. */
  #giveUp(live: LiveRun, job: RunJob, failure: Failure): void {
    this.#live.delete(job.name)
    try {
      this.#interrupted(job.name, job, failure)
    } finally {
      live.runner?.stop()
      live.wake()
    }
  }

  /** The response as it stands, as JSON. */
  async read(name: string, asking: Owner): Promise<Result<string, Failure>> {
    return this.#reader.text(name, asking, 'response')
  }

  async state(name: string, asking: Owner): Promise<Result<'running' | 'ended', Failure>> {
    return this.#reader.state(name, asking)
  }

  /** The items that stand before its output, as JSON. */
  async items(name: string, asking: Owner): Promise<Result<string, Failure>> {
    return this.#reader.text(name, asking, 'items')
  }

  /** What a request that goes on from here needs. */
  async conversation(name: string, asking: Owner): Promise<Result<Conversation, Failure>> {
    return this.#reader.conversation(name, asking)
  }

  /**
   * Events after a number; waits for them where there are none yet.
   * @param after Number of an event, or -1. @param isLook Whether there is something to follow, and nothing of it.
   */
  async follow(
    name: string,
    asking: Owner,
    after: number,
    waitMs: number,
    form: Form = 'response',
    isLook = false,
  ): Promise<Result<Followed, Failure>> {
    return this.#reader.follow(name, asking, { after, waitMs, form, isLook })
  }

  /** Ends a background response that runs; one that has ended stays as it is. */
  async cancel(name: string, asking: Owner): Promise<Result<string, Failure>> {
    const head = this.#reader.find(name, asking)
    if (head === undefined) return err(noSuch('response'))
    if (!head.isBackground) {
      const message = 'Only a response that was created with "background": true can be cancelled.'
      return err({ code: 'invalid_request', message })
    }
    this.#cancel(name)
    return ok(this.#store.text(name, 'response'))
  }

  /** Ends a stream that runs, for good; its client's going does not. */
  async cancelStream(name: string, asking: Owner): Promise<Result<'running' | 'ended', Failure>> {
    if (this.#reader.find(name, asking, 'stream') === undefined) return err(noSuch('stream'))
    this.#cancel(name)
    return ok(this.#store.head(name)?.state ?? 'ended')
  }

  #cancel(name: string): void {
    if (this.#isWaiting(name)) this.#beginNow(name)
    this.#live.get(name)?.runner?.cancel()
  }

  /** Deletes the response and all that came with it; one that runs is cancelled first. */
  async remove(name: string, asking: Owner): Promise<Result<true, Failure>> {
    if (this.#reader.find(name, asking) === undefined) return err(noSuch('response'))
    this.#cancel(name)
    this.ctx.storage.transactionSync(() => this.#store.remove(name))
    return ok(true)
  }

  override async alarm(): Promise<void> {
    this.#alarmAtMs = Number.POSITIVE_INFINITY
    this.#beginWaiting()
    this.#settleOwed()
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

  #isFull(): boolean {
    return this.#store.bytes > STORED_BYTES_MAX
  }

  /** From a live run: a batch of events, with what stands behind them. */
  #write(live: LiveRun, job: RunJob, text: string, news: JournalNews | undefined): void {
    const { name } = job
    if (this.#store.head(name) === undefined) return
    try {
      this.ctx.storage.transactionSync(() => {
        if (news !== undefined) this.#store.addToJournal(name, news)
        if (text !== '') this.#store.append(name, text)
      })
    } catch (error) {
      log('error', 'run_not_written', { run: name, error: errorText(error) })
      // Its end is one transaction, which is undone as a whole.
      if (live.runner?.hasEnded === true) throw error
      // What comes behind it would be told as if nothing were missing.
      this.#giveUp(live, job, NOT_WRITTEN)
    }
  }

  /** The object is all but full. A response is more than its events; a stream is not. */
  #noRoom(live: LiveRun, job: RunJob, news: JournalNews | undefined): void {
    if (job.stream !== undefined) return this.#giveUp(live, job, NO_ROOM)
    if (this.#store.head(job.name)?.areEventsLost !== true) this.#lose(job.name)
    live.loseEvents()
    live.journal?.lose()
    const last = live.journal?.take() ?? news
    if (last !== undefined) this.#write(live, job, '', { ...last, entries: '' })
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
  #ended(live: LiveRun, job: RunJob, { response, isRefused, isAnswered }: RunEnd, isFirstLife: boolean): void {
    const { name } = job
    this.ctx.storage.transactionSync(() => {
      // It has come to no hold in this life, and may have left one in another. First, since its last event is no answer.
      if (isRefused && !isFirstLife) this.#owe(job, live.runner?.refusal ?? NOT_CONTINUED)
      // With its end: the last event says when that was, and no further life would say the same.
      live.flush()
      // Its work tells the account behind this end, and may die before it has.
      if (live.runner?.isCancelled) this.#owe(job, CANCELLED, true)
      this.#live.delete(name)
      const head = this.#store.head(name)
      if (head === undefined) return
      // Its caller waits for the refusal, and has got nothing else.
      if (isAnswered && isFirstLife && head.stream !== undefined) return this.#store.remove(name)
      this.#store.putText(name, 'response', response)
      // Of what was refused only the refusal is kept, for as long as its caller may still look for it.
      if (isRefused) this.#store.putText(name, 'items', '[]')
      this.#putEnded(name, head, isRefused || isAnswered)
    })
    this.#settleOwed()
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
      if (job !== undefined) this.#owe(job, failure)
      const number = this.#store.lastEvent(name) + 1
      const { event, text } = interruptedEnd(this.#store.text(name, 'response'), number, job, failure)
      if (event !== '') this.#store.append(name, event)
      if (text !== '') this.#store.putText(name, 'response', text)
      this.#putEnded(name, head, false)
    })
    this.#settleOwed()
  }

  /** In a transaction. A journal of another release may be unreadable: then the hold ends by its own time. */
  #owe(job: RunJob, failure: Failure, isOwn = false): void {
    try {
      this.#owed.owe(job, failure, hasOutput(this.#store, job), isOwn)
    } catch (error) {
      log('error', 'run_not_billed', { run: job.name, error: errorText(error) })
    }
  }

  #settleOwed(): void {
    const { dueAtMs } = this.#owed
    if (dueAtMs === undefined) return
    this.#wakeAt(Math.max(dueAtMs, this.now() + BEAT_MS))
    this.ctx.waitUntil(this.#owed.settle())
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
