import { describe, expect, test } from 'vitest'
import { parseCount, parseMessages } from '../../../../gateway/routes/messages-requests.ts'
import type { ChatMessage, InferenceRequest } from '../../../../protocol/request.ts'

const user = { role: 'user', content: 'hi' }
const parse = (over: object) => parseMessages({ model: 'm', max_tokens: 64, messages: [user], ...over })
const requestOf = (over: object): InferenceRequest => {
  const parsed = parse(over)
  if (!parsed.ok) throw new Error(parsed.error.message)
  return parsed.value.request
}
const messagesOf = (over: object): ChatMessage[] => {
  const { input } = requestOf(over)
  if (input.kind !== 'chat') throw new Error('no chat')
  return input.messages
}
const faultOf = (over: object) => {
  const parsed = parse(over)
  if (parsed.ok) throw new Error('it was accepted')
  expect(parsed.error.code).toBe('invalid_request')
  return parsed.error
}

const PIXEL = 'iVBORw0KGgo='
const png = { type: 'image', source: { type: 'base64', media_type: 'image/png', data: PIXEL } }
const use = (id: string, more: object = {}) => ({ type: 'tool_use', id, name: 'add', input: { a: 1 }, ...more })
const result = (id: string, more: object = {}) => ({ type: 'tool_result', tool_use_id: id, ...more })
const text = (said: string, more: object = {}) => ({ type: 'text', text: said, ...more })
const ephemeral = (ttl?: string) => ({ cache_control: { type: 'ephemeral', ...(ttl === undefined ? {} : { ttl }) } })

test('a plain request gets every default', () => {
  expect(parse({})).toEqual({
    ok: true,
    value: {
      request: {
        model: 'm',
        input: { kind: 'chat', messages: [{ role: 'user', content: [text('hi')] }] },
        sampling: { logitBias: [] },
        n: 1,
        maxOutputTokens: 64,
        stop: [],
      },
      delivery: { stream: false, includeUsage: true },
    },
  })
})

