// `penstock users`, `penstock teams` and `penstock service-accounts`: who belongs to an organisation and what they may do. Owns these
// commands; roles are docs/operate.md.
import { z } from 'zod'
import { isUnsent } from '../api.ts'
import { type Arguments, type Command, positional, text, texts } from '../command.ts'
import { type Context, findProject, named } from '../context.ts'
import { CliFailure, EXIT } from '../failure.ts'
import { table } from '../output.ts'
import { nearestOf } from '../parse.ts'
import { ago } from '../time.ts'
import { unsent } from '../unsent.ts'

const ROLES = ['owner', 'admin', 'billing', 'developer', 'viewer'] as const

const User = z.looseObject({
  id: z.string(),
  kind: z.string(),
  email: z.string().nullish(),
  slug: z.string().nullish(),
  name: z.string(),
  role: z.string().nullish(),
  suspended_at: z.string().nullish(),
})
type User = z.infer<typeof User>
const Team = z.looseObject({ id: z.string(), slug: z.string(), name: z.string(), created_at: z.string() })

const SignInLink = z.looseObject({ url: z.string(), expires_at: z.string() })

const role = { type: 'string', choices: ROLES, help: 'what they may do' } as const
const projects = {
  type: 'string',
  value: 'PROJECT',
  help: 'bound to this project; repeat for more; default: all',
  multiple: true,
} as const
const user = { name: 'USER', help: 'email, slug or id' }
const team = { name: 'TEAM', help: 'slug or id' }

export const peopleCommands: readonly Command[] = [
  {
    path: ['users', 'create'],
    summary: 'Let a person in; the same address again changes nothing.',
    positionals: [{ name: 'EMAIL', help: 'their address' }],
    flags: { name: { type: 'string', value: 'NAME', help: 'their name' }, role, project: projects },
    examples: [
      {
        line: 'penstock users create ada@example.com --role developer --project search',
        what: 'keys and usage of one project',
      },
    ],
    changes: true,
    run: async (context, args) => {
      const body = { email: positional(args, 'EMAIL'), name: text(args, 'name'), ...(await membership(context, args)) }
      return made(await (await context.api()).change('POST', `${await base(context)}/users`, User, body))
    },
  },
  {
    path: ['users', 'list'],
    summary: 'People and service accounts of the organisation, with their roles.',
    examples: [{ line: 'penstock users list', what: 'suspended ones are marked' }],
    run: async (context) => {
      const all = await users(context)
      const lines = table<User>(
        all,
        [
          { title: 'WHO', of: nameOf, style: () => 'bold' },
          { title: 'NAME', of: (one) => one.name },
          { title: 'KIND', of: ({ kind }) => kind },
          { title: 'ROLE', of: (one) => one.role ?? 'none' },
          {
            title: 'STATE',
            of: ({ suspended_at: at }) => (at == null ? 'active' : `suspended ${ago(at, context.nowMs())}`),
          },
          { title: 'ID', of: ({ id }) => id, style: () => 'dim' },
        ],
        context.paint,
        'Nobody yet. penstock users create EMAIL --role admin',
      )
      return { data: all, lines }
    },
  },
  {
    path: ['users', 'role'],
    summary: 'Give a role, or another one.',
    positionals: [user, { name: 'ROLE', help: ROLES.join(', ') }],
    flags: { project: projects },
    examples: [{ line: 'penstock users role ada@example.com viewer', what: 'reads and changes nothing' }],
    changes: true,
    run: async (context, args) => {
      const { id } = await findUser(context, positional(args, 'USER'))
      const body = { ...(await membership(context, args)), role: positional(args, 'ROLE') }
      return made(
        await (await context.api()).change('PUT', `${await base(context)}/users/${id}/membership`, User, body),
      )
    },
  },
  ...(['suspend', 'resume'] as const).map(
    (verb): Command => ({
      path: ['users', verb],
      summary:
        verb === 'suspend'
          ? 'Refuse everything that a user does, at once, keys and sessions too.'
          : 'Let a suspended user in again.',
      positionals: [user],
      examples: [{ line: `penstock users ${verb} ada@example.com`, what: 'the same again changes nothing' }],
      changes: true,
      run: async (context, args) => {
        const { id } = await findUser(context, positional(args, 'USER'))
        return made(
          await (await context.api()).change('PATCH', `${await base(context)}/users/${id}`, User, {
            suspended: verb === 'suspend',
          }),
        )
      },
    }),
  ),
  {
    path: ['users', 'remove'],
    summary: 'Take the role away: the user stays in the records and may do nothing.',
    positionals: [user],
    examples: [{ line: 'penstock users remove ada@example.com --yes', what: 'their usage keeps their name' }],
    changes: true,
    destroys: true,
    run: async (context, args) => {
      const one = await findUser(context, positional(args, 'USER'))
      await context.confirm(`Take the role of ${nameOf(one)} away?`)
      const answer = await (await context.api()).change(
        'DELETE',
        `${await base(context)}/users/${one.id}/membership`,
        z.unknown(),
      )
      if (isUnsent(answer)) return unsent(answer)
      return { data: { id: one.id }, lines: [`${nameOf(one)} has no role any more.`] }
    },
  },
  {
    path: ['sign-in'],
    summary: 'A link that signs one browser in to the dashboard, once and within ten minutes.',
    flags: { user: { type: 'string', value: 'USER', help: 'whom it is for, by email or id; default: the operator' } },
    examples: [
      { line: 'penstock sign-in', what: "as the operator, with the operator's token" },
      { line: 'penstock sign-in --user ada@example.com', what: 'as a user of the organisation' },
    ],
    changes: true,
    run: async (context, args) => {
      const wanted = text(args, 'user')
      const body =
        wanted === undefined
          ? {}
          : { org_id: (await context.organisation()).id, user_id: (await findUser(context, wanted)).id }
      const answer = await (await context.api()).change('POST', '/sign-in-links', SignInLink, body)
      if (isUnsent(answer)) return unsent(answer)
      return { data: answer, lines: [answer.url] }
    },
  },
  {
    path: ['teams', 'create'],
    summary: 'Make a team: users whose usage is limited and read together.',
    positionals: [{ name: 'SLUG', help: 'its short name' }],
    flags: { name: { type: 'string', value: 'NAME', help: 'its name for people; default: the slug' } },
    examples: [{ line: 'penstock teams create search', what: 'the same slug again changes nothing' }],
    changes: true,
    run: async (context, args) => {
      const answer = await (await context.api()).change('POST', `${await base(context)}/teams`, Team, {
        slug: positional(args, 'SLUG'),
        name: text(args, 'name'),
      })
      if (isUnsent(answer)) return unsent(answer)
      return { data: answer, lines: [`${answer.slug} is there: ${answer.id}`] }
    },
  },
  {
    path: ['teams', 'list'],
    summary: 'The teams of the organisation.',
    examples: [{ line: 'penstock teams list', what: 'slugs and ids' }],
    run: async (context) => {
      const all = await teams(context)
      const lines = table(
        all,
        [
          { title: 'SLUG', of: ({ slug }) => slug, style: () => 'bold' },
          { title: 'NAME', of: (one) => one.name },
          { title: 'MADE', of: (one) => ago(one.created_at, context.nowMs()) },
          { title: 'ID', of: ({ id }) => id, style: () => 'dim' },
        ],
        context.paint,
        'No team. penstock teams create SLUG',
      )
      return { data: all, lines }
    },
  },
  ...(['add', 'drop'] as const).map(
    (verb): Command => ({
      path: ['teams', verb],
      summary: verb === 'add' ? 'Put a user into a team.' : 'Take a user out of a team.',
      positionals: [team, user],
      examples: [{ line: `penstock teams ${verb} search ada@example.com`, what: 'the same again changes nothing' }],
      changes: true,
      run: async (context, args) => {
        const { id: teamId, slug } = named(
          await teams(context),
          positional(args, 'TEAM'),
          'team',
          'penstock teams list',
        )
        const one = await findUser(context, positional(args, 'USER'))
        const path = `${await base(context)}/teams/${teamId}/members/${one.id}`
        const answer = await (await context.api()).change(verb === 'add' ? 'PUT' : 'DELETE', path, z.unknown())
        if (isUnsent(answer)) return unsent(answer)
        return {
          data: { team_id: teamId, user_id: one.id },
          lines: [`${nameOf(one)} is ${verb === 'add' ? '' : 'not '}in ${slug}${verb === 'add' ? '' : ' any more'}.`],
        }
      },
    }),
  ),
]

