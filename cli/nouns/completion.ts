// biome-ignore-all lint/suspicious/noTemplateCurlyInString: they are the shells' own
// `penstock completion`: what a shell needs to complete commands, flags and choices. Owns the scripts of the three shells; they hold the
// words themselves, so that completing asks nobody.
import { type Command, positional } from '../command.ts'
import { wrongUsage } from '../failure.ts'
import { flagsOf } from '../parse.ts'

const SHELLS = ['bash', 'zsh', 'fish'] as const

/** @param all Asked when it runs: the list holds this command too. */
export const completionCommand = (all: () => readonly Command[]): Command => ({
  path: ['completion'],
  summary: 'A script that completes commands and flags in a shell.',
  positionals: [{ name: 'SHELL', help: SHELLS.join(', ') }],
  examples: [
    { line: 'source <(penstock completion bash)', what: 'in ~/.bashrc; zsh alike' },
    { line: 'penstock completion fish > ~/.config/fish/completions/penstock.fish', what: 'for fish' },
  ],
  isLocal: true,
  run: async (_, args) => {
    const shell = SHELLS.find((one) => one === positional(args, 'SHELL'))
    if (shell === undefined) throw wrongUsage(`SHELL must be one of ${SHELLS.join(', ')}.`)
    const script = shell === 'fish' ? fish(all()) : bash(all(), shell === 'zsh')
    return { data: { shell, script }, lines: [script] }
  },
})

/** Words that may follow each beginning: `''` → nouns, `keys` → verbs, `keys create` → flags. */
function following(commands: readonly Command[]): Map<string, string[]> {
  const words = new Map<string, string[]>()
  const add = (path: string, word: string) => {
    const known = words.get(path) ?? []
    if (!known.includes(word)) words.set(path, [...known, word])
  }
  for (const command of commands) {
    for (const [index, word] of command.path.entries()) add(command.path.slice(0, index).join(' '), word)
    for (const name of Object.keys(flagsOf(command))) add(command.path.join(' '), `--${name}`)
  }
  return words
}

function bash(commands: readonly Command[], isZsh: boolean): string {
  const cases = [...following(commands)].map(
    ([path, words]) => `    ${JSON.stringify(path)}) words=${JSON.stringify(words.join(' '))} ;;`,
  )
  return [
    ...(isZsh ? ['autoload -U +X bashcompinit && bashcompinit'] : []),
    '_penstock() {',
    '  local path="" word words="" i',
    '  for ((i = 1; i < COMP_CWORD; i++)); do',
    '    word="${COMP_WORDS[i]}"',
    '    case "$word" in -*) break ;; esac',
    '    [ "$i" -gt 2 ] && break',
    '    path="${path:+$path }$word"',
    '  done',
    '  case "$path" in',
    ...cases,
    '    *) path="${path%% *}"; case "$path" in',
    ...cases.filter((line) => !/^ {4}"[^"]* /.test(line)),
    '    esac ;;',
    '  esac',
    '  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))',
    '}',
    'complete -o default -F _penstock penstock',
  ].join('\n')
}

function fish(commands: readonly Command[]): string {
  const quoted = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
  const lines = ['complete -c penstock -f']
  const nouns = new Map<string, string>()
  for (const { path, summary } of commands)
    nouns.set(path[0] ?? '', path.length === 1 ? summary : `${path[0]}: commands`)
  for (const [noun, what] of nouns)
    lines.push(`complete -c penstock -n __fish_use_subcommand -a ${noun} -d ${quoted(what)}`)
  for (const command of commands) {
    const [noun = '', verb] = command.path
    if (verb !== undefined) {
      const verbs = commands.filter(({ path }) => path[0] === noun).map(({ path }) => path[1])
      const before = `__fish_seen_subcommand_from ${noun}; and not __fish_seen_subcommand_from ${verbs.join(' ')}`
      lines.push(`complete -c penstock -n ${quoted(before)} -a ${verb} -d ${quoted(command.summary)}`)
    }
    const here = [noun, ...(verb === undefined ? [] : [verb])]
      .map((word) => `__fish_seen_subcommand_from ${word}`)
      .join('; and ')
    for (const [name, flag] of Object.entries(flagsOf(command))) {
      const takes =
        flag.type === 'string' ? ` -r${flag.choices === undefined ? '' : ` -a ${quoted(flag.choices.join(' '))}`}` : ''
      lines.push(`complete -c penstock -n ${quoted(here)} -l ${name}${takes} -d ${quoted(flag.help)}`)
    }
  }
  return lines.join('\n')
}
