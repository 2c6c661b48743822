// Limits of every scope, meter and window: checked and reserved at once, exact under parallel asks.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ReserveAsk } from '../../../gateway/account/contract.ts'
import { COUNTS_KEPT_MS } from '../../../gateway/account/counts.ts'
import { COUNTED_METERS, LIMIT_SCOPES, LIMIT_WINDOWS } from '../../../gateway/account/limit.ts'
import { RULES_FRESH_MS } from '../../../gateway/account/rules.ts'
import { type Limit, NodeAccount, used } from '../../support/account-node.ts'

/** An ask that every scope applies to. */
const everybody = (account: NodeAccount): Partial<ReserveAsk> => ({
  userId: account.userId,
  teamId: account.teamId,
  endUser: 'customer-1',
})

/** What 7 asks of the default size fit into, and 8 do not. */
const SEVEN = {
  requests: { meter: 'requests', max: 7 },
  input_tokens: { meter: 'input_tokens', max: 799 },
  output_tokens: { meter: 'output_tokens', max: 3_599 },
  money: { meter: 'money', maxNanoUsd: 7_999n },
} as const
const REASONS = {
  requests: 'rate_limited',
  input_tokens: 'rate_limited',
  output_tokens: 'rate_limited',
  money: 'budget_exhausted',
}

describe('of 50 parallel requests exactly as many pass as fit', () => {
  const cases = LIMIT_SCOPES.flatMap((scope) =>
    COUNTED_METERS.flatMap((meter) => LIMIT_WINDOWS.map((window) => [scope, meter, window] as const)),
  )
  test.each(cases)('%s, %s per %s', async (scope, meter, window) => {
    const account = new NodeAccount()
    await account.setLimits([{ scope, window, timeZone: 'Europe/Berlin', ...SEVEN[meter] } as Limit])
    const results = await Promise.all(
      Array.from({ length: 50 }, () => account.core.reserve(account.ask(everybody(account)))),
    )
    const holds = results.flatMap((result) => (result.ok ? [result.value] : []))
    expect(holds).toHaveLength(7)
    expect(new Set(results.map((result) => (result.ok ? 'granted' : result.error.reason)))).toEqual(
      new Set(['granted', REASONS[meter]]),
    )
    // Used up, they count the same; half used, half as many fit again.
    for (const { holdId } of holds.slice(0, 4)) await account.core.settle(account.end(holdId, used(100, 450)))
    expect(await account.outcome(everybody(account))).toBe(REASONS[meter])
    for (const { holdId } of holds.slice(4)) await account.core.settle(account.end(holdId, used(0, 0)))
    const again = await Promise.all(Array.from({ length: 9 }, () => account.outcome(everybody(account))))
    expect(again.filter((outcome) => outcome === 'granted')).toHaveLength(meter === 'requests' ? 0 : 3)
  })

  test.each(LIMIT_SCOPES)('%s, concurrency', async (scope) => {
    const account = new NodeAccount()
    await account.setLimits([{ scope, meter: 'concurrency', max: 7 }])
    const asks = Array.from({ length: 50 }, () => account.ask(everybody(account)))
    const results = await Promise.all(asks.map((ask) => account.core.reserve(ask)))
    expect(results.filter(({ ok }) => ok)).toHaveLength(7)
    const [first] = results
    if (!first?.ok) throw new Error('the first was refused')
    await account.core.settle(account.end(first.value.holdId, used(0, 0)))
    expect(await account.outcome(everybody(account))).toBe('granted')
    expect(await account.outcome(everybody(account))).toBe('concurrency_limited')
  })
})

