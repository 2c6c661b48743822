// Usage rows as an account would write them, and what they must add up to: the slow, obvious way, row by row, with the
// runtime's own calendar. The rollups and every report are held against it.
import { env } from 'cloudflare:test'
import { connect } from '../../../gateway/db/connect.ts'
import { writeEntries } from '../../../gateway/ledger/flush.ts'
import type { AttemptRow, OutboxEntry, RequestRow } from '../../../gateway/ledger/outbox.ts'
import { transfersOf } from '../../../gateway/ledger/postings.ts'
import { rollUp } from '../../../gateway/ledger/rollups.ts'
import { COUNTED_ROLES, mapSums, ROLE_FIELDS, type SumField } from '../../../gateway/ledger/usage-facts.ts'
import { USAGE_PARTS } from '../../../gateway/meter/usage.ts'
import { PRICE, used } from './account.ts'

export const NOON_MS = Date.UTC(2026, 10, 22, 12)

export function attemptRow(orgId: string, change: Partial<AttemptRow> = {}): AttemptRow {
  const startedAtMs = change.startedAtMs ?? NOON_MS
  return {
    orgId,
    requestId: crypto.randomUUID(),
    attempt: 1,
    kind: 'attempt',
    projectId: orgId,
    keyId: orgId,
    provider: 'fleet',
    modelRequested: 'small',
    modelServed: 'smollm2',
    stream: true,
    status: 'ok',
    httpStatus: 200,
    charge: 'customer',
    usage: used(10, 5),
    usageSource: 'provider',
    costNanoUsd: 20n,
    pricing: 'priced',
    price: PRICE,
    startedAtMs,
    endedAtMs: startedAtMs + 1_000,
    recordedAtMs: startedAtMs + 1_100,
    ...change,
  }
}

/** The request's own row, ended by this attempt. */
export function requestRow(row: AttemptRow, change: Partial<RequestRow> = {}): RequestRow {
  const {
    attempt,
    kind: _k,
    charge: _c,
    usageSource: _s,
    pricing: _p,
    price: _q,
    providerCostNanoUsd: _n,
    cacheSavingsNanoUsd: _v,
    route: _t,
    ...facts
  } = row
  const { rawUsage: _r, inconsistent: _i, ...shared } = facts
  return { ...shared, attempts: attempt, ...change }
}

export const entryOf = (attempts: AttemptRow[], request?: RequestRow): OutboxEntry => ({
  attempts,
  transfers: attempts.flatMap(transfersOf),
  request,
})

/** One request with one attempt. */
export function simpleEntry(orgId: string, change: Partial<AttemptRow> = {}): OutboxEntry {
  const row = attemptRow(orgId, change)
  return entryOf([row], requestRow(row))
}

export async function write(entries: OutboxEntry[]): Promise<void> {
  for (let from = 0; from < entries.length; from += 100) {
    const conflicts = await writeEntries(connect(env), entries.slice(from, from + 100))
    if (conflicts.length > 0) throw new Error(`rows were kept out: ${JSON.stringify(conflicts)}`)
  }
}

/** Until nothing is dirty. */
export async function rollAll(orgId: string, database = connect(env), nowMs = NOON_MS): Promise<void> {
  for (;;) {
    const { left, failed } = await rollUp(database, orgId, 50, nowMs)
    if (failed > 0) throw new Error(`${failed} buckets could not be rolled up`)
    if (!left) return
  }
}

export type Fact = AttemptRow | RequestRow
export const factsOf = (entries: readonly OutboxEntry[]): Fact[] =>
  entries.flatMap(({ attempts, request }) => (request === undefined ? attempts : [...attempts, request]))

/** What one row counts for. */
export function countsOf(fact: Fact): Record<SumField, bigint> {
  const counts = mapSums(() => 0n)
  const isFailed = fact.status !== 'ok' && fact.status !== 'client_cancelled'
  if (!('kind' in fact))
    return {
      ...counts,
      requests: 1n,
      failedRequests: isFailed ? 1n : 0n,
      cancelledRequests: fact.status === 'client_cancelled' ? 1n : 0n,
      interruptedRequests: isFailed && fact.stream && fact.firstTokenAtMs !== undefined ? 1n : 0n,
    }
  const own = fact.kind === 'attempt' ? 1n : 0n
  if (fact.charge === 'customer') {
    for (const part of USAGE_PARTS) counts[part] = BigInt(fact.usage[part])
    counts.costNanoUsd = fact.costNanoUsd
    counts.cacheSavingsNanoUsd = fact.cacheSavingsNanoUsd ?? 0n
  } else counts.absorbedNanoUsd = fact.costNanoUsd
  const role = fact.route === undefined ? undefined : JSON.parse(fact.route).role
  for (const counted of COUNTED_ROLES) {
    if (role !== counted) continue
    const [attempts, charged, absorbed] = ROLE_FIELDS[counted]
    counts[attempts] = own
    counts[fact.charge === 'customer' ? charged : absorbed] = fact.costNanoUsd
  }
  if (role === 'cache') counts.cachedAnswers = own
  return {
    ...counts,
    attempts: own,
    providerCostNanoUsd: fact.providerCostNanoUsd ?? 0n,
    estimatedAttempts: fact.usageSource === 'estimated' ? own : 0n,
    partialAttempts: fact.usageSource === 'stream_partial' ? own : 0n,
    inconsistentAttempts: fact.inconsistent === true ? own : 0n,
    unpricedAttempts: fact.pricing === 'price_missing' ? own : 0n,
  }
}

export function addUp(facts: readonly Fact[]): Record<SumField, bigint> {
  return facts.map(countsOf).reduce(
    (sum, one) => mapSums((field) => sum[field] + one[field]),
    mapSums(() => 0n),
  )
}

/** Making one costs more than using it a hundred times. */
const formats = new Map<string, Intl.DateTimeFormat>()

/** Local month, day and hour as the API words them, by the runtime's calendar. */
export function localParts(timeZone: string, atMs: number) {
  const format =
    formats.get(timeZone) ??
    new Intl.DateTimeFormat('en-US', {
      timeZone,
      hourCycle: 'h23',
      year: 'numeric',
      month: '2-digit',
      day: '2-digit',
      hour: '2-digit',
      timeZoneName: 'longOffset',
    })
  formats.set(timeZone, format)
  const parts = new Map(format.formatToParts(atMs).map(({ type, value }) => [type, value]))
  const day = `${parts.get('year')}-${parts.get('month')}-${parts.get('day')}`
  const offset = (parts.get('timeZoneName') ?? 'GMT').replace(/^GMT(\+00:00)?/, '') || 'Z'
  return { month: day.slice(0, 7), day, hour: `${day}T${parts.get('hour')}:00${offset}` }
}
