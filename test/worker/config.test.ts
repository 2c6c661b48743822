// The catalog as a document: what a dry run says is what applying does, versions, going back, and where no secret stands.
import { env } from 'cloudflare:test'
import { parse } from 'smol-toml'
import { afterAll, beforeEach, describe, expect, test, vi } from 'vitest'
import example from '../../deploy/penstock.config.toml?raw'
import { connect } from '../../gateway/db/connect.ts'
import { findProvider, forgetCatalog } from '../../gateway/policy/catalog.ts'
import { admin, type Json, newName } from './support/admin.ts'

const errorOf = ({ status, body }: { status: number; body: Json }) => [status, body?.error?.param]
const mark = (name: string) => `sk-canary-${name}-${crypto.randomUUID()}`
/** Everything that was ever sent as a secret in this file, and all that was said back or logged. */
const sent: string[] = []
const said: string[] = []
vi.spyOn(console, 'log').mockImplementation((line: unknown) => {
  said.push(String(line))
})
afterAll(() => vi.restoreAllMocks())

async function call(method: string, path: string, body?: unknown) {
  const answer = await admin(method, path, body)
  said.push(JSON.stringify([...answer.headers]), answer.text)
  return answer
}

const secret = (name: string) => {
  const text = mark(name)
  sent.push(text)
  return text
}
const apply = (document: unknown, more: Record<string, unknown> = {}) =>
  call('POST', '/config/apply', { document: { format: 1, ...(document as object) }, ...more })
const current = async () => (await call('GET', '/config')).body
const secretOf = async (provider: string, key = 'default') => {
  forgetCatalog()
  const found = await findProvider(provider, env, Date.now())
  return found?.keys.find(({ name }) => name === key)?.secret
}

const vendor = (host = 'api.example.com', more: Record<string, unknown> = {}) => ({
  kind: 'openai_compatible',
  base_url: `https://${host}/v1`,
  ...more,
})
const fleet = (model: string, more: Record<string, unknown> = {}) => ({
  provider: 'fleet',
  model,
  context_tokens: 2048,
  ...more,
})

beforeEach(async () => {
  const database = connect(env)
  for (const table of ['models', 'providers', 'provider_keys', 'config_versions']) {
    await database.run({ text: `delete from ${table}`, params: [] })
  }
  forgetCatalog()
})

