// What has to be undone before the launcher ends. Owns the order (last in, first out) and that one failure does not keep
// the rest from being undone.

export class Teardown {
  readonly #steps: { name: string; undo: () => Promise<void> | void }[] = []
  #running: Promise<string[]> | undefined

  /** Registers a step. Steps run in reverse order of registration. */
  add(name: string, undo: () => Promise<void> | void): void {
    this.#steps.push({ name, undo })
  }

  /** Runs all steps once; a second call waits for the first. Returns what went wrong, in words. */
  run(): Promise<string[]> {
    this.#running ??= this.#runAll()
    return this.#running
  }

  async #runAll(): Promise<string[]> {
    const problems: string[] = []
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step.undo()
      } catch (error) {
        problems.push(`${step.name}: ${(error as Error).message}`)
      }
    }
    return problems
  }
}
