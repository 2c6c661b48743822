// Signed bodies between our processes. Owns the claims of the short-lived EdDSA tokens on wires 2 and 3; keys and
// replay memory belong to each side.

/**
 * Claims of a token that authorises exactly one request with exactly one body.
 * Sent as `authorization: Bearer <JWT>` with header `{ alg: 'EdDSA', kid }`.
 * - gateway → agent: iss `penstock-gateway`, aud `backend:<backendId>`; `kid` is found in the gateway's JWKS.
 * - agent → gateway: iss `backend:<backendId>`, aud `penstock-gateway`; the key is the one enrolled at join.
 * The receiver checks signature, alg, iss, aud, exp, the body digest, and that `jti` was not seen before its exp.
 */
export type BodyTokenClaims = {
  iss: string
  aud: string
  /** Seconds since 1970, as RFC 7519 has it. */
  iat: number
  exp: number
  /** Unique per token: a second use is refused. */
  jti: string
  /** base64url of SHA-256 over the exact request body bytes. */
  body_sha256: string
}

export const GATEWAY_ISSUER = 'penstock-gateway'
export const backendParty = (backendId: string): string => `backend:${backendId}`

/** Long enough for clock skew and a slow connect, short enough that the replay memory stays small. */
export const BODY_TOKEN_TTL_S = 30
/** Tolerated difference of the two clocks. */
export const BODY_TOKEN_SKEW_S = 15

/** base64url without padding. */
export function base64url(bytes: Uint8Array): string {
  let binary = ''
  for (const byte of bytes) binary += String.fromCharCode(byte)
  return btoa(binary).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')
}

/** Digest for `body_sha256`. */
export async function bodyDigest(body: Uint8Array): Promise<string> {
  return base64url(new Uint8Array(await crypto.subtle.digest('SHA-256', body as Uint8Array<ArrayBuffer>)))
}
