// Whether a stored session still counts, and for whom. Owns the judgement and the texts of tokens; rows are sessions.ts. Pure.
//
//   made ──a request within 2 h of the last──▶ used on ──12 h──▶ over
//     └──2 h without a request──▶ over        └──user suspended, membership or issuer gone, ADMIN_TOKEN changed──▶ over
import * as z from 'zod'
import type { Actor } from '../auth/actor.ts'
import { boundProjects } from '../auth/members.ts'
import { ROLES } from '../auth/roles.ts'
import { parseStored } from '../db/json.ts'
import type { memberships, tokenIssuers, users } from '../db/schema/people.ts'
import type { dashboardSessions } from '../db/schema/sessions.ts'
import { sha256Hex } from '../hash.ts'

/** A working day: the next one begins with signing in. */
export const SESSION_MS_MAX = 12 * 3_600_000
/** Without a request; a page that is open asks from time to time. */
export const SESSION_IDLE_MS_MAX = 2 * 3_600_000

/** 256 bits: nobody guesses one, however often they try. */
const SECRET_BYTES = 32
const SECRET = /^ps[sl]_[A-Za-z0-9_-]{43}$/

/** `dashboard_sessions.bounds` and `sign_in_links.bounds`. */
const Bounds = z.array(z.enum(ROLES)).max(ROLES.length)

export type SessionRow = {
  session: typeof dashboardSessions.$inferSelect
  user: typeof users.$inferSelect | null
  membership: typeof memberships.$inferSelect | null
  issuer: typeof tokenIssuers.$inferSelect | null
}

export type Session = {
  sessionId: string
  actor: Actor
  /** What a page has to send along with each change. */
  csrf: string
  expiresAtMs: number
  lastSeenAtMs: number
  /** Of the user; absent for the operator. */
  name?: string
  email?: string
}

/** A new secret: `pss_` for the cookie of a session, `psl_` for the code of a link, so that scanners for secrets know both. */
export function makeSecret(kind: 'pss' | 'psl', randomBytes: (count: number) => Uint8Array): string {
  const bytes = randomBytes(SECRET_BYTES)
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))
  return `${kind}_${text.replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')}`
}

export const looksLikeSecret = (text: string): boolean => SECRET.test(text)

/** What is stored of a secret. With ADMIN_TOKEN in it, that changes with the token: all sessions and links end then. */
export const secretHash = (secret: string, adminToken: string): string => sha256Hex(`${secret}\n${adminToken}`)

/** Follows from the cookie, which no page can read and no other site can make this gateway show. */
const csrfOf = (token: string): string => sha256Hex(`csrf\n${token}`)

/** The session of a token that was found; undefined where it is over. */
export function judgeSession(row: SessionRow, token: string, nowMs: number): Session | undefined {
  const { session, user } = row
  const [expiresAtMs, lastSeenAtMs] = [Date.parse(session.expiresAt), Date.parse(session.lastSeenAt)]
  if (nowMs >= expiresAtMs || nowMs - lastSeenAtMs >= SESSION_IDLE_MS_MAX) return undefined
  const common = { sessionId: session.sessionId, csrf: csrfOf(token), expiresAtMs, lastSeenAtMs }
  if (session.userId === null) return { ...common, actor: { kind: 'operator' } }
  const actor = memberOf(row)
  if (actor === undefined || user === null) return undefined
  return { ...common, actor, name: user.name, email: user.handle }
}

function memberOf({ session, user, membership, issuer }: SessionRow): Actor | undefined {
  if (user === null || membership === null || user.suspendedAt !== null || user.kind !== 'person') return undefined
  if (session.issuerId !== null) {
    const isSame = user.issuerId === session.issuerId && user.subject === session.subject
    if (issuer === null || issuer.service || !isSame) return undefined
  }
  const bounds = parseStored(session.bounds, Bounds, 'dashboard_sessions.bounds')
  const roles = [membership.role, ...bounds, ...(issuer === null ? [] : [issuer.maxRole])]
  return {
    kind: 'member',
    orgId: user.orgId,
    userId: user.userId,
    roles: [...new Set(roles)],
    projects: boundProjects(membership.projects),
  }
}