describe('keys of one line of rotations', () => {
  /** The account's own key came first; the second one replaced it, the third one the second. */
  const line = (account: NodeAccount): Partial<ReserveAsk>[] => [
    {},
    { keyId: crypto.randomUUID(), keyLineId: account.keyId },
    { keyId: crypto.randomUUID(), keyLineId: account.keyId },
  ]

  const cases: [string, Limit, string][] = ['own', '*'].flatMap((whose): [string, Limit, string][] => {
    const place = { scope: 'key', ...(whose === '*' ? { scopeId: '*' } : {}) } as const
    return [
      [`${whose} requests`, { ...place, meter: 'requests', window: 'day', max: 7 }, 'rate_limited'],
      [`${whose} tokens`, { ...place, meter: 'output_tokens', window: 'hour', max: 3_599 }, 'rate_limited'],
      [`${whose} money`, { ...place, meter: 'money', window: 'month', maxNanoUsd: 7_999n }, 'budget_exhausted'],
      [`${whose} concurrency`, { ...place, meter: 'concurrency', max: 7 }, 'concurrency_limited'],
    ]
  })
  test.each(cases)('share a limit while they are used at the same time: %s', async (_, limit, reason) => {
    const account = new NodeAccount()
    await account.setLimits([limit])
    const keys = line(account)
    const asks = Array.from({ length: 30 }, (_, index) => account.ask(keys[index % keys.length]))
    const results = await Promise.all(asks.map((ask) => account.core.reserve(ask)))
    const holds = results.flatMap((result) => (result.ok ? [result.value] : []))
    expect(holds).toHaveLength(7)
    // Holds are open, then settled: both count for every key of the line, and for no other.
    for (const key of keys) expect(await account.outcome(key)).toBe(reason)
    for (const { holdId } of holds) await account.core.settle(account.end(holdId, used(100, 450)))
    for (const key of keys) expect(await account.outcome(key)).toBe(limit.meter === 'concurrency' ? 'granted' : reason)
    expect(await account.outcome({ keyId: crypto.randomUUID() })).toBe('granted')
  })

  test('count together what expires, what waits in the outbox and what the record has', async () => {
    const account = new NodeAccount()
    const [first, second, third] = line(account)
    await account.setLimits([])
    await account.serve(used(10, 0), first)
    await account.core.flush()
    await account.serve(used(20, 0), second)
    await account.setLimits([{ scope: 'key', meter: 'money', window: 'month', maxNanoUsd: 1_000_000n }])
    const { holdId } = await account.grant(second)
    await account.core.checkpoint(holdId, used(40, 0))
    account.restart()
    account.nowMs += 3_600_000
    await account.core.alarm()
    await account.serve(used(5, 0), third)
    const month = `${account.keyId} month@2026-11-01T00:00Z`
    expect(await account.counted('key|')).toEqual({ [month]: 10n + 20n + 40n + 5n })
    await account.core.flush()
    account.lose()
    expect(await account.outcome(third)).toBe('granted')
    expect(await account.counted('key|')).toEqual({ [month]: 10n + 20n + 40n + 5n })
  })

  test('are revoked one by one', async () => {
    const account = new NodeAccount()
    const [first, second] = line(account)
    await account.setLimits([{ scope: 'key', meter: 'requests', window: 'day', max: 1 }])
    await account.core.setKeyRevoked(account.keyId, true)
    expect([await account.outcome(first), await account.outcome(second)]).toEqual(['key_revoked', 'granted'])
  })
})

