// The right to have one prompt computed by a prefill backend of another host (wire 2b, protocol/prefill.ts). Owns making it: signed
// by the gateway for the prefill backend, bound to the key of the backend that may use it, for one model and one dispatch.
import { SignJWT } from 'jose'
import type { PrefillGrantClaims } from '../../protocol/prefill.ts'
import { backendParty, GATEWAY_ISSUER } from '../../protocol/signing.ts'
import type { SigningKey } from './body-token.ts'

/** Agents remember used grants for as long as they live, and take none that lives longer than an hour. */
const GRANT_LIFE_MAX_S = 3600

/** @returns a token for `PrefillWorker.grant`. */
export async function signPrefillGrant(options: {
  key: SigningKey
  /** Who computes. */
  prefillBackendId: string
  /** Who may ask, by the thumbprint (RFC 7638) of its key. */
  keyThumbprint: string
  model: string
  requestId: string
  tenant: string
  /** The dispatch may wait in its agent's queue for all of it before its prompt's turn comes. */
  deadlineInMs: number
  nowMs: number
  jti: string
}): Promise<string> {
  const nowS = Math.floor(options.nowMs / 1000)
  const claims: PrefillGrantClaims = {
    iss: GATEWAY_ISSUER,
    aud: backendParty(options.prefillBackendId),
    iat: nowS,
    exp: nowS + Math.min(GRANT_LIFE_MAX_S, Math.ceil(options.deadlineInMs / 1000)),
    jti: options.jti,
    model: options.model,
    request_id: options.requestId,
    tenant: options.tenant,
    cnf: { jkt: options.keyThumbprint },
  }
  return new SignJWT(claims).setProtectedHeader({ alg: 'EdDSA', kid: options.key.kid }).sign(options.key.key)
}