describe('messages', () => {
  test('of a whole turn with tools become those of the internal form', () => {
    const messages = [
      { role: 'user', content: [text('look'), png] },
      {
        role: 'assistant',
        content: [
          { type: 'thinking', thinking: 'hm', signature: 'SIG' },
          { type: 'redacted_thinking', data: 'DATA' },
          text('Let me see.', { citations: null }),
          use('c1', { caller: { type: 'direct' } }),
          use('c2'),
        ],
      },
      {
        role: 'user',
        content: [
          result('c1', {
            content: [text('one'), { type: 'image', source: { type: 'url', url: 'https://a.example/b' } }],
          }),
          result('c2', { content: 'failed', is_error: true }),
          text('And now?'),
        ],
      },
    ]
    expect(messagesOf({ system: [text('Be brief.')], messages })).toEqual([
      { role: 'system', content: [text('Be brief.')] },
      {
        role: 'user',
        content: [text('look'), { type: 'image', source: { kind: 'data', mediaType: 'image/png', data: PIXEL } }],
      },
      {
        role: 'assistant',
        content: [
          { type: 'thought', text: 'hm', seal: { by: 'anthropic', value: 'SIG' } },
          { type: 'thought', text: '', seal: { by: 'anthropic', value: 'DATA', isRedacted: true } },
          text('Let me see.'),
          { type: 'tool_call', id: 'c1', name: 'add', arguments: '{"a":1}' },
          { type: 'tool_call', id: 'c2', name: 'add', arguments: '{"a":1}' },
        ],
      },
      {
        role: 'tool',
        toolCallId: 'c1',
        content: [text('one'), { type: 'image', source: { kind: 'url', url: 'https://a.example/b' } }],
      },
      { role: 'tool', toolCallId: 'c2', content: [text('failed')], isError: true },
      { role: 'user', content: [text('And now?')] },
    ])
  })

  test('with thoughts of other providers keep their proofs, also those of calls', () => {
    const content = [
      { type: 'thinking', thinking: 'a', signature: 'penstock:openai:r:DATA' },
      { type: 'thinking', thinking: 'b', signature: '' },
      { type: 'redacted_thinking', data: 'penstock:gemini:c:SIG' },
      use('c'),
      use('d'),
    ]
    const answered = { role: 'user', content: [result('c'), result('d')] }
    expect(messagesOf({ messages: [{ role: 'assistant', content }, answered] })[0]?.content).toMatchObject([
      { type: 'thought', text: 'a', seal: { by: 'openai', value: 'DATA', isRedacted: true } },
      { type: 'thought', text: 'b' },
      { type: 'tool_call', id: 'c', seal: { by: 'gemini', value: 'SIG' } },
      { type: 'tool_call', id: 'd' },
    ])
  })

  test('of one turn in pieces are one, and their calls are answered together', () => {
    const made = messagesOf({
      messages: [
        { role: 'assistant', content: [use('c')] },
        { role: 'assistant', content: [use('d')] },
        { role: 'user', content: [result('d')] },
        { role: 'user', content: [result('c')] },
        { role: 'system', content: 'From here on in French.' },
      ],
    })
    expect(made.map(({ role, content }) => [role, content.length])).toEqual([
      ['assistant', 2],
      ['tool', 1],
      ['tool', 1],
      ['system', 1],
    ])
  })

  test('that end with an assistant have the beginning of the answer', () => {
    const messages = [user, { role: 'assistant', content: '{' }]
    expect(requestOf({ messages }).continuesAnswer).toBe(true)
    expect(requestOf({})).not.toHaveProperty('continuesAnswer')
  })

  test('a result that says nothing is an empty text', () => {
    for (const content of [undefined, null, [], '']) {
      const messages = [
        { role: 'assistant', content: [use('c')] },
        { role: 'user', content: [result('c', { content })] },
      ]
      expect(messagesOf({ messages })[1]?.content).toEqual([text('')])
    }
  })

  test('marks for the cache are hints, one for the whole prompt on its last part', () => {
    const messages = [
      { role: 'user', content: [text('a', ephemeral()), { ...png, ...ephemeral('1h') }] },
      { role: 'assistant', content: [use('c', ephemeral())] },
      { role: 'user', content: [result('c', { content: [text('x'), text('y')], ...ephemeral('1h') })] },
      { role: 'assistant', content: [text('b'), { type: 'thinking', thinking: 't', signature: 's' }] },
    ]
    const tools = [{ name: 'add', input_schema: { type: 'object' }, ...ephemeral('1h') }]
    const request = requestOf({ system: [text('s', ephemeral())], messages, tools, ...ephemeral() })
    const hints =
      request.input.kind === 'chat' ? request.input.messages.map(({ content }) => content.map((p) => p.cache?.ttl)) : []
    expect(hints).toEqual([['5m'], ['5m', '1h'], ['5m'], [undefined, '1h'], ['5m', undefined]])
    expect(request.tools?.[0]?.cache).toEqual({ ttl: '1h' })
  })

  test.each([
    [[], 'messages'],
    [[{ role: 'user', content: [] }], 'messages.0.content'],
    [[{ role: 'robot', content: 'x' }], 'messages.0.role'],
    [[{ role: 'user' }], 'messages.0.content'],
    [[{ role: 'user', content: 'x', name: 'ann' }], 'messages.0.name'],
    [[{ role: 'user', content: [{ type: 'document', source: {} }] }], 'messages.0.content.0.type'],
    [[{ role: 'user', content: [{ type: 'text' }] }], 'messages.0.content.0.text'],
    [[{ role: 'user', content: [text('x', { colour: 'red' })] }], 'messages.0.content.0.colour'],
    [
      [{ role: 'user', content: [text('x', { cache_control: { type: 'forever' } })] }],
      'messages.0.content.0.cache_control.type',
    ],
    [
      [{ role: 'user', content: [{ type: 'image', source: { type: 'file', file_id: 'f' } }] }],
      'messages.0.content.0.source.type',
    ],
    [
      [
        {
          role: 'user',
          content: [{ type: 'image', source: { type: 'base64', media_type: 'image/bmp', data: 'AAAA' } }],
        },
      ],
      'messages.0.content.0.source',
    ],
    [
      [{ role: 'user', content: [{ type: 'image', source: { type: 'url', url: 'http://10.0.0.1/' } }] }],
      'messages.0.content.0.source',
    ],
    [[{ role: 'user', content: [use('c')] }], 'messages.0.content.0.type'],
    [[{ role: 'assistant', content: [png] }], 'messages.0.content.0.type'],
    [[{ role: 'assistant', content: [result('c')] }], 'messages.0.content.0.type'],
    [[{ role: 'system', content: [png] }], 'messages.0.content.0.type'],
    [[{ role: 'assistant', content: [use('c', { input: 'x' })] }], 'messages.0.content.0.input'],
    [
      [{ role: 'assistant', content: [use('c', { caller: { type: 'code_execution_20250825' } })] }],
      'messages.0.content.0.caller.type',
    ],
    [[{ role: 'user', content: [result('c')] }], 'messages.0.content'],
    [[user, { role: 'assistant', content: [use('c')] }, { role: 'user', content: 'x' }], 'messages.1.content'],
    [[user, { role: 'assistant', content: [use('c')] }], 'messages.1.content'],
    [[{ role: 'assistant', content: [use('c'), use('c')] }], 'messages.0.content'],
  ])('%j are refused at %s', (messages, path) => {
    const { message, param } = faultOf({ messages })
    expect(param).toBe(path)
    expect(message.startsWith(`${path}: `)).toBe(true)
  })
})

