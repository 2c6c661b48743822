// From words to a command and its arguments. Owns finding the command, the flags that all have, and what is said about a mistake.
// Pure.
import { parseArgs } from 'node:util'
import type { Arguments, Command, Flag, Values } from './command.ts'
import { CliFailure, wrongUsage } from './failure.ts'

/** Of every command. */
export const COMMON_FLAGS = {
  json: { type: 'boolean', help: 'one JSON object on standard output; errors as JSON on standard error' },
  help: { type: 'boolean', help: 'this text' },
} as const satisfies Record<string, Flag>
/** Of every command that talks to a gateway. */
export const ACCESS_FLAGS = {
  url: { type: 'string', value: 'URL', help: 'the gateway; default http://127.0.0.1:8787  [PENSTOCK_URL]' },
  data: {
    type: 'string',
    value: 'DIR',
    help: 'the data folder of `penstock up`, whose secrets.json has the token  [PENSTOCK_DATA]',
  },
  'token-stdin': { type: 'boolean', help: 'read the token from standard input  [PENSTOCK_TOKEN, ADMIN_TOKEN]' },
  org: { type: 'string', value: 'ORG', help: 'organisation, by slug or id; default: the only one  [PENSTOCK_ORG]' },
} as const satisfies Record<string, Flag>
export const DRY_RUN: Flag = { type: 'boolean', help: 'say what would be changed, and change nothing' }
export const YES: Flag = { type: 'boolean', help: 'do not ask' }

export type Parsed =
  | { kind: 'run'; command: Command; args: Arguments }
  | { kind: 'help'; path: readonly string[]; command?: Command }

/** Everything that a command takes. */
export function flagsOf(command: Command): Record<string, Flag> {
  return {
    ...command.flags,
    ...(command.changes === true && { 'dry-run': DRY_RUN }),
    ...(command.destroys === true && { yes: YES }),
    ...(command.isLocal !== true && ACCESS_FLAGS),
    ...COMMON_FLAGS,
  }
}

/** @throws CliFailure `usage` */
export function parse(argv: readonly string[], commands: readonly Command[]): Parsed {
  const words = argv.slice(0, Math.max(0, firstFlag(argv)))
  const command = find(words, commands)
  if (command === undefined) return withoutCommand(argv, words, commands)
  if (command.passesOn === true)
    return { kind: 'run', command, args: { positionals: {}, rest: argv.slice(command.path.length), flags: {} } }
  const flags = flagsOf(command)
  const read = readFlags(argv.slice(command.path.length), flags, command)
  if (read.values.help === true) return { kind: 'help', path: command.path, command }
  checkFlags(read.values, flags, command)
  return { kind: 'run', command, args: { ...place(read.positionals, command), flags: read.values } }
}

const firstFlag = (argv: readonly string[]): number => {
  const at = argv.findIndex((word) => word.startsWith('-'))
  return at === -1 ? argv.length : at
}

/** The longest path that the words begin with. */
function find(words: readonly string[], commands: readonly Command[]): Command | undefined {
  return commands
    .filter(({ path }) => path.every((word, index) => words[index] === word))
    .sort((a, b) => b.path.length - a.path.length)[0]
}

function withoutCommand(argv: readonly string[], words: readonly string[], commands: readonly Command[]): Parsed {
  const asksHelp = argv.includes('--help') || argv.includes('-h') || words.length === 0 || words[0] === 'help'
  const path = words[0] === 'help' ? words.slice(1) : words
  const exact = find(path, commands)
  if (asksHelp && exact !== undefined) return { kind: 'help', path: exact.path, command: exact }
  const under = commands.filter((command) => path.every((word, index) => command.path[index] === word))
  if (asksHelp && under.length > 0) return { kind: 'help', path }
  const known = [...new Set(commands.map((command) => command.path.join(' ')))]
  const nearest = nearestOf(path.join(' '), known)
  const hint = nearest === undefined ? '`penstock --help` lists the commands.' : `Did you mean \`penstock ${nearest}\`?`
  if (under.length > 0) {
    const verbs = under.map((command) => command.path[path.length]).join(', ')
    throw wrongUsage(`penstock ${path.join(' ')} needs one of: ${verbs}.`, `penstock ${path.join(' ')} --help`)
  }
  throw wrongUsage(`There is no command ${JSON.stringify(words.slice(0, 2).join(' '))}.`, hint)
}

