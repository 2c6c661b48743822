// Signing in with an issuer, against one that is as strict as its specifications: the whole way, and every way in which
// somebody could try to come in by it.
import { env } from 'cloudflare:test'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { forgetEndpoints } from '../../gateway/dashboard/oidc-client.ts'
import { connect } from '../../gateway/db/connect.ts'
import type { Fetch } from '../../gateway/policy/reach.ts'
import { admin, type Json, newName, newTenant, type Tenant } from './support/admin.ts'
import { Browser, newCode } from './support/browser.ts'
import { FakeIssuer } from './support/fake-issuer.ts'
import { newPerson, type Person, TestIssuer } from './support/people.ts'

const SECRET = 'a secret: with %2B, + and "quotes"'

type World = { tenant: Tenant; fake: FakeIssuer; issuer: TestIssuer; client: Json; alice: Person; browser: Browser }
let world: World

/** An organisation whose people sign in with an issuer of their own. */
async function newWorld(fields: Record<string, unknown> = {}, client: Record<string, unknown> = {}): Promise<World> {
  const tenant = await newTenant()
  const secret = 'client_secret' in client ? client.client_secret : SECRET
  const fake = new FakeIssuer(newName('idp'), {
    id: 'penstock-dashboard',
    ...(secret ? { secret: String(secret) } : {}),
  })
  const issuer = await TestIssuer.register(tenant, {
    name: 'Acme',
    issuer: fake.issuer,
    audience: fake.clientId,
    jwks_uri: `${fake.issuer}/keys`,
    max_role: 'admin',
    ...fields,
  })
  const path = `/organisations/${tenant.orgId}/issuers/${issuer.issuerId}/sign-in-client`
  const made = await admin('PUT', path, { client_secret: secret, ...client })
  if (made.status !== 201) throw new Error(`no client was made: ${made.text}`)
  const alice = await newPerson(issuer, 'owner')
  return { tenant, fake, issuer, client: made.body, alice, browser: new Browser({ fetch: fake.fetch }) }
}

beforeEach(async () => {
  forgetEndpoints()
  world = await newWorld()
})

const start = (browser: Browser, id: string, query = '') => browser.send('GET', `/dashboard/oidc/${id}/start${query}`)
/** To the issuer and back, as far as the browser goes by itself. */
async function wayBack({ browser, client, fake, alice }: World = world, query = ''): Promise<URL> {
  const answer = await start(browser, client.id, query)
  if (answer.status !== 302) throw new Error(`not sent to the issuer: ${answer.text}`)
  return fake.authorise(answer.headers.get('location') ?? '', alice.subject)
}
const finish = (browser: Browser, back: URL) => browser.send('GET', `${back.pathname}${back.search}`)
const isSignedIn = async (browser: Browser) => (await browser.session()).status === 200

