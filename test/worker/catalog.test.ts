// The catalog in workerd with the real migrations: who may see which model, prices over time, providers' secrets.
import { env } from 'cloudflare:test'
import { beforeEach, describe, expect, test } from 'vitest'
import type { Principal } from '../../gateway/auth/principal.ts'
import { connect } from '../../gateway/db/connect.ts'
import { findPlan, findProvider, forgetCatalog, listModels } from '../../gateway/policy/catalog.ts'
import { defaultModelPolicy } from '../../gateway/policy/model-policy.ts'
import { admin, type Json, newName, withoutDatabase } from './support/admin.ts'

const anyone: Principal = {
  orgId: crypto.randomUUID(),
  projectId: 'p',
  keyId: 'k',
  keyPrefix: 'psk_12345678',
  credential: 'key',
}
const only = (...models: string[]): Principal => ({ ...anyone, modelsAllowed: models })
const errorOf = ({ status, body }: { status: number; body: Json }) => [status, body?.error?.param]
const at = (nowMs: number) => new Date(nowMs).toISOString()

async function newModel(stem = 'model') {
  const name = newName(stem)
  const target = { provider: 'fleet', model: name, context_tokens: 2048 }
  expect((await admin('PUT', `/models/${name}`, { targets: [target] })).status).toBe(200)
  return name
}

async function priceOf(name: string, nowMs: number) {
  const plan = await findPlan(anyone, name, env, nowMs)
  return plan.ok ? plan.value.targets[0]?.price?.perMillion : plan.error
}

beforeEach(forgetCatalog)

describe('models', () => {
  test('a plan has the targets in their order, with what each can take', async () => {
    const name = `meta/${newName('llama')}:70b`
    const provider = newName('up')
    await admin('PUT', `/providers/${provider}`, upstream())
    const targets = [
      { provider, model: 'big', context_tokens: 8192, output_tokens_max: 1024, service_tier: 'flex' },
      { provider: 'fleet', model: 'small', context_tokens: 2048 },
    ]
    for (const path of [`/models/${name}`, `/models/${encodeURIComponent(name)}`]) {
      expect((await admin('PUT', path, { targets })).body).toMatchObject({ name, targets })
    }
    expect(await findPlan(anyone, name, env, Date.now())).toEqual({
      ok: true,
      value: {
        model: name,
        policy: defaultModelPolicy(),
        targets: [
          { provider, model: 'big', contextTokens: 8192, outputTokensMax: 1024, serviceTier: 'flex', price: undefined },
          { provider: 'fleet', model: 'small', contextTokens: 2048, price: undefined },
        ],
      },
    })
  })

  test('a key sees its own models; every other name gets the same refusal, whether it exists or not', async () => {
    const [mine, theirs] = [await newModel(), await newModel()]
    const principal = only(mine, 'allowed-but-absent')
    const code = async (name: string) => {
      const plan = await findPlan(principal, name, env, Date.now())
      return plan.ok ? 'ok' : [plan.error.code, plan.error.message.replace(name, '*')]
    }
    expect(await code(mine)).toBe('ok')
    expect(await code('allowed-but-absent')).toEqual(['model_not_found', 'There is no model "*".'])
    expect(await code(theirs)).toEqual(['permission_denied', 'This API key may not use the model "*".'])
    expect(await code(newName('absent'))).toEqual(await code(theirs))
    const list = await listModels(principal, env, Date.now())
    expect(list.ok && list.value.map(({ name }) => name)).toEqual([mine])
    const all = await listModels(anyone, env, Date.now())
    expect(all.ok && all.value.map(({ name }) => name)).toEqual(expect.arrayContaining([mine, theirs]))
  })

  test.each([
    ['nothing', ''],
    ['SQL', "x' or '1'='1"],
    ['a line break', 'a\nb'],
    ['ten thousand characters', 'x'.repeat(10_000)],
  ])('a name that is %s is not found, and the answer stays short', async (_, name) => {
    const plan = await findPlan(anyone, name, env, Date.now())
    expect(plan).toMatchObject({ ok: false, error: { code: 'model_not_found', param: 'model' } })
    expect(JSON.stringify(plan).length).toBeLessThan(400)
  })

  test('a change by the admin API is seen at once here, and a deleted model is gone', async () => {
    const name = await newModel()
    await findPlan(anyone, name, env, Date.now())
    await admin('PUT', `/models/${name}`, { targets: [{ provider: 'fleet', model: 'other', context_tokens: 10 }] })
    expect(await findPlan(anyone, name, env, Date.now())).toMatchObject({ value: { targets: [{ model: 'other' }] } })
    expect((await admin('DELETE', `/models/${name}`)).status).toBe(200)
    expect(await findPlan(anyone, name, env, Date.now())).toMatchObject({ error: { code: 'model_not_found' } })
    expect((await admin('GET', `/models/${name}`)).status).toBe(404)
  })

  test('a change made elsewhere is seen after ten seconds', async () => {
    const [name, gone] = [await newModel(), await newModel()]
    const nowMs = Date.now()
    await findPlan(anyone, name, env, nowMs)
    await findPlan(anyone, gone, env, nowMs)
    await connect(env).run({ text: 'delete from models where name = $1', params: [gone] })
    expect((await findPlan(anyone, gone, env, nowMs + 9_999)).ok).toBe(true)
    expect((await findPlan(anyone, gone, env, nowMs + 10_000)).ok).toBe(false)
    const targets = JSON.stringify([{ provider: 'fleet', model: 'elsewhere', context_tokens: 10 }])
    await connect(env).run({ text: 'update models set targets = $2 where name = $1', params: [name, targets] })
    expect(await findPlan(anyone, name, env, nowMs + 9_999)).toMatchObject({ value: { targets: [{ model: name }] } })
    expect(await findPlan(anyone, name, env, nowMs + 10_000)).toMatchObject({
      value: { targets: [{ model: 'elsewhere' }] },
    })
  })

  test.each<[string, unknown, string]>([
    ['no targets', [], 'targets'],
    ['a provider that is not there', [{ provider: 'nobody', model: 'm', context_tokens: 1 }], 'targets[0].provider'],
    ['a context of zero', [{ provider: 'fleet', model: 'm', context_tokens: 0 }], 'targets[0].context_tokens'],
    ['a model name with a space', [{ provider: 'fleet', model: 'a b', context_tokens: 1 }], 'targets[0].model'],
    ['an unknown field', [{ provider: 'fleet', model: 'm', context_tokens: 1, url: 'http://x' }], 'targets[0].url'],
  ])('%s is refused with its path', async (_, targets, param) => {
    expect(errorOf(await admin('PUT', `/models/${newName('bad')}`, { targets }))).toEqual([400, param])
  })
})

