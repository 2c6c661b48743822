// What browsers ask below /dashboard: signing in and out, and the files. Owns these routes' HTTP form: none of them takes an API
// key, and what the pages then do goes through the admin API like everybody's. What signing in does is loaded by the first who
// does it: a cold start that serves inference does without.
//
//   POST   /dashboard/session               {code, confirm?}   a one-time link's code for a session, in a cookie
//   DELETE /dashboard/session               signs out
//   GET    /dashboard/sign-in/options?org=  which issuers a person can sign in with
//   GET    /dashboard/oidc/…                signing in with one, see oidc.ts
//   GET    /dashboard, /dashboard/*         the pages
import { Hono } from 'hono'
import type { AdminEnv } from '../admin/context.ts'
import { clientAddress } from '../auth/client-address.ts'
import { systemFetch } from '../outbound.ts'
import type { Fetch } from '../policy/reach.ts'
import { assetResponse } from './assets.ts'
import { DASHBOARD_PATH } from './browser.ts'

const loaded = () => import('./sign-in.ts')

/** @param fetch How issuers are asked. Default: the network. */
export function dashboardRoutes(fetch: Fetch = systemFetch) {
  return new Hono<AdminEnv>()
    .use('/dashboard/*', async (c, next) => {
      c.set('clientAddress', clientAddress(c.req.raw, c.env))
      await next()
    })
    .post('/dashboard/session', async (c) => (await loaded()).signIn(c))
    .delete('/dashboard/session', async (c) => (await loaded()).signOut(c))
    .get('/dashboard/sign-in/options', async (c) => (await loaded()).options(c))
    .get('/dashboard/oidc/callback', async (c) => (await loaded()).finishOidc(c, fetch))
    .get('/dashboard/oidc/:client/start', async (c) => (await loaded()).startOidc(c, fetch))
    .get('/dashboard', (c) => c.redirect(DASHBOARD_PATH, 308))
    .get('/dashboard/*', (c) => assetResponse(c.req.raw, c.env))
    .onError(async (error, c) => (await loaded()).faultResponse(error, c))
}
