// From the outbox to Postgres: nothing lost, nothing twice, whatever fails in between; and books that balance.
import { env, evictDurableObject, runInDurableObject } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import type { Account } from '../../gateway/account/account.ts'
import { connect } from '../../gateway/db/connect.ts'
import { type Database, DatabaseUnavailable, QueryFailed, type Statement } from '../../gateway/db/port.ts'
import { writeEntries } from '../../gateway/ledger/flush.ts'
import type { AttemptRow, OutboxEntry } from '../../gateway/ledger/outbox.ts'
import { PostgresRecord } from '../../gateway/ledger/postgres-record.ts'
import { transfersOf } from '../../gateway/ledger/postings.ts'
import type { SumQuestion } from '../../gateway/ledger/record.ts'
import {
  deadDatabase,
  endOf,
  eventually,
  forgetfulDatabase,
  newAccount,
  PRICE,
  type TestAccount,
  used,
} from './support/account.ts'

async function serve(account: TestAccount, requests: number, change: Partial<ReturnType<TestAccount['ask']>> = {}) {
  if ((await account.stub.inspect()).rulesVersion === undefined) await account.setLimits()
  await Promise.all(
    Array.from({ length: requests }, async () => {
      const hold = await account.stub.reserve(account.ask(change))
      if (!hold.ok) throw new Error(hold.error.reason)
      await account.stub.settle(endOf(hold.value.holdId, used(10, 5)))
    }),
  )
}

const entry = (account: TestAccount, change: Partial<AttemptRow> = {}): OutboxEntry => {
  const row: AttemptRow = {
    orgId: account.orgId,
    requestId: crypto.randomUUID(),
    attempt: 1,
    kind: 'attempt',
    projectId: account.projectId,
    keyId: account.keyId,
    provider: 'fleet',
    modelRequested: 'small',
    modelServed: 'smollm2',
    stream: false,
    status: 'ok',
    httpStatus: 200,
    charge: 'customer',
    usage: used(10, 5),
    usageSource: 'provider',
    costNanoUsd: 20n,
    pricing: 'priced',
    price: PRICE,
    startedAtMs: Date.UTC(2026, 10, 22, 12),
    endedAtMs: Date.UTC(2026, 10, 22, 12, 1),
    recordedAtMs: Date.UTC(2026, 10, 22, 12, 1),
    ...change,
  }
  return { attempts: [row], transfers: transfersOf(row) }
}

