// A gateway with its database and nothing behind it: `workerd serve` on the configuration that the launcher writes, and a
// Postgres of its own, in a folder of its own. Owns starting, killing and restarting the two, which the launcher's
// supervisor would do by itself; upstreams are upstream.ts.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { migrate } from '../../migrations/migrate.ts'
import { AdminClient } from '../../scripts/admin-client.ts'
import { bundleGateway } from '../../scripts/bundle.ts'
import { Children, type Running } from '../../scripts/children.ts'
import { type DataFolder, openDataFolder } from '../../scripts/data-folder.ts'
import { type GatewayOptions, startGateway, writeGatewayConfig } from '../../scripts/gateway-process.ts'
import { LOOPBACK } from '../../scripts/options.ts'
import { freePort, type PostgresServer, startPostgres } from '../../scripts/postgres.ts'
import { loadSecrets } from '../../scripts/secrets.ts'
import { Teardown } from '../../scripts/teardown.ts'

const ROOT = join(import.meta.dirname, '..', '..')

export type StackOptions = {
  /** Folder with the wrangler.toml that is served. Default: the checkout, which is the gateway itself. */
  root?: string
  /** Makes the modules of that Worker. Default: the gateway's own bundle. */
  bundle?: (folder: DataFolder, signal: AbortSignal) => Promise<string>
  /** Gets each line the gateway writes. */
  onGatewayLine?: (line: string) => void
}

export class GatewayStack {
  readonly baseUrl: string
  readonly port: number
  readonly admin: AdminClient
  readonly folder: DataFolder
  /** Straight into the record. Fails while Postgres is down, and connects again by itself. */
  readonly sql: postgres.Sql
  readonly #settings: GatewayOptions
  readonly #children: Children
  readonly #teardown: Teardown
  #gateway: Running | undefined
  #postgres: PostgresServer

  private constructor(
    settings: GatewayOptions,
    children: Children,
    teardown: Teardown,
    gateway: Running,
    server: PostgresServer,
  ) {
    this.#settings = settings
    this.#children = children
    this.#teardown = teardown
    this.#gateway = gateway
    this.#postgres = server
    this.port = settings.port
    this.folder = settings.folder
    this.baseUrl = `http://${LOOPBACK}:${settings.port}`
    this.admin = new AdminClient(this.baseUrl, settings.secrets.ADMIN_TOKEN)
    this.sql = postgres(server.url, { max: 2, onnotice: () => {} })
  }

  /** @throws Error where a part does not come up; nothing is left running then */
  static async start(options: StackOptions = {}): Promise<GatewayStack> {
    const teardown = new Teardown()
    const { signal } = new AbortController()
    try {
      const dir = await mkdtemp(join(tmpdir(), 'penstock-gateway-'))
      teardown.add('folder', () => rm(dir, { recursive: true, force: true }))
      const folder = await openDataFolder(dir)
      teardown.add('lock', () => folder.lock.release())
      const children = new Children(folder.dir, folder.logDir, (name, line) => {
        if (name === 'gateway') options.onGatewayLine?.(line)
      })
      teardown.add('guardian', () => children.close())
      const { root = ROOT, bundle = ownBundle } = options
      const [bundleDir, server, secrets, port] = await Promise.all([
        bundle(folder, signal),
        startDatabase(folder.postgresDir, children),
        loadSecrets(folder.secretsPath),
        freePort(),
      ])
      const settings: GatewayOptions = { root, folder, bundleDir, port, databaseUrl: server.url, secrets }
      const stack: { current: GatewayStack | undefined } = { current: undefined }
      teardown.add('Postgres', () => (stack.current === undefined ? server.stop() : stack.current.stopPostgres()))
      await migrate(server.url)
      await writeGatewayConfig(settings)
      const gateway = await startGateway(settings, children, signal)
      stack.current = new GatewayStack(settings, children, teardown, gateway, server)
      return stack.current
    } catch (error) {
      await teardown.run()
      throw error
    }
  }

  get gatewayPid(): number {
    return this.#gateway?.pid ?? 0
  }

  get postgresPid(): number {
    return this.#postgres.pid
  }

  /** As a crash: no signal handler runs, nothing is flushed. */
  async killGateway(): Promise<void> {
    const gateway = this.#gateway
    this.#gateway = undefined
    if (gateway === undefined) return
    process.kill(gateway.pid, 'SIGKILL')
    await gateway.exited
  }

  /** On the same port and the same storage. */
  async startGateway(): Promise<void> {
    this.#gateway ??= await startGateway(this.#settings, this.#children, new AbortController().signal)
  }

  stopPostgres(): Promise<void> {
    return this.#postgres.stop()
  }

  /** On the same port and the same data. */
  async startPostgres(): Promise<void> {
    this.#postgres = await startDatabase(this.folder.postgresDir, this.#children, this.#postgres.port)
  }

  /** Ends everything and removes the folder. @returns what went wrong, in words */
  async stop(): Promise<string[]> {
    await this.sql.end({ timeout: 1 })
    await this.#gateway?.stop()
    return this.#teardown.run()
  }
}

async function ownBundle(folder: DataFolder, signal: AbortSignal): Promise<string> {
  return (await bundleGateway({ root: ROOT, cacheDir: folder.buildDir, signal })).dir
}

function startDatabase(dataDir: string, children: Children, port?: number): Promise<PostgresServer> {
  return startPostgres({
    dataDir,
    ...(port !== undefined && { port }),
    onSpawn: (pid, exited) => children.adopt({ name: 'postgres', pid, signal: 'SIGINT', exited }),
  })
}
