// Exports: every row once, in a stable order, to the nano-dollar, whatever callers called themselves.
import { env } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { adminApp } from '../../gateway/admin/index.ts'
import { connect } from '../../gateway/db/connect.ts'
import { admin, type Json, newTenant, withoutDatabase } from './support/admin.ts'
import { attemptRow, entryOf, NOON_MS, requestRow, rollAll, simpleEntry, write } from './support/usage-rows.ts'

const RANGE = 'from=2026-11-22&to=2026-11-23'
const NASTY = [
  '=HYPERLINK("http://x","y")',
  '+1',
  '-2+3',
  '@SUM(A1)',
  '\ttab',
  '\rreturn',
  "'quoted",
  'a,b;c',
  'say "hi"',
  'two\r\nlines',
  ' ',
  '😀',
  '-5',
  'null',
]

type Row = Record<string, string>

/** The body of a download. */
async function download(path: string): Promise<{ text: string; headers: Headers }> {
  const response = await adminApp.request(path, { headers: { authorization: `Bearer ${env.ADMIN_TOKEN}` } }, env)
  const bytes = await response.arrayBuffer()
  if (response.status !== 200) throw new Error(`${response.status} ${new TextDecoder().decode(bytes)}`)
  return { text: new TextDecoder().decode(bytes), headers: response.headers }
}

/** Records of RFC 4180 under the names of the first one; the apostrophe in front of a text is taken away again. */
function readCsv(text: string): { rows: Row[]; end: string[] } {
  if (!text.endsWith('\r\n')) throw new Error('the last line is cut')
  const records: string[][] = [[]]
  for (const [, quoted, plain = '', after] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/g)) {
    records.at(-1)?.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'))
    if (after === '\r\n') records.push([])
  }
  const [head = [], ...rest] = records.slice(0, -1)
  const end = rest.pop() ?? []
  if (rest.some((record) => record.length !== head.length)) throw new Error('a record has another width')
  return { rows: rest.map((record) => Object.fromEntries(head.map((name, at) => [name, record[at] ?? '']))), end }
}
const plain = (cell: string | undefined) => (cell ?? '').replace(/^'/, '')
const readJson = (text: string): Json[] =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))

const total = (rows: readonly Json[], column: string): bigint =>
  rows.reduce((sum, row) => sum + BigInt(row[column] || 0), 0n)

/**
 * An attempt of 20 nano-dollars, and as many more like it, made by Postgres: at four instants, so that pages end between
 * rows of one time, and each with another cost.
 */
async function copies(orgId: string, count: number) {
  const row = attemptRow(orgId)
  await write([entryOf([row])])
  const { rows } = await connect(env).run({
    text: `SELECT column_name FROM information_schema.columns WHERE table_name = 'usage_attempts'`,
    params: [],
  })
  const made = new Map([
    ['request_id', 'md5(request_id::text || n)::uuid'],
    ['started_at', `started_at + (n % 4) * interval '1 millisecond'`],
    ['cost_nanousd', 'n::bigint * n * n * n * n'],
  ])
  const names = rows.map(([name]) => String(name))
  await connect(env).run({
    text: `INSERT INTO usage_attempts (${names.join(', ')}) SELECT ${names.map((name) => made.get(name) ?? name).join(', ')}
      FROM usage_attempts, generate_series(1, $2::int) AS n WHERE org_id = $1`,
    params: [orgId, count],
  })
}

