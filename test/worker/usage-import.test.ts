// Usage that clients report of calls past the gateway: stored exactly once under the key's own organisation, shown, and never part
// of what is billed or counted.
import { createExecutionContext, env } from 'cloudflare:test'
import { beforeAll, describe, expect, test } from 'vitest'
import { createApp } from '../../gateway/app.ts'
import { connect } from '../../gateway/db/connect.ts'
import type { Env } from '../../gateway/env.ts'
import { IMPORT_BODY_BYTES_MAX, IMPORT_RECORDS_MAX, USAGE_IMPORT_PATH } from '../../protocol/usage-import.ts'
import { admin, type Json, newTenant, type Tenant, withoutDatabase } from './support/admin.ts'

const app = createApp()
let tenant: Tenant

beforeAll(async () => {
  tenant = await newTenant()
})

const record = (change: Record<string, unknown> = {}) => ({
  id: crypto.randomUUID(),
  model: 'small',
  provider: 'spare',
  started_at: new Date(Date.now() - 3_000).toISOString(),
  ended_at: new Date(Date.now() - 1_000).toISOString(),
  status: 'answered',
  usage: { input_uncached: 11, output_text: 5 },
  ...change,
})

async function post(body: unknown, options: { key?: string; env?: Env; app?: typeof app } = {}) {
  const { key = tenant.key } = options
  const response = await (options.app ?? app).request(
    USAGE_IMPORT_PATH,
    {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(key === '' ? {} : { authorization: `Bearer ${key}` }),
      },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    },
    options.env ?? env,
    createExecutionContext(),
  )
  return { status: response.status, headers: response.headers, body: (await response.json()) as Json }
}

const report = (...records: unknown[]) => post({ records })

const shown = async (org: string, more = '') => {
  const answer = await admin('GET', `/usage/client-reported?org=${org}${more}`)
  expect(answer.status).toBe(200)
  return answer.body
}

async function stored(where: { org?: string; id?: string }) {
  const { rows } = await connect(env).run({
    text: `SELECT org_id::text, project_id::text, key_id::text, model, input_uncached::int, output_text::int FROM client_reported_usage
      WHERE ($1::text = '' OR org_id::text = $1::text) AND ($2::text = '' OR report_id::text = $2::text)`,
    params: [where.org ?? '', where.id ?? ''],
  })
  return rows
}

describe('who may report', () => {
  test('nobody without a key', async () => {
    expect((await post({ records: [record()] }, { key: '' })).status).toBe(401)
    expect((await post({ records: [record()] }, { key: 'psk_nobody' })).status).toBe(401)
  })

  test('any key that may ask for inference of some kind, and none that may only list models', async () => {
    for (const route of ['chat', 'completions', 'responses', 'embeddings']) {
      const { key } = await newTenant({ routes: [route] })
      expect([route, (await post({ records: [record()] }, { key })).status]).toEqual([route, 200])
    }
    const { key, orgId } = await newTenant({ routes: ['models'] })
    const refused = await post({ records: [record()] }, { key })
    expect([refused.status, refused.body.error.code]).toEqual([403, 'permission_denied'])
    expect(await stored({ org: orgId })).toEqual([])
  })

  test('a revoked key does not', async () => {
    const { key, keyId, orgId } = await newTenant()
    expect((await admin('DELETE', `/organisations/${orgId}/keys/${keyId}`)).status).toBeLessThan(300)
    expect((await post({ records: [record()] }, { key })).status).toBe(401)
  })

  test('a key may do so only so often a minute, and is told when again', async () => {
    const other = await newTenant()
    // Its own pace: an isolate counts for itself.
    const fresh = createApp()
    const statuses = []
    for (let call = 0; call < 61; call++) statuses.push(await post({ records: [{}] }, { key: other.key, app: fresh }))
    expect(statuses.slice(0, 60).every(({ status }) => status === 200)).toBe(true)
    expect(statuses[60]?.status).toBe(429)
    expect(Number(statuses[60]?.headers.get('retry-after'))).toBeGreaterThan(0)
  })
})

