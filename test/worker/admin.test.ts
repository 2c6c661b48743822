// The admin API in workerd with the real migrations: who gets in, what it takes, what it answers, what it records.
import { env } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { admin, type Json, newName, newTenant, withoutDatabase } from './support/admin.ts'

const NIL = '00000000-0000-4000-8000-000000000000'
const errorOf = ({ status, body }: { status: number; body: Json }) => [status, body?.error?.param]

describe('the guard', () => {
  test.each([
    ['no token', undefined],
    ['an empty token', ''],
    ['another token of the same length', 'x'.repeat(43)],
    ['the token with one character changed', 'test-admin-token-of-more-than-32-characterS'],
    ['a prefix of the token', 'test-admin-token-of-more-than-32-character'],
  ])('refuses %s on every route, known or not', async (_, token) => {
    for (const path of ['/organisations', '/audit', '/usage', '/backends', '/nothing-here', '/models/a/b']) {
      const answer = await admin('GET', path, undefined, { token })
      expect(answer.status).toBe(401)
      expect(answer.text).not.toContain(env.ADMIN_TOKEN)
    }
  })

  test('stays shut while ADMIN_TOKEN is too short to be a secret, even for who knows it', async () => {
    for (const weak of ['', 'short', 'x'.repeat(31)]) {
      const answer = await admin('GET', '/organisations', undefined, {
        token: weak,
        env: { ...env, ADMIN_TOKEN: weak },
      })
      expect(answer.status).toBe(503)
    }
  })

  test('lets no other origin in: no CORS header on any answer', async () => {
    for (const method of ['GET', 'OPTIONS']) {
      const { headers } = await admin(method, '/organisations')
      expect([...headers.keys()].filter((name) => name.startsWith('access-control'))).toEqual([])
    }
  })

  test('puts the request id on answers and errors', async () => {
    expect((await admin('GET', '/organisations')).headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
    expect((await admin('GET', '/nothing')).headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
  })
})

describe('values that Postgres has no place for', () => {
  const cursor = (...position: string[]) => btoa(JSON.stringify(position)).replaceAll('=', '')

  test.each([
    ['NUL in a filter', 'GET', `/usage?org=${NIL}&model=%00`, undefined],
    ['NUL in a cursor', 'GET', `/models?cursor=${cursor('a\u0000')}`, undefined],
    ['NUL in a label', 'POST', '/backends/tokens', { label: 'a\u0000' }],
    ['NUL in an id', 'DELETE', '/backends/%00', undefined],
    ['the year 0', 'GET', `/usage?org=${NIL}&from=0000-01-01&to=0000-02-01`, undefined],
    ['the year 10000', 'GET', `/usage?org=${NIL}&from=9999-12-01&to=9999-12-31T23:59:59-12:00`, undefined],
  ])('%s is the caller’s fault, and is not a failure of ours', async (_, method, path, body) => {
    const answer = await admin(method, path, body)
    expect([answer.status, answer.body.error.code]).toEqual([400, 'invalid_request'])
  })
})

describe('organisations and projects', () => {
  test('creating by slug is safe to repeat, and answers the same object', async () => {
    const slug = newName('org')
    const first = await admin('POST', '/organisations', { slug, name: 'Grüße & Co' })
    const again = await admin('POST', '/organisations', { slug })
    expect([first.status, again.status]).toEqual([201, 200])
    expect(again.body).toEqual(first.body)
    expect(first.body).toEqual({ id: expect.any(String), slug, name: 'Grüße & Co', created_at: expect.any(String) })
    expect(new Date(first.body.created_at).toISOString()).toBe(first.body.created_at)
    expect((await admin('GET', `/organisations/${first.body.id}`)).body).toEqual(first.body)
  })

  test('many creations of one slug at once make one organisation and one audit row', async () => {
    const slug = newName('race')
    const answers = await Promise.all(Array.from({ length: 8 }, () => admin('POST', '/organisations', { slug })))
    expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1)
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1)
    const acts = await admin('GET', `/audit?org_id=${answers[0]?.body.id}`)
    expect(acts.body.data).toHaveLength(1)
  })

  test('an id of the caller is used, and neither id nor slug can be taken twice', async () => {
    const id = crypto.randomUUID()
    const slug = newName('own')
    expect((await admin('POST', '/organisations', { id, slug })).body.id).toBe(id)
    expect((await admin('POST', '/organisations', { id, slug })).status).toBe(200)
    expect(errorOf(await admin('POST', '/organisations', { id, slug: newName('x') }))).toEqual([400, 'id'])
    expect(errorOf(await admin('POST', '/organisations', { id: NIL, slug }))).toEqual([400, 'slug'])
  })

  test('a project belongs to its organisation alone', async () => {
    const [a, b] = [await newTenant(), await newTenant()]
    expect((await admin('GET', `/organisations/${a.orgId}/projects/${a.projectId}`)).body).toMatchObject({
      slug: 'main',
    })
    expect((await admin('GET', `/organisations/${b.orgId}/projects/${a.projectId}`)).status).toBe(404)
    expect((await admin('POST', `/organisations/${NIL}/projects`, { slug: 'main' })).status).toBe(404)
    const foreign = { project_id: a.projectId, name: 'k' }
    expect(errorOf(await admin('POST', `/organisations/${b.orgId}/keys`, foreign))).toEqual([400, 'project_id'])
  })

  test('pages go through every row once, newest first, whatever the page size', async () => {
    const { orgId } = await newTenant()
    const made: string[] = ['main']
    for (let index = 0; index < 6; index++) {
      const slug = newName('p')
      await admin('POST', `/organisations/${orgId}/projects`, { slug })
      made.push(slug)
    }
    for (const limit of [1, 3, 7, 200]) {
      const seen: string[] = []
      let cursor: string | undefined
      do {
        const at = cursor === undefined ? '' : `&cursor=${cursor}`
        const { body } = await admin('GET', `/organisations/${orgId}/projects?limit=${limit}${at}`)
        expect(body.data.length).toBeLessThanOrEqual(limit)
        seen.push(...body.data.map((project: Json) => project.slug))
        cursor = body.next_cursor
      } while (cursor !== undefined)
      expect(seen.toSorted()).toEqual(made.toSorted())
    }
  })

  test.each([
    ['limit=0', 'limit'],
    ['limit=201', 'limit'],
    ['limit=-1', 'limit'],
    ['limit=abc', 'limit'],
    ['cursor=%27%20or%201=1', 'cursor'],
    ['cursor=WyJhIiwiYiJd', 'cursor'],
    ['page=2', 'page'],
  ])('the page parameter %s is refused by name', async (parameters, param) => {
    expect(errorOf(await admin('GET', `/organisations?${parameters}`))).toEqual([400, param])
  })
})

