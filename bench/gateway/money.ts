// The money run: many clients on budgets for few requests, against a real gateway whose parts are killed and stopped
// meanwhile. Owns the tenants, the storm, the rounds of faults and their outcomes; what must hold afterwards is audit.ts.
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { type Ask, ask, type CutAt, type Outcome } from './client.ts'
import type { GatewayStack } from './stack.ts'
import type { Upstream } from './upstream.ts'

export type MoneyRun = {
  stack: GatewayStack
  upstream: Upstream
  /** At the same time. */
  clients: number
  /** Requests that a budget covers in the worst case. */
  room: number
  seed: number
  onProgress?: (line: string) => void
}

/** What happens to the gateway's parts while a round's clients are at work. */
export type Fault =
  | { kind: 'none' }
  | { kind: 'kill_gateway' }
  | { kind: 'stop_postgres'; downMs: number }
  /** Postgres goes first, and comes back last. */
  | { kind: 'kill_gateway_without_postgres'; downMs: number }

/** A key with a lifetime budget, and what its clients saw. */
export type Budget = { keyId: string; key: string; budgetNanoUsd: bigint; outcomes: Outcome[] }

export type Tenant = { orgId: string; projectId: string }

const PROVIDER = 'counted-vendor'
/** Priced per token of the prompt and of the answer. */
export const COUNTED_MODEL = 'counted'
export const COUNTED_PRICE = { inputNanoUsd: 1n, outputNanoUsd: 2n }
/** Priced per token of the answer alone, so that the worst case of a request is its `max_tokens` in nano-dollars. */
const EXACT_MODEL = 'exact'
const TOKENS = 16
const PROMPT = 'Count what this costs.'
/** What the gateway adds to the bytes of a chat prompt to be sure: see worstCase. */
const PROMPT_OVERHEAD_TOKENS = 272
/** Short, so that what a killed gateway left open ends soon. */
const DEADLINE_MS = 4_000
/** Long enough that all clients ask while the first ones still run. */
const CHUNK_MS = 15
/** Long enough that Postgres can be stopped and many requests still run when the gateway is killed after it. */
const SLOW_CHUNK_MS = 120
const ROUND_MAX_MS = 60_000
/** Requests that one client sends in a round, the refused ones not counted. */
const REQUESTS_PER_CLIENT_MAX = 3
/** A fault comes when this many requests of its round have been served whole, or when that does not happen in time. */
const FAULT_AFTER_REQUESTS = 10
const FAULT_WAIT_MS = 5_000
const PAUSE_MS = 100
const BACK_WAIT_MS = 15_000

const Identified = z.object({ id: z.string() })
const NewKey = z.object({ id: z.string(), key: z.string() })

/** Registers upstream, prices and models, and makes an organisation. */
export async function openTenant({ stack, upstream }: MoneyRun): Promise<Tenant> {
  const { admin } = stack
  await admin.call('PUT', `/providers/${PROVIDER}`, z.unknown(), {
    kind: 'openai_compatible',
    base_url: upstream.baseUrl,
    allow_private: true,
    secret: 'counted',
  })
  const usd = (nanoUsdPerToken: bigint) => (Number(nanoUsdPerToken) / 1000).toString()
  const price = async (model: string, input: bigint, output: bigint) => {
    const parts = { input_uncached: usd(input), input_cache_read: usd(input), output_text: usd(output) }
    await admin.call('POST', '/prices', z.unknown(), {
      provider: PROVIDER,
      model,
      usd_per_million: { ...parts, output_reasoning: usd(output) },
    })
    const targets = [{ provider: PROVIDER, model, context_tokens: 1_000_000 }]
    await admin.call('PUT', `/models/${model}`, z.unknown(), { targets })
  }
  await price(COUNTED_MODEL, COUNTED_PRICE.inputNanoUsd, COUNTED_PRICE.outputNanoUsd)
  await price(EXACT_MODEL, 0n, 1n)
  const org = await admin.call('POST', '/organisations', Identified, { slug: 'money', name: 'Money run' })
  const project = await admin.call('POST', `/organisations/${org.id}/projects`, Identified, {
    slug: 'money',
    name: 'Money run',
  })
  return { orgId: org.id, projectId: project.id }
}

/** A key whose lifetime budget is this much. */
export async function openBudget({ stack }: MoneyRun, tenant: Tenant, budgetNanoUsd: bigint): Promise<Budget> {
  await answered(() => stack.admin.call('GET', `/organisations/${tenant.orgId}`, z.unknown()))
  const path = `/organisations/${tenant.orgId}/keys`
  const made = await stack.admin.call('POST', path, NewKey, { project_id: tenant.projectId, name: 'budget' })
  const dollars = (Number(budgetNanoUsd) / 1e9).toFixed(9)
  await stack.admin.call('PUT', `${path}/${made.id}/limits`, z.unknown(), {
    limits: [{ meter: 'money', window: 'lifetime', max_usd: dollars }],
  })
  return { keyId: made.id, key: made.key, budgetNanoUsd, outcomes: [] }
}

/** The gateway leaves a database that was away alone for a moment, also once it is back. */
async function answered(ask: () => Promise<unknown>): Promise<void> {
  const until = performance.now() + BACK_WAIT_MS
  for (;;) {
    try {
      await ask()
      return
    } catch (error) {
      if (performance.now() > until) throw error
      await sleep(PAUSE_MS)
    }
  }
}

