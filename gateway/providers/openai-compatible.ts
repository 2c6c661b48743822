// Any server that speaks OpenAI's HTTP: sends the request, reads the stream, classifies what goes wrong. Owns the HTTP;
// bodies are openai-encoder.ts and openai-decoder.ts. The host comes from the catalog, never from a caller.
import type { Failure } from '../../protocol/errors.ts'
import { choiceCount, type InferenceRequest } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { NO_USAGE } from '../meter/usage.ts'
import { errorText, log } from '../observe/log.ts'
import type { CutoffPolicy, ProviderConfig, Target } from '../policy/plan.ts'
import { likelyInputTokens } from '../stream/estimate.ts'
import { SseDecoder } from '../stream/sse.ts'
import { readLimited } from './bounded-body.ts'
import type { ProviderEvent } from './event.ts'
import { OpenAiDecoder, statusFailure } from './openai-decoder.ts'
import { encodeOpenAi } from './openai-encoder.ts'
import type { OpenContext, Provider, Upstream } from './provider.ts'

const ERROR_BYTES_MAX = 16 * 1024
/** A whole JSON answer, from servers that ignore `stream`. */
const WHOLE_ANSWER_BYTES_MAX = 32 * 1024 * 1024

export class OpenAiCompatibleProvider implements Provider {
  readonly #config: ProviderConfig

  constructor(config: ProviderConfig) {
    this.#config = config
  }

  get cutoff(): CutoffPolicy {
    return this.#config.cutoff
  }

  /** One address: trying it again at once is what the provider's own load balancer is for. */
  async hasAlternative(): Promise<boolean> {
    return false
  }

  async open(request: InferenceRequest, target: Target, context: OpenContext): Promise<Result<Upstream, Failure>> {
    const { path, body } = encodeOpenAi(request, target, context.maxOutputTokens)
    const fields = { requestId: context.requestId, provider: this.#config.name }
    let response: Response
    try {
      response = await context.fetch(`${this.#config.baseUrl.replace(/\/+$/, '')}${path}`, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          accept: 'text/event-stream, application/json',
          authorization: `Bearer ${this.#config.secret}`,
          'x-client-request-id': context.requestId,
        },
        body: JSON.stringify(body),
        redirect: 'manual',
        signal: context.signal,
      })
    } catch (error) {
      if (context.signal.aborted) throw error
      log('warn', 'provider_unreachable', { ...fields, error: this.#clean(errorText(error)) })
      return err({ code: 'upstream_error', message: 'The provider could not be reached.' })
    }
    if (response.status !== 200 || response.body === null) {
      const text = await readLimited(response, ERROR_BYTES_MAX).catch(() => '')
      const failure = statusFailure(response.status, this.#clean(text), response.headers, context.nowMs())
      log('warn', 'provider_refused', { ...fields, status: response.status, code: failure.code })
      return err(failure)
    }
    const isStream = (response.headers.get('content-type') ?? '').toLowerCase().startsWith('text/event-stream')
    const decoder = new OpenAiDecoder(choiceCount(request), this.#config.usageDialect, target.serviceTier)
    const events = isStream
      ? this.#stream(response.body, decoder, request, context)
      : this.#whole(response, decoder, request, context)
    return ok({ label: this.#config.name, events, close: () => {} })
  }

  async *#stream(
    body: ReadableStream<Uint8Array>,
    decoder: OpenAiDecoder,
    request: InferenceRequest,
    context: OpenContext,
  ): AsyncGenerator<ProviderEvent[]> {
    const reader = body.getReader()
    const sse = new SseDecoder()
    let accepted = false
    try {
      for (;;) {
        const { done, value } = await reader.read()
        const batch: ProviderEvent[] = []
        for (const { event, data } of done ? sse.end() : sse.push(value)) batch.push(...decoder.read(data, event))
        if (!accepted && batch.some((event) => event.type !== 'error')) {
          accepted = true
          batch.unshift(acceptedEvent(request))
        }
        if (batch.length > 0) yield this.#cleaned(batch)
        if (decoder.isOver) return
        if (done) break
      }
      const last = decoder.end()
      if (last.length > 0) yield this.#cleaned(last)
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
      if (decoder.hasInconsistentUsage) {
        log('warn', 'usage_inconsistent', { requestId: context.requestId, provider: this.#config.name })
      }
      await reader.cancel().catch(() => {})
    }
  }

  /** A body that is not a stream: an error in spite of the 200, or the whole answer at once. */
  async *#whole(
    response: Response,
    decoder: OpenAiDecoder,
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
    const events = decoder.read(text.trim())
    if (events.some((event) => event.type !== 'error')) events.unshift(acceptedEvent(request))
    if (!decoder.isComplete) events.push(broken('The provider sent an answer without content.'))
    yield this.#cleaned(events)
  }

  /** Some servers quote the key they refused; it goes neither to a client nor into a log or a row. */
  #clean(text: string): string {
    return this.#config.secret === '' ? text : text.replaceAll(this.#config.secret, '[secret]')
  }

  #cleaned(events: ProviderEvent[]): ProviderEvent[] {
    return events.map((event) => {
      switch (event.type) {
        case 'error':
          return { ...event, failure: { ...event.failure, message: this.#clean(event.failure.message) } }
        case 'usage':
          return event.rawUsage === undefined ? event : { ...event, rawUsage: this.#cleanJson(event.rawUsage) }
        default:
          return event
      }
    })
  }

  /** In JSON text the secret stands with its quotes and backslashes escaped. */
  #cleanJson(text: string): string {
    const secret = JSON.stringify(this.#config.secret).slice(1, -1)
    return secret === '' ? text : text.replaceAll(secret, '[secret]')
  }
}

const broken = (message: string): ProviderEvent => ({ type: 'error', failure: { code: 'upstream_error', message } })

/** The prompt was computed as soon as anything came back; how long it was is a guess until the provider says. */
const acceptedEvent = (request: InferenceRequest): ProviderEvent => ({
  type: 'accepted',
  usage: { ...NO_USAGE, inputUncached: likelyInputTokens(request) },
})
