// Any upstream over HTTP: sends what its vendor wrote, reads the answer, classifies what goes wrong on the way. Owns the
// call, that it is let go of exactly once, and that no key reaches a log, a row or a caller. What a vendor's bytes mean
// is its own file. The host comes from the catalog, never from a caller.
import type { Failure, UpstreamFaultKind } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { NO_USAGE } from '../meter/usage.ts'
import { errorText, log } from '../observe/log.ts'
import type { CutoffPolicy, ProviderConfig, ProviderKey, Target } from '../policy/plan.ts'
import { likelyInputTokens } from '../stream/estimate.ts'
import { readLimited } from './bounded-body.ts'
import type { ProviderEvent } from './event.ts'
import type { OpenContext, Provider, Upstream } from './provider.ts'
import { cleanFailure, cleanText, type Secret, secretsIn } from './secret-text.ts'
import { readToEnd } from './stream-end.ts'
import type { AnswerDecoder, Vendor } from './vendor.ts'

const ERROR_BYTES_MAX = 16 * 1024
/** A whole answer, from servers that ignore `stream` and from routes that know none. */
const WHOLE_ANSWER_BYTES_MAX = 32 * 1024 * 1024

/** By key as the catalog holds it: making what a key is found by takes longer than looking for it. */
const secretsByKey = new WeakMap<ProviderKey, readonly Secret[]>()

function secretsOf(key: ProviderKey): readonly Secret[] {
  const known = secretsByKey.get(key) ?? secretsIn(key.secret)
  secretsByKey.set(key, known)
  return known
}

export class HttpProvider implements Provider {
  readonly #config: ProviderConfig
  readonly #vendor: Vendor
  readonly #key: ProviderKey
  readonly #secrets: readonly Secret[]

  /** @param key The one of the provider's keys that this attempt uses. */
  constructor(config: ProviderConfig, vendor: Vendor, key: ProviderKey) {
    this.#config = config
    this.#vendor = vendor
    this.#key = key
    this.#secrets = secretsOf(key)
  }

  get cutoff(): CutoffPolicy {
    return this.#config.cutoff
  }

  /** One address: trying it again at once is what the provider's own load balancer is for. */
  async hasAlternative(): Promise<boolean> {
    return false
  }

  async open(request: InferenceRequest, target: Target, context: OpenContext): Promise<Result<Upstream, Failure>> {
    const { maxOutputTokens, requestId, nowMs } = context
    const encoded = await this.#vendor.encode(request, target, {
      config: this.#config,
      key: this.#key,
      ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
      requestId,
      nowMs,
    })
    if (!encoded.ok) return encoded
    const { url, headers, body } = encoded.value
    const fields = { requestId, provider: this.#config.name, key: this.#key.name }
    let response: Response
    try {
      const init = { method: 'POST', headers, body, redirect: 'manual', signal: context.signal } as const
      response = await context.fetch(url, init, this.#config.reach)
    } catch (error) {
      if (context.signal.aborted) throw error
      log('warn', 'provider_unreachable', { ...fields, error: this.#clean(errorText(error)) })
      return err({ code: 'upstream_error', message: 'The provider could not be reached.', kind: 'connect' })
    }
    if (response.status !== 200 || response.body === null) {
      const text = await readLimited(response, ERROR_BYTES_MAX).catch(() => '')
      // Before it is read, since words are cut to length, and after it: a key can be spelled in ways that reading undoes.
      const read = this.#vendor.failure(response.status, this.#clean(text), response.headers, nowMs())
      const failure = cleanFailure(read, this.#secrets)
      log('warn', 'provider_refused', { ...fields, status: response.status, code: failure.code, kind: failure.kind })
      return err(failure)
    }
    const decoder = this.#vendor.decoder(request, target, this.#config)
    const isStream = this.#vendor.isStream((response.headers.get('content-type') ?? '').toLowerCase())
    const events = isStream
      ? this.#stream(response.body, decoder, request, context)
      : this.#whole(response, decoder, request, context)
    return ok({ label: this.#config.name, events, close: () => {} })
  }

  async *#stream(
    body: ReadableStream<Uint8Array>,
    decoder: AnswerDecoder,
    request: InferenceRequest,
    context: OpenContext,
  ): AsyncGenerator<ProviderEvent[]> {
    const reader = body.getReader()
    let accepted = false
    let isRead = false
    try {
      for (;;) {
        const { done, value } = await reader.read()
        isRead = done
        const batch = done ? decoder.end() : decoder.push(value)
        if (!accepted && batch.some((event) => event.type !== 'error')) {
          accepted = true
          batch.unshift(acceptedEvent(request))
        }
        // An empty batch, too: pings, proofs of thoughts and calls half built say that the provider is at work.
        if (batch.length > 0 || !done) yield this.#cleaned(batch)
        if (decoder.isOver) {
          isRead = true
          if (!done) context.waitUntil(readToEnd(reader))
          return
        }
        if (done) break
      }
      if (!decoder.isComplete) yield [broken('The provider closed the stream before the answer was complete.')]
    } catch (error) {
      if (context.signal.aborted) throw error
      log('warn', 'provider_broke_off', {
        requestId: context.requestId,
        provider: this.#config.name,
        error: this.#clean(errorText(error)),
      })
      yield [broken('The connection to the provider broke off.')]
    } finally {
      this.#noteInconsistency(decoder, context)
      if (!isRead) await reader.cancel().catch(() => {})
    }
  }

  /** A body that is not a stream: an error in spite of the 200, or the whole answer at once. */
  async *#whole(
    response: Response,
    decoder: AnswerDecoder,
    request: InferenceRequest,
    context: OpenContext,
  ): AsyncGenerator<ProviderEvent[]> {
    let text: string
    try {
      text = await readLimited(response, WHOLE_ANSWER_BYTES_MAX)
    } catch (error) {
      if (context.signal.aborted) throw error
      yield [broken('The connection to the provider broke off.')]
      return
    }
    const events = decoder.whole(text.trim())
    if (events.some((event) => event.type !== 'error')) events.unshift(acceptedEvent(request))
    if (!decoder.isComplete) events.push(broken('The provider sent an answer without content.', 'malformed'))
    this.#noteInconsistency(decoder, context)
    yield this.#cleaned(events)
  }

  #noteInconsistency(decoder: AnswerDecoder, context: OpenContext): void {
    if (!decoder.hasInconsistentUsage) return
    log('warn', 'usage_inconsistent', { requestId: context.requestId, provider: this.#config.name })
  }

  /** Some servers quote the key they refused; it goes neither to a client nor into a log or a row. */
  #clean(text: string): string {
    return cleanText(text, this.#secrets)
  }

  #cleaned(events: ProviderEvent[]): ProviderEvent[] {
    return events.map((event) => {
      if (event.type !== 'error' && event.type !== 'usage') return event
      const { rawUsage } = event
      const cleaned = rawUsage === undefined ? event : { ...event, rawUsage: this.#clean(rawUsage) }
      return cleaned.type === 'error' ? { ...cleaned, failure: cleanFailure(cleaned.failure, this.#secrets) } : cleaned
    })
  }
}

const broken = (message: string, kind: UpstreamFaultKind = 'broken_off'): ProviderEvent => ({
  type: 'error',
  failure: { code: 'upstream_error', message, kind },
})

/** The prompt was computed as soon as anything came back; how long it was is a guess until the provider says. */
const acceptedEvent = (request: InferenceRequest): ProviderEvent => ({
  type: 'accepted',
  usage: { ...NO_USAGE, inputUncached: likelyInputTokens(request) },
})
