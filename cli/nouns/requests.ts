// `penstock requests` and `penstock logs`: requests one by one, with the attempts behind each. Owns these commands. Following asks the
// gateway again and again: rows are there once their request has ended.
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { type Arguments, type Command, isSet, positional, text } from '../command.ts'
import { type Context, findProject } from '../context.ts'
import { wrongUsage } from '../failure.ts'
import { type Column, fields, plain, table } from '../output.ts'
import { filterQuery, RANGE_FLAGS, rangeQuery, USAGE_FILTERS } from '../range.ts'

const POLL_MS = 1_000
/** Ids that were shown, to tell apart what is new. */
const SEEN_MAX = 50_000
const LIMIT_MAX = 200

const Row = z.looseObject({
  id: z.string(),
  key_id: z.string(),
  provider: z.string(),
  model: z.string(),
  model_served: z.string(),
  stream: z.boolean(),
  status: z.string(),
  http_status: z.number().nullable(),
  started_at: z.string(),
  first_token_at: z.string().nullable(),
  ended_at: z.string(),
  attempts: z.number(),
  input_tokens: z.number(),
  output_tokens: z.number(),
  cost_usd: z.string(),
})
type Row = z.infer<typeof Row>
/** `since`: from where to ask for what is recorded later, with some overlap. */
const Page = z.object({ data: z.array(Row), next_cursor: z.string().optional(), since: z.string() })
const Attempt = z.looseObject({
  attempt: z.number(),
  kind: z.string(),
  provider: z.string(),
  model_served: z.string(),
  status: z.string(),
  charge: z.string(),
  usage_source: z.string(),
  started_at: z.string(),
  first_token_at: z.string().nullable(),
  ended_at: z.string(),
  input_tokens: z.number(),
  output_tokens: z.number(),
  cost_usd: z.string(),
  route: z.record(z.string(), z.unknown()).nullish(),
})
type Attempt = z.infer<typeof Attempt>
const Detail = Row.extend({ attempt_rows: z.array(Attempt) })

const filters = {
  project: { type: 'string', value: 'PROJECT', help: 'by slug or id; default: all' },
  key: { type: 'string', value: 'ID', help: 'of an API key' },
  'end-user': { type: 'string', value: 'NAME', help: 'whom the caller served' },
  ...USAGE_FILTERS,
} as const

export const requestCommands: readonly Command[] = [
  {
    path: ['requests', 'list'],
    summary: 'The newest requests of a range.',
    flags: {
      limit: { type: 'string', value: 'N', help: `1 to ${LIMIT_MAX}; default 20` },
      cursor: { type: 'string', value: 'CURSOR', help: 'of the page before: its `next_cursor`' },
      ...filters,
      ...RANGE_FLAGS,
    },
    examples: [
      { line: 'penstock requests list --status upstream_error --last 1h', what: 'what failed within the hour' },
    ],
    run: async (context, args) => {
      const page = await readPage(context, args, {
        ...rangeQuery(args, context.nowMs()),
        limit: text(args, 'limit') ?? '20',
        cursor: text(args, 'cursor'),
      })
      const lines = table(page.data, columns, context.paint, 'No request.')
      return { data: page.data, lines, nextCursor: page.next_cursor }
    },
  },
  {
    path: ['requests', 'show'],
    summary: 'One request: every attempt, why it was made there, what it used and cost.',
    positionals: [{ name: 'ID', help: 'as in the header x-request-id of its answer' }],
    examples: [
      {
        line: 'penstock requests show 6b1c2a90-0000-4000-8000-000000000000',
        what: 'with the decision behind each attempt',
      },
    ],
    run: showOne,
  },
  {
    path: ['logs'],
    summary: 'The last requests as lines; with --follow also those that come.',
    flags: {
      follow: { type: 'boolean', help: 'go on until Ctrl-C' },
      limit: { type: 'string', value: 'N', help: `lines to begin with, 1 to ${LIMIT_MAX}; default 20` },
      ...filters,
    },
    details: 'With --json each line is one JSON object, as `requests list` has them.',
    examples: [{ line: 'penstock logs --follow --status upstream_error', what: 'failures as they happen' }],
    run: logs,
  },
]

async function readPage(context: Context, args: Arguments, query: Record<string, string | undefined>) {
  const project = text(args, 'project')
  const { id: org } = await context.organisation()
  return (await context.api()).get('/usage/requests', Page, {
    org,
    project: project === undefined ? undefined : (await findProject(context, project)).id,
    key: text(args, 'key'),
    end_user: text(args, 'end-user'),
    ...filterQuery(args),
    ...query,
  })
}

const spanMs = (from: string, to: string | null): string => (to === null ? '-' : `${Date.parse(to) - Date.parse(from)}`)
const isGood = ({ status }: { status: string }): boolean => status === 'ok'

