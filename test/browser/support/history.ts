// Weeks of usage for the dashboard to show. Owns the story (which teams, models, troubles) and its writing through the
// gateway's own ledger code, so that rows, postings and prices agree as they do in production.
import postgres from 'postgres'
import type { Database, SqlResult, Statement } from '../../../gateway/db/port.ts'
import { writeEntries } from '../../../gateway/ledger/flush.ts'
import type { AttemptRow, OutboxEntry } from '../../../gateway/ledger/outbox.ts'
import { transfersOf } from '../../../gateway/ledger/postings.ts'
import { cacheSavings, charge, type PriceQuote } from '../../../gateway/meter/price.ts'
import { mapParts, type Usage } from '../../../gateway/meter/usage.ts'

type Admin = <T>(method: string, path: string, body?: unknown) => Promise<T>
type Served = {
  model: string
  provider: string
  served: string
  share: number
  price: PriceQuote
  firstTokenMs: number
  msPerToken: number
}

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
/** One transaction's worth of rows. */
const ENTRIES_PER_BATCH = 200
/** Calls of /usage/rollup, each of which rolls a hundred buckets: a bound on waiting. */
const ROLL_CALLS_MAX = 200

const price = (id: string, input: number, cached: number, output: number): PriceQuote => ({
  priceVersionId: id,
  perMillion: {
    inputUncached: BigInt(input),
    inputCacheRead: BigInt(cached),
    inputCacheWrite5m: BigInt(Math.round(input * 1.25)),
    outputText: BigInt(output),
    outputReasoning: BigInt(output),
  },
})

const SERVED: readonly Served[] = [
  {
    model: 'assistant',
    provider: 'openai',
    served: 'gpt-5-mini',
    share: 0.38,
    price: price('price-assistant', 250_000_000, 25_000_000, 2_000_000_000),
    firstTokenMs: 420,
    msPerToken: 9,
  },
  {
    model: 'reviewer',
    provider: 'anthropic',
    served: 'claude-sonnet-4-5',
    share: 0.14,
    price: price('price-reviewer', 3_000_000_000, 300_000_000, 15_000_000_000),
    firstTokenMs: 780,
    msPerToken: 14,
  },
  {
    model: 'smollm2-135m-instruct',
    provider: 'fleet',
    served: 'smollm2-135m-instruct',
    share: 0.3,
    price: price('price-fleet', 40_000_000, 4_000_000, 120_000_000),
    firstTokenMs: 90,
    msPerToken: 5,
  },
  {
    model: 'extract',
    provider: 'mistral',
    served: 'mistral-small-latest',
    share: 0.12,
    price: price('price-extract', 100_000_000, 10_000_000, 300_000_000),
    firstTokenMs: 260,
    msPerToken: 6,
  },
  {
    model: 'embed',
    provider: 'fleet',
    served: 'qwen3-embedding-0.6b',
    share: 0.06,
    price: price('price-embed', 10_000_000, 1_000_000, 0),
    firstTokenMs: 35,
    msPerToken: 0,
  },
]

const KEYS: readonly { name: string; project: string; share: number; tags: string }[] = [
  { name: 'support-bot', project: 'support', share: 0.34, tags: 'env=production,feature=answers' },
  { name: 'code-review', project: 'engineering', share: 0.22, tags: 'env=production,feature=review' },
  { name: 'nightly-extract', project: 'data', share: 0.16, tags: 'env=production,feature=extract' },
  { name: 'search-index', project: 'data', share: 0.1, tags: 'env=production,feature=search' },
  { name: 'staging', project: 'engineering', share: 0.09, tags: 'env=staging' },
  { name: 'ada-laptop', project: 'engineering', share: 0.05, tags: 'env=development' },
  { name: 'summaries', project: 'support', share: 0.04, tags: 'env=production,feature=summaries' },
]

