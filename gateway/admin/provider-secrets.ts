// Providers' secrets on their way in. Owns sealing them for their row, and when one may not stay; no part of a secret is in
// any message.
import type { Env } from '../env.ts'
import { keySubject, sealSecret } from '../policy/secrets.ts'
import { Refusal } from './context.ts'

/** The ciphertext for the key's row. @throws Refusal where this deployment cannot keep secrets. */
export async function sealedFor(env: Env, provider: string, key: string, secret: string): Promise<string> {
  const random = (count: number) => crypto.getRandomValues(new Uint8Array(count))
  const sealed = await sealSecret(env.SECRETS_KEK, keySubject(provider, key), secret, random)
  if (sealed.ok) return sealed.value
  const message = 'Secrets cannot be stored: SECRETS_KEK is not 32 bytes in base64.'
  throw new Refusal({ code: 'unavailable', message })
}

/** Whether secrets that were given for one address may not go to the other. */
export const isOtherHost = (before: string, after: string): boolean => new URL(before).origin !== new URL(after).origin
