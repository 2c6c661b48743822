// Official clients, unchanged, against the gateway in front of two vendors that speak different dialects: every client
// talks to both. What is checked is what a developer sees, and that each answer was charged.

import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import Anthropic from '@anthropic-ai/sdk'
import { HumanMessage, ToolMessage } from '@langchain/core/messages'
import { tool as langChainTool } from '@langchain/core/tools'
import { ChatOpenAI } from '@langchain/openai'
import { generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { GatewayStack } from '../../bench/gateway/stack.ts'
import {
  ANSWER,
  ARGUMENTS,
  chatVendor,
  INPUT_TOKENS,
  messagesVendor,
  THOUGHT,
  VendorUpstream,
} from './support/vendor-upstreams.ts'

const CHAT_MODEL = 'speaks-chat'
const MESSAGES_MODEL = 'speaks-messages'
const MODELS = [CHAT_MODEL, MESSAGES_MODEL]
const QUESTION = 'What is the weather in Oslo?'
const WEATHER = {
  name: 'weather',
  description: 'The weather of a city.',
  parameters: {
    type: 'object' as const,
    properties: { city: { type: 'string' } },
    required: ['city'],
    additionalProperties: false,
  },
}

const Identified = z.object({ id: z.string() })
const NewKey = z.object({ id: z.string(), key: z.string() })

let stack: GatewayStack
let chat: VendorUpstream
let messages: VendorUpstream
let orgId: string
let apiKey: string

beforeAll(async () => {
  chat = await VendorUpstream.start(chatVendor)
  messages = await VendorUpstream.start(messagesVendor)
  stack = await GatewayStack.start()
  const { admin } = stack
  const provide = async (name: string, kind: string, baseUrl: string, model: string) => {
    await admin.call('PUT', `/providers/${name}`, z.unknown(), {
      kind,
      base_url: baseUrl,
      allow_private: true,
      secret: 'upstream-secret',
    })
    await admin.call('POST', '/prices', z.unknown(), {
      provider: name,
      model: 'upstream-model',
      usd_per_million: { input_uncached: '1', input_cache_read: '1', output_text: '2', output_reasoning: '2' },
    })
    await admin.call('PUT', `/models/${model}`, z.unknown(), {
      targets: [{ provider: name, model: 'upstream-model', context_tokens: 100_000, output_tokens_max: 4096 }],
    })
  }
  await provide('chat-vendor', 'openai_compatible', `${chat.origin}/v1`, CHAT_MODEL)
  await provide('messages-vendor', 'anthropic', messages.origin, MESSAGES_MODEL)
  const org = await admin.call('POST', '/organisations', Identified, { slug: 'clients', name: 'Clients' })
  orgId = org.id
  const project = await admin.call('POST', `/organisations/${orgId}/projects`, Identified, { slug: 'p', name: 'P' })
  const made = await admin.call('POST', `/organisations/${orgId}/keys`, NewKey, { project_id: project.id, name: 'k' })
  apiKey = made.key
})
afterAll(async () => {
  await stack?.stop()
  await chat?.stop()
  await messages?.stop()
})

const openai = () => new OpenAI({ apiKey, baseURL: `${stack.baseUrl}/v1`, maxRetries: 0 })
const anthropic = () => new Anthropic({ apiKey, baseURL: stack.baseUrl, maxRetries: 0 })

describe.each(MODELS)('openai, model %s', (model) => {
  it('gets a chat completion, whole and streamed', async () => {
    const whole = await openai().chat.completions.create({ model, messages: [{ role: 'user', content: QUESTION }] })
    expect(whole.choices[0]?.message.content).toBe(ANSWER)
    expect(whole.choices[0]?.finish_reason).toBe('stop')
    expect(whole.usage?.prompt_tokens).toBe(INPUT_TOKENS)
    const stream = openai().chat.completions.stream({ model, messages: [{ role: 'user', content: QUESTION }] })
    const parts: string[] = []
    stream.on('content', (delta) => parts.push(delta))
    expect((await stream.finalChatCompletion()).choices[0]?.message.content).toBe(ANSWER)
    expect(parts.length).toBeGreaterThan(1)
  })

  it('runs a tool and goes on with what it says', async () => {
    const runner = openai().chat.completions.runTools({
      model,
      messages: [{ role: 'user', content: QUESTION }],
      tools: [
        {
          type: 'function',
          function: {
            ...WEATHER,
            parse: (text: string) => JSON.parse(text) as { city: string },
            function: ({ city }: { city: string }) => `rain in ${city}`,
          },
        },
      ],
    })
    const calls: string[] = []
    runner.on('functionToolCall', (call) => calls.push(call.arguments))
    expect(await runner.finalContent()).toBe(ANSWER)
    expect(calls).toEqual([ARGUMENTS])
    const vendor = model === CHAT_MODEL ? chat : messages
    expect(JSON.stringify(vendor.asked.at(-1)?.body)).toContain('rain in Oslo')
  })

  it('streams the pieces of a tool call', async () => {
    const stream = await openai().chat.completions.create({
      model,
      stream: true,
      messages: [{ role: 'user', content: QUESTION }],
      tools: [{ type: 'function', function: WEATHER }],
    })
    let text = ''
    let name: string | undefined
    let finish: string | null | undefined
    for await (const chunk of stream) {
      const call = chunk.choices[0]?.delta.tool_calls?.[0]
      name = call?.function?.name ?? name
      text += call?.function?.arguments ?? ''
      finish = chunk.choices[0]?.finish_reason ?? finish
    }
    expect({ name, text, finish }).toEqual({ name: 'weather', text: ARGUMENTS, finish: 'tool_calls' })
  })

  it('gets a response, whole, streamed and as the next turn of an earlier one', async () => {
    const first = await openai().responses.create({ model, input: QUESTION })
    expect(first.output_text).toBe(ANSWER)
    const stream = openai().responses.stream({ model, input: 'And tomorrow?', previous_response_id: first.id })
    const types = new Set<string>()
    for await (const event of stream) types.add(event.type)
    expect((await stream.finalResponse()).output_text).toBe(ANSWER)
    expect(types).toContain('response.output_text.delta')
    const vendor = model === CHAT_MODEL ? chat : messages
    expect(JSON.stringify(vendor.asked.at(-1)?.body)).toContain(QUESTION)
    expect((await openai().responses.retrieve(first.id)).output_text).toBe(ANSWER)
  })

  it('calls a function through the responses route', async () => {
    const asked = await openai().responses.create({
      model,
      input: QUESTION,
      tools: [{ type: 'function', strict: true, ...WEATHER }],
    })
    const call = asked.output.find((item) => item.type === 'function_call')
    expect(call).toMatchObject({ name: 'weather', arguments: ARGUMENTS })
    const told = await openai().responses.create({
      model,
      previous_response_id: asked.id,
      input: [{ type: 'function_call_output', call_id: call?.call_id ?? '', output: 'rain' }],
    })
    expect(told.output_text).toBe(ANSWER)
  })

  it('finds a response that it had made in the background', async () => {
    const made = await openai().responses.create({ model, input: QUESTION, background: true })
    expect(['queued', 'in_progress', 'completed']).toContain(made.status)
    let found = made
    for (let tries = 0; tries < 100 && found.status !== 'completed'; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 100))
      found = await openai().responses.retrieve(made.id)
    }
    expect(found.output_text).toBe(ANSWER)
  })

  it('learns from a typed error what is wrong', async () => {
    const wrong = openai().chat.completions.create({ model, messages: [] })
    await expect(wrong).rejects.toBeInstanceOf(OpenAI.BadRequestError)
    await expect(
      openai().chat.completions.create({ model: 'no-such', messages: [{ role: 'user', content: 'x' }] }),
    ).rejects.toBeInstanceOf(OpenAI.NotFoundError)
  })
})

