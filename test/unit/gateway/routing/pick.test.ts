import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Dispatches, INHIBIT_MS } from '../../../../gateway/routing/dispatches.ts'
import { type LocalKnowledge, pick } from '../../../../gateway/routing/pick.ts'
import type { BackendView } from '../../../../gateway/routing/snapshot.ts'
import type { CapacityFrame } from '../../../../protocol/capacity.ts'

const frame = (over: Partial<CapacityFrame> = {}): CapacityFrame => ({
  model: 'm',
  role: 'both',
  epoch: 'e',
  sequence: 1,
  contextTokensMax: 1000,
  blockTokens: 16,
  kvBlocksTotal: 100,
  kvBlocksUsed: 0,
  kvBlocksCached: 0,
  sequencesRunning: 0,
  sequencesWaiting: 0,
  sequencesMax: 10,
  requestsQueued: 0,
  requestsQueuedMax: 20,
  prefillTokensQueued: 0,
  decodeKvTokens: 0,
  stepMs: 1,
  draining: false,
  ...over,
})
const backend = (
  backendId: string,
  over: Partial<CapacityFrame> = {},
  more: Partial<BackendView> = {},
): BackendView => ({
  backendId,
  url: `http://${backendId}`,
  reportAgeMs: 0,
  frames: [frame(over)],
  ...more,
})
const nothing: LocalKnowledge = { inFlight: new Map(), inhibited: new Set(), tried: new Set() }
const choose = (backends: BackendView[], local = nothing, random = 0, wantsGrammar = false) =>
  pick('m', { staleAfterMs: 3500, backends }, local, random, wantsGrammar)

describe('picking a backend', () => {
  test.each<[string, BackendView, Partial<LocalKnowledge>]>([
    ['other_model', backend('a', { model: 'other' }), {}],
    ['other_model', backend('a', { role: 'prefill' }), {}],
    ['other_model', backend('a', {}, { frames: [] }), {}],
    ['stale', backend('a', {}, { reportAgeMs: 3501 }), {}],
    ['draining', backend('a', { draining: true }), {}],
    ['tried', backend('a'), { tried: new Set(['a']) }],
  ])('leaves out what is %s, and says so', (verdict, view, local) => {
    const decision = choose([view], { ...nothing, ...local })
    expect(decision.chosen).toBeUndefined()
    expect(decision.considered).toEqual([{ backendId: 'a', verdict }])
  })

  test('takes the least loaded, by sequences first and KV second', () => {
    expect(
      choose([backend('a', { sequencesRunning: 5 }), backend('b', { sequencesRunning: 1 })]).chosen?.backendId,
    ).toBe('b')
    expect(choose([backend('a', { kvBlocksUsed: 90 }), backend('b', { kvBlocksUsed: 10 })]).chosen?.backendId).toBe('b')
    expect(choose([backend('a', { requestsQueued: 9 }), backend('b')]).chosen?.backendId).toBe('b')
    // Half the slots of a large one are less than all of a small one.
    const large = backend('a', { sequencesRunning: 32, sequencesMax: 64 })
    expect(choose([large, backend('b', { sequencesRunning: 8, sequencesMax: 8 })]).chosen?.backendId).toBe('a')
  })

  test('knows what this isolate sent since the last report', () => {
    const local = { ...nothing, inFlight: new Map([['a', 6]]) }
    expect(choose([backend('a'), backend('b', { sequencesRunning: 3 })], local).chosen?.backendId).toBe('b')
  })

  test('asks a full backend only when no other is left', () => {
    const full = backend('a', { requestsQueued: 20 })
    expect(choose([full, backend('b', { sequencesRunning: 10 })]).chosen?.backendId).toBe('b')
    expect(choose([full])).toMatchObject({ chosen: { backendId: 'a' }, considered: [{ verdict: 'full' }] })
  })

  test('asks one that just failed last of all, and still asks it: a fleet of one must go on', () => {
    const local = { ...nothing, inhibited: new Set(['a']) }
    expect(choose([backend('a'), backend('b', { requestsQueued: 20 })], local).chosen?.backendId).toBe('b')
    expect(choose([backend('a')], local)).toMatchObject({
      chosen: { backendId: 'a' },
      considered: [{ verdict: 'inhibited' }],
    })
  })

  test('spreads ties at random, and only among ties', () => {
    const views = ['a', 'b', 'c'].map((id) => backend(id))
    const chosen = [0, 0.4, 0.99].map((random) => choose(views, nothing, random).chosen?.backendId)
    expect(chosen).toEqual(['a', 'b', 'c'])
  })

  test('never picks what it ruled out, and always picks where something is left', () => {
    const view = fc.record({
      age: fc.constantFrom(0, 9999),
      draining: fc.boolean(),
      running: fc.nat(20),
      queued: fc.nat(25),
      tried: fc.boolean(),
    })
    fc.assert(
      fc.property(fc.array(view, { maxLength: 8 }), fc.double({ min: 0, max: 0.999, noNaN: true }), (views, random) => {
        const backends = views.map((one, i) =>
          backend(
            `b${i}`,
            { draining: one.draining, sequencesRunning: one.running, requestsQueued: one.queued },
            { reportAgeMs: one.age },
          ),
        )
        const tried = new Set(views.flatMap((one, i) => (one.tried ? [`b${i}`] : [])))
        const { chosen, considered } = choose(backends, { ...nothing, tried }, random)
        const usable = considered.filter(
          ({ verdict }) => verdict === 'candidate' || verdict === 'full' || verdict === 'inhibited',
        )
        expect(considered).toHaveLength(backends.length)
        if (usable.length === 0) expect(chosen).toBeUndefined()
        else expect(usable.map(({ backendId }) => backendId)).toContain(chosen?.backendId)
      }),
    )
  })
})

describe('the memory of dispatches', () => {
  test('counts what is open, and each end once', () => {
    const dispatches = new Dispatches()
    const end = dispatches.begin('a')
    dispatches.begin('a')
    expect(dispatches.inFlight.get('a')).toBe(2)
    end()
    end()
    expect(dispatches.inFlight.get('a')).toBe(1)
  })

  test('forgets a failure after its time, or when the backend answers', () => {
    const dispatches = new Dispatches()
    dispatches.inhibit('a', 0)
    dispatches.inhibit('b', 0)
    dispatches.recovered('b')
    expect([...dispatches.inhibited(INHIBIT_MS - 1)]).toEqual(['a'])
    expect([...dispatches.inhibited(INHIBIT_MS)]).toEqual([])
  })
})

describe('a request with a grammar', () => {
  test('goes to a backend that can keep to it, any other request to any backend', () => {
    const backends = [backend('plain'), backend('without', { grammars: false }), backend('able', { grammars: true })]
    expect(choose(backends, nothing, 0, true).chosen?.backendId).toBe('able')
    expect(choose(backends).chosen?.backendId).toBe('plain')
  })

  test('goes nowhere where none can, and the decision says why', () => {
    const decision = choose([backend('plain')], nothing, 0, true)
    expect(decision).toEqual({ chosen: undefined, considered: [{ backendId: 'plain', verdict: 'no_grammars' }] })
  })
})
