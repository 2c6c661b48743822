// What this isolate has just sent where ○: a short memory of prompts' beginnings, beside the index of what backends say they hold.
// Owns that requests which begin alike and come together go together, before the first of them is computed and reported. It is
// kept apart from the index, since what was sent may never be computed.
//
// A table of fixed size in typed arrays, written for each dispatch: four places per hash, the oldest of which makes room. What
// is lost that way costs a guess, never a wrong one.

/** Longer than a report takes to tell what was computed; shorter than a failed dispatch could mislead for. */
export const SENT_MS = 5000
/** With WAYS places each: some 300 prompts of 12,000 tokens, in 0.6 MB. */
const BUCKETS = 8192
const BUCKET_SHIFT = 32 - Math.log2(BUCKETS)
/** Backends remembered for one beginning: one that has gone to more is everywhere soon, and needs no favour. */
const WAYS = 4
/** Backends that ever were; beyond it all is forgotten. */
const BACKENDS_MAX = 65_536

export class SentChunks {
  readonly #chunks = new Float64Array(BUCKETS * WAYS)
  readonly #backends = new Int32Array(BUCKETS * WAYS)
  /** 0: the place was never used. */
  readonly #untilMs = new Float64Array(BUCKETS * WAYS)
  readonly #numbers = new Map<string, number>()
  #names: string[] = []

  note(chunks: readonly number[], backendId: string, nowMs: number): void {
    const backend = this.#numberOf(backendId)
    for (const chunk of chunks) {
      const from = bucketOf(chunk)
      let place = from
      let oldestMs = Number.POSITIVE_INFINITY
      for (let way = from; way < from + WAYS; way++) {
        if (this.#chunks[way] === chunk && this.#backends[way] === backend) {
          place = way
          break
        }
        const untilMs = this.#untilMs[way] as number
        if (untilMs >= oldestMs) continue
        oldestMs = untilMs
        place = way
      }
      this.#chunks[place] = chunk
      this.#backends[place] = backend
      this.#untilMs[place] = nowMs + SENT_MS
    }
  }

  /** The backend says that it has let go of them since. */
  forget(chunks: readonly number[], backendId: string): void {
    const backend = this.#numbers.get(backendId)
    if (backend === undefined) return
    for (const chunk of chunks) {
      const from = bucketOf(chunk)
      for (let way = from; way < from + WAYS; way++) {
        if (this.#chunks[way] === chunk && this.#backends[way] === backend) this.#untilMs[way] = 0
      }
    }
  }

  /** How many leading chunks each backend was sent lately; those that were sent none are not in it. */
  matches(chunks: readonly number[], nowMs: number): Map<string, number> {
    const backends: number[] = []
    const depths: number[] = []
    let depth = 0
    for (const chunk of chunks) {
      const from = bucketOf(chunk)
      let isSent = false
      for (let way = from; way < from + WAYS; way++) {
        if (this.#chunks[way] !== chunk || (this.#untilMs[way] as number) <= nowMs) continue
        // A chunk's hash is over all before it: whoever was sent this one was sent those too.
        isSent = true
        const backend = this.#backends[way] as number
        const known = backends.indexOf(backend)
        if (known < 0) {
          backends.push(backend)
          depths.push(depth + 1)
        } else depths[known] = depth + 1
      }
      if (!isSent) break
      depth++
    }
    return new Map(backends.map((backend, at) => [this.#names[backend] ?? '', depths[at] ?? 0]))
  }

  #numberOf(backendId: string): number {
    const known = this.#numbers.get(backendId)
    if (known !== undefined) return known
    if (this.#names.length >= BACKENDS_MAX) {
      this.#numbers.clear()
      this.#names = []
      this.#untilMs.fill(0)
    }
    const number = this.#names.push(backendId) - 1
    this.#numbers.set(backendId, number)
    return number
  }
}

const bucketOf = (chunk: number): number => (Math.imul(chunk | 0, 0x9e3779b1) >>> BUCKET_SHIFT) * WAYS
