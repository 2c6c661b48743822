// Providers' secrets at rest.
import { expect, test } from 'vitest'
import { openSecret, sealSecret } from '../../../../gateway/policy/secrets.ts'

const KEK = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8='
const random = (count: number) => crypto.getRandomValues(new Uint8Array(count))

async function sealed(secret: string, provider = 'acme'): Promise<string> {
  const result = await sealSecret(KEK, provider, secret, random)
  if (!result.ok) throw new Error(result.error.reason)
  return result.value
}

test.each(['x', 'sk-0123456789', 'ключ \u{1F511}', 'y'.repeat(4096)])(
  'a secret comes back as it was',
  async (secret) => {
    expect(await openSecret(KEK, 'acme', await sealed(secret))).toEqual({ ok: true, value: secret })
  },
)

test('the stored form is fixed: what an older version sealed opens for ever', async () => {
  const fixed = await sealSecret(KEK, 'acme', 'a-secret', (count) => new Uint8Array(count).fill(7))
  expect(fixed).toEqual({ ok: true, value: FIXED })
  expect(await openSecret(KEK, 'acme', FIXED)).toEqual({ ok: true, value: 'a-secret' })
})

test('every change of one bit of the stored form is found', async () => {
  const text = await sealed('secret')
  const bytes = Uint8Array.from(atob(text.slice(3)), (character) => character.charCodeAt(0))
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const changed = bytes.slice()
    changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
    const result = await openSecret(KEK, 'acme', `v1.${btoa(String.fromCharCode(...changed))}`)
    expect(result).toEqual({ ok: false, error: { reason: 'cannot_open' } })
  }
})

test('it opens for its own provider and key-encryption key alone', async () => {
  const text = await sealed('secret')
  const other = btoa(String.fromCharCode(...random(32)))
  expect(await openSecret(KEK, 'acme2', text)).toEqual({ ok: false, error: { reason: 'cannot_open' } })
  expect(await openSecret(other, 'acme', text)).toEqual({ ok: false, error: { reason: 'cannot_open' } })
})

test.each([
  '',
  'v1',
  'v1.',
  'v1.AAAA',
  'v2.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA',
  'v1.*not base64*',
  'plain-secret',
])('the stored text "%s" does not open and does not throw', async (text) => {
  expect(await openSecret(KEK, 'acme', text)).toEqual({ ok: false, error: { reason: 'cannot_open' } })
})

test.each(['', 'short', btoa('x'.repeat(31)), btoa('x'.repeat(33)), '***'])(
  'the key-encryption key "%s" is refused for both ways',
  async (kek) => {
    const refused = { ok: false, error: { reason: 'kek_invalid' } }
    expect(await sealSecret(kek, 'acme', 'secret', random)).toEqual(refused)
    expect(await openSecret(kek, 'acme', await sealed('secret'))).toEqual(refused)
  },
)

// Made with OpenSSL's HKDF and AES-256-GCM, not with the code under test.
const FIXED = 'v1.BwcHBwcHBwcHBwcHa/bowin0zRVbU5O16ANxtgknb/504GCE'