describe('bad bodies', () => {
  test.each<[string, unknown, string | undefined | null]>([
    ['a missing slug', {}, 'slug'],
    ['a slug with SQL in it', { slug: "a'; drop table organisations; --" }, 'slug'],
    ['a number for a slug', { slug: 7 }, 'slug'],
    ['an unknown field', { slug: 'a', is_admin: true }, 'is_admin'],
    ['a name with a control character', { slug: 'a', name: 'a\u001b[2J' }, 'name'],
    ['an id that is no uuid', { slug: 'a', id: '1' }, 'id'],
    ['an array', [], null],
    ['null', null, null],
  ])('%s is refused with the path of the field', async (_, body, param) => {
    expect(errorOf(await admin('POST', '/organisations', body))).toEqual([400, param])
  })

  test('malformed JSON is refused without quoting it', async () => {
    const answer = await admin('PUT', '/providers/quoting', undefined, { raw: '{"secret": sk-live-quoted-secret}' })
    expect(answer.status).toBe(400)
    expect(answer.text).not.toContain('sk-live')
  })

  test('a body over the limit is refused', async () => {
    const answer = await admin('POST', '/organisations', { slug: 'a', name: 'x'.repeat(100_000) })
    expect(answer.status).toBe(413)
  })

  test.each([
    ['SQL', "1' or '1'='1"],
    ['another path', '..%2f..'],
    ['a zero byte', '%00'],
    ['one that nobody has', NIL],
    ['3000 characters', 'x'.repeat(3000)],
  ])('an organisation id that is %s is not found', async (_, id) => {
    expect((await admin('GET', `/organisations/${encodeURIComponent(id)}`)).status).toBe(404)
    expect((await admin('GET', `/organisations/${encodeURIComponent(id)}/keys`)).status).toBe(404)
  })
})

