// Admission: every limit checked and reserved at once, durable before the answer.
import { env, evictDurableObject, runInDurableObject } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import type { Account } from '../../gateway/account/account.ts'
import { OPEN_HOLDS_MAX, OUTBOX_ROWS_MAX } from '../../gateway/account/admission.ts'
import { connect } from '../../gateway/db/connect.ts'
import { PRICE_MAX } from '../../gateway/meter/price.ts'
import { deadDatabase, endOf, eventually, newAccount, PRICE, used } from './support/account.ts'

const granted = <T>(result: { ok: true; value: T } | { ok: false; error: unknown }): T => {
  if (!result.ok)
    throw new Error(`refused: ${JSON.stringify(result.error, (_, v) => (typeof v === 'bigint' ? `${v}` : v))}`)
  return result.value
}

describe('money', () => {
  test('of 50 parallel requests exactly as many pass as fit under the cap, at every moment', async () => {
    const account = newAccount()
    await account.setLimits(account.money(7_999n))
    const results = await Promise.all(Array.from({ length: 50 }, () => account.stub.reserve(account.ask())))
    const holds = results.flatMap((result) => (result.ok ? [result.value] : []))
    expect(holds).toHaveLength(7)
    for (const result of results) if (!result.ok) expect(result.error.reason).toBe('budget_exhausted')
    for (const { holdId } of holds) {
      const held = (await account.stub.inspect()).openHolds.reduce((sum, hold) => sum + hold.heldNanoUsd, 0n)
      expect(held + (await account.charged())).toBeLessThanOrEqual(7_999n)
      await account.stub.settle(endOf(holdId, used(100, 450)))
    }
    expect(await account.charged()).toBe(7_000n)
    expect((await account.stub.reserve(account.ask())).ok).toBe(false)
  })

  test('a refusal names the rule, what is spent, what is held and when the window ends', async () => {
    const account = newAccount()
    const startedAtMs = Date.UTC(2026, 10, 22, 10, 30)
    await account.setNow(startedAtMs)
    const rule = account.money(2_500n, 'day')
    await account.setLimits(rule)
    const first = granted(await account.stub.reserve(account.ask({ startedAtMs })))
    granted(await account.stub.reserve(account.ask({ startedAtMs })))
    await account.stub.settle(endOf(first.holdId, used(100, 100)))
    const ask = account.ask({ startedAtMs, estimate: { inputTokens: 300, outputTokens: 600, calls: 0 } })
    expect(await account.stub.reserve(ask)).toEqual({
      ok: false,
      error: {
        reason: 'budget_exhausted',
        rule,
        settledNanoUsd: 300n,
        heldNanoUsd: 1_000n,
        askNanoUsd: 1_500n,
        resetAtMs: Date.UTC(2026, 10, 23),
      },
    })
  })

  test('settled plus held plus asked may equal the cap, and not one nano-dollar more', async () => {
    const account = newAccount()
    for (const [cap, passes] of [
      [1_000n, true],
      [1_999n, false],
      [2_000n, true],
    ] as const) {
      await account.setLimits(account.money(cap))
      expect((await account.stub.reserve(account.ask())).ok).toBe(passes)
    }
  })

  test('amounts beyond what a JS number holds exactly are kept to the nano-dollar', async () => {
    const account = newAccount()
    const price = { priceVersionId: 'dear', perMillion: { inputUncached: PRICE_MAX, outputText: PRICE_MAX } }
    const estimate = { inputTokens: 9_007_200, outputTokens: 1, calls: 0 }
    // 9,007,201 tokens at a dollar each: above 2^53 nano-dollars.
    const worst = 9_007_201n * 1_000_000_000n
    await account.setLimits(account.money(2n * worst + 1n))
    const first = granted(await account.stub.reserve(account.ask({ price, estimate })))
    expect(first.heldNanoUsd).toBe(worst)
    const settled = await account.stub.settle(endOf(first.holdId, used(9_007_200, 1)))
    expect(settled.costNanoUsd).toBe(worst)
    const cheap = { priceVersionId: 'cheap', perMillion: { inputUncached: 1_000_000n, outputText: 0n } }
    const one = { price: cheap, estimate: { inputTokens: 1, outputTokens: 0, calls: 0 } }
    granted(await account.stub.reserve(account.ask({ price, estimate })))
    granted(await account.stub.reserve(account.ask(one)))
    const full = await account.stub.reserve(account.ask(one))
    expect(full).toMatchObject({ ok: false, error: { settledNanoUsd: worst, heldNanoUsd: worst + 1n } })
    await account.stub.flush()
    expect((await account.balances()).customer_credit).toBe(-worst)
  })

  test('without a price it is refused under a money limit and free to start without one', async () => {
    const account = newAccount()
    await account.setLimits(account.money(1_000_000n))
    const refused = await account.stub.reserve(account.ask({ price: undefined }))
    expect(refused).toEqual({ ok: false, error: { reason: 'price_unknown', model: 'small' } })
    const half = { priceVersionId: 'half', perMillion: { inputUncached: 1n } }
    expect(await account.stub.reserve(account.ask({ price: half }))).toEqual(refused)
    await account.setLimits()
    expect(granted(await account.stub.reserve(account.ask({ price: undefined }))).heldNanoUsd).toBe(0n)
    const absurd = { priceVersionId: 'absurd', perMillion: { inputUncached: PRICE_MAX + 1n, outputText: 1n } }
    expect(await account.stub.reserve(account.ask({ price: absurd }))).toEqual(refused)
  })

  test('fails closed where Postgres cannot tell what was spent, and recovers with it', async () => {
    const account = newAccount()
    await account.setDatabase(deadDatabase)
    expect(await account.stub.reserve(account.ask())).toMatchObject({ ok: false, error: { reason: 'unavailable' } })
    await account.setLimits()
    expect((await account.stub.reserve(account.ask())).ok).toBe(true)
    await account.setLimits(account.money(10_000n))
    expect(await account.stub.reserve(account.ask())).toMatchObject({ ok: false, error: { reason: 'unavailable' } })
    await evictDurableObject(account.stub)
    expect((await account.stub.reserve(account.ask())).ok).toBe(true)
    // Once known, the sums need no database.
    await account.setDatabase(deadDatabase)
    expect((await account.stub.reserve(account.ask())).ok).toBe(true)
  })

  test('does not wait out a database that is silent, and grants once it has answered', async () => {
    const account = newAccount()
    await account.setLimits(account.money(10_000n))
    const real = connect(env)
    const seen = { awake: false }
    await account.setDatabase({
      batch: (statements) => real.batch(statements),
      async run(statement) {
        while (!seen.awake) await new Promise((resolve) => setTimeout(resolve, 10))
        return real.run(statement)
      },
    })
    expect(await account.stub.reserve(account.ask())).toMatchObject({ ok: false, error: { reason: 'unavailable' } })
    seen.awake = true
    await eventually('a grant', async () => (await account.stub.reserve(account.ask())).ok)
  })

  test('the rules of the database are in force where the object was told none', async () => {
    const account = newAccount()
    await connect(env).batch([
      { text: 'INSERT INTO rule_books (org_id, version) VALUES ($1, 9)', params: [account.orgId] },
      {
        text: `INSERT INTO limit_rules (org_id, limit_id, scope, scope_id, model, meter, time_window, time_zone, hard,
            max_count, max_nanousd, created_at) VALUES ($1, $2, 'key', '*', '', 'requests', 'day', 'Asia/Kolkata', true, 1, NULL, now())`,
        params: [account.orgId, crypto.randomUUID()],
      },
    ])
    expect((await account.stub.reserve(account.ask())).ok).toBe(true)
    expect(await account.stub.reserve(account.ask())).toMatchObject({
      ok: false,
      error: { rule: { scope: 'key', scopeId: '*', timeZone: 'Asia/Kolkata', max: 1 } },
    })
    expect((await account.stub.inspect()).rulesVersion).toBe(9)
  })
})

