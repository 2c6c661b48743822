// The admin API's view of usage and ledger: sums that equal the rows, pages, filters, bad parameters.
import { env } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import type { ReserveAsk, SettleEnd } from '../../gateway/account/contract.ts'
import { EXPIRY_GRACE_MS } from '../../gateway/account/holds.ts'
import { connect } from '../../gateway/db/connect.ts'
import { endOf, newAccount, type TestAccount, used } from './support/account.ts'
import { admin, type Json } from './support/admin.ts'
import { rollAll, simpleEntry, write } from './support/usage-rows.ts'

const NOON_MS = Date.UTC(2026, 10, 20, 12)

async function serve(
  account: TestAccount,
  ask: Partial<ReserveAsk>,
  input: number,
  output: number,
  end: Partial<SettleEnd> = {},
) {
  const asked = account.ask({ startedAtMs: NOON_MS, deadlineAtMs: Date.now() + 60_000, ...ask })
  const hold = await account.stub.reserve(asked)
  if (!hold.ok) throw new Error(hold.error.reason)
  await account.stub.settle(
    endOf(hold.value.holdId, used(input, output), { endedAtMs: asked.startedAtMs + 2_000, ...end }),
  )
  return asked
}

/** Two models, two keys, two days, a fallback, a late correction. */
async function history() {
  const account = newAccount()
  const otherKey = crypto.randomUUID()
  await serve(account, { modelRequested: 'small' }, 100, 10)
  await serve(account, { modelRequested: 'large', startedAtMs: NOON_MS + 24 * 3_600_000 }, 50, 100)
  await serve(account, { modelRequested: 'large', keyId: otherKey, provider: 'vendor' }, 7, 0)
  const failed = await serve(account, { modelRequested: 'small' }, 20, 1, {
    status: 'engine_lost',
    charge: 'absorbed',
    final: false,
    httpStatus: 502,
  })
  const second = await account.stub.reserve({ ...failed, attempt: 2, provider: 'vendor' })
  if (!second.ok) throw new Error(second.error.reason)
  await account.stub.settle(
    endOf(second.value.holdId, used(20, 5), { firstTokenAtMs: NOON_MS + 300, endedAtMs: NOON_MS + 900 }),
  )
  const late = account.ask({
    startedAtMs: NOON_MS,
    deadlineAtMs: NOON_MS + 1_000,
    modelRequested: 'small',
    keyId: otherKey,
  })
  await account.setNow(NOON_MS)
  const hold = await account.stub.reserve(late)
  if (!hold.ok) throw new Error(hold.error.reason)
  await account.stub.checkpoint(hold.value.holdId, used(30, 2))
  await account.alarmAt(NOON_MS + 1_000 + EXPIRY_GRACE_MS)
  await account.setNow(NOON_MS + 100_000)
  await account.stub.settle(endOf(hold.value.holdId, used(30, 9), { endedAtMs: NOON_MS + 100_000 }))
  expect(await account.stub.flush()).toEqual({ outboxRows: 0 })
  await rollAll(account.orgId)
  return { account, otherKey, fallbackId: failed.requestId, lateId: late.requestId }
}

const get = async (path: string): Promise<Json> => {
  const answer = await admin('GET', path)
  if (answer.status !== 200) throw new Error(`${answer.status} ${answer.text}`)
  return answer.body
}
const RANGE = 'from=2026-11-20&to=2026-11-22'

