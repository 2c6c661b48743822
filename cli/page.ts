// docs/cli.md, made from the commands themselves. Owns its form; `npm run docs:cli` writes it, a test holds it to the commands. Pure.
import type { Command, Flag } from './command.ts'
import { EXIT, EXIT_MEANINGS } from './failure.ts'
import { ACCESS_FLAGS, COMMON_FLAGS, DRY_RUN, usageLine, YES } from './parse.ts'

const HEAD = `# The command line

\`penstock\` administers a deployment over the admin API and talks to its models, for people, scripts and agents. In a checkout it is \`npx penstock\` (or
\`npm run -s penstock --\`); \`npm link\` puts it on the PATH. Completion: \`source <(penstock completion bash)\`.

\`\`\`sh
penstock up                                          # database, engines, agent, gateway on this machine, until Ctrl-C
penstock doctor                                      # what is not as it should be, and what to do
export PENSTOCK_KEY=$(penstock keys create me --quiet)
penstock chat "Write one sentence about rivers."
penstock limits set money/month=25.00 requests/minute=60
penstock usage show --by model --last 24h
penstock logs --follow
\`\`\`

- **Where**: \`--url\` or \`PENSTOCK_URL\`, else the gateway of this machine. **Who**: \`PENSTOCK_TOKEN\` or \`ADMIN_TOKEN\`, \`--token-stdin\`, else the
  data folder of \`penstock up\`. A secret is never an argument: other users of a machine can read those.
- **\`--json\`** everywhere: one object \`{"schema": "penstock.keys.list.v1", "data": …, "next_cursor"?}\` on standard output, a failure as
  \`{"error": {"code", "message", "hint", "request_id", "exit_code"}}\` on standard error. Fields are added, never changed; amounts are decimal text.
- **Safe to drive**: nothing asks where no terminal is (\`--yes\` answers), changes are safe to repeat (\`keys create\` with
  \`--if-absent\`, \`credit grant\` with \`--id\`), \`--dry-run\` says what would be sent and ends with ${EXIT.changes}.
`

export function cliPage(commands: readonly Command[]): string {
  const nouns = [...new Set(commands.map(({ path }) => path[0] ?? ''))]
  const codes = Object.entries(EXIT).map(([name, code]) => `| ${code} | ${EXIT_MEANINGS[name as keyof typeof EXIT]} |`)
  return [
    HEAD,
    '| exit code | |',
    '| --- | --- |',
    ...codes,
    '',
    'This page is written by `npm run docs:cli` from the commands.',
    '',
    '## Options of all commands',
    '',
    ...flagTable({ ...COMMON_FLAGS, ...ACCESS_FLAGS, 'dry-run': DRY_RUN, yes: YES }),
    '',
    '`--dry-run` goes with commands that change something, `--yes` with those that take something away.',
    '',
    ...nouns.flatMap((noun) => [
      '',
      `## ${noun}`,
      '',
      ...commands.filter(({ path }) => path[0] === noun).flatMap(section),
    ]),
  ]
    .join('\n')
    .replace(/\n{3,}/g, '\n\n')
    .trimEnd()
    .concat('\n')
}

function section(command: Command): string[] {
  const { summary, details, positionals = [], flags = {}, examples } = command
  const rows = positionals.map(({ name, help }) => `| \`${name}\` | ${cell(help)} |`)
  const hasTable = rows.length > 0 || Object.keys(flags).length > 0
  return [
    `**\`${usageLine(command)}\`**  `,
    cell(summary),
    '',
    ...(details === undefined ? [] : [details.replaceAll('\n', ' '), '']),
    ...(hasTable ? ['| | |', '| --- | --- |', ...rows, ...flagRows(flags), ''] : []),
    '```sh',
    ...examples.map(({ line, what }) => `${line}   # ${what}`),
    '```',
    '',
  ]
}

const flagTable = (flags: Readonly<Record<string, Flag>>): string[] => ['| | |', '| --- | --- |', ...flagRows(flags)]

const flagRows = (flags: Readonly<Record<string, Flag>>): string[] =>
  Object.entries(flags).map(([name, flag]) => {
    const value = flag.type === 'boolean' ? '' : ` ${flag.value ?? flag.choices?.join('\\|') ?? 'VALUE'}`
    return `| \`--${name}${value}\` | ${cell(flag.help)}${flag.required === true ? '; required' : ''} |`
  })

const cell = (text: string): string => text.replaceAll('|', '\\|')
