// The load: wrk, a generator that leaves the machine to what is measured. Owns calling it and reading its figures.
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

export type Load = {
  url: string
  headers: Record<string, string>
  body: string
  connections: number
  seconds: number
}

export type Loaded = { requests: number; requestsPerSecond: number; p50Ms: number; p99Ms: number; failed: number }

const run = promisify(execFile)
const RESULT = /PENSTOCK (\d+) (\d+) (\d+) (\d+) (\d+)/
const MARGIN_MS = 60_000
/** wrk counts in microseconds. */
const MICROSECONDS = 1000

/** @throws Error where wrk is not installed, or says nothing that can be read */
export async function load({ url, headers, body, connections, seconds }: Load): Promise<Loaded> {
  const dir = await mkdtemp(join(tmpdir(), 'penstock-load-'))
  try {
    const script = join(dir, 'load.lua')
    await writeFile(script, scriptText({ 'content-type': 'application/json', ...headers }, body))
    const args = ['-t1', `-c${connections}`, `-d${seconds}s`, '--timeout', '30s', '-s', script, url]
    const { stdout: text } = await run('wrk', args, { timeout: seconds * 1000 + MARGIN_MS }).catch((error: unknown) => {
      const message = String(error instanceof Error ? error.message : error)
      throw new Error(message.includes('ENOENT') ? 'wrk is not installed; on Debian: apt-get install wrk' : message)
    })
    const found = RESULT.exec(text)
    if (found === null) throw new Error(`wrk said: ${text.slice(0, 500)}`)
    const [requests = 0, durationUs = 1, p50Us = 0, p99Us = 0, failed = 0] = found.slice(1).map(Number)
    return {
      requests,
      requestsPerSecond: requests / (durationUs / 1e6),
      p50Ms: p50Us / MICROSECONDS,
      p99Ms: p99Us / MICROSECONDS,
      failed,
    }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** Lua has long strings in brackets, in which nothing needs an escape but the closing ones. */
function scriptText(headers: Record<string, string>, body: string): string {
  const quoted = (text: string) => `[=[${text}]=]`
  return [
    'wrk.method = "POST"',
    `wrk.body = ${quoted(body)}`,
    ...Object.entries(headers).map(([name, value]) => `wrk.headers[ ${quoted(name)} ] = ${quoted(value)}`),
    'done = function(summary, latency)',
    '  local e = summary.errors',
    '  io.write(string.format("PENSTOCK %d %d %d %d %d\\n", summary.requests, summary.duration,',
    '    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))',
    'end',
    '',
  ].join('\n')
}
