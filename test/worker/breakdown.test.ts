// Breakdowns against the rows they are made of: every grouping, filter and zone, whatever of hours and days is made.
import { env } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { connect } from '../../gateway/db/connect.ts'
import { breakdown } from '../../gateway/ledger/breakdown.ts'
import { percentiles, slotOf } from '../../gateway/ledger/latency.ts'
import { rollUp } from '../../gateway/ledger/rollups.ts'
import type { Question } from '../../gateway/ledger/sources.ts'
import { STATUS_CLASSES } from '../../gateway/ledger/status-class.ts'
import { tagsUsed } from '../../gateway/ledger/tags-used.ts'
import { TIME_STEPS, type TimeStep } from '../../gateway/ledger/time-steps.ts'
import { BUCKET_MS, DIMENSIONS } from '../../gateway/ledger/usage-facts.ts'
import { expectSame, FROM_MS, filterBy, history, question, random, TO_MS } from './support/usage-history.ts'
import {
  addUp,
  attemptRow,
  entryOf,
  type Fact,
  factsOf,
  NOON_MS,
  rollAll,
  simpleEntry,
  write,
} from './support/usage-rows.ts'

const DAY_MS = 86_400_000

describe('every breakdown', () => {
  test('equals the rows added up one by one, whatever it groups by', { timeout: 180_000 }, async () => {
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

  test('keeps to its filters and to ranges that cut quarter hours', { timeout: 180_000 }, async () => {
    const orgId = crypto.randomUUID()
    const entries = history(orgId, 2, 100)
    await write(entries)
    await rollAll(orgId)
    const facts = factsOf(entries)
    const { below, pick } = random(3)
    for (let round = 0; round < 25; round++) {
      const one = pick(facts)
      // On a row, beside a row, inside one quarter hour, and anywhere.
      const fromMs = pick([one.startedAtMs, one.startedAtMs + 1, FROM_MS + below(TO_MS - FROM_MS)])
      const toMs = fromMs + pick([1, 60_000, BUCKET_MS, 1 + below(3 * BUCKET_MS), 1 + below(TO_MS - FROM_MS)])
      const dimension = pick(DIMENSIONS)
      const filters = { ...filterBy(one, dimension), ...filterBy(pick(facts), pick(DIMENSIONS)) }
      const statusClass = pick([undefined, undefined, ...STATUS_CLASSES])
      const dimensions = [pick(DIMENSIONS)]
      const step = pick<TimeStep | undefined>([undefined, 'hour', 'day'])
      await expectSame(facts, question(orgId, { fromMs, toMs, filters, step, timeZone: 'Asia/Kathmandu' }))
      await expectSame(facts, question(orgId, { fromMs, toMs, filters, statusClass, dimensions }))
    }
  })

  test('is the same whether its hours are made, are not, or have to be made again', { timeout: 180_000 }, async () => {
    const orgId = crypto.randomUUID()
    const early = history(orgId, 9, 80)
    // In some days alone: those are made again, hour by hour.
    const late = history(orgId, 10, 40).filter(({ request }) => (request?.startedAtMs ?? 0) < FROM_MS + 4 * 86_400_000)
    const run = (text: string) => connect(env).run({ text, params: [orgId] })
    const hours = async () => {
      const { rows } = await run('SELECT made, count(*)::text FROM rollup_hours WHERE org_id = $1 GROUP BY made')
      return Object.fromEntries(rows.map(([made, count]) => [made ? 'made' : 'unmade', Number(count)]))
    }
    const agree = async (facts: readonly Fact[]) => {
      const pairs = [
        ['tag', 'model'],
        ['key', 'provider'],
        ['backend', 'tag'],
        ['end_user', 'model'],
        ['end_user', 'tag'],
      ] as const
      for (const dimensions of [[], ['backend'], ['end_user'], ...pairs] as const)
        await expectSame(facts, question(orgId, { dimensions }))
      for (const timeZone of ['Asia/Kolkata', 'Australia/Lord_Howe', 'Europe/Berlin', 'Pacific/Auckland'])
        for (const step of TIME_STEPS)
          await expectSame(facts, question(orgId, { step, timeZone, dimensions: ['status'] }))
      const { latency } = await breakdown(connect(env), question(orgId))
      const ended = facts.filter((fact) => !('kind' in fact) && fact.status === 'ok')
      expect(latency && percentiles(latency.end)?.count).toBe(BigInt(ended.length))
      for (const dimensions of [['key'], ['tag'], ['team', 'backend']] as const) {
        const { lines } = await breakdown(connect(env), question(orgId, { dimensions }))
        const timed = lines.map((line) => (line.latency && percentiles(line.latency.end)?.count) ?? 0n)
        expect(timed.reduce((sum, one) => sum + one, 0n)).toBe(BigInt(ended.length))
      }
    }
    // An hour is made once it is over, and by the clock of this call none is.
    await write(early)
    while ((await rollUp(connect(env), orgId, 500, FROM_MS)).left) {}
    expect((await hours()).made).toBeUndefined()
    await agree(factsOf(early))
    await rollAll(orgId)
    expect((await hours()).unmade).toBeUndefined()
    await agree(factsOf(early))
    // Rolled up and not made again: some hours are made, some are not.
    await write(late)
    while ((await rollUp(connect(env), orgId, 500, FROM_MS)).left) {}
    expect(await hours()).toEqual({ made: expect.any(Number), unmade: expect.any(Number) })
    await agree(factsOf([...early, ...late]))
    await rollAll(orgId)
    await agree(factsOf([...early, ...late]))
    // A build that knows no hours rolled up what it found, and an hour that nobody marked.
    await run('DELETE FROM rollup_spans WHERE org_id = $1')
    await agree(factsOf([...early, ...late]))
    await run('DELETE FROM rollup_days WHERE org_id = $1 AND extract(day FROM day_start)::int % 2 = 0')
    await agree(factsOf([...early, ...late]))
    await run('DELETE FROM rollup_hours WHERE org_id = $1 AND extract(hour FROM hour_start)::int % 3 = 0')
    await run('DELETE FROM rollup_days WHERE org_id = $1')
    await agree(factsOf([...early, ...late]))
  })

  test('folds the values of a tag that are too many for a quarter hour, tells the other tags, and says so', async () => {
    const orgId = crypto.randomUUID()
    const runs = Array.from({ length: 80 }, (_, index) => `env=prod,run=r${String(index).padStart(2, '0')}`)
    // One run in sixteen of them all: enough to be told among many.
    const tags = [...Array.from({ length: 5 }, () => 'env=test,run=large'), 'env=test', ...runs]
    const entries = tags.map((one, index) => simpleEntry(orgId, { tags: one, costNanoUsd: BigInt(index + 1) }))
    await write(entries)
    await rollAll(orgId)
    const range = { fromMs: NOON_MS, toMs: NOON_MS + 4 * BUCKET_MS }
    const requests = async (change: Partial<Question>) => {
      const { lines, total, folded } = await breakdown(connect(env), question(orgId, { ...range, ...change }))
      return {
        lines: Object.fromEntries(lines.map(({ names, sums }) => [names[0] ?? 'without', Number(sums.requests)])),
        total,
        folded,
      }
    }
    const byRun = await requests({ dimensions: ['tag'], tagName: 'run' })
    expect(byRun).toEqual({ lines: { '*': 80, large: 5, without: 1 }, total: addUp(factsOf(entries)), folded: true })
    expect(await requests({ dimensions: ['tag'], tagName: 'env' })).toMatchObject({
      lines: { prod: 80, test: 6 },
      folded: false,
    })
    const wanted = (tag: string) => requests({ filters: { tag }, dimensions: ['model'] })
    expect(await wanted('env=prod')).toMatchObject({ lines: { small: 80 }, folded: false })
    expect(await wanted('run=r00')).toMatchObject({ lines: {}, folded: true })
    expect(await wanted('!run')).toMatchObject({ lines: { small: 1 }, folded: true })
    const used = await tagsUsed(connect(env), { orgId, ...range })
    expect(used).toEqual([
      expect.objectContaining({ name: 'env', folded: false }),
      { name: 'run', values: [{ value: 'large', requests: 5 }], folded: true },
    ])
  })

  test('names the end users that cost most, adds up the others, says so, and finds one of them by its rows', async () => {
    const orgId = crypto.randomUUID()
    // Beside another dimension a unit names 100, alone 1,000.
    const entries = Array.from({ length: 130 }, (_, index) =>
      simpleEntry(orgId, { endUser: `u${index}`, costNanoUsd: BigInt(1_000 - index), keyId: crypto.randomUUID() }),
    )
    entries.push(simpleEntry(orgId), simpleEntry(orgId, { endUser: 'u129', costNanoUsd: 500n }))
    await write(entries)
    await rollAll(orgId, connect(env), NOON_MS + 2 * DAY_MS)
    const facts = factsOf(entries)
    const day = question(orgId, { fromMs: NOON_MS - DAY_MS / 2, toMs: NOON_MS + DAY_MS / 2 })
    await expectSame(facts, { ...day, dimensions: ['end_user'] })
    expect((await breakdown(connect(env), { ...day, dimensions: ['end_user'] })).folded).toBe(false)
    const { lines, total, folded } = await breakdown(connect(env), { ...day, dimensions: ['end_user', 'model'] })
    expect(lines).toHaveLength(102)
    expect(total).toEqual(addUp(facts))
    expect(folded).toBe(true)
    // Told are u0 to u98 and u129 with its two.
    const rest = lines.find(({ names }) => names[0] === '*')
    expect(rest?.sums.requests).toBe(30n)
    expect(lines.some(({ names }) => names[0] === undefined)).toBe(true)
    for (const endUser of ['u5', 'u120', 'none']) {
      const asked: Question = { ...day, filters: { end_user: endUser }, dimensions: ['model'] }
      await expectSame(facts, asked)
    }
    const one = await breakdown(connect(env), { ...day, filters: { end_user: 'u120' }, dimensions: ['model'] })
    expect(one.folded).toBe(false)
    // Half of the day is no whole unit: told by rows.
    const half: Question = { ...day, toMs: NOON_MS + BUCKET_MS, dimensions: ['end_user', 'model'] }
    await expectSame(facts, half)
  })

  test('is made of days, 8 days and 64 days, and reads them', { timeout: 180_000 }, async () => {
    const orgId = crypto.randomUUID()
    const SPAN_MS = 64 * DAY_MS
    const fromMs = Math.floor(NOON_MS / SPAN_MS) * SPAN_MS - SPAN_MS
    const { below, pick } = random(11)
    const entries = Array.from({ length: 150 }, () =>
      simpleEntry(orgId, {
        startedAtMs: fromMs - 20 * DAY_MS + below(SPAN_MS + 40 * DAY_MS),
        modelRequested: pick(['small', 'large']),
        tags: pick([undefined, 'env=prod', 'env=test']),
        endUser: pick([undefined, 'ann', 'bob']),
        costNanoUsd: BigInt(below(1_000)),
      }),
    )
    await write(entries)
    await rollAll(orgId, connect(env), NOON_MS + SPAN_MS)
    const facts = factsOf(entries)
    const range = { fromMs: fromMs - 17 * DAY_MS - 12_345, toMs: fromMs + SPAN_MS + 13 * DAY_MS + 54_321 }
    for (const dimensions of [[], ['model'], ['tag', 'model'], ['end_user'], ['end_user', 'key']] as const)
      for (const step of [undefined, 'month'] as const)
        await expectSame(facts, question(orgId, { ...range, dimensions, step, timeZone: 'Europe/Berlin' }))
    const wrong = async (level: string) => {
      const text = `UPDATE usage_cubes SET requests = requests + 1000 WHERE org_id = $1 AND cube = $2`
      await connect(env).run({ text, params: [orgId, `${level}:total`] })
      return (await breakdown(connect(env), question(orgId, range))).total.requests
    }
    const right = addUp(facts.filter(({ startedAtMs }) => startedAtMs >= range.fromMs && startedAtMs < range.toMs))
    const [withLong, withMiddle] = [await wrong('days64'), await wrong('days8')]
    expect(withLong).toBe(right.requests + 1_000n)
    expect(withMiddle).toBeGreaterThan(withLong)
  })

  test('counts a hedge that was settled after its hold had expired as a hedge, the estimate and what takes it back too', async () => {
    const orgId = crypto.randomUUID()
    const route = JSON.stringify({ role: 'hedge', reason: 'ordered' })
    const estimate = attemptRow(orgId, { attempt: 2, usageSource: 'estimated', costNanoUsd: 50n })
    const takenBack = { ...estimate, kind: 'reversal' as const, costNanoUsd: -50n }
    const truth = { ...estimate, kind: 'adjustment' as const, usageSource: 'provider' as const, route }
    const other = attemptRow(orgId, { attempt: 2, usageSource: 'estimated', costNanoUsd: 70n })
    const corrected = { ...other, kind: 'adjustment' as const, costNanoUsd: -20n, route }
    const entries = [
      entryOf([attemptRow(orgId, { requestId: estimate.requestId }), estimate]),
      entryOf([takenBack, { ...truth, charge: 'absorbed', costNanoUsd: 30n }]),
      entryOf([attemptRow(orgId, { requestId: other.requestId }), other]),
      entryOf([corrected]),
    ]
    await write(entries)
    await rollAll(orgId, connect(env), NOON_MS + 2 * DAY_MS)
    const sums = async (range: Partial<Question>) => (await breakdown(connect(env), question(orgId, range))).total
    const hedges = { hedgeAttempts: 2n, hedgeNanoUsd: 50n, hedgeAbsorbedNanoUsd: 30n, costNanoUsd: 40n + 50n }
    // From a day, from quarter hours and from rows.
    const ends = [NOON_MS + DAY_MS, NOON_MS + BUCKET_MS, NOON_MS + 1]
    for (const toMs of ends) expect(await sums({ fromMs: NOON_MS, toMs })).toMatchObject(hedges)
  })

  test('leaves a star of names of tags that are too many themselves', async () => {
    const orgId = crypto.randomUUID()
    const tags = Array.from({ length: 40 }, (_, index) => `env=prod,n${String(index).padStart(2, '0')}=1`)
    const entries = tags.map((one) => simpleEntry(orgId, { tags: one }))
    await write(entries)
    await rollAll(orgId)
    const range = { fromMs: NOON_MS, toMs: NOON_MS + 4 * BUCKET_MS }
    const by = (tagName: string) => breakdown(connect(env), question(orgId, { ...range, dimensions: ['tag'], tagName }))
    const lines = async (name: string) => (await by(name)).lines.map(({ names, sums }) => [names[0], sums.requests])
    expect(await lines('env')).toEqual([['prod', 40n]])
    // Of the 32 names that are told one is `env`; the other 31 are the first ones.
    expect(await lines('n00')).toEqual(
      expect.arrayContaining([
        ['1', 1n],
        ['*', 9n],
        [undefined, 30n],
      ]),
    )
    expect(await lines('n39')).toEqual(
      expect.arrayContaining([
        ['*', 9n],
        [undefined, 31n],
      ]),
    )
    expect((await by('n39')).folded).toBe(true)
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
    expect(byKey.lines.map((line) => line.latency)).toEqual([byKey.latency])
    expect(byKey.latency && percentiles(byKey.latency.end)).toEqual(expected(() => true, 1))
    const pair: Question = { ...asked, dimensions: ['key', 'model'], filters: { key: orgId } }
    expect((await breakdown(connect(env), pair)).lines.map((line) => line.latency)).toEqual(
      lines.map((line) => line.latency),
    )
    const byEndUser = await breakdown(connect(env), { ...asked, dimensions: ['end_user'] })
    expect(byEndUser.lines.map((line) => line.latency)).toEqual([undefined])
    expect((await breakdown(connect(env), { ...asked, filters: { end_user: 'none' } })).latency).toBeUndefined()
    const total = await breakdown(connect(env), { ...asked, latency: 'total' })
    expect(total.lines.map((line) => line.latency)).toEqual([undefined, undefined])
    expect(total.latency).toEqual(latency)
    expect((await breakdown(connect(env), { ...asked, latency: 'none' })).latency).toBeUndefined()
    const byStatus = await breakdown(connect(env), { ...asked, dimensions: ['status'] })
    expect(byStatus.latency && percentiles(byStatus.latency.end)?.count).toBe(113n)
    expect(byStatus.lines.map((line) => line.latency && percentiles(line.latency.end)?.count)).toEqual([113n, 1n])
  })
})
