// A simple GPU host on virtual time ○: prompts are computed one after another at a fixed rate, decoding takes what a step model
// says, a prefix cache forgets what was used longest ago. Owns that, its capacity frames and its reports of the cache; a worker
// knows nothing of routing. Faithful where routing looks (queues, what is held, when it is told), plain everywhere else.
import type { CapacityFrame, StepModel } from '../../protocol/capacity.ts'
import type { KvChanges } from '../../protocol/report.ts'
import { BLOCK_TOKENS, type TraceRow } from './trace.ts'

/** A model of some 8 billion parameters on one good GPU. */
const STEP: StepModel = { baseMs: 12, prefillTokenMs: 0.1, decodeSequenceMs: 0.15, kvTokenMs: 0.00006 }

export type WorkerOptions = {
  prefillTokensPerSecond: number
  /** Infinity: it forgets nothing. */
  cacheBlocks: number
  sequencesMax: number
  kvTokensMax: number
}

type Running = {
  row: TraceRow
  askedTokens: number
  onFirstToken: (atMs: number) => void
  onEnd: (atMs: number) => void
}

/** Calls `run` at a time; calls come in the order of their times. */
export type Schedule = (atMs: number, run: () => void) => void

export class Worker {
  readonly backendId: string
  readonly #options: WorkerOptions
  readonly #schedule: Schedule
  readonly #cache = new Set<number>()
  readonly #waiting: Running[] = []
  #decoding = 0
  #decodeKvTokens = 0
  #isPrefilling = false
  #prefillTokens = 0
  #sequence = 0
  #stored = new Set<number>()
  #removed = new Set<number>()
  #isFirstReport = true
  rows = 0
  hitTokens = 0
  computedTokens = 0

  constructor(backendId: string, options: WorkerOptions, schedule: Schedule) {
    this.backendId = backendId
    this.#options = options
    this.#schedule = schedule
  }

  /** Requests here, in any state. */
  get open(): number {
    return this.#waiting.length + this.#decoding + (this.#isPrefilling ? 1 : 0)
  }

  take(row: TraceRow, atMs: number, told: Omit<Running, 'row' | 'askedTokens'>): void {
    this.rows++
    const askedTokens = this.#uncached(row)
    this.#waiting.push({ row, askedTokens, ...told })
    this.#prefillTokens += askedTokens
    this.#next(atMs)
  }

  #uncached({ blocks, inputTokens }: TraceRow): number {
    return Math.max(1, inputTokens - this.held(blocks) * BLOCK_TOKENS)
  }

  /** Leading blocks in its cache. */
  held(blocks: readonly number[]): number {
    let depth = 0
    while (depth < blocks.length && this.#cache.has(blocks[depth] as number)) depth++
    return depth
  }

  #next(atMs: number): void {
    const next = this.#isPrefilling || this.#decoding >= this.#options.sequencesMax ? undefined : this.#waiting.shift()
    if (next === undefined) return
    const { row } = next
    const computed = this.#uncached(row)
    this.hitTokens += row.inputTokens - computed
    this.computedTokens += computed
    this.#isPrefilling = true
    const doneMs = atMs + (computed * 1000) / this.#options.prefillTokensPerSecond + this.#stepMs()
    this.#schedule(doneMs, () => {
      this.#isPrefilling = false
      this.#prefillTokens -= next.askedTokens
      this.#keep(row.blocks)
      next.onFirstToken(doneMs)
      this.#decoding++
      this.#decodeKvTokens += row.inputTokens
      const endMs = doneMs + row.outputTokens * this.#stepMs()
      this.#schedule(endMs, () => {
        this.#decoding--
        this.#decodeKvTokens -= row.inputTokens
        next.onEnd(endMs)
        this.#next(endMs)
      })
      this.#next(doneMs)
    })
  }

  #stepMs(): number {
    return STEP.baseMs + STEP.decodeSequenceMs * this.#decoding + STEP.kvTokenMs * this.#decodeKvTokens
  }

  /** The end of a chain is forgotten before its beginning. */
  #keep(blocks: readonly number[]): void {
    for (const block of blocks.toReversed()) {
      if (!this.#cache.delete(block)) this.#note(block, this.#stored, this.#removed)
      this.#cache.add(block)
    }
    for (const block of this.#cache) {
      if (this.#cache.size <= this.#options.cacheBlocks) return
      this.#cache.delete(block)
      this.#note(block, this.#removed, this.#stored)
    }
  }

  #note(block: number, into: Set<number>, outOf: Set<number>): void {
    if (!outOf.delete(block)) into.add(block)
  }

  /** What has changed since the last time. */
  changes(): KvChanges {
    const changes = { reset: this.#isFirstReport, stored: [...this.#stored], removed: [...this.#removed] }
    this.#isFirstReport = false
    this.#stored = new Set()
    this.#removed = new Set()
    return changes
  }

  frame(model: string): CapacityFrame {
    const { sequencesMax, kvTokensMax, prefillTokensPerSecond } = this.#options
    const blockTokens = 16
    return {
      model,
      role: 'both',
      epoch: 'one',
      sequence: this.#sequence++,
      contextTokensMax: 131_072,
      blockTokens,
      kvBlocksTotal: Math.floor(kvTokensMax / blockTokens),
      kvBlocksUsed: Math.floor(Math.min(kvTokensMax, this.#decodeKvTokens) / blockTokens),
      kvBlocksCached: 0,
      sequencesRunning: this.#decoding + (this.#isPrefilling ? 1 : 0),
      sequencesWaiting: this.#waiting.length,
      sequencesMax,
      requestsQueued: 0,
      requestsQueuedMax: 1000,
      prefillTokensQueued: this.#prefillTokens,
      decodeKvTokens: this.#decodeKvTokens,
      stepMs: this.#stepMs(),
      measuredPrefillTokensPerSecond: prefillTokensPerSecond,
      stepModel: STEP,
      draining: false,
    }
  }
}
