// People of an organisation and the roles of all its users. Owns their HTTP form; what a role permits is auth/roles.ts, what
// a change must keep true membership.ts.
import { and, eq } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { builder, toStatement } from '../db/orm.ts'
import { memberships, users } from '../db/schema/people.ts'
import { announceUser } from './announce-user.ts'
import { audited } from './audit.ts'
import type { AdminContext, AdminEnv } from './context.ts'
import { DisplayName, idParam, readInput, readQuery } from './input.ts'
import { changeUser, requireAbove, requireUser, type User } from './membership.ts'
import { pageParameters } from './paging.ts'
import { requireCover } from './permissions.ts'
import {
  createUser,
  identityFields,
  identityOf,
  listUsers,
  membershipFields,
  newUserFields,
  putMembership,
  requireBindable,
  requireFullKey,
  userView,
} from './users.ts'

const EMAIL_CHARS_MAX = 254

const NewPerson = z.strictObject({ ...newUserFields, email: z.email().max(EMAIL_CHARS_MAX).toLowerCase() })
const UserChange = z.strictObject({
  name: DisplayName.optional(),
  suspended: z.boolean().optional(),
  ...identityFields,
})
const Membership = z.strictObject(membershipFields)
const UserQuery = z.strictObject({ ...pageParameters, kind: z.enum(['person', 'service']).optional() })

export const peopleRoutes = new Hono<AdminEnv>()
  .post('/:org/users', async (c) => {
    const { email, ...input } = await readInput(c, NewPerson)
    const orgId = idParam(c, 'org', 'organisation')
    const asked = { ...input, kind: 'person', handle: email, handleField: 'email' } as const
    const { row, status } = await createUser(c, orgId, asked)
    return c.json(userView(row), status)
  })
  .get('/:org/users', async (c) =>
    c.json(await listUsers(c, idParam(c, 'org', 'organisation'), readQuery(c, UserQuery))),
  )
  .get('/:org/users/:user', async (c) => c.json(userView(await requireUser(connect(c.env), ...userParams(c)))))
  .patch('/:org/users/:user', change)
  .put('/:org/users/:user/membership', setMembership)
  .delete('/:org/users/:user/membership', removeMembership)

/** Name, identity and suspension, of people and services. Safe to repeat. */
async function change(c: AdminContext) {
  const input = await readInput(c, UserChange)
  const database = connect(c.env)
  const user = await requireUser(database, ...userParams(c))
  const { orgId, userId } = user
  requireAbove(c.get('actor'), user)
  if (input.issuer_id) requireFullKey(c.get('actor'))
  const identity =
    input.issuer_id === undefined && input.subject === undefined
      ? { issuerId: user.issuerId, subject: user.subject }
      : await identityOf(database, orgId, input, userId)
  const suspendedAt =
    input.suspended === undefined
      ? user.suspendedAt
      : input.suspended
        ? (user.suspendedAt ?? new Date().toISOString())
        : null
  const changed: User = { ...user, ...identity, name: input.name ?? user.name, suspendedAt }
  const { name, issuerId, subject } = changed
  await changeUser(database, user, [
    toStatement(
      builder
        .update(users)
        .set({ name, issuerId, subject, suspendedAt })
        .where(and(eq(users.orgId, orgId), eq(users.userId, userId))),
    ),
    audited(c, {
      action: 'user.change',
      orgId,
      objectId: userId,
      details: { before: userView(user), after: userView(changed) },
    }),
  ])
  await announceUser(c.env, database, user, suspendedAt === null && user.role !== undefined)
  return c.json(userView(changed))
}

/** Gives a role, or another one. Safe to repeat. */
async function setMembership(c: AdminContext) {
  const { role, projects } = await readInput(c, Membership)
  const database = connect(c.env)
  const user = await requireUser(database, ...userParams(c))
  const { orgId, userId } = user
  requireAbove(c.get('actor'), user)
  requireCover(c.get('actor'), role)
  await requireBindable(database, orgId, role, projects)
  const changed: User = { ...user, role, projects: projects ?? undefined }
  const before = { role: user.role ?? null, projects: user.projects ?? null }
  await changeUser(database, user, [
    putMembership(user, role, projects, new Date().toISOString()),
    audited(c, {
      action: 'membership.put',
      orgId,
      objectId: userId,
      details: { before, after: { role, projects: projects ?? null } },
    }),
  ])
  await announceUser(c.env, database, user, user.suspendedAt === null)
  return c.json(userView(changed))
}

/** Takes every right away; the user's row stays, for what it did. Safe to repeat. */
async function removeMembership(c: AdminContext) {
  const database = connect(c.env)
  const user = await requireUser(database, ...userParams(c))
  const { orgId, userId, role, projects } = user
  requireAbove(c.get('actor'), user)
  if (role !== undefined) {
    await changeUser(database, user, [
      toStatement(builder.delete(memberships).where(and(eq(memberships.orgId, orgId), eq(memberships.userId, userId)))),
      audited(c, {
        action: 'membership.remove',
        orgId,
        objectId: userId,
        details: { before: { role, projects: projects ?? null } },
      }),
    ])
  }
  await announceUser(c.env, database, user, false)
  return c.json(userView({ ...user, role: undefined, projects: undefined }))
}

function userParams(c: AdminContext): [orgId: string, userId: string] {
  return [idParam(c, 'org', 'user'), idParam(c, 'user', 'user')]
}
