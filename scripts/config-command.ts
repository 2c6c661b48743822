// The catalog as code, for a person: what a file would change, changing it, going back, and writing down what stands. Owns the
// commands, their words and exit codes; the plan is the gateway's, files are config-file.ts. config-apply.ts runs it.
import { parseArgs } from 'node:util'
import { z } from 'zod'
import { ACCESS_HELP, accessOptions, openAdmin } from './admin-access.ts'
import { type AdminClient, AdminError } from './admin-client.ts'
import { type ConfigFile, readConfigFile, type Secrets, secretsOf, withPlaces, writeConfigFile } from './config-file.ts'

const HELP = `Keeps providers, models and their routing in a file (TOML or JSON). Example: deploy/penstock.config.toml

  npm run config -- plan FILE            show what the file would change; exit code 2 where it would change something
  npm run config -- apply FILE           show it and change it; safe to repeat
  npm run config -- rollback VERSION     go back to what stood after that version; secrets stay as they are
  npm run config -- versions             the last versions
  npm run config -- pull FILE            write what stands into a file; secrets are not in it
  npm run config -- schema               JSON Schema of the file, for editors

Options:
  --prune        plan, apply: also remove what the file does not name
  --dry-run      rollback: change nothing
  --note TEXT    apply, rollback: why, for the list of versions
  --force        pull: replace the file; names of environment variables in it stay
${ACCESS_HELP}

Secrets: a key in the file says secret = "env:NAME". The command reads NAME from its environment and sends it; where NAME is not
set the gateway keeps the secret it has. ADMIN_TOKEN in the environment comes before the data folder's.

Exit codes: 0 done, or nothing to change; 2 there is something to change (plan, rollback --dry-run); 1 it failed.`

const DONE = 0
const FAILED = 1
const CHANGES = 2
const VERSIONS_SHOWN = 20

const FieldChange = z.object({ path: z.string(), before: z.unknown().optional(), after: z.unknown().optional() })
const Plan = z.object({
  version: z.number(),
  changes: z.array(
    z.object({
      object: z.string(),
      name: z.string(),
      action: z.enum(['add', 'change', 'remove']),
      fields: z.array(FieldChange),
    }),
  ),
  secrets: z.array(z.object({ provider: z.string(), key: z.string(), action: z.string() })),
  summary: z.object({ added: z.number(), changed: z.number(), removed: z.number(), secrets: z.number() }),
})
type Plan = z.infer<typeof Plan>
const Current = z.object({ version: z.number(), document: z.looseObject({}) })
const Versions = z.object({
  data: z.array(
    z.object({ version: z.number(), applied_at: z.string(), actor: z.string(), note: z.string().optional() }),
  ),
})

export type Words = {
  /** What was asked for. */
  say: (line: string) => void
  /** What went wrong, or might surprise. */
  warn: (line: string) => void
}

/**
 * Runs one command.
 * @param argv Command and options as in HELP.
 * @returns the exit code. Never throws: an error is told in one line.
 */
export async function runConfig(
  argv: string[],
  env: Record<string, string | undefined>,
  words: Words,
): Promise<number> {
  try {
    return await command(argv, env, words)
  } catch (error) {
    words.warn(reasonOf(error))
    return FAILED
  }
}