describe('whom a limit applies to', () => {
  test.each(['team', 'user', 'end_user'] as const)('a limit on a %s leaves alone who has none', async (scope) => {
    const account = new NodeAccount()
    await account.setLimits([{ scope, meter: 'requests', window: 'day', max: 0 }])
    expect(await account.outcome(everybody(account))).toBe('rate_limited')
    expect(await account.outcome()).toBe('granted')
  })

  test('a limit on one is no limit on another', async () => {
    const account = new NodeAccount()
    await account.setLimits([
      { scope: 'key', meter: 'money', window: 'day', maxNanoUsd: 1_000n },
      { scope: 'end_user', meter: 'requests', window: 'day', max: 1 },
    ])
    expect(await account.outcome({ endUser: 'customer-2' })).toBe('granted')
    expect(await account.outcome({ keyId: crypto.randomUUID(), endUser: 'customer-1' })).toBe('granted')
    expect(await account.outcome({ keyId: crypto.randomUUID(), endUser: 'customer-1' })).toBe('rate_limited')
    expect(await account.outcome()).toBe('budget_exhausted')
  })

  test('a limit on each gives everyone one of their own', async () => {
    const account = new NodeAccount()
    await account.setLimits([
      { scope: 'end_user', scopeId: '*', meter: 'requests', window: 'day', max: 2 },
      { scope: 'key', scopeId: '*', meter: 'concurrency', max: 3 },
    ])
    for (const endUser of ['anna', 'bert', 'a|b', '*']) {
      const keyId = crypto.randomUUID()
      expect(await account.outcome({ keyId, endUser })).toBe('granted')
      expect(await account.outcome({ keyId, endUser })).toBe('granted')
      expect(await account.outcome({ keyId, endUser })).toBe('rate_limited')
      expect(await account.outcome({ keyId })).toBe('granted')
      expect(await account.outcome({ keyId })).toBe('concurrency_limited')
    }
  })

  test('a limit of a model counts that model alone', async () => {
    const account = new NodeAccount()
    await account.setLimits([
      { meter: 'requests', window: 'day', max: 1, model: 'large' },
      { meter: 'requests', window: 'day', max: 3 },
      { meter: 'concurrency', max: 1, model: 'huge' },
    ])
    expect(await account.outcome({ modelRequested: 'large' })).toBe('granted')
    expect(await account.outcome({ modelRequested: 'large' })).toBe('rate_limited')
    expect(await account.outcome({ modelRequested: 'huge' })).toBe('granted')
    expect(await account.outcome({ modelRequested: 'huge' })).toBe('concurrency_limited')
    expect(await account.outcome()).toBe('granted')
    expect(await account.outcome()).toBe('rate_limited')
  })
})

describe('windows', () => {
  test('an attempt belongs to the window it started in, and a new window starts empty', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'money', window: 'day', timeZone: 'America/New_York', maxNanoUsd: 1_000n }])
    // Midnight in New York.
    const midnight = Date.UTC(2026, 10, 22, 5)
    account.nowMs = midnight - 1
    const { holdId } = await account.grant()
    expect(await account.outcome()).toBe('budget_exhausted')
    account.nowMs = midnight
    expect(await account.outcome()).toBe('granted')
    // It ends after midnight and still counts before it.
    await account.core.settle(account.end(holdId, used(100, 400)))
    expect(await account.counted('org|')).toEqual({ [`${account.orgId} day@2026-11-21T05:00Z`]: 900n })
  })

  test('a day on which the clocks change has as many hours as it has', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'requests', window: 'day', timeZone: 'Europe/Berlin', max: 2 }])
    // 25 hours, from 22:00 to 23:00 UTC.
    account.nowMs = Date.UTC(2026, 9, 24, 22)
    expect(await account.outcome()).toBe('granted')
    account.nowMs = Date.UTC(2026, 9, 25, 22, 59)
    expect(await account.outcome()).toBe('granted')
    expect(await account.outcome()).toBe('rate_limited')
    account.nowMs = Date.UTC(2026, 9, 25, 23)
    expect(await account.outcome()).toBe('granted')
  })

  test('a refusal says when the window ends, and nothing where waiting does not help', async () => {
    const account = new NodeAccount()
    const [perMinute] = await account.setLimits([{ meter: 'requests', window: 'minute', max: 1 }])
    await account.grant()
    expect(await account.core.reserve(account.ask())).toEqual({
      ok: false,
      error: { reason: 'rate_limited', rule: perMinute, used: 0n, held: 1n, asked: 1n, retryAfterMs: 30_000 },
    })
    const [tokens] = await account.setLimits([{ meter: 'output_tokens', window: 'hour', max: 449 }])
    expect(await account.core.reserve(account.ask())).toEqual({
      ok: false,
      error: { reason: 'rate_limited', rule: tokens, used: 0n, held: 450n, asked: 450n },
    })
    await account.setLimits([{ meter: 'requests', window: 'lifetime', max: 1 }])
    const refused = await account.core.reserve(account.ask())
    expect(refused.ok || 'retryAfterMs' in refused.error).toBe(false)
  })

  test('an ask from a window that is not kept any more is refused, not guessed', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'requests', window: 'minute', max: 10 }])
    await account.serve(used(1, 1))
    const then = account.nowMs
    account.nowMs += COUNTS_KEPT_MS + 120_000
    await account.core.alarm()
    expect(await account.counted('org|')).toEqual({})
    expect(await account.outcome({ startedAtMs: then })).toBe('unavailable')
    expect(await account.outcome()).toBe('granted')
  })
})

