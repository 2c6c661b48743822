// The bench Worker runs as the gateway does: figures and proofs of another runtime would say nothing about it.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'smol-toml'
import { expect, it } from 'vitest'
import { markdownOf } from '../../../bench/gateway/report.ts'
import { figure, quantile, spreadOf } from '../../../bench/gateway/statistics.ts'

const ROOT = join(import.meta.dirname, '..', '..', '..')
const read = (path: string) => parse(readFileSync(join(ROOT, path), 'utf8'))

it.each(['account', 'fleet'])('for the %s object has the compatibility date and flags of the gateway', (name) => {
  const [gateway, bench] = [read('wrangler.toml'), read(`bench/${name}/wrangler.toml`)]
  expect(bench.compatibility_date).toBe(gateway.compatibility_date)
  expect(bench.compatibility_flags).toEqual(gateway.compatibility_flags)
})

it('reports medians with their spread, and quantiles that exist among the samples', () => {
  expect(spreadOf([3, 1, 2])).toEqual({ median: 2, least: 1, most: 3 })
  expect(quantile([5, 1, 4, 2, 3], 0.99)).toBe(5)
  expect([figure(12_345.6), figure(1.2345), figure(Number.NaN)]).toEqual(['12,346', '1.23', 'not measured'])
})

const latency = { p50Ms: 1, p99Ms: 2 }
const added = { held: latency, pair: latency }
const round = {
  durableWrites: 1000,
  copiedRows: 20_000,
  pings: 2000,
  writes: 500,
  oneByLane: 1000,
  oneDirect: 250,
  manyByLane: 900,
  manyDirect: 300,
  callsPerBatch: 100,
  outboxOne: 4000,
  outboxMany: 6000,
  idle: added,
  busyByLane: added,
  busyDirect: added,
}
const run = { machine: 'm', commit: undefined, date: '2026-11-22', accounts: [round], paths: [], foreignShare: 0.02 }

it('says whether the outbox met its target, and distrusts a run on a busy machine', () => {
  expect(markdownOf(run)).toContain('Target 5,000: met.')
  expect(markdownOf(run)).toContain('4.00x')
  expect(markdownOf({ ...run, accounts: [{ ...round, outboxMany: 4999 }] })).toContain('Target 5,000: missed.')
  expect(markdownOf(run)).not.toContain('not to be trusted')
  expect(markdownOf({ ...run, foreignShare: 0.4 })).toContain('not to be trusted')
})
