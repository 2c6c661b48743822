// One-time links into the dashboard. Owns making and redeeming them: a link works once, for ten minutes, and signs in as the
// user that it was made for with the rights that this user had then at most. The code stands behind the `#` of the address,
// which browsers send to no server.
import { and, eq } from 'drizzle-orm'
import * as z from 'zod'
import { audited } from '../admin/audit.ts'
import { type AdminContext, Refusal } from '../admin/context.ts'
import { DIVISION_BY_ZERO, mustBe, type User, userOf } from '../admin/membership.ts'
import type { Actor } from '../auth/actor.ts'
import { ROLES } from '../auth/roles.ts'
import { connect } from '../db/connect.ts'
import { parseStored } from '../db/json.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import { QueryFailed } from '../db/port.ts'
import { memberships, users } from '../db/schema/people.ts'
import { signInLinks } from '../db/schema/sessions.ts'
import { DASHBOARD_PATH, ownOrigin } from './browser.ts'
import { looksLikeSecret, makeSecret, type Session, secretHash } from './session.ts'
import { beginSession, endedRows } from './sessions.ts'

/** Long enough to go from a terminal to a browser. */
const LINK_MS = 600_000
const Bounds = z.array(z.enum(ROLES))

/** @param user Whom it signs in; absent: the operator. */
export async function makeLink(c: AdminContext, user: User | undefined): Promise<{ url: string; expiresAt: string }> {
  const nowMs = Date.now()
  const [createdAt, expiresAt] = [new Date(nowMs).toISOString(), new Date(nowMs + LINK_MS).toISOString()]
  const code = makeSecret('psl', (count) => crypto.getRandomValues(new Uint8Array(count)))
  const linkId = crypto.randomUUID()
  await connect(c.env).batch([
    ...endedRows(createdAt),
    toStatement(
      builder.insert(signInLinks).values({
        codeHash: secretHash(code, c.env.ADMIN_TOKEN),
        linkId,
        orgId: user?.orgId ?? null,
        userId: user?.userId ?? null,
        bounds: JSON.stringify(user?.role === undefined ? [] : [user.role]),
        createdAt,
        expiresAt,
        sessionId: null,
      }),
    ),
    audited(c, {
      action: 'sign_in_link.create',
      ...(user !== undefined && { orgId: user.orgId }),
      objectId: linkId,
      details: { user_id: user?.userId ?? null, expires_at: expiresAt },
    }),
  ])
  return { url: `${ownOrigin(c.req.raw)}${DASHBOARD_PATH}sign-in#code=${code}`, expiresAt }
}

/**
 * Signs the browser in by a code.
 * @param current The session that the browser has already.
 * @returns The `set-cookie` header.
 * @throws Refusal, in the same words for every code that does not work
 */
export async function redeem(
  c: AdminContext,
  { code, confirm, current }: { code: string; confirm: boolean; current: Session | undefined },
): Promise<string> {
  if (!looksLikeSecret(code)) throw refused()
  const codeHash = secretHash(code, c.env.ADMIN_TOKEN)
  const now = new Date().toISOString()
  const [row] = await query(connect(c.env), (db) =>
    db
      .select({ link: signInLinks, user: users, membership: memberships })
      .from(signInLinks)
      .leftJoin(users, and(eq(users.orgId, signInLinks.orgId), eq(users.userId, signInLinks.userId)))
      .leftJoin(memberships, and(eq(memberships.orgId, signInLinks.orgId), eq(memberships.userId, signInLinks.userId)))
      .where(eq(signInLinks.codeHash, codeHash)),
  )
  if (row === undefined || row.link.sessionId !== null || Date.parse(row.link.expiresAt) <= Date.parse(now)) {
    throw refused()
  }
  const actor =
    row.link.userId === null ? OPERATOR : row.user === null ? undefined : actorOf(userOf({ ...row, user: row.user }))
  if (actor === undefined) throw refused()
  const isTheirs = current === undefined ? actor.kind === 'operator' : isSame(current.actor, actor)
  if (!isTheirs && !confirm) throw unconfirmed(current, row.user?.handle)
  const sessionId = crypto.randomUUID()
  try {
    return await beginSession(
      c,
      { actor, bounds: parseStored(row.link.bounds, Bounds, 'sign_in_links.bounds') },
      {
        sessionId,
        details: { by: 'link', link_id: row.link.linkId },
        replaced: current,
        alongside: [
          {
            text: 'UPDATE sign_in_links SET session_id = $1 WHERE code_hash = $2 AND session_id IS NULL AND expires_at > $3',
            params: [sessionId, codeHash, now],
          },
          // Of two browsers with one link one gets in.
          mustBe('EXISTS (SELECT 1 FROM sign_in_links WHERE code_hash = $1 AND session_id = $2)', [
            codeHash,
            sessionId,
          ]),
        ],
      },
    )
  } catch (error) {
    if (error instanceof QueryFailed && error.sqlState === DIVISION_BY_ZERO) throw refused()
    throw error
  }
}

const OPERATOR: Actor = { kind: 'operator' }

function actorOf(user: User): Actor | undefined {
  if (user.kind !== 'person' || user.suspendedAt !== null || user.role === undefined) return undefined
  return { kind: 'member', orgId: user.orgId, userId: user.userId, roles: [user.role], projects: user.projects }
}

function isSame(left: Actor, right: Actor): boolean {
  if (left.kind === 'operator' || right.kind === 'operator') return left.kind === right.kind
  return left.orgId === right.orgId && left.userId === right.userId
}

/** Whoever sends somebody a link of their own would otherwise have them work in a foreign account without noticing. */
function unconfirmed(current: Session | undefined, handle = 'the operator'): Refusal {
  const now = current === undefined ? '' : ` You are signed in as ${current.email ?? 'the operator'} now.`
  const message = `This link signs you in as ${handle}.${now} Go on only if that is you.`
  return new Refusal({ code: 'conflict', message })
}

function refused(): Refusal {
  const message =
    'This link does not work: it was used, it is older than ten minutes, or its user may not sign in. Ask for a new one.'
  return new Refusal({ code: 'invalid_api_key', message })
}
