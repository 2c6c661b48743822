// One-off commands of the start-up (cmake, wrangler, pip). Owns running one to its end with a log, a bound and an abort.
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { forEachLine, type LogFile } from './log-file.ts'
import { signalProcess } from './processes.ts'

/** Told of each process that is started, so that none outlives a launcher that is killed. */
export type Adopt = (pid: number, exited: Promise<unknown>) => void

export type CommandOptions = {
  command: string
  args: string[]
  cwd?: string
  env?: Record<string, string | undefined>
  log?: LogFile
  timeoutMs: number
  signal: AbortSignal
  onLine?: (line: string) => void
  adopt?: Adopt
}

/** A command that failed; the message ends in its last lines. */
export class CommandFailed extends Error {
  override name = 'CommandFailed'
}

const LINES_IN_ERROR = 15
const KILL_AFTER_MS = 3_000

/** Runs to the end. @throws CommandFailed, with the last lines of output. */
export async function runCommand(options: CommandOptions): Promise<void> {
  options.signal.throwIfAborted()
  const title = [options.command, ...options.args].join(' ')
  options.log?.write(`$ ${title}`)
  const recent: string[] = []
  const child = spawn(options.command, options.args, {
    cwd: options.cwd,
    env: options.env ?? process.env,
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  const keep = (line: string) => {
    recent.push(line)
    if (recent.length > LINES_IN_ERROR) recent.shift()
    options.log?.write(line)
    options.onLine?.(line)
  }
  forEachLine(child.stdout, keep)
  forEachLine(child.stderr, keep)
  let killTimer: NodeJS.Timeout | undefined
  const kill = () => {
    const { pid } = child
    if (pid === undefined) return
    // Asked first: ninja ends its compilers, which are in process groups of their own, only when it can act.
    signalProcess(pid, 'SIGTERM', true)
    killTimer = setTimeout(() => signalProcess(pid, 'SIGKILL', true), KILL_AFTER_MS)
  }
  const bound = AbortSignal.any([options.signal, AbortSignal.timeout(options.timeoutMs)])
  bound.addEventListener('abort', kill)
  process.on('exit', kill)
  const ended = new Promise<string | undefined>((resolve) => {
    child.on('error', (error) => resolve(error.message))
    child.on('close', (code, signal) => resolve(code === 0 ? undefined : `exit ${code ?? signal}`))
  })
  if (child.pid !== undefined) options.adopt?.(child.pid, ended)
  const outcome = await ended
  bound.removeEventListener('abort', kill)
  process.removeListener('exit', kill)
  clearTimeout(killTimer)
  options.signal.throwIfAborted()
  if (outcome === undefined) return
  const why = bound.aborted ? `took longer than ${options.timeoutMs / 1000} s` : `failed (${outcome})`
  throw new CommandFailed(`${title}\n  ${why}${recent.length > 0 ? `:\n    ${recent.join('\n    ')}` : ''}`)
}

/** The full path of a program on PATH, or undefined. */
export function findProgram(name: string, path: string = process.env.PATH ?? ''): string | undefined {
  for (const folder of path.split(delimiter).filter(Boolean)) {
    const file = join(folder, name)
    try {
      accessSync(file, constants.X_OK)
      return file
    } catch {
      // Not in this folder.
    }
  }
  return undefined
}
