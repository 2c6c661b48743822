// `penstock up`: what `npm start` does. Owns handing over to the launcher; its options are scripts/options.ts, in its own help text.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import type { Command } from '../command.ts'

const LAUNCHER = join(import.meta.dirname, '..', '..', 'scripts', 'start.ts')

export const upCommand: Command = {
  path: ['up'],
  summary:
    'Start everything on this machine: database, engines, agent, gateway; `penstock up --help` lists the options.',
  examples: [
    { line: 'penstock up', what: 'serve until Ctrl-C' },
    { line: 'penstock up --once "Write one sentence about rivers."', what: 'one answer, its bill, and stop' },
  ],
  isLocal: true,
  passesOn: true,
  run: async (context, args) => {
    const child = spawn(process.execPath, [LAUNCHER, ...args.rest], { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] })
    // The terminal sends Ctrl-C to both; who signals this process alone means the system.
    const stop = () => child.kill('SIGTERM')
    context.signal.addEventListener('abort', stop, { once: true })
    const exitCode = await new Promise<number>((resolve) => {
      child.once('error', () => resolve(1))
      child.once('exit', (code) => resolve(code ?? 1))
    })
    context.signal.removeEventListener('abort', stop)
    return { data: { exit_code: exitCode }, lines: [], exitCode, isSilent: true }
  },
}
