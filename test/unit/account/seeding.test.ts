// Counters that an account does not have: made of the record, the outbox and what is open, with nothing on both sides.
import { describe, expect, test } from 'vitest'
import { type Limit, NodeAccount, used } from '../../support/account-node.ts'

const DAY_MS = 86_400_000
const month = { meter: 'money', window: 'month' } as const

/** Spent and held as a refusal names them. */
async function state(account: NodeAccount) {
  const refused = await account.core.reserve(
    account.ask({ estimate: { inputTokens: 99_000, outputTokens: 0, calls: 0 } }),
  )
  if (refused.ok) throw new Error('was not refused')
  if (refused.error.reason !== 'budget_exhausted') return refused.error.reason
  return [refused.error.settledNanoUsd, refused.error.heldNanoUsd]
}

describe('a limit that comes in mid-month', () => {
  test('knows what is recorded, what still waits, and what runs, each once', async () => {
    const account = new NodeAccount()
    await account.setLimits([])
    account.nowMs -= 10 * DAY_MS
    await account.serve(used(10, 0))
    account.nowMs -= 30 * DAY_MS
    await account.serve(used(1_000, 0))
    account.nowMs += 40 * DAY_MS
    await account.core.flush()
    account.record.state = 'down'
    await account.serve(used(20, 0))
    await account.core.flush()
    await account.grant()
    account.record.state = 'up'
    await account.setLimits([{ ...month, maxNanoUsd: 50_000n }])
    expect(await state(account)).toEqual([30n, 1_000n])
    await account.core.flush()
    expect(await state(account)).toEqual([30n, 1_000n])
  })

  test('knows what was committed without an answer', async () => {
    const account = new NodeAccount()
    await account.setLimits([])
    account.record.state = 'lossy'
    for (let i = 0; i < 3; i++) await account.serve(used(10, 0))
    await account.core.flush()
    expect(account.record.rows.size).toBe(3)
    expect((await account.core.inspect()).outboxRows).toBe(3)
    account.record.state = 'up'
    await account.setLimits([{ ...month, maxNanoUsd: 50_000n }])
    expect(await state(account)).toEqual([30n, 0n])
  })

  test('stays right when ends arrive while the sums are read', async () => {
    const account = new NodeAccount()
    await account.setLimits([])
    await account.serve(used(10, 0))
    const running = await account.grant()
    await account.setLimits([{ ...month, maxNanoUsd: 50_000n }])
    let sums = 0
    account.record.beforeSum = async () => {
      // The sum of this month has been taken; its answer is under way.
      if (++sums !== 2) return
      await account.core.settle(account.end(running.holdId, used(5, 0)))
      await account.core.setRules({ ...account.record.book, version: 50 })
    }
    expect(await state(account)).toEqual([15n, 0n])
    await account.core.flush()
    expect(await state(account)).toEqual([15n, 0n])
  })

  test.each([
    [{ meter: 'requests', window: 'day', max: 3 }],
    [{ meter: 'input_tokens', window: 'lifetime', max: 299 }],
    [{ meter: 'output_tokens', window: 'month', max: 1_349 }],
    [{ scope: 'end_user', scopeId: '*', meter: 'requests', window: 'day', max: 2 }],
    [{ scope: 'team', meter: 'requests', window: 'day', max: 2, model: 'small' }],
  ] as [Limit][])('counts every meter and scope: %j', async (limit) => {
    const account = new NodeAccount()
    const who = { endUser: 'customer-1', teamId: account.teamId }
    await account.serve(used(100, 450), who)
    await account.serve(
      used(100, 450),
      { ...who, endUser: 'customer-2', teamId: crypto.randomUUID(), modelRequested: 'x' },
      {
        charge: 'absorbed',
        status: 'engine_lost',
      },
    )
    await account.core.flush()
    await account.setLimits([limit])
    expect(await account.outcome(who)).toBe('granted')
    expect(await account.outcome(who)).toBe('rate_limited')
  })
})

