// What Gemini is asked, where it depends on the model or on the conversation; what each feature becomes is test/contract.
import { describe, expect, test } from 'vitest'
import { gemini } from '../../../../gateway/providers/gemini.ts'
import { geminiContents } from '../../../../gateway/providers/gemini-contents.ts'
import { encodeGemini } from '../../../../gateway/providers/gemini-encoder.ts'
import { thinkingConfig } from '../../../../gateway/providers/gemini-thinking.ts'
import {
  type ChatMessage,
  type InferenceRequest,
  NEUTRAL_SAMPLING,
  REASONING_EFFORTS,
} from '../../../../protocol/request.ts'

const MODEL = 'gemini-3.5-flash'
const say = (role: 'user' | 'assistant' | 'system' | 'developer', text: string): ChatMessage => ({
  role,
  content: [{ type: 'text', text }],
})
const call = (id: string, name = 'weather', seal?: { by: string; value: string }): ChatMessage['content'][number] => ({
  type: 'tool_call',
  id,
  name,
  arguments: '{"city":"Oslo"}',
  ...(seal === undefined ? {} : { seal }),
})
const result = (toolCallId: string, text: string): ChatMessage => ({
  role: 'tool',
  toolCallId,
  content: [{ type: 'text', text }],
})

function contents(messages: ChatMessage[], model = MODEL) {
  const written = geminiContents(messages, model)
  if (!written.ok) throw new Error(written.error.message)
  return written.value
}

const request = (more: Partial<InferenceRequest>): InferenceRequest => ({
  model: 'any',
  input: { kind: 'chat', messages: [say('user', 'Hi')] },
  sampling: NEUTRAL_SAMPLING,
  n: 1,
  stop: [],
  ...more,
})

function body(more: Partial<InferenceRequest>) {
  const encoded = encodeGemini(request(more), { model: MODEL }, undefined)
  if (!encoded.ok) throw new Error(encoded.error.message)
  return encoded.value.body
}

describe('thinking', () => {
  const asked = (model: string) =>
    REASONING_EFFORTS.map((effort) => {
      const { thinkingLevel, thinkingBudget } = thinkingConfig({ effort }, model) ?? {}
      return thinkingLevel ?? thinkingBudget
    })

  test.each([
    ['gemini-3.5-flash', ['MINIMAL', 'MINIMAL', 'LOW', 'MEDIUM', 'HIGH', 'HIGH', 'HIGH']],
    ['gemini-3.7-flash', ['LOW', 'LOW', 'LOW', 'MEDIUM', 'HIGH', 'HIGH', 'HIGH']],
    ['gemini-3.7-flash-lite', ['MINIMAL', 'MINIMAL', 'LOW', 'MEDIUM', 'HIGH', 'HIGH', 'HIGH']],
    ['gemini-flash-latest', ['LOW', 'LOW', 'LOW', 'MEDIUM', 'HIGH', 'HIGH', 'HIGH']],
    ['gemini-3-pro-preview', ['LOW', 'LOW', 'LOW', 'HIGH', 'HIGH', 'HIGH', 'HIGH']],
    ['gemini-3.1-pro-preview', ['LOW', 'LOW', 'LOW', 'MEDIUM', 'HIGH', 'HIGH', 'HIGH']],
    ['gemini-4-argon', ['LOW', 'LOW', 'LOW', 'MEDIUM', 'HIGH', 'HIGH', 'HIGH']],
    ['models/gemini-4.1-flash', ['LOW', 'LOW', 'LOW', 'MEDIUM', 'HIGH', 'HIGH', 'HIGH']],
    ['gemini-4.1-flash-lite', ['MINIMAL', 'MINIMAL', 'LOW', 'MEDIUM', 'HIGH', 'HIGH', 'HIGH']],
    ['gemini-pro-latest', ['LOW', 'LOW', 'LOW', 'MEDIUM', 'HIGH', 'HIGH', 'HIGH']],
    ['gemini-2.5-flash', [0, 1024, 1024, 8192, 24_576, 24_576, 24_576]],
    ['gemini-2.5-pro', [128, 1024, 1024, 8192, 24_576, 32_768, 32_768]],
    ['gemini-2.0-flash', Array(7).fill(undefined)],
    ['gemini-1.5-pro-002', Array(7).fill(undefined)],
    ['gemini-pro', Array(7).fill(undefined)],
  ])('%s is asked in its own words for each effort', (model, words) => {
    expect(asked(model)).toEqual(words)
  })

  test('goes by a budget before an effort, at most what a 2.5 model takes', () => {
    const both = { effort: 'high', budgetTokens: 30_000 } as const
    expect(thinkingConfig(both, 'gemini-3.5-flash')).toEqual({ thinkingBudget: 30_000 })
    expect(thinkingConfig(both, 'gemini-2.5-pro')).toEqual({ thinkingBudget: 30_000 })
    expect(thinkingConfig(both, 'gemini-2.5-flash-lite')).toEqual({ thinkingBudget: 24_576 })
  })

  test('within a budget is asked of the fourth generation as a level', () => {
    const levels = [0, 2000, 8000, 30_000].map((budgetTokens) => thinkingConfig({ budgetTokens }, 'gemini-4-argon'))
    expect(levels).toEqual(['LOW', 'LOW', 'MEDIUM', 'HIGH'].map((thinkingLevel) => ({ thinkingLevel })))
  })

  test('that nobody asked about is left to the model', () => {
    expect(thinkingConfig(undefined, MODEL)).toBeUndefined()
    expect(thinkingConfig({}, MODEL)).toBeUndefined()
    expect(thinkingConfig({ show: false }, MODEL)).toEqual({ includeThoughts: false })
  })
})

