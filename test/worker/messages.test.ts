// The messages dialect through the whole path: what a client of it is answered by any provider, and how it is refused.
import { createExecutionContext, env } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { admin, type Json, newName } from './support/admin.ts'
import { type Host, World } from './support/path.ts'

const SECRET = 'sk-messages-secret'
const sse = (...chunks: unknown[]) =>
  new Response(`${chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')}data: [DONE]\n\n`, {
    headers: { 'content-type': 'text/event-stream' },
  })
const delta = (said: object) => ({ choices: [{ index: 0, delta: said }] })
const finish = (reason: string) => ({ choices: [{ index: 0, delta: {}, finish_reason: reason }] })
const counted = (prompt: number, cached: number, completion: number) => ({
  choices: [],
  usage: {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: cached },
  },
})

async function worldOf(host: Host, kind = 'openai_compatible'): Promise<World> {
  const world = new World()
  const name = newName('vendor')
  const hostname = `${name}.example.com`
  const made = await admin('PUT', `/providers/${name}`, { kind, base_url: `https://${hostname}/v1`, secret: SECRET })
  if (made.status >= 300) throw new Error(made.text)
  world.hosts.set(hostname, host)
  await world.catalog([{ provider: name, model: 'their-model', context_tokens: 8000, output_tokens_max: 4000 }])
  return world
}

const ask = (world: World, over: object = {}, path = '/v1/messages') =>
  world.send(path, { model: world.model, max_tokens: 50, messages: [{ role: 'user', content: 'Say' }], ...over })

const get = async (world: World, path: string, headers: Record<string, string> = {}) => {
  const { key } = await world.ownTenant()
  const request = new Request(`http://gateway.test${path}`, { headers: { 'x-api-key': key, ...headers } })
  return world.app.fetch(request, env, createExecutionContext())
}

/** Names and data of the events. */
const eventsOf = (text: string) =>
  text
    .split('\n\n')
    .filter((block) => block.startsWith('event: '))
    .map((block) => {
      const [name = '', data = ''] = block.split('\n')
      return [name.slice(7), JSON.parse(data.slice(6)) as Json] as const
    })

describe('a provider of another dialect', () => {
  test('answers whole, and is charged for what it counted', async () => {
    const world = await worldOf(() => sse(delta({ content: 'Hello' }), finish('stop'), counted(10, 4, 2)))
    const { response, settled } = await ask(world, { system: 'Be brief.', stop_sequences: ['x'] })
    expect(response.status).toBe(200)
    expect(response.headers.get('request-id')).toBe(response.headers.get('x-penstock-request-id'))
    expect(await response.json()).toMatchObject({
      type: 'message',
      role: 'assistant',
      model: world.model,
      content: [{ type: 'text', text: 'Hello' }],
      stop_reason: 'end_turn',
      usage: { input_tokens: 6, cache_read_input_tokens: 4, cache_creation_input_tokens: 0, output_tokens: 2 },
    })
    expect(world.calls[0]?.body).toMatchObject({
      max_tokens: 50,
      stop: ['x'],
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'Say' },
      ],
    })
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', input: 6, cached: 4, output: 2 }])
  })

  test('answers piece by piece, with thoughts and calls as blocks', async () => {
    const call = (more: object) => delta({ tool_calls: [{ index: 0, ...more }] })
    const world = await worldOf(() =>
      sse(
        delta({ role: 'assistant', content: '' }),
        delta({ reasoning_content: 'hm' }),
        delta({ content: 'Well' }),
        call({ id: 'c', type: 'function', function: { name: 'add', arguments: '' } }),
        call({ function: { arguments: '{"a":1}' } }),
        finish('tool_calls'),
        counted(10, 0, 9),
      ),
    )
    const tools = [{ name: 'add', input_schema: { type: 'object', properties: { a: { type: 'number' } } } }]
    const { response } = await ask(world, { stream: true, tools, tool_choice: { type: 'any' } })
    const events = eventsOf(await response.text())
    expect(events.map(([name]) => name)).toEqual([
      'message_start',
      'content_block_start',
      'content_block_delta',
      'content_block_stop',
      'content_block_start',
      'content_block_delta',
      'content_block_stop',
      'content_block_start',
      'content_block_delta',
      'content_block_stop',
      'message_delta',
      'message_stop',
    ])
    expect(events.every(([name, data]) => data.type === name)).toBe(true)
    const blocks = events.filter(([name]) => name === 'content_block_start').map(([, data]) => data.content_block.type)
    expect(blocks).toEqual(['thinking', 'text', 'tool_use'])
    expect(events.at(-2)?.[1]).toMatchObject({
      delta: { stop_reason: 'tool_use' },
      usage: { input_tokens: 10, output_tokens: 9 },
    })
    expect(world.calls[0]?.body).toMatchObject({ tool_choice: 'required', tools: [{ function: { name: 'add' } }] })
  })

  test('that breaks off ends the stream in an error event', async () => {
    const world = await worldOf(
      () =>
        new Response(`data: ${JSON.stringify(delta({ content: 'Half' }))}\n\n`, {
          headers: { 'content-type': 'text/event-stream' },
        }),
    )
    const { response } = await ask(world, { stream: true })
    const events = eventsOf(await response.text())
    expect(events.at(-1)).toMatchObject(['error', { type: 'error', error: { type: 'api_error' } }])
    expect(events.map(([name]) => name)).not.toContain('message_stop')
  })

  test('that is full is told in the status of the dialect', async () => {
    const world = await worldOf(() => new Response('busy', { status: 503 }))
    const { response } = await ask(world)
    expect(response.status).toBe(529)
    expect(await response.json()).toMatchObject({ type: 'error', request_id: response.headers.get('request-id') })
  })
})