describe('keys', () => {
  test('the text of a key is answered once, at creation, and stored nowhere', async () => {
    const { orgId, keyId, key } = await newTenant({ name: 'once', models: ['m1'] })
    expect(key).toMatch(/^psk_[0-9A-Za-z]{38}$/)
    const one = await admin('GET', `/organisations/${orgId}/keys/${keyId}`)
    const list = await admin('GET', `/organisations/${orgId}/keys?name=once`)
    const audit = await admin('GET', `/audit?org_id=${orgId}`)
    expect(one.body).toMatchObject({ name: 'once', models: ['m1'], prefix: key.slice(0, 12), revoked_at: null })
    expect(list.body.data).toEqual([one.body])
    for (const answer of [one, list, audit]) expect(answer.text).not.toContain(key.slice(12))
  })

  test('listing by name takes the name as it is, wildcards and quotes included', async () => {
    const { orgId } = await newTenant({ name: '100%_\'"' })
    const named = async (name: string) =>
      (await admin('GET', `/organisations/${orgId}/keys?name=${encodeURIComponent(name)}`)).body.data.length
    expect([await named('100%_\'"'), await named('%'), await named("' or '1'='1")]).toEqual([1, 0, 0])
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['no name', { name: undefined }, 'name'],
    ['an expiry in the past', { expires_at: '2020-01-01T00:00:00Z' }, 'expires_at'],
    ['an expiry without a zone', { expires_at: '2099-01-01T00:00:00' }, 'expires_at'],
    ['a 31st of February', { expires_at: '2099-02-31T00:00:00Z' }, 'expires_at'],
    ['a model name with a space', { models: ['good', 'not good'] }, 'models[1]'],
    ['a project of nobody', { project_id: NIL }, 'project_id'],
    ['a project id that is SQL', { project_id: "' or 1=1 --" }, 'project_id'],
  ])('%s is refused', async (_, wrong, param) => {
    const { orgId, projectId } = await newTenant()
    const body = { project_id: projectId, name: 'k', ...wrong }
    expect(errorOf(await admin('POST', `/organisations/${orgId}/keys`, body))).toEqual([400, param])
  })

  test('an expiry given in another zone comes back as the same instant in UTC', async () => {
    const { orgId, keyId } = await newTenant({ expires_at: '2099-06-01T12:00:00.5+05:30' })
    const { body } = await admin('GET', `/organisations/${orgId}/keys/${keyId}`)
    expect(body.expires_at).toBe('2099-06-01T06:30:00.500Z')
  })

  test('a key of one organisation cannot be read, changed or revoked through another', async () => {
    const [a, b] = [await newTenant(), await newTenant()]
    const path = `/organisations/${b.orgId}/keys/${a.keyId}`
    const answers = await Promise.all([
      admin('GET', path),
      admin('DELETE', path),
      admin('PATCH', path, { models: [] }),
      admin('PUT', `${path}/limits`, { limits: [] }),
    ])
    expect(answers.map(({ status }) => status)).toEqual([404, 404, 404, 404])
  })
})