describe('prices', () => {
  test('the newest version that has begun holds, with all its parts and none of an older one', async () => {
    const model = await newModel()
    const nowMs = Date.now()
    const add = (afterMs: number, usd_per_million: Record<string, string>) =>
      admin('POST', '/prices', { provider: 'fleet', model, effective_from: at(nowMs + afterMs), usd_per_million })
    expect((await add(60_000, { input_uncached: '0.0125', output_text: '0.05', input_cache_read: '0' })).status).toBe(
      201,
    )
    expect((await add(120_000, { input_uncached: '3', output_text: '0.000000001' })).status).toBe(201)
    const first = { inputUncached: 12_500_000n, outputText: 50_000_000n, inputCacheRead: 0n }
    const second = { inputUncached: 3_000_000_000n, outputText: 1n }
    for (const forget of [forgetCatalog, () => {}]) {
      const seen = []
      forgetCatalog()
      for (const afterMs of [0, 59_999, 60_000, 119_999, 120_000, 9_000_000]) {
        forget()
        seen.push(await priceOf(model, nowMs + afterMs))
      }
      expect(seen).toEqual([undefined, undefined, first, first, second, second])
    }
  })

  test('a version begins on time even in a copy that was made before', async () => {
    const model = await newModel()
    const nowMs = Date.now()
    const body = {
      provider: 'fleet',
      model,
      effective_from: at(nowMs + 500_000),
      usd_per_million: { output_text: '7' },
    }
    await admin('POST', '/prices', body)
    expect(await priceOf(model, nowMs)).toBeUndefined()
    const plan = await findPlan(anyone, model, withoutDatabase(), nowMs + 500_000)
    expect(plan).toMatchObject({ value: { targets: [{ price: { perMillion: { outputText: 7_000_000_000n } } }] } })
  })

  test('adding the same price again adds nothing; another one now is a new version', async () => {
    const model = await newModel()
    const body = { provider: 'fleet', model, usd_per_million: { input_uncached: '0.10', output_text: '2' } }
    const first = await admin('POST', '/prices', body)
    const again = await admin('POST', '/prices', {
      ...body,
      usd_per_million: { output_text: '2.0', input_uncached: '0.1' },
    })
    expect([first.status, again.status]).toEqual([201, 200])
    expect(again.body).toEqual(first.body)
    expect(first.body.usd_per_million).toEqual({ input_uncached: '0.1', output_text: '2' })
    const other = await admin('POST', '/prices', { ...body, usd_per_million: { output_text: '2' } })
    expect(other.status).toBe(201)
    const { body: list } = await admin('GET', `/prices?provider=fleet&model=${model}`)
    expect(list.data.map((version: Json) => version.id)).toEqual([other.body.id, first.body.id])
    expect(list.data[1]).toEqual(first.body)
  })

  test('one instant has one version: the same prices are answered, others refused', async () => {
    const model = await newModel()
    const body = {
      provider: 'fleet',
      model,
      effective_from: '2099-01-01T00:00:00Z',
      usd_per_million: { output_text: '1' },
    }
    const answers = await Promise.all(Array.from({ length: 5 }, () => admin('POST', '/prices', body)))
    expect(answers.map(({ status }) => status).toSorted()).toEqual([200, 200, 200, 200, 201])
    const other = await admin('POST', '/prices', { ...body, usd_per_million: { output_text: '2' } })
    expect(errorOf(other)).toEqual([400, 'effective_from'])
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['a price in the past', { effective_from: '2020-01-01T00:00:00Z' }, 'effective_from'],
    ['a number', { usd_per_million: { output_text: 0.1 } }, 'usd_per_million.output_text'],
    ['a negative price', { usd_per_million: { output_text: '-1' } }, 'usd_per_million.output_text'],
    ['ten decimals', { usd_per_million: { output_text: '0.0000000001' } }, 'usd_per_million.output_text'],
    ['an exponent', { usd_per_million: { output_text: '1e3' } }, 'usd_per_million.output_text'],
    ['more than a dollar a token', { usd_per_million: { output_text: '1000000.1' } }, 'usd_per_million.output_text'],
    ['an unknown part', { usd_per_million: { output_smell: '1' } }, 'usd_per_million.output_smell'],
    ['no part at all', { usd_per_million: {} }, 'usd_per_million'],
    ['a provider with capitals', { provider: 'OpenAI' }, 'provider'],
  ])('%s is refused with its path', async (_, wrong, param) => {
    const body = { provider: 'fleet', model: 'm', usd_per_million: { output_text: '1' }, ...wrong }
    expect(errorOf(await admin('POST', '/prices', body))).toEqual([400, param])
  })
})

