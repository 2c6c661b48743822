// Names for the ids that an answer holds. Owns where each kind is looked up, so that reports can be read without a call for each
// line: revoked keys, removed people and deleted teams have theirs too. Names of people are for who may see people.

import { type Permission, permits } from '../auth/roles.ts'
import { connect } from '../db/connect.ts'
import type { AdminContext } from './context.ts'

const KINDS = ['projects', 'keys', 'users', 'teams', 'backends'] as const
type Kind = (typeof KINDS)[number]
/** Absent ids are left out. */
export type Ids = Partial<Record<Kind, Iterable<string | null | undefined>>>

export type Names = {
  projects?: Record<string, string>
  keys?: Record<string, { name: string; prefix: string; revoked: boolean }>
  users?: Record<string, string>
  teams?: Record<string, string>
  backends?: Record<string, string>
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** $1 organisation, then the ids of each kind with commas between them: kind, id, name, more of it. */
const LOOK_UP = `
  SELECT 'projects', project_id::text, name, '', false FROM projects
    WHERE org_id = $1 AND project_id = ANY (string_to_array($2::text, ',')::uuid[])
  UNION ALL SELECT 'keys', key_id::text, name, prefix, revoked_at IS NOT NULL FROM api_keys
    WHERE org_id = $1 AND key_id = ANY (string_to_array($3::text, ',')::uuid[])
  UNION ALL SELECT 'users', user_id::text, name, '', false FROM users
    WHERE org_id = $1 AND user_id = ANY (string_to_array($4::text, ',')::uuid[])
  UNION ALL SELECT 'teams', team_id::text, name, '', false FROM teams
    WHERE org_id = $1 AND team_id = ANY (string_to_array($5::text, ',')::uuid[])
  UNION ALL SELECT 'teams', object_id, details::json ->> 'slug', '', true FROM audit_log
    WHERE org_id = $1 AND action = 'team.delete' AND object_id = ANY (string_to_array($5::text, ','))`

/** Kinds that nobody asked for are absent. @throws DatabaseUnavailable */
export async function namesOf(c: AdminContext, orgId: string, ids: Ids): Promise<Names> {
  const asked = new Map(
    KINDS.map((kind) => [kind, [...new Set(ids[kind] ?? [])].filter((id): id is string => UUID.test(id ?? ''))]),
  )
  if (!may(c, 'people.read')) for (const kind of ['users', 'teams'] as const) asked.set(kind, [])
  const of = (kind: Kind) => asked.get(kind) ?? []
  const names: Names = {}
  for (const kind of KINDS) if (ids[kind] !== undefined) names[kind] = {}
  const stored = (['projects', 'keys', 'users', 'teams'] as const).map((kind) => of(kind).join(','))
  const [found, backends] = await Promise.all([
    stored.every((list) => list === '')
      ? { rows: [] }
      : connect(c.env).run({ text: LOOK_UP, params: [orgId, ...stored] }),
    of('backends').length > 0 && c.get('actor').kind === 'operator' ? labels(c) : [],
  ])
  const { projects = {}, keys = {}, users = {}, teams = {}, backends: machines = {} } = names
  for (const [kind, id, name, prefix, isPast] of found.rows) {
    const [key, text] = [String(id), String(name)]
    if (kind === 'keys') keys[key] = { name: text, prefix: String(prefix), revoked: isPast === true }
    else if (kind === 'projects') projects[key] = text
    else if (kind === 'users') users[key] = text
    else if (kind === 'teams') teams[key] ??= text
  }
  const wanted = new Set(of('backends'))
  for (const [id, label] of backends) if (wanted.has(id)) machines[id] = label
  return names
}

/** What the operator called the machines; a fleet that cannot be reached leaves them without a name. */
async function labels(c: AdminContext): Promise<[id: string, label: string][]> {
  try {
    const backends = await c.env.FLEET.getByName('default').list()
    return backends.flatMap(({ backendId, label }) => (label === '' ? [] : [[backendId, label] as [string, string]]))
  } catch {
    return []
  }
}

function may(c: AdminContext, permission: Permission): boolean {
  const actor = c.get('actor')
  return actor.kind === 'operator' || permits(actor.roles, permission)
}
