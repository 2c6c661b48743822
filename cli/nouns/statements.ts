// `penstock statements`: what a month came to. Owns these commands; what stands in a statement is the gateway's (ledger/statement.ts), and
// the file is the gateway's own table, byte for byte.
import { open } from 'node:fs/promises'
import { z } from 'zod'
import { type Command, positional, text } from '../command.ts'
import type { Context } from '../context.ts'
import { CliFailure, EXIT, wrongUsage } from '../failure.ts'
import { fields, table } from '../output.ts'

const Months = z.object({
  time_zone: z.string(),
  data: z.array(z.looseObject({ month: z.string(), from: z.string(), to: z.string(), over: z.boolean() })),
})
const Line = z.looseObject({
  kind: z.string(),
  project_id: z.string(),
  key_id: z.string(),
  model: z.string(),
  provider: z.string(),
  attempts: z.number(),
  amount_usd: z.string(),
})
const Named = z.record(z.string(), z.union([z.string(), z.looseObject({ name: z.string() })]))
const Statement = z.looseObject({
  organisation: z.string().nullish(),
  month: z.string(),
  from: z.string(),
  to: z.string(),
  time_zone: z.string(),
  over: z.boolean(),
  opening_balance_usd: z.string(),
  usage_usd: z.string(),
  corrections_usd: z.string(),
  credit_usd: z.string(),
  closing_balance_usd: z.string(),
  matches_ledger: z.boolean(),
  lines: z.array(Line),
  names: z.looseObject({ projects: Named.optional(), keys: Named.optional() }).optional(),
})

const MONTH = /^\d{4}-(0[1-9]|1[0-2])$/
/** A table of a whole month takes longer than a question. */
const FILE_TIMEOUT_MS = 120_000
const zone = { type: 'string', value: 'ZONE', help: 'where months begin, e.g. Europe/Berlin; default UTC' } as const

export const statementCommands: readonly Command[] = [
  {
    path: ['statements', 'list'],
    summary: 'Months that have a statement, the newest first.',
    flags: { 'time-zone': zone },
    examples: [{ line: 'penstock statements list', what: 'the running month too, as far as it has come' }],
    run: async (context, args) => {
      const { id } = await context.organisation()
      const query = { time_zone: text(args, 'time-zone') }
      const answer = await (await context.api()).get(`/organisations/${id}/statements`, Months, query)
      const lines = table(
        answer.data,
        [
          { title: 'MONTH', of: ({ month }) => month, style: () => 'bold' },
          { title: 'FROM', of: ({ from }) => from },
          { title: 'TO', of: ({ to }) => to },
          { title: 'STATE', of: ({ over }) => (over ? 'over' : 'running') },
        ],
        context.paint,
        'Nothing was used yet.',
      )
      return { data: answer.data, lines }
    },
  },
  {
    path: ['statements', 'show'],
    summary:
      'The statement of a month: balances, and a line per project, key and model. Exit code 1 where the ledger disagrees.',
    positionals: [{ name: 'MONTH', help: 'e.g. 2026-11; default the running one', optional: true }],
    flags: {
      'time-zone': zone,
      csv: {
        type: 'string',
        value: 'FILE',
        help: 'write the whole table, part by part, into a new file; `-`: standard output',
      },
    },
    examples: [
      { line: 'penstock statements show 2026-11', what: 'what the organisation owes, and for what' },
      {
        line: 'penstock statements show 2026-11 --csv november.csv',
        what: 'for a spreadsheet: its amounts add up to the usage',
      },
    ],
    run: async (context, args) => {
      const { id } = await context.organisation()
      const month = positional(args, 'MONTH') || new Date(context.nowMs()).toISOString().slice(0, 7)
      if (!MONTH.test(month)) throw wrongUsage(`${month} is no month, such as 2026-11.`)
      const path = `/organisations/${id}/statements/${month}`
      const query = { time_zone: text(args, 'time-zone') }
      const file = text(args, 'csv')
      if (file !== undefined) return written(context, path, query, file)
      const answer = await (await context.api()).get(path, Statement, query)
      return { data: answer, lines: shown(context, answer), exitCode: answer.matches_ledger ? EXIT.done : EXIT.failed }
    },
  },
]

const nameOf = (names: z.infer<typeof Named> | undefined, id: string): string => {
  const found = names?.[id]
  return (typeof found === 'string' ? found : found?.name) ?? id
}

function shown({ paint }: Context, statement: z.infer<typeof Statement>): string[] {
  const { names } = statement
  return [
    ...fields(
      [
        ['month', `${statement.month}${statement.over ? '' : ', so far'} (${statement.time_zone})`],
        ['opening balance', `$${statement.opening_balance_usd}`],
        ['usage', `$${statement.usage_usd}`],
        ['of it corrections', Number(statement.corrections_usd) === 0 ? undefined : `$${statement.corrections_usd}`],
        ['credit', `$${statement.credit_usd}`],
        ['closing balance', `$${statement.closing_balance_usd}`],
        ['agrees with the ledger', statement.matches_ledger ? 'yes' : 'NO'],
      ],
      paint,
    ),
    '',
    ...table(
      statement.lines,
      [
        { title: 'PROJECT', of: (line) => nameOf(names?.projects, line.project_id) },
        { title: 'KEY', of: (line) => nameOf(names?.keys, line.key_id) },
        { title: 'MODEL', of: (line) => line.model, style: () => 'bold' },
        { title: 'PROVIDER', of: (line) => line.provider },
        { title: 'FOR', of: (line) => line.kind },
        { title: 'ATTEMPTS', of: (line) => String(line.attempts), isRight: true },
        { title: 'AMOUNT $', of: (line) => line.amount_usd, isRight: true },
      ],
      paint,
      'No line.',
    ),
  ]
}

/** Never over a file that is there: a statement that was sent out stays as it is. */
async function written(context: Context, path: string, query: Record<string, string | undefined>, file: string) {
  const api = await context.api()
  const parameters = new URLSearchParams({ format: 'csv' })
  if (query.time_zone !== undefined) parameters.set('time_zone', query.time_zone)
  const options = { accept: 'text/csv', timeoutMs: FILE_TIMEOUT_MS, signal: context.signal }
  const response = await api.send('GET', `/admin/v1${path}?${parameters}`, options)
  const text = await response.text()
  if (file === '-') {
    context.terminal.stdout.write(text)
    return undefined
  }
  const handle = await open(file, 'wx', 0o600).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw new CliFailure(EXIT.failed, `${file} cannot be written: ${error.message}.`)
    throw new CliFailure(EXIT.failed, `${file} is there already.`, { code: 'exists', hint: 'Name another file.' })
  })
  try {
    await handle.writeFile(text)
  } finally {
    await handle.close()
  }
  const rows = text.split('\n').length - 2
  return { data: { file, rows }, lines: [`Wrote ${rows} rows to ${file}.`] }
}
