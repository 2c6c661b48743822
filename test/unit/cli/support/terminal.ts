// The command line with streams of a test's own. Owns running it and cutting what it says into lines.
import { Readable } from 'node:stream'
import { commands } from '../../../../cli/commands.ts'
import { run } from '../../../../cli/run.ts'

export async function penstock(words: string[], env: Record<string, string> = {}, input = '') {
  const [out, err]: [string[], string[]] = [[], []]
  const into = (texts: string[]) => ({
    write: (text: string | Uint8Array) =>
      texts.push(typeof text === 'string' ? text : Buffer.from(text).toString('utf8')),
  })
  const terminal = { stdin: Readable.from([Buffer.from(input)]), stdout: into(out), stderr: into(err) }
  const around = {
    env,
    terminal,
    signal: new AbortController().signal,
    nowMs: () => Date.parse('2026-11-22T12:00:00Z'),
  }
  const code = await run(words, commands, around)
  const lines = (texts: string[]) => texts.join('').split('\n').slice(0, -1)
  return { code, said: lines(out), warned: lines(err), out: out.join('') }
}
