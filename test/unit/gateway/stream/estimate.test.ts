// Bounds on what a request can use: never below what a target could count.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Target } from '../../../../gateway/policy/plan.ts'
import { worstCase } from '../../../../gateway/stream/estimate.ts'
import { type InferenceRequest, NEUTRAL_SAMPLING } from '../../../../protocol/request.ts'

const request = (over: Partial<InferenceRequest>): InferenceRequest => ({
  model: 'm',
  input: { kind: 'chat', messages: [{ role: 'user', content: [{ type: 'text', text: 'x' }] }] },
  sampling: NEUTRAL_SAMPLING,
  n: 1,
  stop: [],
  ...over,
})
const target: Target = { provider: 'p', model: 'm', contextTokens: 100_000, price: undefined }
const bytes = (text: string) => new TextEncoder().encode(text).byteLength

describe('the worst case', () => {
  test('is at least every byte of every prompt and every output of every choice', () => {
    const prompts = fc.array(fc.string({ unit: 'binary', maxLength: 200 }), { minLength: 1, maxLength: 5 })
    const bound = fc.option(fc.integer({ min: 1, max: 200_000 }), { nil: undefined })
    fc.assert(
      fc.property(prompts, fc.integer({ min: 1, max: 16 }), bound, (texts, n, maxOutputTokens) => {
        const asked = request({
          n,
          input: { kind: 'completion', prompts: texts.map((text) => ({ text })), echo: false },
          ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
        })
        const estimate = worstCase(asked, target)
        expect(estimate.inputTokens).toBeGreaterThanOrEqual(texts.reduce((sum, text) => sum + bytes(text), 0))
        expect(estimate.outputTokens).toBe(n * texts.length * Math.min(100_000, maxOutputTokens ?? 100_000))
        expect(estimate.calls).toBe(0)
      }),
    )
  })

  test('counts a schema that a target may show to the model', () => {
    const schema = { type: 'object', properties: { name: { description: 'é'.repeat(100) } } }
    const plain = worstCase(request({}), target).inputTokens
    const shaped = worstCase(request({ outputFormat: { kind: 'json_schema', name: 'person', schema } }), target)
    expect(shaped.inputTokens - plain).toBeGreaterThanOrEqual(bytes(JSON.stringify(schema)))
  })

  test('of an embedding has every text and no output', () => {
    const input = { kind: 'embedding' as const, prompts: [{ text: 'abc' }, { tokenIds: [1, 2, 3, 4] }] }
    const estimate = worstCase(request({ input }), target)
    expect(estimate).toMatchObject({ outputTokens: 0, calls: 0 })
    expect(estimate.inputTokens).toBeGreaterThanOrEqual(7)
  })
})
