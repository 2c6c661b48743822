// The internal request in OpenAI's form: what each kind of part becomes, what each server is spared or refused.
import { describe, expect, test } from 'vitest'
import { azureOpenAi } from '../../../../gateway/providers/azure-openai.ts'
import { openAi } from '../../../../gateway/providers/openai.ts'
import { openAiCompatible } from '../../../../gateway/providers/openai-compatible.ts'
import { encodeOpenAi } from '../../../../gateway/providers/openai-encoder.ts'
import { OPENAI, PRESET_NAMES, presetOf } from '../../../../gateway/providers/presets.ts'
import { effortOf, nearestEffort } from '../../../../gateway/providers/reasoning-effort.ts'
import type { Vendor } from '../../../../gateway/providers/vendor.ts'
import { type ChatMessage, type InferenceRequest, NEUTRAL_SAMPLING, type Tool } from '../../../../protocol/request.ts'

const text = (value: string) => ({ type: 'text' as const, text: value })
const user = (...content: ChatMessage['content']): ChatMessage => ({ role: 'user', content })
const PNG = { type: 'image' as const, source: { kind: 'data' as const, mediaType: 'image/png', data: 'QUJD' } }
const URL_IMAGE = { type: 'image' as const, source: { kind: 'url' as const, url: 'https://example.com/a.png' } }
const CALL = { type: 'tool_call' as const, id: 'call_1', name: 'look', arguments: '{"at":"sky"}' }
const LOOK: Tool = { name: 'look', description: 'Looks.', parameters: { type: 'object' }, strict: true }

const request = (
  over: Partial<InferenceRequest> = {},
  messages: ChatMessage[] = [user(text('hi'))],
): InferenceRequest => ({
  model: 'm',
  input: { kind: 'chat', messages },
  sampling: NEUTRAL_SAMPLING,
  n: 1,
  stop: [],
  ...over,
})

function bodyOf(over: Partial<InferenceRequest>, preset?: string, messages?: ChatMessage[]): Record<string, unknown> {
  const encoded = encodeOpenAi(request(over, messages), { model: 'm' }, { preset: presetOf(preset), sealMark: preset })
  if (!encoded.ok) throw new Error(encoded.error.message)
  return encoded.value.body
}

const messagesOf = (messages: ChatMessage[], preset?: string) => bodyOf({}, preset, messages).messages

