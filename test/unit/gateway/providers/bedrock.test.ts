// Requests in the form of Bedrock's Converse interface, what each model family understands, and how a call is signed.
import { describe, expect, test } from 'vitest'
import type { ProviderConfig, Target } from '../../../../gateway/policy/plan.ts'
import { signV4 } from '../../../../gateway/providers/aws-sigv4.ts'
import { bedrock } from '../../../../gateway/providers/bedrock.ts'
import { BedrockDecoder } from '../../../../gateway/providers/bedrock-decoder.ts'
import { encodeBedrock, encodeBedrockCount, NO_TOOL } from '../../../../gateway/providers/bedrock-encoder.ts'
import { bedrockFailure } from '../../../../gateway/providers/bedrock-failure.ts'
import {
  type ChatMessage,
  type ContentPart,
  type InferenceRequest,
  NEUTRAL_SAMPLING,
  type Reasoning,
} from '../../../../protocol/request.ts'

const CLAUDE = 'eu.anthropic.claude-sonnet-4-5-20250929-v1:0'
const NOVA = 'us.amazon.nova-2-lite-v1:0'
const GPT = 'openai.gpt-oss-120b-1:0'
const MISTRAL = 'mistral.mistral-large-2407-v1:0'
const LLAMA = 'us.meta.llama4-maverick-17b-instruct-v1:0'

const text = (words: string): ContentPart => ({ type: 'text', text: words })
const says = (role: ChatMessage['role'], ...parts: (string | ContentPart)[]): ChatMessage => ({
  role,
  content: parts.map((part) => (typeof part === 'string' ? text(part) : part)),
})
const call = (id: string, name = 'weather'): ContentPart => ({ type: 'tool_call', id, name, arguments: '{}' })
const result = (toolCallId: string, ...parts: string[]): ChatMessage => ({ ...says('tool', ...parts), toolCallId })
const TOOLS = [{ name: 'weather' }]
const TURNS = [says('user', 'a'), says('assistant', call('t1')), result('t1', 'r')]

const request = (messages: ChatMessage[], more: Partial<InferenceRequest> = {}): InferenceRequest => ({
  model: 'any',
  input: { kind: 'chat', messages },
  sampling: NEUTRAL_SAMPLING,
  n: 1,
  stop: [],
  ...more,
})

type Body = Record<string, unknown> & { messages: { role: string; content: Record<string, unknown>[] }[] }

function body(
  messages: ChatMessage[],
  more: Partial<InferenceRequest> = {},
  model = CLAUDE,
  target: object = {},
): Body {
  const encoded = encodeBedrock(request(messages, more), { model, contextTokens: 200_000, ...target }, 10_000)
  if (!encoded.ok) throw new Error(`${encoded.error.param}: ${encoded.error.message}`)
  return encoded.value as Body
}

function refused(more: Partial<InferenceRequest>, model = CLAUDE): string | undefined {
  const encoded = encodeBedrock(request([says('user', 'hi')], more), { model, contextTokens: 200_000 }, 10_000)
  return encoded.ok ? undefined : encoded.error.param
}

