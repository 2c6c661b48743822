// What the dashboard asks. Owns the list: each page's questions over the month, every pair of dimensions, and every pair under a filter
// by a third one, over the month and over thirteen. Ranges are the dashboard's own (dashboard/app/time-range.ts): from a midnight of the
// zone to now, which is no whole quarter hour.

import { offsetMs } from '../../gateway/account/windows.ts'
import type { Database } from '../../gateway/db/port.ts'
import { breakdown } from '../../gateway/ledger/breakdown.ts'
import { readCredit } from '../../gateway/ledger/grants.ts'
import { keysUsed } from '../../gateway/ledger/keys-used.ts'
import type { Question } from '../../gateway/ledger/sources.ts'
import { monthsOf, readStatement } from '../../gateway/ledger/statement.ts'
import { tagsUsed } from '../../gateway/ledger/tags-used.ts'
import { targetHealth } from '../../gateway/ledger/target-health.ts'
import { DIMENSIONS, type Dimension } from '../../gateway/ledger/usage-facts.ts'

const DAY_MS = 86_400_000
const iso = (atMs: number): string => new Date(atMs).toISOString()
export type Asked = readonly [name: string, ask: () => Promise<unknown>]
/** Of each dimension the value that cost most: a filter by it passes the most rows. */
export type Values = Record<Dimension, string>

const TAG = 'env'
const OTHER_TAG = 'feature'
const WHOLE_MONTH = { latency: 'none', top: 10 } as const

const over =
  (database: Database, orgId: string, untilMs: number) =>
  (name: string, change: Partial<Question>): Asked => [
    name,
    () =>
      breakdown(database, {
        orgId,
        fromMs: midnight(change.timeZone ?? 'UTC', untilMs - 30 * DAY_MS),
        toMs: untilMs - 7_654_321,
        filters: {},
        dimensions: [],
        tagName: TAG,
        timeZone: 'UTC',
        top: 100,
        latency: 'total',
        ...change,
      }),
  ]

/** Of the date that a day of UTC has. */
const midnight = (timeZone: string, dayMs: number): number => dayMs - offsetMs(timeZone, dayMs)

/** Of each dimension the value that costs most in the month. */
export async function dearest(database: Database, orgId: string, untilMs: number): Promise<Values> {
  const range = { fromMs: untilMs - 30 * DAY_MS, toMs: untilMs, timeZone: 'UTC', latency: 'none', top: 3 } as const
  const found: Partial<Values> = {}
  for (const dimension of DIMENSIONS) {
    const asked = { orgId, ...range, filters: {}, dimensions: [dimension], tagName: OTHER_TAG }
    const value = (await breakdown(database, asked)).lines.find(({ names }) => names[0] !== undefined)?.names[0]
    found[dimension] = dimension === 'tag' ? `${OTHER_TAG}=${value}` : (value ?? '')
  }
  return found as Values
}

