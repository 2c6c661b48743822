// Providers and their keys in the admin API, and what a deployment of one secret each becomes.
import { env } from 'cloudflare:test'
import { beforeEach, describe, expect, test } from 'vitest'
import { connect } from '../../gateway/db/connect.ts'
import { findPlan, findProvider, forgetCatalog } from '../../gateway/policy/catalog.ts'
import { sealSecret } from '../../gateway/policy/secrets.ts'
import migration from '../../migrations/0011_routing.sql?raw'
import { admin, type Json, newName } from './support/admin.ts'

const errorOf = ({ status, body }: { status: number; body: Json }) => [status, body?.error?.param ?? body?.error?.code]
const SECRET = 'sk-canary-0123456789-abcdefghij'
const OTHER = 'sk-canary-other-0123456789-abcde'
const upstream = (more: Record<string, unknown> = {}) => ({
  kind: 'openai_compatible',
  base_url: 'https://api.example.com/v1',
  secret: SECRET,
  ...more,
})
const keysOf = async (name: string) => (await findProvider(name, env, Date.now()))?.keys
const registered = async (more: Record<string, unknown> = {}) => {
  const name = newName('up')
  expect((await admin('PUT', `/providers/${name}`, upstream(more))).status).toBe(200)
  return name
}

beforeEach(forgetCatalog)

describe('keys', () => {
  test('a provider has several, each with its weight, and no answer has any secret', async () => {
    const name = await registered()
    const put = await admin('PUT', `/providers/${name}/keys/spare`, { secret: OTHER, weight: 4 })
    expect(put.body).toMatchObject({ name: 'spare', weight: 4, disabled: false, disabled_at: null })
    expect(await keysOf(name)).toEqual([
      { name: 'default', secret: SECRET, weight: 1 },
      { name: 'spare', secret: OTHER, weight: 4 },
    ])
    const answers = [
      put,
      await admin('GET', `/providers/${name}`),
      await admin('GET', '/providers?limit=200'),
      await admin('GET', `/providers/${name}/keys`),
      await admin('GET', `/providers/${name}/keys/spare`),
      await admin('GET', '/audit?action=provider.key.put&limit=200'),
    ]
    for (const { status, text } of answers) {
      expect(status).toBe(200)
      expect(text).toContain('spare')
      expect(text).not.toContain('sk-canary')
    }
    expect(answers[1]?.body.keys.map((key: Json) => key.name)).toEqual(['default', 'spare'])
  })

  test('what a call leaves out stays: a key is disabled and used again with its secret and weight', async () => {
    const name = await registered()
    const path = `/providers/${name}/keys/spare`
    await admin('PUT', path, { secret: OTHER, weight: 4 })
    expect((await admin('PUT', path, { disabled: true })).body).toMatchObject({ weight: 4, disabled: true })
    expect((await keysOf(name))?.map((key) => key.name)).toEqual(['default'])
    await admin('PUT', path, { weight: 2 })
    expect((await admin('GET', path)).body).toMatchObject({ weight: 2, disabled: true })
    await admin('PUT', path, { disabled: false })
    expect(await keysOf(name)).toContainEqual({ name: 'spare', secret: OTHER, weight: 2 })
    await admin('PUT', path, { secret: SECRET })
    expect(await keysOf(name)).toContainEqual({ name: 'spare', secret: SECRET, weight: 2 })
  })

  test('a provider whose keys are all disabled is none that can be called', async () => {
    const name = await registered()
    await admin('PUT', `/providers/${name}/keys/default`, { disabled: true })
    expect(await findProvider(name, env, Date.now())).toBeUndefined()
    expect((await admin('GET', `/providers/${name}`)).body.keys).toMatchObject([{ name: 'default', disabled: true }])
  })

  test('a key goes, but not the last one', async () => {
    const name = await registered()
    await admin('PUT', `/providers/${name}/keys/spare`, { secret: OTHER })
    expect((await admin('DELETE', `/providers/${name}/keys/default`)).body).toEqual({ deleted: true })
    expect((await keysOf(name))?.map((key) => key.name)).toEqual(['spare'])
    expect(errorOf(await admin('DELETE', `/providers/${name}/keys/spare`))).toEqual([409, 'conflict'])
    expect((await admin('DELETE', `/providers/${name}/keys/default`)).status).toBe(404)
  })

  test('when the host changes no key goes along', async () => {
    const name = await registered()
    await admin('PUT', `/providers/${name}/keys/spare`, { secret: OTHER })
    const moved = await admin(
      'PUT',
      `/providers/${name}`,
      upstream({ base_url: 'https://b.example.com', secret: 'new' }),
    )
    expect(moved.body.keys.map((key: Json) => key.name)).toEqual(['default'])
    expect(await keysOf(name)).toEqual([{ name: 'default', secret: 'new', weight: 1 }])
    const { data } = (await admin('GET', '/audit?action=provider.put&limit=200')).body
    expect(data.find((row: Json) => row.object_id === name).details).toMatchObject({ keys_dropped: ['spare'] })
  })

  test('nor does one that another call sets at the same time', async () => {
    for (let round = 0; round < 5; round++) {
      const name = await registered()
      const [moved, stayed] = await Promise.all([
        admin('PUT', `/providers/${name}`, upstream({ base_url: 'https://b.example.com', secret: OTHER })),
        admin('PUT', `/providers/${name}`, upstream({ secret: undefined, cutoff: 'drain' })),
      ])
      expect(moved.status).toBe(200)
      expect([200, 400]).toContain(stayed.status)
      expect(await findProvider(name, env, Date.now())).toMatchObject({
        baseUrl: 'https://b.example.com',
        keys: [{ secret: OTHER }],
      })
    }
  })

  test('one that does not open takes none of the others with it', async () => {
    const name = await registered()
    await admin('PUT', `/providers/${name}/keys/spare`, { secret: OTHER })
    const moved = '(select secret_ciphertext from provider_keys where provider = $1 and name = $2)'
    const text = `update provider_keys set secret_ciphertext = ${moved} where provider = $1 and name = $3`
    await connect(env).run({ text, params: [name, 'spare', 'default'] })
    forgetCatalog()
    expect((await keysOf(name))?.map((key) => key.name)).toEqual(['spare'])
  })

  test.each<[string, string, unknown, unknown]>([
    ['a new key without a secret', 'spare', {}, 'secret'],
    ['a weight of zero', 'spare', { secret: OTHER, weight: 0 }, 'weight'],
    ['a secret with a space', 'spare', { secret: 'sk-canary x' }, 'secret'],
    ['a name with capitals', 'Spare', { secret: OTHER }, 'key'],
    ['an unknown field', 'spare', { secret: OTHER, host: 'x' }, 'host'],
  ])('%s is refused by path, quoting nothing', async (_, key, body, param) => {
    const answer = await admin('PUT', `/providers/${await registered()}/keys/${key}`, body)
    expect(errorOf(answer)).toEqual([400, param])
    expect(answer.text).not.toContain('canary')
  })

  test('keys of a provider that is not there are not found, and there are 32 at most', async () => {
    expect((await admin('PUT', `/providers/${newName('absent')}/keys/default`, { secret: OTHER })).status).toBe(404)
    const name = await registered()
    for (let index = 1; index < 32; index++) {
      expect((await admin('PUT', `/providers/${name}/keys/k${index}`, { secret: OTHER })).status).toBe(200)
    }
    expect((await admin('PUT', `/providers/${name}/keys/k32`, { secret: OTHER })).status).toBe(409)
    expect((await admin('PUT', `/providers/${name}/keys/k1`, { secret: SECRET })).status).toBe(200)
  })
})

