// What limits and idempotency keys look like on the client's wire: headers of admissions and refusals, soft limits, and
// requests that come twice.
import { env, evictDurableObject, runInDurableObject } from 'cloudflare:test'
import { describe, expect, test, vi } from 'vitest'
import type { Account } from '../../gateway/account/account.ts'
import { admin } from './support/admin.ts'
import { answer } from './support/fake-agent.ts'
import { FLEET_TARGET, World } from './support/path.ts'

type Limit = Record<string, unknown>

/** A world with one own backend and these limits on its key. */
async function limited(limits: Limit[], place?: string): Promise<{ world: World; dispatches: () => number }> {
  const world = new World()
  const agent = await world.agent(() => answer(['Rivers', ' run', '.']))
  await world.catalog([FLEET_TARGET(world.model)])
  const { orgId, keyId } = await world.ownTenant()
  const put = await admin('PUT', `/organisations/${orgId}/${place ?? `keys/${keyId}`}/limits`, { limits })
  if (put.status !== 200) throw new Error(put.text)
  return { world, dispatches: () => agent.dispatches.length }
}

async function ask(world: World, over: Record<string, unknown> = {}, headers: Record<string, string> = {}) {
  const { response, settled } = await world.chat({ max_tokens: 10, ...over }, { headers })
  const body = await response.json<{ error?: { code: string; message: string } }>()
  await settled()
  return { status: response.status, headers: response.headers, error: body.error }
}

describe('limits on requests and tokens', () => {
  test('show what is left of the tightest of each kind, and when it renews', async () => {
    const { world } = await limited([
      { meter: 'requests', window: 'minute', max: 5 },
      { meter: 'requests', window: 'day', max: 100 },
      { meter: 'output_tokens', window: 'day', max: 1000 },
    ])
    const { status, headers } = await ask(world)
    expect(status).toBe(200)
    expect(headers.get('x-ratelimit-limit-requests')).toBe('5')
    expect(headers.get('x-ratelimit-remaining-requests')).toBe('4')
    expect(headers.get('x-ratelimit-reset-requests')).toMatch(/^\d{1,5}ms$/)
    expect(headers.get('x-ratelimit-limit-tokens')).toBe('1000')
    expect(headers.get('x-ratelimit-remaining-tokens')).toBe('990')
    expect(headers.get('x-ratelimit-reset-tokens')).toMatch(/^\d{1,8}ms$/)
  })

  test('show as much where they refuse', async () => {
    const { world, dispatches } = await limited([{ meter: 'output_tokens', window: 'day', max: 15 }])
    expect((await ask(world)).status).toBe(200)
    const { status, headers } = await ask(world, { max_tokens: 13 })
    expect(status).toBe(429)
    expect(headers.get('x-ratelimit-limit-tokens')).toBe('15')
    // The first answer had three of the ten tokens it was allowed.
    expect(headers.get('x-ratelimit-remaining-tokens')).toBe('12')
    expect(headers.get('x-ratelimit-limit-requests')).toBeNull()
    expect(Number(headers.get('retry-after'))).toBeGreaterThan(0)
    expect(dispatches()).toBe(1)
  })

  test('have no reset where waiting does not help', async () => {
    const { world } = await limited([{ meter: 'requests', window: 'lifetime', max: 2 }])
    const { headers } = await ask(world)
    expect(headers.get('x-ratelimit-remaining-requests')).toBe('1')
    expect(headers.get('x-ratelimit-reset-requests')).toBeNull()
  })

  test('count for each end user that a request names', async () => {
    const { world } = await limited([{ meter: 'requests', window: 'day', max: 1 }], 'end-users/*')
    expect((await ask(world, { user: 'ann' })).status).toBe(200)
    expect((await ask(world, { user: 'ann' })).status).toBe(429)
    expect((await ask(world, { user: 'bob' })).status).toBe(200)
  })
})

