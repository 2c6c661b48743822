// The whole system, started the way a user starts it. Owns the launcher process, its data folder and the ways to look
// inside: the admin API, the database, the process ids.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import OpenAI from 'openai'
import postgres from 'postgres'
import { freePort } from '../../../scripts/postgres.ts'

const ROOT = join(import.meta.dirname, '..', '..', '..')
export const LAUNCHER = join(ROOT, 'scripts', 'start.ts')
export const TINY_MODEL = 'penstock-tiny'

type ReadyEvent = {
  event: 'ready'
  baseUrl: string
  apiKey: string
  model: string
  dataDir: string
  databaseUrl: string
  pids: { gateway: number; agent: number; engine: number; postgres?: number }
}

type Load = { sequences_running: number; sequences_waiting: number; kv_blocks_used: number }

/** One client request as the database has it, and the attempts under it. */
export type UsageRow = {
  requestId: string
  status: string
  inputTokens: number
  outputTokens: number
  costNanoUsd: bigint
  attempts: number
  attemptTokens: number
}

export class System {
  readonly baseUrl: string
  readonly apiKey: string
  readonly model: string
  readonly dataDir: string
  readonly databaseUrl: string
  readonly pids: ReadyEvent['pids']
  readonly client: OpenAI
  readonly sql: postgres.Sql
  readonly #launcher: ChildProcess
  readonly #output: string[]

  private constructor(ready: ReadyEvent, launcher: ChildProcess, output: string[]) {
    this.baseUrl = ready.baseUrl
    this.apiKey = ready.apiKey
    this.model = ready.model
    this.dataDir = ready.dataDir
    this.databaseUrl = ready.databaseUrl
    this.pids = ready.pids
    this.client = new OpenAI({ baseURL: `${ready.baseUrl}/v1`, apiKey: ready.apiKey, maxRetries: 0 })
    this.sql = postgres(ready.databaseUrl, { max: 2, onnotice: () => {} })
    this.#launcher = launcher
    this.#output = output
  }

