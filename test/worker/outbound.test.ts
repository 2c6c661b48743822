// The two ways out of the gateway, in workerd: what is to stay outside takes the network that leads nowhere else.
import { env } from 'cloudflare:workers'
import { afterEach, expect, test, vi } from 'vitest'
import type { Env } from '../../gateway/env.ts'
import { systemFetch } from '../../gateway/outbound.ts'
import type { Reach } from '../../gateway/policy/reach.ts'

const world = env as Env

afterEach(() => {
  delete world.INTERNET
  vi.restoreAllMocks()
})

const way = async (reach: Reach) => (await systemFetch('https://vendor.example.com/', { method: 'POST' }, reach)).text()

test('a call that may not get inside goes by the network that leads to public addresses alone', async () => {
  vi.spyOn(globalThis, 'fetch').mockImplementation(async () => new Response('any network'))
  world.INTERNET = { fetch: async () => new Response('the internet') } as unknown as Fetcher
  expect(await way('public')).toBe('the internet')
  expect(await way('anywhere')).toBe('any network')
})

test('where there is but one network, which is Cloudflare, it takes that', async () => {
  vi.spyOn(globalThis, 'fetch').mockImplementation(async () => new Response('any network'))
  expect(await way('public')).toBe('any network')
})
