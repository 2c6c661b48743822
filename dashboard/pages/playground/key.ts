// The key that the playground calls with. Owns its life: made on demand for an hour, or pasted; kept in this page's memory alone, and
// revoked when the page is left. A pasted key is only forgotten.
import { useEffect, useRef, useState } from 'preact/hooks'
import { api, csrfToken, urlOf } from '../../app/api.ts'
import { orgId } from '../../app/session.ts'
import type { MadeKey } from '../../app/wire.ts'

const LIFE_MS = 3_600_000

export type PlaygroundKey = {
  text: string
  /** Of keys made here; pasted ones may be of another organisation. */
  made: { id: string; org: string; projectId: string; endsAtMs: number } | undefined
}

export type KeyControl = {
  current: PlaygroundKey | undefined
  /** @throws ApiError */
  make: (projectId: string) => Promise<void>
  paste: (text: string) => void
  /** Revokes what was made here. */
  end: () => void
}

export function useKey(): KeyControl {
  const [current, setCurrent] = useState<PlaygroundKey | undefined>()
  const held = useRef<PlaygroundKey | undefined>(undefined)
  const hold = (key: PlaygroundKey | undefined) => {
    held.current = key
    setCurrent(key)
  }
  const end = () => {
    revoke(held.current)
    hold(undefined)
  }
  const org = orgId.value

  useEffect(() => {
    const leave = () => revoke(held.current)
    // A closed tab has no time for an answer; the request outlives it.
    window.addEventListener('pagehide', leave)
    return () => {
      window.removeEventListener('pagehide', leave)
      leave()
      held.current = undefined
    }
  }, [])
  useEffect(() => {
    // Another organisation was chosen: its usage is not this key's.
    if (held.current?.made !== undefined && held.current.made.org !== org) end()
  }, [org])

  return {
    current,
    make: async (projectId) => {
      if (org === undefined) return
      const endsAtMs = Date.now() + LIFE_MS
      const made = await api.post<MadeKey>(`/organisations/${org}/keys`, {
        project_id: projectId,
        name: 'Playground',
        routes: ['chat', 'models'],
        expires_at: new Date(endsAtMs).toISOString(),
      })
      revoke(held.current)
      hold({ text: made.key, made: { id: made.id, org, projectId, endsAtMs } })
    },
    paste: (text) => {
      revoke(held.current)
      hold({ text, made: undefined })
    },
    end,
  }
}

/** Nobody waits for it: a key that could not be revoked ends by itself within the hour. */
function revoke(key: PlaygroundKey | undefined): void {
  if (key?.made === undefined) return
  fetch(urlOf(`/organisations/${key.made.org}/keys/${key.made.id}`), {
    method: 'DELETE',
    keepalive: true,
    credentials: 'same-origin',
    headers: csrfToken.value === undefined ? {} : { 'x-penstock-csrf': csrfToken.value },
  }).catch(() => undefined)
}