/** mulberry32: the same story from the same seed. */
function dice(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Working hours in Europe, quieter weekends, slow growth. */
function busyness(atMs: number, startMs: number): number {
  const at = new Date(atMs)
  const hour = (at.getUTCHours() + 1) % 24
  const day = at.getUTCDay()
  const byHour = hour >= 8 && hour <= 18 ? 1 : hour >= 6 && hour <= 22 ? 0.45 : 0.16
  const byDay = day === 0 || day === 6 ? 0.35 : 1
  return byHour * byDay * (1 + (atMs - startMs) / (120 * DAY_MS))
}

/**
 * Plants keys, projects and weeks of requests into an organisation, and rolls them up.
 * @param requests about how many in all
 */
export async function plantHistory(options: {
  databaseUrl: string
  admin: Admin
  orgId: string
  nowMs: number
  days: number
  requests: number
  seed?: number
}): Promise<{ keys: { id: string; name: string }[]; requests: number }> {
  const { admin, orgId, nowMs, days, requests } = options
  const random = dice(options.seed ?? 1)
  const keys = await plantKeys(admin, orgId)
  const startMs = nowMs - days * DAY_MS
  const hours = Array.from({ length: days * 24 }, (_, index) => startMs + index * HOUR_MS)
  const weight = hours.reduce((sum, atMs) => sum + busyness(atMs, startMs), 0)
  const entries = hours.flatMap((hourMs) => {
    const count = Math.round((requests * busyness(hourMs, startMs)) / weight + random() - 0.5)
    return Array.from({ length: Math.max(0, count) }, () => one(orgId, keys, hourMs, nowMs, random))
  })
  const database = openDatabase(options.databaseUrl)
  try {
    for (let from = 0; from < entries.length; from += ENTRIES_PER_BATCH)
      await writeEntries(database, entries.slice(from, from + ENTRIES_PER_BATCH))
  } finally {
    await database.close()
  }
  for (let call = 0; call < ROLL_CALLS_MAX; call++) {
    const rolled = await admin<{ data: { left: boolean }[] }>('POST', '/usage/rollup', { org: orgId })
    if (!rolled.data.some(({ left }) => left)) break
  }
  await analyse(options.databaseUrl)
  return { keys, requests: entries.length }
}

/** As autovacuum does after a while: a planner that takes the tables for empty joins them row by row. */
async function analyse(databaseUrl: string): Promise<void> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} })
  await sql`ANALYZE`.finally(() => sql.end({ timeout: 5 }))
}

type Key = { id: string; name: string; projectId: string; share: number; tags: string }

async function plantKeys(admin: Admin, orgId: string): Promise<Key[]> {
  const projects = new Map<string, string>()
  const keys: Key[] = []
  for (const { name, project, share, tags } of KEYS) {
    let projectId = projects.get(project)
    if (projectId === undefined) {
      const title = `${project[0]?.toUpperCase()}${project.slice(1)}`
      const made = await admin<{ id: string }>('POST', `/organisations/${orgId}/projects`, {
        slug: project,
        name: title,
      })
      projectId = made.id
      projects.set(project, projectId)
    }
    const { id } = await admin<{ id: string }>('POST', `/organisations/${orgId}/keys`, { project_id: projectId, name })
    keys.push({ id, name, projectId, share, tags })
  }
  return keys
}

function pick<T extends { share: number }>(all: readonly T[], random: () => number): T {
  let left = random() * all.reduce((sum, { share }) => sum + share, 0)
  for (const item of all) {
    left -= item.share
    if (left <= 0) return item
  }
  return all[all.length - 1] as T
}

