// POST /v1/embeddings through the whole gateway: own backends, a provider, what is refused, and what is paid.
import { describe, expect, test } from 'vitest'
import { encodeVector } from '../../gateway/stream/vector.ts'
import type { DispatchEvent } from '../../protocol/dispatch.ts'
import { MAX_EMBEDDING_INPUTS, MAX_EMBEDDING_TOKENS } from '../../protocol/request.ts'
import { admin, type Json } from './support/admin.ts'
import { refusal, usage } from './support/fake-agent.ts'
import { FLEET_TARGET, type Target, World } from './support/path.ts'

const VECTORS = [
  [1, 0],
  [0.6, -0.8],
  [0, -1],
]

/** Vectors in the order they become ready, which is not that of the inputs. */
const vectors = (count = 2, cached = 0): DispatchEvent[] => [
  { type: 'accepted', usage: usage(9, 0), queueMs: 0 },
  ...VECTORS.slice(0, count)
    .map((values, choice) => ({ type: 'embedding' as const, choice, values: encodeVector(values) }))
    .reverse(),
  { type: 'usage', usage: usage(9 - cached, 0, cached) },
]

const rounded = (values: number[]) => values.map((value) => Math.fround(value))
const vendor = (name: string): Target => ({ provider: name, model: 'vendor-model', context_tokens: 8192 })
const ask = (world: World, over: Record<string, unknown> = {}) =>
  world.send('/v1/embeddings', { model: world.model, input: ['one', 'two'], ...over })

describe('own backends', () => {
  test('answer in the order of the inputs, in numbers, and are paid for the input alone', async () => {
    const world = new World()
    const agent = await world.agent(() => vectors(2, 4))
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await ask(world)
    expect(response.status).toBe(200)
    expect(await response.json()).toEqual({
      object: 'list',
      model: world.model,
      data: VECTORS.slice(0, 2).map((values, index) => ({ object: 'embedding', index, embedding: rounded(values) })),
      usage: { prompt_tokens: 9, total_tokens: 9, prompt_tokens_details: { cached_tokens: 4 } },
    })
    expect(agent.dispatches[0]).toMatchObject({
      input: { kind: 'embedding', prompts: [{ text: 'one' }, { text: 'two' }] },
      n: 1,
    })
    expect(agent.dispatches[0]?.maxOutputTokens).toBeUndefined()
    await settled()
    const { attempts, requests, holds } = await world.recorded()
    // $1 per million computed, $0.5 per million from the cache.
    expect(attempts).toMatchObject([
      { status: 'ok', charge: 'customer', source: 'provider', input: 5, cached: 4, output: 0, costNanoUsd: 7000n },
    ])
    expect(requests).toEqual([{ status: 'ok', attempts: 1 }])
    expect(holds).toBe(0)
  })

  test('give base64 where it is asked for', async () => {
    const world = new World()
    await world.agent(() => vectors(1))
    await world.catalog([FLEET_TARGET(world.model)])
    const { response } = await ask(world, { input: 'one', encoding_format: 'base64' })
    const { data } = await response.json<Json>()
    expect(data).toEqual([{ object: 'embedding', index: 0, embedding: encodeVector([1, 0]) }])
  })

  test.each([
    ['a text', 'one', [{ text: 'one' }]],
    ['token ids', [1, 2, 3], [{ tokenIds: [1, 2, 3] }]],
    ['several lists of token ids', [[1, 2], [3]], [{ tokenIds: [1, 2] }, { tokenIds: [3] }]],
  ])('take %s', async (_, input, prompts) => {
    const world = new World()
    const agent = await world.agent(() => vectors(prompts.length))
    await world.catalog([FLEET_TARGET(world.model)])
    const { response } = await ask(world, { input, dimensions: 2, user: 'someone' })
    expect(response.status).toBe(200)
    expect(agent.dispatches[0]?.input).toEqual({ kind: 'embedding', prompts, dimensions: 2 })
  })

  test('that leave out a vector have not answered', async () => {
    const world = new World()
    await world.agent(() => vectors(1))
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await ask(world)
    expect(response.status).toBe(502)
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ charge: 'absorbed' }])
  })

  test('that refuse say why', async () => {
    const world = new World()
    await world.agent(() => refusal(400, 'invalid_request'))
    await world.catalog([FLEET_TARGET(world.model)])
    const { response } = await ask(world)
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { type: 'invalid_request_error', code: 'invalid_request' } })
  })
})

