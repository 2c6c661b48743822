// What a figure was measured on, and who else was at work meanwhile. Owns reading the system's counters.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { availableParallelism, cpus, totalmem } from 'node:os'

/** Units of /proc/stat and /proc/PID/stat: 100 per second on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100

/** One line: processor, cores, memory. */
export function machineName(): string {
  const model = cpus()[0]?.model.trim() ?? 'unknown processor'
  return `${model}, ${availableParallelism()} cores, ${Math.round(totalmem() / 2 ** 30)} GiB`
}

/** Short hash, `+` behind it where files differ from it; undefined outside a checkout. */
export function commitName(root: string): string | undefined {
  try {
    const git = (...args: string[]) =>
      execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
    return git('rev-parse', '--short', 'HEAD').trim() + (git('status', '--porcelain').trim() === '' ? '' : '+')
  } catch {
    return undefined
  }
}

/** User and system time of a process so far; undefined where the system does not tell. */
export function cpuSecondsOf(pid: number): number | undefined {
  const text = readProc(`/proc/${pid}/stat`)
  // The name in parentheses may hold anything; the numbers begin behind it, with field 3.
  const fields = text?.slice(text.lastIndexOf(')') + 2).split(' ')
  return fields === undefined ? undefined : (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
}

export type BusyClock = { busySeconds: number; elapsedMs: number }

/** Time that all cores together have spent working; undefined where the system does not tell. */
export function busyClock(): BusyClock | undefined {
  const line = readProc('/proc/stat')?.split('\n')[0]
  if (line === undefined) return undefined
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = line.split(/\s+/).slice(1).map(Number)
  return { busySeconds: (user + nice + system + irq + softirq) / TICKS_PER_SECOND, elapsedMs: performance.now() }
}

function readProc(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

/** Resident bytes of a process; undefined where the system does not tell. */
export function memoryOf(pid: number): number | undefined {
  const match = /^VmRSS:\s+(\d+) kB/m.exec(readProc(`/proc/${pid}/status`) ?? '')
  return match === null ? undefined : Number(match[1]) * 1024
}
