// The fleet as routing sees it. Owns the snapshot's shape, and this isolate's copy of it: its age, and what this
// isolate knows better (frames that came with responses). The truth is the Fleet object's.
import type { CapacityFrame } from '../../protocol/capacity.ts'
import type { Env } from '../env.ts'

export type BackendView = {
  backendId: string
  /** Without a trailing slash; paths are appended to it. */
  url: string
  /** Age of the last report when the snapshot was made, by the Fleet object's clock. */
  reportAgeMs: number
  /** One per engine behind this agent. */
  frames: CapacityFrame[]
}

export type FleetSnapshot = { staleAfterMs: number; backends: BackendView[] }

/** Older than this it is fetched again: reports come each second, so fresher would see nothing new. */
const SNAPSHOT_TTL_MS = 250
/** While one request fetches, others go on with the old copy up to this age instead of fetching too. */
const SNAPSHOT_REUSE_MS = 1000
/** A fetch that has not answered by then counts as failed, for the requests that wait behind it. */
const FETCH_TIMEOUT_MS = 2000

type Copy = { snapshot: FleetSnapshot; takenAtMs: number }

/**
 * This isolate's copy. A promise is never shared between requests: the runtime ends a request's I/O with the request,
 * and another one waiting on it would hang.
 */
export class FleetView {
  #copy: Copy | undefined
  #fetchingSinceMs: number | undefined

  /**
   * The snapshot to route by. A Fleet object that does not answer leaves the last copy in force, however old:
   * dispatching to a backend that is gone costs one failed connection, refusing all traffic costs everything.
   */
  async read(env: Env, nowMs: () => number): Promise<FleetSnapshot> {
    const copy = this.#copy
    const atMs = nowMs()
    if (copy !== undefined) {
      const ageMs = atMs - copy.takenAtMs
      const someoneFetches = this.#fetchingSinceMs !== undefined && atMs - this.#fetchingSinceMs < FETCH_TIMEOUT_MS
      if (ageMs <= SNAPSHOT_TTL_MS || (someoneFetches && ageMs <= SNAPSHOT_REUSE_MS)) return copy.snapshot
    }
    this.#fetchingSinceMs = atMs
    try {
      const snapshot = await withTimeout(env.FLEET.getByName('default').snapshot(), FETCH_TIMEOUT_MS)
      this.#copy = { snapshot, takenAtMs: nowMs() }
      return snapshot
    } catch (error) {
      if (copy === undefined) throw error
      this.#copy = { snapshot: copy.snapshot, takenAtMs: nowMs() }
      return copy.snapshot
    } finally {
      this.#fetchingSinceMs = undefined
    }
  }

  /** A frame that came with a response replaces an older one of the same engine life. */
  observe(backendId: string, frame: CapacityFrame): void {
    const backend = this.#copy?.snapshot.backends.find((one) => one.backendId === backendId)
    const index = backend?.frames.findIndex((one) => one.model === frame.model && one.epoch === frame.epoch) ?? -1
    const known = backend?.frames[index]
    if (backend === undefined || known === undefined || known.sequence >= frame.sequence) return
    backend.frames[index] = frame
  }

  /** Forces the next read to fetch: something just turned out not to be as the copy says. */
  expire(): void {
    if (this.#copy !== undefined) this.#copy.takenAtMs = Number.NEGATIVE_INFINITY
  }
}

async function withTimeout<T>(promise: Promise<T>, timeoutMs: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | null = null
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the fleet object did not answer within ${timeoutMs} ms`)), timeoutMs)
  })
  try {
    return await Promise.race([promise, timeout])
  } finally {
    clearTimeout(timer)
  }
}
