// The routes of the responses dialect. Owns the steps from a body to a response that is served, kept or run in the background,
// and reading, cancelling and deleting what was kept. Reading a body is responses-requests.ts, what is kept runs/.
import { type Context, Hono } from 'hono'
import type { ResponseEcho, ResponseObject } from '../../protocol/dialects/responses.ts'
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Ports } from '../attempts.ts'
import { failureResponse, requestIdHeaders } from '../errors.ts'
import { tenantId } from '../fleet/signing-key.ts'
import { type Call, serve } from '../lifecycle.ts'
import { errorText, log } from '../observe/log.ts'
import { findPlan } from '../policy/catalog.ts'
import { parseHints } from '../routing/hints.ts'
import { continueConversation, listItems } from '../runs/conversation.ts'
import { maskedParts } from '../runs/masked.ts'
import { reachRuns, runsOf } from '../runs/reach.ts'
import type { RunJob } from '../runs/runner.ts'
import type { Runs } from '../runs/runs.ts'
import { nameOfResponse, type Owner, ownerOf } from '../runs/stored-run.ts'
import { MAX_JSON_VALUES } from './body.ts'
import { deadlineOf, readJson } from './call.ts'
import type { AppEnv } from './context.ts'
import { idempotencyOf } from './idempotency.ts'
import { prepare } from './preparation.ts'
import { ResponseAnswer, responseId } from './responses-answer.ts'
import { echoOf, parseResponse, requestOf } from './responses-requests.ts'
import { invalid } from './schema-fault.ts'
import { carriedOf, followFor, nameOfRun, resumableStream, wantsResumable } from './streams.ts'
import { parseTags } from './tags.ts'

/** A response that cannot be kept in this time is given to the caller all the same: it has been paid for. */
const KEEP_WAIT_MS = 2_000
/** Says that an answer that was to be kept is not, where that is known before its head is sent. */
const NOT_STORED_HEADER = 'x-penstock-not-stored'
/** The dialect's own limits on a page of items. */
const PAGE_ITEMS_MAX = 100
const PAGE_ITEMS = 20

type Ctx = Context<AppEnv>

/** A request that is ready to be served. */
type Ready = {
  name: string
  echo: ResponseEcho
  isStream: boolean
  /** Its client may come back to its stream. */
  isResumable: boolean
  /** The items before the answer, as JSON. */
  conversation: string
  call: Omit<Call, 'encoder'>
}

async function readRequest(c: Ctx, ports: Ports): Promise<Result<Ready, Failure>> {
  const requestId = c.get('requestId')
  const receivedAtMs = c.get('receivedAtMs')
  const principal = c.get('principal')
  const raw = c.req.raw
  const deadline = deadlineOf(raw.headers, ports.timings.deadlineMs)
  if (!deadline.ok) return deadline
  const hints = parseHints(raw.headers)
  if (!hints.ok) return hints
  const tags = parseTags(raw.headers)
  if (!tags.ok) return tags
  const body = await readJson(c, MAX_JSON_VALUES, deadline.value.ms)
  if (!body.ok) return body
  const parsed = parseResponse(body.value.json)
  if (!parsed.ok) return parsed
  const idempotency = await idempotencyOf(raw.headers, principal, c.req.path, body.value.bytes)
  if (!idempotency.ok) return idempotency
  const { asked, items } = parsed.value
  const echo = echoOf(parsed.value)
  // Under an idempotency key what outlasts its client is found again by it.
  const isStream = asked.stream === true
  const resumable = isStream && !echo.background ? wantsResumable(raw.headers) : ok(false)
  if (!resumable.ok) return resumable
  const isRun = echo.background || resumable.value
  const name = nameOfRun({ requestId, idempotency: isRun ? idempotency.value : undefined })
  const continued = await continueConversation(
    items,
    asked.previous_response_id ?? undefined,
    name,
    ownerOf(principal),
    c.env,
  )
  if (!continued.ok) return continued
  const request = requestOf(parsed.value, continued.value.items, continued.value.own)
  if (!request.ok) return request
  return ok({
    name,
    echo,
    isStream,
    isResumable: resumable.value,
    conversation: continued.value.text,
    call: {
      env: c.env,
      waitUntil: (work) => c.executionCtx.waitUntil(work),
      requestId,
      receivedAtMs,
      deadlineAtMs: receivedAtMs + deadline.value.ms,
      deadlineIsCallers: deadline.value.isCallers,
      principal,
      request: request.value,
      isStream,
      tenant: await tenantId(c.env, principal.orgId),
      idempotency: idempotency.value,
      ports,
      hints: hints.value,
      tags: tags.value,
      clientGone: raw.signal,
    },
  })
}