describe('sums', () => {
  test('are those of the rows, corrections included, and every breakdown adds up to its total', async () => {
    const { account } = await history()
    const rows = (await account.attempts()).filter(({ charge }) => charge === 'customer')
    const expected = {
      requests: 5,
      attempts: 6,
      input_tokens: rows.reduce((total, { input }) => total + input, 0),
      output_tokens: rows.reduce((total, { output }) => total + output, 0),
      cost_nanousd: rows.reduce((total, { cost }) => total + cost, 0n).toString(),
      absorbed_nanousd: '22',
    }
    expect(expected).toMatchObject({ input_tokens: 207, output_tokens: 124, cost_nanousd: '455' })
    const none = await get(`/usage?org=${account.orgId}&${RANGE}`)
    expect(none.total).toMatchObject({ ...expected, cost_usd: '0.000000455', absorbed_usd: '0.000000022' })
    expect(none.total).toMatchObject({
      estimated_attempts: 1,
      inconsistent_attempts: 0,
      provider_cost_usd: '0.000000037',
    })
    expect(none.data).toEqual([none.total])
    for (const by of ['model', 'key', 'project', 'provider', 'day', 'none', 'status,user', 'hour,team', 'month']) {
      const { data, total, group_by } = await get(`/usage?org=${account.orgId}&${RANGE}&group_by=${by}`)
      expect(group_by).toBe(by)
      expect(total).toEqual(none.total)
      const over = (field: string) => data.reduce((sum: number, line: Json) => sum + Number(line[field]), 0)
      for (const field of ['requests', 'attempts', 'input_tokens', 'output_tokens', 'cost_nanousd', 'absorbed_nanousd'])
        expect([by, field, over(field)]).toEqual([by, field, Number(total[field])])
      for (const part of Object.keys(total.usage))
        expect(data.reduce((sum: number, line: Json) => sum + line.usage[part], 0)).toBe(total.usage[part])
    }
  })

  test('name their groups', async () => {
    const { account, otherKey } = await history()
    const lines = async (by: string) => (await get(`/usage?org=${account.orgId}&${RANGE}&group_by=${by}`)).data
    expect((await lines('model')).map((line: Json) => [line.model, line.requests, line.cost_nanousd])).toEqual([
      ['large', 2, '257'],
      ['small', 3, '198'],
    ])
    expect((await lines('day')).map((line: Json) => [line.day, line.cost_nanousd])).toEqual([
      ['2026-11-20', '205'],
      ['2026-11-21', '250'],
    ])
    expect(
      (await lines('month,status')).map((line: Json) => [line.month, line.status, line.cost_nanousd, line.requests]),
    ).toEqual([
      ['2026-11', 'ok', '421', 4],
      ['2026-11', 'deadline_exceeded', '34', 1],
      ['2026-11', 'engine_lost', '0', 0],
    ])
    expect((await lines('user,model')).map((line: Json) => [line.user_id, line.model])).toEqual([
      [null, 'large'],
      [null, 'small'],
    ])
    expect(new Set((await lines('key')).map((line: Json) => line.key_id))).toEqual(new Set([account.keyId, otherKey]))
    expect((await lines('project')).map((line: Json) => line.project_id)).toEqual([account.projectId])
  })

  test('keep to the filters and the range, whose end is exclusive', async () => {
    const { account, otherKey } = await history()
    const cost = async (more: string) => (await get(`/usage?org=${account.orgId}&${more}`)).total.cost_nanousd
    expect(await cost(`${RANGE}&model=large`)).toBe('257')
    expect(await cost(`${RANGE}&key=${otherKey}`)).toBe('55')
    expect(await cost(`${RANGE}&project=${crypto.randomUUID()}`)).toBe('0')
    expect(await cost('from=2026-11-20T12:00:00Z&to=2026-11-21T12:00:00Z')).toBe('205')
    expect(await cost('from=2026-11-20T12:00:00.001Z&to=2026-11-21T12:00:00.001Z')).toBe('250')
  })

  test('cut days, and ranges given in days, in the zone that is asked for', async () => {
    const orgId = crypto.randomUUID()
    const minutes = [18 * 60 + 14, 18 * 60 + 15, 18 * 60 + 30, 23 * 60]
    await write(minutes.map((minute) => simpleEntry(orgId, { startedAtMs: Date.UTC(2026, 10, 20) + minute * 60_000 })))
    await rollAll(orgId)
    const days = async (more: string) => {
      const answer = await get(`/usage?org=${orgId}&group_by=day&${more}`)
      return answer.data.map((line: Json) => [line.day, line.requests])
    }
    expect(await days(RANGE)).toEqual([['2026-11-20', 4]])
    expect(await days(`${RANGE}&time_zone=Asia/Kathmandu`)).toEqual([
      ['2026-11-20', 1],
      ['2026-11-21', 3],
    ])
    expect(await days('from=2026-11-21&to=2026-11-22&time_zone=Asia/Kathmandu')).toEqual([['2026-11-21', 3]])
    expect((await get(`/usage?org=${orgId}&from=2026-11-21&to=2026-11-22&time_zone=Asia/Kolkata`)).from).toBe(
      '2026-11-20T18:30:00.000Z',
    )
  })

  test('show the dearest groups and add up the rest', async () => {
    const { account } = await history()
    const { data, total, truncated } = await get(`/usage?org=${account.orgId}&${RANGE}&group_by=model&top=1`)
    expect(truncated).toBe(true)
    expect(data.map((line: Json) => [line.model, line.other, line.cost_nanousd])).toEqual([
      ['large', undefined, '257'],
      [null, true, '198'],
    ])
    expect(total.cost_nanousd).toBe('455')
  })

  test('have percentiles of the requests that ended well', async () => {
    const { account } = await history()
    const { total, latency_error } = await get(`/usage?org=${account.orgId}&${RANGE}`)
    expect(latency_error).toBeLessThan(0.1)
    expect(total.latency.total.count).toBe(4)
    expect(Math.abs(total.latency.total.p50_ms - 2_000)).toBeLessThan(2_000 * latency_error)
    expect(total.latency.first_token.count).toBe(1)
    expect(Math.abs(total.latency.first_token.p99_ms - 300)).toBeLessThan(300 * latency_error)
    const { data } = await get(`/usage?org=${account.orgId}&${RANGE}&group_by=status&latency=lines`)
    expect(data.map((line: Json) => [line.status, line.latency.total?.count ?? 0])).toEqual([
      ['ok', 4],
      ['deadline_exceeded', 1],
      ['engine_lost', 0],
    ])
  })

  test('say until when they are whole, and rolling by hand makes them whole', async () => {
    const orgId = crypto.randomUUID()
    await write([
      simpleEntry(orgId, { startedAtMs: NOON_MS }),
      simpleEntry(orgId, { startedAtMs: NOON_MS + 3_600_000 }),
    ])
    const before = await get(`/usage?org=${orgId}&${RANGE}`)
    expect(before).toMatchObject({ data_until: '2026-11-20T12:00:00.000Z', total: { requests: 0 } })
    expect(await get(`/usage/rollup?org=${orgId}`)).toMatchObject({
      dirty_buckets: 2,
      oldest_start: '2026-11-20T12:00:00.000Z',
    })
    const rolled = await admin('POST', '/usage/rollup', { org: orgId })
    expect(rolled.body.data).toEqual([{ org_id: orgId, buckets: 2, failed: 0, left: false }])
    const after = await get(`/usage?org=${orgId}&${RANGE}`)
    expect(after.total.requests).toBe(2)
    expect(Date.parse(after.data_until)).toBeGreaterThan(Date.now() - 60_000)
    const again = await admin('POST', '/usage/rollup', { org: orgId, from: '2026-11-20', to: '2026-11-21' })
    expect(again.body.data).toEqual([{ org_id: orgId, buckets: 2, failed: 0, left: false }])
    expect((await get(`/usage?org=${orgId}&${RANGE}`)).total).toEqual(after.total)
  })

  test('of an organisation without usage are zeros', async () => {
    const { total, data } = await get(`/usage?org=${crypto.randomUUID()}&group_by=model`)
    expect(total).toMatchObject({ requests: 0, input_tokens: 0, cost_nanousd: '0', cost_usd: '0' })
    expect(data).toEqual([])
  })
})

