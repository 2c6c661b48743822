import OpenAI from 'openai'
import type { ResponseStreamEvent, Response as SdkResponse } from 'openai/resources/responses/responses'
import { describe, expect, test } from 'vitest'
import { NO_USAGE, type Usage } from '../../../../gateway/meter/usage.ts'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'
import { ResponseAnswer, type ResponseMeta } from '../../../../gateway/routes/responses-answer.ts'
import { echoOf, parseResponse } from '../../../../gateway/routes/responses-requests.ts'
import { Collector } from '../../../../gateway/stream/collect.ts'
import type { ResponseEventBody, ResponseObject } from '../../../../protocol/dialects/responses.ts'

// What the official client promises its users is what our types promise; it adds `output_text` itself.
// Usage that is not known yet is null on the wire, which its type leaves out.
type Promised = Omit<SdkResponse, 'output_text' | 'usage'> & { usage?: SdkResponse['usage'] | null }
const asPromised = (response: ResponseObject): Promised => response
type PromisedEvent<T> = T extends { response: SdkResponse } ? Omit<T, 'response'> & { response: Promised } : T
type ResponseEvent = ResponseEventBody & { sequence_number: number }
const eventAsPromised = (event: ResponseEvent): PromisedEvent<ResponseStreamEvent> => event

const NAME = '0123456789abcdef0123456789abcdef'
const USAGE: Usage = { ...NO_USAGE, inputUncached: 7, inputCacheRead: 3, outputText: 4, outputReasoning: 2 }
const SEAL = { by: 'maker', value: 'proof' }

function metaOf(body: Record<string, unknown> = {}, over: Partial<ResponseMeta> = {}): ResponseMeta {
  const parsed = parseResponse({ model: 'm', input: 'hello', ...body })
  if (!parsed.ok) throw new Error(parsed.error.message)
  return { name: NAME, echo: echoOf(parsed.value), createdAtMs: 5_000, nowMs: () => 9_999, ...over }
}

const at = { choice: 0, outputTokens: 1 }
const delta = (text: string): ProviderEvent => ({ type: 'delta', ...at, text })
const thought = (text: string, seal?: typeof SEAL): ProviderEvent => ({
  type: 'thought',
  ...at,
  text,
  ...(seal === undefined ? {} : { seal }),
})
const refusal = (text: string): ProviderEvent => ({ type: 'refusal', ...at, text })
const call = (number: number, over: Record<string, unknown>): ProviderEvent => ({
  type: 'tool_call',
  ...at,
  call: number,
  arguments: '',
  ...over,
})
const finish = (reason: 'stop' | 'length' | 'content_filter' | 'tool_calls'): ProviderEvent => ({
  type: 'finish',
  ...at,
  reason,
})

/** Everything that a model can say, in one answer. */
const EVERYTHING: ProviderEvent[] = [
  thought('Let me '),
  thought('think.', SEAL),
  thought('Again.'),
  delta('Hello'),
  delta(' there 🦆'),
  refusal('but no'),
  call(0, { id: 'call_a', name: 'look', arguments: '{"a"' }),
  call(0, { arguments: ':1}', seal: { by: 'maker', value: 'of the call' } }),
  call(1, { id: 'call_b', name: 'look', arguments: '{}' }),
  finish('tool_calls'),
]

const eventsOf = (text: string): ResponseEvent[] =>
  text
    .split('\n\n')
    .slice(0, -1)
    .map((block) => {
      const [head, data] = block.split('\n')
      const event: ResponseEvent = JSON.parse(data?.replace(/^data: /, '') ?? '')
      expect(head).toBe(`event: ${event.type}`)
      return event
    })

async function streamed(events: ProviderEvent[], body: Record<string, unknown> = {}): Promise<string> {
  const answer = new ResponseAnswer(metaOf(body))
  let text = ''
  for (const event of events) text += answer.events([event])
  return text + (await answer.end(USAGE))
}

function whole(events: ProviderEvent[], body: Record<string, unknown> = {}): ResponseObject {
  const collector = new Collector()
  for (const event of events) collector.see(event)
  const choices = collector.complete(1)
  if (choices === undefined) throw new Error('not complete')
  return new ResponseAnswer(metaOf(body)).whole(choices, USAGE)
}

/** The official client, fed with a stream. */
function client(text: string): OpenAI {
  const fetch = async () => new Response(text, { headers: { 'content-type': 'text/event-stream' } })
  return new OpenAI({ apiKey: 'k', baseURL: 'http://gateway.test/v1', fetch, maxRetries: 0 })
}

