// A gateway as the launcher runs it, with its database and without any engine: supervised, on a socket that outlives it, replaced in
// order. Owns bringing these up; what it asks upstreams for is the test's.
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI from 'openai'
import postgres from 'postgres'
import { migrate } from '../../../migrations/migrate.ts'
import { AdminClient } from '../../../scripts/admin-client.ts'
import { bootstrapAccount } from '../../../scripts/bootstrap.ts'
import { bundleGateway } from '../../../scripts/bundle.ts'
import { Children } from '../../../scripts/children.ts'
import { openDataFolder } from '../../../scripts/data-folder.ts'
import { startGateway, writeGatewayConfig } from '../../../scripts/gateway-process.ts'
import { GatewayRestarts } from '../../../scripts/gateway-restarts.ts'
import { openListeningSocket } from '../../../scripts/listening-socket.ts'
import { LOOPBACK } from '../../../scripts/options.ts'
import { freePort, startPostgres } from '../../../scripts/postgres.ts'
import { loadSecrets } from '../../../scripts/secrets.ts'
import { type Supervised, supervise } from '../../../scripts/supervisor.ts'
import { Teardown } from '../../../scripts/teardown.ts'

const ROOT = join(import.meta.dirname, '..', '..', '..')

type Parts = {
  baseUrl: string
  dataDir: string
  apiKey: string
  orgId: string
  admin: AdminClient
  sql: postgres.Sql
  notes: string[]
  supervised: Supervised
  restarts: GatewayRestarts
  teardown: Teardown
}

export class GatewayAlone {
  readonly #parts: Parts

  private constructor(parts: Parts) {
    this.#parts = parts
  }

  get baseUrl() {
    return this.#parts.baseUrl
  }
  get dataDir() {
    return this.#parts.dataDir
  }
  get apiKey() {
    return this.#parts.apiKey
  }
  get orgId() {
    return this.#parts.orgId
  }
  get admin() {
    return this.#parts.admin
  }
  get sql() {
    return this.#parts.sql
  }
  /** What the launcher would have told its user. */
  get notes(): readonly string[] {
    return this.#parts.notes
  }
  /** And forgets them. */
  takeNotes(): string[] {
    return this.#parts.notes.splice(0)
  }

  /** @param model that callers may name. */
  static async start(model: string, drainMs: number): Promise<GatewayAlone> {
    const teardown = new Teardown()
    const { signal } = new AbortController()
    try {
      const dataDir = await mkdtemp(join(tmpdir(), 'penstock-gateway-'))
      teardown.add('folder', () => rm(dataDir, { recursive: true, force: true }))
      const folder = await openDataFolder(dataDir)
      teardown.add('lock', () => folder.lock.release())
      const children = new Children(folder.dir, folder.logDir, () => {})
      teardown.add('guardian', () => children.close())
      const [bundle, server, secrets, port] = await Promise.all([
        bundleGateway({ root: ROOT, cacheDir: folder.buildDir, signal }),
        startPostgres({
          dataDir: folder.postgresDir,
          onSpawn: (pid, exited) => children.adopt({ name: 'postgres', pid, signal: 'SIGINT', exited }),
        }),
        loadSecrets(folder.secretsPath),
        freePort(),
      ])
      teardown.add('Postgres', () => server.stop())
      await migrate(server.url)
      const socket = await openListeningSocket(port, LOOPBACK)
      teardown.add('socket', () => socket.close())
      const handoverKey = randomBytes(32).toString('base64url')
      const bundleDir = bundle.dir
      const settings = { root: ROOT, folder, bundleDir, port, databaseUrl: server.url, secrets, handoverKey, socket }
      await writeGatewayConfig(settings)
      const notes: string[] = []
      const origin = `http://${LOOPBACK}:${port}`
      const { objectsDir } = folder
      const note = (text: string) => notes.push(text)
      const restarts = new GatewayRestarts({ origin, key: handoverKey, drainMs, objectsDir, note, signal })
      const supervised = await supervise({
        name: 'The gateway',
        start: async () => {
          await restarts.settled()
          return startGateway(settings, children, signal)
        },
        onDown: (text) => notes.push(text),
        onRestarted: () => {},
      })
      teardown.add('gateway', async () => void (await Promise.all([supervised.stop(), restarts.stopOld()])))
      const admin = new AdminClient(origin, secrets.ADMIN_TOKEN)
      const { apiKey, orgId } = await bootstrapAccount(admin, { model, apiKeyPath: folder.apiKeyPath })
      const sql = postgres(server.url, { max: 2, onnotice: () => {} })
      teardown.add('connections', () => sql.end({ timeout: 1 }))
      const baseUrl = origin
      return new GatewayAlone({ baseUrl, dataDir, apiKey, orgId, admin, sql, notes, supervised, restarts, teardown })
    } catch (error) {
      await teardown.run()
      throw error
    }
  }

  get client(): OpenAI {
    return new OpenAI({ baseURL: `${this.baseUrl}/v1`, apiKey: this.apiKey, maxRetries: 0 })
  }
  /** The process that new callers come to. */
  get running() {
    return this.#parts.supervised.current()
  }
  /** Resolves when the next process serves. */
  restart(): Promise<void> {
    return this.#parts.restarts.restart(this.#parts.supervised)
  }
  async stop(): Promise<void> {
    await this.#parts.teardown.run()
  }
}
