// Which of several engines finishes a request: what its cache holds against what it has to do, and that no prefix outweighs load.
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { type Candidate, chooseEngine, type Prompt } from '../../../backends/engine-choice.ts'
import { EngineWork } from '../../../backends/engine-work.ts'
import type { Computer, Helper } from '../../../backends/handoff/decision.ts'
import type { StepModel } from '../../../protocol/capacity.ts'
import type { DispatchEvent } from '../../../protocol/dispatch.ts'
import { scoreOf, tieBound, USUAL_OUTPUT_TOKENS } from '../../../protocol/prediction.ts'
import { begun, eventsOf, type Harness, type HarnessOptions, startHarness } from './support/harness.ts'

/** What a prefix may count for beyond the time that it saves, and how close equal scores are, as the scores themselves have it. */
const AFFINITY_MS_MAX = scoreOf(0, Number.POSITIVE_INFINITY)
const TIE_MS = tieBound(0, 0)
const TIE_SHARE = tieBound(0, 1) - TIE_MS

const MODEL: StepModel = { baseMs: 10, prefillTokenMs: 1, decodeSequenceMs: 1, kvTokenMs: 0.0001 }
const idle: Computer = {
  role: 'both',
  model: MODEL,
  prefillTokensQueued: 0,
  decodingSequences: 0,
  decodeKvTokens: 0,
  stepTokens: { mixed: 256, alone: 512 },
}
const engine = (over: Partial<Candidate> = {}, own: Partial<Computer> = {}): Candidate => ({
  own: { ...idle, ...own },
  helpers: [],
  heldTokens: 0,
  blockTokens: 16,
  bytesPerToken: 1000,
  busy: 0,
  slots: 8,
  kvUsedTokens: 0,
  kvTotalTokens: 1_000_000,
  ...over,
})
const prompt = (over: Partial<Prompt> = {}): Prompt => ({
  tokens: 4000,
  sequences: 1,
  outputTokensMax: 256,
  leftMs: 600_000,
  ...over,
})
const chosen = (candidates: Candidate[], random = 0, asked = prompt()) => chooseEngine(asked, candidates, random)?.index

