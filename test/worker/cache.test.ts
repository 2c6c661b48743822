// The response cache on the whole path: what a hit costs, is recorded as and says; who never gets one; and that nothing is
// refused for its sake.
import { env, runInDurableObject } from 'cloudflare:test'
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type AnswerCache, answerCacheName, answerCacheNames } from '../../gateway/cache/answer-cache.ts'
import { admin, type Json, newTenant, type Tenant } from './support/admin.ts'
import { type Host, readSse, World } from './support/path.ts'

/** So many answers were computed: each is another one. */
let computed = 0
let world: World
let provider: string
/** What the vendor does in this test. */
let answering: Host

const chunk = (delta: object, finish: string | null = null) => ({
  choices: [{ index: 0, delta, finish_reason: finish }],
})

/** A vendor that streams; `say` are the deltas of an answer. */
function vendor(say: (n: number) => object[], finish = 'stop') {
  return () => {
    computed++
    const chunks = [...say(computed).map((delta) => chunk(delta)), chunk({}, finish)]
    const counted = { choices: [], usage: { prompt_tokens: 5, completion_tokens: 3 } }
    const text = [...chunks, counted].map((one) => `data: ${JSON.stringify(one)}\n\n`).join('')
    return new Response(`${text}data: [DONE]\n\n`, { headers: { 'content-type': 'text/event-stream' } })
  }
}

const words = (n: number) => [{ content: 'Answer ' }, { content: `number ${n}` }]

beforeAll(async () => {
  // A slow machine is no reason for a miss here.
  world = new World({ cacheMs: 10_000 })
  provider = await world.provider((request) => answering(request))
  await world.catalog([{ provider, model: 'vendor-model', context_tokens: 4096 }])
})

beforeEach(async () => {
  computed = 0
  answering = vendor(words)
  world.tenant = await newTenant({ cache: { ttl_s: 3600 } })
})

type Asked = { text: string; cache: string | null; age: string | null; usage: Json; response: Response }

async function ask(
  over: Record<string, unknown> = {},
  options: { headers?: Record<string, string>; key?: string } = {},
): Promise<Asked> {
  const { response, settled } = await world.chat(over, options)
  expect(response.status).toBe(200)
  const body = over.stream === true ? await streamedText(response) : wholeText(await response.json<Json>())
  await settled()
  const { headers } = response
  return { ...body, cache: headers.get('x-penstock-cache'), age: headers.get('age'), response }
}

const wholeText = (body: Json) => ({ text: body.choices[0].message.content as string, usage: body.usage })

async function streamedText(response: Response) {
  const { data, done } = readSse(await response.text())
  expect(done).toBe(true)
  const text = data.map((one) => (one as Json).choices[0]?.delta.content ?? '').join('')
  return { text, usage: (data as Json[]).find((one) => one.usage != null)?.usage }
}

