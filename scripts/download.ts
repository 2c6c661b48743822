// One file over HTTP. Owns resuming, the bounds on waiting, and the part file; what the bytes must be is the caller's.
import { createWriteStream } from 'node:fs'
import { readFile, rm, stat, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'

export type DownloadOptions = {
  url: string
  /** Grows here; kept when the download breaks off, so that the next try goes on from its end. */
  partPath: string
  /** The exact size; a server that offers another one is refused at once. */
  bytes: number
  signal: AbortSignal
  onBytes?: (received: number) => void
  /** Default: TIMEOUTS. */
  timeouts?: { firstByteMs: number; idleMs: number }
}

/** The server could not be reached, refused, or broke off too often: another source may do better. */
export class DownloadFailed extends Error {
  override name = 'DownloadFailed'
}

/** A host that cannot be reached costs the first of these once; a line that stalls costs the second. */
const TIMEOUTS = { firstByteMs: 5_000, idleMs: 20_000 }
/** Tries in a row that may end without a single new byte. */
const FRUITLESS_TRIES_MAX = 2
const RETRY_DELAY_MS = 500
/** A server that cuts the line all the time still ends. */
const TRIES_MAX = 50

/**
 * Fetches `url` into `partPath`, going on from what is there already.
 * @throws DownloadFailed when the source does not deliver; other errors are this machine's (no space, no permission)
 */
export async function download(options: DownloadOptions): Promise<void> {
  let fruitless = 0
  for (let tries = 1; ; tries++) {
    const before = await sizeOf(options.partPath)
    if (before === options.bytes) return
    try {
      await fetchOnce(options, before > options.bytes ? 0 : before)
    } catch (error) {
      options.signal.throwIfAborted()
      if (!(error instanceof DownloadFailed)) throw error
      fruitless = (await sizeOf(options.partPath)) > before ? 0 : fruitless + 1
      const reached = error.cause === 'reached'
      if (!reached || fruitless >= FRUITLESS_TRIES_MAX || tries >= TRIES_MAX) throw error
      await sleep(RETRY_DELAY_MS, undefined, { signal: options.signal })
    }
  }
}

async function fetchOnce(options: DownloadOptions, offset: number): Promise<void> {
  const { url, partPath, bytes } = options
  const timeouts = options.timeouts ?? TIMEOUTS
  const etagPath = `${partPath}.etag`
  const etag = offset > 0 ? await readFile(etagPath, 'utf8').catch(() => undefined) : undefined
  const headers: Record<string, string> = { 'accept-encoding': 'identity' }
  if (offset > 0 && etag !== undefined) {
    headers.range = `bytes=${offset}-`
    headers['if-range'] = etag
  }
  const stalled = new AbortController()
  let timer = setTimeout(() => stalled.abort(), timeouts.firstByteMs)
  let reached = false
  try {
    const response = await fetch(url, { headers, signal: AbortSignal.any([options.signal, stalled.signal]) })
    clearTimeout(timer)
    reached = true
    const resumed = response.status === 206 && startsAt(response.headers.get('content-range'), offset)
    if (!resumed && response.status !== 200) {
      await response.body?.cancel()
      // 416: our part does not fit the server's file; from the start then.
      if (response.status === 416) await rm(partPath, { force: true })
      throw new DownloadFailed(`the server answered ${response.status}`, { cause: response.status >= 500 && 'reached' })
    }
    const start = resumed ? offset : 0
    const length = Number(response.headers.get('content-length') ?? Number.NaN)
    if (Number.isFinite(length) && start + length !== bytes) {
      await response.body?.cancel()
      throw new DownloadFailed(`the server offers ${start + length} bytes instead of ${bytes}`)
    }
    await writeFile(etagPath, strongTag(response.headers.get('etag')))
    if (response.body === null) throw new DownloadFailed('the server sent no content')
    const file = createWriteStream(partPath, { flags: resumed ? 'a' : 'w', mode: 0o600 })
    const written = new Promise<void>((resolve, reject) => file.on('finish', resolve).on('error', reject))
    written.catch(() => {})
    let received = start
    const waitForData = () => {
      clearTimeout(timer)
      timer = setTimeout(() => stalled.abort(), timeouts.idleMs)
    }
    try {
      waitForData()
      for await (const chunk of response.body) {
        received += chunk.byteLength
        if (received > bytes) throw new DownloadFailed(`the server sends more than ${bytes} bytes`)
        if (!file.write(chunk))
          await Promise.race([new Promise<void>((resolve) => file.once('drain', () => resolve())), written])
        options.onBytes?.(received)
        waitForData()
      }
    } finally {
      file.end()
      await written
    }
    if (received < bytes) throw new DownloadFailed(`the line broke after ${received} bytes`, { cause: 'reached' })
  } catch (error) {
    options.signal.throwIfAborted()
    if (error instanceof DownloadFailed || isLocal(error)) throw error
    if (stalled.signal.aborted) {
      const waited = reached ? timeouts.idleMs : timeouts.firstByteMs
      throw new DownloadFailed(`no answer within ${waited / 1000} s`, reached ? { cause: 'reached' } : {})
    }
    throw new DownloadFailed(reasonOf(error), reached ? { cause: 'reached' } : {})
  } finally {
    clearTimeout(timer)
    if (!reached) stalled.abort()
  }
}

/** If-Range takes strong tags only; without one the next try starts from the beginning. */
function strongTag(etag: string | null): string {
  return etag === null || etag.startsWith('W/') ? '' : etag
}

function startsAt(contentRange: string | null, offset: number): boolean {
  return contentRange?.startsWith(`bytes ${offset}-`) === true
}

/** Errors of our own disk carry a syscall and a path; those of the network do not carry a path. */
function isLocal(error: unknown): boolean {
  return error instanceof Error && 'path' in error && 'syscall' in error
    ? true
    : (error as NodeJS.ErrnoException).code === 'ENOSPC'
}

function reasonOf(error: unknown): string {
  const cause = (error as Error).cause
  return cause instanceof Error ? cause.message : (error as Error).message
}

async function sizeOf(path: string): Promise<number> {
  return stat(path).then(
    (found) => found.size,
    () => 0,
  )
}
