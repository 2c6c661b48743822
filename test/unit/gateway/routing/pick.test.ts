// Filter, score and pick over a fleet: what is left out and why, what a prefix may count for, and what holds for every fleet.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Ask, LocalKnowledge } from '../../../../gateway/routing/pick.ts'
import type { BackendView } from '../../../../gateway/routing/snapshot.ts'
import { scoreOf, tieBound, USUAL_OUTPUT_TOKENS } from '../../../../protocol/prediction.ts'
import { ask, backend, choose, frame, openAt, TOKENS_PER_CHUNK } from './fleet-support.ts'

/** What a prefix may count for beyond the time that it saves, and how close equal scores are, as the scores themselves have it. */
const AFFINITY_MS_MAX = scoreOf(0, Number.POSITIVE_INFINITY)
const TIE_MS = tieBound(0, 0)
const TIE_SHARE = tieBound(0, 1) - TIE_MS

const chosen = (backends: BackendView[], given: Parameters<typeof choose>[1] = {}) =>
  choose(backends, given).decision.chosen?.backendId

describe('picking a backend', () => {
  test.each<[string, BackendView, Partial<LocalKnowledge>]>([
    ['other_model', backend('a', { model: 'other' }), {}],
    ['other_model', backend('a', { role: 'prefill' }), {}],
    ['other_model', backend('a', {}, { frames: [] }), {}],
    ['draining', backend('a', { draining: true }), {}],
    ['tried', backend('a'), { tried: new Set(['a']) }],
    ['too_long', backend('a', { contextTokensMax: 4000 }), {}],
  ])('leaves out what is %s, and says so', (verdict, view, local) => {
    const { decision } = choose([view], { local })
    expect(decision.chosen).toBeUndefined()
    expect(decision.considered).toEqual([{ backendId: 'a', verdict }])
  })

  test('takes a prompt for too long only where it surely is, whatever was learnt of others', () => {
    const small = backend('a', { contextTokensMax: 1000 })
    const texts = (over: Partial<Ask>) => {
      const { promptTokens: _, ...asked } = ask(over)
      return asked
    }
    // Together they are over the window, each by itself is not.
    const batch = { promptChars: 40_000, longest: { chars: 2000, tokens: 0 } }
    expect(chosen([small], { asked: texts(batch) })).toBe('a')
    expect(chosen([small], { asked: ask({ promptTokens: 4000, longest: { chars: 0, tokens: 999 } }) })).toBe('a')
    expect(chosen([small], { asked: ask({ promptTokens: 4000, longest: { chars: 0, tokens: 1000 } }) })).toBeUndefined()
    // Learnt of another script, or of images.
    expect(chosen([small], { asked: texts({ promptChars: 3600 }), local: { tokensPerChar: 2 } })).toBe('a')
    expect(chosen([small], { asked: texts({ promptChars: 16_000 }), local: { tokensPerChar: 2 } })).toBeUndefined()
  })

  test('asks only larger windows than the one that was too small', () => {
    const fleet = [backend('a', { contextTokensMax: 8000 }), backend('b', { contextTokensMax: 32_000 })]
    expect(chosen(fleet, { asked: ask({ windowRefused: 8000 }) })).toBe('b')
    expect(chosen(fleet, { asked: ask({ windowRefused: 32_000 }) })).toBeUndefined()
  })

  test('takes what a request alone asks for, more than there is, for no queue', () => {
    const { decision } = choose([backend('a', { sequencesMax: 8, kvBlocksTotal: 100 })], {
      asked: ask({ sequences: 16 }),
    })
    expect(decision.expected?.prediction.waitMs).toBe(0)
  })

  test('leaves out what is stale while anybody is fresh, and then judges by what it has sent itself', () => {
    const old = (id: string) => backend(id, { sequencesRunning: 9 }, { reportAgeMs: 3501 })
    const { decision } = choose([old('a'), backend('b', { sequencesRunning: 10, prefillTokensQueued: 99_999 })])
    expect(decision.chosen?.backendId).toBe('b')
    expect(decision.considered[0]).toEqual({ backendId: 'a', verdict: 'stale' })
    // Fresh and of no use is fresh still: the silent ones are the broken ones.
    expect(chosen([old('a'), backend('b', { draining: true })])).toBeUndefined()
    const all = [old('a'), backend('b', {}, { reportAgeMs: 9000 })]
    expect(chosen(all, { local: { loads: openAt({ b: 3 }) } })).toBe('a')
    expect(chosen(all, { local: { loads: openAt({ a: 3 }) } })).toBe('b')
    expect(choose(all).decision.expected?.isMeasured).toBe(false)
  })

  test('asks nobody who is silent and has failed just now', () => {
    const silent = backend('a', {}, { reportAgeMs: 9000 })
    expect(chosen([silent])).toBe('a')
    expect(chosen([silent], { local: { inhibited: new Set(['a']) } })).toBeUndefined()
    expect(chosen([silent], { local: { tried: new Set(['a']) } })).toBeUndefined()
  })

  test.each<[string, Parameters<typeof frame>[0], Parameters<typeof frame>[0]]>([
    ['fewer prompt tokens ahead', { prefillTokensQueued: 5000 }, {}],
    ['a shorter queue before the engine', { requestsQueued: 9 }, {}],
    ['a free sequence', { sequencesRunning: 10 }, { sequencesRunning: 5 }],
    ['room for K and V', { kvBlocksTotal: 600, kvBlocksUsed: 600 }, { kvBlocksTotal: 600, kvBlocksUsed: 10 }],
    ['the quicker prefill', {}, { measuredPrefillTokensPerSecond: 2000 }],
    ['the quicker step', {}, { stepModel: { baseMs: 5, prefillTokenMs: 1, decodeSequenceMs: 1, kvTokenMs: 0.0001 } }],
    ['fewer sequences beside it', { sequencesRunning: 8 }, { sequencesRunning: 2 }],
    ['the larger window, where the estimate is over the smaller one', { contextTokensMax: 5000 }, {}],
  ])('prefers %s', (_, worse, better) => {
    const asked = ask()
    delete asked.promptTokens
    asked.promptChars = 24_000
    for (const random of [0, 0.99]) {
      expect(chosen([backend('a', worse), backend('b', better)], { random, asked })).toBe('b')
      expect(chosen([backend('b', better), backend('a', worse)], { random, asked })).toBe('b')
    }
  })

  test('knows what this isolate sent since the last report', () => {
    expect(chosen([backend('a'), backend('b', { sequencesRunning: 2 })], { local: { loads: openAt({ a: 6 }) } })).toBe(
      'b',
    )
  })

  test('asks a full backend only when no other is left', () => {
    const full = backend('a', { requestsQueued: 20 })
    expect(chosen([full, backend('b', { sequencesRunning: 10, prefillTokensQueued: 90_000 })])).toBe('b')
    expect(choose([full]).decision).toMatchObject({ chosen: { backendId: 'a' }, considered: [{ verdict: 'full' }] })
  })

  test('asks one that just failed last of all, and still asks it: a fleet of one must go on', () => {
    const local = { inhibited: new Set(['a']) }
    expect(chosen([backend('a'), backend('b', { requestsQueued: 20 })], { local })).toBe('b')
    expect(choose([backend('a')], { local }).decision).toMatchObject({
      chosen: { backendId: 'a' },
      considered: [{ verdict: 'inhibited' }],
    })
  })

  test('prefers who keeps what the operator promised to who is better in sum', () => {
    // Long to begin and quick then, against the other way round.
    const step = { prefillTokenMs: 1, decodeSequenceMs: 0, kvTokenMs: 0 }
    const slowStart = backend('a', { prefillTokensQueued: 3000, stepModel: { baseMs: 5, ...step } })
    const slowPace = backend('b', { stepModel: { baseMs: 40, ...step } })
    expect(chosen([slowStart, slowPace])).toBe('a')
    expect(chosen([slowStart, slowPace], { asked: ask({ targets: { firstTokenMs: 5000 } }) })).toBe('b')
    expect(chosen([slowStart, slowPace], { asked: ask({ targets: { interTokenMs: 20 } }) })).toBe('a')
  })

  test('gives an unmeasured backend traffic: it is taken for an ordinary one', () => {
    const { measuredPrefillTokensPerSecond: _rate, stepModel: _step, ...unmeasured } = frame()
    const fleet = [
      backend('slow', { measuredPrefillTokensPerSecond: 500 }),
      backend('new', {}, { frames: [unmeasured] }),
      backend('usual', { prefillTokensQueued: 2000 }),
      backend('busy', { prefillTokensQueued: 3000 }),
    ]
    expect(chosen(fleet)).toBe('new')
    expect(choose(fleet).decision.expected?.isMeasured).toBe(false)
  })

  test('says of each what the choice was made by', () => {
    const { decision } = choose([backend('a', { prefillTokensQueued: 500, sequencesRunning: 5 })], {
      local: { matches: new Map([['a', 20]]) },
    })
    const uncached = 4000 - 20 * TOKENS_PER_CHUNK
    expect(decision.considered[0]).toMatchObject({
      backendId: 'a',
      verdict: 'candidate',
      load: 0.5,
      ttftMs: 500 + uncached,
      uncachedTokens: uncached,
      matchedTokens: 20 * TOKENS_PER_CHUNK,
    })
    expect(decision.expected?.prediction).toMatchObject({ waitMs: 500, workMs: uncached, place: 'here' })
  })
})

