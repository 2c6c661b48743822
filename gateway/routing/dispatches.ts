// This isolate's open attempts by target ○. Owns the counts; those at own backends, with what they cost, are ledger.ts.

export class Dispatches {
  readonly #inFlight = new Map<string, number>()

  get inFlight(): ReadonlyMap<string, number> {
    return this.#inFlight
  }

  /** Counts one until the returned function is called; calling it again does nothing. */
  begin(name: string): () => void {
    this.#inFlight.set(name, (this.#inFlight.get(name) ?? 0) + 1)
    let ended = false
    return () => {
      if (ended) return
      ended = true
      const left = (this.#inFlight.get(name) ?? 1) - 1
      if (left > 0) this.#inFlight.set(name, left)
      else this.#inFlight.delete(name)
    }
  }
}