function one(orgId: string, keys: readonly Key[], hourMs: number, nowMs: number, random: () => number): OutboxEntry {
  const key = pick(keys, random)
  const served = pick(SERVED, random)
  const startedAtMs = Math.min(hourMs + Math.floor(random() * HOUR_MS), nowMs - 60_000)
  const input = Math.round(200 + random() ** 3 * 14_000)
  const cached = random() < 0.55 ? Math.round(input * (0.3 + random() * 0.6)) : 0
  const output = served.msPerToken === 0 ? 0 : Math.round(20 + random() ** 2 * 1_400)
  const reasoning = served.provider === 'openai' ? Math.round(output * random() * 0.6) : 0
  const luck = random()
  const failed = luck > 0.985
  const fallsBack = !failed && served.provider !== 'fleet' && luck < 0.03
  const cancelled = !failed && !fallsBack && luck > 0.97
  const slow = 0.7 + random() ** 4 * 3
  const firstTokenAtMs = startedAtMs + Math.round(served.firstTokenMs * slow) + (fallsBack ? 900 : 0)
  const endedAtMs = firstTokenAtMs + Math.round(output * served.msPerToken * slow) + 4
  const usage: Usage = {
    ...mapParts(() => 0),
    inputUncached: input - cached,
    inputCacheRead: cached,
    outputText: output - reasoning,
    outputReasoning: reasoning,
  }
  const requestId = uuid(random)
  const shared = {
    orgId,
    requestId,
    projectId: key.projectId,
    keyId: key.id,
    tags: key.tags,
    modelRequested: served.model,
    stream: served.msPerToken > 0,
    startedAtMs,
    recordedAtMs: endedAtMs + 40,
  }
  const nothing: Usage = mapParts(() => 0)
  const lost = (attempt: number, role: string): AttemptRow => ({
    ...shared,
    attempt,
    kind: 'attempt',
    provider: served.provider,
    modelServed: served.served,
    status: 'upstream_error',
    httpStatus: 502,
    charge: 'absorbed',
    usageSource: 'estimated',
    usage: { ...nothing, inputUncached: Math.round(input / 4) },
    ...charge({ ...nothing, inputUncached: Math.round(input / 4) }, served.price),
    price: served.price,
    endedAtMs: startedAtMs + 850,
    route: JSON.stringify({ role, kind: 'status' }),
  })
  if (failed) {
    const row = lost(1, 'primary')
    return entryOf([row], { ...shared, ...facts(row), attempts: 1, usage: nothing, costNanoUsd: 0n })
  }
  const target = fallsBack ? (SERVED[2] as Served) : served
  const charged = charge(usage, target.price)
  const answer: AttemptRow = {
    ...shared,
    attempt: fallsBack ? 2 : 1,
    kind: 'attempt',
    provider: target.provider,
    modelServed: target.served,
    status: cancelled ? 'client_cancelled' : 'ok',
    httpStatus: 200,
    charge: 'customer',
    usageSource: cancelled ? 'stream_partial' : 'provider',
    usage,
    ...charged,
    price: target.price,
    ...(target.provider === 'fleet' ? {} : { providerCostNanoUsd: charged.costNanoUsd }),
    cacheSavingsNanoUsd: cacheSavings(usage, target.price),
    firstTokenAtMs,
    endedAtMs,
    route: JSON.stringify({ role: fallsBack ? 'fallback' : 'primary', reason: 'ordered', turn: fallsBack ? 2 : 1 }),
  }
  const rows = fallsBack ? [lost(1, 'primary'), answer] : [answer]
  return entryOf(rows, {
    ...shared,
    ...facts(answer),
    firstTokenAtMs,
    attempts: rows.length,
    usage,
    costNanoUsd: charged.costNanoUsd,
  })
}

const facts = ({ provider, modelServed, status, httpStatus, endedAtMs }: AttemptRow) => ({
  provider,
  modelServed,
  status,
  httpStatus,
  endedAtMs,
})

const entryOf = (attempts: AttemptRow[], request: NonNullable<OutboxEntry['request']>): OutboxEntry => ({
  attempts,
  transfers: attempts.flatMap(transfersOf),
  request,
})

function uuid(random: () => number): string {
  const hex = Array.from({ length: 32 }, () => Math.floor(random() * 16).toString(16))
  hex[12] = '4'
  hex[16] = '8'
  const text = hex.join('')
  return [text.slice(0, 8), text.slice(8, 12), text.slice(12, 16), text.slice(16, 20), text.slice(20)].join('-')
}

/** The port over one connection of postgres.js; enough for writing. */
function openDatabase(url: string): Database & { close(): Promise<void> } {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  const run = async (on: postgres.Sql | postgres.TransactionSql, { text, params }: Statement): Promise<SqlResult> => {
    const result = await on.unsafe(text, params as postgres.ParameterOrJSON<never>[]).values()
    return { rows: [...result], count: result.count }
  }
  return {
    run: (statement) => run(sql, statement),
    batch: (statements) =>
      sql.begin(async (transaction) => {
        const results: SqlResult[] = []
        for (const statement of statements) results.push(await run(transaction, statement))
        return results
      }),
    close: () => sql.end({ timeout: 5 }),
  }
}
