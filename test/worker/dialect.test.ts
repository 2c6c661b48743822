// The OpenAI dialect both ways through the whole path: what a provider is asked, what it may answer, what a client gets.
import { describe, expect, test } from 'vitest'
import type { Json } from './support/admin.ts'
import { usage } from './support/fake-agent.ts'
import { FLEET_TARGET, readSse, World } from './support/path.ts'

const sse = (...chunks: unknown[]) =>
  new Response(`${chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')}data: [DONE]\n\n`, {
    headers: { 'content-type': 'text/event-stream' },
  })
const content = (text: string, index = 0) => ({ choices: [{ index, delta: { content: text } }] })
const finish = (reason: string, index = 0) => ({ choices: [{ index, delta: {}, finish_reason: reason }] })
const counted = (prompt: number, completion: number, more: object = {}) => ({
  choices: [],
  usage: { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion, ...more },
})

async function throughProvider(
  answer: () => Response,
  request: Record<string, unknown> = {},
  path = 'chat/completions',
) {
  const world = new World()
  const secret = 'sk-dialect'
  const name = await world.provider(answer, secret)
  await world.catalog([{ provider: name, model: 'their-model', context_tokens: 1000, output_tokens_max: 100 }])
  const body = path === 'completions' ? { prompt: 'Say' } : { messages: [{ role: 'user', content: 'Say' }] }
  const { response, settled } = await world.send(`/v1/${path}`, { model: world.model, ...body, ...request })
  return { world, response, settled, call: world.calls[0] }
}

describe('a provider is asked', () => {
  test('for a stream with usage, under its own model name, with its secret and a bounded output', async () => {
    const { response, call } = await throughProvider(() => sse(content('hi'), finish('stop'), counted(3, 1)))
    expect(response.status).toBe(200)
    expect(call?.body).toEqual({
      model: 'their-model',
      stream: true,
      stream_options: { include_usage: true },
      max_tokens: 100,
      messages: [{ role: 'user', content: 'Say' }],
    })
    expect(call?.headers.get('authorization')).toBe('Bearer sk-dialect')
  })

  test('everything the client set, and nothing it did not', async () => {
    const set = {
      max_tokens: 9,
      n: 2,
      stop: ['x'],
      temperature: 0,
      top_p: 0.5,
      top_k: 4,
      min_p: 0.1,
      presence_penalty: 1,
      frequency_penalty: -1,
      repetition_penalty: 1.1,
      seed: 7,
      logit_bias: { '5': -100 },
      logprobs: true,
      top_logprobs: 2,
    }
    const { call } = await throughProvider(() => sse(counted(1, 1)), { ...set, user: 'me', metadata: { a: 'b' } })
    expect(call?.body).toMatchObject(set)
    expect(call?.body).not.toHaveProperty('user')
    expect(call?.body).not.toHaveProperty('metadata')
  })

  test('for a completion with its prompt as it came', async () => {
    const { call, response } = await throughProvider(
      () => sse({ choices: [{ index: 0, text: 'yes', finish_reason: 'length' }] }, counted(1, 1)),
      { prompt: [1, 2, 3], echo: true },
      'completions',
    )
    expect(call?.body).toMatchObject({ prompt: [1, 2, 3], echo: true })
    expect(await response.json()).toMatchObject({ choices: [{ text: 'yes', finish_reason: 'length' }] })
  })
})

