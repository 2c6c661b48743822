// `penstock keys`: API keys of an organisation. Owns the commands and how keys are shown; the text of a new key is printed once, alone
// on standard output with --quiet, so that it can be piped into a secret store.
import { z } from 'zod'
import { isUnsent } from '../api.ts'
import { type Arguments, type Command, isSet, positional, text, texts } from '../command.ts'
import { type Context, findProject } from '../context.ts'
import { CliFailure, EXIT, wrongUsage } from '../failure.ts'
import { fields, table } from '../output.ts'
import { nearestOf } from '../parse.ts'
import { ago, spanSeconds } from '../time.ts'
import { unsent } from '../unsent.ts'

const Key = z.object({
  id: z.string(),
  project_id: z.string(),
  user_id: z.string().nullable(),
  name: z.string(),
  prefix: z.string(),
  models: z.array(z.string()).nullable(),
  routes: z.array(z.string()).nullable(),
  addresses: z.array(z.string()).nullable(),
  created_at: z.string(),
  expires_at: z.string().nullable(),
  revoked_at: z.string().nullable(),
})
type Key = z.infer<typeof Key>
const KeyUse = z.looseObject({ data: z.array(z.object({ key_id: z.string(), last_used_at: z.string() })) })
const MadeKey = Key.extend({ key: z.string() })

/** Of an overlap: keys are rolled out within a day as a rule. */
const OVERLAP_DEFAULT = '24h'

const scopes = {
  project: { type: 'string', value: 'PROJECT', help: 'by slug or id; default: the only one' },
  model: { type: 'string', value: 'MODEL', help: 'allow this model alone; repeat for more', multiple: true },
  route: {
    type: 'string',
    value: 'ROUTE',
    help: 'allow this route alone (chat, completions, responses, embeddings, models, admin); repeat',
    multiple: true,
  },
  address: {
    type: 'string',
    value: 'NETWORK',
    help: 'allow callers from this address or network alone; repeat',
    multiple: true,
  },
  expires: { type: 'string', value: 'SPAN', help: 'stop working after, e.g. 30d or 12h; default: never' },
} as const

export const keyCommands: readonly Command[] = [
  {
    path: ['keys', 'create'],
    summary: 'Make an API key; its text is shown once.',
    positionals: [{ name: 'NAME', help: 'what the key is for' }],
    flags: {
      ...scopes,
      'if-absent': { type: 'boolean', help: 'where a key of this name works already, say so and make none' },
      quiet: { type: 'boolean', help: 'print the key alone, for a pipe' },
    },
    examples: [
      {
        line: 'penstock keys create ci --model smollm2-135m-instruct --expires 30d',
        what: 'a key for one model, for a month',
      },
      { line: 'penstock keys create app --quiet | gh secret set PENSTOCK_KEY', what: 'straight into a secret store' },
    ],
    changes: true,
    run: create,
  },
  {
    path: ['keys', 'list'],
    summary: 'The keys that work; with --all also those that do not any more.',
    flags: { project: scopes.project, all: { type: 'boolean', help: 'also revoked and expired ones' } },
    examples: [{ line: 'penstock keys list --json', what: 'for a script' }],
    run: list,
  },
  {
    path: ['keys', 'show'],
    summary: 'One key.',
    positionals: [{ name: 'KEY', help: 'its id, name, or the beginning of its text' }],
    examples: [{ line: 'penstock keys show ci', what: 'what it may do, and until when' }],
    run: async (context, args) => {
      const key = await findKey(context, positional(args, 'KEY'))
      return { data: key, lines: shown(context, key) }
    },
  },
  {
    path: ['keys', 'update'],
    summary: 'Change what a key may do, or its name; what is not named stays.',
    positionals: [{ name: 'KEY', help: 'its id, name, or the beginning of its text' }],
    flags: {
      name: { type: 'string', value: 'NAME', help: 'another name' },
      model: scopes.model,
      route: scopes.route,
      address: scopes.address,
      expires: { type: 'string', value: 'SPAN', help: 'stop working after, from now, e.g. 30d; `never` lifts an end' },
      lift: {
        type: 'string',
        choices: ['models', 'routes', 'addresses'],
        help: 'allow all of these again; repeat for more',
        multiple: true,
      },
    },
    examples: [
      { line: 'penstock keys update ci --model smollm2-135m-instruct --expires 30d', what: 'one model, for a month' },
      { line: 'penstock keys update ci --lift models --expires never', what: 'as it was' },
    ],
    changes: true,
    run: update,
  },
  {
    path: ['keys', 'rotate'],
    summary: 'Make a successor with the same rights; the old key ends after an overlap.',
    positionals: [{ name: 'KEY', help: 'its id, name, or the beginning of its text' }],
    flags: {
      overlap: {
        type: 'string',
        value: 'SPAN',
        help: `how long the old one goes on, e.g. 0s or 7d; default ${OVERLAP_DEFAULT}`,
      },
      quiet: { type: 'boolean', help: 'print the key alone, for a pipe' },
    },
    examples: [{ line: 'penstock keys rotate ci --overlap 1h', what: 'limits and usage go on counting as one key' }],
    changes: true,
    run: async (context, args) => {
      const { id, name } = await findKey(context, positional(args, 'KEY'))
      const body = { overlap_seconds: spanSeconds(text(args, 'overlap') ?? OVERLAP_DEFAULT, '--overlap') }
      return made(context, args, `/organisations/${await orgId(context)}/keys/${id}/rotate`, body, `Rotated ${name}`)
    },
  },
  {
    path: ['keys', 'revoke'],
    summary: 'End a key; it is refused from the next request on.',
    positionals: [{ name: 'KEY', help: 'its id, name, or the beginning of its text' }],
    examples: [{ line: 'penstock keys revoke ci --yes', what: 'in a script; repeating it changes nothing' }],
    changes: true,
    destroys: true,
    run: revoke,
  },
]