describe('a usage export', () => {
  test('gives every caller its own name back, runs none as a formula, and stays the same in both forms', async () => {
    const orgId = crypto.randomUUID()
    await write(NASTY.map((endUser, index) => simpleEntry(orgId, { endUser, startedAtMs: NOON_MS + index })))
    const csv = await download(`/usage/export?org=${orgId}&${RANGE}&format=csv`)
    expect(csv.headers.get('content-type')).toBe('text/csv; charset=utf-8; header=present')
    expect(csv.headers.get('content-disposition')).toContain(`usage-${orgId}-2026-11-22-2026-11-23.csv`)
    const { rows, end } = readCsv(csv.text)
    expect(rows.map((row) => plain(row.end_user))).toEqual(NASTY)
    for (const row of rows) expect(row.end_user).not.toMatch(/^[=+\-@\t\r]/)
    expect(end.slice(0, 2)).toEqual(['end', String(NASTY.length)])
    const lines = readJson((await download(`/usage/export?org=${orgId}&${RANGE}&format=json`)).text)
    expect(lines.pop()).toEqual({ row: 'end', rows: NASTY.length })
    expect(lines.map((line) => line.end_user)).toEqual(NASTY)
    for (const [index, line] of lines.entries())
      for (const [name, value] of Object.entries(line))
        expect([name, plain(rows[index]?.[name])]).toEqual([name, value === null ? '' : String(value)])
  })

  test('of several pages has every row once, in order, and sums to what the API says', async () => {
    const { orgId } = await newTenant()
    await copies(orgId, 1_029)
    const first = attemptRow(orgId, { charge: 'absorbed', providerCostNanoUsd: 5n, startedAtMs: NOON_MS + 9 })
    const fallback = { ...first, attempt: 2, charge: 'customer' as const, provider: 'vendor' }
    const late = { ...fallback, kind: 'adjustment' as const, costNanoUsd: -3n }
    await write([entryOf([first, fallback, late], requestRow(fallback))])
    await rollAll(orgId)
    const lines = readJson((await download(`/usage/export?org=${orgId}&${RANGE}&format=json`)).text)
    expect(lines.pop()).toEqual({ row: 'end', rows: 1_033 })
    expect(lines.map((line) => line.row)).toEqual(Array.from({ length: 1_033 }, (_, index) => index + 1))
    expect(new Set(lines.map((line) => `${line.request_id}/${line.attempt}/${line.kind}`)).size).toBe(1_033)
    const order = lines.map((line) => `${line.started_at} ${line.request_id} ${line.attempt}`)
    expect(order).toEqual([...order].sort())
    const api = (await admin('GET', `/usage?org=${orgId}&${RANGE}`)).body.total
    const paid = lines.filter((line) => line.charge === 'customer')
    expect(total(paid, 'cost_nanousd').toString()).toBe(api.cost_nanousd)
    expect(total(lines, 'cost_nanousd') - total(paid, 'cost_nanousd')).toBe(BigInt(api.absorbed_nanousd))
    expect(total(lines, 'provider_cost_nanousd').toString()).toBe(api.provider_cost_nanousd)
    for (const part of Object.keys(api.usage))
      expect([part, Number(total(paid, part))]).toEqual([part, api.usage[part]])
    expect(lines.filter((line) => line.kind === 'attempt')).toHaveLength(api.attempts)
    expect(lines.some((line) => line.cost_nanousd === '-3' && line.cost_usd === '-0.000000003')).toBe(true)
    const { rows } = readCsv((await download(`/usage/export?org=${orgId}&${RANGE}`)).text)
    expect(total(rows, 'cost_nanousd')).toBe(total(lines, 'cost_nanousd'))
    expect(rows.find((row) => row.kind === 'adjustment')).toMatchObject({
      cost_nanousd: '-3',
      cost_usd: '-0.000000003',
    })
  })

  test('keeps to its filters and its range, whose end is exclusive', async () => {
    const orgId = crypto.randomUUID()
    const other = crypto.randomUUID()
    const at = (minutes: number, more = {}) => simpleEntry(orgId, { startedAtMs: NOON_MS + minutes * 60_000, ...more })
    await write([at(0), at(1, { projectId: other }), at(2, { status: 'client_cancelled' }), at(3)])
    const count = async (more: string) => {
      const lines = readJson((await download(`/usage/export?org=${orgId}&format=json&${more}`)).text)
      return lines.at(-1).rows
    }
    expect(await count(RANGE)).toBe(4)
    expect(await count(`${RANGE}&project=${other}`)).toBe(1)
    expect(await count(`${RANGE}&status=client_cancelled`)).toBe(1)
    expect(await count('from=2026-11-22T12:01:00Z&to=2026-11-22T12:03:00Z')).toBe(2)
    expect(await count('from=2026-11-23&to=2026-11-24')).toBe(0)
  })

  test('that cannot begin is an error, and one that breaks off has no end', async () => {
    const orgId = crypto.randomUUID()
    const dead = await admin('GET', `/usage/export?org=${orgId}&${RANGE}`, undefined, { env: withoutDatabase() })
    expect(dead.status).toBe(503)
    await copies(orgId, 1_000)
    const pool = env.DATABASE_POOL.getByName('pool')
    let calls = 0
    const failing = {
      run: (statement: Parameters<typeof pool.run>[0]) =>
        ++calls > 1 ? Promise.resolve({ outcome: 'unavailable', message: 'test: gone' }) : pool.run(statement),
    }
    const broken = { ...env, DATABASE_POOL: { getByName: () => failing } as unknown as typeof env.DATABASE_POOL }
    await expect(admin('GET', `/usage/export?org=${orgId}&${RANGE}`, undefined, { env: broken })).rejects.toThrow(
      'test: gone',
    )
  })
})