describe('a field', () => {
  const schema = { type: 'object', properties: {} }
  test.each([
    [{ temperature: 0.5, top_p: 0.9, top_k: 7 }, { sampling: { temperature: 0.5, topP: 0.9, topK: 7 } }],
    [{ stop_sequences: ['a', 'b'] }, { stop: ['a', 'b'] }],
    [{ stop_sequences: Array(16).fill('a') }, { stop: Array(16).fill('a') }],
    [{ metadata: { user_id: 'ann' } }, { endUser: 'ann' }],
    [
      { max_tokens: 4096, thinking: { type: 'enabled', budget_tokens: 2048 } },
      { reasoning: { budgetTokens: 2048, show: true, isRequired: true } },
    ],
    [
      { max_tokens: 4096, thinking: { type: 'enabled', budget_tokens: 2048, display: 'omitted' } },
      { reasoning: { budgetTokens: 2048, show: false } },
    ],
    [{ thinking: { type: 'adaptive' } }, { reasoning: { isRequired: true } }],
    [
      { thinking: { type: 'adaptive', display: 'summarized' }, output_config: { effort: 'high' } },
      { reasoning: { effort: 'high', show: true } },
    ],
    [{ thinking: { type: 'disabled' }, output_config: { effort: 'low' } }, { reasoning: { effort: 'none' } }],
    [{ thinking: { type: 'between_tools' } }, { reasoning: { effort: 'none' } }],
    [{ output_config: { effort: 'max' } }, { reasoning: { effort: 'max' } }],
    [
      { output_config: { format: { type: 'json_schema', schema } } },
      { outputFormat: { kind: 'json_schema', strict: true, schema } },
    ],
    [{ output_format: { type: 'json_schema', schema } }, { outputFormat: { kind: 'json_schema', schema } }],
    [
      { tools: [{ name: 'f', description: 'd', input_schema: schema, strict: true, type: 'custom' }] },
      { tools: [{ name: 'f', description: 'd', parameters: schema, strict: true }] },
    ],
    [
      { tools: [{ name: 'f', input_schema: schema, eager_input_streaming: true, input_examples: [{ a: 1 }] }] },
      { tools: [{ name: 'f', parameters: schema, eagerInput: true, inputExamples: [{ a: 1 }] }] },
    ],
  ])('%j arrives as %j', (over, expected) => {
    expect(requestOf(over)).toMatchObject(expected)
  })

  const tools = [{ name: 'f', input_schema: schema }]
  test.each([
    [{ type: 'auto' }, { toolChoice: { mode: 'auto' } }],
    [{ type: 'any' }, { toolChoice: { mode: 'required' } }],
    [{ type: 'none' }, { toolChoice: { mode: 'none' } }],
    [{ type: 'tool', name: 'f' }, { toolChoice: { mode: 'tool', name: 'f' } }],
    [
      { type: 'auto', disable_parallel_tool_use: true },
      { toolChoice: { mode: 'auto' }, parallelToolCalls: false },
    ],
  ])('the choice %j', (choice, expected) => {
    expect(requestOf({ tools, tool_choice: choice })).toMatchObject(expected)
  })

  test.each([
    [{ stream: false }],
    [{ service_tier: 'auto' }],
    [{ speed: 'standard' }],
    [{ container: null }],
    [{ mcp_servers: [] }],
    [{ context_management: { edits: [{ type: 'clear_thinking_20251015', keep: 'all' }] } }],
    [{ metadata: {} }],
    [{ tools: [] }],
    [{ system: [] }],
  ])('%j changes nothing', (over) => {
    expect(parse(over)).toEqual(parse({}))
  })

  test.each([
    [{ max_tokens: undefined }, 'max_tokens', 'Field required'],
    [{ max_tokens: 0 }, 'max_tokens', ''],
    [{ model: undefined }, 'model', 'Field required'],
    [{ colour: 'red' }, 'colour', 'Extra inputs are not permitted'],
    [{ api_base: 'http://evil' }, 'api_base', 'Extra inputs are not permitted'],
    [{ n: 2 }, 'n', 'Extra inputs are not permitted'],
    [{ temperature: 1.1 }, 'temperature', ''],
    [{ top_k: -1 }, 'top_k', ''],
    [{ stop_sequences: Array(17).fill('a') }, 'stop_sequences', ''],
    [{ stop_sequences: [''] }, 'stop_sequences.0', ''],
    [{ metadata: { user_id: 'x'.repeat(257) } }, 'metadata.user_id', ''],
    [{ thinking: { type: 'enabled', budget_tokens: 100 } }, 'thinking.budget_tokens', ''],
    [{ thinking: { type: 'enabled', budget_tokens: 1024 }, max_tokens: 1024 }, 'thinking.budget_tokens', 'max_tokens'],
    [{ tools: [{ name: 'f', input_schema: schema, type: { toString: 1 } }] }, 'tools.0.type', 'is a text'],
    [{ thinking: { type: 'between_tools', display: 'omitted' } }, 'thinking.display', 'not permitted'],
    [{ container: 'c' }, 'container', 'not supported'],
    [{ mcp_servers: [{ type: 'url' }] }, 'mcp_servers', 'not supported'],
    [{ context_management: { edits: [{ type: 'compact_20260112' }] } }, 'context_management.edits.0.type', 'keeping'],
    [
      {
        context_management: {
          edits: [{ type: 'clear_thinking_20251015', keep: { type: 'thinking_turns', value: 1 } }],
        },
      },
      'context_management.edits.0.keep',
      'keeping',
    ],
    [{ inference_geo: 'eu' }, 'inference_geo', 'operator'],
    [{ speed: 'fast' }, 'speed', ''],
    [{ output_config: { format: { type: 'grammar' } } }, 'output_config.format.type', ''],
    [
      {
        output_config: { format: { type: 'json_schema', schema } },
        output_format: { type: 'json_schema', schema },
      },
      'output_format',
      'Only one',
    ],
    [{ output_format: { type: 'json_schema', schema: { const: 'x'.repeat(300_000) } } }, 'output_format.schema', ''],
    [{ tools: [{ type: 'web_search_20250305', name: 'web_search' }] }, 'tools.0.type', 'web_search_20250305'],
    [{ tools: [{ name: 'f' }] }, 'tools.0.input_schema', ''],
    [{ tools: [...tools, ...tools] }, 'tools.1.name', ''],
    [{ tools, tool_choice: { type: 'tool', name: 'g' } }, 'tool_choice', "'g'"],
    [{ tool_choice: { type: 'any' } }, 'tool_choice', 'no tools'],
    [{ tools, tool_choice: 'auto' }, 'tool_choice', ''],
  ])('%j is refused at %s', (over, path, words) => {
    const { message, param } = faultOf(over)
    expect(param).toBe(path)
    expect(message).toContain(words)
  })
})

test('a count has the fields of a prompt and no others', () => {
  const body = { model: 'm', messages: [user], system: 's', tools: [], thinking: { type: 'disabled' } }
  expect(parseCount(body)).toMatchObject({
    ok: true,
    value: { input: { messages: [{ role: 'system' }, { role: 'user' }] } },
  })
  expect(parseCount({ ...body, max_tokens: 5 })).toMatchObject({ ok: false, error: { param: 'max_tokens' } })
  expect(parseCount(5)).toMatchObject({ ok: false })
})
