// The caller's `Idempotency-Key`. Owns reading the header and what stands for it and for the request in the account:
// hashes, because a key may carry what its maker should not have put there. What a second request under a key is
// answered is account/.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { ReserveAsk, Subject } from '../account/contract.ts'

const HEADER = 'idempotency-key'
/** Printable ASCII; 255 characters is what other payment and inference interfaces take. */
const KEY_SHAPE = /^[\x20-\x7e]{1,255}$/

/**
 * Reads the header; undefined where there is none. A key belongs to the API key it is sent with, so callers cannot meet
 * by accident. The path counts as part of the request: the same body on another route asks for something else.
 */
export async function idempotencyOf(
  headers: Headers,
  { orgId, keyId, keyLineId = keyId }: Subject,
  path: string,
  body: Uint8Array,
): Promise<Result<ReserveAsk['idempotency'], Failure>> {
  const key = headers.get(HEADER)
  if (key === null) return ok(undefined)
  if (!KEY_SHAPE.test(key)) {
    const message = 'The header Idempotency-Key must have 1 to 255 printable ASCII characters.'
    return err({ code: 'invalid_request', message, param: HEADER })
  }
  const name = encoder.encode(`${path}\n`)
  const named = new Uint8Array(name.length + body.length)
  named.set(name)
  named.set(body, name.length)
  const [keyHash, bodyHash] = await Promise.all([
    sha256(encoder.encode(`${orgId}\n${keyLineId}\n${key}`)),
    sha256(named),
  ])
  return ok({ keyHash, bodyHash })
}

const encoder = new TextEncoder()

async function sha256(bytes: Uint8Array): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('')
}