async function create(c: Ctx, ports: Ports): Promise<Response> {
  const read = await readRequest(c, ports)
  if (!read.ok) return refuse(c, read.error)
  const { echo, isResumable } = read.value
  const prepared = await prepare(read.value.call, c.req.raw.headers, { mayCache: !echo.store && !isResumable })
  if (!prepared.ok) return refuse(c, prepared.error)
  const ready = withCall(read.value, prepared.value)
  if (echo.background) return background(c, ready, ports)
  if (isResumable) {
    const { name, call, conversation: items } = ready
    return resumableStream(c, call, { name, stream: { dialect: 'responses' }, echo: ready.echo, items })
  }
  const serving = foreground(ready)
  // A client that leaves ends this handler; what was begun must still be settled.
  c.executionCtx.waitUntil(serving.catch(() => {}))
  return serving
}

/** What content rules changed is changed in what is kept, too. */
function withCall(ready: Ready, call: Ready['call']): Ready {
  if (call.request === ready.call.request) return { ...ready, call }
  const { echo, items } = maskedParts(call.request, ready.echo, ready.name)
  return { ...ready, call, echo, conversation: JSON.stringify(items) }
}

async function foreground({ name, echo, isStream, conversation, call }: Ready): Promise<Response> {
  const keep = async (response: ResponseObject): Promise<void> => {
    isLost = (await kept(call, name, conversation, response)) === false
  }
  let isLost = false
  const encoder = new ResponseAnswer({
    name,
    echo,
    createdAtMs: call.receivedAtMs,
    nowMs: call.ports.nowMs,
    ...(echo.store && isStream ? { keep } : {}),
  })
  const response = await serve({ ...call, encoder })
  if (echo.store && !isStream && response.ok) await keep(encoder.response())
  if (isLost && !isStream) response.headers.set(NOT_STORED_HEADER, 'true')
  return response
}

/**
 * Before the client has its end, so that whoever continues it at once finds it.
 * @returns Whether it is kept; undefined where that takes long.
 */
async function kept(
  call: Omit<Call, 'encoder'>,
  name: string,
  conversation: string,
  response: ResponseObject,
): Promise<boolean | undefined> {
  const owner = ownerOf(call.principal)
  const keeping = runsOf(call.env, owner, name).keep(name, {
    owner,
    createdAtMs: call.receivedAtMs,
    response: JSON.stringify(response),
    items: conversation,
  })
  const work = keeping.then(
    () => true,
    (error: unknown) => {
      log('error', 'response_not_kept', { requestId: call.requestId, error: errorText(error) })
      return false
    },
  )
  call.waitUntil(work)
  return Promise.race([work, call.ports.sleep(KEEP_WAIT_MS).then(() => undefined)])
}

/** The response's own object serves it, from here on without this request. */
async function background(
  c: Ctx,
  { name, echo, isStream, conversation, call }: Ready,
  ports: Ports,
): Promise<Response> {
  const { principal, request } = call
  // A model that does not exist is told at once, not by a response that fails later.
  const plan = await findPlan(principal, request.model, c.env, ports.nowMs())
  if (!plan.ok) return refuse(c, plan.error)
  const owner = ownerOf(principal)
  const job: RunJob = { name, owner, echo, items: conversation, carried: carriedOf(call) }
  const started = await reachRuns(c.env, owner, name, (runs) => runs.start(job), { again: true })
  if (!started.ok) return refuse(c, started.error)
  return isStream ? followFor(c, name, -1, ports) : json(c, started.value, call.answerHeaders)
}

const json = (c: Ctx, text: string, more: Readonly<Record<string, string>> = {}): Response =>
  new Response(text, {
    headers: { ...more, 'content-type': 'application/json; charset=utf-8', ...requestIdHeaders(c.get('requestId')) },
  })

const refuse = (c: Ctx, failure: Failure): Response => failureResponse(failure, c.get('requestId'))

