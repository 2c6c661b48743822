// Processes by their id. Owns telling a process from a later one that got the same id, and ending one with its group.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

const POLL_MS = 25

/**
 * A string that only this life of this process has (its start time), or undefined where no such process runs. A zombie
 * counts as not running: it holds nothing any more.
 */
export function processIdentity(pid: number): string | undefined {
  if (!Number.isSafeInteger(pid) || pid <= 1) return undefined
  if (process.platform === 'linux') return linuxIdentity(pid)
  try {
    const line = execFileSync('ps', ['-o', 'stat=,lstart=', '-p', String(pid)], { encoding: 'utf8' }).trim()
    return line === '' || line.startsWith('Z') ? undefined : line.replace(/^\S+\s+/, '')
  } catch {
    return undefined
  }
}

function linuxIdentity(pid: number): string | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return undefined
  }
  // "pid (name) state ppid …": the name may hold spaces and brackets, the fields after its last bracket do not.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [state, startedTicks] = [fields[0], fields[19]]
  return state === 'Z' || state === 'X' ? undefined : startedTicks
}

/** Sends a signal to the process, or with `group` to all of its group. Returns whether there was someone to get it. */
export function signalProcess(pid: number, signal: NodeJS.Signals, group = false): boolean {
  try {
    process.kill(group ? -pid : pid, signal)
    return true
  } catch {
    return false
  }
}

/**
 * Asks a process to end, and kills its group where it has not within `graceMs`. Does nothing where the id now belongs to
 * another process. For processes that are not our children, whose exit nobody reports to us.
 */
export async function endProcess(
  pid: number,
  identity: string,
  signal: NodeJS.Signals,
  graceMs: number,
): Promise<void> {
  const isSame = () => processIdentity(pid) === identity
  if (!isSame()) return
  signalProcess(pid, signal)
  const until = performance.now() + graceMs
  while (isSame() && performance.now() < until) await sleep(POLL_MS)
  if (isSame()) signalProcess(pid, 'SIGKILL', true) || signalProcess(pid, 'SIGKILL')
  while (isSame() && performance.now() < until + graceMs) await sleep(POLL_MS)
}