describe('identity', () => {
  test('a repeated reservation gets the same answer and reserves once, also after the object was evicted', async () => {
    const account = newAccount()
    await account.setLimits(account.money(1_500n), account.requestLimit(9, 'day'))
    const ask = account.ask()
    const first = await account.stub.reserve(ask)
    expect(await account.stub.reserve(ask)).toEqual(first)
    await evictDurableObject(account.stub)
    expect(await account.stub.reserve(ask)).toEqual(first)
    expect((await account.stub.inspect()).openHolds).toHaveLength(1)
  })

  test('a reservation repeated after its end is refused and says how it ended; one for something else throws', async () => {
    const account = newAccount()
    const ask = account.ask()
    const hold = granted(await account.stub.reserve(ask))
    await account.inside((object) =>
      expect(object.reserve({ ...ask, provider: 'elsewhere' })).rejects.toThrow('something else'),
    )
    await account.stub.settle(endOf(hold.holdId, used(1, 1)))
    const error = { reason: 'attempt_ended', status: 'ok', isClosed: true }
    expect(await account.stub.reserve(ask)).toEqual({ ok: false, error })
  })

  test('an account serves one organisation', async () => {
    const account = newAccount()
    granted(await account.stub.reserve(account.ask()))
    const stranger = account.ask({ orgId: crypto.randomUUID() })
    await account.inside((object) => expect(object.reserve(stranger)).rejects.toThrow('belongs to'))
  })

  test.each([
    ['a request id that is no uuid', { requestId: 'r1' }],
    ['attempt zero', { attempt: 0 }],
    ['half a token', { estimate: { inputTokens: 0.5, outputTokens: 1, calls: 0 } }],
    ['a user that is no uuid', { userId: 'anna' }],
    ['an end user without a name', { endUser: '' }],
    ['seconds for milliseconds', { startedAtMs: 1_700_000_000 }],
  ])('%s is a bug and throws', async (_, change) => {
    const account = newAccount()
    await account.inside((object) => expect(object.reserve(account.ask(change))).rejects.toThrow(RangeError))
  })

  test('a revoked key is refused from the next call on, until it is lifted', async () => {
    const account = newAccount()
    await account.stub.setKeyRevoked(account.keyId, true)
    await account.stub.setKeyRevoked(account.keyId, true)
    expect(await account.stub.reserve(account.ask())).toEqual({ ok: false, error: { reason: 'key_revoked' } })
    await evictDurableObject(account.stub)
    expect((await account.stub.reserve(account.ask())).ok).toBe(false)
    expect((await account.stub.reserve(account.ask({ keyId: crypto.randomUUID() }))).ok).toBe(true)
    await account.stub.setKeyRevoked(account.keyId, false)
    expect((await account.stub.reserve(account.ask())).ok).toBe(true)
  })
})

