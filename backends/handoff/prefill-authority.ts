// Whether another backend may have a prompt computed here. Owns the checks of protocol/prefill.ts: the gateway's grant, that
// it is the asker's, and that it counts once; dispatches are authority.ts.
import { calculateJwkThumbprint, decodeProtectedHeader, importJWK, type JWTVerifyGetKey, jwtVerify } from 'jose'
import { z } from 'zod'
import type { Failure } from '../../protocol/errors.ts'
import { PublicKeyJwk } from '../../protocol/report.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import {
  BODY_TOKEN_SKEW_S,
  BODY_TOKEN_TTL_S,
  backendParty,
  bodyDigest,
  GATEWAY_ISSUER,
} from '../../protocol/signing.ts'
import { type AuthorityFailure, keyFault, refused, tokenFault, UsedTokens } from '../authority.ts'

/** Used grants remembered. A full memory refuses, it never forgets. */
const USED_GRANTS_MAX = 100_000
/** A grant is made when its dispatch is sent, and used when that leaves the agent's queue: no later than its deadline. A longer
 * life than this would have to be remembered for as long. */
const GRANT_LIFE_MAX_S = 3600
const TOKEN_CHARS_MAX = 4096

const Grant = z.object({
  iat: z.number(),
  exp: z.number(),
  jti: z.string().min(8).max(128),
  model: z.string().min(1).max(200),
  request_id: z.string().min(1).max(100),
  tenant: z.string().min(1).max(100),
  cnf: z.object({ jkt: z.string().length(43) }),
})
const Proof = z.object({ body_sha256: z.string().length(43) })

/** Signatures and claims are good; the body is still to be compared. `leftMs`: of its life, the other clock's error included. */
export type PrefillGrant = z.infer<typeof Grant> & { bodySha256: string; leftMs: number }

export type PrefillAuthority = {
  /** Checks both headers, before the body is read. */
  check: (
    authorization: string | undefined,
    proof: string | undefined,
  ) => Promise<Result<PrefillGrant, AuthorityFailure>>
  /** Checks the body and uses the grant up. */
  redeem: (grant: PrefillGrant, body: Uint8Array) => Promise<Result<undefined, AuthorityFailure>>
}

/** @param nowMs wall clock, milliseconds since 1970. */
export function createPrefillAuthority(
  backendId: string,
  keys: JWTVerifyGetKey,
  nowMs: () => number,
): PrefillAuthority {
  const used = new UsedTokens(USED_GRANTS_MAX)
  const audience = backendParty(backendId)
  const base = { algorithms: ['EdDSA'], audience, clockTolerance: BODY_TOKEN_SKEW_S }

  const verifiedGrant = async (token: string): Promise<Result<z.infer<typeof Grant>, AuthorityFailure>> => {
    try {
      const { payload } = await jwtVerify(token, keys, {
        ...base,
        issuer: GATEWAY_ISSUER,
        requiredClaims: ['iat', 'exp', 'jti', 'model', 'request_id', 'tenant', 'cnf'],
        currentDate: new Date(nowMs()),
      })
      const claims = Grant.safeParse(payload)
      if (!claims.success) return err(refused('the grant lacks a claim'))
      if (claims.data.exp - claims.data.iat > GRANT_LIFE_MAX_S) return err(refused('the grant is valid for too long'))
      return ok(claims.data)
    } catch (thrown) {
      return err(keyFault(thrown) ?? refused(tokenFault(thrown)))
    }
  }

  /** The digest that the asker has signed with the key that the grant is bound to. */
  const provenDigest = async (proof: string, thumbprint: string): Promise<Result<string, AuthorityFailure>> => {
    try {
      const jwk = PublicKeyJwk.safeParse(decodeProtectedHeader(proof).jwk)
      if (!jwk.success) return err(refused('the proof names no key'))
      const { kty, crv, x } = jwk.data
      if ((await calculateJwkThumbprint({ kty, crv, x })) !== thumbprint)
        return err(refused('the grant is for another backend'))
      const { payload } = await jwtVerify(proof, await importJWK({ kty, crv, x }, 'EdDSA'), {
        ...base,
        requiredClaims: ['iat', 'exp', 'jti', 'body_sha256'],
        maxTokenAge: BODY_TOKEN_TTL_S,
        currentDate: new Date(nowMs()),
      })
      const claims = Proof.safeParse(payload)
      return claims.success ? ok(claims.data.body_sha256) : err(refused('the proof lacks a claim'))
    } catch (thrown) {
      return err(refused(`the proof is not good: ${tokenFault(thrown)}`))
    }
  }

  return {
    check: async (authorization, proof) => {
      const token = /^Bearer ([\w.-]+)$/i.exec(authorization ?? '')?.[1]
      if (token === undefined || token.length > TOKEN_CHARS_MAX) return err(refused('a grant is required'))
      if (proof === undefined || proof.length > TOKEN_CHARS_MAX) return err(refused('a proof is required'))
      const grant = await verifiedGrant(token)
      if (!grant.ok) return grant
      const digest = await provenDigest(proof, grant.value.cnf.jkt)
      const leftMs = (grant.value.exp + BODY_TOKEN_SKEW_S) * 1000 - nowMs()
      return digest.ok ? ok({ ...grant.value, bodySha256: digest.value, leftMs }) : digest
    },
    redeem: async (grant, body) => {
      if ((await bodyDigest(body)) !== grant.bodySha256) return err(refused('the proof is for another body'))
      // No await between asking and remembering: two uses at once cannot both pass.
      const outcome = used.use(grant.jti, (grant.exp + 2 * BODY_TOKEN_SKEW_S) * 1000, nowMs())
      if (outcome === 'used') return err(refused('the grant was used before'))
      if (outcome === 'full') {
        const failure: Failure = { code: 'overloaded', message: 'too many prompts at once', retryAfterMs: 1000 }
        return err({ status: 503, failure })
      }
      return ok(undefined)
    },
  }
}
