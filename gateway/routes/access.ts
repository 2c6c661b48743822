// Who may call which route. Owns the one list of routes that need no API key, each with its reason, and the guard in
// front of all others: a route that is added and listed nowhere needs a key.
import { createMiddleware } from 'hono/factory'
import { JOIN_PATH, JWKS_PATH, LEAVE_PATH, REPORT_PATH } from '../../protocol/report.ts'
import { authenticate } from '../auth/authenticate.ts'
import { failureResponse } from '../errors.ts'
import type { AppEnv } from './context.ts'

/** `METHOD path` → why it needs no API key. */
export const PUBLIC_ROUTES: Readonly<Record<string, string>> = {
  'GET /health': 'load balancers ask it; it names nothing',
  [`GET ${JWKS_PATH}`]: 'public keys are public',
  [`POST ${JOIN_PATH}`]: 'signed by the agent; the first time with a one-time token',
  [`POST ${REPORT_PATH}`]: 'signed by the enrolled agent',
  [`POST ${LEAVE_PATH}`]: 'signed by the enrolled agent',
}

/** The admin API has its own credential, checked by its own guard in front of all its routes. */
export const ADMIN_PREFIX = '/admin/v1'

/** Routes that use tokens; each goes through lifecycle.ts, which takes a hold before anything else. */
export const METERED_ROUTES: ReadonlySet<string> = new Set([
  'POST /v1/chat/completions',
  'POST /v1/completions',
  'POST /v1/embeddings',
])

/** Routes that need a key and use no tokens. */
export const UNMETERED_ROUTES: ReadonlySet<string> = new Set(['GET /v1/models', 'GET /v1/models/:id{.+}'])

export const isAdminPath = (path: string): boolean => path === ADMIN_PREFIX || path.startsWith(`${ADMIN_PREFIX}/`)

/** Sets `principal`, or answers in its place. HEAD is served as GET and needs what GET needs. */
export const requireKey = createMiddleware<AppEnv>(async (c, next) => {
  const method = c.req.method === 'HEAD' ? 'GET' : c.req.method
  const { path } = c.req
  if (Object.hasOwn(PUBLIC_ROUTES, `${method} ${path}`) || isAdminPath(path)) return next()
  const found = await authenticate(c.req.raw.headers, c.env, c.get('receivedAtMs'), (work) =>
    c.executionCtx.waitUntil(work),
  )
  if (!found.ok) return failureResponse(found.error, c.get('requestId'))
  c.set('principal', found.value)
  return next()
})
