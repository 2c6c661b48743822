// Random lives of an account against a simple model: requests, fallbacks, checkpoints, ends, late ends, repeats, time,
// evictions, a database that fails before or after the commit. After every step the account must hold and have charged
// what the model says; at the end Postgres must hold every attempt once, the sums of the model, and balanced books.
// A failure prints fast-check's seed and the shortest sequence.
import { env, evictDurableObject } from 'cloudflare:test'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ENDED_HOLD_KEPT_MS, EXPIRY_GRACE_MS } from '../../gateway/account/holds.ts'
import type { LimitRule } from '../../gateway/account/limit.ts'
import { connect } from '../../gateway/db/connect.ts'
import { type Database, DatabaseUnavailable } from '../../gateway/db/port.ts'
import { PostgresRecord } from '../../gateway/ledger/postgres-record.ts'
import {
  deadDatabase,
  endOf,
  eventually,
  forgetfulDatabase,
  newAccount,
  type TestAccount,
  used,
} from './support/account.ts'

/** Near the end of a month and of a day, far in the future: the object's real alarms stay out of the way. */
const START_MS = Date.UTC(2031, 0, 31, 22, 30)
/** Short against the steps of the clock: many holds expire, and many of those still get their end. */
const DEADLINE_MS = 2 * 60_000
const STEP_MAX_MS = 6 * 60_000
const CAP_DAY = 3_000n
const CAP_MONTH = 4_000n
const REQUESTS_PER_MINUTE = 4
const CONCURRENCY = 3

type Op =
  | { op: 'reserve'; key: number; input: number; output: number }
  | { op: 'fallback' | 'repeat_reserve'; pick: number }
  | { op: 'checkpoint'; pick: number; input: number; output: number }
  | { op: 'settle'; pick: number; input: number; output: number; absorbed: boolean; final: boolean; failed: boolean }
  | { op: 'repeat_settle'; pick: number }
  | { op: 'advance'; byMs: number }
  | { op: 'flush' | 'evict' }
  | { op: 'database'; mode: 'up' | 'down' | 'forgetful' }

const tokens = fc.nat(400)
const pick = fc.nat(1_000)
const OPS: fc.Arbitrary<Op[]> = fc.array(
  fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({ op: fc.constant('reserve' as const), key: fc.nat(1), input: tokens, output: tokens }),
    },
    { weight: 1, arbitrary: fc.record({ op: fc.constantFrom('fallback' as const, 'repeat_reserve' as const), pick }) },
    {
      weight: 2,
      arbitrary: fc.record({ op: fc.constant('checkpoint' as const), pick, input: tokens, output: tokens }),
    },
    {
      weight: 5,
      arbitrary: fc.record({
        op: fc.constant('settle' as const),
        pick,
        input: tokens,
        output: tokens,
        absorbed: fc.boolean(),
        final: fc.boolean(),
        failed: fc.boolean(),
      }),
    },
    { weight: 1, arbitrary: fc.record({ op: fc.constant('repeat_settle' as const), pick }) },
    { weight: 3, arbitrary: fc.record({ op: fc.constant('advance' as const), byMs: fc.nat(STEP_MAX_MS) }) },
    { weight: 1, arbitrary: fc.record({ op: fc.constantFrom('flush' as const, 'evict' as const) }) },
    {
      weight: 1,
      arbitrary: fc.record({
        op: fc.constant('database' as const),
        mode: fc.constantFrom('up' as const, 'down' as const, 'forgetful' as const),
      }),
    },
  ),
  { minLength: 20, maxLength: 40 },
)

type ModelAttempt = {
  requestId: string
  attempt: number
  keyId: string
  startedAtMs: number
  input: number
  output: number
  worst: bigint
  state: 'held' | 'ended' | 'expired' | 'late'
  checkpoint: bigint
  /** Output of the last proof: one of less is older. */
  proven: number
  /** What the customer has been charged. */
  charged: bigint
  /** What the attempt really cost, whoever pays. */
  cost: bigint
}

const costOf = (input: number, output: number) => BigInt(input) + 2n * BigInt(output)
const dayOf = (atMs: number) => new Date(atMs).toISOString().slice(0, 10)
const sum = (amounts: bigint[]) => amounts.reduce((total, amount) => total + amount, 0n)

