// Admission: every limit checked and reserved at once, durable before the answer.
import { evictDurableObject, runInDurableObject } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import type { Account } from '../../gateway/account/account.ts'
import { OPEN_HOLDS_MAX, OUTBOX_ROWS_MAX } from '../../gateway/account/admission.ts'
import type { LimitRule } from '../../gateway/account/contract.ts'
import { PRICE_MAX } from '../../gateway/meter/price.ts'
import { deadDatabase, endOf, newAccount, PRICE, used } from './support/account.ts'

const granted = <T>(result: { ok: true; value: T } | { ok: false; error: unknown }): T => {
  if (!result.ok)
    throw new Error(`refused: ${JSON.stringify(result.error, (_, v) => (typeof v === 'bigint' ? `${v}` : v))}`)
  return result.value
}

describe('money', () => {
  test('of 50 parallel requests exactly as many pass as fit under the cap, at every moment', async () => {
    const account = newAccount()
    const limits = [account.money(7_999n)]
    const results = await Promise.all(Array.from({ length: 50 }, () => account.stub.reserve(account.ask({ limits }))))
    const holds = results.flatMap((result) => (result.ok ? [result.value] : []))
    expect(holds).toHaveLength(7)
    for (const result of results) if (!result.ok) expect(result.error.reason).toBe('budget_exhausted')
    for (const { holdId } of holds) {
      const held = (await account.stub.inspect()).openHolds.reduce((sum, hold) => sum + hold.heldNanoUsd, 0n)
      expect(held + (await account.charged())).toBeLessThanOrEqual(7_999n)
      await account.stub.settle(endOf(holdId, used(100, 450)))
    }
    expect(await account.charged()).toBe(7_000n)
    expect((await account.stub.reserve(account.ask({ limits }))).ok).toBe(false)
  })

  test('a refusal names the rule, what is spent, what is held and when the window ends', async () => {
    const account = newAccount()
    const startedAtMs = Date.UTC(2026, 10, 22, 10, 30)
    const limits = [account.money(2_500n, 'day')]
    const first = granted(await account.stub.reserve(account.ask({ limits, startedAtMs })))
    granted(await account.stub.reserve(account.ask({ limits, startedAtMs })))
    await account.stub.settle(endOf(first.holdId, used(100, 100)))
    const ask = account.ask({ limits, startedAtMs, estimate: { inputTokens: 300, outputTokens: 600 } })
    expect(await account.stub.reserve(ask)).toEqual({
      ok: false,
      error: {
        reason: 'budget_exhausted',
        rule: limits[0],
        settledNanoUsd: 300n,
        heldNanoUsd: 1_000n,
        askNanoUsd: 1_500n,
        resetAtMs: Date.UTC(2026, 10, 23),
      },
    })
  })

  test('settled plus held plus asked may equal the cap, and not one nano-dollar more', async () => {
    const account = newAccount()
    expect((await account.stub.reserve(account.ask({ limits: [account.money(1_000n)] }))).ok).toBe(true)
    expect((await account.stub.reserve(account.ask({ limits: [account.money(1_999n)] }))).ok).toBe(false)
    expect((await account.stub.reserve(account.ask({ limits: [account.money(2_000n)] }))).ok).toBe(true)
  })

  test('amounts beyond what a JS number holds exactly are kept to the nano-dollar', async () => {
    const account = newAccount()
    const price = { priceVersionId: 'dear', perMillion: { inputUncached: PRICE_MAX, outputText: PRICE_MAX } }
    const estimate = { inputTokens: 9_007_200, outputTokens: 1 }
    // 9,007,201 tokens at a dollar each: above 2^53 nano-dollars.
    const worst = 9_007_201n * 1_000_000_000n
    const cap = 2n * worst + 1n
    const limits = [account.money(cap)]
    const first = granted(await account.stub.reserve(account.ask({ limits, price, estimate })))
    expect(first.heldNanoUsd).toBe(worst)
    const settled = await account.stub.settle(endOf(first.holdId, used(9_007_200, 1)))
    expect(settled.costNanoUsd).toBe(worst)
    const cheap = { priceVersionId: 'cheap', perMillion: { inputUncached: 1_000_000n, outputText: 0n } }
    const one = { limits, price: cheap, estimate: { inputTokens: 1, outputTokens: 0 } }
    granted(await account.stub.reserve(account.ask({ limits, price, estimate })))
    granted(await account.stub.reserve(account.ask(one)))
    const full = await account.stub.reserve(account.ask(one))
    expect(full).toMatchObject({ ok: false, error: { settledNanoUsd: worst, heldNanoUsd: worst + 1n } })
    await account.stub.flush()
    expect((await account.balances()).customer_credit).toBe(-worst)
  })

  test('every scope and window has to have room', async () => {
    const account = newAccount()
    const rule = (
      scope: LimitRule['scope'],
      scopeId: string,
      window: 'day' | 'month' | 'lifetime',
      max: bigint,
    ): LimitRule => ({
      scope,
      scopeId,
      meter: 'money',
      window,
      maxNanoUsd: max,
    })
    const wide = 1_000_000n
    const tight = (narrow: number): LimitRule[] =>
      (
        [
          ['org', account.orgId, 'lifetime'],
          ['project', account.projectId, 'month'],
          ['key', account.keyId, 'day'],
        ] as const
      ).map(([scope, id, window], index) => rule(scope, id, window, index === narrow ? 999n : wide))
    for (const narrow of [0, 1, 2]) {
      const limits = tight(narrow)
      const refused = await account.stub.reserve(account.ask({ limits }))
      expect(refused).toMatchObject({ ok: false, error: { reason: 'budget_exhausted', rule: limits[narrow] } })
    }
    expect((await account.stub.inspect()).openHolds).toEqual([])
    expect((await account.stub.reserve(account.ask({ limits: tight(3) }))).ok).toBe(true)
  })

  test('another key of the organisation spends from the organisation, not from this key', async () => {
    const account = newAccount()
    const keyRule: LimitRule = {
      scope: 'key',
      scopeId: account.keyId,
      meter: 'money',
      window: 'day',
      maxNanoUsd: 1_000n,
    }
    const other = account.ask({ keyId: crypto.randomUUID(), limits: [account.money(10_000n)] })
    granted(await account.stub.reserve(other))
    expect((await account.stub.reserve(account.ask({ limits: [keyRule] }))).ok).toBe(true)
    expect((await account.stub.reserve(account.ask({ limits: [account.money(2_999n)] }))).ok).toBe(false)
  })

  test('an attempt belongs to the window it started in, and a new window starts empty', async () => {
    const account = newAccount()
    const limits = [account.money(1_000n, 'month')]
    const lastInstant = Date.UTC(2026, 11, 1) - 1
    const november = granted(await account.stub.reserve(account.ask({ limits, startedAtMs: lastInstant })))
    expect((await account.stub.reserve(account.ask({ limits, startedAtMs: lastInstant }))).ok).toBe(false)
    expect((await account.stub.reserve(account.ask({ limits, startedAtMs: lastInstant + 1 }))).ok).toBe(true)
    // It ends in December and still counts in November.
    await account.stub.settle(endOf(november.holdId, used(100, 450), { endedAtMs: lastInstant + 60_000 }))
    expect((await account.stub.reserve(account.ask({ limits, startedAtMs: lastInstant }))).ok).toBe(false)
    const lifetime = [account.money(2_999n, 'lifetime')]
    expect((await account.stub.reserve(account.ask({ limits: lifetime, startedAtMs: lastInstant + 2 }))).ok).toBe(false)
  })

  test('without a price it is refused under a money limit and free to start without one', async () => {
    const account = newAccount()
    const limits = [account.money(1_000_000n)]
    const refused = await account.stub.reserve(account.ask({ limits, price: undefined }))
    expect(refused).toEqual({ ok: false, error: { reason: 'price_unknown', model: 'small' } })
    const half = { priceVersionId: 'half', perMillion: { inputUncached: 1n } }
    expect(await account.stub.reserve(account.ask({ limits, price: half }))).toEqual(refused)
    expect(granted(await account.stub.reserve(account.ask({ price: undefined }))).heldNanoUsd).toBe(0n)
    const absurd = { priceVersionId: 'absurd', perMillion: { inputUncached: PRICE_MAX + 1n, outputText: 1n } }
    expect(await account.stub.reserve(account.ask({ price: absurd }))).toEqual(refused)
  })

  test('fails closed where Postgres cannot tell what was spent, and recovers with it', async () => {
    const account = newAccount()
    await account.setDatabase(deadDatabase)
    const limits = [account.money(10_000n)]
    expect(await account.stub.reserve(account.ask({ limits }))).toMatchObject({
      ok: false,
      error: { reason: 'unavailable' },
    })
    expect((await account.stub.reserve(account.ask())).ok).toBe(true)
    await evictDurableObject(account.stub)
    expect((await account.stub.reserve(account.ask({ limits }))).ok).toBe(true)
    // Once known, the sums need no database.
    await account.setDatabase(deadDatabase)
    expect((await account.stub.reserve(account.ask({ limits }))).ok).toBe(true)
  })
})

