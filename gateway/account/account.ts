// The account of one organisation, as a Durable Object. Owns transactions, the clock, the alarm and the way to Postgres;
// decisions are admission.ts and holds.ts (pure), tables store.ts. One call is one transaction, and the runtime lets no
// answer out before it is durable: what a caller was told, the account remembers.
import { DurableObject } from 'cloudflare:workers'
import { err, ok, type Result } from '../../protocol/result.ts'
import { connect } from '../db/connect.ts'
import type { Database } from '../db/port.ts'
import type { Env } from '../env.ts'
import { drain, type OutboxStorage } from '../ledger/drain.ts'
import { type AttemptRow, decodeEntry, type OutboxEntry, type RequestRow } from '../ledger/outbox.ts'
import { transfersOf } from '../ledger/postings.ts'
import type { Usage } from '../meter/usage.ts'
import { errorText, log } from '../observe/log.ts'
import { type AccountView, admit, needsMoney } from './admission.ts'
import type { AccountRpc, AccountState, Denial, Hold, ReserveAsk, Settled, SettleEnd } from './contract.ts'
import { dayKey, sumWindow, utcDay } from './counters.ts'
import {
  checkpointHold,
  closeHold,
  endOf,
  expireHold,
  type HoldRecord,
  openHold,
  parseHoldId,
  REQUEST_CLOSE_GRACE_MS,
  settleHold,
  type Transition,
} from './holds.ts'
import { readMoneySums } from './money-sums.ts'
import { OpenHolds, scopesOf } from './open-holds.ts'
import { canClose, requestRow } from './requests.ts'
import { assertAsk, assertEnd, assertRepeats } from './sanity.ts'
import { type DaySum, Store } from './store.ts'

/** Rows reach Postgres this long after their settle: long enough that a busy account writes batches. */
const FLUSH_DELAY_MS = 100
/** Pauses after failed flushes double from the first to the last. The last bounds how late rows are after an outage. */
const FLUSH_BACKOFF_MIN_MS = 500
const FLUSH_BACKOFF_MAX_MS = 15_000
/** Batches per alarm; the rest follows with the next one, so that expiries are not kept waiting. */
const FLUSH_ROUNDS_MAX = 50
/** Entries that Postgres refused are tried again this often: the cause is code or a person, not time. */
const REJECTED_RETRY_MS = 3_600_000
/** Holds handled per alarm and counters swept at a time: bounds the time one event keeps others waiting. */
const DUE_ROWS_MAX = 500
const SWEEP_ROWS_MAX = 1_000
const SWEEP_EVERY_MS = 3_600_000
/** After a bug in the alarm: no hot loop, and the next try may be newer code. */
const ALARM_FAULT_RETRY_MS = 60_000

export class Account extends DurableObject<Env> implements AccountRpc {
  /** Instance fields are out of reach for Workers RPC; the suites swap these two. */
  now: () => number = () => Date.now()
  database: Database

  readonly #store: Store
  readonly #open = new OpenHolds()
  /** Kept beside the table, because counting rows costs time per row. */
  #outboxRows = 0
  #alarmAtMs: number | undefined
  #flushFailures = 0
  #flushAtMs: number | undefined
  /** Flushes and the rebuilding of counters, one after the other. */
  #exclusive: Promise<unknown> = Promise.resolve()

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.database = connect(env)
    this.#store = new Store(ctx.storage.sql)
    for (const hold of this.#store.openHolds()) this.#open.add(hold)
    this.#outboxRows = this.#store.outboxCounts().rows
    void ctx.blockConcurrencyWhile(async () => {
      this.#alarmAtMs = (await ctx.storage.getAlarm()) ?? undefined
      this.#arm()
    })
  }