describe('one answer, two ways', () => {
  test.each([
    ['thoughts as they are', {}],
    ['thoughts as summaries', { reasoning: { summary: 'auto' } }],
  ])('the last event of a stream has the whole answer, with %s', async (_, body) => {
    const last = eventsOf(await streamed(EVERYTHING, body)).at(-1)
    expect(last).toMatchObject({ type: 'response.completed', response: whole(EVERYTHING, body) })
  })

  test.each([
    ['thoughts as they are', {}],
    ['thoughts as summaries', { reasoning: { summary: 'auto' } }],
  ])("the official client's stream helper puts the same answer together, with %s", async (_, body) => {
    const text = await streamed(EVERYTHING, body)
    const withoutEnd = text.slice(0, text.indexOf('event: response.completed'))
    const seen: string[] = []
    const stream = client(text).responses.stream({ model: 'm', input: 'hello' })
    stream.on('response.output_text.delta', ({ snapshot }) => seen.push(snapshot))
    const final = await stream.finalResponse()
    expect(final.output).toMatchObject(whole(EVERYTHING, body).output)
    expect(final.output_text).toBe('Hello there 🦆')
    expect(seen).toEqual(['Hello', 'Hello there 🦆'])
    // And out of the single steps alone, as far as they go.
    const partial = await client(withoutEnd).responses.stream({ model: 'm', input: 'hello' }).finalResponse()
    expect(partial.output).toMatchObject(whole(EVERYTHING, body).output)
  })

  test('the official client takes an answer in one piece', async () => {
    const answer = asPromised(whole([delta('Hi'), finish('stop')]))
    const fetch = async () => Response.json(answer)
    const openai = new OpenAI({ apiKey: 'k', baseURL: 'http://gateway.test/v1', fetch })
    const response = await openai.responses.create({ model: 'm', input: 'hello' })
    expect(response).toMatchObject({ output_text: 'Hi', status: 'completed', usage: { total_tokens: 16 } })
  })
})

