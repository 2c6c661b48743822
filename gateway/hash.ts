// SHA-256 of texts. Owns that it is taken at once: the Web API answers by a promise, and for a few hundred bytes going
// through the runtime's event loop costs many times what the hash does. Pure.
/// <reference path="./node-crypto.d.ts" />
import { createHash } from 'node:crypto'

/** In hex. */
export const sha256Hex = (text: string): string => createHash('sha256').update(text).digest('hex')

/** Of a text that comes in pieces, none of which ends within a surrogate pair. */
export class TextDigest {
  readonly #hash = createHash('sha256')
  #chars = 0

  get chars(): number {
    return this.#chars
  }

  add(piece: string): void {
    this.#chars += piece.length
    this.#hash.update(piece)
  }

  /** Once, at the end. */
  hex(): string {
    return this.#hash.digest('hex')
  }
}