describe('a ledger export', () => {
  test('has every entry once, and adds up to zero', async () => {
    const { orgId } = await newTenant()
    await write(
      Array.from({ length: 520 }, (_, index) => simpleEntry(orgId, { endedAtMs: NOON_MS + Math.floor(index / 200) })),
    )
    const id = crypto.randomUUID()
    await admin('POST', `/organisations/${orgId}/credit/grants`, { id, kind: 'payment', amount_usd: '1' })
    const range = 'from=2026-11-22&to=2027-11-22'
    const lines = readJson((await download(`/ledger/export?org=${orgId}&${range}&format=json`)).text)
    expect(lines.pop()).toEqual({ row: 'end', rows: 1_042 })
    expect(new Set(lines.map((line) => `${line.transfer_id}/${line.account}`)).size).toBe(1_042)
    expect(total(lines, 'amount_nanousd')).toBe(0n)
    const checked = (await admin('GET', `/ledger/check?org=${orgId}`)).body
    for (const { name, balance_nanousd } of checked.accounts)
      expect([
        name,
        total(
          lines.filter((line) => line.account === name),
          'amount_nanousd',
        ).toString(),
      ]).toEqual([name, balance_nanousd])
    expect(lines.filter((line) => line.purpose === 'grant')).toMatchObject([
      { transfer_id: id, request_id: null, amount_usd: expect.stringMatching(/^-?1$/) },
      { transfer_id: id, request_id: null },
    ])
    const credit = readCsv((await download(`/ledger/export?org=${orgId}&${range}&account=customer_credit`)).text)
    expect(credit.rows).toHaveLength(521)
    const none = readCsv((await download(`/ledger/export?org=${orgId}&${range}&account=promotions`)).text)
    expect([none.rows.length, none.end[1]]).toEqual([0, '0'])
  })

  test('and the pages of entries show the same', async () => {
    const orgId = crypto.randomUUID()
    await write(Array.from({ length: 7 }, (_, index) => simpleEntry(orgId, { endedAtMs: NOON_MS + (index >> 1) })))
    const seen: Json[] = []
    let cursor = ''
    do {
      const page = (await admin('GET', `/ledger/entries?org=${orgId}&from=2026-11-22&to=2026-11-23&limit=4${cursor}`))
        .body
      seen.push(...page.data)
      cursor = page.next_cursor === undefined ? '' : `&cursor=${page.next_cursor}`
    } while (cursor !== '')
    const lines = readJson(
      (await download(`/ledger/export?org=${orgId}&from=2026-11-22&to=2026-11-23&format=json`)).text,
    )
    lines.pop()
    const identity = (one: Json) => `${one.occurred_at} ${one.transfer_id} ${one.account} ${one.amount_usd}`
    expect(new Set(seen.map(identity))).toEqual(new Set(lines.map(identity)))
    expect(seen).toHaveLength(14)
    const times = seen.map((one) => one.occurred_at)
    expect(times).toEqual([...times].sort().reverse())
  })
})

