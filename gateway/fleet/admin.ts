// Administrators' view of the fleet, mounted by the admin API under /backends, which guards it. Owns the HTTP form.
import { Hono } from 'hono'
import { z } from 'zod'
import { MAX_BODY_BYTES } from '../../protocol/request.ts'
import { type AdminAct, audited } from '../admin/audit.ts'
import type { AdminContext, AdminEnv } from '../admin/context.ts'
import { connect } from '../db/connect.ts'
import { failureResponse } from '../errors.ts'
import { parseJson, readBody } from '../routes/body.ts'

const HOUR_S = 3600
/** Long enough to set up a host by hand. */
const TOKEN_TTL_DEFAULT_S = HOUR_S
/** An enrolment token is a secret in somebody's script; it must not outlive the month. */
const TOKEN_TTL_MAX_S = 30 * 24 * HOUR_S

const TokenRequest = z.strictObject({
  /** For the administrator's own memory. */
  label: z.string().max(200).default(''),
  ttl_seconds: z.int().min(1).max(TOKEN_TTL_MAX_S).default(TOKEN_TTL_DEFAULT_S),
})

/** Recorded before it is done: an act that cannot be recorded is not done. */
async function record(c: AdminContext, act: AdminAct): Promise<void> {
  await connect(c.env).batch([audited(c, act)])
}

export const fleetAdminRoutes = new Hono<AdminEnv>()
  .post('/tokens', async (c) => {
    const body = await readBody(c.req.raw, MAX_BODY_BYTES)
    if (!body.ok) return failureResponse(body.error, c.get('requestId'))
    const json = body.value.length === 0 ? { ok: true as const, value: {} } : parseJson(body.value)
    if (!json.ok) return failureResponse(json.error, c.get('requestId'))
    const parsed = TokenRequest.safeParse(json.value)
    if (!parsed.success) {
      const issue = parsed.error.issues[0]
      const param = issue?.path.join('.')
      return failureResponse(
        { code: 'invalid_request', message: issue?.message ?? 'The body is not valid.', ...(param ? { param } : {}) },
        c.get('requestId'),
      )
    }
    const { label, ttl_seconds: ttlS } = parsed.data
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
    return c.json({
      data: backends.map((one) => ({
        id: one.backendId,
        url: one.url,
        label: one.label,
        enrolled_at: new Date(one.enrolledAtMs).toISOString(),
        state: one.state,
        report_age_ms: one.reportAgeMs ?? null,
        models: one.models.map((model) => ({
          model: model.model,
          role: model.role,
          context_tokens: model.contextTokensMax,
          requests_queued: model.requestsQueued,
          sequences_running: model.sequencesRunning,
          sequences_waiting: model.sequencesWaiting,
          sequences_max: model.sequencesMax,
          kv_blocks_used: model.kvBlocksUsed,
          kv_blocks_total: model.kvBlocksTotal,
        })),
      })),
    })
  })
  .delete('/:id', async (c) => {
    const backendId = c.req.param('id')
    await record(c, { action: 'backend.remove', objectId: backendId.slice(0, 100), details: {} })
    const removed = await c.env.FLEET.getByName('default').remove(backendId)
    if (!removed) return failureResponse({ code: 'not_found', message: 'No such backend.' }, c.get('requestId'))
    return c.json({ deleted: true })
  })
