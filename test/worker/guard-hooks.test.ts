// Webhooks as content rules: what they are told, how it is signed, what their verdicts do and what happens without one. And the
// admin API of content rules.
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { admin, type Json, newName } from './support/admin.ts'
import { Guarded, user } from './support/guarded.ts'
import { type Host, World } from './support/path.ts'
import { newPerson, TestIssuer } from './support/people.ts'

const guarded = new Guarded()

beforeAll(() => guarded.open())
beforeEach(() => guarded.begin())

describe('a webhook', () => {
  const SECRET = 'a-secret-of-the-webhook'
  let host: string
  const webhook = (more: Record<string, unknown> = {}) => ({
    kind: 'webhook',
    stages: ['input'],
    url: `https://${host}/check`,
    on_failure: 'closed',
    timeout_ms: 2_000,
    secret: SECRET,
    ...more,
  })
  const judge = (verdict: (body: Json) => unknown): Host => {
    return async (request) => Response.json(verdict(await request.json()))
  }
  const asked = () => guarded.world.calls.filter((call) => call.host === host)

  beforeEach(() => {
    host = `${newName('judge')}.example.com`
  })
  afterEach(() => {
    guarded.world.hosts.delete(host)
  })

  test('sees the texts, signed, and may mask them', async () => {
    await guarded.rules(webhook())
    guarded.world.hosts.set(
      host,
      judge((body) => ({ action: 'mask', texts: body.texts.map(() => 'masked') })),
    )
    expect((await guarded.ask(user('private'))).status).toBe(200)
    expect(guarded.sent()).toEqual([['masked']])
    const [call] = asked()
    expect(call?.body).toMatchObject({
      version: 1,
      stage: 'input',
      org_id: guarded.orgId,
      project_id: guarded.world.tenant?.projectId,
      model: guarded.world.model,
      texts: [{ role: 'user', text: 'private' }],
    })
    const [, seconds = '', signature = ''] =
      /^t=(\d+),v1=([0-9a-f]{64})$/.exec(call?.headers.get('x-penstock-signature') ?? '') ?? []
    expect(Math.abs(Date.now() / 1000 - Number(seconds))).toBeLessThan(60)
    const hmac = { name: 'HMAC', hash: 'SHA-256' }
    const encoder = new TextEncoder()
    const key = await crypto.subtle.importKey('raw', encoder.encode(SECRET), hmac, false, ['verify'])
    const bytes = Uint8Array.from(signature.match(/../g) ?? [], (hex) => Number.parseInt(hex, 16))
    const text = encoder.encode(`${seconds}.${JSON.stringify(call?.body)}`)
    expect(await crypto.subtle.verify('HMAC', key, bytes, text)).toBe(true)
  })

  test('may block, with words of its own', async () => {
    await guarded.rules(webhook())
    guarded.world.hosts.set(
      host,
      judge(() => ({ action: 'block', message: 'Not\ntoday.' })),
    )
    const { status, error } = await guarded.ask()
    expect([status, error.code, error.message]).toEqual([400, 'content_filter', 'Not today.'])
    expect(guarded.upstream()).toHaveLength(0)
  })

  test('judges an answer as a whole: nothing of it goes out before', async () => {
    await guarded.rules(webhook({ stages: ['output'] }))
    guarded.said = ['one ', 'two']
    let sentBefore: string | undefined
    guarded.world.hosts.set(
      host,
      judge((body) => {
        sentBefore = JSON.stringify(body.texts)
        return { action: 'mask', texts: ['three'] }
      }),
    )
    const { text, done } = await guarded.ask({ stream: true })
    expect([sentBefore, text, done]).toEqual(['[{"role":"assistant","text":"one two"}]', 'three', true])
    guarded.world.hosts.set(
      host,
      judge(() => ({ action: 'block' })),
    )
    const blocked = await guarded.ask({ stream: true })
    expect([blocked.status, blocked.error.code]).toEqual([400, 'content_filter'])
    expect(asked()).toHaveLength(2)
  })

  const redirect: Host = () => new Response(null, { status: 302, headers: { location: 'http://169.254.169.254/' } })
  test.each<[string, Host]>([
    ['silent', () => new Promise<Response>(() => {})],
    ['broken', () => new Response('no', { status: 500 })],
    ['a redirect', redirect],
    ['not JSON', () => new Response('allow')],
    ['not a verdict', () => Response.json({ action: 'perhaps' })],
    ['of another number of texts', () => Response.json({ action: 'mask', texts: [] })],
    ['too long', () => Response.json({ action: 'block', message: 'x'.repeat(5 * 1024 * 1024) })],
  ])('whose answer is %s: closed refuses and open goes on', async (_, answer) => {
    guarded.world.hosts.set(host, answer)
    await guarded.rules(webhook({ timeout_ms: 50 }))
    const { status, error, headers } = await guarded.ask()
    expect([status, error.code, headers.get('retry-after')]).toEqual([503, 'unavailable', '1'])
    expect(guarded.upstream()).toHaveLength(0)
    await guarded.rules(webhook({ timeout_ms: 50, on_failure: 'open' }))
    expect((await guarded.ask()).status).toBe(200)
    // Neither was the redirect followed.
    expect(new Set(guarded.world.calls.map((call) => call.host))).toEqual(new Set([host, guarded.vendorHost]))
  })

  test('has no more time than all of the request have together', async () => {
    const hurried = new World({ hooksMs: 300 })
    Object.assign(hurried, { hosts: guarded.world.hosts, model: guarded.world.model, tenant: guarded.world.tenant })
    guarded.world.hosts.set(host, () => new Promise<Response>(() => {}))
    await guarded.rules(webhook({ on_failure: 'open' }), webhook({ on_failure: 'open' }))
    const { response, settled } = await hurried.chat()
    expect(response.status).toBe(200)
    await settled()
    // The second one was not asked any more.
    expect(hurried.calls.filter((call) => call.host === host)).toHaveLength(1)
  })
})