describe('a conversation', () => {
  test('has one turn for neighbours of one role, results at its head, and all instructions in front', () => {
    const sent = body([
      says('system', 's'),
      says('user', 'a'),
      says('assistant', call('t1'), call('t2')),
      says('developer', 'd'),
      says('user', 'b'),
      result('t2', 'two'),
      result('t1'),
    ])
    expect(sent.system).toEqual([{ text: 's' }, { text: 'd' }])
    expect(sent.messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'user'])
    expect(sent.messages[2]?.content).toEqual([
      { toolResult: { toolUseId: 't2', content: [{ text: 'two' }] } },
      { toolResult: { toolUseId: 't1', content: [] } },
      { text: 'b' },
    ])
  })

  test('of instructions alone asks them', () => {
    expect(body([says('system', 's')]).messages).toEqual([{ role: 'user', content: [{ text: 's' }] }])
  })

  test('gives back its own thoughts alone', () => {
    const seal = (by: string, isRedacted?: boolean): ContentPart => ({
      type: 'thought',
      text: 'Hm.',
      seal: { by, value: 'dmFs', ...(isRedacted === undefined ? {} : { isRedacted }) },
    })
    const sent = body([says('user', 'a'), says('assistant', seal('bedrock'), seal('bedrock', true), seal('anthropic'))])
    expect(sent.messages[1]?.content).toEqual([
      { reasoningContent: { reasoningText: { text: 'Hm.', signature: 'dmFs' } } },
      { reasoningContent: { redactedContent: 'dmFs' } },
    ])
  })

  test('says in words that a tool failed where the family has no field for it', () => {
    const failed: ChatMessage = {
      role: 'tool',
      toolCallId: 'abcdefg12',
      isError: true,
      content: [text('no such city')],
    }
    const results = (model: string) =>
      JSON.stringify(body([says('user', 'a'), says('assistant', call('abcdefg12')), failed], { tools: TOOLS }, model))
    expect(results(CLAUDE)).toContain('"status":"error"')
    expect(results(CLAUDE)).not.toContain('The tool failed.')
    expect(results(LLAMA)).toContain('[{"text":"The tool failed."},{"text":"no such city"}]')
  })

  test('is sampled with what the caller wrote, except where it is the default of the family', () => {
    const one = { sampling: { ...NEUTRAL_SAMPLING, temperature: 1, topP: 1 } }
    expect(body([says('user', 'a')], one, LLAMA)).toMatchObject({ inferenceConfig: { temperature: 1, topP: 1 } })
    expect(JSON.stringify(body([says('user', 'a')], one, CLAUDE))).not.toContain('temperature')
    expect(JSON.stringify(body([says('user', 'a')], {}, LLAMA))).not.toContain('temperature')
  })

  test('has ids that the family takes', () => {
    const ids = (model: string) =>
      body(
        [says('user', 'a'), says('assistant', call('tooluse_a-b'), call('abcdefg12'))],
        { tools: TOOLS },
        model,
      ).messages[1]?.content.map(({ toolUse }) => (toolUse as { toolUseId: string }).toolUseId)
    expect(ids(CLAUDE)).toEqual(['tooluse_a-b', 'abcdefg12'])
    expect(ids(MISTRAL)).toEqual([expect.stringMatching(/^[A-Za-z0-9]{9}$/), 'abcdefg12'])
  })

  test('has the last four cache points, after what they cover, and none for families without a cache', () => {
    const cached = (words: string, ttl: '5m' | '1h' = '5m'): ContentPart => ({
      type: 'text',
      text: words,
      cache: { ttl },
    })
    const messages = [
      says('system', cached('s')),
      says('user', cached('a'), cached('b'), cached('c')),
      says('user', cached('d', '1h')),
    ]
    const sent = body(messages)
    expect(sent.system).toEqual([{ text: 's' }])
    const point = { cachePoint: { type: 'default' } }
    expect(sent.messages[0]?.content).toEqual([
      { text: 'a' },
      point,
      { text: 'b' },
      point,
      { text: 'c' },
      point,
      { text: 'd' },
      { cachePoint: { type: 'default', ttl: '1h' } },
    ])
    expect(JSON.stringify(body(messages, {}, LLAMA))).not.toContain('cachePoint')
  })

  test('tells families without a field for it nothing of a tool that failed', () => {
    const failed = [...TURNS.slice(0, 2), { ...result('t1', 'no'), isError: true }]
    expect(JSON.stringify(body(failed, { tools: TOOLS }, NOVA))).toContain('"status":"error"')
    expect(JSON.stringify(body(failed, { tools: TOOLS }, LLAMA))).not.toContain('status')
  })
})

