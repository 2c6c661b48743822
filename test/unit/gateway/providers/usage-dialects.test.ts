// Counts of every dialect in disjoint parts. The vectors are those of the design's usage table, by their ids there.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Normalised, rawUsageText, withOtherModels } from '../../../../gateway/meter/normalise.ts'
import {
  inputTokens,
  isUsage,
  outputTokens,
  USAGE_PART_MAX,
  USAGE_PARTS,
  type Usage,
} from '../../../../gateway/meter/usage.ts'
import { normaliseAnthropic } from '../../../../gateway/providers/anthropic-usage.ts'
import { normaliseFleet } from '../../../../gateway/providers/fleet-usage.ts'
import { USAGE_DIALECTS, type UsageDialect, UsageReader } from '../../../../gateway/providers/usage-dialect.ts'
import { type Parts, VECTORS } from './usage-vectors.ts'

/** What an answer used after all its usage objects. */
function seen(dialect: UsageDialect, ...raws: unknown[]): Normalised | undefined {
  const reader = new UsageReader(dialect)
  let last: Normalised | undefined
  for (const raw of raws) last = reader.see(raw) ?? last
  return last
}

const partsOf = (usage: Usage): Parts => [
  usage.inputUncached,
  usage.inputCacheRead,
  usage.inputCacheWrite5m + usage.inputCacheWrite1h,
  usage.outputText,
  usage.outputReasoning,
]

test.each(VECTORS.map((vector) => [`${vector.dialect} ${vector.id}`, vector] as const))('%s', (_, vector) => {
  const { dialect, raws, parts, more = {} } = vector
  const counted = seen(dialect, ...raws)
  expect(counted?.inconsistent).toBe(false)
  expect(counted && partsOf(counted.usage)).toEqual(parts)
  expect(counted?.usage).toMatchObject(more)
})

test('own engines count computed and cached tokens apart', () => {
  const { usage, inconsistent } = normaliseFleet({ inputTokens: 4, cachedInputTokens: 1, outputTokens: 2 })
  expect(partsOf(usage)).toEqual([4, 1, 0, 2, 0])
  expect(inconsistent).toBe(false)
})

test('a reader knows what the request asked for', () => {
  const raw = { input_tokens: 1, cache_creation_input_tokens: 10 }
  expect(new UsageReader('anthropic', '1h').see(raw)?.usage).toMatchObject({ inputCacheWrite1h: 10 })
  expect(new UsageReader('anthropic').see(raw)?.usage).toMatchObject({ inputCacheWrite5m: 10 })
  const bedrock = { inputTokens: 1, cacheWriteInputTokens: 10 }
  expect(new UsageReader('bedrock', '1h').see(bedrock)?.usage).toMatchObject({ inputCacheWrite1h: 10 })
})

test('what the request asked for decides over writes that nobody split', () => {
  const raw = { input_tokens: 1, cache_creation_input_tokens: 10, cache_creation: { ephemeral_5m_input_tokens: 4 } }
  expect(normaliseAnthropic(raw, '5m')?.usage).toMatchObject({ inputCacheWrite5m: 10, inputCacheWrite1h: 0 })
  expect(normaliseAnthropic(raw, '1h')?.usage).toMatchObject({ inputCacheWrite5m: 4, inputCacheWrite1h: 6 })
})

describe('other models in one answer', () => {
  const advised = {
    input_tokens: 4727,
    output_tokens: 3391,
    iterations: [{ type: 'advisor_message', model: 'advisor', input_tokens: 2728, output_tokens: 3880 }],
  }
  test('A5: are a line of their own, which one row counts at its own price and flags', () => {
    const counted = seen('anthropic', advised)
    expect(counted?.otherModels?.map((other) => [other.model, ...partsOf(other.usage)])).toEqual([
      ['advisor', 2728, 0, 0, 3880, 0],
    ])
    const row = counted && withOtherModels(counted)
    expect(row && partsOf(row.usage)).toEqual([7455, 0, 0, 7271, 0])
    expect(row?.inconsistent).toBe(true)
  })
  test('A6: the one that answered in place of the one asked for is named and flagged', () => {
    const iterations = [{ type: 'fallback_message', model: 'other', input_tokens: 412, output_tokens: 264 }]
    const counted = seen('anthropic', { input_tokens: 412, output_tokens: 264, iterations })
    expect(counted?.servedModel).toBe('other')
    const row = counted && withOtherModels(counted)
    expect(row && partsOf(row.usage)).toEqual([412, 0, 0, 264, 0])
    expect(row?.inconsistent).toBe(true)
  })
  test('an answer by one model stays as it is', () => {
    const counted = seen('anthropic', { input_tokens: 1, output_tokens: 2 })
    expect(counted && withOtherModels(counted)).toEqual(counted)
  })
})