describe('messages', () => {
  test('of text alone are one string each', () => {
    expect(messagesOf([{ role: 'system', content: [text('a'), text('b')] }, user(text('c'))])).toEqual([
      { role: 'system', content: 'ab' },
      { role: 'user', content: 'c' },
    ])
  })

  test('with images are parts, in the order of the caller', () => {
    expect(messagesOf([user(text('see'), { ...PNG, detail: 'low' }, URL_IMAGE)])).toEqual([
      {
        role: 'user',
        content: [
          { type: 'text', text: 'see' },
          { type: 'image_url', image_url: { url: 'data:image/png;base64,QUJD', detail: 'low' } },
          { type: 'image_url', image_url: { url: 'https://example.com/a.png' } },
        ],
      },
    ])
  })

  test('that call tools have no content of their own, and results name the call', () => {
    const messages: ChatMessage[] = [
      { role: 'assistant', content: [CALL] },
      { role: 'tool', toolCallId: 'call_1', content: [text('blue')] },
    ]
    expect(messagesOf(messages)).toEqual([
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'look', arguments: '{"at":"sky"}' } }],
      },
      { role: 'tool', tool_call_id: 'call_1', content: 'blue' },
    ])
  })

  test('with images from tools send them on in one user message behind all results', () => {
    const messages: ChatMessage[] = [
      { role: 'assistant', content: [CALL, { ...CALL, id: 'call_2' }] },
      { role: 'tool', toolCallId: 'call_1', content: [PNG] },
      { role: 'tool', toolCallId: 'call_2', content: [text('done'), PNG] },
      user(text('well?')),
    ]
    const image = { type: 'image_url', image_url: { url: 'data:image/png;base64,QUJD' } }
    expect(messagesOf(messages)).toEqual([
      expect.objectContaining({ role: 'assistant' }),
      { role: 'tool', tool_call_id: 'call_1', content: 'The result is an image, in the next user message.' },
      { role: 'tool', tool_call_id: 'call_2', content: 'done' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'Returned by the tool call call_1:' },
          image,
          { type: 'text', text: 'Returned by the tool call call_2:' },
          image,
        ],
      },
      { role: 'user', content: 'well?' },
    ])
  })

  test('of a tool that failed without a word say that it failed', () => {
    const failed: ChatMessage = { role: 'tool', toolCallId: 'call_1', content: [], isError: true }
    expect(messagesOf([failed])).toEqual([{ role: 'tool', tool_call_id: 'call_1', content: 'The tool failed.' }])
  })

  test('of a tool that failed say so before its own words', () => {
    const failed: ChatMessage = { role: 'tool', toolCallId: 'call_1', content: [text('no such city')], isError: true }
    expect(messagesOf([failed])).toMatchObject([{ content: 'The tool failed.\nno such city' }])
    const hinted = { ...failed, content: [{ ...text('no such city'), cache: { ttl: '5m' as const } }] }
    expect(messagesOf([hinted], 'openrouter')).toMatchObject([
      { content: [{ type: 'text', text: 'The tool failed.\nno such city' }] },
    ])
  })

  test('of a user right behind a tool are divided from it where the server wants an answer between them', () => {
    const roles = (messages: ChatMessage[], preset?: string) =>
      (messagesOf(messages, preset) as { role: string }[]).map(({ role }) => role)
    const result: ChatMessage = { role: 'tool', toolCallId: 'call_1', content: [text('blue')] }
    const turns: ChatMessage[] = [{ role: 'assistant', content: [CALL] }, result, user(text('well?'))]
    expect(roles(turns, 'mistral')).toEqual(['assistant', 'tool', 'assistant', 'user'])
    expect(roles(turns)).toEqual(['assistant', 'tool', 'user'])
    const shown: ChatMessage[] = [
      { role: 'assistant', content: [CALL] },
      { ...result, content: [PNG] },
    ]
    expect(roles(shown, 'mistral')).toEqual(['assistant', 'tool', 'assistant', 'user'])
    expect(roles([...turns.slice(0, 2), { role: 'assistant', content: [text('ok')] }], 'mistral')).toEqual([
      'assistant',
      'tool',
      'assistant',
    ])
  })

  test('that refused keep it in its field where there is one, else as text', () => {
    const refused: ChatMessage = { role: 'assistant', content: [{ type: 'refusal', text: 'No.' }] }
    expect(messagesOf([refused])).toEqual([{ role: 'assistant', content: 'No.' }])
    const encoded = encodeOpenAi(request({}, [refused]), { model: 'm' }, { preset: OPENAI })
    expect(encoded).toMatchObject({
      ok: true,
      value: { body: { messages: [{ role: 'assistant', content: null, refusal: 'No.' }] } },
    })
  })

  test('carry cache hints where the server has them, and no trace of them elsewhere', () => {
    const hinted = [user({ ...text('long'), cache: { ttl: '1h' as const } }, text('short'))]
    expect(messagesOf(hinted)).toEqual([{ role: 'user', content: 'longshort' }])
    expect(messagesOf(hinted, 'openrouter')).toEqual([
      {
        role: 'user',
        content: [
          { type: 'text', text: 'long', cache_control: { type: 'ephemeral', ttl: '1h' } },
          { type: 'text', text: 'short' },
        ],
      },
    ])
  })

  test.each([
    [undefined, { content: 'So.' }],
    ['groq', { content: 'So.' }],
    ['deepseek', { content: 'So.', reasoning_content: 'Hm.' }],
    ['fireworks', { content: 'So.', reasoning_content: 'Hm.' }],
    ['vllm', { content: 'So.', reasoning: 'Hm.' }],
    ['openrouter', { content: 'So.', reasoning: 'Hm.' }],
    [
      'mistral',
      {
        content: [
          { type: 'thinking', thinking: [{ type: 'text', text: 'Hm.' }] },
          { type: 'text', text: 'So.' },
        ],
      },
    ],
  ])('give earlier thoughts back to %s as it wants them', (preset, fields) => {
    const thought: ChatMessage = { role: 'assistant', content: [{ type: 'thought', text: 'Hm.' }, text('So.')] }
    expect(messagesOf([thought], preset)).toEqual([{ role: 'assistant', ...fields }])
  })

  test('give sealed thoughts back unchanged to whom they belong, and to nobody else', () => {
    const details = [{ type: 'reasoning.text', text: 'Hm.', signature: 's' }]
    const thoughtBy = (by: string): ChatMessage => ({
      role: 'assistant',
      content: [{ type: 'thought', text: 'Hm.', seal: { by, value: JSON.stringify(details) } }, text('So.')],
    })
    expect(messagesOf([thoughtBy('openrouter')], 'openrouter')).toEqual([
      { role: 'assistant', content: 'So.', reasoning_details: details },
    ])
    expect(messagesOf([thoughtBy('anthropic')], 'openrouter')).toEqual([
      { role: 'assistant', content: 'So.', reasoning: 'Hm.' },
    ])
  })

  test('with calls bring an empty thought where a server insists on one', () => {
    expect(messagesOf([{ role: 'assistant', content: [CALL] }], 'deepseek')).toMatchObject([{ reasoning_content: '' }])
  })

  test('have short ids of calls where a server insists on them, the same for call and result', () => {
    const messages: ChatMessage[] = [
      { role: 'assistant', content: [CALL, { ...CALL, id: 'AbC123xyz' }] },
      { role: 'tool', toolCallId: 'call_1', content: [text('blue')] },
    ]
    const [assistant, result] = messagesOf(messages, 'mistral') as [
      { tool_calls: { id: string }[] },
      { tool_call_id: string },
    ]
    expect(assistant.tool_calls[0]?.id).toMatch(/^[A-Za-z0-9]{9}$/)
    expect(assistant.tool_calls[1]?.id).toBe('AbC123xyz')
    expect(result.tool_call_id).toBe(assistant.tool_calls[0]?.id)
  })
})

