// From an HTTP request to a call that lifecycle.ts can serve: body, dialect, deadline, idempotency. Owns what all routes that
// compute have in common; how a body reads is the dialect's.
import type { Context } from 'hono'
import type { Failure } from '../../protocol/errors.ts'
import { MAX_BODY_BYTES } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Ports } from '../attempts.ts'
import { type ErrorDialect, failureResponse } from '../errors.ts'
import { tenantId } from '../fleet/signing-key.ts'
import type { Call } from '../lifecycle.ts'
import { parseHints } from '../routing/hints.ts'
import { Appointments } from '../stream/appointments.ts'
import type { AnswerEncoder, AnswerMeta } from './answer.ts'
import { parseJson, readBody } from './body.ts'
import type { AppEnv } from './context.ts'
import { idempotencyOf } from './idempotency.ts'
import { oneWait } from './one-wait.ts'
import type { ParsedRequest } from './parsed-request.ts'
import { parseTags } from './tags.ts'

const DEADLINE_HEADER = 'x-penstock-deadline-ms'

/** One way of asking: how its bodies read and how its answers are written. */
export type Dialect = {
  errors: ErrorDialect
  /** Most JSON values in a body. */
  valuesMax: number
  parse: (body: unknown, headers: Headers) => Result<ParsedRequest, Failure>
  encoder: (meta: AnswerMeta, parsed: ParsedRequest) => AnswerEncoder
  /** By what name its streams are kept for clients that come back. Absent: it has none. */
  stream?: 'chat' | 'completions' | 'messages'
}

/** Time the caller gives, where it does; never more than the gateway's own bound. */
export function deadlineOf(headers: Headers, deadlineMs: number): Result<{ ms: number; isCallers: boolean }, Failure> {
  const text = headers.get(DEADLINE_HEADER)
  if (text === null) return ok({ ms: deadlineMs, isCallers: false })
  const asked = /^\d{1,9}$/.test(text) ? Number(text) : 0
  if (asked < 1) {
    const message = `The header ${DEADLINE_HEADER} must be a positive number of milliseconds.`
    return err({ code: 'invalid_request', message, param: DEADLINE_HEADER })
  }
  return ok({ ms: Math.min(asked, deadlineMs), isCallers: asked < deadlineMs })
}

/** The body as JSON and as the bytes that came; `err` is the refusal to send. */
export async function readJson(
  c: Context<AppEnv>,
  valuesMax: number,
  deadlineMs: number,
  appointments?: Appointments,
): Promise<Result<{ json: unknown; bytes: Uint8Array }, Failure>> {
  const body = await readBody(c.req.raw, MAX_BODY_BYTES, deadlineMs, appointments)
  if (!body.ok) return body
  const json = parseJson(body.value, valuesMax)
  return json.ok ? ok({ json: json.value, bytes: body.value }) : json
}

/** A call with what its answer is made of beside its events. */
export type ReadCall = Call & { meta: AnswerMeta }

/** Reads the request in its dialect. `err` is the response to answer with. */
export async function readCall(
  c: Context<AppEnv>,
  dialect: Dialect,
  ports: Ports,
): Promise<Result<ReadCall, Response>> {
  const requestId = c.get('requestId')
  const receivedAtMs = c.get('receivedAtMs')
  const raw = c.req.raw
  const refused = (failure: Failure) => err(failureResponse(failure, requestId, { dialect: dialect.errors }))
  const deadline = deadlineOf(raw.headers, ports.timings.deadlineMs)
  if (!deadline.ok) return refused(deadline.error)
  const hints = parseHints(raw.headers)
  if (!hints.ok) return refused(hints.error)
  const tags = parseTags(raw.headers)
  if (!tags.ok) return refused(tags.error)
  const appointments = new Appointments()
  const body = await readJson(c, dialect.valuesMax, deadline.value.ms, appointments)
  if (!body.ok) return refused(body.error)
  const parsed = dialect.parse(body.value.json, raw.headers)
  if (!parsed.ok) return refused(parsed.error)

  const { request, delivery } = parsed.value
  const principal = c.get('principal')
  const idempotency = await idempotencyOf(raw.headers, principal, c.req.path, body.value.bytes)
  if (!idempotency.ok) return refused(idempotency.error)
  const meta: AnswerMeta = {
    requestId,
    model: request.model,
    createdAtMs: receivedAtMs,
    includeUsage: delivery.includeUsage,
    ...(delivery.vectorFormat === undefined ? {} : { vectorFormat: delivery.vectorFormat }),
  }
  return ok({
    env: c.env,
    waitUntil: oneWait(c.executionCtx),
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
    hints: hints.value,
    tags: tags.value,
    errorDialect: dialect.errors,
    encoder: dialect.encoder(meta, parsed.value),
    meta,
    clientGone: raw.signal,
    appointments,
  })
}
