// Ends of holds: settled, released, expired and settled late, each charged once; and the rows each leaves in Postgres.
import { env, evictDurableObject } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import type { ReserveAsk } from '../../gateway/account/contract.ts'
import { ENDED_HOLD_KEPT_MS, EXPIRY_GRACE_MS, REQUEST_CLOSE_GRACE_MS } from '../../gateway/account/holds.ts'
import { connect } from '../../gateway/db/connect.ts'
import { NO_USAGE } from '../../gateway/meter/usage.ts'
import { endOf, newAccount, PRICE, type TestAccount, used } from './support/account.ts'

/** A first attempt, counted against a limit that it is far from. */
async function start(account: TestAccount, change: Partial<ReserveAsk> = {}) {
  if ((await account.stub.inspect()).rulesVersion === undefined)
    await account.setLimits(...(change.price === undefined && 'price' in change ? [] : [account.money(1_000_000n)]))
  const ask = account.ask(change)
  const result = await account.stub.reserve(ask)
  if (!result.ok) throw new Error(`refused: ${result.error.reason}`)
  return { ask, holdId: result.value.holdId }
}

describe('settled', () => {
  test('charges what was used, gives the rest back, and writes attempt, request and ledger', async () => {
    const account = newAccount()
    const { ask, holdId } = await start(account)
    expect(await account.stub.settle(endOf(holdId, used(90, 10)))).toEqual({ costNanoUsd: 110n, repeated: false })
    expect((await account.stub.inspect()).openHolds).toEqual([])
    expect(await account.charged()).toBe(110n)
    expect(await account.stub.flush()).toEqual({ outboxRows: 0 })
    const { requestId } = ask
    expect(await account.attempts()).toEqual([
      {
        requestId,
        attempt: 1,
        kind: 'attempt',
        status: 'ok',
        charge: 'customer',
        source: 'provider',
        pricing: 'priced',
        input: 90,
        output: 10,
        cost: 110n,
      },
    ])
    expect(await account.requests()).toEqual([
      { requestId, status: 'ok', httpStatus: 200, attempts: 1, input: 90, output: 10, cost: 110n, provider: 'fleet' },
    ])
    expect(await account.balances()).toEqual({ customer_credit: -110n, usage_revenue: 110n })
  })

  test('a repeat answers the first cost and charges nothing, whatever it says', async () => {
    const account = newAccount()
    const { holdId } = await start(account)
    await account.stub.settle(endOf(holdId, used(90, 10)))
    expect(await account.stub.settle(endOf(holdId, used(90, 10)))).toEqual({ costNanoUsd: 110n, repeated: true })
    await evictDurableObject(account.stub)
    expect(await account.stub.settle(endOf(holdId, used(1, 1)))).toEqual({ costNanoUsd: 110n, repeated: true })
    await account.stub.flush()
    expect(await account.attempts()).toHaveLength(1)
    expect(await account.requests()).toHaveLength(1)
    expect(await account.charged()).toBe(110n)
  })

  test('parallel ends of one hold: one counts', async () => {
    const account = newAccount()
    const { holdId } = await start(account)
    const ends = await Promise.all(Array.from({ length: 8 }, () => account.stub.settle(endOf(holdId, used(10, 0)))))
    expect(ends.filter(({ repeated }) => !repeated)).toHaveLength(1)
    expect(await account.charged()).toBe(10n)
  })

  test('cost above the hold is recorded in full and counts as debt against the cap', async () => {
    const account = newAccount()
    await account.setLimits(account.money(1_000n))
    const { holdId } = await start(account)
    expect((await account.stub.settle(endOf(holdId, used(100, 5_000)))).costNanoUsd).toBe(10_100n)
    const refused = await account.stub.reserve(account.ask({ estimate: { inputTokens: 0, outputTokens: 0, calls: 0 } }))
    expect(refused).toMatchObject({ ok: false, error: { reason: 'budget_exhausted', settledNanoUsd: 10_100n } })
  })

  test('an answer of zero tokens that went well is settled at nothing and moves no ledger account', async () => {
    const account = newAccount()
    const { holdId } = await start(account)
    expect((await account.stub.settle(endOf(holdId, NO_USAGE))).costNanoUsd).toBe(0n)
    await account.stub.flush()
    expect(await account.attempts()).toMatchObject([{ status: 'ok', cost: 0n }])
    expect(await account.balances()).toEqual({})
  })

  test('without a price it is charged nothing and flagged; with a price for some parts the dearest stands in', async () => {
    const account = newAccount()
    const free = await start(account, { price: undefined })
    await account.stub.settle(endOf(free.holdId, used(10, 10)))
    const partial = await start(account, { price: { ...PRICE, perMillion: { ...PRICE.perMillion } } })
    await account.stub.settle(endOf(partial.holdId, { ...NO_USAGE, inputCacheRead: 10 }))
    await account.stub.flush()
    const rows = await account.attempts()
    expect(rows.find(({ requestId }) => requestId === free.ask.requestId)).toMatchObject({
      pricing: 'price_missing',
      cost: 0n,
    })
    expect(rows.find(({ requestId }) => requestId === partial.ask.requestId)).toMatchObject({
      pricing: 'part_missing',
      cost: 10n,
    })
  })

  test('rows carry the prices they were computed with', async () => {
    const account = newAccount()
    const { holdId } = await start(account)
    await account.stub.settle(endOf(holdId, used(1, 1), { providerCostNanoUsd: 2n }))
    await account.stub.flush()
    const text = 'SELECT price_version_id, unit_prices, provider_cost_nanousd FROM usage_attempts WHERE org_id = $1'
    const { rows } = await connect(env).run({ text, params: [account.orgId] })
    const prices = '{"perMillion":{"inputUncached":"1000000","outputText":"2000000"}}'
    expect(rows[0]).toEqual([PRICE.priceVersionId, prices, '2'])
    expect(await account.balances()).toEqual({
      customer_credit: -3n,
      usage_revenue: 3n,
      provider_cost: -2n,
      provider_payable: 2n,
    })
  })

  test.each([
    ['negative tokens', { usage: used(-1, 0) }],
    ['a fraction of a token', { usage: used(0.5, 0) }],
    ['more tokens than any context', { usage: used(2e9, 0) }],
    ['no HTTP status', { httpStatus: 0 }],
  ])('an end with %s throws and leaves the hold to its expiry', async (_, change) => {
    const account = newAccount()
    const { holdId } = await start(account)
    const end = { ...endOf(holdId, used(1, 1)), ...change }
    await account.inside((object) => expect(object.settle(end)).rejects.toThrow(RangeError))
    expect((await account.stub.inspect()).openHolds).toHaveLength(1)
  })

  test('an end of a hold nobody took throws', async () => {
    const account = newAccount()
    const end = endOf(`${crypto.randomUUID()}.1`, used(1, 1))
    await account.inside((object) => expect(object.settle(end)).rejects.toThrow('no hold'))
  })
})

