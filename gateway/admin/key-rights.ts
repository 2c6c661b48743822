// Who may make or manage which API key, and with which rights at most. Owns the checks; what is compared with what is
// auth/rights.ts, who a key belongs to decides what it may do later (auth/key-record.ts).
import type { Actor } from '../auth/actor.ts'
import type { KeyScopes } from '../auth/key-record.ts'
import { excessRight, type Rights } from '../auth/rights.ts'
import type { Database } from '../db/port.ts'
import { invalid } from './context.ts'
import { findUser, requireAbove, requireUser } from './membership.ts'
import { findProject } from './organisations.ts'
import { denied, requireCover, requirePermission, seesProject } from './permissions.ts'
import { findTeam, isTeamMember } from './teams.ts'

/** What a key is asked to be, or would be after a change. */
export type AskedKey = {
  orgId: string
  projectId: string
  userId: string | null
  teamId: string | null
  scopes: KeyScopes
  expiresAt: string | null
}

/** Whether the actor may give a key all this. @throws Refusal naming the field */
export async function requireGrantable(database: Database, actor: Actor, asked: AskedKey): Promise<void> {
  await requireProject(database, actor, asked)
  await requireOwner(database, actor, asked)
  await requireTeamOf(database, actor, asked)
  if (actor.kind === 'operator' || actor.key === undefined) return
  const { key } = actor
  const excess = excessRight(rightsOf(asked), {
    projectId: key.projectId,
    teamId: key.teamId,
    endUser: key.endUser,
    models: key.modelsAllowed,
    routes: key.routesAllowed,
    addresses: key.addressesAllowed,
    capabilities: key.capabilitiesAllowed,
    cacheTtlMs: key.cacheTtlMs,
    expiresAtMs: key.expiresAtMs,
  })
  if (excess !== undefined) throw invalid(excess.param, excess.message)
}

/** Whether the actor may change, rotate or revoke a key: its own, or one that belongs to nobody. @throws Refusal */
export async function requireManageable(
  database: Database,
  actor: Actor,
  key: { orgId: string; projectId: string; userId: string | null },
): Promise<void> {
  if (actor.kind === 'operator') return
  if (actor.key !== undefined && actor.key.projectId !== key.projectId) {
    throw denied('An API key manages keys of its own project alone.')
  }
  if (key.userId === null || key.userId === actor.userId) return
  requirePermission(actor, 'people.write')
  requireAbove(actor, await requireUser(database, key.orgId, key.userId))
}

async function requireProject(database: Database, actor: Actor, { orgId, projectId }: AskedKey): Promise<void> {
  // One that the actor cannot see looks as if it were not there.
  const project = seesProject(actor, projectId) ? await findProject(database, orgId, projectId) : undefined
  if (project === undefined) throw invalid('project_id', 'is not a project of this organisation')
}

async function requireOwner(
  database: Database,
  actor: Actor,
  { orgId, projectId, userId, scopes }: AskedKey,
): Promise<void> {
  const administers = scopes.routes?.includes('admin') === true
  if (userId === null) {
    if (administers) throw invalid('routes', '"admin" needs a user_id: a key that belongs to nobody has no role')
    // It counts for no user and outlives its maker: whoever is limited or suspended could go on with one.
    if (actor.kind === 'member') requirePermission(actor, 'people.write')
    return
  }
  const user = await findUser(database, orgId, userId)
  if (user?.role === undefined || user.suspendedAt !== null) {
    throw invalid('user_id', 'is not an active user of this organisation')
  }
  if (user.projects?.includes(projectId) === false) throw invalid('user_id', 'is bound to other projects')
  if (actor.kind === 'operator') return
  const isOwn = userId === actor.userId
  if (!isOwn) requirePermission(actor, 'people.write')
  // The key will have its user's whole role, and the actor may have less of it: a token under its issuer's `max_role`.
  if (!isOwn || administers) requireCover(actor, user.role)
}

/** A team's budget is for its members; nobody else may count for it. */
async function requireTeamOf(database: Database, actor: Actor, { orgId, teamId, userId }: AskedKey): Promise<void> {
  if (teamId === null) return
  const member = userId ?? (actor.kind === 'member' ? actor.userId : undefined)
  if ((await findTeam(database, orgId, teamId)) === undefined) {
    throw invalid('team_id', 'is not a team of this organisation')
  }
  if (member !== undefined && (await isTeamMember(database, orgId, teamId, member))) return
  if (userId !== null) throw invalid('team_id', 'is a team that the user is not in')
  requirePermission(actor, 'people.write')
}

const rightsOf = ({ projectId, teamId, scopes, expiresAt }: AskedKey): Rights => ({
  projectId,
  teamId: teamId ?? undefined,
  endUser: scopes.end_user,
  models: scopes.models,
  routes: scopes.routes,
  addresses: scopes.addresses,
  capabilities: scopes.capabilities,
  cacheTtlMs: scopes.cache === undefined ? undefined : scopes.cache.ttl_s * 1000,
  expiresAtMs: expiresAt === null ? undefined : Date.parse(expiresAt),
})
