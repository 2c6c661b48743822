// One upstream stream, read batch by batch. Owns stopping the wait, reading on where nobody waits any more, and letting go
// of the upstream exactly once.
import type { ProviderEvent } from '../providers/event.ts'
import type { Upstream } from '../providers/provider.ts'
import { Stop } from './stop.ts'
import type { Tally } from './tally.ts'

type Step = IteratorResult<ProviderEvent[]>

export class EventReader {
  readonly #upstream: Upstream
  readonly #iterator: AsyncIterator<ProviderEvent[]>
  readonly #stop: Stop
  readonly #call: Stop
  readonly #tally: Tally
  /** A step that was asked for and not taken yet: a wait that was stopped leaves it to the next one. */
  #pending: Promise<Step> | undefined
  #closed = false
  /** The upstream has let go by itself: its stream was read to the end. */
  #isOver = false

  /**
   * @param stop Of the attempt: ends the waits here.
   * @param call Of the upstream call; the same one where the call ends with the attempt.
   */
  constructor(upstream: Upstream, stop: Stop, tally: Tally, call: Stop = stop) {
    this.#upstream = upstream
    this.#iterator = upstream.events[Symbol.asyncIterator]()
    this.#stop = stop
    this.#call = call
    this.#tally = tally
  }

  /** Who answers now. */
  get label(): string {
    return this.#upstream.label
  }

  /**
   * The next batch, already counted; undefined at the end.
   * @throws Stopped when the attempt's Stop ends the wait.
   */
  next(): Promise<ProviderEvent[] | undefined> {
    return this.#take(this.#stop)
  }

  /** Counts the rest without anybody waiting for it, for at most `ms`, and lets go. Never throws. */
  async drain(ms: number): Promise<void> {
    const patience = new Stop()
    patience.arm(ms, 'deadline')
    try {
      while ((await this.#take(patience)) !== undefined);
    } catch {
      // Out of time, or the connection broke: what was counted until then stands.
    } finally {
      patience.stop('done')
      this.close()
    }
  }

  /** Lets go of the upstream: ends the call where it still runs. Safe to call again. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    if (this.#isOver) {
      // First, or it would be stopped with the other one.
      this.#call.finish()
      this.#stop.finish()
      this.#upstream.close()
      return
    }
    this.#stop.stop('done')
    this.#call.stop('done')
    // A generator that waits for bytes ends by the signal; one that waits for us ends by this.
    this.#iterator.return?.().catch(() => {})
    this.#upstream.close()
  }

  async #take(stop: Stop): Promise<ProviderEvent[] | undefined> {
    this.#pending ??= this.#iterator.next()
    const step = await stop.race(this.#pending)
    this.#pending = undefined
    if (step.done === true) {
      this.#isOver = true
      return undefined
    }
    for (const event of step.value) this.#tally.see(event)
    return step.value
  }
}
