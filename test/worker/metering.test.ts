// From what a provider says of its usage to the row it leaves: dialects, tiers, services, mark-ups, the provider's own cost.
import { env } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { connect } from '../../gateway/db/connect.ts'
import { PART_NAMES } from '../../gateway/meter/usage.ts'
import { admin, type Json } from './support/admin.ts'
import { readSse, World } from './support/path.ts'

const text = { choices: [{ index: 0, delta: { content: 'word' } }] }
const finish = { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }

const vendor =
  (...chunks: unknown[]) =>
  () =>
    new Response(
      [...chunks.map((chunk) => JSON.stringify(chunk)), '[DONE]'].map((one) => `data: ${one}\n\n`).join(''),
      {
        headers: { 'content-type': 'text/event-stream' },
      },
    )

const PARTS = Object.values(PART_NAMES)

/** The one row of the world's tenant; parts of zero are left out. */
async function row(world: World) {
  const { attempts } = await world.recorded()
  expect(attempts).toHaveLength(1)
  const { orgId } = await world.ownTenant()
  const columns = [
    ...PARTS,
    'cost_nanousd',
    'provider_cost_nanousd',
    'raw_usage',
    'inconsistent',
    'unit_prices',
    'pricing',
  ]
  const { rows } = await connect(env).run({
    text: `select ${columns.join(', ')} from usage_attempts where org_id = $1`,
    params: [orgId],
  })
  const values = new Map(columns.map((column, index) => [column, rows[0]?.[index]]))
  const json = (column: string): Json => JSON.parse(String(values.get(column)))
  return {
    usage: Object.fromEntries(PARTS.map((part) => [part, Number(values.get(part))]).filter(([, count]) => count !== 0)),
    costNanoUsd: values.get('cost_nanousd'),
    providerCostNanoUsd: values.get('provider_cost_nanousd'),
    rawUsage: json('raw_usage'),
    isInconsistent: values.get('inconsistent'),
    unitPrices: json('unit_prices'),
    pricing: values.get('pricing'),
  }
}

type Setup = { dialect?: string; tier?: string; price?: Record<string, unknown>; secret?: string }

async function worldOf(host: () => Response, setup: Setup = {}): Promise<World> {
  const world = new World()
  const name = await world.provider(host, ...(setup.secret === undefined ? [] : [setup.secret]))
  const put = await admin('PUT', `/providers/${name}`, {
    kind: 'openai_compatible',
    base_url: `https://${name}.example.com/v1`,
    usage_dialect: setup.dialect ?? 'openai',
  })
  expect(put.status).toBe(200)
  const priced = await admin('POST', '/prices', {
    provider: name,
    model: 'vendor-model',
    usd_per_million: { input_uncached: '1', output_text: '2' },
    ...setup.price,
  })
  expect(priced.status).toBe(201)
  const target = { provider: name, model: 'vendor-model', context_tokens: 4096 }
  const targets = [setup.tier === undefined ? target : { ...target, service_tier: setup.tier }]
  expect((await admin('PUT', `/models/${world.model}`, { targets })).status).toBe(200)
  return world
}

async function answered(world: World, over: Record<string, unknown> = {}): Promise<Response> {
  const { response, settled } = await world.chat(over)
  expect(response.status).toBe(200)
  const copy = response.clone()
  await response.text()
  await settled()
  return copy
}