describe('signing in with an issuer', () => {
  test('leads back to where one was, as the user that the issuer names, bounded by what the issuer may give', async () => {
    const back = await wayBack(world, '?return_to=%2Fdashboard%2Fkeys%3Fsort%3Dname')
    const answer = await finish(world.browser, back)
    expect([answer.status, answer.headers.get('location')]).toEqual([303, '/dashboard/keys?sort=name'])
    expect((await world.browser.session()).body).toMatchObject({
      kind: 'member',
      org_id: world.tenant.orgId,
      user_id: world.alice.userId,
      roles: ['owner', 'admin'],
    })
    expect([...world.browser.jar.keys()]).toEqual(['__Host-penstock-session'])
    const audit = await admin('GET', `/audit?action=session.begin&org_id=${world.tenant.orgId}`)
    expect(audit.body.data).toMatchObject([
      { user_id: world.alice.userId, details: { by: 'issuer', issuer_id: world.issuer.issuerId } },
    ])
  })

  test.each<[string, Record<string, unknown>, string[] | undefined]>([
    ['a secret in the header', {}, undefined],
    ['a secret in the form, where the issuer wants it there', {}, ['client_secret_post']],
    ['no secret, by the proof of PKCE alone', { client_secret: null }, undefined],
  ])('works with %s', async (_, client, methods) => {
    const other = await newWorld({}, client)
    other.fake.authMethods = methods
    expect((await finish(other.browser, await wayBack(other))).status).toBe(303)
    expect(await isSignedIn(other.browser)).toBe(true)
  })

  test('narrows the session by a claim of a role', async () => {
    const other = await newWorld({ role_claim: 'penstock_role' })
    other.fake.claims = { penstock_role: 'viewer' }
    await finish(other.browser, await wayBack(other))
    expect((await other.browser.session()).body.roles).toEqual(['owner', 'admin', 'viewer'])
  })

  test('asks the issuer for its endpoints once in a while', async () => {
    await wayBack()
    await wayBack()
    expect(world.fake.requests.filter((one) => one.includes('openid-configuration'))).toHaveLength(1)
  })

  test.each([
    'https://evil.test/',
    '//evil.test/dashboard/',
    '/\\evil.test/dashboard/',
    '/dashboard/..//evil.test',
    '/dashboard/../admin/v1/session',
    'javascript:alert(1)',
    '/dashboard/oidc/x/start',
    `/dashboard/${'x'.repeat(2_000)}`,
  ])('never leads to %s afterwards', async (target) => {
    const answer = await finish(world.browser, await wayBack(world, `?return_to=${encodeURIComponent(target)}`))
    expect(answer.headers.get('location')).toBe('/dashboard/')
  })

  test('is not begun by another site: people are asked first, on a page of ours', async () => {
    for (const site of ['cross-site', 'same-site']) {
      const headers = { 'sec-fetch-site': site }
      const path = `/dashboard/oidc/${world.client.id}/start?return_to=%2Fdashboard%2Fkeys`
      const asked = await world.browser.send('GET', path, { headers })
      expect([asked.status, asked.headers.get('location'), world.browser.jar.size]).toEqual([200, null, 0])
      expect(asked.text).toContain(`href="${path}"`)
      expect(asked.text).toContain(world.fake.issuer)
    }
    const headers = { 'sec-fetch-site': 'same-origin' }
    expect((await world.browser.send('GET', `/dashboard/oidc/${world.client.id}/start`, { headers })).status).toBe(302)
  })

  test('leaves no code, state, secret or cookie in the log', async () => {
    const said = vi.spyOn(console, 'log').mockImplementation(() => {})
    const [good, bad] = [
      await wayBack(),
      await wayBack({ ...world, browser: new Browser({ fetch: world.fake.fetch }) }),
    ]
    await finish(new Browser({ fetch: world.fake.fetch }), bad)
    await finish(world.browser, bad)
    await start(world.browser, world.client.id)
    await finish(world.browser, good)
    const lines = said.mock.calls.flat().join('\n')
    said.mockRestore()
    expect(lines).toContain('sign_in_failed')
    const secrets = [good, bad].flatMap((back) => ['code', 'state'].map((name) => back.searchParams.get(name) ?? ''))
    for (const secret of [...secrets, SECRET, ...world.browser.jar.values()]) expect(lines).not.toContain(secret)
  })

  test('replaces whoever was signed in with this browser', async () => {
    await world.browser.redeem(await newCode())
    const before = world.browser.cookie ?? ''
    await finish(world.browser, await wayBack())
    expect((await world.browser.session()).body.user_id).toBe(world.alice.userId)
    const old = new Browser()
    old.jar.set('__Host-penstock-session', before)
    expect(await isSignedIn(old)).toBe(false)
  })
})

