// From a token's subject to a user of the organisation and its role. Owns the question to Postgres; how long the answer
// counts is token.ts.
import { and, asc, eq } from 'drizzle-orm'
import * as z from 'zod'
import { late } from '../../protocol/late.ts'
import { parseStored } from '../db/json.ts'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { memberships, teamMembers, users } from '../db/schema/people.ts'
import type { Role } from './roles.ts'

/** `memberships.projects`. */
const BoundProjects = late(() => z.array(z.string()).min(1))

export type MemberRecord = {
  userId: string
  kind: 'person' | 'service'
  role: Role
  projects: string[] | undefined
  /** The user's only team; with several, which one a request is for cannot be told. */
  teamId: string | undefined
}

/** The user of this subject, where it may act at all: with a membership and not suspended. */
export async function findMember(
  database: Database,
  subject: { orgId: string; issuerId: string; subject: string },
): Promise<MemberRecord | undefined> {
  const sameUser = and(eq(teamMembers.orgId, users.orgId), eq(teamMembers.userId, users.userId))
  const rows = await query(database, (db) =>
    db
      .select({ user: users, membership: memberships, teamId: teamMembers.teamId })
      .from(users)
      .innerJoin(memberships, and(eq(memberships.orgId, users.orgId), eq(memberships.userId, users.userId)))
      .leftJoin(teamMembers, sameUser)
      .where(
        and(eq(users.orgId, subject.orgId), eq(users.issuerId, subject.issuerId), eq(users.subject, subject.subject)),
      )
      .orderBy(asc(teamMembers.teamId))
      .limit(2),
  )
  const [row] = rows
  if (row === undefined || row.user.suspendedAt !== null) return undefined
  return {
    userId: row.user.userId,
    kind: row.user.kind,
    role: row.membership.role,
    projects: boundProjects(row.membership.projects),
    teamId: rows.length === 1 ? (row.teamId ?? undefined) : undefined,
  }
}

/** @param text `memberships.projects` */
export const boundProjects = (text: string | null): string[] | undefined =>
  text === null ? undefined : parseStored(text, BoundProjects, 'memberships.projects')
