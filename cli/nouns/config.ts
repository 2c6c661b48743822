// `penstock config`: the catalog as code: what a file would change, changing it, going back, and writing down what stands. Owns these
// commands and how a plan is shown; the plan is the gateway's, files are config-file.ts.
import { z } from 'zod'
import { type Arguments, type Command, isSet, positional, text } from '../command.ts'
import {
  type ConfigFile,
  readConfigFile,
  type Secrets,
  secretsOf,
  withPlaces,
  writeConfigFile,
} from '../config-file.ts'
import type { Context } from '../context.ts'
import { EXIT, wrongUsage } from '../failure.ts'
import { plain, table } from '../output.ts'

const FieldChange = z.object({ path: z.string(), before: z.unknown().optional(), after: z.unknown().optional() })
const Plan = z.looseObject({
  version: z.number(),
  changes: z.array(
    z.object({
      object: z.string(),
      name: z.string(),
      action: z.enum(['add', 'change', 'remove']),
      fields: z.array(FieldChange),
    }),
  ),
  secrets: z.array(z.looseObject({ provider: z.string(), key: z.string(), action: z.string() })),
  summary: z.object({ added: z.number(), changed: z.number(), removed: z.number(), secrets: z.number() }),
})
type Plan = z.infer<typeof Plan>
const Current = z.object({ version: z.number(), document: z.looseObject({}) })
const Version = z.looseObject({
  version: z.number(),
  applied_at: z.string(),
  actor: z.string(),
  note: z.string().optional(),
})
const Versions = z.object({ data: z.array(Version) })

const VERSIONS_SHOWN = '20'
const file = { name: 'FILE', help: 'TOML or JSON, such as deploy/penstock.config.toml' }
const note = { type: 'string', value: 'TEXT', help: 'why, for the list of versions' } as const
const prune = { type: 'boolean', help: 'also remove what the file does not name' } as const
const SECRETS = `Secrets: a key in the file says secret = "env:NAME". The command reads NAME from its environment and sends it;
where NAME is not set the gateway keeps the secret that it has.`

export const configCommands: readonly Command[] = [
  {
    path: ['config', 'plan'],
    summary: `Show what a file would change; exit code ${EXIT.changes} where it would change something.`,
    details: SECRETS,
    positionals: [file],
    flags: { prune },
    examples: [{ line: 'penstock config plan penstock.toml', what: 'in a pull request' }],
    run: async (context, args) => carryOut(context, '/config/apply', await asked(context, args), {}, true),
  },
  {
    path: ['config', 'apply'],
    summary: 'Show what a file changes, and change exactly that; safe to repeat.',
    details: SECRETS,
    positionals: [file],
    flags: { prune, note },
    examples: [
      {
        line: 'penstock config apply penstock.toml --note "cheaper fallback"',
        what: 'nothing where the catalog has changed meanwhile',
      },
    ],
    changes: true,
    run: async (context, args) =>
      carryOut(context, '/config/apply', await asked(context, args), noteOf(args), context.isDryRun),
  },
  {
    path: ['config', 'rollback'],
    summary: 'Go back to what stood after a version; secrets stay as they are.',
    positionals: [{ name: 'VERSION', help: 'its number, as `config versions` lists it' }],
    flags: { note },
    examples: [{ line: 'penstock config rollback 3 --dry-run', what: 'then without --dry-run' }],
    changes: true,
    run: async (context, args) => {
      const version = positional(args, 'VERSION')
      if (!/^[1-9]\d{0,14}$/.test(version))
        throw wrongUsage(`${version} is no version: a version is a number.`, '`penstock config versions` lists them.')
      return carryOut(context, '/config/rollback', { version: Number(version) }, noteOf(args), context.isDryRun)
    },
  },
  {
    path: ['config', 'versions'],
    summary: 'The last versions, the newest first.',
    examples: [{ line: 'penstock config versions', what: 'who applied what, and why' }],
    run: async (context) => {
      const { data } = await (await context.api()).get('/config/versions', Versions, { limit: VERSIONS_SHOWN })
      const lines = table(
        data,
        [
          { title: 'VERSION', of: ({ version }) => String(version), isRight: true, style: () => 'bold' },
          { title: 'APPLIED', of: ({ applied_at: at }) => at },
          { title: 'BY', of: ({ actor }) => actor },
          { title: 'NOTE', of: (one) => one.note ?? '' },
        ],
        context.paint,
        'There is no version yet: nothing was applied from a file.',
      )
      return { data, lines }
    },
  },
  {
    path: ['config', 'pull'],
    summary: 'Write what stands into a file; secrets are not in it.',
    positionals: [file],
    flags: { force: { type: 'boolean', help: 'replace the file; names of environment variables in it stay' } },
    examples: [{ line: 'penstock config pull penstock.toml', what: 'to begin with a file' }],
    run: async (context, args) => {
      const path = positional(args, 'FILE')
      const isForced = isSet(args, 'force')
      const known = isForced ? await readConfigFile(path).catch((): ConfigFile => ({})) : {}
      const { document, version } = await (await context.api()).get('/config', Current)
      await writeConfigFile(path, withPlaces(document, known), isForced)
      return { data: { file: path, version }, lines: [`${path} has what stands now; the last version is ${version}.`] }
    },
  },
  {
    path: ['config', 'schema'],
    summary: 'JSON Schema of the file, for editors.',
    examples: [
      { line: 'penstock config schema > penstock.schema.json', what: 'then name it as "$schema" in the file' },
    ],
    run: async (context) => {
      const schema = await (await context.api()).get('/config/schema', z.looseObject({}))
      return { data: schema, lines: [JSON.stringify(schema, undefined, 2)] }
    },
  },
]

