// Counts of OpenAI-compatible servers. The vectors are those of the design's usage table, by their ids there.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { normaliseOpenAi } from '../../../gateway/meter/normalise.ts'
import { inputTokens, isUsage, outputTokens } from '../../../gateway/meter/usage.ts'

/** new / read / write; text / reasoning */
type Parts = [number, number, number, number, number]

const parts = (raw: unknown): Parts | undefined => {
  const usage = normaliseOpenAi(raw)?.usage
  if (usage === undefined) return undefined
  expect(usage.inputCacheWrite1h).toBe(0)
  return [usage.inputUncached, usage.inputCacheRead, usage.inputCacheWrite5m, usage.outputText, usage.outputReasoning]
}

const VECTORS: [string, unknown, Parts][] = [
  [
    'O1: cached and reasoning tokens are inside the sums',
    {
      prompt_tokens: 1486,
      completion_tokens: 651,
      total_tokens: 2137,
      prompt_tokens_details: { cached_tokens: 1408 },
      completion_tokens_details: { reasoning_tokens: 512 },
    },
    [78, 1408, 0, 139, 512],
  ],
  [
    'O2: cache writes are inside too',
    {
      prompt_tokens: 2000,
      completion_tokens: 10,
      prompt_tokens_details: { cached_tokens: 1024, cache_write_tokens: 512 },
    },
    [464, 1024, 512, 10, 0],
  ],
  [
    'O3: the responses dialect has other names',
    {
      input_tokens: 2941,
      output_tokens: 1249,
      input_tokens_details: { cached_tokens: 1920 },
      output_tokens_details: { reasoning_tokens: 1024 },
    },
    [1021, 1920, 0, 225, 1024],
  ],
  ['O4: zeros are counts', { input_tokens: 0, output_tokens: 0, total_tokens: 0 }, [0, 0, 0, 0, 0]],
  [
    'O5: rejected prediction tokens are billed',
    {
      prompt_tokens: 1,
      completion_tokens: 30,
      completion_tokens_details: { accepted_prediction_tokens: 5, rejected_prediction_tokens: 10 },
    },
    [1, 0, 0, 30, 0],
  ],
  [
    'G4: a gap between the sums and the total is reasoning',
    { prompt_tokens: 758, completion_tokens: 102, total_tokens: 1725 },
    [758, 0, 0, 102, 865],
  ],
  [
    'X1: the total shows reasoning beside the completion',
    {
      prompt_tokens: 12,
      completion_tokens: 2,
      total_tokens: 438,
      prompt_tokens_details: { cached_tokens: 3 },
      completion_tokens_details: { reasoning_tokens: 424 },
    },
    [9, 3, 0, 2, 424],
  ],
  [
    'X2: the total shows cached tokens beside the prompt',
    {
      prompt_tokens: 4142,
      completion_tokens: 254,
      total_tokens: 8724,
      prompt_tokens_details: { cached_tokens: 4328 },
    },
    [4142, 4328, 0, 254, 0],
  ],
  [
    'X3: reasoning inside again, in the responses dialect',
    {
      input_tokens: 1875,
      output_tokens: 695,
      total_tokens: 2570,
      input_tokens_details: { cached_tokens: 1578 },
      output_tokens_details: { reasoning_tokens: 397 },
    },
    [297, 1578, 0, 298, 397],
  ],
  [
    'details of null are no details',
    { prompt_tokens: 3, completion_tokens: 1, prompt_tokens_details: null },
    [3, 0, 0, 1, 0],
  ],
]

test.each(VECTORS)('%s', (_, raw, expected) => {
  expect(parts(raw)).toEqual(expected)
  expect(normaliseOpenAi(raw)?.inconsistent).toBe(false)
})

describe('what is no usage', () => {
  // O6: a stream says null until its last chunk.
  test.each([null, undefined, {}, [], 'usage', 7, { prompt_tokens: null }])('%j is missing, not zero', (raw) => {
    expect(normaliseOpenAi(raw)).toBeUndefined()
  })
})

describe('contradictions are flagged and stay chargeable', () => {
  test.each<[string, unknown, Parts]>([
    [
      'more cached than prompted',
      { prompt_tokens: 10, completion_tokens: 1, prompt_tokens_details: { cached_tokens: 12, cache_write_tokens: 5 } },
      [0, 10, 0, 1, 0],
    ],
    [
      'more reasoning than completion, without a total',
      { prompt_tokens: 1, completion_tokens: 5, completion_tokens_details: { reasoning_tokens: 9 } },
      [1, 0, 0, 0, 5],
    ],
    ['a total below the sums', { prompt_tokens: 10, completion_tokens: 5, total_tokens: 4 }, [10, 0, 0, 5, 0]],
    ['a negative count', { prompt_tokens: -5, completion_tokens: 5 }, [0, 0, 0, 5, 0]],
    ['a fractional count', { prompt_tokens: 1.5, completion_tokens: 5 }, [0, 0, 0, 5, 0]],
    ['a count beyond belief', { prompt_tokens: 1e15, completion_tokens: 5 }, [0, 0, 0, 5, 0]],
    ['a count as text', { prompt_tokens: '12', completion_tokens: 5 }, [0, 0, 0, 5, 0]],
  ])('%s', (_, raw, expected) => {
    expect(parts(raw)).toEqual(expected)
    expect(normaliseOpenAi(raw)?.inconsistent).toBe(true)
  })
})

test('X4: ticks of 1e-10 dollars become nano-dollars', () => {
  const counted = normaliseOpenAi({ prompt_tokens: 1, completion_tokens: 1, cost_in_usd_ticks: 37_756_000 })
  expect(counted?.providerCostNanoUsd).toBe(3_775_600n)
})

test('whatever arrives, parts are counts, and consistent parts sum to what was reported', () => {
  const count = fc.oneof(fc.nat(5000), fc.constant(undefined), fc.constant(null), fc.double(), fc.string())
  const details = fc.option(fc.record({ cached_tokens: count, cache_write_tokens: count, reasoning_tokens: count }), {
    nil: undefined,
  })
  fc.assert(
    fc.property(count, count, count, details, (prompt_tokens, completion_tokens, total_tokens, both) => {
      const counted = normaliseOpenAi({
        prompt_tokens,
        completion_tokens,
        total_tokens,
        prompt_tokens_details: both,
        completion_tokens_details: both,
      })
      if (counted === undefined) return
      expect(isUsage(counted.usage)).toBe(true)
      if (counted.inconsistent || typeof total_tokens !== 'number') return
      // JSON knows -0, which is a count of nothing like any other 0.
      expect(inputTokens(counted.usage) + outputTokens(counted.usage)).toBe(total_tokens + 0)
    }),
    { numRuns: 2000 },
  )
})
