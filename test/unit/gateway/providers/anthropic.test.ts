// Requests in Anthropic's form: turns, instructions, thoughts, tools and cache marks, for the generations of Claude.
import { describe, expect, test } from 'vitest'
import { anthropic } from '../../../../gateway/providers/anthropic.ts'
import { encodeAnthropic, encodeAnthropicCount } from '../../../../gateway/providers/anthropic-encoder.ts'
import { type ClaudeTraits, claudeTraits } from '../../../../gateway/providers/claude-models.ts'
import {
  type ChatMessage,
  type ContentPart,
  type InferenceRequest,
  NEUTRAL_SAMPLING,
  type Reasoning,
} from '../../../../protocol/request.ts'

const NEW = 'claude-opus-5'
const OLD = 'claude-sonnet-4-5-20250929'
const text = (words: string, more: Partial<ContentPart> = {}): ContentPart =>
  ({ type: 'text', text: words, ...more }) as ContentPart
const says = (role: ChatMessage['role'], ...parts: (string | ContentPart)[]): ChatMessage => ({
  role,
  content: parts.map((part) => (typeof part === 'string' ? text(part) : part)),
})
const call = (id: string, args = '{}', name = 'weather'): ContentPart => ({
  type: 'tool_call',
  id,
  name,
  arguments: args,
})
const result = (toolCallId: string, ...parts: string[]): ChatMessage => ({ ...says('tool', ...parts), toolCallId })
const thought = (by: string, value: string, isRedacted = false): ContentPart => ({
  type: 'thought',
  text: 'Hm.',
  seal: { by, value, ...(isRedacted ? { isRedacted } : {}) },
})
const TOOLS = [{ name: 'weather' }]

function request(messages: ChatMessage[], more: Partial<InferenceRequest> = {}): InferenceRequest {
  return {
    model: 'any',
    input: { kind: 'chat', messages },
    sampling: NEUTRAL_SAMPLING,
    n: 1,
    stop: [],
    ...more,
  }
}

type Body = Record<string, unknown> & { messages: { role: string; content: Record<string, unknown>[] }[] }

function body(messages: ChatMessage[], more: Partial<InferenceRequest> = {}, model = NEW, maxTokens = 1000): Body {
  const encoded = encodeAnthropic(request(messages, more), { model, contextTokens: 200_000 }, maxTokens)
  if (!encoded.ok) throw new Error(`${encoded.error.param}: ${encoded.error.message}`)
  return encoded.value as Body
}

function refused(more: Partial<InferenceRequest>, model = NEW, maxTokens = 1000): string | undefined {
  const asked = request([says('user', 'hi')], more)
  const encoded = encodeAnthropic(asked, { model, contextTokens: 200_000 }, maxTokens)
  return encoded.ok ? undefined : encoded.error.param
}

const shape = ({ messages }: Body) =>
  messages.map(({ role, content }) => [role, ...content.map((block) => block.text ?? block.type)])

