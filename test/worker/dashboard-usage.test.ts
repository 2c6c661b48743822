// What the dashboard asks of usage beyond sums: tags and machines from the request to the line, names, single requests with their
// filters and the live log, the statement of a month, limits as the account sees them, health, and what changed in the catalog.
import { env } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import type { ReserveAsk, SettleEnd } from '../../gateway/account/contract.ts'
import { connect } from '../../gateway/db/connect.ts'
import type { AttemptRow } from '../../gateway/ledger/outbox.ts'
import { endOf, newAccount, PRICE, type TestAccount, used } from './support/account.ts'
import { admin, type Json, newName, newTenant } from './support/admin.ts'
import { attemptRow, entryOf, NOON_MS, requestRow, rollAll, simpleEntry, write } from './support/usage-rows.ts'

const get = async (path: string): Promise<Json> => {
  const answer = await admin('GET', path)
  if (answer.status !== 200) throw new Error(`${answer.status} ${answer.text}`)
  return answer.body
}
const RANGE = 'from=2026-11-20&to=2026-11-24'

async function serve(
  account: TestAccount,
  ask: Partial<ReserveAsk>,
  end: Partial<SettleEnd> = {},
  usage = used(100, 10),
) {
  const asked = account.ask({ startedAtMs: NOON_MS, deadlineAtMs: Date.now() + 60_000, ...ask })
  const hold = await account.stub.reserve(asked)
  if (!hold.ok) throw new Error(hold.error.reason)
  await account.stub.settle(endOf(hold.value.holdId, usage, { endedAtMs: asked.startedAtMs + 2_000, ...end }))
  return asked
}
const written = async (account: TestAccount) => {
  expect(await account.stub.flush()).toEqual({ outboxRows: 0 })
  await rollAll(account.orgId)
}

describe('tags and machines', () => {
  test('go with a request into its rows and are told apart, and every breakdown by them adds up', async () => {
    const account = newAccount()
    const machine = crypto.randomUUID()
    await serve(account, { tags: 'env=prod,feature=search' }, { backendId: machine })
    await serve(account, { tags: 'env=test' }, { backendId: machine })
    await serve(account, {})
    await written(account)
    const path = `/usage?org=${account.orgId}&${RANGE}`
    const { total } = await get(path)
    for (const by of ['backend', 'tag:env', 'tag:feature', 'tag:env,backend', 'day,tag:env', 'model,backend']) {
      const answer = await get(`${path}&group_by=${by}`)
      expect(answer.total).toEqual(total)
      const sum = (field: string) => answer.data.reduce((all: number, line: Json) => all + Number(line[field]), 0)
      for (const field of ['requests', 'attempts', 'input_tokens', 'cost_nanousd', 'failed_requests'])
        expect([by, field, sum(field)]).toEqual([by, field, Number(total[field])])
    }
    const lines = async (by: string, field: string) =>
      new Set((await get(`${path}&group_by=${by}`)).data.map((line: Json) => `${line[field]} ${line.requests}`))
    expect(await lines('tag:env', 'tag')).toEqual(new Set(['prod 1', 'test 1', 'null 1']))
    expect(await lines('backend', 'backend_id')).toEqual(new Set([`${machine} 2`, 'null 1']))
    const requests = async (filter: string) => (await get(`${path}&${filter}`)).total.requests
    expect(await requests('tag=env%3Dprod')).toBe(1)
    expect(await requests('tag=!env')).toBe(1)
    expect(await requests(`backend=${machine}`)).toBe(2)
    expect(await requests('backend=none')).toBe(1)
    expect((await get(`/usage/tags?org=${account.orgId}&${RANGE}`)).data).toEqual([
      {
        name: 'env',
        values: [
          { value: 'prod', requests: 1 },
          { value: 'test', requests: 1 },
        ],
        folded: false,
      },
      { name: 'feature', values: [{ value: 'search', requests: 1 }], folded: false },
    ])
    for (const wrong of ['group_by=tag', 'group_by=tag:A', 'group_by=tag:a,tag:b', 'tag=env', 'tag=env%3Da%2Cb'])
      expect([wrong, (await admin('GET', `${path}&${wrong}`)).status]).toEqual([wrong, 400])
  })

  test('that are malformed are refused by the header’s name before anything is spent', async () => {
    const { app } = await import('../../gateway/app.ts')
    const { key } = await newTenant()
    const ask = async (tags: string) => {
      const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json', 'x-penstock-tags': tags }
      const body = JSON.stringify({ model: 'nobody', messages: [{ role: 'user', content: 'hi' }] })
      const { createExecutionContext, waitOnExecutionContext } = await import('cloudflare:test')
      const context = createExecutionContext()
      const response = await app.request(
        'http://gateway.test/v1/chat/completions',
        { method: 'POST', headers, body },
        env,
        context,
      )
      const answer: Json = await response.json()
      await waitOnExecutionContext(context)
      return [response.status, answer.error.param]
    }
    for (const wrong of [
      'env',
      'Env=a',
      'env=',
      'env=a b',
      'env=a,env=b',
      `env=${'x'.repeat(65)}`,
      'a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1',
    ])
      expect([wrong, ...(await ask(wrong))]).toEqual([wrong, 400, 'x-penstock-tags'])
    // A good one gets as far as the model that is not there.
    expect((await ask('env=prod, feature=search'))[0]).toBe(404)
  })
})

