// Signing in to the dashboard by a link, and what a session opens: in workerd with the real migrations, as browsers and their
// enemies ask.
import { createExecutionContext, env } from 'cloudflare:test'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import { app } from '../../gateway/app.ts'
import { PERMISSIONS } from '../../gateway/auth/roles.ts'
import { SESSION_IDLE_MS_MAX, SESSION_MS_MAX } from '../../gateway/dashboard/session.ts'
import { connect } from '../../gateway/db/connect.ts'
import { METERED_ROUTES, UNMETERED_ROUTES } from '../../gateway/routes/access.ts'
import { admin, type Json, newName, newTenant, type Tenant } from './support/admin.ts'
import { Browser, newCode, signedIn } from './support/browser.ts'
import { newPerson, type Person, TestIssuer } from './support/people.ts'

const MINUTE_MS = 60_000

let tenant: Tenant
let issuer: TestIssuer
let owner: Person
let manager: Person
let viewer: Person

beforeAll(async () => {
  tenant = await newTenant()
  issuer = await TestIssuer.register(tenant)
  owner = await newPerson(issuer, 'owner')
  manager = await newPerson(issuer, 'admin')
  viewer = await newPerson(issuer, 'viewer')
})

const userOf = (person: Person) => ({ org_id: tenant.orgId, user_id: person.userId })
const org = (path: string) => `/organisations/${tenant.orgId}${path}`
const audit = async (action: string, query = '') =>
  (await admin('GET', `/audit?action=${action}&limit=200${query}`)).body.data as Record<string, unknown>[]

const currentId = async (browser: Browser): Promise<string> =>
  (await browser.send('GET', '/admin/v1/sessions?limit=200')).body.data.find((one: Json) => one.current).id

/** Runs with the clock moved on. */
async function later<T>(ms: number, work: () => Promise<T>): Promise<T> {
  vi.useFakeTimers({ now: Date.now() + ms, toFake: ['Date'] })
  return work().finally(() => vi.useRealTimers())
}

