// Tokens that authorise one request with one body. Owns making and checking them (claims: protocol/signing.ts); keys
// and the memory of used ids belong to the caller.
import { errors, jwtVerify, SignJWT } from 'jose'
import { err, ok, type Result } from '../../protocol/result.ts'
import { BODY_TOKEN_SKEW_S, BODY_TOKEN_TTL_S, type BodyTokenClaims, bodyDigest } from '../../protocol/signing.ts'

export type SigningKey = { key: CryptoKey; kid: string }

/** Why a token was refused: for logs; the wire says only that it was. */
export type TokenFault = 'missing' | 'malformed' | 'signature' | 'claims' | 'expired' | 'digest'

/** Longer ids would be a way to fill the replay memory. */
const JTI_LENGTH_MAX = 100
/** Refused before any parsing: a token of ours has some 500 bytes. */
const TOKEN_LENGTH_MAX = 4096

/** Signs `body` for one receiver. `nowMs` is epoch milliseconds. */
export async function signBody(options: {
  key: SigningKey
  issuer: string
  audience: string
  body: Uint8Array
  nowMs: number
  jti: string
}): Promise<string> {
  const nowS = Math.floor(options.nowMs / 1000)
  return new SignJWT({ body_sha256: await bodyDigest(options.body) })
    .setProtectedHeader({ alg: 'EdDSA', kid: options.key.kid })
    .setIssuer(options.issuer)
    .setAudience(options.audience)
    .setIssuedAt(nowS)
    .setExpirationTime(nowS + BODY_TOKEN_TTL_S)
    .setJti(options.jti)
    .sign(options.key.key)
}

/** The token of an `authorization: Bearer` header. */
export function bearerToken(headers: Headers): string | undefined {
  const match = /^Bearer ([A-Za-z0-9_.-]+)$/i.exec(headers.get('authorization') ?? '')
  return match?.[1]
}

/**
 * Checks everything but single use: signature with exactly EdDSA, issuer, audience, times, and the body's digest.
 * The caller then looks up `jti` in its memory until `exp`.
 */
export async function verifyBody(options: {
  token: string | undefined
  key: CryptoKey
  issuer: string
  audience: string
  body: Uint8Array
  nowMs: number
}): Promise<Result<{ jti: string; expiresAtMs: number }, TokenFault>> {
  if (options.token === undefined) return err('missing')
  if (options.token.length > TOKEN_LENGTH_MAX) return err('malformed')
  let claims: Partial<BodyTokenClaims>
  try {
    const verified = await jwtVerify<Partial<BodyTokenClaims>>(options.token, options.key, {
      algorithms: ['EdDSA'],
      issuer: options.issuer,
      audience: options.audience,
      clockTolerance: BODY_TOKEN_SKEW_S,
      maxTokenAge: BODY_TOKEN_TTL_S,
      requiredClaims: ['iat', 'exp', 'jti', 'body_sha256'],
      currentDate: new Date(options.nowMs),
    })
    claims = verified.payload
  } catch (error) {
    if (error instanceof errors.JWTExpired) return err('expired')
    if (error instanceof errors.JWTClaimValidationFailed) return err('claims')
    if (error instanceof errors.JWSSignatureVerificationFailed) return err('signature')
    return err('malformed')
  }
  const { jti, exp, body_sha256: digest } = claims
  if (typeof jti !== 'string' || jti === '' || jti.length > JTI_LENGTH_MAX || typeof exp !== 'number') {
    return err('claims')
  }
  if (digest !== (await bodyDigest(options.body))) return err('digest')
  // Seen ids are kept as long as the token can pass: its life, bounded, and the tolerated skew.
  const livesUntilMs = Math.min(exp * 1000, options.nowMs + (BODY_TOKEN_TTL_S + BODY_TOKEN_SKEW_S) * 1000)
  return ok({ jti, expiresAtMs: livesUntilMs + BODY_TOKEN_SKEW_S * 1000 })
}
