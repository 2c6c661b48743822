// Every admin route against every role, generated from the table: what the matrix permits is not refused, what it does not
// permit is, and nobody reaches another organisation.
import { createExecutionContext, env } from 'cloudflare:test'
import { Hono } from 'hono'
import { beforeAll, describe, expect, test } from 'vitest'
import type { AdminEnv } from '../../gateway/admin/context.ts'
import { guard } from '../../gateway/admin/guard.ts'
import { adminApp } from '../../gateway/admin/index.ts'
import { ADMIN_ROUTES, authorise } from '../../gateway/admin/permissions.ts'
import { app } from '../../gateway/app.ts'
import { permits, ROLES, type Role } from '../../gateway/auth/roles.ts'
import { type Answer, admin, newTenant, type Tenant } from './support/admin.ts'
import { newPerson, TestIssuer } from './support/people.ts'

let tenant: Tenant
let other: Tenant
const tokens = new Map<Role, string>()
/** Of a developer bound to another project than the tenant's key is of. */
let bound: string

beforeAll(async () => {
  tenant = await newTenant()
  other = await newTenant()
  const issuer = await TestIssuer.register(tenant)
  for (const role of ROLES) tokens.set(role, (await newPerson(issuer, role)).token)
  const project = await admin('POST', `/organisations/${tenant.orgId}/projects`, { slug: 'elsewhere' })
  bound = (await newPerson(issuer, 'developer', { projects: [project.body.id] })).token
})

const routes = Object.entries(ADMIN_ROUTES)

/** A request that gets as far as the handler and finds nothing there: ids are nobody's, bodies empty. */
/** A busy machine's database may be away for a moment, which says nothing of who may do what: it is asked again then. */
const TRIES_MAX = 3

async function ask(
  route: string,
  orgId: string,
  token: string | undefined,
  ids: Partial<Tenant> = {},
): Promise<Answer> {
  const [method = '', pattern = ''] = route.split(' ')
  const path = pattern
    .replace(':org', orgId)
    .replace(':project', ids.projectId ?? ':project')
    .replace(':key', ids.keyId ?? ':key')
    .replace(/:\w+(\{[^}]*\})?/g, () => crypto.randomUUID())
  const parameter = pattern.startsWith('/audit') ? 'org_id' : 'org'
  const query = /^\/(usage|ledger|audit)/.test(pattern) ? `?${parameter}=${orgId}` : ''
  const once = () => admin(method, `${path}${query}`, method === 'GET' ? undefined : {}, { token })
  let answer = await once()
  for (let tries = 1; tries < TRIES_MAX && answer.status === 503; tries++) {
    await scheduler.wait(Number(answer.headers.get('retry-after') ?? 1) * 1_000)
    answer = await once()
  }
  return answer
}
/** What a handler says to such a request; anything else is a refusal or a failure. */
const GETS_THERE = [200, 201, 400, 404]
const namesOrganisation = (route: string) => /\/:org|^GET \/(usage|ledger|audit)/.test(route)

test('the table and the router name the same routes, and only layers answer to all methods', () => {
  const registered = adminApp.routes
    .filter(({ method }) => method !== 'ALL')
    .map(({ method, path }) => `${method} ${path}`)
  expect([...new Set(registered)].toSorted()).toEqual(Object.keys(ADMIN_ROUTES).toSorted())
  expect(new Set(adminApp.routes.filter(({ method }) => method === 'ALL').map(({ path }) => path))).toEqual(
    new Set(['/*']),
  )
})

test('a route that is not in the table is closed to everybody, the operator too', async () => {
  const app = new Hono<AdminEnv>()
    .use(guard)
    .use(authorise)
    .get('/forgotten', (c) => c.text('open'))
    .all('/any', (c) => c.text('open'))
    .get('/prices', (c) => c.text('open'))
    .onError((error, c) => c.text(error.message, 403))
  for (const [path, status] of [
    ['/forgotten', 403],
    ['/any', 403],
    ['/prices', 200],
  ] as const) {
    const response = await app.request(path, { headers: { authorization: `Bearer ${env.ADMIN_TOKEN}` } }, env)
    expect(response.status).toBe(status)
  }
})

