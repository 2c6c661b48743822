// `penstock limits`: limits and budgets of one place. Owns these commands and the short notation of a limit; what limits mean is
// docs/money.md. The API keeps the whole set of a place: adding and removing one reads the set, changes it and writes it back, on the
// version that was read: where somebody else was faster, the change is made anew to what they left.
import { z } from 'zod'
import { isUnsent } from '../api.ts'
import { type Arguments, type Command, text } from '../command.ts'
import { type Context, findProject } from '../context.ts'
import { CliFailure, EXIT, wrongUsage } from '../failure.ts'
import { type Column, table } from '../output.ts'
import { unsent } from '../unsent.ts'
import { findKey } from './keys.ts'

const WINDOWS = ['minute', 'hour', 'day', 'month', 'lifetime'] as const
const METERS = ['requests', 'input_tokens', 'output_tokens', 'money', 'concurrency'] as const

const Limit = z.looseObject({
  id: z.string(),
  meter: z.enum(METERS),
  window: z.enum(WINDOWS).optional(),
  time_zone: z.string().optional(),
  max: z.number().optional(),
  max_usd: z.string().optional(),
  model: z.string().optional(),
  hard: z.boolean(),
})
type Limit = z.infer<typeof Limit>
const Place = z.object({ scope: z.string(), scope_id: z.string(), version: z.string(), limits: z.array(Limit) })
type Place = z.infer<typeof Place>

/** Times that a change is made anew: others change one place seldom, and then not for long. */
const TURNS_MAX = 5

const place = {
  project: { type: 'string', value: 'PROJECT', help: 'limits of this project; `*`: of each' },
  key: {
    type: 'string',
    value: 'KEY',
    help: 'of this API key, by id, name or the beginning of its text; `*`: of each',
  },
  team: { type: 'string', value: 'ID', help: 'of this team; `*`: of each' },
  user: { type: 'string', value: 'ID', help: 'of this user; `*`: of each' },
  'end-user': { type: 'string', value: 'NAME', help: 'of whom a caller serves; `*`: of each' },
} as const

const DETAILS = `A limit is METER, a window and a most: requests/minute=60, input_tokens/day=1000000, output_tokens/hour=50000,
money/month=25.00 (dollars), concurrency=8. Windows: ${WINDOWS.join(', ')}. Without a flag that names a place it is the
organisation's.`

const limitArgument = {
  name: 'LIMIT',
  help: 'e.g. requests/minute=60, money/month=25.00, concurrency=8',
  variadic: true,
}
const terms = {
  model: { type: 'string', value: 'MODEL', help: 'count and limit this model alone' },
  'time-zone': { type: 'string', value: 'ZONE', help: 'where days and months begin; default UTC' },
  soft: { type: 'boolean', help: 'tell, and refuse nothing' },
} as const

export const limitCommands: readonly Command[] = [
  {
    path: ['limits', 'show'],
    summary: 'The limits of a place.',
    flags: place,
    examples: [
      { line: 'penstock limits show --project search', what: 'and `penstock limits show` for the organisation' },
    ],
    run: async (context, args) => shown(context, await (await context.api()).get(await pathOf(context, args), Place)),
  },
  {
    path: ['limits', 'set'],
    summary: 'Set limits of a place; others stay. The same again changes nothing.',
    details: DETAILS,
    positionals: [limitArgument],
    flags: { ...terms, ...place },
    examples: [
      { line: 'penstock limits set money/month=25.00 --project search', what: 'a budget' },
      { line: "penstock limits set requests/minute=60 concurrency=8 --key '*'", what: 'for each key its own' },
    ],
    changes: true,
    run: (context, args) =>
      replace(context, args, (before) =>
        merged(
          before,
          args.rest.map((words) => limitOf(words, args)),
        ),
      ),
  },
  {
    path: ['limits', 'unset'],
    summary: 'Lift limits of a place, by meter and window.',
    details: DETAILS,
    positionals: [{ name: 'LIMIT', help: 'e.g. requests/minute, money/month, concurrency', variadic: true }],
    flags: { model: terms.model, ...place },
    examples: [
      { line: 'penstock limits unset requests/minute --project search', what: 'where there is none it says so' },
    ],
    changes: true,
    run: (context, args) =>
      replace(context, args, (before) => {
        const lifted = args.rest.map(meterAndWindow)
        const model = text(args, 'model')
        return before.filter(
          (one) =>
            !lifted.some(({ meter, window }) => one.meter === meter && one.window === window && one.model === model),
        )
      }),
  },
]

