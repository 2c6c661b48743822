// What a request is compared by and what is told of its way: conversations, escalation, the trace.
import { describe, expect, test } from 'vitest'
import { ModelPolicy } from '../../../../gateway/policy/model-policy.ts'
import type { Target } from '../../../../gateway/policy/plan.ts'
import { conversationText, hashShare } from '../../../../gateway/routing/conversation.ts'
import { escalationOf } from '../../../../gateway/routing/escalation.ts'
import { routeJson, routeText, type Step } from '../../../../gateway/routing/trace.ts'
import type { CollectedChoice } from '../../../../gateway/stream/collect.ts'
import { type ChatMessage, type InferenceRequest, NEUTRAL_SAMPLING } from '../../../../protocol/request.ts'

const said = (role: ChatMessage['role'], text: string): ChatMessage => ({ role, content: [{ type: 'text', text }] })
const request = (messages: ChatMessage[], over: Partial<InferenceRequest> = {}): InferenceRequest => ({
  model: 'm',
  input: { kind: 'chat', messages },
  sampling: NEUTRAL_SAMPLING,
  n: 1,
  stop: [],
  ...over,
})

describe('a conversation', () => {
  const opening = [said('system', 'Be brief.'), said('user', 'Hello')]

  test('is the same in each of its turns, and another with another beginning, tools or key', () => {
    const first = conversationText(request(opening))
    expect(conversationText(request([...opening, said('assistant', 'Hi'), said('user', 'More')]))).toBe(first)
    expect(conversationText(request([said('system', 'Be brief.'), said('user', 'Bye')]))).not.toBe(first)
    expect(conversationText(request(opening, { tools: [{ name: 'search' }] }))).not.toBe(first)
    expect(conversationText(request(opening, { promptCacheKey: 'k' }))).not.toBe(first)
  })

  test('hashes evenly, also where texts differ at their end alone', () => {
    const buckets = Array.from({ length: 10 }, () => 0)
    for (let index = 0; index < 5000; index++) {
      const share = hashShare(`org\nconversation ${index}`)
      buckets[Math.floor(share * 10)] = (buckets[Math.floor(share * 10)] ?? 0) + 1
    }
    for (const count of buckets) expect(Math.abs(count - 500)).toBeLessThan(100)
  })
})

describe('a small model’s answer', () => {
  const choice = (over: Partial<CollectedChoice>): CollectedChoice => ({
    index: 0,
    parts: [{ type: 'text', text: 'fine' }],
    text: 'fine',
    logprobs: [],
    finish: 'stop',
    ...over,
  })
  const call = (json: string): CollectedChoice =>
    choice({ text: '', parts: [{ type: 'tool_call', id: '1', name: 'f', arguments: json }], finish: 'tool_calls' })
  const sure = (probability: number) => ({ text: 'x', bytes: [], logprob: Math.log(probability), top: [] })
  const asJson = { outputFormat: { kind: 'json_object' } as const }
  const rules = ['length', 'refusal', 'content_filter', 'invalid_json', 'empty', 'low_confidence'] as const

  test.each([
    ['length', choice({ finish: 'length' }), {}],
    ['content_filter', choice({ finish: 'content_filter' }), {}],
    ['refusal', choice({ parts: [{ type: 'refusal', text: 'no' }] }), {}],
    ['empty', choice({ text: ' \n', parts: [] }), {}],
    ['invalid_json', choice({ text: '{"a":' }), asJson],
    ['invalid_json', call('{"a":'), {}],
    ['low_confidence', choice({ logprobs: [sure(0.9), sure(0.4)] }), {}],
    [undefined, choice({}), {}],
    [undefined, choice({ text: '{"a": 1}' }), asJson],
    [undefined, call('{"a": 1}'), asJson],
    [undefined, call(''), {}],
    [undefined, choice({ logprobs: [sure(0.9), sure(0.8)] }), {}],
  ] as const)('%s', (rule, made, over) => {
    const cascade = ModelPolicy.parse({ cascade: { escalate_on: [...rules], confidence_min: 0.7 } }).cascade
    if (cascade === undefined) throw new Error('no cascade')
    const asked = request([said('user', 'x')], over)
    expect(escalationOf(cascade, [choice({ text: '{}' }), made], asked)).toBe(rule)
    // A rule that is not named holds nothing.
    expect(escalationOf({ escalate_on: rules.filter((one) => one !== rule) }, [made], asked)).toBeUndefined()
  })
})

describe('the trace', () => {
  const target = (provider: string, model = 'm'): Target => ({ provider, model, contextTokens: 1, price: undefined })
  const step = (provider: string, over: Partial<Step> = {}): Step => ({
    target: target(provider),
    role: 'primary',
    waitedMs: 0,
    ...over,
  })
  const limited = { code: 'overloaded', message: 'secret words', kind: 'rate_limited', retryAfterMs: 1200.4 } as const

  test('names each target and how it ended, within a header’s bound', () => {
    expect(routeText([step('a', { failure: limited }), step('b', { isAnswered: true })])).toBe(
      'a/m:rate_limited>b/m:ok',
    )
    const moves = [{ from: 'one', reason: 'draining' }]
    expect(routeText([step('a', { moves, isAnswered: true })])).toBe('a/m:moved>a/m:ok')
    expect(JSON.parse(routeJson(step('a', { moves })))).toMatchObject({ moves })
    const long = Array.from({ length: 8 }, (_, index) => ({
      ...step('p'.repeat(60)),
      target: target('p'.repeat(60), `${index}${'m'.repeat(120)}`),
    }))
    const text = routeText(long)
    expect(text.length).toBeLessThanOrEqual(512)
    expect(text).toMatch(/^\.\.\.>/)
    expect(text).toContain('7mmm')
  })

  test('says of an own backend what was predicted of it, to the caller in a word, beside the row in full', () => {
    const fleet = { ttft_ms: 120, itl_ms: 20.5, prompt_tokens: 4000, matched_tokens: 3000, load: 0.5 }
    expect(routeText([step('fleet', { fleet, isAnswered: true })])).toBe('fleet/m:ok(120ms;75%)')
    expect(JSON.parse(routeJson(step('fleet', { fleet })))).toEqual({ role: 'primary', fleet })
  })

  test('beside a usage row says what was decided and what came of it, and no words of a provider', () => {
    const place = { target: target('a'), index: 2, reason: 'weighted', standing: 'closed', figure: 3 } as const
    const key = { name: 'spare', secret: 'sk-never', weight: 1 }
    const json = routeJson(step('a', { role: 'retry', place, turn: 1, key, waitedMs: 12.6, failure: limited }))
    expect(JSON.parse(json)).toEqual({
      role: 'retry',
      reason: 'weighted',
      turn: 1,
      standing: 'closed',
      figure: 3,
      key: 'spare',
      waited_ms: 13,
      kind: 'rate_limited',
      retry_after_ms: 1200,
    })
    expect(json).not.toContain('secret')
    expect(json).not.toContain('sk-never')
  })
})
