// From a request's headers to the caller. Owns where the credential stands, the isolate's copy of a key and the words of a
// refusal; the durable copy is directory.ts, tokens are token.ts.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { FactCache } from '../db/cache.ts'
import type { Env } from '../env.ts'
import { systemFetch } from '../outbound.ts'
import type { Fetch } from '../policy/reach.ts'
import { directoryName, type Lookup } from './directory.ts'
import type { KeyRecord } from './key-record.ts'
import { hashKey, parseKey } from './keys.ts'
import type { Principal } from './principal.ts'

/** How long a change can stay unseen in this isolate; a revoked key is refused earlier, by the account. */
const CACHE_MS = 10_000
/** From this age on a copy is renewed in the background, so that a busy caller never waits for the directory. */
const RENEW_AFTER_MS = 5_000
/** While one request renews, the others take the copy as it is. */
const RENEWAL_MS = 1_000
/** Short: it only blunts a caller that hammers with one wrong key. */
const NEGATIVE_CACHE_MS = 2_000
/** About 1 KB each. */
const CACHED_KEYS_MAX = 5_000

const cache = new FactCache<KeyRecord | 'unknown'>(CACHED_KEYS_MAX)

const TOKEN_SHAPE = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*$/

export const looksLikeToken = (credential: string): boolean => TOKEN_SHAPE.test(credential)

export type AuthOptions = {
  /** How issuers' public keys are fetched. Default: the network. */
  fetch?: Fetch
  /** Takes no copy of this isolate and none that may be old: for what is rare and must see a change at once. Default: false. */
  fresh?: boolean
}

/**
 * Who is calling: `Authorization: Bearer KEY`, `x-api-key: KEY`, or `Authorization: Bearer TOKEN` with a JWT of a
 * registered issuer. The key is hashed first and only the hash goes further. An unknown key and a revoked one cost the
 * same look-ups and get the same answer.
 * @param nowMs Epoch milliseconds.
 * @param waitUntil Keeps background work alive after the response.
 * @returns Failure `invalid_api_key`, or `unavailable` where nobody can tell now whether the key is good.
 */
export async function authenticate(
  headers: Headers,
  env: Env,
  nowMs: number,
  waitUntil: (work: Promise<unknown>) => void,
  { fetch = systemFetch, fresh = false }: AuthOptions = {},
): Promise<Result<Principal, Failure>> {
  const presented = presentedCredential(headers)
  if (presented === undefined) {
    return refuse(
      'No API key given. Send it, or a token, as "Authorization: Bearer <key>", or a key in the x-api-key header.',
    )
  }
  if (looksLikeToken(presented)) {
    // Loaded by the first token: a cold start that is asked by keys does without.
    const { verifyToken } = await import('./token.ts')
    return verifyToken(presented, { env, nowMs, fetch, fresh })
  }
  const hash = hashKey(presented)
  if (parseKey(presented) === undefined) {
    return refuse('This is not an API key of this service: a character is missing, added or mistyped.')
  }
  const cached = fresh ? undefined : cache.get(hash, nowMs)
  if (cached !== undefined) {
    if (!cached.fresh) {
      cache.postpone(hash, nowMs + RENEWAL_MS)
      waitUntil(askDirectory(hash, env, nowMs))
    }
    return judge(cached.value, nowMs)
  }
  const lookup = await askDirectory(hash, env, nowMs, fresh)
  switch (lookup.found) {
    case 'key':
      return judge(lookup.record, nowMs)
    case 'nothing':
      return judge('unknown', nowMs)
    case 'unavailable':
      return err({
        code: 'unavailable',
        message: 'API keys cannot be checked right now.',
        retryAfterMs: lookup.retryAfterMs,
      })
    default:
      return lookup satisfies never
  }
}

/** Drops this isolate's copies, all or those of these keys: after a change made through it, it must not lag behind. */
export function forgetKeys(hashes?: readonly string[]): void {
  if (hashes === undefined) cache.clear()
  else for (const hash of hashes) cache.delete(hash)
}

/** Asks, and keeps the answer in this isolate. */
async function askDirectory(hash: string, env: Env, nowMs: number, fresh = false): Promise<Lookup> {
  const lookup = await env.DIRECTORY.getByName(directoryName(hash))
    .lookup(hash, nowMs, fresh)
    // The object restarts or is overloaded; the caller may be a good one.
    .catch((): Lookup => ({ found: 'unavailable', retryAfterMs: 1_000 }))
  if (lookup.found === 'key') cache.set(hash, lookup.record, nowMs + RENEW_AFTER_MS, nowMs + CACHE_MS)
  if (lookup.found === 'nothing') cache.set(hash, 'unknown', nowMs + NEGATIVE_CACHE_MS)
  return lookup
}

function judge(found: KeyRecord | 'unknown', nowMs: number): Result<Principal, Failure> {
  if (found === 'unknown' || found.revoked) return refuse('The API key is unknown, revoked or expired.')
  const { principal } = found
  if (principal.expiresAtMs !== undefined && nowMs >= principal.expiresAtMs) {
    return refuse('The API key is unknown, revoked or expired.')
  }
  return ok(principal)
}

/** The text of the credential, whatever it is. */
export function presentedCredential(headers: Headers): string | undefined {
  const bearer = /^bearer +(\S+) *$/i.exec(headers.get('authorization') ?? '')?.[1]
  const plain = headers.get('x-api-key')?.trim()
  return bearer ?? (plain === '' ? undefined : plain)
}

const refuse = (message: string): Result<Principal, Failure> => err({ code: 'invalid_api_key', message })