describe('tools', () => {
  test('that must not be called are left out, and where calls stand in the conversation one stands for them', () => {
    const none = { tools: TOOLS, toolChoice: { mode: 'none' as const } }
    expect(body([says('user', 'a')], none)).not.toHaveProperty('toolConfig')
    for (const sent of [body(TURNS, none), body(TURNS)]) {
      expect(sent.toolConfig).toMatchObject({ tools: [{ toolSpec: { name: NO_TOOL } }] })
      expect(JSON.stringify(sent.toolConfig)).not.toContain('weather')
    }
  })

  test('one at a time are for Claude, and refused for the others', () => {
    const one = { tools: TOOLS, parallelToolCalls: false }
    const choice = (more: Partial<InferenceRequest>) =>
      body([says('user', 'a')], { ...one, ...more }).additionalModelRequestFields
    expect(choice({})).toEqual({ tool_choice: { type: 'auto', disable_parallel_tool_use: true } })
    expect(choice({ toolChoice: { mode: 'tool', name: 'weather' } })).toEqual({
      tool_choice: { type: 'tool', name: 'weather', disable_parallel_tool_use: true },
    })
    expect(refused(one, NOVA)).toBe('parallelToolCalls')
    expect(refused({ parallelToolCalls: false }, NOVA)).toBeUndefined()
    expect(refused({ ...one, toolChoice: { mode: 'none' } }, NOVA)).toBeUndefined()
  })

  test('with names over Bedrock’s length are refused', () => {
    expect(refused({ tools: [{ name: 'x'.repeat(65) }] })).toBe('tools')
  })
})