  async reserve(ask: ReserveAsk): Promise<Result<Hold, Denial>> {
    assertAsk(ask)
    const isNew = this.#store.hold(ask.requestId, ask.attempt) === undefined
    if (isNew && needsMoney(ask)) await this.#makeMoneyReady(ask.orgId)
    const nowMs = this.now()
    type Answer = { result: Result<Hold, Denial>; opened?: HoldRecord }
    const { result, opened } = this.ctx.storage.transactionSync((): Answer => {
      const known = this.#store.hold(ask.requestId, ask.attempt)
      if (known !== undefined) {
        assertRepeats(known, ask)
        return { result: ok(known.granted) }
      }
      this.#bindOrganisation(ask.orgId)
      const admission = admit(ask, this.#view(ask))
      if (!admission.ok) return { result: err(admission.error) }
      const { limits: _checked, ...terms } = ask
      const hold = openHold(terms, admission.value.hold, nowMs)
      this.#store.putHold(hold)
      for (const counter of admission.value.counted) this.#store.countRequest(counter)
      return { result: ok(hold.granted), opened: hold }
    })
    if (opened !== undefined) {
      this.#open.add(opened)
      this.#wakeAt(opened.dueAtMs)
    }
    return result
  }

  async checkpoint(holdId: string, usage: Usage): Promise<void> {
    const { requestId, attempt } = parseHoldId(holdId)
    this.ctx.storage.transactionSync(() => {
      const hold = this.#store.hold(requestId, attempt)
      if (hold === undefined) return
      const proven = checkpointHold(hold, usage)
      if (proven !== hold) this.#store.putHold(proven)
    })
  }

  /** @throws RangeError on an end that cannot be true; Error where the hold is unknown (never reserved, or forgotten). */
  async settle(end: SettleEnd): Promise<Settled> {
    const { requestId, attempt } = parseHoldId(end.holdId)
    assertEnd(end)
    const nowMs = this.now()
    const { settled, appended } = this.ctx.storage.transactionSync(() => {
      const attempts = this.#store.attempts(requestId)
      const hold = attempts.find(({ terms }) => terms.attempt === attempt)
      if (hold === undefined) throw new Error(`no hold ${end.holdId} is known to this account`)
      const transition = settleHold(hold, end, nowMs)
      const closes = end.final && !attempts.some(({ requestClosed }) => requestClosed)
      if (transition === undefined) {
        // The first end stands. A later one can still say that no other attempt follows.
        if (closes) this.#append({ attempts: [], transfers: [] }, this.#close(attempts, attempt, nowMs))
        return { settled: { costNanoUsd: endOf(hold).costNanoUsd, repeated: true }, appended: closes ? 1 : 0 }
      }
      this.#charge(transition)
      const after = attempts.map((known) => (known === hold ? transition.hold : known))
      if (!closes) this.#store.putHold(transition.hold)
      this.#append(entryOf(transition.rows), closes ? this.#close(after, attempt, nowMs) : undefined)
      return { settled: { costNanoUsd: endOf(transition.hold).costNanoUsd, repeated: false }, appended: 1 }
    })
    this.#open.remove(end.holdId)
    if (appended > 0) this.#appended(appended, nowMs)
    return settled
  }

  async setKeyRevoked(keyId: string, revoked: boolean): Promise<void> {
    this.#store.setKeyRevoked(keyId, revoked)
  }

  async inspect(): Promise<AccountState> {
    const { rows, rejected, conflicts } = this.#store.outboxCounts()
    return {
      openHolds: this.#store.openHoldsShown(),
      counters: this.#store.countersShown(),
      outboxRows: rows,
      rejectedRows: rejected,
      conflicts,
    }
  }

  async flush(): Promise<{ outboxRows: number }> {
    await this.#flush({ includeRejected: true })
    this.#arm()
    return { outboxRows: this.#outboxRows }
  }

  override async alarm(): Promise<void> {
    this.#alarmAtMs = undefined
    const nowMs = this.now()
    try {
      this.#handleDue(nowMs)
      this.#sweep(nowMs)
      if (this.#outboxRows > 0 && (this.#flushAtMs ?? 0) <= nowMs) await this.#flush({ includeRejected: false })
      this.#arm()
    } catch (error) {
      log('error', 'account_alarm_failed', { error: errorText(error) })
      this.#wakeAt(this.now() + ALARM_FAULT_RETRY_MS)
    }
  }

  /** What admission may look at. */
  #view(ask: ReserveAsk): AccountView {
    const moneyReady = this.#store.meta('money_ready') !== undefined
    return {
      keyRevoked: this.#store.isKeyRevoked(ask.keyId),
      outboxRows: this.#outboxRows,
      openHolds: this.#open.count,
      requests: (counter) => this.#store.requests(counter),
      settled: (scope, scopeId, window, atMs) =>
        moneyReady ? sumWindow(this.#store.moneyDays(scope, scopeId), window, atMs) : undefined,
      held: (scope, scopeId, window, atMs) => this.#open.held(scope, scopeId, window, atMs),
      running: (scope, scopeId, exceptRequestId) => this.#open.running(scope, scopeId, exceptRequestId),
    }
  }

  /** An object serves one organisation for life: counters of two must never mix. */
  #bindOrganisation(orgId: string): void {
    const bound = this.#store.meta('org_id')
    if (bound === undefined) this.#store.setMeta('org_id', orgId)
    else if (bound !== orgId) throw new Error(`this account belongs to organisation ${bound}, not ${orgId}`)
  }

  /** In a transaction: moves the money counters of the day the attempt started on. */
  #charge({ hold, chargedNanoUsd }: Transition): void {
    const day = dayKey(hold.terms.startedAtMs)
    for (const [scope, scopeId] of scopesOf(hold.terms)) this.#store.addMoney(scope, scopeId, day, chargedNanoUsd)
  }

  #append(entry: OutboxEntry, request: RequestRow | undefined): void {
    this.#store.append(request === undefined ? entry : { ...entry, request })
  }