describe('what is counted', () => {
  test('a fallback attempt is the same request and is neither counted nor refused as one', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'requests', window: 'day', max: 1 }])
    const { ask, holdId } = await account.grant()
    await account.core.settle(account.end(holdId, used(0, 0), { status: 'overloaded', final: false, httpStatus: 503 }))
    const second = await account.core.reserve({ ...ask, attempt: 2 })
    expect(second).toMatchObject({ ok: true, value: { requests: { limit: 1, remaining: 0 } } })
    await account.core.settle(account.end(second.ok ? second.value.holdId : '', used(1, 1)))
    expect(Object.values(await account.counted('org|'))).toEqual([1n])
  })

  test('what the gateway absorbs counts for no limit of the customer but that on requests', async () => {
    const account = new NodeAccount()
    await account.setLimits([
      { meter: 'requests', window: 'day', max: 9 },
      { meter: 'input_tokens', window: 'day', max: 9_000 },
      { meter: 'money', window: 'day', maxNanoUsd: 9_000n },
    ])
    await account.serve(used(100, 3), {}, { status: 'engine_lost', charge: 'absorbed', httpStatus: 502 })
    expect(await account.counted('org|')).toEqual({ [`${account.orgId} day@2026-11-22T00:00Z`]: 1n })
  })

  test('use above the estimate is recorded in full and counts as debt', async () => {
    const account = new NodeAccount()
    await account.setLimits([
      { meter: 'money', window: 'day', maxNanoUsd: 1_000n },
      { meter: 'output_tokens', window: 'day', max: 10_000 },
    ])
    await account.serve(used(100, 5_000))
    const nothing = { estimate: { inputTokens: 0, outputTokens: 0, calls: 0 } }
    const refused = await account.core.reserve(account.ask(nothing))
    expect(refused).toMatchObject({ ok: false, error: { reason: 'budget_exhausted', settledNanoUsd: 10_100n } })
  })

  test('a late end after an expiry moves the window the attempt started in', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'output_tokens', window: 'hour', max: 10_000 }])
    const { holdId } = await account.grant({ deadlineAtMs: account.nowMs + 1_000 })
    await account.core.checkpoint(holdId, used(100, 7))
    account.nowMs += 3_600_000
    await account.core.alarm()
    expect(Object.values(await account.counted('org|'))).toEqual([7n])
    await account.core.settle(account.end(holdId, used(100, 50)))
    expect(await account.counted('org|')).toEqual({ [`${account.orgId} hour@2026-11-22T12:00Z`]: 50n })
  })

  test('one limit that says no leaves nothing behind in the others', async () => {
    const account = new NodeAccount()
    await account.setLimits([
      { meter: 'requests', window: 'day', max: 10 },
      { meter: 'money', window: 'day', maxNanoUsd: 0n },
    ])
    expect(await account.outcome()).toBe('budget_exhausted')
    const state = await account.core.inspect()
    expect(state).toMatchObject({ openHolds: [], counters: [] })
  })
})

