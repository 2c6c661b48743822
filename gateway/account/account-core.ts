// The account of one organisation. Owns transactions, the order of work and when to wake; decisions are admission.ts and
// holds.ts (pure), tables store.ts, counts.ts, notices.ts, idempotency.ts and rules.ts. The world comes in as ports, so
// that the same code runs in a Durable Object and, driven step by step, in a simulation.
//
// What must survive lies in SQLite. An instance may be dropped at any `await` and a new one be made on the same storage;
// fields are copies, made again from the tables by `load` at the start and after a transaction that was undone.
import { err, type Result } from '../../protocol/result.ts'
import type { AttemptRow, LimitEvent, OutboxEntry, RequestRow } from '../ledger/outbox.ts'
import { transfersOf } from '../ledger/postings.ts'
import type { Usage } from '../meter/usage.ts'
import { errorText } from '../observe/log.ts'
import { type AccountView, admit, UNAVAILABLE_RETRY_MS } from './admission.ts'
import { amountsOfRow } from './amounts.ts'
import { runBatch, WatchedSql } from './batch.ts'
import type {
  AccountCall,
  AccountReply,
  AccountRpc,
  AccountState,
  Denial,
  Hold,
  ReserveAsk,
  Settled,
  SettleEnd,
} from './contract.ts'
import { Counts } from './counts.ts'
import { Delivery } from './delivery.ts'
import {
  checkpointHold,
  closeHold,
  EXPIRY_GRACE_MS,
  endOf,
  expireHold,
  type HoldRecord,
  openHold,
  parseHoldId,
  REQUEST_CLOSE_GRACE_MS,
  settleHold,
  unknownHold,
} from './holds.ts'
import { Idempotency } from './idempotency.ts'
import type { RuleBook } from './limit.ts'
import { LimitReader } from './limit-reader.ts'
import { type Notice, Notices } from './notices.ts'
import { OpenHolds } from './open-holds.ts'
import type { AccountPorts } from './ports.ts'
import { Readiness } from './readiness.ts'
import { canClose, requestRow } from './requests.ts'
import type { Series } from './rule-index.ts'
import { Rules } from './rules.ts'
import { assertAsk, assertEnd, repeated } from './sanity.ts'
import { Store } from './store.ts'
import { Waking } from './waking.ts'
import { windowOf } from './windows.ts'

/** Holds handled per alarm and rows swept at a time: bounds the time one event keeps others waiting. */
const DUE_ROWS_MAX = 500
const SWEEP_ROWS_MAX = 1_000
const SWEEP_EVERY_MS = 600_000
/** After a bug in the alarm: no hot loop, and the next try may be newer code. */
const ALARM_FAULT_RETRY_MS = 60_000
/** With traffic an alarm stands no further off than any hold is due: no request waits for the durable write that moves it. */
const BUSY_ALARM_MS = EXPIRY_GRACE_MS
/** Rules may change while counters are read; after this many rounds the caller is told to come back. */
const READY_ROUNDS_MAX = 3
/** Calls that travel together: a bound on the time one transaction takes. */
export const BATCH_CALLS_MAX = 500

/** What one call did, and what memory has to follow once it stands. */
type Done = { reply: AccountReply; opened?: HoldRecord; freed?: string; appended: number }

export class AccountCore implements AccountRpc {
  readonly #ports: AccountPorts
  readonly #sql: WatchedSql
  readonly #store: Store
  readonly #counts: Counts
  readonly #notices: Notices
  readonly #idempotency: Idempotency
  readonly #rules: Rules
  readonly #open = new OpenHolds()
  readonly #delivery: Delivery
  readonly #readiness: Readiness
  readonly limits: LimitReader
  #orgId: string | undefined
  readonly #waking: Waking
  /** Has opened holds since its last alarm. */
  #isBusy = false

