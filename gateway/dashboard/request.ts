// The session behind a request of a browser. Owns what such a request has to show besides its cookie: browsers send cookies
// with whatever another site makes them ask.
import { type AdminContext, Refusal } from '../admin/context.ts'
import { denied } from '../admin/permissions.ts'
import { isFromElsewhere, isFromOwnPage, readCookie } from './browser.ts'
import type { Session } from './session.ts'
import { findSession } from './sessions.ts'

const CSRF_HEADER = 'x-penstock-csrf'
const SAFE_METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD'])

/**
 * The session that the request's cookie is of; undefined where there is no such cookie, or another site asks.
 * @throws Refusal where the session is over, or a change comes without the proof that one of our pages makes it
 */
export async function sessionOf(c: AdminContext): Promise<Session | undefined> {
  if (readCookie(c.req.raw, 'session') === undefined || isFromElsewhere(c.req.raw)) return undefined
  const session = await findSession(c.req.raw, c.env, Date.now())
  if (session === undefined) throw over()
  if (!SAFE_METHODS.has(c.req.method)) requireCsrf(c, session)
  return session
}

/** @throws Refusal */
export function requireCsrf(c: AdminContext, session: Session): void {
  requireOwnPage(c)
  // Compared as it stands: it has 256 bits, and whoever sees it already has no use for measuring.
  if (c.req.header(CSRF_HEADER) !== session.csrf) {
    throw denied(`Changes under a session need the header ${CSRF_HEADER} with "csrf" of GET /admin/v1/session.`)
  }
}

/** @throws Refusal */
export function requireOwnPage(c: AdminContext): void {
  if (isFromOwnPage(c.req.raw)) return
  throw denied('This is for pages of this gateway alone: the header "Origin" is missing or names another place.')
}

function over(): Refusal {
  const message =
    'The session is over: it was signed out, not used for two hours, or began twelve hours ago. Sign in again.'
  return new Refusal({ code: 'invalid_api_key', message })
}
