// The routes of the API as a table: each that uses tokens is stopped by the account, each takes a scope, and one that is in
// no list is closed. That the table and the router agree is shown beside the request path.
import { env } from 'cloudflare:test'
import { Hono } from 'hono'
import { beforeAll, describe, expect, test } from 'vitest'
import { METERED_ROUTES, requireKey, UNMETERED_ROUTES } from '../../gateway/routes/access.ts'
import type { AppEnv } from '../../gateway/routes/context.ts'
import { admin, newTenant } from './support/admin.ts'
import { answer } from './support/fake-agent.ts'
import { FLEET_TARGET, World } from './support/path.ts'

const world = new World()
/** A whole body for each metered route. */
const BODIES: Record<string, object> = {
  'POST /v1/chat/completions': { messages: [{ role: 'user', content: 'x' }] },
  'POST /v1/completions': { prompt: 'x' },
  'POST /v1/embeddings': { input: 'x' },
  'POST /v1/responses': { input: 'x' },
  'POST /v1/messages': { max_tokens: 5, messages: [{ role: 'user', content: 'x' }] },
}

beforeAll(async () => {
  await world.agent(() => answer(['x']))
  await world.catalog([FLEET_TARGET(world.model)])
})

const ask = async (route: string, key: string) => {
  const { response, settled } = await world.send(
    route.split(' ')[1] ?? '',
    { model: world.model, ...BODIES[route] },
    { key },
  )
  const { error } = await response.json<{ error?: { code?: string; details?: { error_code: string } } }>()
  await settled()
  return [response.status, error?.code ?? error?.details?.error_code]
}

describe.each([...METERED_ROUTES])('%s', (route, scope) => {
  test('takes a hold before anything is sent: without room there is no dispatch', async () => {
    const { orgId, key } = await newTenant()
    const limits = [{ meter: 'requests', window: 'day', max: 0 }]
    expect((await admin('PUT', `/organisations/${orgId}/limits`, { limits })).status).toBe(200)
    const before = world.calls.length
    const code = route === 'POST /v1/messages' ? 'rate_limited' : 'rate_limit_exceeded'
    expect(await ask(route, key)).toEqual([429, code])
    expect(world.calls).toHaveLength(before)
  })

  test(`needs the scope ${scope}`, async () => {
    const all = [...METERED_ROUTES.values(), ...[...UNMETERED_ROUTES.values()].flat()]
    const others = all.filter((other) => other !== scope)
    const { key } = await newTenant({ routes: [...new Set(others)] })
    const before = world.calls.length
    expect(await ask(route, key)).toEqual([403, 'permission_denied'])
    expect(world.calls).toHaveLength(before)
  })
})

test('a route that is in no list is closed to every key', async () => {
  const { key, keyId } = await newTenant()
  const app = new Hono<AppEnv>()
    .use(async (c, next) => {
      c.set('receivedAtMs', Date.now())
      await next()
    })
    .use('*', requireKey)
    .get('/v1/forgotten', (c) => c.text('open'))
    .get('/v1/models', (c) => c.text(c.get('principal').keyId))
  const get = (path: string) => app.request(path, { headers: { authorization: `Bearer ${key}` } }, env)
  expect((await get('/v1/forgotten')).status).toBe(403)
  expect(await (await get('/v1/models')).text()).toBe(keyId)
})
