// `penstock backends watch`: the fleet as it lives. Owns the command: it reads the gateway's event stream, asks again where that ends,
// and says what changed, line by line. What a backend is shown as is backends.ts.
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { SseParser } from '../../sdk/src/sse.ts'
import type { Command } from '../command.ts'
import type { Context } from '../context.ts'
import { CliFailure, EXIT } from '../failure.ts'
import { Backend, engineLine } from './backends.ts'

const Snapshot = z.object({ as_of: z.string(), data: z.array(Backend) })
/** Longer than the gateway keeps one open; it says goodbye before. */
const STREAM_TIMEOUT_MS = 600_000
const AGAIN_MS = 1_000

export const backendsWatchCommand: Command = {
  path: ['backends', 'watch'],
  summary: 'Engines as they change: role, running, queued, KV, until Ctrl-C.',
  details: 'A line for each engine whose figures changed. With --json each line is one snapshot of the whole fleet.',
  examples: [{ line: 'penstock backends watch', what: 'while a machine is drained' }],
  run: async (context) => {
    const shown = new Map<string, string>()
    while (!context.signal.aborted) {
      await follow(context, shown)
      await sleep(AGAIN_MS, undefined, { signal: context.signal }).catch(() => undefined)
    }
    return undefined
  },
}

/** One stream, until it ends. @throws CliFailure where there is none to be had */
async function follow(context: Context, shown: Map<string, string>): Promise<void> {
  const api = await context.api()
  const options = { accept: 'text/event-stream', timeoutMs: STREAM_TIMEOUT_MS, signal: context.signal }
  const response = await api.send('GET', '/admin/v1/backends/events', options)
  const parser = new SseParser()
  try {
    for await (const bytes of response.body ?? [])
      for (const { event, data } of parser.push(bytes)) if (event === 'snapshot') show(context, shown, data)
  } catch (error) {
    // A stream that breaks off is begun again; a gateway that is gone is said by the next one's beginning.
    if (error instanceof CliFailure) throw error
  }
}

function show(context: Context, shown: Map<string, string>, text: string): void {
  const read = Snapshot.safeParse(json(text))
  if (!read.success)
    throw new CliFailure(EXIT.failed, '/backends/events said something that this command does not know.', {
      code: 'unknown_answer',
      hint: 'Use the command line of the same version as the gateway.',
    })
  const { as_of: asOf, data } = read.data
  if (context.isJson) return context.say(JSON.stringify(read.data))
  const now = new Map<string, string>()
  for (const one of data)
    for (const [index, engine] of one.models.entries())
      now.set(`${one.id} ${engine.engine ?? index}`, engineLine(one, engine, context.paint))
  for (const [key, line] of now) if (shown.get(key) !== line) context.say(`${context.paint('dim', asOf)}  ${line}`)
  for (const key of shown.keys())
    if (!now.has(key)) context.say(`${context.paint('dim', asOf)}  ${key}  ${context.paint('red', 'gone')}`)
  shown.clear()
  for (const [key, line] of now) shown.set(key, line)
}

function json(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return undefined
  }
}
