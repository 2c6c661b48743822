// OpenAI's Responses API beside its chat route: which of the two serves a request, what conversations become there, and that
// thoughts and calls come back through each of the gateway's own dialects as the vendor sent them.
import { describe, expect, test } from 'vitest'
import type { ProviderConfig, ProviderOptions, Target } from '../../../../gateway/policy/plan.ts'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'
import type { ProviderKind } from '../../../../gateway/providers/kinds.ts'
import { openAiTraits } from '../../../../gateway/providers/openai-models.ts'
import { vendorOf } from '../../../../gateway/providers/vendors.ts'
import { ChatAnswer } from '../../../../gateway/routes/chat-answer.ts'
import { MessagesAnswer } from '../../../../gateway/routes/messages-answer.ts'
import { parseMessages } from '../../../../gateway/routes/messages-requests.ts'
import { parseChat } from '../../../../gateway/routes/openai-requests.ts'
import { ResponseAnswer } from '../../../../gateway/routes/responses-answer.ts'
import { echoOf, parseResponse, requestOf } from '../../../../gateway/routes/responses-requests.ts'
import type { ResponseInputItem } from '../../../../protocol/dialects/responses.ts'
import {
  type ChatMessage,
  type ContentPart,
  type InferenceRequest,
  NEUTRAL_SAMPLING,
  type Tool,
} from '../../../../protocol/request.ts'
import { collected, META, USAGE } from '../routes/support/answers.ts'

const text = (value: string): ContentPart => ({ type: 'text', text: value })
const user = (...content: ContentPart[]): ChatMessage => ({ role: 'user', content })
const assistant = (...content: ContentPart[]): ChatMessage => ({ role: 'assistant', content })
const PNG: ContentPart = { type: 'image', source: { kind: 'data', mediaType: 'image/png', data: 'QUJD' } }
const LOOK: Tool = { name: 'look.up', description: 'Looks.', parameters: { type: 'object' } }
const CALL: ContentPart = { type: 'tool_call', id: 'call_1', name: 'look.up', arguments: '{"at":"sky"}' }
const seal = (by: string, value = 'rs_1:gAAA') => ({ by, value })

const request = (over: Partial<InferenceRequest> = {}, messages = [user(text('hi'))]): InferenceRequest => ({
  model: 'm',
  input: { kind: 'chat', messages },
  sampling: NEUTRAL_SAMPLING,
  n: 1,
  stop: [],
  ...over,
})

type Place = { kind?: ProviderKind; model?: string; options?: ProviderOptions; preset?: string; baseUrl?: string }

function placed({ kind = 'openai', model = 'gpt-5.4', options = {}, preset, baseUrl }: Place) {
  const config: ProviderConfig = {
    name: 'p',
    kind,
    baseUrl: baseUrl ?? (kind === 'azure_openai' ? 'https://fjord.openai.azure.com' : 'https://api.example.com/v1'),
    reach: 'public',
    keys: [{ name: 'k', secret: 's3cret', weight: 1 }],
    ...(preset === undefined ? {} : { preset }),
    options,
    usageDialect: 'openai',
    cutoff: 'drain',
  }
  const target: Target = { provider: 'p', model, contextTokens: 100_000, price: undefined }
  return { config, target, vendor: vendorOf(kind) }
}

async function sent(asked: InferenceRequest, place: Place = {}) {
  const { config, target, vendor } = placed(place)
  const { maxOutputTokens } = asked
  const encoded = await vendor.encode(asked, target, {
    config,
    key: { name: 'k', secret: 's3cret', weight: 1 },
    ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
    requestId: 'r',
    nowMs: () => 0,
  })
  if (!encoded.ok) throw new Error(`${encoded.error.param}: ${encoded.error.message}`)
  return { url: encoded.value.url, body: JSON.parse(encoded.value.body) as Record<string, unknown> }
}

const routeOf = async (asked: InferenceRequest, place?: Place) => new URL((await sent(asked, place)).url).pathname
const CHAT = '/v1/chat/completions'
const RESPONSES = '/v1/responses'
const itemsOf = async (messages: ChatMessage[], place: Place = { options: { api: 'responses' } }) =>
  (await sent(request({ tools: [LOOK] }, messages), place)).body.input