describe('a one-time link', () => {
  test('signs a browser in as the operator, once', async () => {
    const code = await newCode()
    const browser = new Browser()
    expect((await browser.redeem(code)).status).toBe(200)
    expect((await browser.session()).body).toMatchObject({
      kind: 'operator',
      permissions: PERMISSIONS,
      csrf: expect.any(String),
      expires_at: expect.any(String),
    })
    const thief = new Browser()
    const answer = await thief.redeem(code)
    expect([answer.status, answer.body.error.code]).toEqual([401, 'invalid_api_key'])
    expect(thief.jar.size).toBe(0)
  })

  test('carries its code where browsers send it to no server', async () => {
    const made = await admin('POST', '/sign-in-links', {})
    const url = new URL(made.body.url)
    expect([url.pathname, url.search]).toEqual(['/dashboard/sign-in', ''])
    expect(url.hash).toMatch(/^#code=psl_[A-Za-z0-9_-]{43}$/)
  })

  test('signs in as its user, with the permissions of the role', async () => {
    const browser = await signedIn(userOf(viewer))
    const { body } = await browser.session()
    expect(body).toMatchObject({ kind: 'member', org_id: tenant.orgId, user_id: viewer.userId, roles: ['viewer'] })
    expect(body.permissions).toContain('people.read')
    expect(body.permissions).not.toContain('people.write')
    expect((await browser.send('GET', `/admin/v1${org('/users')}`)).status).toBe(200)
    expect((await browser.send('GET', '/admin/v1/backends')).status).toBe(403)
    const other = await newTenant()
    expect((await browser.send('GET', `/admin/v1/organisations/${other.orgId}/users`)).status).toBe(404)
    expect((await browser.change('POST', org('/users'), { email: 'x@example.com' })).status).toBe(403)
  })

  test('works for one of two browsers that redeem it at the same moment', async () => {
    const code = await newCode(userOf(viewer))
    const answers = await Promise.all(Array.from({ length: 6 }, () => new Browser().redeem(code)))
    expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 401, 401, 401, 401, 401])
  })

  test('works for ten minutes', async () => {
    const [early, late] = [await newCode(), await newCode()]
    const at = (ms: number, code: string) => later(ms, () => new Browser().redeem(code))
    expect((await at(9 * MINUTE_MS, early)).status).toBe(200)
    expect((await at(10 * MINUTE_MS, late)).status).toBe(401)
  })

  test('of a user who is suspended or without a role meanwhile does not work, in the same words', async () => {
    const [suspended, left] = [await newPerson(issuer, 'viewer'), await newPerson(issuer, 'viewer')]
    const codes = [await newCode(userOf(suspended)), await newCode(userOf(left)), `psl_${'A'.repeat(43)}`, 'x']
    await admin('PATCH', org(`/users/${suspended.userId}`), { suspended: true })
    await admin('DELETE', org(`/users/${left.userId}/membership`))
    const said = await Promise.all(codes.map((code) => new Browser().redeem(code)))
    expect(new Set(said.map(({ status, body }) => `${status} ${body.error.message}`)).size).toBe(1)
    expect(said[0]?.status).toBe(401)
  })

  test('is made by the operator, and by who manages people for those below', async () => {
    const by = (person: Person, user: object) => admin('POST', '/sign-in-links', user, { token: person.token })
    expect((await by(manager, userOf(viewer))).status).toBe(201)
    expect((await by(manager, { user_id: viewer.userId })).status).toBe(201)
    expect((await by(manager, userOf(owner))).status).toBe(403)
    expect((await by(viewer, userOf(viewer))).status).toBe(403)
    expect((await by(manager, {})).status).toBe(400)
    const other = await newTenant()
    const theirs = await newPerson(await TestIssuer.register(other), 'viewer')
    expect((await by(manager, { org_id: other.orgId, user_id: theirs.userId })).status).toBe(404)
    expect((await by(manager, { user_id: theirs.userId })).status).toBe(404)
    expect((await admin('POST', '/sign-in-links', { user_id: viewer.userId })).status).toBe(400)
    expect((await admin('POST', '/sign-in-links', { org_id: tenant.orgId })).status).toBe(400)
  })

  test('is not made for a service, nor by an API key, whose restrictions a session would not have', async () => {
    const made = await admin('POST', org('/service-accounts'), { slug: newName('svc'), role: 'developer' })
    expect((await admin('POST', '/sign-in-links', { org_id: tenant.orgId, user_id: made.body.id })).status).toBe(409)
    const key = await admin('POST', org('/keys'), {
      project_id: tenant.projectId,
      name: 'k',
      routes: ['admin'],
      user_id: manager.userId,
    })
    const refused = await admin('POST', '/sign-in-links', userOf(viewer), { token: key.body.key })
    expect([refused.status, refused.body.error.code]).toEqual([403, 'permission_denied'])
  })

  test('of a user signs in whoever says that they are that user, and the operator without a question', async () => {
    const browser = new Browser()
    const code = await newCode(userOf(viewer))
    const asked = await browser.redeem(code, {})
    expect([asked.status, asked.body.error.code]).toEqual([409, 'conflict'])
    expect(asked.body.error.message).toContain(`${viewer.subject}@example.com`)
    expect(browser.jar.size).toBe(0)
    expect((await browser.redeem(code, { confirm: true })).status).toBe(200)
    // Nobody can give the operator's links away but the operator.
    expect((await new Browser().redeem(await newCode(), {})).status).toBe(200)
  })

  test('of somebody else does not take over a browser that is signed in, unless that is meant', async () => {
    const browser = await signedIn(userOf(viewer))
    for (const code of [await newCode(userOf(manager)), await newCode()]) {
      expect((await browser.redeem(code, {})).status).toBe(409)
      expect((await browser.session()).body.user_id).toBe(viewer.userId)
    }
    expect((await browser.redeem(await newCode(userOf(viewer)), {})).status).toBe(200)
    const before = browser.cookie
    expect((await browser.redeem(await newCode(userOf(manager)))).status).toBe(200)
    expect((await browser.session()).body.user_id).toBe(manager.userId)
    // The session before is over.
    const old = new Browser()
    old.jar.set('__Host-penstock-session', before ?? '')
    expect((await old.session()).status).toBe(401)
  })

  test('does not make more of its user than what the user was when it was made', async () => {
    const person = await newPerson(issuer, 'viewer')
    const browser = await signedIn(userOf(person))
    await admin('PUT', org(`/users/${person.userId}/membership`), { role: 'owner' })
    expect((await browser.session()).body.roles).toEqual(['owner', 'viewer'])
    expect((await browser.change('POST', org('/teams'), { slug: newName('team') })).status).toBe(403)
  })
})

