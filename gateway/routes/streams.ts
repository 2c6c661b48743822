// Streams that their clients can come back to. Owns the header that asks for one, its id, reading it again and ending it; the stream
// itself is a run (runs/), read by followRun like every other one.
import { type Context, Hono } from 'hono'
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Ports } from '../attempts.ts'
import { errorDialectOf, failureResponse, requestIdHeaders } from '../errors.ts'
import { life } from '../handover/life.ts'
import type { Call } from '../lifecycle.ts'
import { type Following, followRun } from '../runs/follow.ts'
import { reachRuns } from '../runs/reach.ts'
import { noSuch } from '../runs/run-reader.ts'
import type { RunJob, StreamForm } from '../runs/runner.ts'
import { NO_SUCH_EVENT, nameOfStream, ownerOf, streamId } from '../runs/stored-run.ts'
import type { AppEnv } from './context.ts'

/** Opt-in. */
const RESUMABLE_HEADER = 'x-penstock-resumable'
const ID_HEADER = 'x-penstock-stream-id'
const LAST_EVENT_HEADER = 'last-event-id'

type Ctx = Context<AppEnv>

/** Whether its client may come back to a stream. While the process is being replaced none begins: it would wait for the next one. */
export function wantsResumable(headers: Headers): Result<boolean, Failure> {
  const word = headers.get(RESUMABLE_HEADER)
  if (word === null || word === 'false') return ok(false)
  if (word === 'true') return ok(!life.defersRuns)
  const message = `The header ${RESUMABLE_HEADER} must be true or false.`
  return err({ code: 'invalid_request', message, param: RESUMABLE_HEADER })
}

/** Two calls under one idempotency key are one stream. */
export const nameOfRun = ({ requestId, idempotency }: Pick<Call, 'requestId' | 'idempotency'>): string =>
  idempotency === undefined ? requestId.replaceAll('-', '') : idempotency.keyHash.slice(0, 32)

/** What of a call its run needs. */
export function carriedOf(call: Omit<Call, 'encoder'>): RunJob['carried'] {
  const { requestId, receivedAtMs, deadlineAtMs, deadlineIsCallers, principal } = call
  const { request, tenant, idempotency, hints, tags } = call
  const when = { requestId, receivedAtMs, deadlineAtMs, deadlineIsCallers }
  return { ...when, principal, request, tenant, idempotency, hints, tags }
}

/** Serves a call as a run, and its client as the first that follows it. */
export async function resumableStream(
  c: Ctx,
  call: Omit<Call, 'encoder'>,
  run: { name: string; stream: StreamForm } & Pick<RunJob, 'echo' | 'items'>,
): Promise<Response> {
  const { name, stream } = run
  const owner = ownerOf(call.principal)
  const job: RunJob = { ...run, owner, carried: carriedOf(call) }
  const dialect = stream.dialect === 'messages' ? 'messages' : 'openai'
  const started = await reachRuns(c.env, owner, name, (runs) => runs.startStream(job), { again: true })
  if (!started.ok) return failureResponse(started.error, call.requestId, { dialect })
  const { status, headers, body } = started.value
  const shown = { ...Object.fromEntries(headers), ...call.answerHeaders }
  if (body !== undefined) return new Response(body, { status, headers: shown })
  return follow(c, name, -1, call.ports, { ...shown, [ID_HEADER]: streamId(name) })
}

/** A run's events behind number `after` to this caller; `stream`: as a stream that can be taken up again. */
export const followFor = (
  c: Ctx,
  name: string,
  after: number,
  ports: Ports,
  stream?: Following['stream'],
): Promise<Response> =>
  followRun({
    env: c.env,
    name,
    owner: ownerOf(c.get('principal')),
    requestId: c.get('requestId'),
    after,
    keepAliveMs: ports.timings.keepAliveMs,
    clientGone: c.req.raw.signal,
    // Answered as a GET is, but for its body.
    isHeadOnly: c.req.raw.method === 'HEAD',
    waitUntil: (work) => c.executionCtx.waitUntil(work),
    ...(stream !== undefined && { stream }),
  })

const follow = (c: Ctx, name: string, after: number, ports: Ports, headers: Record<string, string>) =>
  followFor(c, name, after, ports, { dialect: dialectOf(c), headers })

/** Whoever comes back speaks the dialect of the call, and says so as it did there. */
const dialectOf = (c: Ctx) => errorDialectOf(c.req.path, c.req.raw.headers)

const refuse = (c: Ctx, failure: Failure): Response =>
  failureResponse(failure, c.get('requestId'), { dialect: dialectOf(c) })

const missing = noSuch('stream')

async function read(c: Ctx, ports: Ports): Promise<Response> {
  const id = c.req.param('id') ?? ''
  const name = nameOfStream(id)
  if (name === undefined) return refuse(c, missing)
  const text = c.req.header(LAST_EVENT_HEADER) ?? ''
  if (!/^\d{0,9}$/.test(text)) return refuse(c, NO_SUCH_EVENT)
  return follow(c, name, text === '' ? -1 : Number(text), ports, { [ID_HEADER]: id })
}

async function cancel(c: Ctx): Promise<Response> {
  const id = c.req.param('id') ?? ''
  const name = nameOfStream(id)
  if (name === undefined) return refuse(c, missing)
  const owner = ownerOf(c.get('principal'))
  const cancelled = await reachRuns(c.env, owner, name, (runs) => runs.cancelStream(name, owner))
  if (!cancelled.ok) return refuse(c, cancelled.error)
  const headers = requestIdHeaders(c.get('requestId'))
  return Response.json({ id, object: 'stream', status: cancelled.value }, { headers })
}

export const streamRoutes = (ports: Ports) =>
  new Hono<AppEnv>().get('/v1/streams/:id', (c) => read(c, ports)).post('/v1/streams/:id/cancel', (c) => cancel(c))