describe('of several engines', () => {
  test('nobody is chosen where there is none', () => expect(chosen([])).toBeUndefined())

  const table: [string, Candidate[], number][] = [
    ['whose cache has the prompt, at equal load', [engine(), engine({ heldTokens: 3968 })], 1],
    ['that is idle, where both have it', [engine({ heldTokens: 3968, busy: 4 }), engine({ heldTokens: 3968 })], 1],
    ['with the shorter queue', [engine({}, { prefillTokensQueued: 500 }), engine()], 1],
    ['with fewer sequences', [engine({ busy: 5 }), engine({ busy: 1 })], 1],
    [
      'that is idle, where the other one has the prompt and a queue longer than all that it would spare',
      [engine({ heldTokens: 3968 }, { prefillTokensQueued: 20_000 }), engine()],
      1,
    ],
    ['with room, where the one that has the prompt has none', [engine({ heldTokens: 3968, busy: 8 }), engine()], 1],
    [
      'with room for K and V',
      [engine({ kvUsedTokens: 9000, kvTotalTokens: 10_000 }), engine({ kvTotalTokens: 10_000 })],
      1,
    ],
    [
      'with the shorter queue, where both are full',
      [engine({ busy: 9 }), engine({ busy: 8 }, { prefillTokensQueued: 10 })],
      1,
    ],
    ['that is faster', [engine({}, { model: { ...MODEL, prefillTokenMs: 2 } }), engine()], 1],
    ['with most of it, where both have some', [engine({ heldTokens: 1024 }), engine({ heldTokens: 2048 })], 1],
  ]
  test.each(table)('the one is chosen %s', (_, candidates, expected) => {
    for (const random of [0, 0.5, 0.99]) expect(chosen(candidates, random)).toBe(expected)
  })

  test.each<[string, Candidate[]]>([
    ['are alike', [engine(), engine()]],
    ['differ by a beginning that is a small part of the prompt', [engine(), engine({ heldTokens: 384 })]],
    [
      'differ by what nearly all hold',
      [1, 2, 3].map(() => engine({ heldTokens: 2048 })).concat(engine({ heldTokens: 0 })),
    ],
  ])('those that %s are chosen at random', (_, candidates) => {
    const all = candidates.map((__, at) => chosen(candidates, (at + 0.5) / candidates.length))
    expect(all).toEqual(candidates.map((__, at) => at))
  })

  test('an engine that has measured nothing is taken for one like the others', () => {
    const { model: _, ...unknown } = idle
    const fresh = { ...engine(), own: { ...unknown, prefillTokensPerSecond: 1000 } }
    expect(chosen([fresh, engine()], 0)).toBe(0)
    expect(chosen([fresh, engine()], 0.99)).toBe(1)
    expect(chosen([{ ...fresh, busy: 3 }, engine()], 0)).toBe(1)
    expect(chosen([fresh, engine({ busy: 3 })], 0.99)).toBe(0)
  })

  test('a prompt that another engine computes costs the one that decodes it what the hand-over takes', () => {
    const decode = (over: Partial<Candidate> = {}) => engine(over, { role: 'decode', prefillTokensQueued: 3000 })
    const helper = (queued: number): Helper => ({
      way: 'near',
      heldTokens: 0,
      load: { ...idle, role: 'prefill', prefillTokensQueued: queued },
      overheadMs: 4,
    })
    const helped = decode({ helpers: [helper(0)] })
    expect(chooseEngine(prompt(), [decode(), helped], 0)).toEqual({ index: 1, promptTokens: 0 })
    // Of a busy helper nothing is expected.
    expect(chooseEngine(prompt(), [decode({ helpers: [helper(50_000)] })], 0)).toEqual({ index: 0, promptTokens: 4000 })
  })

  test('an embedding generates nothing: of its engine only the prompts count', () => {
    const slow = engine({}, { model: { ...MODEL, baseMs: 1000 } })
    const asked = prompt({ outputTokensMax: 0, tokens: 100 })
    expect(chosen([slow, engine({}, { prefillTokensQueued: 8000 })], 0, asked)).toBe(0)
  })
})