describe('a provider', () => {
  test('of each kind is kept with its options, and has its public address where there is one', async () => {
    const name = newName('up')
    const put = await admin('PUT', `/providers/${name}`, {
      kind: 'bedrock',
      secret: 'AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY',
      options: { region: 'eu-west-1', headers: { 'x-team': 'a b' } },
    })
    expect(put.body).toMatchObject({
      base_url: 'https://bedrock-runtime.eu-west-1.amazonaws.com',
      usage_dialect: 'bedrock',
      options: { region: 'eu-west-1', headers: { 'x-team': 'a b' } },
    })
    expect(await findProvider(name, env, Date.now())).toMatchObject({
      kind: 'bedrock',
      options: { region: 'eu-west-1', headers: { 'x-team': 'a b' } },
    })
    const preset = newName('up')
    await admin('PUT', `/providers/${preset}`, { kind: 'openai_compatible', preset: 'xai', secret: SECRET })
    expect(await findProvider(preset, env, Date.now())).toMatchObject({
      preset: 'xai',
      baseUrl: 'https://api.x.ai/v1',
      usageDialect: 'xai',
    })
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['no region', { kind: 'bedrock', base_url: undefined }, 'options.region'],
    ['no address', { base_url: undefined }, 'base_url'],
    ['an unknown preset', { preset: 'nobody' }, 'preset'],
    ['a preset of another kind', { kind: 'openai', preset: 'groq' }, 'preset'],
    ['an unknown option', { options: { project: 'x' } }, 'options.project'],
    ['a version for a kind without', { options: { api_version: 'v1' } }, 'options.api_version'],
    ['a header that carries a secret', { options: { headers: { 'api-key': 'canary' } } }, 'options.headers.api-key'],
    ['half an access key', { kind: 'bedrock', options: { region: 'eu' }, secret: 'canary:canary' }, 'secret'],
    ['no secret for a vendor', { kind: 'openai', secret: '' }, 'secret'],
  ])('with %s is refused by path, quoting nothing', async (_, wrong, param) => {
    const answer = await admin('PUT', `/providers/${newName('bad')}`, upstream(wrong))
    expect(errorOf(answer)).toEqual([400, param])
    expect(answer.text).not.toContain('canary')
  })

  test('goes with its keys, but not while a model uses it', async () => {
    const [name, model] = [await registered(), newName('model')]
    const targets = [{ provider: name, model: 'm', context_tokens: 10 }]
    expect((await admin('PUT', `/models/${model}`, { targets })).status).toBe(200)
    const refused = await admin('DELETE', `/providers/${name}`)
    expect([refused.status, refused.body.error.message.includes(model)]).toEqual([409, true])
    await admin('DELETE', `/models/${model}`)
    expect((await admin('DELETE', `/providers/${name}`)).body).toEqual({ deleted: true })
    expect(await findProvider(name, env, Date.now())).toBeUndefined()
    expect((await admin('GET', `/providers/${name}/keys`)).status).toBe(404)
    const left = { text: 'select count(*) from provider_keys where provider = $1', params: [name] }
    expect(Number((await connect(env).run(left)).rows[0]?.[0])).toBe(0)
    expect((await admin('DELETE', `/providers/${name}`)).status).toBe(404)
    expect((await admin('DELETE', '/providers/fleet')).status).toBe(400)
  })

  test('is not deleted while a model begins to use it: one of the two is refused', async () => {
    for (let round = 0; round < 5; round++) {
      const [name, model] = [await registered(), newName('model')]
      const targets = [{ provider: name, model: 'm', context_tokens: 10 }]
      const [put, removed] = await Promise.all([
        admin('PUT', `/models/${model}`, { targets }),
        admin('DELETE', `/providers/${name}`),
      ])
      expect([put.status, removed.status].toSorted()).toEqual(put.status === 200 ? [200, 409] : [200, 400])
    }
  })
})

