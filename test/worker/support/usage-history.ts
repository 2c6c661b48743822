// Random histories of usage, and the questions that rollups and rows must answer alike. The slow way of counting is usage-rows.ts.
import { env } from 'cloudflare:test'
import { expect } from 'vitest'
import { connect } from '../../../gateway/db/connect.ts'
import { breakdown } from '../../../gateway/ledger/breakdown.ts'
import type { AttemptRow, OutboxEntry } from '../../../gateway/ledger/outbox.ts'
import type { Question } from '../../../gateway/ledger/sources.ts'
import { classOf } from '../../../gateway/ledger/status-class.ts'
import { BUCKET_MS, type Dimension } from '../../../gateway/ledger/usage-facts.ts'
import { NO_USAGE, USAGE_PARTS } from '../../../gateway/meter/usage.ts'
import { addUp, attemptRow, entryOf, type Fact, localParts, requestRow } from './usage-rows.ts'

/** Mulberry32: the same history for the same seed. */
export function random(seed: number) {
  let state = seed
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const below = (count: number) => Math.floor(next() * count)
  return { below, pick: <T>(from: readonly T[]): T => from[below(from.length)] as T }
}

export const FROM_MS = Date.UTC(2026, 9, 24)
export const TO_MS = Date.UTC(2026, 10, 3)

/** Ten days around the ends of summer time in Europe, on Lord Howe and in America; with fallbacks and late corrections. */
export function history(orgId: string, seed: number, requests: number): OutboxEntry[] {
  const { below, pick } = random(seed)
  const ids = Array.from({ length: 3 }, () => crypto.randomUUID())
  const people = [undefined, crypto.randomUUID(), crypto.randomUUID()]
  const machines = [undefined, crypto.randomUUID(), crypto.randomUUID()]
  const tags = [undefined, 'env=prod', 'env=test,feature=search', 'feature=search', 'env=prod-eu,xenv=prod']
  const customers = [undefined, undefined, 'ann', 'bob,x']
  const roles = ['primary', 'fallback', 'retry', 'hedge', 'cascade', 'shadow', 'cache']
  const row = (change: Partial<AttemptRow>): AttemptRow => {
    const startedAtMs = change.startedAtMs ?? FROM_MS + below(TO_MS - FROM_MS)
    const usage = { ...NO_USAGE }
    for (const part of USAGE_PARTS) if (below(3) === 0) usage[part] = below(1_000)
    return attemptRow(orgId, {
      projectId: pick(ids),
      keyId: pick(ids),
      userId: pick(people),
      teamId: pick(people),
      provider: pick(['fleet', 'vendor']),
      modelRequested: pick(['small', 'large', 'a|b']),
      modelServed: pick(['smollm2', 'x']),
      status: pick(['ok', 'ok', 'client_cancelled', 'engine_lost']),
      stream: below(2) === 0,
      backendId: pick(machines),
      tags: pick(tags),
      endUser: pick(customers),
      route: below(4) === 0 ? undefined : JSON.stringify({ role: pick(roles), reason: 'ordered' }),
      cacheSavingsNanoUsd: below(3) === 0 ? undefined : BigInt(below(1_000)),
      usage,
      costNanoUsd: BigInt(below(1_000_000)),
      providerCostNanoUsd: below(2) === 0 ? BigInt(below(1_000)) : undefined,
      charge: pick(['customer', 'customer', 'absorbed']),
      usageSource: pick(['provider', 'stream_partial', 'estimated']),
      inconsistent: below(5) === 0,
      startedAtMs,
      firstTokenAtMs: below(4) === 0 ? undefined : startedAtMs + below(20_000),
      endedAtMs: startedAtMs + 20_000 + below(40_000),
      ...change,
    })
  }
  return Array.from({ length: requests }, () => {
    const first = row({})
    const attempts = [first]
    let last = first
    if (below(5) === 0) {
      last = row({ ...first, attempt: 2, provider: 'vendor', startedAtMs: first.startedAtMs + below(2 * BUCKET_MS) })
      attempts.push(last)
    }
    if (below(5) === 0) attempts.push({ ...last, kind: 'adjustment', costNanoUsd: -BigInt(below(500)), status: 'ok' })
    if (below(9) === 0) attempts.push({ ...last, kind: 'reversal', charge: 'absorbed', costNanoUsd: -last.costNanoUsd })
    return entryOf(attempts, requestRow(last, { startedAtMs: first.startedAtMs }))
  })
}

