// The right to have a prompt computed elsewhere: for one backend, one asker, one dispatch, and not for long.
import { generateKeyPair, jwtVerify } from 'jose'
import { expect, test } from 'vitest'
import { signPrefillGrant } from '../../../../gateway/fleet/prefill-grant.ts'
import { PrefillWorker } from '../../../../protocol/dispatch.ts'

test('a grant names who computes, who asks and for what, and ends with its dispatch, within an hour at most', async () => {
  const { privateKey, publicKey } = await generateKeyPair('EdDSA', { crv: 'Ed25519' })
  const nowMs = 1_800_000_000_500
  const sign = (deadlineInMs: number) =>
    signPrefillGrant({
      key: { key: privateKey as CryptoKey, kid: 'k' },
      prefillBackendId: 'p',
      keyThumbprint: 't'.repeat(43),
      model: 'm',
      requestId: 'r',
      tenant: 'of-whom',
      deadlineInMs,
      nowMs,
      jti: 'one-use-only',
    })
  const grant = await sign(30_000)
  const { payload, protectedHeader } = await jwtVerify(grant, publicKey, {
    algorithms: ['EdDSA'],
    issuer: 'penstock-gateway',
    audience: 'backend:p',
    currentDate: new Date(nowMs),
  })
  expect(protectedHeader).toEqual({ alg: 'EdDSA', kid: 'k' })
  expect(payload).toMatchObject({
    model: 'm',
    request_id: 'r',
    tenant: 'of-whom',
    jti: 'one-use-only',
    cnf: { jkt: 't'.repeat(43) },
  })
  expect((payload.exp ?? 0) - (payload.iat ?? 0)).toBe(30)
  const long = await jwtVerify(await sign(1e9), publicKey, { currentDate: new Date(nowMs) })
  expect((long.payload.exp ?? 0) - (long.payload.iat ?? 0)).toBe(3600)
  const backendId = '00000000-0000-4000-8000-000000000000'
  expect(PrefillWorker.safeParse({ backendId, url: 'http://p', grant }).success).toBe(true)
})