describe.each(MODELS)('@anthropic-ai/sdk, model %s', (model) => {
  const question = [{ role: 'user' as const, content: QUESTION }]

  it('gets a message, whole and streamed', async () => {
    const whole = await anthropic().messages.create({ model, max_tokens: 100, messages: question })
    expect(whole.content).toMatchObject([{ type: 'text', text: ANSWER }])
    expect(whole).toMatchObject({ stop_reason: 'end_turn', usage: { input_tokens: INPUT_TOKENS } })
    const stream = anthropic().messages.stream({ model, max_tokens: 100, messages: question })
    const parts: string[] = []
    stream.on('text', (delta) => parts.push(delta))
    expect((await stream.finalMessage()).content).toMatchObject([{ type: 'text', text: ANSWER }])
    expect(parts.length).toBeGreaterThan(1)
  })

  it('uses a tool and goes on with its result', async () => {
    const tools = [
      {
        name: WEATHER.name,
        description: WEATHER.description,
        input_schema: { ...WEATHER.parameters, required: ['city'] },
      },
    ]
    const asked = await anthropic().messages.create({ model, max_tokens: 100, messages: question, tools })
    expect(asked.stop_reason).toBe('tool_use')
    const use = asked.content.find((block) => block.type === 'tool_use')
    expect(use).toMatchObject({ name: 'weather', input: { city: 'Oslo' } })
    const told = await anthropic().messages.create({
      model,
      max_tokens: 100,
      tools,
      messages: [
        ...question,
        { role: 'assistant', content: asked.content },
        { role: 'user', content: [{ type: 'tool_result', tool_use_id: use?.id ?? '', content: 'rain' }] },
      ],
    })
    expect(told.content).toMatchObject([{ type: 'text', text: ANSWER }])
  })

  it('counts tokens and is told what is wrong in its own words', async () => {
    const counted = await anthropic()
      .messages.countTokens({ model, messages: question })
      .catch((error: unknown) => error)
    // The stand-in of the vendor has no such route; the other way is an estimate.
    if (model === CHAT_MODEL) expect(counted).toMatchObject({ input_tokens: expect.any(Number) })
    const wrong = anthropic().messages.create({ model: 'no-such', max_tokens: 1, messages: question })
    await expect(wrong).rejects.toBeInstanceOf(Anthropic.NotFoundError)
    const stranger = new Anthropic({ apiKey: 'psk_no', baseURL: stack.baseUrl, maxRetries: 0 })
    const refused = stranger.messages.create({ model, max_tokens: 1, messages: question })
    await expect(refused).rejects.toBeInstanceOf(Anthropic.AuthenticationError)
  })
})