describe('tools', () => {
  test('go with their schema, and without a choice where the server decides', () => {
    expect(bodyOf({ tools: [LOOK, { name: 'wait' }], toolChoice: { mode: 'auto' } })).toMatchObject({
      tools: [
        {
          type: 'function',
          function: { name: 'look', description: 'Looks.', parameters: { type: 'object' }, strict: true },
        },
        { type: 'function', function: { name: 'wait', parameters: { type: 'object', properties: {} } } },
      ],
    })
    expect(bodyOf({ tools: [LOOK], toolChoice: { mode: 'auto' } })).not.toHaveProperty('tool_choice')
  })

  test.each([
    [undefined, { mode: 'required' } as const, 'required'],
    ['mistral', { mode: 'required' } as const, 'any'],
    [undefined, { mode: 'none' } as const, 'none'],
    [undefined, { mode: 'tool', name: 'look' } as const, { type: 'function', function: { name: 'look' } }],
  ])('are chosen on %s by %j with %j', (preset, toolChoice, field) => {
    expect(bodyOf({ tools: [LOOK], toolChoice }, preset).tool_choice).toEqual(field)
  })

  test('are left out where none may be called and the server has no word for it', () => {
    expect(bodyOf({ tools: [LOOK], toolChoice: { mode: 'none' } }, 'ollama')).not.toHaveProperty('tools')
  })

  test('are called one at a time where asked', () => {
    expect(bodyOf({ tools: [LOOK], parallelToolCalls: false }).parallel_tool_calls).toBe(false)
    expect(bodyOf({ tools: [LOOK], parallelToolCalls: true }, 'cerebras')).not.toHaveProperty('parallel_tool_calls')
  })
})