describe('a limit that goes and comes back', () => {
  test('is counted anew: what happened in between is in it', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ ...month, maxNanoUsd: 50_000n }])
    await account.serve(used(10, 0))
    await account.setLimits([])
    expect(await account.counted('org|')).toEqual({})
    await account.serve(used(20, 0))
    await account.setLimits([{ ...month, maxNanoUsd: 60_000n }])
    expect(await state(account)).toEqual([30n, 0n])
  })

  test('in the middle of being counted, is counted once', async () => {
    const account = new NodeAccount()
    await account.setLimits([])
    await account.serve(used(10, 0))
    const running = await account.grant()
    await account.setLimits([{ ...month, maxNanoUsd: 50_000n }])
    let sums = 0
    account.record.beforeSum = async () => {
      if (++sums !== 2) return
      await account.setLimits([])
      await account.core.settle(account.end(running.holdId, used(5, 0)))
      await account.setLimits([{ ...month, maxNanoUsd: 50_000n }])
    }
    expect(await state(account)).toEqual([15n, 0n])
  })
})

describe('an account that lost its storage', () => {
  test('knows every counter again, requests too', async () => {
    const account = new NodeAccount()
    await account.setLimits([
      { ...month, maxNanoUsd: 50_000n },
      { scope: 'key', meter: 'requests', window: 'day', max: 3 },
      { scope: 'end_user', scopeId: '*', meter: 'output_tokens', window: 'hour', max: 5_000 },
    ])
    for (let i = 0; i < 3; i++) await account.serve(used(10, 5), { endUser: 'anna' })
    await account.core.flush()
    const before = await account.core.inspect()
    account.lose()
    expect(await account.outcome({ endUser: 'anna' })).toBe('rate_limited')
    expect(await account.outcome({ endUser: 'anna', keyId: crypto.randomUUID() })).toBe('granted')
    const { counters } = await account.core.inspect()
    expect(counters).toEqual(before.counters)
  })
})

describe('while Postgres is away', () => {
  test('nothing is granted where the rules are not known, and everything goes on where they are', async () => {
    const account = new NodeAccount()
    account.record.state = 'down'
    expect(await account.outcome()).toBe('unavailable')
    account.record.state = 'up'
    account.nowMs += 5_000
    expect(await account.outcome()).toBe('granted')
    account.record.state = 'down'
    account.restart()
    account.nowMs += 3_600_000
    expect(await account.outcome()).toBe('granted')
  })

  test('a hard limit whose counters are not known refuses, a soft one is passed over', async () => {
    const account = new NodeAccount()
    account.record.state = 'down'
    await account.setLimits([{ meter: 'requests', window: 'day', max: 100, hard: false }])
    expect(await account.outcome()).toBe('granted')
    await account.setLimits([{ meter: 'requests', window: 'day', max: 100 }])
    expect(await account.outcome()).toBe('unavailable')
    account.record.state = 'up'
    account.nowMs += 1_000
    expect(await account.outcome()).toBe('granted')
    account.record.state = 'down'
    account.restart()
    expect(await account.outcome()).toBe('granted')
    expect(await account.counted('org|')).toEqual({})
  })

  test('callers do not each wait for a database that has just failed', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'requests', window: 'day', max: 100 }])
    account.record.state = 'down'
    for (let i = 0; i < 5; i++) expect(await account.outcome()).toBe('unavailable')
    expect(account.record.sums).toBe(1)
    // A clock that is set back does not lengthen the pause.
    account.nowMs -= 3_600_000
    account.record.state = 'up'
    expect(await account.outcome()).toBe('granted')
  })
})

test('a clock that was far ahead for a while leaves no limit unknown', async () => {
  const account = new NodeAccount()
  await account.setLimits([{ scope: 'key', meter: 'requests', window: 'hour', max: 3 }])
  await account.serve(used(1, 1))
  const { holdId } = await account.grant()
  account.nowMs += 10 * DAY_MS
  await account.core.alarm()
  expect(await account.outcome()).toBe('granted')
  account.nowMs -= 10 * DAY_MS
  await account.core.settle(account.end(holdId, used(1, 1)))
  expect(await account.outcome()).toBe('granted')
  expect(await account.outcome()).toBe('rate_limited')
})

test('parallel first asks have the record read once', async () => {
  const account = new NodeAccount()
  account.record.book = { version: 3, limits: [account.rule({ meter: 'requests', window: 'day', max: 20 })] }
  const outcomes = await Promise.all(Array.from({ length: 30 }, () => account.outcome()))
  expect(outcomes.filter((outcome) => outcome === 'granted')).toHaveLength(20)
  expect(account.record.reads).toBe(1)
  expect(account.record.sums).toBe(3)
})
