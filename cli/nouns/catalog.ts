// `penstock providers`, `penstock models` and `penstock prices`: what the catalog holds. Owns these commands. Changing providers and
// models is `penstock config`, which plans, versions and takes back; secrets of providers come from the environment there.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { isUnsent } from '../api.ts'
import { type Arguments, type Command, isSet, positional, text, texts } from '../command.ts'
import type { Context } from '../context.ts'
import { EXIT, wrongUsage } from '../failure.ts'
import { plain, table } from '../output.ts'
import { PriceDifference, priceChanges } from '../price-changes.ts'
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
/** Main models of the main vendors, kept with the project. */
const CATALOGUE = join(import.meta.dirname, '..', '..', 'deploy', 'price-catalogue.json')
const PriceFile = z.looseObject({ entries: z.array(z.looseObject({ provider: z.string() })) })

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
    summary: 'Bring the prices of a file into the price book, and show each difference; safe to repeat.',
    positionals: [
      {
        name: 'FILE',
        help: 'JSON as POST /admin/v1/prices/import takes it; default deploy/price-catalogue.json',
        optional: true,
      },
    ],
    flags: {
      provider: {
        type: 'string',
        value: 'A[=B]',
        help: 'only entries of this provider; A=B stores them under your name B for it; repeat',
        multiple: true,
      },
      supersede: { type: 'boolean', help: 'new prices may cut short prices that were to hold until a later time' },
    },
    examples: [
      { line: 'penstock prices import --dry-run', what: 'what the catalogue of the project would change' },
      { line: 'penstock prices import --provider openai=my-openai', what: 'for a provider that has another name here' },
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
  const path = args.positionals.FILE ?? CATALOGUE
  const written = await readFile(path, 'utf8').catch(() => {
    throw wrongUsage(`${path} cannot be read.`)
  })
  const file = PriceFile.safeParse(jsonOf(written))
  if (!file.success)
    throw wrongUsage(`${path} is not JSON with a list of entries.`, 'deploy/price-catalogue.json is an example.')
  const providers = texts(args, 'provider')
  const entries = chosen(file.data.entries, providers)
  if (entries.length === 0) throw wrongUsage(`${path} has no entry of ${providers.join(', ')}.`)
  const body = { ...file.data, entries, dry_run: context.isDryRun, supersede: isSet(args, 'supersede') }
  const response = await (await context.api()).send('POST', '/admin/v1/prices/import', { body })
  const difference = PriceDifference.parse(await response.json())
  const lines = priceChanges(difference).map(plain)
  if (!context.isDryRun) return { data: difference, lines }
  const isSame = difference.added.length + difference.changed.length === 0
  const exitCode = isSame ? EXIT.done : EXIT.changes
  return { data: difference, lines: [...lines, 'Nothing was changed: this was a dry run.'], exitCode }
}

type Entry = z.infer<typeof PriceFile>['entries'][number]

/** Entries of the chosen providers, under the names they have here. */
function chosen(entries: readonly Entry[], providers: readonly string[]): readonly Entry[] {
  if (providers.length === 0) return entries
  const names = new Map(providers.map((words) => [words.split('=')[0] ?? words, words.split('=')[1] ?? words]))
  return entries.flatMap((entry) => {
    const provider = names.get(entry.provider)
    return provider === undefined ? [] : [{ ...entry, provider }]
  })
}

function jsonOf(written: string): unknown {
  try {
    return JSON.parse(written)
  } catch {
    return undefined
  }
}