const base = async (context: Context): Promise<string> => `/organisations/${(await context.organisation()).id}`
const teams = async (context: Context) => (await context.api()).list(`${await base(context)}/teams`, Team)
const users = async (context: Context): Promise<User[]> =>
  (await context.api()).list(`${await base(context)}/users`, User)
const nameOf = ({ email, slug, id }: User): string => email ?? slug ?? id

async function membership(context: Context, args: Arguments) {
  const given = texts(args, 'project')
  const ids = await Promise.all(given.map(async (one) => (await findProject(context, one)).id))
  return { role: text(args, 'role'), ...(ids.length > 0 && { projects: ids }) }
}

function made(answer: User | Parameters<typeof unsent>[0]) {
  if (isUnsent(answer)) return unsent(answer)
  const state = answer.suspended_at == null ? '' : ', suspended'
  return { data: answer, lines: [`${nameOf(answer)}: ${answer.role ?? 'no role'}${state} (${answer.id})`] }
}

/** @throws CliFailure */
async function findUser(context: Context, wanted: string): Promise<User> {
  const all = await users(context)
  const found = all.find(
    (one) => one.id === wanted.toLowerCase() || nameOf(one) === wanted.toLowerCase() || one.slug === wanted,
  )
  if (found !== undefined) return found
  const near = nearestOf(wanted, all.map(nameOf))
  throw new CliFailure(EXIT.notFound, `There is no user ${JSON.stringify(wanted)}.`, {
    code: 'not_found',
    hint: near === undefined ? '`penstock users list` lists them.' : `Did you mean ${near}?`,
  })
}
