// What is being served. Owns the count, and waiting until it is zero; what is done about work that does not end is agent.ts.

export class OpenWork {
  #open = 0
  #idle: (() => void)[] = []

  get open(): number {
    return this.#open
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    this.#open++
    try {
      return await work()
    } finally {
      this.#open--
      if (this.#open === 0) for (const idle of this.#idle.splice(0)) idle()
    }
  }

  /** Resolves when nothing is open, or the time is over. */
  async allOver(waitMs: number): Promise<void> {
    if (this.#open === 0) return
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, waitMs)
      this.#idle.push(() => {
        clearTimeout(timer)
        resolve()
      })
    })
  }
}
