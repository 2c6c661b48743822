// Providers and models: rows of health, prices in force, the picture of a model and its words, secrets of a document.
import { describe, expect, test } from 'vitest'
import type { HealthWindow, Model, Price, ProvidersHealth, Target } from '../../../dashboard/app/wire-admin.ts'
import { readDocument, secretsAsked, secretsBody } from '../../../dashboard/pages/providers/document.ts'
import { healthRows, keyRows, successOf, totals } from '../../../dashboard/pages/providers/health-rows.ts'
import { layoutOf } from '../../../dashboard/pages/providers/layout.ts'
import { amountText, priceOf } from '../../../dashboard/pages/providers/prices.ts'
import { sentences, weightShare } from '../../../dashboard/pages/providers/words.ts'

const window = (change: Partial<HealthWindow> = {}): HealthWindow => ({
  attempts: 10,
  ok: 8,
  cancelled: 1,
  failed: 1,
  failures: { stall: 1 },
  attempts_per_minute: 2,
  output_tokens_per_second: null,
  first_token: null,
  total: null,
  ...change,
})
const target = (provider: string, model: string, change: Partial<Target> = {}): Target => ({
  provider,
  model,
  context_tokens: 1_000,
  ...change,
})
const model = (targets: Target[], policy?: Partial<NonNullable<Model['policy']>>): Model => ({
  name: 'chat',
  targets,
  ...(policy === undefined ? {} : { policy: { strategy: 'ordered', fallback_on: [], attempts_max: 4, ...policy } }),
  created_at: '',
  updated_at: '',
})
const health: ProvidersHealth = {
  as_of: '2026-11-22T12:00:00Z',
  windows_minutes: [5, 60],
  data: [
    {
      provider: 'p',
      model_served: 'a',
      key: 'k1',
      last_5_minutes: window({ attempts: 0 }),
      last_60_minutes: window(),
    },
  ],
  breakers: {
    scope: 'this isolate',
    targets: [
      {
        provider: 'p',
        model: 'a',
        standing: 'resting',
        until: null,
        failures_in_row: 5,
        in_flight: 0,
        expected_first_token_ms: null,
      },
    ],
    keys: [{ provider: 'p', key: 'k1', model: null, standing: 'barred', until: null, failures_in_row: 1 }],
  },
}

describe('health', () => {
  test('rows hold the record, the breakers, and targets that nobody called', () => {
    const rows = healthRows(health, [model([target('p', 'a'), target('p', 'b')])], 60)
    expect(rows.map(({ provider, model: name, key }) => [provider, name, key])).toEqual([
      ['p', 'a', 'k1'],
      ['p', 'b', undefined],
    ])
    expect(rows[0]).toMatchObject({ breaker: { standing: 'resting' }, keyBreaker: { standing: 'barred' } })
    expect(rows[1]).toMatchObject({ window: undefined, breaker: undefined })
    expect(totals(rows)).toMatchObject({ attempts: 10, ok: 8, failed: 1 })
    expect(totals(healthRows(health, [], 5)).attempts).toBe(0)
  })

  test('attempts that their caller ended count for neither side', () => {
    expect(successOf(window())).toBeCloseTo(8 / 9)
    expect(successOf(window({ ok: 0, failed: 0 }))).toBeUndefined()
  })

  test('a disabled key has no share of the requests', () => {
    const key = { created_at: '', disabled_at: null }
    const rows = keyRows(
      [
        {
          name: 'p',
          kind: 'openai',
          base_url: '',
          allow_private: false,
          options: {},
          usage_dialect: 'openai',
          cutoff: 'cancel',
          created_at: '',
          updated_at: '',
          keys: [
            { ...key, name: 'k1', weight: 3, disabled: false },
            { ...key, name: 'k2', weight: 1, disabled: false },
            { ...key, name: 'k3', weight: 9, disabled: true },
          ],
        },
      ],
      health,
    )
    expect(rows.map(({ share }) => share)).toEqual([0.75, 0.25, 0])
    expect(rows[0]?.breakers).toHaveLength(1)
  })
})

