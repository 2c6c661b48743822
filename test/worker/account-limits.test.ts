// Limits from the admin API to the account: stored as one book, in force before the answer, on every place.
import { env } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { RULES_MAX } from '../../gateway/account/rule-book.ts'
import { connect } from '../../gateway/db/connect.ts'
import { admin, type Json, newAsk, newTenant, type Tenant } from './support/admin.ts'

const accountOf = ({ orgId }: Tenant) => env.ACCOUNT.getByName(orgId)
const once = { meter: 'requests', window: 'day', max: 1 }

const versionOf = async ({ orgId }: Tenant) => {
  const text = 'SELECT version::text FROM rule_books WHERE org_id = $1'
  return Number((await connect(env).run({ text, params: [orgId] })).rows[0]?.[0])
}

async function outcome({ orgId, projectId, keyId }: Tenant, change: Json = {}) {
  const result = await env.ACCOUNT.getByName(orgId).reserve({ ...newAsk({ orgId, projectId, keyId }), ...change })
  return result.ok ? 'granted' : result.error.reason
}

async function member(tenant: Tenant) {
  const user = await admin('POST', `/organisations/${tenant.orgId}/users`, { email: `${tenant.keyId}@example.com` })
  const team = await admin('POST', `/organisations/${tenant.orgId}/teams`, { slug: 'crew' })
  return { userId: String(user.body.id), teamId: String(team.body.id) }
}

