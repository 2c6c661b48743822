// Keeps a part running. Owns restarts with back-off; the part itself is a function that starts it once.
import { setTimeout as sleep } from 'node:timers/promises'
import { describeExit, type Running } from './children.ts'

export type Supervised = {
  /** The process of now; changes with each restart. */
  current(): Running
  /** Ends it in order and starts it again at once. Resolves when it runs, or has been stopped for good. */
  restart(): Promise<void>
  /** Starts the next one beside it, which takes its place; what becomes of the old one is the caller's. Resolves when it runs. */
  replace(): Promise<void>
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

  let asked: PromiseWithResolvers<void> | undefined
  let replacing: Promise<void> | undefined
  /** Resolves when another process has taken the place of `current`. */
  let replaced = Promise.withResolvers<undefined>()

  const watch = async () => {
    while (!ending.signal.aborted) {
      const startedMs = performance.now()
      const watched = current
      const exit = await Promise.race([watched.exited, replaced.promise])
      await replacing
      if (exit === undefined || watched !== current) continue
      if (ending.signal.aborted) break
      const ranMs = performance.now() - startedMs
      if (ranMs > STABLE_MS) delayMs = options.firstDelayMs ?? FIRST_DELAY_MS
      // What ended as it was told to has nothing wrong with it, and somebody waits for the next.
      const isInOrder = exit.code === 0 && ranMs > FIRST_DELAY_MS
      if (asked === undefined) options.onDown(describeExit(options.name, exit, current.recent()))
      await restart(asked !== undefined || isInOrder ? 0 : undefined)
      asked?.resolve()
      asked = undefined
    }
    asked?.resolve()
  }
  const restart = async (firstDelayMs: number | undefined) => {
    let waitMs = firstDelayMs
    while (!ending.signal.aborted) {
      await sleep(waitMs ?? delayMs, undefined, { signal: ending.signal }).catch(() => {})
      if (ending.signal.aborted) return
      if (waitMs === undefined) delayMs = Math.min(delayMs * 2, DELAY_MS_MAX)
      waitMs = undefined
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
    restart: async () => {
      if (asked === undefined) {
        asked = Promise.withResolvers()
        void current.stop()
      }
      await asked.promise
    },
    replace: async () => {
      replacing ??= (async () => {
        await restart(0)
        replaced.resolve(undefined)
        replaced = Promise.withResolvers()
        replacing = undefined
      })()
      await replacing
    },
    stop: async () => {
      ending.abort()
      await current.stop()
      await watching
    },
  }
}
