// An unchanged OpenAI client against the whole system with the built-in model: answers, their bills, and refusals.
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readEvents, System, TINY_MODEL } from './support/system.ts'

let system: System
beforeAll(async () => {
  system = await System.start({ model: TINY_MODEL })
})
afterAll(() => system?.discard())

const MESSAGES: OpenAI.ChatCompletionMessageParam[] = [{ role: 'user', content: 'Write about rivers — été, 川.' }]
const chat = (more: object = {}) => ({ model: TINY_MODEL, messages: MESSAGES, max_tokens: 24, ...more })

describe('answers', () => {
  it('a chat completion has the same tokens in the response and in the usage row, once, priced', async () => {
    const { data, request_id } = await system.client.chat.completions.create(chat({ temperature: 0 })).withResponse()
    expect(data.choices[0]?.message.content).not.toBe('')
    expect(data.usage?.completion_tokens).toBe(24)
    const row = await system.usage(request_id ?? '')
    expect(row).toMatchObject({
      status: 'ok',
      inputTokens: data.usage?.prompt_tokens,
      outputTokens: 24,
      attempts: 1,
      attemptTokens: 24,
    })
    expect(row.costNanoUsd).toBeGreaterThan(0n)
  })

  it('a stream gives the text of the whole answer and its usage in the last chunk', async () => {
    const whole = await system.client.chat.completions.create(chat({ temperature: 0 }))
    const { data: stream, request_id } = await system.client.chat.completions
      .create({ ...chat({ temperature: 0, stream_options: { include_usage: true } }), stream: true })
      .withResponse()
    let text = ''
    let usage: OpenAI.CompletionUsage | null | undefined
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? ''
      usage = chunk.usage ?? usage
    }
    expect(text).toBe(whole.choices[0]?.message.content)
    expect(usage).toMatchObject({ completion_tokens: 24, prompt_tokens: whole.usage?.prompt_tokens })
    expect(await system.usage(request_id ?? '')).toMatchObject({ status: 'ok', outputTokens: 24 })
  })

  it('an answer under a JSON schema parses and fits it, whole and as a stream, and its usage is exact', async () => {
    const schema = {
      type: 'object',
      additionalProperties: false,
      required: ['name', 'kind', 'tags', 'size'],
      properties: {
        name: { type: 'string', maxLength: 8 },
        kind: { enum: ['river', 'été', 7] },
        tags: { type: 'array', items: { type: 'boolean' }, maxItems: 3 },
        size: { type: 'integer', minimum: 3, maximum: 120 },
      },
    }
    const response_format = { type: 'json_schema' as const, json_schema: { name: 'answer', strict: true, schema } }
    const asked = chat({ response_format, max_tokens: 300, temperature: 1, seed: 3 })
    const { data, request_id } = await system.client.chat.completions.create(asked).withResponse()
    const text = data.choices[0]?.message.content ?? ''
    expect(data.choices[0]?.finish_reason).toBe('stop')
    const answer = JSON.parse(text)
    expect(Object.keys(answer)).toEqual(['name', 'kind', 'tags', 'size'])
    expect(answer.name.length).toBeLessThanOrEqual(8)
    expect(schema.properties.kind.enum).toContain(answer.kind)
    expect(answer.tags.length).toBeLessThanOrEqual(3)
    expect(answer.tags.every((tag: unknown) => typeof tag === 'boolean')).toBe(true)
    expect(Number.isInteger(answer.size) && answer.size >= 3 && answer.size <= 120).toBe(true)
    expect(await system.usage(request_id ?? '')).toMatchObject({
      status: 'ok',
      outputTokens: data.usage?.completion_tokens,
    })

    const stream = await system.client.chat.completions.create({
      ...asked,
      stream: true,
      stream_options: { include_usage: true },
    })
    let streamed = ''
    let usage: OpenAI.CompletionUsage | null | undefined
    for await (const chunk of stream) {
      streamed += chunk.choices[0]?.delta.content ?? ''
      usage = chunk.usage ?? usage
    }
    expect(streamed).toBe(text)
    // The prompt came before, so that part of it is read from the cache: the counts are the same.
    const { prompt_tokens, completion_tokens, total_tokens } = data.usage ?? {}
    expect(usage).toMatchObject({ prompt_tokens, completion_tokens, total_tokens })
  })

  it('any JSON object, and one of several choices, can be asked for', async () => {
    const choice = { structured_outputs: { choice: ['yes', 'no'] } }
    const chosen = await system.client.chat.completions.create(chat(choice))
    expect(['yes', 'no']).toContain(chosen.choices[0]?.message.content)
    const object = chat({ response_format: { type: 'json_object' }, temperature: 0, max_tokens: 200 })
    const { choices } = await system.client.chat.completions.create(object)
    expect(choices[0]?.message.content).toMatch(/^\{/)
    if (choices[0]?.finish_reason === 'stop') expect(JSON.parse(choices[0].message.content ?? '')).toBeTypeOf('object')
  })

  it('a schema that cannot be compiled is refused with 400, its field and why, and costs nothing', async () => {
    const schema = { type: 'string', minLength: 5, maxLength: 2 }
    const asked = chat({ response_format: { type: 'json_schema', json_schema: { name: 'a', schema } } })
    const refused = await system.client.chat.completions.create(asked).catch((error: unknown) => error)
    expect(refused).toBeInstanceOf(OpenAI.BadRequestError)
    expect(refused).toMatchObject({ param: 'response_format', message: expect.stringContaining('format') })
  })

  it('a seed gives the same answer again, another seed another one', async () => {
    const ask = async (seed: number) =>
      (await system.client.chat.completions.create(chat({ temperature: 1.2, seed }))).choices[0]?.message.content
    const [first, again, other] = [await ask(7), await ask(7), await ask(8)]
    expect(again).toBe(first)
    expect(other).not.toBe(first)
  })

  it('n choices are numbered, each counted', async () => {
    const { data, request_id } = await system.client.chat.completions
      .create(chat({ n: 3, temperature: 1, seed: 1 }))
      .withResponse()
    expect(data.choices.map((choice) => choice.index)).toEqual([0, 1, 2])
    expect(new Set(data.choices.map((choice) => choice.message.content)).size).toBeGreaterThan(1)
    expect(data.usage?.completion_tokens).toBe(72)
    expect(await system.usage(request_id ?? '')).toMatchObject({ outputTokens: 72 })
  })

  it('a stop string ends the text in front of it', async () => {
    const whole = await system.client.chat.completions.create(chat({ temperature: 0 }))
    const text = whole.choices[0]?.message.content ?? ''
    const stop = text.slice(5, 9)
    const cut = await system.client.chat.completions.create(chat({ temperature: 0, stop: [stop] }))
    expect(cut.choices[0]?.message.content).toBe(text.slice(0, text.indexOf(stop)))
    expect(cut.choices[0]?.finish_reason).toBe('stop')
  })

  it('logprobs come with alternatives, and the chosen token of a greedy answer is the likeliest', async () => {
    const answer = await system.client.chat.completions.create(
      chat({ temperature: 0, logprobs: true, top_logprobs: 3, max_tokens: 5 }),
    )
    const content = answer.choices[0]?.logprobs?.content ?? []
    expect(content.map((entry) => entry.token).join('')).toBe(answer.choices[0]?.message.content)
    for (const entry of content) {
      expect(entry.top_logprobs).toHaveLength(3)
      expect(entry.top_logprobs[0]?.token).toBe(entry.token)
      expect(entry.logprob).toBeLessThanOrEqual(0)
    }
  })

  it('logit_bias forbids a token', async () => {
    const base = { model: TINY_MODEL, prompt: 'river', max_tokens: 1, temperature: 0 }
    const first = await system.client.completions.create({ ...base, logprobs: 1 })
    const chosen = first.choices[0]?.text
    const bias = Object.fromEntries(Array.from({ length: 300 }, (_, id) => [id, -100]))
    const biased = await system.client.completions.create({ ...base, logit_bias: bias })
    expect(chosen).not.toBe('')
    expect(biased.usage?.completion_tokens).toBe(1)
  })

  it('completions take text, token ids and several prompts, and can echo', async () => {
    const base = { model: TINY_MODEL, max_tokens: 4, temperature: 0 }
    const several = await system.client.completions.create({ ...base, prompt: ['the river', 'the stone'], n: 1 })
    expect(several.choices.map((choice) => choice.index)).toEqual([0, 1])
    expect(several.usage?.completion_tokens).toBe(8)
    const echoed = await system.client.completions.create({ ...base, prompt: 'the river', echo: true })
    expect(echoed.choices[0]?.text.startsWith('the river')).toBe(true)
    const ids = await system.client.completions.create({ ...base, prompt: [70, 71, 72] })
    expect(ids.usage?.prompt_tokens).toBe(3)
  })

  it('fifty at once are all answered and all billed, and nothing is left running', async () => {
    const all = await Promise.all(
      Array.from({ length: 50 }, (_, i) =>
        system.client.chat.completions.create(chat({ max_tokens: 4 + (i % 9) })).withResponse(),
      ),
    )
    for (const { data, request_id } of all) {
      const row = await system.usage(request_id ?? '')
      expect(row.outputTokens).toBe(data.usage?.completion_tokens)
      expect(row.inputTokens).toBe(data.usage?.prompt_tokens)
    }
    await system.untilIdle()
  })

  it('a prompt that came before is read from the cache, says so, and is billed at the price of that', async () => {
    const asked = {
      model: TINY_MODEL,
      messages: [{ role: 'user' as const, content: `The valley and the mountain. ${'river stone '.repeat(60)}` }],
      max_tokens: 4,
      temperature: 0,
    }
    const first = await system.client.chat.completions.create(asked).withResponse()
    const again = await system.client.chat.completions.create(asked).withResponse()
    expect(first.data.usage?.prompt_tokens_details?.cached_tokens).toBe(0)
    const cached = again.data.usage?.prompt_tokens_details?.cached_tokens ?? 0
    expect(cached).toBeGreaterThan(32)
    expect(again.data.usage?.prompt_tokens).toBe(first.data.usage?.prompt_tokens)
    expect(again.data.choices).toEqual(first.data.choices)
    const [before, after] = [await system.usage(first.request_id ?? ''), await system.usage(again.request_id ?? '')]
    expect(after.inputTokens).toBe(before.inputTokens)
    expect(after.costNanoUsd).toBeLessThan(before.costNanoUsd)
    expect(after.costNanoUsd).toBeGreaterThan(0n)
    const [row] = await system.sql`
      SELECT input_cache_read::int AS cached FROM usage_requests WHERE request_id = ${again.request_id ?? ''}`
    expect(row?.cached).toBe(cached)
    // Several choices read one prompt once.
    const several = await system.client.chat.completions.create({ ...asked, n: 3 })
    expect(several.usage).toMatchObject({
      prompt_tokens: first.data.usage?.prompt_tokens,
      prompt_tokens_details: { cached_tokens: cached },
    })
  })

  it('embeddings come as vectors of length 1, alike for like texts, billed for their input', async () => {
    const { data, request_id } = await system.client.embeddings
      .create({ model: TINY_MODEL, input: ['the river', 'the river', 'cold stone and deep water'] })
      .withResponse()
    expect(data.data.map((one) => one.index)).toEqual([0, 1, 2])
    const [one = [], same, other] = data.data.map((entry) => entry.embedding)
    expect(one.length).toBeGreaterThan(0)
    expect(Math.hypot(...one)).toBeCloseTo(1, 5)
    expect(same).toEqual(one)
    expect(other).not.toEqual(one)
    expect(data.usage.prompt_tokens).toBeGreaterThan(0)
    expect(data.usage.total_tokens).toBe(data.usage.prompt_tokens)
    expect(await system.usage(request_id ?? '')).toMatchObject({
      status: 'ok',
      inputTokens: data.usage.prompt_tokens,
      outputTokens: 0,
      attempts: 1,
    })
    // The same vector whatever comes with it, and in either form.
    const numbers = await system.client.embeddings.create({
      model: TINY_MODEL,
      input: 'the river',
      encoding_format: 'float',
    })
    expect(numbers.data[0]?.embedding).toEqual(one)
  })

  it('embeddings of many inputs and of token ids are answered', async () => {
    const input = Array.from({ length: 100 }, (_, at) => [70 + (at % 50), 71, 72])
    const { data, usage } = await system.client.embeddings.create({ model: TINY_MODEL, input })
    expect(data).toHaveLength(100)
    expect(data[0]?.embedding).toEqual(data[50]?.embedding)
    expect(usage.prompt_tokens).toBe(300)
    await system.untilIdle()
  })

  it('the ledger sums to zero and holds what the rows say', async () => {
    await system.client.chat.completions.create(chat())
    await System.until(async () => {
      const [sums] = await system.sql`
        SELECT (SELECT coalesce(sum(amount_nanousd), 0)::text FROM ledger_entries) AS total,
          (SELECT coalesce(sum(amount_nanousd), 0)::text FROM ledger_entries e JOIN ledger_accounts a
            USING (org_id, account_id) WHERE a.name = 'usage_revenue') AS revenue,
          (SELECT coalesce(sum(cost_nanousd), 0)::text FROM usage_requests) AS billed`
      expect(sums?.total).toBe('0')
      return BigInt(sums?.revenue) === BigInt(sums?.billed) && BigInt(sums?.billed) > 0n
    })
  })

  it('models lists what the key may use', async () => {
    const models = await system.client.models.list()
    expect(models.data.map((model) => model.id)).toEqual([TINY_MODEL])
  })
})

