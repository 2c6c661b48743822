// Brings the whole system up. Owns what waits for what; each part's own start is in the file of its name.
//
//   Postgres ─▶ migrations ─┐
//   bundle, dashboard ──────┴▶ gateway ─┬▶ account, price, API key
//   engine build, model ────────────────┴▶ agent (with its engine) ─▶ routable
import { randomBytes } from 'node:crypto'
import { join, resolve } from 'node:path'
import { migrate } from '../migrations/migrate.ts'
import { AdminClient } from './admin-client.ts'
import { type AgentRunning, startAgent } from './agent-process.ts'
import { bootstrapAccount, bootstrapModel, waitUntilRoutable } from './bootstrap.ts'
import { bundleGateway } from './bundle.ts'
import { Children } from './children.ts'
import { buildDashboard } from './dashboard-build.ts'
import { openDataFolder } from './data-folder.ts'
import { buildEngine } from './engine-build.ts'
import { defaultRoles } from './engine-roles.ts'
import { type GatewayOptions, localUrl, requireFreePort, startGateway, writeGatewayConfig } from './gateway-process.ts'
import { GatewayRestarts } from './gateway-restarts.ts'
import { settleObjects } from './handover.ts'
import { openListeningSocket } from './listening-socket.ts'
import { LogFile } from './log-file.ts'
import { obtainModel } from './model.ts'
import type { StartOptions } from './options.ts'
import { startPostgres } from './postgres.ts'
import { asStep, type Progress } from './progress.ts'
import { loadSecrets } from './secrets.ts'
import { type Supervised, supervise } from './supervisor.ts'
import type { Teardown } from './teardown.ts'

export type LaunchContext = {
  progress: Progress
  /** Filled as things come up; the caller runs it in every case, also when this function throws. */
  teardown: Teardown
  /** Gives up the start. */
  signal: AbortSignal
  /** Gets the means to kill everything without waiting, as soon as there can be something to kill. */
  onChildren: (children: Children) => void
}

export type Launched = {
  baseUrl: string
  apiKey: string
  /** Organisation that the key belongs to. */
  orgId: string
  model: string
  admin: AdminClient
  dataDir: string
  databaseUrl: string
  /** Puts the next gateway in its place; streams that are open end in the old one. */
  restartGateway(): Promise<void>
  /** Process ids of now, for whoever watches the parts. */
  pids(): {
    gateway: number
    agent: number
    /** The one that answers requests, and all. */
    engine: number | undefined
    engines: number[]
    postgres: number | undefined
  }
}

const ROOT = join(import.meta.dirname, '..')

function computesOnGpu({ device }: StartOptions): boolean {
  return device?.startsWith('cuda') === true
}