/** The name in the path; every id that is none of ours is one that does not exist. */
function named(c: Ctx): Result<string, Failure> {
  const id = c.req.param('id') ?? ''
  const name = nameOfResponse(id)
  return name === undefined ? err(missing(id)) : ok(name)
}

const missing = (id: string): Failure => ({
  code: 'not_found',
  message: `Response with id '${id.slice(0, 100)}' not found.`,
  param: 'id',
})

const named404 = (name: string, failure: Failure): Failure =>
  failure.code === 'not_found' ? missing(responseId(name)) : failure

/** A parameter of the query as one of its allowed texts. */
function oneOf<T extends string>(c: Ctx, name: string, allowed: readonly T[], absent: T): Result<T, Failure> {
  const text = c.req.query(name)
  if (text === undefined) return ok(absent)
  const found = allowed.find((one) => one === text)
  return found === undefined ? err(invalid(`'${name}' must be ${allowed.join(' or ')}.`, name)) : ok(found)
}

function wholeNumber(
  c: Ctx,
  name: string,
  range: { min: number; max: number; absent: number },
): Result<number, Failure> {
  const text = c.req.query(name)
  if (text === undefined) return ok(range.absent)
  const value = /^\d{1,9}$/.test(text) ? Number(text) : -1
  if (value >= range.min && value <= range.max) return ok(value)
  return err(invalid(`'${name}' must be a whole number from ${range.min} to ${range.max}.`, name))
}

async function retrieve(c: Ctx, ports: Ports): Promise<Response> {
  const name = named(c)
  if (!name.ok) return refuse(c, name.error)
  const stream = oneOf(c, 'stream', ['true', 'false'], 'false')
  if (!stream.ok) return refuse(c, stream.error)
  const after = wholeNumber(c, 'starting_after', { min: 0, max: 999_999_999, absent: -1 })
  if (!after.ok) return refuse(c, after.error)
  if (stream.value === 'true') return followFor(c, name.value, after.value, ports)
  if (after.value >= 0) return refuse(c, invalid("'starting_after' needs 'stream' to be true.", 'starting_after'))
  return read(c, (runs, name, owner) => runs.read(name, owner))
}

/** Answers what the object says, a response as JSON. */
async function read(
  c: Ctx,
  ask: (runs: DurableObjectStub<Runs>, name: string, owner: Owner) => Promise<Result<string, Failure>>,
): Promise<Response> {
  const name = named(c)
  if (!name.ok) return refuse(c, name.error)
  const owner = ownerOf(c.get('principal'))
  const found = await reachRuns(c.env, owner, name.value, (runs) => ask(runs, name.value, owner))
  return found.ok ? json(c, found.value) : refuse(c, named404(name.value, found.error))
}

async function remove(c: Ctx): Promise<Response> {
  return read(c, async (runs, name, owner) => {
    const removed = await runs.remove(name, owner)
    if (!removed.ok) return removed
    return ok(JSON.stringify({ id: responseId(name), object: 'response', deleted: true }))
  })
}

async function inputItems(c: Ctx): Promise<Response> {
  const order = oneOf(c, 'order', ['asc', 'desc'], 'desc')
  if (!order.ok) return refuse(c, order.error)
  const limit = wholeNumber(c, 'limit', { min: 1, max: PAGE_ITEMS_MAX, absent: PAGE_ITEMS })
  if (!limit.ok) return refuse(c, limit.error)
  return read(c, async (runs, name, owner) => {
    const found = await runs.items(name, owner)
    if (!found.ok) return found
    const after = c.req.query('after')
    const page = listItems(found.value, { limit: limit.value, order: order.value, after })
    return page === undefined
      ? err(invalid("'after' is not the id of an item of this response.", 'after'))
      : ok(JSON.stringify(page))
  })
}

export const responsesRoutes = (ports: Ports) =>
  new Hono<AppEnv>()
    .post('/v1/responses', (c) => create(c, ports))
    .get('/v1/responses/:id', (c) => retrieve(c, ports))
    .delete('/v1/responses/:id', (c) => remove(c))
    .post('/v1/responses/:id/cancel', (c) => read(c, (runs, name, owner) => runs.cancel(name, owner)))
    .get('/v1/responses/:id/input_items', (c) => inputItems(c))
