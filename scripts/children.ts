// The launcher's child processes. Owns starting one with its log, watching it, ending it, and the record that lets a
// later start end what a killed launcher left. Restarting is supervisor.ts; what the children do is theirs.
import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Inheritable } from './listening-socket.ts'
import { forEachLine, LogFile } from './log-file.ts'
import { endProcess, processIdentity, signalProcess } from './processes.ts'

export type Exit = { code: number | undefined; signal: string | undefined }

/** A process that is up. */
export type Running = {
  name: string
  pid: number
  exited: Promise<Exit>
  /** Its last log lines, oldest first. */
  recent(): string[]
  /** Asks it to end, kills it after a grace, resolves when it is gone. Called again, the shorter grace counts. */
  stop(graceMs?: number): Promise<void>
}

export type ChildSpec = {
  name: string
  command: string
  args: string[]
  env: Record<string, string | undefined>
  cwd?: string
  /** How long it may take to end after SIGTERM. */
  stopGraceMs: number
  /** Gets standard output line by line; standard error goes to the log alone. */
  onLine?: (line: string) => void
  /** Its descriptor `INHERITED_FD`. */
  inherits?: Inheritable
}

/** The first one after standard input, output and error. */
export const INHERITED_FD = 3

type Recorded = { name: string; pid: number; identity: string; signal: NodeJS.Signals }

const LEFT_OVER_GRACE_MS = 5_000
/** It has nothing to do at that time; it is waited for so that no process is left when we end. */
const GUARDIAN_EXIT_MS = 1_000
/** Keeps a guardian that cannot live from being started in a tight loop. */
const GUARDIAN_RESTART_MS = 200
/** Bounds the wait for a dead child's last lines where another process still holds its pipe. */
const LAST_LINES_WAIT_MS = 500

/** All children of one launcher. */
export class Children {
  readonly #logDir: string
  readonly #recordPath: string
  readonly #onLog: (name: string, line: string) => void
  #guardian: ChildProcess
  #closed = false
  readonly #alive = new Map<number, Recorded>()

  /**
   * @param runDir where the record of running children is kept
   * @param onLog gets every log line of every child
   */
  constructor(runDir: string, logDir: string, onLog: (name: string, line: string) => void) {
    this.#logDir = logDir
    this.#recordPath = join(runDir, 'children.json')
    this.#onLog = onLog
    this.#guardian = this.#startGuardian()
  }