describe('requests', () => {
  test('are listed newest first, page by page, each once', async () => {
    const account = newAccount()
    const ids: string[] = []
    for (let index = 0; index < 7; index++)
      ids.push((await serve(account, { startedAtMs: NOON_MS + Math.floor(index / 2) * 1_000 }, index, 1)).requestId)
    await account.stub.flush()
    const seen: Json[] = []
    let cursor = ''
    do {
      const page = await get(`/usage/requests?org=${account.orgId}&${RANGE}&limit=3${cursor}`)
      seen.push(...page.data)
      cursor = page.next_cursor === undefined ? '' : `&cursor=${page.next_cursor}`
    } while (cursor !== '')
    expect(new Set(seen.map(({ id }) => id))).toEqual(new Set(ids))
    expect(seen).toHaveLength(7)
    const times = seen.map((line) => line.started_at)
    expect(times).toEqual([...times].sort().reverse())
  })

  test('show what was really charged, also after a late correction', async () => {
    const { account, lateId, fallbackId } = await history()
    const { data } = await get(`/usage/requests?org=${account.orgId}&${RANGE}`)
    const line = (id: string) => data.find((one: Json) => one.id === id)
    expect(line(lateId)).toMatchObject({
      input_tokens: 30,
      output_tokens: 9,
      cost_nanousd: '48',
      cost_usd: '0.000000048',
    })
    expect(line(fallbackId)).toMatchObject({
      attempts: 2,
      status: 'ok',
      provider: 'vendor',
      cost_nanousd: '30',
      absorbed_nanousd: '22',
    })
    const lines = data.reduce((sum: number, one: Json) => sum + Number(one.cost_nanousd), 0)
    expect(String(lines)).toBe((await get(`/usage?org=${account.orgId}&${RANGE}`)).total.cost_nanousd)
  })

  test('one request comes with its attempts, prices and corrections', async () => {
    const { account, lateId, fallbackId } = await history()
    const late = await get(`/usage/requests/${lateId}?org=${account.orgId}`)
    expect(late.attempt_rows.map((row: Json) => [row.kind, row.usage_source, row.cost_nanousd])).toEqual([
      ['attempt', 'estimated', '34'],
      ['adjustment', 'provider', '14'],
    ])
    const fallback = await get(`/usage/requests/${fallbackId}?org=${account.orgId}`)
    expect(fallback).toMatchObject({ id: fallbackId, first_token_at: '2026-11-20T12:00:00.300Z', attempts: 2 })
    expect(fallback.attempt_rows[1]).toMatchObject({
      attempt: 2,
      charge: 'customer',
      unit_prices: { nanousd_per_million: { input_uncached: '1000000', output_text: '2000000' } },
    })
  })

  test('of another organisation are not found', async () => {
    const { account } = await history()
    const [first] = (await get(`/usage/requests?org=${account.orgId}&${RANGE}`)).data
    expect((await admin('GET', `/usage/requests/${first.id}?org=${crypto.randomUUID()}`)).status).toBe(404)
    expect((await admin('GET', `/usage/requests/nonsense?org=${account.orgId}`)).status).toBe(404)
  })
})

