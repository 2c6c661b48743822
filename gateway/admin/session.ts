// Who is calling, the browsers that are signed in to the dashboard, and links that sign one in. Owns their HTTP form and who
// may see or end whose session; sessions and links themselves are ../dashboard.
import { and, desc, eq, gt } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { PERMISSIONS, permits } from '../auth/roles.ts'
import { makeLink } from '../dashboard/links.ts'
import { SESSION_IDLE_MS_MAX } from '../dashboard/session.ts'
import { cookieOfNobody, endSession } from '../dashboard/sessions.ts'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { users } from '../db/schema/people.ts'
import { dashboardSessions } from '../db/schema/sessions.ts'
import { type AdminContext, type AdminEnv, conflict, invalid, notFound } from './context.ts'
import { idParam, readInput, readQuery } from './input.ts'
import { findUser, requireAbove, requireUser } from './membership.ts'
import { olderThan, pageOf, pageParameters } from './paging.ts'
import { denied } from './permissions.ts'

const id = z.uuid().toLowerCase()
const NewLink = z.strictObject({ org_id: id.optional(), user_id: id.optional() })
const SessionsQuery = z.strictObject({ ...pageParameters, org: id.optional(), user_id: id.optional() })

export const sessionRoutes = new Hono<AdminEnv>()
  .get('/session', whoami)
  .get('/sessions', list)
  .delete('/sessions/:session', end)
  .post('/sign-in-links', createLink)

/** The same for every credential; `csrf` and `expires_at` are of sessions alone. */
async function whoami(c: AdminContext) {
  const [actor, session] = [c.get('actor'), c.get('session')]
  const ofSession =
    session === undefined ? {} : { csrf: session.csrf, expires_at: new Date(session.expiresAtMs).toISOString() }
  if (actor.kind === 'operator') {
    return c.json({ kind: actor.kind, roles: [], permissions: PERMISSIONS, ...ofSession })
  }
  const { orgId, userId, roles, projects } = actor
  const user =
    session === undefined
      ? await findUser(connect(c.env), orgId, userId)
      : { name: session.name, handle: session.email, kind: 'person' }
  return c.json({
    kind: actor.kind,
    org_id: orgId,
    user_id: userId,
    name: user?.name,
    ...(user?.kind === 'person' && { email: user.handle }),
    roles,
    permissions: PERMISSIONS.filter((permission) => permits(roles, permission)),
    ...(projects !== undefined && { projects }),
    ...ofSession,
  })
}

/** A member sees its own, whoever manages people those of the organisation, the operator all. */
async function list(c: AdminContext) {
  const { limit, cursor, org, user_id: userId } = readQuery(c, SessionsQuery)
  const actor = c.get('actor')
  const isManager = actor.kind === 'member' && permits(actor.roles, 'people.write')
  const orgId = actor.kind === 'operator' ? org : actor.orgId
  if (org !== undefined && org !== orgId) throw notFound('organisation')
  const ofUser = actor.kind === 'operator' || isManager ? userId : actor.userId
  if (userId !== undefined && userId !== ofUser) throw denied('You see your own sessions only.')
  const nowMs = Date.now()
  const session = dashboardSessions
  const rows = await query(connect(c.env), (db) =>
    db
      .select({ session, user: users })
      .from(session)
      .leftJoin(users, and(eq(users.orgId, session.orgId), eq(users.userId, session.userId)))
      .where(
        and(
          orgId === undefined ? undefined : eq(session.orgId, orgId),
          ofUser === undefined ? undefined : eq(session.userId, ofUser),
          gt(session.expiresAt, new Date(nowMs).toISOString()),
          gt(session.lastSeenAt, new Date(nowMs - SESSION_IDLE_MS_MAX).toISOString()),
          olderThan(cursor, session.createdAt, session.sessionId),
        ),
      )
      .orderBy(desc(session.createdAt), desc(session.sessionId))
      .limit(limit + 1),
  )
  const current = c.get('session')?.sessionId
  return c.json(
    pageOf(
      rows,
      limit,
      (row) => [row.session.createdAt, row.session.sessionId],
      ({ session: row, user }) => ({
        id: row.sessionId,
        kind: row.userId === null ? 'operator' : 'member',
        org_id: row.orgId,
        user_id: row.userId,
        name: user?.name ?? null,
        email: user?.handle ?? null,
        signed_in_by: row.issuerId === null ? 'link' : 'issuer',
        issuer_id: row.issuerId,
        created_at: row.createdAt,
        last_seen_at: row.lastSeenAt,
        expires_at: row.expiresAt,
        address: row.address,
        current: row.sessionId === current,
      }),
    ),
  )
}

/** Signs another browser out, or this one. */
async function end(c: AdminContext) {
  const sessionId = idParam(c, 'session', 'session')
  const database = connect(c.env)
  const orgId = await requireReach(c, database, sessionId)
  await endSession(c, { sessionId, orgId }, 'revoked')
  const isOwn = c.get('session')?.sessionId === sessionId
  return c.json({ ended: true }, 200, isOwn ? { 'set-cookie': cookieOfNobody(c.req.raw) } : {})
}

/** @returns The organisation that the session is of. @throws Refusal where the caller may not end it */
async function requireReach(c: AdminContext, database: Database, sessionId: string): Promise<string | undefined> {
  const actor = c.get('actor')
  const [row] = await query(database, (db) =>
    db
      .select({ orgId: dashboardSessions.orgId, userId: dashboardSessions.userId })
      .from(dashboardSessions)
      .where(eq(dashboardSessions.sessionId, sessionId)),
  )
  if (row === undefined) throw notFound('session')
  if (actor.kind === 'operator') return row.orgId ?? undefined
  if (row.orgId !== actor.orgId || row.userId === null) throw notFound('session')
  if (row.userId === actor.userId) return row.orgId
  if (!permits(actor.roles, 'people.write')) throw notFound('session')
  requireAbove(actor, await requireUser(database, row.orgId, row.userId))
  return row.orgId
}

/** For the operator without a user, or for one of the users that the caller is above. */
async function createLink(c: AdminContext) {
  const input = await readInput(c, NewLink)
  const actor = c.get('actor')
  if (actor.kind === 'member') {
    // A session has none of a key's restrictions.
    if (actor.key !== undefined) throw denied('An API key cannot make links; use a token of a user, or sign in.')
    if (input.user_id === undefined) throw invalid('user_id', 'is missing: whom the link is for')
    if (input.org_id !== undefined && input.org_id !== actor.orgId) throw notFound('organisation')
  }
  const orgId = input.org_id ?? (actor.kind === 'member' ? actor.orgId : undefined)
  if (orgId !== undefined && input.user_id === undefined) throw invalid('user_id', 'is missing: whom the link is for')
  if (orgId === undefined && input.user_id !== undefined) throw invalid('org_id', 'is missing: whose user that is')
  const link = await makeLink(c, orgId === undefined ? undefined : await signable(c, orgId, input.user_id ?? ''))
  return c.json({ url: link.url, expires_at: link.expiresAt }, 201, { 'cache-control': 'no-store' })
}

/** @throws Refusal where this user cannot sign in, or the caller is not above it. */
async function signable(c: AdminContext, orgId: string, userId: string) {
  const user = await requireUser(connect(c.env), orgId, userId)
  requireAbove(c.get('actor'), user)
  if (user.kind !== 'person') throw conflict('This is a service: it signs in with keys and tokens.')
  if (user.suspendedAt !== null) throw conflict('This user is suspended.')
  if (user.role === undefined) throw conflict('This user has no role in the organisation.')
  return user
}