const orgId = async (context: Context): Promise<string> => (await context.organisation()).id

async function create(context: Context, args: Arguments) {
  const name = positional(args, 'NAME')
  const project = await findProject(context, text(args, 'project'))
  if (isSet(args, 'if-absent')) {
    const existing = (await allKeys(context, project.id)).find(
      (key) => key.name === name && works(key, context.nowMs()),
    )
    if (existing !== undefined)
      return { data: existing, lines: [`${name} is there already; its text was shown when it was made.`] }
  }
  const expires = text(args, 'expires')
  const some = (given: readonly string[]) => (given.length === 0 ? undefined : given)
  const body = {
    project_id: project.id,
    name,
    models: some(texts(args, 'model')),
    routes: some(texts(args, 'route')),
    addresses: some(texts(args, 'address')),
    ...(expires !== undefined && {
      expires_at: after(context, expires),
    }),
  }
  return made(context, args, `/organisations/${await orgId(context)}/keys`, body, `Made ${name}`)
}

async function made(context: Context, args: Arguments, path: string, body: unknown, done: string) {
  const answer = await (await context.api()).change('POST', path, MadeKey, body)
  if (isUnsent(answer)) return unsent(answer)
  if (isSet(args, 'quiet')) return { data: answer, lines: [answer.key] }
  const { paint } = context
  return {
    data: answer,
    lines: [
      `${done}. Keep its text now: it is stored nowhere and not shown again.`,
      '',
      `  ${paint('bold', answer.key)}`,
      '',
      ...shown(context, answer),
    ],
  }
}

async function update(context: Context, args: Arguments) {
  const key = await findKey(context, positional(args, 'KEY'))
  const expires = text(args, 'expires')
  const lifted = texts(args, 'lift')
  const list = (field: string, flag: string) => {
    const given = texts(args, flag)
    if (given.length > 0 && lifted.includes(field))
      throw wrongUsage(`--${flag} and --lift ${field} contradict each other.`)
    return given.length > 0 ? { [field]: given } : lifted.includes(field) ? { [field]: null } : {}
  }
  const name = text(args, 'name')
  const body = {
    ...(name !== undefined && { name }),
    ...list('models', 'model'),
    ...list('routes', 'route'),
    ...list('addresses', 'address'),
    ...(expires !== undefined && { expires_at: expires === 'never' ? null : after(context, expires) }),
  }
  if (Object.keys(body).length === 0) throw wrongUsage('Nothing to change: name it with a flag.')
  const path = `/organisations/${await orgId(context)}/keys/${key.id}`
  const answer = await (await context.api()).change('PATCH', path, Key, body)
  if (isUnsent(answer)) return unsent(answer)
  return { data: answer, lines: [`Changed ${answer.name}.`, '', ...shown(context, answer)] }
}

const after = (context: Context, span: string): string =>
  new Date(context.nowMs() + spanSeconds(span, '--expires') * 1000).toISOString()