export function pages(database: Database, orgId: string, untilMs: number): Asked[] {
  const sums = over(database, orgId, untilMs)
  const day = { step: 'day' as const, timeZone: 'Europe/Berlin', top: 10 }
  const year = { fromMs: midnight('Europe/Berlin', untilMs - 396 * DAY_MS) }
  const anywhere = { fromMs: untilMs - 30 * DAY_MS + 123_456 }
  const month = { fromMs: untilMs - 22 * DAY_MS + 3_600_000, toMs: untilMs }
  return [
    sums('overview: tiles, with percentiles', {}),
    sums('overview: tiles of the last day', { fromMs: untilMs - DAY_MS }),
    sums('overview: spend per day in Berlin', { ...day, latency: 'none' }),
    sums('overview: spend per day and model in Berlin', { ...day, dimensions: ['model'] }),
    sums('overview: spend per day and key in Berlin', { ...day, dimensions: ['key'] }),
    sums('overview: percentiles per day in Berlin', { ...day, latency: 'lines' }),
    sums('overview: per day in Kolkata', { ...day, timeZone: 'Asia/Kolkata' }),
    sums('overview: per day in Los Angeles, by key', {
      ...day,
      timeZone: 'America/Los_Angeles',
      dimensions: ['key'],
      latency: 'none',
    }),
    sums('overview: per hour of a week', { step: 'hour', fromMs: untilMs - 7 * DAY_MS }),
    sums('overview: per hour of two days in Kolkata', {
      step: 'hour',
      timeZone: 'Asia/Kolkata',
      fromMs: untilMs - 2 * DAY_MS,
    }),
    sums('overview: per month over thirteen months in Berlin', { ...year, step: 'month', timeZone: 'Europe/Berlin' }),
    sums('explore: model x provider, with percentiles of each', {
      dimensions: ['model', 'provider'],
      latency: 'lines',
    }),
    sums('explore: project x backend, with percentiles of each', {
      dimensions: ['project', 'backend'],
      latency: 'lines',
    }),
    sums('explore: per day and model, with percentiles of each', { ...day, dimensions: ['model'], latency: 'lines' }),
    sums('explore: key x model, from any minute to any minute', {
      ...anywhere,
      dimensions: ['key', 'model'],
      latency: 'none',
    }),
    sums('explore: per day and end user', { ...day, dimensions: ['end_user'], latency: 'none' }),
    sums('explore: one end user, per day', { ...day, filters: { end_user: 'customer-7' }, latency: 'none' }),
    sums('explore: per day and tag feature', { ...day, dimensions: ['tag'], tagName: 'feature' }),
    sums('explore: per day and backend', { ...day, dimensions: ['backend'] }),
    sums('explore: per day and status of one model', {
      ...day,
      filters: { model: 'model-1' },
      dimensions: ['status'],
    }),
    sums('explore: per day and key with one tag', {
      ...day,
      filters: { tag: 'env=prod' },
      dimensions: ['key'],
      latency: 'none',
    }),
    sums('explore: failures of targets, by provider', { statusClass: 'target', dimensions: ['provider'] }),
    ['explore: tags in use', () => tagsUsed(database, { orgId, fromMs: untilMs - 30 * DAY_MS, toMs: untilMs })],
    [
      'requests: the newest page',
      () => asked(database, PAGE, [orgId, iso(untilMs - 30 * DAY_MS), iso(untilMs), '', '']),
    ],
    [
      'requests: the newest page of one model',
      () => asked(database, PAGE, [orgId, iso(month.fromMs), iso(untilMs), 'model-1', '']),
    ],
    [
      'requests: the newest failures',
      () => asked(database, PAGE, [orgId, iso(month.fromMs), iso(untilMs), '', 'upstream_error']),
    ],
    ['requests: live log, what came since', () => asked(database, LIVE, [orgId, iso(untilMs - 15_000 - 60_000)])],
    ['keys: last use', () => keysUsed(database, orgId, untilMs - 90 * DAY_MS)],
    ['billing: balance', () => readCredit(database, orgId)],
    ['billing: statement of a month in Berlin', () => readStatement(database, orgId, month)],
    ['billing: months', () => monthsOf(database, orgId, 'Europe/Berlin', untilMs)],
    ['providers: health', () => targetHealth(database, untilMs)],
  ]
}

// The lists' statements as admin/usage-requests.ts makes them, with the columns that cost most.
const PAGE = `SELECT * FROM usage_requests WHERE org_id = $1::uuid AND usage_day >= ($2::timestamptz AT TIME ZONE 'UTC')::date
  AND usage_day <= ($3::timestamptz AT TIME ZONE 'UTC')::date AND started_at >= $2::timestamptz AND started_at < $3::timestamptz
  AND ($4 = '' OR model_requested = $4) AND ($5 = '' OR status = $5) ORDER BY started_at DESC, request_id DESC LIMIT 51`
const LIVE = `SELECT * FROM usage_requests WHERE org_id = $1::uuid AND recorded_at > $2::timestamptz
  ORDER BY recorded_at DESC, request_id DESC LIMIT 101`
const asked = (database: Database, text: string, params: string[]) => database.run({ text, params })

const PAIRS = DIMENSIONS.flatMap((one, index) => DIMENSIONS.slice(index + 1).map((other) => [one, other] as const))

/** Every pair of dimensions; with a filter by a third one; over the month and over thirteen. */
export function pairs(
  database: Database,
  { orgId, untilMs, values }: { orgId: string; untilMs: number; values: Values },
): { plain: Asked[]; filtered: Asked[]; year: Asked[] } {
  const sums = over(database, orgId, untilMs)
  const year = { fromMs: untilMs - 396 * DAY_MS }
  return {
    plain: PAIRS.map((dimensions) => sums(dimensions.join(' x '), { ...WHOLE_MONTH, dimensions })),
    filtered: PAIRS.flatMap((dimensions) =>
      DIMENSIONS.filter((one) => !dimensions.includes(one) || one === 'tag').map((filter) =>
        sums(`${dimensions.join(' x ')}, one ${filter}`, {
          ...WHOLE_MONTH,
          dimensions,
          filters: { [filter]: values[filter] },
        }),
      ),
    ),
    year: PAIRS.map((dimensions) => sums(`${dimensions.join(' x ')}`, { ...WHOLE_MONTH, ...year, dimensions })),
  }
}