it('a thought keeps its signature over two turns', async () => {
  const thinking = { type: 'enabled' as const, budget_tokens: 1024 }
  const ask = { model: MESSAGES_MODEL, max_tokens: 2048, thinking }
  const first = await anthropic().messages.create({ ...ask, messages: [{ role: 'user', content: QUESTION }] })
  expect(first.content[0]).toMatchObject({ type: 'thinking', thinking: THOUGHT, signature: 'c2VhbA==' })
  await anthropic().messages.create({
    ...ask,
    messages: [
      { role: 'user', content: QUESTION },
      { role: 'assistant', content: first.content },
      { role: 'user', content: 'Go on.' },
    ],
  })
  const sent = JSON.stringify(messages.asked.at(-1)?.body)
  expect(sent).toContain('"signature":"c2VhbA=="')
})

describe.each(MODELS)('ai with @ai-sdk/openai-compatible, model %s', (model) => {
  const provider = () => createOpenAICompatible({ name: 'penstock', baseURL: `${stack.baseUrl}/v1`, apiKey })

  it('generates and streams text', async () => {
    expect((await generateText({ model: provider()(model), prompt: QUESTION })).text).toBe(ANSWER)
    let text = ''
    for await (const delta of streamText({ model: provider()(model), prompt: QUESTION }).textStream) text += delta
    expect(text).toBe(ANSWER)
  })

  it('runs a tool in its loop', async () => {
    const { text, steps } = await generateText({
      model: provider()(model),
      prompt: QUESTION,
      stopWhen: stepCountIs(3),
      tools: {
        weather: tool({
          description: WEATHER.description,
          inputSchema: jsonSchema<{ city: string }>(WEATHER.parameters as never),
          execute: async ({ city }) => `rain in ${city}`,
        }),
      },
    })
    expect(text).toBe(ANSWER)
    expect(steps[0]?.toolCalls[0]).toMatchObject({ toolName: 'weather', input: { city: 'Oslo' } })
  })
})

describe.each(MODELS)('LangChain, model %s', (model) => {
  const client = () =>
    new ChatOpenAI({ model, apiKey, configuration: { baseURL: `${stack.baseUrl}/v1` }, maxRetries: 0 })

  it('invokes, streams, and binds tools', async () => {
    expect((await client().invoke(QUESTION)).text).toBe(ANSWER)
    let text = ''
    for await (const chunk of await client().stream(QUESTION)) text += chunk.text
    expect(text).toBe(ANSWER)
    const weather = langChainTool(({ city }: { city: string }) => `rain in ${city}`, {
      name: 'weather',
      description: WEATHER.description,
      schema: z.object({ city: z.string() }),
    })
    const bound = client().bindTools([weather])
    const asked = await bound.invoke(QUESTION)
    expect(asked.tool_calls?.[0]).toMatchObject({ name: 'weather', args: { city: 'Oslo' } })
    const said = new ToolMessage({ content: 'rain', tool_call_id: asked.tool_calls?.[0]?.id ?? '' })
    expect((await bound.invoke([new HumanMessage(QUESTION), asked, said])).text).toBe(ANSWER)
  })
})

it('embeddings come through with both encodings', async () => {
  const { data } = await openai().embeddings.create({ model: CHAT_MODEL, input: ['a', 'b'] })
  expect(data.map(({ embedding }) => embedding)).toEqual([
    [0.5, -0.25],
    [0.5, -0.25],
  ])
})

it('every request that was answered is charged once', async () => {
  const answered = chat.asked.length + messages.asked.filter(({ path }) => path === '/v1/messages').length
  for (let tries = 0; tries < 120; tries++) {
    const [row] =
      await stack.sql`SELECT count(*)::int AS count FROM usage_attempts WHERE org_id = ${orgId} AND status = 'ok'`
    if (row?.count >= answered) break
    await new Promise((resolve) => setTimeout(resolve, 250))
  }
  const [rows] = await stack.sql`SELECT count(*)::int AS count, count(DISTINCT request_id)::int AS requests
    FROM usage_attempts WHERE org_id = ${orgId} AND status = 'ok' AND charge = 'customer'`
  expect(rows).toEqual({ count: answered, requests: answered })
})