describe('for all engines', () => {
  const candidate = fc
    .record({
      held: fc.integer({ min: 0, max: 250 }),
      queued: fc.integer({ min: 0, max: 50_000 }),
      busy: fc.integer({ min: 0, max: 12 }),
      kv: fc.integer({ min: 0, max: 1_200_000 }),
      tokenMs: fc.double({ min: 0.05, max: 5, noNaN: true }),
    })
    .map(({ held, queued, busy, kv, tokenMs }) =>
      engine(
        { heldTokens: held * 16, busy, kvUsedTokens: kv },
        { prefillTokensQueued: queued, model: { ...MODEL, prefillTokenMs: tokenMs }, decodeKvTokens: kv },
      ),
    )
  const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })

  test('somebody is chosen, and nobody without room where another one has it', () => {
    fc.assert(
      fc.property(fc.array(candidate, { minLength: 1, maxLength: 6 }), random, (candidates, at) => {
        const index = chosen(candidates, at)
        expect(index).toBeDefined()
        if (candidates.some(({ busy, slots }) => busy < slots))
          expect(candidates[index ?? -1]?.busy).toBeLessThan(candidates[index ?? -1]?.slots ?? 0)
      }),
    )
  })

  test('a prefix never outweighs more time than it saves and its bound', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 16, max: 3984 }),
        fc.integer({ min: 0, max: 90_000 }),
        random,
        (held, queued, at) => {
          const holder = engine({ heldTokens: held }, { prefillTokensQueued: queued })
          if (chosen([holder, engine()], at) !== 0) return
          // One millisecond per token; what the queue takes beyond it are its steps.
          const savedMs = (held / 512 + 1) * MODEL.baseMs + held
          const idleMs = 4000 + 8 * MODEL.baseMs + USUAL_OUTPUT_TOKENS * (MODEL.baseMs + 2)
          expect(queued).toBeLessThanOrEqual(savedMs + AFFINITY_MS_MAX + TIE_MS + TIE_SHARE * idleMs)
        },
      ),
    )
  })

  test('more to do makes nobody more attractive', () => {
    fc.assert(
      fc.property(candidate, candidate, fc.integer({ min: 1, max: 20_000 }), (one, other, more) => {
        if (chosen([one, other], 0) !== 1 || chosen([one, other], 0.99) !== 1) return
        const queued = one.own.prefillTokensQueued + more
        const loaded = { ...one, busy: one.busy + 1, own: { ...one.own, prefillTokensQueued: queued } }
        expect(chosen([loaded, other], 0)).toBe(1)
      }),
    )
  })

  test('one beginning that all requests share does not pull them onto one engine', () => {
    const shape = {
      engines: fc.integer({ min: 2, max: 6 }),
      shared: fc.integer({ min: 64, max: 240 }),
      requests: fc.integer({ min: 24, max: 48 }),
      seed: fc.integer({ min: 0, max: 1_000_000 }),
    }
    fc.assert(
      fc.property(fc.record(shape), ({ engines, shared, requests, seed }) => {
        // All at once, each of 4,000 tokens: what is given to an engine waits there, and nothing ends meanwhile.
        const state = Array.from({ length: engines }, () => ({ busy: 0, queued: 0, holds: false }))
        let draw = seed
        for (let at = 0; at < requests; at++) {
          const candidates = state.map(({ busy, queued, holds }) =>
            engine({ busy, slots: 64, heldTokens: holds ? shared * 16 : 0 }, { prefillTokensQueued: queued }),
          )
          draw = (draw * 1_103_515_245 + 12_345) % 2_147_483_648
          const choice = chooseEngine(prompt(), candidates, draw / 2_147_483_648)
          const taken = state[choice?.index ?? -1]
          if (taken === undefined || choice === undefined) throw new Error('nobody was chosen')
          taken.busy++
          taken.queued += choice.promptTokens
          taken.holds = true
        }
        const most = Math.max(...state.map(({ queued }) => queued))
        const least = Math.min(...state.map(({ queued }) => queued))
        // Nobody waits longer than the beginning is worth, its bound and a prompt.
        expect(most - least).toBeLessThanOrEqual(shared * 16 + AFFINITY_MS_MAX + 4000 + 1000)
        if (requests * (4000 - shared * 16) > 2 * AFFINITY_MS_MAX + 20_000)
          expect(state.filter(({ busy }) => busy > 0).length).toBeGreaterThan(1)
      }),
    )
  })
})

