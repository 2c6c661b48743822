// What browsers ask below /dashboard: signing in and out, and the files. Owns these routes' HTTP form and their own checks:
// none of them takes an API key, and what the pages then do goes through the admin API like everybody's.
//
//   POST   /dashboard/session               {code, confirm?}   a one-time link's code for a session, in a cookie
//   DELETE /dashboard/session               signs out
//   GET    /dashboard/sign-in/options?org=  which issuers a person can sign in with
//   GET    /dashboard/oidc/…                signing in with one, see oidc.ts
//   GET    /dashboard, /dashboard/*         the pages
import { Hono } from 'hono'
import * as z from 'zod'
import type { AdminContext, AdminEnv } from '../admin/context.ts'
import { failureOf } from '../admin/failures.ts'
import { readInput, readQuery, Slug } from '../admin/input.ts'
import { clientAddress } from '../auth/client-address.ts'
import type { Fetch } from '../auth/key-sets.ts'
import { connect } from '../db/connect.ts'
import { failureResponse, failureStatus } from '../errors.ts'
import { assetResponse } from './assets.ts'
import { DASHBOARD_PATH } from './browser.ts'
import { redeem } from './links.ts'
import { finishOidc, OIDC_PATH, startOidc } from './oidc.ts'
import { listSignInClients } from './oidc-client.ts'
import { notSignedIn } from './pages.ts'
import { requireCsrf, requireOwnPage } from './request.ts'
import { cookieOfNobody, endSession, findSession } from './sessions.ts'
import { Turns } from './turns.ts'

const SIGN_IN_BYTES_MAX = 1_024
/** Requests of strangers in one isolate at a time, but for those of oidc.ts: they can ask Postgres no more than this at once. */
const STRANGERS_MAX = 16

const Code = z.strictObject({
  code: z.string().max(100),
  /** The person was told whom the link is for, and goes on. */
  confirm: z.boolean().default(false),
})

const Options = z.strictObject({ org: Slug.optional() })

const systemFetch: Fetch = (url, init) => globalThis.fetch(url, init)

const strangers = new Turns(STRANGERS_MAX)

/** @param fetch How issuers are asked. Default: the network. */
export function dashboardRoutes(fetch: Fetch = systemFetch) {
  return new Hono<AdminEnv>()
    .use('/dashboard/*', async (c, next) => {
      c.set('clientAddress', clientAddress(c.req.raw, c.env))
      await next()
    })
    .post('/dashboard/session', signIn)
    .delete('/dashboard/session', (c) => strangers.run('', () => signOut(c)))
    .get('/dashboard/sign-in/options', (c) => strangers.run('', () => options(c)))
    .get('/dashboard/oidc/callback', (c) => finishOidc(c, fetch))
    .get('/dashboard/oidc/:client/start', (c) => startOidc(c, fetch))
    .get('/dashboard', (c) => c.redirect(DASHBOARD_PATH, 308))
    .get('/dashboard/*', (c) => assetResponse(c.req.raw, c.env))
    .onError((error, c) => {
      const requestId = c.get('requestId')
      const failure = failureOf(error, requestId)
      // A person waits for a page there.
      if (c.req.path.startsWith(OIDC_PATH)) return notSignedIn(failureStatus(failure.code), failure.message)
      return failureResponse(failure, requestId)
    })
}

/** An organisation that is not there has none, like one that has none. */
async function options(c: AdminContext) {
  const { org } = readQuery(c, Options)
  const issuers = await listSignInClients(connect(c.env), org)
  return c.json({ issuers }, 200, { 'cache-control': 'no-store' })
}

/** Another site can neither name our origin nor send this body from a form. */
async function signIn(c: AdminContext) {
  requireOwnPage(c)
  const { code, confirm } = await readInput(c, Code, SIGN_IN_BYTES_MAX)
  const cookie = await strangers.run('', async () => {
    const current = await findSession(c.req.raw, c.env, Date.now())
    return redeem(c, { code, confirm, current })
  })
  return c.json({ signed_in: true }, 200, { 'set-cookie': cookie, 'cache-control': 'no-store' })
}

/** Safe to repeat: whoever is not signed in is signed out. */
async function signOut(c: AdminContext) {
  const session = await findSession(c.req.raw, c.env, Date.now())
  if (session !== undefined) {
    requireCsrf(c, session)
    const { actor, sessionId } = session
    c.set('actor', actor)
    await endSession(c, { sessionId, orgId: actor.kind === 'operator' ? undefined : actor.orgId }, 'sign_out')
  }
  return c.json({ signed_out: true }, 200, { 'set-cookie': cookieOfNobody(c.req.raw), 'cache-control': 'no-store' })
}
