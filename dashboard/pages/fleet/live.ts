// The fleet as it is now. Owns the stream of snapshots, asking again and again where there can be no stream, and the samples of
// the last minutes.
import { useEffect, useRef, useState } from 'preact/hooks'
import { api, urlOf } from '../../app/api.ts'
import type { Backend, FleetEvent } from '../../app/wire-admin.ts'
import { type History, recorded } from './history.ts'

/** As often as workers report. */
const SAMPLE_MS = 1_000
const POLL_MS = 3_000
/** A proxy that holds streams back now may not do so later. */
const STREAM_AGAIN_MS = 60_000
/** A stream that has not said anything by then is held back on the way. */
const FIRST_SNAPSHOT_MS = 5_000

export type FleetLink = 'connecting' | 'live' | 'polling' | 'lost'
export type FleetView = {
  backends: readonly Backend[] | undefined
  /** On this browser's clock: when what is shown came. */
  receivedAtMs: number
  link: FleetLink
  error: Error | undefined
  history: History
  /** After a change, where the stream would be slower. */
  reload: () => void
}

type Seen = { backends: readonly Backend[]; receivedAtMs: number }

export function useFleet(): FleetView {
  const [seen, setSeen] = useState<Seen | undefined>()
  const [link, setLink] = useState<FleetLink>('connecting')
  const [error, setError] = useState<Error | undefined>()
  const [history, setHistory] = useState<History>([])
  const [turn, setTurn] = useState(0)
  const latest = useRef<{ seen: Seen | undefined; isLinked: boolean }>({ seen: undefined, isLinked: false })

  useEffect(() => {
    const over = new AbortController()
    const timers = new Set<ReturnType<typeof setTimeout>>()
    let source: EventSource | undefined
    const later = (work: () => void, ms: number) => {
      const timer = setTimeout(() => {
        timers.delete(timer)
        work()
      }, ms)
      timers.add(timer)
    }
    const take = (backends: readonly Backend[], now: FleetLink) => {
      latest.current = { seen: { backends, receivedAtMs: Date.now() }, isLinked: true }
      setSeen(latest.current.seen)
      setError(undefined)
      setLink(now)
    }
    const look = async () => {
      const { data } = await api.get<{ data: Backend[] }>('/backends', {}, over.signal)
      take(data, 'polling')
    }
    const poll = () => {
      if (over.signal.aborted || source !== undefined) return
      const next = () => later(poll, POLL_MS)
      if (document.visibilityState !== 'visible') return next()
      look()
        .catch((thrown: unknown) => {
          if (over.signal.aborted) return
          latest.current.isLinked = false
          setError(thrown instanceof Error ? thrown : new Error(String(thrown)))
          setLink('lost')
        })
        .finally(next)
    }
    const fallBack = () => {
      source?.close()
      source = undefined
      later(stream, STREAM_AGAIN_MS)
      poll()
    }
    function stream(): void {
      if (over.signal.aborted) return
      let isOpen = false
      const opened = new EventSource(urlOf('/backends/events'), { withCredentials: true })
      source = opened
      opened.addEventListener('snapshot', (event) => {
        isOpen = true
        if (source === opened) take((JSON.parse(event.data) as FleetEvent).data, 'live')
      })
      // The gateway ends a stream after some minutes, and the browser comes back by itself; what it refuses stays closed, and what
      // does not answer stays open for ever.
      opened.addEventListener('error', () => {
        if (source !== opened) return
        if (opened.readyState === EventSource.CLOSED || !isOpen) return fallBack()
        later(() => {
          if (source === opened && opened.readyState !== EventSource.OPEN) fallBack()
        }, FIRST_SNAPSHOT_MS)
      })
      later(() => {
        if (source === opened && !isOpen) fallBack()
      }, FIRST_SNAPSHOT_MS)
    }
    stream()
    return () => {
      over.abort()
      source?.close()
      for (const timer of timers) clearTimeout(timer)
    }
  }, [turn])

  useEffect(() => {
    const timer = setInterval(() => {
      const { seen: now, isLinked } = latest.current
      // Without a link nothing is known of this second: a gap in the lines.
      if (now !== undefined && isLinked) setHistory((before) => recorded(before, now.backends, Date.now()))
    }, SAMPLE_MS)
    return () => clearInterval(timer)
  }, [])

  return {
    backends: seen?.backends,
    receivedAtMs: seen?.receivedAtMs ?? 0,
    link,
    error,
    history,
    reload: () => setTurn((before) => before + 1),
  }
}
