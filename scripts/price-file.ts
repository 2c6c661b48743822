// A price file on its way to the admin API. Owns the command's options and the words for what changes; what may change,
// and the comparison, is the gateway's. prices-import.ts runs it.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { z } from 'zod'
import { ACCESS_HELP, accessOptions, openAdmin } from './admin-access.ts'

const HELP = `Brings the prices of a file into the price book, and shows each difference.

  npm run prices:import -- --dry-run                 show what would change
  npm run prices:import                              change it; safe to repeat

Options:
  --file PATH    JSON as POST /admin/v1/prices/import takes it     default deploy/price-catalogue.json
  --provider A   only entries of this provider; A=B stores them under your name B for it. May be given several times
${ACCESS_HELP}
  --supersede    new prices may cut short prices that were to hold until a later time
  --dry-run      change nothing

ADMIN_TOKEN in the environment comes before the data folder's.`

const File = z.looseObject({ entries: z.array(z.looseObject({ provider: z.string() })) })
const Change = z.object({ old: z.string().nullable(), new: z.string().nullable() })
const Named = z.object({
  provider: z.string(),
  model: z.string(),
  service_tier: z.string(),
  effective_from: z.string(),
})
const Tiers = <T extends z.ZodType>(table: T) =>
  z.array(z.object({ above_input_tokens: z.number(), usd_per_million: table })).optional()
const PriceTable = z.record(z.string(), z.string())
const Changes = z.record(z.string(), Change)
const Difference = z.object({
  added: z.array(Named.extend({ usd_per_million: PriceTable, context_tiers: Tiers(PriceTable) })),
  changed: z.array(Named.extend({ usd_per_million: Changes, context_tiers: Tiers(Changes) })),
  unchanged: z.number(),
  ended: z.number(),
})

const name = ({ provider, model, service_tier, effective_from }: z.infer<typeof Named>) =>
  `${provider} ${model}${service_tier === 'standard' ? '' : ` (${service_tier})`} from ${effective_from}`

function show({ added, changed, unchanged, ended }: z.infer<typeof Difference>): string[] {
  const lines: string[] = []
  for (const one of added) {
    const tables = [{ above_input_tokens: 0, usd_per_million: one.usd_per_million }, ...(one.context_tiers ?? [])]
    lines.push(`+ ${name(one)}`)
    for (const { above_input_tokens: bound, usd_per_million: table } of tables) {
      const prices = Object.entries(table).map(([part, price]) => `${part} ${price}`)
      lines.push(`    ${bound === 0 ? '' : `above ${bound} input tokens: `}${prices.join(', ')}`)
    }
  }
  for (const one of changed) {
    const tables = [{ above_input_tokens: 0, usd_per_million: one.usd_per_million }, ...(one.context_tiers ?? [])]
    lines.push(`~ ${name(one)}`)
    for (const { above_input_tokens: bound, usd_per_million: table } of tables) {
      for (const [part, change] of Object.entries(table)) {
        const tier = bound === 0 ? '' : `above ${bound} input tokens: `
        lines.push(`    ${tier}${part} ${change.old ?? 'unknown'} -> ${change.new ?? 'unknown'}`)
      }
    }
  }
  return [...lines, `${added.length} added, ${changed.length} changed, ${unchanged} unchanged, ${ended} ended already`]
}

/** Entries of the chosen providers, under the names they have here. */
function chosen(file: z.infer<typeof File>, providers: string[]): z.infer<typeof File> {
  if (providers.length === 0) return file
  const names = new Map(providers.map((text) => [text.split('=')[0] ?? text, text.split('=')[1] ?? text]))
  const entries = file.entries.flatMap((entry) => {
    const provider = names.get(entry.provider)
    return provider === undefined ? [] : [{ ...entry, provider }]
  })
  return { ...file, entries }
}

/**
 * Sends a file and says what it changes, line by line.
 * @param argv Options as in HELP.
 * @throws Error with a word of what to do.
 */
export async function importPrices(
  argv: string[],
  env: Record<string, string | undefined>,
  say: (line: string) => void,
): Promise<void> {
  const { values } = parseArgs({
    args: argv,
    options: {
      file: { type: 'string', default: join(import.meta.dirname, '..', 'deploy', 'price-catalogue.json') },
      provider: { type: 'string', multiple: true, default: [] },
      ...accessOptions(env),
      supersede: { type: 'boolean', default: false },
      'dry-run': { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    say(HELP)
    return
  }
  const file = chosen(File.parse(JSON.parse(await readFile(values.file, 'utf8'))), values.provider)
  if (file.entries.length === 0) throw new Error(`${values.file} has no entry of ${values.provider.join(', ')}`)
  const admin = await openAdmin(values, env)
  const body = { ...file, dry_run: values['dry-run'], supersede: values.supersede }
  const difference = await admin.call('POST', '/prices/import', Difference, body)
  for (const line of show(difference)) say(line)
  if (values['dry-run']) say('Nothing was changed: this was a dry run.')
}