describe('a session', () => {
  test('has a cookie that scripts cannot read, that no sibling host can plant, and that stays on https', async () => {
    const browser = await signedIn()
    const line = browser.setCookies.get('__Host-penstock-session') ?? ''
    expect(line.split('; ').slice(1).toSorted()).toEqual(
      ['HttpOnly', 'Max-Age=43200', 'Path=/', 'SameSite=Lax', 'Secure'].toSorted(),
    )
    expect(line).not.toMatch(/domain/i)
  })

  test('over plain http has a cookie of the port, which one over https is not taken for', async () => {
    const browser = new Browser({ origin: 'http://127.0.0.1:8787' })
    await browser.redeem(await newCode())
    expect([...browser.jar.keys()]).toEqual(['penstock-session-8787'])
    expect(browser.setCookies.get('penstock-session-8787')).not.toContain('Secure')
    const secure = new Browser()
    for (const name of ['penstock-session', 'penstock-session-8787']) {
      secure.jar.set(name, browser.jar.get('penstock-session-8787') ?? '')
    }
    expect((await secure.session()).status).toBe(401)
  })

  test('behind a proxy that ends TLS has the cookie of https', async () => {
    const browser = new Browser({ origin: 'http://gateway.test' })
    const headers = { 'x-forwarded-proto': 'https', origin: 'https://gateway.test' }
    const answer = await browser.send('POST', '/dashboard/session', { body: { code: await newCode() }, headers })
    expect(answer.headers.get('set-cookie')).toMatch(/^__Host-penstock-session=.*; Secure$/)
  })

  test('is not the one that somebody planted beside it: two cookies of one name are none', async () => {
    const [mine, theirs] = [await signedIn(), await signedIn(userOf(viewer))]
    const name = '__Host-penstock-session'
    const cookie = `${name}=${mine.cookie}; ${name}=${theirs.cookie}`
    expect((await new Browser().send('GET', '/admin/v1/session', { headers: { cookie } })).status).toBe(401)
  })

  test('is never one that the browser brought: signing in makes a new secret', async () => {
    const browser = new Browser()
    const planted = `pss_${'B'.repeat(43)}`
    browser.jar.set('__Host-penstock-session', planted)
    await browser.redeem(await newCode())
    expect(browser.cookie).not.toBe(planted)
    const before = browser.cookie
    await browser.redeem(await newCode())
    expect(browser.cookie).not.toBe(before)
    const old = new Browser()
    old.jar.set('__Host-penstock-session', before ?? '')
    expect((await old.session()).status).toBe(401)
  })

  test('stands nowhere in the database, and neither does a code', async () => {
    const code = await newCode()
    const browser = new Browser()
    await browser.redeem(code)
    const rows = await connect(env).run({ text: 'SELECT * FROM dashboard_sessions', params: [] })
    const links = await connect(env).run({ text: 'SELECT * FROM sign_in_links', params: [] })
    const audited = await connect(env).run({ text: "SELECT * FROM audit_log WHERE action LIKE 's%'", params: [] })
    const all = JSON.stringify([rows.rows, links.rows, audited.rows])
    expect(all).not.toContain(browser.cookie?.slice(4))
    expect(all).not.toContain(code.slice(4))
    expect(all).not.toContain((await browser.session()).body.csrf)
  })

  test('is over two hours after its last request', async () => {
    const browser = await signedIn()
    expect((await later(SESSION_IDLE_MS_MAX - MINUTE_MS, browser.session)).status).toBe(200)
    // That was a request.
    expect((await later(2 * SESSION_IDLE_MS_MAX - 3 * MINUTE_MS, browser.session)).status).toBe(200)
    expect((await later(3 * SESSION_IDLE_MS_MAX, browser.session)).status).toBe(401)
  })

  test('is over twelve hours after it began, however much it is used', async () => {
    const browser = await signedIn()
    for (let ms = 0; ms < SESSION_MS_MAX - MINUTE_MS; ms += 90 * MINUTE_MS) {
      expect((await later(ms, browser.session)).status).toBe(200)
    }
    expect((await later(SESSION_MS_MAX, browser.session)).status).toBe(401)
  })

  test.each<[string, (person: Person) => Promise<unknown>]>([
    ['suspended', ({ userId }) => admin('PATCH', org(`/users/${userId}`), { suspended: true })],
    ['without a role', ({ userId }) => admin('DELETE', org(`/users/${userId}/membership`))],
  ])('is over with the next request of a user who is %s', async (_, change) => {
    const person = await newPerson(issuer, 'developer')
    const browser = await signedIn(userOf(person))
    expect((await browser.session()).status).toBe(200)
    await change(person)
    const answer = await browser.session()
    expect([answer.status, answer.body.error.code]).toEqual([401, 'invalid_api_key'])
    // Let in again, one signs in again: the browser may be why one was kept out.
    await admin('PATCH', org(`/users/${person.userId}`), { suspended: false })
    await admin('PUT', org(`/users/${person.userId}/membership`), { role: 'developer' })
    expect((await browser.session()).status).toBe(401)
  })

  test('is over when ADMIN_TOKEN is another one', async () => {
    const browser = await signedIn()
    const rotated = new Browser({ env: { ...env, ADMIN_TOKEN: 'another-admin-token-of-more-than-32-characters' } })
    for (const [name, value] of browser.jar) rotated.jar.set(name, value)
    expect((await rotated.session()).status).toBe(401)
    expect((await browser.session()).status).toBe(200)
  })

  test('ends when it signs out, for this browser and for whoever copied the cookie', async () => {
    const browser = await signedIn(userOf(viewer))
    const copy = browser.cookie ?? ''
    const { csrf } = (await browser.session()).body
    const out = await browser.send('DELETE', '/dashboard/session', { headers: { 'x-penstock-csrf': csrf } })
    expect(out.status).toBe(200)
    expect(browser.jar.size).toBe(0)
    const thief = new Browser()
    thief.jar.set('__Host-penstock-session', copy)
    expect((await thief.session()).status).toBe(401)
    expect((await browser.send('DELETE', '/dashboard/session')).status).toBe(200)
  })

  test('leaves its marks in the audit log: link, beginning and end, with who did it', async () => {
    const person = await newPerson(issuer, 'viewer')
    const browser = await signedIn(userOf(person))
    const { csrf } = (await browser.session()).body
    await browser.send('DELETE', '/dashboard/session', { headers: { 'x-penstock-csrf': csrf } })
    const mine = `&actor=${person.userId}&org_id=${tenant.orgId}`
    expect(await audit('session.begin', mine)).toMatchObject([{ actor: 'member', details: { by: 'link' } }])
    expect(await audit('session.end', mine)).toMatchObject([{ actor: 'member', details: { how: 'sign_out' } }])
    const links = await audit('sign_in_link.create', `&org_id=${tenant.orgId}`)
    expect(links.find(({ details }) => (details as { user_id: string }).user_id === person.userId)).toMatchObject({
      actor: 'operator',
    })
  })

  test('is kept for the newest twenty browsers of a user', async () => {
    const person = await newPerson(issuer, 'viewer')
    const first = await signedIn(userOf(person))
    for (let count = 0; count < 20; count++) await signedIn(userOf(person))
    expect((await first.session()).status).toBe(401)
    const listed = await admin('GET', `/sessions?org=${tenant.orgId}&user_id=${person.userId}`)
    expect(listed.body.data).toHaveLength(20)
  })

  test('that ended by itself is deleted when another one begins', async () => {
    const browser = await signedIn()
    const count = async () => {
      const text = 'SELECT count(*) FROM dashboard_sessions WHERE expires_at < $1'
      const { rows } = await connect(env).run({ text, params: [new Date().toISOString()] })
      return Number(rows[0]?.[0])
    }
    const past = new Date(Date.now() - MINUTE_MS).toISOString()
    await connect(env).run({
      text: 'UPDATE dashboard_sessions SET expires_at = $1 WHERE session_id = $2',
      params: [past, await currentId(browser)],
    })
    expect(await count()).toBeGreaterThan(0)
    expect((await browser.session()).status).toBe(401)
    await signedIn()
    expect(await count()).toBe(0)
  })
})