const SECRET = 'sk-canary-0123456789-abcdefghij'
const upstream = (more: Record<string, unknown> = {}) => ({
  kind: 'openai_compatible',
  base_url: 'https://api.example.com/v1/',
  secret: SECRET,
  ...more,
})

describe('providers', () => {
  test('the secret comes back in clear inside, and never leaves: not in answers, audit or the database', async () => {
    const name = newName('up')
    const answers = [
      await admin('PUT', `/providers/${name}`, upstream()),
      await admin('GET', `/providers/${name}`),
      await admin('GET', '/providers?limit=200'),
      await admin('GET', '/audit?limit=200'),
    ]
    for (const { text, status } of answers) {
      expect(status).toBe(200)
      expect(text.includes(SECRET)).toBe(false)
    }
    const { rows } = await connect(env).run({
      text: `select secret_ciphertext, (select string_agg(details, '') from audit_log) from provider_keys where provider = $1`,
      params: [name],
    })
    expect(JSON.stringify(rows).includes(SECRET)).toBe(false)
    expect(String(rows[0]?.[0])).not.toContain(btoa(SECRET).slice(0, 12))
    expect(await findProvider(name, env, Date.now())).toEqual({
      name,
      kind: 'openai_compatible',
      baseUrl: 'https://api.example.com/v1',
      reach: 'public',
      keys: [{ name: 'default', secret: SECRET, weight: 1 }],
      options: {},
      usageDialect: 'openai',
      cutoff: 'cancel',
    })
    expect(await findProvider(newName('absent'), env, Date.now())).toBeUndefined()
    expect(await findProvider('fleet', env, Date.now())).toBeUndefined()
  })

  test('the same secret is stored differently each time, and opens in no other row', async () => {
    const [a, b] = [newName('up'), newName('up')]
    for (const name of [a, b]) await admin('PUT', `/providers/${name}`, upstream())
    const read = { text: 'select secret_ciphertext from provider_keys where provider in ($1, $2)', params: [a, b] }
    const { rows } = await connect(env).run(read)
    expect(rows[0]).not.toEqual(rows[1])
    const moved = '(select secret_ciphertext from provider_keys where provider = $1)'
    const text = `update provider_keys set secret_ciphertext = ${moved} where provider = $2`
    await connect(env).run({ text, params: [a, b] })
    forgetCatalog()
    const failed = await findProvider(b, env, Date.now()).catch((error: unknown) => String(error))
    expect(failed).toContain('cannot_open')
    expect(failed).not.toContain('canary')
  })

  test('another key-encryption key opens nothing', async () => {
    const name = newName('up')
    await admin('PUT', `/providers/${name}`, upstream())
    const other = { ...env, SECRETS_KEK: btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(32)))) }
    await expect(findProvider(name, other, Date.now())).rejects.toThrow('cannot_open')
    await expect(findProvider(name, { ...env, SECRETS_KEK: 'c2hvcnQ=' }, Date.now())).rejects.toThrow('kek_invalid')
  })

  test('a later call keeps the secret unless the host changes, which needs it again', async () => {
    const name = newName('up')
    await admin('PUT', `/providers/${name}`, upstream())
    const { secret: _, ...without } = upstream()
    const moved = { ...without, base_url: 'https://api.example.com/v2' }
    expect((await admin('PUT', `/providers/${name}`, moved)).body.base_url).toBe('https://api.example.com/v2')
    expect((await findProvider(name, env, Date.now()))?.keys[0]?.secret).toBe(SECRET)
    const away = { ...without, base_url: 'https://evil.example.net/v1' }
    expect(errorOf(await admin('PUT', `/providers/${name}`, away))).toEqual([400, 'secret'])
    expect(errorOf(await admin('PUT', `/providers/${newName('new')}`, without))).toEqual([400, 'secret'])
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['credentials in the address', { base_url: 'https://user:canary@api.example.com' }, 'base_url'],
    ['a metadata address', { base_url: 'http://169.254.169.254', allow_private: true }, 'base_url'],
    ['a private address without leave', { base_url: 'http://127.0.0.1:8000/v1' }, 'base_url'],
    ['another kind', { kind: 'anything' }, 'kind'],
    ['a dialect that nobody speaks', { usage_dialect: 'klingon' }, 'usage_dialect'],
    ['a way to be cut off that there is not', { cutoff: 'explode' }, 'cutoff'],
    ['a secret with a line break', { secret: 'canary\r\nx-evil: 1' }, 'secret'],
    ['a secret of another type', { secret: { canary: 1 } }, 'secret'],
  ])('%s is refused by path, quoting nothing', async (_, wrong, param) => {
    const answer = await admin('PUT', `/providers/${newName('bad')}`, upstream(wrong))
    expect(errorOf(answer)).toEqual([400, param])
    expect(answer.text).not.toContain('canary')
  })

  test('a private address is registered where that is said to be meant', async () => {
    const name = newName('local')
    const body = upstream({ base_url: 'http://127.0.0.1:8000/v1', allow_private: true })
    expect((await admin('PUT', `/providers/${name}`, body)).body).toMatchObject({
      base_url: 'http://127.0.0.1:8000/v1',
      allow_private: true,
    })
  })

  test('how it tells its usage and how it is cut off are kept, and go back to their defaults when left out', async () => {
    const name = newName('up')
    const given = upstream({ usage_dialect: 'deepseek', cutoff: 'drain' })
    expect((await admin('PUT', `/providers/${name}`, given)).body).toMatchObject({
      usage_dialect: 'deepseek',
      cutoff: 'drain',
    })
    expect(await findProvider(name, env, Date.now())).toMatchObject({ usageDialect: 'deepseek', cutoff: 'drain' })
    await admin('PUT', `/providers/${name}`, upstream())
    expect(await findProvider(name, env, Date.now())).toMatchObject({ usageDialect: 'openai', cutoff: 'cancel' })
  })

  test('the name of the own backends cannot be taken', async () => {
    expect(errorOf(await admin('PUT', '/providers/fleet', upstream()))).toEqual([400, 'name'])
  })
})

