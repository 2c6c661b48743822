// What the dashboard asks. Owns the list: each page's questions over the whole month, and those that no cube covers.
import type { Database } from '../../gateway/db/port.ts'
import { breakdown } from '../../gateway/ledger/breakdown.ts'
import type { Question } from '../../gateway/ledger/sources.ts'
import { monthsOf, readStatement } from '../../gateway/ledger/statement.ts'
import { targetHealth } from '../../gateway/ledger/target-health.ts'
import { DIMENSIONS } from '../../gateway/ledger/usage-facts.ts'

const DAY_MS = 86_400_000
type Asked = readonly [name: string, ask: () => Promise<unknown>]

export function questions(database: Database, orgId: string, untilMs: number): Asked[] {
  const sums = (name: string, change: Partial<Question>): Asked => [
    name,
    () =>
      breakdown(database, {
        orgId,
        // Not on a quarter hour, as ranges that end now are.
        fromMs: untilMs - 30 * DAY_MS + 123_456,
        toMs: untilMs - 7_654_321,
        filters: {},
        dimensions: [],
        timeZone: 'UTC',
        top: 100,
        latency: 'total',
        ...change,
      }),
  ]
  const day = { step: 'day' as const, timeZone: 'Europe/Berlin', top: 10 }
  const dimensions = DIMENSIONS.filter((one) => one !== 'tag')
  return [
    sums('overview: tiles, with percentiles', {}),
    sums('overview: tiles of the last day', { fromMs: untilMs - DAY_MS }),
    sums('overview: spend per day in Berlin', { ...day, latency: 'none' }),
    sums('overview: spend per day and model in Berlin', { ...day, dimensions: ['model'] }),
    sums('overview: spend per day and key in Berlin', { ...day, dimensions: ['key'] }),
    sums('overview: percentiles per day in Berlin', { ...day, latency: 'lines' }),
    sums('overview: per day in Kolkata', { ...day, timeZone: 'Asia/Kolkata' }),
    sums('overview: per hour of a week', { step: 'hour', fromMs: untilMs - 7 * DAY_MS }),
    ...dimensions.map((dimension) => sums(`explore: by ${dimension}`, { dimensions: [dimension] })),
    sums('explore: by tag env', { dimensions: ['tag'], tagName: 'env' }),
    sums('explore: model x provider, with percentiles of each', {
      dimensions: ['model', 'provider'],
      latency: 'lines',
    }),
    sums('explore: model x percentiles of each', { dimensions: ['model'], latency: 'lines' }),
    sums('explore: key x model', { dimensions: ['key', 'model'] }),
    sums('explore: key x status', { dimensions: ['key', 'status'] }),
    sums('explore: key x backend', { dimensions: ['key', 'backend'] }),
    sums('explore: model x backend', { dimensions: ['model', 'backend'] }),
    sums('explore: backend x status', { dimensions: ['backend', 'status'] }),
    sums('explore: model x tag env', { dimensions: ['model', 'tag'], tagName: 'env' }),
    sums('explore: team x tag feature', { dimensions: ['team', 'tag'], tagName: 'feature' }),
    sums('explore: day x tag feature', { ...day, dimensions: ['tag'], tagName: 'feature' }),
    sums('explore: day x backend', { ...day, dimensions: ['backend'] }),
    sums('filtered: one model, per day and status', { ...day, filters: { model: 'model-1' }, dimensions: ['status'] }),
    sums('filtered: one tag, by model', { filters: { tag: 'env=prod' }, dimensions: ['model'] }),
    sums('filtered: failures of targets, by provider', { statusClass: 'target', dimensions: ['provider'] }),
    [
      'billing: statement of the month, out of rows',
      () => readStatement(database, orgId, { fromMs: untilMs - 30 * DAY_MS, toMs: untilMs }),
    ],
    ['billing: months', () => monthsOf(database, orgId, 'Europe/Berlin', untilMs)],
    ['providers: health', () => targetHealth(database, untilMs)],
    sums('no cube: backend x tag', { dimensions: ['backend', 'tag'], tagName: 'env' }),
    sums('no cube: one backend, by key and model', {
      filters: { backend: 'x' },
      dimensions: ['key', 'model'],
      latency: 'none',
    }),
    sums('no cube: per hour of a week in Kolkata', {
      step: 'hour',
      timeZone: 'Asia/Kolkata',
      fromMs: untilMs - 7 * DAY_MS,
    }),
  ]
}
