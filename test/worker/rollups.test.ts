// Rollups against the rows they are made of: every grouping, every zone, any order of writers and rollers, any failure.
import { env, evictDurableObject } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { connect } from '../../gateway/db/connect.ts'
import { type Database, DatabaseUnavailable } from '../../gateway/db/port.ts'
import { breakdown, type Question } from '../../gateway/ledger/breakdown.ts'
import { writeEntries } from '../../gateway/ledger/flush.ts'
import { percentiles, slotOf } from '../../gateway/ledger/latency.ts'
import type { AttemptRow, OutboxEntry } from '../../gateway/ledger/outbox.ts'
import { backlog, dirtyOrganisations, markRange, rollUp } from '../../gateway/ledger/rollups.ts'
import { TIME_STEPS, type TimeStep } from '../../gateway/ledger/time-steps.ts'
import { BUCKET_MS, DIMENSIONS, type Dimension } from '../../gateway/ledger/usage-facts.ts'
import { NO_USAGE, USAGE_PARTS } from '../../gateway/meter/usage.ts'
import { endOf, eventually, newAccount, used } from './support/account.ts'
import { pausingAt, serialisationFailureAt } from './support/failures.ts'
import {
  addUp,
  attemptRow,
  entryOf,
  type Fact,
  factsOf,
  localParts,
  NOON_MS,
  requestRow,
  rollAll,
  simpleEntry,
  write,
} from './support/usage-rows.ts'

