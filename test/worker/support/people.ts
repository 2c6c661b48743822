// Users, and an issuer that signs their tokens. Owns the issuer's side: key pairs, claims, and the key set it publishes.
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from 'jose'
import type { Role } from '../../../gateway/auth/roles.ts'
import { admin, type Json, newName } from './admin.ts'

const KEYS: Record<string, Promise<CryptoKeyPair>> = {}

/** One pair per name in a test file: making RSA keys takes a while. */
export function keyPair(name: string, alg = 'ES256'): Promise<CryptoKeyPair> {
  KEYS[`${alg} ${name}`] ??= generateKeyPair(alg, { extractable: true }) as Promise<CryptoKeyPair>
  return KEYS[`${alg} ${name}`] as Promise<CryptoKeyPair>
}

/** What an issuer publishes: kid → the name of the pair. */
export async function jwksOf(keys: Record<string, string>, alg = 'ES256'): Promise<{ keys: Json[] }> {
  const published = Object.entries(keys).map(async ([kid, name]) => ({
    ...(await exportJWK((await keyPair(name, alg)).publicKey)),
    kid,
    alg,
    use: 'sig',
  }))
  return { keys: await Promise.all(published) }
}

export type Signing = { alg?: string; kid?: string; key?: string; header?: Record<string, unknown> }

export class TestIssuer {
  readonly orgId: string
  readonly issuerId: string
  readonly issuer: string
  readonly audience: string

  constructor(row: Json) {
    this.orgId = row.org_id
    this.issuerId = row.id
    this.issuer = row.issuer
    this.audience = row.audience
  }

  /** Registered by the operator with one inline ES256 key, `k1`, unless the fields say otherwise. */
  static async register(
    tenant: { orgId: string; projectId: string },
    fields: Record<string, unknown> = {},
  ): Promise<TestIssuer> {
    const made = await admin('POST', `/organisations/${tenant.orgId}/issuers`, {
      issuer: `https://${newName('idp')}.example.com`,
      audience: 'penstock',
      algorithms: ['ES256'],
      max_role: 'owner',
      project_id: tenant.projectId,
      ...('jwks_uri' in fields ? {} : { jwks: await jwksOf({ k1: 'k1' }) }),
      ...fields,
    })
    if (made.status !== 201) throw new Error(`no issuer was made: ${made.text}`)
    return new TestIssuer(made.body)
  }

  claims(change: JWTPayload = {}, nowMs = Date.now()): JWTPayload {
    const nowS = Math.floor(nowMs / 1000)
    return { iss: this.issuer, aud: this.audience, sub: 'alice', iat: nowS, exp: nowS + 600, ...change }
  }

  async sign(claims: JWTPayload, { alg = 'ES256', kid = 'k1', key = kid, header = {} }: Signing = {}): Promise<string> {
    const { privateKey } = await keyPair(key, alg)
    return new SignJWT(claims).setProtectedHeader({ alg, kid, ...header }).sign(privateKey, { crit: { b64x: true } })
  }

  /** A good token of this subject. */
  token(subject: string, change: JWTPayload = {}): Promise<string> {
    return this.sign(this.claims({ sub: subject, ...change }))
  }
}

export type Person = { userId: string; subject: string; token: string }

/** A user of this role who can sign in. */
export async function newPerson(issuer: TestIssuer, role: Role, fields: Record<string, unknown> = {}): Promise<Person> {
  const subject = newName('sub')
  const made = await admin('POST', `/organisations/${issuer.orgId}/users`, {
    email: `${subject}@example.com`,
    issuer_id: issuer.issuerId,
    subject,
    role,
    ...fields,
  })
  if (made.status !== 201) throw new Error(`no user was made: ${made.text}`)
  return { userId: made.body.id, subject, token: await issuer.token(subject) }
}
