// Ends the launcher's children when the launcher is killed. Runs as a process of its own: its standard input is a pipe
// from the launcher, which the kernel closes however the launcher dies. Lines: `add PID SIGNAL`, `remove PID`.
import { createInterface } from 'node:readline'
import { endProcess, processIdentity } from './processes.ts'

/** What a child gets to end well; the agent uses it to end its engine, Postgres to write its checkpoint. */
const GRACE_MS = 5_000

type Ward = { pid: number; identity: string; signal: NodeJS.Signals }

const wards = new Map<number, Ward>()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})

for await (const line of createInterface(process.stdin)) {
  const [verb, pidText, signal] = line.split(' ')
  const pid = Number(pidText)
  if (verb === 'remove') wards.delete(pid)
  if (verb === 'add') {
    const identity = processIdentity(pid)
    if (identity !== undefined) wards.set(pid, { pid, identity, signal: (signal ?? 'SIGTERM') as NodeJS.Signals })
  }
}
// The launcher starts what others need first, so the newest ends first.
for (const ward of [...wards.values()].reverse()) await endProcess(ward.pid, ward.identity, ward.signal, GRACE_MS)