  constructor(ports: AccountPorts) {
    this.#ports = ports
    this.#waking = new Waking(ports)
    this.#sql = new WatchedSql(ports.sql)
    this.#store = new Store(this.#sql)
    this.#counts = new Counts(this.#sql)
    this.#notices = new Notices(this.#sql)
    this.#idempotency = new Idempotency(this.#sql)
    this.#rules = new Rules(ports, {
      changed: () => {
        this.#counts.keepOnly((series) => this.#rules.index?.has(series) ?? false)
        this.#open.regroup(this.#rules.index)
      },
      undone: () => this.#load(),
    })
    const watched = { ...ports, transaction: <T>(work: () => T) => this.#transaction(work) }
    this.#delivery = new Delivery(watched, this.#store)
    this.#readiness = new Readiness(watched, { counts: this.#counts, rules: this.#rules, delivery: this.#delivery })
    const parts = { rules: this.#rules, counts: this.#counts, open: this.#open, readiness: this.#readiness }
    this.limits = new LimitReader(ports, parts, (orgId) => this.#bindOrganisation(orgId))
    this.#load()
  }

  /** To be called once before anything else. @param alarmAtMs When `alarm` will be called as things stand. */
  start(alarmAtMs: number | undefined): void {
    this.#waking.stands(alarmAtMs)
    this.#arm()
  }

  /** @throws RangeError, Error on an ask that is a bug */
  async reserve(ask: ReserveAsk): Promise<Result<Hold, Denial>> {
    const reply = await this.#one({ kind: 'reserve', ask })
    if (reply.kind === 'reserve') return reply.result
    throw new Error(`a reservation was answered with ${reply.kind}`)
  }

  /** @throws RangeError on parts that are no counts */
  async checkpoint(holdId: string, usage: Usage): Promise<void> {
    await this.#one({ kind: 'checkpoint', holdId, usage })
  }

  /** @throws RangeError on an end that cannot be true; Error where the hold is unknown (never reserved, or forgotten). */
  async settle(end: SettleEnd): Promise<Settled> {
    const reply = await this.#one({ kind: 'settle', end })
    if (reply.kind !== 'settle') throw new Error(`an end was answered with ${reply.kind}`)
    return reply.settled
  }

  /** @throws RangeError above BATCH_CALLS_MAX calls */
  async batch(calls: AccountCall[]): Promise<AccountReply[]> {
    if (calls.length > BATCH_CALLS_MAX) throw new RangeError(`a batch of ${calls.length} calls is above the bound`)
    await this.#prepare(calls)
    return this.#run(calls).map((reply) =>
      reply instanceof Error ? { kind: 'failed', error: errorText(reply) } : reply,
    )
  }

  async setKeyRevoked(keyId: string, revoked: boolean): Promise<void> {
    this.#store.setKeyRevoked(keyId, revoked)
  }

  /** @throws Error on a book that cannot be enforced */
  async setRules(book: RuleBook): Promise<void> {
    this.#rules.adopt(book)
  }

  async inspect(): Promise<AccountState> {
    const { rows, rejected, conflicts } = this.#store.outboxCounts()
    return {
      openHolds: this.#store.openHoldsShown(),
      heldNanoUsd: this.#open.heldNanoUsd,
      counters: this.#counts.shown(),
      rulesVersion: this.#rules.version,
      outboxRows: rows,
      rejectedRows: rejected,
      conflicts,
    }
  }

  async flush(options = { includeRejected: true }): Promise<{ outboxRows: number }> {
    await this.#delivery.flush(options)
    this.#arm()
    return { outboxRows: this.#delivery.rows }
  }

  /** Expires, closes and forgets what is due, and writes the outbox. Never rejects. */
  async alarm(): Promise<void> {
    this.#waking.stands(undefined)
    const nowMs = this.#ports.now()
    try {
      try {
        this.#handleDue(nowMs)
        this.#sweep(nowMs)
      } finally {
        // Also where one hold is at fault: what has ended must reach Postgres, or admission closes for everyone.
        if ((this.#delivery.dueAtMs ?? Number.POSITIVE_INFINITY) <= nowMs)
          await this.#delivery.flush({ includeRejected: false })
      }
      this.#arm()
      if (this.#isBusy) this.#waking.at(this.#ports.now() + BUSY_ALARM_MS)
      this.#isBusy = false
    } catch (error) {
      this.#ports.log('error', 'account_alarm_failed', { error: errorText(error) })
      this.#waking.at(this.#ports.now() + ALARM_FAULT_RETRY_MS)
    }
  }

  async #one(call: AccountCall): Promise<AccountReply> {
    await this.#prepare([call])
    const [reply] = this.#run([call])
    if (reply === undefined || reply instanceof Error) throw reply ?? new Error('a call was not answered')
    return reply
  }

  /** Sees to it that what the asks are checked against is known, as far as it can be. Never rejects. */
  async #prepare(calls: readonly AccountCall[]): Promise<void> {
    const asks = calls.flatMap((call) => (call.kind === 'reserve' && this.#isSound(call.ask) ? [call.ask] : []))
    const [first] = asks
    if (first === undefined) return
    const { orgId } = first
    if (this.#rules.version !== undefined) this.#rules.refresh(orgId)
    const { hard, soft } = this.#missingSeries(asks)
    if (soft.length > 0) void this.#readiness.make(orgId, soft)
    if (this.#rules.version !== undefined && hard.length === 0) return
    const work = this.#makeKnown(orgId, asks)
    await (this.#ports.patience === undefined ? work : this.#ports.patience(work))
  }

  /** Rules where there are none, and complete counters of those that apply. Never rejects. */
  async #makeKnown(orgId: string, asks: readonly ReserveAsk[]): Promise<void> {
    if (this.#rules.version === undefined) await this.#rules.makeKnown(orgId)
    for (let round = 0; round < READY_ROUNDS_MAX; round++) {
      const { hard } = this.#missingSeries(asks)
      if (hard.length === 0 || !(await this.#readiness.make(orgId, hard))) return
    }
  }

  /** Whether an ask can be decided: one that is a bug cannot. */
  #isSound(ask: ReserveAsk): boolean {
    try {
      assertAsk(ask)
      this.#bindOrganisation(ask.orgId)
      return true
    } catch {
      // Thrown again where it is decided.
      return false
    }
  }

  #missingSeries(asks: readonly ReserveAsk[]): { hard: Series[]; soft: Series[] } {
    const [hard, soft]: [Map<string, Series>, Map<string, Series>] = [new Map(), new Map()]
    const nowMs = this.#ports.now()
    for (const ask of asks)
      for (const gauge of this.#rules.index?.applying(ask, ask.modelRequested).gauges ?? [])
        if (!this.#counts.isReady(gauge.series, nowMs)) (gauge.hard ? hard : soft).set(gauge.series.name, gauge.series)
    return { hard: [...hard.values()], soft: [...soft.values()].filter(({ name }) => !hard.has(name)) }
  }

  /** All calls in one transaction; one that throws leaves no trace and is answered by its error. */
  #run(calls: readonly AccountCall[]): (AccountReply | Error)[] {
    const nowMs = this.#ports.now()
    const results = runBatch(calls, {
      transaction: (work) => this.#transaction(work),
      savepoint: (work) => this.#ports.transaction(() => this.#counted(work)),
      perform: (call) => this.#perform(call, nowMs),
      follow: ({ opened, freed, appended }) => {
        if (opened !== undefined) this.#open.add(opened)
        if (freed !== undefined) this.#open.remove(freed)
        this.#delivery.appended(appended, nowMs)
      },
      changes: () => this.#sql.writes + this.#counts.changes,
      undone: () => this.#forgetCopies(),
    })
    let appends = false
    for (const done of results) {
      if (done instanceof Error) continue
      this.#isBusy ||= done.opened !== undefined
      this.#waking.at(done.opened?.dueAtMs)
      appends ||= done.appended > 0
    }
    if (appends) this.#waking.soon(() => this.#delivery.dueAtMs)
    return results.map((done) => (done instanceof Error ? done : done.reply))
  }

  /** In a transaction. */
  #perform(call: AccountCall, nowMs: number): Done {
    switch (call.kind) {
      case 'reserve':
        return this.#reserve(call.ask, nowMs)
      case 'checkpoint':
        return this.#checkpoint(call.holdId, call.usage)
      case 'settle':
        return this.#settle(call.end, nowMs)
      default:
        return call satisfies never
    }
  }

  #reserve(ask: ReserveAsk, nowMs: number): Done {
    assertAsk(ask)
    const attempts = this.#store.attempts(ask.requestId)
    const known = attempts.find(({ terms }) => terms.attempt === ask.attempt)
    if (known !== undefined) return { reply: { kind: 'reserve', result: repeated(known, ask) }, appended: 0 }
    this.#bindOrganisation(ask.orgId)
    const deny = (error: Denial): Done => ({ reply: { kind: 'reserve', result: err(error) }, appended: 0 })
    const { index } = this.#rules
    if (index === undefined) return deny({ reason: 'unavailable', retryAfterMs: UNAVAILABLE_RETRY_MS })
    const isClosed = ask.attempt > 1 && attempts.some(({ requestClosed }) => requestClosed)
    if (isClosed && ask.isTrial !== true) return deny({ reason: 'request_closed' })
    const refusal = this.#idempotency.refusal(ask, nowMs)
    if (refusal !== undefined) return deny(refusal)
    const { result, notices } = admit(ask, index.applying(ask, ask.modelRequested), this.#view(ask))
    const events = this.#notices.news(ask.orgId, notices)
    if (events.length > 0) this.#append({ attempts: [], transfers: [] }, undefined, events)
    const done: Done = { reply: { kind: 'reserve', result }, appended: events.length > 0 ? 1 : 0 }
    if (!result.ok) return done
    // A trial stands beside its request and may begin when that has been answered.
    const opened = { ...openHold(ask, result.value, nowMs), requestClosed: isClosed }
    this.#store.addHold(opened, attempts)
    this.#idempotency.opened(ask, nowMs)
    return { ...done, opened }
  }

  #checkpoint(holdId: string, usage: Usage): Done {
    const { requestId, attempt } = parseHoldId(holdId)
    const hold = this.#store.attempts(requestId).find(({ terms }) => terms.attempt === attempt)
    const proven = hold === undefined ? undefined : checkpointHold(hold, usage)
    if (proven !== undefined && proven !== hold) this.#store.putHold(proven)
    return { reply: { kind: 'checkpoint' }, appended: 0 }
  }

  #settle(end: SettleEnd, nowMs: number): Done {
    const { requestId, attempt } = parseHoldId(end.holdId)
    assertEnd(end)
    const attempts = this.#store.attempts(requestId)
    const hold = attempts.find(({ terms }) => terms.attempt === attempt)
    if (hold === undefined) throw new Error(unknownHold(end.holdId))
    const transition = settleHold(hold, end, nowMs)
    const closes = end.final && !attempts.some(({ requestClosed }) => requestClosed)
    if (transition === undefined) {
      // The first end stands. A later one can still say that no other attempt follows.
      if (closes) this.#append({ attempts: [], transfers: [] }, this.#close(attempts, attempt, nowMs), [])
      const settled = { costNanoUsd: endOf(hold).costNanoUsd, repeated: true }
      return { reply: { kind: 'settle', settled }, appended: closes ? 1 : 0 }
    }
    const events = this.#count(transition.rows)
    const after = attempts.map((one) => (one === hold ? transition.hold : one))
    if (!closes) this.#store.putHold(transition.hold)
    this.#append(entryOf(transition.rows), closes ? this.#close(after, attempt, nowMs) : undefined, events)
    // The request's row was written before this end: all attempts together say how the request ended.
    if (attempts.some(({ requestClosed }) => requestClosed)) this.#tellKey(after, requestRow(after, undefined, nowMs))
    const settled = { costNanoUsd: endOf(transition.hold).costNanoUsd, repeated: false }
    return { reply: { kind: 'settle', settled }, freed: end.holdId, appended: 1 }
  }

  /** What admission may look at. */
  #view(ask: ReserveAsk): AccountView {
    return {
      keyRevoked: this.#store.isKeyRevoked(ask.keyId),
      outboxRows: this.#delivery.rows,
      openHolds: this.#open.count,
      settled: ({ series, subject }, span) => this.#counts.value(series, subject, span),
      held: ({ series, subject }, span) => this.#open.held(series.name, subject, span.key),
      running: ({ name, subject }, exceptRequestId) => this.#open.running(name, subject, exceptRequestId),
    }
  }

  /** An object serves one organisation for life: counters of two must never mix. */
  #bindOrganisation(orgId: string): void {
    if (this.#orgId === orgId) return
    if (this.#orgId !== undefined) throw new Error(`this account belongs to organisation ${this.#orgId}, not ${orgId}`)
    this.#store.setMeta('org_id', orgId)
    this.#load()
  }

  /** In a transaction: moves the counters of the windows the attempt started in, and tells what passed a soft limit. */
  #count(rows: readonly AttemptRow[]): LimitEvent[] {
    const events: LimitEvent[] = []
    for (const row of rows) {
      const applying = this.#rules.index?.applying(row, row.modelRequested)
      if (applying === undefined) continue
      const amounts = amountsOfRow(row)
      for (const { series, subject } of applying.counted)
        this.#counts.add(
          series,
          subject,
          windowOf(series.window, series.timeZone, row.startedAtMs),
          amounts[series.meter],
        )
      const passed: Notice[] = []
      for (const { series, subject, max, hard, rule } of applying.gauges) {
        if (hard || !('limit' in rule)) continue
        const span = windowOf(series.window, series.timeZone, row.startedAtMs)
        const value = this.#counts.value(series, subject, span)
        if (value === undefined || value <= max) continue
        const { limitId } = rule.limit
        passed.push({ limitId, subject, span, kind: 'passed', max, value, occurredAtMs: row.endedAtMs })
      }
      events.push(...this.#notices.news(row.orgId, passed))
    }
    return events
  }

  #append(entry: OutboxEntry, request: RequestRow | undefined, events: LimitEvent[]): void {
    this.#delivery.append({
      ...entry,
      ...(request === undefined ? {} : { request }),
      ...(events.length === 0 ? {} : { events }),
    })
  }

  /** In a transaction: stores every attempt of the request as closed and answers the request's row. */
  #close(attempts: readonly HoldRecord[], finalAttempt: number | undefined, nowMs: number): RequestRow {
    for (const hold of attempts) this.#store.putHold(closeHold(hold, nowMs))
    const row = requestRow(attempts, finalAttempt, nowMs)
    this.#tellKey(attempts, row)
    return row
  }

  /** In a transaction: the idempotency key of the request, if it came with one, learns how it ended. */
  #tellKey(attempts: readonly HoldRecord[], end: Pick<RequestRow, 'status' | 'firstTokenAtMs'>): void {
    for (const { terms } of attempts)
      if (terms.idempotency !== undefined) this.#idempotency.ended(terms.idempotency.keyHash, terms.requestId, end)
  }

  /** Expires, closes and forgets holds whose time has come. */
  #handleDue(nowMs: number): void {
    const freed: string[] = []
    const appended = this.#transaction(() => {
      let entries = 0
      for (const { terms } of this.#store.dueHolds(nowMs, DUE_ROWS_MAX)) {
        // Read again: closing one attempt changes its siblings, which may stand further down the list.
        const attempts = this.#store.attempts(terms.requestId)
        const hold = attempts.find(({ terms: { attempt } }) => attempt === terms.attempt)
        if (hold === undefined || hold.dueAtMs > nowMs) continue
        const expired = expireHold(hold, nowMs)
        if (expired !== undefined) {
          const events = this.#count(expired.rows)
          freed.push(hold.granted.holdId)
          const after = attempts.map((known) => (known === hold ? expired.hold : known))
          const closes = canClose(after)
          if (!closes) this.#store.putHold(expired.hold)
          this.#append(entryOf(expired.rows), closes ? this.#close(after, undefined, nowMs) : undefined, events)
          entries++
        } else if (hold.requestClosed) {
          this.#store.deleteHold(hold)
        } else if (canClose(attempts)) {
          this.#append({ attempts: [], transfers: [] }, this.#close(attempts, undefined, nowMs), [])
          entries++
        } else if (attempts.some(({ requestClosed }) => requestClosed)) {
          // An attempt that began after the request's row was written.
          this.#store.putHold(closeHold(hold, nowMs))
        } else {
          this.#store.putHold({ ...hold, dueAtMs: nowMs + REQUEST_CLOSE_GRACE_MS })
        }
      }
      return entries
    })
    for (const holdId of freed) this.#open.remove(holdId)
    this.#delivery.appended(appended, nowMs)
    if (freed.length > 0) this.#ports.log('warn', 'holds_expired', { holds: freed.length })
  }

  #sweep(nowMs: number): void {
    if (nowMs < Number(this.#store.meta('sweep_at_ms') ?? 0)) return
    this.#transaction(() => {
      const more = [this.#counts, this.#notices, this.#idempotency].map((table) => table.sweep(nowMs, SWEEP_ROWS_MAX))
      // More is waiting: go on with the next alarm.
      if (!more.includes(true)) this.#store.setMeta('sweep_at_ms', String(nowMs + SWEEP_EVERY_MS))
    })
  }

  /** A transaction on its own: where it is undone, memory is made again from what is stored. */
  #transaction<T>(work: () => T): T {
    try {
      return this.#ports.transaction(() => this.#counted(work))
    } catch (error) {
      this.#load()
      throw error
    }
  }

  /** In a transaction: with what it counts. */
  #counted<T>(work: () => T): T {
    const result = work()
    this.#counts.write()
    return result
  }

  #forgetCopies(): void {
    this.#store.forgetCopies()
    this.#counts.load()
    this.#notices.load()
  }

  #load(): void {
    this.#forgetCopies()
    this.#orgId = this.#store.meta('org_id')
    this.#rules.load(this.#orgId)
    this.#open.rebuild(this.#rules.index, this.#store.openHolds())
    this.#delivery.load()
  }

  #arm(): void {
    this.#waking.at(this.#store.nextDueAtMs())
    this.#waking.at(this.#delivery.dueAtMs)
  }
}

const entryOf = (rows: AttemptRow[]): OutboxEntry => ({ attempts: rows, transfers: rows.flatMap(transfersOf) })