describe('the admin API', () => {
  const refusedHook = async (hook: Record<string, unknown>) => {
    const answer = await guarded.put('guard-hooks', { hooks: [{ name: 'x', stages: ['input'], ...hook }] })
    return [answer.status, answer.body.error.param]
  }

  test('takes no rule that cannot be run', async () => {
    const regex = { kind: 'regex', action: 'mask' }
    expect(await refusedHook({ ...regex, patterns: ['(a{1,9}){1,9}b'] })).toEqual([400, 'hooks[0].patterns[0]'])
    expect(await refusedHook({ ...regex, patterns: ['a', 'b+'] })).toEqual([400, 'hooks[0].patterns[1]'])
    expect(await refusedHook({ ...regex, patterns: ['a'], replacement: '"' })).toEqual([400, 'hooks[0].replacement'])
    expect(await refusedHook({ kind: 'pii', action: 'mask', entities: ['name'] })).toEqual([
      400,
      'hooks[0].entities[0]',
    ])
    expect(
      await refusedHook({ kind: 'pii', action: 'mask', entities: ['email'], project_id: crypto.randomUUID() }),
    ).toEqual([400, 'hooks[0].project_id'])
    const webhook = { kind: 'webhook', url: 'https://judge.example.com', on_failure: 'open', secret: 'x'.repeat(16) }
    expect(await refusedHook({ ...webhook, url: 'https://10.0.0.1/' })).toEqual([400, 'hooks[0].url'])
    expect(await refusedHook({ ...webhook, url: 'http://judge.example.com/' })).toEqual([400, 'hooks[0].url'])
    expect(await refusedHook({ ...webhook, secret: undefined })).toEqual([400, 'hooks[0].secret'])
    expect(await refusedHook({ ...webhook, timeout_ms: 5_000 })).toEqual([400, 'hooks[0].timeout_ms'])
    expect((await admin('GET', `/organisations/${guarded.orgId}/guard-hooks`)).body).toEqual({ hooks: [] })
  })

  test('replaces whole sets, also where two come at once: one of them is in force then', async () => {
    const hook = (name: string) => ({ name, kind: 'pii', stages: ['input'], entities: ['email'], action: 'mask' })
    const sets = ['a', 'b', 'c', 'd'].map((letter) => [hook(`${letter}1`), hook(`${letter}2`)])
    const answers = await Promise.all(sets.map((hooks) => guarded.put('guard-hooks', { hooks })))
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200])
    const { hooks } = (await admin('GET', `/organisations/${guarded.orgId}/guard-hooks`)).body
    expect(sets.map((set) => set.map(({ name }) => name))).toContainEqual(hooks.map((one: Json) => one.name))
    await guarded.put('tool-capabilities', { untagged: 'all', tools: [] })
    await guarded.put('guard-hooks', { hooks: [] })
    expect((await admin('GET', `/organisations/${guarded.orgId}/tool-capabilities`)).body.untagged).toBe('all')
  })

  test('never shows a secret, keeps it while the host stays, and writes down every change', async () => {
    const secret = `canary-${crypto.randomUUID()}`
    const hook = { kind: 'webhook', stages: ['input'], url: 'https://judge.example.com/a', on_failure: 'open' }
    const [made] = await guarded.rules({ ...hook, secret })
    const [moved] = await guarded.rules({ ...hook, url: 'https://judge.example.com/b' })
    expect(moved.id).toBe(made.id)
    const elsewhere = await guarded.put('guard-hooks', {
      hooks: [{ ...hook, name: 'rule-0', url: 'https://other.example.com' }],
    })
    expect([elsewhere.status, elsewhere.body.error.param]).toEqual([400, 'hooks[0].secret'])
    const shown = await admin('GET', `/organisations/${guarded.orgId}/guard-hooks`)
    const acts = await admin('GET', `/audit?org_id=${guarded.orgId}&action=guard_hooks.replace`)
    expect(acts.body.data).toHaveLength(2)
    expect(shown.text + acts.text).not.toMatch(/canary|ciphertext/)
  })

  test("lets an organisation's own administrators write rules, and the operator alone say where a webhook goes", async () => {
    const issuer = await TestIssuer.register(await guarded.world.ownTenant())
    const { token } = await newPerson(issuer, 'admin')
    const { token: viewer } = await newPerson(issuer, 'viewer')
    const path = `/organisations/${guarded.orgId}/guard-hooks`
    const pii = { name: 'p', kind: 'pii', stages: ['input'], entities: ['email'], action: 'mask' }
    const hook = {
      name: 'w',
      kind: 'webhook',
      stages: ['input'],
      url: 'https://judge.example.com',
      on_failure: 'open',
      secret: 'x'.repeat(16),
    }
    const by = async (who: string, ...hooks: object[]) => (await admin('PUT', path, { hooks }, { token: who })).status
    expect([await by(viewer, pii), await by(token, pii), await by(token, pii, hook)]).toEqual([403, 200, 403])
    expect((await admin('PUT', path, { hooks: [hook] })).status).toBe(200)
    expect([
      await by(token, { ...hook, on_failure: 'closed' }),
      await by(token, { ...hook, url: 'https://mine.example.com' }),
    ]).toEqual([200, 403])
  })
})
