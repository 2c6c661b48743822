// Canaries: secrets, prompts, answers and end users are sent through good and failing requests, and looked for in every
// log line, every error, every text column of Postgres and every table of the objects.
import { env, runInDurableObject } from 'cloudflare:test'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { directoryName } from '../../gateway/auth/directory.ts'
import { hashKey } from '../../gateway/auth/keys.ts'
import { connect } from '../../gateway/db/connect.ts'
import { admin, newName, present, type Tenant, withoutDatabase } from './support/admin.ts'
import { answer, usage } from './support/fake-agent.ts'
import { FLEET_TARGET, World } from './support/path.ts'
import { newPerson, TestIssuer } from './support/people.ts'

const LEVELS = ['debug', 'log', 'info', 'warn', 'error'] as const

/** Texts that no other test and no code of ours contains. */
const mark = (name: string) => `canary-${name}-${crypto.randomUUID()}`
const PROMPT = mark('prompt')
const SYSTEM = mark('system')
const ANSWER = mark('answer')
const END_USER = mark('end-user')
const PROVIDER_SECRET = `sk-${mark('provider')}`
/** What a failing upstream says of our request. */
const UPSTREAM_TEXT = mark('upstream')

const logged: string[] = []
const errors: string[] = []
const answers: string[] = []
/** Everything that may stand nowhere at rest, by what it is. */
const canaries = new Map<string, string>()
let tenant: Tenant
let world: World
let token: string

const chat = {
  messages: [
    { role: 'system', content: SYSTEM },
    { role: 'user', content: PROMPT },
  ],
  user: END_USER,
}

/** Sends a request to the end, whatever it is, and keeps what came back. */
async function call(body: unknown, options: Parameters<World['send']>[2] = {}, path = '/v1/chat/completions') {
  const { response, settled } = await world.send(path, body, options)
  const text = await response.text()
  await settled()
  const whole = `${JSON.stringify([...response.headers])} ${text}`
  ;(response.status >= 400 || text.includes('"error"') ? errors : answers).push(whole)
  return { status: response.status, text }
}

beforeAll(async () => {
  for (const level of LEVELS) {
    vi.spyOn(console, level).mockImplementation((...said: unknown[]) => {
      logged.push(said.map((one) => (typeof one === 'string' ? one : JSON.stringify(one))).join(' '))
    })
  }
  world = new World()
  tenant = await world.ownTenant()
  const issuer = await TestIssuer.register(tenant)
  token = (await newPerson(issuer, 'developer')).token
  const rotated = await admin('POST', `/organisations/${tenant.orgId}/keys/${tenant.keyId}/rotate`, {
    overlap_seconds: 600,
  })
  const expired = await issuer.token('nobody', { exp: 1_700_000_000 })
  for (const [name, value] of Object.entries({
    // The beginning of a key is shown on purpose; a token's parts other than its signature are public claims.
    'API key': tenant.key.slice(12),
    'rotated key': rotated.body.key.slice(12),
    token: token.slice(-40),
    'expired token': expired.slice(-40),
    'operator token': env.ADMIN_TOKEN,
    'provider secret': PROVIDER_SECRET,
    'private signing key': JSON.parse(env.SIGNING_KEY_JWK).d,
    'key-encryption key': env.SECRETS_KEK,
    prompt: PROMPT,
    'system prompt': SYSTEM,
    answer: ANSWER,
    'upstream text': UPSTREAM_TEXT,
  })) {
    canaries.set(name, value)
  }
  await goodRequests()
  await failingRequests(expired)
  await adminRequests()
  await env.ACCOUNT.getByName(tenant.orgId).flush()
}, 60_000)

afterAll(() => vi.restoreAllMocks())

async function goodRequests() {
  await world.agent(() => answer([ANSWER, '.']))
  await world.catalog([FLEET_TARGET(world.model)])
  expect((await call({ model: world.model, ...chat })).status).toBe(200)
  expect((await call({ model: world.model, ...chat, stream: true })).text).toContain(ANSWER)
  expect((await call({ model: world.model, ...chat }, { key: token })).status).toBe(200)
  expect(
    (await call({ model: world.model, prompt: PROMPT, safety_identifier: END_USER }, {}, '/v1/completions')).status,
  ).toBe(200)
}

