// A caller's promise that two requests are one: neither run nor charged a second time.
import { describe, expect, test } from 'vitest'
import { EXPIRY_GRACE_MS, REQUEST_CLOSE_GRACE_MS } from '../../../gateway/account/holds.ts'
import { IDEMPOTENCY_KEPT_MS } from '../../../gateway/account/idempotency.ts'
import { NodeAccount, used } from '../../support/account-node.ts'

const KEY = 'a'.repeat(64)
const body = (digit: string) => ({ idempotency: { keyHash: KEY, bodyHash: digit.repeat(64) } })
const failed = { status: 'upstream_error', httpStatus: 502 } as const

/** The outcome of an ask under the key, and whose request it names. */
async function again(account: NodeAccount, digit = '1') {
  const result = await account.core.reserve(account.ask(body(digit)))
  return result.ok ? 'granted' : [result.error.reason, 'requestId' in result.error && result.error.requestId]
}

describe('a second request under a key', () => {
  test('with another body is a conflict, in every state of the first', async () => {
    const account = new NodeAccount()
    const { ask, holdId } = await account.grant(body('1'))
    expect(await again(account, '2')).toEqual(['idempotency_conflict', ask.requestId])
    await account.core.settle(account.end(holdId, used(1, 1)))
    expect(await again(account, '2')).toEqual(['idempotency_conflict', ask.requestId])
    const other = await account.grant({ idempotency: { keyHash: 'b'.repeat(64), bodyHash: '1'.repeat(64) } })
    await account.core.settle(account.end(other.holdId, used(0, 0), failed))
    expect(await again(account, '2')).toEqual(['idempotency_conflict', ask.requestId])
  })

  test('is told that the first runs, through a fallback too, and that it was answered', async () => {
    const account = new NodeAccount()
    const { ask, holdId } = await account.grant(body('1'))
    expect(await again(account)).toEqual(['idempotency_running', ask.requestId])
    await account.core.settle(account.end(holdId, used(0, 0), { ...failed, final: false }))
    expect(await again(account)).toEqual(['idempotency_running', ask.requestId])
    const { idempotency: _, ...fallback } = ask
    const second = await account.core.reserve({ ...fallback, attempt: 2 })
    if (!second.ok) throw new Error(second.error.reason)
    expect(await again(account)).toEqual(['idempotency_running', ask.requestId])
    await account.core.settle(account.end(second.value.holdId, used(1, 1)))
    account.restart()
    expect(await again(account)).toEqual(['idempotency_answered', ask.requestId])
  })

  test.each([
    ['failed', failed],
    ['was cancelled before its first content', { status: 'client_cancelled', httpStatus: 499 }],
    ['failed after its first content', { ...failed, httpStatus: 200, firstTokenAtMs: Date.UTC(2026, 10, 22) }],
  ] as const)('runs where the first %s, once', async (_, end) => {
    const account = new NodeAccount()
    const first = await account.grant(body('1'))
    await account.core.settle(account.end(first.holdId, used(5, 0), end))
    const second = await account.grant(body('1'))
    expect(await again(account)).toEqual(['idempotency_running', second.ask.requestId])
  })

  test('does not run where the caller hung up in the middle of the answer it pays for', async () => {
    const account = new NodeAccount()
    const { ask, holdId } = await account.grant(body('1'))
    const end = { status: 'client_cancelled', httpStatus: 200, firstTokenAtMs: account.nowMs } as const
    await account.core.settle(account.end(holdId, used(5, 5), end))
    expect(await again(account)).toEqual(['idempotency_answered', ask.requestId])
  })

  test('runs where the first expired, unless its end comes after all', async () => {
    const account = new NodeAccount()
    const { ask, holdId } = await account.grant({ ...body('1'), deadlineAtMs: account.nowMs + 1_000 })
    account.nowMs += 1_000 + EXPIRY_GRACE_MS
    await account.core.alarm()
    const copy = await account.core.reserve(account.ask(body('1')))
    expect(copy.ok).toBe(true)
    // The key belongs to the second request now: the first one's late end says nothing about it.
    await account.core.settle(account.end(holdId, used(1, 1)))
    expect(await again(account)).toEqual(['idempotency_running', copy.ok && copy.value.holdId.slice(0, 36)])
    const other = new NodeAccount()
    const late = await other.grant({ ...body('1'), deadlineAtMs: other.nowMs + 1_000 })
    other.nowMs += 1_000 + EXPIRY_GRACE_MS
    await other.core.alarm()
    await other.core.settle(other.end(late.holdId, used(1, 1)))
    expect(await again(other)).toEqual(['idempotency_answered', late.ask.requestId])
    expect(ask.requestId).not.toBe(late.ask.requestId)
  })

  test('is told how the first ended where nobody but the account ended it', async () => {
    const account = new NodeAccount()
    const { holdId } = await account.grant(body('1'))
    await account.core.settle(account.end(holdId, used(0, 0), { ...failed, final: false }))
    account.nowMs += REQUEST_CLOSE_GRACE_MS
    await account.core.alarm()
    expect(await again(account)).toBe('granted')
  })

  test('is told that the first was answered, also where an attempt of it fails after that', async () => {
    const account = new NodeAccount()
    const { ask, holdId } = await account.grant(body('1'))
    const { idempotency: _, ...fallback } = ask
    const second = await account.core.reserve({ ...fallback, attempt: 2 })
    if (!second.ok) throw new Error(second.error.reason)
    await account.core.settle(account.end(second.value.holdId, used(1, 1)))
    await account.core.settle(account.end(holdId, used(0, 0), { ...failed, final: false }))
    expect(await again(account)).toEqual(['idempotency_answered', ask.requestId])
  })

  test('runs where the first was refused by a limit', async () => {
    const account = new NodeAccount()
    await account.setLimits([{ meter: 'requests', window: 'day', max: 0 }])
    expect(await again(account)).toEqual(['rate_limited', false])
    await account.setLimits([])
    expect(await again(account)).toBe('granted')
  })
})

