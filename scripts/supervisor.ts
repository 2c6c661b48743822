// Keeps a part running. Owns restarts with back-off; the part itself is a function that starts it once.
import { setTimeout as sleep } from 'node:timers/promises'
import { describeExit, type Running } from './children.ts'

export type Supervised = {
  /** The process of now; changes with each restart. */
  current(): Running
  /** Ends it and restarts it no more. */
  stop(): Promise<void>
}

export type SupervisorOptions = {
  name: string
  /** Starts the part and resolves when it is up. */
  start: () => Promise<Running>
  /** Gets a text for the user when the part died, or could not be restarted. */
  onDown: (text: string) => void
  onRestarted: () => void
  /** Default: FIRST_DELAY_MS. */
  firstDelayMs?: number
}

const FIRST_DELAY_MS = 500
/** The longest wait between tries: a part whose cause of death is gone is back within this. */
const DELAY_MS_MAX = 30_000
/** A part that ran this long starts over with the first delay. */
const STABLE_MS = 30_000

/** Starts the part (a failure of this first start is thrown), then restarts it whenever it dies. */
export async function supervise(options: SupervisorOptions): Promise<Supervised> {
  const ending = new AbortController()
  let current = await options.start()
  let delayMs = options.firstDelayMs ?? FIRST_DELAY_MS

  const watch = async () => {
    while (!ending.signal.aborted) {
      const startedMs = performance.now()
      const exit = await current.exited
      if (ending.signal.aborted) return
      if (performance.now() - startedMs > STABLE_MS) delayMs = options.firstDelayMs ?? FIRST_DELAY_MS
      options.onDown(describeExit(options.name, exit, current.recent()))
      await restart()
    }
  }
  const restart = async () => {
    while (!ending.signal.aborted) {
      await sleep(delayMs, undefined, { signal: ending.signal }).catch(() => {})
      if (ending.signal.aborted) return
      delayMs = Math.min(delayMs * 2, DELAY_MS_MAX)
      try {
        current = await options.start()
        if (ending.signal.aborted) await current.stop()
        else options.onRestarted()
        return
      } catch (error) {
        options.onDown(`${options.name} could not be restarted: ${(error as Error).message}`)
      }
    }
  }
  const watching = watch()
  return {
    current: () => current,
    stop: async () => {
      ending.abort()
      await current.stop()
      await watching
    },
  }
}
