// What an isolate remembers of its own dispatches: nothing is lost, nothing counted twice, everything ends.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { FiguresBySnapshot } from '../../../../gateway/routing/figures.ts'
import { FleetLedger, INHIBIT_MS, type Open } from '../../../../gateway/routing/ledger.ts'
import { PromptSizes } from '../../../../gateway/routing/prompt-size.ts'
import { FleetRouter } from '../../../../gateway/routing/router.ts'
import { SENT_MS, SentChunks } from '../../../../gateway/routing/sent.ts'
import type { BackendView } from '../../../../gateway/routing/snapshot.ts'
import { PrefillLoad } from '../../../../protocol/dispatch.ts'
import { ask, backend, frame, transfer } from './fleet-support.ts'

const work = (backendId: string, promptTokens = 100) => ({
  backendId,
  model: 'm',
  promptTokens,
  sequences: 1,
  kvTokens: 150,
})
const only = (ledger: FleetLedger) => {
  const [load] = [...ledger.loads]
  if (load === undefined) throw new Error('nothing is open')
  return load
}

describe('the ledger', () => {
  test('lets go of the prompt at the first token and of the rest at the end, each once', () => {
    const ledger = new FleetLedger()
    const open = ledger.begin([work('a')], 0)
    ledger.begin([work('a')], 0)
    open.firstToken()
    open.firstToken()
    expect(only(ledger).open).toEqual({ promptTokens: 100, sequences: 2, kvTokens: 300 })
    open.end()
    open.end()
    open.firstToken()
    expect(only(ledger).open).toEqual({ promptTokens: 100, sequences: 1, kvTokens: 150 })
  })

  test('counts the prompt at the backend that computes it, and the sequence where it goes on', () => {
    const ledger = new FleetLedger()
    const there = { backendId: 'p', model: 'm', promptTokens: 4000, sequences: 0, kvTokens: 0 }
    const open = ledger.begin([work('d', 0), there], 0)
    expect(
      [...ledger.loads].map(({ backendId, open: sums }) => [backendId, sums.promptTokens, sums.sequences]),
    ).toEqual([
      ['d', 0, 1],
      ['p', 4000, 0],
    ])
    open.firstToken()
    expect([...ledger.loads].map(({ backendId }) => backendId)).toEqual(['d'])
    open.end()
    expect([...ledger.loads]).toEqual([])
  })

  test('leaves to a frame what began long enough before it, and no more', () => {
    const ledger = new FleetLedger()
    const early = ledger.begin([work('a')], 1000)
    ledger.begin([work('a')], 2000)
    const load = only(ledger)
    load.framed(1100)
    expect(load.pending.sequences).toBe(2)
    load.framed(2000)
    expect(load.pending).toEqual({ promptTokens: 100, sequences: 1, kvTokens: 150 })
    expect(load.open.sequences).toBe(2)
    early.firstToken()
    early.end()
    expect(load.pending.sequences).toBe(1)
    expect(load.open.sequences).toBe(1)
  })

  test('is empty when everything has ended, whatever came in which order', () => {
    const step = fc.record({
      what: fc.constantFrom('begin', 'first', 'end', 'end', 'frame'),
      which: fc.nat(40),
      backend: fc.constantFrom('a', 'b', 'c'),
      tokens: fc.nat(5000),
      afterMs: fc.nat(400),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const ledger = new FleetLedger()
        const opens: { open: Open; promptTokens: number; backend: string; isOver: boolean; hadFirst: boolean }[] = []
        let nowMs = 0
        for (const { what, which, backend: at, tokens, afterMs } of steps) {
          nowMs += afterMs
          const one = opens[which % Math.max(1, opens.length)]
          if (what === 'begin') {
            const open = ledger.begin([work(at, tokens)], nowMs)
            opens.push({ open, promptTokens: tokens, backend: at, isOver: false, hadFirst: false })
          } else if (what === 'frame') {
            for (const load of ledger.loads) load.framed(nowMs - which * 10)
          } else if (one !== undefined && what === 'first') {
            one.open.firstToken()
            one.hadFirst = true
          } else if (one !== undefined) {
            one.open.end()
            one.isOver = true
          }
          const alive = opens.filter(({ isOver }) => !isOver)
          const loads = [...ledger.loads]
          for (const id of ['a', 'b', 'c']) {
            const mine = alive.filter((each) => each.backend === id)
            const load = loads.find(({ backendId }) => backendId === id)
            const prompt = mine.reduce((sum, each) => sum + (each.hadFirst ? 0 : each.promptTokens), 0)
            expect(load?.open ?? { promptTokens: 0, sequences: 0, kvTokens: 0 }).toEqual({
              promptTokens: prompt,
              sequences: mine.length,
              kvTokens: 150 * mine.length,
            })
            for (const part of ['promptTokens', 'sequences', 'kvTokens'] as const) {
              expect(load?.pending[part] ?? 0).toBeGreaterThanOrEqual(0)
              expect(load?.pending[part] ?? 0).toBeLessThanOrEqual(load?.open[part] ?? 0)
            }
          }
        }
        for (const { open } of opens) open.end()
        expect([...ledger.loads]).toEqual([])
      }),
    )
  })

  test('forgets a failure after its time, or when the backend answers', () => {
    const ledger = new FleetLedger()
    ledger.inhibit('a', 0)
    ledger.inhibit('b', 0)
    ledger.recovered('b')
    expect([...ledger.inhibited(INHIBIT_MS - 1)]).toEqual(['a'])
    expect([...ledger.inhibited(INHIBIT_MS)]).toEqual([])
  })

  test('takes the shortest way to a backend for the way, and believes a longer one slowly', () => {
    const ledger = new FleetLedger()
    ledger.answered('a', 40, 1000)
    ledger.answered('a', 20, 1000)
    ledger.answered('a', 400, 1000)
    expect(ledger.wayMs.get('a')).toBe(39)
    // Agents answer once a request has left their queue, which is no part of the way.
    ledger.answered('a', 4000, 1000, 3000)
    ledger.answered('b', 4000, 1000, 3000)
    expect([...ledger.wayMs]).toEqual([['a', 39]])
    ledger.answered('a', 25, 1000, 3000)
    expect(ledger.wayMs.get('a')).toBe(25)
    ledger.answered('b', 5, 61_000)
    expect([...ledger.wayMs]).toEqual([['b', 5]])
  })
})

