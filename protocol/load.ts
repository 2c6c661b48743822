// Work that was given away and is not over ○. Owns its sums, and which part of it the other side's figures do not show yet; gateways
// keep one per backend (gateway/routing/ledger.ts), agents one per engine (backends/engine-work.ts).
//
//   begun ──figures made later──▶ framed      counted by the figures from there on; only sums without figures count it too
//     └─release: its prompt is computed, it is over      (each part once, in any order)

/**
 * From giving work away until the other side's statistics show it: the way there and back, the tokenizer, a step. Within it work
 * may be counted twice, which only sends the next one elsewhere; later work would be counted by nobody.
 */
const ARRIVAL_MS = 250

export type Sums = {
  /** To be computed before the first token. */
  promptTokens: number
  sequences: number
  kvTokens: number
}

export type Entry = Sums & { beganAtMs: number; isFramed: boolean; isOver: boolean }

export class LoadSums<Named extends Entry = Entry> {
  /** Of all that are open. */
  readonly open: Sums = { promptTokens: 0, sequences: 0, kvTokens: 0 }
  /** Of those that no frame shows. */
  readonly pending: Sums = { promptTokens: 0, sequences: 0, kvTokens: 0 }
  /** In the order they began; those that are framed or over leave from the front. */
  readonly #unframed: Named[] = []
  #isOrdered = true
  #framedAtMs = Number.NEGATIVE_INFINITY

  get isEmpty(): boolean {
    return this.#unframed.length === 0 && this.open.sequences === 0 && this.open.promptTokens === 0
  }

  protected take(entry: Named): Named {
    const last = this.#unframed.at(-1)
    if (last !== undefined && last.beganAtMs > entry.beganAtMs) this.#isOrdered = false
    this.#unframed.push(entry)
    add(this.open, entry, 1)
    add(this.pending, entry, 1)
    return entry
  }

  /** What began long enough before a frame is in it. */
  framed(frameAtMs: number): void {
    if (frameAtMs <= this.#framedAtMs) return
    this.#framedAtMs = frameAtMs
    const entries = this.#unframed
    if (!this.#isOrdered) {
      entries.sort((one, other) => one.beganAtMs - other.beganAtMs)
      this.#isOrdered = true
    }
    let gone = 0
    for (const entry of entries) {
      if (!entry.isOver && entry.beganAtMs + ARRIVAL_MS > frameAtMs) break
      gone++
      if (entry.isOver) continue
      entry.isFramed = true
      add(this.pending, entry, -1)
    }
    if (gone > 0) entries.splice(0, gone)
  }

  /** Takes away what is over of an entry, in every sum that it counts in. */
  release(entry: Named, part: Sums): void {
    add(this.open, part, -1)
    if (!entry.isFramed) add(this.pending, part, -1)
    entry.promptTokens -= part.promptTokens
    entry.sequences -= part.sequences
    entry.kvTokens -= part.kvTokens
    if (entry.sequences > 0 || entry.promptTokens > 0) return
    entry.isOver = true
    // The others leave with the next frame; without frames none may stay for ever.
    while (this.#unframed[0]?.isOver === true) this.#unframed.shift()
  }
}

function add(sums: Sums, part: Sums, sign: 1 | -1): void {
  sums.promptTokens += sign * part.promptTokens
  sums.sequences += sign * part.sequences
  sums.kvTokens += sign * part.kvTokens
}
