// Differences of catalogs: carried out on the first, they give the second, whatever the two are.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { diffConfig, type FieldChange } from '../../../../gateway/policy/config-diff.ts'
import { ConfigDocument, documentOf, type NormalConfig, normalise } from '../../../../gateway/policy/config-document.ts'
import { STRATEGIES } from '../../../../gateway/policy/model-policy.ts'

const keyName = fc.constantFrom('default', 'spare', 'constructor', 'to-string')
const target = fc.record(
  {
    provider: fc.constant('fleet'),
    model: fc.constantFrom('a', 'b', 'meta/c:1'),
    context_tokens: fc.integer({ min: 1, max: 9 }),
    weight: fc.integer({ min: 1, max: 3 }),
    region: fc.constantFrom('eu', 'us'),
  },
  { requiredKeys: ['provider', 'model', 'context_tokens'] },
)
const policy = fc.record(
  {
    strategy: fc.constantFrom(...STRATEGIES),
    fallback_on: fc.uniqueArray(fc.constantFrom('content_filter', 'context_length', 'refused')),
    canary: fc.record({ target: fc.constant(0), percent: fc.constantFrom(0, 2.5, 100) }),
    attempts_max: fc.integer({ min: 1, max: 8 }),
    idle_timeout_ms: fc.integer({ min: 1, max: 9 }),
  },
  { requiredKeys: [] },
)
const document = fc.record({
  format: fc.constant(1),
  providers: fc.dictionary(
    fc.constantFrom('up', 'down', 'constructor'),
    fc.record(
      {
        kind: fc.constant('openai_compatible'),
        base_url: fc.constantFrom('https://a.example.com', 'https://b.example.com/v1'),
        preset: fc.constantFrom('vllm', 'mistral'),
        options: fc.record(
          { headers: fc.dictionary(fc.constantFrom('x-title', 'x-team'), fc.constantFrom('a', 'b c')) },
          { requiredKeys: [] },
        ),
        keys: fc.dictionary(keyName, fc.record({ weight: fc.integer({ min: 1, max: 3 }), disabled: fc.boolean() }), {
          minKeys: 1,
        }),
      },
      { requiredKeys: ['kind', 'base_url'] },
    ),
  ),
  models: fc.dictionary(
    fc.constantFrom('chat', 'meta/llama:70b', 'constructor'),
    fc.record({ targets: fc.array(target, { minLength: 1, maxLength: 4 }), policy }, { requiredKeys: ['targets'] }),
  ),
})

function normal(text: unknown): NormalConfig {
  const result = normalise(ConfigDocument.parse(text))
  if (!result.ok) throw new Error(`${result.error.path.join('.')}: ${result.error.message}`)
  return result.value
}

/** Carries one change out: the steps of a path are names and [positions]. */
function carryOut(root: Record<string, unknown>, { path, before, after }: FieldChange): void {
  const steps = path.split(/\.|(?=\[)/).map((step) => (step.startsWith('[') ? Number(step.slice(1, -1)) : step))
  const last = steps.pop() ?? ''
  let place: unknown = root
  for (const step of steps) place = Reflect.get(Object(place), step)
  const holder = Object(place)
  expect(Object.hasOwn(holder, last) ? Reflect.get(holder, last) : undefined).toEqual(before)
  if (after === undefined && Array.isArray(holder)) holder.length = Math.min(holder.length, Number(last))
  else if (after === undefined) Reflect.deleteProperty(holder, last)
  else Reflect.defineProperty(holder, last, { value: after, enumerable: true, writable: true, configurable: true })
}

function carriedOut(from: NormalConfig, to: NormalConfig): unknown {
  const config = structuredClone<{ providers: Record<string, unknown>; models: Record<string, unknown> }>(from)
  for (const { object, name, action, fields } of structuredClone(diffConfig(from, to))) {
    const objects = object === 'provider' ? config.providers : config.models
    const one: Record<string, unknown> = action === 'add' ? {} : { ...Object(objects[name]) }
    // From the back, so that positions of an array stay what they were while its end goes; before what is checked first.
    for (const field of fields.toReversed()) carryOut(one, field)
    if (action === 'remove') {
      expect(one).toEqual({})
      delete objects[name]
    } else objects[name] = one
  }
  return config
}

describe('the differences of two catalogs', () => {
  test('turn the first into the second when they are carried out', () => {
    fc.assert(
      fc.property(document, document, (a, b) => {
        const [from, to] = [normal(a), normal(b)]
        expect(carriedOut(from, to)).toEqual(to)
      }),
      { numRuns: 300 },
    )
  })

  test('are none for the same catalog, also after a way through its document', () => {
    fc.assert(
      fc.property(document, (a) => {
        const one = normal(a)
        expect(diffConfig(one, one)).toEqual([])
        expect(diffConfig(one, normal(JSON.parse(JSON.stringify(documentOf(one)))))).toEqual([])
      }),
      { numRuns: 200 },
    )
  })

  test('name fields by their path, and what appears or goes as a whole once', () => {
    const model = (targets: unknown[], policy?: unknown) => ({ format: 1, models: { m: { targets, policy } } })
    const one = { provider: 'fleet', model: 'a', context_tokens: 1 }
    const from = normal(model([one, { ...one, weight: 2 }]))
    const to = normal(model([{ ...one, model: 'b' }], { strategy: 'fastest' }))
    const policy = { strategy: 'fastest', fallback_on: [], attempts_max: 4 }
    expect(diffConfig(from, to)).toEqual([
      {
        object: 'model',
        name: 'm',
        action: 'change',
        fields: [
          { path: 'policy', after: policy },
          { path: 'targets[0].model', before: 'a', after: 'b' },
          { path: 'targets[1]', before: { ...one, weight: 2 } },
        ],
      },
    ])
  })
})