describe('a provider’s dialect', () => {
  test.each<[string, unknown[], Record<string, number>]>([
    [
      'openai',
      [{ choices: [], usage: { prompt_tokens: 10, completion_tokens: 4, prompt_tokens_details: { audio_tokens: 3 } } }],
      { input_uncached: 7, input_audio: 3, output_text: 4 },
    ],
    [
      'anthropic',
      [
        {
          usage: {
            input_tokens: 2,
            cache_creation_input_tokens: 30,
            cache_creation: { ephemeral_5m_input_tokens: 30 },
          },
        },
        { usage: { output_tokens: 9, cache_read_input_tokens: 5, server_tool_use: { web_search_requests: 2 } } },
      ],
      { input_uncached: 2, input_cache_read: 5, input_cache_write_5m: 30, output_text: 9, web_search_calls: 2 },
    ],
    [
      'gemini',
      [
        {
          usageMetadata: {
            promptTokenCount: 9,
            candidatesTokenCount: 28,
            thoughtsTokenCount: 244,
            totalTokenCount: 281,
          },
        },
      ],
      { input_uncached: 9, output_text: 28, output_reasoning: 244 },
    ],
    [
      'xai',
      [{ usage: { prompt_tokens: 12, completion_tokens: 2, completion_tokens_details: { reasoning_tokens: 424 } } }],
      { input_uncached: 12, output_text: 2, output_reasoning: 424 },
    ],
    [
      'deepseek',
      [{ usage: { prompt_tokens: 10, completion_tokens: 2, prompt_cache_hit_tokens: 6, prompt_cache_miss_tokens: 4 } }],
      { input_uncached: 4, input_cache_read: 6, output_text: 2 },
    ],
  ])('%s reaches the row in its parts, with its own words', async (dialect, chunks, usage) => {
    const world = await worldOf(vendor(text, finish, ...chunks), { dialect })
    await answered(world)
    const found = await row(world)
    expect(found.usage).toEqual(usage)
    expect(found.isInconsistent).toBe(false)
    const last = chunks.at(-1) as Json
    expect(found.rawUsage).toMatchObject(last.usage ?? last.usageMetadata)
  })

  test('that contradicts itself is flagged in the row and charged all the same', async () => {
    const usage = { prompt_tokens: 10, completion_tokens: 2, total_tokens: 3 }
    const world = await worldOf(vendor(text, finish, { choices: [], usage }))
    await answered(world)
    expect(await row(world)).toMatchObject({ isInconsistent: true, costNanoUsd: '14000', rawUsage: usage })
  })

  test('that quotes the key it was called with has it taken out of the row', async () => {
    const secret = `sk-canary-"\\${crypto.randomUUID()}`
    const usage = { prompt_tokens: 1, completion_tokens: 1, called_with: secret }
    const world = await worldOf(vendor(text, finish, { choices: [], usage }), { secret })
    await answered(world)
    const { rawUsage } = await row(world)
    expect(rawUsage.called_with).toBe('[secret]')
  })
})

describe('what a row costs', () => {
  const counted = (prompt_tokens: number, completion_tokens: number, more: Record<string, unknown> = {}) =>
    vendor(text, finish, { choices: [], usage: { prompt_tokens, completion_tokens, ...more } })

  test('is the tier of its prompt times what the organisation pays, beside the provider’s list price', async () => {
    const context_tiers = [{ above_input_tokens: 100, usd_per_million: { input_uncached: '3' } }]
    const world = await worldOf(counted(200, 10), { price: { context_tiers } })
    const { orgId } = await world.ownTenant()
    await admin('POST', `/organisations/${orgId}/markups`, { basis_points: 15_000 })
    await answered(world)
    const found = await row(world)
    expect(found).toMatchObject({ costNanoUsd: '930000', providerCostNanoUsd: '620000', pricing: 'priced' })
    expect(found.unitPrices).toMatchObject({
      basisPoints: 15_000,
      contextTiers: [{ aboveInputTokens: 100, perMillion: { inputUncached: '3000000000' } }],
    })
  })

  test('stands beside what the provider says it charges, where it says so', async () => {
    const world = await worldOf(counted(10, 1, { cost_in_usd_ticks: 37_756_000 }), { dialect: 'xai' })
    await answered(world)
    expect(await row(world)).toMatchObject({ costNanoUsd: '12000', providerCostNanoUsd: '3775600' })
  })

  test('is that of the service which the target names, and the provider is asked for it', async () => {
    const world = await worldOf(counted(10, 1), { tier: 'flex', price: { service_tier: 'flex' } })
    await answered(world)
    expect(world.calls[0]?.body).toMatchObject({ service_tier: 'flex' })
    expect(await row(world)).toMatchObject({ costNanoUsd: '12000' })
  })

  test('asks nothing of the provider where the target names no service', async () => {
    const world = await worldOf(counted(10, 1), { tier: 'standard' })
    await answered(world)
    expect(world.calls[0]?.body).not.toHaveProperty('service_tier')
    expect(await row(world)).toMatchObject({ costNanoUsd: '12000' })
  })
})

test('usage is always asked for, and goes to the client only where the client asked', async () => {
  const world = await worldOf(vendor(text, finish, { choices: [], usage: { prompt_tokens: 3, completion_tokens: 1 } }))
  const seen = []
  for (const asked of [{}, { stream_options: { include_usage: true } }]) {
    const { data } = readSse(await (await answered(world, { stream: true, ...asked })).text())
    seen.push(data.filter((chunk) => chunk.usage !== undefined && chunk.usage !== null).length)
  }
  expect(seen).toEqual([0, 1])
  for (const { body } of world.calls) expect(body.stream_options).toEqual({ include_usage: true })
})