async function list(context: Context, args: Arguments) {
  const project = text(args, 'project')
  const projectId = project === undefined ? undefined : (await findProject(context, project)).id
  const now = context.nowMs()
  const keys = (await allKeys(context, projectId)).filter((key) => isSet(args, 'all') || works(key, now))
  const used = await lastUse(context)
  const lines = table(
    keys,
    [
      { title: 'NAME', of: ({ name }) => name, style: () => 'bold' },
      { title: 'PREFIX', of: ({ prefix }) => prefix },
      { title: 'MODELS', of: ({ models }) => models?.join(', ') ?? 'all' },
      { title: 'MADE', of: (key) => ago(key.created_at, now) },
      {
        title: 'LAST USED',
        of: ({ id }) => {
          const at = used.get(id)
          return at === undefined ? '-' : ago(at, now)
        },
      },
      { title: 'STATE', of: (key) => stateOf(key, now), style: (key) => (works(key, now) ? undefined : 'dim') },
      { title: 'ID', of: ({ id }) => id, style: () => 'dim' },
    ],
    context.paint,
    'No key. Make one: penstock keys create NAME',
  )
  return { data: keys.map((key) => ({ ...key, last_used_at: used.get(key.id) ?? null })), lines }
}

/** By key, of the last 90 days. Trails what happened as rollups do. */
async function lastUse(context: Context): Promise<Map<string, string>> {
  const { data } = await (await context.api()).get(`/organisations/${await orgId(context)}/key-use`, KeyUse)
  return new Map(data.map((one) => [one.key_id, one.last_used_at]))
}

async function revoke(context: Context, args: Arguments) {
  const key = await findKey(context, positional(args, 'KEY'))
  if (key.revoked_at !== null)
    return { data: key, lines: [`${key.name} was revoked ${ago(key.revoked_at, context.nowMs())}.`] }
  await context.confirm(`Revoke ${key.name} (${key.prefix}...)? What uses it stops working.`)
  const path = `/organisations/${await orgId(context)}/keys/${key.id}`
  const answer = await (await context.api()).change('DELETE', path, Key)
  if (isUnsent(answer)) return unsent(answer)
  return { data: answer, lines: [`Revoked ${key.name}.`] }
}

const allKeys = async (context: Context, projectId?: string): Promise<Key[]> =>
  (await context.api()).list(`/organisations/${await orgId(context)}/keys`, Key, { project_id: projectId })

/** By id, by name or by the beginning of its text. Of several with one name the one that works. @throws CliFailure */
export async function findKey(context: Context, wanted: string): Promise<Key> {
  const keys = await allKeys(context)
  const now = context.nowMs()
  const exact = keys.find(({ id }) => id === wanted.toLowerCase())
  if (exact !== undefined) return exact
  const matching = keys.filter(
    ({ name, prefix }) => name === wanted || (wanted.length >= prefix.length && wanted.startsWith(prefix)),
  )
  const working = matching.filter((key) => works(key, now))
  const found = working.length > 0 ? working : matching
  if (found.length > 1)
    throw wrongUsage(
      `${found.length} keys are named ${wanted}.`,
      `Name it by its id: ${found.map(({ id }) => id).join(', ')}`,
    )
  const [key] = found
  if (key !== undefined) return key
  const near = nearestOf(
    wanted,
    keys.map(({ name }) => name),
  )
  throw new CliFailure(EXIT.notFound, `There is no key ${JSON.stringify(wanted)}.`, {
    code: 'not_found',
    hint: near === undefined ? '`penstock keys list --all` lists them.' : `Did you mean ${near}?`,
  })
}

const works = (key: Key, nowMs: number): boolean =>
  key.revoked_at === null && (key.expires_at === null || Date.parse(key.expires_at) > nowMs)

function stateOf(key: Key, nowMs: number): string {
  if (key.revoked_at !== null) return `revoked ${ago(key.revoked_at, nowMs)}`
  if (key.expires_at === null) return 'works'
  return Date.parse(key.expires_at) > nowMs ? `until ${key.expires_at}` : `expired ${ago(key.expires_at, nowMs)}`
}

const shown = ({ paint, nowMs }: Context, key: Key): string[] =>
  fields(
    [
      ['name', key.name],
      ['id', key.id],
      ['prefix', key.prefix],
      ['project', key.project_id],
      ['models', key.models?.join(', ') ?? 'all'],
      ['routes', key.routes?.join(', ') ?? 'all but admin'],
      ['addresses', key.addresses?.join(', ') ?? 'any'],
      ['state', stateOf(key, nowMs())],
    ],
    paint,
  )