describe('a proof of a thought', () => {
  const event = (data: { type: string; [field: string]: unknown }) =>
    `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`
  const block = (index: number, start: object, ...deltas: object[]) =>
    event({ type: 'content_block_start', index, content_block: start }) +
    deltas.map((one) => event({ type: 'content_block_delta', index, delta: one })).join('') +
    event({ type: 'content_block_stop', index })
  const usage = { input_tokens: 5, output_tokens: 9 }
  const thinker: Host = () =>
    new Response(
      event({ type: 'message_start', message: { type: 'message', role: 'assistant', content: [], usage } }) +
        block(
          0,
          { type: 'thinking', thinking: '', signature: '' },
          { type: 'thinking_delta', thinking: 'hm' },
          { type: 'signature_delta', signature: 'PROOF' },
        ) +
        block(
          1,
          { type: 'tool_use', id: 'c', name: 'add', input: {} },
          { type: 'input_json_delta', partial_json: '{}' },
        ) +
        event({ type: 'message_delta', delta: { stop_reason: 'tool_use', stop_sequence: null }, usage }) +
        event({ type: 'message_stop' }),
      { headers: { 'content-type': 'text/event-stream' } },
    )
  const stranger: Host = () => sse(delta({ content: 'ok' }), finish('stop'), counted(1, 0, 1))

  test.each([
    ['anthropic', thinker, true],
    ['openai_compatible', stranger, false],
  ] as const)('of one kind of provider goes to its own kind and to no other (%s)', async (kind, host, isOwn) => {
    const from = await worldOf(thinker, 'anthropic')
    const to = await worldOf(host, kind)
    const input_schema = { type: 'object' }
    const thinking = { type: 'enabled', budget_tokens: 1024 }
    const first = await (
      await ask(from, { tools: [{ name: 'add', input_schema }], thinking, max_tokens: 2000 })
    ).response.json<Json>()
    expect(first.content[0]).toEqual({ type: 'thinking', thinking: 'hm', signature: 'PROOF' })
    const result = { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'c', content: '3' }] }
    const again = [{ role: 'user', content: 'Say' }, { role: 'assistant', content: first.content }, result]
    await ask(to, { tools: [{ name: 'add', input_schema }], messages: again })

    const tools = [{ type: 'function', function: { name: 'add', parameters: input_schema } }]
    const chat = await (await from.chat({ tools })).response.json<Json>()
    const { message } = chat.choices[0]
    expect(message.reasoning_details).toMatchObject([{ text: 'hm', signature: expect.stringContaining('PROOF') }])
    const answered = { role: 'tool', tool_call_id: 'c', content: '3' }
    await to.chat({ tools, messages: [{ role: 'user', content: 'Say' }, message, answered] })

    expect(to.calls).toHaveLength(2)
    for (const { body } of to.calls) expect(JSON.stringify(body).includes('PROOF')).toBe(isOwn)
    for (const { body } of to.calls) expect(JSON.stringify(body)).not.toContain('penstock:')
  })
})

