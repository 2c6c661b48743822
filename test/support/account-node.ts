// An account in Node: the product's object on SQLite in memory, with a clock a test holds and a record that is a model of
// Postgres. Owns the defaults of asks and rules; the real record and the real runtime are test/worker.
import { AccountCore } from '../../gateway/account/account-core.ts'
import { amountsOfRow } from '../../gateway/account/amounts.ts'
import type { ReserveAsk, SettleEnd } from '../../gateway/account/contract.ts'
import type { CreditTerms, LimitRule, RuleBook } from '../../gateway/account/limit.ts'
import { subjectAt } from '../../gateway/account/rule-index.ts'
import { DatabaseUnavailable } from '../../gateway/db/port.ts'
import type { AttemptRow, LimitEvent, OutboxEntry } from '../../gateway/ledger/outbox.ts'
import type { AccountRecord, Conflict, RecordedSum, SumQuestion } from '../../gateway/ledger/record.ts'
import type { PriceQuote } from '../../gateway/meter/price.ts'
import { NO_USAGE, type Usage } from '../../gateway/meter/usage.ts'
import { SimulatedStorage } from '../simulation/sqlite.ts'

/** One nano-dollar per input token, two per output token: costs are read off the tokens. */
export const PRICE: PriceQuote = {
  priceVersionId: '11111111-1111-4111-8111-111111111111',
  perMillion: { inputUncached: 1_000_000n, outputText: 2_000_000n },
}

export const used = (input: number, output: number): Usage => ({
  ...NO_USAGE,
  inputUncached: input,
  outputText: output,
})

/** What was written, and rules to read. `down` answers nothing; `lossy` writes and loses the answer. */
class TestRecord implements AccountRecord {
  state: 'up' | 'down' | 'lossy' = 'up'
  book: RuleBook = { version: 1, limits: [] }
  readonly rows = new Map<string, AttemptRow>()
  readonly events: LimitEvent[] = []
  /** Calls so far. */
  reads = 0
  sums = 0
  /** Waited for before a sum is answered. */
  beforeSum: () => Promise<void> = async () => {}

  async write(entries: OutboxEntry[]): Promise<Conflict[]> {
    this.#check()
    for (const { attempts, events = [] } of entries) {
      for (const row of attempts) this.rows.set(`${row.requestId}/${row.attempt}/${row.kind}`, row)
      for (const event of events) if (!this.events.some((known) => sameEvent(known, event))) this.events.push(event)
    }
    if (this.state === 'lossy') throw new DatabaseUnavailable('test: connection lost after commit')
    return []
  }

  async readRules(): Promise<RuleBook> {
    this.reads++
    this.#check()
    return this.book
  }

  async sum(_orgId: string, question: SumQuestion): Promise<RecordedSum[]> {
    this.sums++
    this.#check()
    const { scope, scopeId, model, meter, fromMs = 0, toMs = Number.MAX_SAFE_INTEGER } = question
    const sums = new Map<string, bigint>()
    for (const row of this.rows.values()) {
      const subject = subjectAt(scope, row)
      if (subject === undefined || (scopeId !== '*' && scopeId !== subject)) continue
      if (model !== undefined && model !== row.modelRequested) continue
      if (row.startedAtMs < fromMs || row.startedAtMs >= toMs) continue
      sums.set(subject, (sums.get(subject) ?? 0n) + amountsOfRow(row)[meter])
    }
    await this.beforeSum()
    return [...sums].map(([subject, value]) => ({ subject, value }))
  }

  #check(): void {
    if (this.state === 'down') throw new DatabaseUnavailable('test: down')
  }
}

const sameEvent = (a: LimitEvent, b: LimitEvent): boolean =>
  a.limitId === b.limitId && a.subject === b.subject && a.windowKey === b.windowKey && a.kind === b.kind

/** A limit as tests write it down. */
export type Limit = {
  scope?: LimitRule['scope']
  scopeId?: string
  model?: string
  hard?: boolean
  limitId?: string
} & (
  | { meter: 'requests' | 'input_tokens' | 'output_tokens'; window: Window; timeZone?: string; max: number }
  | { meter: 'money'; window: Window; timeZone?: string; maxNanoUsd: bigint }
  | { meter: 'concurrency'; max: number }
)
type Window = 'minute' | 'hour' | 'day' | 'month' | 'lifetime'

