// API keys in the admin API. Owns their HTTP form: a key's text leaves once, in the answer that creates it, and is
// stored nowhere; what a key may do is auth/.
import { and, desc, eq } from 'drizzle-orm'
import { Hono } from 'hono'
import { z } from 'zod'
import { KeyScopes } from '../auth/key-record.ts'
import { hashKey, makeKey, parseKey } from '../auth/keys.ts'
import { connect } from '../db/connect.ts'
import { parseStored } from '../db/json.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { apiKeys } from '../db/schema/tenancy.ts'
import { ModelName } from '../policy/targets.ts'
import { announceChanged, announceRevoked } from './announce.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, invalid, notFound } from './context.ts'
import { DisplayName, Instant, idParam, readInput, readQuery } from './input.ts'
import { findProject, requireOrganisation } from './organisations.ts'
import { olderThan, pageOf, pageParameters } from './paging.ts'

const KEY_MODELS_MAX = 100

const Models = z.array(ModelName).max(KEY_MODELS_MAX)
const NewKey = z.strictObject({
  project_id: z.uuid().toLowerCase(),
  name: DisplayName,
  /** Absent or null: every model. Empty: none. */
  models: Models.nullish(),
  /** Absent or null: never. */
  expires_at: Instant.nullish(),
})
const KeyChange = z.strictObject({ models: Models.nullable().optional(), expires_at: Instant.nullable().optional() })
const KeyQuery = z.strictObject({
  ...pageParameters,
  name: z.string().max(200).optional(),
  project_id: z.uuid().optional(),
})

type KeyRow = typeof apiKeys.$inferSelect

/** @throws Refusal 404 */
export async function requireKey(database: Database, orgId: string, keyId: string): Promise<KeyRow> {
  const [row] = await query(database, (db) => db.select().from(apiKeys).where(keyIs(orgId, keyId)))
  if (row === undefined) throw notFound('API key')
  return row
}

export const keyRoutes = new Hono<AdminEnv>()
  .post('/:org/keys', async (c) => {
    const orgId = idParam(c, 'org', 'organisation')
    const input = await readInput(c, NewKey)
    const database = connect(c.env)
    await requireOrganisation(database, orgId)
    if ((await findProject(database, orgId, input.project_id)) === undefined) {
      throw invalid('project_id', 'is not a project of this organisation')
    }
    requireFuture(input.expires_at)
    const text = makeKey((count) => crypto.getRandomValues(new Uint8Array(count)))
    const row: KeyRow = {
      orgId,
      keyId: crypto.randomUUID(),
      projectId: input.project_id,
      name: input.name,
      hash: await hashKey(text),
      prefix: parseKey(text)?.prefix ?? '',
      scopes: scopesText(input.models),
      createdAt: new Date().toISOString(),
      expiresAt: input.expires_at ?? null,
      revokedAt: null,
    }
    const { name, prefix, projectId } = row
    const details = { name, prefix, project_id: projectId, models: input.models ?? null, expires_at: row.expiresAt }
    await database.batch([
      toStatement(builder.insert(apiKeys).values(row)),
      audited(c, { action: 'key.create', orgId, objectId: row.keyId, details }),
    ])
    return c.json({ ...keyView(row), key: text }, 201, { 'cache-control': 'no-store' })
  })
  .get('/:org/keys', async (c) => {
    const orgId = idParam(c, 'org', 'organisation')
    const { limit, cursor, name, project_id: projectId } = readQuery(c, KeyQuery)
    const database = connect(c.env)
    await requireOrganisation(database, orgId)
    const wanted = and(
      eq(apiKeys.orgId, orgId),
      name === undefined ? undefined : eq(apiKeys.name, name),
      projectId === undefined ? undefined : eq(apiKeys.projectId, projectId),
      olderThan(cursor, apiKeys.createdAt, apiKeys.keyId),
    )
    const rows = await query(database, (db) =>
      db
        .select()
        .from(apiKeys)
        .where(wanted)
        .orderBy(desc(apiKeys.createdAt), desc(apiKeys.keyId))
        .limit(limit + 1),
    )
    return c.json(pageOf(rows, limit, (row) => [row.createdAt, row.keyId], keyView))
  })
  .get('/:org/keys/:key', async (c) => c.json(keyView(await requireKey(connect(c.env), ...keyParams(c)))))
  .patch('/:org/keys/:key', async (c) => {
    const [orgId, keyId] = keyParams(c)
    const input = await readInput(c, KeyChange)
    const database = connect(c.env)
    const row = await requireKey(database, orgId, keyId)
    requireFuture(input.expires_at)
    const changed: KeyRow = {
      ...row,
      scopes: input.models === undefined ? row.scopes : scopesText(input.models),
      expiresAt: input.expires_at === undefined ? row.expiresAt : input.expires_at,
    }
    const { scopes, expiresAt } = changed
    await database.batch([
      toStatement(builder.update(apiKeys).set({ scopes, expiresAt }).where(keyIs(orgId, keyId))),
      audited(c, { action: 'key.change', orgId, objectId: keyId, details: input }),
    ])
    await announceChanged(c.env, [row.hash])
    return c.json(keyView(changed))
  })
  .delete('/:org/keys/:key', revoke)
  .post('/:org/keys/:key/revoke', revoke)

/** Safe to repeat; a repeat tells the copies again, so it also mends a revocation that was cut off half way. */
async function revoke(c: AdminContext) {
  const [orgId, keyId] = keyParams(c)
  const database = connect(c.env)
  const row = await requireKey(database, orgId, keyId)
  const revokedAt = row.revokedAt ?? new Date().toISOString()
  if (row.revokedAt === null) {
    await database.batch([
      toStatement(builder.update(apiKeys).set({ revokedAt }).where(keyIs(orgId, keyId))),
      audited(c, { action: 'key.revoke', orgId, objectId: keyId, details: { name: row.name, prefix: row.prefix } }),
    ])
  }
  await announceRevoked(c.env, row)
  return c.json(keyView({ ...row, revokedAt }))
}

function keyView(row: KeyRow) {
  return {
    id: row.keyId,
    org_id: row.orgId,
    project_id: row.projectId,
    name: row.name,
    prefix: row.prefix,
    models: parseStored(row.scopes, KeyScopes, 'api_keys.scopes').models ?? null,
    created_at: row.createdAt,
    expires_at: row.expiresAt,
    revoked_at: row.revokedAt,
  }
}

function keyParams(c: AdminContext): [orgId: string, keyId: string] {
  return [idParam(c, 'org', 'API key'), idParam(c, 'key', 'API key')]
}

function keyIs(orgId: string, keyId: string) {
  return and(eq(apiKeys.orgId, orgId), eq(apiKeys.keyId, keyId))
}

function scopesText(models: string[] | null | undefined): string {
  const scopes: KeyScopes = models === null || models === undefined ? {} : { models }
  return JSON.stringify(scopes)
}

function requireFuture(expiresAt: string | null | undefined): void {
  if (typeof expiresAt === 'string' && Date.parse(expiresAt) <= Date.now()) {
    throw invalid('expires_at', 'must be in the future; revoke a key to end it now')
  }
}