test('the ledger check adds up every account and compares the ledger with the usage rows', async () => {
  const { account } = await history()
  expect(await get(`/ledger/check?org=${account.orgId}`)).toEqual({
    org_id: account.orgId,
    ok: true,
    balanced: true,
    complete: true,
    matches_usage: true,
    sum_nanousd: '0',
    sum_usd: '0',
    accounts: [
      { name: 'customer_credit', balance_nanousd: '-455', balance_usd: '-0.000000455' },
      { name: 'gateway_absorbed', balance_nanousd: '-22', balance_usd: '-0.000000022' },
      { name: 'provider_cost', balance_nanousd: '-37', balance_usd: '-0.000000037' },
      { name: 'provider_payable', balance_nanousd: '37', balance_usd: '0.000000037' },
      { name: 'usage_revenue', balance_nanousd: '477', balance_usd: '0.000000477' },
    ],
    differences: [],
    unbalanced_transfers: [],
    orphan_entries: [],
    missing_entries: [],
    wrong_days: [],
    faults_shown_max: 20,
  })
})

test('canary: the ledger check notices an entry without its other half', async () => {
  const { account } = await history()
  await connect(env).run({
    text: `DELETE FROM ledger_entries WHERE org_id = $1 AND amount_nanousd = 250`,
    params: [account.orgId],
  })
  const checked = await get(`/ledger/check?org=${account.orgId}`)
  expect(checked).toMatchObject({ balanced: false, sum_nanousd: '-250' })
  expect(checked.unbalanced_transfers).toMatchObject([{ sum_nanousd: '-250' }])
})

