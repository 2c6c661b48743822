// What a key may do, in workerd with the real migrations: scopes on routes and addresses, rights never beyond its maker's,
// and rotation.
import { createExecutionContext, env, waitOnExecutionContext } from 'cloudflare:test'
import { beforeAll, describe, expect, test } from 'vitest'
import { app } from '../../gateway/app.ts'
import type { Env } from '../../gateway/env.ts'
import { endOf, used } from './support/account.ts'
import { admin, type Json, newAsk, newName, newTenant, present, type Tenant } from './support/admin.ts'
import { newPerson, type Person, TestIssuer } from './support/people.ts'

let tenant: Tenant
let manager: Person

beforeAll(async () => {
  tenant = await newTenant()
  manager = await newPerson(await TestIssuer.register(tenant), 'admin')
})

const org = (path: string) => `/organisations/${tenant.orgId}${path}`
const keys = () => org('/keys')
const said = ({ status, body }: { status: number; body: Json }) => [status, body?.error?.param ?? body?.error?.code]
const newKey = (fields: Record<string, unknown> = {}, token = env.ADMIN_TOKEN) =>
  admin('POST', keys(), { project_id: tenant.projectId, name: 'k', ...fields }, { token })

/** Asks the whole application; a model that is not there tells that everything before it was passed. */
async function call(key: string, route: string, headers: Record<string, string> = {}, on: Env = env) {
  const [method = '', path = ''] = route.split(' ')
  const bodies: Record<string, unknown> = {
    '/v1/chat/completions': { messages: [{ role: 'user', content: 'x' }] },
    '/v1/completions': { prompt: 'x' },
    '/v1/embeddings': { input: 'x' },
  }
  const body = method === 'POST' ? JSON.stringify({ model: 'no-such-model', ...(bodies[path] as object) }) : undefined
  const ctx = createExecutionContext()
  const init = {
    method,
    headers: { authorization: `Bearer ${key}`, ...headers },
    ...(body === undefined ? {} : { body }),
  }
  const response = await app.request(`http://gateway.test${path}`, init, on, ctx)
  const answer: Json = await response.json()
  await waitOnExecutionContext(ctx)
  return { status: response.status, code: answer.error?.code, message: answer.error?.message }
}

const ROUTES = {
  chat: 'POST /v1/chat/completions',
  completions: 'POST /v1/completions',
  embeddings: 'POST /v1/embeddings',
  models: 'GET /v1/models',
} as const

