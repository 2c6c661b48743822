// The agents' side of the fleet: join, report, leave. Owns the HTTP form; each body is signed by the agent's own key,
// which the Fleet object checks, so these routes are on the public list.
import { type Context, Hono } from 'hono'
import type { Failure } from '../../protocol/errors.ts'
import { JOIN_PATH, LEAVE_PATH, REPORT_PATH } from '../../protocol/report.ts'
import type { Result } from '../../protocol/result.ts'
import { failureResponse } from '../errors.ts'
import { readBody } from '../routes/body.ts'
import type { AppEnv } from '../routes/context.ts'
import { bearerToken } from './body-token.ts'
import type { SignedBody } from './fleet.ts'

/** 64 capacity frames of 1 KiB, four times over. */
const MAX_REPORT_BYTES = 256 * 1024

/** All backends of the deployment report to one object; regions become further names. */
const FLEET_NAME = 'default'

type Answer = Promise<Result<object, Failure>>

async function pass(c: Context<AppEnv>, call: (signed: SignedBody) => Answer): Promise<Response> {
  const requestId = c.get('requestId')
  const token = bearerToken(c.req.raw.headers)
  // Without a token there is nothing to check: no body is read and the object is not bothered.
  if (token === undefined) {
    return failureResponse({ code: 'invalid_api_key', message: 'A signed request was expected.' }, requestId)
  }
  const body = await readBody(c.req.raw, MAX_REPORT_BYTES)
  if (!body.ok) return failureResponse(body.error, requestId)
  const answer = await call({ body: body.value, token })
  return answer.ok ? c.json(answer.value) : failureResponse(answer.error, requestId)
}

export const fleetRoutes = new Hono<AppEnv>()
  .post(JOIN_PATH, (c) => pass(c, (signed) => c.env.FLEET.getByName(FLEET_NAME).join(signed)))
  .post(REPORT_PATH, (c) => pass(c, (signed) => c.env.FLEET.getByName(FLEET_NAME).report(signed)))
  .post(LEAVE_PATH, (c) => pass(c, (signed) => c.env.FLEET.getByName(FLEET_NAME).leave(signed)))