describe('the same request again', () => {
  test.each([
    [false, false],
    [false, true],
    [true, false],
    [true, true],
  ])('is answered alike and for nothing (streamed %s, then %s)', async (first, second) => {
    const miss = await ask({ stream: first })
    const hit = await ask({ stream: second, ...(second ? { stream_options: { include_usage: true } } : {}) })
    expect([miss.text, miss.cache, miss.age]).toEqual(['Answer number 1', 'miss', null])
    expect([hit.text, hit.cache]).toEqual(['Answer number 1', 'hit'])
    expect(hit.age).toMatch(/^\d+$/)
    expect(hit.usage).toMatchObject({ prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 })
    expect(hit.response.headers.get('x-penstock-target')).toBe('cache')
    expect(computed).toBe(1)
    const { attempts, requests, holds } = await world.recorded()
    const priced = attempts.find((row) => row.provider === provider)
    expect(priced).toMatchObject({ status: 'ok', input: 5, output: 3, costNanoUsd: 11_000n, charge: 'customer' })
    const free = attempts.find((row) => row.provider === 'cache')
    expect(free).toMatchObject({ status: 'ok', input: 0, output: 0, costNanoUsd: 0n, charge: 'customer' })
    expect(requests.map(({ status }) => status)).toEqual(['ok', 'ok'])
    expect(holds).toBe(0)
  })

  test('counts for limits on requests, and for none on tokens or money', async () => {
    await ask()
    const { orgId } = await world.ownTenant()
    const limits = [
      { meter: 'requests', window: 'day', max: 2 },
      { meter: 'output_tokens', window: 'day', max: 3 },
      { meter: 'money', window: 'day', max_usd: '0.000011' },
    ]
    expect((await admin('PUT', `/organisations/${orgId}/limits`, { limits })).status).toBe(200)
    expect((await ask()).cache).toBe('hit')
    const { response } = await world.chat()
    expect(response.status).toBe(429)
    expect(await response.json<Json>()).toMatchObject({ error: { code: 'rate_limit_exceeded' } })
  })

  test('with tools called, and with several choices, is answered with all of it', async () => {
    const call = (index: number, args: string) => ({
      index,
      id: `c${index}`,
      function: { name: 'look', arguments: args },
    })
    answering = vendor(
      () => [
        { tool_calls: [call(0, '{"a":')] },
        { tool_calls: [{ index: 0, function: { arguments: '1}' } }] },
        { tool_calls: [call(1, '{}')] },
      ],
      'tool_calls',
    )
    const tools = [{ type: 'function', function: { name: 'look', parameters: { type: 'object' } } }]
    const answers: Json[] = []
    for (const _ of [1, 2]) {
      const { response, settled } = await world.chat({ tools })
      answers.push((await response.json<Json>()).choices)
      await settled()
    }
    expect(answers[0][0].message.tool_calls).toHaveLength(2)
    expect(answers[1]).toEqual(answers[0])
    expect(computed).toBe(1)
  })

  test('of vectors is answered with the same vectors', async () => {
    let calls = 0
    answering = () => {
      calls++
      const data = [{ index: 0, embedding: [0.6, 0.8] }]
      return Response.json({ data, usage: { prompt_tokens: 2, total_tokens: 2 } })
    }
    const vectors: Json[] = []
    for (const expected of ['miss', 'hit']) {
      const { response, settled } = await world.send('/v1/embeddings', { model: world.model, input: 'x' })
      expect([response.status, response.headers.get('x-penstock-cache')]).toEqual([200, expected])
      vectors.push((await response.json<Json>()).data)
      await settled()
    }
    expect(vectors[1]).toEqual(vectors[0])
    expect(calls).toBe(1)
  })
})

describe('no hit', () => {
  const otherKey = async (tenant: Tenant, more: Record<string, unknown>) => {
    const made = await admin('POST', `/organisations/${tenant.orgId}/keys`, {
      project_id: tenant.projectId,
      name: 'k',
      ...more,
    })
    return made.body.key as string
  }

  test('for another organisation', async () => {
    await ask()
    const other = await newTenant({ cache: { ttl_s: 3600 } })
    expect(await ask({}, { key: other.key })).toMatchObject({ cache: 'miss', text: 'Answer number 2' })
  })

  test('for another project, or for a key that did not opt in; for another key of the project there is one', async () => {
    await ask()
    const tenant = await world.ownTenant()
    const project = await admin('POST', `/organisations/${tenant.orgId}/projects`, { slug: 'second' })
    const elsewhere = await otherKey({ ...tenant, projectId: project.body.id }, { cache: { ttl_s: 3600 } })
    expect((await ask({}, { key: elsewhere })).cache).toBe('miss')
    expect((await ask({}, { key: await otherKey(tenant, {}) })).cache).toBeNull()
    expect((await ask({}, { key: await otherKey(tenant, { cache: { ttl_s: 60 } }) })).cache).toBe('hit')
  })

  test('for another end user, where the key is bound to one', async () => {
    await ask()
    const tenant = await world.ownTenant()
    const boundTo = (endUser: string) => otherKey(tenant, { cache: { ttl_s: 60 }, end_user: endUser })
    const ann = await boundTo('ann')
    expect((await ask({}, { key: ann })).cache).toBe('miss')
    expect((await ask({}, { key: ann })).cache).toBe('hit')
    expect((await ask({}, { key: await boundTo('ann') })).cache).toBe('hit')
    expect((await ask({}, { key: await boundTo('bob') })).cache).toBe('miss')
  })

  test('of a target that the model is served by no more', async () => {
    const target = { provider, model: 'vendor-model', context_tokens: 4096 }
    await ask()
    await world.catalog([{ ...target, model: 'another-model' }])
    expect((await ask()).cache).toBe('miss')
    await world.catalog([target])
    expect((await ask()).cache).toBe('hit')
  })

  test('for another request', async () => {
    await ask()
    expect((await ask({ temperature: 0.5 })).cache).toBe('miss')
    expect((await ask({ messages: [{ role: 'user', content: 'Something else.' }] })).cache).toBe('miss')
  })

  test('where the model is none that the key may use', async () => {
    await ask()
    const key = await otherKey(await world.ownTenant(), { cache: { ttl_s: 60 }, models: ['another'] })
    const { response } = await world.chat({}, { key })
    expect(response.status).toBe(403)
  })

  test.each([
    ['an answer that was withheld', vendor(words, 'content_filter')],
    ['an answer that the target cut', vendor(words, 'length')],
    ['a refusal', vendor(() => [{ refusal: 'No.' }])],
    ['an empty answer', vendor(() => [])],
  ])('after %s', async (_, host) => {
    answering = host
    for (const expected of ['miss', 'miss']) {
      const { response, settled } = await world.chat()
      expect([response.status, response.headers.get('x-penstock-cache')]).toEqual([200, expected])
      await response.text()
      await settled()
    }
    expect(computed).toBe(2)
  })

  test('after an answer that broke off', async () => {
    answering = () => {
      computed++
      const text = `data: ${JSON.stringify(chunk({ content: 'half' }))}\n\n`
      return new Response(text, { headers: { 'content-type': 'text/event-stream' } })
    }
    for (const _ of [1, 2]) {
      const { response, settled } = await world.chat({ stream: true })
      expect(response.headers.get('x-penstock-cache')).toBe('miss')
      expect(readSse(await response.text()).done).toBe(false)
      await settled()
    }
    expect(computed).toBe(2)
  })

  test('except for a cut that the caller asked for', async () => {
    answering = vendor(words, 'length')
    expect((await ask({ max_tokens: 3 })).cache).toBe('miss')
    expect((await ask({ max_tokens: 3 })).cache).toBe('hit')
  })
})

