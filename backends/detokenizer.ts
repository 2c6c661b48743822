// Token bytes → text, a token at a time ○. Owns holding back half characters; which bytes a token has is vocabulary.ts.
// Works from bytes alone, so the cost of a token does not grow with the text before it.

export class Detokenizer {
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })

  /** The text that `bytes` completes; an unfinished character waits, an invalid byte becomes U+FFFD. */
  push(bytes: Uint8Array): string {
    return bytes.length === 0 ? '' : this.#decoder.decode(bytes, { stream: true })
  }

  /** The end: an unfinished character becomes U+FFFD. */
  flush(): string {
    return this.#decoder.decode()
  }
}