describe('a record', () => {
  test('stands under the organisation, project and key that posted it, whatever it says itself', async () => {
    const own = await newTenant()
    const mine = record()
    expect((await post({ records: [mine] }, { key: own.key })).body).toEqual({
      accepted: 1,
      duplicates: 0,
      refused: 0,
      results: [{ index: 0, id: mine.id, outcome: 'accepted' }],
    })
    expect(await stored({ org: own.orgId })).toEqual([[own.orgId, own.projectId, own.keyId, 'small', 11, 5]])
    for (const field of ['org_id', 'orgId', 'project_id', 'key_id', 'cost_nanousd']) {
      const { body } = await post({ records: [record({ [field]: crypto.randomUUID() })] }, { key: own.key })
      expect([field, body.results[0].outcome]).toEqual([field, 'refused'])
    }
    expect(await stored({ org: own.orgId })).toHaveLength(1)
  })

  test('is stored once, however often it is posted, and the first one counts', async () => {
    const one = record()
    expect((await report(one)).body.results[0].outcome).toBe('accepted')
    expect((await report(one)).body).toMatchObject({ accepted: 0, duplicates: 1 })
    // In capitals it is the same id.
    expect((await report({ ...one, id: one.id.toUpperCase(), model: 'other' })).body.duplicates).toBe(1)
    expect(await stored({ id: one.id })).toEqual([[tenant.orgId, tenant.projectId, tenant.keyId, 'small', 11, 5]])
    const twice = record()
    const { body } = await report(twice, { ...twice, model: 'other' }, record())
    expect(body.results.map(({ outcome }: Json) => outcome)).toEqual(['accepted', 'duplicate', 'accepted'])
    expect(await stored({ id: twice.id })).toHaveLength(1)
  })

  test('is accepted by exactly one of the posts that bring it at the same time', async () => {
    const own = await newTenant()
    const records = Array.from({ length: 50 }, () => record())
    const fresh = createApp()
    const orders = [records, records.toReversed(), records.slice(10), records.slice(0, 40)]
    const answers = await Promise.all(orders.map((some) => post({ records: some }, { key: own.key, app: fresh })))
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200])
    expect(answers.reduce((sum, { body }) => sum + body.accepted, 0)).toBe(50)
    expect(answers.reduce((sum, { body }) => sum + body.duplicates, 0)).toBe(130)
    expect(await stored({ org: own.orgId })).toHaveLength(50)
  })

  test('of another organisation under the same id is another record', async () => {
    const [one, other] = [await newTenant(), await newTenant()]
    const id = crypto.randomUUID()
    expect((await post({ records: [record({ id, model: 'one' })] }, { key: one.key })).body.accepted).toBe(1)
    expect((await post({ records: [record({ id, model: 'other' })] }, { key: other.key })).body.accepted).toBe(1)
    expect((await shown(one.orgId)).data.map(({ model }: Json) => model)).toEqual(['one'])
    expect((await shown(other.orgId)).data.map(({ model }: Json) => model)).toEqual(['other'])
  })

  const DAY_MS = 24 * 3_600_000
  const at = (offsetMs: number) => new Date(Date.now() + offsetMs).toISOString()
  const wrong: [name: string, record: unknown, why: RegExp][] = [
    ['nothing', undefined, /the record/],
    ['no object', 'text', /the record/],
    ['an id that is none', { ...record(), id: '1' }, /^id/],
    ['no id', { ...record(), id: undefined }, /^id/],
    ['no model', { ...record(), model: '' }, /^model/],
    ['a long model', { ...record(), model: 'm'.repeat(129) }, /^model/],
    ['a long provider', { ...record(), provider: 'p'.repeat(65) }, /^provider/],
    ['a NUL in a text', { ...record(), provider: 'a\u0000b' }, /^provider/],
    ['an escape in a text', { ...record(), reason: '\u001b[31m' }, /^reason/],
    ['an unknown status', { ...record(), status: 'ok' }, /^status/],
    ['a negative count', { ...record(), usage: { output_text: -1 } }, /^usage.output_text/],
    ['half a token', { ...record(), usage: { output_text: 0.5 } }, /^usage.output_text/],
    ['a count beyond belief', { ...record(), usage: { output_text: 500_000_001 } }, /^usage.output_text/],
    ['a count in a text', { ...record(), usage: { output_text: '5' } }, /^usage.output_text/],
    ['an unknown part', { ...record(), usage: { tokens: 5 } }, /^usage/],
    ['no usage', { ...record(), usage: undefined }, /^usage/],
    ['no try', { ...record(), attempts: 0 }, /^attempts/],
    ['a time without a zone', { ...record(), started_at: '2026-11-22T08:00:00' }, /^started_at/],
    ['an end before its start', { ...record(), started_at: at(-1_000), ended_at: at(-2_000) }, /^ended_at/],
    ['an end in ten minutes', { ...record(), ended_at: at(600_000) }, /^ended_at: lies in the future/],
    ['a start 31 days ago', { ...record(), started_at: at(-31 * DAY_MS) }, /^started_at: .*30 days/],
    ['nine tags', { ...record(), tags: Object.fromEntries([...'abcdefghi'].map((name) => [name, 'x'])) }, /^tags/],
    ['a tag with a comma', { ...record(), tags: { env: 'a,b' } }, /^tags/],
    ['a tag with a strange name', { ...record(), tags: { 'Env!': 'a' } }, /^tags/],
  ]
  test.each(wrong)('with %s is refused by itself, and says why', async (_, one, why) => {
    const before = (await stored({ org: tenant.orgId })).length
    const { status, body } = await report(one ?? null, record())
    expect(status).toBe(200)
    expect(body).toMatchObject({ accepted: 1, refused: 1, results: [{ index: 0, outcome: 'refused' }, { index: 1 }] })
    expect(body.results[0].why).toMatch(why)
    expect(await stored({ org: tenant.orgId })).toHaveLength(before + 1)
  })

  test('of a clock that is a little ahead, and of weeks ago, is believed', async () => {
    const { body } = await report(
      record({ ended_at: at(4 * 60_000) }),
      record({ started_at: at(-29 * DAY_MS), ended_at: at(-29 * DAY_MS) }),
    )
    expect(body).toMatchObject({ accepted: 2, refused: 0 })
  })
})