type Asked = { document?: ConfigFile; secrets?: Secrets; prune?: boolean; version?: number }

async function asked(context: Context, args: Arguments): Promise<Asked> {
  const document = await readConfigFile(positional(args, 'FILE'))
  const { secrets, missing } = secretsOf(document, context.env)
  for (const one of missing) context.warn(`${one} is not set: the secret stays as it is`)
  return { document, secrets, prune: isSet(args, 'prune') }
}

const noteOf = (args: Arguments): { note?: string } => {
  const words = text(args, 'note')
  return words === undefined ? {} : { note: words }
}

/** Shows the plan; then has exactly that carried out, or nothing where somebody else was faster. */
async function carryOut(context: Context, path: string, wanted: Asked, why: { note?: string }, isPlan: boolean) {
  const api = await context.api()
  const send = async (body: unknown): Promise<Plan> =>
    Plan.parse(await (await api.send('POST', `/admin/v1${path}`, { body })).json())
  const plan = await send({ ...wanted, dry_run: true })
  const lines = show(plan)
  if (plan.changes.length === 0 && plan.secrets.length === 0)
    return { data: plan, lines: [...lines, `Nothing to change; the last version is ${plan.version}.`] }
  if (isPlan) return { data: plan, lines: [...lines, 'Nothing was changed: this was a plan.'], exitCode: EXIT.changes }
  const done = await send({ ...wanted, ...why, dry_run: false, expected_version: plan.version })
  return { data: done, lines: [...lines, `Done; the version is ${done.version} now.`] }
}

const SIGNS = { add: '+', change: '~', remove: '-' } as const

/** One line per object and field. */
function show({ changes, secrets, summary }: Plan): string[] {
  const lines = changes.flatMap(({ object, name, action, fields }) => [
    `${SIGNS[action]} ${object} ${plain(name)}`,
    ...(action === 'remove' ? [] : fields.map((field) => `    ${plain(field.path)} ${plain(fieldText(field))}`)),
  ])
  for (const { provider, key, action } of secrets)
    lines.push(`* provider ${plain(provider)}: secret of key ${plain(key)} is ${action}`)
  const { added, changed, removed } = summary
  if (lines.length > 0) lines.push(`${added} added, ${changed} changed, ${removed} removed; ${summary.secrets} secrets`)
  return lines
}

function fieldText({ before, after }: z.infer<typeof FieldChange>): string {
  if (before === undefined) return JSON.stringify(after)
  return `${JSON.stringify(before)} -> ${after === undefined ? 'gone' : JSON.stringify(after)}`
}