describe('refusals', () => {
  const refused = async (body: unknown, path = '/v1/chat/completions', headers = {}) => {
    const response = await system.post(path, body, headers)
    const { error } = (await response.json()) as {
      error: { message: string; type: string; param: string | null; code: string }
    }
    expect(error.message).not.toBe('')
    expect(response.headers.get('x-request-id')).not.toBeNull()
    return { status: response.status, ...error }
  }

  it('an unknown key, a key with a typing error and none at all are 401', async () => {
    const typo = `${system.apiKey.slice(0, -1)}${system.apiKey.endsWith('a') ? 'b' : 'a'}`
    for (const authorization of [`Bearer ${typo}`, 'Bearer psk_unknown', 'Bearer ', '']) {
      expect((await refused(chat(), undefined, { authorization })).status).toBe(401)
    }
    await expect(system.clientWith('nothing').chat.completions.create(chat())).rejects.toThrow(
      OpenAI.AuthenticationError,
    )
  })

  it('a revoked key is refused by the next request', async () => {
    const { id, key, org } = await system.newKey()
    const client = system.clientWith(key)
    await client.chat.completions.create(chat())
    expect((await system.admin('DELETE', `/organisations/${org}/keys/${id}`)).status).toBe(200)
    await expect(client.chat.completions.create(chat())).rejects.toThrow(OpenAI.AuthenticationError)
  })

  it('an unknown model is 404, one outside the key is refused, neither is billed', async () => {
    expect(await refused(chat({ model: 'gpt-unknown' }))).toMatchObject({ status: 404, code: 'model_not_found' })
    const { key } = await system.newKey({ models: ['another-model'] })
    const answer = await refused(chat(), undefined, { authorization: `Bearer ${key}` })
    expect([403, 404]).toContain(answer.status)
  })

  it('wrong fields are 400 and named by their path', async () => {
    const cases: [object, string][] = [
      [{ messages: [{ role: 'user', content: 5 }] }, 'messages[0].content'],
      [{ messages: [{ role: 'nobody', content: '' }] }, 'messages[0].role'],
      [{ messages: [] }, 'messages'],
      [{ max_tokens: 0 }, 'max_tokens'],
      [{ max_tokens: -1 }, 'max_tokens'],
      [{ n: 0 }, 'n'],
      [{ n: 1000 }, 'n'],
      [{ temperature: 9 }, 'temperature'],
      [{ temperature: 'hot' }, 'temperature'],
      [{ top_p: 2 }, 'top_p'],
      [{ stop: ['a', 'b', 'c', 'd', 'e'] }, 'stop'],
      [{ seed: 1.5 }, 'seed'],
      [{ logit_bias: { abc: 1 } }, 'logit_bias'],
      [{ stream_options: { include_usage: true } }, 'stream_options'],
      [{ tools: [{ type: 'function', function: { name: 'f' } }] }, 'tools'],
    ]
    for (const [more, path] of cases) {
      const answer = await refused(chat(more))
      expect(answer, JSON.stringify(more)).toMatchObject({ status: 400, type: 'invalid_request_error' })
      expect(answer.param?.startsWith(path), `${answer.param} names ${path}`).toBe(true)
    }
  })

  it('malformed JSON, invalid UTF-8 and a body over the limit are refused as such', async () => {
    expect((await refused('{"model":')).status).toBe(400)
    expect((await refused('[]')).status).toBe(400)
    expect((await refused(new Uint8Array([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d]))).status).toBe(400)
    const large = JSON.stringify(chat({ messages: [{ role: 'user', content: 'a'.repeat(9 * 1024 * 1024) }] }))
    expect(await refused(large)).toMatchObject({ status: 413 })
  })

  it('a prompt over the context window says how long it is and how long it may be', async () => {
    const answer = await refused(chat({ messages: [{ role: 'user', content: 'stone '.repeat(200_000) }] }))
    expect(answer).toMatchObject({ status: 400, code: 'context_length_exceeded' })
    expect(answer.message).toMatch(/\d/)
  })

  it('a huge max_tokens is cut to the window instead of refused', async () => {
    const { request_id, data } = await system.client.completions
      .create({ model: TINY_MODEL, prompt: 'the river', max_tokens: 100_000_000, stop: ['.'] })
      .withResponse()
    expect(data.usage?.completion_tokens).toBeGreaterThan(0)
    await system.usage(request_id ?? '')
  })

  it('a path that is not there is 404 and a wrong method 405, in the OpenAI shape', async () => {
    expect((await refused({}, '/v1/nothing')).status).toBe(404)
    const wrong = await fetch(`${system.baseUrl}/v1/chat/completions`, {
      headers: { authorization: `Bearer ${system.apiKey}` },
    })
    expect(wrong.status).toBe(405)
    await wrong.body?.cancel()
  })

  it('the admin API is closed without its credential', async () => {
    const answers = [
      ['', 401],
      ['Bearer wrong', 401],
      // A good key, of a caller who administers nothing.
      [`Bearer ${system.apiKey}`, 403],
    ] as const
    for (const [authorization, status] of answers) {
      const response = await fetch(`${system.baseUrl}/admin/v1/organisations`, { headers: { authorization } })
      expect(response.status).toBe(status)
      await response.body?.cancel()
    }
  })
})

