// What each admin route needs. Owns the table of permissions and the one check in front of every handler: a route that
// is not in the table is closed to everybody, and a member reaches its own organisation only. What a role permits is
// auth/roles.ts; which rows of a list a project's developer sees is the handler's.
import { type AnyColumn, and, eq, inArray, type SQL } from 'drizzle-orm'
import { createMiddleware } from 'hono/factory'
import { matchedRoutes } from 'hono/route'
import * as z from 'zod'
import type { Actor, Member } from '../auth/actor.ts'
import { covers, type Permission, permits, type Role } from '../auth/roles.ts'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import { apiKeys } from '../db/schema/tenancy.ts'
import { ADMIN_PREFIX, isAdminPath } from '../routes/access.ts'
import { type AdminContext, type AdminEnv, invalid, notFound, Refusal } from './context.ts'

/** `METHOD /pattern`, as the admin app registers it. `operator` is the deployment's operator alone. */
export const ADMIN_ROUTES: Readonly<Record<string, Permission>> = {
  'POST /organisations': 'operator',
  'GET /organisations': 'organisation.read',
  'GET /organisations/:org': 'organisation.read',
  'POST /organisations/:org/projects': 'projects.write',
  'GET /organisations/:org/projects': 'projects.read',
  'GET /organisations/:org/projects/:project': 'projects.read',

  'POST /organisations/:org/keys': 'keys.write',
  'GET /organisations/:org/keys': 'keys.read',
  'GET /organisations/:org/keys/:key': 'keys.read',
  'PATCH /organisations/:org/keys/:key': 'keys.write',
  'DELETE /organisations/:org/keys/:key': 'keys.write',
  'POST /organisations/:org/keys/:key/revoke': 'keys.write',
  'POST /organisations/:org/keys/:key/rotate': 'keys.write',

  'POST /organisations/:org/users': 'people.write',
  'GET /organisations/:org/users': 'people.read',
  'GET /organisations/:org/users/:user': 'people.read',
  'PATCH /organisations/:org/users/:user': 'people.write',
  'PUT /organisations/:org/users/:user/membership': 'people.write',
  'DELETE /organisations/:org/users/:user/membership': 'people.write',

  'POST /organisations/:org/service-accounts': 'people.write',
  'GET /organisations/:org/service-accounts': 'people.read',

  'POST /organisations/:org/teams': 'people.write',
  'GET /organisations/:org/teams': 'people.read',
  'GET /organisations/:org/teams/:team': 'people.read',
  'PATCH /organisations/:org/teams/:team': 'people.write',
  'DELETE /organisations/:org/teams/:team': 'people.write',
  'GET /organisations/:org/teams/:team/members': 'people.read',
  'PUT /organisations/:org/teams/:team/members/:user': 'people.write',
  'DELETE /organisations/:org/teams/:team/members/:user': 'people.write',

  'POST /organisations/:org/issuers': 'issuers.write',
  'GET /organisations/:org/issuers': 'issuers.read',
  'GET /organisations/:org/issuers/:issuer': 'issuers.read',
  'PATCH /organisations/:org/issuers/:issuer': 'issuers.write',
  'DELETE /organisations/:org/issuers/:issuer': 'issuers.write',
  'PUT /organisations/:org/issuers/:issuer/sign-in-client': 'issuers.write',
  'GET /organisations/:org/issuers/:issuer/sign-in-client': 'issuers.read',
  'DELETE /organisations/:org/issuers/:issuer/sign-in-client': 'issuers.write',

  'PUT /organisations/:org/guard-hooks': 'guards.write',
  'GET /organisations/:org/guard-hooks': 'guards.read',
  'PUT /organisations/:org/tool-capabilities': 'guards.write',
  'GET /organisations/:org/tool-capabilities': 'guards.read',
  'DELETE /organisations/:org/answer-cache': 'guards.write',

  'PUT /organisations/:org/limits': 'limits.write',
  'GET /organisations/:org/limits': 'limits.read',
  'PUT /organisations/:org/projects/:project/limits': 'limits.write',
  'GET /organisations/:org/projects/:project/limits': 'limits.read',
  'PUT /organisations/:org/keys/:key/limits': 'limits.write',
  'GET /organisations/:org/keys/:key/limits': 'limits.read',
  'PUT /organisations/:org/teams/:team/limits': 'limits.write',
  'GET /organisations/:org/teams/:team/limits': 'limits.read',
  'PUT /organisations/:org/users/:user/limits': 'limits.write',
  'GET /organisations/:org/users/:user/limits': 'limits.read',
  'PUT /organisations/:org/end-users/:end_user/limits': 'limits.write',
  'GET /organisations/:org/end-users/:end_user/limits': 'limits.read',
  'GET /organisations/:org/limit-events': 'limits.read',
  'GET /organisations/:org/limits/state': 'limits.read',
  'GET /organisations/:org/key-use': 'keys.read',
  'GET /organisations/:org/statements': 'ledger.read',
  'GET /organisations/:org/statements/:month': 'ledger.read',

  // What an organisation may owe is for the operator to say: nobody gives credit to themselves.
  'GET /organisations/:org/credit': 'credit.read',
  'POST /organisations/:org/credit/grants': 'operator',
  'GET /organisations/:org/credit/grants': 'credit.read',
  'PATCH /organisations/:org/billing': 'operator',

  'POST /organisations/:org/markups': 'operator',
  'GET /organisations/:org/markups': 'prices.read',
  'POST /prices': 'operator',
  'POST /prices/import': 'operator',
  'POST /prices/self-hosted': 'operator',
  'GET /prices': 'prices.read',

  // Routing, upstreams and machines are the deployment's; a tenant sees its models at /v1/models.
  'GET /models': 'operator',
  'GET /models/:name{.+}': 'operator',
  'PUT /models/:name{.+}': 'operator',
  'DELETE /models/:name{.+}': 'operator',
  'GET /providers': 'operator',
  'GET /providers/health': 'operator',
  'GET /providers/:name': 'operator',
  'PUT /providers/:name': 'operator',
  'DELETE /providers/:name': 'operator',
  'GET /providers/:name/keys': 'operator',
  'GET /providers/:name/keys/:key': 'operator',
  'PUT /providers/:name/keys/:key': 'operator',
  'DELETE /providers/:name/keys/:key': 'operator',
  'GET /config': 'operator',
  'GET /config/schema': 'operator',
  'GET /config/diff': 'operator',
  'GET /config/versions': 'operator',
  'GET /config/versions/:version': 'operator',
  'POST /config/apply': 'operator',
  'POST /config/rollback': 'operator',
  'POST /backends/tokens': 'operator',
  'GET /backends': 'operator',
  'GET /backends/events': 'operator',
  'PATCH /backends/:id': 'operator',
  'DELETE /backends/:id': 'operator',

  'GET /usage': 'usage.read',
  'GET /usage/requests': 'usage.read',
  'GET /usage/tags': 'usage.read',
  'GET /usage/client-reported': 'usage.read',
  'GET /usage/requests/:id': 'usage.read',
  // What others wrote is for whoever answers for the organisation.
  'GET /usage/requests/:id/text': 'audit.read',
  'GET /usage/export': 'usage.read',
  'GET /usage/rollup': 'usage.read',
  'POST /usage/rollup': 'operator',
  'GET /ledger/check': 'ledger.read',
  'GET /ledger/entries': 'ledger.read',
  'GET /ledger/export': 'ledger.read',
  'GET /audit': 'audit.read',
  'GET /audit/export': 'audit.read',

  // Everybody sees who they are, and their own sessions; those of others are for the handlers to judge.
  'GET /session': 'organisation.read',
  'GET /sessions': 'organisation.read',
  'DELETE /sessions/:session': 'organisation.read',
  'POST /sign-in-links': 'people.write',
}