describe('what a target cannot do', () => {
  test.each([
    ['/v1/messages', { max_tokens: 50, stop_sequences: [' '] }, 'stop_sequences'],
    ['/v1/chat/completions', { min_p: 0.5 }, 'min_p'],
    ['/v1/messages', { messages: [{ role: 'assistant', content: '{' }] }, 'messages', 'openai_compatible'],
    ['/v1/messages', { messages: [{ role: 'assistant', content: '{' }] }, 'messages', 'gemini'],
  ])('is told under the name the field has on %s', async (path, over, field, kind = 'anthropic') => {
    const world = await worldOf(() => new Response('not asked', { status: 500 }), kind)
    const { response } = await ask(world, { max_tokens: 50, ...over }, path)
    expect(response.status).toBe(400)
    const { error } = await response.json<Json>()
    expect(error.param ?? error.details.param).toBe(field)
    expect(world.calls).toEqual([])
  })
})

describe('a refusal', () => {
  test.each([
    ['/v1/messages', { colour: 'red' }, 400, 'invalid_request_error'],
    ['/v1/messages', { model: 'no-such-model' }, 404, 'not_found_error'],
    ['/v1/messages/batches', {}, 404, 'not_found_error'],
    ['/v1/messages/count_tokens', {}, 400, 'invalid_request_error'],
  ])('of %s with %j is %d %s', async (path, over, status, type) => {
    const { response } = await ask(new World(), over, path)
    expect(response.status).toBe(status)
    expect(await response.json()).toMatchObject({
      type: 'error',
      error: { type, message: expect.any(String) },
      request_id: response.headers.get('request-id'),
    })
  })

  test('of a wrong method or key is told in the same shape', async () => {
    const world = new World()
    const wrong = await get(world, '/v1/messages')
    expect(wrong.status).toBe(405)
    expect(await wrong.json()).toMatchObject({ type: 'error', error: { type: 'invalid_request_error' } })
    const { response } = await world.send('/v1/messages', {}, { key: 'sk-ant-wrong' })
    expect(response.status).toBe(401)
    expect(await response.json()).toMatchObject({ type: 'error', error: { type: 'authentication_error' } })
  })
})

describe('a count of tokens', () => {
  const count = (world: World, over: object = {}) =>
    ask(world, { max_tokens: undefined, ...over }, '/v1/messages/count_tokens')

  test('is the own one of a target that tells it, and nothing is charged', async () => {
    const world = await worldOf(() => Response.json({ input_tokens: 42 }), 'anthropic')
    const { response, settled } = await count(world, { system: 'Be brief.' })
    expect(response.headers.has('x-penstock-estimated')).toBe(false)
    expect(await response.json()).toEqual({ input_tokens: 42 })
    expect(world.calls).toMatchObject([{ body: { model: 'their-model' } }])
    expect(world.calls[0]?.headers.get('x-api-key')).toBe(SECRET)
    await settled()
    expect((await world.recorded()).attempts).toEqual([])
  })

  test.each([
    ['openai_compatible', () => new Response('not asked', { status: 500 }), 0],
    ['anthropic', () => new Response('busy', { status: 529 }), 1],
    ['anthropic', () => Response.json({}), 1],
  ] as const)('of a target of kind %s that tells none is a guess that says so', async (kind, host, calls) => {
    const world = await worldOf(host, kind)
    const { response } = await count(world, { messages: [{ role: 'user', content: 'x'.repeat(400) }] })
    expect(response.headers.get('x-penstock-estimated')).toBe('true')
    expect(await response.json()).toEqual({ input_tokens: 100 })
    expect(world.calls).toHaveLength(calls)
  })

  test('sends nothing that content rules of the organisation have not seen', async () => {
    const world = await worldOf(() => Response.json({ input_tokens: 42 }), 'anthropic')
    const { orgId } = await world.ownTenant()
    const hook = { name: 'emails', stages: ['input'], kind: 'pii', entities: ['email'], action: 'mask' }
    expect((await admin('PUT', `/organisations/${orgId}/guard-hooks`, { hooks: [hook] })).status).toBe(200)
    const { response } = await count(world, { messages: [{ role: 'user', content: 'Write to ann@example.com' }] })
    expect(response.headers.get('x-penstock-estimated')).toBe('true')
    expect(world.calls).toEqual([])
  })

  test('of a prompt that the target finds wrong is its refusal, without the secret', async () => {
    const error = { type: 'invalid_request_error', message: `messages: wrong, and the key is ${SECRET}` }
    const world = await worldOf(() => Response.json({ type: 'error', error }, { status: 400 }), 'anthropic')
    const { response } = await count(world)
    expect(response.status).toBe(400)
    expect(await response.text()).not.toContain(SECRET)
  })
})