describe('limits', () => {
  const set = [
    { meter: 'concurrency', max: 4 },
    { meter: 'money', window: 'month', max_usd: '123456789.000000001' },
    { meter: 'requests', window: 'minute', max: 60 },
  ]

  test('a set replaces the one before, exactly, at each scope', async () => {
    const { orgId, projectId, keyId } = await newTenant()
    for (const [scope, path] of [
      ['org', `/organisations/${orgId}/limits`],
      ['project', `/organisations/${orgId}/projects/${projectId}/limits`],
      ['key', `/organisations/${orgId}/keys/${keyId}/limits`],
    ] as const) {
      expect((await admin('GET', path)).body.limits).toEqual([])
      expect((await admin('PUT', path, { limits: [{ meter: 'requests', window: 'day', max: 1 }] })).status).toBe(200)
      expect((await admin('PUT', path, { limits: set })).body).toMatchObject({ scope, limits: set })
      expect((await admin('GET', path)).body).toMatchObject({ scope, limits: set })
      expect((await admin('PUT', path, { limits: [] })).body.limits).toEqual([])
    }
  })

  test.each<[string, unknown, string]>([
    ['an unknown meter', [{ meter: 'tokens', max: 1 }], 'limits[0].meter'],
    ['an unknown window', [{ meter: 'requests', window: 'year', max: 1 }], 'limits[0].window'],
    ['a fraction of a request', [set[0], { meter: 'requests', window: 'day', max: 1.5 }], 'limits[1].max'],
    ['a negative count', [{ meter: 'concurrency', max: -1 }], 'limits[0].max'],
    ['money as a number', [{ meter: 'money', window: 'day', max_usd: 5 }], 'limits[0].max_usd'],
    ['negative money', [{ meter: 'money', window: 'day', max_usd: '-1' }], 'limits[0].max_usd'],
    ['ten decimals', [{ meter: 'money', window: 'day', max_usd: '0.0000000001' }], 'limits[0].max_usd'],
    ['more money than there is', [{ meter: 'money', window: 'day', max_usd: '99999999999' }], 'limits[0].max_usd'],
    ['the same limit twice', [set[2], set[2]], 'limits[1]'],
    ['a window on concurrency', [{ meter: 'concurrency', window: 'day', max: 1 }], 'limits[0].window'],
    ['no list', undefined, 'limits'],
  ])('%s is refused with its path', async (_, limits, param) => {
    const { orgId } = await newTenant()
    expect(errorOf(await admin('PUT', `/organisations/${orgId}/limits`, { limits }))).toEqual([400, param])
  })
})

describe('the audit log', () => {
  test('has one row per act, newest first, with the request that did it', async () => {
    const { orgId, keyId } = await newTenant()
    await admin('PUT', `/organisations/${orgId}/limits`, { limits: [{ meter: 'concurrency', max: 2 }] })
    const last = await admin('PATCH', `/organisations/${orgId}/keys/${keyId}`, { models: ['a'] })
    const { body } = await admin('GET', `/audit?org_id=${orgId}`)
    const actions = body.data.map((act: Json) => act.action)
    expect(actions).toEqual(['key.change', 'limits.replace', 'key.create', 'project.create', 'organisation.create'])
    expect(body.data[0]).toMatchObject({
      actor: 'operator',
      object_id: keyId,
      request_id: last.headers.get('x-request-id'),
      details: { before: { models: null }, after: { models: ['a'] } },
    })
  })

  test('a refused call leaves no row', async () => {
    const { orgId } = await newTenant()
    const before = (await admin('GET', `/audit?org_id=${orgId}`)).body.data.length
    await admin('POST', `/organisations/${orgId}/projects`, { slug: 'NOT A SLUG' })
    await admin('POST', `/organisations/${orgId}/projects`, { slug: 'main' })
    expect((await admin('GET', `/audit?org_id=${orgId}`)).body.data.length).toBe(before)
  })
})

test('a dead database answers 503 with a time to come back, and no address of it', async () => {
  const answer = await admin('GET', '/organisations', undefined, { env: withoutDatabase() })
  expect(answer.status).toBe(503)
  expect(answer.headers.get('retry-after')).toBe('2')
  expect(answer.text).not.toContain('127.0.0.1')
})