describe('a set of limits', () => {
  /** One tenant for all that changes nothing. */
  let refused: Promise<Tenant> | undefined

  test('is in force at every place when the answer comes, and lifted by an empty one', async () => {
    const tenant = await newTenant()
    const { userId, teamId } = await member(tenant)
    const base = `/organisations/${tenant.orgId}`
    for (const [scope, path] of [
      ['org', base],
      ['project', `${base}/projects/${tenant.projectId}`],
      ['key', `${base}/keys/${tenant.keyId}`],
      ['team', `${base}/teams/${teamId}`],
      ['user', `${base}/users/${userId}`],
      ['end_user', `${base}/end-users/anna%20%2F%20b`],
      ['project', `${base}/projects/*`],
      ['key', `${base}/keys/*`],
      ['team', `${base}/teams/*`],
      ['user', `${base}/users/*`],
      ['end_user', `${base}/end-users/*`],
    ] as const) {
      const caller = {
        userId,
        teamId,
        endUser: 'anna / b',
      }
      const put = await admin('PUT', `${path}/limits`, { limits: [{ ...once, max: 0 }] })
      expect([put.status, put.body.scope]).toEqual([200, scope])
      expect(await outcome(tenant, caller)).toBe('rate_limited')
      expect((await admin('GET', `${path}/limits`)).body).toEqual(put.body)
      expect((await admin('PUT', `${path}/limits`, { limits: [] })).body.limits).toEqual([])
      expect(await outcome(tenant, caller)).toBe('granted')
    }
  })

  test('shows every field, fills in what is left out, and keeps the identity of what did not change', async () => {
    const tenant = await newTenant()
    const path = `/organisations/${tenant.orgId}/limits`
    const limits = [
      { meter: 'concurrency', max: 4 },
      { meter: 'input_tokens', window: 'lifetime', max: 5, model: 'small' },
      { meter: 'money', window: 'month', max_usd: '0.5', time_zone: 'Asia/Kolkata', hard: false },
      once,
    ]
    const first = (await admin('PUT', path, { limits })).body.limits
    expect(first).toEqual([
      { id: expect.any(String), meter: 'concurrency', hard: true, max: 4 },
      {
        id: expect.any(String),
        meter: 'input_tokens',
        model: 'small',
        hard: true,
        window: 'lifetime',
        time_zone: 'UTC',
        max: 5,
      },
      {
        id: expect.any(String),
        meter: 'money',
        hard: false,
        window: 'month',
        time_zone: 'Asia/Kolkata',
        max_usd: '0.5',
      },
      { id: expect.any(String), meter: 'requests', hard: true, window: 'day', time_zone: 'UTC', max: 1 },
    ])
    const changed = [...limits.slice(0, 3), { ...once, max: 2 }]
    const second = (await admin('PUT', path, { limits: changed })).body.limits
    expect(second.slice(0, 3)).toEqual(first.slice(0, 3))
    expect(second[3].id).not.toBe(first[3].id)
    expect((await accountOf(tenant).inspect()).rulesVersion).toBe(await versionOf(tenant))
  })

  test('may differ in model, zone and hardness, and not in the maximum alone', async () => {
    const tenant = await newTenant()
    const path = `/organisations/${tenant.orgId}/limits`
    const limits = [once, { ...once, hard: false }, { ...once, model: 'm' }, { ...once, time_zone: 'Europe/Berlin' }]
    expect((await admin('PUT', path, { limits })).body.limits).toHaveLength(4)
    expect((await admin('PUT', path, { limits: [once, { ...once, max: 7 }] })).status).toBe(400)
  })

  test.each([
    ['a zone that does not exist', { ...once, time_zone: 'Mars/Olympus' }, 'limits[0].time_zone'],
    ['an offset for a zone', { ...once, time_zone: '+05:30' }, 'limits[0].time_zone'],
    ['a zone on concurrency', { meter: 'concurrency', max: 1, time_zone: 'UTC' }, 'limits[0].time_zone'],
    ['a model that has no name', { ...once, model: '' }, 'limits[0].model'],
    ['money on tokens', { meter: 'input_tokens', window: 'day', max_usd: '1' }, 'limits[0].max'],
    ['a count that overflows', { ...once, max: 1e15 }, 'limits[0].max'],
    ['an unknown currency', { meter: 'money', window: 'day', max_usd: '1', currency: 'EUR' }, 'limits[0].currency'],
  ])('with %s is refused and changes nothing', async (_, limit, param) => {
    refused ??= newTenant()
    const tenant = await refused
    const answer = await admin('PUT', `/organisations/${tenant.orgId}/limits`, { limits: [limit] })
    expect([answer.status, answer.body.error.param]).toEqual([400, param])
    expect(await outcome(tenant)).toBe('granted')
  })

  test.each(['projects', 'keys', 'teams', 'users'])('on what does not exist is 404: %s', async (kind) => {
    const { orgId } = await newTenant()
    const unknown = crypto.randomUUID()
    const put = (path: string) => admin('PUT', `${path}/limits`, { limits: [] })
    expect((await put(`/organisations/${orgId}/${kind}/${unknown}`)).status).toBe(404)
    expect((await put(`/organisations/${unknown}/${kind}/*`)).status).toBe(404)
  })

  test('beyond what an organisation can have is refused as a whole', async () => {
    const tenant = await newTenant()
    const { orgId } = tenant
    await connect(env).run({
      text: `INSERT INTO limit_rules (org_id, limit_id, scope, scope_id, model, meter, time_window, time_zone, hard,
          max_count, max_nanousd, created_at)
        SELECT $1::uuid, md5($3 || n::text)::uuid, 'end_user', 'user ' || n, '', 'requests', 'day', 'UTC', true, 5, NULL, now()
        FROM generate_series(1, $2::int) AS n`,
      params: [orgId, RULES_MAX - 1, orgId],
    })
    const path = `/organisations/${orgId}/limits`
    expect((await admin('PUT', path, { limits: [once] })).status).toBe(200)
    const answer = await admin('PUT', path, { limits: [once, { ...once, window: 'hour' }] })
    expect([answer.status, answer.body.error.param]).toEqual([400, 'limits'])
    expect((await admin('GET', path)).body.limits).toHaveLength(1)
    expect(await outcome(tenant)).toBe('granted')
    expect(await outcome(tenant)).toBe('rate_limited')
  })

  test('put by several administrators at once: one of them is what stands, here and in the account', async () => {
    const tenant = await newTenant()
    const path = `/organisations/${tenant.orgId}/limits`
    const puts = [3, 4, 5, 6, 7].map((max) => admin('PUT', path, { limits: [{ meter: 'concurrency', max }] }))
    expect((await Promise.all(puts)).map(({ status }) => status)).toEqual([200, 200, 200, 200, 200])
    const [{ max }] = (await admin('GET', path)).body.limits
    const outcomes = await Promise.all(Array.from({ length: 9 }, () => outcome(tenant)))
    expect(outcomes.filter((one) => one === 'granted')).toHaveLength(max)
    expect((await accountOf(tenant).inspect()).rulesVersion).toBe(await versionOf(tenant))
  })

  test('put on a version that somebody has changed since is refused, and of several at once on one version one passes', async () => {
    const tenant = await newTenant()
    const path = `/organisations/${tenant.orgId}/limits`
    const put = (max: number, expected?: string) =>
      admin('PUT', path, { limits: [{ meter: 'concurrency', max }], expected_version: expected })
    const { version: empty } = (await admin('GET', path)).body
    const first = await put(3, empty)
    expect(first.status).toBe(200)
    expect(first.body.version).not.toBe(empty)
    const late = await put(4, empty)
    expect([late.status, late.body.error.code]).toEqual([409, 'conflict'])
    expect((await put(3, first.body.version)).body.version).toBe(first.body.version)
    const racing = await Promise.all([5, 6, 7, 8].map((max) => put(max, first.body.version)))
    expect(racing.map(({ status }) => status).sort()).toEqual([200, 409, 409, 409])
    const won = racing.find(({ status }) => status === 200)
    expect((await admin('GET', path)).body).toEqual(won?.body)
    // Whoever names no version replaces what is there, whatever it is.
    expect((await put(9)).status).toBe(200)
  })

  test('put after an older state of the database was restored are in force', async () => {
    const tenant = await newTenant()
    const path = `/organisations/${tenant.orgId}/limits`
    for (const max of [3, 2]) await admin('PUT', path, { limits: [{ meter: 'concurrency', max }] })
    await connect(env).run({ text: 'DELETE FROM rule_books WHERE org_id = $1', params: [tenant.orgId] })
    await admin('PUT', path, { limits: [{ meter: 'concurrency', max: 0 }] })
    expect(await outcome(tenant)).toBe('concurrency_limited')
  })
})
