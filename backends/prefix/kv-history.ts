// The last changes of what this backend holds, for gateways that ask with a dispatch ○. Owns their numbers and how far back they
// reach; the changes themselves are held-chunks.ts. Nothing is kept per gateway: each says how far it has heard.
import { KV_CHUNKS_PER_ANSWER_MAX, type KvNews, type KvSeen } from '../../protocol/report.ts'

/** Some seconds of a busy host; whoever has heard nothing for longer is told the newest alone. */
const CHANGES_MAX = 4096

type Change = { isHeld: boolean; version: number }

export class KvHistory {
  readonly #epoch: string
  #version = 0
  /** Changes up to this one are not all known any more. */
  #floor = 0
  /** The last change of each chunk, oldest first. */
  readonly #last = new Map<number, Change>()

  /** @param epoch Of this life of the agent. */
  constructor(epoch: string) {
    this.#epoch = epoch
  }

  note(chunk: number, isHeld: boolean): void {
    this.#last.delete(chunk)
    this.#last.set(chunk, { isHeld, version: ++this.#version })
    if (this.#last.size <= CHANGES_MAX) return
    const [oldest] = this.#last
    if (oldest === undefined) return
    this.#floor = oldest[1].version
    this.#last.delete(oldest[0])
  }

  /** For one answer: each call tells what changed since the one before it. */
  after(seen: KvSeen): () => KvNews | undefined {
    let heard = seen
    return () => {
      const news = this.since(heard)
      if (news !== undefined) heard = { epoch: news.epoch, version: news.version }
      return news
    }
  }

  /** What changed after what was seen; the newest of it where that is much. Undefined: nothing. */
  since(seen: KvSeen, max = KV_CHUNKS_PER_ANSWER_MAX): KvNews | undefined {
    const isKnown = seen.epoch === this.#epoch && seen.version >= this.#floor && seen.version <= this.#version
    if (isKnown && seen.version === this.#version) return undefined
    // Of this life nothing can be told yet, but that what an earlier one said is void.
    if (!isKnown && this.#version === 0 && seen.epoch === '') return undefined
    const after = isKnown ? seen.version : 0
    const changes = [...this.#last].filter(([, { version }]) => version > after)
    const told = changes.slice(-max)
    const chunks = (wanted: boolean) => told.flatMap(([chunk, { isHeld }]) => (isHeld === wanted ? [chunk] : []))
    return {
      epoch: this.#epoch,
      version: this.#version,
      reset: !isKnown || told.length < changes.length,
      stored: chunks(true),
      removed: chunks(false),
    }
  }
}
