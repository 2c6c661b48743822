// A counting semaphore with a bounded, timed queue: how many statements run at once and how many may wait. Owns the
// queue; what a refusal means is the caller's.

export type SlotRefusal = 'queue_full' | 'waited_too_long'

type Waiter = { start: () => void; refuse: (reason: SlotRefusal) => void }

export class Slots {
  readonly #waitersMax: number
  readonly #waitMaxMs: number
  readonly #waiters: Waiter[] = []
  #free: number

  constructor(bounds: { slots: number; waitersMax: number; waitMaxMs: number }) {
    this.#free = bounds.slots
    this.#waitersMax = bounds.waitersMax
    this.#waitMaxMs = bounds.waitMaxMs
  }

  /** Resolves to `undefined` with a slot taken (give it back with `release`), or to why there is none. */
  acquire(): Promise<SlotRefusal | undefined> {
    if (this.#free > 0) {
      this.#free--
      return Promise.resolve(undefined)
    }
    if (this.#waiters.length >= this.#waitersMax) return Promise.resolve('queue_full')
    return new Promise((resolve) => {
      const waiter: Waiter = {
        start: () => {
          clearTimeout(timer)
          resolve(undefined)
        },
        refuse: resolve,
      }
      const timer = setTimeout(() => {
        const at = this.#waiters.indexOf(waiter)
        if (at < 0) return
        this.#waiters.splice(at, 1)
        waiter.refuse('waited_too_long')
      }, this.#waitMaxMs)
      this.#waiters.push(waiter)
    })
  }

  /** Hands the slot to whoever waits longest. */
  release(): void {
    const next = this.#waiters.shift()
    if (next === undefined) this.#free++
    else next.start()
  }
}
