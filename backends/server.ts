// The agent's HTTP side: POST /dispatch, POST /prefill, GET /health, GET /metrics. Owns what a dispatch has to bring along, its
// deadline, and the event stream's backpressure; what a dispatch does is dispatch.ts and session.ts, what a prefill has to bring
// along handoff/prefill-route.ts.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { DISPATCH_CONTENT_TYPE, DISPATCH_PATH, type DispatchEvent, DispatchRequest } from '../protocol/dispatch.ts'
import type { Failure } from '../protocol/errors.ts'
import { PREFILL_PATH } from '../protocol/prefill.ts'
import { err, ok, type Result } from '../protocol/result.ts'
import type { Authority } from './authority.ts'
import { handlePrefill, type PrefillRoute } from './handoff/prefill-route.ts'
import { malformed, type Refusal, readBody, sendJson, sendRefusal } from './http-body.ts'
import { type Log, messageOf } from './log.ts'

/** The gateway sends its headers at once; the body follows at network speed. */
const HEADERS_TIMEOUT_MS = 10_000
const REQUEST_TIMEOUT_MS = 60_000
/** Longer than the gateway's own, so that it is the one to close. */
const KEEP_ALIVE_TIMEOUT_MS = 75_000
const HEADER_BYTES_MAX = 16 * 1024
const CONNECTIONS_MAX = 8192
/** setTimeout's own limit; a deadline further away than this is none. */
const TIMER_MS_MAX = 2 ** 31 - 1
/** After an error event to a reader that does not read. */
const LAST_WRITE_GRACE_MS = 5000

/** A dispatch that came through authentication and parsing. */
export type Arrival = {
  request: DispatchRequest
  arrivedMs: number
  deadlineAtMs: number
  /** Fires at the deadline or when the caller is gone; its reason is the Failure. */
  signal: AbortSignal
}

export type StreamOpener = () => (events: readonly DispatchEvent[]) => Promise<void>

export type ServerHandlers = {
  authority: Authority
  /** Checked before anything is read: whether dispatches are taken at all. */
  closed: () => Refusal | undefined
  /** Resolves when the dispatch is over. A refusal is only possible before the stream was opened. */
  dispatch: (arrival: Arrival, open: StreamOpener) => Promise<Refusal | undefined>
  prefill: PrefillRoute
  health: () => { ready: boolean; body: object }
  metrics: () => string
  refused: () => void
  /** Monotonic milliseconds. */
  nowMs: () => number
  log: Log
}

export function createAgentServer(handlers: ServerHandlers): Server {
  const server = createServer(
    {
      headersTimeout: HEADERS_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
      maxHeaderSize: HEADER_BYTES_MAX,
      connectionsCheckingInterval: 5000,
    },
    (request, response) => {
      route(request, response, handlers).catch((thrown: unknown) => {
        handlers.log('error', 'request_failed', { reason: messageOf(thrown) })
        if (response.headersSent) response.destroy()
        else sendRefusal(response, { status: 503, failure: { code: 'internal', message: 'the agent failed' } })
      })
    },
  )
  server.maxConnections = CONNECTIONS_MAX
  return server
}

async function route(request: IncomingMessage, response: ServerResponse, handlers: ServerHandlers): Promise<void> {
  const path = request.url?.split('?')[0]
  if (path === DISPATCH_PATH && request.method === 'POST') return await handleDispatch(request, response, handlers)
  if (path === PREFILL_PATH && request.method === 'POST')
    return await handlePrefill(request, response, handlers.prefill)
  if (path === '/health' && request.method === 'GET') {
    const { ready, body } = handlers.health()
    return sendJson(response, ready ? 200 : 503, body)
  }
  if (path === '/metrics' && request.method === 'GET') {
    response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4' }).end(handlers.metrics())
    return
  }
  sendRefusal(response, { status: 404, failure: { code: 'not_found', message: 'no such route' } })
}

async function handleDispatch(request: IncomingMessage, response: ServerResponse, handlers: ServerHandlers) {
  const arrivedMs = handlers.nowMs()
  const refuse = (refusal: Refusal) => {
    handlers.refused()
    sendRefusal(response, refusal)
  }
  const closed = handlers.closed()
  if (closed !== undefined) return refuse(closed)
  const granted = await handlers.authority.checkToken(request.headers.authorization)
  if (!granted.ok) return refuse(granted.error)
  const body = await readBody(request)
  if (!body.ok) return refuse(body.error)
  const redeemed = await handlers.authority.redeem(granted.value, body.value)
  if (!redeemed.ok) return refuse(redeemed.error)
  const parsed = parseDispatch(body.value)
  if (!parsed.ok) return refuse(parsed.error)

  const ending = new AbortController()
  const end = (failure: Failure) => ending.abort(failure)
  const deadlineInMs = Math.min(parsed.value.deadlineInMs, TIMER_MS_MAX)
  const timer = setTimeout(
    () => end({ code: 'deadline_exceeded', message: `the deadline of ${deadlineInMs} ms passed` }),
    Math.max(0, arrivedMs + deadlineInMs - handlers.nowMs()),
  )
  const gone = () => end({ code: 'cancelled', message: 'the caller went away' })
  response.on('close', gone)
  if (response.destroyed) gone()
  try {
    const arrival: Arrival = {
      request: parsed.value,
      arrivedMs,
      deadlineAtMs: arrivedMs + deadlineInMs,
      signal: ending.signal,
    }
    const refusal = await handlers.dispatch(arrival, () => openStream(response, ending.signal))
    if (refusal !== undefined && !response.headersSent) refuse(refusal)
    else endStream(response)
  } finally {
    clearTimeout(timer)
    response.off('close', gone)
  }
}

/** Starts the 200 and returns the writer: one line per event, waiting while the caller does not read. */
function openStream(
  response: ServerResponse,
  signal: AbortSignal,
): (events: readonly DispatchEvent[]) => Promise<void> {
  response.writeHead(200, { 'content-type': DISPATCH_CONTENT_TYPE, 'cache-control': 'no-store' })
  return async (events) => {
    if (events.length === 0 || response.destroyed) return
    const lines = events.map((event) => `${JSON.stringify(event)}\n`).join('')
    if (response.write(lines) || signal.aborted) return
    await new Promise<void>((resolve) => {
      const done = () => {
        response.off('drain', done)
        response.off('close', done)
        signal.removeEventListener('abort', done)
        resolve()
      }
      response.once('drain', done)
      response.once('close', done)
      signal.addEventListener('abort', done, { once: true })
    })
  }
}

function endStream(response: ServerResponse): void {
  if (response.destroyed) return
  const timer = setTimeout(() => response.destroy(), LAST_WRITE_GRACE_MS)
  response.once('close', () => clearTimeout(timer))
  response.end(() => clearTimeout(timer))
}

function parseDispatch(body: Uint8Array): Result<DispatchRequest, Refusal> {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch {
    return err(malformed('the body is not JSON in UTF-8'))
  }
  const parsed = DispatchRequest.safeParse(value)
  if (parsed.success) return ok(parsed.data)
  const issue = parsed.error.issues[0]
  return err(malformed(issue?.message ?? 'the body is not a dispatch', issue?.path.join('.')))
}