describe('a change of limits', () => {
  test('a raised maximum lets in at once what it has room for, and keeps what was counted', async () => {
    const account = new NodeAccount()
    const limit = { meter: 'money', window: 'month', maxNanoUsd: 1_500n } as const
    await account.setLimits([limit])
    await account.serve(used(100, 450))
    expect(await account.outcome()).toBe('budget_exhausted')
    await account.setLimits([{ ...limit, maxNanoUsd: 2_000n }])
    expect(account.record.sums).toBe(3)
    expect(await account.outcome()).toBe('granted')
    expect(await account.outcome()).toBe('budget_exhausted')
  })

  test('a maximum below what is spent refuses the next one and lets the running ones end', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'money', window: 'month', maxNanoUsd: 5_000n }])
    const { holdId } = await account.grant()
    await account.setLimits([{ meter: 'money', window: 'month', maxNanoUsd: 1n }])
    expect(await account.outcome()).toBe('budget_exhausted')
    expect(await account.core.settle(account.end(holdId, used(100, 450)))).toEqual({
      costNanoUsd: 1_000n,
      repeated: false,
    })
  })

  test('rules that overtake each other: the newest version wins', async () => {
    const account = new NodeAccount()
    const book = (version: number, max: number) => ({
      version,
      limits: [account.rule({ meter: 'requests', window: 'day', max })],
    })
    account.record.book = book(7, 0)
    await account.core.setRules(book(7, 0))
    expect(await account.outcome()).toBe('rate_limited')
    account.record.state = 'down'
    await account.core.setRules(book(6, 100))
    expect(await account.outcome()).toBe('rate_limited')
    account.restart()
    expect(await account.outcome()).toBe('rate_limited')
    expect((await account.core.inspect()).rulesVersion).toBe(7)
  })

  test('an announcement that was lost is found within a minute', async () => {
    const account = new NodeAccount()
    expect(await account.outcome()).toBe('granted')
    account.record.book = { version: 2, limits: [account.rule({ meter: 'requests', window: 'day', max: 0 })] }
    expect(await account.outcome()).toBe('granted')
    account.nowMs += RULES_FRESH_MS
    // This one still goes by the old rules and has the new ones read.
    await account.outcome()
    await account.core.flush()
    expect(await account.outcome()).toBe('rate_limited')
  })

  test('a key that is revoked while requests run: they end normally, later ones are refused', async () => {
    const account = new NodeAccount()
    const { holdId } = await account.grant()
    await account.core.setKeyRevoked(account.keyId, true)
    expect(await account.outcome()).toBe('key_revoked')
    expect((await account.core.settle(account.end(holdId, used(1, 1)))).costNanoUsd).toBe(3n)
  })

  test.each([
    ['a negative maximum', { meter: 'requests', window: 'day', max: -1 }],
    ['half a request', { meter: 'requests', window: 'day', max: 0.5 }],
    ['a maximum that a number cannot hold', { meter: 'input_tokens', window: 'day', max: 2 ** 60 }],
    ['negative money', { meter: 'money', window: 'day', maxNanoUsd: -1n }],
    ['a zone that does not exist', { meter: 'requests', window: 'day', timeZone: 'Mars/Olympus', max: 1 }],
  ] as [string, Limit][])('%s is a bug of ours: the book is refused and the old one stays', async (_, limit) => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'requests', window: 'day', max: 0 }])
    await expect(account.setLimits([limit])).rejects.toThrow()
    expect(await account.outcome()).toBe('rate_limited')
  })
})

