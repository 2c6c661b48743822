// What answers tell an isolate of caches: an agent's history against isolates that hear it late, twice, in any order and with gaps.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { KvHistory } from '../../../../backends/prefix/kv-history.ts'
import { TOLD_ALONE_MS, TOLD_MS, ToldChunks } from '../../../../gateway/routing/told.ts'
import { KV_CHUNKS_PER_ANSWER_MAX, type KvNews } from '../../../../protocol/report.ts'

const B = 'backend'
const news = (over: Partial<KvNews> = {}): KvNews => ({
  epoch: 'a',
  version: 1,
  reset: false,
  stored: [],
  removed: [],
  ...over,
})
const depth = (told: ToldChunks, chunks: number[], nowMs = 0, fleet?: ReadonlyMap<string, number>) =>
  told.correct(fleet, chunks, nowMs).get(B) ?? 0

describe("an agent's history", () => {
  test('tells each change once to whoever says how far it has heard', () => {
    const history = new KvHistory('a')
    const nobody = { epoch: '', version: 0 }
    expect(history.since(nobody)).toBeUndefined()
    history.note(1, true)
    history.note(2, true)
    history.note(1, false)
    expect(history.since(nobody)).toEqual(news({ version: 3, reset: true, stored: [2], removed: [1] }))
    const next = history.after({ epoch: 'a', version: 2 })
    expect(next()).toEqual(news({ version: 3, removed: [1] }))
    expect(next()).toBeUndefined()
    history.note(3, true)
    expect(next()).toEqual(news({ version: 4, stored: [3] }))
  })

  test('tells whoever heard an earlier life that it is over, before anything has changed in this one', () => {
    const told = new ToldChunks()
    told.hear(B, news({ version: 9, stored: [1, 2] }), 0)
    const history = new KvHistory('b')
    const over = history.since(told.seen(B))
    expect(over).toEqual(news({ epoch: 'b', version: 0, reset: true }))
    told.hear(B, over as KvNews, 0)
    expect(depth(told, [1, 2])).toBe(0)
    expect(history.since(told.seen(B))).toBeUndefined()
    history.note(1, true)
    expect(history.since(told.seen(B))).toEqual(news({ epoch: 'b', version: 1, stored: [1] }))
  })

  test('is bounded: whoever is too far behind is told the newest, and that it is not all', () => {
    const history = new KvHistory('a')
    for (let chunk = 0; chunk < 10_000; chunk++) history.note(chunk, true)
    const behind = history.since({ epoch: 'a', version: 1 })
    expect(behind).toMatchObject({ version: 10_000, reset: true })
    expect(behind?.stored).toHaveLength(KV_CHUNKS_PER_ANSWER_MAX)
    expect(behind?.stored.at(-1)).toBe(9_999)
    expect(history.since({ epoch: 'a', version: 9_998 })).toEqual(news({ version: 10_000, stored: [9_998, 9_999] }))
    expect(history.since({ epoch: 'a', version: 20_000 })).toMatchObject({ reset: true })
  })
})

describe('an isolate that is told', () => {
  test('goes by it for a moment beside the Fleet object, and for longer without it', () => {
    const told = new ToldChunks()
    told.hear(B, news({ stored: [1, 2], removed: [3] }), 0)
    const fleet = new Map([[B, 4]])
    expect(depth(told, [1, 2, 3, 4], 0, fleet)).toBe(2)
    expect(depth(told, [1, 2, 3, 4], TOLD_MS, fleet)).toBe(4)
    expect(depth(told, [1, 2, 5], 0, new Map())).toBe(2)
    expect(depth(told, [1, 2], TOLD_MS)).toBe(2)
    expect(depth(told, [1, 2], TOLD_ALONE_MS)).toBe(0)
    // Where it begins is told by the Fleet object, how it goes on by the answer.
    expect(depth(told, [7, 8, 1, 2, 9], 0, new Map([[B, 2]]))).toBe(4)
    expect(told.correct(new Map([['other', 3]]), [6], 0)).toEqual(new Map([['other', 3]]))
  })

  test('leaves out what an earlier life says, and drops all of it with the next life', () => {
    const told = new ToldChunks()
    told.hear(B, news({ version: 9, stored: [1, 2] }), 0)
    told.hear(B, news({ epoch: 'b', version: 1, reset: true, stored: [1] }), 0)
    expect(depth(told, [1, 2])).toBe(1)
    told.hear(B, news({ version: 10, stored: [2] }), 0)
    expect(depth(told, [1, 2])).toBe(1)
    expect(told.seen(B)).toEqual({ epoch: 'b', version: 1 })
  })

  test('is bounded over all backends', () => {
    const told = new ToldChunks()
    for (let at = 0; at < 400; at++) {
      const stored = Array.from({ length: 256 }, (_, chunk) => at * 256 + chunk)
      told.hear(`b${at}`, news({ stored }), 0)
    }
    expect(told.size).toBe(16_384)
    expect(told.correct(undefined, [0], 0).size).toBe(0)
    expect(told.correct(undefined, [399 * 256], 0).get('b399')).toBe(1)
  })

  test('never believes what is not so at the newest news it has had, however they come', () => {
    const change = fc.record({ chunk: fc.integer({ min: 0, max: 7 }), isHeld: fc.boolean() })
    const step = fc.oneof(
      fc.record({ kind: fc.constant('change' as const), change }),
      // A dispatch is sent, and its answer heard so many steps later, or twice.
      fc.record({
        kind: fc.constant('ask' as const),
        after: fc.integer({ min: 0, max: 6 }),
        twice: fc.boolean(),
        max: fc.integer({ min: 1, max: 8 }),
      }),
      fc.constant({ kind: 'restart' as const }),
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const told = new ToldChunks()
        let life = 0
        let history = new KvHistory('0')
        let held = new Map<number, boolean>()
        /** By life and version what was held then. */
        const states = new Map([['0 0', new Map<number, boolean>()]])
        const late: { at: number; answer: KvNews | undefined }[] = []
        for (const [at, one] of steps.entries()) {
          if (one.kind === 'change') {
            history.note(one.change.chunk, one.change.isHeld)
            held = new Map(held).set(one.change.chunk, one.change.isHeld)
            const version = history.since({ epoch: '', version: 0 })?.version ?? 0
            states.set(`${life} ${version}`, held)
          } else if (one.kind === 'restart') {
            history = new KvHistory(String(++life))
            held = new Map()
            states.set(`${life} 0`, held)
          } else {
            const answer = history.since(told.seen(B), one.max)
            late.push({ at: at + one.after, answer })
            if (one.twice) late.push({ at: at + one.after + 2, answer })
          }
          for (const { answer } of late.filter((entry) => entry.at === at))
            if (answer !== undefined) told.hear(B, answer, 0)
          const { epoch, version } = told.seen(B)
          const truth = states.get(`${epoch || 0} ${version}`) ?? new Map()
          for (let chunk = 0; chunk < 8; chunk++) {
            // Told as held or not: it is so. Not told: what the Fleet object says stands.
            const low = depth(told, [chunk], 0, new Map())
            const high = depth(told, [chunk], 0, new Map([[B, 1]]))
            if (low === high) expect(low === 1).toBe(truth.get(chunk))
          }
        }
      }),
      { numRuns: 500 },
    )
  })
})