test('the check is the same below the prefix of the whole application', async () => {
  const ask = async (path: string, token: string | undefined, method = 'GET') => {
    const headers = { authorization: `Bearer ${token}` }
    return (
      await app.request(`http://gateway.test/admin/v1${path}`, { method, headers }, env, createExecutionContext())
    ).status
  }
  const users = (orgId: string) => `/organisations/${orgId}/users`
  for (const method of ['GET', 'HEAD']) {
    expect(await ask(users(tenant.orgId), env.ADMIN_TOKEN, method)).toBe(200)
    expect(await ask(users(tenant.orgId), tokens.get('viewer'), method)).toBe(200)
    expect(await ask(users(tenant.orgId), tokens.get('developer'), method)).toBe(403)
    expect(await ask(users(other.orgId), tokens.get('owner'), method)).toBe(404)
    expect(await ask('/backends', tokens.get('owner'), method)).toBe(403)
  }
  // Escaped once it is the id itself; escaped twice it is none.
  const escaped = (id: string, by: string) => `${by}${id.charCodeAt(0).toString(16)}${id.slice(1)}`
  expect(await ask(users(escaped(tenant.orgId, '%')), tokens.get('owner'))).toBe(200)
  expect(await ask(users(escaped(other.orgId, '%')), tokens.get('owner'))).toBe(404)
  expect(await ask(users(escaped(other.orgId, '%25')), tokens.get('owner'))).toBe(404)
  expect(await ask(`/usage?org=${tenant.orgId}&org=${other.orgId}`, tokens.get('owner'))).toBe(404)
  expect(await ask(`/usage?org=${tenant.orgId.toUpperCase()}`, tokens.get('owner'))).toBe(200)
})

describe('each route', () => {
  test.each(routes)('%s needs %s, and whoever has it and the operator get there', async (route, permission) => {
    const [stranger, operator, foreign, ...members] = await Promise.all([
      ask(route, tenant.orgId, undefined),
      ask(route, tenant.orgId, env.ADMIN_TOKEN),
      ask(route, other.orgId, tokens.get('owner')),
      ...ROLES.map((role) => ask(route, tenant.orgId, tokens.get(role))),
    ])
    expect(stranger?.status).toBe(401)
    expect(GETS_THERE).toContain(operator?.status)
    const outcome = ({ status, body }: Answer) =>
      GETS_THERE.includes(status) ? 'gets there' : `${status} ${body.error.code}`
    const expected = ROLES.map((role) => (permits([role], permission) ? 'gets there' : '403 permission_denied'))
    expect(members.map(outcome)).toEqual(expected)
    if (!namesOrganisation(route)) return
    expect(foreign?.status).toBe(permits(['owner'], permission) ? 404 : 403)
    expect(foreign?.text).not.toContain(other.orgId)
  })

  test('of a project shows and does nothing to whoever is bound to another one', async () => {
    const got: string[] = []
    for (const [route] of routes) {
      const answer = await ask(route, tenant.orgId, bound, tenant)
      expect(answer.text).not.toContain(tenant.keyId)
      if (answer.status < 300) got.push(route)
    }
    expect(got.toSorted()).toEqual([
      'GET /organisations',
      'GET /organisations/:org',
      'GET /organisations/:org/key-use',
      'GET /organisations/:org/keys',
      'GET /organisations/:org/projects',
      'GET /session',
      'GET /sessions',
    ])
    expect(
      (await admin('GET', `/usage?org=${tenant.orgId}&project=${tenant.projectId}`, undefined, { token: bound }))
        .status,
    ).toBe(404)
    expect((await admin('GET', `/organisations/${tenant.orgId}/keys/${tenant.keyId}`)).body.revoked_at).toBeNull()
  })
})