describe('a change under a session', () => {
  const slug = () => ({ slug: newName('csrf') })
  const post = (browser: Browser, headers: Record<string, string | undefined>, raw?: string) =>
    browser.send('POST', '/admin/v1/organisations', { headers, ...(raw === undefined ? { body: slug() } : { raw }) })

  test('needs the token of the session and the origin of the gateway', async () => {
    const browser = await signedIn()
    const { csrf } = (await browser.session()).body
    const other = (await (await signedIn()).session()).body.csrf
    expect((await post(browser, { 'x-penstock-csrf': csrf })).status).toBe(201)
    for (const headers of [
      {},
      { 'x-penstock-csrf': '' },
      { 'x-penstock-csrf': other },
      { 'x-penstock-csrf': csrf, origin: undefined },
      { 'x-penstock-csrf': csrf, origin: 'null' },
      { 'x-penstock-csrf': csrf, origin: 'https://evil.test' },
      { 'x-penstock-csrf': csrf, origin: 'https://gateway.test.evil.test' },
      { 'x-penstock-csrf': csrf, origin: 'https://gateway.test:8443' },
      { 'x-penstock-csrf': csrf, origin: 'http://gateway.test' },
      { 'x-penstock-csrf': csrf, 'sec-fetch-site': 'same-site' },
    ]) {
      const answer = await post(browser, headers)
      expect([headers, answer.status < 300]).toEqual([headers, false])
    }
  })

  test('cannot be made by a form of another site, whatever it claims to send', async () => {
    const browser = await signedIn()
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', 'application/json']) {
      const headers = { 'content-type': type, origin: 'https://evil.test', 'sec-fetch-site': 'cross-site' }
      expect((await post(browser, headers, JSON.stringify(slug()))).status).toBeGreaterThanOrEqual(400)
      const form = await browser.send('POST', '/dashboard/session', { raw: '{"code":"x"}', headers })
      expect(form.status).toBe(403)
    }
  })

  test('is not needed for reading, which another site cannot make this browser do', async () => {
    const browser = await signedIn()
    const read = (headers: Record<string, string>) => browser.send('GET', '/admin/v1/organisations', { headers })
    expect((await read({ 'sec-fetch-site': 'same-origin' })).status).toBe(200)
    expect((await read({ 'sec-fetch-site': 'none' })).status).toBe(200)
    expect((await read({ 'sec-fetch-site': 'cross-site' })).status).toBe(401)
    expect((await read({ 'sec-fetch-site': 'same-site' })).status).toBe(401)
    expect((await read({})).headers.get('access-control-allow-origin')).toBeNull()
  })

  test('signs nobody out without the token', async () => {
    const browser = await signedIn()
    expect((await browser.send('DELETE', '/dashboard/session')).status).toBe(403)
    expect((await browser.session()).status).toBe(200)
  })

  test('with a credential beside the cookie counts as the credential’s alone', async () => {
    const browser = await signedIn()
    const headers = { authorization: `Bearer ${viewer.token}`, origin: undefined }
    expect((await browser.send('GET', '/admin/v1/session', { headers })).body.user_id).toBe(viewer.userId)
    expect((await post(browser, headers)).status).toBe(403)
    const wrong = { authorization: 'Bearer psk_nobody' }
    expect((await browser.send('GET', '/admin/v1/session', { headers: wrong })).status).toBe(401)
    expect((await browser.send('GET', '/admin/v1/session', { headers: { 'x-api-key': 'x' } })).status).toBe(401)
    // The operator's token needs no proof: no other site can make a browser send it.
    const token = { authorization: `Bearer ${env.ADMIN_TOKEN}`, origin: undefined }
    expect((await post(browser, token)).status).toBe(201)
  })
})

