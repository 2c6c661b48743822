// API keys in the admin API. Owns their life: made, changed, rotated, revoked. A key's text leaves once, in the answer that
// makes it, and is stored nowhere. Fields are key-form.ts, who may do what key-rights.ts, what a key may do auth/.
import { and, desc, eq, inArray } from 'drizzle-orm'
import { Hono } from 'hono'
import { hashKey, makeKey, parseKey } from '../auth/keys.ts'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import { type Database, QueryFailed, UNIQUE_VIOLATION } from '../db/port.ts'
import { apiKeys } from '../db/schema/tenancy.ts'
import type { Env } from '../env.ts'
import { announceChanged, announceRevoked } from './announce.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, conflict, notFound } from './context.ts'
import { idParam, readInput, readQuery } from './input.ts'
import {
  KeyChange,
  KeyQuery,
  KeyRotation,
  type KeyRow,
  keyView,
  NewKey,
  requireFuture,
  scopesAfter,
  scopesOf,
} from './key-form.ts'
import { requireGrantable, requireManageable } from './key-rights.ts'
import { requireOrganisation } from './organisations.ts'
import { olderThan, pageOf } from './paging.ts'
import { boundTo } from './permissions.ts'

/** @throws Refusal 404 */
export async function requireKey(database: Database, orgId: string, keyId: string): Promise<KeyRow> {
  const [row] = await query(database, (db) => db.select().from(apiKeys).where(keyIs(orgId, keyId)))
  if (row === undefined) throw notFound('API key')
  return row
}

export const keyRoutes = new Hono<AdminEnv>()
  .post('/:org/keys', create)
  .get('/:org/keys', list)
  .get('/:org/keys/:key', async (c) => {
    const database = connect(c.env)
    return c.json(await shown(database, await requireKey(database, ...keyParams(c))))
  })
  .patch('/:org/keys/:key', change)
  .delete('/:org/keys/:key', revoke)
  .post('/:org/keys/:key/revoke', revoke)
  .post('/:org/keys/:key/rotate', rotate)

async function create(c: AdminContext) {
  const orgId = idParam(c, 'org', 'organisation')
  const input = await readInput(c, NewKey)
  const database = connect(c.env)
  await requireOrganisation(database, orgId)
  requireFuture(input.expires_at)
  const actor = c.get('actor')
  const maker = actor.kind === 'operator' ? null : actor.userId
  const scopes = scopesAfter({}, input)
  const asked = {
    orgId,
    projectId: input.project_id,
    userId: input.user_id === undefined ? maker : input.user_id,
    teamId: input.team_id ?? null,
    expiresAt: input.expires_at ?? null,
  }
  await requireGrantable(database, actor, { ...asked, scopes })
  const { text, hash, prefix } = await newText()
  const row: KeyRow = {
    ...asked,
    keyId: crypto.randomUUID(),
    name: input.name,
    hash,
    prefix,
    scopes: JSON.stringify(scopes),
    createdAt: new Date().toISOString(),
    revokedAt: null,
    rotatedFrom: null,
    lineId: null,
    madeBy: maker,
  }
  const view = keyView(row, undefined)
  await database.batch([
    toStatement(builder.insert(apiKeys).values(row)),
    audited(c, { action: 'key.create', orgId, objectId: row.keyId, details: { after: view } }),
  ])
  return c.json({ ...view, key: text }, 201, { 'cache-control': 'no-store' })
}