describe('a provider', () => {
  const list = (form: (values: number[]) => unknown) =>
    Response.json({
      object: 'list',
      data: VECTORS.slice(0, 2).map((values, index) => ({ object: 'embedding', index, embedding: form(values) })),
      usage: { prompt_tokens: 6, total_tokens: 6 },
    })

  test.each([
    ['numbers', (values: number[]) => values],
    ['base64', encodeVector],
  ])('takes over when own backends fail, answering in %s', async (_, form) => {
    const world = new World()
    await world.agent(() => [
      { type: 'accepted', usage: usage(9, 0), queueMs: 0 },
      { type: 'error', code: 'engine_lost', message: 'gone', usage: usage(9, 0) },
    ])
    const name = await world.provider(() => list(form))
    await world.catalog([FLEET_TARGET(world.model), vendor(name)])
    const { response, settled } = await ask(world, { dimensions: 2 })
    expect(response.headers.get('x-penstock-target')).toBe(name)
    const { data, usage: counted } = await response.json<Json>()
    expect(data.map((one: Json) => one.embedding)).toEqual(VECTORS.slice(0, 2).map(rounded))
    expect(counted).toMatchObject({ prompt_tokens: 6, total_tokens: 6 })
    const call = world.calls.find((one) => one.host.startsWith(name))
    expect(call?.body).toEqual({
      model: 'vendor-model',
      input: ['one', 'two'],
      encoding_format: 'base64',
      dimensions: 2,
    })
    await settled()
    const { attempts, holds } = await world.recorded()
    expect(attempts).toMatchObject([
      { provider: 'fleet', status: 'engine_lost', charge: 'absorbed', input: 9, output: 0 },
      { provider: name, status: 'ok', charge: 'customer', input: 6, output: 0, costNanoUsd: 6000n },
    ])
    expect(holds).toBe(0)
  })

  test.each([
    ['vectors that are none', () => list(() => ['x'])],
    ['text in place of base64', () => list(() => 'not base64!')],
    ['no vectors', () => Response.json({ object: 'list', data: [], usage: { prompt_tokens: 6, total_tokens: 6 } })],
    ['an error', () => Response.json({ error: { message: 'no' } }, { status: 500 })],
  ])('with %s falls over', async (_, host) => {
    const world = new World()
    await world.agent(() => vectors())
    const name = await world.provider(host)
    await world.catalog([vendor(name), FLEET_TARGET(world.model)])
    const { response, settled } = await ask(world)
    expect(response.status).toBe(200)
    await settled()
    expect((await world.recorded()).attempts.map((row) => row.charge)).toEqual(['absorbed', 'customer'])
  })

  test('needs no price of an output it does not make, even under a money limit', async () => {
    const world = new World()
    const name = await world.provider(() => list(encodeVector))
    await admin('POST', '/prices', {
      provider: name,
      model: 'vendor-model',
      usd_per_million: { input_uncached: '1' },
    })
    await admin('PUT', `/models/${world.model}`, { targets: [vendor(name)] })
    const { orgId } = await world.ownTenant()
    const limits = [{ meter: 'money', window: 'lifetime', max_usd: '1' }]
    expect((await admin('PUT', `/organisations/${orgId}/limits`, { limits })).status).toBe(200)
    const { response, settled } = await ask(world)
    expect(response.status).toBe(200)
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ input: 6, costNanoUsd: 6000n }])
  })
})

describe('a body is refused by the field that is wrong:', () => {
  const many = Array.from({ length: MAX_EMBEDDING_INPUTS + 1 }, () => 'x')
  const half = Array.from({ length: MAX_EMBEDDING_TOKENS / 2 + 1 }, () => 1)
  test.each([
    ['no input', { input: undefined }, 'input'],
    ['an empty text', { input: '' }, 'input'],
    ['an empty text among others', { input: ['a', ''] }, 'input[1]'],
    ['no texts', { input: [] }, 'input'],
    ['empty ids', { input: [[1], []] }, 'input[1]'],
    ['something that is no id', { input: [[1], [1.5]] }, 'input[1][0]'],
    ['too many inputs', { input: many }, 'input'],
    ['too many tokens', { input: [half, half] }, 'input'],
    ['an unknown format', { encoding_format: 'int8' }, 'encoding_format'],
    ['no dimensions', { dimensions: 0 }, 'dimensions'],
    ['a parameter of generations', { max_tokens: 3 }, 'max_tokens'],
    ['a stream', { stream: true }, 'stream'],
  ])('%s', async (_, over, param) => {
    const world = new World()
    const { response } = await ask(world, over)
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { type: 'invalid_request_error', param } })
  })
})