describe('what a request says of the cache', () => {
  test('off: neither read nor written', async () => {
    expect((await ask({}, { headers: { 'x-penstock-cache': 'off' } })).cache).toBeNull()
    expect((await ask()).cache).toBe('miss')
    expect((await ask({}, { headers: { 'x-penstock-cache': 'off' } })).text).toBe('Answer number 3')
  })

  test('refresh: a new answer in place of the kept one', async () => {
    await ask()
    expect(await ask({}, { headers: { 'x-penstock-cache': 'refresh' } })).toMatchObject({
      cache: 'refresh',
      text: 'Answer number 2',
    })
    expect(await ask()).toMatchObject({ cache: 'hit', text: 'Answer number 2' })
  })

  test('an age: what is older is not used, and the key says how old it may be at most', async () => {
    await ask({}, { headers: { 'x-penstock-cache-ttl-s': '1' } })
    await new Promise((resolve) => setTimeout(resolve, 1_100))
    expect((await ask()).cache).toBe('miss')
    await new Promise((resolve) => setTimeout(resolve, 1_100))
    expect((await ask({}, { headers: { 'x-penstock-cache-ttl-s': '1' } })).cache).toBe('miss')
    expect((await ask({}, { headers: { 'x-penstock-cache-ttl-s': '999999999' } })).cache).toBe('hit')
  })

  test.each([
    ['x-penstock-cache', 'maybe'],
    ['x-penstock-cache-ttl-s', '0'],
    ['x-penstock-cache-ttl-s', 'soon'],
  ])('%s: %s is refused', async (header, value) => {
    const { response } = await world.chat({}, { headers: { [header]: value } })
    expect(response.status).toBe(400)
    expect(await response.json<Json>()).toMatchObject({ error: { param: header } })
  })
})

