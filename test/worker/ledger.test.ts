// From the outbox to Postgres: nothing lost, nothing twice, whatever fails in between; and books that balance.
import { env, evictDurableObject, runInDurableObject } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import type { Account } from '../../gateway/account/account.ts'
import { connect } from '../../gateway/db/connect.ts'
import { type Database, QueryFailed } from '../../gateway/db/port.ts'
import { chunks, writeEntries } from '../../gateway/ledger/flush.ts'
import type { AttemptRow, OutboxEntry } from '../../gateway/ledger/outbox.ts'
import { transfersOf } from '../../gateway/ledger/postings.ts'
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
    const limits = [account.money(1_000_000n)]
    await serve(account, 1, { limits })
    await account.setDatabase(deadDatabase)
    await serve(account, 20, { limits })
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

  test('carries amounts at the edge of 64 bits', async () => {
    const account = newAccount()
    const most = 2n ** 63n - 1n
    await writeEntries(connect(env), [entry(account, { costNanoUsd: most })])
    expect((await account.attempts())[0]?.cost).toBe(most)
    expect(await account.balances()).toEqual({ customer_credit: -most, usage_revenue: most })
  })

  test('cuts a batch into few sizes, so that few statements are prepared', () => {
    const sizes = (rows: number) =>
      chunks(Array.from({ length: rows }, (_, index) => index)).map((piece) => piece.length)
    expect(sizes(0)).toEqual([])
    expect(sizes(100)).toEqual([64, 32, 4])
    expect(sizes(203)).toEqual([64, 64, 64, 8, 2, 1])
    expect(chunks([1, 2, 3]).flat()).toEqual([1, 2, 3])
  })
})

describe('the money counters of a lost object', () => {
  test('are rebuilt from Postgres before the first money check: days, months, lifetime, each scope', async () => {
    const account = newAccount()
    const days = [
      Date.UTC(2024, 1, 29, 23, 59, 59, 999),
      Date.UTC(2026, 9, 31, 12),
      Date.UTC(2026, 10, 1),
      Date.UTC(2026, 10, 22, 12),
    ]
    const entries = days.map((startedAtMs, index) => entry(account, { startedAtMs, costNanoUsd: 10n ** BigInt(index) }))
    const foreign = entry(account, { keyId: crypto.randomUUID(), startedAtMs: days[3] ?? 0, costNanoUsd: 50_000n })
    const absorbed = entry(account, { charge: 'absorbed', costNanoUsd: 9n })
    await writeEntries(connect(env), [...entries, foreign, absorbed])
    const spent = async (scope: 'org' | 'key', window: 'day' | 'month' | 'lifetime') => {
      const scopeId = scope === 'org' ? account.orgId : account.keyId
      const limits = [{ scope, scopeId, meter: 'money', window, maxNanoUsd: 0n } as const]
      const refused = await account.stub.reserve(account.ask({ limits, startedAtMs: Date.UTC(2026, 10, 22, 13) }))
      return refused.ok || refused.error.reason !== 'budget_exhausted' ? undefined : refused.error.settledNanoUsd
    }
    await account.setNow(Date.UTC(2026, 10, 22, 13))
    expect(await spent('key', 'day')).toBe(1_000n)
    expect(await spent('key', 'month')).toBe(1_100n)
    expect(await spent('key', 'lifetime')).toBe(1_111n)
    expect(await spent('org', 'lifetime')).toBe(51_111n)
  })

  test('count what waits in the outbox and what has arrived exactly once', async () => {
    const account = newAccount()
    await serve(account, 3)
    await account.stub.flush()
    await account.setDatabase(forgetfulDatabase(1))
    // Without a money limit nothing was rebuilt yet; these wait, or are committed without the object knowing.
    await serve(account, 4)
    await account.stub.flush()
    await serve(account, 2)
    const limits = [account.money(0n, 'lifetime')]
    await eventually('the sums to be known', async () => {
      const answer = await account.stub.reserve(account.ask({ limits }))
      return !answer.ok && answer.error.reason === 'budget_exhausted' && answer.error.settledNanoUsd === 180n
    })
    await account.stub.flush()
    expect(await account.charged()).toBe(180n)
  })

  test('stay right when settles arrive while the sums are being read', async () => {
    const account = newAccount()
    await serve(account, 2)
    await account.stub.flush()
    const real = connect(env)
    // Flags, not promises: the runtime lets no object wait on another's promise.
    const seen = { reading: false, written: false }
    const slow: Database = {
      batch: (statements) => real.batch(statements),
      run: async (statement) => {
        const result = await real.run(statement)
        if (statement.text.includes('GROUP BY')) {
          seen.reading = true
          while (!seen.written) await new Promise((resolve) => setTimeout(resolve, 5))
        }
        return result
      },
    }
    await account.setDatabase(slow)
    const limits = [account.money(0n)]
    const refused = account.stub.reserve(account.ask({ limits }))
    await eventually('the sums to be read', async () => seen.reading)
    await serve(account, 3)
    seen.written = true
    expect(await refused).toMatchObject({ ok: false, error: { settledNanoUsd: 100n } })
  })
})

test('the tables as the code sees them are the tables of the migrations', async () => {
  const { getTableColumns, getTableName } = await import('drizzle-orm')
  const { usageAttempts, usageRequests } = await import('../../gateway/db/schema/usage.ts')
  const { ledgerAccounts, ledgerEntries } = await import('../../gateway/db/schema/ledger.ts')
  for (const table of [usageAttempts, usageRequests, ledgerAccounts, ledgerEntries]) {
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
