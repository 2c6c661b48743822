// Gemini through the whole path: what its host is sent, what clients of two dialects read and give back, and what is charged.
import { expect, test } from 'vitest'
import { admin, type Json, newName } from './support/admin.ts'
import { type Host, readSse, World } from './support/path.ts'

const MODEL = 'gemini-3.5-flash'
const SECRET = 'AIza-worker-secret-0123456789'
const SCHEMA = { type: 'object', properties: { city: { type: 'string' } } }

const sse = (...chunks: unknown[]) =>
  new Response(chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\r\n\r\n`).join(''), {
    headers: { 'content-type': 'text/event-stream' },
  })
const usage = (candidatesTokenCount: number) => ({
  promptTokenCount: 30,
  cachedContentTokenCount: 10,
  candidatesTokenCount,
  thoughtsTokenCount: 5,
  totalTokenCount: 35 + candidatesTokenCount,
})
const chunk = (parts: Json[], tokens: number, finishReason?: string) => ({
  candidates: [
    { content: { role: 'model', parts }, index: 0, ...(finishReason === undefined ? {} : { finishReason }) },
  ],
  usageMetadata: usage(tokens),
  responseId: 'bH6LaZW8',
})
const CALLS = [
  chunk([{ text: 'Ask.', thought: true }], 1),
  chunk([{ functionCall: { name: 'weather', args: { city: 'Tromsø' } }, thoughtSignature: 'EpEg+/==' }], 9),
  chunk([{ functionCall: { name: 'weather', args: { city: 'Oslo' } } }], 20, 'STOP'),
]
const TEXT = [chunk([{ text: 'Cold.' }], 2, 'STOP')]

/** A world whose model is served by these hosts, in their order; the first is asked first. */
async function worldOf(...hosts: Host[]): Promise<World> {
  const world = new World()
  const targets = []
  for (const host of hosts) {
    const name = newName('vendor')
    const made = await admin('PUT', `/providers/${name}`, {
      kind: 'gemini',
      base_url: `https://${name}.example.com`,
      secret: SECRET,
    })
    if (made.status >= 300) throw new Error(made.text)
    world.hosts.set(`${name}.example.com`, host)
    targets.push({ provider: name, model: MODEL, context_tokens: 200_000 })
  }
  await world.catalog(targets)
  return world
}

test('a client of chat completions reads its calls, gives their signatures back, and is charged by the last total', async () => {
  const urls: string[] = []
  const world = await worldOf((request) => {
    urls.push(request.url)
    return urls.length === 1 ? sse(...CALLS) : sse(...TEXT)
  })
  const tools = [{ type: 'function', function: { name: 'weather', parameters: SCHEMA } }]
  const question = { role: 'user', content: 'How warm is it?' }
  const { response, settled } = await world.chat({ messages: [question], tools })
  const answer: Json = await response.json()
  await settled()
  const [choice] = answer.choices
  expect(choice.finish_reason).toBe('tool_calls')
  expect(choice.message.tool_calls.map((call: Json) => call.function.arguments)).toEqual([
    '{"city":"Tromsø"}',
    '{"city":"Oslo"}',
  ])
  expect((await world.recorded()).attempts).toMatchObject([
    { status: 'ok', source: 'provider', input: 20, cached: 10, output: 20, costNanoUsd: 20_000n + 5_000n + 50_000n },
  ])

  const results = choice.message.tool_calls.map((call: Json) => ({ role: 'tool', tool_call_id: call.id, content: '4' }))
  const next = await world.chat({ messages: [question, choice.message, ...results], tools, stream: true })
  const { data, done } = readSse(await next.response.text())
  await next.settled()
  expect(done).toBe(true)
  expect(data.map((event: Json) => event.choices?.[0]?.delta?.content ?? '').join('')).toBe('Cold.')

  const [first, second] = world.calls
  expect(urls[0]).toMatch(/^https:\/\/[^/]+\/v1beta\/models\/gemini-3\.5-flash:streamGenerateContent\?alt=sse$/)
  expect(first?.headers.get('x-goog-api-key')).toBe(SECRET)
  expect(urls.join()).not.toContain(SECRET)
  const body: Json = second?.body
  expect(body.contents.map(({ role }: Json) => role)).toEqual(['user', 'model', 'user'])
  const calls = body.contents[1].parts.filter((part: Json) => part.functionCall !== undefined)
  expect(calls.map((part: Json) => [part.functionCall.args.city, part.thoughtSignature])).toEqual([
    ['Tromsø', 'EpEg+/=='],
    ['Oslo', undefined],
  ])
  expect(body.contents[2].parts).toHaveLength(2)
})

test('a client of messages gives the signature of a call back as well', async () => {
  let asked = 0
  const world = await worldOf(() => (asked++ === 0 ? sse(...CALLS) : sse(...TEXT)))
  const question = { role: 'user', content: 'How warm is it?' }
  const ask = async (messages: unknown[]) => {
    const { response, settled } = await world.send('/v1/messages', {
      model: world.model,
      max_tokens: 4000,
      messages,
      tools: [{ name: 'weather', input_schema: SCHEMA }],
    })
    const answer: Json = await response.json()
    await settled()
    return answer
  }
  const { content, stop_reason } = await ask([question])
  expect(stop_reason).toBe('tool_use')
  const uses = content.filter(({ type }: Json) => type === 'tool_use')
  const results = uses.map(({ id }: Json) => ({ type: 'tool_result', tool_use_id: id, content: '4' }))
  const answer = await ask([question, { role: 'assistant', content }, { role: 'user', content: results }])
  expect(answer.content).toEqual([expect.objectContaining({ type: 'text', text: 'Cold.' })])
  const body: Json = world.calls[1]?.body
  const [call] = body.contents[1].parts.filter((part: Json) => part.functionCall !== undefined)
  expect(call).toMatchObject({ functionCall: { args: { city: 'Tromsø' } }, thoughtSignature: 'EpEg+/==' })
})

test('a prompt that its rules refuse is the caller’s to change, and tried nowhere else', async () => {
  const world = await worldOf(
    () => sse({ promptFeedback: { blockReason: 'PROHIBITED_CONTENT' }, usageMetadata: { promptTokenCount: 7 } }),
    () => sse(...TEXT),
  )
  const { response, settled } = await world.chat()
  expect(response.status).toBe(400)
  expect(await response.json()).toMatchObject({ error: { message: expect.stringContaining('PROHIBITED_CONTENT') } })
  await settled()
  expect(world.calls).toHaveLength(1)
  expect((await world.recorded()).holds).toBe(0)
})

test('a used-up quota, and a call that it garbled, are answered by the next target', async () => {
  const quota = { error: { code: 429, message: 'You exceeded your current quota.', status: 'RESOURCE_EXHAUSTED' } }
  const world = await worldOf(
    () => Response.json(quota, { status: 429 }),
    () => sse(chunk([], 0, 'MALFORMED_FUNCTION_CALL')),
    () => sse(...TEXT),
  )
  const { response, settled } = await world.chat()
  const answer: Json = await response.json()
  expect(answer.choices[0].message.content).toBe('Cold.')
  await settled()
  const { attempts, holds } = await world.recorded()
  expect(attempts.at(-1)).toMatchObject({ status: 'ok', output: 2 })
  expect(holds).toBe(0)
})