describe('events', () => {
  test('are numbered without a gap, and each item goes from added to done', async () => {
    const events = eventsOf(await streamed(EVERYTHING)).map(eventAsPromised)
    expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, index) => index))
    const added = events.filter(({ type }) => type === 'response.output_item.added')
    const done = events.filter(({ type }) => type === 'response.output_item.done')
    expect(added).toHaveLength(6)
    expect(done.map((event) => 'item' in event && event.item.type)).toEqual([
      'reasoning',
      'reasoning',
      'message',
      'function_call',
      'reasoning',
      'function_call',
    ])
  })

  test('of a tool call carry its arguments piece by piece and whole', async () => {
    const events = eventsOf(await streamed(EVERYTHING))
    const deltas = events.filter((event) => event.type === 'response.function_call_arguments.delta')
    expect(deltas.map((event) => [event.output_index, event.delta])).toEqual([
      [3, '{"a"'],
      [3, ':1}'],
      [5, '{}'],
    ])
    const done = events.filter((event) => event.type === 'response.function_call_arguments.done')
    expect(done.map((event) => event.arguments)).toEqual(['{"a":1}', '{}'])
  })

  test('carry log probabilities where they were asked for', async () => {
    const entry = { text: 'Hi', logprob: -0.5, bytes: [72, 105], top: [{ text: 'Ho', logprob: -1, bytes: [72, 111] }] }
    const events: ProviderEvent[] = [{ type: 'delta', ...at, text: 'Hi', logprobs: [entry] }, finish('stop')]
    const expected = [
      { token: 'Hi', logprob: -0.5, bytes: [72, 105], top_logprobs: [{ token: 'Ho', logprob: -1, bytes: [72, 111] }] },
    ]
    const stream = eventsOf(await streamed(events, { top_logprobs: 1 }))
    expect(stream.find(({ type }) => type === 'response.output_text.delta')).toMatchObject({ logprobs: expected })
    expect(whole(events).output).toMatchObject([{ content: [{ logprobs: expected }] }])
  })

  test('have tokens without text with the text that follows, and no message before a call', async () => {
    const entry = (text: string) => ({ text, logprob: -0.5, bytes: [1], top: [] })
    const silent = (text: string): ProviderEvent => ({ type: 'delta', ...at, text: '', logprobs: [entry(text)] })
    const called = [silent('<call>'), call(0, { id: 'c', name: 'f', arguments: '{}' }), finish('tool_calls')]
    const items = eventsOf(await streamed(called)).filter(({ type }) => type === 'response.output_item.added')
    expect(items).toMatchObject([{ output_index: 0, item: { type: 'function_call' } }])
    const spoken: ProviderEvent[] = [
      silent('a'),
      { type: 'delta', ...at, text: '🦆', logprobs: [entry('b')] },
      finish('stop'),
    ]
    const said = eventsOf(await streamed(spoken)).find(({ type }) => type === 'response.output_text.delta')
    expect(said).toMatchObject({ delta: '🦆', logprobs: [{ token: 'a' }, { token: 'b' }] })
  })

  test.each([
    ['length', 'max_output_tokens'],
    ['content_filter', 'content_filter'],
  ] as const)('a target that stops for %s leaves the response incomplete', async (reason, expected) => {
    const last = eventsOf(await streamed([delta('Hel'), finish(reason)])).at(-1)
    expect(last).toMatchObject({
      type: 'response.incomplete',
      response: {
        status: 'incomplete',
        incomplete_details: { reason: expected },
        completed_at: null,
        output: [{ status: 'incomplete' }],
      },
    })
    expect(whole([delta('Hel'), finish(reason)])).toMatchObject({
      status: 'incomplete',
      output: [{ status: 'incomplete' }],
    })
  })

  test('an answer that breaks off ends as failed, with what came of it', async () => {
    const answer = new ResponseAnswer(metaOf())
    const text = answer.events([delta('Hel')])
    const events = eventsOf(text + (await answer.failure({ code: 'engine_lost', message: 'It died.' }, USAGE)))
    expect(events.at(-1)).toMatchObject({
      type: 'response.failed',
      response: {
        status: 'failed',
        error: { code: 'server_error', message: 'It died.' },
        output: [{ status: 'incomplete', content: [{ text: 'Hel' }] }],
        usage: { input_tokens: 10, input_tokens_details: { cached_tokens: 3 }, output_tokens: 6 },
      },
    })
    expect(events.some(({ type }) => type === 'response.completed')).toBe(false)
  })

  test('a failure before anything was said is an error event, which the official client throws', async () => {
    const text = await new ResponseAnswer(metaOf()).failure({ code: 'overloaded', message: 'Full.' }, NO_USAGE)
    expect(eventsOf(text)).toEqual([
      { type: 'error', sequence_number: 0, code: 'overloaded', message: 'Full.', param: null },
    ])
    const stream = client(text).responses.stream({ model: 'm', input: 'hello' })
    await expect(stream.finalResponse()).rejects.toThrow(/Full\./)
  })

  test('a call that goes on after it was over is no answer', () => {
    const answer = new ResponseAnswer(metaOf())
    answer.events([call(0, { id: 'a', name: 'look' }), call(1, { id: 'b', name: 'look' })])
    expect(() => answer.events([call(0, { arguments: '{}' })])).toThrow(/was over/)
  })

  test('the end waits until the response is kept', async () => {
    const kept: ResponseObject[] = []
    const answer = new ResponseAnswer(
      metaOf({}, { keep: async (response) => void kept.push(structuredClone(response)) }),
    )
    answer.events([delta('Hi'), finish('stop')])
    await answer.end(USAGE)
    expect(kept).toMatchObject([{ status: 'completed', completed_at: 9, created_at: 5, usage: { output_tokens: 6 } }])
  })
})

test('a response repeats what was asked', () => {
  const tools = [{ type: 'function', name: 'look', parameters: { type: 'object' }, strict: true }]
  const body = {
    instructions: 'Be kind.',
    metadata: { a: 'b' },
    tools,
    tool_choice: { type: 'function', name: 'look' },
    text: { format: { type: 'json_schema', name: 'n', schema: { type: 'object' } }, verbosity: 'low' },
    reasoning: { effort: 'low', summary: 'concise' },
    max_output_tokens: 5,
    temperature: 0.5,
    top_p: 0.25,
    store: false,
    previous_response_id: 'resp_x',
    safety_identifier: 'them',
  }
  expect(whole([finish('stop')], body)).toMatchObject({
    ...body,
    tools: [{ ...tools[0], description: null }],
    text: { format: { type: 'json_schema', name: 'n', schema: { type: 'object' }, strict: null }, verbosity: 'low' },
    id: `resp_${NAME}`,
    parallel_tool_calls: true,
    background: false,
    service_tier: 'default',
    truncation: 'disabled',
  })
})