describe('a conversation', () => {
  test('has neighbours of one role in one turn, and answers of tools at its head', () => {
    const sent = body([
      says('user', 'a'),
      says('user', 'b'),
      says('assistant', 'c'),
      says('assistant', call('t1'), call('t2')),
      result('t1', 'one'),
      says('user', 'd'),
      result('t2', 'two'),
    ])
    expect(shape(sent)).toEqual([
      ['user', 'a', 'b'],
      ['assistant', 'c', 'tool_use', 'tool_use'],
      ['user', 'tool_result', 'tool_result', 'd'],
    ])
    expect(sent.messages[2]?.content.map((block) => block.tool_use_id)).toEqual(['t1', 't2', undefined])
  })

  test('has its instructions in front, and those in its middle in place where the model knows such turns', () => {
    const messages = [
      says('system', 'first'),
      says('developer', 'second'),
      says('user', 'a'),
      says('system', 'between'),
      says('assistant', 'b'),
      says('user', 'c'),
      says('system', 'last'),
    ]
    const sent = body(messages)
    expect(sent.system).toEqual([
      { type: 'text', text: 'first' },
      { type: 'text', text: 'second' },
    ])
    expect(shape(sent)).toEqual([
      ['user', 'a'],
      ['system', 'between'],
      ['assistant', 'b'],
      ['user', 'c'],
      ['system', 'last'],
    ])
    const older = body(messages, {}, OLD)
    expect((older.system as unknown[]).length).toBe(4)
    expect(shape(older)).toEqual([
      ['user', 'a'],
      ['assistant', 'b'],
      ['user', 'c'],
    ])
  })

  test('keeps an instruction between two turns of the user out of their way', () => {
    const sent = body([says('user', 'a'), says('system', 'between'), says('user', 'b')])
    expect(shape(sent)).toEqual([['user', 'a', 'b']])
    expect(sent.system).toEqual([{ type: 'text', text: 'between' }])
  })

  test('of instructions alone asks them', () => {
    const sent = body([says('system', 'Tell a joke.')])
    expect(shape(sent)).toEqual([['user', 'Tell a joke.']])
    expect(sent).not.toHaveProperty('system')
  })

  test('leaves out text that says nothing, and turns of nothing else', () => {
    expect(shape(body([says('user', 'a', ' \n'), says('assistant', ''), says('user', 'b')]))).toEqual([
      ['user', 'a', 'b'],
    ])
  })

  test('gives back the vendor’s own thoughts word for word, and nobody else’s', () => {
    const sent = body([
      says('user', 'a'),
      says('assistant', thought('gemini', 'x'), thought('anthropic', 'sig'), thought('anthropic', 'data', true), {
        type: 'thought',
        text: 'unsealed',
      }),
    ])
    expect(sent.messages[1]?.content).toEqual([
      { type: 'thinking', thinking: 'Hm.', signature: 'sig' },
      { type: 'redacted_thinking', data: 'data' },
    ])
  })

  test.each([
    ['{"a":1}', { a: 1 }],
    ['', {}],
    ['{"a":', { INVALID_JSON: '{"a":' }],
    ['[1]', { INVALID_JSON: '[1]' }],
  ])('shows the arguments %j as %j', (args, input) => {
    expect(body([says('user', 'a'), says('assistant', call('t1', args))]).messages[1]?.content[0]).toMatchObject({
      input,
    })
  })

  test('has ids that the vendor takes, the same for a call and its result', () => {
    const sent = body([
      says('user', 'a'),
      says('assistant', call('chat:1'), call('ok_1'), call('chat:2')),
      result('chat:2', 'x'),
    ])
    expect(sent.messages[1]?.content.map((block) => block.id)).toEqual([
      expect.stringMatching(/^[A-Za-z0-9]{9}$/),
      'ok_1',
      expect.stringMatching(/^[A-Za-z0-9]{9}$/),
    ])
    const [first, , last] = sent.messages[1]?.content ?? []
    expect(last?.id).not.toBe(first?.id)
    expect(sent.messages[2]?.content[0]).toMatchObject({ tool_use_id: last?.id })
    // An id that looks like one made here stays the call's own.
    const twins = body([says('user', 'a'), says('assistant', call('call00001'), call('a:b'))]).messages[1]?.content
    expect(twins?.[0]?.id).toBe('call00001')
    expect(twins?.[1]?.id).not.toBe('call00001')
  })
})

describe('cache marks', () => {
  const cache = { ttl: '5m' as const }

  test('stand where they were asked for, the last four of them', () => {
    const sent = body(
      [
        says('system', text('s', { cache })),
        says('user', text('a', { cache }), text('b', { cache })),
        says('assistant', call('t1')),
        { role: 'tool', toolCallId: 't1', content: [text('r', { cache: { ttl: '1h' } })] },
      ],
      { tools: [{ name: 'weather', cache }] },
    )
    const marked = JSON.stringify(sent).match(/"cache_control":\{[^}]*\}/g)
    expect(marked).toHaveLength(4)
    expect((sent.tools as object[])[0]).not.toHaveProperty('cache_control')
    expect(sent.messages[2]?.content[0]).toMatchObject({
      type: 'tool_result',
      cache_control: { type: 'ephemeral', ttl: '1h' },
    })
  })
})

