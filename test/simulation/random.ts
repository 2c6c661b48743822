// Seeded randomness. Owns the generator and the ways of drawing from it; one seed gives one sequence on every machine.

/** sfc32: 128 bits of state, passes PractRand, a handful of integer operations per draw. */
export class Random {
  #a = 0
  #b = 0
  #c = 0
  #count = 1

  constructor(seed: number) {
    // Seeds are small and close together: a multiplication spreads them, and the first draws are thrown away.
    this.#a = Math.imul(seed, 0x9e3779b1) >>> 0
    this.#b = (seed ^ 0x85ebca6b) >>> 0
    this.#c = Math.floor(seed / 2 ** 32) >>> 0
    for (let round = 0; round < 12; round++) this.bits()
  }

  /** 32 bits. */
  bits(): number {
    const sum = (this.#a + this.#b + this.#count) | 0
    this.#count = (this.#count + 1) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum
    return sum >>> 0
  }

  /** 0 … below. */
  below(below: number): number {
    return Math.floor((this.bits() / 2 ** 32) * below)
  }

  /** from … to, both included. */
  between(from: number, to: number): number {
    return from + this.below(to - from + 1)
  }

  chance(probability: number): boolean {
    return this.bits() < probability * 2 ** 32
  }

  pick<T>(values: readonly T[]): T {
    const value = values[this.below(values.length)]
    if (value === undefined) throw new RangeError('nothing to pick from')
    return value
  }

  /** A version 4 UUID. */
  uuid(): string {
    const [a, b, c, d] = [this.#hex(), this.#hex(), this.#hex(), this.#hex()]
    return `${a}-${b.slice(0, 4)}-4${b.slice(5)}-a${c.slice(1, 4)}-${c.slice(4)}${d}`
  }

  #hex(): string {
    return (this.bits() + 2 ** 32).toString(16).slice(1)
  }
}
