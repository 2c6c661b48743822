import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ModelPolicy } from '../../../../gateway/policy/model-policy.ts'
import type { Plan, Target } from '../../../../gateway/policy/plan.ts'
import type { Standing } from '../../../../gateway/routing/breaker.ts'
import type { Hints } from '../../../../gateway/routing/hints.ts'
import { type Known, orderTargets } from '../../../../gateway/routing/order.ts'

const target = (provider: string, over: Partial<Target> = {}): Target => ({
  provider,
  model: 'm',
  contextTokens: 1000,
  price: undefined,
  ...over,
})
const plan = (targets: Target[], policy: Record<string, unknown> = {}): Plan => ({
  model: 'virtual',
  targets,
  policy: ModelPolicy.parse(policy),
})
const known = (over: Partial<Known> = {}): Known => ({
  standing: () => 'closed',
  expectedMs: () => undefined,
  firstContentMs: () => undefined,
  inFlight: () => 0,
  worstCost: () => undefined,
  stickyText: 'org\nconversation',
  hasOutput: true,
  ...over,
})
/** A generator of its own, so that a failure repeats. */
function random(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}
const byName =
  <T>(values: Record<string, T>) =>
  ({ provider }: Target): T | undefined =>
    values[provider]
function names(made: Plan, over: Partial<Known> = {}, hints: Hints = {}, draw: () => number = random(1)): string[] {
  const decision = orderTargets(made, hints, known(over), draw)
  if (!decision.ok) throw new Error(decision.error.message)
  return decision.value.places.map((place) => place.target.provider)
}
const [a, b, c] = [target('a'), target('b'), target('c')]

describe('strategies', () => {
  test('ordered keeps the order of the catalog', () => {
    expect(names(plan([a, b, c]))).toEqual(['a', 'b', 'c'])
  })

  test('cheapest compares what this request can cost at most; an unknown price comes last', () => {
    const worstCost = byName({ a: 9n, c: 2n })
    expect(names(plan([b, a, c], { strategy: 'cheapest' }), { worstCost })).toEqual(['c', 'a', 'b'])
  })

  test('fastest compares expected durations and tries what was never measured first', () => {
    const expectedMs = byName({ a: 900, c: 300 })
    expect(names(plan([a, b, c], { strategy: 'fastest' }), { expectedMs })).toEqual(['b', 'c', 'a'])
  })

  test('least busy compares open attempts and spreads equals', () => {
    const inFlight = ({ provider }: Target) => (provider === 'a' ? 3 : 1)
    const draw = random(7)
    const made = plan([a, b, c], { strategy: 'least_busy' })
    const first = Array.from({ length: 200 }, () => names(made, { inFlight }, {}, draw)[0])
    expect(new Set(first)).toEqual(new Set(['b', 'c']))
  })

  test('weighted gives each its share, and weight 0 only after all others', () => {
    const targets = [target('a', { weight: 3 }), target('b', { weight: 1 }), target('c', { weight: 0 })]
    const draw = random(42)
    const counts = { a: 0, b: 0, c: 0 }
    for (let index = 0; index < 4000; index++) {
      const order = names(plan(targets, { strategy: 'weighted' }), {}, {}, draw)
      counts[order[0] as keyof typeof counts]++
      expect(order[2]).toBe('c')
    }
    expect(counts.c).toBe(0)
    expect(counts.a / 4000).toBeGreaterThan(0.7)
    expect(counts.a / 4000).toBeLessThan(0.8)
  })
})

describe('sticky', () => {
  const made = plan([a, b, c], { strategy: 'weighted', sticky: 'conversation' })
  const firstOf = (text: string, over: Partial<Known> = {}, from = made) =>
    names(from, { stickyText: text, ...over })[0]
  const texts = Array.from({ length: 600 }, (_, index) => `org\nconversation ${index}`)

  test('one conversation has one target, and many spread over all', () => {
    for (const text of texts.slice(0, 50)) expect(firstOf(text)).toBe(firstOf(text))
    const counts = Map.groupBy(texts, (text) => firstOf(text))
    for (const name of ['a', 'b', 'c']) expect(counts.get(name)?.length).toBeGreaterThan(140)
  })

  test('a target that rests or goes moves only its own conversations', () => {
    const resting = ({ provider }: Target): Standing => (provider === 'b' ? 'resting' : 'closed')
    const without = plan([a, c], { strategy: 'weighted', sticky: 'conversation' })
    for (const text of texts) {
      const before = firstOf(text)
      const [while_, after] = [firstOf(text, { standing: resting }), firstOf(text, {}, without)]
      if (before === 'b') expect(['a', 'c']).toContain(while_)
      else expect([while_, after]).toEqual([before, before])
    }
  })

  test('shares follow the weights', () => {
    const heavy = plan([target('a', { weight: 3 }), target('b', { weight: 1 })], {
      strategy: 'weighted',
      sticky: 'conversation',
    })
    const share = texts.filter((text) => firstOf(text, {}, heavy) === 'a').length / texts.length
    expect(share).toBeGreaterThan(0.68)
    expect(share).toBeLessThan(0.82)
  })
})