describe('thinking', () => {
  const think = (reasoning: Reasoning, model: string, maxTokens = 10_000, more: Partial<InferenceRequest> = {}) => {
    const { thinking, output_config } = body([says('user', 'a')], { reasoning, ...more }, model, maxTokens)
    return { thinking, output_config }
  }

  test.each<[string, Reasoning, unknown, unknown]>([
    [NEW, { effort: 'minimal' }, { type: 'adaptive' }, { effort: 'low' }],
    [NEW, { effort: 'xhigh' }, { type: 'adaptive' }, { effort: 'xhigh' }],
    [NEW, { effort: 'none' }, { type: 'disabled' }, undefined],
    [NEW, { budgetTokens: 0 }, { type: 'disabled' }, undefined],
    [NEW, { budgetTokens: 10_000, show: false }, { type: 'adaptive', display: 'omitted' }, { effort: 'medium' }],
    [NEW, { budgetTokens: 60_000 }, { type: 'adaptive' }, { effort: 'high' }],
    [NEW, { show: true }, { type: 'adaptive', display: 'summarized' }, undefined],
    ['claude-fable-5-1', { effort: 'none' }, undefined, { effort: 'low' }],
    ['claude-opus-5-5', { effort: 'none' }, undefined, { effort: 'low' }],
    ['claude-sonnet-5-5', { effort: 'none' }, { type: 'between_tools' }, undefined],
    ['claude-sonnet-5-5', { effort: 'max' }, { type: 'adaptive' }, { effort: 'max' }],
    ['claude-haiku-5-5', { effort: 'none' }, { type: 'disabled' }, undefined],
    ['claude-mythos-preview', { effort: 'high' }, { type: 'adaptive' }, { effort: 'high' }],
    ['claude-opus-4-6', { effort: 'xhigh' }, { type: 'adaptive' }, { effort: 'high' }],
    ['claude-opus-4-6', { effort: 'max' }, { type: 'adaptive' }, { effort: 'max' }],
    ['claude-opus-4-6', { budgetTokens: 2000 }, { type: 'enabled', budget_tokens: 2000 }, undefined],
    [
      'claude-opus-4-6',
      { budgetTokens: 2000, effort: 'medium', show: true },
      { type: 'enabled', budget_tokens: 2000, display: 'summarized' },
      { effort: 'medium' },
    ],
    [OLD, { effort: 'high' }, { type: 'enabled', budget_tokens: 8000 }, undefined],
    [OLD, { effort: 'minimal' }, { type: 'enabled', budget_tokens: 1024 }, undefined],
    [OLD, { show: true }, undefined, undefined],
    ['claude-3-5-haiku-20241022', { effort: 'high' }, undefined, undefined],
    ['kimi-k3', { budgetTokens: 2000 }, { type: 'enabled', budget_tokens: 2000 }, undefined],
  ])('of %s for %j is %j with %j', (model, reasoning, thinking, output_config) => {
    expect(think(reasoning, model)).toEqual({ thinking, output_config })
  })

  test('within a number of tokens gives way to a call that the model must make; left to the model it does not', () => {
    const forced = { tools: TOOLS, toolChoice: { mode: 'required' as const } }
    const asked = { thinking: { type: 'adaptive' }, output_config: { effort: 'high' } }
    expect(think({ effort: 'high' }, OLD, 10_000, forced)).toEqual({})
    expect(think({ effort: 'high' }, NEW, 10_000, forced)).toEqual(asked)
    expect(think({ effort: 'high' }, 'claude-opus-4-6', 10_000, forced)).toEqual(asked)
  })

  test.each(['claude-opus-5-5', 'claude-sonnet-5-5', 'claude-fable-5-1', 'claude-mythos-5-1'])(
    'cannot be left out by %s, of which no call is forced',
    (model) => {
      const choices = [{ mode: 'required' }, { mode: 'tool', name: 'weather' }] as const
      for (const toolChoice of choices) expect(refused({ tools: TOOLS, toolChoice }, model)).toBe('toolChoice')
      for (const mode of ['auto', 'none'] as const) {
        expect(refused({ tools: TOOLS, toolChoice: { mode } }, model)).toBeUndefined()
      }
    },
  )

  test('gives way where a turn goes on whose thoughts are lost, for models that would refuse it', () => {
    const lost = [says('user', 'a'), says('assistant', call('t1')), result('t1', 'r')]
    const kept = [says('user', 'a'), says('assistant', thought('anthropic', 's'), call('t1')), result('t1', 'r')]
    const reasoning: Reasoning = { effort: 'high' }
    expect(body(lost, { reasoning, tools: TOOLS }, OLD, 4000)).not.toHaveProperty('thinking')
    expect(body(kept, { reasoning, tools: TOOLS }, OLD, 4000)).toMatchObject({ thinking: { type: 'enabled' } })
    expect(body(lost, { reasoning, tools: TOOLS }, NEW, 4000)).toMatchObject({ thinking: { type: 'adaptive' } })
  })

  test('that was asked for by itself and cannot be is refused, and not left out in silence', () => {
    const forced = { tools: TOOLS, toolChoice: { mode: 'required' as const } }
    const adaptive: Reasoning = { isRequired: true }
    const enabled: Reasoning = { budgetTokens: 2000, isRequired: true }
    for (const model of [NEW, 'claude-opus-4-6']) {
      expect(refused({ reasoning: adaptive, ...forced }, model, 4000)).toBeUndefined()
      expect(refused({ reasoning: adaptive }, model, 4000)).toBeUndefined()
    }
    expect(refused({ reasoning: enabled, ...forced }, 'claude-opus-4-6', 4000)).toBe('reasoning')
    for (const model of [OLD, 'claude-3-5-haiku-20241022']) {
      expect(refused({ reasoning: adaptive }, model, 4000)).toBe('reasoning')
      expect(refused({ reasoning: enabled, ...forced }, model, 4000)).toBe('reasoning')
    }
    expect(refused({ reasoning: enabled }, 'claude-3-5-haiku-20241022', 4000)).toBe('reasoning')
    expect(refused({ reasoning: { ...adaptive, effort: 'low' } }, OLD, 1024)).toBe('reasoning')
    expect(refused({ reasoning: { ...enabled, budgetTokens: 4000 } }, OLD, 4000)).toBe('reasoning')
    expect(think({ ...adaptive, effort: 'high' }, OLD)).toEqual({ thinking: { type: 'enabled', budget_tokens: 8000 } })
  })

  test('that has no room is refused where a budget was asked for, and left out where an effort was', () => {
    expect(refused({ reasoning: { budgetTokens: 1000 } }, OLD, 4000)).toBe('reasoning')
    expect(refused({ reasoning: { budgetTokens: 2000 } }, OLD, 1024)).toBe('reasoning')
    expect(think({ effort: 'high' }, OLD, 1024)).toEqual({})
  })

  test('is not what the version of the API forbids sampling for', () => {
    const asked = request([says('user', 'a')], { sampling: { ...NEUTRAL_SAMPLING, temperature: 0.5 } })
    const paramIn = (apiVersion: string) => {
      const encoded = encodeAnthropic(asked, { model: OLD, contextTokens: 200_000 }, 100, { apiVersion })
      return encoded.ok ? encoded.value.temperature : encoded.error.param
    }
    expect(paramIn('2023-06-01')).toBe(0.5)
    expect(paramIn('2026-10-21')).toBe('temperature')
    const plain = request([says('user', 'a')], { sampling: { ...NEUTRAL_SAMPLING, temperature: 1, topP: 1 } })
    const sent = encodeAnthropic(plain, { model: OLD, contextTokens: 200_000 }, 100, { apiVersion: '2026-10-21' })
    expect(sent.ok && Object.keys(sent.value)).not.toContain('temperature')
  })

  test('and sampling exclude each other', () => {
    const sampling = (more: object) => ({ sampling: { ...NEUTRAL_SAMPLING, ...more } })
    const thinks = { reasoning: { effort: 'high' as const } }
    expect(refused({ ...sampling({ temperature: 0.5 }) }, NEW)).toBe('temperature')
    expect(refused({ ...sampling({ temperature: 0.5 }) }, OLD)).toBeUndefined()
    expect(refused({ ...sampling({ temperature: 0.5 }), ...thinks }, OLD, 4000)).toBe('temperature')
    expect(refused({ ...sampling({ temperature: 1.5 }) }, OLD)).toBe('temperature')
    expect(refused({ ...sampling({ topK: 5 }), ...thinks }, OLD, 4000)).toBe('topK')
    expect(refused({ ...sampling({ topP: 0.5 }), ...thinks }, OLD, 4000)).toBe('topP')
    expect(refused({ ...sampling({ topP: 0.97 }), ...thinks }, OLD, 4000)).toBeUndefined()
    expect(refused({ ...sampling({ topP: 0.97 }) }, NEW)).toBe('topP')
  })
})