/** `/organisations/…/limits` of the one place that is named. @throws CliFailure */
async function pathOf(context: Context, args: Arguments): Promise<string> {
  const named = Object.keys(place).filter((name) => text(args, name) !== undefined)
  if (named.length > 1) throw wrongUsage(`--${named[0]} and --${named[1]} are two places; name one.`)
  const organisation = `/organisations/${(await context.organisation()).id}`
  const [scope] = named
  if (scope === undefined) return `${organisation}/limits`
  const wanted = text(args, scope) ?? ''
  const id = wanted === '*' ? wanted : await idOf(context, scope, wanted)
  return `${organisation}/${scope === 'end-user' ? 'end-users' : `${scope}s`}/${encodeURIComponent(id)}/limits`
}

async function idOf(context: Context, scope: string, wanted: string): Promise<string> {
  if (scope === 'project') return (await findProject(context, wanted)).id
  if (scope === 'key') return (await findKey(context, wanted)).id
  return wanted
}

type Wanted = Omit<Limit, 'id'>

/** What others changed in between stays: the change is about the limits that it names. @throws CliFailure */
async function replace(context: Context, args: Arguments, change: (before: Wanted[]) => Wanted[]) {
  const api = await context.api()
  const path = await pathOf(context, args)
  for (let turn = 1; ; turn++) {
    const place = await api.get(path, Place)
    const before: Wanted[] = place.limits.map(({ id: _, ...rest }) => rest)
    const after = change(before)
    if (meaningOf(after) === meaningOf(before)) {
      const stands = shown(context, place)
      return { ...stands, lines: ['Nothing to change.', ...stands.lines] }
    }
    try {
      const answer = await api.change('PUT', path, Place, { limits: after, expected_version: place.version })
      return isUnsent(answer) ? unsent(answer) : shown(context, answer)
    } catch (error) {
      const isConflict = error instanceof CliFailure && error.exitCode === EXIT.conflict
      if (!isConflict || turn >= TURNS_MAX) throw error
    }
  }
}

/** Equal where the same is limited alike: `25.00` dollars are `25`. */
const meaningOf = (limits: readonly Wanted[]): string =>
  limits
    .map(({ meter, window, time_zone: zone, model, hard, max, max_usd: usd }) =>
      JSON.stringify([
        meter,
        window,
        zone,
        model,
        hard,
        max,
        typeof usd === 'string' && usd.replace(/(\.\d*?)0+$/, '$1').replace(/\.$/, ''),
      ]),
    )
    .sort()
    .join('\n')

/** In the place of those that limit the same, else behind them. */
function merged(before: readonly Wanted[], added: readonly Wanted[]): Wanted[] {
  const same = (a: Wanted, b: Wanted) =>
    a.meter === b.meter && a.window === b.window && a.model === b.model && a.hard === b.hard
  const kept = before.map((one) => added.find((other) => same(one, other)) ?? one)
  return [...kept, ...added.filter((one) => !before.some((other) => same(one, other)))]
}

function meterAndWindow(words: string): { meter: Limit['meter']; window: Limit['window'] } {
  const [name, span] = words.split('/')
  const meter = METERS.find((one) => one === name)
  const window = WINDOWS.find((one) => one === span)
  const fits = meter === 'concurrency' ? span === undefined : window !== undefined
  if (meter === undefined || !fits)
    throw wrongUsage(
      `${words} is no limit.`,
      `METER/WINDOW with ${METERS.join(', ')} and ${WINDOWS.join(', ')}; concurrency has no window.`,
    )
  return { meter, window }
}

/** `requests/minute=60`. @throws CliFailure `usage` */
function limitOf(words: string, args: Arguments): Wanted {
  const [head = '', most = '', ...more] = words.split('=')
  const { meter, window } = meterAndWindow(head)
  if (more.length > 0 || !/^\d+(\.\d+)?$/.test(most) || (meter !== 'money' && !Number.isSafeInteger(Number(most))))
    throw wrongUsage(`${words}: give a number behind the =, dollars for money.`)
  const model = text(args, 'model')
  const zone = text(args, 'time-zone')
  return {
    meter,
    ...(model !== undefined && { model }),
    hard: args.flags.soft !== true,
    ...(window !== undefined && { window, time_zone: zone ?? 'UTC' }),
    ...(meter === 'money' ? { max_usd: most } : { max: Number(most) }),
  }
}

function shown({ paint }: Context, answer: Place) {
  const columns: Column<Limit>[] = [
    { title: 'METER', of: ({ meter }) => meter, style: () => 'bold' },
    { title: 'PER', of: ({ window }) => window ?? 'at once' },
    {
      title: 'MOST',
      of: ({ max, max_usd: usd }) => (usd === undefined ? String(max ?? '') : `$${usd}`),
      isRight: true,
    },
    { title: 'MODEL', of: ({ model }) => model ?? 'all' },
    { title: 'ZONE', of: ({ time_zone: zone }) => zone ?? '-' },
    { title: 'KIND', of: ({ hard }) => (hard ? 'refuses' : 'tells') },
  ]
  const none = `No limit on this ${answer.scope}. Set one: penstock limits set requests/minute=60`
  return { data: answer, lines: table(answer.limits, columns, paint, none) }
}
