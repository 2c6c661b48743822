// Rolling up: any order of writers and rollers, any failure, and an account that does it beside its work. What is read back is
// breakdown.test.ts.
import { env, evictDurableObject } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { connect } from '../../gateway/db/connect.ts'
import { type Database, DatabaseUnavailable } from '../../gateway/db/port.ts'
import { breakdown } from '../../gateway/ledger/breakdown.ts'
import { writeEntries } from '../../gateway/ledger/flush.ts'
import { backlog, dirtyOrganisations, markRange, rollUp } from '../../gateway/ledger/rollups.ts'
import { BUCKET_MS } from '../../gateway/ledger/usage-facts.ts'
import { endOf, eventually, newAccount, used } from './support/account.ts'
import { pausingAt, serialisationFailureAt } from './support/failures.ts'
import { expectSame, FROM_MS, history, question, random, TO_MS } from './support/usage-history.ts'
import { attemptRow, entryOf, factsOf, NOON_MS, requestRow, rollAll, simpleEntry, write } from './support/usage-rows.ts'

describe('rolling up', () => {
  test('is free to repeat, and leaves nothing dirty', { timeout: 120_000 }, async () => {
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

  test('comes right after a serialisation failure at any of its statements', { timeout: 180_000 }, async () => {
    const orgId = crypto.randomUUID()
    const entries = history(orgId, 7, 2)
    for (let at = 0; at <= 8; at++) {
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

  test('can be asked for again over a range, which repairs what was changed by hand', {
    timeout: 120_000,
  }, async () => {
    const orgId = crypto.randomUUID()
    const entries = history(orgId, 8, 20)
    await write(entries)
    await rollAll(orgId)
    await connect(env).run({
      text: 'UPDATE usage_rollups SET cost_nanousd = cost_nanousd + 1 WHERE org_id = $1',
      params: [orgId],
    })
    await connect(env).run({ text: 'DELETE FROM cube_latencies WHERE org_id = $1', params: [orgId] })
    expect(await markRange(connect(env), orgId, { fromMs: FROM_MS, toMs: TO_MS + BUCKET_MS }, NOON_MS)).toBeGreaterThan(
      0,
    )
    await rollAll(orgId)
    await expectSame(factsOf(entries), question(orgId, { toMs: TO_MS + BUCKET_MS, dimensions: ['project'] }))
  })
})

test('the tables of rollups as the code sees them are the tables of the migrations', async () => {
  const { getTableColumns, getTableName } = await import('drizzle-orm')
  const {
    cubeDimensions,
    cubeLatencies,
    rollupDays,
    rollupDimensions,
    rollupDirty,
    rollupFolds,
    rollupHours,
    rollupSpans,
    usageCubes,
    usageRollups,
  } = await import('../../gateway/db/schema/rollups.ts')
  const rolled = [rollupDimensions, rollupDirty, rollupFolds, usageRollups]
  const units = [rollupHours, rollupDays, rollupSpans]
  for (const table of [...rolled, cubeDimensions, cubeLatencies, usageCubes, ...units]) {
    const seen = Object.values(getTableColumns(table)).map((column) => [
      column.name,
      column.getSQLType(),
      column.notNull,
    ])
    const { rows } = await connect(env).run({
      text: `SELECT column_name, CASE data_type WHEN 'ARRAY' THEN replace(replace(ltrim(udt_name, '_'), 'int8', 'bigint'), 'int4', 'integer') || '[]'
        ELSE data_type END, is_nullable = 'NO' FROM information_schema.columns WHERE table_name = $1`,
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