describe('a conversation goes to the route that', () => {
  const tools = { tools: [LOOK] }
  const thinking = { reasoning: { effort: 'low' } } as const

  test.each<[string, Partial<InferenceRequest>, string, string]>([
    ['can do tools together with reasoning', { ...tools, ...thinking }, 'gpt-5.1', RESPONSES],
    ['has always served everything else', {}, 'gpt-5.4', CHAT],
    ['knows reasoning without tools', thinking, 'gpt-5.4', CHAT],
    ['knows tools where the model does not think by itself', tools, 'gpt-5.1', CHAT],
    ['takes tools of a model that thinks by itself', tools, 'gpt-5.6-sol', RESPONSES],
    ['takes them while it is told not to think', { ...tools, reasoning: { effort: 'none' } }, 'gpt-5.6-sol', CHAT],
    ['takes tools with a budget', { ...tools, reasoning: { budgetTokens: 4000 } }, 'our-deployment', RESPONSES],
    ['needs no leave to show thoughts', { reasoning: { effort: 'low', show: true } }, 'o4-mini', CHAT],
    ['alone serves the model', {}, 'gpt-5.1-codex-mini', RESPONSES],
    ['alone serves the large model', {}, 'o3-pro-2025-06-10', RESPONSES],
    ['has several choices', { ...tools, ...thinking, n: 2 }, 'gpt-5.1', CHAT],
    ['has stop strings', { ...tools, ...thinking, stop: ['END'] }, 'gpt-5.1', CHAT],
    ['gives the shortest answers', { ...tools, ...thinking, maxOutputTokens: 15 }, 'gpt-5.1', CHAT],
    ['knows models that never think', { ...tools, reasoning: { effort: 'low', show: true } }, 'gpt-4o', CHAT],
  ])('%s', async (_, over, model, route) => {
    expect(await routeOf(request(over), { model })).toBe(route)
  })

  test('made the thoughts that it brings back, unless another vendor made them', async () => {
    const messages = (by: string) => [
      user(text('hi')),
      assistant({ type: 'thought', text: '', seal: seal(by) }, text('ho')),
      user(text('and?')),
    ]
    expect(await routeOf(request({}, messages('openai')))).toBe(RESPONSES)
    expect(await routeOf(request({}, messages('azure_openai')))).toBe(CHAT)
    expect(await routeOf(request({}, messages('anthropic')))).toBe(CHAT)
    expect(await routeOf(request({}, messages('openai')), { model: 'gpt-4.1' })).toBe(CHAT)
  })

  test('the operator says', async () => {
    const asked = request({ ...tools, ...thinking })
    expect(await routeOf(asked, { options: { api: 'chat_completions' } })).toBe(CHAT)
    expect(await routeOf(request(), { options: { api: 'responses' } })).toBe(RESPONSES)
    expect(await routeOf(asked, { kind: 'openai_compatible' })).toBe(CHAT)
    expect(await routeOf(asked, { kind: 'openai_compatible', options: { api: 'auto' } })).toBe(RESPONSES)
  })

  test('knows it at all: prompts and embeddings stay where they are', async () => {
    const place = { options: { api: 'responses' } } as const
    const completion = request({ input: { kind: 'completion', prompts: [{ text: 'a' }], echo: false } })
    expect(await routeOf(completion, place)).toBe('/v1/completions')
    expect(await routeOf(request({ input: { kind: 'embedding', prompts: [{ text: 'a' }] } }), place)).toBe(
      '/v1/embeddings',
    )
  })

  test.each([
    [undefined, undefined, '/openai/v1/responses', 'our'],
    ['preview', undefined, '/openai/v1/responses', 'our'],
    ['2025-04-01-preview', undefined, '/openai/deployments/our/chat/completions', 'our'],
    ['2025-04-01-preview', 'responses', '/openai/responses', 'our'],
  ] as const)('of Azure with version %s and api %s is %s', async (apiVersion, api, path, model) => {
    const options = { ...(apiVersion === undefined ? {} : { apiVersion }), ...(api === undefined ? {} : { api }) }
    const { url, body } = await sent(request({ ...tools, ...thinking }), { kind: 'azure_openai', model, options })
    expect(new URL(url).pathname).toBe(path)
    expect(new URL(url).searchParams.get('api-version')).toBe(apiVersion ?? null)
    expect(body.model).toBe('our')
  })
})