describe('flush', () => {
  test('rows appear in Postgres by themselves soon after a settle', async () => {
    const account = newAccount()
    await serve(account, 3)
    await eventually('three rows', async () => (await account.attempts()).length === 3)
    expect((await account.stub.inspect()).outboxRows).toBe(0)
  })

  test('more rows than one batch arrive, each once', async () => {
    const account = newAccount()
    await serve(account, 230)
    expect(await account.stub.flush()).toEqual({ outboxRows: 0 })
    expect(await account.attempts()).toHaveLength(230)
    expect(await account.requests()).toHaveLength(230)
    expect(await account.balances()).toEqual({ customer_credit: -4_600n, usage_revenue: 4_600n })
  })

  test('a crash between settle and flush loses nothing', async () => {
    const account = newAccount()
    await account.setDatabase(deadDatabase)
    await serve(account, 5)
    await account.stub.flush()
    expect(await account.attempts()).toEqual([])
    await evictDurableObject(account.stub)
    // No call wakes it: the object's own alarm does.
    await eventually('five rows', async () => (await account.attempts()).length === 5)
    expect((await account.stub.inspect()).outboxRows).toBe(0)
  })

  test('an object that is aborted in the middle of its work comes back with everything it had answered', async () => {
    const account = newAccount()
    await account.setLimits()
    await account.setDatabase(deadDatabase)
    const open = await account.stub.reserve(account.ask())
    await serve(account, 2)
    await runInDurableObject(account.stub, (_: Account, state) => state.abort('test: power cut')).catch(() => {})
    const state = await env.ACCOUNT.getByName(account.orgId).inspect()
    expect(state.openHolds.map(({ holdId }) => holdId)).toEqual(open.ok ? [open.value.holdId] : [])
    await eventually('two rows', async () => (await account.attempts()).length === 2)
  })

  test('while Postgres is away requests go on and wait in the outbox; when it is back they arrive', async () => {
    const account = newAccount()
    await account.setLimits(account.money(1_000_000n))
    await serve(account, 1)
    await account.setDatabase(deadDatabase)
    await serve(account, 20)
    const { outboxRows } = await account.stub.flush()
    expect(outboxRows).toBeGreaterThanOrEqual(20)
    expect(await account.charged()).toBe(420n)
    await account.setDatabase(connect(env))
    // Its own retries find the database again.
    await eventually('all rows', async () => (await account.attempts()).length === 21)
    expect(await account.balances()).toEqual({ customer_credit: -420n, usage_revenue: 420n })
    expect(await account.charged()).toBe(420n)
  })

  test('a commit whose answer was lost is written once', async () => {
    const account = newAccount()
    await account.setDatabase(forgetfulDatabase(1))
    await serve(account, 4)
    await eventually('the outbox to drain', async () => (await account.stub.flush()).outboxRows === 0)
    expect(await account.attempts()).toHaveLength(4)
    expect(await account.requests()).toHaveLength(4)
    expect(await account.balances()).toEqual({ customer_credit: -80n, usage_revenue: 80n })
    expect((await account.stub.inspect()).conflicts).toBe(0)
  })

  test('an entry that Postgres refuses holds up nothing and is kept for a person to see', async () => {
    const account = newAccount()
    const poison = '\u0000'
    const bad = await account.stub.reserve(account.ask({ modelRequested: poison }))
    if (!bad.ok) throw new Error(bad.error.reason)
    await account.setDatabase(deadDatabase)
    await account.stub.settle(endOf(bad.value.holdId, used(1, 1)))
    await serve(account, 6)
    await account.setDatabase(connect(env))
    expect(await account.stub.flush()).toEqual({ outboxRows: 1 })
    expect(await account.attempts()).toHaveLength(6)
    expect(await account.stub.inspect()).toMatchObject({ outboxRows: 1, rejectedRows: 1, conflicts: 0 })
    expect(await account.stub.flush()).toEqual({ outboxRows: 1 })
  })

  test('a database without the tables keeps everything and rejects nothing', async () => {
    const account = newAccount()
    const unmigrated: Database = {
      run: () => Promise.reject(new QueryFailed('relation does not exist', '42P01')),
      batch: () => Promise.reject(new QueryFailed('relation does not exist', '42P01')),
    }
    await account.setDatabase(unmigrated)
    await serve(account, 3)
    expect(await account.stub.flush()).toEqual({ outboxRows: 3 })
    expect(await account.stub.inspect()).toMatchObject({ rejectedRows: 0 })
    await account.setDatabase(connect(env))
    expect(await account.stub.flush()).toEqual({ outboxRows: 0 })
  })

  test('another fact under the same identity is told, kept out, and leaves the ledger balanced', async () => {
    const account = newAccount()
    const ask = account.ask()
    const stranger = entry(account, { requestId: ask.requestId, costNanoUsd: 7n, charge: 'absorbed' })
    await writeEntries(connect(env), [stranger])
    const hold = await account.stub.reserve(ask)
    if (!hold.ok) throw new Error(hold.error.reason)
    await account.stub.settle(endOf(hold.value.holdId, used(10, 5)))
    expect(await account.stub.flush()).toEqual({ outboxRows: 1 })
    expect(await account.stub.inspect()).toMatchObject({ rejectedRows: 1, conflicts: 1 })
    expect((await account.attempts()).map(({ cost }) => cost)).toEqual([7n])
    expect(await account.balances()).toEqual({ gateway_absorbed: -7n, usage_revenue: 7n })
  })
})

