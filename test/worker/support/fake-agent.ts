// A backend agent without an engine: enrols, joins and answers dispatches from a script, and checks every dispatch as a
// real agent does (signature by the published key, audience, digest, single use). Owns the agent's side of wires 2 and 3.
import { env } from 'cloudflare:test'
import { createLocalJWKSet, exportJWK, generateKeyPair, jwtVerify } from 'jose'
import { signBody } from '../../../gateway/fleet/body-token.ts'
import { publicJwks } from '../../../gateway/fleet/signing-key.ts'
import type { CapacityFrame } from '../../../protocol/capacity.ts'
import { DISPATCH_CONTENT_TYPE, type DispatchEvent, DispatchRequest } from '../../../protocol/dispatch.ts'
import type { ErrorCode } from '../../../protocol/errors.ts'
import { type KvChanges, PublicKeyJwk } from '../../../protocol/report.ts'
import { backendParty, bodyDigest, GATEWAY_ISSUER } from '../../../protocol/signing.ts'

export type Line = DispatchEvent | { raw: string } | { wait: Promise<unknown> } | { run: () => void } | 'cut'

/** What the agent does with one dispatch. */
export type AgentScript = (dispatch: DispatchRequest) => Line[] | Response | Promise<Line[] | Response>

export const usage = (inputTokens: number, outputTokens: number, cachedInputTokens = 0) => ({
  inputTokens,
  outputTokens,
  cachedInputTokens,
})

/** A plain good answer: one delta per word. */
export function answer(words: string[], inputTokens = 7): DispatchEvent[] {
  return [
    { type: 'accepted', usage: usage(inputTokens, 0), queueMs: 0 },
    ...words.map((text, i) => ({ type: 'delta' as const, choice: 0, text, outputTokens: i + 1 })),
    { type: 'finish', choice: 0, reason: 'stop', outputTokens: words.length },
    { type: 'usage', usage: usage(inputTokens, words.length) },
  ]
}

/**
 * An answer of one token a word that tells its tokens, and goes on with one that another agent began, as agents do: all of it is
 * told again, and none of its probabilities.
 * @param cut words said in this life before `end` comes; default: all of them.
 */
export function toldAnswer(
  { resume, logprobs }: DispatchRequest,
  words: readonly string[],
  { cut = words.length, end = [], inputTokens = 7 }: { cut?: number; end?: Line[]; inputTokens?: number } = {},
): Line[] {
  const known = resume?.choices.find(({ choice }) => choice === 0)?.tokenIds ?? []
  if (known.some((id, at) => id !== wordId(at))) throw new Error('the tokens of another answer')
  const entry = (at: number) => ({ text: words[at] ?? '', bytes: [], logprob: -at, top: [] })
  const again = words.slice(0, known.length).join('')
  return [
    { type: 'accepted', usage: usage(inputTokens, 0), queueMs: 0 },
    ...(known.length === 0 ? [] : [{ type: 'delta' as const, choice: 0, text: again, outputTokens: known.length }]),
    ...words.flatMap((text, at): Line[] => {
      if (at < known.length || at >= cut) return []
      const told = logprobs === undefined ? {} : { logprobs: [entry(at)] }
      return [
        { type: 'tokens', choice: 0, ids: [wordId(at)] },
        { type: 'delta', choice: 0, text, outputTokens: at + 1, ...told },
      ]
    }),
    ...(cut < words.length
      ? end
      : ([
          { type: 'finish', choice: 0, reason: 'stop', outputTokens: words.length },
          { type: 'usage', usage: usage(inputTokens, words.length) },
        ] satisfies Line[])),
  ]
}

/** Of the word in this place of a `toldAnswer`. */
const wordId = (at: number): number => 100 + at

export const refusal = (status: number, code: ErrorCode, retryAfterMs?: number): Response =>
  Response.json(
    { code, message: `refused: ${code}`, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) },
    { status },
  )

export function frame(model: string, over: Partial<CapacityFrame> = {}): CapacityFrame {
  return {
    model,
    role: 'both',
    epoch: 'engine-1',
    sequence: 1,
    contextTokensMax: 2048,
    blockTokens: 16,
    kvBlocksTotal: 128,
    kvBlocksUsed: 0,
    kvBlocksCached: 0,
    sequencesRunning: 0,
    sequencesWaiting: 0,
    sequencesMax: 8,
    requestsQueued: 0,
    requestsQueuedMax: 64,
    prefillTokensQueued: 0,
    decodeKvTokens: 0,
    stepMs: 1,
    draining: false,
    ...over,
  }
}

