// The index of prompts' beginnings against the obvious one: a set of chunks per backend.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { KV_BOUNDS, type KvBounds, KvIndex } from '../../../../gateway/fleet/kv-index.ts'

type Act =
  | { backend: number; reset: boolean; stored: number[]; removed: number[] }
  | { backend: number; drop: true }
  | { match: number[]; limit?: number }

/** Sets, and what the contract says of them. */
class Model {
  readonly held = new Map<string, Set<number>>()

  apply(backendId: string, reset: boolean, stored: number[], removed: number[]): boolean {
    if (reset) this.held.set(backendId, new Set())
    const own = this.held.get(backendId)
    if (own === undefined) return false
    for (const chunk of stored) own.add(chunk)
    for (const chunk of removed) own.delete(chunk)
    return true
  }

  match(chunks: number[]): Map<string, number> {
    const found = new Map<string, number>()
    for (const [backendId, own] of this.held) {
      let length = 0
      while (length < chunks.length && own.has(chunks[length] as number)) length++
      if (length > 0) found.set(backendId, length)
    }
    return found
  }
}

const chunk = fc.oneof(
  fc.integer({ min: 0, max: 40 }),
  // The same low bits, so that many have one home.
  fc.integer({ min: 0, max: 40 }).map((high) => high * 2 ** 40 + 7),
  fc.maxSafeNat(),
)
const acts = (backends: number) =>
  fc.array(
    fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({
          backend: fc.nat(backends - 1),
          reset: fc.boolean(),
          stored: fc.array(chunk, { maxLength: 40 }),
          removed: fc.array(chunk, { maxLength: 10 }),
        }),
      },
      { weight: 2, arbitrary: fc.record({ backend: fc.nat(backends - 1), drop: fc.constant<true>(true) }) },
      { weight: 3, arbitrary: fc.record({ match: fc.array(chunk, { maxLength: 8 }) }) },
    ),
    { maxLength: 120 },
  ) as fc.Arbitrary<Act[]>

const name = (backend: number) => `backend-${backend}`

function live(index: KvIndex, model: Model, history: Act[], check: (chunks: number[]) => void): void {
  for (const act of history) {
    if ('match' in act) check(act.match)
    else if ('drop' in act) {
      index.drop(name(act.backend))
      model.held.delete(name(act.backend))
    } else {
      const { backend, ...changes } = act
      expect(index.apply(name(backend), changes)).toBe(
        model.apply(name(backend), changes.reset, changes.stored, changes.removed),
      )
    }
  }
}

describe('the index', () => {
  test.each([3, 80])('says of %i backends what sets say, whatever is stored, removed, reset or dropped', (backends) => {
    fc.assert(
      fc.property(acts(backends), (history) => {
        const index = new KvIndex()
        const model = new Model()
        const check = (chunks: number[]) =>
          expect(Object.fromEntries(index.match(chunks))).toEqual(Object.fromEntries(model.match(chunks)))
        live(index, model, history, check)
        for (const own of model.held.values()) check([...own])
        for (const [backendId, own] of model.held)
          expect(index.held(backendId)).toEqual({ chunks: own.size, leftOut: 0 })
      }),
      { numRuns: 400 },
    )
  })

  test('knows less than is held beyond its bounds, never more', () => {
    const bounds: fc.Arbitrary<KvBounds> = fc.record({
      chunksMax: fc.integer({ min: 4, max: 60 }),
      rowBytesMax: fc.integer({ min: 0, max: 100 }),
      backendChunksMax: fc.integer({ min: 1, max: 30 }),
    })
    fc.assert(
      fc.property(bounds, acts(70), (given, history) => {
        const index = new KvIndex(given)
        const model = new Model()
        live(index, model, history, (chunks) => {
          const true_ = model.match(chunks)
          for (const [backendId, length] of index.match(chunks))
            expect(length).toBeLessThanOrEqual(true_.get(backendId) ?? 0)
          expect(index.chunks).toBeLessThanOrEqual(given.chunksMax)
          for (const [backendId, own] of model.held) {
            const { chunks: known } = index.held(backendId)
            expect(known).toBeLessThanOrEqual(Math.min(own.size, given.backendChunksMax))
          }
        })
      }),
      { numRuns: 400 },
    )
  })

  test('does not believe changes without a beginning', () => {
    const index = new KvIndex()
    expect(index.apply('a', { reset: false, stored: [1], removed: [] })).toBe(false)
    expect(index.match([1])).toEqual(new Map())
    expect(index.apply('a', { reset: true, stored: [], removed: [] })).toBe(true)
    expect(index.apply('a', { reset: false, stored: [1], removed: [] })).toBe(true)
    index.drop('a')
    expect(index.apply('a', { reset: false, stored: [2], removed: [] })).toBe(false)
    expect(index.match([1, 2])).toEqual(new Map())
  })

  test('is as fast where a backend tells chunks that differ in their high bits alone', () => {
    const index = new KvIndex()
    const began = process.cpuUsage()
    for (let report = 0; report < 8; report++) {
      const stored = Array.from({ length: 4096 }, (_, at) => (report * 4096 + at) * 2 ** 32 + 7)
      index.apply('a', { reset: report === 0, stored, removed: [] })
    }
    expect(index.held('a').chunks).toBe(32_768)
    // Some 50 ms of the processor; nearly 10 s where all of them have one place in the table.
    expect(process.cpuUsage(began).user / 1000).toBeLessThan(3000)
  })

  test('answers the longest beginnings where it is asked for a few', () => {
    const index = new KvIndex()
    for (let length = 1; length <= 5; length++)
      index.apply(`b${length}`, { reset: true, stored: Array.from({ length }, (_, at) => at), removed: [] })
    expect(index.match([0, 1, 2, 3, 4], 2)).toEqual(
      new Map([
        ['b4', 4],
        ['b5', 5],
      ]),
    )
  })

  test('leaves room for backends with little where others have told much', () => {
    const index = new KvIndex({ ...KV_BOUNDS, chunksMax: 800 })
    const many = (from: number) => Array.from({ length: 1000 }, (_, at) => from + at)
    index.apply('early', { reset: true, stored: many(0), removed: [] })
    expect(index.held('early')).toEqual({ chunks: 700, leftOut: 300 })
    index.apply('late', { reset: true, stored: many(10_000), removed: [] })
    expect(index.held('late')).toEqual({ chunks: 100, leftOut: 900 })
  })

  test('takes in as many as ever after any number of lives', () => {
    const index = new KvIndex({ ...KV_BOUNDS, chunksMax: 1000 })
    for (let life = 0; life < 500; life++) {
      const stored = Array.from({ length: 400 }, (_, at) => life * 1000 + at)
      index.apply('a', { reset: true, stored, removed: [] })
      index.apply('b', { reset: true, stored: stored.slice(0, 200), removed: [] })
      expect(index.held('a')).toEqual({ chunks: 400, leftOut: 0 })
      expect(index.match(stored)).toEqual(
        new Map([
          ['b', 200],
          ['a', 400],
        ]),
      )
    }
    expect(index.chunks).toBeLessThanOrEqual(1000)
  })
})