describe('a provider may answer', () => {
  test('without usage: what was counted on the way is charged, and said to be partial', async () => {
    const { world, response, settled } = await throughProvider(() => sse(content('a'), content('b'), finish('stop')))
    expect(response.status).toBe(200)
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { status: 'ok', source: 'stream_partial', output: 2, input: 1 },
    ])
  })

  test('with cached tokens, which are priced apart', async () => {
    const answer = () =>
      sse(content('a'), finish('stop'), counted(10, 1, { prompt_tokens_details: { cached_tokens: 8 } }))
    const { world, response, settled } = await throughProvider(answer)
    expect(await response.json()).toMatchObject({
      usage: { prompt_tokens: 10, prompt_tokens_details: { cached_tokens: 8 } },
    })
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { input: 2, cached: 8, output: 1, costNanoUsd: 2_000n + 4_000n + 2_000n },
    ])
  })

  test.each([true, false])('with calls of tools and thoughts, to a stream: %j', async (stream) => {
    const piece = (more: object) => ({ choices: [{ index: 0, delta: { tool_calls: [{ index: 0, ...more }] } }] })
    const answer = () =>
      sse(
        { choices: [{ index: 0, delta: { role: 'assistant', content: null } }] },
        { choices: [{ index: 0, delta: { reasoning_content: 'hm' } }] },
        piece({ id: 'call_1', type: 'function', function: { name: 'add', arguments: '' } }),
        piece({ function: { arguments: '{"a"' } }),
        piece({ function: { arguments: ':1}' } }),
        finish('tool_calls'),
        counted(9, 4),
      )
    const tools = [{ type: 'function', function: { name: 'add', description: 'adds', parameters: { type: 'object' } } }]
    const { call, response } = await throughProvider(answer, { stream, tools, tool_choice: 'required' })
    expect(call?.body).toMatchObject({ tools, tool_choice: 'required' })
    const called = { name: 'add', arguments: '{"a":1}' }
    if (!stream) {
      const { choices } = await response.json<Json>()
      expect(choices[0]).toMatchObject({
        message: {
          content: null,
          reasoning_content: 'hm',
          tool_calls: [{ id: 'call_1', type: 'function', function: called }],
        },
        finish_reason: 'tool_calls',
      })
      return
    }
    const { data, done } = readSse(await response.text())
    const deltas = data.flatMap((chunk) => (chunk as Json).choices).map((choice) => choice.delta)
    const pieces = deltas.flatMap((delta) => delta.tool_calls ?? [])
    expect(pieces[0]).toMatchObject({ index: 0, id: 'call_1', type: 'function', function: { name: 'add' } })
    expect(pieces.map((one) => one.function.arguments).join('')).toBe('{"a":1}')
    expect(deltas.map((delta) => delta.reasoning_content ?? '').join('')).toBe('hm')
    expect(data.map((chunk) => (chunk as Json).choices[0]?.finish_reason)).toContain('tool_calls')
    expect(done).toBe(true)
  })

  test('after it was asked with what the tools said, and images', async () => {
    const image = { type: 'image_url', image_url: { url: 'data:image/png;base64,iVBORw0KGgo=' } }
    const messages = [
      { role: 'user', content: [{ type: 'text', text: 'Look.' }, image] },
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'c', type: 'function', function: { name: 'add', arguments: '{"a":1}' } }],
      },
      { role: 'tool', tool_call_id: 'c', content: '2' },
    ]
    const { call, response } = await throughProvider(() => sse(content('ok'), finish('stop'), counted(9, 1)), {
      messages,
    })
    expect(response.status).toBe(200)
    expect(call?.body).toMatchObject({
      messages: [
        messages[0],
        {
          role: 'assistant',
          tool_calls: [{ id: 'c', type: 'function', function: { name: 'add', arguments: '{"a":1}' } }],
        },
        { role: 'tool', tool_call_id: 'c', content: '2' },
      ],
    })
  })

  test('with one JSON body although a stream was asked for', async () => {
    const whole = {
      choices: [{ index: 0, message: { role: 'assistant', content: 'all at once' }, finish_reason: 'stop' }],
      usage: { prompt_tokens: 2, completion_tokens: 3 },
    }
    const { response } = await throughProvider(() => Response.json(whole), { stream: true })
    const { data, done } = readSse(await response.text())
    expect(done).toBe(true)
    expect(JSON.stringify(data)).toContain('all at once')
  })

  test('with withheld content, which the client is told', async () => {
    const { response } = await throughProvider(() => sse(content('a'), finish('content_filter'), counted(1, 1)))
    expect(await response.json()).toMatchObject({ choices: [{ finish_reason: 'content_filter' }] })
  })

  test('with a choice that nobody asked for, which is dropped', async () => {
    const answer = () => sse(content('mine'), content('extra', 7), finish('stop'), counted(1, 1))
    const { response } = await throughProvider(answer)
    const body = await response.json<Json>()
    expect(body.choices).toHaveLength(1)
    expect(body.choices[0].message.content).toBe('mine')
  })
})

describe('usage in a stream', () => {
  test.each([
    [{}, false],
    [{ stream_options: { include_usage: false } }, false],
    [{ stream_options: { include_usage: true } }, true],
    [{ stream_options: null }, false],
  ])('asked for with %j is sent: %j, although the provider always sends it', async (options, isSent) => {
    const answer = () => sse(content('a'), finish('stop'), counted(4, 1))
    const { response } = await throughProvider(answer, { stream: true, ...options })
    const { data } = readSse(await response.text())
    const withUsage = data.filter((chunk) => chunk.usage !== undefined && chunk.usage !== null)
    expect(withUsage).toHaveLength(isSent ? 1 : 0)
    expect(data.some((chunk) => 'usage' in chunk)).toBe(isSent)
    if (isSent) expect(withUsage[0]).toMatchObject({ choices: [], usage: { total_tokens: 5 } })
  })
})

describe('logprobs', () => {
  const entry = (text: string, logprob: number) => ({ text, bytes: [...new TextEncoder().encode(text)], logprob })
  const script = () => [
    { type: 'accepted' as const, usage: usage(2, 0), queueMs: 0 },
    {
      type: 'delta' as const,
      choice: 0,
      text: 'ab',
      outputTokens: 2,
      logprobs: [
        { ...entry('a', -0.5), top: [entry('a', -0.5), entry('z', -2)] },
        { ...entry('b', -1), top: [entry('y', -0.1)] },
      ],
    },
    { type: 'finish' as const, choice: 0, reason: 'stop' as const, outputTokens: 2 },
    { type: 'usage' as const, usage: usage(2, 2) },
  ]

  test('of a chat have tokens, bytes and alternatives', async () => {
    const world = new World()
    await world.agent(script)
    await world.catalog([FLEET_TARGET(world.model)])
    const { response } = await world.chat({ logprobs: true, top_logprobs: 2 })
    const { choices } = await response.json<Json>()
    expect(choices[0].logprobs.content).toEqual([
      {
        token: 'a',
        logprob: -0.5,
        bytes: [97],
        top_logprobs: [
          { token: 'a', logprob: -0.5, bytes: [97] },
          { token: 'z', logprob: -2, bytes: [122] },
        ],
      },
      { token: 'b', logprob: -1, bytes: [98], top_logprobs: [{ token: 'y', logprob: -0.1, bytes: [121] }] },
    ])
  })

  test('of a completion have offsets, and count the chosen token among the alternatives', async () => {
    const world = new World()
    await world.agent(script)
    await world.catalog([FLEET_TARGET(world.model)])
    const { response } = await world.send('/v1/completions', { model: world.model, prompt: 'x', logprobs: 2 })
    const { choices } = await response.json<Json>()
    expect(choices[0].logprobs).toEqual({
      tokens: ['a', 'b'],
      token_logprobs: [-0.5, -1],
      top_logprobs: [
        { a: -0.5, z: -2 },
        { y: -0.1, b: -1 },
      ],
      text_offset: [0, 1],
    })
  })
})
