import { describe, expect, test } from 'vitest'
import { messagesOf } from '../../../../gateway/routes/responses-items.ts'
import { parseResponse, requestOf } from '../../../../gateway/routes/responses-requests.ts'
import { sealText } from '../../../../gateway/routes/seals.ts'
import type { ResponseInputItem } from '../../../../protocol/dialects/responses.ts'
import type { InferenceRequest } from '../../../../protocol/request.ts'

const user = { role: 'user', content: 'hello' }
const weather = { type: 'function', name: 'weather', parameters: { type: 'object' } }
const call = { type: 'function_call', call_id: 'c1', name: 'weather', arguments: '{"at":"home"}' } as const
const output = { type: 'function_call_output', call_id: 'c1', output: 'sunny' } as const
const PNG = 'data:image/png;base64,iVBORw0KGgo='

/** The internal form of a body without references. */
function read(body: Record<string, unknown>): InferenceRequest {
  const parsed = parseResponse({ model: 'm', input: 'hello', ...body })
  if (!parsed.ok) throw new Error(`${parsed.error.param}: ${parsed.error.message}`)
  const items = parsed.value.items.filter((item) => item.type !== 'item_reference')
  const request = requestOf(parsed.value, items, items.length)
  if (!request.ok) throw new Error(`${request.error.param}: ${request.error.message}`)
  return request.value
}

function refusal(body: Record<string, unknown>) {
  const parsed = parseResponse({ model: 'm', input: 'hello', ...body })
  if (!parsed.ok) return parsed.error
  const items = parsed.value.items.filter((item) => item.type !== 'item_reference')
  const request = requestOf(parsed.value, items, items.length)
  if (request.ok) throw new Error('accepted')
  return request.error
}

const messages = (body: Record<string, unknown>) => {
  const { input } = read(body)
  return input.kind === 'chat' ? input.messages : []
}

