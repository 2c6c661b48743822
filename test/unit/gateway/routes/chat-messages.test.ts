import { describe, expect, test } from 'vitest'
import { parseChat } from '../../../../gateway/routes/openai-requests.ts'
import type { ChatMessage, InferenceRequest } from '../../../../protocol/request.ts'

const user = { role: 'user', content: 'hi' }
const chat = (over: object) => parseChat({ model: 'm', messages: [user], ...over })
const requestOf = (over: object): InferenceRequest => {
  const parsed = chat(over)
  if (!parsed.ok) throw new Error(parsed.error.message)
  return parsed.value.request
}
const messagesOf = (...messages: object[]): ChatMessage[] => {
  const { input } = requestOf({ messages })
  if (input.kind !== 'chat') throw new Error('no chat')
  return input.messages
}
const faultOf = (over: object) => {
  const parsed = chat(over)
  if (parsed.ok) throw new Error('it was accepted')
  expect(parsed.error.code).toBe('invalid_request')
  return parsed.error
}

const PIXEL = 'iVBORw0KGgo='
const call = (id: string, name = 'add', args = '{"a":1}') => ({
  id,
  type: 'function',
  function: { name, arguments: args },
})
const image = (url: string, more: object = {}) => ({
  role: 'user',
  content: [{ type: 'image_url', image_url: { url, ...more } }],
})
const tool = (name: string, more: object = {}) => ({ type: 'function', function: { name, ...more } })

describe('messages', () => {
  test('of a whole turn with tools arrive in the order in which they were said', () => {
    const made = messagesOf(
      user,
      {
        role: 'assistant',
        content: 'Let me see.',
        reasoning_content: 'hm',
        tool_calls: [call('c1'), call('c2', 'sub', 'not json')],
      },
      { role: 'tool', tool_call_id: 'c2', content: 'two' },
      { role: 'tool', tool_call_id: 'c1', content: [{ type: 'text', text: 'one' }] },
    )
    expect(made).toEqual([
      { role: 'user', content: [{ type: 'text', text: 'hi' }] },
      {
        role: 'assistant',
        content: [
          { type: 'thought', text: 'hm' },
          { type: 'text', text: 'Let me see.' },
          { type: 'tool_call', id: 'c1', name: 'add', arguments: '{"a":1}' },
          { type: 'tool_call', id: 'c2', name: 'sub', arguments: 'not json' },
        ],
      },
      { role: 'tool', toolCallId: 'c2', content: [{ type: 'text', text: 'two' }] },
      { role: 'tool', toolCallId: 'c1', content: [{ type: 'text', text: 'one' }] },
    ])
  })

  test.each([
    [{ content: '' }, []],
    [{ content: null, refusal: 'no' }, [{ type: 'refusal', text: 'no' }]],
    [{ content: [{ type: 'refusal', refusal: 'no' }] }, [{ type: 'refusal', text: 'no' }]],
    [
      { content: 'x', reasoning: 'r' },
      [
        { type: 'thought', text: 'r' },
        { type: 'text', text: 'x' },
      ],
    ],
    [{ content: 'x', reasoning_content: '', annotations: [], index: 0 }, [{ type: 'text', text: 'x' }]],
  ])('an assistant that said %j', (said, content) => {
    expect(messagesOf({ role: 'assistant', ...said })[0]?.content).toEqual(content)
  })

  test('thoughts come back with their proofs, and a proof of nobody is left out', () => {
    const details = [
      { type: 'reasoning.text', text: 'a', signature: 'penstock:gemini:t:SIG', index: 0 },
      { type: 'reasoning.encrypted', data: 'penstock:openai:r:DATA' },
      { type: 'reasoning.text', text: 'b', signature: 'of another gateway', format: 'x' },
      { type: 'reasoning.encrypted', data: 'of another gateway' },
    ]
    const said = { role: 'assistant', content: '', reasoning_content: 'ab', reasoning_details: details }
    expect(messagesOf(said)[0]?.content).toEqual([
      { type: 'thought', text: 'a', seal: { by: 'gemini', value: 'SIG' } },
      { type: 'thought', text: '', seal: { by: 'openai', value: 'DATA', isRedacted: true } },
      { type: 'thought', text: 'b' },
    ])
  })

  test('a call comes back with its proof', () => {
    const extra = { extra_content: { google: { thought_signature: 'penstock:gemini:t:SIG' } } }
    const made = messagesOf(
      { role: 'assistant', tool_calls: [{ ...call('c'), ...extra }] },
      { role: 'tool', tool_call_id: 'c', content: 'x' },
    )
    expect(made[0]?.content).toMatchObject([{ type: 'tool_call', seal: { by: 'gemini', value: 'SIG' } }])
  })

  test('marks for the prompt cache are hints', () => {
    const part = (more: object) => ({ type: 'text', text: 'x', ...more })
    const content = [
      part({ cache_control: { type: 'ephemeral' } }),
      part({ cache_control: { type: 'ephemeral', ttl: '1h' } }),
      part({ prompt_cache_breakpoint: { mode: 'explicit', ttl: '30m' } }),
      part({}),
    ]
    expect(messagesOf({ role: 'system', content })[0]?.content.map(({ cache }) => cache?.ttl)).toEqual([
      '5m',
      '1h',
      '1h',
      undefined,
    ])
  })

  test.each([
    [[{ role: 'tool', tool_call_id: 'c', content: 'x' }], 'messages[0].tool_call_id'],
    [
      [user, { role: 'assistant', tool_calls: [call('c')] }, { role: 'tool', tool_call_id: 'd', content: '' }],
      'messages[2].tool_call_id',
    ],
    [[{ role: 'assistant', tool_calls: [call('c')] }, user], 'messages[0].tool_calls'],
    [[{ role: 'assistant', tool_calls: [call('c')] }], 'messages[0].tool_calls'],
    [[{ role: 'assistant', tool_calls: [call('c'), call('c')] }], 'messages[0]'],
    [
      [
        { role: 'assistant', tool_calls: [call('c')] },
        { role: 'tool', tool_call_id: 'c', content: '' },
        { role: 'tool', tool_call_id: 'c', content: '' },
      ],
      'messages[2]',
    ],
    [[{ role: 'tool', content: 'x' }], 'messages[0].tool_call_id'],
    [[{ role: 'assistant' }], 'messages[0].content'],
    [[{ role: 'assistant', content: null }], 'messages[0].content'],
    [[{ role: 'assistant', content: [{ type: 'image_url' }] }], 'messages[0].content[0].type'],
    [[{ role: 'assistant', audio: { id: 'a' } }], 'messages[0].audio'],
    [[{ role: 'system', content: [{ type: 'image_url' }] }], 'messages[0].content[0].type'],
    [[{ role: 'assistant', tool_calls: [{ id: 'c', type: 'custom' }] }], 'messages[0].tool_calls[0].type'],
    [
      [{ role: 'assistant', tool_calls: [{ id: '', type: 'function', function: { name: 'f', arguments: '' } }] }],
      'messages[0].tool_calls[0].id',
    ],
    [[{ role: 'assistant', tool_calls: [call('c', 'a b')] }], 'messages[0].tool_calls[0].function.name'],
  ])('%j are refused at %s', (messages, param) => {
    expect(faultOf({ messages }).param).toBe(param)
  })
})

