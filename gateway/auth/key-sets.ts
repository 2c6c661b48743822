// The public keys of issuers. Owns when they are fetched, from where, and this isolate's copies: a token can make the
// gateway ask a registered address, at most once in a cooldown, and never one of its own choice.
//
//   no set ──first token──▶ fetched (fresh 10 min) ──▶ old ──a token, cooldown over──▶ fetched again
//                              │                        └──address silent──▶ used on (at most 1 h)
//                              └──unknown kid, cooldown over──▶ fetched again, else refused
import { createLocalJWKSet, type JSONWebKeySet } from 'jose'
import * as z from 'zod'
import { late } from '../../protocol/late.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { type Fetch, reachOf } from '../policy/reach.ts'
import { parseUpstreamUrl } from '../policy/upstream-url.ts'
import { readLimited } from '../providers/bounded-body.ts'
import type { Issuer } from './issuers.ts'

/** How long a key that its issuer took back can still be believed while the issuer answers. */
const FRESH_MS = 600_000
/** And while it does not answer. */
const STALE_MAX_MS = 3_600_000
/** Tokens with made-up key ids, and an address that fails, cause one request in this time. */
export const REFRESH_COOLDOWN_MS = 30_000
const FETCH_TIMEOUT_MS = 5_000
/** A set of a hundred RSA keys is 60 KB. */
const JWKS_BYTES_MAX = 256 * 1024
/** In a row; several large RSA keys fit. */
const INLINE_CHARS_MAX = 16 * 1024
const KEYS_MAX = 100
/** First fetches of one set at a time: requests of one isolate cannot wait for each other's. */
const FIRST_FETCHES_MAX = 8
const CACHED_SETS_MAX = 500

const text = late(() => z.string().min(1).max(2_000))
const named = { kid: text.max(200), use: text.exactOptional(), alg: text.exactOptional() }
/** A public key for signatures, and of its parameters those that say which: what else stands there is not kept. */
const PublicJwk = late(() =>
  z.discriminatedUnion('kty', [
    z.object({ ...named, kty: z.literal('RSA'), n: text, e: text }),
    z.object({ ...named, kty: z.literal('EC'), crv: text, x: text, y: text }),
    z.object({ ...named, kty: z.literal('OKP'), crv: text, x: text }),
  ]),
)
/** Whoever publishes a private or a shared key has lost it: nothing signed with it is to be believed. */
const holdsSecret = (key: unknown): boolean =>
  typeof key === 'object' && key !== null && ['d', 'k', 'p', 'q'].some((member) => member in key)
const PublicJwks = late(() => z.object({ keys: z.array(PublicJwk).min(1).max(KEYS_MAX) }))

/** Sets as they are published also hold keys of other kinds and uses, which are skipped. */
const PublishedJwks = late(() => z.object({ keys: z.array(z.unknown()).max(KEYS_MAX) }))

export type KeySet = { kids: ReadonlySet<string>; resolve: ReturnType<typeof createLocalJWKSet> }
/** `no_such_key`: the issuer's set does not have it. `unreachable`: nobody can tell now. */
export type KeyFault = { reason: 'no_such_key' } | { reason: 'unreachable'; retryAfterMs: number }

type Entry = { set?: KeySet; fetchedAtMs: number; attemptedAtMs: number; fetching: number }

/** In the order of their last use. */
const entries = new Map<string, Entry>()

/** Inline keys of the admin API as their stored form. @returns a sentence for the administrator where they are none. */
export function parseJwks(value: unknown): Result<string, string> {
  const keys = PublishedJwks.safeParse(value)
  if (keys.success && keys.data.keys.some(holdsSecret)) return err('holds a private or a shared key; give public keys')
  const parsed = PublicJwks.safeParse(value)
  if (!parsed.success) return err('is not {"keys": [..]} of public RSA, EC or OKP keys, each with a "kid"')
  const text = JSON.stringify(parsed.data)
  return text.length > INLINE_CHARS_MAX ? err(`has more than ${INLINE_CHARS_MAX} characters`) : ok(text)
}