/** Permitted routes that name no organisation: the same for all, or filtered by their handler. */
const WITHOUT_ORGANISATION: ReadonlySet<string> = new Set([
  'GET /organisations',
  'GET /prices',
  'GET /session',
  'GET /sessions',
  'DELETE /sessions/:session',
  'POST /sign-in-links',
])

/**
 * Routes without a project or key in their path whose handlers look at `Member.projects` themselves. All others without
 * one are closed to whoever is bound to some projects.
 */
const WITHIN_PROJECTS: ReadonlySet<string> = new Set([
  'GET /organisations',
  'GET /organisations/:org',
  'GET /organisations/:org/projects',
  'GET /organisations/:org/keys',
  'POST /organisations/:org/keys',
  'GET /usage/requests/:id',
  'GET /usage/requests/:id/text',
  'GET /organisations/:org/key-use',
  'GET /session',
  'GET /sessions',
  'DELETE /sessions/:session',
])
/** Query parameters by which routes name their organisation. */
const ORGANISATION_PARAMETERS = ['org', 'org_id'] as const

/** Lets pass who has the permission of every route that would answer. */
export const authorise = createMiddleware<AdminEnv>(async (c, next) => {
  const actor = c.get('actor')
  for (const route of routesAhead(c)) {
    const permission = Object.hasOwn(ADMIN_ROUTES, route) ? ADMIN_ROUTES[route] : undefined
    if (permission === undefined) throw denied('This route has no permission and is closed to everybody.')
    if (actor.kind === 'operator') continue
    requirePermission(actor, permission)
    requireOwnOrganisation(c, actor, route)
    await requireOwnProject(c, actor, route)
  }
  await next()
})

