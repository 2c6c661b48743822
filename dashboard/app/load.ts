// Data of a page. Owns the hook that loads it, keeps what is shown while newer data is on its way, repeats on request or
// by the clock, and forgets answers that nobody waits for any more.
import { useCallback, useEffect, useRef, useState } from 'preact/hooks'

export type Loaded<T> = {
  data: T | undefined
  error: Error | undefined
  /** A call is under way; with data, that data is of the call before. */
  isLoading: boolean
  /** The data shown was loaded under another key: something else is asked by now. */
  isStale: boolean
  reload: () => void
}

type State<T> = { key: string | undefined; data: T | undefined; error: Error | undefined; isLoading: boolean }

/**
 * Loads while the component lives.
 * @param key what is asked for: another key loads anew, undefined loads nothing
 * @param load is given a signal that fires when nobody waits any more
 * @param everyMs again after this time, while the page can be seen
 */
export function useLoad<T>(
  key: string | undefined,
  load: (signal: AbortSignal) => Promise<T>,
  { everyMs }: { everyMs?: number } = {},
): Loaded<T> {
  const [state, setState] = useState<State<T>>({ key: undefined, data: undefined, error: undefined, isLoading: false })
  const [turn, setTurn] = useState(0)
  const isBusy = useRef(false)
  const latest = useRef(load)
  latest.current = load

  useEffect(() => {
    if (key === undefined) return
    const controller = new AbortController()
    isBusy.current = true
    setState((before) => ({ ...before, isLoading: true }))
    latest.current(controller.signal).then(
      (data) => {
        if (controller.signal.aborted) return
        isBusy.current = false
        setState({ key, data, error: undefined, isLoading: false })
      },
      (error: unknown) => {
        if (controller.signal.aborted) return
        isBusy.current = false
        const typed = error instanceof Error ? error : new Error(String(error))
        setState((before) => ({
          key,
          // A refresh that fails leaves what was there, with the error beside it.
          data: before.key === key ? before.data : undefined,
          error: typed,
          isLoading: false,
        }))
      },
    )
    return () => controller.abort()
  }, [key, turn])

  useEffect(() => {
    if (everyMs === undefined || key === undefined) return
    const timer = setInterval(() => {
      // A call that is still under way would be broken off by the next, and one that is slow would never end.
      if (document.visibilityState === 'visible' && !isBusy.current) setTurn((before) => before + 1)
    }, everyMs)
    return () => clearInterval(timer)
  }, [everyMs, key])

  const reload = useCallback(() => setTurn((before) => before + 1), [])
  return {
    data: key === undefined ? undefined : state.data,
    error: state.error,
    isLoading: state.isLoading || (key !== undefined && state.key === undefined && state.error === undefined),
    isStale: state.data !== undefined && state.key !== key,
    reload,
  }
}
