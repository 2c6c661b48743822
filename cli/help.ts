// Help texts. Owns their form; what they say is the commands' own. Pure.
import type { Command, Flag } from './command.ts'
import { EXIT, EXIT_MEANINGS } from './failure.ts'
import { ACCESS_FLAGS, COMMON_FLAGS, DRY_RUN, usageLine, YES } from './parse.ts'

export function commandHelp(command: Command): string[] {
  const { positionals = [], flags = {}, examples, details } = command
  const common: Record<string, Flag> = {
    ...(command.changes === true && { 'dry-run': DRY_RUN }),
    ...(command.destroys === true && { yes: YES }),
    ...(command.isLocal !== true && ACCESS_FLAGS),
    ...COMMON_FLAGS,
  }
  return [
    command.summary,
    ...(details === undefined ? [] : ['', details]),
    '',
    `  ${usageLine(command)}`,
    ...section(
      'Arguments',
      positionals.map(({ name, help }) => [name, help]),
    ),
    ...section('Options', flagRows(flags)),
    ...section('Options of every command', flagRows(common)),
    '',
    'Examples:',
    ...examples.flatMap(({ line, what }) => [`  ${line}`, `      ${what}`]),
  ]
}

/** Of all commands, or of those of one noun. */
export function overview(commands: readonly Command[], path: readonly string[]): string[] {
  const under = commands.filter((command) => path.every((word, index) => command.path[index] === word))
  const rows = under.map(({ path: words, summary }) => [words.join(' '), summary] as const)
  const head =
    path.length === 0
      ? [
          'Penstock from the command line: administers a deployment and talks to its models, for people, scripts and agents.',
          '',
          '  penstock COMMAND [options]',
        ]
      : [`  penstock ${path.join(' ')} COMMAND [options]`]
  return [
    ...head,
    ...section('Commands', rows),
    '',
    '`penstock COMMAND --help` shows options and examples. `--json` gives every answer as one JSON object.',
    ...(path.length > 0
      ? []
      : section(
          'Exit codes',
          Object.entries(EXIT).map(([name, code]) => [String(code), EXIT_MEANINGS[name as keyof typeof EXIT]]),
        )),
  ]
}

const flagRows = (flags: Readonly<Record<string, Flag>>): (readonly [string, string])[] =>
  Object.entries(flags).map(([name, flag]) => {
    const value = flag.type === 'boolean' ? '' : ` ${flag.value ?? 'VALUE'}`
    const choices = flag.choices === undefined ? '' : ` (${flag.choices.join(', ')})`
    return [`--${name}${value}${flag.multiple === true ? ' ...' : ''}`, `${flag.help}${choices}`] as const
  })

function section(title: string, rows: readonly (readonly [string, string])[]): string[] {
  if (rows.length === 0) return []
  const widest = Math.max(...rows.map(([name]) => name.length))
  return ['', `${title}:`, ...rows.map(([name, help]) => `  ${name.padEnd(widest)}  ${help}`)]
}
