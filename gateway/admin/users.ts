// People and services as rows. Owns what both have in common in the admin API: the fields of a new one, its making and its
// HTTP form. Routes are people.ts and service-accounts.ts.
import { and, desc, eq, inArray } from 'drizzle-orm'
import * as z from 'zod'
import type { Actor } from '../auth/actor.ts'
import { ROLES, type Role } from '../auth/roles.ts'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database, Statement } from '../db/port.ts'
import { memberships, tokenIssuers, users } from '../db/schema/people.ts'
import { projects } from '../db/schema/tenancy.ts'
import { audited } from './audit.ts'
import { type AdminContext, invalid } from './context.ts'
import { createOnce } from './create-once.ts'
import { DisplayName } from './input.ts'
import { type User, userOf } from './membership.ts'
import { requireOrganisation } from './organisations.ts'
import { olderThan, type PageQuery, pageOf } from './paging.ts'
import { denied, requireCover } from './permissions.ts'

const PROJECTS_MAX = 200
const SUBJECT_CHARS_MAX = 255

const id = z.uuid().toLowerCase()
/** Of a token's claim: it is compared, never shown as a page. */
const Subject = z.string().min(1).max(SUBJECT_CHARS_MAX)

export const membershipFields = {
  role: z.enum(ROLES),
  /** Absent or null: all. Only developers and viewers can be bound to some. */
  projects: z.array(id).min(1).max(PROJECTS_MAX).nullish(),
}
/** Both or neither: whose tokens name this user, and by which subject. */
export const identityFields = { issuer_id: id.nullish(), subject: Subject.nullish() }
export const newUserFields = {
  id: id.optional(),
  name: DisplayName.optional(),
  ...identityFields,
  role: membershipFields.role.optional(),
  projects: membershipFields.projects,
}

type Identity = { issuer_id?: string | null | undefined; subject?: string | null | undefined }
type NewUser = {
  id?: string | undefined
  name?: string | undefined
  projects?: string[] | null | undefined
} & Identity & {
    role?: Role | undefined
  }

/** Makes a user, with its membership where a role is given. Safe to repeat by the handle. */
export async function createUser(
  c: AdminContext,
  orgId: string,
  asked: NewUser & { kind: 'person' | 'service'; handle: string; handleField: string },
): Promise<{ row: User; status: 200 | 201 }> {
  const { kind, handle, handleField, role } = asked
  const database = connect(c.env)
  await requireOrganisation(database, orgId)
  if (role !== undefined) requireCover(c.get('actor'), role)
  if (role === undefined && asked.projects) throw invalid('projects', 'needs a role')
  if (role !== undefined) await requireBindable(database, orgId, role, asked.projects)
  if (asked.issuer_id) requireFullKey(c.get('actor'))
  const { issuerId, subject } = await identityOf(database, orgId, asked)
  const made = await createOnce({
    nameField: handleField,
    askedId: asked.id,
    find: () => userByHandle(database, orgId, handle),
    idOf: (found) => found.userId,
    create: async () => {
      const createdAt = new Date().toISOString()
      const userId = asked.id ?? crypto.randomUUID()
      const name = asked.name ?? handle
      const row = { orgId, userId, kind, handle, name, issuerId, subject, createdAt, suspendedAt: null }
      const user: User = { ...row, role, projects: asked.projects ?? undefined }
      await database.batch([
        toStatement(builder.insert(users).values(row)),
        ...(role === undefined ? [] : [putMembership(user, role, asked.projects, createdAt)]),
        audited(c, { action: 'user.create', orgId, objectId: userId, details: { after: userView(user) } }),
      ])
      return user
    },
  })
  if (made.row.kind !== kind) throw invalid(handleField, `is taken by a ${made.row.kind}`)
  return made
}

/**
 * Whether the actor may say whose tokens are taken. A key that is restricted may not: a token would have none of its
 * restrictions. @throws Refusal
 */
export function requireFullKey(actor: Actor): void {
  const key = actor.kind === 'member' ? actor.key : undefined
  if (key === undefined) return
  const { modelsAllowed, addressesAllowed, capabilitiesAllowed, endUser, teamId, expiresAtMs } = key
  const restrictions = [modelsAllowed, addressesAllowed, capabilitiesAllowed, endUser, teamId, expiresAtMs]
  if (restrictions.every((one) => one === undefined)) return
  throw denied('A restricted API key cannot say whose tokens are taken; use one without restrictions, or a token.')
}