describe('scopes', () => {
  test('of routes: a key is good for those alone, and the refusal names the scope', async () => {
    for (const scope of Object.keys(ROUTES)) {
      const { key } = (await newKey({ routes: [scope] })).body
      for (const [other, asked] of Object.entries(ROUTES)) {
        const answer = await call(key, asked)
        if (other === scope) expect(answer.code ?? 'ok').toBe(scope === 'models' ? 'ok' : 'model_not_found')
        else expect([answer.status, answer.message]).toEqual([403, expect.stringContaining('scope "routes"')])
      }
      expect((await call(key, 'GET /v1/models/some/model')).status).toBe(scope === 'models' ? 404 : 403)
    }
  })

  test('of addresses: where the deployment says where callers are, from those alone', async () => {
    const { key } = (await newKey({ addresses: ['192.0.2.0/24', '2001:db8::1'] })).body
    const proxied = { ...env, CLIENT_ADDRESS: 'x-real-ip' }
    const from = async (address: string, on: Env = proxied) =>
      (await call(key, ROUTES.models, { 'x-real-ip': address }, on)).status
    expect(await from('192.0.2.7')).toBe(200)
    expect(await from('2001:db8:0::1')).toBe(200)
    expect(await from('::ffff:192.0.2.7')).toBe(200)
    expect(await from('192.0.3.7')).toBe(403)
    expect(await from('192.0.2.7, 10.0.0.1')).toBe(403)
    // Nobody vouches for the header: it is not read, and a key that needs it is refused.
    expect(await from('192.0.2.7', env)).toBe(403)
    expect((await call(key, ROUTES.models, { 'cf-connecting-ip': '192.0.2.7' }, proxied)).status).toBe(403)
    expect((await call(tenant.key, ROUTES.models)).status).toBe(200)
  })

  test('of its user’s role: a viewer’s key lists models and computes nothing', async () => {
    const issuer = await TestIssuer.register(tenant)
    const person = await newPerson(issuer, 'developer')
    const { key } = (await newKey({}, person.token)).body
    expect((await call(key, ROUTES.chat)).code).toBe('model_not_found')
    await admin('PUT', org(`/users/${person.userId}/membership`), { role: 'viewer' })
    expect((await call(key, ROUTES.chat)).status).toBe(403)
    expect((await call(person.token, ROUTES.chat)).status).toBe(403)
    expect((await call(key, ROUTES.models)).status).toBe(200)
  })

  test('administration has to be named, and needs a user', async () => {
    const made = await newKey({ user_id: manager.userId })
    const list = (token: string) => admin('GET', org('/users'), undefined, { token })
    expect(said(await list(made.body.key))).toEqual([403, 'permission_denied'])
    expect(said(await newKey({ routes: ['admin'] }))).toEqual([400, 'routes'])
    const administering = await newKey({ user_id: manager.userId, routes: ['admin'] })
    expect((await list(administering.body.key)).status).toBe(200)
    expect((await call(administering.body.key, ROUTES.models)).status).toBe(403)
    await admin('DELETE', org(`/keys/${administering.body.id}`))
    expect((await list(administering.body.key)).status).toBe(401)
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['an unknown route', { routes: ['images'] }, 'routes[0]'],
    ['a name for an address', { addresses: ['localhost'] }, 'addresses[0]'],
    ['bits beyond a prefix', { addresses: ['10.0.0.0/8', '10.0.0.1/8'] }, 'addresses[1]'],
    ['an empty end user', { end_user: '' }, 'end_user'],
    ['an end user with a control character', { end_user: 'a\u0000' }, 'end_user'],
    ['an end user of 257 characters', { end_user: 'x'.repeat(257) }, 'end_user'],
    ['a capability that is none', { capabilities: ['root'] }, 'capabilities[0]'],
    ['three capabilities', { capabilities: ['files', 'network', 'code'] }, 'capabilities'],
    ['a capability twice', { capabilities: ['files', 'files'] }, 'capabilities'],
    ['a cache for no time', { cache: { ttl_s: 0 } }, 'cache.ttl_s'],
    ['a cache for more than 30 days', { cache: { ttl_s: 2_592_001 } }, 'cache.ttl_s'],
    ['a user of nobody', { user_id: crypto.randomUUID() }, 'user_id'],
    ['a team of nobody', { team_id: crypto.randomUUID() }, 'team_id'],
  ])('with %s are refused by the field', async (_, wrong, param) => {
    expect(said(await newKey(wrong))).toEqual([400, param])
  })
})