describe('requests', () => {
  const perMinute = (account: { keyId: string }, max: number): LimitRule => ({
    scope: 'key',
    scopeId: account.keyId,
    meter: 'requests',
    window: 'minute',
    max,
  })

  test('are counted per calendar window, with the time to the next one', async () => {
    const account = newAccount()
    const limits = [perMinute(account, 2)]
    const startedAtMs = Date.UTC(2026, 10, 22, 10, 0, 45)
    const resetAtMs = Date.UTC(2026, 10, 22, 10, 1)
    const first = granted(await account.stub.reserve(account.ask({ limits, startedAtMs })))
    expect(first.requests).toEqual({ limit: 2, remaining: 1, resetAtMs })
    granted(await account.stub.reserve(account.ask({ limits, startedAtMs })))
    const refused = await account.stub.reserve(account.ask({ limits, startedAtMs }))
    expect(refused).toEqual({ ok: false, error: { reason: 'rate_limited', rule: limits[0], retryAfterMs: 15_000 } })
    expect((await account.stub.reserve(account.ask({ limits, startedAtMs: resetAtMs }))).ok).toBe(true)
  })

  test('a fallback attempt is the same request and is neither counted nor refused', async () => {
    const account = newAccount()
    const limits = [perMinute(account, 1)]
    const first = account.ask({ limits })
    const hold = granted(await account.stub.reserve(first))
    await account.stub.settle(endOf(hold.holdId, used(0, 0), { status: 'overloaded', final: false }))
    const second = granted(await account.stub.reserve({ ...first, attempt: 2 }))
    expect(second.requests?.remaining).toBe(0)
    const { counters } = await account.stub.inspect()
    expect(counters.filter(({ meter }) => meter === 'requests').map(({ value }) => value)).toEqual([1n])
  })

  test('a refused request counts nowhere', async () => {
    const account = newAccount()
    const limits = [perMinute(account, 10), account.money(0n)]
    expect((await account.stub.reserve(account.ask({ limits }))).ok).toBe(false)
    expect((await account.stub.inspect()).counters).toEqual([])
  })

  test('the tightest of several limits is told', async () => {
    const account = newAccount()
    const hour: LimitRule = { scope: 'org', scopeId: account.orgId, meter: 'requests', window: 'hour', max: 3 }
    const hold = granted(await account.stub.reserve(account.ask({ limits: [perMinute(account, 10), hour] })))
    expect(hold.requests).toMatchObject({ limit: 3, remaining: 2 })
  })
})

