// The secrets of one installation. Owns making them at the first start and reading them at the next; whoever can read
// the data folder has them, which is why it is 0700 and this file 0600.
import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto'
import { linkSync } from 'node:fs'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { z } from 'zod'

const SecretsFile = z.object({
  /** Guards /admin. */
  ADMIN_TOKEN: z.string().min(32),
  /** Private Ed25519 JWK with `kid`, as text: signs dispatches. */
  SIGNING_KEY_JWK: z.string().min(1),
  /** 32 bytes, base64: encrypts provider secrets at rest. */
  SECRETS_KEK: z.base64(),
})
export type Secrets = z.infer<typeof SecretsFile>

/** Reads the secrets; makes them where there are none. @throws Error where the file is there but not readable as such. */
export async function loadSecrets(path: string): Promise<Secrets> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (text !== undefined) return parse(path, text)
  const draft = `${path}.${process.pid}`
  await writeFile(draft, `${JSON.stringify(makeSecrets(), undefined, 2)}\n`, { mode: 0o600 })
  try {
    // Never replaces a file: losing the key-encryption key would lose every stored provider secret.
    linkSync(draft, path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    await rm(draft, { force: true })
  }
  return parse(path, await readFile(path, 'utf8'))
}

function parse(path: string, text: string): Secrets {
  try {
    return SecretsFile.parse(JSON.parse(text))
  } catch {
    throw new Error(`${path} is damaged; restore it from a copy, or choose another data folder with --data`)
  }
}

function makeSecrets(): Secrets {
  const jwk = generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' })
  // RFC 7638: the thumbprint of the public part, members in this order.
  const thumbprint = createHash('sha256')
    .update(JSON.stringify({ crv: jwk.crv, kty: jwk.kty, x: jwk.x }))
    .digest('base64url')
  return {
    ADMIN_TOKEN: `psadm_${randomBytes(32).toString('base64url')}`,
    SIGNING_KEY_JWK: JSON.stringify({ kty: jwk.kty, crv: jwk.crv, x: jwk.x, d: jwk.d, kid: thumbprint }),
    SECRETS_KEK: randomBytes(32).toString('base64'),
  }
}
