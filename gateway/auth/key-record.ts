// Everything the database knows of one API key, as one value. Owns the question to Postgres and the JSON form in which
// the directory keeps the answer; how long it may be kept is directory.ts.
import { and, eq, or } from 'drizzle-orm'
import { z } from 'zod'
import type { LimitRule, LimitScope } from '../account/contract.ts'
import { parseStored } from '../db/json.ts'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { apiKeys, limits } from '../db/schema/tenancy.ts'
import type { Principal } from './principal.ts'

export type KeyRecord = { principal: Principal; revoked: boolean }

/** `scopes` of a key row: no `models` means every model. */
export const KeyScopes = z.strictObject({ models: z.array(z.string()).optional() })
export type KeyScopes = z.infer<typeof KeyScopes>

/** The key with this hash, and every limit on it, its project and its organisation; in one statement. */
export async function findKey(database: Database, hash: string): Promise<KeyRecord | undefined> {
  const applies = and(
    eq(limits.orgId, apiKeys.orgId),
    or(eq(limits.scopeId, apiKeys.orgId), eq(limits.scopeId, apiKeys.projectId), eq(limits.scopeId, apiKeys.keyId)),
  )
  const rows = await query(database, (db) =>
    db.select({ key: apiKeys, limit: limits }).from(apiKeys).leftJoin(limits, applies).where(eq(apiKeys.hash, hash)),
  )
  const key = rows[0]?.key
  if (key === undefined) return undefined
  const scopes = parseStored(key.scopes, KeyScopes, 'api_keys.scopes')
  const principal: Principal = {
    orgId: key.orgId,
    projectId: key.projectId,
    keyId: key.keyId,
    keyPrefix: key.prefix,
    limits: rows.flatMap(({ limit }) => (limit === null ? [] : [limitRule(limit)])),
    ...(scopes.models === undefined ? {} : { modelsAllowed: scopes.models }),
    ...(key.expiresAt === null ? {} : { expiresAtMs: Date.parse(key.expiresAt) }),
  }
  return { principal, revoked: key.revokedAt !== null }
}

export type LimitRow = typeof limits.$inferSelect

/** A row as the account's rule. @throws Error for a row that the table's CHECKs exclude. */
export function limitRule(row: LimitRow): LimitRule {
  const rule = Limit.safeParse({
    scope: row.scope,
    scopeId: row.scopeId,
    meter: row.meter,
    ...(row.meter === 'concurrency' ? {} : { window: row.timeWindow }),
    ...(row.meter === 'money' ? { maxNanoUsd: row.maxNanoUsd } : { max: Number(row.maxCount) }),
  })
  if (!rule.success) throw new Error(`a row of limits has an unknown shape (${row.meter}, ${row.timeWindow})`)
  return rule.data
}

/** A rule as a row. */
export function limitRow(orgId: string, rule: LimitRule): LimitRow {
  const place = { orgId, scope: rule.scope, scopeId: rule.scopeId, meter: rule.meter }
  switch (rule.meter) {
    case 'requests':
      return { ...place, timeWindow: rule.window, maxCount: BigInt(rule.max), maxNanoUsd: null }
    case 'concurrency':
      return { ...place, timeWindow: 'none', maxCount: BigInt(rule.max), maxNanoUsd: null }
    case 'money':
      return { ...place, timeWindow: rule.window, maxCount: null, maxNanoUsd: rule.maxNanoUsd }
    default:
      return rule satisfies never
  }
}

const SCOPES = ['org', 'project', 'key'] as const satisfies readonly LimitScope[]
const scopeOf = { scope: z.enum(SCOPES), scopeId: z.string() }
const count = z.number().int().nonnegative()
const Limit = z.discriminatedUnion('meter', [
  z.object({ ...scopeOf, meter: z.literal('requests'), window: z.enum(['minute', 'hour', 'day']), max: count }),
  z.object({ ...scopeOf, meter: z.literal('concurrency'), max: count }),
  z.object({
    ...scopeOf,
    meter: z.literal('money'),
    window: z.enum(['day', 'month', 'lifetime']),
    // A bigint in a row; a decimal string in JSON.
    maxNanoUsd: z.union([z.bigint(), z.string().regex(/^\d{1,19}$/)]).transform(BigInt),
  }),
])

const StoredRecord = z.object({
  revoked: z.boolean(),
  principal: z.object({
    orgId: z.string(),
    projectId: z.string(),
    keyId: z.string(),
    keyPrefix: z.string(),
    modelsAllowed: z.array(z.string()).exactOptional(),
    expiresAtMs: z.number().exactOptional(),
    limits: z.array(Limit),
  }),
})

/** JSON text of a record; amounts as decimal strings. */
export function encodeRecord(record: KeyRecord): string {
  return JSON.stringify(record, (_, value: unknown) => (typeof value === 'bigint' ? value.toString() : value))
}

/** The record of a text made by `encodeRecord`. @throws Error where it is another text. */
export function decodeRecord(text: string): KeyRecord {
  return parseStored(text, StoredRecord, 'the key directory')
}
