// Any request that the dialects can parse is either written, with a body that is JSON, or refused by the name of a field.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  type ChatMessage,
  type ContentPart,
  type InferenceRequest,
  NEUTRAL_SAMPLING,
  REASONING_EFFORTS,
} from '../../protocol/request.ts'
import { encode, encodeForFleet } from './provider.ts'
import { PROVIDERS } from './vendors/all.ts'

const RUNS = 40

const words = fc.oneof(
  fc.string(),
  fc.string({ unit: 'binary', maxLength: 8 }),
  fc.constantFrom('', ' ', '\u0000', '{"a":1}', '😀'),
)
const name = fc.constantFrom('weather', 'a.b', 'x-1', '9lives', 'A'.repeat(128))
const seal = fc.record(
  {
    by: fc.constantFrom('anthropic', 'gemini', 'bedrock', 'openai', 'azure_openai', 'openrouter', 'somebody'),
    value: fc.constantFrom('c2ln', '', '[{"type":"reasoning.text"}]', '{', 'x'.repeat(100)),
    isRedacted: fc.boolean(),
  },
  { requiredKeys: ['by', 'value'] },
)
const cache = fc.record(
  { cache: fc.record({ ttl: fc.constantFrom('5m' as const, '1h' as const) }) },
  { requiredKeys: [] },
)
const with_ = <T extends object>(part: fc.Arbitrary<T>) =>
  fc.tuple(part, cache).map(([one, hint]) => ({ ...one, ...hint }))

const text = with_(fc.record({ type: fc.constant('text' as const), text: words }))
const image = with_(
  fc.record({
    type: fc.constant('image' as const),
    source: fc.oneof(
      fc.record({
        kind: fc.constant('data' as const),
        mediaType: fc.constantFrom('image/png', 'image/webp'),
        data: fc.constant('AAAA'),
      }),
      fc.record({ kind: fc.constant('url' as const), url: fc.constant('https://images.example.com/a.png') }),
    ),
  }),
)
const said = fc.oneof(
  text,
  fc.record({ type: fc.constant('refusal' as const), text: words }),
  fc.record({ type: fc.constant('thought' as const), text: words, seal }, { requiredKeys: ['type', 'text'] }),
  fc.record(
    { type: fc.constant('tool_call' as const), id: fc.constantFrom('call_1', 'c:2', ''), name, arguments: words, seal },
    { requiredKeys: ['type', 'id', 'name', 'arguments'] },
  ),
)
const content = <T>(part: fc.Arbitrary<T>) => fc.array(part, { maxLength: 4 })
const message: fc.Arbitrary<ChatMessage> = fc.oneof(
  fc.record({ role: fc.constantFrom('system' as const, 'developer' as const), content: content<ContentPart>(text) }),
  fc.record({
    role: fc.constant('user' as const),
    content: content<ContentPart>(fc.oneof(text, image)),
    name: fc.constant('ann'),
  }),
  fc.record({ role: fc.constant('assistant' as const), content: content<ContentPart>(said) }),
  fc.record({
    role: fc.constant('tool' as const),
    content: content<ContentPart>(fc.oneof(text, image)),
    toolCallId: fc.constantFrom('call_1', 'c:2', 'unknown'),
    isError: fc.boolean(),
  }),
)
const tool = fc.record(
  {
    name,
    description: words,
    parameters: fc.constantFrom(
      {},
      { type: 'object' },
      { type: 'object', properties: { a: { $ref: '#/$defs/b' } }, $defs: { b: true } },
    ),
    strict: fc.boolean(),
  },
  { requiredKeys: ['name'] },
)
const request: fc.Arbitrary<InferenceRequest> = fc.record(
  {
    model: fc.constant('any'),
    input: fc.record({
      kind: fc.constant('chat' as const),
      messages: fc.array(message, { minLength: 1, maxLength: 6 }),
    }),
    sampling: fc.constantFrom(NEUTRAL_SAMPLING, { ...NEUTRAL_SAMPLING, temperature: 0, topP: 0.1, seed: -1 }),
    n: fc.constantFrom(1, 1, 1, 2, 16),
    maxOutputTokens: fc.constantFrom(1, 100, 100_000),
    stop: fc.array(fc.constantFrom('END', ' ', '\n'), { maxLength: 4 }),
    tools: fc.uniqueArray(tool, { selector: (one) => one.name, minLength: 1, maxLength: 3 }),
    parallelToolCalls: fc.boolean(),
    continuesAnswer: fc.constant(true),
    reasoning: fc.record(
      {
        effort: fc.constantFrom(...REASONING_EFFORTS),
        budgetTokens: fc.constantFrom(0, 1, 5000, 500_000),
        show: fc.boolean(),
      },
      { requiredKeys: [] },
    ),
  },
  { requiredKeys: ['model', 'input', 'sampling', 'n', 'stop'] },
)

describe.each(PROVIDERS.map((promised) => [promised.title, promised] as const))('%s', (_, promised) => {
  test('writes or refuses any conversation, and tells the key nowhere but in the headers', async () => {
    await fc.assert(
      fc.asyncProperty(request, async (asked) => {
        const encoded = await encode(promised, asked)
        if (encoded.ok) expect(encoded.value.call.url + encoded.value.call.body).not.toContain(promised.secret)
        else
          expect(encoded.error).toMatchObject({ code: 'invalid_request', kind: 'refused', param: expect.any(String) })
      }),
      { numRuns: RUNS },
    )
  })

  test('writes the same request the same way, and changes nothing in it', async () => {
    await fc.assert(
      fc.asyncProperty(request, async (asked) => {
        const before = JSON.stringify(asked)
        const [first, second] = [await encode(promised, asked), await encode(promised, asked)]
        expect(second).toEqual(first)
        expect(JSON.stringify(asked)).toBe(before)
      }),
      { numRuns: RUNS / 2 },
    )
  })
})

test('own backends are sent, or spared, any conversation', async () => {
  await fc.assert(
    fc.asyncProperty(request, async (asked) => {
      const encoded = await encodeForFleet(asked)
      if (!encoded.ok) expect(encoded.error).toMatchObject({ code: 'invalid_request', kind: 'refused' })
    }),
    { numRuns: RUNS },
  )
})