describe('a key that makes, changes or rotates keys', () => {
  const restricted = {
    models: ['a', 'b'],
    routes: ['chat', 'admin'],
    addresses: ['192.0.2.0/24'],
    end_user: 'customer',
    capabilities: ['files'],
    cache: { ttl_s: 60 },
    expires_at: '2098-01-01T00:00:00.000Z',
  }
  const within = { ...restricted, routes: ['chat'] }
  const maker = async () => (await newKey({ ...restricted, user_id: manager.userId })).body
  const proxied = { ...env, CLIENT_ADDRESS: 'x-real-ip' }

  /** The admin API from an address that the maker may use. */
  async function by(key: string, method: string, path: string, body: unknown) {
    const { adminApp } = await import('../../gateway/admin/index.ts')
    const headers = { authorization: `Bearer ${key}`, 'x-real-ip': '192.0.2.9' }
    const response = await adminApp.request(path, { method, headers, body: JSON.stringify(body) }, proxied)
    return { status: response.status, body: (await response.json()) as Json }
  }
  const beyond: [string, Record<string, unknown>, string][] = [
    ['a model more', { models: ['a', 'c'] }, 'models'],
    ['every model', { models: null }, 'models'],
    ['a route more', { routes: ['chat', 'embeddings'] }, 'routes'],
    ['every route', { routes: null }, 'routes'],
    ['a wider network', { addresses: ['192.0.0.0/16'] }, 'addresses'],
    ['every address', { addresses: null }, 'addresses'],
    ['another end user', { end_user: 'another' }, 'end_user'],
    ['no end user', { end_user: null }, 'end_user'],
    ['a capability more', { capabilities: ['files', 'code'] }, 'capabilities'],
    ['any two capabilities', { capabilities: null }, 'capabilities'],
    ['an older cache', { cache: { ttl_s: 61 } }, 'cache'],
    ['a later end', { expires_at: '2098-01-01T00:00:00.001Z' }, 'expires_at'],
    ['no end', { expires_at: null }, 'expires_at'],
  ]

  test.each(beyond)('cannot make one with %s', async (_, more, param) => {
    const { key } = await maker()
    const body = { project_id: tenant.projectId, name: 'child', ...within }
    expect((await by(key, 'POST', keys(), body)).status).toBe(201)
    expect(said(await by(key, 'POST', keys(), { ...body, ...more }))).toEqual([400, param])
  })

  test.each(beyond)('cannot change one to %s', async (_, more, param) => {
    const { key } = await maker()
    const child = await by(key, 'POST', keys(), { project_id: tenant.projectId, name: 'child', ...within })
    expect(said(await by(key, 'PATCH', org(`/keys/${child.body.id}`), more))).toEqual([400, param])
    expect((await by(key, 'PATCH', org(`/keys/${child.body.id}`), { models: ['a'] })).status).toBe(200)
  })

  test('cannot rotate or change a key that has more, not itself into more, and none of another project', async () => {
    const made = await maker()
    const wide = (await newKey({ user_id: manager.userId })).body
    expect(said(await by(made.key, 'POST', org(`/keys/${wide.id}/rotate`), { overlap_seconds: 0 }))).toEqual([
      400,
      'end_user',
    ])
    expect((await by(made.key, 'PATCH', org(`/keys/${wide.id}`), { name: 'mine' })).status).toBe(400)
    expect(said(await by(made.key, 'PATCH', org(`/keys/${made.id}`), { expires_at: null }))).toEqual([
      400,
      'expires_at',
    ])
    const other = (await admin('POST', org('/projects'), { slug: newName('other') })).body.id
    expect(said(await by(made.key, 'POST', keys(), { project_id: other, name: 'x', ...within }))).toEqual([
      400,
      'project_id',
    ])
    const elsewhere = (await newKey({ project_id: other, ...within })).body
    expect((await by(made.key, 'DELETE', org(`/keys/${elsewhere.id}`), {})).status).toBe(403)
    expect(
      (
        await by(made.key, 'POST', org('/issuers'), {
          issuer: 'https://mine.example.com',
          audience: 'x',
          algorithms: ['ES256'],
          max_role: 'viewer',
          project_id: tenant.projectId,
          jwks_uri: 'https://mine.example.com/keys',
        })
      ).status,
    ).toBe(403)
  })
})

test('a key revoked while a request runs takes no new one, and the running one is settled in full', async () => {
  const { orgId, projectId } = tenant
  const { id: keyId } = (await newKey()).body
  const account = env.ACCOUNT.getByName(orgId)
  const running = await account.reserve(newAsk({ orgId, projectId, keyId }))
  await admin('DELETE', org(`/keys/${keyId}`))
  expect(await account.reserve(newAsk({ orgId, projectId, keyId }))).toMatchObject({ error: { reason: 'key_revoked' } })
  expect(running.ok && (await account.settle(endOf(running.value.holdId, used(3, 4))))).toMatchObject({
    repeated: false,
  })
  await account.flush()
  const { body } = await admin('GET', `/usage/requests?org=${orgId}&key=${keyId}`)
  expect(body.data).toMatchObject([{ key_id: keyId, status: 'ok' }])
  // Found by its id alone, and yet of a project: whoever is bound to another one does not see it.
  const other = (await admin('POST', org('/projects'), { slug: newName('bound') })).body.id
  const bound = await newPerson(await TestIssuer.register(tenant), 'developer', { projects: [other] })
  const one = (token: string) => admin('GET', `/usage/requests/${body.data[0].id}?org=${orgId}`, undefined, { token })
  expect([(await one(bound.token)).status, (await one(manager.token)).status]).toEqual([404, 200])
})