describe('prepaid credit', () => {
  const credit = { grantedNanoUsd: 2_000n, overdraftNanoUsd: 500n }

  test('bounds everything that is ever charged, with what runs and what is asked', async () => {
    const account = new NodeAccount()
    await account.setLimits([], credit)
    await account.serve(used(100, 200))
    await account.grant()
    await account.grant()
    expect(await account.core.reserve(account.ask())).toEqual({
      ok: false,
      error: { reason: 'credit_exhausted', credit, settledNanoUsd: 500n, heldNanoUsd: 2_000n, askNanoUsd: 1_000n },
    })
    await account.setLimits([], { ...credit, grantedNanoUsd: 3_000n })
    expect(await account.outcome()).toBe('granted')
  })

  test('needs a price, and no limit', async () => {
    const account = new NodeAccount()
    await account.setLimits([], credit)
    expect(await account.outcome({ price: undefined })).toBe('price_unknown')
    await account.setLimits([])
    expect(await account.outcome({ price: undefined })).toBe('granted')
  })

  test('knows what was used before the organisation was prepaid', async () => {
    const account = new NodeAccount()
    await account.serve(used(1_000, 0), { estimate: { inputTokens: 1_000, outputTokens: 0, calls: 0 } })
    account.nowMs += 400 * 86_400_000
    await account.setLimits([], credit)
    expect(await account.outcome()).toBe('granted')
    expect(await account.outcome()).toBe('credit_exhausted')
  })
})

test('the headers name the tightest hard limit on requests and on tokens', async () => {
  const account = new NodeAccount()
  await account.setLimits([
    { meter: 'requests', window: 'minute', max: 10 },
    { scope: 'key', meter: 'requests', window: 'hour', max: 3 },
    { meter: 'requests', window: 'day', max: 1, hard: false },
    { meter: 'input_tokens', window: 'day', max: 1_000 },
    { meter: 'output_tokens', window: 'lifetime', max: 500 },
  ])
  const { hold } = await account.grant()
  expect(hold.requests).toEqual({ limit: 3, remaining: 2, resetAtMs: Date.UTC(2026, 10, 22, 13) })
  expect(hold.tokens).toEqual({ limit: 500, remaining: 50 })
})

test('what open holds add up to is the same after rules changed and after the object started anew', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.record({ key: fc.nat(2), end: fc.boolean() }), { maxLength: 20 }), async (steps) => {
      const account = new NodeAccount()
      const keys = [crypto.randomUUID(), crypto.randomUUID(), crypto.randomUUID()]
      const each = { scope: 'key', scopeId: '*', meter: 'money', window: 'day', maxNanoUsd: 4_000n } as const
      const before = await account.setLimits([each])
      const open = new Map<string, number>(keys.map((keyId) => [keyId, 0]))
      for (const { key, end } of steps) {
        const keyId = keys[key] ?? ''
        const running = open.get(keyId) ?? 0
        expect(await account.outcome({ keyId })).toBe(running < 4 ? 'granted' : 'budget_exhausted')
        if (running < 4) open.set(keyId, running + 1)
        if (!end) continue
        const [first] = (await account.core.inspect()).openHolds
        const hold = first === undefined ? undefined : first.holdId
        if (hold === undefined) continue
        const owner = keys.find((id) =>
          account.storage.sql
            .exec<{ body: string }>('SELECT body FROM holds WHERE request_id = ?', hold.slice(0, 36))
            .toArray()[0]
            ?.body.includes(id),
        )
        await account.core.settle(account.end(hold, used(0, 0), { status: 'cancelled', httpStatus: 499 }))
        open.set(owner ?? '', (open.get(owner ?? '') ?? 0) - 1)
      }
      for (const change of [
        () => account.setLimits([{ ...each, limitId: before[0]?.limitId ?? '' }]),
        () => account.restart(),
      ]) {
        await change()
        for (const keyId of keys) {
          const refused = await account.core.reserve(
            account.ask({ keyId, estimate: { inputTokens: 9_000, outputTokens: 0, calls: 0 } }),
          )
          expect(refused).toMatchObject({ ok: false, error: { heldNanoUsd: BigInt(1_000 * (open.get(keyId) ?? 0)) } })
        }
      }
    }),
    { numRuns: 20 },
  )
})
