// Which chunks an engine holds, against the definition: every block that the tokens up to the chunk's end fill is stored.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ChunkTable } from '../../../backends/prefix/chunk-table.ts'
import { HeldChunks } from '../../../backends/prefix/held-chunks.ts'
import type { ChunkEnd } from '../../../backends/prompt-chunks.ts'
import { KvIndex } from '../../../gateway/fleet/kv-index.ts'

const BLOCK_TOKENS = 16

/** A prompt is a path in a tree: the same numbers are the same text, and so the same chunks and blocks. */
type Path = number[]
const blocksOf = (path: Path): bigint[] =>
  path.map((_, at) => path.slice(0, at + 1).reduce((hash, step) => hash * 11n + BigInt(step + 1), 1n))

/** Each chunk covers one to three blocks and some tokens more; its name is made of the blocks before its end. */
function endsOf(path: Path, strides: readonly number[]): ChunkEnd[] {
  const ends: ChunkEnd[] = []
  let tokens = 0
  for (const stride of strides) {
    tokens += stride
    const blocks = Math.floor(tokens / BLOCK_TOKENS)
    if (blocks > path.length) break
    const hash = blocks === 0 ? 1n : (blocksOf(path)[blocks - 1] as bigint)
    ends.push({ chunk: Number(hash % 1_000_003n) * 1000 + tokens, tokens })
  }
  return ends
}

type Act = { admit: Path; strides: number[] } | { store: Path; count: number } | { remove: number } | { clear: true }
const path = fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 1, maxLength: 12 })
const act: fc.Arbitrary<Act> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ admit: path, strides: fc.array(fc.integer({ min: 3, max: 50 }), { maxLength: 6 }) }),
  },
  { weight: 6, arbitrary: fc.record({ store: path, count: fc.integer({ min: 1, max: 12 }) }) },
  { weight: 4, arbitrary: fc.record({ remove: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ clear: fc.constant<true>(true) }) },
)

/** An engine's cache, whose events may come in any order: no rule of eviction is relied on. */
class Engine {
  readonly stored = new Set<bigint>()
  readonly table: ChunkTable
  readonly held = new Set<number>()
  /** By chunk the blocks it needs. */
  readonly needs = new Map<number, bigint[]>()

  constructor(blocksTotal: number) {
    this.table = new ChunkTable({ blockTokens: BLOCK_TOKENS, blocksTotal }, (hash) => this.stored.has(hash))
    this.table.follow((chunk, isHeld) => {
      expect(this.held.has(chunk)).toBe(!isHeld)
      if (isHeld) this.held.add(chunk)
      else this.held.delete(chunk)
    })
  }

  act(one: Act): void {
    if ('admit' in one) {
      const ends = endsOf(one.admit, one.strides)
      const hashes = blocksOf(one.admit)
      for (const { chunk, tokens } of ends)
        this.needs.set(chunk, hashes.slice(0, Math.max(1, Math.floor(tokens / BLOCK_TOKENS))))
      this.table.admitted(ends, hashes)
    } else if ('store' in one) {
      const hashes = blocksOf(one.store).slice(0, one.count)
      for (const hash of hashes) this.stored.add(hash)
      this.table.blocks(hashes.map((hash) => ({ kind: 'stored', hash, parent: 0n })))
    } else if ('remove' in one) {
      const hash = [...this.stored][one.remove % Math.max(1, this.stored.size)]
      if (hash === undefined) return
      this.stored.delete(hash)
      this.table.blocks([{ kind: 'removed', hash, parent: 0n }])
    } else {
      this.stored.clear()
      this.table.blocks([{ kind: 'cleared', hash: 0n, parent: 0n }])
    }
  }

  isTrue = (chunk: number): boolean => this.needs.get(chunk)?.every((hash) => this.stored.has(hash)) ?? false
}