describe('a model', () => {
  const principal = {
    orgId: crypto.randomUUID(),
    projectId: 'p',
    keyId: 'k',
    keyPrefix: 'psk_1',
    credential: 'key' as const,
  }

  test('keeps its policy and all fields of its targets, and loses the policy with a call that names none', async () => {
    const name = newName('model')
    const targets = [
      { provider: 'fleet', model: 'a', context_tokens: 10, weight: 3, region: 'eu-1', image_tokens_max: 765 },
      { provider: 'fleet', model: 'b', context_tokens: 10, weight: 0 },
    ]
    const policy = { strategy: 'weighted', sticky: 'end_user', shadow: { target: 1, percent: 0.5 }, attempts_max: 2 }
    const put = await admin('PUT', `/models/${name}`, { targets, policy })
    expect(put.body).toMatchObject({ targets, policy })
    const plan = await findPlan(principal, name, env, Date.now())
    expect(plan).toMatchObject({
      value: {
        policy: { ...policy, fallback_on: [] },
        targets: [
          { model: 'a', weight: 3, region: 'eu-1', imageTokensMax: 765 },
          { model: 'b', weight: 0 },
        ],
      },
    })
    const without = await admin('PUT', `/models/${name}`, { targets })
    expect(without.body.policy).toBeUndefined()
    expect(await findPlan(principal, name, env, Date.now())).toMatchObject({
      value: { policy: { strategy: 'ordered' } },
    })
  })

  test.each<[string, unknown, string]>([
    ['a strategy that there is not', { strategy: 'luck' }, 'policy.strategy'],
    ['a canary beyond its targets', { canary: { target: 1, percent: 1 } }, 'policy.canary.target'],
    ['a percentage above a hundred', { canary: { target: 0, percent: 101 } }, 'policy.canary.percent'],
    ['a hedge of no time', { hedge: { after_ms: 0 } }, 'policy.hedge.after_ms'],
    ['an unknown field', { retries: 3 }, 'policy.retries'],
    ['nothing to escalate on', { cascade: { escalate_on: [] } }, 'policy.cascade.escalate_on'],
  ])('with %s in its policy is refused by path', async (_, policy, param) => {
    const targets = [{ provider: 'fleet', model: 'm', context_tokens: 1 }]
    expect(errorOf(await admin('PUT', `/models/${newName('bad')}`, { targets, policy }))).toEqual([400, param])
  })
})

test('the one secret that a provider had before is its key default, and stays where it was; the migration may run again', async () => {
  const name = await registered()
  const later = await registered()
  const sealed = await sealSecret(env.SECRETS_KEK, name, OTHER, (count) =>
    crypto.getRandomValues(new Uint8Array(count)),
  )
  if (!sealed.ok) throw new Error(sealed.error.reason)
  const database = connect(env)
  await database.run({ text: 'delete from provider_keys where provider = $1', params: [name] })
  await database.run({
    text: 'update providers set secret_ciphertext = $2 where name = $1',
    params: [name, sealed.value],
  })
  const statements = migration.split(/;\n/).filter((text) => text.replace(/^--.*$/gm, '').trim() !== '')
  for (let time = 0; time < 2; time++) {
    for (const text of statements) await database.run({ text, params: [] })
  }
  forgetCatalog()
  expect(await keysOf(name)).toEqual([{ name: 'default', secret: OTHER, weight: 1 }])
  expect(await keysOf(later)).toEqual([{ name: 'default', secret: SECRET, weight: 1 }])
  // Isolates of the build before still read it in the middle of a deploy.
  const left = { text: 'select secret_ciphertext from providers where name = $1', params: [name] }
  expect((await database.run(left)).rows[0]?.[0]).toBe(sealed.value)
})