describe('figures', () => {
  test('take in a frame that came with an answer, and what was sent before the last look with it', () => {
    const snapshot = { staleAfterMs: 3500, backends: [backend('a')] }
    const known = new FiguresBySnapshot()
    const ledger = new FleetLedger()
    ledger.begin([work('a')], 1000)
    const look = (nowMs: number) => {
      const { figures, rows } = known.of(snapshot, ask(), ledger.wayMs, nowMs)
      figures.takeLedger(ledger.loads, rows)
      return [figures.busy[0], figures.aheadSequences[0]]
    }
    expect(look(1000)).toEqual([0, 1])
    expect(look(2000)).toEqual([0, 1])
    snapshot.backends[0]?.frames.splice(0, 1, frame({ sequence: 2, sequencesRunning: 1 }))
    expect(look(3000)).toEqual([1, 0])
  })

  test('count what another model has open elsewhere, not here', () => {
    const ledger = new FleetLedger()
    ledger.begin([{ ...work('a'), model: 'other' }], 1000)
    const { figures, rows } = new FiguresBySnapshot().of(
      { staleAfterMs: 1, backends: [backend('a')] },
      ask(),
      new Map(),
      1,
    )
    figures.takeLedger(ledger.loads, rows)
    expect(figures.aheadSequences[0]).toBe(0)
  })
})

describe('the memory of what was sent', () => {
  const chunks = (from: number, count: number) => Array.from({ length: count }, (_, index) => from + index)

  test('says how much of a beginning each backend was sent, until it is old', () => {
    const sent = new SentChunks()
    sent.note(chunks(0, 10), 'a', 0)
    sent.note([...chunks(0, 4), ...chunks(50, 6)], 'b', 1000)
    expect(sent.matches(chunks(0, 12), 1000)).toEqual(
      new Map([
        ['a', 10],
        ['b', 4],
      ]),
    )
    expect(sent.matches(chunks(0, 12), SENT_MS)).toEqual(new Map([['b', 4]]))
    expect(sent.matches(chunks(0, 12), SENT_MS + 1000)).toEqual(new Map())
    expect(sent.matches(chunks(7, 3), 1000).get('b')).toBeUndefined()
  })

  test('never claims more than was sent, however much was', () => {
    const sent = new SentChunks()
    for (let prompt = 0; prompt < 3000; prompt++) sent.note(chunks(prompt * 100, 100), `b${prompt % 7}`, prompt)
    for (let prompt = 0; prompt < 3000; prompt += 50) {
      const found = sent.matches([...chunks(prompt * 100, 100), -1], 3000)
      for (const [id, depth] of found) {
        expect(id).toBe(`b${prompt % 7}`)
        expect(depth).toBeLessThanOrEqual(100)
      }
    }
  })
})

