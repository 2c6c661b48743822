// The gateway as a process: workerd on a generated configuration. Owns writing that configuration and knowing when the
// gateway answers; what it says is workerd-config.ts.
import { mkdirSync } from 'node:fs'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { createServer, isIPv6 } from 'node:net'
import { dirname, join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Children, describeExit, INHERITED_FD, type Running } from './children.ts'
import type { DataFolder } from './data-folder.ts'
import type { ListeningSocket } from './listening-socket.ts'
import { LOOPBACK } from './options.ts'
import type { Secrets } from './secrets.ts'
import { SOCKET_NAME, workerdConfig } from './workerd-config.ts'

export type GatewayOptions = {
  /** The checkout. */
  root: string
  folder: DataFolder
  bundleDir: string
  /** The built dashboard. Default: none. */
  dashboardDir?: string
  port: number
  /** IP address to listen on. Default: loopback. */
  host?: string
  databaseUrl: string
  secrets: Secrets
  /** By which the gateway is told to make room for its next process. Default: it never is. */
  handoverKey?: string
  /** Listens on `port` already, and stays open over restarts. Default: the gateway opens its own. */
  socket?: ListeningSocket
}

const HEALTH_TIMEOUT_MS = 20_000
const HEALTH_POLL_MS = 25
const HEALTH_REQUEST_MS = 2_000
/**
 * Open streams may end within this after a stop; the agent's own drain is shorter. Where a restart could not hand the objects over, new
 * connections wait as long, so it is far below what clients wait for an answer to begin (30 s).
 */
const STOP_GRACE_MS = 10_000
const ENTRY = 'index.js'

/** Writes the configuration; to be called once per start of the launcher. */
export async function writeGatewayConfig(options: GatewayOptions): Promise<void> {
  const { folder, bundleDir } = options
  const names = (await readdir(bundleDir)).filter((name) => /\.(m?js|wasm|txt|html|bin)$/.test(name))
  // The entry first: workerd takes the first module as the main one.
  names.sort((left, right) => Number(right === ENTRY) - Number(left === ENTRY) || left.localeCompare(right))
  const text = workerdConfig({
    wranglerToml: await readFile(join(options.root, 'wrangler.toml'), 'utf8'),
    modules: names.map((name) => ({ name, path: relative(dirname(folder.configPath), join(bundleDir, name)) })),
    secrets: Object.keys(environmentOf(options)),
    storageDir: folder.objectsDir,
    address: authority(options.host ?? LOOPBACK, options.port),
    ...(options.dashboardDir !== undefined && { assetsDir: options.dashboardDir }),
  })
  mkdirSync(folder.objectsDir, { recursive: true, mode: 0o700 })
  await writeFile(folder.configPath, text, { mode: 0o600 })
}

/** Starts workerd and resolves when /health answers. @throws Error with its last lines where it does not */
export async function startGateway(options: GatewayOptions, children: Children, signal: AbortSignal): Promise<Running> {
  const running = children.start({
    name: 'gateway',
    command: workerdBinary(options.root),
    args: [
      'serve',
      options.folder.configPath,
      ...(options.socket === undefined ? [] : ['--socket-fd', `${SOCKET_NAME}=${INHERITED_FD}`]),
    ],
    // Nothing of the user's own environment goes into the gateway, only what its configuration names.
    env: { ...environmentOf(options), PATH: process.env.PATH },
    cwd: options.folder.dir,
    stopGraceMs: STOP_GRACE_MS,
    ...(options.socket !== undefined && { inherits: options.socket.handle }),
  })
  try {
    await Promise.race([
      waitUntilHealthy(`${localUrl(options.host ?? LOOPBACK, options.port)}/health`, signal),
      running.exited.then((exit) => {
        throw new Error(describeExit('the gateway (workerd)', exit, running.recent()))
      }),
    ])
    return running
  } catch (error) {
    await running.stop()
    throw error
  }
}

const authority = (host: string, port: number): string => (isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`)

/** Where this machine reaches a gateway that listens on `host`. */
export function localUrl(host: string, port: number): string {
  const reachable = host === '0.0.0.0' ? LOOPBACK : host === '::' ? '::1' : host
  return `http://${authority(reachable, port)}`
}

/** Fails early and clearly where the port is taken. @throws Error naming the port and the option */
export async function requireFreePort(port: number, host: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const probe = createServer()
    probe.on('error', (error: NodeJS.ErrnoException) => {
      const why = error.code === 'EADDRINUSE' ? 'is in use' : `cannot be used (${error.code ?? error.message})`
      reject(new Error(`port ${port} on ${host} ${why}; choose another one with --port`))
    })
    probe.listen({ port, host, exclusive: true }, () => probe.close(() => resolve()))
  })
}

/** The workerd that wrangler was released with: the test tools bring an older one of their own. */
export function workerdBinary(root: string): string {
  const fromRoot = createRequire(join(root, 'package.json'))
  const fromWrangler = createRequire(fromRoot.resolve('wrangler/package.json'))
  const found = fromWrangler('workerd') as { default: string }
  return found.default
}

function environmentOf({ secrets, databaseUrl, handoverKey }: GatewayOptions): Record<string, string> {
  return { ...secrets, DATABASE_URL: databaseUrl, ...(handoverKey !== undefined && { HANDOVER_KEY: handoverKey }) }
}

async function waitUntilHealthy(url: string, signal: AbortSignal): Promise<void> {
  const until = performance.now() + HEALTH_TIMEOUT_MS
  for (;;) {
    signal.throwIfAborted()
    const bound = AbortSignal.any([signal, AbortSignal.timeout(HEALTH_REQUEST_MS)])
    const answer = await fetch(url, { signal: bound, headers: { connection: 'close' } }).catch(() => undefined)
    await answer?.body?.cancel()
    if (answer?.ok === true) return
    if (performance.now() > until) {
      const said = answer === undefined ? 'nothing answers' : `it answers ${answer.status}`
      throw new Error(`the gateway did not become healthy within ${HEALTH_TIMEOUT_MS / 1000} s: ${said} on ${url}`)
    }
    await sleep(HEALTH_POLL_MS, undefined, { signal })
  }
}
