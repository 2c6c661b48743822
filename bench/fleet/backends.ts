// Backends for the benchmark: keys, joins and signed reports as agents make them, ahead of time, so that sending them costs the
// Fleet object's work alone. Owns their bodies; the commands are driver.ts.

import { signBody } from '../../gateway/fleet/body-token.ts'
import type { Fleet, SignedBody } from '../../gateway/fleet/fleet.ts'
import type { CapacityFrame } from '../../protocol/capacity.ts'
import type { KvChanges, PublicKeyJwk } from '../../protocol/report.ts'
import { backendParty, GATEWAY_ISSUER } from '../../protocol/signing.ts'

type Stub = DurableObjectStub<Fleet>

/** As an engine of some size says it, with everything that a frame can hold. */
const FRAME: CapacityFrame = {
  model: 'llama-3.3-70b-instruct',
  engine: 'decode-1',
  role: 'decode',
  epoch: '0123456789abcdef',
  sequence: 123_456,
  contextTokensMax: 131_072,
  blockTokens: 16,
  kvBlocksTotal: 65_536,
  kvBlocksUsed: 40_000,
  kvBlocksCached: 20_000,
  sequencesRunning: 60,
  sequencesWaiting: 4,
  sequencesMax: 256,
  requestsQueued: 3,
  requestsQueuedMax: 256,
  prefillTokensQueued: 12_345,
  decodeKvTokens: 640_000,
  stepMs: 24.3127,
  measuredPrefillTokensPerSecond: 8123.45,
  measuredDecodeTokensPerSecond: 2412.34,
  memoryBytesPerSecond: 2_412_340_000_000,
  memoryBytesPerSecondMax: 3_350_000_000_000,
  stepModel: { baseMs: 6.1, prefillTokenMs: 0.112, decodeSequenceMs: 0.031, kvTokenMs: 0.0000234 },
  transfer: {
    fingerprint: 'llama:layers=80:kv_heads=8:dim=128:block=16:type=bf16',
    host: '0123456789abcdef',
    remote: true,
    bytesPerToken: 327_680,
    measuredBytesPerSecond: 21_000_000_000,
    reservations: 2,
  },
  draining: false,
  grammars: true,
}

export class Backend {
  readonly backendId = crypto.randomUUID()
  readonly #key: CryptoKey
  readonly #publicKey: PublicKeyJwk
  readonly #verifyKey: CryptoKey
  #sequence = 0
  #toldAny = false

  private constructor(pair: CryptoKeyPair, publicKey: PublicKeyJwk) {
    this.#key = pair.privateKey
    this.#verifyKey = pair.publicKey
    this.#publicKey = publicKey
  }

  static async joined(fleet: Stub): Promise<Backend> {
    const pair = (await crypto.subtle.generateKey('Ed25519', true, ['sign', 'verify'])) as CryptoKeyPair
    const { kty, crv, x } = (await crypto.subtle.exportKey('jwk', pair.publicKey)) as PublicKeyJwk
    const backend = new Backend(pair, { kty, crv, x })
    const made = await fleet.createToken({ label: 'bench', ttlMs: 600_000 })
    if (!made.ok) throw new Error(made.error.message)
    const joined = await fleet.join(
      await backend.#signed({
        version: 1,
        backendId: backend.backendId,
        url: 'http://127.0.0.1:7801',
        publicKey: backend.#publicKey,
        epoch: 'bench',
        frames: [FRAME],
        token: made.value.token,
      }),
    )
    if (!joined.ok) throw new Error(joined.error.message)
    return backend
  }

  /** What its signatures are checked against. */
  get party(): { key: CryptoKey; issuer: string; audience: string } {
    return { key: this.#verifyKey, issuer: backendParty(this.backendId), audience: GATEWAY_ISSUER }
  }

  /** The next report, in which these chunks are stored; none: nothing is said of them. */
  report(stored: number[]): Promise<SignedBody> {
    const kv: KvChanges = { reset: !this.#toldAny, stored, removed: [] }
    if (stored.length > 0) this.#toldAny = true
    return this.#signed({
      version: 1,
      backendId: this.backendId,
      epoch: 'bench',
      sequence: this.#sequence++,
      frames: [FRAME],
      ...(stored.length === 0 ? {} : { kv }),
    })
  }

  async #signed(value: object): Promise<SignedBody> {
    const body = new TextEncoder().encode(JSON.stringify(value))
    const token = await signBody({
      key: { key: this.#key, kid: 'bench' },
      issuer: backendParty(this.backendId),
      audience: GATEWAY_ISSUER,
      body,
      nowMs: Date.now(),
      jti: crypto.randomUUID(),
    })
    return { body, token }
  }
}