describe('rotation', () => {
  const rotate = (id: string, overlapS: unknown = 60, token = env.ADMIN_TOKEN) =>
    admin('POST', org(`/keys/${id}/rotate`), { overlap_seconds: overlapS }, { token })
  const accepted = async (key: string, nowMs?: number) => (await present(key, nowMs)).ok

  test('gives a new key with the same rights, and the old one until the overlap ends', async () => {
    const fields = { models: ['m'], routes: ['chat'], end_user: 'customer', expires_at: '2099-01-01T00:00:00.000Z' }
    const old = (await newKey(fields)).body
    const startMs = Date.now()
    const { status, body } = await rotate(old.id)
    expect(status).toBe(201)
    expect(body).toMatchObject({ ...fields, project_id: tenant.projectId, rotated_from: old.id, announced: true })
    expect(body.key).toMatch(/^psk_/)
    expect(body.key).not.toBe(old.key)
    const endMs = Date.parse(body.replaces.expires_at)
    expect(endMs - startMs).toBeGreaterThanOrEqual(60_000)
    expect(endMs - startMs).toBeLessThan(90_000)
    expect([await accepted(old.key), await accepted(body.key)]).toEqual([true, true])
    expect([await accepted(old.key, endMs), await accepted(body.key, endMs)]).toEqual([false, true])
    // The chain is seen from both ends.
    const listed = (await admin('GET', keys())).body.data
    const shown = (id: string) => listed.find((key: Json) => key.id === id)
    expect(shown(old.id)).toMatchObject({ rotated_to: body.id, rotated_from: null })
    expect(shown(body.id)).toMatchObject({ rotated_from: old.id, rotated_to: null, expires_at: fields.expires_at })
    expect((await admin('GET', org(`/keys/${old.id}`))).body.rotated_to).toBe(body.id)
  })

  test('without an overlap revokes the old key everywhere', async () => {
    const old = (await newKey()).body
    expect(await accepted(old.key)).toBe(true)
    expect((await rotate(old.id, 0)).status).toBe(201)
    expect(await accepted(old.key)).toBe(false)
    const { orgId, projectId } = tenant
    const reserved = await env.ACCOUNT.getByName(orgId).reserve(newAsk({ orgId, projectId, keyId: old.id }))
    expect(reserved).toEqual({ ok: false, error: { reason: 'key_revoked' } })
  })

  test('happens once per key, however many ask at once, and never to an ended one', async () => {
    const old = (await newKey()).body
    const answers = await Promise.all(Array.from({ length: 5 }, () => rotate(old.id)))
    expect(answers.map(({ status }) => status).toSorted()).toEqual([201, 409, 409, 409, 409])
    await admin('DELETE', org(`/keys/${old.id}`))
    expect(said(await rotate(old.id))).toEqual([409, 'conflict'])
  })

  test.each([-1, 30 * 86_400 + 1, 1.5, '60', null])('with an overlap of %s seconds is refused', async (overlap) => {
    const old = (await newKey()).body
    expect(said(await rotate(old.id, overlap))).toEqual([400, 'overlap_seconds'])
  })

  test('never makes a key outlive what it was', async () => {
    const soon = new Date(Date.now() + 30_000).toISOString()
    const old = (await newKey({ expires_at: soon })).body
    const { body } = await rotate(old.id, 3_600)
    expect([body.expires_at, body.replaces.expires_at]).toEqual([soon, soon])
  })

  test('does not shed the limits of the key', async () => {
    const old = (await newKey()).body
    const limits = [{ meter: 'requests', window: 'day', max: 1 }]
    expect((await admin('PUT', org(`/keys/${old.id}/limits`), { limits })).status).toBe(200)
    const { body } = await rotate(old.id, 0)
    expect((await admin('GET', org(`/keys/${body.id}/limits`))).body.limits).toMatchObject(limits)
    expect((await admin('GET', org(`/keys/${old.id}/limits`))).body.limits).toMatchObject(limits)
    const reserve = async () => {
      const found = await present(body.key)
      if (!found.ok) throw new Error(found.error.message)
      const reserved = await env.ACCOUNT.getByName(tenant.orgId).reserve(newAsk(found.value))
      return reserved.ok ? 'ok' : reserved.error.reason
    }
    expect([await reserve(), await reserve()]).toEqual(['ok', 'rate_limited'])
    // Changed at one key of the line, they are changed at all of them.
    const again = (await rotate(body.id)).body
    const more = [{ meter: 'requests', window: 'day', max: 2 }]
    expect((await admin('PUT', org(`/keys/${again.id}/limits`), { limits: more })).body).toMatchObject({
      scope_id: old.id,
      limits: more,
    })
    for (const { id } of [old, body, again])
      expect((await admin('GET', org(`/keys/${id}/limits`))).body.limits).toMatchObject(more)
    expect([await reserve(), await reserve()]).toEqual(['ok', 'rate_limited'])
  })

  test('shows the text of the new key once', async () => {
    const old = (await newKey()).body
    const { body, headers } = await rotate(old.id)
    expect(headers.get('cache-control')).toBe('no-store')
    const seen = await Promise.all([
      admin('GET', org(`/keys/${body.id}`)),
      admin('GET', keys()),
      admin('GET', `/audit?org_id=${tenant.orgId}&action=key.rotate`),
    ])
    for (const { text } of seen) expect(text).not.toContain(body.key.slice(12))
  })
})
