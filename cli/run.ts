// One run of the command line, from words to an exit code. Owns the order: parse, do, print; never throws.
import type { Command } from './command.ts'
import { contextOf, type Surroundings } from './context.ts'
import { CliFailure, EXIT } from './failure.ts'
import { commandHelp, overview } from './help.ts'
import { failureJson, failureLines, outcomeJson, painter } from './output.ts'
import { isFailure, parse } from './parse.ts'

/** @returns the exit code; see EXIT */
export async function run(
  argv: readonly string[],
  commands: readonly Command[],
  around: Omit<Surroundings, 'paint'>,
): Promise<number> {
  const { terminal, env, signal } = around
  const print = (lines: readonly string[]) => terminal.stdout.write(`${lines.join('\n')}\n`)
  // Known before the words are: a mistake among them is told in the form that was asked for.
  const isJson = argv.includes('--json')
  try {
    const parsed = parse(argv, commands)
    if (parsed.kind === 'help') {
      print(parsed.command === undefined ? overview(commands, parsed.path) : commandHelp(parsed.command))
      return argv.length === 0 ? EXIT.usage : EXIT.done
    }
    const { command, args } = parsed
    const context = contextOf(args, { ...around, paint: painter(terminal.stdout, env) })
    const outcome = await command.run(context, args)
    if (outcome === undefined) return EXIT.done
    if (outcome.isSilent !== true) print(isJson ? [outcomeJson(command.path, outcome)] : outcome.lines)
    return outcome.exitCode ?? EXIT.done
  } catch (error) {
    if (signal.aborted) return EXIT.failed
    const failure = isFailure(error)
      ? error
      : new CliFailure(EXIT.failed, (error as Error).message, { code: 'internal' })
    const lines = isJson ? [failureJson(failure)] : failureLines(failure, painter(terminal.stderr, env))
    terminal.stderr.write(`${lines.join('\n')}\n`)
    return failure.exitCode
  }
}
