// Soft limits and what is told of limits: once per window, on the answer and in the record.
import { describe, expect, test } from 'vitest'
import { NOTICES_MAX } from '../../../gateway/account/notices.ts'
import { NodeAccount, used } from '../../support/account-node.ts'

const kinds = (account: NodeAccount) => account.record.events.map(({ kind, limitId, value }) => [kind, limitId, value])

describe('a soft limit', () => {
  test('refuses nothing, is named on every answer past it, and told once per window', async () => {
    const account = new NodeAccount()
    const [soft] = await account.setLimits([
      { scope: 'project', meter: 'requests', window: 'hour', max: 2, hard: false },
      { meter: 'concurrency', max: 3, hard: false, model: 'small' },
    ])
    // The first ask of a soft limit has its counters made, and does not wait for them.
    await account.grant()
    await account.core.flush()
    expect((await account.grant()).hold.warnings).toBeUndefined()
    expect((await account.grant()).hold.warnings).toEqual(['project requests 2 per hour'])
    expect((await account.grant()).hold.warnings).toEqual([
      'project requests 2 per hour',
      'org concurrency 3 for small',
    ])
    await account.core.flush()
    expect(account.record.events).toHaveLength(2)
    expect(account.record.events[0]).toEqual({
      orgId: account.orgId,
      limitId: soft?.limitId,
      subject: account.projectId,
      windowKey: 'hour@2026-11-22T12:00Z',
      kind: 'passed',
      max: 2n,
      value: 3n,
      occurredAtMs: account.nowMs,
    })
    account.nowMs += 3_600_000
    for (let i = 0; i < 4; i++) await account.grant()
    await account.core.flush()
    expect(account.record.events.map(({ windowKey }) => windowKey)).toEqual([
      'hour@2026-11-22T12:00Z',
      'day@2026-11-22T00:00Z',
      'hour@2026-11-22T13:00Z',
    ])
  })

  test('that only what was really used passes is told when it ends', async () => {
    const account = new NodeAccount()
    const [soft] = await account.setLimits([{ meter: 'money', window: 'day', maxNanoUsd: 2_000n, hard: false }])
    await account.serve(used(1, 0))
    await account.core.flush()
    await account.serve(used(100, 5_000))
    await account.serve(used(100, 5_000))
    await account.core.flush()
    expect(kinds(account)).toEqual([['passed', soft?.limitId, 10_101n]])
  })

  test('on money lets an ask without a price pass', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'money', window: 'day', maxNanoUsd: 0n, hard: false }])
    expect(await account.outcome({ price: undefined })).toBe('granted')
  })
})

describe('a hard limit', () => {
  test('has its first refusal told, once per window and per subject', async () => {
    const account = new NodeAccount()
    const [hard, running] = await account.setLimits([
      { scope: 'end_user', scopeId: '*', meter: 'requests', window: 'day', max: 1 },
      { meter: 'concurrency', max: 2 },
    ])
    for (const endUser of ['anna', 'anna', 'anna', 'bert', 'bert']) await account.outcome({ endUser })
    for (let i = 0; i < 3; i++) expect(await account.outcome()).toBe('concurrency_limited')
    await account.core.flush()
    expect(account.record.events.map(({ limitId, subject, kind }) => [limitId, subject, kind])).toEqual([
      [hard?.limitId, 'anna', 'refused'],
      [hard?.limitId, 'bert', 'refused'],
      [running?.limitId, account.orgId, 'refused'],
    ])
  })

  test('tells again after it was changed, and the same thing once where the account forgot that it had', async () => {
    const account = new NodeAccount()
    const limit = { meter: 'requests', window: 'day', max: 0 } as const
    const [first] = await account.setLimits([limit])
    await account.outcome()
    await account.setLimits([{ ...limit, max: 0, limitId: first?.limitId ?? '' }])
    await account.core.flush()
    account.lose()
    await account.outcome()
    await account.core.flush()
    expect(account.record.events).toHaveLength(1)
    await account.setLimits([limit])
    await account.outcome()
    await account.core.flush()
    expect(account.record.events).toHaveLength(2)
  })
})

test('marks of old windows go, and there is a bound on how many there are', async () => {
  const account = new NodeAccount()
  await account.setLimits([{ meter: 'requests', window: 'minute', max: 0 }])
  await account.outcome()
  const marks = () => account.storage.sql.exec<{ n: number }>('SELECT COUNT(*) AS n FROM notices').toArray()[0]?.n
  expect(marks()).toBe(1)
  account.nowMs += 2 * 86_400_000
  await account.core.alarm()
  expect(marks()).toBe(0)
  account.storage.sql.exec(
    `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
     INSERT INTO notices SELECT 'l' || i, 's', 'w', 'passed', NULL FROM n`,
    NOTICES_MAX,
  )
  account.restart()
  expect(await account.outcome()).toBe('rate_limited')
  expect(marks()).toBe(NOTICES_MAX)
})