describe('what a cache saved', () => {
  test('is the difference to the uncached price, late corrections included, of what the customer paid', async () => {
    const price = { ...PRICE, perMillion: { ...PRICE.perMillion, inputUncached: 2_000_000n, inputCacheRead: 200_000n } }
    const account = newAccount()
    const usage = { ...used(0, 0), inputUncached: 10, inputCacheRead: 90 }
    await serve(account, { price }, {}, usage)
    await serve(account, { price }, { charge: 'absorbed', status: 'engine_lost' }, usage)
    await written(account)
    const { total } = await get(`/usage?org=${account.orgId}&${RANGE}`)
    expect(total.cache_savings_nanousd).toBe(String((90n * (2_000_000n - 200_000n)) / 1_000_000n))
  })
})

describe('single requests', () => {
  /** Four requests a minute apart, one of them failed over. */
  async function some() {
    const { orgId, projectId, keyId } = await newTenant({ name: 'the key' })
    const shared = { projectId, keyId, price: PRICE }
    const at = (minute: number) => NOON_MS + minute * 60_000
    const slow = simpleEntry(orgId, {
      ...shared,
      startedAtMs: at(0),
      firstTokenAtMs: at(0) + 4_000,
      endedAtMs: at(0) + 9_000,
    })
    const dear = simpleEntry(orgId, { ...shared, startedAtMs: at(1), costNanoUsd: 5_000_000_000n, tags: 'env=prod' })
    const failed = simpleEntry(orgId, { ...shared, startedAtMs: at(2), status: 'upstream_error', httpStatus: 502 })
    const first = attemptRow(orgId, { ...shared, startedAtMs: at(3), status: 'engine_lost', charge: 'absorbed' })
    const second: AttemptRow = {
      ...attemptRow(orgId, { ...shared, startedAtMs: at(3) + 700, backendId: crypto.randomUUID() }),
      requestId: first.requestId,
      attempt: 2,
      firstTokenAtMs: at(3) + 1_000,
      usageSource: 'stream_partial',
      route: JSON.stringify({ role: 'fallback', reason: 'ordered', turn: 2, figure: 12, key: 'house' }),
    }
    const fellOver = entryOf([first, second], requestRow(second, { startedAtMs: at(3) }))
    await write([slow, dear, failed, fellOver])
    const id = (entry: typeof slow) => entry.request?.requestId ?? ''
    return { orgId, keyId, projectId, slow: id(slow), dear: id(dear), failed: id(failed), fellOver: id(fellOver) }
  }

  test('are found by what is known of them', async () => {
    const { orgId, keyId, projectId, slow, dear, failed, fellOver } = await some()
    const found = async (filter: string) =>
      (await get(`/usage/requests?org=${orgId}&${RANGE}&${filter}`)).data.map(({ id }: Json) => id)
    expect(await found('')).toEqual([fellOver, failed, dear, slow])
    expect(await found('status_class=target')).toEqual([failed])
    expect(await found('status_class=ok')).toEqual([fellOver, dear, slow])
    expect(await found('min_cost_usd=4.99')).toEqual([dear])
    expect(await found('min_duration_ms=9000')).toEqual([slow])
    expect(await found('min_first_token_ms=2000')).toEqual([slow])
    expect(await found('tag=env%3Dprod')).toEqual([dear])
    expect(await found('tag=!env')).toEqual([fellOver, failed, slow])
    expect(await found('backend=none')).toEqual([failed, dear, slow])
    for (const length of [4, 8, 9, 13, 23, 36])
      expect(await found(`id_prefix=${dear.slice(0, length)}`)).toContain(dear)
    expect(await found(`id_prefix=${dear}`)).toEqual([dear])
    for (const wrong of ['id_prefix=zz00', 'id_prefix=0000-', 'min_duration_ms=-1', 'status_class=bad', 'since=x'])
      expect([wrong, (await admin('GET', `/usage/requests?org=${orgId}&${wrong}`)).status]).toEqual([wrong, 400])
    const { names } = await get(`/usage/requests?org=${orgId}&${RANGE}`)
    expect(names.keys[keyId]).toMatchObject({ name: 'the key', revoked: false })
    expect(names.projects[projectId]).toBe('main')
  })

  test('come into the live log when they are recorded, however long ago they began', async () => {
    const { orgId, fellOver, failed } = await some()
    const path = `/usage/requests?org=${orgId}&${RANGE}`
    const first = await get(`${path}&limit=2`)
    expect(first.data.map(({ id }: Json) => id)).toEqual([fellOver, failed])
    // Began before all others and took long.
    const late = simpleEntry(orgId, { startedAtMs: NOON_MS - 3_600_000, recordedAtMs: NOON_MS + 3_600_000 })
    await write([late])
    const next = await get(`${path}&since=${first.since}`)
    expect(next.data[0].id).toBe(late.request?.requestId)
    expect(next.next_cursor).toBeUndefined()
    const after = await get(`${path}&since=${next.since}`)
    expect(after.data.map(({ id }: Json) => id)).toEqual([late.request?.requestId])
    expect((await admin('GET', `${path}&since=${first.since}&cursor=x`)).status).toBe(400)
  })

  test('that the live log has no room for are counted', async () => {
    const { orgId } = await some()
    const path = `/usage/requests?org=${orgId}&${RANGE}`
    const since = new Date(NOON_MS - 86_400_000).toISOString()
    const whole = await get(`${path}&since=${since}`)
    expect(whole.left_out).toBe(0)
    const part = await get(`${path}&since=${since}&limit=2`)
    expect([part.data.length, part.left_out]).toEqual([2, whole.data.length - 2])
    expect((await get(`${path}&limit=2`)).left_out).toBeUndefined()
  })

  test('are shown with their attempts in time, and the operator’s house to the operator alone', async () => {
    const { orgId, fellOver } = await some()
    const shown = await get(`/usage/requests/${fellOver}?org=${orgId}`)
    expect(shown).toMatchObject({ estimated: true, status_class: 'ok', stored_response: null, first_token_ms: 1_000 })
    expect(shown.attempt_rows.map((row: Json) => row.offset_ms)).toEqual([
      { start: 0, first_token: null, end: 1_000 },
      { start: 700, first_token: 1_000, end: 1_700 },
    ])
    expect(shown.attempt_rows[1].route).toMatchObject({ role: 'fallback', reason: 'ordered', turn: 2, key: 'house' })
    expect(shown.attempt_rows[0].unit_prices.nanousd_per_million).toBeDefined()
    expect((await admin('GET', `/usage/requests/${fellOver}/text?org=${orgId}`)).status).toBe(404)
  })
})

