// POST /v1/chat/completions, /v1/completions and /v1/embeddings. Owns reading the request: body, dialect, deadline. The rest of its
// life is lifecycle.ts.
import { type Context, Hono } from 'hono'
import type { Failure } from '../../protocol/errors.ts'
import { MAX_BODY_BYTES } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { Lanes } from '../account/lane.ts'
import { DEFAULT_TIMINGS, type Ports, type Timings } from '../attempts.ts'
import { failureResponse } from '../errors.ts'
import { tenantId } from '../fleet/signing-key.ts'
import { serve } from '../lifecycle.ts'
import { BackendProvider } from '../providers/backend.ts'
import type { AnswerEncoder, AnswerMeta } from './answer.ts'
import { MAX_JSON_TOKEN_VALUES, MAX_JSON_VALUES, parseJson, readBody } from './body.ts'
import { ChatAnswer } from './chat-answer.ts'
import { CompletionAnswer } from './completion-answer.ts'
import type { AppEnv } from './context.ts'
import { EmbeddingAnswer } from './embedding-answer.ts'
import { idempotencyOf } from './idempotency.ts'
import { type ParsedRequest, parseChat, parseCompletion, parseEmbedding } from './openai-requests.ts'

const DEADLINE_HEADER = 'x-penstock-deadline-ms'

type Dialect = {
  /** Most JSON values in a body. */
  valuesMax: number
  parse: (body: unknown) => Result<ParsedRequest, Failure>
  encoder: (meta: AnswerMeta) => AnswerEncoder
}

const chat: Dialect = { valuesMax: MAX_JSON_VALUES, parse: parseChat, encoder: (meta) => new ChatAnswer(meta) }
const completion: Dialect = {
  valuesMax: MAX_JSON_TOKEN_VALUES,
  parse: parseCompletion,
  encoder: (meta) => new CompletionAnswer(meta),
}

const embedding: Dialect = {
  valuesMax: MAX_JSON_TOKEN_VALUES,
  parse: parseEmbedding,
  encoder: (meta) => new EmbeddingAnswer(meta),
}

/** The world as it is. One of each per app: snapshot, in-flight counts and lanes serve the whole isolate. */
export function systemPorts(timings: Partial<Timings> = {}): Ports {
  return {
    fetch: (input, init) => globalThis.fetch(input, init),
    nowMs: () => Date.now(),
    random: () => Math.random(),
    newId: () => crypto.randomUUID(),
    sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
    timings: { ...DEFAULT_TIMINGS, ...timings },
    fleet: new BackendProvider(),
    lanes: new Lanes(),
  }
}

/** Time the caller gives, where it does; never more than the gateway's own bound. */
function deadlineOf(headers: Headers, deadlineMs: number): Result<{ ms: number; isCallers: boolean }, Failure> {
  const text = headers.get(DEADLINE_HEADER)
  if (text === null) return ok({ ms: deadlineMs, isCallers: false })
  const asked = /^\d{1,9}$/.test(text) ? Number(text) : 0
  if (asked < 1) {
    const message = `The header ${DEADLINE_HEADER} must be a positive number of milliseconds.`
    return err({ code: 'invalid_request', message, param: DEADLINE_HEADER })
  }
  return ok({ ms: Math.min(asked, deadlineMs), isCallers: asked < deadlineMs })
}

async function generate(c: Context<AppEnv>, dialect: Dialect, ports: Ports): Promise<Response> {
  const requestId = c.get('requestId')
  const receivedAtMs = c.get('receivedAtMs')
  const raw = c.req.raw
  const deadline = deadlineOf(raw.headers, ports.timings.deadlineMs)
  if (!deadline.ok) return failureResponse(deadline.error, requestId)
  const body = await readBody(raw, MAX_BODY_BYTES, deadline.value.ms)
  if (!body.ok) return failureResponse(body.error, requestId)
  const json = parseJson(body.value, dialect.valuesMax)
  if (!json.ok) return failureResponse(json.error, requestId)
  const parsed = dialect.parse(json.value)
  if (!parsed.ok) return failureResponse(parsed.error, requestId)

  const { request, delivery } = parsed.value
  const principal = c.get('principal')
  const idempotency = await idempotencyOf(raw.headers, principal, c.req.path, body.value)
  if (!idempotency.ok) return failureResponse(idempotency.error, requestId)
  const meta: AnswerMeta = {
    requestId,
    model: request.model,
    createdAtMs: receivedAtMs,
    includeUsage: delivery.includeUsage,
    ...(delivery.vectorFormat === undefined ? {} : { vectorFormat: delivery.vectorFormat }),
  }
  const serving = serve({
    env: c.env,
    waitUntil: (work) => c.executionCtx.waitUntil(work),
    requestId,
    receivedAtMs,
    deadlineAtMs: receivedAtMs + deadline.value.ms,
    deadlineIsCallers: deadline.value.isCallers,
    principal,
    request,
    isStream: delivery.stream,
    tenant: await tenantId(c.env, principal.orgId),
    idempotency: idempotency.value,
    ports,
    encoder: dialect.encoder(meta),
    clientGone: raw.signal,
  })
  // A client that leaves ends this handler; what was begun must still be settled.
  c.executionCtx.waitUntil(serving.catch(() => {}))
  return serving
}

export const generateRoutes = (ports: Ports) =>
  new Hono<AppEnv>()
    .post('/v1/chat/completions', (c) => generate(c, chat, ports))
    .post('/v1/completions', (c) => generate(c, completion, ports))
    .post('/v1/embeddings', (c) => generate(c, embedding, ports))
