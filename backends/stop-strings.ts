// Stop strings in streamed text ○. Owns finding them across borders; what a stop means to a request is session.ts.
//
// The text stops at the first position where a stop string ends; of several that end there the longest counts.
// That rule does not depend on how the text is cut into tokens.

export class StopScanner {
  readonly #stops: readonly string[]
  #held = ''
  #stopped = false

  /** @param stops none empty. */
  constructor(stops: readonly string[]) {
    this.#stops = stops.map((stop) => stop.toWellFormed())
  }

  get stopped(): boolean {
    return this.#stopped
  }

  /** Text that is certainly before any stop. Keeps the longest tail that could begin one; nothing after a stop. */
  push(text: string): string {
    if (this.#stopped) return ''
    if (this.#stops.length === 0) return text
    const buffer = this.#held + text
    const cut = this.#find(buffer)
    if (cut !== undefined) {
      this.#stopped = true
      this.#held = ''
      return buffer.slice(0, cut)
    }
    const keep = this.#tailLength(buffer)
    this.#held = buffer.slice(buffer.length - keep)
    return buffer.slice(0, buffer.length - keep)
  }

  /** The end of the text: what was held began no stop. */
  flush(): string {
    const rest = this.#held
    this.#held = ''
    return rest
  }

  #find(buffer: string): number | undefined {
    let start: number | undefined
    let end = Number.POSITIVE_INFINITY
    for (const stop of this.#stops) {
      const at = buffer.indexOf(stop)
      if (at < 0) continue
      const stopEnd = at + stop.length
      if (stopEnd < end || (stopEnd === end && at < (start ?? 0))) {
        start = at
        end = stopEnd
      }
    }
    return start
  }

  #tailLength(buffer: string): number {
    let longest = 0
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, buffer.length); length > longest; length--) {
        if (buffer.endsWith(stop.slice(0, length))) {
          longest = length
          break
        }
      }
    }
    return longest
  }
}