describe('applying', () => {
  test('a dry run answers the plan that applying carries out, and changes nothing', async () => {
    const secrets = { up: { default: secret('first'), spare: secret('spare') } }
    const document = {
      providers: { up: vendor('a.example.com', { keys: { default: {}, spare: { secret: 'env:SPARE', weight: 3 } } }) },
      models: {
        chat: {
          targets: [
            { provider: 'up', model: 'big', context_tokens: 8192, weight: 2, region: 'eu', image_tokens_max: 900 },
            fleet('small'),
          ],
          policy: { strategy: 'weighted', canary: { target: 1, percent: 5 } },
        },
      },
    }
    const dry = await apply(document, { secrets, dry_run: true })
    expect(dry.body).toMatchObject({
      dry_run: true,
      version: 0,
      summary: { added: 2, changed: 0, removed: 0, secrets: 2 },
    })
    expect(dry.body.changes.map(({ object, name, action }: Json) => [object, name, action])).toEqual([
      ['provider', 'up', 'add'],
      ['model', 'chat', 'add'],
    ])
    expect(await current()).toEqual({ version: 0, document: { format: 1, providers: {}, models: {} } })
    expect((await call('GET', '/audit?action=config.apply&limit=200')).text).not.toContain('"up"')

    const done = await apply(document, { secrets, note: 'The first one.' })
    expect(done.status).toBe(200)
    expect(done.body).toMatchObject({ dry_run: false, version: 1 })
    for (const part of ['changes', 'secrets', 'summary']) expect(done.body[part]).toEqual(dry.body[part])
    const found = await findProvider('up', env, Date.now())
    expect(found?.keys).toEqual([
      { name: 'default', secret: secrets.up.default, weight: 1 },
      { name: 'spare', secret: secrets.up.spare, weight: 3 },
    ])
    expect((await call('GET', '/models/chat')).body).toMatchObject({
      targets: document.models.chat.targets,
      policy: { strategy: 'weighted', canary: { target: 1, percent: 5 }, attempts_max: 4 },
    })
  })

  test('applying again changes nothing, also from what GET answers, and makes no version', async () => {
    const document = { providers: { up: vendor() }, models: { chat: { targets: [fleet('m')] } } }
    const secrets = { up: { default: secret('same') } }
    await apply(document, { secrets })
    const nothing = { version: 1, changes: [], secrets: [] }
    expect((await apply(document, { secrets, prune: true })).body).toMatchObject(nothing)
    expect((await apply(document)).body).toMatchObject(nothing)
    const { document: shown, drift } = await current()
    expect(drift).toEqual([])
    expect((await apply(shown, { prune: true })).body).toMatchObject(nothing)
    expect((await call('GET', '/config/versions')).body.data).toHaveLength(1)
    const audit = (await call('GET', '/audit?action=config.apply')).body.data
    expect(audit[0]).toMatchObject({ object_id: '1', details: { version: 1, summary: { added: 2 } } })
  })

  test('only what is named changes; with prune what is not named goes', async () => {
    await apply(
      {
        providers: { a: vendor('a.example.com'), b: vendor('b.example.com') },
        models: { m: { targets: [fleet('m')] } },
      },
      { secrets: { a: { default: secret('a') }, b: { default: secret('b') } } },
    )
    const document = { providers: { a: vendor('a.example.com', { cutoff: 'drain' }) } }
    const kept = await apply(document)
    expect(kept.body.changes).toEqual([
      {
        object: 'provider',
        name: 'a',
        action: 'change',
        fields: [{ path: 'cutoff', before: 'cancel', after: 'drain' }],
      },
    ])
    expect(Object.keys((await current()).document.providers)).toEqual(['a', 'b'])
    const pruned = await apply(document, { prune: true })
    expect(pruned.body.summary).toEqual({ added: 0, changed: 0, removed: 2, secrets: 0 })
    expect((await current()).document).toMatchObject({ providers: { a: { cutoff: 'drain' } }, models: {} })
    expect((await call('GET', '/providers/b')).status).toBe(404)
    const { rows } = await connect(env).run({ text: 'select provider from provider_keys', params: [] })
    expect(rows).toEqual([['a']])
  })

  test('keys come, change and go, and a secret is replaced only by another one', async () => {
    const [first, second, third] = [secret('1'), secret('2'), secret('3')]
    await apply({ providers: { up: vendor() } }, { secrets: { up: { default: first } } })
    const two = { up: vendor('api.example.com', { keys: { default: { disabled: true }, b: { secret: 'env:B' } } }) }
    const added = await apply({ providers: two }, { secrets: { up: { default: first, b: second } } })
    expect(added.body.secrets).toEqual([{ provider: 'up', key: 'b', action: 'set' }])
    expect(added.body.changes[0].fields).toEqual([
      { path: 'keys.b', after: { weight: 1, disabled: false } },
      { path: 'keys.default.disabled', before: false, after: true },
    ])
    expect(await secretOf('up')).toBeUndefined()
    const rotated = await apply({ providers: two }, { secrets: { up: { b: third } } })
    expect(rotated.body).toMatchObject({
      changes: [],
      secrets: [{ provider: 'up', key: 'b', action: 'replaced' }],
      version: 2,
    })
    expect(await secretOf('up', 'b')).toBe(third)
    const one = { up: vendor('api.example.com', { keys: { b: {} } }) }
    expect((await apply({ providers: one })).body.changes).toEqual([])
    await apply({ providers: one }, { prune: true })
    expect((await call('GET', '/providers/up/keys')).body.data.map(({ name }: Json) => name)).toEqual(['b'])
  })

  test('no secret goes along to another host', async () => {
    await apply(
      { providers: { up: vendor('a.example.com', { keys: { default: {}, spare: {} } }) } },
      { secrets: { up: { default: secret('a'), spare: secret('b') } } },
    )
    const moved = { providers: { up: vendor('b.example.com') } }
    const refused = await apply(moved)
    expect(errorOf(refused)).toEqual([400, 'document.providers.up.keys.default.secret'])
    expect(refused.body.error.message).toContain('the host of base_url changes')
    const fresh = secret('c')
    const done = await apply(moved, { secrets: { up: { default: fresh } } })
    expect(done.body.secrets).toEqual([{ provider: 'up', key: 'default', action: 'replaced' }])
    expect(done.body.changes[0].fields.map(({ path }: Json) => path)).toEqual(['base_url', 'keys.spare'])
    expect(await secretOf('up')).toBe(fresh)
    expect(await secretOf('up', 'spare')).toBeUndefined()
  })

  test('the example that comes with Penstock is applied as a whole, and again without a change', async () => {
    const document: Json = parse(example)
    const secrets = Object.fromEntries(
      Object.entries<Json>(document.providers).map(([name, { keys }]) => [
        name,
        Object.fromEntries(
          Object.entries<Json>(keys)
            .filter(([, key]) => key.secret.startsWith('env:'))
            .map(([key]) => [key, secret(key)]),
        ),
      ]),
    )
    const done = await apply(document, { secrets })
    expect([done.status, done.body.summary.changed]).toEqual([200, 0])
    expect(done.body.summary.added).toBe(Object.keys(document.providers).length + Object.keys(document.models).length)
    expect((await apply(document, { secrets, prune: true })).body).toMatchObject({ changes: [], secrets: [] })
    expect((await findProvider('openai', env, Date.now()))?.keys).toEqual([
      { name: 'default', secret: secrets.openai?.default, weight: 3 },
      { name: 'second', secret: secrets.openai?.second, weight: 1 },
    ])
  })

  test('a server that asks for no key is given none', async () => {
    const local = vendor('x', {
      preset: 'vllm',
      base_url: 'http://10.0.0.7:8000/v1',
      allow_private: true,
      keys: { default: { secret: 'none' } },
    })
    expect((await apply({ providers: { local } })).body.secrets).toHaveLength(1)
    expect(await secretOf('local')).toBe('')
    expect((await apply({ providers: { local } })).body.secrets).toEqual([])
  })

  test.each<[string, unknown, Record<string, unknown>, string]>([
    ['another form', { format: 2 }, {}, 'document.format'],
    ['an unknown field', { prices: {} }, {}, 'document.prices'],
    [
      'a secret in the document',
      { providers: { up: vendor('a.example.com', { keys: { default: { secret: 'sk-canary' } } }) } },
      {},
      'document.providers.up.keys.default.secret',
    ],
    ['a provider with capitals', { providers: { Up: vendor() } }, {}, 'document.providers.Up'],
    ['the name of the own backends', { providers: { fleet: vendor() } }, {}, 'document.providers.fleet'],
    ['no keys at all', { providers: { up: vendor('a.example.com', { keys: {} }) } }, {}, 'document.providers.up.keys'],
    [
      'a new provider without its secret',
      { providers: { up: vendor() } },
      {},
      'document.providers.up.keys.default.secret',
    ],
    ['a private address', { providers: { up: vendor('10.0.0.1') } }, {}, 'document.providers.up.base_url'],
    [
      'an option of another kind',
      { providers: { up: vendor('a.example.com', { options: { region: 'eu' } }) } },
      {},
      'document.providers.up.options.region',
    ],
    [
      'a header with a secret',
      { providers: { up: vendor('a.example.com', { options: { headers: { 'x-api-key': 'sk-canary' } } }) } },
      {},
      'document.providers.up.options.headers.x-api-key',
    ],
    [
      'a provider that is not there',
      { models: { m: { targets: [{ provider: 'nobody', model: 'm', context_tokens: 1 }] } } },
      {},
      'document.models.m.targets[0].provider',
    ],
    ['no targets', { models: { m: { targets: [] } } }, {}, 'document.models.m.targets'],
    [
      'a negative weight',
      { models: { m: { targets: [fleet('m', { weight: -1 })] } } },
      {},
      'document.models.m.targets[0].weight',
    ],
    [
      'an unknown strategy',
      { models: { m: { targets: [fleet('m')], policy: { strategy: 'luck' } } } },
      {},
      'document.models.m.policy.strategy',
    ],
    [
      'a canary that is no target',
      { models: { m: { targets: [fleet('m')], policy: { canary: { target: 1, percent: 5 } } } } },
      {},
      'document.models.m.policy.canary.target',
    ],
    ['a secret for nobody', {}, { secrets: { up: { default: 'sk-canary' } } }, 'secrets.up.default'],
    [
      'a secret of two lines',
      { providers: { up: vendor() } },
      { secrets: { up: { default: 'sk-canary\nx' } } },
      'secrets.up.default',
    ],
    ['a note of two lines', {}, { note: 'a\nb' }, 'note'],
  ])(
    '%s is refused with the path of the field, quotes nothing and changes nothing',
    async (_, document, more, param) => {
      const answer = await apply(document, more)
      expect(errorOf(answer)).toEqual([400, param])
      expect(answer.text).not.toContain('sk-canary')
      expect((await current()).document).toEqual({ format: 1, providers: {}, models: {} })
    },
  )
})

