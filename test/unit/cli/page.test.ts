// docs/cli.md says what the commands are, and nothing else; every command can be found, asked and shown.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { commands } from '../../../cli/commands.ts'
import { commandHelp, overview } from '../../../cli/help.ts'
import { cliPage } from '../../../cli/page.ts'
import { parse } from '../../../cli/parse.ts'

const page = readFileSync(join(import.meta.dirname, '../../../docs/cli.md'), 'utf8')

test('docs/cli.md is what `npm run docs:cli` writes', () => {
  expect(page).toBe(cliPage(commands))
})

describe.each(commands.map((command) => [command.path.join(' '), command] as const))('%s', (name, command) => {
  test('has a help text with every option and example, and stands in the overview', () => {
    const help = commandHelp(command).join('\n')
    for (const flag of Object.keys(command.flags ?? {})) expect(help).toContain(`--${flag}`)
    for (const { line } of command.examples) expect(help).toContain(line)
    expect(overview(commands, []).join('\n')).toContain(`  ${name} `)
  })

  test('has examples that are complete command lines of it, or begin with one', () => {
    expect(command.examples.length).toBeGreaterThan(0)
    for (const { line } of command.examples) {
      const at = line.indexOf('penstock ')
      expect(at).toBeGreaterThanOrEqual(0)
      const words = wordsOf(line.slice(at + 'penstock '.length))
      expect(parse(words, commands)).toMatchObject({ kind: 'run', command: { path: command.path } })
    }
  })

  test('cannot be taken for another: no path is there twice', () => {
    expect(commands.filter(({ path }) => path.join(' ') === name)).toHaveLength(1)
  })
})

/** As a shell would cut them, up to a pipe, a redirection or a closing bracket. */
function wordsOf(line: string): string[] {
  const words: string[] = []
  for (const [, double, single, bare] of line.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)) {
    if (bare !== undefined && /^[|>;]/.test(bare)) break
    words.push(double ?? single ?? (bare ?? '').replace(/\)$/, ''))
  }
  return words
}
