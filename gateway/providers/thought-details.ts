// Thoughts that a server wants back unchanged, out of the pieces in which it streams them. Owns putting the pieces together;
// they go to the caller as a seal, and come back with the next request. Pure.
import type { Json } from '../meter/normalise.ts'

/** What can be given back at most; longer thoughts go without their proof. */
const CHARS_MAX = 1024 * 1024
const GROWING_FIELDS = ['text', 'summary', 'data'] as const

export class ThoughtDetails {
  #details: Json[] = []
  #chars = 0
  #wasRedacted = false

  /** Of what was taken last: nothing in it can be read. */
  get wasRedacted(): boolean {
    return this.#wasRedacted
  }

  see(pieces: readonly Json[]): void {
    for (const piece of pieces) {
      this.#chars += JSON.stringify(piece).length
      if (this.#chars > CHARS_MAX) continue
      const last = this.#details.at(-1)
      if (
        last !== undefined &&
        last.type === piece.type &&
        last.index === piece.index &&
        piece.type !== 'reasoning.encrypted'
      ) {
        grow(last, piece)
      } else this.#details.push({ ...piece })
    }
  }

  /** All pieces since the last call as JSON text, undefined where there are none. */
  take(): string | undefined {
    const details = this.#details
    const isWhole = this.#chars <= CHARS_MAX
    this.#details = []
    this.#chars = 0
    this.#wasRedacted = details.length > 0 && details.every(({ type }) => type === 'reasoning.encrypted')
    return details.length === 0 || !isWhole ? undefined : JSON.stringify(details)
  }
}

/** Texts add up, of the rest (a signature, an id) the newest stands. */
function grow(last: Json, piece: Json): void {
  for (const [field, value] of Object.entries(piece)) {
    if (value === null || value === undefined) continue
    const before = last[field]
    const isText = GROWING_FIELDS.some((growing) => growing === field)
    last[field] = isText && typeof before === 'string' && typeof value === 'string' ? before + value : value
  }
}
