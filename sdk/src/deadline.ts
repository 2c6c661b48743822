// Waiting within bounds. Owns timers and their clean-up: none outlives what it was for.

/** Why a wait was given up. */
export class TimedOut extends Error {
  override readonly name: string = 'TimedOut'
}

/** Ends when one of the parents does, or by `abort`; `release` lets go of the parents. */
export type Scope = { signal: AbortSignal; abort: (reason: unknown) => void; release: () => void }

export function scopeOf(...parents: readonly (AbortSignal | undefined)[]): Scope {
  const controller = new AbortController()
  const undo: (() => void)[] = []
  const release = () => {
    for (const one of undo.splice(0)) one()
  }
  const abort = (reason: unknown) => {
    release()
    controller.abort(reason)
  }
  for (const parent of parents) {
    if (parent === undefined) continue
    if (parent.aborted) {
      abort(parent.reason)
      break
    }
    const onAbort = () => abort(parent.reason)
    parent.addEventListener('abort', onAbort, { once: true })
    undo.push(() => parent.removeEventListener('abort', onAbort))
  }
  return { signal: controller.signal, abort, release }
}

/** @throws what `signal` was aborted with, TimedOut after `ms`. */
export async function within<T>(promise: Promise<T>, ms: number, what: string, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted()
  let timer: ReturnType<typeof setTimeout> | undefined
  let onAbort = () => {}
  // Its own failure has nobody to see it once the wait is over.
  promise.catch(() => {})
  try {
    return await Promise.race([
      promise,
      new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new TimedOut(what)), ms)
        onAbort = () => reject(signal.reason)
        signal.addEventListener('abort', onAbort, { once: true })
      }),
    ])
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', onAbort)
  }
}

/** @throws what `signal` was aborted with. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  const never = new Promise<never>(() => {})
  await within(never, ms, 'pause', signal).catch((error: unknown) => {
    if (!(error instanceof TimedOut)) throw error
  })
}