export class NodeAccount {
  readonly orgId = crypto.randomUUID()
  readonly projectId = crypto.randomUUID()
  readonly keyId = crypto.randomUUID()
  readonly userId = crypto.randomUUID()
  readonly teamId = crypto.randomUUID()
  readonly storage = new SimulatedStorage()
  readonly record = new TestRecord()
  /** A Sunday at noon, in the middle of everything. */
  nowMs = Date.UTC(2026, 10, 22, 12, 0, 30)
  alarmAtMs: number | undefined
  core: AccountCore

  constructor() {
    this.core = this.#made()
  }

  /** The instance is dropped; what it stored stays. */
  restart(): void {
    this.core = this.#made()
  }

  /** The storage is lost too. */
  lose(): void {
    this.storage.wipe()
    this.restart()
  }

  /** A first attempt of a new request, worth 100 + 2 · 450 = 1,000 nano-dollars at most. */
  ask(change: Partial<ReserveAsk> = {}): ReserveAsk {
    const startedAtMs = change.startedAtMs ?? this.nowMs
    return {
      requestId: crypto.randomUUID(),
      attempt: 1,
      orgId: this.orgId,
      projectId: this.projectId,
      keyId: this.keyId,
      modelRequested: 'small',
      provider: 'fleet',
      modelServed: 'smollm2',
      estimate: { inputTokens: 100, outputTokens: 450, calls: 0 },
      price: PRICE,
      startedAtMs,
      deadlineAtMs: startedAtMs + 600_000,
      stream: true,
      ...change,
    }
  }

  rule(limit: Limit): LimitRule {
    const { scope = 'org', scopeId = this.idAt(scope), hard = true, limitId = crypto.randomUUID() } = limit
    const where = { scope, scopeId, hard, limitId, ...(limit.model === undefined ? {} : { model: limit.model }) }
    if (limit.meter === 'concurrency') return { ...where, meter: limit.meter, max: limit.max }
    const span = { window: limit.window, timeZone: limit.timeZone ?? 'UTC' }
    if (limit.meter === 'money') return { ...where, ...span, meter: limit.meter, maxNanoUsd: limit.maxNanoUsd }
    return { ...where, ...span, meter: limit.meter, max: limit.max }
  }

  /** Puts limits in force, here and in the record. Answers them as rules. */
  async setLimits(limits: Limit[], credit?: CreditTerms): Promise<LimitRule[]> {
    const rules = limits.map((limit) => this.rule(limit))
    this.record.book = {
      version: this.record.book.version + 1,
      limits: rules,
      ...(credit === undefined ? {} : { credit }),
    }
    await this.core.setRules(this.record.book)
    return rules
  }

  idAt(scope: LimitRule['scope']): string {
    const ids = { org: this.orgId, project: this.projectId, key: this.keyId, user: this.userId, team: this.teamId }
    return scope === 'end_user' ? 'customer-1' : ids[scope]
  }

  /** Why an ask is refused; `granted` where it is not. */
  async outcome(change: Partial<ReserveAsk> = {}): Promise<string> {
    const result = await this.core.reserve(this.ask(change))
    return result.ok ? 'granted' : result.error.reason
  }

  async grant(change: Partial<ReserveAsk> = {}) {
    const ask = this.ask(change)
    const result = await this.core.reserve(ask)
    if (!result.ok) throw new Error(`refused: ${result.error.reason}`)
    return { ask, hold: result.value, holdId: result.value.holdId }
  }

  async serve(usage: Usage, change: Partial<ReserveAsk> = {}, end: Partial<SettleEnd> = {}) {
    const { holdId } = await this.grant(change)
    return this.core.settle(this.end(holdId, usage, end))
  }

  end(holdId: string, usage: Usage, change: Partial<SettleEnd> = {}): SettleEnd {
    return {
      holdId,
      usage,
      usageSource: 'provider',
      status: 'ok',
      endedAtMs: this.nowMs,
      charge: 'customer',
      final: true,
      httpStatus: 200,
      ...change,
    }
  }

  /** What the account has counted under one series, all windows. */
  async counted(series: string): Promise<Record<string, bigint>> {
    const { counters } = await this.core.inspect()
    return Object.fromEntries(
      counters
        .filter((one) => one.series.startsWith(series))
        .map((one) => [`${one.subject} ${one.windowKey}`, one.value]),
    )
  }

  #made(): AccountCore {
    const core = new AccountCore({
      sql: this.storage.sql,
      transaction: (work) => this.storage.transaction(work),
      now: () => this.nowMs,
      setAlarm: (atMs) => {
        this.alarmAtMs = atMs
      },
      record: this.record,
      log: () => {},
    })
    core.start(this.alarmAtMs)
    return core
  }
}