/** The statement that gives a user its role, whether it has one or not. */
export function putMembership(
  { orgId, userId }: { orgId: string; userId: string },
  role: Role,
  bound: readonly string[] | null | undefined,
  createdAt: string,
): Statement {
  const stored = bound === null || bound === undefined ? null : JSON.stringify([...new Set(bound)].sort())
  const set = { role, projects: stored }
  return toStatement(
    builder
      .insert(memberships)
      .values({ orgId, userId, createdAt, ...set })
      .onConflictDoUpdate({ target: [memberships.orgId, memberships.userId], set }),
  )
}

/** @throws Refusal where the role cannot be bound to these projects, or they are not there. */
export async function requireBindable(
  database: Database,
  orgId: string,
  role: Role,
  bound: readonly string[] | null | undefined,
): Promise<void> {
  if (bound === null || bound === undefined) return
  if (role !== 'developer' && role !== 'viewer') throw invalid('projects', 'is for the roles developer and viewer')
  const rows = await query(database, (db) =>
    db
      .select({ id: projects.projectId })
      .from(projects)
      .where(and(eq(projects.orgId, orgId), inArray(projects.projectId, [...bound]))),
  )
  const known = new Set(rows.map((row) => row.id))
  for (const [index, projectId] of bound.entries()) {
    if (!known.has(projectId)) throw invalid(`projects[${index}]`, 'is not a project of this organisation')
  }
}

/** @throws Refusal where only one half is given, the issuer is unknown or the subject taken. */
export async function identityOf(
  database: Database,
  orgId: string,
  { issuer_id: issuerId, subject }: Identity,
  ofUserId?: string,
): Promise<{ issuerId: string | null; subject: string | null }> {
  if (!issuerId && !subject) return { issuerId: null, subject: null }
  if (!issuerId) throw invalid('issuer_id', 'is missing: a subject is of an issuer')
  if (!subject) throw invalid('subject', 'is missing: an issuer names its users by subject')
  const [[issuer], [taken]] = await Promise.all([
    query(database, (db) =>
      db
        .select({ id: tokenIssuers.issuerId })
        .from(tokenIssuers)
        .where(and(eq(tokenIssuers.orgId, orgId), eq(tokenIssuers.issuerId, issuerId))),
    ),
    query(database, (db) =>
      db
        .select({ handle: users.handle, userId: users.userId })
        .from(users)
        .where(and(eq(users.orgId, orgId), eq(users.issuerId, issuerId), eq(users.subject, subject))),
    ),
  ])
  if (issuer === undefined) throw invalid('issuer_id', 'is not an issuer of this organisation')
  if (taken !== undefined && ofUserId !== undefined && taken.userId !== ofUserId)
    throw invalid('subject', 'is another user’s')
  return { issuerId, subject }
}

export type UserFilter = PageQuery & { kind?: 'person' | 'service' | undefined }

/** A page of users, newest first. */
export async function listUsers(c: AdminContext, orgId: string, filter: UserFilter) {
  const database = connect(c.env)
  await requireOrganisation(database, orgId)
  const rows = await query(database, (db) =>
    db
      .select({ user: users, membership: memberships })
      .from(users)
      .leftJoin(memberships, and(eq(memberships.orgId, users.orgId), eq(memberships.userId, users.userId)))
      .where(
        and(
          eq(users.orgId, orgId),
          filter.kind === undefined ? undefined : eq(users.kind, filter.kind),
          olderThan(filter.cursor, users.createdAt, users.userId),
        ),
      )
      .orderBy(desc(users.createdAt), desc(users.userId))
      .limit(filter.limit + 1),
  )
  return pageOf(rows.map(userOf), filter.limit, (user) => [user.createdAt, user.userId], userView)
}

export function userView(user: User) {
  return {
    id: user.userId,
    org_id: user.orgId,
    kind: user.kind,
    ...(user.kind === 'person' ? { email: user.handle } : { slug: user.handle }),
    name: user.name,
    role: user.role ?? null,
    projects: user.projects ?? null,
    issuer_id: user.issuerId,
    subject: user.subject,
    created_at: user.createdAt,
    suspended_at: user.suspendedAt,
  }
}

async function userByHandle(database: Database, orgId: string, handle: string): Promise<User | undefined> {
  const [row] = await query(database, (db) =>
    db
      .select({ user: users, membership: memberships })
      .from(users)
      .leftJoin(memberships, and(eq(memberships.orgId, users.orgId), eq(memberships.userId, users.userId)))
      .where(and(eq(users.orgId, orgId), eq(users.handle, handle))),
  )
  return row === undefined ? undefined : userOf(row)
}
