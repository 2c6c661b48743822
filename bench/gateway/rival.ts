// What the gateway is measured beside, each as a process of its own: under the same workerd a bare proxy, which is the limit of
// any gateway, and one that writes two rows durably, which is the limit of one that holds money; and Portkey's gateway on Node,
// which is the peer. Owns installing, starting and stopping them.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { runCommand } from '../../scripts/commands.ts'
import { workerdBinary } from '../../scripts/gateway-process.ts'
import { LOOPBACK } from '../../scripts/options.ts'
import { freePort } from '../../scripts/postgres.ts'
import { V8_FLAGS } from '../../scripts/workerd-config.ts'

const ROOT = join(import.meta.dirname, '..', '..')
const PEER_DIR = join(ROOT, 'bench', 'peer')
const PEER_PACKAGE = join(PEER_DIR, 'node_modules', '@portkey-ai', 'gateway')
const INSTALL_TIMEOUT_MS = 300_000
const START_TIMEOUT_MS = 20_000

export type Rival = {
  /** e.g. `Portkey 1.15.2`. */
  name: string
  /** Where chat completions are posted. */
  url: string
  /** Beside the content type. */
  headers: Record<string, string>
  pid: number
  stop: () => Promise<void>
}

/** @param upstreamUrl Base URL up to and with `/v1`. */
export async function startProxy(upstreamUrl: string): Promise<Rival> {
  return startWorker('a bare proxy under workerd', 'proxy.js', upstreamUrl)
}

/** @param upstreamUrl Base URL up to and with `/v1`. */
export async function startDurableProxy(upstreamUrl: string): Promise<Rival> {
  return startWorker('a proxy that writes two rows under workerd', 'durable-proxy.js', upstreamUrl, 'Book')
}

/** @param object Class of the Durable Object that the script has, bound by its name in capitals. */
async function startWorker(name: string, script: string, upstreamUrl: string, object?: string): Promise<Rival> {
  const port = await freePort()
  const dir = await mkdtemp(join(tmpdir(), 'penstock-proxy-'))
  await mkdir(join(dir, 'objects'))
  await writeFile(join(dir, script), await readFile(join(ROOT, 'bench', 'proxy', script), 'utf8'))
  await writeFile(join(dir, 'config.capnp'), configText({ port, script, upstreamUrl, object }))
  const child = spawn(workerdBinary(ROOT), ['serve', join(dir, 'config.capnp')], { cwd: dir, stdio: 'ignore' })
  const base = `http://${LOOPBACK}:${port}`
  return started(child, name, base, '/health', { authorization: 'Bearer none' }, () =>
    rm(dir, { recursive: true, force: true }),
  )
}

/** Installs the peer in a folder of its own where it is missing. It does neither authentication nor metering. */
export async function startPeer(upstreamUrl: string): Promise<Rival> {
  const version = await peerVersion().catch(async () => {
    console.log('Installing the peer in bench/peer …')
    const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund']
    await runCommand({
      command: 'npm',
      args,
      cwd: PEER_DIR,
      timeoutMs: INSTALL_TIMEOUT_MS,
      signal: new AbortController().signal,
    })
    return peerVersion()
  })
  const port = await freePort()
  const script = join(PEER_PACKAGE, 'build', 'start-server.js')
  const child = spawn(process.execPath, [script, `--port=${port}`, '--headless'], {
    stdio: 'ignore',
    env: { PATH: process.env.PATH, NODE_ENV: 'production', TRUSTED_CUSTOM_HOSTS: LOOPBACK },
  })
  const headers = {
    authorization: 'Bearer none',
    'x-portkey-provider': 'openai',
    'x-portkey-custom-host': upstreamUrl,
  }
  return started(child, `Portkey ${version}`, `http://${LOOPBACK}:${port}`, '/', headers)
}

async function started(
  child: ChildProcess,
  name: string,
  base: string,
  healthPath: string,
  headers: Record<string, string>,
  cleanUp: () => Promise<void> = async () => {},
): Promise<Rival> {
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const stop = async () => {
    child.kill('SIGKILL')
    await exited
    await cleanUp()
  }
  const untilMs = performance.now() + START_TIMEOUT_MS
  for (;;) {
    const answer = await fetch(`${base}${healthPath}`).catch(() => undefined)
    await answer?.body?.cancel()
    if (answer?.ok === true) break
    if (performance.now() > untilMs || child.exitCode !== null) {
      await stop()
      throw new Error(`${name} did not start`)
    }
    await sleep(50)
  }
  return { name, url: `${base}/v1/chat/completions`, headers, pid: child.pid ?? 0, stop }
}

async function peerVersion(): Promise<string> {
  const text = await readFile(join(PEER_PACKAGE, 'package.json'), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

type WorkerText = { port: number; script: string; upstreamUrl: string; object: string | undefined }

const configText = ({ port, script, upstreamUrl, object }: WorkerText): string => {
  const binding =
    object === undefined ? '' : `, (name = "${object.toUpperCase()}", durableObjectNamespace = "${object}")`
  const storage =
    object === undefined
      ? ''
      : `
  durableObjectNamespaces = [(className = "${object}", uniqueKey = "${object}", enableSql = true)],
  durableObjectStorage = (localDisk = "objects"),`
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "proxy", worker = .proxy),
    (name = "internet", network = (allow = ["public", "private", "local"])),
    (name = "objects", disk = (path = "objects", writable = true)),
  ],
  sockets = [(name = "http", address = "${LOOPBACK}:${port}", http = (), service = "proxy")],
  v8Flags = [${V8_FLAGS.map((flag) => JSON.stringify(flag)).join(', ')}],
);
const proxy :Workerd.Worker = (
  modules = [(name = "${script}", esModule = embed "${script}")],
  compatibilityDate = "2026-11-09",
  bindings = [(name = "UPSTREAM", text = "${upstreamUrl}")${binding}],${storage}
);
`
}
