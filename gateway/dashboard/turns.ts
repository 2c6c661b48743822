// How many do something at a time. Owns the count; who is over it is told to come back, and waits nowhere.
import { Refusal } from '../admin/context.ts'

export class Turns {
  readonly #atOnceMax: number
  /** Only those that something runs for. */
  readonly #running = new Map<string, number>()

  constructor(atOnceMax: number) {
    this.#atOnceMax = atOnceMax
  }

  /** @throws Refusal where as many as may be are at it under this name. */
  async run<T>(name: string, work: () => Promise<T>): Promise<T> {
    const running = this.#running.get(name) ?? 0
    if (running >= this.#atOnceMax) throw busy()
    this.#running.set(name, running + 1)
    try {
      return await work()
    } finally {
      const left = (this.#running.get(name) ?? 1) - 1
      if (left === 0) this.#running.delete(name)
      else this.#running.set(name, left)
    }
  }
}

function busy(): Refusal {
  const message = 'Too many sign-ins at once. Try again in a moment.'
  return new Refusal({ code: 'unavailable', message, retryAfterMs: 1_000 })
}
