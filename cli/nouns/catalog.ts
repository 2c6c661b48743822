// `penstock providers`, `penstock models` and `penstock prices`: what the catalog holds. Owns these commands. Changing providers and
// models is `penstock config`, which plans, versions and takes back; secrets of providers come from the environment there.
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { isUnsent } from '../api.ts'
import { type Arguments, type Command, positional, text } from '../command.ts'
import type { Context } from '../context.ts'
import { EXIT, wrongUsage } from '../failure.ts'
import { table } from '../output.ts'
import { unsent } from '../unsent.ts'

const Provider = z.looseObject({
  name: z.string(),
  kind: z.string(),
  base_url: z.string().nullish(),
  keys: z.array(z.looseObject({ name: z.string() })),
})
const Target = z.looseObject({ provider: z.string(), model: z.string(), weight: z.number().nullish() })
const Model = z.looseObject({ name: z.string(), targets: z.array(Target), policy: z.looseObject({}).nullish() })
const Price = z.looseObject({
  provider: z.string(),
  model: z.string(),
  service_tier: z.string().nullish(),
  usd_per_million: z.record(z.string(), z.string()),
  effective_from: z.string(),
  effective_to: z.string().nullish(),
})
const Imported = z.looseObject({})

export const catalogCommands: readonly Command[] = [
  {
    path: ['providers', 'list'],
    summary: 'Upstream providers, without their secrets.',
    examples: [{ line: 'penstock providers list', what: '`penstock config plan` changes them' }],
    run: async (context) => {
      const all = await (await context.api()).list('/providers', Provider)
      const lines = table(
        all,
        [
          { title: 'NAME', of: ({ name }) => name, style: () => 'bold' },
          { title: 'KIND', of: ({ kind }) => kind },
          { title: 'KEYS', of: ({ keys }) => keys.map(({ name }) => name).join(', ') },
          { title: 'ADDRESS', of: ({ base_url: url }) => url ?? '-', style: () => 'dim' },
        ],
        context.paint,
        'No provider. See deploy/penstock.config.toml and penstock config --help',
      )
      return { data: all, lines }
    },
  },
  {
    path: ['models', 'list'],
    summary: 'Model names and the targets behind them.',
    examples: [{ line: 'penstock models list', what: '`fleet` is your own machines' }],
    run: async (context) => {
      const all = await (await context.api()).list('/models', Model)
      const lines = table(
        all,
        [
          { title: 'NAME', of: ({ name }) => name, style: () => 'bold' },
          {
            title: 'CHOSEN',
            of: ({ policy }) => (typeof policy?.strategy === 'string' ? policy.strategy : 'in order'),
          },
          {
            title: 'TARGETS',
            of: ({ targets }) => targets.map(({ provider, model }) => `${provider}/${model}`).join(' > '),
          },
        ],
        context.paint,
        'No model name. Models that a backend serves can be called as they are.',
      )
      return { data: all, lines }
    },
  },
  {
    path: ['prices', 'list'],
    summary: 'Versions of prices, the newest first: dollars per million tokens of a part.',
    flags: {
      provider: { type: 'string', value: 'NAME', help: 'of this provider alone' },
      model: { type: 'string', value: 'MODEL', help: 'of this model alone' },
    },
    examples: [{ line: 'penstock prices list --provider openai', what: 'history is never priced again' }],
    run: async (context, args) => {
      const query = { provider: text(args, 'provider'), model: text(args, 'model') }
      const all = await (await context.api()).list('/prices', Price, query)
      const parts = (price: z.infer<typeof Price>) =>
        Object.entries(price.usd_per_million)
          .map(([part, usd]) => `${part} ${usd}`)
          .join(', ')
      const lines = table(
        all,
        [
          { title: 'PROVIDER', of: ({ provider }) => provider },
          { title: 'MODEL', of: ({ model }) => model, style: () => 'bold' },
          { title: 'FROM', of: ({ effective_from: from }) => from },
          { title: 'TO', of: ({ effective_to: to }) => to ?? '-' },
          { title: '$ PER MILLION', of: parts },
        ],
        context.paint,
        'No price. Add some: penstock prices import FILE',
      )
      return { data: all, lines }
    },
  },
  {
    path: ['prices', 'set'],
    summary: 'Add a version of one price, from now on or from a time.',
    positionals: [
      { name: 'PROVIDER', help: '`fleet` for your own machines' },
      { name: 'MODEL', help: 'as the provider names it' },
      {
        name: 'PART=USD',
        help: 'dollars per million tokens, e.g. input_uncached=0.05 output_text=0.40',
        variadic: true,
      },
    ],
    flags: { from: { type: 'string', value: 'TIME', help: 'when it begins; default now' } },
    examples: [
      {
        line: 'penstock prices set fleet smollm2-135m-instruct input_uncached=0.02 output_text=0.06',
        what: 'the same again changes nothing',
      },
    ],
    changes: true,
    run: setPrice,
  },
  {
    path: ['prices', 'import'],
    summary: 'Add versions from a file such as deploy/price-catalogue.json; what stands already is left alone.',
    positionals: [{ name: 'FILE', help: 'JSON as POST /admin/v1/prices/import takes it' }],
    flags: { supersede: { type: 'boolean', help: 'end the version that is in force where a new one begins' } },
    examples: [
      {
        line: 'penstock prices import deploy/price-catalogue.json --dry-run',
        what: 'the gateway says what would be added',
      },
    ],
    changes: true,
    run: importFile,
  },
]

async function setPrice(context: Context, args: Arguments) {
  const prices = args.rest.map((words) => {
    const [part = '', usd = ''] = words.split('=')
    if (!/^[a-z_0-9]+$/.test(part) || !/^\d+(\.\d+)?$/.test(usd))
      throw wrongUsage(`${words}: give PART=USD, e.g. output_text=0.40.`)
    return [part, usd] as const
  })
  const body = {
    provider: positional(args, 'PROVIDER'),
    model: positional(args, 'MODEL'),
    usd_per_million: Object.fromEntries(prices),
    effective_from: text(args, 'from'),
  }
  const answer = await (await context.api()).change('POST', '/prices', Price, body)
  if (isUnsent(answer)) return unsent(answer)
  return { data: answer, lines: [`In force from ${answer.effective_from}.`] }
}

/** The gateway plans an import itself, so a dry run asks it rather than showing what would be sent. */
async function importFile(context: Context, args: Arguments) {
  const path = positional(args, 'FILE')
  const file = await readFile(path, 'utf8').catch(() => {
    throw wrongUsage(`${path} cannot be read.`)
  })
  const body = z.looseObject({ entries: z.array(z.unknown()) }).safeParse(jsonOf(file))
  if (!body.success)
    throw wrongUsage(`${path} is not JSON with a list of entries.`, 'deploy/price-catalogue.json is an example.')
  const asked = { ...body.data, dry_run: context.isDryRun, ...(args.flags.supersede === true && { supersede: true }) }
  const response = await (await context.api()).send('POST', '/admin/v1/prices/import', { body: asked })
  const answer = Imported.parse(await response.json())
  const lines = Object.entries(answer).flatMap(([name, value]) =>
    typeof value === 'number' || typeof value === 'string'
      ? [`${name}: ${value}`]
      : Array.isArray(value)
        ? [`${name}: ${value.length}`]
        : [],
  )
  return { data: answer, lines, ...(context.isDryRun && { exitCode: EXIT.changes }) }
}

function jsonOf(file: string): unknown {
  try {
    return JSON.parse(file)
  } catch {
    return undefined
  }
}