/** The issuer's keys, as far as they are needed for a token signed with `kid`. */
export async function keySetFor(
  issuer: Issuer,
  kid: string,
  nowMs: number,
  fetch: Fetch,
): Promise<Result<KeySet, KeyFault>> {
  const { keys } = issuer
  const source = 'inline' in keys ? keys.inline : keys.uri
  const entry = entryOf(`${issuer.issuerId} ${source}`)
  if ('inline' in keys) {
    entry.set ??= setOf(keys.inline)
    return withKey(entry.set, kid)
  }
  const ageMs = nowMs - entry.fetchedAtMs
  const isUsable = entry.set !== undefined && ageMs < STALE_MAX_MS
  const isEnough = isUsable && ageMs < FRESH_MS && entry.set?.kids.has(kid) === true
  const isCool = nowMs - entry.attemptedAtMs >= REFRESH_COOLDOWN_MS
  const isFirst = entry.set === undefined && entry.fetching > 0 && entry.fetching < FIRST_FETCHES_MAX
  if (!isEnough && (isCool || isFirst)) await refresh(entry, keys, nowMs, fetch)
  const usable = nowMs - entry.fetchedAtMs < STALE_MAX_MS ? entry.set : undefined
  if (usable === undefined) return err({ reason: 'unreachable', retryAfterMs: REFRESH_COOLDOWN_MS })
  return withKey(usable, kid)
}

async function refresh(
  entry: Entry,
  keys: { uri: string; allowPrivate: boolean },
  nowMs: number,
  fetch: Fetch,
): Promise<void> {
  // Before the request goes out: tokens that come meanwhile must not cause another.
  entry.attemptedAtMs = nowMs
  entry.fetching++
  try {
    const text = await download(keys, fetch)
    const set = text === undefined ? undefined : setOf(text)
    if (set === undefined || set.kids.size === 0) return
    entry.set = set
    entry.fetchedAtMs = nowMs
  } finally {
    entry.fetching--
  }
}

async function download(
  { uri, allowPrivate }: { uri: string; allowPrivate: boolean },
  fetch: Fetch,
): Promise<string | undefined> {
  // Checked when it was registered; a row changed by hand must not get further than one that was not.
  const url = parseUpstreamUrl(uri, { allowPrivate })
  if (!url.ok) return undefined
  try {
    const init = {
      redirect: 'manual',
      headers: { accept: 'application/json' },
      signal: AbortSignal.timeout(FETCH_TIMEOUT_MS),
    } as const
    const response = await fetch(url.value, init, reachOf(allowPrivate))
    if (response.status !== 200) {
      await response.body?.cancel()
      return undefined
    }
    // One byte more than is allowed, so that a longer text is seen to be longer.
    const text = await readLimited(response, JWKS_BYTES_MAX + 1)
    return text.length > JWKS_BYTES_MAX ? undefined : text
  } catch {
    return undefined
  }
}

/** The usable keys of a set; those that are none are skipped. */
function setOf(text: string): KeySet {
  const keys = jsonKeys(text).flatMap((key) => {
    const parsed = PublicJwk.safeParse(key)
    return parsed.success && !holdsSecret(key) ? [parsed.data] : []
  })
  const jwks: JSONWebKeySet = { keys }
  return { kids: new Set(keys.map(({ kid }) => kid)), resolve: createLocalJWKSet(jwks) }
}

function jsonKeys(text: string): unknown[] {
  try {
    const parsed = PublishedJwks.safeParse(JSON.parse(text))
    return parsed.success ? parsed.data.keys : []
  } catch {
    return []
  }
}

const withKey = (set: KeySet, kid: string): Result<KeySet, KeyFault> =>
  set.kids.has(kid) ? ok(set) : err({ reason: 'no_such_key' })

function entryOf(name: string): Entry {
  const entry = entries.get(name) ?? {
    fetchedAtMs: Number.NEGATIVE_INFINITY,
    attemptedAtMs: Number.NEGATIVE_INFINITY,
    fetching: 0,
  }
  entries.delete(name)
  entries.set(name, entry)
  for (const oldest of entries.keys()) {
    if (entries.size <= CACHED_SETS_MAX) break
    entries.delete(oldest)
  }
  return entry
}
