// API keys in the words of the admin API. Owns the fields a caller sends, the stored form of scopes, and what is shown of
// a key; the text of a key is no part of it.
import * as z from 'zod'
import { MAX_END_USER_CHARS } from '../../protocol/request.ts'
import { parseNetwork } from '../auth/addresses.ts'
import { KeyScopes } from '../auth/key-record.ts'
import { ROUTE_SCOPES } from '../auth/principal.ts'
import { parseStored } from '../db/json.ts'
import type { apiKeys } from '../db/schema/tenancy.ts'
import { CAPABILITIES, CAPABILITIES_MAX } from '../guard/capability.ts'
import { ModelName } from '../policy/targets.ts'
import { invalid } from './context.ts'
import { DisplayName, Instant } from './input.ts'
import { pageParameters } from './paging.ts'

const MODELS_MAX = 100
const ADDRESSES_MAX = 100
const DAY_S = 24 * 3600
/** Long enough for any roll-out; beyond it the old key is not being replaced. */
const OVERLAP_MAX_S = 30 * DAY_S

/** Beyond a month an answer is a document, not a copy of one. */
const CACHE_TTL_MAX_S = 30 * DAY_S

export type KeyRow = typeof apiKeys.$inferSelect

const Id = z.uuid().toLowerCase()
const Network = z
  .string()
  .max(50)
  .refine(
    (text) => parseNetwork(text) !== undefined,
    'must be an IP address or a network such as 10.0.0.0/8 or 2001:db8::/32',
  )

/** Null means unrestricted; an empty list allows nothing. */
const scopeFields = {
  models: z.array(ModelName).max(MODELS_MAX).nullish(),
  /** Null: all but "admin". */
  routes: z.array(z.enum(ROUTE_SCOPES)).max(ROUTE_SCOPES.length).nullish(),
  addresses: z.array(Network).max(ADDRESSES_MAX).nullish(),
  /** Every request counts for this end user, whatever it says itself. */
  end_user: z
    .string()
    .regex(/^\P{Cc}+$/u, 'must not be empty or hold control characters')
    .max(MAX_END_USER_CHARS)
    .nullish(),
  /** What the tools of its requests may reach. Null: any two, request by request. */
  capabilities: z
    .array(z.enum(CAPABILITIES))
    .max(CAPABILITIES_MAX, `must name at most ${CAPABILITIES_MAX} of ${CAPABILITIES.join(', ')}`)
    .refine((all) => new Set(all).size === all.length, 'must not name a capability twice')
    .nullish(),
  /** How old an answer out of the response cache may be. Null: no cache. */
  cache: z.strictObject({ ttl_s: z.int().min(1).max(CACHE_TTL_MAX_S) }).nullish(),
}

export const NewKey = z.strictObject({
  project_id: Id,
  name: DisplayName,
  ...scopeFields,
  /** Absent or null: never. */
  expires_at: Instant.nullish(),
  /** Absent: the caller's own, where it is a user. Null: nobody's, the project's own. */
  user_id: Id.nullish(),
  team_id: Id.nullish(),
})

export const KeyChange = z.strictObject({
  name: DisplayName.optional(),
  ...scopeFields,
  expires_at: Instant.nullable().optional(),
  team_id: Id.nullish(),
})

export const KeyRotation = z.strictObject({
  /** How long the old key goes on working. */
  overlap_seconds: z.int().min(0).max(OVERLAP_MAX_S),
})

export const KeyQuery = z.strictObject({
  ...pageParameters,
  name: z.string().max(200).optional(),
  project_id: Id.optional(),
  user_id: Id.optional(),
  team_id: Id.optional(),
})

type ScopeInput = z.infer<z.ZodObject<typeof scopeFields>>

/** The scopes after a change: what is absent stays as it was, null lifts a restriction. */
export function scopesAfter(
  before: KeyScopes,
  { models, routes, addresses, end_user: endUser, capabilities, cache }: ScopeInput,
): KeyScopes {
  const after: KeyScopes = {
    models: models === undefined ? before.models : (models ?? undefined),
    routes: routes === undefined ? before.routes : (routes ?? undefined),
    addresses: addresses === undefined ? before.addresses : (addresses ?? undefined),
    end_user: endUser === undefined ? before.end_user : (endUser ?? undefined),
    capabilities: capabilities === undefined ? before.capabilities : (capabilities ?? undefined),
    cache: cache === undefined ? before.cache : (cache ?? undefined),
  }
  return after
}

export const scopesOf = (row: Pick<KeyRow, 'scopes'>): KeyScopes =>
  parseStored(row.scopes, KeyScopes, 'api_keys.scopes')

/** @throws Refusal */
export function requireFuture(expiresAt: string | null | undefined): void {
  if (typeof expiresAt === 'string' && Date.parse(expiresAt) <= Date.now()) {
    throw invalid('expires_at', 'must be in the future; revoke a key to end it now')
  }
}

/** @param replacedBy Id of the key that replaced it. */
export function keyView(row: KeyRow, replacedBy: string | undefined) {
  const scopes = scopesOf(row)
  return {
    id: row.keyId,
    org_id: row.orgId,
    project_id: row.projectId,
    user_id: row.userId,
    team_id: row.teamId,
    name: row.name,
    prefix: row.prefix,
    models: scopes.models ?? null,
    routes: scopes.routes ?? null,
    addresses: scopes.addresses ?? null,
    end_user: scopes.end_user ?? null,
    capabilities: scopes.capabilities ?? null,
    cache: scopes.cache ?? null,
    created_at: row.createdAt,
    /** The user who made it; null: the operator. */
    made_by: row.madeBy,
    expires_at: row.expiresAt,
    revoked_at: row.revokedAt,
    rotated_from: row.rotatedFrom,
    rotated_to: replacedBy ?? null,
  }
}