/** What `room` requests of the rounds cost at most. */
export const roundBudget = (room: number): bigint =>
  BigInt(room) *
  (COUNTED_PRICE.inputNanoUsd * BigInt(Buffer.byteLength(PROMPT) + PROMPT_OVERHEAD_TOKENS) +
    COUNTED_PRICE.outputNanoUsd * BigInt(TOKENS))

/** What `room` requests of the storm cost, to the nano-dollar. */
export const stormBudget = (room: number): bigint => BigInt(room * TOKENS)

/** All clients ask at once, each for exactly its share of the budget. */
export async function storm(run: MoneyRun, budget: Budget): Promise<void> {
  run.upstream.options = { chunkMs: CHUNK_MS }
  const body = chat(EXACT_MODEL, TOKENS)
  const all = Array.from({ length: run.clients }, () =>
    ask({ port: run.stack.port, key: budget.key, body, cutAt: 'never' }),
  )
  budget.outcomes.push(...(await Promise.all(all)))
  run.onProgress?.(`storm: ${countsOf(budget.outcomes)}`)
}

/** One budget, all clients, one fault. Each client asks until the budget refuses it, and hangs up where chance says. */
export async function round(run: MoneyRun, budget: Budget, fault: Fault): Promise<void> {
  const random = generator(run.seed)
  const chunkMs = fault.kind === 'kill_gateway_without_postgres' ? SLOW_CHUNK_MS : CHUNK_MS
  run.upstream.options = { chunkMs, outputTokens: (allowed) => 1 + random(allowed) }
  const until = performance.now() + ROUND_MAX_MS
  const clients = Promise.all(
    Array.from({ length: run.clients }, async () => {
      await sleep(random(4 * CHUNK_MS))
      for (let sent = 0; sent < REQUESTS_PER_CLIENT_MAX && performance.now() < until; ) {
        const outcome = await ask(randomAsk(run, budget, random))
        budget.outcomes.push(outcome)
        if (outcome.code === 'insufficient_quota') return
        if (outcome.ended === 'whole' || outcome.ended === 'cut') sent++
        else await sleep(outcome.retryAfterMs ?? PAUSE_MS)
      }
    }),
  )
  await Promise.all([clients, commit(run, fault)])
  run.onProgress?.(`${fault.kind}: ${countsOf(budget.outcomes)}`)
}

async function commit({ stack, upstream }: MoneyRun, fault: Fault): Promise<void> {
  const before = wholeOf(upstream)
  const until = performance.now() + FAULT_WAIT_MS
  const afterRequests = fault.kind === 'kill_gateway_without_postgres' ? 1 : FAULT_AFTER_REQUESTS
  while (wholeOf(upstream) < before + afterRequests && performance.now() < until) await sleep(1)
  switch (fault.kind) {
    case 'none':
      return
    case 'kill_gateway':
      await stack.killGateway()
      await stack.startGateway()
      return
    case 'stop_postgres':
      await stack.stopPostgres()
      await sleep(fault.downMs)
      await stack.startPostgres()
      return
    case 'kill_gateway_without_postgres':
      await stack.stopPostgres()
      await stack.killGateway()
      await stack.startGateway()
      await sleep(fault.downMs)
      await stack.startPostgres()
      return
    default:
      fault satisfies never
  }
}

const wholeOf = ({ served }: Upstream): number => served.filter(({ complete }) => complete).length

/** Whether a request that costs this much at most is admitted now. What it uses is one token. */
export async function admits(run: MoneyRun, budget: Budget, worstNanoUsd: bigint): Promise<Outcome> {
  run.upstream.options = { chunkMs: 0, outputTokens: () => 1 }
  const outcome = await ask({
    port: run.stack.port,
    key: budget.key,
    body: chat(EXACT_MODEL, Number(worstNanoUsd)),
    cutAt: 'never',
  })
  budget.outcomes.push(outcome)
  return outcome
}

const chat = (model: string, maxTokens: number) => ({
  model,
  max_tokens: maxTokens,
  messages: [{ role: 'user', content: PROMPT }],
})

const CUTS: CutAt[] = ['never', 'never', 'before_headers', 'first_chunk', 'before_usage', 'after_end']

function randomAsk(run: MoneyRun, budget: Budget, random: Random): Ask {
  return {
    port: run.stack.port,
    key: budget.key,
    body: chat(COUNTED_MODEL, TOKENS),
    headers: { 'x-penstock-deadline-ms': String(DEADLINE_MS) },
    cutAt: CUTS[random(CUTS.length)] ?? 'never',
    // From before the hold to after the first chunk.
    cutAfterMs: random(4 * CHUNK_MS),
    reset: random(2) === 0,
  }
}

/** How many ended how, most first. */
export function countsOf(outcomes: Outcome[]): string {
  const counts = new Map<string, number>()
  for (const { ended, code } of outcomes) {
    const name = code === undefined ? ended : `${ended} (${code})`
    counts.set(name, (counts.get(name) ?? 0) + 1)
  }
  const sorted = [...counts].sort(([, a], [, b]) => b - a)
  return sorted.map(([name, count]) => `${count} ${name}`).join(', ')
}

type Random = (limit: number) => number

/** Mulberry32, so that a seed gives the same choices again. */
function generator(seed: number): Random {
  let state = seed | 0
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit
  }
}