test('the length of prompts is learnt from what agents count, and not from absurd counts', () => {
  const sizes = new PromptSizes()
  expect(sizes.tokensPerChar('m')).toBe(0.25)
  for (let time = 0; time < 200; time++) sizes.learn('m', 1000, { inputTokens: 100, cachedInputTokens: 400 })
  expect(sizes.tokensPerChar('m')).toBeCloseTo(0.5, 3)
  expect(sizes.usualUncachedTokens('m')).toBeCloseTo(100, 0)
  sizes.learn('m', 1000, { inputTokens: 1e9, cachedInputTokens: 0 })
  expect(sizes.tokensPerChar('m')).toBeLessThan(0.6)
  expect(sizes.tokensPerChar('other')).toBe(0.25)
})

describe('a router', () => {
  const fleet = { staleAfterMs: 3500, backends: ['a', 'b', 'c', 'd'].map((id) => backend(id)) }

  test('spreads a burst over equals before any of them has reported', () => {
    const router = new FleetRouter()
    const counts = new Map<string, number>()
    for (let index = 0; index < 40; index++) {
      const routed = router.decide(ask(), fleet, new Map(), new Set(), 1000, 0.5)
      router.begin(ask(), routed, 1000)
      const id = routed.decision.chosen?.backendId ?? ''
      counts.set(id, (counts.get(id) ?? 0) + 1)
    }
    expect([...counts.values()]).toEqual([10, 10, 10, 10])
  })

  test('keeps siblings of a burst together while that is sooner than computing their beginning again', () => {
    const router = new FleetRouter()
    const asked = ask({ chunks: Array.from({ length: 30 }, (_, index) => index + 1) })
    const ids = [0.1, 0.9, 0.5].map((draw) => {
      const routed = router.decide(asked, fleet, new Map(), new Set(), 1000, draw)
      router.begin(asked, routed, 1000)
      return routed.decision.chosen?.backendId
    })
    expect(ids).toEqual(['a', 'a', 'a'])
  })

  test('lends a decode backend prefill backends of its layout, best first, and counts the prompt there', () => {
    const kv = transfer()
    const router = new FleetRouter()
    const backends = [
      backend('d', { role: 'decode', ...kv, measuredPrefillTokensPerSecond: 200 }),
      backend('busy', { role: 'prefill', ...kv, prefillTokensQueued: 2000 }),
      backend('free', { role: 'prefill', ...kv }),
      backend('slow', { role: 'prefill', ...kv, measuredPrefillTokensPerSecond: 100 }),
      backend('foreign', { role: 'prefill', ...transfer({ fingerprint: 'other' }) }),
      backend('draining', { role: 'prefill', ...kv, draining: true }),
      backend('stale', { role: 'prefill', ...kv }, { reportAgeMs: 9000 }),
      backend('failed', { role: 'prefill', ...kv }),
    ]
    router.ledger.inhibit('failed', 1000)
    const snapshot = { staleAfterMs: 3500, backends }
    const decide = (over = {}) => router.decide(ask(over), snapshot, new Map(), new Set(), 1000, 0)
    const names = (over = {}) => decide(over).prefill.map(({ backend: { backendId } }) => backendId)
    expect(names()).toEqual(['free', 'busy', 'slow'])
    expect(decide().decision).toMatchObject({ chosen: { backendId: 'd' }, expected: { prediction: { place: 'away' } } })
    expect(names({ promptTokens: 300 })).toEqual([])
    const open = router.begin(ask(), decide(), 1000)
    expect(names()).toEqual(['busy', 'free', 'slow'])
    open.end()
    expect(names()).toEqual(['free', 'busy', 'slow'])
  })

  test('lends to a backend that only decodes also where computing the prompt there would take no longer', () => {
    const kv = transfer()
    const { measuredPrefillTokensPerSecond: _, stepModel: __, ...unmeasured } = frame({ role: 'prefill', ...kv })
    const lentBy = (prefill: BackendView, decode: Parameters<typeof backend>[1] = {}) => {
      const backends = [backend('d', { role: 'decode', ...kv, ...decode }), prefill]
      return new FleetRouter().decide(ask(), { staleAfterMs: 3500, backends }, new Map(), new Set(), 1000, 0)
    }
    for (const prefill of [backend('p', { role: 'prefill', ...kv }), backend('p', {}, { frames: [unmeasured] })]) {
      const { decision, prefill: lent } = lentBy(prefill)
      expect(lent.map(({ backend: { backendId } }) => backendId)).toEqual(['p'])
      expect(decision.expected?.prediction.place).toBe('away')
    }
    // Twice its own time is what keeping a decode engine free is worth, and more where others decode there.
    const queue = (prefillTokensQueued: number) => backend('p', { role: 'prefill', ...kv, prefillTokensQueued })
    expect(lentBy(queue(3500)).prefill).toHaveLength(1)
    expect(lentBy(queue(4500)).prefill).toEqual([])
    expect(lentBy(queue(4500), { sequencesRunning: 1 }).prefill).toHaveLength(1)
  })

  test('says of each prefill backend what is ahead there for one of its engines, how fast it is and what it has', () => {
    const kv = transfer()
    const router = new FleetRouter()
    const step = { baseMs: 10, prefillTokenMs: 2, decodeSequenceMs: 1, kvTokenMs: 0.0001 }
    const two = ['p0', 'p1'].map((engine) =>
      frame({ role: 'prefill', engine, ...kv, prefillTokensQueued: 600, requestsQueued: 1 }),
    )
    const { measuredPrefillTokensPerSecond: _, stepModel: __, ...unmeasured } = frame({ role: 'prefill', ...kv })
    const backends = [
      backend('d', { role: 'decode', ...kv, measuredPrefillTokensPerSecond: 50 }),
      backend('two', {}, { frames: two }),
      backend('new', {}, { frames: [unmeasured] }),
      backend('slow', { role: 'prefill', ...kv, measuredPrefillTokensPerSecond: 500, stepModel: step }),
    ]
    const chunks = Array.from({ length: 31 }, (_, at) => at + 100)
    const decide = () =>
      router.decide(
        ask({ chunks }),
        { staleAfterMs: 3500, backends },
        new Map([['slow', 20]]),
        new Set(['two', 'new', 'slow']),
        1000,
        0,
      )
    const loads = () =>
      Object.fromEntries(decide().prefill.map(({ backend: { backendId }, load }) => [backendId, load]))
    // Of a request in a queue nothing is known but what is usual.
    const queued = (1200 + 2 * 1000) / 2
    expect(loads()).toEqual({
      two: { prefillTokensQueued: queued, prefillTokensPerSecond: 1000, stepModel: frame().stepModel },
      new: { prefillTokensQueued: 0 },
      slow: { prefillTokensQueued: 0, prefillTokensPerSecond: 500, stepModel: step, heldChunk: 119 },
    })
    for (const load of Object.values(loads())) expect(PrefillLoad.parse(load)).toEqual(load)
    // What this isolate has sent there counts before a frame shows it.
    const routed = decide()
    const [first] = routed.prefill
    router.begin(ask({ chunks: [] }), routed, 1000)
    expect(loads()[first?.backend.backendId ?? '']?.prefillTokensQueued).toBe(
      (first?.load.prefillTokensQueued ?? 0) + Math.round(first?.uncachedTokens ?? 0),
    )
  })

  test('lends nothing to a backend that prefills itself, unless that is overloaded', () => {
    const kv = transfer()
    const prefills = (own: Parameters<typeof backend>[1]) =>
      new FleetRouter()
        .decide(
          ask(),
          { staleAfterMs: 3500, backends: [backend('d', { ...kv, ...own }), backend('p', { role: 'prefill', ...kv })] },
          new Map(),
          new Set(),
          1000,
          0,
        )
        .prefill.map(({ backend: { backendId } }) => backendId)
    expect(prefills({})).toEqual([])
    expect(prefills({ prefillTokensQueued: 20_000 })).toEqual(['p'])
    const beside = [frame({ role: 'decode', engine: 'd', ...kv }), frame({ role: 'prefill', engine: 'p', ...kv })]
    const { decision, prefill } = new FleetRouter().decide(
      ask(),
      {
        staleAfterMs: 3500,
        backends: [backend('both', {}, { frames: beside }), backend('p', { role: 'prefill', ...kv })],
      },
      new Map(),
      new Set(),
      1000,
      0,
    )
    expect(decision.chosen?.backendId).toBe('both')
    expect(prefill).toEqual([])
  })
})