function readFlags(argv: readonly string[], flags: Record<string, Flag>, command: Command) {
  const options = Object.fromEntries(
    Object.entries(flags).map(([name, { type, multiple }]) => [name, { type, ...(multiple === true && { multiple }) }]),
  )
  try {
    const { values, positionals } = parseArgs({
      args: [...argv],
      options: { ...options, help: { type: 'boolean', short: 'h' } },
      allowPositionals: true,
    })
    return { values: values as Values, positionals }
  } catch (error) {
    const name = /'--([\w-]+)/.exec((error as Error).message)?.[1]
    const nearest = name === undefined || Object.hasOwn(flags, name) ? undefined : nearestOf(name, Object.keys(flags))
    const message = (error as Error).message.split(/\. |\n/)[0] ?? ''
    throw wrongUsage(
      `${message}.`,
      nearest === undefined ? `penstock ${command.path.join(' ')} --help` : `Did you mean --${nearest}?`,
    )
  }
}

function checkFlags(values: Values, flags: Record<string, Flag>, command: Command): void {
  for (const [name, flag] of Object.entries(flags)) {
    const value = values[name]
    if (value === undefined) {
      if (flag.required === true) throw wrongUsage(`--${name} is missing: ${flag.help}.`, usageLine(command))
      continue
    }
    const given = Array.isArray(value) ? value : [value]
    if (flag.choices === undefined) continue
    const wrong = given.find((one) => !flag.choices?.includes(String(one)))
    if (wrong !== undefined) throw wrongUsage(`--${name} ${wrong}: must be one of ${flag.choices.join(', ')}.`)
  }
}

function place(given: readonly string[], command: Command): Pick<Arguments, 'positionals' | 'rest'> {
  const wanted = command.positionals ?? []
  const variadic = wanted.find((one) => one.variadic === true)
  const plain = wanted.filter((one) => one.variadic !== true)
  const missing = plain.find((one, index) => one.optional !== true && given[index] === undefined)
  if (missing !== undefined) throw wrongUsage(`${missing.name} is missing: ${missing.help}.`, usageLine(command))
  const rest = given.slice(plain.length)
  if (variadic === undefined && rest.length > 0)
    throw wrongUsage(`${JSON.stringify(rest[0])} is one argument too many.`, usageLine(command))
  if (variadic !== undefined && variadic.optional !== true && rest.length === 0)
    throw wrongUsage(`${variadic.name} is missing: ${variadic.help}.`, usageLine(command))
  const positionals = Object.fromEntries(
    plain.flatMap(({ name }, index) => (given[index] === undefined ? [] : [[name, given[index]]])),
  )
  return { positionals, rest }
}

export function usageLine(command: Command): string {
  const words = (command.positionals ?? []).map(({ name, optional, variadic }) => {
    const shown = `${name}${variadic === true ? '...' : ''}`
    return optional === true ? `[${shown}]` : shown
  })
  const required = Object.entries(command.flags ?? {}).flatMap(([name, flag]) =>
    flag.required === true ? [`--${name} ${flag.value ?? 'VALUE'}`] : [],
  )
  return ['penstock', ...command.path, ...words, ...required, '[options]'].join(' ')
}

/** The name that is a slip of the finger away, if there is one. */
export function nearestOf(word: string, names: readonly string[]): string | undefined {
  const scored = names
    .map((name) => ({ name, distance: editDistance(word, name) }))
    .sort((a, b) => a.distance - b.distance)
  const best = scored[0]
  return best !== undefined && best.distance <= Math.max(1, Math.floor(word.length / 3)) ? best.name : undefined
}

/** Levenshtein, by rows: insertions, deletions and replacements cost one. */
function editDistance(left: string, right: string): number {
  let row = Array.from({ length: right.length + 1 }, (_, index) => index)
  for (let i = 1; i <= left.length; i++) {
    const next = [i]
    for (let j = 1; j <= right.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (left[i - 1] === right[j - 1] ? 0 : 1)
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[right.length] ?? 0
}

/** So that callers need not know the class. */
export const isFailure = (error: unknown): error is CliFailure => error instanceof CliFailure