describe('nobody is signed in', () => {
  /** A page that says what to do, no session, and nothing of the attempt left. */
  async function refused(browser: Browser, back: URL, word: RegExp | string, status?: number) {
    const answer = await finish(browser, back)
    expect(answer.status).toBe(status ?? answer.status)
    expect(answer.status).toBeGreaterThanOrEqual(400)
    expect(answer.headers.get('content-type')).toContain('text/html')
    expect(answer.headers.get('content-security-policy')).toContain("default-src 'self'")
    expect(answer.text).toMatch(word)
    expect(answer.text).toContain('href="/dashboard/sign-in"')
    expect([...browser.jar.keys()]).toEqual([])
  }
  const altered = (back: URL, change: Record<string, string>) => {
    for (const [name, value] of Object.entries(change)) back.searchParams.set(name, value)
    return back
  }

  test('with another state', async () => {
    await refused(world.browser, altered(await wayBack(), { state: 'x'.repeat(43) }), 'not begun in this browser', 400)
  })

  test('in another browser than the one that began: nobody is lured into a foreign account', async () => {
    await refused(new Browser({ fetch: world.fake.fetch }), await wayBack(), 'not begun in this browser', 400)
    const victim = new Browser({ fetch: world.fake.fetch })
    await start(victim, world.client.id)
    await refused(victim, await wayBack(), 'not begun in this browser', 400)
  })

  test('with a cookie of one’s own making', async () => {
    const back = await wayBack()
    for (const value of ['x', 'v1.AAAA', `${[...world.browser.jar.values()][0]}A`]) {
      world.browser.jar.set('__Host-penstock-oidc', value)
      await refused(world.browser, new URL(back), 'not begun in this browser', 400)
    }
  })

  test('after more than ten minutes', async () => {
    const back = await wayBack()
    vi.useFakeTimers({ now: Date.now() + 600_000, toFake: ['Date'] })
    await refused(world.browser, back, 'not begun in this browser', 400).finally(() => vi.useRealTimers())
  })

  test('with a code that was used', async () => {
    const back = await wayBack()
    const kept = new Map(world.browser.jar)
    expect((await finish(world.browser, back)).status).toBe(303)
    const again = new Browser({ fetch: world.fake.fetch })
    await refused(again, back, 'not begun in this browser', 400)
    for (const [name, value] of kept) again.jar.set(name, value)
    await refused(again, back, 'invalid_grant', 502)
  })

  test('with the code of another sign-in, for which this one has no verifier', async () => {
    const [mine, theirs] = [
      await wayBack(),
      await wayBack({ ...world, browser: new Browser({ fetch: world.fake.fetch }) }),
    ]
    await refused(world.browser, altered(mine, { code: theirs.searchParams.get('code') ?? '' }), 'invalid_grant', 502)
  })

  test('with an answer of another issuer', async () => {
    await refused(world.browser, altered(await wayBack(), { iss: 'https://other.example.com' }), 'not begun', 400)
  })

  test.each<[string, Record<string, unknown>, RegExp]>([
    ['nonce of another sign-in', { nonce: 'x' }, /not of this sign-in/],
    ['no nonce', { nonce: undefined }, /not of this sign-in/],
    ['another audience', { aud: 'another-client' }, /not registered/],
    ['a foreign authorised party', { azp: 'another-client' }, /not of this sign-in/],
    ['an expiry that is past', { exp: 1_000 }, /expired/],
    ['no expiry', { exp: undefined }, /exp/],
    ['another issuer', { iss: 'https://other.example.com' }, /not registered/],
    ['a subject that nobody registered', { sub: 'mallory' }, /under the subject mallory/],
  ])('by an ID token with %s', async (_, claims, words) => {
    world.fake.claims = claims
    await refused(world.browser, await wayBack(), words, 403)
  })

  test('by an ID token that another key signed', async () => {
    world.fake.signer = 'stranger'
    await refused(world.browser, await wayBack(), /signature does not fit/, 403)
  })

  test('by an ID token of another issuer of the same gateway, however good it is there', async () => {
    const other = await newWorld()
    const both: Fetch = (url, ...rest) => (url.startsWith(other.fake.issuer) ? other : world).fake.fetch(url, ...rest)
    const browser = new Browser({ fetch: both })
    world.fake.claims = { iss: other.fake.issuer, sub: other.alice.subject }
    await refused(browser, await wayBack({ ...world, browser }), /not of this sign-in/, 403)
  })

  test('with an address that the issuer has not verified, where addresses are the subjects', async () => {
    const other = await newWorld({ subject_claim: 'email' })
    other.fake.claims = { email: other.alice.subject, email_verified: false }
    await refused(other.browser, await wayBack(other), /not verified your e-mail/, 403)
    other.fake.claims = { email: other.alice.subject, email_verified: true }
    expect((await finish(other.browser, await wayBack(other))).status).toBe(303)
  })

  test('who is suspended', async () => {
    const alice = await newPerson(world.issuer, 'viewer')
    const back = await wayBack({ ...world, alice })
    await admin('PATCH', `/organisations/${world.tenant.orgId}/users/${alice.userId}`, { suspended: true })
    await refused(world.browser, back, /no active user/, 403)
  })

  test('who says no at the issuer, and words of others are shown as text', async () => {
    const no = altered(await wayBack(), { error: 'access_denied', error_description: '<script>alert(1)</script>' })
    await refused(world.browser, no, 'you said no there', 403)
    await refused(world.browser, altered(await wayBack(), { error: '<b>x</b>' }), 'unknown_error', 403)
    world.fake.claims = { sub: '<img src=x>' }
    await refused(world.browser, await wayBack(), /subject &lt;img src=x&gt;/, 403)
  })

  test.each<[string, () => Response, RegExp]>([
    ['fails', () => new Response('no', { status: 500 }), /code/],
    ['redirects', () => new Response(null, { status: 302, headers: { location: 'http://10.0.0.1/' } }), /code/],
    ['answers at length', () => new Response(`"${'x'.repeat(200_000)}"`), /code/],
    ['answers without a token', () => Response.json({ access_token: 'x' }), /without an ID token/],
    ['answers markup', () => Response.json({ error: '<b>' }, { status: 400 }), /&lt;b&gt;/],
  ])('where the token endpoint %s', async (_, answer, words) => {
    world.fake.answers.set('/token', answer)
    await refused(world.browser, await wayBack(), words, 502)
  })
})

