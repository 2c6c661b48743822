// What the engines of one agent have to answer to the canary's question ○. Owns whose answer is believed: the one that most engines have
// given, and among as many the first. They compute the same model with the same build, so that one answer is right for all of them.

type Answer = { tokens: readonly number[]; engines: Set<string> }

export class CanaryReference {
  /** By its tokens as text; of an engine at most the believed one and its last other one. */
  readonly #answers = new Map<string, Answer>()
  #believed: Answer | undefined

  /** Undefined: nobody has answered yet. */
  get expected(): readonly number[] | undefined {
    return this.#believed?.tokens
  }

  /** An answer that both ways of an engine to compute it agree on. @returns whether it is the one that is believed */
  hear(engine: string, tokens: readonly number[]): boolean {
    const text = tokens.join(' ')
    const answer = this.#answers.get(text) ?? { tokens, engines: new Set() }
    for (const [other, one] of this.#answers) {
      if (one === this.#believed || one === answer) continue
      one.engines.delete(engine)
      if (one.engines.size === 0) this.#answers.delete(other)
    }
    this.#answers.set(text, answer)
    answer.engines.add(engine)
    this.#believed ??= answer
    if (answer.engines.size > this.#believed.engines.size) this.#believed = answer
    return this.#believed === answer
  }
}