describe('what only some families understand', () => {
  const extra = (model: string, more: Partial<InferenceRequest>) =>
    body([says('user', 'a')], more, model).additionalModelRequestFields
  const topK = { sampling: { ...NEUTRAL_SAMPLING, topK: 40 } }

  test.each([
    [CLAUDE, { top_k: 40 }],
    [NOVA, { inferenceConfig: { topK: 40 } }],
    [MISTRAL, { top_k: 40 }],
    ['cohere.command-r-plus-v1:0', { k: 40 }],
  ])('top_k goes to %s as %j', (model, fields) => {
    expect(extra(model, topK)).toEqual(fields)
  })

  test.each([GPT, LLAMA, 'arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc'])(
    'top_k is refused for %s',
    (model) => {
      expect(refused(topK, model)).toBe('topK')
    },
  )

  test.each<[string, Reasoning, unknown]>([
    [
      'anthropic.claude-opus-5',
      { effort: 'max' },
      { thinking: { type: 'adaptive' }, output_config: { effort: 'max' } },
    ],
    [CLAUDE, { effort: 'medium' }, { thinking: { type: 'enabled', budget_tokens: 5000 } }],
    ['eu.anthropic.claude-sonnet-5-5', { effort: 'none' }, { thinking: { type: 'between_tools' } }],
    ['anthropic.claude-opus-5-5', { effort: 'none' }, { output_config: { effort: 'low' } }],
    [GPT, { effort: 'xhigh' }, { reasoning_effort: 'high' }],
    [GPT, { effort: 'none' }, { reasoning_effort: 'low' }],
    [NOVA, { effort: 'minimal' }, { reasoningConfig: { type: 'enabled', maxReasoningEffort: 'low' } }],
    [NOVA, { effort: 'none' }, { reasoningConfig: { type: 'disabled' } }],
    ['amazon.nova-pro-v1:0', { effort: 'high' }, undefined],
    [LLAMA, { effort: 'high' }, undefined],
    [LLAMA, { effort: 'none', isRequired: true }, undefined],
    [GPT, { budgetTokens: 5000, isRequired: true }, { reasoning_effort: 'medium' }],
    [NOVA, { budgetTokens: 2000 }, { reasoningConfig: { type: 'enabled', maxReasoningEffort: 'low' } }],
    [NOVA, { isRequired: true }, { reasoningConfig: { type: 'enabled', maxReasoningEffort: 'medium' } }],
    [NOVA, { show: true }, undefined],
    ['us.deepseek.r1-v1:0', { budgetTokens: 2000, isRequired: true }, undefined],
  ])('%s thinks for %j with %j', (model, reasoning, fields) => {
    expect(extra(model, { reasoning })).toEqual(fields)
  })

  test.each([LLAMA, MISTRAL, 'amazon.nova-pro-v1:0', 'cohere.command-r-plus-v1:0'])(
    'thinking that was asked for by itself is refused for %s, which cannot be told to',
    (model) => {
      expect(refused({ reasoning: { isRequired: true } }, model)).toBe('reasoning')
      expect(refused({ reasoning: { budgetTokens: 2000 } }, model)).toBe('reasoning')
    },
  )

  test('a call that the newest Claude cannot be made to make is refused here', () => {
    const forced = { tools: [{ name: 'weather' }], toolChoice: { mode: 'required' as const } }
    expect(refused(forced, 'anthropic.claude-opus-5-5')).toBe('toolChoice')
    expect(refused(forced, 'anthropic.claude-opus-5')).toBeUndefined()
  })

  test('sampling that the newest Claude refuses is refused here', () => {
    const sampling = { sampling: { ...NEUTRAL_SAMPLING, temperature: 0.2 } }
    expect(refused(sampling, 'anthropic.claude-opus-5')).toBe('temperature')
    expect(refused({ ...sampling, reasoning: { effort: 'high' } })).toBe('temperature')
    expect(refused(sampling, LLAMA)).toBeUndefined()
  })

  test('a faster machine is asked for apart from the tiers', () => {
    expect(body([says('user', 'a')], {}, CLAUDE, { serviceTier: 'flex' })).toMatchObject({
      serviceTier: { type: 'flex' },
    })
    const fast = body([says('user', 'a')], {}, CLAUDE, { serviceTier: 'optimized' })
    expect(fast).toMatchObject({ performanceConfig: { latency: 'optimized' } })
    expect(fast).not.toHaveProperty('serviceTier')
  })

  test('a bound that nobody set is left to the model, except for Claude, whose thoughts count within it', () => {
    const max = (model: string) => {
      const encoded = encodeBedrock(request([says('user', 'a')]), { model, contextTokens: 200_000 }, undefined)
      return encoded.ok && encoded.value.inferenceConfig
    }
    expect(max(CLAUDE)).toEqual({ maxTokens: 32_000 })
    expect(max(LLAMA)).toBeUndefined()
  })
})

const config = (
  options: ProviderConfig['options'] = {},
  host = 'bedrock-runtime.eu-west-1.amazonaws.com',
): ProviderConfig => ({
  name: 'p',
  kind: 'bedrock',
  baseUrl: `https://${host}`,
  reach: 'public',
  keys: [],
  options,
  usageDialect: 'bedrock',
  cutoff: 'drain',
})
const ACCESS = 'AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY'

async function sent(secret: string, model = CLAUDE, of = config()) {
  const target: Target = { provider: 'p', model, contextTokens: 200_000, price: undefined }
  const context = {
    config: of,
    key: { name: 'k', secret, weight: 1 },
    requestId: 'r',
    nowMs: () => Date.UTC(2026, 10, 22),
  }
  return bedrock.encode(request([says('user', 'a')]), target, context)
}

