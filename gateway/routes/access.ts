// Who may call which route. Owns the one list of routes that need no API key, each with its reason, the scope of each
// other route, and the guard in front of them: a route that is added and listed nowhere is closed to everybody.
import { createMiddleware } from 'hono/factory'
import { matchedRoutes } from 'hono/route'
import { JOIN_PATH, JWKS_PATH, LEAVE_PATH, REPORT_PATH } from '../../protocol/report.ts'
import { USAGE_IMPORT_PATH } from '../../protocol/usage-import.ts'
import { authenticate } from '../auth/authenticate.ts'
import { clientAddress } from '../auth/client-address.ts'
import type { RouteScope } from '../auth/principal.ts'
import { scopeRefusal } from '../auth/scopes.ts'
import { errorDialectOf, failureResponse } from '../errors.ts'
import type { AppEnv } from './context.ts'

/** `METHOD /pattern` → why it needs no API key. */
export const PUBLIC_ROUTES: Readonly<Record<string, string>> = {
  'GET /health': 'load balancers ask it; it names nothing',
  [`GET ${JWKS_PATH}`]: 'public keys are public',
  [`POST ${JOIN_PATH}`]: 'signed by the agent; the first time with a one-time token',
  [`POST ${REPORT_PATH}`]: 'signed by the enrolled agent',
  [`POST ${LEAVE_PATH}`]: 'signed by the enrolled agent',
  'POST /dashboard/session': 'how a browser gets its session: a one-time code in the body is the credential',
  'DELETE /dashboard/session': 'ends the session of its own cookie',
  'GET /dashboard/sign-in/options': 'whoever is not signed in has to see how',
  'GET /dashboard/oidc/:client/start': 'leads to a registered issuer of tokens',
  'GET /dashboard/oidc/callback': "the issuer's code is the credential, in the browser that began",
  'GET /dashboard': 'leads to the pages',
  'GET /dashboard/*': 'pages and scripts, the same for everybody; what they show comes from the admin API',
}

/** The admin API has its own credential, checked by its own guard in front of all its routes. */
export const ADMIN_PREFIX = '/admin/v1'

/** Routes that use tokens; each goes through lifecycle.ts, which takes a hold before anything else. */
export const METERED_ROUTES: ReadonlyMap<string, RouteScope> = new Map([
  ['POST /v1/chat/completions', 'chat'],
  ['POST /v1/completions', 'completions'],
  ['POST /v1/embeddings', 'embeddings'],
  ['POST /v1/messages', 'chat'],
  ['POST /v1/responses', 'responses'],
])

/** Scopes of which one is enough. */
type AnyOf = readonly [RouteScope, ...RouteScope[]]

/** Routes that need a key and use no tokens. */
export const UNMETERED_ROUTES: ReadonlyMap<string, RouteScope | AnyOf> = new Map<string, RouteScope | AnyOf>([
  ['GET /v1/models', 'models'],
  ['GET /v1/models/:id{.+}', 'models'],
  // Counting computes nothing and is told only to those who may ask.
  ['POST /v1/messages/count_tokens', 'chat'],
  // What was kept of answers that were paid for.
  ['GET /v1/responses/:id', 'responses'],
  ['DELETE /v1/responses/:id', 'responses'],
  ['POST /v1/responses/:id/cancel', 'responses'],
  ['GET /v1/responses/:id/input_items', 'responses'],
  // The rest of what a call of these scopes began; its credential is told it alone.
  ['GET /v1/streams/:id', ['chat', 'completions', 'responses']],
  ['POST /v1/streams/:id/cancel', ['chat', 'completions', 'responses']],
  // Whoever may ask models here may say which ones it asked elsewhere.
  [`POST ${USAGE_IMPORT_PATH}`, ['chat', 'completions', 'responses', 'embeddings']],
])

export const isAdminPath = (path: string): boolean => path === ADMIN_PREFIX || path.startsWith(`${ADMIN_PREFIX}/`)

/** Sets `principal`, or answers in its place. HEAD is served as GET and needs what GET needs. */
export const requireKey = createMiddleware<AppEnv>(async (c, next) => {
  const { path } = c.req
  if (isAdminPath(path)) return next()
  const routes = matchedRoutes(c).filter(({ method }) => method !== 'ALL')
  // All that would answer, and not just one of them.
  const isPublic = routes.every((route) => Object.hasOwn(PUBLIC_ROUTES, `${route.method} ${route.path}`))
  if (routes.length > 0 && isPublic) return next()
  const requestId = c.get('requestId')
  const dialect = errorDialectOf(path, c.req.raw.headers)
  const found = await authenticate(c.req.raw.headers, c.env, c.get('receivedAtMs'), (work) =>
    c.executionCtx.waitUntil(work),
  )
  if (!found.ok) return failureResponse(found.error, requestId, { dialect })
  const address = clientAddress(c.req.raw, c.env)
  for (const route of routes) {
    const name = `${route.method} ${route.path}`
    const scope = METERED_ROUTES.get(name) ?? UNMETERED_ROUTES.get(name)
    if (scope === undefined) {
      return failureResponse(
        { code: 'permission_denied', message: 'This route has no scope and is closed.' },
        requestId,
        { dialect },
      )
    }
    const [first, ...others] = typeof scope === 'string' ? ([scope] as const) : scope
    const refusal = scopeRefusal(found.value, first, address)
    const isRefused =
      refusal !== undefined && others.every((other) => scopeRefusal(found.value, other, address) !== undefined)
    if (isRefused) return failureResponse(refusal, requestId, { dialect })
  }
  c.set('principal', found.value)
  return next()
})
