// Issuers of tokens as the database knows them. Owns the finding of the one row that a token's own claims point to, and
// this isolate's copies of such rows; whether the claims are true is token.ts.
import { and, eq, inArray } from 'drizzle-orm'
import * as z from 'zod'
import { late } from '../../protocol/late.ts'
import { FactCache } from '../db/cache.ts'
import { parseStored } from '../db/json.ts'
import { query } from '../db/orm.ts'
import { PATIENCE_MS, withPatience } from '../db/patience.ts'
import { type Database, DatabaseUnavailable } from '../db/port.ts'
import { tokenIssuers } from '../db/schema/people.ts'
import type { Role } from './roles.ts'

/** Asymmetric alone: with a shared secret whoever can check a token can make one. */
export const TOKEN_ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
] as const
export type TokenAlgorithm = (typeof TOKEN_ALGORITHMS)[number]
export const Algorithms = late(() => z.array(z.enum(TOKEN_ALGORITHMS)).min(1).max(TOKEN_ALGORITHMS.length))

export type Issuer = {
  orgId: string
  issuerId: string
  issuer: string
  audience: string
  keys: { uri: string; allowPrivate: boolean } | { inline: string }
  algorithms: TokenAlgorithm[]
  subjectClaim: string
  roleClaim: string | undefined
  maxRole: Role
  projectId: string
  service: boolean
  clockSkewS: number
  tokenAgeMaxS: number
}

/** How long a changed or deleted issuer can stay unseen in an isolate. */
const FRESH_MS = 10_000
/** How long tokens go on being taken while Postgres is away. */
const STALE_MAX_MS = 600_000
/** Short: it only blunts who hammers with one wrong issuer. */
const ABSENT_MS = 2_000
const CACHED_ISSUERS_MAX = 500
/** Questions of one isolate to Postgres at a time about issuers that it does not know: anyone can make some up. */
const QUESTIONS_MAX = 16

const cache = new FactCache<Issuer | 'none'>(CACHED_ISSUERS_MAX)
let questions = 0

/** Claims of a token that nobody has verified yet: they choose a row and nothing else. */
export type ClaimedIssuer = { issuer: string; audiences: readonly string[] }

/**
 * The issuer whose tokens have these claims; `none` where there is none, or where several audiences of one token belong to
 * different issuers, since which organisation is meant would be a guess.
 * @param fresh Takes no copy of this isolate. Default: false.
 * @throws DatabaseUnavailable where nobody can tell.
 */
export async function findIssuer(
  claimed: ClaimedIssuer,
  database: Database,
  nowMs: number,
  fresh = false,
): Promise<Issuer | 'none'> {
  const key = JSON.stringify([claimed.issuer, ...claimed.audiences])
  const known = cache.get(key, nowMs)
  const copy = fresh ? undefined : known
  if (copy?.fresh) return copy.value
  // Whoever makes issuers up must not keep those out that are there.
  const isKnown = known !== undefined && known.value !== 'none'
  if (questions >= QUESTIONS_MAX && !(fresh && isKnown)) {
    if (copy !== undefined) return copy.value
    throw new DatabaseUnavailable('too many questions about issuers at once')
  }
  questions++
  const asking = readIssuer(claimed, database)
    .then((found) => {
      if (found === 'none') cache.set(key, found, nowMs + ABSENT_MS)
      else cache.set(key, found, nowMs + FRESH_MS, nowMs + STALE_MAX_MS)
      return found
    })
    .finally(() => questions--)
  try {
    const answer = copy === undefined ? { value: await asking } : await withPatience(asking, PATIENCE_MS)
    if (answer === undefined) throw new DatabaseUnavailable('Postgres is silent')
    return answer.value
  } catch (error) {
    if (copy !== undefined && error instanceof DatabaseUnavailable) return copy.value
    throw error
  }
}

/** Drops this isolate's copies: after a change made through it, it must not lag behind. */
export function forgetIssuers(): void {
  cache.clear()
}

async function readIssuer({ issuer, audiences }: ClaimedIssuer, database: Database): Promise<Issuer | 'none'> {
  const rows = await query(database, (db) =>
    db
      .select()
      .from(tokenIssuers)
      .where(and(eq(tokenIssuers.issuer, issuer), inArray(tokenIssuers.audience, [...audiences])))
      .limit(2),
  )
  const [row] = rows
  return row === undefined || rows.length > 1 ? 'none' : issuerOf(row)
}

function issuerOf(row: typeof tokenIssuers.$inferSelect): Issuer {
  const { orgId, issuerId, issuer, audience, subjectClaim, maxRole, projectId, service, clockSkewS, tokenAgeMaxS } = row
  return {
    orgId,
    issuerId,
    issuer,
    audience,
    keys: row.jwksUri === null ? { inline: row.jwks ?? '' } : { uri: row.jwksUri, allowPrivate: row.allowPrivate },
    algorithms: parseStored(row.algorithms, Algorithms, 'token_issuers.algorithms'),
    subjectClaim,
    roleClaim: row.roleClaim ?? undefined,
    maxRole,
    projectId,
    service,
    clockSkewS,
    tokenAgeMaxS,
  }
}