describe('prices', () => {
  const price = (id: string, from: string, change: Partial<Price> = {}): Price => ({
    id,
    provider: 'p',
    model: 'a',
    service_tier: 'standard',
    effective_from: from,
    created_at: from,
    usd_per_million: { input_uncached: '2' },
    ...change,
  })
  const nowMs = Date.parse('2026-11-22T12:00:00Z')

  test('the newest version that has begun and not ended holds, of the target’s own tier', () => {
    const versions = [
      price('old', '2026-01-01T00:00:00Z'),
      price('new', '2026-11-01T00:00:00Z'),
      price('to come', '2026-12-01T00:00:00Z'),
      price('ended', '2026-11-20T00:00:00Z', { effective_to: '2026-11-21T00:00:00Z' }),
      price('flex', '2026-11-10T00:00:00Z', { service_tier: 'flex' }),
    ]
    expect(priceOf(versions, target('p', 'a'), nowMs)?.id).toBe('new')
    expect(priceOf(versions, target('p', 'a', { service_tier: 'flex' }), nowMs)?.id).toBe('flex')
    expect(priceOf(versions, target('p', 'b'), nowMs)).toBeUndefined()
  })

  test('amounts keep every digit and have two at the least', () => {
    expect([amountText('2'), amountText('0.5'), amountText('0.0025')]).toEqual(['$2.00', '$0.50', '$0.0025'])
  })
})

describe('a model', () => {
  const three = [target('p', 'a', { weight: 1 }), target('p', 'b', { weight: 3 }), target('p', 'c', { weight: 9 })]

  test('weights are shares of what is drawn: neither canary nor shadow', () => {
    const canary = model(three, { strategy: 'weighted', canary: { target: 2, percent: 5 } })
    expect([0, 1, 2].map((index) => weightShare(canary, index))).toEqual([0.25, 0.75, undefined])
    const shadow = model(three, { strategy: 'weighted', shadow: { target: 2, percent: 5 } })
    expect(weightShare(shadow, 1)).toBe(0.75)
    expect(weightShare(model(three), 0)).toBeUndefined()
  })

  test('is told in words: what is asked, what follows, what is copied', () => {
    const words = sentences(model(three, { cascade: { escalate_on: ['length'] }, shadow: { target: 2, percent: 1 } }))
    expect(words[0]).toBe('The targets are asked in this order: p/a, then p/b.')
    expect(words.join(' ')).toMatch(/Cascade: .* length .*Shadow: 1 % .* p\/c/)
    expect(sentences(model([target('p', 'a')]))).toEqual(['All requests go to p/a.'])
  })

  test('is drawn with an edge for each choice and each fallback, inside its width', () => {
    for (const width of [300, 720, 1_200]) {
      const layout = layoutOf(model(three, { strategy: 'weighted', canary: { target: 0, percent: 5 } }), width)
      expect(layout.edges.map(({ kind }) => kind).sort()).toEqual([
        'canary',
        'choice',
        'choice',
        'fallback',
        'fallback',
      ])
      for (const box of [layout.model, ...layout.targets]) {
        expect(box.x).toBeGreaterThanOrEqual(0)
        expect(box.x + box.width).toBeLessThanOrEqual(width)
        expect(box.y + box.height).toBeLessThanOrEqual(layout.height)
      }
      // The canary is the last to be asked where it is not drawn.
      expect(layout.targets[0]?.y).toBeGreaterThan(layout.targets[2]?.y ?? 0)
    }
  })

  test('in order has one edge to the first, and one from each to the next', () => {
    const { edges } = layoutOf(model(three), 720)
    expect(edges.map(({ id }) => id)).toEqual(['choice-0', 'next-0', 'next-1'])
  })
})

describe('a document', () => {
  test('asks for the secrets that it names by a variable', () => {
    const read = readDocument(
      '{"providers":{"p":{"keys":{"a":{"secret":"env:KEY"},"b":{"secret":"keep"}}},"q":{"keys":{"c":{"secret":"env:C"}}}}}',
    )
    const asked = read.ok ? secretsAsked(read.document) : []
    expect(asked.map(({ provider, key }) => `${provider}/${key}`)).toEqual(['p/a', 'q/c'])
    expect(
      secretsBody(
        asked,
        new Map([
          ['p/a', 's'],
          ['q/c', ''],
        ]),
      ),
    ).toEqual({ p: { a: 's' } })
  })

  test('of any other form asks for nothing', () => {
    for (const text of ['[]', '{"providers":[1]}', '{"providers":{"p":{"keys":null}}}', '"x"']) {
      const read = readDocument(text)
      expect(read.ok && secretsAsked(read.document)).toEqual([])
    }
    expect(readDocument('{').ok).toBe(false)
  })
})
