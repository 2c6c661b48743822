// Who this agent is to the gateway: a key pair and an id, made once and kept. Owns the file and the signing of bodies;
// sending is report.ts.
import { randomUUID } from 'node:crypto'
import { chmodSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { calculateJwkThumbprint, exportJWK, generateKeyPair, importJWK, type JWTHeaderParameters, SignJWT } from 'jose'
import { z } from 'zod'
import type { PublicKeyJwk } from '../protocol/report.ts'
import { BODY_TOKEN_TTL_S, backendParty, bodyDigest, GATEWAY_ISSUER } from '../protocol/signing.ts'

const FILE_NAME = 'agent-identity.json'
const FILE_BYTES_MAX = 16 * 1024

const Stored = z.object({
  backendId: z.uuid(),
  privateKey: z.object({ kty: z.literal('OKP'), crv: z.literal('Ed25519'), x: z.string(), d: z.string() }),
})

export type Identity = {
  backendId: string
  publicKey: PublicKeyJwk
  /** A token for exactly this body, valid for BODY_TOKEN_TTL_S seconds. */
  sign: (body: Uint8Array) => Promise<string>
  /** As `sign`, for another backend: it has never seen the key, so the token names it. */
  signFor: (backendId: string, body: Uint8Array) => Promise<string>
}

/**
 * Reads the identity from `stateDir`, or makes it there on the first start (directory 0700, file 0600).
 * @throws Error where the file is damaged or the directory cannot be written: an agent must not change its id silently.
 */
export async function loadIdentity(stateDir: string): Promise<Identity> {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 })
  const path = join(stateDir, FILE_NAME)
  const text = readIfPresent(path)
  const stored = text === undefined ? await createIdentity(path) : parseIdentity(path, text)
  const { kty, crv, x } = stored.privateKey
  const kid = await calculateJwkThumbprint({ kty, crv, x })
  const key = await importJWK(stored.privateKey, 'EdDSA')
  const issuer = backendParty(stored.backendId)
  const sign = async (audience: string, header: JWTHeaderParameters, body: Uint8Array) =>
    await new SignJWT({ body_sha256: await bodyDigest(body) })
      .setProtectedHeader(header)
      .setIssuer(issuer)
      .setAudience(audience)
      .setIssuedAt()
      .setExpirationTime(`${BODY_TOKEN_TTL_S}s`)
      .setJti(randomUUID())
      .sign(key)
  return {
    backendId: stored.backendId,
    publicKey: { kty, crv, x, kid },
    sign: (body) => sign(GATEWAY_ISSUER, { alg: 'EdDSA', kid }, body),
    signFor: (backendId, body) => sign(backendParty(backendId), { alg: 'EdDSA', jwk: { kty, crv, x } }, body),
  }
}

function readIfPresent(path: string): string | undefined {
  try {
    const text = readFileSync(path, 'utf8')
    // A copy with wider rights is narrowed rather than trusted to have stayed secret by luck.
    chmodSync(path, 0o600)
    return text.slice(0, FILE_BYTES_MAX)
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw thrown
  }
}

function parseIdentity(path: string, text: string): z.infer<typeof Stored> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw new Error(`${path} is not JSON; restore it, or delete it and enrol again with a new token`)
  }
  const parsed = Stored.safeParse(value)
  if (!parsed.success)
    throw new Error(`${path} is damaged at ${parsed.error.issues[0]?.path.join('.')}; delete it and enrol again`)
  return parsed.data
}

async function createIdentity(path: string): Promise<z.infer<typeof Stored>> {
  const { privateKey } = await generateKeyPair('EdDSA', { crv: 'Ed25519', extractable: true })
  const stored = Stored.parse({ backendId: randomUUID(), privateKey: await exportJWK(privateKey) })
  const temporary = `${path}.${process.pid}.new`
  writeFileSync(temporary, `${JSON.stringify(stored)}\n`, { mode: 0o600 })
  renameSync(temporary, path)
  return stored
}