const FIELD: Record<Dimension, (fact: Fact) => string | undefined> = {
  project: (fact) => fact.projectId,
  key: (fact) => fact.keyId,
  user: (fact) => fact.userId,
  team: (fact) => fact.teamId,
  model: (fact) => fact.modelRequested,
  model_served: (fact) => fact.modelServed,
  provider: (fact) => fact.provider,
  status: (fact) => fact.status,
  backend: (fact) => fact.backendId,
  end_user: (fact) => fact.endUser,
  tag: (fact) => tagOf(fact, 'env'),
}
const tagOf = (fact: Fact, name: string) =>
  fact.tags
    ?.split(',')
    .map((tag) => tag.split('='))
    .find(([one]) => one === name)?.[1]

export const question = (orgId: string, change: Partial<Question> = {}): Question => ({
  orgId,
  fromMs: FROM_MS,
  toMs: TO_MS,
  filters: {},
  dimensions: [],
  tagName: 'env',
  timeZone: 'UTC',
  top: 1_000,
  latency: 'lines',
  ...change,
})

/** Lines of an answer as a table that two ways of counting must agree on, total last. */
async function counted(asked: Question): Promise<Map<string, string>> {
  const { lines, total } = await breakdown(connect(env), asked)
  const table = new Map(
    lines.map(({ time, names, sums }) => [JSON.stringify([time ?? null, ...names.map(orNull)]), text(sums)]),
  )
  return table.set('total', text(total))
}

/** What the API takes to find the fact by a dimension. */
export function filterBy(fact: Fact, dimension: Dimension): Question['filters'] {
  const value = FIELD[dimension](fact)
  if (dimension === 'tag') return { tag: value === undefined ? '!env' : `env=${value}` }
  return { [dimension]: value ?? 'none' }
}

function passes(fact: Fact, dimension: Dimension, wanted: string | undefined): boolean {
  if (wanted === undefined) return true
  if (dimension === 'tag') {
    if (wanted.startsWith('!')) return tagOf(fact, wanted.slice(1)) === undefined
    const [name = '', value] = wanted.split('=')
    return tagOf(fact, name) === value
  }
  return FIELD[dimension](fact) === (wanted === 'none' ? undefined : wanted)
}

function bruteForce(facts: readonly Fact[], asked: Question): Map<string, string> {
  const inside = facts.filter(
    (fact) =>
      fact.startedAtMs >= asked.fromMs &&
      fact.startedAtMs < asked.toMs &&
      (asked.statusClass === undefined || classOf(fact.status) === asked.statusClass) &&
      Object.entries(asked.filters).every(([name, value]) => passes(fact, name as Dimension, value)),
  )
  const { step } = asked
  const groups = Map.groupBy(inside, (fact) => {
    const time = step === undefined ? null : localParts(asked.timeZone, fact.startedAtMs)[step]
    return JSON.stringify([time, ...asked.dimensions.map((dimension) => orNull(FIELD[dimension](fact)))])
  })
  const table = new Map([...groups].map(([key, some]) => [key, text(addUp(some))]))
  return table.set('total', text(addUp(inside)))
}

const orNull = (name: string | undefined) => name ?? null
const text = (sums: Record<string, bigint>) =>
  JSON.stringify(
    Object.entries(sums)
      .map(([name, value]) => [name, `${value}`])
      .sort(),
  )
const sorted = (table: Map<string, string>) => [...table].sort(([a], [b]) => (a < b ? -1 : 1))

export async function expectSame(facts: readonly Fact[], asked: Question) {
  expect(sorted(await counted(asked))).toEqual(sorted(bruteForce(facts, asked)))
}
