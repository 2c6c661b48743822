// A client that reads a run's events, while they come or again. Owns asking the object for them page by page, no faster than the client
// reads; what there is to read is runs.ts.
import type { Failure } from '../../protocol/errors.ts'
import type { Result } from '../../protocol/result.ts'
import type { Env } from '../env.ts'
import { type ErrorDialect, failureBody, failureResponse, requestIdHeaders } from '../errors.ts'
import { errorText, log } from '../observe/log.ts'
import { ClientStream } from '../stream/client.ts'
import { SSE_HEADERS } from '../stream/sse.ts'
import { Stop } from '../stream/stop.ts'
import { reachRuns } from './reach.ts'
import { eventsOf, type Followed, type Owner } from './stored-run.ts'

/** One call waits in the object at most this long; keep-alive comments go out meanwhile. */
const WAIT_MS = 5_000
/** Longer than a response can take. A client that holds its stream without reading is let go, and can come back. */
const FOLLOW_MAX_MS = 15 * 60_000

export type Following = {
  env: Env
  name: string
  owner: Owner
  requestId: string
  /** The last event that the client has; -1: none. */
  after: number
  keepAliveMs: number
  clientGone: AbortSignal
  /** Of a HEAD request: the head of the answer, and nobody follows. */
  isHeadOnly: boolean
  waitUntil: (work: Promise<unknown>) => void
  /** Each event goes out with its number as its id; what goes wrong on the way breaks the connection, and the client comes back. */
  stream?: { dialect: ErrorDialect; headers: Record<string, string> }
}

/** The events after `after`, then those that come, up to the last one. */
export async function followRun(following: Following): Promise<Response> {
  // What is wrong with the question is answered with a status, before there is a stream.
  const first = await ask(following, following.after, 0)
  const { requestId, stream } = following
  if (!first.ok) return failureResponse(first.error, requestId, stream === undefined ? {} : { dialect: stream.dialect })
  const headers = { ...requestIdHeaders(requestId), ...stream?.headers, ...SSE_HEADERS }
  if (following.isHeadOnly) return new Response(null, { headers })
  const stop = new Stop()
  stop.arm(FOLLOW_MAX_MS, 'deadline')
  if (following.clientGone.aborted) stop.stop('client_gone')
  else following.clientGone.addEventListener('abort', () => stop.stop('client_gone'), { once: true })
  const client = new ClientStream(stop, following.keepAliveMs)
  following.waitUntil(pump(following, first.value, client, stop))
  return new Response(client.readable, { headers })
}

async function pump(following: Following, first: Followed, client: ClientStream, stop: Stop): Promise<void> {
  let words: string | undefined = ''
  let { text, last, isOver } = first
  const isStream = following.stream !== undefined
  try {
    for (;;) {
      if (text !== '') await client.send(isStream ? withIds(text, last) : text)
      if (isOver) break
      const next = await stop.race(ask(following, last, WAIT_MS))
      if (!next.ok) {
        words = isStream ? undefined : errorEvent(next.error, last + 1)
        break
      }
      ;({ text, last, isOver } = next.value)
    }
  } catch (error) {
    // The client is gone; the run goes on without it.
    words = isStream ? undefined : ''
    if (!isStream && (stop.reason === 'deadline' || stop.reason === 'replaced')) words = errorEvent(TOO_LONG, last + 1)
    if (stop.reason === undefined) log('error', 'follow_threw', { run: following.name, error: errorText(error) })
  }
  if (words === undefined) client.breakOff()
  else await client.end(words)
  stop.stop('done')
}

async function ask(
  { env, name, owner, stream, isHeadOnly }: Following,
  after: number,
  waitMs: number,
): Promise<Result<Followed, Failure>> {
  const form = stream === undefined ? 'response' : 'stream'
  return reachRuns(env, owner, name, (runs) => runs.follow(name, owner, after, waitMs, form, isHeadOnly), {
    again: true,
  })
}

/** @param last Number of the last of them. */
function withIds(text: string, last: number): string {
  const events = eventsOf(text).filter((event) => event !== '')
  const first = last - events.length + 1
  return events.map((event, at) => `id: ${first + at}\n${event}`).join('')
}

const TOO_LONG: Failure = {
  code: 'deadline_exceeded',
  message: 'The response was followed for too long; follow it again from the last event.',
}

function errorEvent(failure: Failure, sequence_number: number): string {
  const { code, message, param } = failureBody(failure).error
  return `event: error\ndata: ${JSON.stringify({ type: 'error', sequence_number, code, message, param })}\n\n`
}