async function failingRequests(expired: string) {
  const body = { model: world.model, ...chat }
  const echo = (status: number) => (request: Request) =>
    Response.json({ error: { message: `${UPSTREAM_TEXT} ${request.headers.get('authorization')}` } }, { status })
  for (const status of [400, 401, 403, 429, 500]) {
    const name = await world.provider(echo(status), PROVIDER_SECRET)
    await world.catalog([{ provider: name, model: 'upstream', context_tokens: 2048 }])
    await call(body)
    await call({ ...body, stream: true })
  }
  const cut = await world.provider(
    () =>
      new Response(
        `data: {"choices":[{"index":0,"delta":{"content":"${ANSWER}"}}]}\n\ndata: {"error": "${UPSTREAM_TEXT}"}\n\ndata: {${UPSTREAM_TEXT}`,
        { headers: { 'content-type': 'text/event-stream' } },
      ),
    PROVIDER_SECRET,
  )
  await world.catalog([{ provider: cut, model: 'upstream', context_tokens: 2048 }])
  await world.send('/v1/chat/completions', { ...body, stream: true }).then(async ({ response, settled }) => {
    await response.text()
    await settled()
  })
  const broken = await world.agent(() => [
    { type: 'accepted', usage: usage(3, 0), queueMs: 0 },
    { raw: `{"type": "${UPSTREAM_TEXT}` },
    'cut',
  ])
  await world.catalog([FLEET_TARGET(world.model)])
  await call(body)
  await broken.report([])

  await call(`{"model": "${world.model}", "messages": [{"role": "user", "content": "${PROMPT}"}`)
  await call({ ...body, temperature: PROMPT })
  await call({ model: 'no-such-model', ...chat })
  await call({ ...body, max_tokens: PROMPT })
  await call({ ...body, messages: PROMPT })
  await call({ ...body, user: `${END_USER}\u0000` })
  await call({ model: world.model, input: [PROMPT, 7] }, {}, '/v1/embeddings')
  for (const key of [
    `${tenant.key}x`,
    `x${tenant.key}`,
    expired,
    `${token.slice(0, -4)}AAAA`,
    `${token}.${token}`,
    env.ADMIN_TOKEN,
  ]) {
    expect((await call(body, { key })).status).toBe(401)
  }
  await call(body, { headers: { 'x-penstock-deadline-ms': PROMPT } })
}

async function adminRequests() {
  const path = `/organisations/${tenant.orgId}`
  const tries: Promise<{ status: number; text: string; headers: Headers }>[] = [
    admin('PUT', `/providers/${newName('vendor')}`, {
      kind: PROVIDER_SECRET,
      base_url: 'https://x.example.com',
      secret: PROVIDER_SECRET,
    }),
    admin('PUT', `/providers/${newName('vendor')}`, {
      kind: 'openai_compatible',
      base_url: `https://u:${PROVIDER_SECRET}@x.example.com/`,
      secret: 'x',
    }),
    admin('PUT', `/providers/${newName('vendor')}`, undefined, { raw: `{"secret": ${PROVIDER_SECRET}}` }),
    admin('POST', `${path}/keys`, { project_id: tenant.projectId, name: 'k', [tenant.key]: 1, expires_at: tenant.key }),
    admin('POST', `${path}/users`, { email: token }),
    admin('POST', `${path}/issuers`, {
      jwks: { keys: [{ kty: 'oct', k: PROVIDER_SECRET }] },
      issuer: 'i',
      audience: 'a',
      algorithms: ['ES256'],
      max_role: 'viewer',
      project_id: tenant.projectId,
    }),
    admin('GET', `${path}/keys?cursor=${token}`),
    admin('GET', '/organisations', undefined, { token: `${env.ADMIN_TOKEN}x` }),
    admin('GET', '/organisations', undefined, { token: tenant.key }),
    admin('GET', '/organisations', undefined, { env: withoutDatabase() }),
    admin('POST', `${path}/users`, { email: 'a@example.com' }, { token, env: withoutDatabase() }),
  ]
  for (const { status, text, headers } of await Promise.all(tries)) {
    expect(status).toBeGreaterThanOrEqual(400)
    errors.push(`${JSON.stringify([...headers])} ${text}`)
  }
  const readers = [
    '/organisations',
    `${path}/keys`,
    `${path}/users`,
    `${path}/issuers`,
    '/providers',
    `/audit?org_id=${tenant.orgId}`,
    '/audit?limit=200',
    `/usage?org=${tenant.orgId}`,
  ]
  for (const reader of readers) answers.push((await admin('GET', reader)).text)
}

/** Which canaries stand in a text. */
const found = (text: string) => [...canaries].filter(([, value]) => text.includes(value)).map(([name]) => name)

