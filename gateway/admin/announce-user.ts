// Tells the gateway's copies that a user may do something else now. Owns which credentials that concerns: the user's
// tokens, the keys that belong to it, and browsers that it is signed in with. The change is committed first; all of this is safe to repeat.
import { and, asc, eq, gt, isNull } from 'drizzle-orm'
import { forgetIssuers } from '../auth/issuers.ts'
import { forgetTokens } from '../auth/token.ts'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { apiKeys } from '../db/schema/tenancy.ts'
import type { Env } from '../env.ts'
import { announceChanged, told } from './announce.ts'

const KEYS_PER_PAGE = 500
/** Beyond this many keys of one user the rest notices by itself, within the directory's minute. */
const KEYS_TOLD_MAX = 20_000

/**
 * @param isActive Whether the user may still act at all; if not, its credentials are refused from the next reservation on.
 * @throws Refusal where a copy could not be told: repeat the call.
 */
export async function announceUser(
  env: Env,
  database: Database,
  user: { orgId: string; userId: string },
  isActive: boolean,
): Promise<void> {
  const { orgId, userId } = user
  forgetTokens()
  // They count for nothing already; a user who is let in again later has to sign in again.
  if (!isActive)
    for (const table of ['dashboard_sessions', 'sign_in_links']) {
      await database.run({ text: `DELETE FROM ${table} WHERE org_id = $1 AND user_id = $2`, params: [orgId, userId] })
    }
  const account = env.ACCOUNT.getByName(orgId)
  // A token's reservations carry the user's id where a key's carry the key's.
  await told([account.setKeyRevoked(userId, !isActive)])
  let last: string | undefined
  for (let count = 0; count < KEYS_TOLD_MAX; count += KEYS_PER_PAGE) {
    const unseen = last === undefined ? undefined : gt(apiKeys.keyId, last)
    const page = await query(database, (db) =>
      db
        .select({ keyId: apiKeys.keyId, hash: apiKeys.hash })
        .from(apiKeys)
        .where(and(eq(apiKeys.orgId, orgId), eq(apiKeys.userId, userId), isNull(apiKeys.revokedAt), unseen))
        .orderBy(asc(apiKeys.keyId))
        .limit(KEYS_PER_PAGE),
    )
    await told(page.map(({ keyId }) => account.setKeyRevoked(keyId, !isActive)))
    await announceChanged(
      env,
      page.map(({ hash }) => hash),
    )
    last = page.at(-1)?.keyId
    if (page.length < KEYS_PER_PAGE) return
  }
}

/** Issuers, or who is in which team, changed: this isolate's verdicts are made anew, others' within their own bound. */
export function announceTokens(): void {
  forgetIssuers()
  forgetTokens()
}
