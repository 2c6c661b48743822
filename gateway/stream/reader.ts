// One upstream stream, read batch by batch. Owns stopping the wait and letting go of the upstream exactly once.
import type { ProviderEvent, Upstream } from '../providers/provider.ts'
import type { Stop } from './stop.ts'
import type { Tally } from './tally.ts'

export class EventReader {
  readonly label: string
  readonly #upstream: Upstream
  readonly #iterator: AsyncIterator<ProviderEvent[]>
  readonly #stop: Stop
  readonly #tally: Tally
  #closed = false

  /** @param stop Of the attempt: ends the waits here, and by its signal the upstream call. */
  constructor(upstream: Upstream, stop: Stop, tally: Tally) {
    this.label = upstream.label
    this.#upstream = upstream
    this.#iterator = upstream.events[Symbol.asyncIterator]()
    this.#stop = stop
    this.#tally = tally
  }

  /**
   * The next batch, already counted; undefined at the end.
   * @throws Stopped when the attempt's Stop ends the wait.
   */
  async next(): Promise<ProviderEvent[] | undefined> {
    const step = await this.#stop.race(this.#iterator.next())
    if (step.done === true) return undefined
    for (const event of step.value) this.#tally.see(event)
    return step.value
  }

  /** Lets go of the upstream: ends the call where it still runs. Safe to call again. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#stop.stop('done')
    // A generator that waits for bytes ends by the signal; one that waits for us ends by this.
    this.#iterator.return?.().catch(() => {})
    this.#upstream.close()
  }
}