  /** @param env added to the launcher's environment, e.g. DATABASE_URL */
  static async start(options: { model: string; dataDir?: string; env?: Record<string, string>; args?: string[] }) {
    const dataDir = options.dataDir ?? (await mkdtemp(join(tmpdir(), 'penstock-e2e-')))
    const port = await freePort()
    const args = [
      '--json',
      '--data',
      dataDir,
      '--port',
      String(port),
      '--model',
      options.model,
      ...(options.args ?? []),
    ]
    const child = spawn(process.execPath, [LAUNCHER, ...args], {
      env: { ...process.env, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const output: string[] = []
    createInterface({ input: child.stderr }).on('line', (line) => output.push(line))
    const ready = await new Promise<ReadyEvent>((resolve, reject) => {
      createInterface({ input: child.stdout }).on('line', (line) => {
        const event = JSON.parse(line)
        if (event.event === 'ready') resolve(event)
      })
      child.on('exit', (code) => reject(new Error(`the system did not start (exit ${code}):\n${output.join('\n')}`)))
    })
    return new System(ready, child, output)
  }

  /** What the launcher printed for a person. */
  get messages(): string {
    return this.#output.join('\n')
  }

  /** Asks the launcher to start the gateway anew, in order. */
  askForNewGateway(): void {
    this.#launcher.kill('SIGUSR2')
  }

  /** As Ctrl-C does. Returns the exit code. */
  async stop(): Promise<number | null> {
    await this.sql.end({ timeout: 1 })
    const exited = once(this.#launcher, 'exit')
    this.#launcher.kill('SIGINT')
    const [code] = await exited
    return code
  }

  /** The launcher starts a new one each time, so it is looked for by what it was started with. */
  killGateway(): void {
    const isGateway = (pid: string) => {
      try {
        const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
        return line.includes('workerd') && line.includes(this.dataDir)
      } catch {
        return false
      }
    }
    const pid = readdirSync('/proc').find((name) => /^\d+$/.test(name) && isGateway(name))
    process.kill(Number(pid), 'SIGKILL')
  }

  async discard(): Promise<void> {
    await this.stop()
    await rm(this.dataDir, { recursive: true, force: true })
  }

  get adminToken(): Promise<string> {
    return readFile(join(this.dataDir, 'secrets.json'), 'utf8').then((text) => JSON.parse(text).ADMIN_TOKEN)
  }

  async admin<T = unknown>(method: string, path: string, body?: unknown): Promise<{ status: number; body: T }> {
    const response = await fetch(`${this.baseUrl}/admin/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${await this.adminToken}`, 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
    return { status: response.status, body: (await response.json().catch(() => undefined)) as T }
  }

  /** A key of its own, with its limits, so that tests do not share counters. */
  async newKey(
    options: { limits?: unknown[]; models?: string[] } = {},
  ): Promise<{ id: string; key: string; org: string }> {
    const [home] = await this.sql`SELECT org_id, project_id FROM api_keys ORDER BY created_at LIMIT 1`
    const org: string = home?.org_id
    const made = await this.admin<{ id: string; key: string }>('POST', `/organisations/${org}/keys`, {
      project_id: home?.project_id,
      name: 'of a test',
      ...(options.models && { models: options.models }),
    })
    if (options.limits !== undefined) {
      const put = await this.admin('PUT', `/organisations/${org}/keys/${made.body.id}/limits`, {
        limits: options.limits,
      })
      if (put.status !== 200) throw new Error(`limits were refused: ${JSON.stringify(put.body)}`)
    }
    return { ...made.body, org }
  }

  clientWith(apiKey: string): OpenAI {
    return new OpenAI({ baseURL: `${this.baseUrl}/v1`, apiKey, maxRetries: 0 })
  }

  /** Nothing runs, waits or is held any more: what a test leaves must be nothing. */
  async untilIdle(): Promise<void> {
    await System.until(async () => {
      const { body } = await this.admin<{ data: { models: Load[] }[] }>('GET', '/backends')
      const all = body.data.flatMap((backend) => backend.models)
      return all.length > 0 && all.every((m) => m.sequences_running + m.sequences_waiting + m.kv_blocks_used === 0)
    })
  }

  /** A raw call; the test reads status and body itself. */
  post(path: string, body: unknown, headers: Record<string, string> = {}, signal?: AbortSignal): Promise<Response> {
    return fetch(`${this.baseUrl}${path}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${this.apiKey}`, 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' || body instanceof Uint8Array ? (body as string) : JSON.stringify(body),
      ...(signal && { signal }),
    })
  }

  /** The rows of one client request; waits until they are written. */
  async usage(requestId: string): Promise<UsageRow> {
    for (;;) {
      const row = await this.findUsage(requestId)
      if (row !== undefined) return row
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }

  async findUsage(requestId: string): Promise<UsageRow | undefined> {
    const id = requestId.replace(/^req_/, '')
    const found = await this.sql`
      SELECT request_id, status, input_uncached + input_cache_read AS input, output_text + output_reasoning AS output,
        cost_nanousd FROM usage_requests WHERE request_id = ${id}`
    const row = found[0]
    if (row === undefined) return undefined
    const [attempts] = await this.sql`
      SELECT count(*)::int AS count, coalesce(sum(output_text + output_reasoning), 0)::int AS output
      FROM usage_attempts WHERE request_id = ${id} AND kind = 'attempt'`
    return {
      requestId,
      status: row.status,
      inputTokens: Number(row.input),
      outputTokens: Number(row.output),
      costNanoUsd: BigInt(row.cost_nanousd),
      attempts: attempts?.count,
      attemptTokens: attempts?.output,
    }
  }

  /** Waits until something is true; the test's own time limit ends it. */
  static async until<T>(what: () => Promise<T | undefined | false>): Promise<T> {
    for (;;) {
      const value = await what()
      if (value !== undefined && value !== false) return value
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
}

/** The events of a raw SSE body, as far as it goes; `broken` where the connection ended without a clean end. */
export async function readEvents(response: Response): Promise<{ data: string[]; broken: boolean }> {
  const data: string[] = []
  const decoder = new TextDecoder()
  let pending = ''
  let broken = false
  try {
    for await (const chunk of response.body ?? []) {
      pending += decoder.decode(chunk, { stream: true })
      const lines = pending.split('\n')
      pending = lines.pop() ?? ''
      for (const line of lines) if (line.startsWith('data: ')) data.push(line.slice(6))
    }
  } catch {
    broken = true
  }
  return { data, broken }
}