describe('where the cache fails', () => {
  const failing = (call: 'find' | 'keep', how: () => Promise<never>) => {
    const real = env.ANSWER_CACHE
    const stub = (name: string) => {
      const object = real.getByName(name)
      const calls = {
        find: (...asked: Parameters<AnswerCache['find']>) => object.find(...asked),
        keep: (...kept: Parameters<AnswerCache['keep']>) => object.keep(...kept),
      }
      return { ...calls, [call]: how }
    }
    return { ...env, ANSWER_CACHE: { getByName: stub } as unknown as typeof real }
  }

  test.each([
    ['unreachable', () => Promise.reject(new Error('storage is gone'))],
    ['silent', () => new Promise<never>(() => {})],
  ])('%s: the request is computed', async (_, how) => {
    await ask()
    const impatient = new World({ cacheMs: 20 })
    Object.assign(impatient, { hosts: world.hosts, model: world.model, tenant: world.tenant })
    const { response, settled } = await impatient.chat({}, { env: failing('find', how) })
    expect([response.status, response.headers.get('x-penstock-cache')]).toEqual([200, 'miss'])
    expect((await response.json<Json>()).choices[0].message.content).toBe('Answer number 2')
    await settled()
  })

  test('on writing: the answer goes out all the same', async () => {
    const { response, settled } = await world.chat(
      {},
      { env: failing('keep', () => Promise.reject(new Error('full'))) },
    )
    expect(response.status).toBe(200)
    await settled()
    expect((await ask()).cache).toBe('miss')
  })
})

test('no provider can be registered under the name that hits are recorded by', async () => {
  const body = { kind: 'openai_compatible', base_url: 'https://a.example.com/v1', secret: 'x' }
  const { status, body: answer } = await admin('PUT', '/providers/cache', body)
  expect([status, answer.error.param]).toEqual([400, 'name'])
})

describe('the store', () => {
  const store = () => env.ANSWER_CACHE.getByName(answerCacheName(crypto.randomUUID(), 'a'))
  const NOW_MS = Date.parse('2026-11-22T00:00:00Z')

  test('gives an answer until it or its reader says that it is too old', async () => {
    const cache = store()
    await cache.keep('k', 'text', NOW_MS, 1_000)
    expect(await cache.find('k', NOW_MS + 999, 10_000)).toEqual({ answer: 'text', storedAtMs: NOW_MS })
    expect(await cache.find('k', NOW_MS + 1_000, 10_000)).toBeUndefined()
    expect(await cache.find('k', NOW_MS + 500, 500)).toBeUndefined()
    expect(await cache.find('other', NOW_MS, 10_000)).toBeUndefined()
  })

  test('keeps no answer over a mebibyte, and at most 64 of them: what was used longest ago goes first', async () => {
    const cache = store()
    await cache.keep('huge', 'é'.repeat(512 * 1024 + 1), NOW_MS, 1_000_000)
    expect(await cache.inspect()).toEqual({ answers: 0, bytes: 0 })
    const text = 'x'.repeat(1024 * 1024)
    for (let n = 0; n < 63; n++) await cache.keep(`k${n}`, text, NOW_MS + n, 1_000_000)
    expect((await cache.inspect()).answers).toBe(63)
    // A minute later the first one is used, and is not the oldest any more.
    expect(await cache.find('k0', NOW_MS + 61_000, 1_000_000)).toBeDefined()
    await cache.keep('new', text, NOW_MS + 61_001, 1_000_000)
    expect(await cache.find('k0', NOW_MS + 61_002, 1_000_000)).toBeDefined()
    expect(await cache.find('k1', NOW_MS + 61_002, 1_000_000)).toBeUndefined()
    const { answers, bytes } = await cache.inspect()
    expect(answers).toBe(63)
    expect(bytes).toBeLessThanOrEqual(64 * 1024 * 1024)
  })

  test('deletes what has expired by itself', async () => {
    const cache = store()
    await cache.keep('old', 'text', Date.now() - 10_000, 1_000)
    await cache.keep('young', 'text', Date.now(), 1_000_000)
    await runInDurableObject(cache, (object: AnswerCache) => object.alarm())
    expect((await cache.inspect()).answers).toBe(1)
  })

  test('is emptied by an administrator, and the act is recorded', async () => {
    await ask()
    const { orgId } = await world.ownTenant()
    const kept = async () => {
      const all = await Promise.all(answerCacheNames(orgId).map((name) => env.ANSWER_CACHE.getByName(name).inspect()))
      return all.reduce((sum, { answers }) => sum + answers, 0)
    }
    expect(await kept()).toBe(1)
    expect((await admin('DELETE', `/organisations/${orgId}/answer-cache`)).status).toBe(200)
    expect(await kept()).toBe(0)
    const acts = await admin('GET', `/audit?org_id=${orgId}&action=answer_cache.clear`)
    expect(acts.body.data).toHaveLength(1)
  })
})
