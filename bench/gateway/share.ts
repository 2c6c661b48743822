// How much of the machine the run itself had. Owns adding up the processes it started; what else was busy is the rest.
import { readdirSync, readFileSync } from 'node:fs'
import { busyClock, cpuSecondsOf } from '../engine/machine.ts'

/** Beyond this other processes slow the figures down by more than the rounds differ. */
export const FOREIGN_SHARE_MAX = 0.1

/** CPU time of this process and everything below it; undefined where the system does not tell. */
function treeSeconds(): number | undefined {
  let names: string[]
  try {
    names = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  } catch {
    return undefined
  }
  const children = new Map<number, number[]>()
  const ended = new Map<number, number>()
  for (const name of names) {
    const pid = Number(name)
    const fields = statOf(pid)
    if (fields === undefined) continue
    const parent = Number(fields[1])
    children.set(parent, [...(children.get(parent) ?? []), pid])
    // Of children that are gone and waited for: Postgres makes a process per connection.
    ended.set(pid, (Number(fields[13]) + Number(fields[14])) / 100)
  }
  let sum = 0
  const walk = (pid: number) => {
    sum += (cpuSecondsOf(pid) ?? 0) + (ended.get(pid) ?? 0)
    for (const child of children.get(pid) ?? []) walk(child)
  }
  walk(process.pid)
  return sum
}

/** Fields of /proc/PID/stat from the third on, which is the state. */
function statOf(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')
  } catch {
    return undefined
  }
}

/** Starts the clock; the answer says which share of all cores others have used since. */
export function watchOthers(cores: number): () => number | undefined {
  const busy = busyClock()
  const own = treeSeconds()
  return () => {
    const [busyNow, ownNow] = [busyClock(), treeSeconds()]
    if (busy === undefined || own === undefined || busyNow === undefined || ownNow === undefined) return undefined
    const foreignSeconds = busyNow.busySeconds - busy.busySeconds - (ownNow - own)
    const elapsedSeconds = (busyNow.elapsedMs - busy.elapsedMs) / 1000
    return Math.max(0, foreignSeconds / elapsedSeconds / cores)
  }
}