describe('an issuer', () => {
  test.each<[string, (fake: FakeIssuer) => Response]>([
    ['does not answer', () => new Response('', { status: 503 })],
    ['is somebody else', (fake) => Response.json({ ...fake.metadata(), issuer: 'https://evil.example.com' })],
    [
      'names a token endpoint inside',
      (fake) => Response.json({ ...fake.metadata(), token_endpoint: 'http://10.0.0.1/t' }),
    ],
    [
      'sends browsers to a script',
      (fake) => Response.json({ ...fake.metadata(), authorization_endpoint: 'javascript:alert(1)' }),
    ],
  ])('that %s gets nobody sent to it, and is asked again after a while', async (_, answer) => {
    world.fake.answers.set('/.well-known/openid-configuration', () => answer(world.fake))
    for (let count = 0; count < 3; count++) {
      const page = await start(world.browser, world.client.id)
      expect([page.status, page.headers.get('location')]).toEqual([502, null])
      expect(page.text).toContain('does not answer')
    }
    expect(world.fake.requests).toHaveLength(1)
    world.fake.answers.clear()
    vi.useFakeTimers({ now: Date.now() + 10_000, toFake: ['Date'] })
    const answered = await start(world.browser, world.client.id).finally(() => vi.useRealTimers())
    expect(answered.status).toBe(302)
  })

  test('that nobody registered leads to a page', async () => {
    for (const id of [crypto.randomUUID(), 'x', world.issuer.issuerId]) {
      expect((await start(world.browser, id)).status).toBe(404)
    }
  })

  test('ends its sessions when it is deleted, and when it names its user otherwise', async () => {
    await finish(world.browser, await wayBack())
    const user = `/organisations/${world.tenant.orgId}/users/${world.alice.userId}`
    await admin('PATCH', user, { issuer_id: world.issuer.issuerId, subject: 'other' })
    expect(await isSignedIn(world.browser)).toBe(false)
    await admin('PATCH', user, { issuer_id: world.issuer.issuerId, subject: world.alice.subject })
    expect(await isSignedIn(world.browser)).toBe(true)
    await admin('DELETE', `/organisations/${world.tenant.orgId}/issuers/${world.issuer.issuerId}`)
    expect(await isSignedIn(world.browser)).toBe(false)
    expect((await start(world.browser, world.client.id)).status).toBe(404)
  })

  test('that may give less from now on gives less to the sessions that are there', async () => {
    await finish(world.browser, await wayBack())
    await admin('PATCH', `/organisations/${world.tenant.orgId}/issuers/${world.issuer.issuerId}`, {
      max_role: 'viewer',
    })
    expect((await world.browser.session()).body.roles).toEqual(['owner', 'admin', 'viewer'])
  })
})

