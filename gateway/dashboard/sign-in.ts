// Signing in to the dashboard and out of it, and what a fault on the way is answered. Owns the checks of these routes; the routes
// themselves are routes.ts, which loads this for the first of them: it brings what the admin API's handlers share.
import * as z from 'zod'
import type { AdminContext } from '../admin/context.ts'
import { failureOf } from '../admin/failures.ts'
import { readInput, readQuery, Slug } from '../admin/input.ts'
import { connect } from '../db/connect.ts'
import { failureResponse, failureStatus } from '../errors.ts'
import { redeem } from './links.ts'
import { OIDC_PATH } from './oidc.ts'
import { listSignInClients } from './oidc-client.ts'
import { notSignedIn } from './pages.ts'
import { requireCsrf, requireOwnPage } from './request.ts'
import { cookieOfNobody, endSession, findSession } from './sessions.ts'
import { Turns } from './turns.ts'

export { finishOidc, startOidc } from './oidc.ts'

const SIGN_IN_BYTES_MAX = 1_024
/** Requests of strangers in one isolate at a time, but for those of oidc.ts: they can ask Postgres no more than this at once. */
const STRANGERS_MAX = 16

const Code = z.strictObject({
  code: z.string().max(100),
  /** The person was told whom the link is for, and goes on. */
  confirm: z.boolean().default(false),
})

const Options = z.strictObject({ org: Slug.optional() })

const strangers = new Turns(STRANGERS_MAX)

/** An organisation that is not there has none, like one that has none. */
export const options = (c: AdminContext): Promise<Response> =>
  strangers.run('', async () => {
    const { org } = readQuery(c, Options)
    const issuers = await listSignInClients(connect(c.env), org)
    return c.json({ issuers }, 200, { 'cache-control': 'no-store' })
  })

/** Another site can neither name our origin nor send this body from a form. */
export async function signIn(c: AdminContext): Promise<Response> {
  requireOwnPage(c)
  const { code, confirm } = await readInput(c, Code, SIGN_IN_BYTES_MAX)
  const cookie = await strangers.run('', async () => {
    const current = await findSession(c.req.raw, c.env, Date.now())
    return redeem(c, { code, confirm, current })
  })
  return c.json({ signed_in: true }, 200, { 'set-cookie': cookie, 'cache-control': 'no-store' })
}

/** Safe to repeat: whoever is not signed in is signed out. */
export const signOut = (c: AdminContext): Promise<Response> =>
  strangers.run('', async () => {
    const session = await findSession(c.req.raw, c.env, Date.now())
    if (session !== undefined) {
      requireCsrf(c, session)
      const { actor, sessionId } = session
      c.set('actor', actor)
      await endSession(c, { sessionId, orgId: actor.kind === 'operator' ? undefined : actor.orgId }, 'sign_out')
    }
    return c.json({ signed_out: true }, 200, { 'set-cookie': cookieOfNobody(c.req.raw), 'cache-control': 'no-store' })
  })

export function faultResponse(error: Error, c: AdminContext): Response {
  const requestId = c.get('requestId')
  const failure = failureOf(error, requestId)
  // A person waits for a page there.
  if (c.req.path.startsWith(OIDC_PATH)) return notSignedIn(failureStatus(failure.code), failure.message)
  return failureResponse(failure, requestId)
}