describe('limits', () => {
  it('of 30 calls at once against 10 a minute, exactly 10 pass', async () => {
    const { key } = await system.newKey({ limits: [{ meter: 'requests', window: 'hour', max: 10 }] })
    const client = system.clientWith(key)
    const all = await Promise.allSettled(
      Array.from({ length: 30 }, () => client.chat.completions.create(chat({ max_tokens: 2 }))),
    )
    expect(all.filter((one) => one.status === 'fulfilled')).toHaveLength(10)
    for (const one of all) {
      if (one.status === 'fulfilled') continue
      expect(one.reason).toBeInstanceOf(OpenAI.RateLimitError)
      expect(Number(one.reason.headers.get('retry-after'))).toBeGreaterThan(0)
    }
  })

  it('a money budget is never passed by calls at once, and what was spent stands in the rows', async () => {
    const once = await system.client.chat.completions.create(chat({ max_tokens: 8 })).withResponse()
    const price = (await system.usage(once.request_id ?? '')).costNanoUsd
    const cap = price * 40n
    const capUsd = (Number(cap) / 1e9).toFixed(9)
    const { id, key } = await system.newKey({ limits: [{ meter: 'money', window: 'lifetime', max_usd: capUsd }] })
    const client = system.clientWith(key)
    let passed = 0
    let refusals = 0
    for (let round = 0; round < 4; round++) {
      const all = await Promise.allSettled(
        Array.from({ length: 20 }, () => client.chat.completions.create(chat({ max_tokens: 8 }))),
      )
      passed += all.filter((one) => one.status === 'fulfilled').length
      refusals += all.filter((one) => one.status === 'rejected').length
    }
    expect(passed).toBeGreaterThan(0)
    expect(refusals).toBeGreaterThan(0)
    await System.until(async () => {
      const [sum] = await system.sql`
        SELECT count(*)::int AS rows, coalesce(sum(cost_nanousd), 0)::text AS cost FROM usage_requests WHERE key_id = ${id}`
      if (sum?.rows < passed) return false
      expect(sum?.rows).toBe(passed)
      expect(BigInt(sum?.cost)).toBeLessThanOrEqual(cap)
      return true
    })
  })

  it('a concurrency limit counts streams that are open and frees them when they end', async () => {
    const { key } = await system.newKey({ limits: [{ meter: 'concurrency', max: 1 }] })
    const headers = { authorization: `Bearer ${key}` }
    const leave = new AbortController()
    const open = await system.post(
      '/v1/chat/completions',
      chat({ stream: true, max_tokens: 4000 }),
      headers,
      leave.signal,
    )
    expect(open.status).toBe(200)
    const second = await system.post('/v1/chat/completions', chat(), headers)
    expect(second.status).toBe(429)
    await second.body?.cancel()
    leave.abort()
    await System.until(async () => {
      const again = await system.post('/v1/chat/completions', chat(), headers)
      await again.body?.cancel()
      return again.status === 200
    })
  })
})