describe('a body', () => {
  test.each([
    ['nothing', ''],
    ['no JSON', '{'],
    ['a list', '[]'],
    ['no record', '{"records":[]}'],
    ['no list', '{"records":{}}'],
    ['more than records', '{"records":[{}],"org_id":"x"}'],
    ['too many records', JSON.stringify({ records: Array.from({ length: IMPORT_RECORDS_MAX + 1 }, () => ({})) })],
  ])('of %s is refused whole', async (_, body) => {
    const answer = await post(body)
    expect([answer.status, answer.body.error.code]).toEqual([400, 'invalid_request'])
  })

  test('over the bound is refused, and one with the most records is taken', async () => {
    const large = await post(`{"records":[${JSON.stringify('x'.repeat(IMPORT_BODY_BYTES_MAX))}]}`)
    expect([large.status, large.body.error.code]).toEqual([413, 'request_too_large'])
    const own = await newTenant()
    const records = Array.from({ length: IMPORT_RECORDS_MAX }, () => record())
    expect((await post({ records }, { key: own.key })).body.accepted).toBe(IMPORT_RECORDS_MAX)
    expect((await shown(own.orgId)).total).toMatchObject({ calls: IMPORT_RECORDS_MAX, output_tokens: 2_500 })
  })
})

describe('while Postgres is away', () => {
  test('nothing is taken and the client is told when again; the same post is stored once later', async () => {
    const one = record()
    const away = await post({ records: [one] }, { env: withoutDatabase() })
    expect([away.status, away.body.error.code]).toEqual([503, 'unavailable'])
    expect(Number(away.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(away.headers.get('x-should-retry')).toBe('true')
    expect(await stored({ id: one.id })).toEqual([])
    expect((await report(one)).body.accepted).toBe(1)
    expect(await stored({ id: one.id })).toHaveLength(1)
  })
})

describe('what was reported', () => {
  test('is shown newest first, page by page, with sums by model, and can be filtered', async () => {
    const own = await newTenant()
    const hour = (hours: number) => ({
      started_at: new Date(Date.now() - hours * 3_600_000).toISOString(),
      ended_at: new Date(Date.now() - hours * 3_600_000 + 1_000).toISOString(),
    })
    const rows = [
      record({ ...hour(1), tags: { feature: 'search', env: 'prod' }, attempts: 2, reason: 'gateway_unreachable' }),
      record({ ...hour(2), status: 'interrupted', usage: { input_cache_read: 7, output_reasoning: 1 } }),
      record({ ...hour(3), model: 'large', status: 'failed', provider: 'other', usage: {} }),
    ]
    expect((await post({ records: rows }, { key: own.key })).body.accepted).toBe(3)
    const all = await shown(own.orgId)
    expect(all).toMatchObject({ source: 'client_reported', billed: false, models_truncated: false })
    expect(all.data.map(({ id }: Json) => id)).toEqual(rows.map(({ id }) => id))
    expect(all.data[0]).toMatchObject({
      key_id: own.keyId,
      project_id: own.projectId,
      tags: { env: 'prod', feature: 'search' },
      attempts: 2,
      reason: 'gateway_unreachable',
      input_tokens: 11,
      output_tokens: 5,
    })
    expect(all.names.keys[own.keyId].name).toBe('test')
    expect(all.total).toMatchObject({
      calls: 3,
      answered: 1,
      failed: 1,
      interrupted: 1,
      input_tokens: 18,
      output_tokens: 6,
    })
    expect(all.models.map(({ model, calls, input_tokens: input }: Json) => [model, calls, input])).toEqual([
      ['small', 2, 18],
      ['large', 1, 0],
    ])
    const first = await shown(own.orgId, '&limit=2')
    const second = await shown(own.orgId, `&limit=2&cursor=${first.next_cursor}`)
    expect([...first.data, ...second.data].map(({ id }: Json) => id)).toEqual(rows.map(({ id }) => id))
    expect(second.next_cursor).toBeUndefined()
    const calls = async (filter: string) => (await shown(own.orgId, filter)).total.calls
    expect(await calls('&model=large')).toBe(1)
    expect(await calls('&provider=spare&status=interrupted')).toBe(1)
    expect(await calls(`&key=${own.keyId}`)).toBe(3)
    expect(await calls(`&key=${crypto.randomUUID()}`)).toBe(0)
    expect(await calls(`&project=${own.projectId}`)).toBe(3)
    expect(await calls(`&from=${encodeURIComponent(new Date(Date.now() - 9_000_000).toISOString())}`)).toBe(2)
    expect((await admin('GET', `/usage/client-reported?org=${own.orgId}&status=ok`)).status).toBe(400)
    expect((await admin('GET', `/usage/client-reported?org=${own.orgId}`, undefined, { token: own.key })).status).toBe(
      403,
    )
  })

  test('costs nothing and counts against no limit: neither usage, ledger nor account know of it', async () => {
    const own = await newTenant()
    const limits = [
      { meter: 'requests', window: 'lifetime', max: 1 },
      { meter: 'output_tokens', window: 'lifetime', max: 10 },
      { meter: 'money', window: 'lifetime', max_usd: '0.01' },
    ]
    expect((await admin('PUT', `/organisations/${own.orgId}/limits`, { limits })).status).toBe(200)
    const records = Array.from({ length: 20 }, () => record({ usage: { output_text: 400_000_000 } }))
    expect((await post({ records }, { key: own.key })).body.accepted).toBe(20)
    const state = await admin('GET', `/organisations/${own.orgId}/limits/state`)
    expect(state.body.data.map(({ settled, held }: Json) => [settled, held])).toEqual(limits.map(() => ['0', '0']))
    const account = env.ACCOUNT.getByName(own.orgId)
    expect(await account.flush()).toEqual({ outboxRows: 0 })
    for (const table of [
      'usage_requests',
      'usage_attempts',
      'ledger_entries',
      'ledger_accounts',
      'rollup_dirty',
      'usage_rollups',
      'usage_cubes',
    ]) {
      const text = `SELECT count(*)::int FROM ${table} WHERE org_id = $1`
      const { rows } = await connect(env).run({ text, params: [own.orgId] })
      expect([table, rows[0]?.[0]]).toEqual([table, 0])
    }
    const usage = await admin('GET', `/usage?org=${own.orgId}`)
    expect(usage.body.total).toMatchObject({ requests: 0, output_tokens: 0, cost_nanousd: '0' })
    expect((await shown(own.orgId)).total).toMatchObject({ calls: 20, output_tokens: 8_000_000_000 })
  })
})
