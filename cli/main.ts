// The command line. Owns the process: standard streams, Ctrl-C and the exit code; what is done is nouns/.
import { commands } from './commands.ts'
import { run } from './run.ts'

const interrupted = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interrupted.abort())
// A reader that has seen enough (`| head`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1))

process.exitCode = await run(process.argv.slice(2), commands, {
  env: process.env,
  terminal: { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr },
  signal: interrupted.signal,
  nowMs: () => Date.now(),
})
process.stdin.destroy()
if (process.connected) process.disconnect()