describe('a call', () => {
  test('is signed over the address as it is written, encoded once more', async () => {
    const call = await sent(ACCESS)
    if (!call.ok) throw new Error(call.error.message)
    const { url, body: bytes, headers } = call.value
    expect(url).toBe(
      'https://bedrock-runtime.eu-west-1.amazonaws.com/model/eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream',
    )
    const signed = await signV4(
      {
        method: 'POST',
        host: 'bedrock-runtime.eu-west-1.amazonaws.com',
        path: '/model/eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream',
        headers: { 'content-type': 'application/json' },
        body: bytes,
      },
      { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY' },
      { region: 'eu-west-1', service: 'bedrock', nowMs: Date.UTC(2026, 10, 22) },
    )
    expect(headers).toMatchObject(signed)
    expect(headers).not.toHaveProperty('x-amz-security-token')
    expect(headers.authorization).toContain('Credential=AKIAIOSFODNN7EXAMPLE/20261122/eu-west-1/bedrock/aws4_request')
  })

  test('of a session carries its token, which may hold colons', async () => {
    const call = await sent(`${ACCESS}:IQoJ:b3JpZ2luX2Vj//8=`)
    expect(call).toMatchObject({ ok: true, value: { headers: { 'x-amz-security-token': 'IQoJ:b3JpZ2luX2Vj//8=' } } })
  })

  test('with an API key of Bedrock’s carries it as it is', async () => {
    const call = await sent('ABSKQmVkcm9ja0FQSUtleS0xMjM0')
    expect(call).toMatchObject({
      ok: true,
      value: { headers: { authorization: 'Bearer ABSKQmVkcm9ja0FQSUtleS0xMjM0' } },
    })
    expect(call.ok && Object.keys(call.value.headers)).not.toContain('x-amz-date')
  })

  test('to a model by its ARN has it in one part of the address', async () => {
    const arn = 'arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-5'
    const call = await sent(ACCESS, arn)
    const path =
      '/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.anthropic.claude-opus-5/converse-stream'
    expect(call.ok && new URL(call.value.url).pathname).toBe(path)
  })

  test.each(['', '.', '..'])('to a model called %j is not made', async (model) => {
    expect(await sent(ACCESS, model)).toMatchObject({
      ok: false,
      error: { code: 'upstream_error', kind: 'unknown_model' },
    })
  })

  test('has the region of its options, else of its address, else none is made', async () => {
    const regionOf = async (of: ProviderConfig) => {
      const call = await sent(ACCESS, CLAUDE, of)
      return call.ok
        ? /\/([a-z0-9-]+)\/bedrock\/aws4_request/.exec(call.value.headers.authorization ?? '')?.[1]
        : call.error.kind
    }
    expect(await regionOf(config({ region: 'us-west-2' }))).toBe('us-west-2')
    expect(await regionOf(config({}, 'bedrock-runtime-fips.us-gov-west-1.amazonaws.com'))).toBe('us-gov-west-1')
    expect(await regionOf(config({}, 'bedrock.example.com'))).toBe('credentials')
  })

  test('for a count has the conversation alone', async () => {
    const asked = request([says('system', 's'), says('user', 'a')], { tools: TOOLS, stop: ['x'] })
    const counted = encodeBedrockCount(asked, { model: CLAUDE, contextTokens: 200_000 })
    expect(counted).toMatchObject({ ok: true, value: { input: { converse: { system: [{ text: 's' }] } } } })
    expect(JSON.stringify(counted)).not.toContain('inferenceConfig')
    expect(bedrock.countTokens?.read('{"inputTokens":12}')).toBe(12)
    const notCounted = bedrockFailure(
      400,
      '{"message":"The provided model doesn\'t support counting tokens."}',
      new Headers({ 'x-amzn-errortype': 'ValidationException' }),
      0,
    )
    expect(notCounted.code).toBe('upstream_error')
  })
})

test('calls that come without ids have ones unlike those of another answer', () => {
  const content = [{ toolUse: { name: 'weather', input: {} } }]
  const answer = JSON.stringify({ output: { message: { content } }, stopReason: 'tool_use' })
  const [first] = new BedrockDecoder(request(TURNS), 'a1').whole(answer)
  const [second] = new BedrockDecoder(request(TURNS), 'b2').whole(answer)
  expect([first, second]).toMatchObject([{ id: 'call_a1_0' }, { id: 'call_b2_0' }])
})
