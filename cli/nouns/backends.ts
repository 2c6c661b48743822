// `penstock backends`: the machines of the fleet. Owns these commands; what a machine does when it is drained or switched is the
// agent's, and shows here when its next report has come.
import { z } from 'zod'
import { isUnsent } from '../api.ts'
import { type Arguments, type Command, isSet, positional, text } from '../command.ts'
import type { Context } from '../context.ts'
import { CliFailure, EXIT, wrongUsage } from '../failure.ts'
import { type Column, type Paint, plain, table } from '../output.ts'
import { nearestOf } from '../parse.ts'
import { spanSeconds } from '../time.ts'
import { unsent } from '../unsent.ts'

const Engine = z.looseObject({
  model: z.string(),
  engine: z.string().nullable(),
  role: z.string(),
  draining: z.boolean(),
  requests_queued: z.number(),
  sequences_running: z.number(),
  sequences_max: z.number(),
  kv_blocks_used: z.number(),
  kv_blocks_total: z.number(),
})
export const Backend = z.looseObject({
  id: z.string(),
  url: z.string(),
  label: z.string(),
  state: z.string(),
  report_age_ms: z.number().nullable(),
  desired: z.looseObject({ roles: z.record(z.string(), z.string()) }).nullable(),
  models: z.array(Engine),
})
type Backend = z.infer<typeof Backend>
const Answer = z.object({ data: z.array(Backend) })
const Token = z.object({ token: z.string(), expires_at: z.string() })
const Desired = z.looseObject({ id: z.string() })

const ROLES = ['both', 'prefill', 'decode'] as const
const backend = { name: 'BACKEND', help: 'its id or label' }

export const backendCommands: readonly Command[] = [
  {
    path: ['backends', 'list'],
    summary: 'Machines, their engines, and how busy they are.',
    examples: [{ line: 'penstock backends list', what: 'one line per engine' }],
    run: async (context) => {
      const all = await read(context)
      const rows = all.flatMap((one) => one.models.map((engine) => ({ one, engine })))
      return {
        data: all,
        lines: table(rows, columns, context.paint, 'No backend has joined. Let one in: penstock backends enroll'),
      }
    },
  },
  {
    path: ['backends', 'enroll'],
    summary: 'A one-time token with which an agent joins; it is shown once.',
    flags: {
      label: { type: 'string', value: 'TEXT', help: 'for your own memory' },
      expires: { type: 'string', value: 'SPAN', help: 'how long it can be used; default 1h' },
      quiet: { type: 'boolean', help: 'print the token alone, for a pipe' },
    },
    examples: [
      { line: 'penstock backends enroll --label gpu-7 --quiet', what: 'for the PENSTOCK_JOIN_TOKEN of the new host' },
    ],
    changes: true,
    run: async (context, args) => {
      const expires = text(args, 'expires')
      const body = {
        label: text(args, 'label'),
        ...(expires !== undefined && { ttl_seconds: spanSeconds(expires, '--expires') }),
      }
      const answer = await (await context.api()).change('POST', '/backends/tokens', Token, body)
      if (isUnsent(answer)) return unsent(answer)
      if (isSet(args, 'quiet')) return { data: answer, lines: [answer.token] }
      return {
        data: answer,
        lines: [`  ${context.paint('bold', answer.token)}`, '', `It works once, until ${answer.expires_at}.`],
      }
    },
  },
  {
    path: ['backends', 'drain'],
    summary: 'Send a machine no new requests; what runs there ends or moves on.',
    positionals: [backend],
    flags: { stop: { type: 'boolean', help: 'take requests again' } },
    examples: [
      { line: 'penstock backends drain gpu-7', what: 'before it is rebooted' },
      { line: 'penstock backends drain gpu-7 --stop', what: 'afterwards' },
    ],
    changes: true,
    run: async (context, args) => {
      const draining = !isSet(args, 'stop')
      return desire(context, args, () => ({ draining }), draining ? 'drains' : 'takes requests again')
    },
  },
  {
    path: ['backends', 'switch'],
    summary: 'Give an engine another role; it finishes what it has, then switches.',
    positionals: [
      backend,
      { name: 'ENGINE', help: 'as `backends list` names it' },
      { name: 'ROLE', help: ROLES.join(', ') },
    ],
    examples: [{ line: 'penstock backends switch gpu-7 1 decode', what: 'its second engine decodes from now on' }],
    changes: true,
    run: async (context, args) => {
      const role = positional(args, 'ROLE')
      if (!ROLES.some((one) => one === role)) throw wrongUsage(`ROLE ${role}: must be one of ${ROLES.join(', ')}.`)
      const engine = positional(args, 'ENGINE')
      return desire(
        context,
        args,
        (one) => ({ roles: { ...rolesOf(one), [engine]: role } }),
        `switches ${engine} to ${role}`,
        engine,
      )
    },
  },
  {
    path: ['backends', 'remove'],
    summary: 'Forget a machine; its agent has to be enrolled anew.',
    positionals: [backend],
    examples: [{ line: 'penstock backends remove gpu-7 --yes', what: 'after it is gone for good' }],
    changes: true,
    destroys: true,
    run: async (context, args) => {
      const one = await find(context, positional(args, 'BACKEND'))
      await context.confirm(`Remove ${one.label || one.id}?`)
      const answer = await (await context.api()).change('DELETE', `/backends/${one.id}`, z.unknown())
      if (isUnsent(answer)) return unsent(answer)
      return { data: { id: one.id, deleted: true }, lines: [`Removed ${one.label || one.id}.`] }
    },
  },
]

