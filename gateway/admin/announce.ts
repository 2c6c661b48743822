// Tells the copies of a key that it changed. Owns the order: the change is committed first, then every durable copy is
// told, then this isolate's; other isolates follow within their own bound. All of it is safe to repeat.
import { and, asc, eq, gt, isNull, type SQL } from 'drizzle-orm'
import { forgetKeys } from '../auth/authenticate.ts'
import { directoryName } from '../auth/directory.ts'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { apiKeys } from '../db/schema/tenancy.ts'
import type { Env } from '../env.ts'
import { Refusal } from './context.ts'

const KEYS_PER_PAGE = 1_000
/** Beyond this many keys under one limit the rest notices by itself, within the directory's minute. */
const KEYS_TOLD_MAX = 20_000

export type KeyIdentity = { orgId: string; keyId: string; hash: string }

/** The key is refused from the next reservation on. @throws Refusal where a copy could not be told: repeat the call. */
export async function announceRevoked(env: Env, key: KeyIdentity): Promise<void> {
  await told([
    env.ACCOUNT.getByName(key.orgId).setKeyRevoked(key.keyId, true),
    env.DIRECTORY.getByName(directoryName(key.hash)).revoke(key.hash),
  ])
  forgetKeys([key.hash])
}

/** What these keys may do changed. @throws Refusal as above. */
export async function announceChanged(env: Env, hashes: readonly string[]): Promise<void> {
  const byDirectory = Map.groupBy(hashes, directoryName)
  await told([...byDirectory].map(([name, some]) => env.DIRECTORY.getByName(name).invalidate(some)))
  forgetKeys(hashes)
}

/** Everything under a scope changed: all its live keys are told. @param scope Condition on `api_keys`. */
export async function announceScopeChanged(env: Env, database: Database, scope: SQL | undefined): Promise<void> {
  let last: string | undefined
  for (let count = 0; count < KEYS_TOLD_MAX; count += KEYS_PER_PAGE) {
    const unseen = last === undefined ? undefined : gt(apiKeys.keyId, last)
    const page = await query(database, (db) =>
      db
        .select({ keyId: apiKeys.keyId, hash: apiKeys.hash })
        .from(apiKeys)
        .where(and(scope, isNull(apiKeys.revokedAt), unseen))
        .orderBy(asc(apiKeys.keyId))
        .limit(KEYS_PER_PAGE),
    )
    const hashes = page.map(({ hash }) => hash)
    await announceChanged(env, hashes)
    last = page.at(-1)?.keyId
    if (page.length < KEYS_PER_PAGE) return
  }
}

/** Condition for `announceScopeChanged`: the keys of an organisation. */
export const keysOfOrg = (orgId: string): SQL => eq(apiKeys.orgId, orgId)

async function told(messages: Promise<void>[]): Promise<void> {
  const outcomes = await Promise.allSettled(messages)
  if (outcomes.every(({ status }) => status === 'fulfilled')) return
  throw new Refusal({
    code: 'unavailable',
    message: 'The change is stored, but not every part of the gateway could be told yet. Repeat the call.',
    retryAfterMs: 1_000,
  })
}
