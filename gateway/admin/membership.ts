// What every change of a user has to keep true: nobody acts on someone above them, and an organisation that has an owner
// keeps one. Owns the checks before a change and the statements that hold them inside its transaction.
import { and, eq } from 'drizzle-orm'
import type { Actor } from '../auth/actor.ts'
import { boundProjects } from '../auth/members.ts'
import type { Role } from '../auth/roles.ts'
import { query } from '../db/orm.ts'
import { type Database, QueryFailed, type SqlResult, type Statement } from '../db/port.ts'
import { memberships, users } from '../db/schema/people.ts'
import { conflict, notFound } from './context.ts'
import { requireCover } from './permissions.ts'

export type UserRow = typeof users.$inferSelect
/** `role` is absent where the user has no membership. */
export type User = UserRow & { role: Role | undefined; projects: string[] | undefined }

/** SQLSTATE of a division by zero, by which a transaction ends itself. */
export const DIVISION_BY_ZERO = '22012'

export async function findUser(database: Database, orgId: string, userId: string): Promise<User | undefined> {
  const [row] = await query(database, (db) =>
    db
      .select({ user: users, membership: memberships })
      .from(users)
      .leftJoin(memberships, and(eq(memberships.orgId, users.orgId), eq(memberships.userId, users.userId)))
      .where(and(eq(users.orgId, orgId), eq(users.userId, userId))),
  )
  return row === undefined ? undefined : userOf(row)
}

/** @throws Refusal 404 */
export async function requireUser(database: Database, orgId: string, userId: string): Promise<User> {
  const user = await findUser(database, orgId, userId)
  if (user === undefined) throw notFound('user')
  return user
}

type Joined = { user: UserRow; membership: typeof memberships.$inferSelect | null }

export const userOf = ({ user, membership }: Joined): User => ({
  ...user,
  role: membership?.role,
  projects: membership === null ? undefined : boundProjects(membership.projects),
})

/** @throws Refusal 403 where the user's role is not covered by the actor's. */
export function requireAbove(actor: Actor, user: User): void {
  if (user.role !== undefined) requireCover(actor, user.role)
}

/**
 * Changes a user in one transaction, together with what was checked about it: the user's role is still the one that was
 * read, and whoever was the last active owner still is one. Changes of one organisation's members wait for each other.
 * @throws Refusal 409
 */
export async function changeUser(database: Database, user: User, changes: Statement[]): Promise<SqlResult[]> {
  const { orgId, userId, role } = user
  const isOwner = role === 'owner' && user.suspendedAt === null
  const statements = [
    // A lock that every database has: the row is written as it is.
    { text: 'UPDATE organisations SET name = name WHERE org_id = $1', params: [orgId] },
    role === undefined
      ? mustBe(`NOT EXISTS (${OF_USER})`, [orgId, userId])
      : mustBe(`EXISTS (${OF_USER} AND role = $3)`, [orgId, userId, role]),
    ...changes,
    ...(isOwner ? [mustBe(`EXISTS (${ACTIVE_OWNER})`, [orgId])] : []),
  ]
  try {
    return await database.batch(statements)
  } catch (error) {
    if (!(error instanceof QueryFailed) || error.sqlState !== DIVISION_BY_ZERO) throw error
    throw conflict(
      isOwner
        ? 'This would leave the organisation without an active owner, or the user was changed meanwhile.'
        : 'The user was changed by somebody else meanwhile. Repeat the call.',
    )
  }
}

const OF_USER = 'SELECT 1 FROM memberships WHERE org_id = $1 AND user_id = $2'
const ACTIVE_OWNER = `SELECT 1 FROM memberships m JOIN users u ON u.org_id = m.org_id AND u.user_id = m.user_id
  WHERE m.org_id = $1 AND m.role = 'owner' AND u.suspended_at IS NULL`

/** Ends the transaction unless the condition holds. */
export const mustBe = (condition: string, params: string[]): Statement => ({
  text: `SELECT 1 / CASE WHEN ${condition} THEN 1 ELSE 0 END`,
  params,
})