describe('an engine holds a chunk', () => {
  test('exactly while it holds every block up to its end, in whatever order blocks come and go', () => {
    fc.assert(
      fc.property(fc.array(act, { maxLength: 80 }), (history) => {
        const engine = new Engine(100_000)
        for (const one of history) {
          engine.act(one)
          for (const chunk of engine.needs.keys()) expect(engine.held.has(chunk)).toBe(engine.isTrue(chunk))
        }
        engine.table.close()
        expect(engine.held.size).toBe(0)
      }),
      { numRuns: 300 },
    )
  })

  test('and is never said to hold one that it does not, where more is admitted than is followed', () => {
    fc.assert(
      fc.property(fc.array(act, { maxLength: 120 }), fc.integer({ min: 1, max: 12 }), (history, blocksTotal) => {
        const engine = new Engine(blocksTotal)
        for (const one of history) {
          engine.act(one)
          for (const chunk of engine.held) expect(engine.isTrue(chunk)).toBe(true)
          expect(engine.table.size).toBeLessThanOrEqual(blocksTotal)
        }
      }),
      { numRuns: 300 },
    )
  })

  test('of the newest prompt and its beginning longest', () => {
    const engine = new Engine(8)
    const long = (first: number) => [first, ...Array.from({ length: 5 }, () => 0)]
    const strides = [16, 16, 16, 16, 16, 16]
    engine.act({ store: long(1), count: 6 })
    engine.act({ store: long(2), count: 6 })
    engine.act({ admit: long(1), strides })
    engine.act({ admit: long(2), strides })
    const isHeld = (first: number) => endsOf(long(first), strides).map(({ chunk }) => engine.held.has(chunk))
    expect(isHeld(2)).toEqual([true, true, true, true, true, true])
    expect(isHeld(1)).toEqual([true, true, false, false, false, false])
  })
})

type UnionAct = Act & { engine: number }
type Step = UnionAct | { take: number } | { loseAll: true } | { engineDies: number }

describe('what the gateway is told', () => {
  const step: fc.Arbitrary<Step> = fc.oneof(
    { weight: 8, arbitrary: fc.tuple(act, fc.nat(2)).map(([one, engine]) => ({ ...one, engine })) },
    { weight: 4, arbitrary: fc.record({ take: fc.integer({ min: 1, max: 6 }) }) },
    { weight: 1, arbitrary: fc.record({ loseAll: fc.constant<true>(true) }) },
    { weight: 1, arbitrary: fc.record({ engineDies: fc.nat(2) }) },
  )

  test('in portions ends in what the engines hold together, whatever happens between', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (history) => {
        const held = new HeldChunks(() => {})
        const started = () => {
          const engine = new Engine(100_000)
          held.follow(engine.table)
          return engine
        }
        const engines = [started(), started(), started()]
        const index = new KvIndex()
        const tell = (max: number): boolean => {
          const changes = held.take(max)
          if (changes === undefined) return false
          expect(changes.stored.length + changes.removed.length).toBeLessThanOrEqual(max)
          expect(index.apply('b', changes)).toBe(true)
          return true
        }
        for (const one of history) {
          if ('take' in one) tell(one.take)
          else if ('loseAll' in one) {
            // A report was lost, and the agent joined again.
            index.drop('b')
            held.reset()
          } else if ('engineDies' in one) {
            engines[one.engineDies]?.table.close()
            engines[one.engineDies] = started()
          } else engines[one.engine]?.act(one)
        }
        while (tell(3));
        const all = new Set(engines.flatMap((engine) => [...engine.held]))
        expect(index.held('b').chunks).toBe(all.size)
        for (const chunk of all) expect(index.match([chunk])).toEqual(new Map([['b', 1]]))
        expect(held.size).toBe(all.size)
        expect(held.hasUntold).toBe(false)
      }),
      { numRuns: 300 },
    )
  })

  test('begins with a reset, also where there is nothing', () => {
    const held = new HeldChunks(() => {})
    expect(held.take(10)).toEqual({ reset: true, stored: [], removed: [] })
    expect(held.take(10)).toBeUndefined()
  })

  test('leaves out what came and went between two reports, and says when there is something new', () => {
    let changes = 0
    const held = new HeldChunks(() => {
      changes++
    })
    const engine = new Engine(1000)
    held.follow(engine.table)
    held.take(10)
    engine.act({ admit: [1, 1], strides: [20] })
    engine.act({ store: [1, 1], count: 2 })
    expect(changes).toBe(1)
    engine.act({ clear: true })
    expect(held.take(10)).toBeUndefined()
  })
})