describe('canary and shadow', () => {
  test('a canary is first for its share of the requests and last for all others', () => {
    const made = plan([a, b, c], { canary: { target: 1, percent: 10 } })
    const draw = random(3)
    const orders = Array.from({ length: 3000 }, () => names(made, {}, {}, draw).join(''))
    expect(new Set(orders)).toEqual(new Set(['bac', 'acb']))
    const share = orders.filter((order) => order === 'bac').length / orders.length
    expect(share).toBeGreaterThan(0.08)
    expect(share).toBeLessThan(0.12)
  })

  test('a sticky conversation stays with the canary or without it', () => {
    const made = plan([a, b], { sticky: 'conversation', canary: { target: 1, percent: 30 } })
    const draw = random(5)
    for (let index = 0; index < 100; index++) {
      const stickyText = `org\n${index}`
      const first = names(made, { stickyText }, {}, draw)[0]
      for (let turn = 0; turn < 5; turn++) expect(names(made, { stickyText }, {}, draw)[0]).toBe(first)
    }
  })

  test('a shadow target answers nobody', () => {
    expect(names(plan([a, b, c], { shadow: { target: 1, percent: 100 } }))).toEqual(['a', 'c'])
  })
})

describe('what rests', () => {
  test('comes last, whatever the strategy, the canary and the caller say', () => {
    const standing = ({ provider }: Target): Standing => (provider === 'a' ? 'resting' : 'closed')
    for (const policy of [
      {},
      { strategy: 'weighted' },
      { sticky: 'conversation' },
      { canary: { target: 0, percent: 100 } },
    ])
      expect(names(plan([a, b, c], policy), { standing }).at(-1)).toBe('a')
    expect(names(plan([a, b, c]), { standing }, { order: ['a'] }).at(-1)).toBe('a')
    expect(names(plan([a, b]), { standing: () => 'resting' })).toEqual(['a', 'b'])
  })

  test('is asked in its turn once its rest is over', () => {
    const standing = ({ provider }: Target): Standing => (provider === 'a' ? 'half_open' : 'closed')
    expect(names(plan([a, b]), { standing })).toEqual(['a', 'b'])
  })
})

test('a cascade keeps the catalog’s order', () => {
  const made = plan([a, b, c], { cascade: { escalate_on: ['length'] }, sticky: 'conversation' })
  expect(names(made)).toEqual(['a', 'b', 'c'])
})

test('the caller’s order comes first, the policy’s behind it', () => {
  expect(names(plan([a, b, c]), {}, { order: ['c/m', 'nobody'] })).toEqual(['c', 'a', 'b'])
})

test('hints that leave nothing say which of them took what away', () => {
  const decision = orderTargets(plan([a, b]), { only: ['a'], region: 'eu' }, known(), random(1))
  expect(decision).toMatchObject({
    ok: false,
    error: {
      code: 'invalid_request',
      message: expect.stringMatching(/x-penstock-region leaves out a\/m; x-penstock-only leaves out b\/m/),
    },
  })
})

test('every order names each target that the hints leave once', () => {
  const policy = fc.record({
    strategy: fc.constantFrom('ordered', 'weighted', 'cheapest', 'fastest', 'least_busy'),
    ...Object.fromEntries([['sticky', fc.constantFrom('conversation', 'end_user')]]),
    canary: fc.record({ target: fc.nat(4), percent: fc.integer({ min: 0, max: 100 }) }),
  })
  const standing = fc.constantFrom<Standing>('closed', 'half_open', 'resting', 'barred')
  fc.assert(
    fc.property(policy, fc.array(standing, { minLength: 5, maxLength: 5 }), fc.nat(), (made, standings, seed) => {
      const targets = ['a', 'b', 'c', 'd', 'e'].map((name, index) => target(name, { weight: index % 3 }))
      const order = names(
        plan(targets, made),
        { standing: ({ provider }) => standings['abcde'.indexOf(provider)] ?? 'closed' },
        {},
        random(seed),
      )
      expect(order.toSorted()).toEqual(['a', 'b', 'c', 'd', 'e'])
    }),
  )
})
