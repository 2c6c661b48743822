// Administrators' view of the fleet, mounted by the admin API under /backends, which guards it. Owns the HTTP form; what
// is shown of a backend, once or as a stream, is live.ts.
import { Hono } from 'hono'
import * as z from 'zod'
import type { Failure } from '../../protocol/errors.ts'
import { late } from '../../protocol/late.ts'
import { DesiredState } from '../../protocol/report.ts'
import { MAX_BODY_BYTES } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { type AdminAct, audited } from '../admin/audit.ts'
import type { AdminContext, AdminEnv } from '../admin/context.ts'
import { connect } from '../db/connect.ts'
import { failureResponse } from '../errors.ts'
import { parseJson, readBody } from '../routes/body.ts'
import { backendJson, fleetEvents } from './live.ts'

const HOUR_S = 3600
/** Long enough to set up a host by hand. */
const TOKEN_TTL_DEFAULT_S = HOUR_S
/** An enrolment token is a secret in somebody's script; it must not outlive the month. */
const TOKEN_TTL_MAX_S = 30 * 24 * HOUR_S

const TokenRequest = late(() =>
  z.strictObject({
    /** For the administrator's own memory. */
    label: z.string().max(200).default(''),
    ttl_seconds: z.int().min(1).max(TOKEN_TTL_MAX_S).default(TOKEN_TTL_DEFAULT_S),
  }),
)

/** Engines of one agent: a report has no more frames. */
const ENGINES_MAX = 64

const DesiredRequest = late(() =>
  z
    .strictObject({
      draining: z.boolean().optional(),
      /** All that are asked for: engines not named keep the role that they were started with. */
      roles: DesiredState.shape.roles
        .refine((roles) => Object.keys(roles).length <= ENGINES_MAX, `At most ${ENGINES_MAX} engines.`)
        .optional(),
    })
    .refine(({ draining, roles }) => draining !== undefined || roles !== undefined, 'Say draining, roles, or both.'),
)

/** The body as `schema` has it, an absent one as {}. */
async function bodyOf<T>(c: AdminContext, schema: z.ZodType<T>): Promise<Result<T, Failure>> {
  const body = await readBody(c.req.raw, MAX_BODY_BYTES)
  if (!body.ok) return body
  const json = body.value.length === 0 ? ok({}) : parseJson(body.value)
  if (!json.ok) return json
  const parsed = schema.safeParse(json.value)
  if (parsed.success) return ok(parsed.data)
  const issue = parsed.error.issues[0]
  const param = issue?.path.join('.')
  const message = issue?.message ?? 'The body is not valid.'
  return err({ code: 'invalid_request', message, ...(param ? { param } : {}) })
}

/** Recorded before it is done: an act that cannot be recorded is not done. */
async function record(c: AdminContext, act: AdminAct): Promise<void> {
  await connect(c.env).batch([audited(c, act)])
}

export const fleetAdminRoutes = new Hono<AdminEnv>()
  .post('/tokens', async (c) => {
    const parsed = await bodyOf(c, TokenRequest)
    if (!parsed.ok) return failureResponse(parsed.error, c.get('requestId'))
    const { label, ttl_seconds: ttlS } = parsed.value
    await record(c, {
      action: 'enrolment_token.create',
      objectId: label || 'unlabelled',
      details: { ttlSeconds: ttlS },
    })
    const made = await c.env.FLEET.getByName('default').createToken({ label, ttlMs: ttlS * 1000 })
    if (!made.ok) return failureResponse(made.error, c.get('requestId'))
    return c.json({ token: made.value.token, expires_at: new Date(made.value.expiresAtMs).toISOString() }, 201)
  })
  .get('/', async (c) => {
    const backends = await c.env.FLEET.getByName('default').list()
    return c.json({ data: backends.map(backendJson) })
  })
  .get('/events', (c) => fleetEvents(c.env, c.get('requestId')))
  .patch('/:id', async (c) => {
    const parsed = await bodyOf(c, DesiredRequest)
    if (!parsed.ok) return failureResponse(parsed.error, c.get('requestId'))
    const backendId = c.req.param('id')
    await record(c, { action: 'backend.update', objectId: backendId.slice(0, 100), details: parsed.value })
    const desired = await c.env.FLEET.getByName('default').desire(backendId, parsed.value)
    if (!desired.ok) return failureResponse(desired.error, c.get('requestId'))
    return c.json({ id: backendId, desired: desired.value })
  })
  .delete('/:id', async (c) => {
    const backendId = c.req.param('id')
    await record(c, { action: 'backend.remove', objectId: backendId.slice(0, 100), details: {} })
    const removed = await c.env.FLEET.getByName('default').remove(backendId)
    if (!removed) return failureResponse({ code: 'not_found', message: 'No such backend.' }, c.get('requestId'))
    return c.json({ deleted: true })
  })