describe('no canary stands', () => {
  test('in a log line, and no end user either', () => {
    expect(logged.length).toBeGreaterThan(10)
    const lines = logged.join('\n')
    expect(lines).toContain(tenant.orgId)
    expect(found(lines)).toEqual([])
    expect(lines).not.toContain(END_USER)
  })

  test('in an error, in its body or its headers', () => {
    expect(errors.length).toBeGreaterThan(30)
    // What a target says of a wrong request is for who made it.
    const told = (text: string) => found(text).filter((name) => name !== 'upstream text')
    for (const text of errors) expect([told(text), text.includes(END_USER)]).toEqual([[], false])
  })

  test('in an answer, but for the answer itself', () => {
    for (const text of answers) expect(found(text).filter((name) => name !== 'answer')).toEqual([])
  })

  test('in what is sent to a host that it is not for: no end user at all, a secret to its provider alone', () => {
    expect(world.calls.length).toBeGreaterThan(10)
    for (const { host, body, headers } of world.calls) {
      const sent = JSON.stringify([body, ...headers])
      expect(sent).not.toContain(END_USER)
      const secrets = found(sent).filter((name) => !['prompt', 'system prompt'].includes(name))
      expect(secrets).toEqual(host.startsWith('vendor') ? ['provider secret'] : [])
    }
  })

  test('in a text column of Postgres; the end user only where usage and limits name it', async () => {
    const places = await inPostgres([...canaries.values(), END_USER])
    expect(places.filter(({ value }) => value !== END_USER)).toEqual([])
    const allowed = [
      'usage_attempts.end_user',
      'usage_requests.end_user',
      'limit_events.subject',
      'limit_rules.scope_id',
    ]
    const ofEndUser = new Set(places.map(({ column }) => column))
    expect([...ofEndUser].filter((column) => !allowed.includes(column))).toEqual([])
    expect(ofEndUser).toContain('usage_requests.end_user')
  })

  test('in an account or a directory', async () => {
    const account = await storedIn(env.ACCOUNT.getByName(tenant.orgId))
    expect(account).toContain(tenant.orgId)
    const directory = await storedIn(env.DIRECTORY.getByName(directoryName(await hashKey(tenant.key))))
    expect(directory).toContain(tenant.keyId)
    expect(found(account + directory)).toEqual([])
  })
})

test('a canary that does stand somewhere is found', async () => {
  const planted = mark('planted')
  await admin('PATCH', `/organisations/${tenant.orgId}/keys/${tenant.keyId}`, { name: planted, end_user: planted })
  const columns = (await inPostgres([planted])).map(({ column }) => column)
  expect(new Set(columns)).toEqual(new Set(['api_keys.name', 'api_keys.scopes', 'audit_log.details']))
  expect((await present(tenant.key)).ok).toBe(true)
  expect(await storedIn(env.DIRECTORY.getByName(directoryName(await hashKey(tenant.key))))).toContain(planted)
})

/** Where the texts stand, in all columns of all tables that hold text. */
async function inPostgres(values: string[]): Promise<{ column: string; value: string }[]> {
  const database = connect(env)
  const { rows } = await database.run({
    text: `SELECT c.table_name, c.column_name FROM information_schema.columns c
      JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
      WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE' AND c.data_type NOT IN
        ('uuid', 'bigint', 'integer', 'boolean', 'date', 'timestamp with time zone')`,
    params: [],
  })
  expect(rows.length).toBeGreaterThan(30)
  const places: { column: string; value: string }[] = []
  for (const [table, column] of rows.map((row) => row.map(String))) {
    const marks = values.map(
      (_, index) => `max(CASE WHEN position($${index + 1} in "${column}"::text) > 0 THEN 1 ELSE 0 END)`,
    )
    const { rows: hits } = await database.run({ text: `SELECT ${marks.join(', ')} FROM "${table}"`, params: values })
    for (const [index, value] of values.entries()) {
      if (Number(hits[0]?.[index] ?? 0) === 1) places.push({ column: `${table}.${column}`, value })
    }
  }
  return places
}

/** All that an object's tables hold, as one text. */
function storedIn(stub: DurableObjectStub): Promise<string> {
  return runInDurableObject(stub, (_, state) => {
    const { sql } = state.storage
    const tables = sql
      .exec<{ name: string }>(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_cf%' ESCAPE '\\'",
      )
      .toArray()
    return tables.map(({ name }) => JSON.stringify([name, sql.exec(`SELECT * FROM "${name}"`).toArray()])).join('\n')
  })
}
