// The newest requests as they come. Owns asking the gateway again for what was recorded since, and putting rows together without
// showing one twice.
import { useEffect, useRef, useState } from 'preact/hooks'
import { type ApiQuery, api } from '../../app/api.ts'
import type { Names, UsageRequest, UsageRequests } from '../../app/wire.ts'

const EVERY_MS = 1_500
const ROWS = 100
/** What a page still draws without a stutter; older ones are found by their range. */
const KEPT_MAX = 500

type Live = { key: string; rows: UsageRequest[]; names: Names | undefined; error: Error | undefined }
const NOTHING: Live = { key: '', rows: [], names: undefined, error: undefined }

/**
 * @param start the first page; undefined: not live
 * @param key what is asked for: with another one it begins anew
 */
export function useLive(start: UsageRequests | undefined, key: string, query: ApiQuery): Live {
  const [live, setLive] = useState<Live>(NOTHING)
  const since = useRef<string | undefined>(undefined)
  const asked = useRef(query)
  asked.current = query

  useEffect(() => {
    if (start === undefined) return setLive(NOTHING)
    since.current = start.since
    setLive({ ...NOTHING, key })
    const controller = new AbortController()
    let isBusy = false
    const look = async () => {
      if (isBusy || document.visibilityState !== 'visible') return
      isBusy = true
      try {
        const { from: _, to: __, ...rest } = asked.current
        const read = await api.get<UsageRequests>(
          '/usage/requests',
          { ...rest, since: since.current, limit: ROWS },
          controller.signal,
        )
        since.current = read.since
        setLive((before) => ({
          key,
          rows: mergeNewest(read.data, before.key === key ? before.rows : []).slice(0, KEPT_MAX),
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