test.each([
  [{ temperature: 0 }, 'temperature'],
  [{ topP: 0.9 }, 'topP'],
  [{ topK: 40 }, 'topK'],
  [{ temperature: 1, topP: 1, topK: 0 }, undefined],
])('of sampling with %j the fourth generation is spared %s', (sampling, param) => {
  const asked = request({ sampling: { ...NEUTRAL_SAMPLING, ...sampling } })
  const encoded = encodeGemini(asked, { model: 'gemini-4-argon' }, 100)
  expect(encoded.ok ? undefined : encoded.error.param).toBe(param)
  if (encoded.ok) expect(encoded.value.body.generationConfig).toEqual({ maxOutputTokens: 100 })
  expect(encodeGemini(asked, { model: MODEL }, 100).ok).toBe(true)
})

describe('a conversation', () => {
  test('has its instructions in front, wherever they stood', () => {
    const { system, contents: turns } = contents([
      say('system', 'A'),
      say('user', 'Hi'),
      say('developer', 'B'),
      say('user', 'There'),
    ])
    expect(system).toEqual([{ text: 'A' }, { text: 'B' }])
    expect(turns).toEqual([{ role: 'user', parts: [{ text: 'Hi' }, { text: 'There' }] }])
  })

  test('of instructions alone asks them', () => {
    expect(contents([say('system', 'Tell a joke.')])).toEqual({
      system: [],
      contents: [{ role: 'user', parts: [{ text: 'Tell a joke.' }] }],
    })
  })

  test('keeps answers of tools together, and apart from what the user says next', () => {
    const { contents: turns } = contents([
      say('user', 'Hi'),
      { role: 'assistant', content: [call('a'), call('b', 'clock')] },
      result('b', '12:00'),
      result('a', '4'),
      say('user', 'Thanks'),
    ])
    expect(turns.map(({ role, parts }) => [role, parts.length])).toEqual([
      ['user', 1],
      ['model', 2],
      ['user', 2],
      ['user', 1],
    ])
    expect(turns[2]?.parts).toMatchObject([
      { functionResponse: { id: 'b', name: 'clock', response: { output: '12:00' } } },
      { functionResponse: { id: 'a', name: 'weather', response: { output: '4' } } },
    ])
  })

  test('with an answer to no call is refused', () => {
    const written = geminiContents([say('user', 'Hi'), result('nobody', '4')], MODEL)
    expect(written).toMatchObject({ ok: false, error: { code: 'invalid_request', param: 'messages' } })
  })

  test('names the missing signature of the first call of a turn, for models that demand one', () => {
    const turn = (model: string, ...calls: ChatMessage['content']) =>
      contents([say('user', 'Hi'), { role: 'assistant', content: calls }], model).contents[1]?.parts.map(
        ({ thoughtSignature }) => thoughtSignature,
      )
    const own = { by: 'gemini', value: 'c2ln' }
    const none = 'skip_thought_signature_validator'
    expect(turn(MODEL, call('a'), call('b'))).toEqual([none, undefined])
    expect(turn(MODEL, call('a', 'weather', own), call('b'))).toEqual(['c2ln', undefined])
    expect(turn(MODEL, call('a', 'weather', { by: 'anthropic', value: 'x' }))).toEqual([none])
    expect(turn('gemini-2.5-flash', call('a'), call('b', 'clock', own))).toEqual([undefined, 'c2ln'])
  })

  test('gives back thoughts with a seal of its own, and no others', () => {
    const seal = { by: 'gemini', value: 'c2ln' }
    const { contents: turns } = contents([
      say('user', 'Hi'),
      {
        role: 'assistant',
        content: [
          { type: 'thought', text: 'Hm.' },
          { type: 'thought', text: 'Well.', seal: { by: 'anthropic', value: 'x' } },
          { type: 'thought', text: 'So.', seal },
          { type: 'text', text: 'Hello' },
          { type: 'thought', text: '', seal },
        ],
      },
    ])
    expect(turns[1]?.parts).toEqual([
      { text: 'So.', thought: true, thoughtSignature: 'c2ln' },
      { text: 'Hello' },
      { text: '', thoughtSignature: 'c2ln' },
    ])
  })

  test.each([
    ['', {}],
    ['{"a":1}', { a: 1 }],
    ['{"a":', { arguments: '{"a":' }],
    ['[1]', { arguments: '[1]' }],
  ])('shows the arguments %j that a model once wrote as an object', (text, args) => {
    const content: ChatMessage['content'] = [{ type: 'tool_call', id: 'a', name: 'weather', arguments: text }]
    const { contents: turns } = contents([say('user', 'Hi'), { role: 'assistant', content }])
    expect(turns[1]?.parts[0]?.functionCall).toEqual({ id: 'a', name: 'weather', args })
  })

  test('shows an image of a tool beside its answer where a model takes none inside', () => {
    const image = { type: 'image', source: { kind: 'data', mediaType: 'image/png', data: 'AAAA' } } as const
    const messages: ChatMessage[] = [
      say('user', 'Hi'),
      { role: 'assistant', content: [call('a')] },
      { role: 'tool', toolCallId: 'a', content: [{ type: 'text', text: 'here' }, image] },
    ]
    expect(contents(messages, 'gemini-2.5-flash').contents[2]?.parts).toEqual([
      { functionResponse: { id: 'a', name: 'weather', response: { output: 'here' } } },
      { inlineData: { mimeType: 'image/png', data: 'AAAA' } },
    ])
  })
})

