// `penstock orgs` and `penstock projects`. Owns these commands.
import { z } from 'zod'
import { isUnsent } from '../api.ts'
import { type Arguments, type Command, positional, text } from '../command.ts'
import type { Context } from '../context.ts'
import { table } from '../output.ts'
import { ago } from '../time.ts'
import { unsent } from '../unsent.ts'

const Named = z.object({ id: z.string(), slug: z.string(), name: z.string(), created_at: z.string() })
type Named = z.infer<typeof Named>

const slug = { name: 'SLUG', help: 'its short name: letters, digits and dashes' }
const name = { type: 'string', value: 'NAME', help: 'its name for people; default: the slug' } as const

export const organisationCommands: readonly Command[] = [
  {
    path: ['orgs', 'create'],
    summary: 'Make an organisation; the same slug again changes nothing.',
    positionals: [slug],
    flags: { name },
    examples: [
      { line: 'penstock orgs create acme --name "Acme Inc."', what: 'a tenant with its own keys, limits and bill' },
    ],
    changes: true,
    run: (context, args) => create(context, args, '/organisations'),
  },
  {
    path: ['orgs', 'list'],
    summary: 'The organisations that you see.',
    examples: [{ line: 'penstock orgs list --json', what: 'with their ids' }],
    run: async (context) => shown(context, await (await context.api()).list('/organisations', Named), 'orgs'),
  },
  {
    path: ['projects', 'create'],
    summary: 'Make a project of the organisation; the same slug again changes nothing.',
    positionals: [slug],
    flags: { name },
    examples: [{ line: 'penstock projects create search', what: 'keys of it are counted apart' }],
    changes: true,
    run: async (context, args) => create(context, args, `/organisations/${(await context.organisation()).id}/projects`),
  },
  {
    path: ['projects', 'list'],
    summary: 'The projects of the organisation.',
    examples: [{ line: 'penstock projects list', what: 'slugs and ids' }],
    run: async (context) => {
      const path = `/organisations/${(await context.organisation()).id}/projects`
      return shown(context, await (await context.api()).list(path, Named), 'projects')
    },
  },
]

async function create(context: Context, args: Arguments, path: string) {
  const body = { slug: positional(args, 'SLUG'), name: text(args, 'name') }
  const answer = await (await context.api()).change('POST', path, Named, body)
  if (isUnsent(answer)) return unsent(answer)
  return { data: answer, lines: [`${answer.slug} is there: ${answer.id}`] }
}

function shown({ paint, nowMs }: Context, all: readonly Named[], noun: string) {
  const lines = table(
    all,
    [
      { title: 'SLUG', of: (one) => one.slug, style: () => 'bold' },
      { title: 'NAME', of: (one) => one.name },
      { title: 'MADE', of: (one) => ago(one.created_at, nowMs()) },
      { title: 'ID', of: ({ id }) => id, style: () => 'dim' },
    ],
    paint,
    `None. Make one: penstock ${noun} create SLUG`,
  )
  return { data: all, lines }
}
