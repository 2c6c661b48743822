import { describe, expect, test } from 'vitest'
import { NO_USAGE } from '../../../../gateway/meter/usage.ts'
import type { Target } from '../../../../gateway/policy/plan.ts'
import { longestTokenPrompt, maxOutputTokens, worstCase } from '../../../../gateway/stream/estimate.ts'
import { Tally } from '../../../../gateway/stream/tally.ts'
import { type InferenceRequest, NEUTRAL_SAMPLING } from '../../../../protocol/request.ts'

const request = (over: Partial<InferenceRequest>): InferenceRequest => ({
  model: 'm',
  input: { kind: 'chat', messages: [{ role: 'user', content: [{ type: 'text', text: 'x' }] }] },
  sampling: NEUTRAL_SAMPLING,
  n: 1,
  stop: [],
  ...over,
})
const target: Target = { provider: 'p', model: 'm', contextTokens: 1000, price: undefined }

describe('the tally', () => {
  test('without a final count proves the accepted prompt and the tokens of each choice', () => {
    const tally = new Tally()
    expect(tally.counted()).toEqual({ usage: NO_USAGE, source: 'stream_partial' })
    tally.see({ type: 'accepted', usage: { ...NO_USAGE, inputUncached: 5, inputCacheRead: 2 } })
    tally.see({ type: 'delta', choice: 0, text: 'a', outputTokens: 1 })
    tally.see({ type: 'delta', choice: 1, text: '', outputTokens: 4 })
    tally.see({ type: 'finish', choice: 0, reason: 'stop', outputTokens: 3 })
    expect(tally.counted()).toEqual({
      usage: { ...NO_USAGE, inputUncached: 5, inputCacheRead: 2, outputText: 7 },
      source: 'stream_partial',
    })
    expect(tally.finishedCount).toBe(1)
  })

  test('takes the target’s own last count over its own, also with an error', () => {
    const tally = new Tally()
    tally.see({ type: 'delta', choice: 0, text: 'a', outputTokens: 9 })
    tally.see({ type: 'usage', usage: { ...NO_USAGE, outputText: 3 } })
    expect(tally.counted()).toEqual({ usage: { ...NO_USAGE, outputText: 3 }, source: 'provider' })
    tally.see({ type: 'error', failure: { code: 'engine_lost', message: '' }, usage: { ...NO_USAGE, outputText: 4 } })
    expect(tally.counted().usage.outputText).toBe(4)
  })

  test('keeps the accepted prompt where a count so far says nothing of it', () => {
    const tally = new Tally()
    tally.see({ type: 'accepted', usage: { ...NO_USAGE, inputUncached: 5 } })
    for (const outputText of [1, 2]) {
      tally.see({ type: 'usage', usage: { ...NO_USAGE, outputText }, isRunning: true })
      expect(tally.counted().usage).toEqual({ ...NO_USAGE, inputUncached: 5, outputText })
    }
    tally.see({ type: 'usage', usage: { ...NO_USAGE, inputUncached: 4 }, isRunning: true })
    expect(tally.counted().usage).toEqual({ ...NO_USAGE, inputUncached: 4 })
    tally.see({ type: 'usage', usage: { ...NO_USAGE, outputText: 2 } })
    expect(tally.counted()).toEqual({ usage: { ...NO_USAGE, outputText: 2 }, source: 'provider' })
  })

  test('takes a count so far as a base to which the tokens seen since are added', () => {
    const tally = new Tally()
    tally.see({ type: 'accepted', usage: { ...NO_USAGE, inputUncached: 5 } })
    const soFar = { ...NO_USAGE, inputUncached: 7, outputReasoning: 3, outputText: 1 }
    tally.see({ type: 'usage', usage: soFar, isRunning: true, rawUsage: '{"first":1}' })
    expect(tally.counted()).toEqual({ usage: soFar, source: 'stream_partial', rawUsage: '{"first":1}' })
    tally.see({ type: 'delta', choice: 0, text: 'a', outputTokens: 9 })
    expect(tally.counted().usage).toEqual({ ...soFar, outputText: 6 })
    tally.see({ type: 'usage', usage: soFar, rawUsage: '{"last":1}', inconsistent: true, providerCostNanoUsd: 8n })
    expect(tally.counted()).toEqual({ usage: soFar, source: 'provider', rawUsage: '{"last":1}', inconsistent: true })
    expect(tally.providerCostNanoUsd).toBe(8n)
  })
})

describe('the worst case', () => {
  test('bounds text by its bytes, ids by their number, and both by the window', () => {
    const text = (content: string) =>
      request({ input: { kind: 'chat', messages: [{ role: 'user', content: [{ type: 'text', text: content }] }] } })
    const one = worstCase(text('a'), target).inputTokens
    expect(worstCase(text('a😀'), target).inputTokens).toBe(one + 4)
    expect(worstCase(text('x'.repeat(5000)), target).inputTokens).toBe(1000)
    const ids = request({ input: { kind: 'completion', prompts: [{ tokenIds: [1, 2, 3] }], echo: false } })
    expect(worstCase(ids, target).inputTokens).toBeLessThan(20)
    expect(longestTokenPrompt(ids)).toBe(3)
  })

  test('counts the output of every choice', () => {
    expect(worstCase(request({ maxOutputTokens: 10, n: 3 }), target).outputTokens).toBe(30)
    expect(worstCase(request({}), target).outputTokens).toBe(1000)
    const prompts = { kind: 'completion' as const, prompts: [{ text: 'a' }, { text: 'b' }], echo: false }
    expect(worstCase(request({ input: prompts, n: 2, maxOutputTokens: 5 }), target).outputTokens).toBe(20)
  })

  test('cuts a huge bound to the window and to what the target gives', () => {
    expect(maxOutputTokens(request({ maxOutputTokens: 1e9 }), target)).toBe(1000)
    expect(maxOutputTokens(request({ maxOutputTokens: 1e9 }), { ...target, outputTokensMax: 50 })).toBe(50)
    expect(maxOutputTokens(request({}), { ...target, outputTokensMax: 50 })).toBe(50)
    expect(maxOutputTokens(request({}), target)).toBeUndefined()
  })
})
