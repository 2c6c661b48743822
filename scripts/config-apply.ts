// `npm run config`. Owns the process: where the words go and its exit code; the work is config-command.ts.
import { runConfig } from './config-command.ts'

process.exitCode = await runConfig(process.argv.slice(2), process.env, {
  say: (line) => console.log(line),
  warn: (line) => console.error(line),
})
