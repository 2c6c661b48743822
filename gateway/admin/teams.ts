// Teams in the admin API: users whose usage is limited and read together. Owns their HTTP form and who is in which.
import { and, asc, desc, eq, isNull, type SQL } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { teamMembers, teams, users } from '../db/schema/people.ts'
import { apiKeys } from '../db/schema/tenancy.ts'
import { announceTokens } from './announce-user.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, conflict, notFound } from './context.ts'
import { createOnce } from './create-once.ts'
import { DisplayName, idParam, NewNamed, readInput, readQuery } from './input.ts'
import { requireUser } from './membership.ts'
import { listOfOrganisation } from './organisation-list.ts'
import { requireOrganisation } from './organisations.ts'
import { after, olderThan, PageQuery, pageOf } from './paging.ts'

type Team = typeof teams.$inferSelect

const TeamChange = z.strictObject({ name: DisplayName })

export async function findTeam(database: Database, orgId: string, teamId: string): Promise<Team | undefined> {
  const [row] = await query(database, (db) => db.select().from(teams).where(teamIs(orgId, teamId)))
  return row
}

/** @throws Refusal 404 */
export async function requireTeam(database: Database, orgId: string, teamId: string): Promise<Team> {
  const team = await findTeam(database, orgId, teamId)
  if (team === undefined) throw notFound('team')
  return team
}

export async function isTeamMember(
  database: Database,
  orgId: string,
  teamId: string,
  userId: string,
): Promise<boolean> {
  const rows = await query(database, (db) =>
    db
      .select({ userId: teamMembers.userId })
      .from(teamMembers)
      .where(memberIs(orgId, teamId, userId)),
  )
  return rows.length > 0
}

export const teamRoutes = new Hono<AdminEnv>()
  .post('/:org/teams', async (c) => {
    const orgId = idParam(c, 'org', 'organisation')
    const input = await readInput(c, NewNamed)
    const database = connect(c.env)
    await requireOrganisation(database, orgId)
    const { row, status } = await createOnce({
      nameField: 'slug',
      askedId: input.id,
      find: () => teamBySlug(database, orgId, input.slug),
      idOf: (found) => found.teamId,
      create: async () => {
        const { slug, name = slug, id: teamId = crypto.randomUUID() } = input
        const made: Team = { orgId, teamId, slug, name, createdAt: new Date().toISOString() }
        await database.batch([
          toStatement(builder.insert(teams).values(made)),
          audited(c, { action: 'team.create', orgId, objectId: teamId, details: { slug, name } }),
        ])
        return made
      },
    })
    return c.json(teamView(row), status)
  })
  .get('/:org/teams', (c) =>
    listOfOrganisation(c, {
      rows: (database, orgId, { limit, cursor }) =>
        query(database, (db) =>
          db
            .select()
            .from(teams)
            .where(and(eq(teams.orgId, orgId), olderThan(cursor, teams.createdAt, teams.teamId)))
            .orderBy(desc(teams.createdAt), desc(teams.teamId))
            .limit(limit + 1),
        ),
      position: (row) => [row.createdAt, row.teamId],
      show: teamView,
    }),
  )
  .get('/:org/teams/:team', async (c) => c.json(teamView(await requireTeam(connect(c.env), ...teamParams(c)))))
  .patch('/:org/teams/:team', async (c) => {
    const { name } = await readInput(c, TeamChange)
    const database = connect(c.env)
    const team = await requireTeam(database, ...teamParams(c))
    const { orgId, teamId } = team
    await database.batch([
      toStatement(builder.update(teams).set({ name }).where(teamIs(orgId, teamId))),
      audited(c, {
        action: 'team.change',
        orgId,
        objectId: teamId,
        details: { before: { name: team.name }, after: { name } },
      }),
    ])
    return c.json(teamView({ ...team, name }))
  })
  .delete('/:org/teams/:team', remove)
  .get('/:org/teams/:team/members', members)
  .put('/:org/teams/:team/members/:user', addMember)
  .delete('/:org/teams/:team/members/:user', removeMember)