describe('whom a count of tokens asks', () => {
  const path = '/v1/messages/count_tokens'
  const request = (world: World) => ({ model: world.model, messages: [{ role: 'user', content: 'Say' }] })
  const isEstimated = (response: Response) => response.headers.get('x-penstock-estimated') === 'true'

  /** Each vendor counts its own number of tokens. */
  async function worldOfTwo(policy?: Record<string, unknown>) {
    const world = new World()
    const targets = []
    for (const [index, region] of ['eu', 'us'].entries()) {
      const name = newName('vendor')
      const host = `${name}.example.com`
      const provider = { kind: 'anthropic', base_url: `https://${host}/v1`, secret: SECRET }
      expect((await admin('PUT', `/providers/${name}`, provider)).status).toBeLessThan(300)
      world.hosts.set(host, () => Response.json({ input_tokens: index + 1 }))
      targets.push({ provider: name, model: 'theirs', context_tokens: 8000, region })
    }
    await world.catalog(targets, policy)
    return { world, names: targets.map(({ provider }) => provider) }
  }

  test('is a target that may serve the caller: none on trial, and none that its hints leave out', async () => {
    const { world, names } = await worldOfTwo()
    const ask = async (headers: Record<string, string> = {}) => {
      const { response } = await world.send(path, request(world), { headers })
      return isEstimated(response) ? 'estimate' : (await response.json<Json>()).input_tokens
    }
    expect(await ask()).toBe(1)
    expect(await ask({ 'x-penstock-region': 'us' })).toBe(2)
    expect(await ask({ 'x-penstock-ignore': names[0] ?? '' })).toBe(2)
    expect(await ask({ 'x-penstock-order': names[1] ?? '' })).toBe(2)
    expect(await ask({ 'x-penstock-region': 'asia' })).toBe('estimate')
    expect((await world.send(path, request(world), { headers: { 'x-penstock-only': '?' } })).response.status).toBe(400)
    const trial = await worldOfTwo({ shadow: { target: 0, percent: 0 } })
    const { response } = await trial.world.send(path, request(trial.world))
    expect(await response.json()).toEqual({ input_tokens: 2 })
  })

  test('is nobody any more after sixty within a minute', async () => {
    const world = await worldOf(() => Response.json({ input_tokens: 42 }), 'anthropic')
    const estimated: boolean[] = []
    for (let count = 0; count < 61; count++) {
      const { response } = await world.send(path, request(world))
      await response.text()
      estimated.push(isEstimated(response))
    }
    expect(estimated.filter((one) => one)).toHaveLength(1)
    expect(estimated.at(-1)).toBe(true)
    expect(world.calls).toHaveLength(60)
  })
})

describe('the models', () => {
  const VERSION = { 'anthropic-version': '2023-06-01' }

  test('are listed in pages to whoever sends the version of the dialect', async () => {
    const world = await worldOf(() => sse())
    const all = await (await get(world, '/v1/models', VERSION)).json<Json>()
    const at = all.data.findIndex((model: Json) => model.id === world.model)
    expect(all.data[at]).toMatchObject({
      type: 'model',
      display_name: world.model,
      created_at: expect.stringMatching(/Z$/),
    })
    expect(all).toMatchObject({ has_more: false, first_id: all.data[0].id, last_id: all.data.at(-1).id })
    const before = all.data[at - 1]?.id as string | undefined
    const query = before === undefined ? '?limit=1' : `?limit=1&after_id=${before}`
    const page = await (await get(world, `/v1/models${query}`, VERSION)).json<Json>()
    expect(page.data.map((model: Json) => model.id)).toEqual([world.model])
    expect(page.has_more).toBe(at + 1 < all.data.length)
  })

  test('one by one have the same form, and one that is not there is refused in it', async () => {
    const world = await worldOf(() => sse())
    const one = await get(world, `/v1/models/${world.model}`, VERSION)
    expect(await one.json()).toMatchObject({ type: 'model', id: world.model })
    const none = await get(world, '/v1/models/no-such-model', VERSION)
    expect(none.status).toBe(404)
    expect(await none.json()).toMatchObject({ type: 'error', error: { type: 'not_found_error' } })
    const asBefore = await get(world, `/v1/models/${world.model}`)
    expect(await asBefore.json()).toMatchObject({ object: 'model', id: world.model })
  })

  test.each(['limit=0', 'limit=1001', 'limit=x', 'after_id=no-such-model', 'after_id=a&before_id=b'])(
    'asked for with %s are refused',
    async (query) => {
      expect((await get(new World(), `/v1/models?${query}`, VERSION)).status).toBe(400)
    },
  )
})
