// Calls pip. Owns how it is found, its limits and what its failures mean; pip owns index, proxy and mirror settings, which is
// why it often reaches what a plain download does not.
import { type Adopt, CommandFailed, findProgram, runCommand } from './commands.ts'
import { DownloadFailed } from './download.ts'
import type { LogFile } from './log-file.ts'

export type PipOptions = {
  /** e.g. `['download', '--no-deps', ...]` */
  args: string[]
  /** For pip's temporary files. */
  workDir: string
  log?: LogFile
  signal: AbortSignal
  adopt?: Adopt
}

/** For pip's own waits on the network: an index that cannot be reached costs this much. */
const PIP_TIMEOUT_S = 5
const PIP_TOTAL_MS = 15 * 60_000
const NO_PIP = 'No module named pip'
const LIMITS = ['--timeout', String(PIP_TIMEOUT_S), '--retries', '0', '--no-input', '--disable-pip-version-check']

/**
 * Tries each way to call pip: a Python without the module is common, and then `pip` may belong to another one.
 * @throws DownloadFailed when there is none, or with pip's own reason
 */
export async function runPip(options: PipOptions): Promise<void> {
  const { args, workDir, log, signal, adopt } = options
  const [action = '', ...rest] = args
  for (const pip of pipCommands()) {
    try {
      return await runCommand({
        command: pip.command,
        args: [...pip.args, action, ...LIMITS, ...rest],
        env: { ...process.env, TMPDIR: workDir },
        ...(log && { log }),
        ...(adopt && { adopt }),
        timeoutMs: PIP_TOTAL_MS,
        signal,
      })
    } catch (error) {
      if (!(error instanceof CommandFailed)) throw error
      if (!error.message.includes(NO_PIP)) throw new DownloadFailed(reasonOf(error.message))
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

/** pip's last ERROR line says it best. */
function reasonOf(output: string): string {
  const lines = output.split('\n').map((line) => line.trim())
  const error = lines.findLast((line) => line.startsWith('ERROR:')) ?? lines.at(-1) ?? output
  return `pip: ${error.replace(/^ERROR:\s*/, '')}`
}