test('names of models tell what they take, and others tell nothing', () => {
  const traits = (model: string) => {
    const { needsResponses, needsResponsesForTools, thinks } = openAiTraits(model)
    return [needsResponses, needsResponsesForTools, thinks]
  }
  for (const name of [
    'gpt-4o',
    'gpt-4.1-mini',
    'gpt-35-turbo',
    'ft:gpt-4o-mini-2024-07-18:org::id',
    'gpt-5-chat-latest',
  ])
    expect(traits(name)).toEqual([false, false, false])
  for (const name of ['gpt-5', 'gpt-5.1-2025-11-13', 'o4-mini']) expect(traits(name)).toEqual([false, false, true])
  for (const name of ['gpt-5.4', 'gpt-5.6-luna', 'gpt-6-astra', 'openai/gpt-5.5'])
    expect(traits(name)).toEqual([false, true, true])
  for (const name of ['o1-pro', 'codex-mini-latest', 'gpt-5-codex', 'o3-deep-research']) {
    expect(traits(name)[0]).toBe(true)
  }
  for (const name of ['our-deployment', 'gpt-oss-120b', 'llama-3', 'somebodys-pro'])
    expect(traits(name)).toEqual([false, false, undefined])
})

describe('on the responses route', () => {
  const only = { options: { api: 'responses' } } as const

  test('turns are items, each part where it stood', async () => {
    expect(
      await itemsOf([
        { role: 'system', content: [text('a'), text('b')] },
        { role: 'developer', content: [text('c')] },
        user(text('see'), PNG),
        assistant(text('I '), text('look.'), CALL, { type: 'refusal', text: 'No more.' }),
        { role: 'tool', toolCallId: 'call_1', content: [text('blue'), PNG] },
        user(text('well?')),
      ]),
    ).toEqual([
      { type: 'message', role: 'system', content: 'ab' },
      { type: 'message', role: 'developer', content: 'c' },
      {
        type: 'message',
        role: 'user',
        content: [
          { type: 'input_text', text: 'see' },
          { type: 'input_image', image_url: 'data:image/png;base64,QUJD', detail: 'auto' },
        ],
      },
      {
        type: 'message',
        role: 'assistant',
        content: [
          { type: 'output_text', text: 'I ' },
          { type: 'output_text', text: 'look.' },
        ],
      },
      { type: 'function_call', call_id: 'call_1', name: 'look_up', arguments: '{"at":"sky"}' },
      { type: 'message', role: 'assistant', content: [{ type: 'refusal', refusal: 'No more.' }] },
      {
        type: 'function_call_output',
        call_id: 'call_1',
        output: [
          { type: 'input_text', text: 'blue' },
          { type: 'input_image', image_url: 'data:image/png;base64,QUJD', detail: 'auto' },
        ],
      },
      { type: 'message', role: 'user', content: 'well?' },
    ])
  })

  test('a thought goes back before what followed it, and only to its vendor', async () => {
    const turn = assistant(
      { type: 'thought', text: 'Hm.', seal: seal('openai') },
      { type: 'thought', text: 'of another', seal: seal('anthropic') },
      { type: 'thought', text: 'without proof' },
      CALL,
    )
    const result: ChatMessage = { role: 'tool', toolCallId: 'call_1', content: [] }
    expect(await itemsOf([user(text('hi')), turn, result])).toEqual([
      { type: 'message', role: 'user', content: 'hi' },
      { type: 'reasoning', id: 'rs_1', encrypted_content: 'gAAA', summary: [{ type: 'summary_text', text: 'Hm.' }] },
      { type: 'function_call', call_id: 'call_1', name: 'look_up', arguments: '{"at":"sky"}' },
      { type: 'function_call_output', call_id: 'call_1', output: '' },
    ])
    const azure = await itemsOf([user(text('hi')), turn, result], { kind: 'azure_openai', ...only })
    expect(azure).not.toContainEqual(expect.objectContaining({ type: 'reasoning' }))
  })

  test('a thought that nothing followed is left out: the vendor takes none alone', async () => {
    const cut = assistant(text('So'), { type: 'thought', text: '', seal: seal('openai') })
    const items = await itemsOf([user(text('hi')), cut, user(text('go on'))])
    expect(items).not.toContainEqual(expect.objectContaining({ type: 'reasoning' }))
  })

  test('ids that the vendor would not take are exchanged, the same for a call and its result', async () => {
    const id = `toolu:${'x'.repeat(80)}`
    const items = (await itemsOf([
      assistant({ ...CALL, id, arguments: '' } as ContentPart),
      { role: 'tool', toolCallId: id, isError: true, content: [PNG] },
    ])) as Record<string, unknown>[]
    expect(items[0]?.call_id).toMatch(/^[A-Za-z0-9_-]{1,64}$/)
    expect(items[1]?.call_id).toBe(items[0]?.call_id)
    expect(items[0]?.arguments).toBe('{}')
    expect(items[1]?.output).toMatchObject([{ type: 'input_text', text: 'The tool failed.' }, { type: 'input_image' }])
  })

  test('thoughts are asked for of models that think, or that are asked to', async () => {
    const included = async (over: Partial<InferenceRequest>, model: string) =>
      (await sent(request(over), { ...only, model })).body.include
    expect(await included({}, 'gpt-5.4')).toEqual(['reasoning.encrypted_content'])
    expect(await included({}, 'gpt-4.1')).toBeUndefined()
    expect(await included({}, 'our-deployment')).toBeUndefined()
    expect(await included({ reasoning: { effort: 'low' } }, 'our-deployment')).toEqual(['reasoning.encrypted_content'])
    expect(await included({ reasoning: { effort: 'none' } }, 'our-deployment')).toBeUndefined()
  })

  test('summaries are asked for where the caller wants to see thoughts and the account may', async () => {
    const reasoning = async (
      over: InferenceRequest['reasoning'],
      options: ProviderOptions = { reasoningSummary: true },
    ) =>
      (await sent(request({ tools: [LOOK], ...(over === undefined ? {} : { reasoning: over }) }), { options })).body
        .reasoning
    expect(await reasoning({ effort: 'high', show: true })).toEqual({ effort: 'high', summary: 'auto' })
    expect(await reasoning({ show: true, isRequired: true })).toEqual({ summary: 'auto' })
    expect(await reasoning({ effort: 'high' })).toEqual({ effort: 'high' })
    expect(await reasoning({ effort: 'high', show: true }, {})).toEqual({ effort: 'high' })
    const alone = request({ reasoning: { effort: 'low', show: true } })
    expect(await routeOf(alone)).toBe(CHAT)
    expect(await routeOf(alone, { options: { reasoningSummary: true } })).toBe(RESPONSES)
  })

  test('what it lacks is refused by its name where the operator allows no other', async () => {
    const sampling = (more: object) => ({ sampling: { ...NEUTRAL_SAMPLING, ...more } })
    for (const [over, param] of [
      [{ n: 2 }, 'n'],
      [{ stop: ['a'] }, 'stop'],
      [sampling({ presencePenalty: 1 }), 'presencePenalty'],
      [sampling({ frequencyPenalty: 1 }), 'frequencyPenalty'],
      [sampling({ logitBias: [{ tokenId: 1, bias: 1 }] }), 'logitBias'],
      [{ maxOutputTokens: 15 }, 'maxOutputTokens'],
      [{ outputFormat: { kind: 'regex', pattern: 'a' } }, 'outputFormat'],
      [{ tools: [LOOK, { name: 'look_up' }] }, 'tools'],
    ] as const) {
      await expect(sent(request(over as Partial<InferenceRequest>), only)).rejects.toThrow(new RegExp(`^${param}: `))
    }
  })

  test('a preset keeps its words and its deviations', async () => {
    const place = { kind: 'openai_compatible', preset: 'groq', options: { api: 'responses' } } as const
    const { body } = await sent(
      request({ tools: [{ ...LOOK, strict: true }], reasoning: { effort: 'max' }, promptCacheKey: 'k' }, [
        { role: 'developer', content: [text('a')] },
        user(text('b')),
      ]),
      place,
    )
    expect(body).toMatchObject({
      reasoning: { effort: 'high' },
      tools: [{ strict: false }],
      input: [{ role: 'system' }, {}],
    })
    expect(body).not.toHaveProperty('prompt_cache_key')
    const router = { kind: 'openai_compatible', preset: 'openrouter', options: { api: 'responses' } } as const
    expect((await sent(request({ tools: [LOOK] }), router)).body.provider).toEqual({ require_parameters: true })
    expect((await sent(request(), router)).body).not.toHaveProperty('provider')
  })
})

