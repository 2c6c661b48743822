// The request path under test: a real app in workerd with real accounts and a real Postgres; only the hosts it calls
// are stand-ins. Owns making tenants, models and hosts, sending requests, and reading what was recorded.
import { createExecutionContext, env, waitOnExecutionContext } from 'cloudflare:test'
import { createApp } from '../../../gateway/app.ts'
import type { Timings } from '../../../gateway/attempts.ts'
import { connect } from '../../../gateway/db/connect.ts'
import type { Env } from '../../../gateway/env.ts'
import { systemPorts } from '../../../gateway/routes/generate.ts'
import { admin, newName, newTenant, type Tenant } from './admin.ts'
import { type AgentScript, FakeAgent, frame } from './fake-agent.ts'

export type Host = (request: Request) => Response | Promise<Response>
export type Target = {
  provider: string
  model: string
  context_tokens: number
  output_tokens_max?: number
  weight?: number
  region?: string
}

export const FLEET_TARGET = (model: string): Target => ({ provider: 'fleet', model, context_tokens: 2048 })

/** One attempt as it stands in Postgres. */
export type AttemptRow = {
  attempt: number
  provider: string
  status: string
  httpStatus: number
  charge: string
  source: string
  input: number
  cached: number
  output: number
  costNanoUsd: bigint
  /** How it came about. */
  route: Record<string, unknown>
}

/** A world of its own: hosts, one tenant, one model name. */
export class World {
  readonly hosts = new Map<string, Host>()
  readonly agents: FakeAgent[] = []
  readonly calls: { host: string; body: Record<string, unknown>; headers: Headers }[] = []
  readonly app: ReturnType<typeof createApp>
  readonly model = newName('model')
  tenant: Tenant | undefined

  constructor(timings: Partial<Timings> = {}) {
    // A backend that fails is not waited for where that is not what a test is about.
    const ports = systemPorts({ resumeMs: 0, ...timings })
    this.app = createApp({ ...ports, fetch: (input, init) => this.fetch(input, init) })
  }

  /** The network. Unknown hosts refuse the connection; an aborted call rejects as a real one does. */
  async fetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response> {
    const request = new Request(input as RequestInfo, init as RequestInit)
    const signal = init?.signal ?? undefined
    const host = this.hosts.get(new URL(request.url).host)
    if (host === undefined) throw new TypeError('connection refused')
    const text = await request.clone().text()
    this.calls.push({ host: new URL(request.url).host, body: JSON.parse(text), headers: request.headers })
    const answering = Promise.resolve(host(new Request(request, signal ? { signal } : {})))
    if (signal === undefined) return answering
    const aborted = new Promise<never>((_, reject) => {
      if (signal.aborted) reject(signal.reason)
      else signal.addEventListener('abort', () => reject(signal.reason))
    })
    return Promise.race([answering, aborted])
  }

  async agent(script: AgentScript, models: string[] = [this.model]): Promise<FakeAgent> {
    const agent = new FakeAgent(script)
    this.agents.push(agent)
    await agent.join(models.map((model) => frame(model)))
    this.hosts.set(new URL(agent.url).host, (request) => agent.handle(request))
    return agent
  }

  /** Registers an OpenAI-compatible provider and its host; answers the provider's name. */
  async provider(host: Host, secret = `sk-upstream-${crypto.randomUUID()}`): Promise<string> {
    const name = newName('vendor')
    const hostname = `${name}.example.com`
    const made = await admin('PUT', `/providers/${name}`, {
      kind: 'openai_compatible',
      base_url: `https://${hostname}/v1`,
      secret,
    })
    if (made.status >= 300) throw new Error(made.text)
    this.hosts.set(hostname, host)
    return name
  }

  /** Puts the model before its targets, priced: $1 per million input tokens, $2 output, $0.5 cached. */
  async catalog(targets: Target[], policy?: Record<string, unknown>): Promise<void> {
    for (const target of targets) {
      const priced = await admin('POST', '/prices', {
        provider: target.provider,
        model: target.model,
        usd_per_million: { input_uncached: '1', input_cache_read: '0.5', output_text: '2', output_reasoning: '2' },
      })
      if (priced.status >= 300) throw new Error(priced.text)
    }
    const made = await admin('PUT', `/models/${this.model}`, { targets, ...(policy === undefined ? {} : { policy }) })
    if (made.status >= 300) throw new Error(made.text)
  }

  async ownTenant(): Promise<Tenant> {
    this.tenant ??= await newTenant()
    return this.tenant
  }

  /** Sends a request with the tenant's key. `settled` resolves when all background work is done. */
  async send(
    path: string,
    body: unknown,
    options: { headers?: Record<string, string>; signal?: AbortSignal; key?: string; env?: Env } = {},
  ): Promise<{ response: Response; settled: () => Promise<void> }> {
    const key = options.key ?? (await this.ownTenant()).key
    const context = createExecutionContext()
    const request = new Request(`http://gateway.test${path}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...options.headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
      ...(options.signal ? { signal: options.signal } : {}),
    })
    const response = await this.app.fetch(request, options.env ?? env, context)
    return { response, settled: () => waitOnExecutionContext(context) }
  }

  chat(over: Record<string, unknown> = {}, options: Parameters<World['send']>[2] = {}) {
    const body = { model: this.model, messages: [{ role: 'user', content: 'Say something.' }], ...over }
    return this.send('/v1/chat/completions', body, options)
  }

  /** What Postgres has on this tenant, and that no hold is open. */
  async recorded(): Promise<{
    attempts: AttemptRow[]
    requests: { status: string; attempts: number }[]
    holds: number
  }> {
    const { orgId } = await this.ownTenant()
    const account = env.ACCOUNT.getByName(orgId)
    await account.flush()
    const database = connect(env)
    const attempts = await database.run({
      text: `select attempt, provider, status, http_status, charge, usage_source, input_uncached, input_cache_read,
               output_text, cost_nanousd, route
             from usage_attempts where org_id = $1 order by request_id, attempt`,
      params: [orgId],
    })
    const requests = await database.run({
      text: 'select status, attempts from usage_requests where org_id = $1',
      params: [orgId],
    })
    const { openHolds } = await account.inspect()
    return {
      attempts: attempts.rows.map((row) => ({
        attempt: Number(row[0]),
        provider: String(row[1]),
        status: String(row[2]),
        httpStatus: Number(row[3]),
        charge: String(row[4]),
        source: String(row[5]),
        input: Number(row[6]),
        cached: Number(row[7]),
        output: Number(row[8]),
        costNanoUsd: BigInt(String(row[9])),
        route: JSON.parse(String(row[10] ?? '{}')),
      })),
      requests: requests.rows.map((row) => ({ status: String(row[0]), attempts: Number(row[1]) })),
      holds: openHolds.length,
    }
  }
}

/** Events of a client's stream: parsed data, comments, and whether it ended with the end mark. */
export function readSse(text: string): { data: Record<string, unknown>[]; comments: number; done: boolean } {
  const data: Record<string, unknown>[] = []
  let comments = 0
  let done = false
  for (const block of text.split('\n\n')) {
    if (block.startsWith(':')) comments++
    else if (block === 'data: [DONE]') done = true
    else if (block.startsWith('data: ')) data.push(JSON.parse(block.slice(6)))
  }
  return { data, comments, done }
}

/** A promise that a test resolves. */
export function gate(): { opened: Promise<void>; open: () => void } {
  let open = () => {}
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { opened, open }
}