/** Starts everything. @throws Error in words for the user; what was started by then is in the teardown */
export async function launch(options: StartOptions, context: LaunchContext): Promise<Launched> {
  const { progress, teardown } = context
  const folder = await openDataFolder(options.dataDir)
  teardown.add('data folder', () => folder.lock.release())
  const left = await Children.endLeftOvers(folder.dir)
  if (left.length > 0) progress.note(`Ended what a killed start had left running: ${left.join(', ')}.`)
  await requireFreePort(options.port, options.host)
  const secrets = await loadSecrets(folder.secretsPath)

  const children = new Children(folder.dir, folder.logDir, (name, line) => {
    if (options.verbose) progress.note(`${name.padEnd(8)} ${line}`)
  })
  teardown.add('guardian', () => children.close())
  context.onChildren(children)
  const log = new LogFile(join(folder.logDir, 'start.log'))
  teardown.add('start log', () => log.close())
  const adopt = (pid: number, exited: Promise<unknown>) => {
    children.adopt({ name: 'build', pid, signal: 'SIGTERM', exited })
  }

  // The first failure ends the other steps, and is the one that is told.
  const failing = new AbortController()
  const signal = AbortSignal.any([context.signal, failing.signal])
  const down = (name: string) => ({
    onDown: (text: string) => {
      if (!context.signal.aborted) progress.note(`${text}\n  It is being restarted.`)
    },
    onRestarted: () => progress.note(`${name} runs again.`),
  })
  const started: Promise<unknown>[] = []
  const part = <T>(work: () => Promise<T>): Promise<T> => {
    const promise = work()
    promise.catch((error: unknown) => failing.abort(error))
    started.push(promise)
    return promise
  }

  const engine = part(() =>
    asStep(progress, 'Engine', async (step) => {
      const dir = await buildEngine({
        sourceDir: join(ROOT, 'native-engine'),
        buildDir: join(ROOT, 'native-engine', 'build'),
        tests: false,
        target: 'penstock-engine',
        needsCuda: computesOnGpu(options),
        log,
        signal,
        adopt,
        onPercent: (percent) => step.update(`compiling ${percent}%`),
        onWait: (pid) => step.update(`waiting for process ${pid}, which builds it`),
      })
      return { value: join(dir, 'penstock-engine') }
    }),
  )
  const model = part(async () => {
    const found = await asStep(progress, 'Model', async (step) => {
      const value = await obtainModel({
        ...options,
        ...(process.env.HF_ENDPOINT && { hfEndpoint: process.env.HF_ENDPOINT }),
        log,
        signal,
        adopt,
        onProgress: (detail) => step.update(detail),
      })
      return { value, detail: `${value.name} (${value.origin})` }
    })
    if (found.notice !== undefined) progress.note(found.notice)
    return found
  })

  let postgres: Supervised | undefined
  const database = part(() =>
    asStep(progress, 'Database', async (step) => {
      let url = options.databaseUrl
      if (url === undefined) {
        const server = await startDatabase(folder.postgresDir, children, signal)
        url = server.url
        postgres = await supervise({ name: 'Postgres', ...down('Postgres'), ...server })
      }
      step.update('migrations')
      const { applied } = await migrate(url)
      const where = options.databaseUrl === undefined ? 'embedded Postgres' : 'DATABASE_URL'
      return { value: url, detail: applied.length > 0 ? `${where}, ${applied.length} migration steps` : where }
    }),
  )
  const bundle = part(() =>
    asStep(progress, 'Gateway bundle', async () => {
      const value = await bundleGateway({ root: ROOT, cacheDir: folder.buildDir, log, signal, adopt })
      return { value: value.dir, ...(value.cached && { detail: 'unchanged' }) }
    }),
  )

  const dashboard = part(() =>
    asStep(progress, 'Dashboard', async () => {
      // Somebody works on it: what they build there is served as it is.
      const ownDir = process.env.PENSTOCK_DASHBOARD_DIR
      if (ownDir) return { value: resolve(ownDir), detail: ownDir }
      const value = await buildDashboard({ root: ROOT, cacheDir: folder.buildDir })
      return { value: value.dir, ...(value.cached && { detail: 'unchanged' }) }
    }),
  )

  const listening = part(async () => {
    const opened = await openListeningSocket(options.port, options.host)
    teardown.add('listening socket', () => opened.close())
    return opened
  })
  const baseUrl = localUrl(options.host, options.port)
  const admin = new AdminClient(baseUrl, secrets.ADMIN_TOKEN)
  let gateway: Supervised | undefined
  const handoverKey = randomBytes(32).toString('base64url')
  const restarts = new GatewayRestarts({
    origin: baseUrl,
    key: handoverKey,
    drainMs: options.drainSeconds * 1000,
    objectsDir: folder.objectsDir,
    note: (text) => progress.note(text),
    signal: context.signal,
  })
  const gatewayUp = part(async () => {
    const [databaseUrl, bundleDir, dashboardDir, socket] = await Promise.all([database, bundle, dashboard, listening])
    const settings: GatewayOptions = {
      root: ROOT,
      folder,
      bundleDir,
      dashboardDir,
      port: options.port,
      host: options.host,
      databaseUrl,
      secrets,
      handoverKey,
      socket,
    }
    await settleObjects(folder.objectsDir)
    await writeGatewayConfig(settings)
    await asStep(progress, 'Gateway', async () => {
      gateway = await supervise({
        name: 'The gateway',
        start: async () => {
          await restarts.settled()
          return startGateway(settings, children, signal)
        },
        ...down('The gateway'),
      })
      return { value: undefined, detail: baseUrl }
    })
  })
  let agent: Supervised | undefined
  let agentNow: AgentRunning | undefined
  const serving = part(async () => {
    const [enginePath, { path: modelPath, name: modelName }] = await Promise.all([engine, model, gatewayUp])
    await asStep(progress, 'Agent and engines', async () => {
      const { threads, contextTokens, kvMib, kvType, quantize, device, gemm } = options
      // A second engine would hold the weights twice, and share the GPU's time with the first.
      const roles = options.engines ?? (computesOnGpu(options) ? 'both' : await defaultRoles(modelPath, options))
      const settings = {
        root: ROOT,
        enginePath,
        modelPath,
        modelName,
        gatewayUrl: baseUrl,
        stateDir: folder.agentDir,
        engines: roles,
        ...(threads !== undefined && { threads }),
        ...(contextTokens !== undefined && { contextTokens }),
        ...(kvMib !== undefined && { kvMib }),
        ...(kvType !== undefined && { kvType }),
        ...(quantize !== undefined && { quantize }),
        ...(device !== undefined && { device }),
        ...(gemm !== undefined && { gemm }),
      }
      let joinToken: string | undefined = await admin.createEnrolmentToken()
      agent = await supervise({
        name: 'The backend agent',
        start: async () => {
          agentNow = await startAgent({ ...settings, ...(joinToken && { joinToken }) }, children, signal)
          // Enrolled by now, its key is enough; the token works once.
          joinToken = undefined
          return agentNow
        },
        ...down('The backend agent'),
      })
      if (agentNow !== undefined) await bootstrapModel(admin, modelName, agentNow.contextTokens)
      return { value: undefined, detail: roles.replaceAll(',', ' + ') }
    })
  })
  const account = part(async () => {
    const [{ name }] = await Promise.all([model, gatewayUp])
    return bootstrapAccount(admin, { model: name, apiKeyPath: folder.apiKeyPath })
  })

  // Postgres ends last, everything needs it. Before it, in one step, the gateway stops accepting while the agent drains:
  // neither waits for the other.
  teardown.add('Postgres', () => postgres?.stop())
  teardown.add('gateway and agent', async () => {
    const gatewayDown = Promise.all([gateway?.stop(), restarts.stopOld()])
    await agent?.stop()
    await gatewayDown
  })
  await Promise.allSettled(started)
  context.signal.throwIfAborted()
  if (failing.signal.aborted) throw failing.signal.reason
  await serving
  const [{ apiKey, orgId }, { name }, databaseUrl] = await Promise.all([account, model, database])
  await asStep(progress, 'Ready', async () => {
    await waitUntilRoutable(admin, name, signal)
    return { value: undefined, detail: name }
  })
  return {
    baseUrl,
    apiKey,
    orgId,
    model: name,
    admin,
    dataDir: folder.dir,
    databaseUrl,
    restartGateway: async () => (gateway === undefined ? undefined : restarts.restart(gateway)),
    pids: () => ({
      gateway: gateway?.current().pid ?? 0,
      agent: agent?.current().pid ?? 0,
      engine: agentNow?.enginePid(),
      engines: agentNow?.enginePids() ?? [],
      postgres: postgres?.current().pid,
    }),
  }
}

/** The embedded database as a part to supervise: restarted on the same port, since the gateway was given its address. */
async function startDatabase(dataDir: string, children: Children, signal: AbortSignal) {
  const log = children.log('postgres')
  const onSpawn = (pid: number, exited: Promise<unknown>) => {
    children.adopt({ name: 'postgres', pid, signal: 'SIGINT', exited })
  }
  const onLog = (line: string) => log.write(line)
  signal.throwIfAborted()
  let server = await startPostgres({ dataDir, onLog, onSpawn })
  const { port, url } = server
  let first = true
  return {
    url,
    start: async () => {
      if (!first) server = await startPostgres({ dataDir, port, onLog, onSpawn })
      first = false
      return { name: 'postgres', ...server }
    },
  }
}
