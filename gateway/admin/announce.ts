// Tells the copies of keys and rules that they changed. Owns the order: the change is committed first, then every durable copy is
// told, then this isolate's; other isolates follow within their own bound. All of it is safe to repeat.
import { forgetKeys } from '../auth/authenticate.ts'
import { directoryName } from '../auth/directory.ts'
import { connect } from '../db/connect.ts'
import type { Statement } from '../db/port.ts'
import type { Env } from '../env.ts'
import { PostgresRecord } from '../ledger/postgres-record.ts'
import { Refusal } from './context.ts'
import { forgetLimits } from './limit-readings.ts'

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

/**
 * Limits or credit changed: the account has the new rules before the answer goes out. Where it cannot be told it finds
 * them by itself within a minute.
 * @throws Refusal as above
 */
export async function announceRules(env: Env, orgId: string): Promise<void> {
  const tell = async () => {
    const book = await new PostgresRecord(connect(env)).readRules(orgId)
    await env.ACCOUNT.getByName(orgId).setRules(book)
  }
  // Both before and after: what is read in between may be of either.
  forgetLimits(orgId)
  await told([tell()])
  forgetLimits(orgId)
}

/**
 * The rules of an organisation have a new version: belongs, as the first statement, into every batch that changes its
 * limits or its credit. It also makes such batches wait for each other. A version is at least the time in milliseconds, so
 * that a change made after an older state of the database was restored is newer than all that accounts have seen.
 */
export const bumpRules = (orgId: string): Statement => ({
  text: `INSERT INTO rule_books (org_id, version) VALUES ($1, $2)
    ON CONFLICT (org_id) DO UPDATE SET version = greatest(rule_books.version + 1, excluded.version)`,
  params: [orgId, Date.now()],
})

/** @throws Refusal where one of them failed. */
export async function told(messages: Promise<void>[]): Promise<void> {
  const outcomes = await Promise.allSettled(messages)
  if (outcomes.every(({ status }) => status === 'fulfilled')) return
  throw new Refusal({
    code: 'unavailable',
    message: 'The change is stored, but not every part of the gateway could be told yet. Repeat the call.',
    retryAfterMs: 1_000,
  })
}
