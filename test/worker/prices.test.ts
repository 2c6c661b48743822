// The price book over the admin API with the real migrations: tiers, services, ends, imports, own machines, mark-ups.
import { env } from 'cloudflare:test'
import { beforeEach, describe, expect, test } from 'vitest'
import catalogue from '../../deploy/price-catalogue.json'
import type { Principal } from '../../gateway/auth/principal.ts'
import { connect } from '../../gateway/db/connect.ts'
import { findPlan, forgetCatalog } from '../../gateway/policy/catalog.ts'
import { admin, type Json, newName, newTenant, withoutDatabase } from './support/admin.ts'

const HOUR_MS = 3_600_000
const at = (nowMs: number) => new Date(nowMs).toISOString()
const refusalOf = ({ status, body }: { status: number; body: Json }) => [status, body?.error?.param]
const payer = (orgId: string): Principal => ({
  orgId,
  projectId: 'p',
  keyId: 'k',
  keyPrefix: 'psk_12345678',
  credential: 'key',
})
const anyone = payer(crypto.randomUUID())

async function newModel(service_tier?: string): Promise<string> {
  const name = newName('model')
  const target = { provider: 'fleet', model: name, context_tokens: 2048, ...(service_tier ? { service_tier } : {}) }
  expect((await admin('PUT', `/models/${name}`, { targets: [target] })).status).toBe(200)
  return name
}

async function quoteOf(name: string, nowMs = Date.now(), principal = anyone) {
  forgetCatalog()
  const plan = await findPlan(principal, name, env, nowMs)
  if (!plan.ok) throw new Error(plan.error.message)
  return plan.value.targets[0]?.price
}

const add = (model: string, more: Record<string, unknown> = {}) =>
  admin('POST', '/prices', {
    provider: 'fleet',
    model,
    usd_per_million: { input_uncached: '1', output_text: '2' },
    ...more,
  })

beforeEach(forgetCatalog)

