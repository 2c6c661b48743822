// Providers' secrets at rest. Owns their encryption: AES-256-GCM under a key derived from SECRETS_KEK for this one
// purpose, bound to provider and key, so that a ciphertext moved to another row does not open.
import { err, ok, type Result } from '../../protocol/result.ts'

const FORM = 'v1'
const PURPOSE = 'penstock/provider-secret/v1'
const KEK_BYTES = 32
/** 96 random bits, the size GCM is made for; no counter needs to be kept at the rate at which secrets change. */
const IV_BYTES = 12

/** The key of a provider that has one. */
export const DEFAULT_KEY = 'default'

/** What a ciphertext is bound to. The first key is bound to its provider alone; no provider's name holds a slash. */
export const keySubject = (provider: string, key: string): string =>
  key === DEFAULT_KEY ? provider : `${provider}/${key}`

/** Why a secret cannot be sealed or opened; neither arm carries any part of it. */
export type SecretFault =
  /** SECRETS_KEK is absent or not 32 bytes in base64. */
  | { reason: 'kek_invalid' }
  /** Sealed under another KEK or for another subject, or changed since. */
  | { reason: 'cannot_open' }

/**
 * The ciphertext to store: `v1.` and base64 of IV and sealed bytes.
 * @param subject Of `keySubject`.
 */
export async function sealSecret(
  kek: string,
  subject: string,
  secret: string,
  randomBytes: (count: number) => Uint8Array<ArrayBuffer>,
): Promise<Result<string, SecretFault>> {
  const key = await deriveKey(kek)
  if (key === undefined) return err({ reason: 'kek_invalid' })
  const iv = randomBytes(IV_BYTES)
  const sealed = await crypto.subtle.encrypt(parameters(iv, subject), key, new TextEncoder().encode(secret))
  const bytes = new Uint8Array(IV_BYTES + sealed.byteLength)
  bytes.set(iv)
  bytes.set(new Uint8Array(sealed), IV_BYTES)
  return ok(`${FORM}.${toBase64(bytes)}`)
}

/** The secret of a stored ciphertext. */
export async function openSecret(
  kek: string,
  subject: string,
  ciphertext: string,
): Promise<Result<string, SecretFault>> {
  const key = await deriveKey(kek)
  if (key === undefined) return err({ reason: 'kek_invalid' })
  const [form, text = ''] = ciphertext.split('.')
  const bytes = fromBase64(text)
  if (form !== FORM || bytes === undefined || bytes.length <= IV_BYTES) return err({ reason: 'cannot_open' })
  const iv = bytes.slice(0, IV_BYTES)
  try {
    const opened = await crypto.subtle.decrypt(parameters(iv, subject), key, bytes.slice(IV_BYTES))
    return ok(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(opened))
  } catch {
    return err({ reason: 'cannot_open' })
  }
}

function parameters(iv: Uint8Array<ArrayBuffer>, subject: string) {
  return { name: 'AES-GCM', iv, additionalData: new TextEncoder().encode(`${PURPOSE}:${subject}`) }
}

/** One deployment has one KEK, and deriving takes as long as a request's own work: the last key is kept, not exportable. */
let derived: { kek: string; key: CryptoKey } | undefined

async function deriveKey(kek: string): Promise<CryptoKey | undefined> {
  if (derived?.kek === kek) return derived.key

  const bytes = fromBase64(kek)
  if (bytes?.length !== KEK_BYTES) return undefined
  const root = await crypto.subtle.importKey('raw', bytes, 'HKDF', false, ['deriveKey'])
  const derivation = { name: 'HKDF', hash: 'SHA-256', salt: new Uint8Array(), info: new TextEncoder().encode(PURPOSE) }
  const key = await crypto.subtle.deriveKey(derivation, root, { name: 'AES-GCM', length: 256 }, false, [
    'encrypt',
    'decrypt',
  ])
  derived = { kek, key }
  return key
}

function toBase64(bytes: Uint8Array): string {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0))
  } catch {
    return undefined
  }
}
