// Vendors with a form of their own through the whole path: what their hosts are sent by the runtime's own fetch, what clients
// read, and what is charged.
import { describe, expect, test } from 'vitest'
import { crc32 } from '../../gateway/providers/aws-event-stream.ts'
import { signV4 } from '../../gateway/providers/aws-sigv4.ts'
import { admin, type Json, newName } from './support/admin.ts'
import { type Host, readSse, World } from './support/path.ts'

async function worldOf(host: Host, provider: Record<string, unknown>, model: string): Promise<World> {
  const world = new World()
  const name = newName('vendor')
  const hostname = `${name}.example.com`
  const made = await admin('PUT', `/providers/${name}`, { base_url: `https://${hostname}`, ...provider })
  if (made.status >= 300) throw new Error(made.text)
  world.hosts.set(hostname, host)
  await world.catalog([{ provider: name, model, context_tokens: 200_000, output_tokens_max: 32_000 }])
  return world
}

const TOOL = { name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } } } }

describe('OpenAI', () => {
  const sse = (events: Json[]) =>
    new Response(events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join(''), {
      headers: { 'content-type': 'text/event-stream; charset=utf-8' },
    })
  const THOUGHT = { type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'gAAA-_==' }
  const CALL = { type: 'function_call', id: 'fc_1', call_id: 'call_1', name: 'weather', arguments: '{"city":"Oslo"}' }
  const response = (over: Json) => ({ id: 'resp_1', object: 'response', error: null, output: [], ...over })
  const usage = {
    input_tokens: 40,
    input_tokens_details: { cached_tokens: 10 },
    output_tokens: 25,
    output_tokens_details: { reasoning_tokens: 5 },
    total_tokens: 65,
  }
  const begun = [{ type: 'response.created', sequence_number: 0, response: response({ status: 'in_progress' }) }]
  const thoughtAndCall = () =>
    sse([
      ...begun,
      { type: 'response.output_item.added', output_index: 0, item: { ...THOUGHT, encrypted_content: '' } },
      { type: 'response.output_item.done', output_index: 0, item: THOUGHT },
      { type: 'response.output_item.added', output_index: 1, item: { ...CALL, arguments: '' } },
      { type: 'response.function_call_arguments.delta', output_index: 1, delta: '{"city":' },
      { type: 'response.function_call_arguments.delta', output_index: 1, delta: '"Oslo"}' },
      { type: 'response.output_item.done', output_index: 1, item: CALL },
      { type: 'response.completed', response: response({ status: 'completed', output: [THOUGHT, CALL], usage }) },
    ])
  const provider = { kind: 'openai', secret: 'sk-worker-secret', options: { reasoning_summary: true } }

  test('thinks and calls on its responses route, and gets its thoughts back from a client of another dialect', async () => {
    const world = await worldOf(thoughtAndCall, provider, 'gpt-5.4')
    const tools = [{ type: 'function', function: TOOL }]
    const ask = async (messages: unknown[]) => {
      const { response, settled } = await world.chat({ messages, tools, reasoning_effort: 'low' })
      const answer: Json = await response.json()
      await settled()
      return answer.choices[0].message
    }
    const question = { role: 'user', content: 'How warm is it?' }
    const said = await ask([question])
    expect(said.tool_calls).toMatchObject([
      { id: 'call_1', function: { name: 'weather', arguments: '{"city":"Oslo"}' } },
    ])
    await ask([question, said, { role: 'tool', tool_call_id: 'call_1', content: '4 °C' }])
    const [first, again] = world.calls
    expect(first?.body).toMatchObject({ store: false, reasoning: { effort: 'low', summary: 'auto' } })
    expect(again?.body).toMatchObject({
      input: [
        { role: 'user' },
        { type: 'reasoning', id: 'rs_1', encrypted_content: 'gAAA-_==' },
        { type: 'function_call', call_id: 'call_1' },
        { type: 'function_call_output', call_id: 'call_1', output: '4 °C' },
      ],
    })
    const charged = { status: 'ok', source: 'provider', input: 30, cached: 10, output: 20 }
    expect((await world.recorded()).attempts).toMatchObject([charged, charged])
  })

  test('fails inside its stream before anything was said: an honest status, and nothing is charged', async () => {
    const error = { code: 'context_length_exceeded', message: 'Your input exceeds the context window of this model.' }
    const failed = { type: 'response.failed', response: response({ status: 'failed', error }) }
    const world = await worldOf(() => sse([...begun, failed]), provider, 'gpt-5.1-codex')
    const { response: answer, settled } = await world.chat({ stream: true })
    expect(answer.status).toBe(400)
    expect(await answer.json()).toMatchObject({ error: { code: 'context_length_exceeded' } })
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ charge: 'absorbed', input: 0, output: 0 }])
  })

  test('can be kept to one of its routes by the operator, and no other vendor has two', async () => {
    const done = { type: 'response.completed', response: response({ status: 'completed', usage }) }
    const world = await worldOf(() => sse([...begun, done]), { ...provider, options: { api: 'responses' } }, 'gpt-4.1')
    const { settled } = await world.chat()
    await settled()
    expect(world.calls[0]?.body).toMatchObject({ input: [{ role: 'user' }] })
    const wrong = { kind: 'anthropic', secret: 'sk-ant-x', options: { api: 'responses' } }
    expect(await admin('PUT', `/providers/${newName('vendor')}`, wrong)).toMatchObject({ status: 400 })
  })
})