const HARD = { hard: true, timeZone: 'UTC' } as const

class Simulation {
  readonly account: TestAccount = newAccount()
  readonly keys = [this.account.keyId, crypto.randomUUID()]
  readonly attempts: ModelAttempt[] = []
  nowMs = START_MS
  database: Database = connect(env)
  readonly #limits: LimitRule[] = [
    {
      ...HARD,
      limitId: crypto.randomUUID(),
      scope: 'key',
      scopeId: '*',
      meter: 'requests',
      window: 'minute',
      max: REQUESTS_PER_MINUTE,
    },
    {
      limitId: crypto.randomUUID(),
      hard: true,
      scope: 'project',
      scopeId: this.account.projectId,
      meter: 'concurrency',
      max: CONCURRENCY,
    },
    this.account.money(CAP_DAY, 'day'),
    this.account.money(CAP_MONTH, 'month'),
    // Far away: its counter is what was charged in all.
    this.account.money(10n ** 12n, 'lifetime'),
  ]

  async dress(): Promise<void> {
    await this.account.setNow(this.nowMs)
    await this.account.setDatabase(this.database)
    if (this.attempts.length === 0) await this.account.setLimits(...this.#limits)
  }

  async step(op: Op): Promise<void> {
    switch (op.op) {
      case 'reserve':
        return this.reserve(crypto.randomUUID(), 1, this.keys[op.key] ?? '', op.input, op.output)
      case 'fallback': {
        const ended = this.attempts.filter((one) => one.state !== 'held')
        const last = ended[op.pick % ended.length]
        if (last === undefined) return
        const attempt = this.attempts.filter(({ requestId }) => requestId === last.requestId).length + 1
        return this.reserve(last.requestId, attempt, last.keyId, 50, 50)
      }
      case 'repeat_reserve': {
        const held = this.#pick(op.pick, ['held'])
        if (held === undefined) return
        const repeated = await this.account.stub.reserve(
          this.#ask(held.requestId, held.attempt, held.keyId, held.input, held.output),
        )
        expect(repeated.ok ? repeated.value.heldNanoUsd : repeated.error.reason).toBe(held.worst)
        return
      }
      case 'checkpoint': {
        const held = this.#pick(op.pick, ['held'])
        if (held === undefined) return
        if (op.output >= held.proven) {
          held.checkpoint = costOf(op.input, op.output)
          held.proven = op.output
        }
        return this.account.stub.checkpoint(idOf(held), used(op.input, op.output))
      }
      case 'settle': {
        const one = this.#pick(op.pick, ['held', 'expired'])
        if (one === undefined) return
        if (one.state === 'expired' && one.checkpoint > 0n)
          reached.add(op.absorbed ? 'late, absorbed' : 'late, charged')
        one.cost = costOf(op.input, op.output)
        one.charged = op.absorbed ? 0n : one.cost
        one.state = one.state === 'held' ? 'ended' : 'late'
        const settled = await this.account.stub.settle(
          endOf(idOf(one), used(op.input, op.output), {
            endedAtMs: this.nowMs,
            charge: op.absorbed ? 'absorbed' : 'customer',
            final: op.final,
            status: op.failed ? 'upstream_error' : 'ok',
          }),
        )
        return expect(settled).toEqual({ costNanoUsd: one.cost, repeated: false })
      }
      case 'repeat_settle': {
        const one = this.#pick(op.pick, ['ended', 'late'])
        if (one === undefined) return
        const settled = await this.account.stub.settle(
          endOf(idOf(one), used(399, 399), { endedAtMs: this.nowMs, final: false }),
        )
        return expect(settled).toEqual({ costNanoUsd: one.cost, repeated: true })
      }
      case 'advance':
        return this.advance(op.byMs)
      case 'flush':
        await this.account.stub.flush()
        return
      case 'evict':
        await evictDurableObject(this.account.stub)
        return this.dress()
      case 'database':
        this.database = op.mode === 'up' ? connect(env) : op.mode === 'down' ? deadDatabase : forgetfulDatabase(1)
        return this.dress()
      default:
        return op satisfies never
    }
  }

  async reserve(requestId: string, attempt: number, keyId: string, input: number, output: number): Promise<void> {
    const worst = costOf(input, output)
    const refusal = this.#refusal(requestId, attempt, keyId, worst)
    const ask = () => this.account.stub.reserve(this.#ask(requestId, attempt, keyId, input, output))
    let result = await ask()
    // A database that is there, and slow to say the sums: the caller comes again.
    if (!result.ok && result.error.reason === 'unavailable' && this.database !== deadDatabase)
      await eventually('an answer that knows the sums', async () => {
        result = await ask()
        return result.ok || result.error.reason !== 'unavailable'
      })
    if (!result.ok && result.error.reason === 'request_closed') {
      // A fallback that came too late; when exactly a request is closed is the large simulation's to check.
      expect(attempt).toBeGreaterThan(1)
      return
    }
    expect(result.ok ? undefined : result.error.reason).toBe(refusal)
    reached.add(refusal ?? 'granted')
    if (!result.ok) return
    expect(result.value.heldNanoUsd).toBe(worst)
    this.attempts.push({
      requestId,
      attempt,
      keyId,
      startedAtMs: this.nowMs,
      input,
      output,
      worst,
      state: 'held',
      checkpoint: 0n,
      proven: 0,
      charged: 0n,
      cost: 0n,
    })
  }

  async advance(byMs: number): Promise<void> {
    this.nowMs += byMs
    for (const one of this.attempts)
      if (one.state === 'held' && one.startedAtMs + DEADLINE_MS + EXPIRY_GRACE_MS <= this.nowMs) {
        one.state = 'expired'
        one.cost = one.checkpoint
        one.charged = one.checkpoint
      }
    await this.account.alarmAt(this.nowMs)
  }

  /** What is true between any two steps. */
  async check(): Promise<void> {
    const { openHolds } = await this.account.stub.inspect()
    const held = this.attempts.filter((one) => one.state === 'held')
    expect(openHolds.map(({ holdId }) => holdId).sort()).toEqual(held.map(idOf).sort())
    expect(sum(openHolds.map(({ heldNanoUsd }) => heldNanoUsd))).toBe(sum(held.map(({ worst }) => worst)))
    expect(await this.account.charged()).toBe(sum(this.attempts.map(({ charged }) => charged)))
  }

  /** What Postgres has to hold once everything has ended and arrived. */
  async checkRecord(): Promise<void> {
    await this.advance(DEADLINE_MS + EXPIRY_GRACE_MS)
    await this.advance(2 * EXPIRY_GRACE_MS)
    this.database = connect(env)
    await this.dress()
    expect(await this.account.stub.flush()).toEqual({ outboxRows: 0 })
    const rows = await this.account.attempts()
    const ids = (of: { requestId: unknown; attempt: unknown }[]) =>
      of.map((one) => `${one.requestId}.${one.attempt}`).sort()
    expect(ids(rows.filter(({ kind }) => kind === 'attempt'))).toEqual(ids(this.attempts))
    for (const one of this.attempts) {
      const own = rows.filter((row) => row.requestId === one.requestId && row.attempt === one.attempt)
      expect(sum(own.map(({ cost }) => cost))).toBe(one.cost)
      expect(sum(own.map((row) => costOf(row.input, row.output)))).toBe(one.cost)
      expect(sum(own.filter(({ charge }) => charge === 'customer').map(({ cost }) => cost))).toBe(one.charged)
    }
    const requests = await this.account.requests()
    expect(requests.map(({ requestId }) => requestId).sort()).toEqual(
      [...new Set(this.attempts.map(({ requestId }) => requestId))].sort(),
    )
    const balances = await this.account.balances()
    expect(sum(Object.values(balances))).toBe(0n)
    expect(balances.customer_credit ?? 0n).toBe(-sum(this.attempts.map(({ charged }) => charged)))
    expect(balances.usage_revenue ?? 0n).toBe(sum(this.attempts.map(({ cost }) => cost)))
    const { scopeId } = this.account.money(0n)
    const rebuilt = await new PostgresRecord(connect(env)).sum(scopeId, { scope: 'org', scopeId, meter: 'money' })
    expect(sum(rebuilt.map(({ value }) => value))).toBe(await this.account.charged())
    expect(await this.account.stub.inspect()).toMatchObject({ rejectedRows: 0, conflicts: 0 })
  }

  #refusal(requestId: string, attempt: number, keyId: string, worst: bigint): string | undefined {
    const minute = Math.floor(this.nowMs / 60_000)
    const counted = this.attempts.filter(
      (one) => one.attempt === 1 && one.keyId === keyId && Math.floor(one.startedAtMs / 60_000) === minute,
    )
    if (attempt === 1 && counted.length >= REQUESTS_PER_MINUTE) return 'rate_limited'
    const inWindow = (length: number) =>
      sum(
        this.attempts
          .filter((one) => dayOf(one.startedAtMs).slice(0, length) === dayOf(this.nowMs).slice(0, length))
          .map((one) => (one.state === 'held' ? one.worst : one.charged)),
      )
    if (inWindow(10) + worst > CAP_DAY || inWindow(7) + worst > CAP_MONTH) return 'budget_exhausted'
    const running = new Set(this.attempts.filter(({ state }) => state === 'held').map((one) => one.requestId))
    running.delete(requestId)
    if (running.size >= CONCURRENCY) return 'concurrency_limited'
    return undefined
  }

  #ask(requestId: string, attempt: number, keyId: string, inputTokens: number, outputTokens: number) {
    return this.account.ask({
      requestId,
      attempt,
      keyId,
      estimate: { inputTokens, outputTokens, calls: 0 },
      startedAtMs: this.nowMs,
      deadlineAtMs: this.nowMs + DEADLINE_MS,
    })
  }

  #pick(index: number, states: ModelAttempt['state'][]): ModelAttempt | undefined {
    const found = this.attempts.filter(({ state }) => states.includes(state))
    return found[index % found.length]
  }
}