describe('a prefix', () => {
  const holding = (id: string, chunks: number) => ({ matches: new Map([[id, chunks]]) })

  test('draws a request to who holds it, by index or by what was just sent there, whichever is more', () => {
    const fleet = [backend('a'), backend('b'), backend('c')]
    expect(chosen(fleet, { local: holding('b', 20) })).toBe('b')
    expect(chosen(fleet, { local: { sent: new Map([['c', 20]]) } })).toBe('c')
    expect(chosen(fleet, { local: { ...holding('b', 20), sent: new Map([['c', 24]]) } })).toBe('c')
    expect(chosen(fleet, { local: { ...holding('b', 24), sent: new Map([['c', 20]]) } })).toBe('b')
  })

  test('does not hold a request back from a backend where it would be served much sooner', () => {
    const busy = backend('a', { prefillTokensQueued: 30_000 })
    expect(chosen([busy, backend('b')], { local: holding('a', 30) })).toBe('b')
  })

  test('that all hold, or nearly all, decides nothing', () => {
    const fleet = ['a', 'b', 'c', 'd'].map((id) => backend(id))
    const matches = new Map(['a', 'b', 'c'].map((id) => [id, 20]))
    const picked = [0, 0.3, 0.6, 0.9].map((random) => chosen(fleet, { local: { matches }, random }))
    expect(picked).toEqual(['a', 'b', 'c', 'd'])
    matches.set('b', 28)
    expect(chosen(fleet, { local: { matches } })).toBe('b')
  })

  test('that is a small part of the prompt decides nothing', () => {
    const fleet = [backend('a'), backend('b')]
    const asked = ask({ promptTokens: 12_000, promptChars: 48_000 })
    expect([0, 0.9].map((random) => chosen(fleet, { local: holding('a', 4), asked, random }))).toEqual(['a', 'b'])
  })

  test('draws the siblings of a burst together while it pays, and no longer', () => {
    const queued = (tokens: number) => [backend('a', { prefillTokensQueued: tokens }), backend('b')]
    const local = { sent: new Map([['a', 30]]) }
    expect(chosen(queued(4000), { local })).toBe('a')
    expect(chosen(queued(40_000), { local })).toBe('b')
  })
})