describe('Anthropic', () => {
  const sse = (events: { type: string }[]) =>
    new Response(events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join(''), {
      headers: { 'content-type': 'text/event-stream; charset=utf-8' },
    })
  const start = {
    type: 'message_start',
    message: { id: 'msg_1', role: 'assistant', content: [], usage: { input_tokens: 30, output_tokens: 1 } },
  }
  const block = (index: number, content_block: Json, ...deltas: Json[]) => [
    { type: 'content_block_start', index, content_block },
    ...deltas.map((delta) => ({ type: 'content_block_delta', index, delta })),
    { type: 'content_block_stop', index },
  ]
  const THOUGHT = block(
    0,
    { type: 'thinking', thinking: '', signature: '' },
    { type: 'thinking_delta', thinking: 'Ask.' },
    { type: 'signature_delta', signature: 'c2lnbmVk+/==' },
  )
  const CALL = block(
    1,
    { type: 'tool_use', id: 'toolu_1', name: 'weather', input: {} },
    { type: 'input_json_delta', partial_json: '{"city":' },
    { type: 'input_json_delta', partial_json: '"Oslo"}' },
  )
  const end = (stop_reason: string, output_tokens: number) => [
    {
      type: 'message_delta',
      delta: { stop_reason, stop_sequence: null },
      usage: {
        input_tokens: 30,
        cache_read_input_tokens: 10,
        output_tokens,
        output_tokens_details: { thinking_tokens: 5 },
      },
    },
    { type: 'message_stop' },
  ]
  const provider = { kind: 'anthropic', secret: 'sk-ant-worker-secret' }

  test('answers a client of another dialect with its calls, and is charged by its last count', async () => {
    const host: Host = () => sse([start, ...THOUGHT, ...CALL, ...end('tool_use', 25)])
    const world = await worldOf(host, provider, 'claude-opus-5')
    const { response, settled } = await world.chat({ stream: true, tools: [{ type: 'function', function: TOOL }] })
    const { data, done } = readSse(await response.text())
    expect(done).toBe(true)
    const calls = data.flatMap((chunk: Json) => chunk.choices?.[0]?.delta?.tool_calls ?? [])
    expect(calls[0]).toMatchObject({ index: 0, id: 'toolu_1', function: { name: 'weather' } })
    expect(calls.map((one: Json) => one.function.arguments ?? '').join('')).toBe('{"city":"Oslo"}')
    expect(data.some((chunk: Json) => chunk.choices?.[0]?.finish_reason === 'tool_calls')).toBe(true)
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([
      { status: 'ok', source: 'provider', input: 30, cached: 10, output: 20, costNanoUsd: 30_000n + 5_000n + 50_000n },
    ])
    expect(world.calls[0]?.headers.get('x-api-key')).toBe('sk-ant-worker-secret')
    expect(world.calls[0]?.body).toMatchObject({ model: 'claude-opus-5', stream: true, tools: [{ name: 'weather' }] })
  })

  test('gets its thoughts back word for word from a client of its own dialect', async () => {
    const world = await worldOf(
      () => sse([start, ...THOUGHT, ...CALL, ...end('tool_use', 25)]),
      provider,
      'claude-opus-5',
    )
    const question = { role: 'user', content: 'How warm is it?' }
    const ask = async (messages: unknown[]) => {
      const body = {
        model: world.model,
        max_tokens: 4000,
        messages,
        thinking: { type: 'adaptive' },
        tools: [{ name: 'weather', input_schema: TOOL.parameters }],
      }
      const { response, settled } = await world.send('/v1/messages', body)
      const answer: Json = await response.json()
      await settled()
      return answer
    }
    const { content } = await ask([question])
    await ask([
      question,
      { role: 'assistant', content },
      { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'toolu_1', content: '4 °C' }] },
    ])
    const again: Json = world.calls[1]?.body
    expect(again.messages[1].content).toEqual([
      { type: 'thinking', thinking: 'Ask.', signature: 'c2lnbmVk+/==' },
      { type: 'tool_use', id: 'toolu_1', name: 'weather', input: { city: 'Oslo' } },
    ])
  })

  test('refuses with an answer that says so: 200 and the reason of its end, in each dialect', async () => {
    const stop_details = { type: 'refusal', category: 'cyber', explanation: 'It could enable harm.' }
    const refusal = {
      type: 'message_delta',
      delta: { stop_reason: 'refusal', stop_sequence: null, stop_details },
      usage: { input_tokens: 30, output_tokens: 1 },
    }
    const world = await worldOf(() => sse([start, refusal, { type: 'message_stop' }]), provider, 'claude-opus-5')
    const body = { model: world.model, max_tokens: 50, messages: [{ role: 'user', content: 'Hi' }] }
    const whole = await world.send('/v1/messages', body)
    expect(whole.response.status).toBe(200)
    const ending = { stop_reason: 'refusal', stop_details }
    expect(await whole.response.json()).toMatchObject({ content: [], ...ending, usage: { input_tokens: 30 } })
    await whole.settled()
    const stream = await world.send('/v1/messages', { ...body, stream: true })
    expect(stream.response.status).toBe(200)
    const lines = (await stream.response.text()).split('\n').filter((line) => line.startsWith('data: '))
    const events = lines.map((line): Json => JSON.parse(line.slice(6)))
    expect(events.map(({ type }) => type)).toEqual(['message_start', 'message_delta', 'message_stop'])
    expect(events[1]).toMatchObject({ delta: ending, usage: { output_tokens: 1 } })
    await stream.settled()
    const chat = await world.chat()
    expect(chat.response.status).toBe(200)
    expect(await chat.response.json()).toMatchObject({
      choices: [{ message: { content: '' }, finish_reason: 'content_filter' }],
    })
    await chat.settled()
  })

  test.each([
    ['/v1/messages', { max_tokens: 50, thinking: { type: 'adaptive' } }, 'thinking'],
    ['/v1/responses', { text: { format: { type: 'json_object' } } }, 'text.format'],
  ])('is not asked for what it cannot do, and %s names the field in its own words', async (path, over, param) => {
    const world = await worldOf(() => sse([]), provider, 'claude-sonnet-4-5')
    const said = path === '/v1/messages' ? { messages: [{ role: 'user', content: 'Hi' }] } : { input: 'Hi' }
    const { response } = await world.send(path, { model: world.model, ...said, ...over })
    expect(response.status).toBe(400)
    const { error } = await response.json<Json>()
    expect(error.param ?? error.details.param).toBe(param)
    expect(world.calls).toEqual([])
  })
})

