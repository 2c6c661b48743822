// The ids of words seen lately ○. Owns the bound: texts are mostly made of few words, and merging a word costs many times
// as much as finding it.

/** Longer ones rarely come again. */
const WORD_CHARS_CACHED_MAX = 64
/** Of each generation; some ten megabytes for both at worst. */
const WORDS_MAX = 16 * 1024

/**
 * Two generations instead of an order of use: what is found in the old one moves to the young one, and a full young one
 * becomes the old one. A hit in the young one, which nearly all are, is a single look-up.
 */
export class WordCache {
  readonly #encode: (word: string) => readonly number[]
  #young = new Map<string, readonly number[]>()
  #old = new Map<string, readonly number[]>()

  constructor(encode: (word: string) => readonly number[]) {
    this.#encode = encode
  }

  ids(word: string): readonly number[] {
    const known = this.#young.get(word)
    if (known !== undefined) return known
    const ids = this.#old.get(word) ?? this.#encode(word)
    if (word.length > WORD_CHARS_CACHED_MAX) return ids
    if (this.#young.size >= WORDS_MAX) {
      this.#old = this.#young
      this.#young = new Map()
    }
    this.#young.set(word, ids)
    return ids
  }
}