  #startGuardian(): ChildProcess {
    const script = join(import.meta.dirname, 'guardian.ts')
    // In a session of its own: a Ctrl-C in the terminal or a kill of our group must not reach it.
    const guardian = spawn(process.execPath, [script], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
    guardian.on('error', () => {})
    guardian.stdin?.on('error', () => {})
    guardian.once('exit', () => {
      if (this.#closed) return
      // Somebody killed it: without one, our own death would leave everything running.
      setTimeout(() => {
        if (this.#closed) return
        this.#guardian = this.#startGuardian()
        for (const { pid, signal } of this.#alive.values()) this.#tell(`add ${pid} ${signal}`)
      }, GUARDIAN_RESTART_MS).unref()
    })
    guardian.unref()
    return guardian
  }

  /** Ends what an earlier launcher on this folder left behind; to be called while holding the folder's lock. */
  static async endLeftOvers(runDir: string): Promise<string[]> {
    const path = join(runDir, 'children.json')
    let recorded: Recorded[]
    try {
      recorded = JSON.parse(readFileSync(path, 'utf8')) as Recorded[]
    } catch {
      return []
    }
    const left = recorded.filter((entry) => processIdentity(entry.pid) === entry.identity)
    for (const entry of left.reverse()) await endProcess(entry.pid, entry.identity, entry.signal, LEFT_OVER_GRACE_MS)
    writeFileSync(path, '[]')
    return left.map((entry) => entry.name)
  }

  log(name: string): LogFile {
    return new LogFile(join(this.#logDir, `${name}.log`))
  }

  /** Starts a process. It has a process group of its own, so that only we decide in which order the parts end. */
  start(spec: ChildSpec): Running {
    const log = this.log(spec.name)
    const child = spawn(spec.command, spec.args, {
      cwd: spec.cwd,
      env: spec.env,
      // By its number and not as a handle: a number is only given on, and nothing here ever accepts from it.
      stdio: ['ignore', 'pipe', 'pipe', ...(spec.inherits === undefined ? [] : [spec.inherits.fd])],
      detached: true,
    }) as ChildProcessByStdio<null, Readable, Readable>
    const keep = (line: string) => {
      log.write(line)
      this.#onLog(spec.name, line)
    }
    forEachLine(child.stdout, (line) => {
      keep(line)
      spec.onLine?.(line)
    })
    forEachLine(child.stderr, keep)
    const pid = child.pid
    const exited = new Promise<Exit>((resolve) => {
      child.on('error', (error) => {
        keep(`cannot start ${spec.command}: ${error.message}`)
        resolve({ code: undefined, signal: undefined })
      })
      child.on('exit', (code, signal) => {
        // Whatever it started and did not end itself (an engine of a killed agent) goes with it.
        if (pid !== undefined) signalProcess(pid, 'SIGKILL', true)
        const exit = { code: code ?? undefined, signal: signal ?? undefined }
        // `close` follows when the pipes are empty: the last log lines are in by then.
        child.on('close', () => resolve(exit))
        setTimeout(() => resolve(exit), LAST_LINES_WAIT_MS).unref()
      })
    })
    if (pid !== undefined) this.adopt({ name: spec.name, pid, signal: 'SIGTERM', exited })
    void exited.then(() => log.close())
    let killAtMs = Number.POSITIVE_INFINITY
    let timer: NodeJS.Timeout | undefined
    const stop = async (graceMs = spec.stopGraceMs) => {
      if (pid === undefined) return
      if (killAtMs === Number.POSITIVE_INFINITY) child.kill('SIGTERM')
      if (performance.now() + graceMs < killAtMs) {
        killAtMs = performance.now() + graceMs
        clearTimeout(timer)
        timer = setTimeout(() => signalProcess(pid, 'SIGKILL', true), graceMs)
      }
      await exited
      clearTimeout(timer)
    }
    return {
      name: spec.name,
      pid: pid ?? 0,
      exited,
      recent: () => log.recent(),
      stop,
    }
  }

  /** Puts a process that something else started under the guardian and into the record. */
  adopt(child: { name: string; pid: number; signal: NodeJS.Signals; exited: Promise<unknown> }): void {
    const identity = processIdentity(child.pid)
    if (identity === undefined) return
    this.#alive.set(child.pid, { name: child.name, pid: child.pid, identity, signal: child.signal })
    this.#tell(`add ${child.pid} ${child.signal}`)
    this.#record()
    const gone = child.exited.catch(() => {})
    void gone.then(() => {
      this.#alive.delete(child.pid)
      this.#tell(`remove ${child.pid}`)
      this.#record()
    })
  }

  /** Kills all that still runs, without waiting: for the exit handler and a second Ctrl-C. */
  killAll(): void {
    for (const { name, pid } of [...this.#alive.values()].reverse()) {
      // Postgres' children only end with it when it is told so: SIGQUIT is its immediate shutdown.
      if (name === 'postgres') signalProcess(pid, 'SIGQUIT')
      else signalProcess(pid, 'SIGKILL', true)
    }
  }

  /** Process id of the guardian of now. */
  guardianPid(): number | undefined {
    return this.#guardian.pid
  }

  /** Lets the guardian go and waits for it; nothing may be running any more. */
  async close(): Promise<void> {
    this.#closed = true
    if (this.#guardian.exitCode !== null || this.#guardian.signalCode !== null) return
    this.#guardian.ref()
    const gone = new Promise((resolve) => this.#guardian.once('exit', resolve))
    this.#guardian.stdin?.end()
    await Promise.race([gone, sleep(GUARDIAN_EXIT_MS)])
  }

  #tell(line: string): void {
    this.#guardian.stdin?.write(`${line}\n`)
  }

  #record(): void {
    try {
      const draft = `${this.#recordPath}.new`
      writeFileSync(draft, JSON.stringify([...this.#alive.values()]), { mode: 0o600 })
      renameSync(draft, this.#recordPath)
    } catch {
      // The record only serves the case that both we and the guardian are killed.
    }
  }
}

/** One sentence and the last log lines of a process that ended when it should not have. */
export function describeExit(name: string, exit: Exit, recent: string[]): string {
  const how = exit.signal !== undefined ? `was killed by ${exit.signal}` : `ended with code ${exit.code ?? 'unknown'}`
  const lines =
    recent.length === 0 ? ' without a word' : `; its last lines:\n${recent.map((l) => `    ${l}`).join('\n')}`
  return `${name} ${how}${lines}`
}
