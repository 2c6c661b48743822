// The fleet as routing sees it. Owns the snapshot's shape, and this isolate's copy of it: its age, and what this
// isolate knows better (frames and changes of caches that came with responses; the latter are told.ts). The truth, and who holds
// which prompt's beginning, is the Fleet object's.
import type { CapacityFrame } from '../../protocol/capacity.ts'
import type { KvNews, KvSeen } from '../../protocol/report.ts'
import type { Env } from '../env.ts'
import { ToldChunks } from './told.ts'

export type BackendView = {
  backendId: string
  /** Without a trailing slash; paths are appended to it. */
  url: string
  /** RFC 7638 thumbprint of its key: what a grant for another backend is bound to. */
  keyThumbprint: string
  /** Age of the last report when the snapshot was made, by the Fleet object's clock. */
  reportAgeMs: number
  /** One per engine behind this agent. */
  frames: CapacityFrame[]
}

export type FleetSnapshot = {
  staleAfterMs: number
  backends: BackendView[]
  /**
   * Enrolled backends that an object which has just begun has not heard of yet. Absent where it has lived long enough to have
   * heard of all that live.
   */
  awaited?: readonly string[] | undefined
}

/** backendId → how many leading chunks of a prompt its engines hold; backends that hold none are not in it. */
export type PrefixMatches = ReadonlyMap<string, number>

/** What one call of the Fleet object answers. */
export type FleetQuestion = {
  /** Of the prompt, from its beginning (protocol/prefix.ts); empty: none are looked up. */
  chunks: readonly number[]
  wantsSnapshot: boolean
}
export type FleetAnswer = { snapshot?: FleetSnapshot; matches: Map<string, number> }

/** Backends that are told to hold a prompt's beginning: more to choose from make no better choice, and a large answer. */
export const MATCHES_MAX = 256

/** Older than this it is fetched again: reports come each second, so fresher would see nothing new. */
const SNAPSHOT_TTL_MS = 250
/** While one request fetches, others go on with the old copy up to this age instead of fetching too. */
const SNAPSHOT_REUSE_MS = 1000
/** A fetch that has not answered by then counts as failed, for the requests that wait behind it. */
const FETCH_TIMEOUT_MS = 2000
/** Waiting longer for matches would cost a request more than most of them save. */
const MATCHES_TIMEOUT_MS = 100
/** After a failed call matches are not asked for: a Fleet object that is away must not cost each request its wait. */
const MATCHES_PAUSE_MS = 2000

type Copy = { snapshot: FleetSnapshot; takenAtMs: number }

/**
 * This isolate's copy. A promise is never shared between requests: the runtime ends a request's I/O with the request,
 * and another one waiting on it would hang.
 */
export class FleetView {
  #copy: Copy | undefined
  readonly #told = new ToldChunks()
  #fetchingSinceMs: number | undefined
  #matchesPausedUntilMs = Number.NEGATIVE_INFINITY

  /**
   * The snapshot to route by. A Fleet object that does not answer leaves the last copy in force, however old:
   * dispatching to a backend that is gone costs one failed connection, refusing all traffic costs everything.
   */
  async read(env: Env, nowMs: () => number): Promise<FleetSnapshot> {
    return (await this.readFor(env, nowMs, [])).snapshot
  }