describe('writing entries', () => {
  test('is safe to repeat and tells repeats from conflicts', async () => {
    const account = newAccount()
    const database = connect(env)
    const entries = [entry(account), entry(account)]
    expect(await writeEntries(database, entries)).toEqual([])
    expect(await writeEntries(database, entries)).toEqual([])
    const [first] = entries
    const other = entry(account, { requestId: first?.attempts[0]?.requestId ?? '', usage: used(11, 5) })
    expect(await writeEntries(database, [other, entry(account)])).toEqual([
      { table: 'usage_attempts', identity: `${first?.attempts[0]?.requestId}/1/attempt` },
    ])
    expect(await account.attempts()).toHaveLength(3)
    expect(await account.balances()).toEqual({ customer_credit: -60n, usage_revenue: 60n })
  })

  test('keeps how an attempt came about beside the fact: it makes none another one', async () => {
    const account = newAccount()
    const database = connect(env)
    const before = entry(account)
    const [row] = before.attempts
    if (row === undefined) throw new Error('no row')
    expect(await writeEntries(database, [before])).toEqual([])
    // As a newer gateway would write the same fact again.
    const again = { ...before, attempts: [{ ...row, route: '{"role":"primary"}' }] }
    expect(await writeEntries(database, [again])).toEqual([])
    const routed = entry(account)
    const [other] = routed.attempts
    if (other === undefined) throw new Error('no row')
    await writeEntries(database, [{ ...routed, attempts: [{ ...other, route: '{"role":"retry"}' }] }])
    const { rows } = await database.run({
      text: 'select request_id, route from usage_attempts where org_id = $1',
      params: [account.orgId],
    })
    expect(new Map(rows.map(([id, route]) => [id, route]))).toEqual(
      new Map([
        [row.requestId, null],
        [other.requestId, '{"role":"retry"}'],
      ]),
    )
  })

  test('carries amounts at the edge of 64 bits', async () => {
    const account = newAccount()
    const most = 2n ** 63n - 1n
    await writeEntries(connect(env), [entry(account, { costNanoUsd: most })])
    expect((await account.attempts())[0]?.cost).toBe(most)
    expect(await account.balances()).toEqual({ customer_credit: -most, usage_revenue: most })
  })

  test('sends a batch of any size by the same few statements', async () => {
    const account = newAccount()
    const sent: string[][] = []
    const watched: Database = {
      ...connect(env),
      batch: (statements) => {
        sent.push(statements.map(({ text }) => text))
        return connect(env).batch(statements)
      },
    }
    for (const rows of [1, 150])
      await writeEntries(
        watched,
        Array.from({ length: rows }, () => entry(account)),
      )
    expect(sent).toEqual([sent[0], sent[0]])
    expect(await account.attempts()).toHaveLength(151)
  })

  test('writes text with half of a surrogate pair, which Postgres has no way to hold, as text with a mark in its place', async () => {
    const account = newAccount()
    expect(await writeEntries(connect(env), [entry(account, { endUser: 'a\ud83d"\\b\n' })])).toEqual([])
    const { rows } = await connect(env).run({
      text: 'SELECT end_user FROM usage_attempts WHERE org_id = $1',
      params: [account.orgId],
    })
    expect(rows).toEqual([['a\ufffd"\\b\n']])
  })
})