describe('an image', () => {
  test.each(['auto', 'low', 'high', 'original'])('is asked to be looked at in the detail %s', (detail) => {
    const url = `data:image/png;base64,${PIXEL}`
    expect(messagesOf(image(url, { detail }))[0]?.content).toMatchObject([{ type: 'image', detail }])
  })

  test.each([
    [`data:image/png;base64,${PIXEL}`, { kind: 'data', mediaType: 'image/png', data: PIXEL }],
    [`data:IMAGE/JPEG;base64,${PIXEL}`, { kind: 'data', mediaType: 'image/jpeg', data: PIXEL }],
    [`data:image/jpg;base64,${PIXEL}`, { kind: 'data', mediaType: 'image/jpeg', data: PIXEL }],
    [`data:image/png;charset=utf-8;base64,${PIXEL}`, { kind: 'data', mediaType: 'image/png', data: PIXEL }],
    ['data:image/png;base64,iVBO\r\nRw0K\nGgo', { kind: 'data', mediaType: 'image/png', data: 'iVBORw0KGgo=' }],
    ['https://example.com/a.png?x=1', { kind: 'url', url: 'https://example.com/a.png?x=1' }],
  ])('%j is taken', (url, source) => {
    expect(messagesOf(image(url, { detail: 'low' }))[0]?.content).toEqual([{ type: 'image', source, detail: 'low' }])
  })

  test.each([
    ['data:image/svg+xml;base64,AAAA'],
    ['data:image/png,AAAA'],
    ['data:image/png;base64,'],
    ['data:image/png;base64,AAAAA'],
    ['data:image/png;base64,AA*A'],
    ['http://example.com/a.png'],
    ['ftp://example.com/a.png'],
    ['file:///etc/passwd'],
    ['a.png'],
    ['https://user:secret@example.com/a.png'],
    ['https://localhost/a.png'],
    ['https://127.0.0.1/a.png'],
    ['https://2130706433/a.png'],
    ['https://[::1]/a.png'],
    ['https://[::ffff:169.254.169.254]/a.png'],
    ['https://169.254.169.254/latest'],
    ['https://100.64.1.1/a.png'],
    ['https://metadata.internal/a.png'],
    [`https://example.com/${'a'.repeat(9000)}`],
  ])('%s is refused', (url) => {
    expect(faultOf({ messages: [image(url)] }).param).toBe('messages[0].content[0].image_url.url')
  })

  test('of megabytes is read as it is', () => {
    const data = 'A'.repeat(4 * 1024 * 1024)
    expect(messagesOf(image(`data:image/webp;base64,${data}`))[0]?.content).toMatchObject([{ source: { data } }])
  })
})

