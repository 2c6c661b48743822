// One try of one target: until the whole answer is there, or until a stream has brought content. Owns its timeouts, and that every
// way to fail comes out as a Verdict; whether to try again is call.ts.
import { scopeOf, TimedOut, within } from './deadline.ts'
import type { Dialect, Reading } from './dialect.ts'
import { EventReader } from './event-reader.ts'
import type { SseEvent } from './sse.ts'
import { isRedirect, requestFor, type Target, type WireRequest } from './target.ts'
import { inBandVerdict, unreachable, type Verdict, verdictOf } from './verdict.ts'

/** An error page is read no further. */
const ERROR_CHARS_MAX = 64 * 1024
const ERROR_READ_MS = 5_000

export type Timeouts = { headTimeoutMs: number; idleTimeoutMs: number }

export type Whole = { kind: 'whole'; status: number; headers: Headers; text: string }
export type Begun = {
  kind: 'stream'
  status: number
  headers: Headers
  /** Up to and including the first content. */
  first: { event: SseEvent; reading: Reading }[]
  reader: EventReader
}
export type Failed = { kind: 'failed'; verdict: Verdict }

/**
 * @param signal Ends the try; what it was aborted with is thrown.
 * @throws only what `signal` was aborted with.
 */
export async function attempt(
  target: Target,
  request: WireRequest,
  dialect: Dialect | undefined,
  own: Record<string, string>,
  given: { fetch: typeof fetch; timeouts: Timeouts; signal: AbortSignal; nowMs: () => number },
): Promise<Whole | Begun | Failed> {
  const scope = scopeOf(given.signal)
  let isHandedOn = false
  try {
    // Its key may have to be fetched, too.
    const making = requestFor(target, request, own)
    const wire = await within(making, given.timeouts.headTimeoutMs, 'no key came in time', given.signal)
    const asking = given.fetch(wire, { signal: scope.signal })
    // Without a stream the head comes with the whole answer: then the call's deadline is the only bound.
    const response = request.isStream
      ? await within(asking, given.timeouts.headTimeoutMs, 'no head of an answer came in time', given.signal)
      : await asking
    if (isRedirect(response)) throw new TypeError('redirects are not followed')
    if (!response.ok) return await refused(target, response, given)
    const isEvents = response.headers.get('content-type')?.includes('text/event-stream') === true
    if (!request.isStream || !isEvents || response.body === null || dialect === undefined) {
      return await whole(target, request, response)
    }
    const reader = new EventReader(response.body, dialect, given.timeouts.idleTimeoutMs, scope)
    const begun = await beginning(target, response, reader, request.began !== undefined)
    isHandedOn = begun.kind === 'stream'
    return begun
  } catch (error) {
    given.signal.throwIfAborted()
    const message = error instanceof TimedOut ? error.message : `no answer: ${messageOf(error)}`
    return { kind: 'failed', verdict: unreachable(message, target.isGateway) }
  } finally {
    if (!isHandedOn) scope.abort(new Error('this try is over'))
  }
}

/** @param isRest Of a stream whose beginning was seen: an error is its end, and no reason to ask again. */
async function beginning(
  target: Target,
  response: Response,
  reader: EventReader,
  isRest: boolean,
): Promise<Begun | Failed> {
  const first: Begun['first'] = []
  for (;;) {
    const batch = await reader.next()
    if (batch === undefined) {
      return { kind: 'failed', verdict: unreachable('the stream ended before any content', target.isGateway) }
    }
    for (const one of batch) {
      if (one.reading.isError === true && !isRest)
        return { kind: 'failed', verdict: inBandVerdict(one.event.data, target.isGateway) }
      first.push(one)
    }
    if (first.some(({ reading }) => reading.isContent === true || reading.isEnd === true || reading.isError === true)) {
      return { kind: 'stream', status: response.status, headers: response.headers, first, reader }
    }
  }
}

async function whole(target: Target, request: WireRequest, response: Response): Promise<Whole | Failed> {
  const text = await response.text()
  const { status, headers } = response
  const isJson = headers.get('content-type')?.includes('json') === true
  if (isJson && request.method === 'POST') {
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch {
      return {
        kind: 'failed',
        verdict: { ...unreachable('the answer is cut off', target.isGateway), isGatewayDown: false },
      }
    }
    // Some servers say 200 and then what went wrong.
    const error = typeof value === 'object' && value !== null ? (value as { error?: unknown }).error : undefined
    if (typeof error === 'object' && error !== null && !('id' in (value as object))) {
      return { kind: 'failed', verdict: inBandVerdict(text, target.isGateway) }
    }
  }
  return { kind: 'whole', status, headers, text }
}

async function refused(
  target: Target,
  response: Response,
  given: { signal: AbortSignal; nowMs: () => number },
): Promise<Failed> {
  const reading = within(response.text(), ERROR_READ_MS, 'no body', given.signal)
  const text = await reading.catch(() => {
    given.signal.throwIfAborted()
    return ''
  })
  return {
    kind: 'failed',
    verdict: verdictOf(response, text.slice(0, ERROR_CHARS_MAX), target.isGateway, given.nowMs()),
  }
}

const messageOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error)
  // Node says "fetch failed" and means its cause.
  return error.cause instanceof Error ? `${error.message}: ${error.cause.message}` : error.message
}