  /**
   * The snapshot, and who holds the beginning of a prompt: one call for both, none where the copy is fresh and `chunks` is
   * empty. Of matches that do not come, or come late, only what answers have told is known: they make a good choice better.
   */
  async readFor(
    env: Env,
    nowMs: () => number,
    chunks: readonly number[],
  ): Promise<{ snapshot: FleetSnapshot; matches: PrefixMatches }> {
    const { snapshot, matches } = await this.#read(env, nowMs, chunks)
    return { snapshot, matches: this.#told.correct(matches, chunks, nowMs()) }
  }

  async #read(
    env: Env,
    nowMs: () => number,
    chunks: readonly number[],
  ): Promise<{ snapshot: FleetSnapshot; matches?: PrefixMatches }> {
    const atMs = nowMs()
    const copy = this.#copy
    const ageMs = copy === undefined ? Number.POSITIVE_INFINITY : atMs - copy.takenAtMs
    const asked = atMs >= this.#matchesPausedUntilMs ? chunks : []
    const someoneFetches = this.#fetchingSinceMs !== undefined && atMs - this.#fetchingSinceMs < FETCH_TIMEOUT_MS
    if (copy !== undefined && (ageMs <= SNAPSHOT_TTL_MS || (someoneFetches && ageMs <= SNAPSHOT_REUSE_MS))) {
      if (asked.length === 0) return { snapshot: copy.snapshot }
      try {
        const question = { chunks: asked, wantsSnapshot: false }
        const { matches } = await withTimeout(ask(env, question), MATCHES_TIMEOUT_MS)
        return { snapshot: copy.snapshot, matches }
      } catch {
        this.#matchesPausedUntilMs = nowMs() + MATCHES_PAUSE_MS
        return { snapshot: copy.snapshot }
      }
    }
    this.#fetchingSinceMs = atMs
    // A copy that others may go on with is not worth waiting longer for than for matches.
    const isUsable = asked.length > 0 && ageMs <= SNAPSHOT_REUSE_MS
    try {
      const question = { chunks: asked, wantsSnapshot: true }
      const answer = await withTimeout(ask(env, question), isUsable ? MATCHES_TIMEOUT_MS : FETCH_TIMEOUT_MS)
      if (answer.snapshot === undefined) throw new Error('the fleet object answered without a snapshot')
      const snapshot = withAwaited(answer.snapshot, copy, nowMs())
      this.#copy = { snapshot, takenAtMs: nowMs() }
      return asked.length === 0 ? { snapshot } : { snapshot, matches: answer.matches }
    } catch (error) {
      if (copy === undefined) throw error
      if (asked.length > 0) this.#matchesPausedUntilMs = nowMs() + MATCHES_PAUSE_MS
      // Where it was usable it keeps its age: the next request fetches, and waits as long as that takes.
      if (!isUsable) this.#copy = { snapshot: copy.snapshot, takenAtMs: nowMs() }
      return { snapshot: copy.snapshot }
    } finally {
      this.#fetchingSinceMs = undefined
    }
  }

  /** A frame that came with a response replaces an older one of the same engine life. */
  observe(backendId: string, frame: CapacityFrame): void {
    const backend = this.#copy?.snapshot.backends.find((one) => one.backendId === backendId)
    const isSame = (one: CapacityFrame) =>
      one.model === frame.model && one.engine === frame.engine && one.epoch === frame.epoch
    const index = backend?.frames.findIndex(isSame) ?? -1
    const known = backend?.frames[index]
    if (backend === undefined || known === undefined || known.sequence >= frame.sequence) return
    backend.frames[index] = frame
  }

  /** What a dispatch to this backend says that this isolate has heard of its caches. */
  kvSeen(backendId: string): KvSeen {
    return this.#told.seen(backendId)
  }

  /** Changes of its caches that came with a response. */
  hear(backendId: string, news: KvNews, nowMs: number): void {
    this.#told.hear(backendId, news, nowMs)
  }

  /** Where the copy is one that others went on with, and may lack who has joined since: forces the next read to fetch, and says so. */
  renew(nowMs: number): boolean {
    const isOld = this.#copy !== undefined && nowMs - this.#copy.takenAtMs > SNAPSHOT_TTL_MS
    if (isOld) this.expire()
    return isOld
  }

  /** Forces the next read to fetch: something just turned out not to be as the copy says. */
  expire(): void {
    if (this.#copy !== undefined) this.#copy.takenAtMs = Number.NEGATIVE_INFINITY
  }
}

/**
 * A Fleet object that begins anew knows nobody until the next reports have come. Until then whoever it awaits stays as this
 * isolate has last seen them, and grows stale as anybody who is silent.
 */
function withAwaited(fresh: FleetSnapshot, before: Copy | undefined, nowMs: number): FleetSnapshot {
  const { awaited } = fresh
  if (awaited === undefined || awaited.length === 0 || before === undefined) return fresh
  // A copy that was expired has no age: its backends are as old as their reports.
  const sinceMs = Number.isFinite(before.takenAtMs) ? Math.max(0, nowMs - before.takenAtMs) : 0
  const kept = before.snapshot.backends
    .filter(({ backendId }) => awaited.includes(backendId))
    .map((one) => ({ ...one, reportAgeMs: one.reportAgeMs + sinceMs }))
  return { ...fresh, backends: [...fresh.backends, ...kept] }
}

const ask = async (env: Env, question: FleetQuestion): Promise<FleetAnswer> =>
  await env.FLEET.getByName('default').view(question)

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