describe('a version', () => {
  test('prices all thirteen parts and long prompts, and says where it comes from', async () => {
    const model = await newModel()
    const parts = {
      input_uncached: '1',
      input_cache_read: '0.1',
      input_cache_write_5m: '1.25',
      input_cache_write_1h: '2',
      input_audio: '3',
      input_image: '4',
      output_text: '5',
      output_reasoning: '6',
      output_audio: '7',
      output_image: '8',
      web_search_calls: '10000',
      image_calls: '40000',
      tool_calls: '0',
    }
    const context_tiers = [
      { above_input_tokens: 128_000, usd_per_million: { input_uncached: '2' } },
      { above_input_tokens: 200_000, usd_per_million: { input_uncached: '3', output_text: '9' } },
    ]
    const made = await add(model, {
      usd_per_million: parts,
      context_tiers,
      source: 'a page',
      source_date: '2026-08-21',
    })
    expect(made.status).toBe(201)
    expect(made.body).toMatchObject({
      service_tier: 'standard',
      usd_per_million: parts,
      context_tiers,
      source: 'a page',
      source_date: '2026-08-21',
    })
    const { body: list } = await admin('GET', `/prices?model=${model}`)
    expect(list.data).toEqual([made.body])
    expect(await quoteOf(model)).toEqual({
      priceVersionId: made.body.id,
      perMillion: {
        inputUncached: 1_000_000_000n,
        inputCacheRead: 100_000_000n,
        inputCacheWrite5m: 1_250_000_000n,
        inputCacheWrite1h: 2_000_000_000n,
        inputAudio: 3_000_000_000n,
        inputImage: 4_000_000_000n,
        outputText: 5_000_000_000n,
        outputReasoning: 6_000_000_000n,
        outputAudio: 7_000_000_000n,
        outputImage: 8_000_000_000n,
        webSearchCalls: 10_000_000_000_000n,
        imageCalls: 40_000_000_000_000n,
        toolCalls: 0n,
      },
      contextTiers: [
        { aboveInputTokens: 128_000, perMillion: { inputUncached: 2_000_000_000n } },
        { aboveInputTokens: 200_000, perMillion: { inputUncached: 3_000_000_000n, outputText: 9_000_000_000n } },
      ],
    })
  })

  test('belongs to one service of the provider: each is priced apart', async () => {
    const model = await newModel('flex')
    await add(model)
    expect(await quoteOf(model)).toBeUndefined()
    const flex = await add(model, { service_tier: 'flex', usd_per_million: { output_text: '1' } })
    expect(flex.status).toBe(201)
    expect((await quoteOf(model))?.priceVersionId).toBe(flex.body.id)
    const { body: list } = await admin('GET', `/prices?model=${model}&service_tier=flex`)
    expect(list.data.map((one: Json) => one.id)).toEqual([flex.body.id])
  })

  test('that has ended leaves the price unknown until another begins', async () => {
    const model = await newModel()
    const nowMs = Date.now()
    const first = await add(model, { effective_to: at(nowMs + HOUR_MS) })
    const second = await add(model, { effective_from: at(nowMs + 2 * HOUR_MS) })
    expect([first.status, second.status]).toEqual([201, 201])
    const seen = []
    for (const afterMs of [1000, HOUR_MS - 1, HOUR_MS, 2 * HOUR_MS - 1, 2 * HOUR_MS]) {
      seen.push((await quoteOf(model, nowMs + afterMs))?.priceVersionId)
    }
    expect(seen).toEqual([first.body.id, first.body.id, undefined, undefined, second.body.id])
  })

  test('that overlaps another is refused with the other’s name, unless that is meant', async () => {
    const model = await newModel()
    const nowMs = Date.now()
    const until = { effective_to: at(nowMs + 4 * HOUR_MS) }
    const first = await add(model, until)
    const dearer = { usd_per_million: { output_text: '3' } }
    const inside = { ...dearer, effective_from: at(nowMs + 2 * HOUR_MS) }
    const refused = await add(model, inside)
    expect(refusalOf(refused)).toEqual([400, 'effective_from'])
    expect(refused.body.error.message).toContain(first.body.id)
    expect(refusalOf(await add(model, dearer))).toEqual([400, 'effective_from'])
    const meant = await add(model, { ...inside, supersede: true })
    expect(meant.status).toBe(201)
    expect((await quoteOf(model, nowMs + 3 * HOUR_MS))?.priceVersionId).toBe(meant.body.id)

    const reaching = { ...dearer, effective_from: at(nowMs + HOUR_MS), effective_to: at(nowMs + 3 * HOUR_MS) }
    const other = await newModel()
    const later = await add(other, { effective_from: at(nowMs + 2 * HOUR_MS) })
    const tooLong = await add(other, reaching)
    expect(refusalOf(tooLong)).toEqual([400, 'effective_to'])
    expect(tooLong.body.error.message).toContain(later.body.id)
    expect((await add(other, { ...reaching, effective_to: at(nowMs + 2 * HOUR_MS) })).status).toBe(201)
  })

  test('that says what holds already is not added, tiers and end included', async () => {
    const model = await newModel()
    const tiers = { context_tiers: [{ above_input_tokens: 10, usd_per_million: { output_text: '4' } }] }
    const first = await add(model, tiers)
    const again = await add(model, tiers)
    expect([first.status, again.status]).toEqual([201, 200])
    expect(again.body).toEqual(first.body)
    expect((await add(model)).status).toBe(201)
    expect((await admin('GET', `/prices?model=${model}`)).body.data).toHaveLength(2)
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['an end in the past', { effective_to: '2020-01-01T00:00:00Z' }, 'effective_to'],
    [
      'an end before its beginning',
      { effective_from: '2099-01-02T00:00:00Z', effective_to: '2099-01-01T00:00:00Z' },
      'effective_to',
    ],
    [
      'tiers that do not rise',
      {
        context_tiers: [
          { above_input_tokens: 5, usd_per_million: { output_text: '1' } },
          { above_input_tokens: 5, usd_per_million: { output_text: '2' } },
        ],
      },
      'context_tiers[1].above_input_tokens',
    ],
    [
      'a tier without prices',
      { context_tiers: [{ above_input_tokens: 5, usd_per_million: {} }] },
      'context_tiers[0].usd_per_million',
    ],
    [
      'a tier with a price beyond the bound',
      { context_tiers: [{ above_input_tokens: 5, usd_per_million: { output_text: '1000000.1' } }] },
      'context_tiers[0].usd_per_million.output_text',
    ],
    ['a service with capitals', { service_tier: 'Flex' }, 'service_tier'],
    ['a source with a line break', { source: 'a\nb' }, 'source'],
    ['a day that is none', { source_date: '2026-02-30' }, 'source_date'],
    ['another currency', { eur_per_million: { output_text: '1' } }, 'eur_per_million'],
  ])('%s is refused with its path', async (_, wrong, param) => {
    expect(refusalOf(await add('m', wrong))).toEqual([400, param])
  })
})