describe('what a session opens', () => {
  test('is not inference: routes that take a key take no cookie', async () => {
    const browser = await signedIn()
    const { csrf } = (await browser.session()).body
    for (const route of [...METERED_ROUTES.keys(), ...UNMETERED_ROUTES.keys()]) {
      const [method = '', path = ''] = route.split(' ')
      const headers = {
        cookie: `__Host-penstock-session=${browser.cookie}`,
        origin: browser.origin,
        'x-penstock-csrf': csrf,
        'content-type': 'application/json',
      }
      const body = method === 'POST' ? { body: '{}' } : {}
      const url = `${browser.origin}${path.replace(/:id(\{.*\})?/, 'x')}`
      const response = await app.request(url, { method, headers, ...body }, env, createExecutionContext())
      expect([route, response.status]).toEqual([route, 401])
    }
  })

  test('is kept by no cache', async () => {
    const browser = await signedIn()
    for (const path of ['/session', '/organisations', '/backends']) {
      expect((await browser.send('GET', `/admin/v1${path}`)).headers.get('cache-control')).toBe('no-store')
    }
  })

  test('is told the same way to every other credential, without a token for changes', async () => {
    const { body } = await admin('GET', '/session', undefined, { token: viewer.token })
    expect(body).toMatchObject({ kind: 'member', user_id: viewer.userId, roles: ['viewer', 'owner'] })
    expect(body).not.toHaveProperty('csrf')
    expect((await admin('GET', '/session')).body).toMatchObject({ kind: 'operator', roles: [] })
  })
})