test('a tool has its hints for the vendor with it', () => {
  const tools = [{ name: 'f', eagerInput: true, inputExamples: [{ a: 1 }] }]
  expect(body([says('user', 'a')], { tools }).tools).toEqual([
    {
      name: 'f',
      input_schema: { type: 'object', properties: {} },
      eager_input_streaming: true,
      input_examples: [{ a: 1 }],
    },
  ])
})

describe('names', () => {
  test('with characters that the vendor refuses are written in others, and read back as they were', () => {
    const tools = [{ name: 'city.weather' }]
    const sent = body([says('user', 'a'), says('assistant', call('t1', '{}', 'city.weather'))], {
      tools,
      toolChoice: { mode: 'tool', name: 'city.weather' },
    })
    expect(sent.tools).toEqual([{ name: 'city_weather', input_schema: { type: 'object', properties: {} } }])
    expect(sent.tool_choice).toEqual({ type: 'tool', name: 'city_weather' })
    expect(sent.messages[1]?.content[0]).toMatchObject({ name: 'city_weather' })
    const decoder = anthropic.decoder(request([], { tools }), TARGET, CONFIG)
    const answer = {
      type: 'message',
      content: [{ type: 'tool_use', id: 't1', name: 'city_weather', input: {} }],
      stop_reason: 'tool_use',
    }
    expect(decoder.whole(JSON.stringify(answer))[0]).toMatchObject({ type: 'tool_call', name: 'city.weather' })
  })

  test('that become one are refused', () => {
    expect(refused({ tools: [{ name: 'a.b' }, { name: 'a_b' }] })).toBe('tools')
  })
})

