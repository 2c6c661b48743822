// The newest requests as they come. Owns asking the gateway again for what was recorded since, putting rows together without
// showing one twice, and counting those that came faster than they can be shown.
import { useEffect, useRef, useState } from 'preact/hooks'
import { type ApiQuery, api } from '../../app/api.ts'
import type { Names, UsageRequest, UsageRequests } from '../../app/wire.ts'

const EVERY_MS = 1_500
/** The most that one answer holds. */
const ROWS = 200
/** The gateway's answers overlap by fifteen seconds: rows that were seen before that do not come again. */
const SEEN_MS = 20_000
/** What a page still draws without a stutter; older ones are found by their range. */
const KEPT_MAX = 500

type Live = {
  key: string
  rows: UsageRequest[]
  /** Requests that came and are not among the rows: there were too many at a time. */
  missed: number
  names: Names | undefined
  error: Error | undefined
}
const NOTHING: Live = { key: '', rows: [], missed: 0, names: undefined, error: undefined }

/** When rows of the last seconds were recorded, by id. */
type Seen = ReadonlyMap<string, number>

/**
 * @param start the first page; undefined: not live
 * @param key what is asked for: with another one it begins anew
 */
export function useLive(start: UsageRequests | undefined, key: string, query: ApiQuery): Live {
  const [live, setLive] = useState<Live>(NOTHING)
  const asked = useRef(query)
  asked.current = query

  useEffect(() => {
    if (start === undefined) return setLive(NOTHING)
    let since = start.since
    let seen = seenAfter(new Map(), start.data)
    setLive({ ...NOTHING, key })
    const controller = new AbortController()
    let isBusy = false
    const look = async () => {
      if (isBusy || document.visibilityState !== 'visible') return
      isBusy = true
      try {
        const { from: _, to: __, ...rest } = asked.current
        const read = await api.get<UsageRequests>('/usage/requests', { ...rest, since, limit: ROWS }, controller.signal)
        const missed = missedBy(read, since, seen)
        seen = seenAfter(seen, read.data)
        // While answers are full, what they leave out is counted once: the next begins behind the newest row.
        since = (read.left_out ?? 0) > 0 ? new Date(newestOf(seen)).toISOString() : read.since
        setLive((before) => ({
          key,
          rows: mergeNewest(read.data, before.key === key ? before.rows : []).slice(0, KEPT_MAX),
          missed: (before.key === key ? before.missed : 0) + missed,
          names: mergeNames(before.names, read.names),
          error: undefined,
        }))
      } catch (error) {
        if (!controller.signal.aborted)
          setLive((before) => ({ ...before, error: error instanceof Error ? error : new Error(String(error)) }))
      } finally {
        isBusy = false
      }
    }
    const timer = setInterval(look, EVERY_MS)
    return () => {
      clearInterval(timer)
      controller.abort()
    }
    // A new first page of the same question changes nothing that is under way.
  }, [start === undefined, key])

  return live.key === key ? live : NOTHING
}

/** How many of the rows that an answer left out were never seen: the others are its overlap with the answers before. */
export function missedBy({ data, left_out: leftOut = 0 }: UsageRequests, since: string, seen: Seen): number {
  if (leftOut === 0) return 0
  const here = new Set(data.map(({ id }) => id))
  const oldestMs = Math.min(...data.map(({ recorded_at: at }) => Date.parse(at)))
  const known = [...seen].filter(([id, atMs]) => atMs > Date.parse(since) && atMs <= oldestMs && !here.has(id))
  return Math.max(0, leftOut - known.length)
}

/** With these rows, and without those that cannot come again. */
export function seenAfter(seen: Seen, rows: readonly UsageRequest[]): Seen {
  const all = new Map([...seen, ...rows.map(({ id, recorded_at: at }) => [id, Date.parse(at)] as const)])
  const fromMs = newestOf(all) - SEEN_MS
  return new Map([...all].filter(([, atMs]) => atMs >= fromMs))
}

const newestOf = (seen: Seen): number => Math.max(0, ...seen.values())

/** The newest first, each once: what was recorded later may have started earlier. */
export function mergeNewest(fresh: readonly UsageRequest[], known: readonly UsageRequest[]): UsageRequest[] {
  const seen = new Map([...known, ...fresh].map((row) => [row.id, row]))
  return [...seen.values()].sort((a, b) =>
    a.started_at === b.started_at ? (a.id < b.id ? 1 : -1) : a.started_at < b.started_at ? 1 : -1,
  )
}

function mergeNames(before: Names | undefined, now: Names): Names {
  return {
    projects: { ...before?.projects, ...now.projects },
    keys: { ...before?.keys, ...now.keys },
    users: { ...before?.users, ...now.users },
    teams: { ...before?.teams, ...now.teams },
    backends: { ...before?.backends, ...now.backends },
  }
}