/** @throws Refusal 403 */
export function requirePermission(actor: Actor, permission: Permission): void {
  if (actor.kind === 'operator' || permits(actor.roles, permission)) return
  const needed = permission === 'operator' ? "the operator's token" : `the permission ${permission}`
  throw denied(`This needs ${needed}, which your role (${actor.roles.join(' within ')}) does not have.`)
}

/** For rows found by an id alone: hides those of other projects from who is bound to some. @throws Refusal 404 */
export function requireVisibleProject(actor: Actor, projectId: string, what: string): void {
  if (!seesProject(actor, projectId)) throw notFound(what)
}

export const seesProject = (actor: Actor, projectId: string): boolean =>
  actor.kind === 'operator' || actor.projects === undefined || actor.projects.includes(projectId)

/** For lists: the condition on a column of project ids that hides what the actor is not bound to. */
export function boundTo(actor: Actor, projectId: AnyColumn): SQL | undefined {
  return actor.kind === 'operator' || actor.projects === undefined ? undefined : inArray(projectId, [...actor.projects])
}

/** Whether the actor may give this role away, or act on who has it. @throws Refusal 403 */
export function requireCover(actor: Actor, role: Role): void {
  if (actor.kind === 'operator' || covers(actor.roles, role)) return
  throw denied(
    `Your role (${actor.roles.join(' within ')}) does not cover the role ${role}: nobody grants more than they have.`,
  )
}

export const denied = (message: string): Refusal => new Refusal({ code: 'permission_denied', message })

/** The layers that every admin request passes, here and in the app that mounts this one. */
const LAYERS: ReadonlySet<string> = new Set(['/*', `${ADMIN_PREFIX}/*`])

/** `METHOD /pattern` of all that would handle the request. A handler for all methods counts: it is in no table. */
function routesAhead(c: AdminContext): string[] {
  return matchedRoutes(c)
    .filter(({ method, path }) => !(method === 'ALL' && LAYERS.has(path)))
    .map(({ method, path }) => `${method} ${belowPrefix(path)}`)
}

const belowPrefix = (path: string): string => (isAdminPath(path) ? path.slice(ADMIN_PREFIX.length) : path)

/** The values of the pattern's parameters, as they stand in the address: an escaped id names nothing. */
function pathParameters(c: AdminContext, route: string): Map<string, string> {
  const pattern = (route.split(' ')[1] ?? '').split('/')
  const path = belowPrefix(c.req.path).split('/')
  return new Map(
    pattern.flatMap((part, index) =>
      part.startsWith(':') ? [[part.slice(1), (path[index] ?? '').toLowerCase()]] : [],
    ),
  )
}

/** Another organisation looks as if it were not there. @throws Refusal */
function requireOwnOrganisation(c: AdminContext, actor: Member, route: string): void {
  if (WITHOUT_ORGANISATION.has(route)) return
  const inPath = pathParameters(c, route).get('org')
  const inQuery = ORGANISATION_PARAMETERS.flatMap((name) => c.req.queries(name) ?? []).map((id) => id.toLowerCase())
  const named = inPath === undefined ? inQuery : [inPath, ...inQuery]
  if (named.length === 0) throw invalid('org', 'is missing: name your organisation')
  if (named.some((id) => id !== actor.orgId)) throw notFound('organisation')
}

/** Whoever is bound to some projects reaches those, and what says which project it is of. @throws Refusal */
async function requireOwnProject(c: AdminContext, actor: Member, route: string): Promise<void> {
  if (actor.projects === undefined || WITHIN_PROJECTS.has(route)) return
  const parameters = pathParameters(c, route)
  const project = parameters.get('project')
  const key = parameters.get('key')
  if (project !== undefined) return requireVisibleProject(actor, project, 'project')
  if (key !== undefined) return requireVisibleProject(actor, await projectOfKey(c, actor.orgId, key), 'API key')
  const asked = c.req.queries('project') ?? []
  if (!route.startsWith('GET /usage'))
    throw denied('This concerns the whole organisation, and you are bound to some of its projects.')
  if (asked.length === 0) throw invalid('project', 'is missing: name one of your projects')
  for (const id of asked) requireVisibleProject(actor, id.toLowerCase(), 'project')
}

/** Empty where there is no such key: that is nobody's project. */
async function projectOfKey(c: AdminContext, orgId: string, keyId: string): Promise<string> {
  if (!z.uuid().safeParse(keyId).success) return ''
  const [row] = await query(connect(c.env), (db) =>
    db
      .select({ projectId: apiKeys.projectId })
      .from(apiKeys)
      .where(and(eq(apiKeys.orgId, orgId), eq(apiKeys.keyId, keyId))),
  )
  return row?.projectId ?? ''
}
