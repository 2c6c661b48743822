import { createHash, generateKeyPairSync, randomUUID } from 'node:crypto'
import { type CryptoKey, createLocalJWKSet, importJWK, SignJWT, UnsecuredJWT } from 'jose'
import { beforeAll, expect, test } from 'vitest'
import { type Authority, createAuthority, gatewayKeys, UsedTokens } from '../../../backends/authority.ts'

const BACKEND = '0b1f5b0e-7a2c-4c53-9f55-2f1c0c7f8a11'
const NOW_MS = 1_800_000_000_000
const BODY = new TextEncoder().encode('{"a":1}')
const digest = (body: Uint8Array) => createHash('sha256').update(body).digest('base64url')

const pair = generateKeyPairSync('ed25519')
const stranger = generateKeyPairSync('ed25519')
let key: CryptoKey
let authority: Authority
const fresh = () => {
  const jwk = { ...pair.publicKey.export({ format: 'jwk' }), kid: 'k1', alg: 'EdDSA' }
  return createAuthority(BACKEND, createLocalJWKSet({ keys: [jwk as never] }), () => NOW_MS)
}
beforeAll(async () => {
  key = (await importJWK({ ...pair.privateKey.export({ format: 'jwk' }) }, 'EdDSA')) as CryptoKey
  authority = fresh()
})

type Changes = {
  aud?: string
  iss?: string
  iatS?: number
  lifeS?: number
  jti?: string
  digest?: string
  kid?: string
}

async function bearer(changes: Changes = {}, signer: CryptoKey = key): Promise<string> {
  const iatS = changes.iatS ?? NOW_MS / 1000
  const token = await new SignJWT({ body_sha256: changes.digest ?? digest(BODY) })
    .setProtectedHeader({ alg: 'EdDSA', kid: changes.kid ?? 'k1' })
    .setIssuer(changes.iss ?? 'penstock-gateway')
    .setAudience(changes.aud ?? `backend:${BACKEND}`)
    .setIssuedAt(iatS)
    .setExpirationTime(iatS + (changes.lifeS ?? 30))
    .setJti(changes.jti ?? randomUUID())
    .sign(signer)
  return `Bearer ${token}`
}

const outcome = async (header: string | undefined) => {
  const checked = await authority.checkToken(header)
  if (!checked.ok) return checked.error.failure.message
  const redeemed = await authority.redeem(checked.value, BODY)
  return redeemed.ok ? 'granted' : redeemed.error.failure.message
}

test('a good token is granted once and refused the second time', async () => {
  const header = await bearer()
  expect(await outcome(header)).toBe('granted')
  expect(await outcome(header)).toMatch(/used before/)
})

test('two uses at the same moment do not both pass', async () => {
  const header = await bearer()
  const outcomes = await Promise.all([outcome(header), outcome(header), outcome(header)])
  expect(outcomes.filter((text) => text === 'granted')).toHaveLength(1)
})

test('missing, malformed and oversized credentials are refused', async () => {
  for (const header of [
    undefined,
    '',
    'Bearer',
    'Basic abc',
    'Bearer a b',
    `Bearer ${'a'.repeat(5000)}`,
    'Bearer a.b.c',
  ])
    expect(await outcome(header)).toMatch(/bearer token is required|not valid/)
})

test('a token for another backend, or by another issuer, is refused', async () => {
  expect(await outcome(await bearer({ aud: 'backend:someone-else' }))).toMatch(/aud/)
  expect(await outcome(await bearer({ iss: 'somebody' }))).toMatch(/iss/)
})

test('an unsigned token is refused', async () => {
  const unsecured = new UnsecuredJWT({ body_sha256: digest(BODY) })
    .setIssuer('penstock-gateway')
    .setAudience(`backend:${BACKEND}`)
    .setIssuedAt(NOW_MS / 1000)
    .setExpirationTime(NOW_MS / 1000 + 30)
    .setJti(randomUUID())
    .encode()
  expect(await outcome(`Bearer ${unsecured}`)).toMatch(/not valid|required/)
})

test('a symmetric signature made with the public key is refused', async () => {
  const secret = new TextEncoder().encode(JSON.stringify(pair.publicKey.export({ format: 'jwk' })))
  const token = await new SignJWT({ body_sha256: digest(BODY) })
    .setProtectedHeader({ alg: 'HS256', kid: 'k1' })
    .setIssuer('penstock-gateway')
    .setAudience(`backend:${BACKEND}`)
    .setIssuedAt(NOW_MS / 1000)
    .setExpirationTime(NOW_MS / 1000 + 30)
    .setJti(randomUUID())
    .sign(secret)
  expect(await outcome(`Bearer ${token}`)).toMatch(/not valid/)
})

test('a signature by another key, known or unknown by id, is refused', async () => {
  const other = (await importJWK({ ...stranger.privateKey.export({ format: 'jwk' }) }, 'EdDSA')) as CryptoKey
  expect(await outcome(await bearer({}, other))).toMatch(/not valid/)
  expect(await outcome(await bearer({ kid: 'k2' }, other))).toMatch(/unknown key/)
})

test('expiry allows for clock skew and no more', async () => {
  const nowS = NOW_MS / 1000
  expect(await outcome(await bearer({ iatS: nowS - 40, lifeS: 30 }))).toBe('granted')
  expect(await outcome(await bearer({ iatS: nowS - 60, lifeS: 30 }))).toMatch(/expired/)
})

test('a token that claims a long life is refused when it is older than tokens may be', async () => {
  expect(await outcome(await bearer({ iatS: NOW_MS / 1000 - 600, lifeS: 100_000 }))).toMatch(/iat|expired/)
})

test('a token issued in the future beyond the skew is refused', async () => {
  expect(await outcome(await bearer({ iatS: NOW_MS / 1000 + 120 }))).toMatch(/iat|not valid/)
})

test('a token for another body is refused and stays usable for its own', async () => {
  const header = await bearer()
  const checked = await authority.checkToken(header)
  if (!checked.ok) throw new Error('expected a grant')
  const wrong = await authority.redeem(checked.value, new TextEncoder().encode('{"a":2}'))
  expect(wrong.ok).toBe(false)
  expect(await outcome(header)).toBe('granted')
})

test('keys that cannot be read say nothing about the token: 503, not 401', async () => {
  // Port 9 of the loopback address refuses connections.
  const unreachable = createAuthority(BACKEND, gatewayKeys('http://127.0.0.1:9'), () => NOW_MS)
  const checked = await unreachable.checkToken(await bearer())
  expect(checked).toMatchObject({ ok: false, error: { status: 503 } })
})

test('used tokens are forgotten when due, and a full memory refuses instead of forgetting', () => {
  const used = new UsedTokens(2)
  expect(used.use('a', 100, 0)).toBe('fresh')
  expect(used.use('b', 200, 0)).toBe('fresh')
  expect(used.use('a', 100, 50)).toBe('used')
  expect(used.use('c', 300, 50)).toBe('full')
  expect(used.use('c', 300, 100)).toBe('fresh')
  expect(used.size).toBe(2)
})