describe('the list of sessions', () => {
  test('shows a member its own, whoever manages people those of the organisation, the operator all', async () => {
    const [mine, theirs] = [await signedIn(userOf(viewer)), await signedIn(userOf(manager))]
    const own = (await mine.send('GET', '/admin/v1/sessions')).body.data
    expect(new Set(own.map((one: Json) => one.user_id))).toEqual(new Set([viewer.userId]))
    expect(own.filter((one: Json) => one.current)).toHaveLength(1)
    const denied = await mine.send('GET', `/admin/v1/sessions?user_id=${manager.userId}`)
    expect(denied.status).toBe(403)
    const managed = (await theirs.send('GET', '/admin/v1/sessions?limit=200')).body.data
    expect(managed.some((one: Json) => one.user_id === viewer.userId)).toBe(true)
    expect(managed.every((one: Json) => one.org_id === tenant.orgId)).toBe(true)
    const all = (await admin('GET', '/sessions?limit=200')).body.data
    expect(all.some((one: Json) => one.kind === 'operator')).toBe(true)
    expect(JSON.stringify(all)).not.toMatch(/pss_|hash/)
  })

  test('lets end what the caller may end, at once', async () => {
    const [mine, second, boss] = [
      await signedIn(userOf(viewer)),
      await signedIn(userOf(viewer)),
      await signedIn(userOf(owner)),
    ]
    const bossId = await currentId(boss)
    expect((await mine.change('DELETE', `/sessions/${bossId}`)).status).toBe(404)
    const chief = await signedIn(userOf(manager))
    expect((await chief.change('DELETE', `/sessions/${bossId}`)).status).toBe(403)
    expect((await mine.change('DELETE', `/sessions/${await currentId(second)}`)).status).toBe(200)
    expect((await second.session()).status).toBe(401)
    expect((await chief.change('DELETE', `/sessions/${await currentId(mine)}`)).status).toBe(200)
    expect((await mine.session()).status).toBe(401)
    const other = await newTenant()
    const theirs = await newPerson(await TestIssuer.register(other), 'owner')
    const foreign = await signedIn({ org_id: other.orgId, user_id: theirs.userId })
    expect((await foreign.change('DELETE', `/sessions/${bossId}`)).status).toBe(404)
    expect((await admin('DELETE', `/sessions/${bossId}`)).status).toBe(200)
    expect((await boss.session()).status).toBe(401)
  })
})