describe('versions', () => {
  const model = (name: string) => ({ models: { m: { targets: [fleet(name)] } } })

  test('the last version is expected, or the call conflicts', async () => {
    expect((await apply(model('a'), { expected_version: 0 })).body.version).toBe(1)
    const stale = await apply(model('b'), { expected_version: 0 })
    expect([stale.status, stale.body.error.code]).toEqual([409, 'conflict'])
    expect((await apply(model('b'), { expected_version: 0, dry_run: true })).status).toBe(409)
    expect((await apply(model('b'), { expected_version: 1 })).body.version).toBe(2)
  })

  test('of several that expect the same version one wins', async () => {
    await apply(model('start'))
    const answers = await Promise.all(
      ['a', 'b', 'c', 'd', 'e'].map((name) => apply(model(name), { expected_version: 1 })),
    )
    expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 409, 409, 409, 409])
    const winner = ['a', 'b', 'c', 'd', 'e'][answers.findIndex(({ status }) => status === 200)]
    const state = await current()
    expect(state).toMatchObject({
      version: 2,
      document: { models: { m: { targets: [{ model: winner }] } } },
      drift: [],
    })
  })

  test('changes through single calls at the same time lose nothing of either', async () => {
    const names = Array.from({ length: 4 }, () => newName('m'))
    const answers = await Promise.all([
      ...names.map((name) => call('PUT', `/models/${name}`, { targets: [fleet(name)] })),
      apply(model('a')),
      apply({ models: { other: { targets: [fleet('o')] } } }),
    ])
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200))
    expect(Object.keys((await current()).document.models).toSorted()).toEqual([...names, 'm', 'other'].toSorted())
  })

  test('going back restores what stood, with the secrets that are there, as a new version', async () => {
    const kept = secret('kept')
    await apply({ providers: { up: vendor() }, ...model('a') }, { secrets: { up: { default: kept } } })
    await apply({ providers: { up: vendor('api.example.com', { cutoff: 'drain' }) }, ...model('b') }, { note: 'b' })
    const plan = (await call('POST', '/config/rollback', { version: 1, dry_run: true })).body
    expect((await current()).document.models.m.targets[0].model).toBe('b')
    const done = (await call('POST', '/config/rollback', { version: 1 })).body
    expect([done.changes, done.version]).toEqual([plan.changes, 3])
    const { body: first } = await call('GET', '/config/versions/1')
    expect((await current()).document).toEqual(first.document)
    expect(await secretOf('up')).toBe(kept)
    const { data } = (await call('GET', '/config/versions')).body
    expect(data.map(({ version, note, actor }: Json) => [version, note, actor])).toEqual([
      [3, undefined, 'operator'],
      [2, 'b', 'operator'],
      [1, undefined, 'operator'],
    ])
    expect(data[0].checksum).toBe(data[2].checksum)
    expect((await call('POST', '/config/rollback', { version: 1 })).body).toMatchObject({ version: 3, changes: [] })
  })

  test('a provider whose secret is gone is named, and comes back with a secret', async () => {
    await apply({ providers: { up: vendor() } }, { secrets: { up: { default: secret('gone') } } })
    await apply({ ...model('a') }, { prune: true })
    const refused = await call('POST', '/config/rollback', { version: 1 })
    expect(errorOf(refused)).toEqual([400, 'document.providers.up.keys.default.secret'])
    const again = secret('again')
    const done = await call('POST', '/config/rollback', { version: 1, secrets: { up: { default: again } } })
    expect(done.body.version).toBe(3)
    expect(await secretOf('up')).toBe(again)
  })

  test('what other calls change shows as drift, and can be gone back to', async () => {
    await apply(model('a'))
    await call('PUT', '/models/m', { targets: [fleet('by hand')].map((one) => ({ ...one, model: 'by-hand' })) })
    const { drift, version } = await current()
    expect([version, drift]).toEqual([
      1,
      [
        {
          object: 'model',
          name: 'm',
          action: 'change',
          fields: [{ path: 'targets[0].model', before: 'a', after: 'by-hand' }],
        },
      ],
    ])
    expect((await apply(model('b'))).body.version).toBe(3)
    expect((await call('POST', '/config/rollback', { version: 2 })).body.version).toBe(4)
    expect((await current()).document.models.m.targets[0].model).toBe('by-hand')
  })

  test('the list has pages; a version that is not there is not found', async () => {
    for (const name of ['a', 'b', 'c']) await apply(model(name))
    const first = (await call('GET', '/config/versions?limit=2')).body
    expect(first.data.map(({ version }: Json) => version)).toEqual([3, 2])
    const second = (await call('GET', `/config/versions?limit=2&cursor=${first.next_cursor}`)).body
    expect([second.data.map(({ version }: Json) => version), second.next_cursor]).toEqual([[1], undefined])
    for (const wrong of ['4', '0', 'x', '1e3']) {
      expect((await call('GET', `/config/versions/${wrong}`)).status).toBe(404)
    }
    expect((await call('POST', '/config/rollback', { version: 9 })).status).toBe(404)
  })
})

test('the schema is one of JSON Schema that names every part of the document', async () => {
  const { body } = await call('GET', '/config/schema')
  expect(body.$schema).toContain('json-schema.org')
  expect(Object.keys(body.properties)).toEqual(['format', 'providers', 'models'])
  expect(body.required).toEqual(['format'])
  expect(JSON.stringify(body)).toContain('escalate_on')
})

test('no secret stands in any answer, log line, audit row or stored document', async () => {
  expect(sent.length).toBeGreaterThan(10)
  const { rows } = await connect(env).run({
    text: `select document from config_versions union all select details from audit_log
           union all select secret_ciphertext from provider_keys`,
    params: [],
  })
  expect(rows.length).toBeGreaterThan(10)
  const text = [...said, ...rows.flat()].join('\n')
  expect(sent.filter((one) => text.includes(one))).toEqual([])
})