describe('input', () => {
  test('a text is what the user says, after the instructions', () => {
    expect(messages({ instructions: 'Be kind.' })).toEqual([
      { role: 'system', content: [{ type: 'text', text: 'Be kind.' }] },
      { role: 'user', content: [{ type: 'text', text: 'hello' }] },
    ])
  })

  test('a breakpoint is a hint on its part', () => {
    const mark = { prompt_cache_breakpoint: { mode: 'explicit' } }
    const content = [
      { type: 'input_text', text: 'a', ...mark },
      { type: 'input_image', image_url: PNG, prompt_cache_breakpoint: { mode: 'explicit', ttl: '12h' } },
      { type: 'input_text', text: 'b', prompt_cache_breakpoint: null },
    ]
    const result = { ...output, output: [{ type: 'input_text', text: 'sunny', ...mark }] }
    const [said, , told] = messages({ input: [{ role: 'user', content }, call, result], tools: [weather] })
    expect(said?.content.map(({ cache }) => cache)).toEqual([{ ttl: '5m' }, { ttl: '1h' }, undefined])
    expect(told?.content.map(({ cache }) => cache)).toEqual([{ ttl: '5m' }])
  })

  test('to keep the prompt and answer nothing is refused, how it is kept is not', () => {
    expect(refusal({ prompt_cache_options: { prewarm: true } }).param).toBe('prompt_cache_options.prewarm')
    expect(read({ prompt_cache_options: { mode: 'implicit', ttl: '12h', prewarm: false } })).toEqual(read({}))
    expect(read({ prompt_cache_options: { mode: 'explicit' } })).toEqual({ ...read({}), promptCacheMode: 'explicit' })
  })

  test('messages need no type, and their parts become parts', () => {
    const content = [
      { type: 'input_text', text: 'What is this?' },
      { type: 'input_image', image_url: PNG, detail: 'low' },
      { type: 'input_image', image_url: 'https://example.com/cat.png' },
    ]
    expect(
      messages({
        input: [
          { role: 'developer', content: 'short' },
          { role: 'user', content },
        ],
      }),
    ).toEqual([
      { role: 'developer', content: [{ type: 'text', text: 'short' }] },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'What is this?' },
          { type: 'image', source: { kind: 'data', mediaType: 'image/png', data: 'iVBORw0KGgo=' }, detail: 'low' },
          { type: 'image', source: { kind: 'url', url: 'https://example.com/cat.png' } },
        ],
      },
    ])
  })

  test('what an assistant thought, said and called is one turn, and each output a message of its tool', () => {
    const seal = { by: 'maker', value: 'proof' }
    const ofCall = { by: 'maker', value: 'of the call' }
    const input = [
      user,
      {
        type: 'reasoning',
        id: 'rs_1',
        summary: [{ type: 'summary_text', text: 'hm' }],
        encrypted_content: sealText(seal),
      },
      { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'Let me look.', annotations: [] }] },
      call,
      { type: 'reasoning', summary: [], encrypted_content: sealText(ofCall, undefined, 'call') },
      { ...call, call_id: 'c2' },
      output,
      {
        ...output,
        call_id: 'c2',
        output: [
          { type: 'input_text', text: 'rain' },
          { type: 'input_image', image_url: PNG },
        ],
      },
      { role: 'assistant', content: 'Sunny.' },
      { role: 'assistant', content: [{ type: 'refusal', refusal: 'No more.' }] },
    ]
    expect(messages({ input })).toEqual([
      { role: 'user', content: [{ type: 'text', text: 'hello' }] },
      {
        role: 'assistant',
        content: [
          { type: 'thought', text: 'hm', seal },
          { type: 'text', text: 'Let me look.' },
          { type: 'tool_call', id: 'c1', name: 'weather', arguments: '{"at":"home"}', seal: ofCall },
          { type: 'tool_call', id: 'c2', name: 'weather', arguments: '{"at":"home"}' },
        ],
      },
      { role: 'tool', toolCallId: 'c1', content: [{ type: 'text', text: 'sunny' }] },
      {
        role: 'tool',
        toolCallId: 'c2',
        content: [
          { type: 'text', text: 'rain' },
          { type: 'image', source: { kind: 'data', mediaType: 'image/png', data: 'iVBORw0KGgo=' } },
        ],
      },
      { role: 'assistant', content: [{ type: 'text', text: 'Sunny.' }] },
      { role: 'assistant', content: [{ type: 'refusal', text: 'No more.' }] },
    ])
  })

  test("a reasoning item of which nothing is of use leaves no trace: another maker's proof is nobody's here", () => {
    const input = [user, { type: 'reasoning', summary: [], encrypted_content: 'gAAAA' }, user]
    expect(messages({ input }).map(({ role }) => role)).toEqual(['user', 'user'])
  })

  test.each([
    ['nothing', undefined, 'input'],
    ['an empty list', [], 'input'],
    ['a call without its output', [user, call], 'input[1].call_id'],
    ['something between a call and its output', [user, call, user, output], 'input[1].call_id'],
    ['an output without its call', [user, output], 'input[1].call_id'],
    ['an output twice', [user, call, output, output], 'input[3].call_id'],
    ['a call twice', [user, call, call], 'input[2].call_id'],
    [
      'an image of the assistant',
      [{ role: 'assistant', content: [{ type: 'input_image', image_url: PNG }] }],
      'input[0].content[0]',
    ],
    [
      'an image in a file',
      [{ role: 'user', content: [{ type: 'input_image', file_id: 'f' }] }],
      'input[0].content[0].image_url',
    ],
    ['a file', [{ role: 'user', content: [{ type: 'input_file', file_id: 'f' }] }], 'input[0].content[0].type'],
    ['audio', [{ role: 'user', content: [{ type: 'input_audio' }] }], 'input[0].content[0].type'],
    [
      'a local image',
      [{ role: 'user', content: [{ type: 'input_image', image_url: 'file:///etc/passwd' }] }],
      'input[0].content[0].image_url',
    ],
    [
      'an image of an odd type',
      [{ role: 'user', content: [{ type: 'input_image', image_url: 'data:image/tiff;base64,AAAA' }] }],
      'input[0].content[0].image_url',
    ],
    [
      'an image that is no base64',
      [{ role: 'user', content: [{ type: 'input_image', image_url: 'data:image/png;base64,!!' }] }],
      'input[0].content[0].image_url',
    ],
    ['a call of a built-in tool', [{ type: 'web_search_call', id: 'ws_1' }], 'input[0].type'],
    ['an item without a type', [{ content: 'hello' }], 'input[0].type'],
    ['a role of another dialect', [{ role: 'tool', content: 'hello' }], 'input[0].role'],
  ])('refuses %s, by its place', (_, input, param) => {
    expect(refusal({ input })).toMatchObject({ code: 'invalid_request', param })
  })
})