describe('the sign-in page', () => {
  const options = async (query: string) => (await new Browser().send('GET', `/dashboard/sign-in/options${query}`)).body

  test('is told the issuers of the organisation that one names, and nothing of others', async () => {
    const organisation = (await admin('GET', `/organisations/${world.tenant.orgId}`)).body
    expect(await options(`?org=${organisation.slug}`)).toEqual({ issuers: [{ id: world.client.id, name: 'Acme' }] })
    expect(await options('?org=nobody')).toEqual({ issuers: [] })
    expect(JSON.stringify(await options(''))).not.toContain(world.client.id)
  })

  test('is told to everybody what the operator lists, and nobody else may list', async () => {
    const path = `/organisations/${world.tenant.orgId}/issuers/${world.issuer.issuerId}/sign-in-client`
    const boss = await TestIssuer.register(world.tenant)
    const { token } = await newPerson(boss, 'owner')
    expect((await admin('PUT', path, { listed: true }, { token })).status).toBe(403)
    expect((await admin('PUT', path, { listed: true })).status).toBe(200)
    expect((await options('')).issuers).toContainEqual({ id: world.client.id, name: 'Acme' })
    await admin('PUT', path, { listed: false })
  })
})

describe('a sign-in client', () => {
  const path = () => `/organisations/${world.tenant.orgId}/issuers/${world.issuer.issuerId}/sign-in-client`

  test('keeps its secret to itself: sealed in the database, shown to nobody', async () => {
    const shown = await admin('GET', path())
    expect(shown.body).toMatchObject({
      client_id: world.fake.clientId,
      has_secret: true,
      scopes: 'openid email profile',
    })
    const { rows } = await connect(env).run({ text: 'SELECT * FROM sign_in_clients', params: [] })
    const audited = (await admin('GET', `/audit?action=sign_in_client.put&org_id=${world.tenant.orgId}`)).text
    expect(JSON.stringify(rows) + audited + shown.text).not.toContain(SECRET)
    await admin('PUT', path(), { scopes: 'openid' })
    expect((await admin('GET', path())).body).toMatchObject({ has_secret: true, scopes: 'openid' })
    await admin('PUT', path(), { client_secret: null })
    expect((await admin('GET', path())).body).toMatchObject({ has_secret: false, scopes: 'openid' })
  })

  test.each<[Record<string, unknown>, string]>([
    [{ scopes: 'email' }, 'scopes'],
    [{ scopes: 'openid  email' }, 'scopes'],
    [{ client_secret: 'line\nbreak' }, 'client_secret'],
    [{ client_id: 'x' }, 'client_id'],
  ])('with %j is refused', async (input, param) => {
    const answer = await admin('PUT', path(), input)
    expect([answer.status, answer.body.error.param]).toEqual([400, param])
  })

  test('is registered by whoever may register issuers, for people, and not with a key', async () => {
    const services = await TestIssuer.register(world.tenant, { service: true })
    const ofServices = `/organisations/${world.tenant.orgId}/issuers/${services.issuerId}/sign-in-client`
    expect((await admin('PUT', ofServices, {})).status).toBe(400)
    const boss = await TestIssuer.register(world.tenant)
    const manager = await newPerson(boss, 'admin')
    expect((await admin('PUT', path(), {}, { token: manager.token })).status).toBe(200)
    const key = await admin('POST', `/organisations/${world.tenant.orgId}/keys`, {
      project_id: world.tenant.projectId,
      name: 'k',
      routes: ['admin'],
      user_id: manager.userId,
    })
    expect((await admin('PUT', path(), {}, { token: key.body.key })).status).toBe(403)
    expect((await admin('DELETE', path(), undefined, { token: manager.token })).status).toBe(200)
    expect((await admin('GET', path())).status).toBe(404)
    expect((await start(world.browser, world.client.id)).status).toBe(404)
  })
})