describe('for every fleet', () => {
  const one = fc.record({
    age: fc.constantFrom<number>(0, 100, 9999),
    draining: fc.boolean(),
    tried: fc.boolean(),
    running: fc.nat(12),
    queued: fc.nat(25),
    tokens: fc.nat(60_000),
    held: fc.nat(31),
    rate: fc.constantFrom<number | undefined>(undefined, 500, 8000),
  })
  type One = typeof one extends fc.Arbitrary<infer T> ? T : never
  const view = ({ age, draining, running, queued, tokens, rate }: One, index: number): BackendView => {
    const { measuredPrefillTokensPerSecond: _, ...rest } = frame({
      draining,
      sequencesRunning: running,
      requestsQueued: queued,
      prefillTokensQueued: tokens,
    })
    const made = rate === undefined ? rest : { ...rest, measuredPrefillTokensPerSecond: rate }
    return backend(`b${index}`, {}, { reportAgeMs: age, frames: [made] })
  }
  const fleet = fc.array(one, { minLength: 1, maxLength: 8 })
  const random = fc.double({ min: 0, max: 0.999, noNaN: true })
  const matchesOf = (all: readonly One[]) => new Map(all.flatMap(({ held }, i) => (held > 0 ? [[`b${i}`, held]] : [])))

  test('nobody who is ruled out is picked, and somebody is where anybody is left', () => {
    fc.assert(
      fc.property(fleet, random, (all, draw) => {
        const tried = new Set(all.flatMap((each, i) => (each.tried ? [`b${i}`] : [])))
        const { decision } = choose(all.map(view), { local: { tried, matches: matchesOf(all) }, random: draw })
        const isBlind = all.every(({ age }) => age === 9999)
        const usable = all.flatMap(({ age, draining, tried: was }, i) =>
          !draining && !was && (isBlind || age !== 9999) ? [`b${i}`] : [],
        )
        expect(decision.considered).toHaveLength(all.length)
        if (usable.length === 0) expect(decision.chosen).toBeUndefined()
        else expect(usable).toContain(decision.chosen?.backendId)
      }),
    )
  })

  test('a prefix never outweighs more time than it saves and its bound', () => {
    fc.assert(
      fc.property(fleet, random, (all, draw) => {
        const views = all.map((each, i) =>
          view({ ...each, age: 0, draining: false, queued: Math.min(19, each.queued) }, i),
        )
        const { decision } = choose(views, { local: { matches: matchesOf(all) }, random: draw })
        const cost = ({ ttftMs = 0, itlMs = 0 }) => ttftMs + USUAL_OUTPUT_TOKENS * itlMs
        const mine = decision.considered.find(({ backendId }) => backendId === decision.chosen?.backendId)
        const least = Math.min(...decision.considered.map(cost))
        expect(cost(mine ?? {})).toBeLessThanOrEqual(
          least * (1 + TIE_SHARE) + AFFINITY_MS_MAX * (1 + TIE_SHARE) + TIE_MS + 1,
        )
      }),
    )
  })

  test('load makes nobody more attractive', () => {
    const more = fc.record({ running: fc.nat(5), queued: fc.nat(5), tokens: fc.nat(5000), kv: fc.nat(50_000) })
    fc.assert(
      fc.property(fleet, more, fc.nat(7), (all, extra, which) => {
        const index = which % all.length
        const fresh = all.map((each) => ({ ...each, age: 0, draining: false }))
        const before = fresh.map(view)
        const after = fresh.map((each, i) => {
          const made = view(each, i)
          if (i !== index) return made
          const [shown = frame()] = made.frames
          const loaded = {
            ...shown,
            sequencesRunning: shown.sequencesRunning + extra.running,
            requestsQueued: shown.requestsQueued + extra.queued,
            prefillTokensQueued: shown.prefillTokensQueued + extra.tokens,
            decodeKvTokens: shown.decodeKvTokens + extra.kv,
            kvBlocksUsed: shown.kvBlocksUsed + extra.kv,
          }
          return { ...made, frames: [loaded] }
        })
        const local = { matches: matchesOf(all) }
        const scoreIn = (views: BackendView[]) => choose(views, { local }).decision.considered[index]?.score ?? 0
        expect(scoreIn(after)).toBeGreaterThanOrEqual(scoreIn(before))
      }),
    )
  })

  test('equals are picked equally often', () => {
    const fleetOfFive = Array.from({ length: 5 }, (_, i) => backend(`b${i}`))
    const counts = new Map<string, number>()
    for (let draw = 0; draw < 1000; draw++) {
      const id = chosen(fleetOfFive, { random: draw / 1000 }) ?? ''
      counts.set(id, (counts.get(id) ?? 0) + 1)
    }
    expect([...counts.values()]).toEqual([200, 200, 200, 200, 200])
  })
})

describe('a request with a grammar', () => {
  test('goes to a backend that can keep to it, any other request to any backend', () => {
    const backends = [backend('plain'), backend('without', { grammars: false }), backend('able', { grammars: true })]
    expect(chosen(backends, { asked: ask({ wantsGrammar: true }) })).toBe('able')
    expect(chosen(backends)).toBe('plain')
  })

  test('goes nowhere where none can, and the decision says why', () => {
    const { decision } = choose([backend('plain')], { asked: ask({ wantsGrammar: true }) })
    expect(decision.chosen).toBeUndefined()
    expect(decision.considered).toEqual([{ backendId: 'plain', verdict: 'no_grammars' }])
  })
})