describe('Bedrock', () => {
  const MODEL = 'eu.anthropic.claude-sonnet-4-5-20250929-v1:0'
  const SECRET = 'AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY'
  const provider = { kind: 'bedrock', secret: SECRET, options: { region: 'eu-west-1' } }

  function frame(kind: 'event' | 'exception', name: string, payload: unknown): Uint8Array {
    const encoder = new TextEncoder()
    const header = (key: string, value: string) => [
      ...[key.length, ...encoder.encode(key)],
      ...[7, 0, value.length, ...encoder.encode(value)],
    ]
    const head = [...header(':message-type', kind), ...header(`:${kind}-type`, name)]
    const body = encoder.encode(JSON.stringify(payload))
    const bytes = new Uint8Array(16 + head.length + body.length)
    const view = new DataView(bytes.buffer)
    view.setUint32(0, bytes.length)
    view.setUint32(4, head.length)
    view.setUint32(8, crc32(bytes.subarray(0, 8)))
    bytes.set(head, 12)
    bytes.set(body, 12 + head.length)
    view.setUint32(bytes.length - 4, crc32(bytes.subarray(0, bytes.length - 4)))
    return bytes
  }
  const answer = (...frames: Uint8Array[]) =>
    new Response(new Blob(frames), { headers: { 'content-type': 'application/vnd.amazon.eventstream' } })
  const said = (text: string) => frame('event', 'contentBlockDelta', { contentBlockIndex: 0, delta: { text } })

  test('answers a client’s stream, called with a signature over what really went over the wire', async () => {
    const requests: Request[] = []
    const host: Host = (request) => {
      requests.push(request)
      return answer(
        frame('event', 'messageStart', { role: 'assistant' }),
        said('4 °C'),
        said(' ☁️'),
        frame('event', 'contentBlockStop', { contentBlockIndex: 0 }),
        frame('event', 'messageStop', { stopReason: 'end_turn' }),
        frame('event', 'metadata', { usage: { inputTokens: 12, outputTokens: 6, cacheReadInputTokens: 4 } }),
      )
    }
    const world = await worldOf(host, provider, MODEL)
    const { response, settled } = await world.chat({ stream: true })
    const { data, done } = readSse(await response.text())
    expect(done).toBe(true)
    expect(data.map((chunk: Json) => chunk.choices?.[0]?.delta?.content ?? '').join('')).toBe('4 °C ☁️')
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', input: 12, cached: 4, output: 6 }])

    const [request] = requests
    if (request === undefined) throw new Error('the host was not called')
    const { host: hostname, pathname } = new URL(request.url)
    expect(pathname).toBe('/model/eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream')
    const time = request.headers.get('x-amz-date') ?? ''
    const iso = time.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, '$1-$2-$3T$4:$5:$6Z')
    const [accessKeyId = '', secretAccessKey = ''] = SECRET.split(':')
    const signed = await signV4(
      {
        method: request.method,
        host: hostname,
        path: pathname,
        headers: { 'content-type': request.headers.get('content-type') ?? '' },
        body: JSON.stringify(world.calls[0]?.body),
      },
      { accessKeyId, secretAccessKey },
      { region: 'eu-west-1', service: 'bedrock', nowMs: Date.parse(iso) },
    )
    expect(request.headers.get('authorization')).toBe(signed.authorization)
  })

  test('that is full after its 200 is an error of the whole answer, before anything was said', async () => {
    const host: Host = () => answer(frame('exception', 'throttlingException', { message: 'Too many tokens' }))
    const world = await worldOf(host, provider, MODEL)
    const { response, settled } = await world.chat()
    expect(response.status).toBe(503)
    expect(await response.text()).not.toContain('wJalrXUtnFEMI')
    await settled()
    const { attempts, holds } = await world.recorded()
    expect(attempts.length).toBeGreaterThan(0)
    for (const attempt of attempts) expect(attempt).toMatchObject({ costNanoUsd: 0n })
    expect(holds).toBe(0)
  })

  test('that quotes a part of the key has it cut out of what a caller reads', async () => {
    const message = 'The header wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY is not expected.'
    const host: Host = () =>
      Response.json({ message }, { status: 400, headers: { 'x-amzn-errortype': 'ValidationException' } })
    const world = await worldOf(host, provider, MODEL)
    const { response, settled } = await world.chat()
    expect(response.status).toBe(400)
    expect(await response.text()).toContain('The header [secret] is not expected.')
    await settled()
  })

  test('that breaks a frame in mid-stream ends the answer with an error, never with an end mark', async () => {
    const broken = said('more')
    broken[broken.length - 1] = (broken[broken.length - 1] ?? 0) ^ 1
    const world = await worldOf(() => answer(said('4 °C'), broken), provider, MODEL)
    const { response, settled } = await world.chat({ stream: true })
    const text = await response.text()
    expect(text).toContain('4 °C')
    expect(text).toContain('damaged stream')
    expect(readSse(text).done).toBe(false)
    await settled()
    expect((await world.recorded()).holds).toBe(0)
  })
})