/** What the vendor says to a question that takes a tool, in its own words. */
const ANSWER = [
  { type: 'response.created', response: { id: 'resp_1', status: 'in_progress' } },
  { type: 'response.output_item.added', output_index: 0, item: { type: 'reasoning', id: 'rs_1', summary: [] } },
  { type: 'response.reasoning_summary_text.delta', output_index: 0, summary_index: 0, delta: 'A look.' },
  {
    type: 'response.output_item.done',
    output_index: 0,
    item: {
      type: 'reasoning',
      id: 'rs_1',
      summary: [{ type: 'summary_text', text: 'A look.' }],
      encrypted_content: 'gAAA_-=',
    },
  },
  {
    type: 'response.output_item.added',
    output_index: 1,
    item: { type: 'function_call', id: 'fc_1', call_id: 'call_9', name: 'look_up', arguments: '' },
  },
  { type: 'response.function_call_arguments.delta', output_index: 1, delta: '{"at":"sky"}' },
  {
    type: 'response.output_item.done',
    output_index: 1,
    item: { type: 'function_call', id: 'fc_1', call_id: 'call_9', name: 'look_up', arguments: '{"at":"sky"}' },
  },
  { type: 'response.completed', response: { id: 'resp_1', status: 'completed', output: [] } },
]

