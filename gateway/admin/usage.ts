// Usage in the admin API: what was counted and charged, as sums. Owns the parameters and the HTTP form; the sums are
// ledger/breakdown.ts, rolling by hand ledger/rollups.ts, requests one by one usage-requests.ts, files export.ts.
//
//   GET  /usage?org=&from=&to=&time_zone=&group_by=&top=     and filters: project, key, user, team, model, model_served,
//        provider, status. `group_by`: one or two of those (and at most one of hour, day, month), joined by a comma, or
//        none. Days given as from and to, and the steps of time, are those of `time_zone` (IANA, default UTC). `top`
//        combinations are shown (default 100, most 1,000), the rest is added up in lines with `other: true`.
//        `latency`: none, total (default) or lines: percentiles of requests that ended `ok`, or with the status that is
//        asked for; not by key, user or team. Answers {total, data, data_until}: everything recorded that started before
//        `data_until` is in.
//   GET  /usage/rollup?org=                                   what still has to be rolled up
//   POST /usage/rollup  {org?, from?, to?}                    rolls now; with a range, first marks it to be made anew
import { Hono } from 'hono'
import { z } from 'zod'
import { connect } from '../db/connect.ts'
import { type Breakdown, breakdown, type Latency, type Line, type Question } from '../ledger/breakdown.ts'
import { LATENCY_ERROR, percentiles } from '../ledger/latency.ts'
import { backlog, dirtyOrganisations, markRange, rollUp } from '../ledger/rollups.ts'
import { TIME_STEPS, type TimeStep } from '../ledger/time-steps.ts'
import { DIMENSIONS, type Dimension } from '../ledger/usage-facts.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, invalid } from './context.ts'
import { usageExport } from './export.ts'
import { readInput, readQuery } from './input.ts'
import { sumsJson } from './usage-json.ts'
import { filterParameters, Moment, rangeOf, TimeZone, withinTimeLimit } from './usage-range.ts'
import { usageRequestRoutes } from './usage-requests.ts'

/** Combinations shown where `top` does not say: what a table or a chart can hold. */
const TOP_DEFAULT = 100
const TOP_MAX = 1_000
/** Lines of one answer: a year of hours, or a month of days of the 300 largest keys. */
const LINES_MAX = 10_000
/** Lower bounds on the length of a step, to bound the number of lines. */
const STEP_MIN_MS: Record<TimeStep, number> = { hour: 3_600_000, day: 23 * 3_600_000, month: 28 * 24 * 3_600_000 }

/** Buckets and organisations that one call by hand rolls: some seconds. */
const BUCKETS_PER_CALL = 100
const ORGANISATIONS_PER_CALL = 20

const FIELDS: Record<Dimension, string> = {
  project: 'project_id',
  key: 'key_id',
  user: 'user_id',
  team: 'team_id',
  model: 'model',
  model_served: 'model_served',
  provider: 'provider',
  status: 'status',
}

const GroupBy = z
  .string()
  .max(64)
  .transform((text, context): { text: string; dimensions: Dimension[]; step: TimeStep | undefined } => {
    const words = text === 'none' ? [] : text.split(',')
    const dimensions = DIMENSIONS.filter((dimension) => words.includes(dimension))
    const steps = TIME_STEPS.filter((step) => words.includes(step))
    if (dimensions.length + steps.length === words.length && words.length <= 2 && steps.length <= 1)
      return {
        text,
        dimensions: words.flatMap((word) => dimensions.filter((dimension) => dimension === word)),
        step: steps[0],
      }
    const message = `must be none, or one or two different ones of ${[...DIMENSIONS, ...TIME_STEPS].join(', ')}, at most one of them a step of time`
    context.issues.push({ code: 'custom', message, input: undefined })
    return z.NEVER
  })
const Top = z
  .string()
  .regex(/^\d{1,4}$/, 'must be a whole number')
  .transform(Number)
  .pipe(z.number().min(1).max(TOP_MAX))
const SumsQuery = z.strictObject({
  ...filterParameters,
  time_zone: TimeZone,
  group_by: GroupBy.default({ text: 'none', dimensions: [], step: undefined }),
  top: Top.default(TOP_DEFAULT),
  latency: z.enum(['none', 'total', 'lines']).default('total'),
})
const BacklogQuery = z.strictObject({ org: z.uuid() })
const RollInput = z
  .strictObject({ org: z.uuid().toLowerCase().optional(), from: Moment.optional(), to: Moment.optional() })
  .refine(({ from, to }) => (from === undefined) === (to === undefined), {
    path: ['to'],
    message: 'comes together with `from`',
  })
  .refine(({ org, from }) => org !== undefined || from === undefined, {
    path: ['org'],
    message: 'is needed for a range',
  })