async function command(argv: string[], env: Record<string, string | undefined>, { say, warn }: Words): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      ...accessOptions(env),
      prune: { type: 'boolean', default: false },
      'dry-run': { type: 'boolean', default: false },
      force: { type: 'boolean', default: false },
      note: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  const [name, operand, ...rest] = positionals
  if (values.help || name === undefined) {
    say(HELP)
    return values.help ? DONE : FAILED
  }
  if (rest.length > 0) throw new Error(`${rest[0]} is one argument too many; see npm run config -- --help`)
  const needed = (what: string): string => {
    if (operand === undefined) throw new Error(`${name} needs ${what}; see npm run config -- --help`)
    return operand
  }
  const note = values.note === undefined ? {} : { note: values.note }
  switch (name) {
    case 'plan':
    case 'apply': {
      const document = await readConfigFile(needed('a file'))
      const { secrets, missing } = secretsOf(document, env)
      for (const one of missing) warn(`${one} is not set: the secret stays as it is`)
      const wanted = { document, secrets, prune: values.prune }
      return await carryOut(await openAdmin(values, env), '/config/apply', wanted, note, name === 'plan', say)
    }
    case 'rollback': {
      const version = needed('a version')
      if (!/^[1-9]\d{0,14}$/.test(version))
        throw new Error('a version is a number; npm run config -- versions lists them')
      const admin = await openAdmin(values, env)
      return await carryOut(admin, '/config/rollback', { version: Number(version) }, note, values['dry-run'], say)
    }
    case 'versions': {
      const admin = await openAdmin(values, env)
      const { data } = await admin.call('GET', `/config/versions?limit=${VERSIONS_SHOWN}`, Versions)
      for (const { version, applied_at: at, actor, note: why = '' } of data)
        say(`${version}  ${at}  ${actor}  ${why}`.trimEnd())
      if (data.length === 0) say('There is no version yet: nothing was applied from a file.')
      return DONE
    }
    case 'pull': {
      const path = needed('a file')
      const known = values.force ? await readConfigFile(path).catch((): ConfigFile => ({})) : {}
      const { document, version } = await (await openAdmin(values, env)).call('GET', '/config', Current)
      await writeConfigFile(path, withPlaces(document, known), values.force)
      say(`${path} has what stands now; the last version is ${version}.`)
      return DONE
    }
    case 'schema': {
      const schema = await (await openAdmin(values, env)).call('GET', '/config/schema', z.looseObject({}))
      say(JSON.stringify(schema, undefined, 2))
      return DONE
    }
    default:
      throw new Error(`there is no command ${name}; see npm run config -- --help`)
  }
}

type Asked = { document?: ConfigFile; secrets?: Secrets; prune?: boolean; version?: number }

/** Shows the plan; then has exactly that carried out, or nothing where somebody else was faster. */
async function carryOut(
  admin: AdminClient,
  path: string,
  asked: Asked,
  note: { note?: string },
  isDryRun: boolean,
  say: (line: string) => void,
): Promise<number> {
  const plan = await admin.call('POST', path, Plan, { ...asked, dry_run: true })
  for (const line of show(plan)) say(line)
  const isNothing = plan.changes.length === 0 && plan.secrets.length === 0
  if (isNothing) {
    say(`Nothing to change; the last version is ${plan.version}.`)
    return DONE
  }
  if (isDryRun) {
    say('Nothing was changed: this was a plan.')
    return CHANGES
  }
  const body = { ...asked, ...note, dry_run: false, expected_version: plan.version }
  const done = await admin.call('POST', path, Plan, body)
  say(`Done; the version is ${done.version} now.`)
  return DONE
}

const SIGNS = { add: '+', change: '~', remove: '-' } as const

/** One line per object and field. Values are JSON: no control character gets to a terminal. */
function show({ changes, secrets, summary }: Plan): string[] {
  const lines = changes.flatMap(({ object, name, action, fields }) => [
    `${SIGNS[action]} ${object} ${name}`,
    ...(action === 'remove' ? [] : fields.map((field) => `    ${field.path} ${fieldText(field)}`)),
  ])
  for (const { provider, key, action } of secrets)
    lines.push(`* provider ${provider}: secret of key ${key} is ${action}`)
  const { added, changed, removed } = summary
  if (lines.length > 0) {
    lines.push(`${added} added, ${changed} changed, ${removed} removed; ${summary.secrets} secrets`)
  }
  return lines
}

function fieldText({ before, after }: z.infer<typeof FieldChange>): string {
  if (before === undefined) return JSON.stringify(after)
  return `${JSON.stringify(before)} -> ${after === undefined ? 'gone' : JSON.stringify(after)}`
}

/** The API's own words where it said some. */
function reasonOf(error: unknown): string {
  if (error instanceof AdminError) {
    const told = z.object({ error: z.object({ message: z.string() }) }).safeParse(jsonOf(error.answer))
    if (told.success) return told.data.error.message
  }
  return error instanceof Error ? error.message : String(error)
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