describe('bounds and forms', () => {
  const bound = (model: string, target: object, asked?: number) => {
    const encoded = encodeAnthropic(request([says('user', 'a')]), { model, contextTokens: 200_000, ...target }, asked)
    return encoded.ok ? encoded.value.max_tokens : encoded.error
  }

  test.each<[string, object, number | undefined, number]>([
    [NEW, {}, 77, 77],
    [NEW, { outputTokensMax: 64_000 }, undefined, 64_000],
    [NEW, { outputTokensMax: 64_000 }, 100_000, 64_000],
    [NEW, {}, undefined, 32_000],
    [NEW, { contextTokens: 8000 }, undefined, 8000],
    ['claude-3-haiku-20240307', {}, undefined, 4096],
    ['some-other-model', {}, undefined, 8192],
  ])('%s with %j and %j asked for gives at most %i tokens', (model, target, asked, max) => {
    expect(bound(model, target, asked)).toBe(max)
  })

  test('a schema is for models that can be held to it, and stop strings say something', () => {
    const outputFormat = { kind: 'json_schema' as const, name: 'x', schema: { type: 'object' } }
    expect(refused({ outputFormat }, 'claude-sonnet-4-20250514')).toBe('outputFormat')
    expect(refused({ outputFormat }, OLD)).toBeUndefined()
    expect(refused({ outputFormat: { kind: 'json_schema', name: 'x' } }, OLD)).toBe('outputFormat')
    expect(refused({ stop: ['\n\n'] })).toBe('stop')
  })

  test('no tool is offered beside a conversation with calls that has none', () => {
    const sent = body([says('user', 'a'), says('assistant', call('t1')), result('t1', 'r')], {
      parallelToolCalls: false,
    })
    expect(sent).not.toHaveProperty('tools')
    expect(sent).not.toHaveProperty('tool_choice')
  })
})

const TARGET = { provider: 'p', model: NEW, contextTokens: 200_000, price: undefined }
const CONFIG = {
  name: 'p',
  kind: 'anthropic' as const,
  baseUrl: 'https://api.anthropic.com/v1',
  reach: 'public' as const,
  keys: [],
  options: { apiVersion: '2024-01-01', headers: { 'anthropic-beta': 'x' } },
  usageDialect: 'anthropic' as const,
  cutoff: 'drain' as const,
}
const CONTEXT = {
  config: CONFIG,
  key: { name: 'k', secret: 'sk-ant-1', weight: 1 },
  requestId: 'r',
  nowMs: () => 0,
}