  /** In a transaction: stores every attempt of the request as closed and answers the request's row. */
  #close(attempts: HoldRecord[], finalAttempt: number | undefined, nowMs: number): RequestRow {
    for (const hold of attempts) this.#store.putHold(closeHold(hold, nowMs))
    return requestRow(attempts, finalAttempt, nowMs)
  }

  /** Expires, closes and forgets holds whose time has come. */
  #handleDue(nowMs: number): void {
    const freed: string[] = []
    const appended = this.ctx.storage.transactionSync(() => {
      let entries = 0
      for (const { terms } of this.#store.dueHolds(nowMs, DUE_ROWS_MAX)) {
        // Read again: closing one attempt changes its siblings, which may stand further down the list.
        const attempts = this.#store.attempts(terms.requestId)
        const hold = attempts.find(({ terms: { attempt } }) => attempt === terms.attempt)
        if (hold === undefined || hold.dueAtMs > nowMs) continue
        const expired = expireHold(hold, nowMs)
        if (expired !== undefined) {
          this.#charge(expired)
          freed.push(hold.granted.holdId)
          const after = attempts.map((known) => (known === hold ? expired.hold : known))
          const closes = canClose(after)
          if (!closes) this.#store.putHold(expired.hold)
          this.#append(entryOf(expired.rows), closes ? this.#close(after, undefined, nowMs) : undefined)
          entries++
        } else if (hold.requestClosed) {
          this.#store.deleteHold(hold)
        } else if (canClose(attempts)) {
          this.#append({ attempts: [], transfers: [] }, this.#close(attempts, undefined, nowMs))
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
    this.#outboxRows += appended
    if (freed.length > 0) log('warn', 'holds_expired', { holds: freed.length })
  }

  #sweep(nowMs: number): void {
    if (nowMs < Number(this.#store.meta('sweep_at_ms') ?? 0)) return
    this.ctx.storage.transactionSync(() => {
      const swept = this.#store.sweepCounters(nowMs, SWEEP_ROWS_MAX)
      // A full sweep means more is waiting: go on with the next alarm.
      if (swept < SWEEP_ROWS_MAX) this.#store.setMeta('sweep_at_ms', String(nowMs + SWEEP_EVERY_MS))
    })
  }

  #appended(entries: number, nowMs: number): void {
    this.#outboxRows += entries
    this.#flushAtMs ??= nowMs + FLUSH_DELAY_MS
    this.#wakeAt(this.#flushAtMs)
  }

  /** Never throws: a database that is away only postpones. */
  async #flush(options: { includeRejected: boolean }): Promise<void> {
    await this.#alone(async () => {
      this.#flushAtMs = undefined
      try {
        const dueMs = options.includeRejected ? Number.MAX_SAFE_INTEGER : this.now()
        const done = await drain(this.database, this.#outbox(dueMs), FLUSH_ROUNDS_MAX)
        this.#flushFailures = 0
        if (!done) this.#flushAtMs = this.now()
      } catch (error) {
        const pauseMs = Math.min(FLUSH_BACKOFF_MAX_MS, FLUSH_BACKOFF_MIN_MS * 2 ** Math.min(this.#flushFailures, 10))
        this.#flushFailures++
        this.#flushAtMs = this.now() + pauseMs
        log('warn', 'outbox_flush_failed', { rows: this.#outboxRows, pauseMs, error: errorText(error) })
      }
    })
  }

  #outbox(dueMs: number): OutboxStorage {
    let afterId = 0
    return {
      // Each entry is offered once per drain, so that one that is refused cannot come round again.
      batch: (rowsMax) => this.#store.outboxBatch(dueMs, afterId, rowsMax),
      confirm: (ids) => {
        this.ctx.storage.transactionSync(() => this.#store.deleteOutbox(ids))
        this.#outboxRows -= ids.length
        afterId = Math.max(afterId, ...ids)
      },
      reject: (id, reason) => {
        this.#store.rejectOutbox(id, reason, this.now() + REJECTED_RETRY_MS)
        afterId = Math.max(afterId, id)
        log('error', 'outbox_entry_rejected', { id, reason })
      },
    }
  }

  /** Starts the money counters from Postgres where this object has never had them; failure leaves them unknown. */
  async #makeMoneyReady(orgId: string): Promise<void> {
    if (this.#store.meta('money_ready') !== undefined) return
    await this.#alone(async () => {
      if (this.#store.meta('money_ready') !== undefined) return
      try {
        await this.#rebuildMoney(orgId)
      } catch (error) {
        log('warn', 'money_rebuild_failed', { orgId, error: errorText(error) })
      }
    })
  }

  /**
   * Charged = what stands in Postgres + what still waits here. First everything that may already have been committed is
   * confirmed; nothing is flushed while the sums are read; so each entry is counted on exactly one side.
   */
  async #rebuildMoney(orgId: string): Promise<void> {
    const outbox = this.#outbox(this.now())
    while (!(await drain(this.database, outbox, FLUSH_ROUNDS_MAX))) {
      // Entries that arrive meanwhile are written too, until none is left.
    }
    const sums = await readMoneySums(this.database, orgId)
    const nowMs = this.now()
    this.ctx.storage.transactionSync(() => {
      this.#store.replaceMoney([...sums, ...this.#waitingSums()], nowMs)
      this.#store.setMeta('money_ready', '1')
    })
  }

  /** Charges of the entries in the outbox. */
  #waitingSums(): DaySum[] {
    const sums: DaySum[] = []
    let afterId = 0
    for (;;) {
      const rows = this.#store.outboxBatch(Number.MAX_SAFE_INTEGER, afterId, DUE_ROWS_MAX)
      for (const row of rows) {
        afterId = row.id
        for (const attempt of decodeEntry(row.payload).attempts)
          if (attempt.charge === 'customer')
            for (const [scope, scopeId] of scopesOf(attempt))
              sums.push({ scope, scopeId, day: utcDay(attempt.startedAtMs), amountNanoUsd: attempt.costNanoUsd })
      }
      if (rows.length < DUE_ROWS_MAX) return sums
    }
  }

  async #alone(work: () => Promise<void>): Promise<void> {
    const turn = this.#exclusive.then(work)
    this.#exclusive = turn.catch(() => {})
    await turn
  }

  /** One alarm serves expiries, closings, forgetting and flushes: the earliest of them. */
  #arm(): void {
    const dueAtMs = this.#store.nextDueAtMs()
    if (dueAtMs !== undefined) this.#wakeAt(dueAtMs)
    if (this.#outboxRows === 0) return
    this.#flushAtMs ??= Math.max(this.now(), this.#store.nextOutboxAtMs() ?? 0)
    this.#wakeAt(this.#flushAtMs)
  }

  #wakeAt(atMs: number): void {
    if (this.#alarmAtMs !== undefined && this.#alarmAtMs <= atMs) return
    this.#alarmAtMs = atMs
    // Not awaited: it is part of this event's writes, and the answer waits for those. A failure resets the object.
    void this.ctx.storage.setAlarm(atMs)
  }
}

const entryOf = (rows: AttemptRow[]): OutboxEntry => ({ attempts: rows, transfers: rows.flatMap(transfersOf) })
