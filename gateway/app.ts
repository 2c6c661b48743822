// The HTTP application: request ids, the guard in front of every route, and what is answered where no route is. Owns
// the order of these; the routes themselves are routes/, fleet/ and admin/.
import { Hono } from 'hono'
import { HTTPException } from 'hono/http-exception'
import { matchedRoutes } from 'hono/route'
import { TrieRouter } from 'hono/router/trie-router'
import type { Ports } from './attempts.ts'
import { DASHBOARD_PATH } from './dashboard/browser.ts'
import { dashboardRoutes } from './dashboard/routes.ts'
import { errorDialectOf, failureResponse, requestIdHeaders } from './errors.ts'
import { fleetRoutes } from './fleet/routes.ts'
import { loadedOnce } from './loaded-once.ts'
import { errorText, log } from './observe/log.ts'
import { ADMIN_PREFIX, isAdminPath, requireKey } from './routes/access.ts'
import type { AppEnv } from './routes/context.ts'
import { generateRoutes, systemPorts } from './routes/generate.ts'
import { modelRoutes } from './routes/models.ts'
import { publicRoutes } from './routes/public.ts'
import { responsesRoutes } from './routes/responses.ts'
import { streamRoutes } from './routes/streams.ts'
import { usageImportRoutes } from './routes/usage-import.ts'

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']

/** Builds the application. Tests give other ports; the Worker has one app with the system's. */
export function createApp(ports: Ports = systemPorts()) {
  // Hono's own choice tries a faster one first, for milliseconds of each cold start, and finds that it cannot have these routes.
  const app = new Hono<AppEnv>({ router: new TrieRouter() })

  /** Loaded for the first who asks: a cold start that serves inference does without what it takes to make. */
  const admin = loadedOnce(async () => (await import('./admin/mounted.ts')).mountedAdmin(ports))

  /** Methods some route answers on this path; the guards in front, which match every method, do not count. */
  const methodsOf = (path: string): string[] =>
    METHODS.filter((method) => app.router.match(method, path)[0].some(([[, route]]) => route.method !== 'ALL'))

  app.use('*', async (c, next) => {
    c.set('requestId', ports.newId())
    c.set('receivedAtMs', ports.nowMs())
    await next()
    for (const [name, value] of Object.entries(requestIdHeaders(c.get('requestId')))) {
      if (!c.res.headers.has(name)) c.res.headers.set(name, value)
    }
  })

  // Before the key: what does not exist needs none, and a wrong path must not look like a wrong key.
  app.use('*', async (c, next) => {
    const { method, path } = c.req
    // Its guard comes before its routes: a stranger does not learn which there are.
    if (isAdminPath(path)) return next()
    if (matchedRoutes(c).some((route) => route.method !== 'ALL')) return next()
    // Whoever types the address of the gateway means its pages; a client that speaks HTTP gets the error that it can read.
    if (path === '/' && method === 'GET' && c.req.header('accept')?.includes('text/html'))
      return c.redirect(DASHBOARD_PATH)
    const allowed = methodsOf(path)
    const dialect = errorDialectOf(path, c.req.raw.headers)
    if (allowed.length === 0) {
      const message = `There is no route ${method.slice(0, 20)} ${path.slice(0, 200)}.`
      return failureResponse({ code: 'not_found', message }, c.get('requestId'), { dialect })
    }
    const message = `${method.slice(0, 20)} is not allowed on ${path.slice(0, 200)}; use ${allowed.join(' or ')}.`
    return failureResponse({ code: 'invalid_request', message }, c.get('requestId'), {
      status: 405,
      headers: { allow: allowed.join(', ') },
      dialect,
    })
  })

  app.use('*', requireKey)
  app.route('/', publicRoutes())
  app.route('/', fleetRoutes)
  app.route('/', modelRoutes)
  app.route('/', generateRoutes(ports))
  app.route('/', responsesRoutes(ports))
  app.route('/', streamRoutes(ports))
  app.route('/', usageImportRoutes(ports))
  app.all(`${ADMIN_PREFIX}/*`, async (c) => (await admin()).fetch(c.req.raw, c.env, c.executionCtx))
  app.route('/', dashboardRoutes())

  app.notFound((c) => failureResponse({ code: 'not_found', message: 'There is no such route.' }, c.get('requestId')))

  app.onError((error, c) => {
    const requestId = c.get('requestId') ?? ports.newId()
    const dialect = errorDialectOf(c.req.path, c.req.raw.headers)
    if (error instanceof HTTPException && error.status < 500) {
      return failureResponse({ code: 'invalid_request', message: error.message }, requestId, {
        status: error.status,
        dialect,
      })
    }
    log('error', 'unhandled', { requestId, method: c.req.method, route: c.req.routePath, error: errorText(error) })
    return failureResponse({ code: 'internal', message: 'The gateway failed to serve this request.' }, requestId, {
      dialect,
    })
  })

  return app
}

export const app = createApp()