describe('an import', () => {
  const entry = (model: string, output: string, more: Record<string, unknown> = {}) => ({
    provider: 'fleet',
    model,
    usd_per_million: { input_uncached: '1', output_text: output },
    ...more,
  })

  test('tells the difference part by part, writes nothing when dry, and is safe to repeat', async () => {
    const [kept, changed, fresh] = [newName('kept'), newName('changed'), newName('fresh')]
    await admin('POST', '/prices', entry(kept, '2'))
    const before = await admin('POST', '/prices', entry(changed, '2'))
    const tier = { above_input_tokens: 200_000, usd_per_million: { output_text: '6' } }
    const file = {
      source: 'a page',
      source_date: '2026-08-21',
      entries: [entry(kept, '2.0'), entry(changed, '3', { context_tiers: [tier] }), entry(fresh, '4')],
    }
    const difference = {
      added: [{ model: fresh, service_tier: 'standard', usd_per_million: { input_uncached: '1', output_text: '4' } }],
      changed: [
        {
          model: changed,
          replaces: before.body.id,
          usd_per_million: { output_text: { old: '2', new: '3' } },
          context_tiers: [{ above_input_tokens: 200_000, usd_per_million: { output_text: { old: null, new: '6' } } }],
        },
      ],
      unchanged: 1,
    }
    const dry = await admin('POST', '/prices/import', { ...file, dry_run: true })
    expect(dry.body).toMatchObject({ dry_run: true, ...difference })
    expect((await admin('GET', `/prices?model=${fresh}`)).body.data).toEqual([])
    const wet = await admin('POST', '/prices/import', file)
    expect(wet.body).toMatchObject({ dry_run: false, ...difference })
    const stored = (await admin('GET', `/prices?model=${changed}`)).body.data
    expect(stored).toHaveLength(2)
    expect(stored[0]).toMatchObject({ context_tiers: [tier], source: 'a page', source_date: '2026-08-21' })
    const again = await admin('POST', '/prices/import', file)
    expect(again.body).toEqual({ dry_run: false, added: [], changed: [], unchanged: 3, ended: 0 })
    const { body: audit } = await admin('GET', '/audit?limit=200')
    const acts = audit.data.filter((act: Json) => act.action === 'price.import' && JSON.stringify(act).includes(fresh))
    expect(acts).toHaveLength(1)
  })

  test('is all or nothing: one wrong entry is named and nothing is written', async () => {
    const [good, bad] = [newName('good'), newName('bad')]
    const nowMs = Date.now()
    await admin('POST', '/prices', entry(bad, '2', { effective_to: at(nowMs + HOUR_MS) }))
    const wrong = [
      [entry(bad, '3'), 'entries[1].effective_from'],
      [entry(bad, '-3'), 'entries[1].usd_per_million.output_text'],
      [entry(good, '5'), 'entries[1]'],
    ] as const
    for (const [second, param] of wrong) {
      const answer = await admin('POST', '/prices/import', { entries: [entry(good, '1'), second] })
      expect(refusalOf(answer)).toEqual([400, param])
    }
    expect((await admin('GET', `/prices?model=${good}`)).body.data).toEqual([])
    const meant = { supersede: true, entries: [entry(bad, '3')] }
    expect((await admin('POST', '/prices/import', meant)).body.changed).toHaveLength(1)
  })

  test('begins now where it names the past, and leaves out what has ended by now', async () => {
    const model = newName('dated')
    const nowMs = Date.now()
    const entries = [
      entry(model, '1', { effective_from: '2020-01-01T00:00:00Z' }),
      entry(model, '2', { effective_from: '2021-01-01T00:00:00Z', effective_to: at(nowMs + HOUR_MS) }),
      entry(model, '3', { effective_from: at(nowMs + HOUR_MS) }),
      entry(newName('over'), '4', { effective_to: '2022-01-01T00:00:00Z' }),
    ]
    const first = await admin('POST', '/prices/import', { entries })
    expect(first.body).toMatchObject({ unchanged: 0, ended: 2 })
    const prices = first.body.added.concat(first.body.changed)
    expect(prices.map((one: Json) => one.model)).toEqual([model, model])
    const stored = (await admin('GET', `/prices?model=${model}`)).body.data
    const begun = stored.filter((one: Json) => Date.parse(one.effective_from) <= nowMs + 60_000)
    expect(begun.map((one: Json) => one.usd_per_million.output_text)).toEqual(['2'])
    const again = await admin('POST', '/prices/import', { entries })
    expect(again.body).toEqual({ dry_run: false, added: [], changed: [], unchanged: 2, ended: 2 })
    const overlapping = [entry(model, '5', { effective_from: at(nowMs + HOUR_MS / 2) })]
    expect(refusalOf(await admin('POST', '/prices/import', { entries: overlapping }))).toEqual([
      400,
      'entries[0].effective_from',
    ])
  })

  test('of the catalogue that comes with Penstock goes in as it is, and a second time changes nothing', async () => {
    const first = await admin('POST', '/prices/import', catalogue)
    expect(first.body).toMatchObject({ changed: [], unchanged: 0 })
    expect(first.body.added.length + first.body.ended).toBe(catalogue.entries.length)
    const again = await admin('POST', '/prices/import', catalogue)
    expect(again.body).toMatchObject({ added: [], changed: [], unchanged: first.body.added.length })
  })

  test('that overlaps itself is refused', async () => {
    const model = newName('self')
    const nowMs = Date.now()
    const entries = [
      entry(model, '2', { effective_to: at(nowMs + 2 * HOUR_MS) }),
      entry(model, '3', { effective_from: at(nowMs + HOUR_MS) }),
    ]
    const answer = await admin('POST', '/prices/import', { entries })
    expect(refusalOf(answer)).toEqual([400, 'entries[1].effective_from'])
  })

  test('of too many entries, or of none, is refused', async () => {
    const many = Array.from({ length: 201 }, (_, index) => entry(`m${index}`, '1'))
    expect(refusalOf(await admin('POST', '/prices/import', { entries: many }))).toEqual([400, 'entries'])
    expect(refusalOf(await admin('POST', '/prices/import', { entries: [] }))).toEqual([400, 'entries'])
  })

  test('of the most entries, in all parts and a tier, goes in at once', async () => {
    const stem = newName('many')
    const parts = [
      'input_uncached',
      'input_cache_read',
      'input_cache_write_5m',
      'input_audio',
      'output_text',
      'output_audio',
    ]
    const usd_per_million = Object.fromEntries(parts.map((part) => [part, '1']))
    const tier = { above_input_tokens: 200_000, usd_per_million: { output_text: '6' } }
    const entries = Array.from({ length: 200 }, (_, index) => ({
      provider: 'fleet',
      model: `${stem}-${index}`,
      usd_per_million,
      context_tiers: [tier],
    }))
    const made = await admin('POST', '/prices/import', { entries })
    expect(made.body.added).toHaveLength(200)
    const again = await admin('POST', '/prices/import', { entries, dry_run: true })
    expect(again.body.unchanged).toBe(200)
  })
})

