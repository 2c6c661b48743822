// A lock file: one holder per path on this machine. Owns taking, recovering from a dead holder, and giving back.
import { linkSync, mkdirSync, readFileSync, rmdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { processIdentity } from './processes.ts'

export type Lock = {
  /** Gives the lock back; synchronous, so that an exit handler can call it. Safe to call twice. */
  release(): void
}

export type LockOptions = {
  /** How long to wait for a live holder, in ms. Default 0. */
  waitMs?: number
  /** Told once, when there is something to wait for. */
  onWait?: (pid: number) => void
  signal?: AbortSignal
}

/** The lock is held by a live process. */
export class LockHeld extends Error {
  override name = 'LockHeld'
  readonly pid: number
  constructor(path: string, pid: number) {
    super(`${path} is held by process ${pid}`)
    this.pid = pid
  }
}

const POLL_MS = 100
/** Recovery takes microseconds; a marker this old belongs to a process that died in it. */
const RECOVERY_STALE_MS = 5_000

type Holder = { pid: number; identity: string }

/** @throws LockHeld when a live process holds it past `waitMs`. */
export async function takeLock(path: string, options: LockOptions = {}): Promise<Lock> {
  const until = performance.now() + (options.waitMs ?? 0)
  let told = false
  for (;;) {
    const content = tryTake(path)
    if (content !== undefined) return { release: () => release(path, content) }
    const holder = readHolder(path)
    if (holder !== undefined && isAlive(holder)) {
      if (performance.now() >= until) throw new LockHeld(path, holder.pid)
      if (!told) options.onWait?.(holder.pid)
      told = true
      await sleep(POLL_MS, undefined, options.signal && { signal: options.signal })
    } else if (!recover(path)) await sleep(POLL_MS)
  }
}

/** The content appears together with the name (a link to a finished file): no one ever reads half a lock. */
function tryTake(path: string): string | undefined {
  const content = JSON.stringify({ pid: process.pid, identity: processIdentity(process.pid) ?? '' })
  const draft = `${path}.${process.pid}`
  writeFileSync(draft, content, { mode: 0o600 })
  try {
    linkSync(draft, path)
    return content
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return undefined
    throw error
  } finally {
    rmSync(draft, { force: true })
  }
}

/** Removes the lock of a dead holder. One process at a time, or the second would remove the lock the first then took. */
function recover(path: string): boolean {
  const marker = `${path}.recovery`
  try {
    mkdirSync(marker)
  } catch {
    if (ageMs(marker) > RECOVERY_STALE_MS) rmSync(marker, { recursive: true, force: true })
    return false
  }
  try {
    const holder = readHolder(path)
    if (holder === undefined || !isAlive(holder)) rmSync(path, { force: true })
    return true
  } finally {
    rmdirSync(marker)
  }
}

function release(path: string, content: string): void {
  try {
    if (readFileSync(path, 'utf8') === content) rmSync(path, { force: true })
  } catch {
    // Already gone: then there is nothing to give back.
  }
}

function isAlive(holder: Holder): boolean {
  return processIdentity(holder.pid) === holder.identity
}

function readHolder(path: string): Holder | undefined {
  try {
    const { pid, identity } = JSON.parse(readFileSync(path, 'utf8')) as Partial<Holder>
    return typeof pid === 'number' && typeof identity === 'string' ? { pid, identity } : undefined
  } catch {
    return undefined
  }
}

function ageMs(path: string): number {
  try {
    return Date.now() - statSync(path).mtimeMs
  } catch {
    return 0
  }
}
