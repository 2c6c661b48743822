import { describe, expect, test } from 'vitest'
import { answerKey, type CacheOwner, canonicalJson, type Served } from '../../../../gateway/cache/answer-key.ts'
import { type ChatMessage, type InferenceRequest, NEUTRAL_SAMPLING } from '../../../../protocol/request.ts'

const OWNER = { orgId: 'o1', projectId: 'p1' }

const says = (text: string): ChatMessage => ({ role: 'user', content: [{ type: 'text', text }] })

const REQUEST: InferenceRequest = {
  model: 'small',
  input: { kind: 'chat', messages: [says('Hello')] },
  sampling: {
    ...NEUTRAL_SAMPLING,
    seed: 7,
    logitBias: [
      { tokenId: 1, bias: 2 },
      { tokenId: 5, bias: -1 },
    ],
  },
  n: 1,
  maxOutputTokens: 100,
  stop: ['end'],
  tools: [{ name: 'look', parameters: { type: 'object', properties: { a: {}, b: {} } } }],
}

const TARGETS: Served[] = [
  { provider: 'fleet', model: 'small-1' },
  { provider: 'vendor', model: 'theirs' },
]

const keyOf = (
  over: Partial<InferenceRequest> = {},
  headers: Record<string, string> = {},
  owner: CacheOwner = OWNER,
  targets = TARGETS,
) => answerKey(owner, targets, { ...REQUEST, ...over }, new Headers(headers))

describe('the same request', () => {
  test.each<[string, Partial<InferenceRequest>, Record<string, string>]>([
    ['said again', {}, {}],
    ['for another end user', { endUser: 'customer' }, {}],
    ['with another word for prompt caches', { promptCacheKey: 'k' }, {}],
    ['with another habit of prompt caches', { promptCacheMode: 'explicit' }, {}],
    [
      'with marks for prompt caches',
      {
        input: {
          kind: 'chat',
          messages: [{ ...says(''), content: [{ type: 'text', text: 'Hello', cache: { ttl: '1h' } }] }],
        },
        tools: (REQUEST.tools ?? []).map((tool) => ({ ...tool, cache: { ttl: '5m' } })),
      },
      {},
    ],
    [
      'with the fields of a schema in another order',
      { tools: [{ parameters: { properties: { b: {}, a: {} }, type: 'object' }, name: 'look' }] },
      {},
    ],
    [
      'with the same biases in another order',
      { sampling: { ...REQUEST.sampling, logitBias: REQUEST.sampling.logitBias.toReversed() } },
      {},
    ],
    ['with another deadline', {}, { 'x-penstock-deadline-ms': '5' }],
    ['told how to use the cache', {}, { 'x-penstock-cache': 'refresh', 'x-penstock-cache-ttl-s': '5' }],
    ['from another client', {}, { 'user-agent': 'x', authorization: 'Bearer y' }],
  ])('%s has the same key', async (_, over, headers) => {
    expect(await keyOf(over, headers)).toBe(await keyOf())
  })
})

describe('another request', () => {
  test.each<[string, Partial<InferenceRequest>]>([
    ['of another model', { model: 'large' }],
    ['with other words', { input: { kind: 'chat', messages: [says('hello')] } }],
    ['in another role', { input: { kind: 'chat', messages: [{ ...says('Hello'), role: 'system' }] } }],
    ['as a completion', { input: { kind: 'completion', prompts: [{ text: 'Hello' }], echo: false } }],
    ['with another temperature', { sampling: { ...REQUEST.sampling, temperature: 0 } }],
    ['with another seed', { sampling: { ...REQUEST.sampling, seed: 8 } }],
    ['with another bound', { maxOutputTokens: 101 }],
    ['of more choices', { n: 2 }],
    ['with other stop strings', { stop: [] }],
    ['with other tools', { tools: [{ name: 'look' }] }],
    ['that must call a tool', { toolChoice: { mode: 'required' } }],
    ['with log probabilities', { logprobs: { top: 0 } }],
  ])('%s has another key', async (_, over) => {
    expect(await keyOf(over)).not.toBe(await keyOf())
  })

  test('of another organisation, project or end user of its key, or with a wish for its target, has another key', async () => {
    const keys = await Promise.all([
      keyOf(),
      keyOf({}, {}, { ...OWNER, orgId: 'o2' }),
      keyOf({}, {}, { ...OWNER, projectId: 'p2' }),
      keyOf({}, {}, { ...OWNER, endUser: 'ann' }),
      keyOf({}, {}, { ...OWNER, endUser: 'bob' }),
      keyOf({}, { 'x-penstock-region': 'eu' }),
      keyOf({}, { 'x-penstock-region': 'us' }),
    ])
    expect(new Set(keys).size).toBe(keys.length)
    for (const key of keys) expect(key).toMatch(/^[0-9a-f]{64}$/)
  })
})

test('a name that was moved to other targets, or to another service of theirs, has another key', async () => {
  const [first, second] = TARGETS
  if (first === undefined || second === undefined) throw new Error('too few')
  const keys = await Promise.all(
    [
      TARGETS,
      [first],
      [second, first],
      [{ ...first, model: 'small-2' }, second],
      [{ ...first, serviceTier: 'flex' }, second],
    ].map((targets) => keyOf({}, {}, OWNER, targets)),
  )
  expect(new Set(keys).size).toBe(keys.length)
})

test.each<[unknown, string]>([
  [{ b: 1, a: [{ d: undefined, c: null }] }, '{"a":[{"c":null}],"b":1}'],
  ['a"b', '"a\\"b"'],
  [[undefined, -0, 1e21], '[null,0,1e+21]'],
  [{ é: 1, z: 2, Z: 3 }, '{"Z":3,"z":2,"é":1}'],
])('%j is written as %s', (value, expected) => {
  expect(canonicalJson(value)).toBe(expected)
})