describe('concurrency', () => {
  test('counts distinct requests; each kind of end frees its place', async () => {
    const account = newAccount()
    const limits: LimitRule[] = [{ scope: 'project', scopeId: account.projectId, meter: 'concurrency', max: 1 }]
    const ends = [
      (holdId: string) => account.stub.settle(endOf(holdId, used(1, 1))),
      (holdId: string) => account.stub.settle(endOf(holdId, used(0, 0), { status: 'upstream_error', httpStatus: 502 })),
      (holdId: string) =>
        account.stub.settle(endOf(holdId, used(5, 0), { status: 'client_cancelled', httpStatus: 499 })),
      () => account.alarmAt(Date.now() + 3_600_000),
    ]
    for (const end of ends) {
      const hold = granted(await account.stub.reserve(account.ask({ limits })))
      const refused = await account.stub.reserve(account.ask({ limits }))
      expect(refused).toEqual({ ok: false, error: { reason: 'concurrency_limited', rule: limits[0], running: 1 } })
      await end(hold.holdId)
      await account.setNow(Date.now())
    }
    expect((await account.stub.reserve(account.ask({ limits }))).ok).toBe(true)
  })

  test('attempts of one request share its place', async () => {
    const account = newAccount()
    const limits: LimitRule[] = [{ scope: 'org', scopeId: account.orgId, meter: 'concurrency', max: 1 }]
    const first = account.ask({ limits })
    const one = granted(await account.stub.reserve(first))
    granted(await account.stub.reserve({ ...first, attempt: 2 }))
    await account.stub.settle(endOf(one.holdId, used(0, 0), { status: 'engine_lost', final: false }))
    expect((await account.stub.reserve(account.ask({ limits }))).ok).toBe(false)
  })
})

describe('identity', () => {
  test('a repeated reservation gets the same answer and reserves once, also after the object was evicted', async () => {
    const account = newAccount()
    const ask = account.ask({
      limits: [
        account.money(1_500n),
        { scope: 'org', scopeId: account.orgId, meter: 'requests', window: 'day', max: 9 },
      ],
    })
    const first = await account.stub.reserve(ask)
    expect(await account.stub.reserve(ask)).toEqual(first)
    await evictDurableObject(account.stub)
    expect(await account.stub.reserve(ask)).toEqual(first)
    expect((await account.stub.inspect()).openHolds).toHaveLength(1)
  })

  test('a reservation repeated after its end, or for something else, throws: it must not be dispatched', async () => {
    const account = newAccount()
    const ask = account.ask()
    const hold = granted(await account.stub.reserve(ask))
    await account.inside((object) =>
      expect(object.reserve({ ...ask, provider: 'elsewhere' })).rejects.toThrow('something else'),
    )
    await account.stub.settle(endOf(hold.holdId, used(1, 1)))
    await account.inside((object) => expect(object.reserve(ask)).rejects.toThrow('has ended'))
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
    ['half a token', { estimate: { inputTokens: 0.5, outputTokens: 1 } }],
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
