// What backends have told this isolate of their caches, beside its own answers ○. Owns what such news change and how long they count
// beside the index of the Fleet object, which hears the same in reports a moment later.
//
// News follow from what the dispatch said had been heard, and tell the last word about each chunk: told twice they change nothing,
// told late they are older than what is known and left out. An agent's new life makes all void that the old one said.
import type { KvNews, KvSeen } from '../../protocol/report.ts'
import { type EpochHistory, joinEpoch } from '../fleet/membership.ts'
import type { PrefixMatches } from './snapshot.ts'

/** By then the Fleet object has heard it too, and knows what this isolate does not. */
export const TOLD_MS = 2000
/** Where the Fleet object does not answer there is nothing newer; caches turn over in minutes. */
export const TOLD_ALONE_MS = 60_000
/** Some 700 prompts of 12,000 characters, in a few megabytes; what was told first makes room. */
const CHUNKS_MAX = 16_384
const BACKENDS_MAX = 10_000

type Word = { isHeld: boolean; atMs: number }
type Backend = { epochs: EpochHistory; version: number; chunks: Set<number> }

export class ToldChunks {
  readonly #backends = new Map<string, Backend>()
  /** By chunk, then by backend. */
  readonly #words = new Map<number, Map<string, Word>>()

  /** Chunks of which something is known. */
  get size(): number {
    return this.#words.size
  }

  /** What the next dispatch says that it has heard. */
  seen(backendId: string): KvSeen {
    const backend = this.#backends.get(backendId)
    return { epoch: backend?.epochs.current ?? '', version: backend?.version ?? 0 }
  }

  hear(backendId: string, news: KvNews, nowMs: number): void {
    const known = this.#backends.get(backendId)
    const epochs = joinEpoch(known?.epochs ?? { retired: [] }, news.epoch)
    if (epochs === undefined) return
    const isSameLife = known?.epochs.current === news.epoch
    if (isSameLife && news.version <= known.version) return
    const backend: Backend =
      isSameLife && !news.reset ? known : { epochs, version: 0, chunks: this.#forget(backendId, known) }
    backend.version = news.version
    this.#backends.delete(backendId)
    this.#backends.set(backendId, backend)
    const note = (chunk: number, isHeld: boolean) => this.#note(chunk, backendId, backend, { isHeld, atMs: nowMs })
    for (const chunk of news.stored) note(chunk, true)
    for (const chunk of news.removed) note(chunk, false)
    this.#trim()
  }

  /**
   * Matches with what is known better.
   * @param matches Of the Fleet object's index; undefined: it did not answer.
   */
  correct(matches: PrefixMatches | undefined, chunks: readonly number[], nowMs: number): PrefixMatches {
    const sinceMs = nowMs - (matches === undefined ? TOLD_ALONE_MS : TOLD_MS)
    const words = this.#words.size === 0 ? [] : chunks.map((chunk) => this.#words.get(chunk))
    const backends = new Set<string>()
    for (const word of words) {
      if (word === undefined) continue
      for (const [backendId, { atMs }] of word) if (atMs > sinceMs) backends.add(backendId)
    }
    if (backends.size === 0) return matches ?? new Map()
    const corrected = new Map(matches)
    for (const backendId of backends) {
      const told = matches?.get(backendId) ?? 0
      let depth = 0
      for (const word of words) {
        const own = word?.get(backendId)
        const isHeld = own !== undefined && own.atMs > sinceMs ? own.isHeld : depth < told
        if (!isHeld) break
        depth++
      }
      if (depth > 0) corrected.set(backendId, depth)
      else corrected.delete(backendId)
    }
    return corrected
  }

  #note(chunk: number, backendId: string, backend: Backend, word: Word): void {
    const words = this.#words.get(chunk) ?? new Map<string, Word>()
    words.set(backendId, word)
    backend.chunks.add(chunk)
    this.#words.delete(chunk)
    this.#words.set(chunk, words)
  }

  /** @returns an empty set for what comes next. */
  #forget(backendId: string, backend: Backend | undefined): Set<number> {
    for (const chunk of backend?.chunks ?? []) this.#drop(chunk, backendId)
    return new Set()
  }

  #drop(chunk: number, backendId: string): void {
    const words = this.#words.get(chunk)
    words?.delete(backendId)
    if (words?.size === 0) this.#words.delete(chunk)
  }

  #trim(): void {
    for (const [backendId, backend] of this.#backends) {
      if (this.#backends.size <= BACKENDS_MAX) break
      this.#forget(backendId, backend)
      this.#backends.delete(backendId)
    }
    for (const [chunk, words] of this.#words) {
      if (this.#words.size <= CHUNKS_MAX) return
      this.#words.delete(chunk)
      for (const backendId of words.keys()) this.#backends.get(backendId)?.chunks.delete(chunk)
    }
  }
}