describe('the record as an account reads it', () => {
  /** Sums by subject. */
  const sums = async (account: TestAccount, question: SumQuestion) => {
    const found = await new PostgresRecord(connect(env)).sum(account.orgId, question)
    return Object.fromEntries(found.map(({ subject, value }) => [subject, value]))
  }

  test('sums days, months and everything, of each scope, meter and model', async () => {
    const account = newAccount()
    const days = [
      Date.UTC(2024, 1, 29, 23, 59, 59, 999),
      Date.UTC(2026, 9, 31, 12),
      Date.UTC(2026, 10, 1),
      Date.UTC(2026, 10, 22, 12),
    ]
    const userId = crypto.randomUUID()
    const teamId = crypto.randomUUID()
    const entries = days.map((startedAtMs, index) =>
      entry(account, { startedAtMs, costNanoUsd: 10n ** BigInt(index), userId, endUser: 'anna' }),
    )
    const other = crypto.randomUUID()
    const last = days[3] ?? 0
    const foreign = entry(account, {
      keyId: other,
      startedAtMs: last,
      costNanoUsd: 50_000n,
      endUser: "bert's",
      modelRequested: 'large',
      teamId,
    })
    const absorbed = entry(account, { charge: 'absorbed', costNanoUsd: 9n, startedAtMs: last })
    const fallback = entry(account, { attempt: 2, startedAtMs: last, costNanoUsd: 1n })
    const correction = entry(account, { kind: 'adjustment', startedAtMs: last, costNanoUsd: -1n, usage: used(-4, 2) })
    await writeEntries(connect(env), [...entries, foreign, absorbed, fallback, correction])
    const { orgId, projectId, keyId } = account
    const month = { fromMs: Date.UTC(2026, 10), toMs: Date.UTC(2026, 11) }
    const today = { fromMs: Date.UTC(2026, 10, 22), toMs: Date.UTC(2026, 10, 23) }
    const key = { scope: 'key', scopeId: keyId, meter: 'money' } as const
    expect(await sums(account, { ...key, ...today })).toEqual({ [keyId]: 1_000n })
    expect(await sums(account, { ...key, ...month })).toEqual({ [keyId]: 1_100n })
    expect(await sums(account, key)).toEqual({ [keyId]: 1_111n })
    expect(await sums(account, { ...key, scopeId: '*' })).toEqual({ [keyId]: 1_111n, [other]: 50_000n })
    expect(await sums(account, { scope: 'org', scopeId: orgId, meter: 'money' })).toEqual({ [orgId]: 51_111n })
    expect(await sums(account, { scope: 'project', scopeId: '*', meter: 'requests' })).toEqual({ [projectId]: 6n })
    expect(await sums(account, { scope: 'key', scopeId: '*', meter: 'input_tokens', ...today })).toEqual({
      [keyId]: 16n,
      [other]: 10n,
    })
    expect(await sums(account, { scope: 'org', scopeId: orgId, meter: 'output_tokens', ...today })).toEqual({
      [orgId]: 17n,
    })
    expect(await sums(account, { scope: 'user', scopeId: userId, meter: 'requests' })).toEqual({ [userId]: 4n })
    expect(await sums(account, { scope: 'team', scopeId: '*', meter: 'requests' })).toEqual({ [teamId]: 1n })
    expect(await sums(account, { scope: 'end_user', scopeId: '*', meter: 'requests', ...month })).toEqual({
      anna: 2n,
      "bert's": 1n,
    })
    expect(await sums(account, { scope: 'org', scopeId: orgId, meter: 'money', model: 'large' })).toEqual({
      [orgId]: 50_000n,
    })
    expect(await sums(account, { scope: 'team', scopeId: crypto.randomUUID(), meter: 'money' })).toEqual({})
    expect(await sums(newAccount(), { scope: 'end_user', scopeId: '*', meter: 'money' })).toEqual({})
    // A history too long for one statement is summed in pieces.
    const real = connect(env)
    const slow: Database = {
      batch: (statements) => real.batch(statements),
      async run(statement) {
        const [from, to] = statement.params.filter((param) => String(param).includes('T'))
        const days = (Date.parse(String(to)) - Date.parse(String(from))) / 86_400_000
        if (days > 9) throw new DatabaseUnavailable('canceling statement due to statement timeout (57014)')
        return real.run(statement)
      },
    }
    const found = await new PostgresRecord(slow).sum(orgId, { scope: 'org', scopeId: orgId, meter: 'money' })
    expect(found).toEqual([{ subject: orgId, value: 51_111n }])
  })

  test('an object that lost its storage knows every counter again', async () => {
    const account = newAccount()
    await account.setLimits(account.money(1_000n), account.requestLimit(6, 'day'))
    await serve(account, 6, { estimate: { inputTokens: 10, outputTokens: 5, calls: 0 } })
    await account.stub.flush()
    const before = await account.stub.inspect()
    await runInDurableObject(account.stub, (_: Account, state) => {
      for (const table of ['series', 'counts', 'holds', 'meta']) state.storage.sql.exec(`DELETE FROM ${table}`)
    })
    await evictDurableObject(account.stub)
    expect(await account.stub.reserve(account.ask())).toMatchObject({ ok: false })
    expect((await account.stub.inspect()).counters).toEqual(before.counters)
  })

  test('prepaid credit comes with the rules', async () => {
    const account = newAccount()
    const { orgId } = account
    await connect(env).batch([
      {
        text: `INSERT INTO organisations (org_id, slug, name, created_at, billing_mode, overdraft_nanousd)
          VALUES ($1, $2, 'n', now(), 'prepaid', 7)`,
        params: [orgId, `credit-${orgId}`],
      },
      ...[9_000_000_000_000_000_000n, 5n, -3n].map((amount) => ({
        text: `INSERT INTO credit_grants (org_id, grant_id, kind, amount_nanousd, note, occurred_at)
          VALUES ($1, $2, 'payment', $3, '', now())`,
        params: [orgId, crypto.randomUUID(), amount.toString()],
      })),
    ])
    expect(await new PostgresRecord(connect(env)).readRules(orgId)).toEqual({
      version: 0,
      limits: [],
      credit: { grantedNanoUsd: 9_000_000_000_000_000_002n, overdraftNanoUsd: 7n },
    })
  })

  test('events of limits stand there once, however often they come', async () => {
    const account = newAccount()
    const event = {
      orgId: account.orgId,
      limitId: crypto.randomUUID(),
      subject: 'anna',
      windowKey: 'day@2026-11-22T00:00Z',
      kind: 'passed',
      max: 5n,
      value: 2n ** 63n - 1n,
      occurredAtMs: Date.UTC(2026, 10, 22),
    } as const
    const withEvent = { attempts: [], transfers: [], events: [event] }
    expect(await writeEntries(connect(env), [withEvent, withEvent, entry(account)])).toEqual([])
    expect(await writeEntries(connect(env), [withEvent])).toEqual([])
    const { rows } = await connect(env).run({
      text: 'SELECT subject, kind, max_value, value FROM limit_events WHERE org_id = $1',
      params: [account.orgId],
    })
    expect(rows).toEqual([['anna', 'passed', '5', '9223372036854775807']])
  })
})

