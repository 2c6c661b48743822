// The gateway's own key pair, with which dispatches are signed. Owns reading it from the secret and its public half.
import { importJWK } from 'jose'
import * as z from 'zod'
import { late } from '../../protocol/late.ts'
import { base64url } from '../../protocol/signing.ts'
import type { Env } from '../env.ts'
import type { SigningKey } from './body-token.ts'

const PrivateJwk = late(() =>
  z.object({
    kty: z.literal('OKP'),
    crv: z.literal('Ed25519'),
    x: z.string().min(1),
    d: z.string().min(1),
    kid: z.string().min(1).optional(),
  }),
)
type PrivateJwk = z.infer<typeof PrivateJwk>

export type PublicJwk = { kty: 'OKP'; crv: 'Ed25519'; x: string; kid: string; alg: 'EdDSA'; use: 'sig' }

/** One isolate serves one deployment with one secret: reading it once is enough, and a changed secret is noticed. */
let imported: { secret: string; key: SigningKey } | undefined
let parsedSecret: { secret: string; jwk: PrivateJwk } | undefined

function parseSecret(env: Env): PrivateJwk {
  if (parsedSecret?.secret === env.SIGNING_KEY_JWK) return parsedSecret.jwk
  const parsed = PrivateJwk.safeParse(JSON.parse(env.SIGNING_KEY_JWK))
  // The schema's message could quote the secret.
  if (!parsed.success) throw new Error('SIGNING_KEY_JWK is not a private Ed25519 JWK')
  parsedSecret = { secret: env.SIGNING_KEY_JWK, jwk: parsed.data }
  return parsed.data
}

/** A key without a name is called by the start of its public half, the same on every isolate. */
const keyId = (jwk: PrivateJwk): string => jwk.kid ?? jwk.x.slice(0, 16)

/** @throws where the secret is not a private Ed25519 JWK: a deployment fault, not a request's. */
export async function signingKey(env: Env): Promise<SigningKey> {
  if (imported?.secret === env.SIGNING_KEY_JWK) return imported.key
  const jwk = parseSecret(env)
  const key = (await importJWK({ kty: jwk.kty, crv: jwk.crv, x: jwk.x, d: jwk.d }, 'EdDSA')) as CryptoKey
  imported = { secret: env.SIGNING_KEY_JWK, key: { key, kid: keyId(jwk) } }
  return imported.key
}

/** What agents check dispatches against. Never has the private half. */
export function publicJwks(env: Env): { keys: PublicJwk[] } {
  const jwk = parseSecret(env)
  return { keys: [{ kty: jwk.kty, crv: jwk.crv, x: jwk.x, kid: keyId(jwk), alg: 'EdDSA', use: 'sig' }] }
}

/** Some hundred kilobytes; organisations beyond it are hashed again. */
const TENANT_IDS_MAX = 2_000
const tenantIds = new Map<string, string>()

/**
 * An organisation as its tenant id on the fleet's wire: stable, and meaningless to whoever runs a GPU host.
 * Hashed with the deployment's public key, so two deployments do not call a tenant by the same id.
 */
export async function tenantId(env: Env, orgId: string): Promise<string> {
  const { x } = parseSecret(env)
  const name = `${x} ${orgId}`
  const known = tenantIds.get(name)
  if (known !== undefined) return known
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(`tenant ${x} ${orgId}`))
  const id = base64url(new Uint8Array(digest).subarray(0, 16))
  if (tenantIds.size >= TENANT_IDS_MAX) tenantIds.clear()
  tenantIds.set(name, id)
  return id
}
