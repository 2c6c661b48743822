// Whether a dispatch comes from the gateway. Owns the checks of protocol/signing.ts on this side and the memory of used
// tokens; the HTTP status is server.ts.
import { createRemoteJWKSet, errors, type JWTVerifyGetKey, jwtVerify } from 'jose'
import { z } from 'zod'
import type { Failure } from '../protocol/errors.ts'
import { JWKS_PATH } from '../protocol/report.ts'
import { err, ok, type Result } from '../protocol/result.ts'
import { BODY_TOKEN_SKEW_S, BODY_TOKEN_TTL_S, backendParty, bodyDigest, GATEWAY_ISSUER } from '../protocol/signing.ts'

/** Used tokens remembered: over a minute of dispatches at a thousand a second. A full memory refuses, it never forgets. */
const USED_TOKENS_MAX = 100_000
/** An unknown key id asks the gateway again, at most this often. */
const JWKS_COOLDOWN_MS = 5000
const JWKS_AGE_MAX_MS = 10 * 60_000
const JWKS_TIMEOUT_MS = 5000
const TOKEN_CHARS_MAX = 4096

const Claims = z.object({
  iat: z.number(),
  exp: z.number(),
  jti: z.string().min(8).max(128),
  body_sha256: z.string().length(43),
})

/** A token whose signature and claims are good; the body is still to be compared. */
export type Grant = z.infer<typeof Claims>
export type AuthorityFailure = { status: 401 | 503; failure: Failure }

export type Authority = {
  /** Checks the `authorization` header, before the body is read. */
  checkToken: (header: string | undefined) => Promise<Result<Grant, AuthorityFailure>>
  /** Checks the body and uses the token up. */
  redeem: (grant: Grant, body: Uint8Array) => Promise<Result<undefined, AuthorityFailure>>
}

/** Keys from the gateway's JWKS: cached, fetched again for an unknown key id after a cool-down, redirects refused. */
export function gatewayKeys(gatewayUrl: string): JWTVerifyGetKey {
  return createRemoteJWKSet(new URL(`${gatewayUrl}${JWKS_PATH}`), {
    cooldownDuration: JWKS_COOLDOWN_MS,
    cacheMaxAge: JWKS_AGE_MAX_MS,
    timeoutDuration: JWKS_TIMEOUT_MS,
  })
}

/** @param nowMs wall clock, milliseconds since 1970. */
export function createAuthority(backendId: string, keys: JWTVerifyGetKey, nowMs: () => number): Authority {
  const used = new UsedTokens(USED_TOKENS_MAX)
  const options = {
    algorithms: ['EdDSA'],
    issuer: GATEWAY_ISSUER,
    audience: backendParty(backendId),
    clockTolerance: BODY_TOKEN_SKEW_S,
    requiredClaims: ['iat', 'exp', 'jti', 'body_sha256'],
    // Bounds how long a used token must be remembered, whatever its own exp says.
    maxTokenAge: BODY_TOKEN_TTL_S,
  }
  return {
    checkToken: async (header) => {
      const token = /^Bearer ([\w.-]+)$/i.exec(header ?? '')?.[1]
      if (token === undefined || token.length > TOKEN_CHARS_MAX) return err(refused('a bearer token is required'))
      try {
        const { payload } = await jwtVerify(token, keys, { ...options, currentDate: new Date(nowMs()) })
        const claims = Claims.safeParse(payload)
        return claims.success ? ok(claims.data) : err(refused('the token lacks a claim'))
      } catch (thrown) {
        return err(keyFault(thrown) ?? refused(tokenFault(thrown)))
      }
    },
    redeem: async (grant, body) => {
      if ((await bodyDigest(body)) !== grant.body_sha256) return err(refused('the token is for another body'))
      // No await between asking and remembering: two uses at once cannot both pass.
      const forgetMs = (Math.min(grant.exp, grant.iat + BODY_TOKEN_TTL_S) + 2 * BODY_TOKEN_SKEW_S) * 1000
      const outcome = used.use(grant.jti, forgetMs, nowMs())
      if (outcome === 'used') return err(refused('the token was used before'))
      if (outcome === 'full') {
        const failure: Failure = { code: 'overloaded', message: 'too many dispatches at once', retryAfterMs: 1000 }
        return err({ status: 503, failure })
      }
      return ok(undefined)
    },
  }
}

// Not the end caller's fault, so the code is one that another backend may answer better.
export const refused = (message: string): AuthorityFailure => ({
  status: 401,
  failure: { code: 'internal', message: `request refused: ${message}` },
})

/** Our side could not get the gateway's keys: that says nothing about the token. */
export function keyFault(thrown: unknown): AuthorityFailure | undefined {
  const known = thrown instanceof errors.JOSEError
  if (known && !(thrown instanceof errors.JWKSTimeout) && !(thrown instanceof errors.JWKSInvalid)) {
    // jose reports an HTTP status other than 200 with its base class.
    if (thrown.code !== 'ERR_JOSE_GENERIC') return undefined
  }
  return { status: 503, failure: { code: 'internal', message: "the gateway's keys cannot be read" } }
}

export function tokenFault(thrown: unknown): string {
  if (thrown instanceof errors.JWTExpired) return 'the token has expired'
  if (thrown instanceof errors.JWTClaimValidationFailed) return `claim ${thrown.claim} is wrong`
  if (thrown instanceof errors.JWKSNoMatchingKey) return 'the token is signed by an unknown key'
  return 'the token is not valid'
}

/** Single-use memory: a token id is kept until the token could not pass the expiry check any more. */
export class UsedTokens {
  readonly #max: number
  readonly #forgetMs = new Map<string, number>()
  constructor(max: number) {
    this.#max = max
  }

  get size(): number {
    return this.#forgetMs.size
  }

  use(id: string, forgetMs: number, nowMs: number): 'fresh' | 'used' | 'full' {
    // Insertion order is nearly order of expiry: sweeping from the front frees what is due.
    for (const [old, dueMs] of this.#forgetMs) {
      if (dueMs > nowMs) break
      this.#forgetMs.delete(old)
    }
    if (this.#forgetMs.has(id)) return 'used'
    if (this.#forgetMs.size >= this.#max) return 'full'
    this.#forgetMs.set(id, forgetMs)
    return 'fresh'
  }
}