describe('the price of an own machine', () => {
  const machine = { gpu_hour_usd: '3.60', gpus: 2, input_tokens_per_second: 20_000, output_tokens_per_second: 1_000 }

  test('comes from its hour and its rates, and is a version like any other', async () => {
    const model = await newModel()
    const dry = await admin('POST', '/prices/self-hosted', { model, ...machine, dry_run: true })
    expect(dry.body).toMatchObject({
      provider: 'fleet',
      usd_per_million: { input_uncached: '0.1', input_cache_read: '0', output_text: '2', output_reasoning: '2' },
      source: expect.stringContaining('3.6 USD per GPU-hour x 2 GPUs'),
    })
    expect(await quoteOf(model)).toBeUndefined()
    const made = await admin('POST', '/prices/self-hosted', { model, ...machine })
    expect(made.status).toBe(201)
    expect(await quoteOf(model)).toMatchObject({ perMillion: { outputText: 2_000_000_000n } })
    expect((await admin('POST', '/prices/self-hosted', { model, ...machine })).status).toBe(200)
    const half = await admin('POST', '/prices/self-hosted', { model, ...machine, utilisation: 0.5 })
    expect(half.body.usd_per_million.output_text).toBe('4')
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['no GPU', { gpus: 0 }, 'gpus'],
    ['an hour as a number', { gpu_hour_usd: 3.6 }, 'gpu_hour_usd'],
    ['a negative hour', { gpu_hour_usd: '-1' }, 'gpu_hour_usd'],
    ['no throughput', { output_tokens_per_second: 0 }, 'output_tokens_per_second'],
    ['more than all of the time', { utilisation: 1.5 }, 'utilisation'],
    [
      'a token dearer than a dollar',
      { gpu_hour_usd: '90000', output_tokens_per_second: 0.01 },
      'output_tokens_per_second',
    ],
  ])('%s is refused with its path', async (_, wrong, param) => {
    expect(refusalOf(await admin('POST', '/prices/self-hosted', { model: 'm', ...machine, ...wrong }))).toEqual([
      400,
      param,
    ])
  })
})