const columns: readonly Column<Row>[] = [
  { title: 'STARTED', of: (row) => row.started_at.replace('T', ' ').slice(0, 19), style: () => 'dim' },
  { title: 'STATUS', of: (row) => row.status, style: (row) => (isGood(row) ? 'green' : 'red') },
  { title: 'MODEL', of: (row) => row.model },
  { title: 'TARGET', of: (row) => `${row.provider}${row.attempts > 1 ? ` (${row.attempts} attempts)` : ''}` },
  { title: 'IN', of: (row) => String(row.input_tokens), isRight: true },
  { title: 'OUT', of: (row) => String(row.output_tokens), isRight: true },
  { title: 'FIRST MS', of: (row) => spanMs(row.started_at, row.first_token_at), isRight: true },
  { title: 'MS', of: (row) => spanMs(row.started_at, row.ended_at), isRight: true },
  { title: 'COST $', of: (row) => row.cost_usd, isRight: true },
  { title: 'ID', of: (row) => row.id, style: () => 'dim' },
]

async function showOne(context: Context, args: Arguments) {
  const { id: org } = await context.organisation()
  const id = positional(args, 'ID').toLowerCase()
  const request = await (await context.api()).get(`/usage/requests/${encodeURIComponent(id)}`, Detail, { org })
  const since = (time: string | null): string =>
    time === null ? '-' : `+${Date.parse(time) - Date.parse(request.started_at)}`
  const attempts = table<Attempt>(
    request.attempt_rows,
    [
      { title: '#', of: (row) => `${row.attempt}${row.kind === 'attempt' ? '' : ` ${row.kind}`}` },
      { title: 'WHY', of: (row) => String(row.route?.role ?? '-') },
      { title: 'TARGET', of: (row) => `${row.provider}/${row.model_served}` },
      { title: 'STATUS', of: (row) => row.status, style: (row) => (isGood(row) ? 'green' : 'red') },
      { title: 'START MS', of: (row) => since(row.started_at), isRight: true },
      { title: 'FIRST', of: (row) => since(row.first_token_at), isRight: true },
      { title: 'END', of: (row) => since(row.ended_at), isRight: true },
      { title: 'IN', of: (row) => String(row.input_tokens), isRight: true },
      { title: 'OUT', of: (row) => String(row.output_tokens), isRight: true },
      { title: 'COST $', of: (row) => row.cost_usd, isRight: true },
      { title: 'PAID BY', of: (row) => (row.charge === 'customer' ? 'customer' : 'gateway') },
      { title: 'USAGE', of: (row) => row.usage_source },
    ],
    context.paint,
    'No attempt.',
  )
  const head = fields(
    [
      ['id', request.id],
      ['status', `${request.status}${request.http_status === null ? '' : ` (HTTP ${request.http_status})`}`],
      ['model', request.model],
      ['key', request.key_id],
      ['started', request.started_at],
      [
        'took',
        `${spanMs(request.started_at, request.ended_at)} ms, first token after ${spanMs(request.started_at, request.first_token_at)} ms`,
      ],
      ['tokens', `${request.input_tokens} in, ${request.output_tokens} out`],
      ['cost', `$${request.cost_usd}`],
    ],
    context.paint,
  )
  return { data: request, lines: [...head, '', ...attempts] }
}

async function logs(context: Context, args: Arguments) {
  const limit = Number(text(args, 'limit') ?? '20')
  if (!Number.isInteger(limit) || limit < 1 || limit > LIMIT_MAX) throw wrongUsage(`--limit is 1 to ${LIMIT_MAX}.`)
  const seen = new Set<string>()
  const print = (rows: readonly Row[]) => {
    for (const row of rows.toReversed()) {
      if (seen.has(row.id)) continue
      seen.add(row.id)
      context.say(context.isJson ? JSON.stringify(row) : lineOf(context, row))
    }
    for (const id of seen) {
      if (seen.size <= SEEN_MAX) break
      seen.delete(id)
    }
  }
  const first = await readPage(context, args, { limit: String(limit) })
  print(first.data)
  let { since } = first
  while (isSet(args, 'follow') && !context.signal.aborted) {
    await sleep(POLL_MS, undefined, { signal: context.signal }).catch(() => undefined)
    if (context.signal.aborted) break
    // By when rows were recorded, not by when their requests began: those may have run for long.
    const page = await readPage(context, args, { since, limit: String(LIMIT_MAX) })
    if (page.data.length === LIMIT_MAX && !page.data.some(({ id }) => seen.has(id)))
      context.warn('More came at once than is shown here; `penstock requests list` has all of them.')
    print(page.data)
    since = page.since
  }
  return undefined
}

function lineOf({ paint }: Context, row: Row): string {
  const status = paint(isGood(row) ? 'green' : 'red', plain(row.status))
  const words = [
    paint('dim', row.started_at),
    status,
    plain(row.model),
    plain(row.provider),
    `${row.input_tokens}+${row.output_tokens} tokens`,
    `${spanMs(row.started_at, row.ended_at)} ms`,
    `$${plain(row.cost_usd)}`,
    paint('dim', plain(row.id)),
  ]
  return words.join('  ')
}