describe('a client that leaves', () => {
  it('in mid-stream: the engine stops, and what was computed until then is billed once', async () => {
    const leave = new AbortController()
    const response = await system.post(
      '/v1/chat/completions',
      chat({ stream: true, max_tokens: 6000 }),
      {},
      leave.signal,
    )
    const id = response.headers.get('x-request-id') ?? ''
    const reader = response.body?.getReader()
    for (let chunk = 0; chunk < 5; chunk++) await reader?.read()
    leave.abort()
    const row = await system.usage(id)
    expect(row.status).toBe('client_cancelled')
    expect(row.outputTokens).toBeGreaterThan(0)
    expect(row.outputTokens).toBeLessThan(6000)
    await system.untilIdle()
    expect(await system.findUsage(id)).toEqual(row)
  })

  it('before the answer: nothing is left running', async () => {
    const leave = new AbortController()
    const pending = system.post('/v1/chat/completions', chat({ max_tokens: 6000 }), {}, leave.signal)
    setTimeout(() => leave.abort(), 30)
    await expect(pending).rejects.toThrow()
    await system.untilIdle()
  })

  it('right after [DONE]: the row says ok', async () => {
    const response = await system.post('/v1/chat/completions', chat({ stream: true }))
    const { data } = await readEvents(response)
    expect(data.at(-1)).toBe('[DONE]')
    expect((await system.usage(response.headers.get('x-request-id') ?? '')).status).toBe('ok')
  })

  it('who passes a deadline gets a typed error in time and pays for what was computed', async () => {
    const response = await system.post('/v1/chat/completions', chat({ stream: true, max_tokens: 8000 }), {
      'x-penstock-deadline-ms': '700',
    })
    const { data } = await readEvents(response)
    const last = JSON.parse(data.at(-1) ?? '{}')
    expect(last.error?.code).toBe('deadline_exceeded')
    expect(data).not.toContain('[DONE]')
    const row = await system.usage(response.headers.get('x-request-id') ?? '')
    expect(row.status).toBe('deadline_exceeded')
    expect(row.outputTokens).toBeGreaterThan(0)
  })
})