describe('parameters', () => {
  test('each reaches the internal form', () => {
    const request = read({
      tools: [{ ...weather, description: 'Looks outside.', strict: true }],
      tool_choice: 'required',
      parallel_tool_calls: false,
      text: {
        format: { type: 'json_schema', name: 'n', schema: { type: 'object' }, strict: true },
        verbosity: 'low',
      },
      reasoning: { effort: 'high', summary: 'auto' },
      max_output_tokens: 9,
      temperature: 0.5,
      top_p: 0.25,
      top_logprobs: 3,
      prompt_cache_key: 'k',
      safety_identifier: 'them',
      user: 'others',
    })
    expect(request).toMatchObject({
      tools: [{ name: 'weather', description: 'Looks outside.', parameters: { type: 'object' }, strict: true }],
      toolChoice: { mode: 'required' },
      parallelToolCalls: false,
      outputFormat: { kind: 'json_schema', name: 'n', schema: { type: 'object' }, strict: true },
      verbosity: 'low',
      reasoning: { effort: 'high', show: true },
      maxOutputTokens: 9,
      sampling: { temperature: 0.5, topP: 0.25 },
      logprobs: { top: 3 },
      promptCacheKey: 'k',
      endUser: 'them',
      n: 1,
      stop: [],
    })
  })

  test('null is unset, and what asks for nothing is nothing', () => {
    const nothing = {
      tools: null,
      tool_choice: 'auto',
      text: null,
      reasoning: null,
      conversation: null,
      prompt: null,
      max_tool_calls: 3,
      truncation: 'disabled',
      service_tier: 'auto',
      include: ['reasoning.encrypted_content', 'web_search_call.action.sources'],
    }
    expect(read(nothing)).toEqual(read({}))
    expect(read({ reasoning: { mode: 'standard', context: 'auto' } })).toEqual(read({}))
  })

  test('log probabilities can be asked for by include', () => {
    expect(read({ include: ['message.output_text.logprobs'] }).logprobs).toEqual({ top: 0 })
  })

  test('a choice among tools leaves the others out', () => {
    const tools = [weather, { ...weather, name: 'clock' }]
    const choice = { type: 'allowed_tools', mode: 'required', tools: [{ type: 'function', name: 'clock' }] }
    const request = read({ tools, tool_choice: choice })
    expect(request.tools?.map(({ name }) => name)).toEqual(['clock'])
    expect(request.toolChoice).toEqual({ mode: 'required' })
    expect(read({ tools, tool_choice: { type: 'function', name: 'clock' } }).toolChoice).toEqual({
      mode: 'tool',
      name: 'clock',
    })
  })

  test.each([
    ['an unknown parameter', { colour: 'red' }, 'colour'],
    ['a conversation of the server', { conversation: 'conv_1' }, 'conversation'],
    ['a prompt of the server', { prompt: { id: 'p' } }, 'prompt'],
    ['truncation', { truncation: 'auto' }, 'truncation'],
    ['another tier', { service_tier: 'priority' }, 'service_tier'],
    ['a built-in tool', { tools: [{ type: 'web_search' }] }, 'tools[0].type'],
    ['a tool twice', { tools: [weather, weather] }, 'tools[1].name'],
    ['a choice of no tool', { tool_choice: 'required' }, 'tool_choice'],
    ['a choice of an unknown tool', { tools: [weather], tool_choice: { type: 'function', name: 'x' } }, 'tool_choice'],
    ['an unknown thing to include', { include: ['everything'] }, 'include[0]'],
    ['a background that is not kept', { background: true, store: false }, 'background'],
    ['options of a stream that is none', { stream_options: { include_obfuscation: false } }, 'stream_options'],
    ['an unknown effort', { reasoning: { effort: 'huge' } }, 'reasoning.effort'],
    ['a choice of the thoughts to see again', { reasoning: { context: 'all_turns' } }, 'reasoning.context'],
    ['an unknown way to reason', { reasoning: { mode: 'pro' } }, 'reasoning.mode'],
    ['too hot', { temperature: 3 }, 'temperature'],
    ['no tokens', { max_output_tokens: 0 }, 'max_output_tokens'],
    ['too much metadata', { metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [i, ''])) }, 'metadata'],
    ['metadata that is no text', { metadata: { a: 1 } }, 'metadata.a'],
    ['a customer with a line break', { user: 'a\nb' }, 'user'],
    ['no model', { model: undefined }, 'model'],
  ])('refuses %s, by its name', (_, body, param) => {
    expect(refusal(body)).toMatchObject({ code: 'invalid_request', param })
  })

  test('a refusal of a tool says which tools there are', () => {
    expect(refusal({ tools: [{ type: 'code_interpreter' }] }).message).toContain("'code_interpreter'")
  })
})

test('a fault in an earlier response is not told as one in the body', () => {
  const items: ResponseInputItem[] = [call, { type: 'message', role: 'user', content: 'and now?' }]
  const parsed = parseResponse({ model: 'm', input: 'and now?', previous_response_id: 'resp_x' })
  if (!parsed.ok) throw new Error(parsed.error.message)
  const request = requestOf(parsed.value, items, 1)
  expect(request.ok ? undefined : request.error.param).toBe('previous_response_id')
  expect(messagesOf([], () => '').ok).toBe(true)
})