/** What random lives came to: a generator that never gets anywhere interesting proves nothing. */
const reached = new Set<string>()

const idOf = (one: ModelAttempt) => `${one.requestId}.${one.attempt}`

async function simulate(ops: Op[], sabotage?: (simulation: Simulation) => Promise<void>): Promise<void> {
  const simulation = new Simulation()
  await simulation.dress()
  // The sums are known from here on, so that a dead database later refuses nobody.
  await simulation.step({ op: 'reserve', key: 0, input: 1, output: 1 })
  for (const op of ops) {
    await simulation.step(op)
    await simulation.check()
  }
  await sabotage?.(simulation)
  await simulation.checkRecord()
}

test('whatever happens, money is conserved, every attempt is recorded once, and no cap is passed by admission', async () => {
  expect(40 * STEP_MAX_MS).toBeLessThan(ENDED_HOLD_KEPT_MS)
  await fc.assert(
    fc.asyncProperty(OPS, (ops) => simulate(ops)),
    { numRuns: 4 },
  )
}, 120_000)

const life: Op[] = [
  { op: 'reserve', key: 0, input: 100, output: 100 },
  { op: 'settle', pick: 0, input: 80, output: 90, absorbed: false, final: true, failed: false },
  { op: 'settle', pick: 0, input: 10, output: 20, absorbed: false, final: true, failed: false },
]

/** The rows that travel as one parameter. */
const rowsOf = (text: unknown): unknown[] => (typeof text === 'string' && text.startsWith('[') ? JSON.parse(text) : [])

test('canary: the checker notices a database that confirms and forgets', async () => {
  await simulate(life)
  const liar: Database = {
    run: () => Promise.reject(new DatabaseUnavailable('test: down')),
    batch: async (statements) => statements.map(({ params: [rows] }) => ({ rows: [], count: rowsOf(rows).length })),
  }
  const lie = async (simulation: Simulation) => {
    await simulation.account.setDatabase(liar)
    await simulation.account.stub.flush()
  }
  await expect(simulate(life, lie)).rejects.toThrow()
})

test('canary: the checker notices a charge that was counted twice', async () => {
  const twice = async (simulation: Simulation) => {
    const [first] = simulation.attempts
    if (first !== undefined) first.charged += 1n
  }
  await expect(simulate(life, twice)).rejects.toThrow()
})