describe('a statement', () => {
  test('adds up to what the ledger took in the month, line by line, with corrections and credit', async () => {
    const org = (await admin('POST', '/organisations', { slug: newName('bill') })).body.id
    const price = { ...PRICE, basisPoints: 12_345 }
    const usage = { ...used(0, 0), inputUncached: 333, outputText: 7, inputCacheRead: 1 }
    const priced = {
      priceVersionId: 'v9',
      perMillion: { inputUncached: 1_234_567n, inputCacheRead: 98_765n, outputText: 7_654_321n },
    }
    const rows = [
      attemptRow(org, { usage, price: priced, costNanoUsd: 465n }),
      attemptRow(org, { usage, price: priced, costNanoUsd: 465n }),
      attemptRow(org, { usage, price: { ...priced, basisPoints: 15_000 }, costNanoUsd: 697n, modelRequested: 'large' }),
      attemptRow(org, { usage, price: undefined, pricing: 'price_missing', costNanoUsd: 0n, provider: 'vendor' }),
      attemptRow(org, { charge: 'absorbed', costNanoUsd: 999n }),
      // Began in October of Berlin and ended in November.
      attemptRow(org, { startedAtMs: Date.UTC(2026, 9, 31, 22, 59, 59), price, costNanoUsd: 100n }),
      // The other way round.
      attemptRow(org, { startedAtMs: Date.UTC(2026, 10, 30, 22, 59, 59), price, costNanoUsd: 10_000n }),
    ]
    const guess = attemptRow(org, { usageSource: 'estimated', costNanoUsd: 50n, usage: used(1, 0) })
    const corrected = { ...guess, kind: 'adjustment' as const, usageSource: 'provider' as const, costNanoUsd: -20n }
    await write([...rows, guess].map((row) => entryOf([row])))
    await write([entryOf([corrected])])
    const grant = { id: crypto.randomUUID(), kind: 'payment', amount_usd: '12.50', note: '=1+1' }
    expect((await admin('POST', `/organisations/${org}/credit/grants`, grant)).status).toBe(201)
    await connect(env).run({
      text: `UPDATE credit_grants SET occurred_at = '2026-11-05T00:00:00Z' WHERE org_id = $1`,
      params: [org],
    })
    await connect(env).run({
      text: `UPDATE ledger_entries SET occurred_at = '2026-11-05T00:00:00Z' WHERE org_id = $1 AND purpose = 'grant'`,
      params: [org],
    })
    await connect(env).run({
      text: `INSERT INTO ledger_days (org_id, day, made) VALUES ($1, '2026-11-05', false) ON CONFLICT DO NOTHING`,
      params: [org],
    })
    const path = `/organisations/${org}/statements/2026-11?time_zone=Europe/Berlin`
    const statement = await get(path)
    expect(statement).toMatchObject({
      from: '2026-10-31T23:00:00.000Z',
      to: '2026-11-30T23:00:00.000Z',
      usage_nanousd: '1757',
      corrections_nanousd: '-20',
      credit_nanousd: '12500000000',
      opening_balance_nanousd: '0',
      closing_balance_nanousd: '12499998243',
      matches_ledger: true,
    })
    const sum = (values: string[]) => values.reduce((total, value) => total + BigInt(value), 0n)
    expect(sum(statement.lines.map((line: Json) => line.amount_nanousd))).toBe(1_757n)
    for (const line of statement.lines) {
      if (line.rounding_nanousd === null) continue
      const parts = line.parts.map((part: Json) => part.amount_nanousd)
      expect(sum([...parts, line.rounding_nanousd])).toBe(BigInt(line.amount_nanousd))
    }
    // The same out of days that are made, out of rows that came after that, and made again.
    const same = async () => expect({ ...(await get(path)), created_at: 0 }).toEqual({ ...statement, created_at: 0 })
    await rollAll(org, connect(env), NOON_MS + 20 * 86_400_000)
    await same()
    const december = `/organisations/${org}/statements/2026-12?time_zone=America/Los_Angeles`
    expect(await get(december)).toMatchObject({ opening_balance_nanousd: '12499988243', usage_nanousd: '0' })
    const again = attemptRow(org, { startedAtMs: Date.UTC(2026, 9, 3), price, costNanoUsd: 3n })
    await write([entryOf([again])])
    const opening = async () => (await get(path)).opening_balance_nanousd
    expect(await opening()).toBe('-3')
    expect((await get(`/organisations/${org}/credit`)).balance_nanousd).toBe('12499988240')
    await rollAll(org, connect(env), NOON_MS + 20 * 86_400_000)
    expect(await opening()).toBe('-3')
    expect((await get(`/organisations/${org}/credit`)).balance_nanousd).toBe('12499988240')
    expect(await get(`/ledger/check?org=${org}`)).toMatchObject({ ok: true, wrong_days: [] })
    await connect(env).run({
      text: `UPDATE ledger_day_sums SET amount_nanousd = amount_nanousd + 1 WHERE org_id = $1 AND day = '2026-10-03' AND amount_nanousd < 0`,
      params: [org],
    })
    const checked = await get(`/ledger/check?org=${org}`)
    expect(checked).toMatchObject({ ok: false, balanced: true, wrong_days: [{ sum_nanousd: '-1' }] })

    const large = statement.lines.find((line: Json) => line.model === 'large')
    expect(large.parts[0]).toEqual({
      part: 'input_uncached',
      units: 333,
      unit_price_nanousd_per_million: '1851850.5',
      amount_nanousd: '617',
    })
    expect(statement.lines.filter((line: Json) => line.kind === 'correction')).toHaveLength(1)
    const october = await get(`/organisations/${org}/statements/2026-10`)
    expect(october.usage_nanousd).toBe('103')
    expect((await get(`/organisations/${org}/statements?time_zone=Europe/Berlin`)).data.at(-1).month).toBe('2026-10')

    const csv = await admin('GET', `${path}&format=csv`)
    const lines = csv.text
      .trimEnd()
      .split('\r\n')
      .map((line) => line.split(','))
    const [head = [], ...body] = lines
    const column = (name: string) => head.indexOf(name)
    const used_ = body.filter((cells) => ['usage', 'correction'].includes(cells[column('kind')] ?? ''))
    expect(sum(used_.map((cells) => cells[column('amount_nanousd')] || '0'))).toBe(1_757n)
    const attempts = used_.map((cells) => Number(cells[column('attempts')] || 0))
    expect(attempts.reduce((total, one) => total + one, 0)).toBe(6)
    expect(csv.text).toContain(`'=1+1`)
    expect(lines.at(-1)?.[0]).toBe('end')
    expect((await admin('GET', `/organisations/${org}/statements/2026-13`)).status).toBe(404)
  })
})

