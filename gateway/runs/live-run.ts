// A background response while it runs: its events on their way to the storage, and those who wait for them. Owns the batches and
// the waiting; what an event is and where it is kept is decided elsewhere.
import type { Runner } from './runner.ts'
import { EVENTS_CHARS_MAX, FOLLOWERS_MAX } from './stored-run.ts'

/** Events that come within this travel to the storage together: a row written costs more than the wait. */
const BATCH_MS = 100
/** More than this is written at once. */
const BATCH_CHARS = 64 * 1024

export type LivePorts = {
  /** Makes events durable. */
  write: (text: string) => void
  /** They are over their bound: those that are kept go, and no more come. */
  lose: () => void
}

export class LiveRun {
  /** Set once it has begun. */
  runner: Runner | undefined
  readonly #ports: LivePorts
  #pending = ''
  #chars = 0
  #areLost = false
  #timer: ReturnType<typeof setTimeout> | undefined
  readonly #waiting = new Set<() => void>()

  constructor(ports: LivePorts) {
    this.#ports = ports
  }

  append(text: string): void {
    if (text === '' || this.#areLost) return
    this.#pending += text
    if (this.#pending.length > BATCH_CHARS) this.flush()
    else this.#timer ??= setTimeout(() => this.flush(), BATCH_MS)
  }

  /** What a follower is shown is durable before: a number that it has seen means the same event ever after. */
  flush(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer)
    this.#timer = undefined
    const text = this.#pending
    this.#pending = ''
    if (text === '' || this.#areLost) return
    this.#chars += text.length
    this.#areLost = this.#chars > EVENTS_CHARS_MAX
    if (this.#areLost) this.#ports.lose()
    else this.#ports.write(text)
    this.wake()
  }

  get isCrowded(): boolean {
    return this.#waiting.size >= FOLLOWERS_MAX
  }

  /** Resolves at the next batch, at the end, or after `waitMs`. */
  async news(waitMs: number): Promise<void> {
    const told = Promise.withResolvers<void>()
    this.#waiting.add(told.resolve)
    const timer = setTimeout(told.resolve, waitMs)
    await told.promise
    clearTimeout(timer)
    this.#waiting.delete(told.resolve)
  }

  wake(): void {
    for (const told of this.#waiting) told()
  }
}