export const usageRoutes = new Hono<AdminEnv>()
  .get('/', async (c) => {
    const asked = readQuery(c, SumsQuery)
    const nowMs = Date.now()
    const range = rangeOf(asked, asked.time_zone, nowMs)
    const { dimensions, step, text } = asked.group_by
    requireFewLines(range.toMs - range.fromMs, step, dimensions.length === 0 ? 0 : asked.top)
    const { org, project, key, user, team, model, model_served, provider, status } = asked
    const filters = { project, key, user, team, model, model_served, provider, status }
    const database = connect(c.env)
    // Before the sums: what is rolled in between is in them, and said to be in too late rather than too early.
    const { oldestStart } = await backlog(database, org)
    const timeZone = asked.time_zone
    const question: Question = {
      orgId: org,
      ...range,
      filters,
      dimensions,
      step,
      timeZone,
      top: asked.top,
      latency: asked.latency,
    }
    const read = await withinTimeLimit(breakdown(database, question), 'Shorten the range.')
    return c.json({
      from: new Date(range.fromMs).toISOString(),
      to: new Date(range.toMs).toISOString(),
      time_zone: timeZone,
      group_by: text,
      data_until: earlier(oldestStart, new Date(nowMs).toISOString()),
      latency_error: LATENCY_ERROR,
      total: { ...sumsJson(read.total), ...latencyJson(read.latency) },
      truncated: read.lines.some(({ other }) => other),
      data: dataJson(read, dimensions, step),
    })
  })
  .get('/rollup', async (c) => {
    const { org } = readQuery(c, BacklogQuery)
    return c.json(await backlogJson(c, org))
  })
  .post('/rollup', async (c) => {
    const { org, from, to } = await readInput(c, RollInput)
    const database = connect(c.env)
    const nowMs = Date.now()
    if (org !== undefined && from !== undefined && to !== undefined) {
      const range = rangeOf({ from, to }, 'UTC', nowMs)
      const marked = await markRange(database, org, range, nowMs)
      await database.batch([
        audited(c, { action: 'usage.rollup', orgId: org, objectId: org, details: { from, to, marked } }),
      ])
    }
    const rolled: { org_id: string; buckets: number; failed: number; left: boolean }[] = []
    for (const orgId of org === undefined ? await dirtyOrganisations(database, ORGANISATIONS_PER_CALL) : [org]) {
      rolled.push({ org_id: orgId, ...(await rollUp(database, orgId, BUCKETS_PER_CALL, nowMs)) })
    }
    return c.json({ data: rolled })
  })
  .get('/export', usageExport)
  .route('/', usageRequestRoutes)

/** The answer must fit memory and a statement's time. @throws Refusal */
function requireFewLines(rangeMs: number, step: TimeStep | undefined, top: number): void {
  const steps = step === undefined ? 1 : Math.ceil(rangeMs / STEP_MIN_MS[step]) + 1
  if (steps * (top + 1) <= LINES_MAX) return
  throw invalid(
    top === 0 ? 'group_by' : 'top',
    `asks for more than ${LINES_MAX} lines: shorten the range, take a longer step of time, or lower \`top\``,
  )
}

const earlier = (a: string | undefined, b: string): string => (a !== undefined && a < b ? a : b)

/** Without groups the one line is the total. */
function dataJson({ lines, total, latency }: Breakdown, dimensions: readonly Dimension[], step: TimeStep | undefined) {
  if (dimensions.length === 0 && step === undefined) return [{ ...sumsJson(total), ...latencyJson(latency) }]
  return lines.map((line) => ({
    ...(step === undefined ? {} : { [step]: line.time }),
    ...namesJson(line, dimensions),
    ...sumsJson(line.sums),
    ...latencyJson(line.latency),
  }))
}

const namesJson = ({ names, other }: Line, dimensions: readonly Dimension[]) => ({
  ...Object.fromEntries(dimensions.map((dimension, index) => [FIELDS[dimension], names[index] ?? null])),
  ...(other ? { other } : {}),
})

/** Null where there was no request; nothing where it is not known. */
const latencyJson = (latency: Latency | undefined) =>
  latency === undefined
    ? {}
    : { latency: { first_token: percentilesJson(latency.firstToken), total: percentilesJson(latency.end) } }

function percentilesJson(histogram: Latency['end']) {
  const read = percentiles(histogram)
  if (read === undefined) return null
  return { count: Number(read.count), p50_ms: read.p50Ms, p95_ms: read.p95Ms, p99_ms: read.p99Ms }
}

async function backlogJson(c: AdminContext, orgId: string) {
  const { buckets, oldestStart, markedAt } = await backlog(connect(c.env), orgId)
  return { org_id: orgId, dirty_buckets: buckets, oldest_start: oldestStart ?? null, waiting_since: markedAt ?? null }
}