describe('a call', () => {
  test('goes to one address whether it is registered with the version or without', async () => {
    const sent = await anthropic.encode(request([says('user', 'a')]), TARGET, CONTEXT)
    expect(sent).toMatchObject({
      ok: true,
      value: {
        url: 'https://api.anthropic.com/v1/messages',
        headers: { 'anthropic-version': '2024-01-01', 'anthropic-beta': 'x', 'x-api-key': 'sk-ant-1' },
      },
    })
  })

  test('for a count has the prompt and nothing about the answer', async () => {
    const asked = request([says('system', 's'), says('user', 'a')], {
      tools: TOOLS,
      stop: ['x'],
      n: 3,
      reasoning: { effort: 'low' },
    })
    const counted = encodeAnthropicCount(asked, { model: NEW, contextTokens: 200_000 })
    expect(counted.ok && Object.keys(counted.value).sort()).toEqual(
      ['messages', 'model', 'output_config', 'system', 'thinking', 'tools'].sort(),
    )
    const call = await anthropic.countTokens?.encode(asked, TARGET, CONTEXT)
    expect(call).toMatchObject({ ok: true, value: { url: 'https://api.anthropic.com/v1/messages/count_tokens' } })
  })

  test.each([
    ['{"input_tokens":2095}', 2095],
    ['{"input_tokens":-1}', undefined],
    ['{}', undefined],
    ['<html>', undefined],
  ])('for a count reads %s as %j', (answer, count) => {
    expect(anthropic.countTokens?.read(answer)).toBe(count)
  })
})

test.each<[string, Partial<ClaudeTraits>]>([
  ['claude-2.1', { thinking: 'none', outputTokensSafe: 4096 }],
  ['claude-instant-1.2', { thinking: 'none' }],
  ['claude-3-5-sonnet-20241022', { thinking: 'none', outputTokensSafe: 8192, hasSampling: true }],
  ['claude-3-7-sonnet-latest', { thinking: 'budget' }],
  ['claude-sonnet-4-20250514', { thinking: 'budget', hasSchemas: false }],
  ['claude-opus-4-1-20250805', { thinking: 'budget', hasSchemas: true }],
  ['us.anthropic.claude-sonnet-4-5-20250929-v1:0', { thinking: 'budget', hasSchemas: true }],
  ['anthropic.claude-opus-4-6-v1', { thinking: 'either', hasSampling: true, hasSystemTurns: false }],
  ['claude-opus-4-7', { thinking: 'adaptive', hasSampling: false, hasSystemTurns: false, offWord: 'disabled' }],
  ['claude-opus-4-8', { thinking: 'adaptive', hasSystemTurns: true }],
  ['claude-haiku-5-5', { thinking: 'adaptive', hasSampling: false, offWord: 'disabled', hasForcedCalls: true }],
  ['claude-fable-5', { thinking: 'adaptive', offWord: undefined, hasForcedCalls: true }],
  ['claude-fable-5-2', { thinking: 'adaptive', offWord: undefined, hasForcedCalls: false }],
  ['claude-mythos-preview', { offWord: undefined, hasForcedCalls: true }],
  ['claude-opus-5@20260724', { thinking: 'adaptive', offWord: 'disabled', hasForcedCalls: true }],
  ['us.anthropic.claude-opus-5-5', { offWord: undefined, hasForcedCalls: false }],
  ['claude-opus-6', { offWord: undefined, hasForcedCalls: false }],
  ['claude-sonnet-5', { offWord: 'disabled', hasForcedCalls: true }],
  ['anthropic.claude-sonnet-5-5', { offWord: 'between_tools', hasForcedCalls: false }],
  ['claude-novel', { thinking: 'adaptive', hasSampling: false, offWord: 'disabled', hasForcedCalls: true }],
  ['MiniMax-M3', { thinking: 'budget', hasSampling: true, hasSchemas: false }],
])('%s is known for %j', (model, traits) => {
  expect(claudeTraits(model)).toMatchObject(traits)
})