describe('what a server lacks', () => {
  const sampling = (over: Partial<typeof NEUTRAL_SAMPLING>) => ({ sampling: { ...NEUTRAL_SAMPLING, ...over } })
  const lacksExtensions = ['mistral', 'groq', 'deepseek', 'xai', 'cerebras', 'ollama']

  test.each([
    ['topK', sampling({ topK: 5 }), lacksExtensions],
    ['minP', sampling({ minP: 0.1 }), lacksExtensions],
    ['repetitionPenalty', sampling({ repetitionPenalty: 1.1 }), lacksExtensions],
    [
      'logitBias',
      sampling({ logitBias: [{ tokenId: 1, bias: 1 }] }),
      ['mistral', 'groq', 'deepseek', 'xai', 'cerebras', 'ollama'],
    ],
    ['n', { n: 2 }, ['groq', 'deepseek', 'openrouter', 'cerebras', 'ollama']],
    ['logprobs', { logprobs: { top: 1 } }, ['mistral', 'groq']],
    ['toolChoice', { tools: [LOOK], toolChoice: { mode: 'required' } as const }, ['ollama']],
    ['parallelToolCalls', { tools: [LOOK], parallelToolCalls: false }, ['deepseek', 'cerebras', 'ollama']],
    ['outputFormat', { outputFormat: { kind: 'json_schema', name: 'a' } as const }, ['deepseek']],
    [
      'outputFormat',
      { outputFormat: { kind: 'regex', pattern: 'a' } as const },
      [...lacksExtensions, 'openrouter', 'together', 'fireworks'],
    ],
  ])('as %s in %j is refused with its name by those and only those', (param, over, refusing) => {
    for (const name of PRESET_NAMES) {
      const encoded = encodeOpenAi(request(over), { model: 'm' }, { preset: presetOf(name) })
      if (refusing.includes(name)) {
        expect(encoded).toMatchObject({ ok: false, error: { code: 'invalid_request', param, kind: 'refused' } })
      } else expect(encoded.ok).toBe(true)
    }
    expect(encodeOpenAi(request(over), { model: 'm' }).ok).toBe(true)
  })

  test('of images is told apart by how they are given', () => {
    const ask = (preset: string, image: ChatMessage['content'][number]) =>
      encodeOpenAi(request({}, [user(image)]), { model: 'm' }, { preset: presetOf(preset) })
    expect(ask('deepseek', PNG)).toMatchObject({ ok: false, error: { param: 'messages' } })
    expect(ask('ollama', URL_IMAGE)).toMatchObject({ ok: false, error: { param: 'messages' } })
    expect(ask('ollama', PNG).ok).toBe(true)
  })

  test('as a hint is left out', () => {
    const hints = { verbosity: 'low', promptCacheKey: 'k', sampling: { ...NEUTRAL_SAMPLING, seed: 1 } } as const
    expect(bodyOf(hints, 'deepseek')).toEqual({
      model: 'm',
      stream: true,
      stream_options: { include_usage: true },
      messages: [{ role: 'user', content: 'hi' }],
    })
    expect(bodyOf(hints, 'openrouter')).toMatchObject({ verbosity: 'low', prompt_cache_key: 'k', seed: 1 })
  })

  test('by another name is sent by that one', () => {
    const preset = presetOf('mistral')
    const asked = request({ sampling: { ...NEUTRAL_SAMPLING, seed: 7 } }, [
      { role: 'developer', content: [text('x')], name: 'y' },
    ])
    const encoded = encodeOpenAi(asked, { model: 'm' }, { preset, maxOutputTokens: 9 })
    expect(encoded).toEqual({
      ok: true,
      value: {
        path: '/chat/completions',
        body: { model: 'm', stream: true, random_seed: 7, max_tokens: 9, messages: [{ role: 'system', content: 'x' }] },
      },
    })
  })

  test('of a schema without an envelope is made up by one', () => {
    const schema = { type: 'array' }
    expect(bodyOf({ outputFormat: { kind: 'json', schema } }, 'groq').response_format).toEqual({
      type: 'json_schema',
      json_schema: { name: 'answer', schema },
    })
  })

  test('behind a router keeps the request away from servers that would ignore it', () => {
    expect(bodyOf(sampling({ topK: 3 }), 'openrouter').provider).toEqual({ require_parameters: true })
    expect(bodyOf({}, 'openrouter')).not.toHaveProperty('provider')
    expect(bodyOf({ reasoning: { effort: 'none' } }, 'openrouter')).not.toHaveProperty('provider')
    for (const asked of [{ tools: [LOOK] }, { logprobs: { top: 1 } }, { reasoning: { effort: 'low' as const } }]) {
      expect(bodyOf(asked, 'openrouter').provider).toEqual({ require_parameters: true })
    }
  })
})