describe('what an engine was given', () => {
  test('counts until it is computed, also beside statistics that do not show it yet', () => {
    let nowMs = 0
    const work = new EngineWork()
    const first = work.begin({ promptTokens: 1000, kvTokens: 1000 }, [], () => nowMs)
    expect(work.queuedTokens(undefined)).toBe(1000)
    expect(work.queuedTokens(undefined, first.promptTokens())).toBe(0)
    nowMs = 1000
    const second = work.begin({ promptTokens: 500, kvTokens: 500 }, [], () => nowMs)
    // Half of the first one is done, and of the second one nothing is known there.
    expect(work.queuedTokens({ prefillTokensQueued: 500, atMs: 1010 })).toBe(1000)
    expect(work.queuedTokens({ prefillTokensQueued: 500, atMs: 1010 }, second.promptTokens())).toBe(500)
    expect(work.queuedTokens({ prefillTokensQueued: 900, atMs: 2000 })).toBe(900)
    first.firstToken()
    expect(work.queuedTokens({ prefillTokensQueued: 900, atMs: 2000 })).toBe(500)
    second.compute(0)
    expect(work.queuedTokens(undefined)).toBe(0)
    second.compute(300)
    expect(work.queuedTokens(undefined)).toBe(300)
    for (const given of [first, second, first]) given.end()
    second.compute(300)
    second.firstToken()
    expect(work.isEmpty).toBe(true)
    expect([work.open, work.pending]).toEqual([
      { promptTokens: 0, sequences: 0, kvTokens: 0 },
      { promptTokens: 0, sequences: 0, kvTokens: 0 },
    ])
  })

  test('is awaited by who comes behind, until the last that brings it is computed', () => {
    const work = new EngineWork()
    const ends = [
      { chunk: 1, tokens: 128 },
      { chunk: 2, tokens: 256 },
    ]
    const one = work.begin({ promptTokens: 300, kvTokens: 300 }, ends, () => 0)
    const other = work.begin({ promptTokens: 300, kvTokens: 300 }, ends.slice(0, 1), () => 0)
    expect([1, 2, 3].map((chunk) => work.awaits(chunk))).toEqual([true, true, false])
    one.firstToken()
    one.end()
    expect([1, 2].map((chunk) => work.awaits(chunk))).toEqual([true, false])
    other.end()
    expect(work.awaits(1)).toBe(false)
  })
})

describe('an agent with two engines', () => {
  let running: Harness | undefined
  afterEach(async () => {
    await running?.stop()
    running = undefined
  })
  /** Draws as it is told, one after the other, then the first one always. */
  const start = async (draws: number[], options: HarnessOptions = {}) => {
    running = await startHarness({
      config: { engines: ['both', 'both'] },
      random: () => draws.shift() ?? 0,
      ...options,
      engine: { contextTokens: 2048, ...options.engine },
    })
    return running
  }
  const ids = (first: number) => [first, ...Array.from({ length: 999 }, (_, at) => (at * 7) % 256)]
  const asked = (first: number) => ({
    input: { kind: 'completion' as const, prompts: [{ tokenIds: ids(first) }], echo: false },
    deadlineInMs: 120_000,
  })
  const cachedOf = (events: readonly DispatchEvent[]) => {
    const last = events.at(-1)
    return last?.type === 'usage' ? last.usage.cachedInputTokens : undefined
  }
  test('sends a prompt to the one whose cache has it, whatever the draw', async () => {
    const harness = await start([0, 0.99, 0, 0.99, 0.5])
    expect(cachedOf(await eventsOf(await harness.dispatch(asked(1))))).toBe(0)
    expect(cachedOf(await eventsOf(await harness.dispatch(asked(2))))).toBe(0)
    for (const first of [2, 1, 2]) expect(cachedOf(await eventsOf(await harness.dispatch(asked(first))))).toBe(992)
  })

  test('sends what begins alike and comes together to one, and what has nothing in common to both', async () => {
    // Nobody who would compute it sooner for another one.
    const config: HarnessOptions['config'] = { engines: ['decode', 'decode'] }
    const harness = await start([0, 0.99, 0.99], { config, engine: { tokenIntervalMs: 100 } })
    const answers = [asked(1), asked(2), asked(1)].map((changes) => harness.dispatch(changes))
    const all = await Promise.all(answers.map(async (answer) => await eventsOf(await answer)))
    const [one, other, alike] = all.map(cachedOf)
    // Whichever of the two comes first.
    expect([one, alike].toSorted()).toEqual([0, 992])
    expect(other).toBe(0)
  })

  test('leaves the cache for the other engine where it has no room', async () => {
    const harness = await start([0], {
      // Nobody whose cache could be handed over.
      config: { engines: ['decode', 'decode'] },
      engine: { sequencesMax: 1, tokenIntervalMs: 20 },
    })
    await eventsOf(await harness.dispatch(asked(1)))
    const close = await begun(await harness.dispatch({ ...asked(1), maxOutputTokens: 1000 }))
    expect(cachedOf(await eventsOf(await harness.dispatch(asked(1))))).toBe(0)
    await close()
  })
})
