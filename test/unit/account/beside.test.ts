// Attempts beside the one that answers: a trial, which the gateway bears, and one that was outrun, which the caller pays.
import { describe, expect, test } from 'vitest'
import { EXPIRY_GRACE_MS } from '../../../gateway/account/holds.ts'
import { NodeAccount, used } from '../../support/account-node.ts'

const rowsOf = (account: NodeAccount) =>
  [...account.record.rows.values()].map(({ attempt, charge, status, costNanoUsd }) => [
    attempt,
    charge,
    status,
    costNanoUsd,
  ])
const keyed = { keyHash: 'a'.repeat(64), bodyHash: 'b'.repeat(64) }

describe('a trial', () => {
  test('asks no limit, holds nothing, and does not keep its request running', async () => {
    const account = new NodeAccount()
    await account.setLimits([
      { meter: 'money', window: 'day', maxNanoUsd: 1_000n },
      { meter: 'output_tokens', window: 'day', max: 450 },
      { meter: 'requests', window: 'day', max: 2 },
      { meter: 'concurrency', max: 1 },
    ])
    const { ask, holdId } = await account.grant()
    const trial = await account.grant({ requestId: ask.requestId, attempt: 2, isTrial: true })
    expect(trial.hold.heldNanoUsd).toBe(0n)
    expect((await account.core.inspect()).heldNanoUsd).toBe(1_000n)
    await account.core.settle(account.end(holdId, used(0, 0)))
    // The trial still runs, and there is room for a whole request.
    const next = await account.grant()
    await account.core.settle(account.end(next.holdId, used(0, 0)))
    await account.core.settle(account.end(trial.holdId, used(100, 450), { charge: 'absorbed', final: false }))
    expect((await account.core.inspect()).openHolds).toEqual([])
    expect(await account.counted('money')).toEqual({})
    await account.core.flush()
    expect(rowsOf(account)).toContainEqual([2, 'absorbed', 'ok', 1_000n])
  })

  test('may begin when its request has been answered, and says nothing of how that went', async () => {
    const account = new NodeAccount()
    const { ask, holdId } = await account.grant({ idempotency: keyed })
    await account.core.settle(account.end(holdId, used(1, 0), { status: 'upstream_error', charge: 'absorbed' }))
    const trial = await account.grant({ requestId: ask.requestId, attempt: 2, isTrial: true })
    await account.core.settle(account.end(trial.holdId, used(1, 1), { charge: 'absorbed', final: false }))
    // The request failed: its key is free, whatever the trial did.
    expect(await account.outcome({ idempotency: keyed })).toBe('granted')
    expect(await account.outcome({ requestId: ask.requestId, attempt: 3 })).toBe('request_closed')
  })

  test('whose isolate died is borne by the gateway', async () => {
    const account = new NodeAccount()
    const { ask, holdId } = await account.grant()
    const trial = await account.grant({ requestId: ask.requestId, attempt: 2, isTrial: true })
    await account.core.checkpoint(trial.holdId, used(100, 7))
    await account.core.settle(account.end(holdId, used(1, 1)))
    account.restart()
    account.nowMs += 600_000 + EXPIRY_GRACE_MS + 1
    await account.core.alarm()
    await account.core.flush()
    expect(rowsOf(account)).toContainEqual([2, 'absorbed', 'deadline_exceeded', 114n])
  })

  test('never comes first', async () => {
    const account = new NodeAccount()
    await expect(account.core.reserve(account.ask({ isTrial: true }))).rejects.toThrow('begins with a trial')
  })
})

test('an attempt that was outrun and ends late does not free the key of a request that was answered', async () => {
  const account = new NodeAccount()
  const { ask, holdId } = await account.grant({ idempotency: keyed })
  const outrun = await account.grant({ requestId: ask.requestId, attempt: 2 })
  await account.core.settle(account.end(holdId, used(1, 1)))
  await account.core.settle(account.end(outrun.holdId, used(1, 0), { status: 'client_cancelled', final: false }))
  expect(await account.outcome({ idempotency: keyed })).toBe('idempotency_answered')
})