describe('bounds', () => {
  test('admission closes when too many endings wait for Postgres, and opens when they are written', async () => {
    const account = newAccount()
    granted(await account.stub.reserve(account.ask()))
    await runInDurableObject(account.stub, (_: Account, state) => {
      state.storage.sql.exec(
        `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
         INSERT INTO outbox (payload, retry_at_ms) SELECT '{}', 9007199254740990 FROM n`,
        OUTBOX_ROWS_MAX,
      )
    })
    await evictDurableObject(account.stub)
    expect(await account.stub.reserve(account.ask())).toMatchObject({ ok: false, error: { reason: 'outbox_full' } })
    // What runs can end all the same.
    const [open] = (await account.stub.inspect()).openHolds
    await account.stub.settle(endOf(open?.holdId ?? '', used(1, 1)))
    await runInDurableObject(account.stub, (_: Account, state) => {
      state.storage.sql.exec("DELETE FROM outbox WHERE payload = '{}'")
    })
    await evictDurableObject(account.stub)
    expect((await account.stub.reserve(account.ask())).ok).toBe(true)
  })

  test('open holds are bounded far above what an object can serve', () => {
    expect(OPEN_HOLDS_MAX).toBeGreaterThan(1_000)
  })

  test('a hold of a known price is kept even where no limit asks for it', async () => {
    const account = newAccount()
    expect(granted(await account.stub.reserve(account.ask({ price: PRICE }))).heldNanoUsd).toBe(1_000n)
  })
})