test.each([
  ['no organisation', '/usage', 'org'],
  ['an organisation that is no uuid', '/usage?org=me', 'org'],
  ['an unknown group', `/usage?org=${crypto.randomUUID()}&group_by=colour`, 'group_by'],
  ['a group with itself', `/usage?org=${crypto.randomUUID()}&group_by=model,model`, 'group_by'],
  ['three groups', `/usage?org=${crypto.randomUUID()}&group_by=model,key,user`, 'group_by'],
  ['two steps of time', `/usage?org=${crypto.randomUUID()}&group_by=day,hour`, 'group_by'],
  ['no group', `/usage?org=${crypto.randomUUID()}&group_by=`, 'group_by'],
  ['an unknown time zone', `/usage?org=${crypto.randomUUID()}&time_zone=Mars/Olympus`, 'time_zone'],
  ['an offset for a time zone', `/usage?org=${crypto.randomUUID()}&time_zone=%2B01:00`, 'time_zone'],
  ['no lines at all', `/usage?org=${crypto.randomUUID()}&group_by=model&top=0`, 'top'],
  ['too many lines', `/usage?org=${crypto.randomUUID()}&group_by=hour,key&top=1000`, 'top'],
  ['an unknown parameter', `/usage?org=${crypto.randomUUID()}&since=1`, 'since'],
  ['a time that is none', `/usage?org=${crypto.randomUUID()}&from=yesterday`, 'from'],
  ['a range that ends before it begins', `/usage?org=${crypto.randomUUID()}&from=2026-02-02&to=2026-02-01`, 'from'],
  ['a range of years', `/usage?org=${crypto.randomUUID()}&from=2020-02-02&to=2026-02-01`, 'from'],
  ['a page without end', `/usage/requests?org=${crypto.randomUUID()}&limit=5000`, 'limit'],
  ['a cursor of something else', `/usage/requests?org=${crypto.randomUUID()}&cursor=abc`, 'cursor'],
  ['no organisation for the ledger', '/ledger/check', 'org'],
])('%s is refused with the name of the parameter', async (_, path, param) => {
  const answer = await admin('GET', path)
  expect(answer.status).toBe(400)
  expect(answer.body.error.param).toBe(param)
})

test('nobody reads usage without the administrator credential', async () => {
  for (const path of [`/usage?org=${crypto.randomUUID()}`, `/ledger/check?org=${crypto.randomUUID()}`])
    expect((await admin('GET', path, undefined, { token: undefined })).status).toBe(401)
})

test('a request is in the list, and found by its id, as soon as it has ended', async () => {
  const account = newAccount()
  const path = `/usage/requests?org=${account.orgId}`
  const listed = await serve(account, { startedAtMs: Date.now() - 5_000 }, 100, 10)
  expect((await admin('GET', path)).body.data).toMatchObject([{ id: listed.requestId, input_tokens: 100 }])
  const shown = await serve(account, { startedAtMs: Date.now() - 4_000 }, 7, 1)
  const { status, body } = await admin('GET', `/usage/requests/${shown.requestId}?org=${account.orgId}`)
  expect([status, body.id, body.attempt_rows?.length]).toEqual([200, shown.requestId, 1])
})
