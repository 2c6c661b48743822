// Everything the database knows of one API key, as one value. Owns the question to Postgres and the JSON form in which
// the directory keeps the answer; how long it may be kept is directory.ts.
import { and, eq } from 'drizzle-orm'
import * as z from 'zod'
import { late } from '../../protocol/late.ts'
import { parseStored } from '../db/json.ts'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { memberships, users } from '../db/schema/people.ts'
import { apiKeys } from '../db/schema/tenancy.ts'
import { CAPABILITIES } from '../guard/capability.ts'
import { boundProjects } from './members.ts'
import { type Principal, ROUTE_SCOPES } from './principal.ts'
import { ROLES } from './roles.ts'

/** `revoked` also where its user may not use it any more: suspended, without a role, or bound to other projects. */
export type KeyRecord = { principal: Principal; revoked: boolean }

/**
 * `scopes` of a key row: what is absent is not restricted, except that administration has to be named in `routes` and that
 * without `cache` no answer comes out of the response cache or goes in.
 */
export const KeyScopes = late(() =>
  z.strictObject({
    models: z.array(z.string()).optional(),
    routes: z.array(z.enum(ROUTE_SCOPES)).optional(),
    addresses: z.array(z.string()).optional(),
    end_user: z.string().optional(),
    capabilities: z.array(z.enum(CAPABILITIES)).optional(),
    cache: z.strictObject({ ttl_s: z.number() }).optional(),
  }),
)
export type KeyScopes = z.infer<typeof KeyScopes>

/** The key with this hash and what its user may do, in one statement. */
export async function findKey(database: Database, hash: string): Promise<KeyRecord | undefined> {
  const rows = await query(database, (db) =>
    db
      .select({ key: apiKeys, user: users, membership: memberships })
      .from(apiKeys)
      .leftJoin(users, and(eq(users.orgId, apiKeys.orgId), eq(users.userId, apiKeys.userId)))
      .leftJoin(memberships, and(eq(memberships.orgId, apiKeys.orgId), eq(memberships.userId, apiKeys.userId)))
      .where(eq(apiKeys.hash, hash)),
  )
  const [row] = rows
  if (row === undefined) return undefined
  const { key, user, membership } = row
  const scopes = parseStored(key.scopes, KeyScopes, 'api_keys.scopes')
  const projects = membership === null ? undefined : boundProjects(membership.projects)
  const isOrphaned =
    key.userId !== null &&
    (user === null || user.suspendedAt !== null || membership === null || projects?.includes(key.projectId) === false)
  const principal: Principal = {
    credential: 'key',
    orgId: key.orgId,
    projectId: key.projectId,
    keyId: key.keyId,
    ...(key.lineId === null ? {} : { keyLineId: key.lineId }),
    keyPrefix: key.prefix,
    ...(key.userId === null ? {} : { userId: key.userId }),
    ...(membership === null ? {} : { roles: [membership.role] }),
    ...(projects === undefined ? {} : { projects }),
    ...(key.teamId === null ? {} : { teamId: key.teamId }),
    ...(scopes.end_user === undefined ? {} : { endUser: scopes.end_user }),
    ...(scopes.models === undefined ? {} : { modelsAllowed: scopes.models }),
    ...(scopes.routes === undefined ? {} : { routesAllowed: scopes.routes }),
    ...(scopes.addresses === undefined ? {} : { addressesAllowed: scopes.addresses }),
    ...(scopes.capabilities === undefined ? {} : { capabilitiesAllowed: scopes.capabilities }),
    ...(scopes.cache === undefined ? {} : { cacheTtlMs: scopes.cache.ttl_s * 1000 }),
    ...(key.expiresAt === null ? {} : { expiresAtMs: Date.parse(key.expiresAt) }),
  }
  return { principal, revoked: key.revokedAt !== null || isOrphaned }
}

const StoredRecord = late(() =>
  z.object({
    revoked: z.boolean(),
    principal: z.object({
      credential: z.literal('key').default('key'),
      orgId: z.string(),
      projectId: z.string(),
      keyId: z.string(),
      keyLineId: z.string().exactOptional(),
      keyPrefix: z.string(),
      userId: z.string().exactOptional(),
      roles: z.array(z.enum(ROLES)).exactOptional(),
      projects: z.array(z.string()).exactOptional(),
      teamId: z.string().exactOptional(),
      endUser: z.string().exactOptional(),
      modelsAllowed: z.array(z.string()).exactOptional(),
      routesAllowed: z.array(z.enum(ROUTE_SCOPES)).exactOptional(),
      addressesAllowed: z.array(z.string()).exactOptional(),
      capabilitiesAllowed: z.array(z.enum(CAPABILITIES)).exactOptional(),
      cacheTtlMs: z.number().exactOptional(),
      expiresAtMs: z.number().exactOptional(),
    }),
  }),
)

/** JSON text of a record. */
export function encodeRecord(record: KeyRecord): string {
  return JSON.stringify(record)
}

/** The record of a text made by `encodeRecord`. @throws Error where it is another text. */
export function decodeRecord(text: string): KeyRecord {
  return parseStored(text, StoredRecord, 'the key directory')
}
