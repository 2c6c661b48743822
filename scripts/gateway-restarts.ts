// Ordered restarts of the gateway. Owns that one happens at a time, what becomes of the process that was replaced, and the way that is
// left where its objects cannot be taken over: then it ends first, and the next one begins after it.
import { rm } from 'node:fs/promises'
import type { Running } from './children.ts'
import { endMove, type Leaver, takeObjects } from './handover.ts'
import type { Supervised } from './supervisor.ts'

/** It ends its last streams itself when their time is over, and looks for that every ten seconds. */
const KILL_AFTER_MS = 20_000

export type RestartOptions = Omit<Leaver, 'pid'> & {
  /** Tells the user. */
  note: (text: string) => void
  /** The launcher is ending. */
  signal: AbortSignal
}

export class GatewayRestarts {
  readonly #options: RestartOptions
  readonly #old = new Set<Running>()
  #running: Promise<void> | undefined
  /** Files are on their way, perhaps of a process that died meanwhile. Never rejects. */
  #taking: Promise<unknown> = Promise.resolve()

  constructor(options: RestartOptions) {
    this.#options = options
  }

  /** Resolves when the next process serves. A call during a restart is part of it. */
  async restart(gateway: Supervised): Promise<void> {
    this.#running ??= this.#restart(gateway).finally(() => {
      this.#running = undefined
    })
    await this.#running
  }

  /** Before each start: the next process gets all objects, also where taking them over failed in its middle. */
  async settled(): Promise<void> {
    await this.#taking
    await endMove(this.#options.objectsDir)
  }

  /** Ends those that still serve old streams, as soon as any gateway ends. */
  async stopOld(): Promise<void> {
    await Promise.all([...this.#old].map((old) => old.stop()))
  }

  async #restart(gateway: Supervised): Promise<void> {
    const { note, signal, drainMs } = this.#options
    const old = gateway.current()
    let leftDir: string
    try {
      const taking = takeObjects({ ...this.#options, pid: old.pid }, signal)
      this.#taking = taking.catch(() => {})
      leftDir = await taking
    } catch (error) {
      if (signal.aborted) return
      note(
        `The gateway could not hand its objects over: ${(error as Error).message}. It ends first; open streams may break off.`,
      )
      return await gateway.restart()
    }
    this.#old.add(old)
    // It accepts no more from here on; what calls before the next one is up waits in the socket's queue.
    const ended = old.stop(drainMs + KILL_AFTER_MS)
    void ended.then(async () => {
      this.#old.delete(old)
      await rm(leftDir, { recursive: true, force: true }).catch(() => {})
    })
    await gateway.replace()
  }
}