describe('released', () => {
  test('a failure without usage costs nothing, frees the money, and stands in the record once', async () => {
    const account = newAccount()
    await account.setLimits(account.money(1_000n))
    const { holdId } = await start(account)
    const failed = { status: 'upstream_error', httpStatus: 502 } as const
    expect(await account.stub.settle(endOf(holdId, NO_USAGE, failed))).toEqual({ costNanoUsd: 0n, repeated: false })
    expect((await account.stub.settle(endOf(holdId, used(100, 1)))).repeated).toBe(true)
    await start(account)
    await account.stub.flush()
    expect(await account.attempts()).toMatchObject([{ status: 'upstream_error', input: 0, output: 0, cost: 0n }])
    expect(await account.requests()).toMatchObject([{ status: 'upstream_error', httpStatus: 502, cost: 0n }])
  })
})

describe('fallback', () => {
  test('each attempt stands in the record, the customer pays the winner, the gateway absorbs the rest', async () => {
    const account = newAccount()
    const { ask, holdId } = await start(account)
    const lost = { status: 'engine_lost', charge: 'absorbed', final: false, httpStatus: 502 } as const
    await account.stub.settle(endOf(holdId, used(100, 3), lost))
    const second = await account.stub.reserve({ ...ask, attempt: 2, provider: 'vendor' })
    if (!second.ok) throw new Error(second.error.reason)
    await account.stub.settle(endOf(second.value.holdId, used(100, 20)))
    await account.stub.flush()
    expect(await account.attempts()).toMatchObject([
      { attempt: 1, charge: 'absorbed', status: 'engine_lost', cost: 106n },
      { attempt: 2, charge: 'customer', status: 'ok', cost: 140n },
    ])
    expect(await account.requests()).toMatchObject([
      { attempts: 2, status: 'ok', input: 100, output: 20, cost: 140n, provider: 'vendor' },
    ])
    // The vendor says nothing of its bill: its list price stands in.
    expect(await account.balances()).toEqual({
      customer_credit: -140n,
      gateway_absorbed: -106n,
      usage_revenue: 246n,
      provider_cost: -140n,
      provider_payable: 140n,
    })
    expect(await account.charged()).toBe(140n)
  })

  test('where no fallback is granted, repeating the last end as final writes the request once', async () => {
    const account = newAccount()
    const { holdId } = await start(account)
    const failed = { status: 'overloaded', httpStatus: 503 } as const
    await account.stub.settle(endOf(holdId, NO_USAGE, { ...failed, final: false }))
    for (let round = 0; round < 2; round++)
      expect(await account.stub.settle(endOf(holdId, NO_USAGE, failed))).toEqual({ costNanoUsd: 0n, repeated: true })
    await account.stub.flush()
    expect(await account.attempts()).toHaveLength(1)
    expect(await account.requests()).toMatchObject([{ attempts: 1, status: 'overloaded', httpStatus: 503 }])
  })

  test('where nobody comes back after a failed attempt, the account closes the request itself', async () => {
    const account = newAccount()
    const { holdId } = await start(account)
    await account.stub.settle(endOf(holdId, NO_USAGE, { status: 'overloaded', httpStatus: 503, final: false }))
    await account.alarmAt(Date.now() + REQUEST_CLOSE_GRACE_MS + 1_000)
    await account.stub.flush()
    expect(await account.attempts()).toHaveLength(1)
    expect(await account.requests()).toMatchObject([{ attempts: 1, status: 'overloaded' }])
  })

  test('a long fallback keeps its request open past the grace', async () => {
    const account = newAccount()
    const { ask, holdId } = await start(account)
    await account.stub.settle(endOf(holdId, NO_USAGE, { status: 'overloaded', httpStatus: 503, final: false }))
    const second = await account.stub.reserve({ ...ask, attempt: 2 })
    if (!second.ok) throw new Error(second.error.reason)
    await account.alarmAt(Date.now() + REQUEST_CLOSE_GRACE_MS + 1_000)
    await account.stub.flush()
    expect(await account.requests()).toEqual([])
    await account.stub.settle(endOf(second.value.holdId, used(1, 1)))
    await account.stub.flush()
    expect(await account.requests()).toMatchObject([{ attempts: 2, status: 'ok', cost: 3n }])
  })
})