describe('limits', () => {
  test('are shown as admission sees them: settled, held, left, and where the month goes', async () => {
    const { orgId, keyId, projectId } = await newTenant()
    const limits = [
      { meter: 'money', window: 'month', max_usd: '0.000002' },
      { meter: 'requests', window: 'lifetime', max: 10 },
      { meter: 'concurrency', max: 3 },
    ]
    expect((await admin('PUT', `/organisations/${orgId}/limits`, { limits })).status).toBe(200)
    const each = { limits: [{ meter: 'requests', window: 'day', max: 5, hard: false }] }
    expect((await admin('PUT', `/organisations/${orgId}/keys/*/limits`, each)).status).toBe(200)
    const state = async () => {
      const answer = await get(`/organisations/${orgId}/limits/state`)
      return {
        answer,
        by: (meter: string, scope = 'org') =>
          answer.data.find((one: Json) => one.meter === meter && one.scope === scope),
      }
    }
    const before = await state()
    expect(before.answer.rules_version).toBeGreaterThan(0)
    expect(before.by('money')).toMatchObject({
      max: '2000',
      settled: '0',
      held: '0',
      remaining: '2000',
      window: 'month',
    })
    expect(before.by('requests', 'key')).toMatchObject({ scope_id: '*', subject: null })

    const account = newAccount({ orgId, projectId, keyId })
    const nowMs = Date.now()
    await account.setNow(nowMs)
    await serve(account, { startedAtMs: nowMs })
    const open = account.ask({ startedAtMs: nowMs, deadlineAtMs: nowMs + 60_000 })
    const hold = await account.stub.reserve(open)
    expect(hold.ok).toBe(true)
    // Viewers share a reading for a second.
    await scheduler.wait(1_050)
    const { answer, by } = await state()
    expect(answer.age_ms).toBeGreaterThanOrEqual(0)
    const held = hold.ok ? hold.value.heldNanoUsd : 0n
    expect(by('money')).toMatchObject({ held: held.toString(), subject: orgId })
    expect(BigInt(by('money').settled) + held + BigInt(by('money').remaining)).toBe(2_000n)
    expect(answer.held_nanousd).toBe(held.toString())
    expect(by('requests')).toMatchObject({
      settled: '1',
      held: '1',
      remaining: '8',
      window_end: null,
      projection: null,
    })
    expect(by('concurrency')).toMatchObject({ settled: '0', held: '1', remaining: '2', window: null })
    expect(by('requests', 'key')).toMatchObject({
      subject: keyId,
      settled: '1',
      held: '1',
      remaining: '3',
      hard: false,
    })
    expect(answer.names.keys[keyId].name).toBe('test')
    const { projection } = by('money')
    if (projection !== null) expect(BigInt(projection.value)).toBeGreaterThanOrEqual(BigInt(by('money').settled))
  })
})

