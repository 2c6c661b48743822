// `penstock usage`: what was counted and charged, as sums, and what clients report beside it. Owns these commands; single requests
// are requests.ts. Amounts come from the gateway as decimal text and are shown as they come: nothing is added up here.
import { createWriteStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import { z } from 'zod'
import { queryText } from '../api.ts'
import { type Arguments, type Command, text } from '../command.ts'
import { type Context, findProject } from '../context.ts'
import { CliFailure, EXIT } from '../failure.ts'
import { type Column, fields, table } from '../output.ts'
import { filterQuery, RANGE_FLAGS, rangeQuery, USAGE_FILTERS } from '../range.ts'

/** Exports stream for as long as the rows last. */
const EXPORT_TIMEOUT_MS = 30 * 60_000

const Sums = z.looseObject({
  requests: z.number(),
  input_tokens: z.number(),
  output_tokens: z.number(),
  cost_usd: z.string(),
  absorbed_usd: z.string(),
  estimated_attempts: z.number(),
})
const Line = Sums.extend({ other: z.boolean().optional() })
type Line = z.infer<typeof Line>
const Breakdown = z.looseObject({
  from: z.string(),
  to: z.string(),
  time_zone: z.string(),
  data_until: z.string(),
  total: Sums,
  data: z.array(Line),
})

const Reported = z.looseObject({
  id: z.string(),
  model: z.string(),
  provider: z.string(),
  status: z.string(),
  reason: z.string().nullable(),
  input_tokens: z.number(),
  output_tokens: z.number(),
  started_at: z.string(),
})
const ReportedSums = z.looseObject({ calls: z.number(), input_tokens: z.number(), output_tokens: z.number() })
const ReportedPage = z.looseObject({
  from: z.string(),
  to: z.string(),
  billed: z.literal(false),
  total: ReportedSums,
  models: z.array(ReportedSums.extend({ model: z.string() })),
  data: z.array(Reported),
  next_cursor: z.string().optional(),
})

const project = { type: 'string', value: 'PROJECT', help: 'by slug or id; default: all' } as const
const timeZone = { type: 'string', value: 'ZONE', help: 'where days begin, e.g. Europe/Berlin; default UTC' } as const

export const usageCommands: readonly Command[] = [
  {
    path: ['usage', 'show'],
    summary: 'Requests, tokens and cost over a range, by up to two dimensions.',
    flags: {
      by: {
        type: 'string',
        value: 'DIMENSIONS',
        help: 'one or two of project, key, user, team, model, model_served, provider, status and one of hour, day, month, joined by a comma',
      },
      top: { type: 'string', value: 'N', help: 'lines by name; the rest is added up as one; default 100' },
      'time-zone': timeZone,
      project,
      ...RANGE_FLAGS,
      ...USAGE_FILTERS,
    },
    examples: [
      { line: 'penstock usage show --by model', what: 'the last 30 days by model' },
      {
        line: 'penstock usage show --by day,key --from 2026-11-01 --time-zone Europe/Berlin',
        what: 'a month, day by day',
      },
    ],
    run: show,
  },
  {
    path: ['usage', 'export'],
    summary: 'All rows of a range as CSV, or as JSON lines, to standard output or a file.',
    flags: {
      format: { type: 'string', choices: ['csv', 'json'], help: 'default csv' },
      out: { type: 'string', value: 'FILE', help: 'write there; it must not be there yet' },
      project,
      ...RANGE_FLAGS,
      ...USAGE_FILTERS,
    },
    examples: [{ line: 'penstock usage export --from 2026-11-01 --out november.csv', what: 'for a spreadsheet' }],
    run: exportRows,
  },
  {
    path: ['usage', 'client-reported'],
    summary: 'Calls that clients made past the gateway, as they report them: shown, never billed.',
    details:
      'While the gateway is away its SDK may call providers with keys of the application. What that used is reported afterwards, in the\n' +
      "client's own words. It is in no sum of `usage show`, on no bill, and no limit counts it.",
    flags: {
      limit: { type: 'string', value: 'N', help: '1 to 200; default 20' },
      cursor: { type: 'string', value: 'CURSOR', help: 'of the page before: its `next_cursor`' },
      project,
      key: { type: 'string', value: 'ID', help: 'of an API key' },
      model: USAGE_FILTERS.model,
      provider: { type: 'string', value: 'NAME', help: 'as the client calls it' },
      status: { type: 'string', choices: ['answered', 'failed', 'interrupted'], help: 'how the call ended' },
      ...RANGE_FLAGS,
    },
    examples: [
      { line: 'penstock usage client-reported --last 24h', what: 'what an outage sent elsewhere' },
      { line: 'penstock usage client-reported --model small --json', what: 'for a script' },
    ],
    run: clientReported,
  },
]

const projectId = async (context: Context, args: Arguments) => {
  const wanted = text(args, 'project')
  return wanted === undefined ? undefined : (await findProject(context, wanted)).id
}

async function show(context: Context, args: Arguments) {
  const { id: org } = await context.organisation()
  const by = text(args, 'by')
  const answer = await (await context.api()).get('/usage', Breakdown, {
    org,
    ...rangeQuery(args, context.nowMs()),
    ...filterQuery(args),
    project: await projectId(context, args),
    group_by: by ?? 'none',
    top: text(args, 'top'),
    time_zone: text(args, 'time-zone'),
  })
  const { total, data, paint } = { ...answer, paint: context.paint }
  const names = by?.split(',') ?? []
  const columns: Column<Line>[] = [
    ...names.map((name): Column<Line> => ({ title: name.toUpperCase(), of: (line) => nameOf(line, name) })),
    ...NUMBERS,
  ]
  const flagged = total.estimated_attempts > 0 ? [`${total.estimated_attempts} attempts are estimates.`] : []
  const head = fields(
    [
      ['range', `${answer.from} to ${answer.to} (${answer.time_zone})`],
      ['data until', answer.data_until],
      ['requests', String(total.requests)],
      ['tokens', `${total.input_tokens} in, ${total.output_tokens} out`],
      ['cost', `$${total.cost_usd}`],
      ['absorbed', total.absorbed_usd === '0' ? undefined : `$${total.absorbed_usd}`],
    ],
    paint,
  )
  const body = by === undefined ? [] : ['', ...table(data, columns, paint, 'Nothing was used.')]
  return { data: answer, lines: [...head, ...flagged, ...body] }
}

const NUMBERS: readonly Column<Line>[] = [
  { title: 'REQUESTS', of: (line) => String(line.requests), isRight: true },
  { title: 'INPUT', of: (line) => String(line.input_tokens), isRight: true },
  { title: 'OUTPUT', of: (line) => String(line.output_tokens), isRight: true },
  { title: 'COST $', of: (line) => line.cost_usd, isRight: true },
]

/** Lines carry their names under the dimension's field: `key_id`, `model`, `time`. */
function nameOf(line: Line, dimension: string): string {
  if (line.other === true && !['hour', 'day', 'month'].includes(dimension)) return '(other)'
  const value = line[dimension] ?? line[`${dimension}_id`] ?? line.time
  return typeof value === 'string' && value !== '' ? value : '-'
}

async function clientReported(context: Context, args: Arguments) {
  const { id: org } = await context.organisation()
  const answer = await (await context.api()).get('/usage/client-reported', ReportedPage, {
    org,
    ...rangeQuery(args, context.nowMs()),
    project: await projectId(context, args),
    key: text(args, 'key'),
    model: text(args, 'model'),
    provider: text(args, 'provider'),
    status: text(args, 'status'),
    limit: text(args, 'limit') ?? '20',
    cursor: text(args, 'cursor'),
  })
  const { total, models, data, next_cursor: nextCursor } = answer
  const { paint } = context
  const lines = [
    ...fields(
      [
        ['range', `${answer.from} to ${answer.to}`],
        ['calls', `${total.calls}, reported by clients and not billed`],
        ['tokens', `${total.input_tokens} in, ${total.output_tokens} out`],
      ],
      paint,
    ),
    ...(models.length > 1 ? ['', ...table(models, REPORTED_SUMS, paint, '')] : []),
    '',
    ...table(data, REPORTED_CALLS, paint, 'No client has reported a call.'),
  ]
  return { data: answer, lines, nextCursor }
}

const REPORTED_SUMS: readonly Column<z.infer<typeof ReportedSums> & { model: string }>[] = [
  { title: 'MODEL', of: ({ model }) => model },
  { title: 'CALLS', of: ({ calls }) => String(calls), isRight: true },
  { title: 'INPUT', of: (line) => String(line.input_tokens), isRight: true },
  { title: 'OUTPUT', of: (line) => String(line.output_tokens), isRight: true },
]
const REPORTED_CALLS: readonly Column<z.infer<typeof Reported>>[] = [
  { title: 'STARTED', of: (call) => call.started_at },
  { title: 'MODEL', of: ({ model }) => model },
  { title: 'PROVIDER', of: ({ provider }) => provider },
  {
    title: 'STATUS',
    of: ({ status }) => status,
    style: ({ status }) => (status === 'answered' ? undefined : 'yellow'),
  },
  { title: 'INPUT', of: (call) => String(call.input_tokens), isRight: true },
  { title: 'OUTPUT', of: (call) => String(call.output_tokens), isRight: true },
  { title: 'WHY', of: ({ reason }) => reason ?? '-' },
]

/** A file that was begun and cannot be ended is taken away: it would look like all there is. @throws CliFailure */
async function brokenOff(error: unknown, out: string): Promise<never> {
  const { code, message } = error as NodeJS.ErrnoException
  if (code === 'EEXIST')
    throw new CliFailure(EXIT.failed, `${out} is there already.`, { code: 'exists', hint: 'Name another file.' })
  await rm(out, { force: true })
  throw new CliFailure(EXIT.failed, `The export broke off (${message}); ${out} is not there.`, { code: 'broken_off' })
}

async function exportRows(context: Context, args: Arguments) {
  const { id: org } = await context.organisation()
  const query = {
    org,
    ...rangeQuery(args, context.nowMs()),
    ...filterQuery(args),
    project: await projectId(context, args),
    format: text(args, 'format') ?? 'csv',
  }
  const response = await (await context.api()).send('GET', `/admin/v1/usage/export${queryText(query)}`, {
    accept: '*/*',
    signal: context.signal,
    timeoutMs: EXPORT_TIMEOUT_MS,
  })
  const out = text(args, 'out')
  if (out !== undefined && response.body !== null) {
    // `wx`: what is there already is somebody's.
    await pipeline(response.body, createWriteStream(out, { flags: 'wx' })).catch((error: unknown) =>
      brokenOff(error, out),
    )
    return { data: { file: out }, lines: [`Written to ${out}.`] }
  }
  for await (const chunk of response.body ?? []) context.terminal.stdout.write(chunk)
  return undefined
}
