// Calls that travel together: the same answers as alone, in order, none at the cost of another.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { BATCH_CALLS_MAX } from '../../../gateway/account/account-core.ts'
import type { AccountCall } from '../../../gateway/account/contract.ts'
import { NodeAccount, used } from '../../support/account-node.ts'

describe('a batch', () => {
  test('is worked off in order: an end makes room for what follows it', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'money', window: 'day', maxNanoUsd: 1_000n }])
    const first = account.ask()
    const holdId = `${first.requestId}.1`
    const replies = await account.core.batch([
      { kind: 'reserve', ask: first },
      { kind: 'reserve', ask: account.ask() },
      { kind: 'checkpoint', holdId, usage: used(1, 0) },
      { kind: 'settle', end: account.end(holdId, used(0, 0), { status: 'upstream_error', httpStatus: 502 }) },
      { kind: 'settle', end: account.end(holdId, used(9, 9)) },
      { kind: 'reserve', ask: account.ask() },
    ])
    expect(replies).toEqual([
      { kind: 'reserve', result: { ok: true, value: { holdId, heldNanoUsd: 1_000n } } },
      { kind: 'reserve', result: { ok: false, error: expect.objectContaining({ reason: 'budget_exhausted' }) } },
      { kind: 'checkpoint' },
      { kind: 'settle', settled: { costNanoUsd: 0n, repeated: false } },
      { kind: 'settle', settled: { costNanoUsd: 0n, repeated: true } },
      { kind: 'reserve', result: { ok: true, value: expect.objectContaining({ heldNanoUsd: 1_000n }) } },
    ])
  })

  test('answers a call that fails by its error, and the others stand', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'requests', window: 'day', max: 10 }])
    const { holdId } = await account.grant()
    const replies = await account.core.batch([
      { kind: 'settle', end: account.end(`${crypto.randomUUID()}.1`, used(1, 1)) },
      { kind: 'reserve', ask: account.ask({ attempt: 0 }) },
      { kind: 'checkpoint', holdId: 'nonsense', usage: used(1, 1) },
      { kind: 'reserve', ask: account.ask({ orgId: crypto.randomUUID() }) },
      { kind: 'settle', end: account.end(holdId, used(-1, 0)) },
      { kind: 'reserve', ask: account.ask() },
      { kind: 'settle', end: account.end(holdId, used(1, 1)) },
    ])
    expect(replies.map(({ kind }) => kind)).toEqual([...Array(5).fill('failed'), 'reserve', 'settle'])
    expect(replies[0]).toEqual({ kind: 'failed', error: expect.stringContaining('no hold') })
    const state = await account.core.inspect()
    expect(state.openHolds).toHaveLength(1)
    expect(state.outboxRows).toBe(1)
    expect(Object.values(await account.counted('org|'))).toEqual([1n])
  })

  test('leaves no trace of a call that fails half way', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'requests', window: 'day', max: 10 }])
    const { holdId } = await account.grant()
    // The end is stored, and the row of the outbox that belongs to it cannot be.
    account.storage.sql.exec("CREATE TRIGGER full BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    const replies = await account.core.batch([
      { kind: 'settle', end: account.end(holdId, used(1, 1)) },
      { kind: 'reserve', ask: account.ask() },
    ])
    expect(replies.map(({ kind }) => kind)).toEqual(['failed', 'reserve'])
    account.storage.sql.exec('DROP TRIGGER full')
    expect((await account.core.inspect()).openHolds).toHaveLength(2)
    expect(await account.counted('org|')).toEqual({})
    expect(await account.core.settle(account.end(holdId, used(1, 1)))).toEqual({ costNanoUsd: 3n, repeated: false })
  })

  test('that cannot be stored as a whole changes nothing, in memory neither', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'concurrency', max: 1 }])
    const transaction = account.storage.transaction.bind(account.storage)
    account.storage.transaction = <T>(work: () => T): T =>
      transaction(() => {
        work()
        throw new Error('test: no commit')
      })
    await expect(account.core.batch([{ kind: 'reserve', ask: account.ask() }])).rejects.toThrow('no commit')
    account.storage.transaction = transaction
    expect(await account.outcome()).toBe('granted')
    expect(await account.outcome()).toBe('concurrency_limited')
  })

  test('has a bound', async () => {
    const account = new NodeAccount()
    const calls: AccountCall[] = Array.from({ length: BATCH_CALLS_MAX + 1 }, () => ({
      kind: 'checkpoint',
      holdId: `${crypto.randomUUID()}.1`,
      usage: used(0, 0),
    }))
    await expect(account.core.batch(calls)).rejects.toThrow(RangeError)
    expect(await account.core.batch(calls.slice(1))).toHaveLength(BATCH_CALLS_MAX)
    expect(await account.core.batch([])).toEqual([])
  })
})

test('a batch gives the answers that its calls would get one by one, and leaves the same behind', async () => {
  const steps = fc.array(
    fc.record({
      kind: fc.constantFrom('reserve', 'repeat', 'fallback', 'checkpoint', 'settle', 'bad'),
      pick: fc.nat(20),
      tokens: fc.nat(300),
      absorbed: fc.boolean(),
      final: fc.boolean(),
    }),
    { minLength: 5, maxLength: 30 },
  )
  await fc.assert(
    fc.asyncProperty(steps, async (plan) => {
      const [alone, together] = [new NodeAccount(), new NodeAccount()]
      const rules = [
        alone.rule({ scope: 'key', scopeId: '*', meter: 'money', window: 'day', maxNanoUsd: 2_500n }),
        alone.rule({ scope: 'key', scopeId: '*', meter: 'concurrency', max: 4 }),
        alone.rule({ scope: 'project', scopeId: '*', meter: 'requests', window: 'hour', max: 9, hard: false }),
      ]
      const book = { version: 2, limits: rules }
      const asks = Array.from({ length: 21 }, () => alone.ask())
      const calls = plan.map(({ kind, pick, tokens, absorbed, final }): AccountCall => {
        const ask = asks[pick] ?? alone.ask()
        const holdId = `${ask.requestId}.1`
        if (kind === 'fallback') return { kind: 'reserve', ask: { ...ask, attempt: 2 } }
        if (kind === 'checkpoint') return { kind, holdId, usage: used(tokens, 0) }
        if (kind === 'bad') return { kind: 'settle', end: alone.end(holdId, used(-1, 0)) }
        if (kind !== 'settle') return { kind: 'reserve', ask }
        return {
          kind,
          end: alone.end(holdId, used(tokens, tokens), { charge: absorbed ? 'absorbed' : 'customer', final }),
        }
      })
      const answers = []
      for (const account of [alone, together]) {
        account.record.book = book
        await account.core.setRules(book)
        await account.core.reserve(alone.ask({ requestId: '00000000-0000-4000-8000-000000000001' }))
        await account.core.flush()
      }
      for (const call of calls) answers.push(...(await alone.core.batch([call])))
      const half = calls.length >> 1
      const batched = [
        ...(await together.core.batch(calls.slice(0, half))),
        ...(await together.core.batch(calls.slice(half))),
      ]
      expect(batched).toEqual(answers)
      const [a, b] = [await alone.core.inspect(), await together.core.inspect()]
      expect(b).toEqual(a)
      await alone.core.flush()
      await together.core.flush()
      expect([...together.record.rows]).toEqual([...alone.record.rows])
    }),
    { numRuns: 40 },
  )
})