describe('a serialisation failure', () => {
  /** While broken, Postgres itself raises 40001 in place of the statement at this index of every batch. */
  class Failing implements Database {
    isBroken = true
    statements = 0
    readonly #at: number
    readonly #real = connect(env)

    constructor(at: number) {
      this.#at = at
    }

    run(statement: Statement) {
      return this.#real.run(statement)
    }

    batch(statements: Statement[]) {
      this.statements = statements.length
      if (!this.isBroken) return this.#real.batch(statements)
      const raise = { text: "DO $$ BEGIN RAISE EXCEPTION 'test' USING ERRCODE = '40001'; END $$", params: [] }
      return this.#real.batch(statements.map((statement, index) => (index === this.#at ? raise : statement)))
    }
  }

  test('at any statement of a flush leaves nothing half written, and the next flush writes it all', async () => {
    const events = async (account: TestAccount) => {
      const text = 'SELECT kind FROM limit_events WHERE org_id = $1'
      return (await connect(env).run({ text, params: [account.orgId] })).rows.length
    }
    for (let at = 0; ; at++) {
      const account = newAccount()
      await account.setLimits(account.requestLimit(2, 'day'))
      const first = await account.stub.reserve(account.ask())
      await account.setDatabase(deadDatabase)
      await account.stub.settle(endOf(first.ok ? first.value.holdId : '', used(10, 5)))
      await serve(account, 1)
      expect((await account.stub.reserve(account.ask())).ok).toBe(false)
      const database = new Failing(at)
      await account.setDatabase(database)
      expect(await account.stub.flush()).toEqual({ outboxRows: 3 })
      expect([await account.attempts(), await account.requests(), await account.balances()]).toEqual([[], [], {}])
      expect(await events(account)).toBe(0)
      database.isBroken = false
      expect(await account.stub.flush()).toEqual({ outboxRows: 0 })
      expect(await account.attempts()).toHaveLength(2)
      expect(await account.requests()).toHaveLength(2)
      expect(await account.balances()).toEqual({ customer_credit: -40n, usage_revenue: 40n })
      expect(await events(account)).toBe(1)
      expect(await account.stub.inspect()).toMatchObject({ rejectedRows: 0, conflicts: 0 })
      if (at === database.statements - 1) {
        expect(at).toBeGreaterThan(3)
        return
      }
    }
  }, 60_000)
})

test('the tables as the code sees them are the tables of the migrations', async () => {
  const { getTableColumns, getTableName } = await import('drizzle-orm')
  const { usageAttempts, usageRequests } = await import('../../gateway/db/schema/usage.ts')
  const { creditGrants, ledgerAccounts, ledgerEntries } = await import('../../gateway/db/schema/ledger.ts')
  const { limitEvents, limitRules, ruleBooks } = await import('../../gateway/db/schema/limits.ts')
  const ledger = [ledgerAccounts, ledgerEntries, creditGrants]
  for (const table of [usageAttempts, usageRequests, ...ledger, limitRules, ruleBooks, limitEvents]) {
    const seen = Object.values(getTableColumns(table)).map((column) => [
      column.name,
      column.getSQLType(),
      column.notNull,
    ])
    const { rows } = await connect(env).run({
      text: `SELECT column_name, data_type, is_nullable = 'NO' FROM information_schema.columns WHERE table_name = $1`,
      params: [getTableName(table)],
    })
    const real = rows.map(([name, type, notNull]) => [name, type, notNull])
    expect(new Set(seen.map(String))).toEqual(new Set(real.map(String)))
  }
})