describe('how much to think', () => {
  test.each([
    [{ effort: 'xhigh' as const, budgetTokens: 1 }, 'xhigh'],
    [{ budgetTokens: 0 }, 'none'],
    [{ budgetTokens: 2048 }, 'low'],
    [{ budgetTokens: 2049 }, 'medium'],
    [{ budgetTokens: 8193 }, 'high'],
    [{ show: true }, undefined],
  ])('%j is the effort %s', (reasoning, effort) => {
    expect(effortOf(reasoning)).toBe(effort)
  })

  test('is the nearest word that the server knows, and never none unless asked', () => {
    expect(nearestEffort('xhigh', ['none', 'low', 'high'])).toBe('high')
    expect(nearestEffort('minimal', ['none', 'high'])).toBe('high')
    expect(nearestEffort('medium', ['none', 'low', 'high'])).toBe('low')
    expect(nearestEffort('none', ['low'])).toBeUndefined()
    expect(nearestEffort('max', undefined)).toBe('max')
  })

  test.each([
    [undefined, { effort: 'high' as const }, { reasoning_effort: 'high' }],
    ['xai', { effort: 'max' as const }, { reasoning_effort: 'high' }],
    ['groq', { effort: 'low' as const, show: false }, { reasoning_effort: 'low', include_reasoning: false }],
    ['deepseek', { effort: 'none' as const }, { thinking: { type: 'disabled' } }],
    ['deepseek', { budgetTokens: 9000 }, { thinking: { type: 'enabled' }, reasoning_effort: 'high' }],
    ['openrouter', { budgetTokens: 9000, show: false }, { reasoning: { max_tokens: 9000, exclude: true } }],
    ['openrouter', { effort: 'low' as const }, { reasoning: { effort: 'low' } }],
  ])('is said to %s, asked as %j, with %j', (preset, reasoning, fields) => {
    expect(bodyOf({ reasoning }, preset)).toMatchObject(fields)
  })
})

describe('a call', () => {
  const config = {
    name: 'p',
    kind: 'openai' as const,
    baseUrl: 'https://api.openai.com/v1',
    reach: 'public' as const,
    keys: [],
    options: { headers: { 'openai-organization': 'org-1' } },
    usageDialect: 'openai' as const,
    cutoff: 'drain' as const,
  }
  const target = { provider: 'p', model: 'my deployment/1', contextTokens: 100, price: undefined }
  const sent = async (vendor: Vendor, over: object = {}, asked = request()) => {
    const encoded = await vendor.encode(asked, target, {
      config: { ...config, ...over },
      key: { name: 'k', secret: 's3cret', weight: 1 },
      maxOutputTokens: 5,
      requestId: 'r-1',
      nowMs: () => 0,
    })
    if (!encoded.ok) throw new Error(encoded.error.message)
    return { ...encoded.value, body: JSON.parse(encoded.value.body) as Record<string, unknown> }
  }

  test('of OpenAI names the organisation, the key and the newer limit', async () => {
    const { url, headers, body } = await sent(openAi)
    expect(url).toBe('https://api.openai.com/v1/chat/completions')
    expect(headers).toMatchObject({ authorization: 'Bearer s3cret', 'openai-organization': 'org-1' })
    expect(body).toMatchObject({ max_completion_tokens: 5, stream: true })
    expect(body).not.toHaveProperty('max_tokens')
  })

  test('of a registered header cannot change the key', async () => {
    const { headers } = await sent(openAi, { options: { headers: { authorization: 'Bearer other' } } })
    expect(headers.authorization).toBe('Bearer s3cret')
  })

  test.each([
    [
      'https://r.openai.azure.com',
      undefined,
      'https://r.openai.azure.com/openai/v1/chat/completions',
      'max_completion_tokens',
    ],
    [
      'https://r.openai.azure.com/openai/v1',
      'preview',
      'https://r.openai.azure.com/openai/v1/chat/completions?api-version=preview',
      'max_completion_tokens',
    ],
    [
      'https://r.openai.azure.com',
      '2024-10-21',
      'https://r.openai.azure.com/openai/deployments/my%20deployment%2F1/chat/completions?api-version=2024-10-21',
      'max_tokens',
    ],
    [
      'https://r.openai.azure.com/openai',
      '2025-04-01-preview',
      'https://r.openai.azure.com/openai/deployments/my%20deployment%2F1/chat/completions?api-version=2025-04-01-preview',
      'max_completion_tokens',
    ],
  ])('of Azure at %s with version %s goes to %s', async (baseUrl, apiVersion, address, limit) => {
    const options = apiVersion === undefined ? {} : { apiVersion }
    const { url, headers, body } = await sent(azureOpenAi, { baseUrl, options })
    expect(url).toBe(address)
    expect(headers).toMatchObject({ 'api-key': 's3cret' })
    expect(headers).not.toHaveProperty('authorization')
    expect(body[limit]).toBe(5)
  })

  test('of another server goes to the address it is registered with, whatever its preset', async () => {
    const { url, body } = await sent(openAiCompatible, { baseUrl: 'https://proxy.example/x', preset: 'xai' })
    expect(url).toBe('https://proxy.example/x/chat/completions')
    expect(body).toHaveProperty('max_completion_tokens')
  })
})