type Row = { one: Backend; engine: z.infer<typeof Engine> }

const columns: readonly Column<Row>[] = [
  { title: 'BACKEND', of: ({ one }) => one.label || one.id, style: () => 'bold' },
  { title: 'STATE', of: ({ one }) => one.state, style: ({ one }) => (one.state === 'live' ? 'green' : 'yellow') },
  { title: 'ENGINE', of: ({ engine }) => engine.engine ?? '-' },
  { title: 'ROLE', of: ({ engine }) => `${engine.role}${engine.draining ? ' (draining)' : ''}` },
  { title: 'MODEL', of: ({ engine }) => engine.model },
  { title: 'RUNNING', of: ({ engine }) => `${engine.sequences_running}/${engine.sequences_max}`, isRight: true },
  { title: 'QUEUED', of: ({ engine }) => String(engine.requests_queued), isRight: true },
  { title: 'KV', of: ({ engine }) => percent(engine.kv_blocks_used, engine.kv_blocks_total), isRight: true },
  {
    title: 'REPORT',
    of: ({ one }) => (one.report_age_ms === null ? 'none' : `${one.report_age_ms} ms ago`),
    isRight: true,
  },
  { title: 'ID', of: ({ one }) => one.id, style: () => 'dim' },
]

/** One engine on one line, for a stream of them. */
export const engineLine = (one: Backend, engine: z.infer<typeof Engine>, paint: Paint): string =>
  [
    paint('bold', plain(one.label || one.id)),
    paint(one.state === 'live' ? 'green' : 'yellow', one.state),
    plain(engine.engine ?? '-'),
    `${engine.role}${engine.draining ? ' (draining)' : ''}`,
    plain(engine.model),
    `${engine.sequences_running}/${engine.sequences_max} running`,
    `${engine.requests_queued} queued`,
    `KV ${percent(engine.kv_blocks_used, engine.kv_blocks_total)}`,
  ].join('  ')

const percent = (part: number, whole: number): string => (whole === 0 ? '-' : `${Math.round((100 * part) / whole)}%`)

const read = async (context: Context): Promise<Backend[]> => (await (await context.api()).get('/backends', Answer)).data

/** What was asked for before is asked for again: engines that are not named go back to the role that they were started with. */
const rolesOf = ({ desired }: Backend): Record<string, string> => desired?.roles ?? {}

async function desire(
  context: Context,
  args: Arguments,
  bodyOf: (one: Backend) => unknown,
  done: string,
  engine?: string,
) {
  const one = await find(context, positional(args, 'BACKEND'))
  const engines = one.models.flatMap((model) => model.engine ?? [])
  if (engine !== undefined && !engines.includes(engine))
    throw new CliFailure(EXIT.notFound, `${one.label || one.id} has no engine ${JSON.stringify(engine)}.`, {
      code: 'not_found',
      hint: engines.length === 0 ? 'It has reported none yet.' : `It has: ${engines.join(', ')}`,
    })
  const answer = await (await context.api()).change('PATCH', `/backends/${one.id}`, Desired, bodyOf(one))
  if (isUnsent(answer)) return unsent(answer)
  return { data: answer, lines: [`${one.label || one.id} ${done}; \`penstock backends list\` shows when.`] }
}

/** @throws CliFailure */
async function find(context: Context, wanted: string): Promise<Backend> {
  const all = await read(context)
  const found = all.filter(({ id, label }) => id === wanted || label === wanted)
  const [one] = found
  if (found.length > 1) throw wrongUsage(`${found.length} backends are labelled ${wanted}.`, 'Name it by its id.')
  if (one !== undefined) return one
  const near = nearestOf(
    wanted,
    all.map(({ label, id }) => label || id),
  )
  throw new CliFailure(EXIT.notFound, `There is no backend ${JSON.stringify(wanted)}.`, {
    code: 'not_found',
    hint: near === undefined ? '`penstock backends list` lists them.' : `Did you mean ${near}?`,
  })
}