describe('health and history', () => {
  test('of targets come from the rows of the last minutes, by key and by what went wrong', async () => {
    const { orgId } = await newTenant()
    const nowMs = Date.now()
    const provider = newName('p')
    const row = (agoMs: number, change: Partial<AttemptRow>, kind?: string) =>
      simpleEntry(orgId, {
        provider,
        startedAtMs: nowMs - agoMs,
        firstTokenAtMs: nowMs - agoMs + 200,
        endedAtMs: nowMs - agoMs + 1_200,
        route: JSON.stringify({ role: 'primary', key: 'k1', ...(kind === undefined ? {} : { kind }) }),
        ...change,
      })
    await write([
      row(60_000, {}),
      row(120_000, { status: 'upstream_error' }, 'rate_limited'),
      row(30 * 60_000, { status: 'upstream_error' }, 'stall'),
      row(90 * 60_000, {}),
    ])
    const health = await get('/providers/health')
    const mine = health.data.filter((one: Json) => one.provider === provider)
    expect(mine).toHaveLength(1)
    expect(mine[0]).toMatchObject({
      key: 'k1',
      last_5_minutes: { attempts: 2, ok: 1, failed: 1, failures: { rate_limited: 1 }, output_tokens_per_second: 5 },
      last_60_minutes: { attempts: 3, ok: 1, failed: 2, failures: { rate_limited: 1, stall: 1 } },
    })
    expect(mine[0].last_5_minutes.first_token.count).toBe(1)
    expect(health.breakers).toEqual({ scope: 'this isolate', targets: [], keys: [] })
  })

  test('of the catalog can be told between any two versions', async () => {
    const provider = newName('diff')
    const document = (baseUrl: string) => ({
      format: 'penstock/v1',
      providers: { [provider]: { kind: 'openai_compatible', base_url: baseUrl } },
    })
    const current = await get('/config')
    const format = current.document.format
    const apply = async (baseUrl: string) =>
      (
        await admin('POST', '/config/apply', {
          document: { ...document(baseUrl), format },
          secrets: { [provider]: { default: 'sk-0123456789abcdef' } },
        })
      ).body
    const first = await apply('https://one.example.com/v1')
    const second = await apply('https://two.example.com/v1')
    expect(second.version).toBeGreaterThan(first.version)
    const { changes, summary } = await get(`/config/diff?from=${first.version}&to=${second.version}`)
    expect(summary).toEqual({ added: 0, changed: 1, removed: 0 })
    expect(changes[0]).toMatchObject({ object: 'provider', name: provider, action: 'change' })
    expect((await get(`/config/diff?from=${second.version}`)).to).toBeNull()
    expect((await admin('GET', '/config/diff?from=999999')).status).toBe(404)
  })

  test('of acts is found by object and time, and goes out as a file', async () => {
    const { orgId, keyId } = await newTenant()
    const path = `org_id=${orgId}&object_id=${keyId}`
    const { data } = await get(`/audit?${path}`)
    expect(data.map((entry: Json) => entry.action)).toEqual(['key.create'])
    expect((await get(`/audit?${path}&action=key.*`)).data).toHaveLength(1)
    expect((await get(`/audit?${path}&action=keys.*`)).data).toHaveLength(0)
    expect((await get(`/audit?org_id=${orgId}&to=2020-01-01`)).data).toHaveLength(0)
    const csv = await admin('GET', `/audit/export?org_id=${orgId}`)
    expect(csv.text.trimEnd().split('\r\n').at(-1)).toMatch(/^end,3,/)
    expect(csv.text).toContain(keyId)
  })

  test('of keys says when each was used last', async () => {
    const { orgId, keyId } = await newTenant()
    const nowMs = Date.now()
    await write([simpleEntry(orgId, { keyId, startedAtMs: nowMs - 5_000, endedAtMs: nowMs - 4_000 })])
    await rollAll(orgId)
    const use = await get(`/organisations/${orgId}/key-use`)
    expect(use.data).toEqual([{ key_id: keyId, last_used_at: new Date(nowMs - 4_000).toISOString() }])
  })
})

test('the fleet is followed as events, and a page that goes away is forgotten', async () => {
  const { adminApp } = await import('../../gateway/admin/index.ts')
  const headers = { authorization: `Bearer ${env.ADMIN_TOKEN}` }
  const response = await adminApp.request('/backends/events', { headers }, env)
  expect(response.headers.get('content-type')).toContain('text/event-stream')
  const reader = response.body?.getReader()
  const first = new TextDecoder().decode((await reader?.read())?.value)
  expect(first).toMatch(/^retry: 1000\nevent: snapshot\ndata: \{"as_of":/)
  await reader?.cancel()
})