test('an attempt that comes after its request was closed is refused', async () => {
  const account = new NodeAccount()
  const { ask, holdId } = await account.grant()
  await account.core.settle(account.end(holdId, used(0, 0), { ...failed, final: false }))
  account.nowMs += REQUEST_CLOSE_GRACE_MS
  await account.core.alarm()
  const belated = await account.core.reserve({ ...ask, attempt: 2, startedAtMs: account.nowMs })
  expect(belated).toEqual({ ok: false, error: { reason: 'request_closed' } })
})

test('the same reservation repeated is no second request', async () => {
  const account = new NodeAccount()
  const ask = account.ask(body('1'))
  const first = await account.core.reserve(ask)
  expect(await account.core.reserve(ask)).toEqual(first)
})

test('a key is kept for a day, and then free', async () => {
  const account = new NodeAccount()
  await account.serve(used(1, 1), body('1'))
  account.nowMs += IDEMPOTENCY_KEPT_MS - 1
  expect(await again(account)).toEqual(['idempotency_answered', expect.any(String)])
  await account.core.alarm()
  const rows = () => account.storage.sql.exec<{ n: number }>('SELECT COUNT(*) AS n FROM idempotency').toArray()[0]?.n
  expect(rows()).toBe(1)
  account.nowMs += 601_000
  await account.core.alarm()
  expect(rows()).toBe(0)
  expect(await again(account, '2')).toBe('granted')
})

test.each([
  ['a fallback that brings a key', { attempt: 2, ...body('1') }],
  ['a key that was not hashed', { idempotency: { keyHash: 'secret', bodyHash: '1'.repeat(64) } }],
])('%s is a bug and throws', async (_, change) => {
  const account = new NodeAccount()
  await expect(account.core.reserve(account.ask(change))).rejects.toThrow(RangeError)
})