async function list(c: AdminContext) {
  const orgId = idParam(c, 'org', 'organisation')
  const { limit, cursor, name, project_id: projectId, user_id: userId, team_id: teamId } = readQuery(c, KeyQuery)
  const database = connect(c.env)
  await requireOrganisation(database, orgId)
  const wanted = and(
    eq(apiKeys.orgId, orgId),
    boundTo(c.get('actor'), apiKeys.projectId),
    name === undefined ? undefined : eq(apiKeys.name, name),
    projectId === undefined ? undefined : eq(apiKeys.projectId, projectId),
    userId === undefined ? undefined : eq(apiKeys.userId, userId),
    teamId === undefined ? undefined : eq(apiKeys.teamId, teamId),
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
  const successors = await successorsOf(database, orgId, rows)
  return c.json(
    pageOf(
      rows,
      limit,
      (row) => [row.createdAt, row.keyId],
      (row) => keyView(row, successors.get(row.keyId)),
    ),
  )
}

/** Safe to repeat. The key as it would be has to be within what the caller may give away, not only the change. */
async function change(c: AdminContext) {
  const [orgId, keyId] = keyParams(c)
  const input = await readInput(c, KeyChange)
  const database = connect(c.env)
  const actor = c.get('actor')
  const row = await requireKey(database, orgId, keyId)
  requireFuture(input.expires_at)
  await requireManageable(database, actor, row)
  const scopes = scopesAfter(scopesOf(row), input)
  const changed: KeyRow = {
    ...row,
    name: input.name ?? row.name,
    scopes: JSON.stringify(scopes),
    teamId: input.team_id === undefined ? row.teamId : input.team_id,
    expiresAt: input.expires_at === undefined ? row.expiresAt : input.expires_at,
  }
  await requireGrantable(database, actor, { ...changed, scopes })
  const { name, teamId, expiresAt } = changed
  const rotatedTo = (await successorsOf(database, orgId, [row])).get(keyId)
  const details = { before: keyView(row, rotatedTo), after: keyView(changed, rotatedTo) }
  await database.batch([
    toStatement(
      builder.update(apiKeys).set({ name, scopes: changed.scopes, teamId, expiresAt }).where(keyIs(orgId, keyId)),
    ),
    audited(c, { action: 'key.change', orgId, objectId: keyId, details }),
  ])
  await announceChanged(c.env, [row.hash])
  return c.json(details.after)
}

/** Safe to repeat; a repeat tells the copies again, so it also mends a revocation that was cut off half way. */
async function revoke(c: AdminContext) {
  const [orgId, keyId] = keyParams(c)
  const database = connect(c.env)
  const row = await requireKey(database, orgId, keyId)
  await requireManageable(database, c.get('actor'), row)
  const revokedAt = row.revokedAt ?? new Date().toISOString()
  if (row.revokedAt === null) {
    await database.batch([
      toStatement(builder.update(apiKeys).set({ revokedAt }).where(keyIs(orgId, keyId))),
      audited(c, { action: 'key.revoke', orgId, objectId: keyId, details: { name: row.name, prefix: row.prefix } }),
    ])
  }
  await announceRevoked(c.env, row)
  return c.json(await shown(database, { ...row, revokedAt }))
}

/**
 * A new key with the rights of the old one, which ends when the overlap does. Both are one line: they share limits and what
 * was counted. A key is replaced once: a repeated call is refused, since the new key's text cannot be shown again; rotate
 * the new one where it was lost.
 */
async function rotate(c: AdminContext) {
  const [orgId, keyId] = keyParams(c)
  const { overlap_seconds: overlapS } = await readInput(c, KeyRotation)
  const database = connect(c.env)
  const actor = c.get('actor')
  const old = await requireKey(database, orgId, keyId)
  await requireManageable(database, actor, old)
  await requireGrantable(database, actor, { ...old, scopes: scopesOf(old) })
  const nowMs = Date.now()
  if (old.revokedAt !== null || (old.expiresAt !== null && Date.parse(old.expiresAt) <= nowMs)) {
    throw conflict('The key is revoked or has expired; make a new one.')
  }
  const endsAtMs = Math.min(
    nowMs + overlapS * 1000,
    old.expiresAt === null ? Number.POSITIVE_INFINITY : Date.parse(old.expiresAt),
  )
  const ending: KeyRow = {
    ...old,
    expiresAt: new Date(endsAtMs).toISOString(),
    // Without an overlap the end is now, also for isolates that keep a copy: that is a revocation.
    revokedAt: overlapS === 0 ? new Date(nowMs).toISOString() : null,
  }
  const { text, hash, prefix } = await newText()
  const row: KeyRow = {
    ...old,
    keyId: crypto.randomUUID(),
    hash,
    prefix,
    createdAt: new Date(nowMs).toISOString(),
    rotatedFrom: keyId,
    lineId: old.lineId ?? keyId,
    madeBy: actor.kind === 'operator' ? null : actor.userId,
  }
  const { expiresAt, revokedAt } = ending
  try {
    await database.batch([
      toStatement(builder.insert(apiKeys).values(row)),
      toStatement(builder.update(apiKeys).set({ expiresAt, revokedAt }).where(keyIs(orgId, keyId))),
      audited(c, {
        action: 'key.rotate',
        orgId,
        objectId: keyId,
        details: {
          to: row.keyId,
          overlap_seconds: overlapS,
          before: { expires_at: old.expiresAt },
          after: { expires_at: expiresAt },
        },
      }),
    ])
  } catch (error) {
    if (!(error instanceof QueryFailed) || error.sqlState !== UNIQUE_VIOLATION) throw error
    throw conflict('The key was rotated already; `rotated_to` names the key that replaced it.')
  }
  const announced = await announceEnd(c.env, old, { isRevoked: revokedAt !== null })
  const answer = { ...keyView(row, undefined), key: text, replaces: keyView(ending, row.keyId), announced }
  return c.json(answer, 201, { 'cache-control': 'no-store' })
}

/**
 * Whether every part of the gateway was told. Never a failure: the answer holds the one copy of the new key's text, and
 * what was not told is noticed within a minute, or when the old key is revoked.
 */
async function announceEnd(env: Env, old: KeyRow, { isRevoked }: { isRevoked: boolean }): Promise<boolean> {
  const telling = isRevoked ? announceRevoked(env, old) : announceChanged(env, [old.hash])
  return telling.then(
    () => true,
    () => false,
  )
}

async function newText(): Promise<{ text: string; hash: string; prefix: string }> {
  const text = makeKey((count) => crypto.getRandomValues(new Uint8Array(count)))
  return { text, hash: hashKey(text), prefix: parseKey(text)?.prefix ?? '' }
}

async function shown(database: Database, row: KeyRow) {
  return keyView(row, (await successorsOf(database, row.orgId, [row])).get(row.keyId))
}

/** Key → the key that replaced it. */
async function successorsOf(database: Database, orgId: string, rows: readonly KeyRow[]): Promise<Map<string, string>> {
  const ids = rows.map(({ keyId }) => keyId)
  if (ids.length === 0) return new Map()
  const found = await query(database, (db) =>
    db
      .select({ from: apiKeys.rotatedFrom, to: apiKeys.keyId })
      .from(apiKeys)
      .where(and(eq(apiKeys.orgId, orgId), inArray(apiKeys.rotatedFrom, ids))),
  )
  return new Map(found.flatMap(({ from, to }) => (from === null ? [] : [[from, to] as const])))
}

function keyParams(c: AdminContext): [orgId: string, keyId: string] {
  return [idParam(c, 'org', 'API key'), idParam(c, 'key', 'API key')]
}

function keyIs(orgId: string, keyId: string) {
  return and(eq(apiKeys.orgId, orgId), eq(apiKeys.keyId, keyId))
}
