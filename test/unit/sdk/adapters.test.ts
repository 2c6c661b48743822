// The entries for the official OpenAI client and the `ai` package, each with the real thing on top.
import { generateText, jsonSchema, streamText, tool } from 'ai'
import OpenAI from 'openai'
import { describe, expect, it } from 'vitest'
import { createPenstock } from '../../../sdk/src/ai-sdk.ts'
import type { ClientOptions } from '../../../sdk/src/index.ts'
import { penstockFetch } from '../../../sdk/src/openai.ts'
import { chatAnswer, chatPieces, type Step, scriptedFetch } from '../../../sdk/src/testing.ts'

const GATEWAY = 'http://gateway.test'
const SPARE = 'http://spare.test'
const OURS = { 'x-penstock-request-id': 'req_1', 'x-request-id': 'req_1' }
const streamed = (pieces: readonly string[], then: 'end' | 'reset' = 'end'): Step => ({
  kind: 'stream',
  headers: OURS,
  pieces,
  then,
})

function setUp(gateway: readonly Step[], spare: readonly Step[] = []) {
  const fetch = scriptedFetch({ [GATEWAY]: gateway, [SPARE]: spare })
  const options: ClientOptions = {
    gateway: { baseUrl: GATEWAY, apiKey: 'psk_secret' },
    direct: [{ name: 'spare', baseUrl: `${SPARE}/v1`, apiKey: 'sk-spare', models: { small: 'their-small' } }],
    fetch,
  }
  return { fetch, options }
}

describe('under the official OpenAI client', () => {
  const clientOf = (options: ClientOptions) =>
    new OpenAI({ apiKey: 'unused', baseURL: 'http://ignored.test/v1', maxRetries: 0, fetch: penstockFetch(options) })
  const ask = { model: 'small', messages: [{ role: 'user' as const, content: 'Hi' }] }

  it('an answer comes from the gateway under our key, or past it', async () => {
    const { fetch, options } = setUp([chatAnswer('one'), { kind: 'refuse' }], [chatAnswer('two')])
    const client = clientOf(options)
    expect((await client.chat.completions.create(ask)).choices[0]?.message.content).toBe('one')
    expect((await client.chat.completions.create(ask)).choices[0]?.message.content).toBe('two')
    expect(fetch.seen.map(({ url }) => url)).toEqual([
      `${GATEWAY}/v1/chat/completions`,
      `${GATEWAY}/v1/chat/completions`,
      `${SPARE}/v1/chat/completions`,
    ])
    expect(fetch.seen[0]?.headers.get('authorization')).toBe('Bearer psk_secret')
  })

  it('a stream is whole, and one that breaks off is an error to the client', async () => {
    const { options } = setUp([streamed(chatPieces(['a', 'b'])), streamed(chatPieces(['half'], false), 'reset')])
    const client = clientOf(options)
    let text = ''
    for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
      text += chunk.choices[0]?.delta.content ?? ''
    }
    expect(text).toBe('ab')
    const broken = await client.chat.completions.create({ ...ask, stream: true })
    await expect(
      (async () => {
        for await (const chunk of broken) text += chunk.choices[0]?.delta.content ?? ''
      })(),
    ).rejects.toThrow('broke off')
    expect(text).toBe('abhalf')
  })

  it('a refusal keeps its status and its class, and is asked once', async () => {
    const refusal: Step = {
      kind: 'json',
      status: 429,
      headers: OURS,
      body: { error: { message: 'no money', code: 'insufficient_quota' } },
    }
    const { fetch, options } = setUp([refusal])
    await expect(clientOf(options).chat.completions.create(ask)).rejects.toBeInstanceOf(OpenAI.RateLimitError)
    expect(fetch.seen).toHaveLength(1)
  })

  it('another route goes to the gateway as it is', async () => {
    const { fetch, options } = setUp([
      { kind: 'json', body: { object: 'list', data: [{ id: 'small', object: 'model' }] } },
    ])
    expect((await clientOf(options).models.list()).data[0]?.id).toBe('small')
    expect(fetch.seen[0]).toMatchObject({ url: `${GATEWAY}/v1/models`, method: 'GET' })
  })
})

describe('under the ai package', () => {
  it('text comes with its usage, from whoever answers', async () => {
    const { fetch, options } = setUp([{ kind: 'refuse' }], [chatAnswer('past it')])
    const { text, usage, finishReason } = await generateText({
      model: createPenstock(options)('small'),
      system: 'Be brief.',
      prompt: 'Hi',
      maxRetries: 0,
      maxOutputTokens: 9,
    })
    expect(text).toBe('past it')
    expect(finishReason).toBe('stop')
    expect(usage).toMatchObject({ inputTokens: 3, outputTokens: 2 })
    expect(fetch.seen[1]?.body).toMatchObject({
      model: 'their-small',
      max_completion_tokens: 9,
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'Hi' },
      ],
    })
  })

  it('a stream gives its text, and breaks off as an error, never as an end', async () => {
    const { options } = setUp([streamed(chatPieces(['a', 'b'])), streamed(chatPieces(['half'], false), 'reset')])
    const model = createPenstock(options)('small')
    const whole = streamText({ model, prompt: 'Hi', maxRetries: 0 })
    let text = ''
    for await (const piece of whole.textStream) text += piece
    expect(text).toBe('ab')
    const kinds: string[] = []
    for await (const part of streamText({ model, prompt: 'Hi', maxRetries: 0, onError: () => {} }).fullStream)
      kinds.push(part.type)
    expect(kinds).toContain('text-delta')
    expect(kinds).toContain('error')
  })

  it('a tool is offered, called with arguments that came in pieces, and its result goes back', async () => {
    const chunk = (delta: object, finish: string | null = null) =>
      `data: ${JSON.stringify({ id: 'c', created: 0, model: 'm', choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`
    const call = [
      chunk({ tool_calls: [{ index: 0, id: 'call_1', type: 'function', function: { name: 'add', arguments: '' } }] }),
      chunk({ tool_calls: [{ index: 0, function: { arguments: '{"a":1,' } }] }),
      chunk({ tool_calls: [{ index: 0, function: { arguments: '"b":2}' } }] }),
      chunk({}, 'tool_calls'),
      'data: [DONE]\n\n',
    ]
    const { fetch, options } = setUp([streamed(call), streamed(chatPieces(['three']))])
    const add = tool({
      inputSchema: jsonSchema<{ a: number; b: number }>({
        type: 'object',
        properties: { a: { type: 'number' }, b: { type: 'number' } },
        required: ['a', 'b'],
      }),
      execute: async ({ a, b }) => a + b,
    })
    const result = streamText({
      model: createPenstock(options)('small'),
      prompt: 'Add',
      tools: { add },
      maxRetries: 0,
      stopWhen: ({ steps }) => steps.length >= 2,
    })
    expect(await result.text).toBe('three')
    expect(fetch.seen[0]?.body).toMatchObject({ tools: [{ type: 'function', function: { name: 'add' } }] })
    const { messages } = (fetch.seen[1]?.body ?? {}) as { messages?: object[] }
    expect(messages?.slice(1)).toMatchObject([
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'call_1', function: { name: 'add', arguments: '{"a":1,"b":2}' } }],
      },
      { role: 'tool', tool_call_id: 'call_1', content: '3' },
    ])
  })
})