describe('without Postgres', () => {
  test('a copy serves while Postgres stays silent', async () => {
    const model = await newModel()
    const nowMs = Date.now()
    await findPlan(anyone, model, env, nowMs)
    const never = { getByName: () => ({ run: () => new Promise(() => {}) }) }
    const silent = { ...env, DATABASE_POOL: never as unknown as typeof env.DATABASE_POOL }
    expect((await findPlan(anyone, model, silent, nowMs + 20_000)).ok).toBe(true)
  })

  test('the catalog goes on from its copies for ten minutes, then says so', async () => {
    const model = await newModel()
    const provider = newName('up')
    await admin('PUT', `/providers/${provider}`, upstream())
    const nowMs = Date.now()
    await findPlan(anyone, model, env, nowMs)
    await listModels(anyone, env, nowMs)
    await findProvider(provider, env, nowMs)
    const dead = withoutDatabase()
    expect((await findPlan(anyone, model, dead, nowMs + 599_999)).ok).toBe(true)
    expect((await listModels(anyone, dead, nowMs + 599_999)).ok).toBe(true)
    expect((await findProvider(provider, dead, nowMs + 599_999))?.keys[0]?.secret).toBe(SECRET)
    const late = nowMs + 600_000
    expect(await findPlan(anyone, model, dead, late)).toMatchObject({ error: { code: 'unavailable' } })
    expect(await listModels(anyone, dead, late)).toMatchObject({ error: { code: 'unavailable' } })
    await expect(findProvider(provider, dead, late)).rejects.toThrow('cannot reach Postgres')
  })
})