describe('a mark-up', () => {
  test('of the most specific rule holds, from its instant on, for its organisation alone', async () => {
    const model = await newModel()
    await add(model)
    const { orgId } = await newTenant()
    const rule = (body: Record<string, unknown>) => admin('POST', `/organisations/${orgId}/markups`, body)
    const nowMs = Date.now()
    const pays = async (afterMs = 1000) => (await quoteOf(model, nowMs + afterMs, payer(orgId)))?.basisPoints
    expect(await pays()).toBeUndefined()
    expect((await rule({ basis_points: 11_000 })).status).toBe(201)
    expect(await pays()).toBe(11_000)
    await rule({ provider: 'fleet', basis_points: 12_000 })
    expect(await pays()).toBe(12_000)
    await rule({ model, basis_points: 13_000 })
    expect(await pays()).toBe(13_000)
    await rule({ provider: 'fleet', model, basis_points: 0 })
    expect(await pays()).toBe(0)
    await rule({ provider: 'fleet', model, basis_points: null, effective_from: at(nowMs + HOUR_MS) })
    expect([await pays(HOUR_MS - 1), await pays(HOUR_MS)]).toEqual([0, 13_000])
    expect((await quoteOf(model))?.basisPoints).toBeUndefined()
    const { body: list } = await admin('GET', `/organisations/${orgId}/markups`)
    expect(list.data.map((one: Json) => [one.provider, one.model, one.basis_points])).toEqual([
      ['fleet', model, null],
      ['fleet', model, 0],
      ['*', model, 13_000],
      ['fleet', '*', 12_000],
      ['*', '*', 11_000],
    ])
  })

  test('that says what holds already is not added; one at a taken instant is refused', async () => {
    const { orgId } = await newTenant()
    const rule = (body: Record<string, unknown>) => admin('POST', `/organisations/${orgId}/markups`, body)
    const first = await rule({ basis_points: 11_000 })
    const again = await rule({ basis_points: 11_000 })
    expect([first.status, again.status]).toEqual([201, 200])
    expect(again.body).toEqual(first.body)
    const later = { effective_from: at(Date.now() + HOUR_MS) }
    expect((await rule({ basis_points: 12_000, ...later })).status).toBe(201)
    expect(refusalOf(await rule({ basis_points: 13_000, ...later }))).toEqual([400, 'effective_from'])
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['a negative one', { basis_points: -1 }, 'basis_points'],
    ['more than a hundredfold', { basis_points: 1_000_001 }, 'basis_points'],
    ['a fraction', { basis_points: 1.5 }, 'basis_points'],
    ['the end of a rule that is not there', { basis_points: null }, 'basis_points'],
    ['one in the past', { basis_points: 1, effective_from: '2020-01-01T00:00:00Z' }, 'effective_from'],
    ['a provider with capitals', { basis_points: 1, provider: 'ACME' }, 'provider'],
  ])('%s is refused with its path', async (_, body, param) => {
    const { orgId } = await newTenant()
    expect(refusalOf(await admin('POST', `/organisations/${orgId}/markups`, body))).toEqual([400, param])
  })

  test('that cannot be read stops the request rather than charge the list price', async () => {
    const model = await newModel()
    await add(model)
    await findPlan(anyone, model, env, Date.now())
    const other = payer(crypto.randomUUID())
    expect(await findPlan(other, model, withoutDatabase(), Date.now())).toMatchObject({
      error: { code: 'unavailable' },
    })
  })

  test('of an organisation that is not there is not found', async () => {
    const path = `/organisations/${crypto.randomUUID()}/markups`
    expect((await admin('POST', path, { basis_points: 1 })).status).toBe(404)
    expect((await admin('GET', path)).status).toBe(404)
  })
})

test('the book keeps out what its rules forbid, whoever writes', async () => {
  const database = connect(env)
  const id = crypto.randomUUID()
  const version = `insert into price_versions (price_version_id, provider, model, effective_from, created_at`
  const refused = (text: string) => expect(database.run({ text, params: [] })).rejects.toThrow()
  await refused(`${version}, effective_to) values ('${id}', 'p', 'm', now(), now(), now() - interval '1 day')`)
  await refused(`insert into price_parts values ('${id}', 'output_smell', 1)`)
  await refused(`insert into price_tier_parts values ('${id}', 0, 'output_text', 1)`)
  await refused(`insert into price_tier_parts values ('${id}', 1, 'output_text', -1)`)
  await refused(`insert into price_markups values ('${id}', '${id}', '*', '*', 1000001, now(), now())`)
})
