// How many tokens an answer has at least, where the vendor tells the number only at its end ○. Owns the count by pieces.

export class PieceCount {
  #pieces = 0

  get tokens(): number {
    return this.#pieces
  }

  /** A piece is a token at least. */
  more(): number {
    this.#pieces++
    return this.#pieces
  }

  /** A thought that is not shown has cost something, too. */
  atLeastOne(): number {
    return this.#pieces === 0 ? this.more() : this.#pieces
  }
}