describe('the provider’s own price', () => {
  test('X4: ticks of 1e-10 dollars become nano-dollars', () => {
    const counted = seen('xai', { prompt_tokens: 1, completion_tokens: 1, cost_in_usd_ticks: 37_756_000 })
    expect(counted?.providerCostNanoUsd).toBe(3_775_600n)
  })
  test.each([-1, 0.5, '3', null])('of %j is none', (ticks) => {
    const counted = seen('xai', { prompt_tokens: 1, completion_tokens: 1, cost_in_usd_ticks: ticks })
    expect(counted).not.toHaveProperty('providerCostNanoUsd')
  })
})

describe('what is no usage', () => {
  const nothing = [
    null,
    undefined,
    {},
    [],
    'usage',
    7,
    { prompt_tokens: null, input_tokens: null },
    { promptTokenCount: null },
  ]
  test.each(USAGE_DIALECTS.flatMap((dialect) => nothing.map((raw) => [dialect, raw] as const)))(
    '%s: %j is missing, not zero',
    (dialect, raw) => {
      expect(seen(dialect, raw)).toBeUndefined()
    },
  )
})

describe('a sum that is missing', () => {
  test.each<[string, unknown, Parts, boolean]>([
    ['the prompt is what is left of the total', { completion_tokens: 3, total_tokens: 13 }, [10, 0, 0, 3, 0], false],
    ['the completion is what is left of it', { prompt_tokens: 10, total_tokens: 13 }, [10, 0, 0, 3, 0], false],
    ['a total alone is the prompt', { total_tokens: 13 }, [13, 0, 0, 0, 0], false],
    [
      'a prompt beyond belief is read from it too',
      { prompt_tokens: -1, completion_tokens: 3, total_tokens: 13 },
      [10, 0, 0, 3, 0],
      true,
    ],
    ['a prompt nobody counted is noted', { completion_tokens: 3 }, [0, 0, 0, 3, 0], true],
    ['an embedding has a prompt alone', { prompt_tokens: 10 }, [10, 0, 0, 0, 0], false],
  ])('%s', (_, raw, parts, isInconsistent) => {
    const counted = seen('openai', raw)
    expect(counted && partsOf(counted.usage)).toEqual(parts)
    expect(counted?.inconsistent).toBe(isInconsistent)
  })
})

describe('contradictions are flagged and stay chargeable', () => {
  test.each<[string, UsageDialect, unknown, Parts]>([
    [
      'more cached than prompted',
      'openai',
      { prompt_tokens: 10, completion_tokens: 1, prompt_tokens_details: { cached_tokens: 12, cache_write_tokens: 5 } },
      [0, 10, 0, 1, 0],
    ],
    [
      'more reasoning than completion, without a total',
      'openai',
      { prompt_tokens: 1, completion_tokens: 5, completion_tokens_details: { reasoning_tokens: 9 } },
      [1, 0, 0, 0, 5],
    ],
    [
      'a total below the sums',
      'openai',
      { prompt_tokens: 10, completion_tokens: 5, total_tokens: 4 },
      [10, 0, 0, 5, 0],
    ],
    ['a negative count', 'openai', { prompt_tokens: -5, completion_tokens: 5 }, [0, 0, 0, 5, 0]],
    ['a fractional count', 'openai', { prompt_tokens: 1.5, completion_tokens: 5 }, [0, 0, 0, 5, 0]],
    ['a count beyond belief', 'openai', { prompt_tokens: 1e15, completion_tokens: 5 }, [0, 0, 0, 5, 0]],
    ['a count as text', 'openai', { prompt_tokens: '12', completion_tokens: 5 }, [0, 0, 0, 5, 0]],
    [
      'more split writes than writes',
      'anthropic',
      { input_tokens: 1, cache_creation_input_tokens: 2, cache_creation: { ephemeral_5m_input_tokens: 5 } },
      [1, 0, 5, 0, 0],
    ],
    [
      'more thinking than output',
      'anthropic',
      { input_tokens: 1, output_tokens: 3, output_tokens_details: { thinking_tokens: 5 } },
      [1, 0, 0, 0, 3],
    ],
    [
      'G5: details above their sum',
      'gemini',
      {
        promptTokenCount: 25,
        promptTokensDetails: [
          { modality: 'TEXT', tokenCount: 554 },
          { modality: 'AUDIO', tokenCount: 25 },
        ],
      },
      [0, 0, 0, 0, 0],
    ],
    [
      'a total above the sums: what it knows of is charged',
      'gemini',
      { promptTokenCount: 5, candidatesTokenCount: 5, totalTokenCount: 17 },
      [5, 0, 0, 5, 7],
    ],
    [
      'hits and misses that are not the prompt',
      'deepseek',
      { prompt_tokens: 10, completion_tokens: 1, prompt_cache_hit_tokens: 4, prompt_cache_miss_tokens: 4 },
      [6, 4, 0, 1, 0],
    ],
  ])('%s', (_, dialect, raw, parts) => {
    const counted = seen(dialect, raw)
    expect(counted && partsOf(counted.usage)).toEqual(parts)
    expect(counted?.inconsistent).toBe(true)
  })
})

