// Tools and thoughts through the whole path: own backends by wire 2, and servers of OpenAI's dialect by theirs.
import { describe, expect, test } from 'vitest'
import type { DispatchEvent } from '../../protocol/dispatch.ts'
import { admin, type Json, newName } from './support/admin.ts'
import { usage } from './support/fake-agent.ts'
import { FLEET_TARGET, type Host, readSse, World } from './support/path.ts'

const TOOLS = [{ type: 'function', function: { name: 'look', description: 'Looks.', parameters: { type: 'object' } } }]
const CALL = { id: 'call_1', type: 'function', function: { name: 'look', arguments: '{"at":"sky"}' } }
const TURN = [
  { role: 'user', content: 'What is up?' },
  { role: 'assistant', content: null, tool_calls: [CALL] },
  { role: 'tool', tool_call_id: 'call_1', content: 'blue' },
]

describe('an own backend', () => {
  const THINKS: DispatchEvent[] = [
    { type: 'accepted', usage: usage(7, 0), queueMs: 0 },
    { type: 'thought', choice: 0, text: 'Hm.', outputTokens: 2 },
    { type: 'tool_call', choice: 0, call: 0, id: 'call_9', name: 'look', arguments: '{"at":', outputTokens: 5 },
    { type: 'tool_call', choice: 0, call: 0, arguments: '"sky"}', outputTokens: 6 },
    { type: 'finish', choice: 0, reason: 'tool_calls', outputTokens: 7 },
    { type: 'usage', usage: usage(7, 7) },
  ]

  test('is told of tools, calls and results, and its call reaches the client with every token charged once', async () => {
    const world = new World()
    const agent = await world.agent(() => THINKS)
    await world.catalog([FLEET_TARGET(world.model)])
    const { response, settled } = await world.chat({ messages: TURN, tools: TOOLS, reasoning_effort: 'low' })
    expect(await response.json()).toMatchObject({
      choices: [
        {
          message: { content: null, tool_calls: [{ ...CALL, id: 'call_9' }], reasoning_content: 'Hm.' },
          finish_reason: 'tool_calls',
        },
      ],
    })
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', source: 'provider', input: 7, output: 7 }])
    expect(agent.dispatches[0]).toMatchObject({
      version: 2,
      tools: [{ name: 'look', description: 'Looks.' }],
      thinking: true,
      input: {
        messages: [
          { role: 'user' },
          { role: 'assistant', content: '', toolCalls: [{ id: 'call_1', name: 'look', arguments: '{"at":"sky"}' }] },
          { role: 'tool', content: 'blue', toolCallId: 'call_1' },
        ],
      },
    })
  })

  test('is not asked about an image, which is refused by name', async () => {
    const world = new World()
    const agent = await world.agent(() => THINKS)
    await world.catalog([FLEET_TARGET(world.model)])
    const image = { type: 'image_url', image_url: { url: 'data:image/png;base64,iVBORw0KGgo=' } }
    const { response } = await world.chat({ messages: [{ role: 'user', content: [image] }] })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { type: 'invalid_request_error', param: 'messages' } })
    expect(agent.dispatches).toHaveLength(0)
  })
})

describe('a server of the same dialect', () => {
  async function worldOf(host: Host, provider: Json): Promise<World> {
    const world = new World()
    const name = newName('vendor')
    const made = await admin('PUT', `/providers/${name}`, {
      base_url: `https://${name}.example.com`,
      secret: 'sk-tools-secret',
      ...provider,
    })
    if (made.status >= 300) throw new Error(made.text)
    world.hosts.set(`${name}.example.com`, host)
    await world.catalog([{ provider: name, model: 'their-model', context_tokens: 100_000 }])
    return world
  }

  const sse = (...chunks: object[]) =>
    new Response(`${chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')}data: [DONE]\n\n`, {
      headers: { 'content-type': 'text/event-stream' },
    })
  const delta = (fields: object, finish_reason: string | null = null) => ({
    choices: [{ index: 0, delta: fields, finish_reason }],
  })

  test('is given calls, results and thoughts in its own way, and its calls are passed on piece by piece', async () => {
    const piece = (index: number, fields: object) => delta({ tool_calls: [{ index, ...fields }] })
    const host: Host = () =>
      sse(
        delta({ reasoning_content: 'Hm.' }),
        piece(0, { id: 'a', type: 'function', function: { name: 'look', arguments: '' } }),
        piece(0, { function: { arguments: '{"at":"sea"}' } }),
        delta({}, 'stop'),
        { choices: [], usage: { prompt_tokens: 9, completion_tokens: 6, prompt_cache_hit_tokens: 4 } },
      )
    const world = await worldOf(host, { kind: 'openai_compatible', preset: 'deepseek' })
    const { response, settled } = await world.chat({ stream: true, messages: TURN, tools: TOOLS, seed: 4 })
    const { data } = readSse(await response.text())
    const deltas = data.flatMap((chunk: Json) => chunk.choices?.[0]?.delta ?? [])
    expect(deltas.map((one: Json) => one.reasoning_content ?? '').join('')).toBe('Hm.')
    const pieces = deltas.flatMap((one: Json) => one.tool_calls ?? [])
    expect(pieces[0]).toMatchObject({ index: 0, id: 'a', function: { name: 'look' } })
    expect(pieces.map((one: Json) => one.function.arguments ?? '').join('')).toBe('{"at":"sea"}')
    expect(data.some((chunk: Json) => chunk.choices?.[0]?.finish_reason === 'tool_calls')).toBe(true)
    await settled()
    expect((await world.recorded()).attempts).toMatchObject([{ status: 'ok', input: 5, cached: 4, output: 6 }])
    const sent = world.calls[0]?.body
    expect(sent).toMatchObject({
      tools: [{ type: 'function', function: { name: 'look' } }],
      messages: [
        { role: 'user', content: 'What is up?' },
        { role: 'assistant', content: null, reasoning_content: '', tool_calls: [CALL] },
        { role: 'tool', tool_call_id: 'call_1', content: 'blue' },
      ],
    })
    expect(sent).not.toHaveProperty('seed')
  })

  test('on Azure is asked by deployment, and a prompt that its rules refuse is the caller’s to change', async () => {
    const filtered = {
      error: {
        message: 'The response was filtered.',
        code: 'content_filter',
        innererror: { code: 'ResponsibleAIPolicyViolation' },
      },
    }
    let address = ''
    const host: Host = (request) => {
      address = request.url
      return Response.json(filtered, { status: 400 })
    }
    const world = await worldOf(host, { kind: 'azure_openai', options: { api_version: '2024-10-21' } })
    const { response } = await world.chat({ max_tokens: 5 })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { code: 'content_filter' } })
    expect(address).toMatch(/\/openai\/deployments\/their-model\/chat\/completions\?api-version=2024-10-21$/)
    expect(world.calls[0]?.headers.get('api-key')).toBe('sk-tools-secret')
    expect(world.calls[0]?.body).toMatchObject({ max_tokens: 5 })
  })

  test('that lacks what changes the answer is not asked at all', async () => {
    const world = await worldOf(() => sse(), { kind: 'openai' })
    const { response } = await world.chat({ top_k: 5 })
    expect(response.status).toBe(400)
    expect(JSON.stringify(await response.json())).toContain('top_k')
    expect(world.calls).toHaveLength(0)
  })
})