describe('expired', () => {
  const expire = (account: TestAccount, ask: ReserveAsk) => account.alarmAt(ask.deadlineAtMs + EXPIRY_GRACE_MS)

  test('waits for its grace, then charges the last checkpoint and frees money and place', async () => {
    const account = newAccount()
    const { ask, holdId } = await start(account)
    await account.stub.checkpoint(holdId, used(100, 0))
    await account.stub.checkpoint(holdId, used(100, 7))
    await account.alarmAt(ask.deadlineAtMs + EXPIRY_GRACE_MS - 1)
    expect((await account.stub.inspect()).openHolds).toHaveLength(1)
    await expire(account, ask)
    expect((await account.stub.inspect()).openHolds).toEqual([])
    expect(await account.charged()).toBe(114n)
    await account.stub.flush()
    expect(await account.attempts()).toMatchObject([
      { status: 'deadline_exceeded', source: 'estimated', charge: 'customer', input: 100, output: 7, cost: 114n },
    ])
    expect(await account.requests()).toMatchObject([{ status: 'deadline_exceeded', httpStatus: null, cost: 114n }])
  })

  test('without a checkpoint nothing is proven and nothing charged, and the attempt still stands in the record', async () => {
    const account = newAccount()
    const { ask } = await start(account)
    await expire(account, ask)
    await account.stub.flush()
    expect(await account.attempts()).toMatchObject([{ source: 'estimated', cost: 0n }])
  })

  test('a late end adds the difference, so that the sum is what was really used, in the window it started in', async () => {
    const account = newAccount()
    const { ask, holdId } = await start(account)
    await account.stub.checkpoint(holdId, used(100, 7))
    await expire(account, ask)
    expect(await account.stub.settle(endOf(holdId, used(100, 50)))).toEqual({ costNanoUsd: 200n, repeated: false })
    expect(await account.stub.settle(endOf(holdId, used(100, 60)))).toEqual({ costNanoUsd: 200n, repeated: true })
    expect(await account.charged()).toBe(200n)
    await account.stub.flush()
    expect(await account.attempts()).toMatchObject([
      { kind: 'attempt', source: 'estimated', output: 7, cost: 114n },
      { kind: 'adjustment', source: 'provider', status: 'ok', input: 0, output: 43, cost: 86n },
    ])
    expect(await account.requests()).toHaveLength(1)
    expect(await account.balances()).toEqual({ customer_credit: -200n, usage_revenue: 200n })
  })

  test('a late end below the estimate gives money back', async () => {
    const account = newAccount()
    const { ask, holdId } = await start(account)
    await account.stub.checkpoint(holdId, used(100, 7))
    await expire(account, ask)
    await account.stub.settle(endOf(holdId, NO_USAGE, { status: 'upstream_error', httpStatus: 502 }))
    await account.stub.flush()
    expect((await account.attempts())[1]).toMatchObject({ kind: 'adjustment', input: -100, output: -7, cost: -114n })
    expect(await account.charged()).toBe(0n)
    expect(await account.balances()).toEqual({ customer_credit: 0n, usage_revenue: 0n })
  })

  test('a late end that the gateway absorbs takes the estimate back from the customer', async () => {
    const account = newAccount()
    const { ask, holdId } = await start(account)
    await account.stub.checkpoint(holdId, used(100, 7))
    await expire(account, ask)
    await account.stub.settle(
      endOf(holdId, used(100, 10), { status: 'backend_lost', charge: 'absorbed', httpStatus: 502 }),
    )
    await account.stub.flush()
    expect((await account.attempts()).map(({ kind, charge, cost }) => [kind, charge, cost])).toEqual([
      ['attempt', 'customer', 114n],
      ['reversal', 'customer', -114n],
      ['adjustment', 'absorbed', 120n],
    ])
    expect(await account.charged()).toBe(0n)
    expect(await account.balances()).toEqual({ customer_credit: 0n, gateway_absorbed: -120n, usage_revenue: 120n })
  })

  test('a checkpoint after the end changes nothing', async () => {
    const account = newAccount()
    const { holdId } = await start(account)
    await account.stub.settle(endOf(holdId, used(1, 1)))
    await account.stub.checkpoint(holdId, used(100, 100))
    await account.stub.checkpoint(`${crypto.randomUUID()}.1`, used(1, 1))
    expect(await account.charged()).toBe(3n)
  })

  test('a hold whose deadline lies years ahead comes back within a day', async () => {
    const account = newAccount()
    await start(account, { deadlineAtMs: Date.UTC(2100, 0, 1) })
    await account.alarmAt(Date.now() + 25 * 3_600_000)
    expect((await account.stub.inspect()).openHolds).toEqual([])
  })

  test('the alarm comes by itself, also for an object that was evicted', async () => {
    const account = newAccount()
    const startedAtMs = Date.now() - EXPIRY_GRACE_MS - 1_000
    const ask = account.ask({ startedAtMs, deadlineAtMs: startedAtMs + 1_500 })
    expect((await account.stub.reserve(ask)).ok).toBe(true)
    await evictDurableObject(account.stub)
    await expect.poll(async () => (await account.attempts()).length, { timeout: 10_000 }).toBe(1)
  })
})