/** Only without live keys: what they use would count for a team that nobody can see. */
async function remove(c: AdminContext) {
  const database = connect(c.env)
  const team = await requireTeam(database, ...teamParams(c))
  const { orgId, teamId, slug } = team
  if (await hasLiveKeys(database, orgId, eq(apiKeys.teamId, teamId))) {
    throw conflict('The team has API keys; revoke them or take them out of the team first.')
  }
  await database.batch([
    toStatement(builder.delete(teamMembers).where(and(eq(teamMembers.orgId, orgId), eq(teamMembers.teamId, teamId)))),
    toStatement(builder.delete(teams).where(teamIs(orgId, teamId))),
    audited(c, { action: 'team.delete', orgId, objectId: teamId, details: { slug } }),
  ])
  announceTokens()
  return c.json({ deleted: true })
}

async function members(c: AdminContext) {
  const { limit, cursor } = readQuery(c, PageQuery)
  const database = connect(c.env)
  const { orgId, teamId } = await requireTeam(database, ...teamParams(c))
  const rows = await query(database, (db) =>
    db
      .select({ userId: users.userId, name: users.name, handle: users.handle })
      .from(teamMembers)
      .innerJoin(users, and(eq(users.orgId, teamMembers.orgId), eq(users.userId, teamMembers.userId)))
      .where(and(eq(teamMembers.orgId, orgId), eq(teamMembers.teamId, teamId), after(cursor, users.handle)))
      .orderBy(asc(users.handle))
      .limit(limit + 1),
  )
  return c.json(
    pageOf(
      rows,
      limit,
      (row) => [row.handle],
      ({ userId, name, handle }) => ({ user_id: userId, name, handle }),
    ),
  )
}

/** Safe to repeat. */
async function addMember(c: AdminContext) {
  const database = connect(c.env)
  const { orgId, teamId } = await requireTeam(database, ...teamParams(c))
  const { userId } = await requireUser(database, orgId, idParam(c, 'user', 'user'))
  if (!(await isTeamMember(database, orgId, teamId, userId))) {
    const row = { orgId, teamId, userId, createdAt: new Date().toISOString() }
    await database.batch([
      toStatement(builder.insert(teamMembers).values(row).onConflictDoNothing()),
      audited(c, { action: 'team.add', orgId, objectId: teamId, details: { user_id: userId } }),
    ])
  }
  announceTokens()
  return c.json({ team_id: teamId, user_id: userId, member: true })
}

/** Safe to repeat. Refused while the user has keys of this team: they would go on counting for it. */
async function removeMember(c: AdminContext) {
  const database = connect(c.env)
  const { orgId, teamId } = await requireTeam(database, ...teamParams(c))
  const { userId } = await requireUser(database, orgId, idParam(c, 'user', 'user'))
  const held = and(eq(apiKeys.teamId, teamId), eq(apiKeys.userId, userId))
  if (await hasLiveKeys(database, orgId, held)) {
    throw conflict('The user has API keys that count for this team; revoke them or take them out of it first.')
  }
  if (await isTeamMember(database, orgId, teamId, userId)) {
    await database.batch([
      toStatement(builder.delete(teamMembers).where(memberIs(orgId, teamId, userId))),
      audited(c, { action: 'team.remove', orgId, objectId: teamId, details: { user_id: userId } }),
    ])
  }
  announceTokens()
  return c.json({ team_id: teamId, user_id: userId, member: false })
}

async function teamBySlug(database: Database, orgId: string, slug: string): Promise<Team | undefined> {
  const [row] = await query(database, (db) =>
    db
      .select()
      .from(teams)
      .where(and(eq(teams.orgId, orgId), eq(teams.slug, slug))),
  )
  return row
}

async function hasLiveKeys(database: Database, orgId: string, which: SQL | undefined): Promise<boolean> {
  const rows = await query(database, (db) =>
    db
      .select({ id: apiKeys.keyId })
      .from(apiKeys)
      .where(and(eq(apiKeys.orgId, orgId), which, isNull(apiKeys.revokedAt)))
      .limit(1),
  )
  return rows.length > 0
}

const teamIs = (orgId: string, teamId: string) => and(eq(teams.orgId, orgId), eq(teams.teamId, teamId))

const memberIs = (orgId: string, teamId: string, userId: string) =>
  and(eq(teamMembers.orgId, orgId), eq(teamMembers.teamId, teamId), eq(teamMembers.userId, userId))

function teamParams(c: AdminContext): [orgId: string, teamId: string] {
  return [idParam(c, 'org', 'team'), idParam(c, 'team', 'team')]
}

function teamView(row: Team) {
  return { id: row.teamId, org_id: row.orgId, slug: row.slug, name: row.name, created_at: row.createdAt }
}