describe('a key that is rotated in the middle of a window', () => {
  test('brings what was used to its successors, which share the rest; also in an account that lost everything', async () => {
    const { world, dispatches } = await limited([
      { meter: 'requests', window: 'lifetime', max: 4 },
      { meter: 'money', window: 'month', max_usd: '1' },
    ])
    const { orgId, keyId, key } = await world.ownTenant()
    const rotated = async (id: string) =>
      (await admin('POST', `/organisations/${orgId}/keys/${id}/rotate`, { overlap_seconds: 600 })).body
    const left = async (credential: string) => {
      const { response, settled } = await world.chat({ max_tokens: 10 }, { key: credential })
      await response.text()
      await settled()
      return [response.status, response.headers.get('x-ratelimit-remaining-requests')]
    }
    expect(await left(key)).toEqual([200, '3'])
    const second = await rotated(keyId)
    expect(await left(second.key)).toEqual([200, '2'])
    const third = await rotated(second.id)
    expect(await left(third.key)).toEqual([200, '1'])
    expect(await left(key)).toEqual([200, '0'])

    const account = env.ACCOUNT.getByName(orgId)
    const shown = async () => (await account.inspect()).counters.filter(({ series }) => series.startsWith('key|'))
    const counted = await shown()
    expect(new Set(counted.map(({ subject }) => subject))).toEqual(new Set([keyId]))
    expect(counted.map(({ value }) => value > 0n)).toEqual([true, true])
    await account.flush()
    await runInDurableObject(account, (_: Account, state) => state.storage.deleteAll())
    await evictDurableObject(account)
    expect(await shown()).toEqual([])
    for (const credential of [third.key, second.key, key]) expect(await left(credential)).toEqual([429, '0'])
    expect(await shown()).toEqual(counted)
    expect(dispatches()).toBe(4)
    // Usage stands under the key that was used.
    const used = async (id: string) => (await admin('GET', `/usage/requests?org=${orgId}&key=${id}`)).body.data.length
    expect([await used(keyId), await used(second.id), await used(third.id)]).toEqual([2, 1, 1])
  })
})

describe('a soft limit that is passed', () => {
  test('refuses nothing and says so in a header', async () => {
    const { world } = await limited([{ meter: 'requests', window: 'day', max: 1, hard: false }])
    const first = await ask(world)
    expect(first.headers.get('x-penstock-limit-warning')).toBeNull()
    // What a soft limit has counted is read behind the first request: no caller waits for it.
    await vi.waitFor(async () => {
      const { status, headers } = await ask(world)
      expect(status).toBe(200)
      expect(headers.get('x-penstock-limit-warning')).toBe('key requests 1 per day')
    })
  })
})

describe('an Idempotency-Key', () => {
  const key = (value: string) => ({ 'idempotency-key': value })

  test('lets its request be answered and charged once', async () => {
    const { world, dispatches } = await limited([])
    const first = await ask(world, {}, key('order 1'))
    const second = await ask(world, {}, key('order 1'))
    expect([first.status, second.status]).toEqual([200, 409])
    expect(second.error?.message).toContain(first.headers.get('x-request-id'))
    expect(second.headers.get('x-should-retry')).toBe('false')
    expect((await ask(world, {}, key('order 2'))).status).toBe(200)
    expect(dispatches()).toBe(2)
    expect((await world.recorded()).attempts).toHaveLength(2)
  })

  test('of another request is a conflict: another body, or the same body on another route', async () => {
    const { world, dispatches } = await limited([])
    expect((await ask(world, {}, key('k'))).status).toBe(200)
    const other = await ask(world, { max_tokens: 11 }, key('k'))
    expect(other.status).toBe(409)
    expect(other.error?.code).toBe('conflict')
    const body = { model: world.model, prompt: 'Say something.', messages: undefined, max_tokens: 10 }
    const { response, settled } = await world.send('/v1/completions', body, { headers: key('k') })
    expect(response.status).toBe(409)
    await settled()
    expect(dispatches()).toBe(1)
  })

  test('is refused where it is empty, too long or not printable', async () => {
    const { world, dispatches } = await limited([])
    for (const value of ['', 'k'.repeat(256), 'tab\there', 'é']) {
      const { status, error } = await ask(world, {}, key(value))
      expect([value.length, status, error?.code]).toEqual([value.length, 400, 'invalid_request'])
    }
    expect((await ask(world, {}, key('k'.repeat(255)))).status).toBe(200)
    expect(dispatches()).toBe(1)
  })

  test('may be used again after a failure that gave nothing', async () => {
    const world = new World()
    let up = false
    const ok = 'data: {"choices":[{"index":0,"delta":{"content":"Yes"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    const vendor = await world.provider(() =>
      up ? new Response(ok, { headers: { 'content-type': 'text/event-stream' } }) : new Response('no', { status: 500 }),
    )
    await world.catalog([{ provider: vendor, model: 'm', context_tokens: 1000 }])
    expect((await ask(world, {}, key('again'))).status).toBe(502)
    up = true
    expect((await ask(world, {}, key('again'))).status).toBe(200)
    expect((await ask(world, {}, key('again'))).status).toBe(409)
  })
})