describe('retention', () => {
  test('ended holds answer repeats for a stated time and are then forgotten; old counters go, those without an end stay', async () => {
    const account = newAccount()
    const requests = account.requestLimit(5, 'day')
    await account.setLimits(account.money(10_000n, 'lifetime'), requests)
    const old = await start(account, { deadlineAtMs: Date.now() + 1_000 })
    await account.stub.settle(endOf(old.holdId, used(50, 0)))
    expect((await account.stub.inspect()).counters).toHaveLength(2)
    const nowMs = Date.now()
    await account.alarmAt(nowMs + ENDED_HOLD_KEPT_MS - 3_600_000)
    expect((await account.stub.settle(endOf(old.holdId, used(50, 0)))).repeated).toBe(true)
    await account.alarmAt(nowMs + ENDED_HOLD_KEPT_MS + 3_600_000 + 24 * 3_600_000)
    await account.inside((object) => expect(object.settle(endOf(old.holdId, used(50, 0)))).rejects.toThrow('no hold'))
    const { counters } = await account.stub.inspect()
    expect(counters).toMatchObject([{ subject: account.orgId, windowKey: 'lifetime', value: 50n }])
    await account.setNow(Date.now())
    await account.setLimits(account.money(1_049n, 'lifetime'), requests)
    expect(await account.stub.reserve(account.ask())).toMatchObject({ ok: false, error: { settledNanoUsd: 50n } })
    await account.setLimits(account.money(1_050n, 'lifetime'))
    expect((await account.stub.reserve(account.ask())).ok).toBe(true)
  })
})
