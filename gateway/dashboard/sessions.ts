// Sessions of the dashboard as rows. Owns finding, making and ending them, and how many are kept; whether one counts is
// session.ts. The cookie's value is never stored, logged or sent anywhere but into the cookie.
import { and, eq } from 'drizzle-orm'
import { audited } from '../admin/audit.ts'
import type { AdminContext } from '../admin/context.ts'
import type { Actor } from '../auth/actor.ts'
import type { Role } from '../auth/roles.ts'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database, Statement } from '../db/port.ts'
import { memberships, tokenIssuers, users } from '../db/schema/people.ts'
import { dashboardSessions } from '../db/schema/sessions.ts'
import type { Env } from '../env.ts'
import { cookieHeader, readCookie } from './browser.ts'
import { judgeSession, looksLikeSecret, makeSecret, SESSION_MS_MAX, type Session, secretHash } from './session.ts'

/** How exactly it is known when a session was last used: a write a minute is not worth one each request. */
const SEEN_MS = 60_000
/** Of one user, or of the operator: a browser each; the oldest one ends. */
const SESSIONS_PER_ACTOR_MAX = 20
/** Rows that one sign-in deletes of those that ended. */
const ENDED_ROWS_MAX = 100

/** What a new session is of, and the most it may do. */
export type NewSession = {
  actor: Actor
  bounds: readonly Role[]
  /** Where an issuer said who it is. */
  identity?: { issuerId: string; subject: string }
}

/** The session of the request's cookie; undefined where there is none that counts. */
export async function findSession(request: Request, env: Env, nowMs: number): Promise<Session | undefined> {
  const token = readCookie(request, 'session')
  if (token === undefined || !looksLikeSecret(token)) return undefined
  const database = connect(env)
  const session = dashboardSessions
  const sameUser = (table: typeof users | typeof memberships) =>
    and(eq(table.orgId, session.orgId), eq(table.userId, session.userId))
  const [row] = await query(database, (db) =>
    db
      .select({ session, user: users, membership: memberships, issuer: tokenIssuers })
      .from(session)
      .leftJoin(users, sameUser(users))
      .leftJoin(memberships, sameUser(memberships))
      .leftJoin(tokenIssuers, and(eq(tokenIssuers.orgId, session.orgId), eq(tokenIssuers.issuerId, session.issuerId)))
      .where(eq(session.tokenHash, secretHash(token, env.ADMIN_TOKEN))),
  )
  const found = row === undefined ? undefined : judgeSession(row, token, nowMs)
  if (found !== undefined && nowMs - found.lastSeenAtMs >= SEEN_MS) await touch(database, found.sessionId, nowMs)
  return found
}

/**
 * Signs a browser in: ends the session that it brought, makes a new one with a new secret.
 * @param alongside Statements of the same transaction, before those of the session.
 * @returns The `set-cookie` header.
 */
export async function beginSession(
  c: AdminContext,
  { actor, bounds, identity }: NewSession,
  by: { sessionId: string; details: Record<string, unknown>; replaced?: Session | undefined; alongside?: Statement[] },
): Promise<string> {
  const nowMs = Date.now()
  const [createdAt, expiresAt] = [new Date(nowMs).toISOString(), new Date(nowMs + SESSION_MS_MAX).toISOString()]
  const token = makeSecret('pss', (count) => crypto.getRandomValues(new Uint8Array(count)))
  const { sessionId, details, replaced, alongside = [] } = by
  const [orgId, userId] = actor.kind === 'operator' ? [null, null] : [actor.orgId, actor.userId]
  c.set('actor', actor)
  await connect(c.env).batch([
    ...alongside,
    ...endedRows(createdAt),
    ...surplusOf(orgId, userId),
    ...(replaced === undefined ? [] : [deletion(replaced.sessionId)]),
    toStatement(
      builder.insert(dashboardSessions).values({
        sessionId,
        tokenHash: secretHash(token, c.env.ADMIN_TOKEN),
        orgId,
        userId,
        issuerId: identity?.issuerId ?? null,
        subject: identity?.subject ?? null,
        bounds: JSON.stringify(bounds),
        createdAt,
        lastSeenAt: createdAt,
        expiresAt,
        address: c.get('clientAddress') ?? null,
      }),
    ),
    audited(c, { action: 'session.begin', ...(orgId !== null && { orgId }), objectId: sessionId, details }),
  ])
  return cookieHeader(c.req.raw, 'session', token, SESSION_MS_MAX / 1000)
}

/** Ends a session. `c` says who does it. */
export async function endSession(
  c: AdminContext,
  session: { sessionId: string; orgId?: string | undefined },
  how: 'sign_out' | 'revoked',
): Promise<void> {
  const { sessionId, orgId } = session
  await connect(c.env).batch([
    deletion(sessionId),
    audited(c, { action: 'session.end', ...(orgId !== undefined && { orgId }), objectId: sessionId, details: { how } }),
  ])
}

export const cookieOfNobody = (request: Request): string => cookieHeader(request, 'session', '', 0)

async function touch(database: Database, sessionId: string, nowMs: number): Promise<void> {
  const lastSeenAt = new Date(nowMs).toISOString()
  await database
    .run(
      toStatement(
        builder.update(dashboardSessions).set({ lastSeenAt }).where(eq(dashboardSessions.sessionId, sessionId)),
      ),
    )
    // It is still the same session, only for two hours from a minute earlier.
    .catch(() => undefined)
}

const deletion = (sessionId: string): Statement =>
  toStatement(builder.delete(dashboardSessions).where(eq(dashboardSessions.sessionId, sessionId)))

/** Takes away some rows of sessions and links that ended by themselves. */
export const endedRows = (now: string): Statement[] =>
  [
    ['dashboard_sessions', 'session_id'],
    ['sign_in_links', 'code_hash'],
  ].map(([table, id]) => ({
    text: `DELETE FROM ${table} WHERE ${id} IN
      (SELECT ${id} FROM ${table} WHERE expires_at < $1 ORDER BY expires_at LIMIT ${ENDED_ROWS_MAX})`,
    params: [now],
  }))

/** Leaves room for one more session of this user, or of the operator. */
function surplusOf(orgId: string | null, userId: string | null): Statement[] {
  const isTheirs = orgId === null || userId === null ? 'org_id IS NULL' : 'org_id = $1 AND user_id = $2'
  return [
    {
      text: `DELETE FROM dashboard_sessions WHERE session_id IN (SELECT session_id FROM dashboard_sessions
        WHERE ${isTheirs} ORDER BY created_at DESC OFFSET ${SESSIONS_PER_ACTOR_MAX - 1} LIMIT ${ENDED_ROWS_MAX})`,
      params: orgId === null || userId === null ? [] : [orgId, userId],
    },
  ]
}