/** Mulberry32: the same history for the same seed. */
function random(seed: number) {
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

const FROM_MS = Date.UTC(2026, 9, 24)
const TO_MS = Date.UTC(2026, 10, 3)

/** Ten days around the ends of summer time in Europe, on Lord Howe and in America; with fallbacks and late corrections. */
function history(orgId: string, seed: number, requests: number): OutboxEntry[] {
  const { below, pick } = random(seed)
  const ids = Array.from({ length: 3 }, () => crypto.randomUUID())
  const people = [undefined, crypto.randomUUID(), crypto.randomUUID()]
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
}

const question = (orgId: string, change: Partial<Question> = {}): Question => ({
  orgId,
  fromMs: FROM_MS,
  toMs: TO_MS,
  filters: {},
  dimensions: [],
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

function bruteForce(facts: readonly Fact[], asked: Question): Map<string, string> {
  const inside = facts.filter(
    (fact) =>
      fact.startedAtMs >= asked.fromMs &&
      fact.startedAtMs < asked.toMs &&
      Object.entries(asked.filters).every(([name, value]) => FIELD[name as Dimension](fact) === value),
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

async function expectSame(facts: readonly Fact[], asked: Question) {
  expect(sorted(await counted(asked))).toEqual(sorted(bruteForce(facts, asked)))
}

describe('every breakdown', () => {
  test('equals the rows added up one by one, whatever it groups by', { timeout: 60_000 }, async () => {
    const orgId = crypto.randomUUID()
    const entries = history(orgId, 1, 200)
    await write(entries)
    await rollAll(orgId)
    const facts = factsOf(entries)
    await expectSame(facts, question(orgId))
    for (const dimension of DIMENSIONS) {
      await expectSame(facts, question(orgId, { dimensions: [dimension] }))
      await expectSame(facts, question(orgId, { dimensions: [dimension, dimension === 'user' ? 'model' : 'user'] }))
    }
    for (const timeZone of ['UTC', 'Europe/Berlin', 'Asia/Kathmandu', 'Australia/Lord_Howe', 'America/New_York'])
      for (const step of TIME_STEPS) {
        await expectSame(facts, question(orgId, { step, timeZone }))
        if (step === 'day') await expectSame(facts, question(orgId, { step, timeZone, dimensions: ['status'] }))
      }
  })

  test('keeps to its filters and to ranges that cut quarter hours', { timeout: 60_000 }, async () => {
    const orgId = crypto.randomUUID()
    const entries = history(orgId, 2, 100)
    await write(entries)
    await rollAll(orgId)
    const facts = factsOf(entries)
    const { below, pick } = random(3)
    for (let round = 0; round < 20; round++) {
      const one = pick(facts)
      // On a row, beside a row, inside one quarter hour, and anywhere.
      const fromMs = pick([one.startedAtMs, one.startedAtMs + 1, FROM_MS + below(TO_MS - FROM_MS)])
      const toMs = fromMs + pick([1, 60_000, BUCKET_MS, 1 + below(3 * BUCKET_MS), 1 + below(TO_MS - FROM_MS)])
      const dimension = pick(DIMENSIONS)
      const value = FIELD[dimension](one)
      const filters = value === undefined ? {} : { [dimension]: value }
      const step = pick<TimeStep | undefined>([undefined, 'hour', 'day'])
      await expectSame(facts, question(orgId, { fromMs, toMs, filters, step, timeZone: 'Asia/Kathmandu' }))
    }
  })

  test('names the hour that a clock runs through twice two times, in order', async () => {
    const orgId = crypto.randomUUID()
    const hours = [0, 1, 2].map((hour) => Date.UTC(2026, 9, 25, hour))
    await write(hours.map((startedAtMs) => simpleEntry(orgId, { startedAtMs })))
    await rollAll(orgId)
    const { lines } = await breakdown(connect(env), question(orgId, { step: 'hour', timeZone: 'Europe/Berlin' }))
    expect(lines.map(({ time }) => time)).toEqual([
      '2026-10-25T02:00+02:00',
      '2026-10-25T02:00+01:00',
      '2026-10-25T03:00+01:00',
    ])
  })

  test('shows the dearest and adds up the rest, the same ones at every step of time', async () => {
    const orgId = crypto.randomUUID()
    const spent: [string, number, bigint][] = [
      ['a', 0, 5n],
      ['b', 0, 90n],
      ['c', 0, 7n],
      ['a', 24, 100n],
      ['c', 24, 8n],
      ['d', 24, 0n],
    ]
    await write(
      spent.map(([modelRequested, hours, costNanoUsd]) =>
        simpleEntry(orgId, { modelRequested, costNanoUsd, startedAtMs: NOON_MS + hours * 3_600_000 }),
      ),
    )
    await rollAll(orgId)
    const range = { fromMs: NOON_MS - BUCKET_MS, toMs: NOON_MS + 48 * 3_600_000 }
    const shown = async (change: Partial<Question>) => {
      const { lines, total } = await breakdown(
        connect(env),
        question(orgId, { ...range, dimensions: ['model'], top: 2, ...change }),
      )
      expect(total).toMatchObject({ costNanoUsd: 210n, requests: 6n })
      return lines.map(({ time, names, other, sums }) => [
        time,
        other ? 'other' : names[0],
        sums.costNanoUsd,
        sums.requests,
      ])
    }
    expect(await shown({})).toEqual([
      [undefined, 'a', 105n, 2n],
      [undefined, 'b', 90n, 1n],
      [undefined, 'other', 15n, 3n],
    ])
    expect(await shown({ step: 'day' })).toEqual([
      ['2026-11-22', 'a', 5n, 1n],
      ['2026-11-22', 'b', 90n, 1n],
      ['2026-11-22', 'other', 7n, 1n],
      ['2026-11-23', 'a', 100n, 1n],
      ['2026-11-23', 'other', 8n, 2n],
    ])
  })

  test('has percentiles over requests that ended well, for each line and over all', async () => {
    const orgId = crypto.randomUUID()
    const { below } = random(4)
    const durations = Array.from({ length: 120 }, () => below(30_000))
    const model = (index: number) => (index % 3 === 0 ? 'large' : 'small')
    const timed = durations.map((durationMs, index) =>
      simpleEntry(orgId, {
        modelRequested: model(index),
        startedAtMs: NOON_MS + index * 60_000,
        firstTokenAtMs: NOON_MS + index * 60_000 + Math.floor(durationMs / 10),
        endedAtMs: NOON_MS + index * 60_000 + durationMs,
      }),
    )
    const failed = simpleEntry(orgId, { status: 'engine_lost', endedAtMs: NOON_MS + 1 })
    await write([...timed, failed])
    await rollAll(orgId)
    // Half a quarter hour off, so that the ends are timed from rows.
    const range = { fromMs: NOON_MS - BUCKET_MS / 2, toMs: NOON_MS + 120 * 60_000 - 60_000 * 7 }
    const expected = (of: (index: number) => boolean, scale: number) => {
      const slots = new Map<number, bigint>()
      for (const [index, durationMs] of durations.entries())
        if (of(index) && index < 113) {
          const slot = slotOf(Math.floor(durationMs / scale))
          slots.set(slot, (slots.get(slot) ?? 0n) + 1n)
        }
      return percentiles(slots)
    }
    const asked = question(orgId, { ...range, dimensions: ['model'] })
    const { lines, latency } = await breakdown(connect(env), asked)
    expect(latency && percentiles(latency.end)).toEqual(expected(() => true, 1))
    expect(latency && percentiles(latency.firstToken)).toEqual(expected(() => true, 10))
    for (const { names, latency: own } of lines)
      expect(own && percentiles(own.end)).toEqual(expected((index) => model(index) === names[0], 1))
    const byKey = await breakdown(connect(env), { ...asked, dimensions: ['key'] })
    expect(byKey.lines.map((line) => line.latency)).toEqual([undefined])
    expect(byKey.latency && percentiles(byKey.latency.end)).toEqual(expected(() => true, 1))
    expect((await breakdown(connect(env), { ...asked, filters: { key: orgId } })).latency).toBeUndefined()
    const total = await breakdown(connect(env), { ...asked, latency: 'total' })
    expect(total.lines.map((line) => line.latency)).toEqual([undefined, undefined])
    expect(total.latency).toEqual(latency)
    expect((await breakdown(connect(env), { ...asked, latency: 'none' })).latency).toBeUndefined()
    const byStatus = await breakdown(connect(env), { ...asked, dimensions: ['status'] })
    expect(byStatus.latency && percentiles(byStatus.latency.end)?.count).toBe(113n)
    expect(byStatus.lines.map((line) => line.latency && percentiles(line.latency.end)?.count)).toEqual([113n, 1n])
  })
})

describe('rolling up', () => {
  test('is free to repeat, and leaves nothing dirty', async () => {
    const orgId = crypto.randomUUID()
    const entries = history(orgId, 5, 40)
    await write(entries)
    await rollAll(orgId)
    await write(entries)
    expect((await backlog(connect(env), orgId)).buckets).toBeGreaterThan(0)
    await rollAll(orgId)
    expect(await backlog(connect(env), orgId)).toEqual({ buckets: 0, oldestStart: undefined, markedAt: undefined })
    await expectSame(factsOf(entries), question(orgId, { dimensions: ['model', 'status'] }))
  })

  test('of a correction changes the quarter hour in which its attempt started', async () => {
    const orgId = crypto.randomUUID()
    const row = attemptRow(orgId)
    await write([entryOf([row], requestRow(row))])
    await rollAll(orgId)
    const late = { ...row, kind: 'adjustment' as const, costNanoUsd: 7n, recordedAtMs: NOON_MS + 86_400_000 }
    await write([entryOf([late])])
    expect((await backlog(connect(env), orgId)).oldestStart).toBe(new Date(NOON_MS).toISOString())
    await rollAll(orgId)
    const { total } = await breakdown(connect(env), question(orgId, { fromMs: NOON_MS, toMs: NOON_MS + BUCKET_MS }))
    expect(total).toMatchObject({ costNanoUsd: 27n, requests: 1n, attempts: 1n })
  })

  test('by several at once, while rows are written, ends with every row counted once', {
    timeout: 60_000,
  }, async () => {
    const orgId = crypto.randomUUID()
    const { below } = random(6)
    // All in two quarter hours, so that writers and rollers meet.
    const entries = Array.from({ length: 200 }, () =>
      simpleEntry(orgId, { startedAtMs: NOON_MS + below(2 * BUCKET_MS), costNanoUsd: BigInt(below(1_000)) }),
    )
    const writers = Array.from({ length: 4 }, async (_, writer) => {
      for (let from = writer * 50; from < writer * 50 + 50; from += 5) await write(entries.slice(from, from + 5))
    })
    const rollers = Array.from({ length: 3 }, async () => {
      for (let round = 0; round < 12; round++) expect((await rollUp(connect(env), orgId, 10, NOON_MS)).failed).toBe(0)
    })
    await Promise.all([...writers, ...rollers])
    await rollAll(orgId)
    await expectSame(
      factsOf(entries),
      question(orgId, { fromMs: NOON_MS, toMs: NOON_MS + 2 * BUCKET_MS, step: 'hour' }),
    )
  })

  test('leaves rows that arrive while it works to the next roll, and does not forget them', async () => {
    const orgId = crypto.randomUUID()
    const [early, late] = [simpleEntry(orgId), simpleEntry(orgId)]
    await write([early])
    // Before the mark is deleted, everything has been counted.
    const { database, paused } = pausingAt(-1)
    const roll = rollUp(database, orgId, 10, NOON_MS)
    await eventually('the roll to stand before its end', paused)
    await write([late])
    expect((await roll).failed).toBe(0)
    expect((await backlog(connect(env), orgId)).buckets).toBe(1)
    await rollAll(orgId)
    await expectSame(factsOf([early, late]), question(orgId, { fromMs: NOON_MS, toMs: NOON_MS + BUCKET_MS }))
  })

  test('waits for rows that are being written, and counts them', async () => {
    const orgId = crypto.randomUUID()
    const [early, late] = [simpleEntry(orgId), simpleEntry(orgId)]
    await write([early])
    const { database, paused } = pausingAt(1_000)
    const writing = writeEntries(database, [late])
    await eventually('the writer to stand before its commit', paused)
    await rollUp(connect(env), orgId, 10, NOON_MS)
    expect(await writing).toEqual([])
    expect((await backlog(connect(env), orgId)).buckets).toBe(0)
    await expectSame(factsOf([early, late]), question(orgId, { fromMs: NOON_MS, toMs: NOON_MS + BUCKET_MS }))
  })

  test('comes right after a serialisation failure at any of its statements', { timeout: 60_000 }, async () => {
    const orgId = crypto.randomUUID()
    const entries = history(orgId, 7, 2)
    for (let at = 0; at <= 7; at++) {
      await write(entries)
      await rollAll(orgId, serialisationFailureAt(at))
      await expectSame(factsOf(entries), question(orgId, { dimensions: ['key'] }))
    }
  })

  test('that loses its answer after the commit has still happened, and one that is cut off has not', async () => {
    const orgId = crypto.randomUUID()
    const entries = [simpleEntry(orgId)]
    await write(entries)
    const real = connect(env)
    const cut: Database = {
      ...real,
      run: (one) => real.run(one),
      batch: () => Promise.reject(new DatabaseUnavailable('cut')),
    }
    await expect(rollUp(cut, orgId, 10, NOON_MS)).rejects.toThrow('cut')
    expect((await backlog(real, orgId)).buckets).toBe(1)
    const deaf: Database = {
      run: (one) => real.run(one),
      batch: async (statements) => {
        await real.batch(statements)
        throw new DatabaseUnavailable('lost')
      },
    }
    await expect(rollUp(deaf, orgId, 10, NOON_MS)).rejects.toThrow('lost')
    expect((await backlog(real, orgId)).buckets).toBe(0)
    await expectSame(factsOf(entries), question(orgId, { fromMs: NOON_MS, toMs: NOON_MS + BUCKET_MS }))
  })

  test('of a quarter hour that does not fit holds up no other, and stays to be seen', async () => {
    const orgId = crypto.randomUUID()
    const most = 2n ** 63n - 1n
    const good = simpleEntry(orgId, { startedAtMs: NOON_MS + BUCKET_MS })
    await write([simpleEntry(orgId, { costNanoUsd: most }), simpleEntry(orgId, { costNanoUsd: most }), good])
    expect(await rollUp(connect(env), orgId, 1, NOON_MS + 3_600_000)).toEqual({ buckets: 0, failed: 1, left: true })
    expect(await rollUp(connect(env), orgId, 1, NOON_MS + 3_600_000)).toEqual({ buckets: 1, failed: 0, left: true })
    expect(await backlog(connect(env), orgId)).toMatchObject({
      buckets: 1,
      oldestStart: new Date(NOON_MS).toISOString(),
    })
    expect(await dirtyOrganisations(connect(env), 1_000)).toContain(orgId)
    await expectSame(factsOf([good]), question(orgId, { fromMs: NOON_MS + BUCKET_MS, toMs: NOON_MS + 2 * BUCKET_MS }))
  })

  test('can be asked for again over a range, which repairs what was changed by hand', async () => {
    const orgId = crypto.randomUUID()
    const entries = history(orgId, 8, 20)
    await write(entries)
    await rollAll(orgId)
    await connect(env).run({
      text: 'UPDATE usage_rollups SET cost_nanousd = cost_nanousd + 1 WHERE org_id = $1',
      params: [orgId],
    })
    await connect(env).run({ text: 'DELETE FROM rollup_latencies WHERE org_id = $1', params: [orgId] })
    expect(await markRange(connect(env), orgId, { fromMs: FROM_MS, toMs: TO_MS + BUCKET_MS }, NOON_MS)).toBeGreaterThan(
      0,
    )
    await rollAll(orgId)
    await expectSame(factsOf(entries), question(orgId, { toMs: TO_MS + BUCKET_MS, dimensions: ['project'] }))
  })
})

test('the tables of rollups as the code sees them are the tables of the migrations', async () => {
  const { getTableColumns, getTableName } = await import('drizzle-orm')
  const { rollupDimensions, rollupDirty, rollupLatencies, usageRollups } = await import(
    '../../gateway/db/schema/rollups.ts'
  )
  for (const table of [rollupDimensions, rollupDirty, rollupLatencies, usageRollups]) {
    const seen = Object.values(getTableColumns(table)).map((column) => [
      column.name,
      column.getSQLType(),
      column.notNull,
    ])
    const { rows } = await connect(env).run({
      text: `SELECT column_name, data_type, is_nullable = 'NO' FROM information_schema.columns WHERE table_name = $1`,
      params: [getTableName(table)],
    })
    expect(new Set(seen.map(String))).toEqual(new Set(rows.map(String)))
  }
})

describe('an account', () => {
  const serve = async (account: ReturnType<typeof newAccount>) => {
    const hold = await account.stub.reserve(account.ask())
    if (!hold.ok) throw new Error(hold.error.reason)
    await account.stub.settle(endOf(hold.value.holdId, used(10, 5)))
    expect(await account.stub.flush()).toMatchObject({ outboxRows: 0 })
  }
  const requests = async (orgId: string) => {
    const range = { fromMs: Date.now() - 86_400_000, toMs: Date.now() + 86_400_000 }
    return (await breakdown(connect(env), question(orgId, range))).total.requests
  }

  test('rolls up what it wrote, by its alarm, after a pause', async () => {
    const account = newAccount()
    await serve(account)
    await account.alarmAt(Date.now() + 1_000)
    expect(await requests(account.orgId)).toBe(0n)
    await account.alarmAt(Date.now() + 60_000)
    await eventually('the roll', async () => (await requests(account.orgId)) === 1n)
  })

  test('that was lost between writing and rolling is followed by one that rolls', async () => {
    const account = newAccount()
    await serve(account)
    await evictDurableObject(account.stub)
    await account.alarmAt(Date.now() + 60_000)
    await eventually('the roll', async () => (await requests(account.orgId)) === 1n)
    expect((await backlog(connect(env), account.orgId)).buckets).toBe(0)
  })
})