describe('a request', () => {
  test('says nothing of what nobody asked for', () => {
    expect(body({})).toEqual({ contents: [{ role: 'user', parts: [{ text: 'Hi' }] }] })
  })

  test.each([-7, 2 ** 40 + 3, Number.MAX_SAFE_INTEGER])('brings the seed %i into 32 bits', (seed) => {
    const sampling = { ...NEUTRAL_SAMPLING, seed }
    const { generationConfig } = body({ sampling }) as { generationConfig: { seed: number } }
    expect(generationConfig.seed).toBeGreaterThanOrEqual(0)
    expect(generationConfig.seed).toBeLessThan(2 ** 31)
    expect(body({ sampling })).toEqual(body({ sampling }))
  })

  test.each([
    ['n', { n: 9 }],
    ['stop', { stop: ['1', '2', '3', '4', '5', '6'] }],
    ['outputFormat', { outputFormat: { kind: 'json', schema: false } }],
    ['input', { input: { kind: 'embedding', prompts: Array(101).fill({ text: 'a' }) } }],
    ['input', { input: { kind: 'embedding', prompts: [{ tokenIds: [1] }] } }],
  ] as [string, Partial<InferenceRequest>][])('is refused for its %s beyond what Google takes', (param, more) => {
    const encoded = encodeGemini(request(more), { model: MODEL }, undefined)
    expect(encoded).toMatchObject({ ok: false, error: { code: 'invalid_request', param, kind: 'refused' } })
  })

  test('may forbid parallel calls where it forbids all of them', () => {
    const tools = [{ name: 'weather' }]
    expect(body({ tools, parallelToolCalls: false, toolChoice: { mode: 'none' } })).toMatchObject({
      tools: [{ functionDeclarations: [{ name: 'weather' }] }],
      toolConfig: { functionCallingConfig: { mode: 'NONE' } },
    })
  })
})

describe('a count of tokens', () => {
  const context = {
    config: {
      name: 'google',
      kind: 'gemini',
      baseUrl: 'https://generativelanguage.googleapis.com',
      reach: 'public',
      keys: [],
      options: { headers: { 'x-goog-api-key': 'another', 'x-team': 'a' } },
      usageDialect: 'gemini',
      cutoff: 'cancel',
    },
    key: { name: 'first', secret: 'AIza', weight: 1 },
    requestId: 'r',
    nowMs: () => 0,
  } as const
  const target = { provider: 'google', model: 'tunedModels/ours-7', contextTokens: 1000, price: undefined }

  test('is asked with the whole request, at the name that a tuned model has', async () => {
    const encoded = await gemini.countTokens?.encode(request({}), target, {
      ...context,
      config: { ...context.config, keys: [] },
    })
    if (encoded?.ok !== true) throw new Error('not encoded')
    const { url, headers, body: text } = encoded.value
    expect(url).toBe('https://generativelanguage.googleapis.com/v1beta/tunedModels/ours-7:countTokens')
    expect(headers).toMatchObject({ 'x-goog-api-key': 'AIza', 'x-team': 'a' })
    expect(JSON.parse(text)).toEqual({
      generateContentRequest: {
        model: 'tunedModels/ours-7',
        contents: [{ role: 'user', parts: [{ text: 'Hi' }] }],
      },
    })
  })

  test.each([
    ['{"totalTokens":31,"promptTokensDetails":[]}', 31],
    ['{"totalTokens":"31"}', undefined],
    ['{}', undefined],
    ['<html>', undefined],
  ])('is read from %s', (text, count) => {
    expect(gemini.countTokens?.read(text)).toBe(count)
  })
})