function answered(asked: InferenceRequest, place: Place = {}, events: object[] = ANSWER): ProviderEvent[] {
  const { config, target, vendor } = placed(place)
  const decoder = vendor.decoder(asked, target, config)
  const stream = events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join('')
  return [...decoder.push(new TextEncoder().encode(stream)), ...decoder.end()]
}

describe('what the vendor thought and called goes to the caller and comes back, through', () => {
  const BACK = [
    {
      type: 'reasoning',
      id: 'rs_1',
      encrypted_content: 'gAAA_-=',
      summary: [{ type: 'summary_text', text: 'A look.' }],
    },
    { type: 'function_call', call_id: 'call_9', name: 'look_up', arguments: '{"at":"sky"}' },
    { type: 'function_call_output', call_id: 'call_9', output: 'blue' },
  ]
  const whole = <T>(value: unknown): T => JSON.parse(JSON.stringify(value)) as T
  const chatTool = { type: 'function', function: { name: 'look.up', parameters: { type: 'object' } } }
  const parsed = <T>(result: { ok: true; value: T } | { ok: false; error: { message: string } }): T => {
    if (!result.ok) throw new Error(result.error.message)
    return result.value
  }

  test('the chat dialect', async () => {
    const question = { role: 'user', content: 'hi' }
    const body = { model: 'm', messages: [question], tools: [chatTool], reasoning_effort: 'low' }
    const first = parsed(parseChat(body)).request
    expect(await routeOf(first)).toBe(RESPONSES)
    const { choices } = new ChatAnswer(META).whole(collected(answered(first)), USAGE)
    expect(choices[0]?.message.tool_calls?.[0]).toMatchObject({ id: 'call_9', function: { name: 'look.up' } })
    const result = { role: 'tool', tool_call_id: 'call_9', content: 'blue' }
    const messages = [question, whole<object>(choices[0]?.message), result]
    const { url, body: next } = await sent(parsed(parseChat({ ...body, messages })).request)
    expect(new URL(url).pathname).toBe(RESPONSES)
    expect((next.input as object[]).slice(1)).toEqual(BACK)
  })

  test('the messages dialect', async () => {
    const body = {
      model: 'm',
      max_tokens: 4000,
      messages: [{ role: 'user', content: 'hi' }] as object[],
      tools: [{ name: 'look.up', input_schema: { type: 'object' } }],
      thinking: { type: 'enabled', budget_tokens: 2000 },
    }
    const first = parsed(parseMessages(body)).request
    const message = new MessagesAnswer(META).whole(collected(answered(first)), USAGE)
    expect(message.content).toMatchObject([
      { type: 'thinking', thinking: 'A look.', signature: 'penstock:openai:t:rs_1:gAAA_-=' },
      { type: 'tool_use', id: 'call_9', name: 'look.up' },
    ])
    const result = { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'call_9', content: 'blue' }] }
    const turn = { role: 'assistant', content: whole<object>(message.content) }
    const { body: next } = await sent(
      parsed(parseMessages({ ...body, messages: [...body.messages, turn, result] })).request,
    )
    expect((next.input as object[]).slice(1)).toEqual(BACK)
  })

  test('the responses dialect', async () => {
    const body = {
      model: 'm',
      input: 'hi',
      store: false,
      tools: [{ type: 'function', name: 'look.up', parameters: { type: 'object' } }],
      reasoning: { effort: 'low', summary: 'auto' },
    }
    const read = (one: object, items: ResponseInputItem[]) =>
      parsed(requestOf(parsed(parseResponse(one)), items, items.length))
    const question: ResponseInputItem = { type: 'message', role: 'user', content: 'hi' }
    const first = read(body, [question])
    const answer = new ResponseAnswer({
      name: 'n',
      echo: echoOf(parsed(parseResponse(body))),
      createdAtMs: 0,
      nowMs: () => 1,
    }).whole(collected(answered(first)), USAGE)
    const output = whole<ResponseInputItem[]>(answer.output)
    const result: ResponseInputItem = { type: 'function_call_output', call_id: 'call_9', output: 'blue' }
    const { body: next } = await sent(read(body, [question, ...output, result]))
    expect((next.input as object[]).slice(1)).toEqual(BACK)
  })
})
