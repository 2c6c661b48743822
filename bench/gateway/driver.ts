// A bench Worker (bench/account, bench/fleet) as a running stack. Owns bundling it and its commands from outside.
import { request as httpRequest } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { runCommand } from '../../scripts/commands.ts'
import type { DataFolder } from '../../scripts/data-folder.ts'
import { GatewayStack } from './stack.ts'

const ROOT = join(import.meta.dirname, '..', '..')
const ACCOUNT_DIR = join(ROOT, 'bench', 'account')
const BUNDLE_TIMEOUT_MS = 120_000

export type DriverState = { openHolds: number; outboxRows: number; calls: number; batches: number }
export type Work = { done: number; failed: number; reason?: string }
export type Way = 'lane' | 'direct' | 'ping' | 'write'

export class Driver {
  readonly stack: GatewayStack

  private constructor(stack: GatewayStack) {
    this.stack = stack
  }

  /** @param root Folder of the Worker. */
  static async start(root = ACCOUNT_DIR): Promise<Driver> {
    const bundle = (folder: DataFolder, signal: AbortSignal) => bundleDriver(root, folder, signal)
    return new Driver(await GatewayStack.start({ root, bundle }))
  }

  /** @throws Error where the Worker refuses it */
  async command<T>(path: string, parameters: Record<string, string | number> = {}): Promise<T> {
    const query = new URLSearchParams()
    for (const [name, value] of Object.entries(parameters)) query.set(name, String(value))
    const response = await fetch(`${this.stack.baseUrl}${path}?${query}`)
    const text = await response.text()
    if (!response.ok) throw new Error(`${path} answered ${response.status}: ${text.slice(0, 500)}`)
    return (text === 'ok' ? undefined : JSON.parse(text)) as T
  }

  /** Sends a command and resets the connection: a mere end of sending would not tell the Worker that nobody listens. */
  async hangUp(path: string, parameters: Record<string, string | number>, afterMs: number): Promise<void> {
    const query = Object.entries(parameters).map(([name, value]) => `${name}=${value}`)
    const request = httpRequest(`${this.stack.baseUrl}${path}?${query.join('&')}`, { agent: false })
    request.on('error', () => {})
    request.end()
    await sleep(afterMs)
    request.socket?.resetAndDestroy()
  }

  state(org: number): Promise<DriverState> {
    return this.command('/state', { org })
  }

  /**
   * Keeps so many contexts busy with so many loops each, spread over the organisations, and adds up what they did.
   * Contexts are requests of their own, as in the gateway.
   */
  async work(way: Way, options: { orgs: number[]; contexts: number; loops: number; ms: number }): Promise<Work> {
    const { orgs, contexts, loops, ms } = options
    const all = await Promise.all(
      Array.from({ length: contexts }, (_, index) =>
        this.command<Work>('/work', { way, loops, ms, org: orgs[index % orgs.length] ?? 1 }),
      ),
    )
    const reason = all.find((one) => one.reason !== undefined)?.reason
    return {
      done: all.reduce((sum, { done }) => sum + done, 0),
      failed: all.reduce((sum, { failed }) => sum + failed, 0),
      ...(reason !== undefined && { reason }),
    }
  }

  stop(): Promise<string[]> {
    return this.stack.stop()
  }
}

async function bundleDriver(root: string, folder: DataFolder, signal: AbortSignal): Promise<string> {
  const outDir = join(folder.buildDir, 'driver')
  const wranglerDir = join(folder.buildDir, 'wrangler')
  await runCommand({
    command: process.execPath,
    args: [
      join(ROOT, 'node_modules', 'wrangler', 'bin', 'wrangler.js'),
      'deploy',
      '--dry-run',
      '--outdir',
      outDir,
      '--config',
      join(root, 'wrangler.toml'),
    ],
    cwd: ROOT,
    env: {
      ...process.env,
      WRANGLER_SEND_METRICS: 'false',
      WRANGLER_SEND_ERROR_REPORTS: 'false',
      WRANGLER_HIDE_BANNER: 'true',
      WRANGLER_WRITE_LOGS: 'false',
      WRANGLER_LOG_PATH: join(wranglerDir, 'logs'),
      WRANGLER_CACHE_DIR: join(wranglerDir, 'cache'),
      WRANGLER_REGISTRY_PATH: join(wranglerDir, 'registry'),
      XDG_CONFIG_HOME: wranglerDir,
      CI: '1',
    },
    timeoutMs: BUNDLE_TIMEOUT_MS,
    signal,
  })
  return outDir
}
