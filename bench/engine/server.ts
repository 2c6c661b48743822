// The real engine process over its socket, for the bench and the soak. Owns starting and ending it, and sequences as promises;
// frames and supervision are backends/engine.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { EngineConnection, SequenceEnd, SequenceParameters } from '../../backends/engine/client.ts'
import { GREEDY } from '../../backends/engine/greedy.ts'
import { createSocketDirectory } from '../../backends/engine/socket-path.ts'
import { type EngineOptions, EngineSupervisor } from '../../backends/engine/spawn.ts'
import { createLog } from '../../backends/log.ts'
import { memoryOf } from './machine.ts'

/** Loading takes under a second; a sanitized build under load takes its time. */
const READY_TIMEOUT_MS = 120_000

export type Server = {
  connection: EngineConnection
  /** Resident bytes; undefined where the system does not tell. */
  residentBytes: () => number | undefined
  stop: () => Promise<void>
}

/** @throws Error with the engine's last words where it does not become ready */
export async function startServer(options: Omit<EngineOptions, 'sockets'>): Promise<Server> {
  const directory = await mkdtemp(join(tmpdir(), 'penstock-engine-'))
  const sockets = createSocketDirectory(directory)
  const log = createLog((line) => process.stderr.write(`${line}\n`), performance.now.bind(performance))
  const quiet: typeof log = (level, event, fields) => level !== 'info' && log(level, event, fields)
  const supervisor = new EngineSupervisor({ ...options, sockets }, quiet)
  const stop = async () => {
    await supervisor.stop()
    await rm(directory, { recursive: true, force: true })
  }
  const ready = new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('the engine did not become ready')), READY_TIMEOUT_MS)
    const settle = (act: () => void) => {
      clearTimeout(timer)
      act()
    }
    supervisor.once('ready', () => settle(resolve))
    supervisor.once('failed', (message) => settle(() => reject(new Error(message))))
    supervisor.once('down', (reason) => settle(() => reject(new Error(reason))))
  })
  void supervisor.run()
  try {
    await ready
    const { connection, pid } = supervisor
    if (connection === undefined || pid === undefined) throw new Error('the engine ended as soon as it was ready')
    return { connection, residentBytes: () => memoryOf(pid), stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Greedy, with credit for everything. */
export function greedy(prompt: number[], maxNewTokens: number): SequenceParameters {
  return {
    prompt,
    maxNewTokens,
    creditTokens: maxNewTokens,
    ...GREEDY,
    priority: 0,
    deadlineMs: 0,
    tenant: 0n,
    salt: 0n,
  }
}

export type Outcome = { end: SequenceEnd; firstTokenMs: number | undefined; tokens: number }

/** Runs one sequence to its end. */
export function complete(connection: EngineConnection, parameters: SequenceParameters): Promise<Outcome> {
  const startMs = performance.now()
  let firstTokenMs: number | undefined
  let tokens = 0
  return new Promise((resolve) => {
    connection.submit(parameters, {
      token: () => {
        firstTokenMs ??= performance.now() - startMs
        tokens++
      },
      end: (end) => resolve({ end, firstTokenMs, tokens }),
    })
  })
}