export class FakeAgent {
  readonly backendId = crypto.randomUUID()
  readonly url = `http://agent-${this.backendId}.test`
  readonly dispatches: DispatchRequest[] = []
  /** Streams that the gateway ended before their end. */
  cancelled = 0
  epoch = 'life-1'
  script: AgentScript
  #keys: CryptoKeyPair | undefined
  #sequence = 0
  readonly #seen = new Set<string>()

  constructor(script: AgentScript) {
    this.script = script
  }

  async keys(): Promise<CryptoKeyPair> {
    this.#keys ??= (await generateKeyPair('EdDSA', { crv: 'Ed25519', extractable: true })) as CryptoKeyPair
    return this.#keys
  }

  async publicKey(): Promise<PublicKeyJwk> {
    return PublicKeyJwk.parse(await exportJWK((await this.keys()).publicKey))
  }

  async sign(body: Uint8Array, over: { audience?: string; issuer?: string; nowMs?: number; jti?: string } = {}) {
    return signBody({
      key: { key: (await this.keys()).privateKey, kid: 'agent' },
      issuer: over.issuer ?? backendParty(this.backendId),
      audience: over.audience ?? GATEWAY_ISSUER,
      body,
      nowMs: over.nowMs ?? Date.now(),
      jti: over.jti ?? crypto.randomUUID(),
    })
  }

  async joinBody(frames: CapacityFrame[], token?: string) {
    return {
      version: 1,
      backendId: this.backendId,
      url: this.url,
      publicKey: await this.publicKey(),
      epoch: this.epoch,
      frames,
      ...(token === undefined ? {} : { token }),
    }
  }

  /** Enrols with a fresh token and joins, straight at the Fleet object. */
  async join(frames: CapacityFrame[]): Promise<void> {
    const made = await fleet().createToken({ label: 'test', ttlMs: 60_000 })
    if (!made.ok) throw new Error(made.error.message)
    const body = encode(await this.joinBody(frames, made.value.token))
    const joined = await fleet().join({ body, token: await this.sign(body) })
    if (!joined.ok) throw new Error(joined.error.message)
  }

  async report(frames: CapacityFrame[], sequence = this.#sequence++, kv?: KvChanges) {
    const body = encode({ version: 1, backendId: this.backendId, epoch: this.epoch, sequence, frames, kv })
    return fleet().report({ body, token: await this.sign(body) })
  }

  /** The agent's HTTP server. */
  async handle(request: Request): Promise<Response> {
    const body = new Uint8Array(await request.arrayBuffer())
    const token = /^Bearer (.+)$/.exec(request.headers.get('authorization') ?? '')?.[1] ?? ''
    const verified = await jwtVerify(token, createLocalJWKSet(publicJwks(env)), {
      algorithms: ['EdDSA'],
      issuer: GATEWAY_ISSUER,
      audience: backendParty(this.backendId),
      requiredClaims: ['exp', 'jti', 'body_sha256'],
    })
    const { jti, body_sha256: digest } = verified.payload
    if (jti === undefined || this.#seen.has(jti) || digest !== (await bodyDigest(body))) {
      return refusal(401, 'invalid_api_key')
    }
    this.#seen.add(jti)
    const dispatch = DispatchRequest.parse(JSON.parse(new TextDecoder().decode(body)))
    this.dispatches.push(dispatch)
    const said = await this.script(dispatch)
    return said instanceof Response ? said : this.#stream(said, request.signal)
  }

  #stream(lines: Line[], signal: AbortSignal): Response {
    let at = 0
    let over = false
    const encoder = new TextEncoder()
    const stopped = new Promise<'stopped'>((resolve) => signal.addEventListener('abort', () => resolve('stopped')))
    const gone = () => {
      if (!over) this.cancelled++
      over = true
    }
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        for (;;) {
          const line = lines[at++]
          if (line === undefined) {
            over = true
            controller.close()
            return
          }
          if (line === 'cut') {
            over = true
            controller.error(new Error('connection reset'))
            return
          }
          if ('run' in line) {
            line.run()
            continue
          }
          if ('wait' in line) {
            if ((await Promise.race([line.wait, stopped])) !== 'stopped') continue
            gone()
            controller.error(signal.reason)
            return
          }
          controller.enqueue(encoder.encode('raw' in line ? line.raw : `${JSON.stringify(line)}\n`))
          return
        }
      },
      cancel: gone,
    })
    return new Response(body, { headers: { 'content-type': DISPATCH_CONTENT_TYPE } })
  }
}

export const fleet = () => env.FLEET.getByName('default')
export const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))