describe('whatever arrives', () => {
  const leaf = fc.oneof(
    fc.nat(5000),
    fc.constantFrom(undefined, null, -0, -1, 1.5, 1e300, Number.NaN, USAGE_PART_MAX, USAGE_PART_MAX + 1),
    fc.string(),
    fc.boolean(),
  )
  const NAMES = [
    ['prompt_tokens', 'completion_tokens', 'total_tokens', 'input_tokens', 'output_tokens'],
    ['cache_read_input_tokens', 'cache_creation_input_tokens', 'prompt_cache_hit_tokens', 'prompt_cache_miss_tokens'],
    ['promptTokenCount', 'candidatesTokenCount', 'thoughtsTokenCount', 'totalTokenCount', 'cachedContentTokenCount'],
    ['toolUsePromptTokenCount', 'cost_in_usd_ticks', 'num_sources_used', 'num_server_side_tools_used', 'unknown'],
    ['inputTokens', 'outputTokens', 'cacheReadInputTokens', 'cacheWriteInputTokens', 'cacheDetails'],
  ].flat()
  const DETAILS = ['cached_tokens', 'cache_write_tokens', 'reasoning_tokens', 'audio_tokens', 'image_tokens', 'type']
  const details = fc.oneof(leaf, fc.dictionary(fc.constantFrom(...DETAILS, 'thinking_tokens', 'input_tokens'), leaf))
  const modality = fc.record({ modality: fc.constantFrom('TEXT', 'AUDIO', 'IMAGE', 7), tokenCount: leaf })
  const iteration = fc.record({
    type: fc.constantFrom('message', 'compaction', 'advisor_message', 'fallback_message', null),
    model: leaf,
    input_tokens: leaf,
    output_tokens: leaf,
  })
  const raw = fc
    .tuple(
      fc.dictionary(fc.constantFrom(...NAMES), leaf),
      fc.dictionary(
        fc.constantFrom(
          'prompt_tokens_details',
          'completion_tokens_details',
          'input_tokens_details',
          'output_tokens_details',
          'cache_creation',
          'server_tool_use',
        ),
        details,
      ),
      fc.oneof(leaf, fc.array(fc.oneof(leaf, iteration), { maxLength: 4 })),
      fc.oneof(leaf, fc.array(fc.oneof(leaf, modality), { maxLength: 4 })),
    )
    .map(([counts, more, iterations, promptTokensDetails]) => ({ ...counts, ...more, iterations, promptTokensDetails }))

  test('every part is a count, and nothing is thrown', () => {
    fc.assert(
      fc.property(fc.constantFrom(...USAGE_DIALECTS), fc.array(raw, { maxLength: 3 }), (dialect, raws) => {
        const counted = seen(dialect, ...raws)
        if (counted === undefined) return
        const row = withOtherModels(counted)
        for (const usage of [counted.usage, row.usage]) expect(isUsage(usage)).toBe(true)
        for (const part of USAGE_PARTS) expect(Object.is(row.usage[part], -0)).toBe(false)
      }),
      { numRuns: 3000 },
    )
  })

  test('consistent parts sum to the total that was reported', () => {
    const totals = { openai: 'total_tokens', xai: 'total_tokens', deepseek: 'total_tokens', gemini: 'totalTokenCount' }
    fc.assert(
      fc.property(fc.constantFrom('openai', 'xai', 'deepseek', 'gemini'), raw, (dialect, one) => {
        const counted = seen(dialect, one)
        if (counted === undefined || counted.inconsistent) return
        const total: unknown = Reflect.get(one, totals[dialect])
        // The compatible route of that dialect has other names.
        const isCompatible = dialect === 'gemini' && !Object.keys(one).some((name) => name.endsWith('TokenCount'))
        if (typeof total !== 'number' || isCompatible) return
        expect(inputTokens(counted.usage) + outputTokens(counted.usage)).toBe(total + 0)
      }),
      { numRuns: 3000 },
    )
  })
})

describe('the raw usage', () => {
  test('is the provider’s object as it joined, as JSON', () => {
    const reader = new UsageReader('anthropic')
    reader.see({ input_tokens: 17, service_tier: 'standard' })
    const last = reader.see({ output_tokens: 3, unknown: [1] })
    expect(rawUsageText(last?.raw, 4096)).toBe(
      '{"input_tokens":17,"service_tier":"standard","output_tokens":3,"unknown":[1]}',
    )
  })
  test('above the bound says so and stays JSON', () => {
    const text = rawUsageText({ input_tokens: 1, padding: 'x'.repeat(100) }, 64)
    expect(JSON.parse(text ?? '')).toEqual({ truncated: true, chars: 131 })
  })
  test('that JSON cannot say is absent', () => {
    const circular: Record<string, unknown> = {}
    circular.self = circular
    expect(rawUsageText(circular, 64)).toBeUndefined()
    expect(rawUsageText(undefined, 64)).toBeUndefined()
  })
})
