// Usage in the admin API: what was counted and charged, as sums. Owns the parameters and the HTTP form; the sums are
// ledger/breakdown.ts, rolling by hand ledger/rollups.ts, requests one by one usage-requests.ts, files export.ts,
// what clients report of calls past the gateway client-reported.ts.
//
//   GET  /usage?org=&from=&to=&time_zone=&group_by=&top=     and filters: project, key, user, team, model, model_served,
//        provider, status, status_class, backend, end_user, tag=NAME=VALUE (user, team, backend, end_user: `none`; tag: !NAME).
//        `group_by`: one or two of those but the class, tag as tag:NAME (and at most one of hour, day, month), joined by a
//        comma, or none.
//        Days given as from and to, and the steps of time, are those of `time_zone` (IANA, default UTC). `top`
//        combinations are shown (default 100, most 1,000), the rest is added up in lines with `other: true`.
//        `latency`: none, total (default) or lines: percentiles of requests that ended `ok`, or with the status that is
//        asked for; not by end user. Answers {total, data, data_until, folded}: everything recorded that
//        started before `data_until` is in. `folded`: the tag that is asked about had more values in some quarter hour than are
//        told apart; those count in a line `*`, and a filter by one of them misses that quarter hour.
//   GET  /usage/tags?org=&project=&from=&to=                  names of tags and their values, by requests; `folded` as above
//   GET  /usage/rollup?org=                                   what still has to be rolled up
//   POST /usage/rollup  {org?, from?, to?}                    rolls now; with a range, first marks it to be made anew
import { Hono } from 'hono'
import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { type Breakdown, breakdown, type Latency, type Line } from '../ledger/breakdown.ts'
import { LATENCY_ERROR, percentiles } from '../ledger/latency.ts'
import { backlog, dirtyOrganisations, markRange, rollUp } from '../ledger/rollups.ts'
import type { Question } from '../ledger/sources.ts'
import { classOf } from '../ledger/status-class.ts'
import { tagsUsed } from '../ledger/tags-used.ts'
import { TIME_STEPS, type TimeStep } from '../ledger/time-steps.ts'
import { DIMENSIONS, type Dimension } from '../ledger/usage-facts.ts'
import { audited } from './audit.ts'
import { clientReportedRoutes } from './client-reported.ts'
import { type AdminContext, type AdminEnv, invalid } from './context.ts'
import { usageExport } from './export.ts'
import { readInput, readQuery } from './input.ts'
import { type Ids, namesOf } from './names.ts'
import { percentilesJson, sumsJson } from './usage-json.ts'
import {
  filterParameters,
  Moment,
  questionFilters,
  rangeOf,
  TAG_WORD,
  TimeZone,
  withinTimeLimit,
} from './usage-range.ts'
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
  backend: 'backend_id',
  end_user: 'end_user',
  tag: 'tag',
}

type Grouping = { text: string; dimensions: Dimension[]; tagName: string | undefined; step: TimeStep | undefined }

const GroupBy = z
  .string()
  .max(64)
  .transform((text, context): Grouping => {
    const words = text === 'none' ? [] : text.split(',')
    const tags = words.flatMap((word) => TAG_WORD.exec(word)?.[1] ?? [])
    const plain = DIMENSIONS.filter((dimension) => dimension !== 'tag' && words.includes(dimension))
    const steps = TIME_STEPS.filter((step) => words.includes(step))
    const isKnown = plain.length + steps.length + tags.length === words.length
    if (isKnown && words.length <= 2 && steps.length <= 1 && tags.length <= 1)
      return {
        text,
        dimensions: words.flatMap((word) =>
          TAG_WORD.test(word) ? ['tag' as const] : plain.filter((one) => one === word),
        ),
        tagName: tags[0],
        step: steps[0],
      }
    const known = [...DIMENSIONS.map((one) => (one === 'tag' ? 'tag:NAME' : one)), ...TIME_STEPS].join(', ')
    const message = `must be none, or one or two different ones of ${known}, at most one of them a step of time`
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
  group_by: GroupBy.default({ text: 'none', dimensions: [], tagName: undefined, step: undefined }),
  top: Top.default(TOP_DEFAULT),
  latency: z.enum(['none', 'total', 'lines']).default('total'),
})
const TagsQuery = z.strictObject({
  org: filterParameters.org,
  project: filterParameters.project,
  from: filterParameters.from,
  to: filterParameters.to,
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
    const { dimensions, tagName, step, text } = asked.group_by
    requireFewLines(range.toMs - range.fromMs, step, dimensions.length === 0 ? 0 : asked.top)
    const { org } = asked
    const database = connect(c.env)
    // Before the sums: what is rolled in between is in them, and said to be in too late rather than too early.
    const { oldestStart } = await backlog(database, org)
    const timeZone = asked.time_zone
    const question: Question = {
      orgId: org,
      ...range,
      ...questionFilters(asked),
      dimensions,
      tagName,
      step,
      timeZone,
      top: asked.top,
      latency: asked.latency,
    }
    const read = await withinTimeLimit(breakdown(database, question), 'Shorten the range.')
    const names = await namesOf(c, org, idsOf(read, dimensions))
    return c.json({
      from: new Date(range.fromMs).toISOString(),
      to: new Date(range.toMs).toISOString(),
      time_zone: timeZone,
      group_by: text,
      data_until: earlier(oldestStart, new Date(nowMs).toISOString()),
      latency_error: LATENCY_ERROR,
      total: { ...sumsJson(read.total), ...latencyJson(read.latency) },
      truncated: read.lines.some(({ other }) => other),
      folded: read.folded,
      names,
      data: dataJson(read, dimensions, step),
    })
  })
  .get('/tags', async (c) => {
    const asked = readQuery(c, TagsQuery)
    const nowMs = Date.now()
    const range = rangeOf(asked, 'UTC', nowMs)
    const database = connect(c.env)
    const { oldestStart } = await backlog(database, asked.org)
    const used = await withinTimeLimit(
      tagsUsed(database, { orgId: asked.org, project: asked.project, ...range }),
      'Shorten the range.',
    )
    return c.json({ data_until: earlier(oldestStart, new Date(nowMs).toISOString()), data: used })
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
  .route('/', clientReportedRoutes)

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

/** What the lines name by id. */
function idsOf({ lines }: Breakdown, dimensions: readonly Dimension[]): Ids {
  const ids = (dimension: Dimension) => {
    const index = dimensions.indexOf(dimension)
    return index < 0 ? undefined : lines.map(({ names }) => names[index])
  }
  const asked = {
    projects: ids('project'),
    keys: ids('key'),
    users: ids('user'),
    teams: ids('team'),
    backends: ids('backend'),
  }
  return Object.fromEntries(Object.entries(asked).filter(([, some]) => some !== undefined))
}

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
  ...statusClassJson(names[dimensions.indexOf('status')]),
  ...(other ? { other } : {}),
})

const statusClassJson = (status: string | undefined) => (status === undefined ? {} : { status_class: classOf(status) })

/** Null where there was no request; nothing where it is not known. */
const latencyJson = (latency: Latency | undefined) =>
  latency === undefined
    ? {}
    : {
        latency: {
          first_token: percentilesJson(percentiles(latency.firstToken)),
          total: percentilesJson(percentiles(latency.end)),
        },
      }

async function backlogJson(c: AdminContext, orgId: string) {
  const { buckets, oldestStart, markedAt } = await backlog(connect(c.env), orgId)
  return { org_id: orgId, dirty_buckets: buckets, oldest_start: oldestStart ?? null, waiting_since: markedAt ?? null }
}
