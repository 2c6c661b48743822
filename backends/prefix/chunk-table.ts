// Which chunks of prompts one engine holds K and V for ○. Owns following its block events: a chunk is held while the prefix
// cache has every block that the tokens up to its end fill. Which tokens those are is prompt-chunks.ts; several engines
// together are held-chunks.ts.
//
//   (unknown) ──admitted()──▶ waiting ◀──block stored / removed──▶ held
//        ▲                       └── pushed out by newer ones ──▶ (unknown)
//        └─────────────────────────────────────────────────────────┘
//
// Blocks that chunks need form trees by what comes before them, so that one event costs what it changes. A chunk that is no
// longer held stays known for a while: a preempted sequence computes its blocks again without being admitted again.
import type { EngineFrame } from '../../protocol/engine-frames.ts'
import type { ChunkEnd } from '../prompt-chunks.ts'

type BlockEvents = Extract<EngineFrame, { type: 'blocks' }>['events']

type Block = {
  hash: bigint
  before: Block | undefined
  after: Set<Block>
  isStored: boolean
  /** It and all before it are stored. */
  isWhole: boolean
  chunks: Set<number>
}

/** A prompt has some eight blocks per chunk; where the text packs its tokens densely, a chunk per block. */
const CHUNKS_PER_BLOCK_MAX = 1
/** Blocks known here besides those of the engine: of prompts that wait, and of those that it has just let go of. */
const BLOCKS_PER_BLOCK_MAX = 2

export type ChunkListener = (chunk: number, isHeld: boolean) => void

export class ChunkTable {
  readonly #blockTokens: number
  readonly #chunksMax: number
  readonly #blocksMax: number
  readonly #isStored: (hash: bigint) => boolean
  readonly #blocks = new Map<bigint, Block>()
  /** By chunk the last block that it needs; what is given up first stands first. */
  readonly #chunks = new Map<number, Block>()
  readonly #listeners = new Set<ChunkListener>()

  /** @param isStored whether the prefix cache has a block now. */
  constructor(engine: { blockTokens: number; blocksTotal: number }, isStored: (hash: bigint) => boolean) {
    this.#blockTokens = engine.blockTokens
    this.#chunksMax = engine.blocksTotal * CHUNKS_PER_BLOCK_MAX
    this.#blocksMax = engine.blocksTotal * BLOCKS_PER_BLOCK_MAX
    this.#isStored = isStored
  }

  /** Chunks that are followed, held or not. */
  get size(): number {
    return this.#chunks.size
  }

  /** Tells what is held now, then every change. @returns ends it, and tells nothing of that. */
  follow(listener: ChunkListener): () => void {
    for (const [chunk, block] of this.#chunks) if (block.isWhole) listener(chunk, true)
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Whether the engine has the prompt up to the end of this chunk. */
  holds(chunk: number): boolean {
    return this.#chunks.get(chunk)?.isWhole === true
  }

  /** A prompt runs: the hashes of its full blocks in order, and how many of its tokens each chunk covers. */
  admitted(ends: readonly ChunkEnd[], hashes: readonly bigint[]): void {
    let last: Block | undefined
    let depth = 0
    const attached: [chunk: number, block: Block][] = []
    for (const { chunk, tokens } of ends) {
      // A chunk within the first block counts with that block, so that what follows it is found.
      const blocks = Math.max(1, Math.floor(tokens / this.#blockTokens))
      if (blocks > hashes.length) break
      while (depth < blocks) {
        last = this.#blockAt(hashes[depth] as bigint, last)
        depth++
      }
      if (last === undefined) break
      this.#attach(chunk, last)
      attached.push([chunk, last])
    }
    // The newest last, its beginning at the very end: what is pushed out first is the end of the oldest prompt.
    for (const [chunk, block] of attached.reverse()) {
      this.#chunks.delete(chunk)
      this.#chunks.set(chunk, block)
    }
    this.#trim()
  }

  /** What the prefix cache gained and lost. */
  blocks(events: BlockEvents): void {
    for (const { kind, hash } of events) {
      if (kind === 'cleared') {
        for (const block of this.#blocks.values()) this.#store(block, false)
        continue
      }
      const block = this.#blocks.get(hash)
      if (block !== undefined) this.#store(block, kind === 'stored')
    }
  }

  /** The engine is gone, and all that it held. */
  close(): void {
    const held = [...this.#chunks].filter(([, block]) => block.isWhole)
    this.#chunks.clear()
    this.#blocks.clear()
    for (const [chunk] of held) this.#tell(chunk, false)
    this.#listeners.clear()
  }

  #blockAt(hash: bigint, before: Block | undefined): Block {
    const known = this.#blocks.get(hash)
    if (known !== undefined) return known
    const isStored = this.#isStored(hash)
    const isWhole = isStored && before?.isWhole !== false
    const block: Block = { hash, before, after: new Set(), isStored, isWhole, chunks: new Set() }
    before?.after.add(block)
    this.#blocks.set(hash, block)
    return block
  }

  #attach(chunk: number, block: Block): void {
    const known = this.#chunks.get(chunk)
    if (known === block) return
    this.#chunks.set(chunk, block)
    block.chunks.add(chunk)
    if (known !== undefined) this.#letGo(chunk, known)
    if ((known?.isWhole ?? false) !== block.isWhole) this.#tell(chunk, block.isWhole)
  }

  #store(block: Block, isStored: boolean): void {
    block.isStored = isStored
    this.#settle(block)
  }

  /** Whether it is whole, and with it what comes after it. A list and no recursion: chains are thousands long. */
  #settle(first: Block): void {
    const open = [first]
    for (let block = open.pop(); block !== undefined; block = open.pop()) {
      const isWhole = block.isStored && block.before?.isWhole !== false
      if (isWhole === block.isWhole) continue
      block.isWhole = isWhole
      for (const chunk of block.chunks) this.#tell(chunk, isWhole)
      for (const next of block.after) open.push(next)
    }
  }

  /** Blocks that nothing needs any more are forgotten, from the end of their chain on. */
  #letGo(chunk: number, from: Block): void {
    from.chunks.delete(chunk)
    let block: Block | undefined = from
    while (block !== undefined && block.chunks.size === 0 && block.after.size === 0) {
      this.#blocks.delete(block.hash)
      block.before?.after.delete(block)
      block = block.before
    }
  }

  #trim(): void {
    for (const [chunk, block] of this.#chunks) {
      if (this.#chunks.size <= this.#chunksMax && this.#blocks.size <= this.#blocksMax) return
      this.#chunks.delete(chunk)
      this.#letGo(chunk, block)
      if (block.isWhole) this.#tell(chunk, false)
    }
  }

  #tell(chunk: number, isHeld: boolean): void {
    for (const listener of this.#listeners) listener(chunk, isHeld)
  }
}