describe('the check of the books', () => {
  const check = async (orgId: string, more = ''): Promise<Json> =>
    (await admin('GET', `/ledger/check?org=${orgId}${more}`)).body
  const break_ = (orgId: string, text: string) => connect(env).run({ text, params: [orgId] })

  test('canary: names an entry without its row, a row without its entry, and what the accounts are off by', async () => {
    const orgId = crypto.randomUUID()
    const [lost, kept] = [attemptRow(orgId, { costNanoUsd: 5n }), attemptRow(orgId, { costNanoUsd: 7n })]
    await write([entryOf([lost]), entryOf([kept])])
    expect(await check(orgId)).toMatchObject({ ok: true })
    await break_(orgId, 'DELETE FROM usage_attempts WHERE org_id = $1 AND cost_nanousd = 5')
    const orphaned = await check(orgId)
    expect(orphaned).toMatchObject({
      ok: false,
      balanced: true,
      complete: false,
      matches_usage: false,
      missing_entries: [],
    })
    expect(orphaned.orphan_entries.map((one: Json) => one.sum_nanousd).sort()).toEqual(['-5', '5'])
    expect(orphaned.differences.map((one: Json) => [one.account, one.balance_nanousd, one.expected_nanousd])).toEqual([
      ['customer_credit', '-12', '-7'],
      ['usage_revenue', '12', '7'],
    ])
    await break_(orgId, 'DELETE FROM ledger_entries WHERE org_id = $1')
    const missing = await check(orgId)
    expect(missing).toMatchObject({ ok: false, balanced: true, complete: false })
    expect(missing.missing_entries).toEqual([
      { id: `${kept.requestId}/1/attempt/usage`, sum_nanousd: '7', sum_usd: '0.000000007' },
    ])
  })

  test('canary: notices a provider cost and a grant whose entries say something else', async () => {
    const { orgId } = await newTenant()
    await write([entryOf([attemptRow(orgId, { providerCostNanoUsd: 9n })])])
    const id = crypto.randomUUID()
    await admin('POST', `/organisations/${orgId}/credit/grants`, { id, kind: 'promotion', amount_usd: '1' })
    expect(await check(orgId)).toMatchObject({ ok: true })
    await break_(
      orgId,
      `UPDATE ledger_entries SET amount_nanousd = amount_nanousd * 2 WHERE org_id = $1 AND purpose <> 'usage'`,
    )
    const checked = await check(orgId)
    expect(checked).toMatchObject({ ok: false, balanced: true, orphan_entries: [] })
    expect(checked.missing_entries.map((one: Json) => one.sum_nanousd).sort()).toEqual(['1000000000', '9'])
    expect(checked.differences.map((one: Json) => one.account)).toEqual([
      'customer_credit',
      'provider_cost',
      'provider_payable',
      'promotions',
    ])
  })

  test('that takes too long says how to do it in pieces', async () => {
    const message = 'Postgres refuses work: canceling statement due to statement timeout (57014)'
    const slow = { run: () => Promise.resolve({ outcome: 'unavailable', message }) }
    const bindings = { ...env, DATABASE_POOL: { getByName: () => slow } as unknown as typeof env.DATABASE_POOL }
    const answer = await admin('GET', `/ledger/check?org=${crypto.randomUUID()}`, undefined, { env: bindings })
    expect(answer.status).toBe(503)
    expect(answer.body.error.message).toContain('Check piece by piece')
  })

  test('of a range looks at what happened in it', async () => {
    const orgId = crypto.randomUUID()
    await write([simpleEntry(orgId), simpleEntry(orgId, { startedAtMs: NOON_MS + 86_400_000 })])
    await break_(
      orgId,
      `DELETE FROM ledger_entries WHERE org_id = $1 AND occurred_at >= '2026-11-23' AND amount_nanousd > 0`,
    )
    expect(await check(orgId, '&from=2026-11-22&to=2026-11-23')).toMatchObject({
      ok: true,
      from: '2026-11-22T00:00:00.000Z',
    })
    expect(await check(orgId, '&from=2026-11-23&to=2026-11-24')).toMatchObject({ ok: false, balanced: false })
    expect((await admin('GET', `/ledger/check?org=${orgId}&from=2026-11-22`)).body.error.param).toBe('to')
  })
})

test('limit events are listed newest first, page by page, and by kind', async () => {
  const { orgId } = await newTenant()
  const limitId = crypto.randomUUID()
  const events = ['passed', 'refused'].flatMap((kind) =>
    [0, 1, 2].map((minute) => ({
      orgId,
      limitId,
      subject: `=${'x'.repeat(250)}\u0001${minute}`,
      windowKey: 'day@2026-11-22T00:00Z',
      kind: kind as 'passed',
      max: 10n,
      value: 2n ** 62n,
      occurredAtMs: NOON_MS + minute,
    })),
  )
  await write([{ attempts: [], transfers: [], events }])
  const seen: Json[] = []
  let cursor = ''
  do {
    const page = (await admin('GET', `/organisations/${orgId}/limit-events?limit=4${cursor}`)).body
    seen.push(...page.data)
    cursor = page.next_cursor === undefined ? '' : `&cursor=${page.next_cursor}`
  } while (cursor !== '')
  expect(seen.map(({ occurred_at, kind }) => [occurred_at.slice(17), kind])).toEqual([
    ['00.002Z', 'refused'],
    ['00.002Z', 'passed'],
    ['00.001Z', 'refused'],
    ['00.001Z', 'passed'],
    ['00.000Z', 'refused'],
    ['00.000Z', 'passed'],
  ])
  expect(seen[0]).toMatchObject({
    limit_id: limitId,
    max: '10',
    value: '4611686018427387904',
    subject: events[2]?.subject,
  })
  const passed = (await admin('GET', `/organisations/${orgId}/limit-events?kind=passed`)).body.data
  expect(passed).toHaveLength(3)
  expect((await admin('GET', `/organisations/${crypto.randomUUID()}/limit-events`)).status).toBe(404)
})

test.each([
  ['/usage/export', 'org'],
  [`/usage/export?org=${crypto.randomUUID()}&format=xml`, 'format'],
  [`/ledger/export?org=${crypto.randomUUID()}&account=bank`, 'account'],
  [`/ledger/entries?org=${crypto.randomUUID()}&from=2020-01-01&to=2026-01-01`, 'from'],
])('%s is refused with the name of the parameter', async (path, param) => {
  const answer = await admin('GET', path)
  expect([answer.status, answer.body.error.param]).toEqual([400, param])
})