describe('tools', () => {
  const parameters = { type: 'object', properties: { a: { type: 'number' } } }

  test('arrive with all that is said of them', () => {
    const tools = [
      tool('add', { description: 'adds', parameters, strict: true }),
      { ...tool('no.thing-2'), cache_control: { type: 'ephemeral' } },
    ]
    expect(requestOf({ tools, parallel_tool_calls: false })).toMatchObject({
      tools: [
        { name: 'add', description: 'adds', parameters, strict: true },
        { name: 'no.thing-2', cache: { ttl: '5m' } },
      ],
      parallelToolCalls: false,
    })
  })

  const two = [tool('a'), tool('b')]
  test.each([
    [undefined, undefined, ['a', 'b']],
    ['auto', { mode: 'auto' }, ['a', 'b']],
    ['none', { mode: 'none' }, ['a', 'b']],
    ['required', { mode: 'required' }, ['a', 'b']],
    [tool('b'), { mode: 'tool', name: 'b' }, ['a', 'b']],
    [{ type: 'allowed_tools', allowed_tools: { mode: 'required', tools: [tool('b')] } }, { mode: 'required' }, ['b']],
  ])('with the choice %j', (choice, toolChoice, names) => {
    const request = requestOf({ tools: two, tool_choice: choice })
    expect(request.toolChoice).toEqual(toolChoice)
    expect(request.tools?.map(({ name }) => name)).toEqual(names)
  })

  test('that are none leave nothing behind', () => {
    const request = requestOf({ tools: [], tool_choice: 'auto', parallel_tool_calls: true })
    expect(request).not.toHaveProperty('tools')
    expect(request).not.toHaveProperty('toolChoice')
    expect(request).not.toHaveProperty('parallelToolCalls')
  })

  test.each([
    [{ tools: [tool('a'), tool('a')] }, 'tools[1].function.name'],
    [{ tools: [tool('a b')] }, 'tools[0].function.name'],
    [{ tools: [tool('a'.repeat(129))] }, 'tools[0].function.name'],
    [{ tools: [tool('a', { parameters: [] })] }, 'tools[0].function.parameters'],
    [{ tools: [tool('a', { parameters: { const: 'x'.repeat(300_000) } })] }, 'tools[0].function.parameters'],
    [{ tools: [tool('a', { description: 'x'.repeat(70_000) })] }, 'tools[0].function.description'],
    [{ tools: Array.from({ length: 129 }, (_, index) => tool(`t${index}`)) }, 'tools'],
    [{ tools: [{ type: 'custom', custom: { name: 'a' } }] }, 'tools[0].type'],
    [{ tools: [{ type: 'web_search' }] }, 'tools[0].type'],
    [{ tool_choice: 'required' }, 'tool_choice'],
    [{ tools: two, tool_choice: tool('c') }, 'tool_choice'],
    [{ tools: two, tool_choice: 'always' }, 'tool_choice'],
    [
      { tools: two, tool_choice: { type: 'allowed_tools', allowed_tools: { mode: 'auto', tools: [] } } },
      'tool_choice.allowed_tools.tools',
    ],
    [{ parallel_tool_calls: 'no' }, 'parallel_tool_calls'],
  ])('%j are refused at %s', (over, param) => {
    expect(faultOf(over).param).toBe(param)
  })
})

describe('how to answer', () => {
  test('is taken as it was asked for', () => {
    const prompt_cache_options = { mode: 'explicit' }
    expect(
      requestOf({ reasoning_effort: 'minimal', verbosity: 'low', prompt_cache_key: 'k', prompt_cache_options }),
    ).toMatchObject({
      reasoning: { effort: 'minimal' },
      verbosity: 'low',
      promptCacheKey: 'k',
      promptCacheMode: 'explicit',
    })
  })

  test.each([
    [{ reasoning_effort: 'extreme' }, 'reasoning_effort'],
    [{ verbosity: 'chatty' }, 'verbosity'],
    [{ prompt_cache_key: 'k'.repeat(257) }, 'prompt_cache_key'],
  ])('%j is refused at %s', (over, param) => {
    expect(faultOf(over).param).toBe(param)
  })
})
