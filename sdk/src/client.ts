// The client that applications use. Owns the methods and how an answer is handed over; the loop behind each is call.ts.
import { answer, newCall, type Won } from './call.ts'
import { type Core, coreOf, type Surroundings } from './core.ts'
import { readUsage } from './dialect.ts'
import { PenstockError } from './errors.ts'
import type { CallOptions, ClientOptions } from './options.ts'
import { tell } from './report.ts'
import { eventsOf, RESTART_EVENT } from './stream.ts'
import type { WireRequest } from './target.ts'
import type {
  ChatChunk,
  ChatCompletion,
  ChatRequest,
  EmbeddingList,
  EmbeddingRequest,
  MessageEvent,
  MessageObject,
  MessagesRequest,
  ModelList,
  ResponseEvent,
  ResponseObject,
  ResponsesRequest,
} from './types.ts'
import type { UsageRecord, UsageReport } from './usage-queue.ts'

/**
 * Said inside a stream where the answer begins anew (`afterContent: 'restart'`): drop what came before it.
 *
 * @example
 * ```ts
 * for await (const chunk of stream) {
 *   if ('type' in chunk && chunk.type === 'penstock.restart') clear()
 * }
 * ```
 */
export type Restarted = { type: 'penstock.restart'; restart: number }

/**
 * A streamed answer: iterate it once. Leaving the loop stops the call.
 *
 * @example
 * ```ts
 * const stream = await penstock.chat.completions.create({ model: 'small', messages, stream: true })
 * for await (const chunk of stream) show(chunk.choices[0]?.delta.content ?? '')
 * ```
 */
export type EventStream<T> = AsyncIterable<T> & {
  /** `gateway`, or the direct provider that answers. */
  readonly target: string
  /** Finds the answer in logs and usage. */
  readonly requestId: string | undefined
  /** Stops the call; what was computed by then is charged. */
  abort: () => void
}

type Whole<T> = T & { readonly [ANSWERED]?: Answered }
/**
 * Who answered: {@link answeredBy}.
 *
 * @example
 * ```ts
 * const { target, requestId }: Answered = answeredBy(completion) ?? { target: 'unknown', requestId: undefined }
 * ```
 */
export type Answered = { target: string; requestId: string | undefined }
const ANSWERED: unique symbol = Symbol('penstock.answered')

/**
 * Who gave an answer.
 *
 * @returns undefined for anything that is not an answer of this package.
 * @example
 * ```ts
 * const completion = await penstock.chat.completions.create({ model: 'small', messages })
 * console.log(answeredBy(completion)?.target) // 'gateway'
 * ```
 */
export function answeredBy(value: object): Answered | undefined {
  return (value as Whole<object>)[ANSWERED]
}

/**
 * Calls models through a Penstock gateway; while the gateway is down, past it to your own providers.
 *
 * @throws PenstockError from every method: see {@link PenstockError.code}.
 * @example
 * ```ts
 * const penstock = new Penstock({
 *   gateway: { baseUrl: 'http://127.0.0.1:8787', apiKey },
 *   direct: [{ name: 'spare', baseUrl: 'https://api.example.com/v1', apiKey: key, models: { small: 'their-small' } }],
 * })
 * const answer = await penstock.chat.completions.create({ model: 'small', messages: [{ role: 'user', content: 'Hi' }] })
 * ```
 */
export class Penstock {
  readonly #core: Core

  /** @throws PenstockError `invalid_request` for options that make no sense. */
  constructor(options: ClientOptions, surroundings?: Surroundings) {
    this.#core = coreOf(options, surroundings)
  }

  /**
   * Chats in the OpenAI dialect.
   *
   * @example
   * ```ts
   * const answer = await penstock.chat.completions.create({ model: 'small', messages })
   * for await (const chunk of await penstock.chat.completions.create({ model: 'small', messages, stream: true })) show(chunk.id)
   * ```
   */
  readonly chat: { readonly completions: { readonly create: CreateChat } } = {
    completions: {
      create: ((request: ChatRequest, options?: CallOptions) =>
        this.#create('/chat/completions', withUsage(request), options)) as CreateChat,
    },
  }

  /**
   * Vectors of texts.
   *
   * @example
   * ```ts
   * const { data } = await penstock.embeddings.create({ model: 'small', input: ['one text', 'another'] })
   * ```
   */
  readonly embeddings: {
    readonly create: (request: EmbeddingRequest, options?: CallOptions) => Promise<EmbeddingList>
  } = {
    create: (request, options) => this.#whole(post('/embeddings', request), options),
  }

  /**
   * Stored and background answers; a background stream that breaks off is continued by itself.
   *
   * @example
   * ```ts
   * const { id } = await penstock.responses.create({ model: 'small', input: 'Write a long report.', background: true })
   * const { status } = await penstock.responses.retrieve(id)
   * ```
   */
  readonly responses: {
    readonly create: CreateResponse
    readonly retrieve: (id: string, options?: CallOptions) => Promise<ResponseObject>
    readonly cancel: (id: string, options?: CallOptions) => Promise<ResponseObject>
    /** @param token `partial.resumeToken` of a StreamInterruptedError. */
    readonly resume: (token: string, options?: CallOptions) => Promise<EventStream<ResponseEvent | Restarted>>
  } = {
    create: ((request: ResponsesRequest, options?: CallOptions) =>
      this.#create('/responses', request, options)) as CreateResponse,
    retrieve: (id, options) => this.#whole(get(`/responses/${encodeURIComponent(id)}`), options),
    cancel: (id, options) => this.#whole(post(`/responses/${encodeURIComponent(id)}/cancel`, {}), options),
    resume: (token, options) => {
      const [, id = '', sequence = ''] = /^(.+):(-?\d+)$/.exec(token) ?? []
      if (id === '') throw invalid('this is no resume token')
      const after = Number(sequence) < 0 ? '' : `&starting_after=${sequence}`
      const path = `/responses/${encodeURIComponent(id)}?stream=true${after}`
      return this.#stream({ ...get(path), isStream: true }, options)
    },
  }

  /**
   * The messages dialect.
   *
   * @example
   * ```ts
   * const message = await penstock.messages.create({
   *   model: 'small',
   *   max_tokens: 100,
   *   messages: [{ role: 'user', content: 'Hi' }],
   * })
   * ```
   */
  readonly messages: { readonly create: CreateMessage } = {
    create: ((request: MessagesRequest, options?: CallOptions) =>
      this.#create('/messages', request, options)) as CreateMessage,
  }

  /**
   * The models that the key may use.
   *
   * @example
   * ```ts
   * const { data } = await penstock.models.list()
   * ```
   */
  readonly models: { readonly list: (options?: CallOptions) => Promise<ModelList> } = {
    list: (options) => this.#whole(get('/models'), options),
  }

  /**
   * Posts the usage of direct calls that the gateway does not know of yet. It goes by itself whenever the gateway answers a call; this
   * is for the end of a process, or of a Worker's request (`ctx.waitUntil(penstock.flushUsage())`). Never throws.
   *
   * @returns What still waits, after ten seconds per 25 records at most.
   * @example
   * ```ts
   * const { pending } = await penstock.flushUsage()
   * if (pending > 0) await store(penstock.pendingUsage)
   * ```
   */
  flushUsage(): Promise<UsageReport> {
    return this.#core.reports.flush()
  }

  /**
   * Usage of direct calls that the gateway does not have yet. Store it to give it to the next client as `unreported`.
   *
   * @example
   * ```ts
   * const next = new Penstock({ ...options, unreported: penstock.pendingUsage })
   * ```
   */
  get pendingUsage(): readonly UsageRecord[] {
    return this.#core.reports.waiting
  }

  #create(path: string, request: { stream?: boolean }, options?: CallOptions): Promise<unknown> {
    const wire = post(path, request)
    return wire.isStream ? this.#stream(wire, options) : this.#whole(wire, options)
  }

  async #whole<T extends object>(request: WireRequest, options: CallOptions = {}): Promise<T> {
    const call = newCall(this.#core, request, options)
    const won = await answer(this.#core, call)
    call.scope.abort(new Error('the call is over'))
    let value: T | undefined
    try {
      value = wholeOf<T>(won)
    } finally {
      tell(this.#core, call, won, 'answered', readUsage(value))
    }
    Object.defineProperty(value, ANSWERED, { value: { target: won.target.name, requestId: won.requestId } })
    return value
  }

  async #stream<T>(request: WireRequest, options: CallOptions = {}): Promise<EventStream<T | Restarted>> {
    const core = this.#core
    const call = newCall(core, request, options)
    const won = await answer(core, call)
    const events = eventsOf(core, call, won)
    async function* parsed(): AsyncGenerator<T | Restarted, void, undefined> {
      for await (const { event, data } of events) {
        if (data === '[DONE]') continue
        if (event === RESTART_EVENT) yield JSON.parse(data) as Restarted
        else yield jsonOf<T>(data)
      }
    }
    const iterable = parsed()
    return {
      target: won.target.name,
      requestId: won.requestId,
      abort: () => call.scope.abort(new Error('the stream was left')),
      [Symbol.asyncIterator]: () => iterable,
    }
  }
}

/**
 * How chats are asked for: a stream where `stream` is true, else a whole answer.
 *
 * @example
 * ```ts
 * const create: CreateChat = penstock.chat.completions.create
 * const answer = await create({ model: 'small', messages })
 * ```
 */
export type CreateChat = {
  (request: ChatRequest & { stream: true }, options?: CallOptions): Promise<EventStream<ChatChunk>>
  (request: ChatRequest & { stream?: false }, options?: CallOptions): Promise<ChatCompletion>
}
/**
 * How responses are asked for: a stream where `stream` is true, else a whole answer.
 *
 * @example
 * ```ts
 * const create: CreateResponse = penstock.responses.create
 * const response = await create({ model: 'small', input: 'Hi' })
 * ```
 */
export type CreateResponse = {
  (request: ResponsesRequest & { stream: true }, options?: CallOptions): Promise<EventStream<ResponseEvent | Restarted>>
  (request: ResponsesRequest & { stream?: false }, options?: CallOptions): Promise<ResponseObject>
}
/**
 * How messages are asked for: a stream where `stream` is true, else a whole answer.
 *
 * @example
 * ```ts
 * const create: CreateMessage = penstock.messages.create
 * const message = await create({ model: 'small', max_tokens: 100, messages: [{ role: 'user', content: 'Hi' }] })
 * ```
 */
export type CreateMessage = {
  (request: MessagesRequest & { stream: true }, options?: CallOptions): Promise<EventStream<MessageEvent | Restarted>>
  (request: MessagesRequest & { stream?: false }, options?: CallOptions): Promise<MessageObject>
}

/** A stream tells its usage only where it is asked to. */
function withUsage(request: ChatRequest): ChatRequest {
  if (request.stream !== true || request.stream_options !== undefined) return request
  return { ...request, stream_options: { include_usage: true } }
}

const get = (path: string): WireRequest => ({ method: 'GET', path, headers: {}, isStream: false })

const post = (path: string, body: object & { stream?: unknown }): WireRequest => ({
  method: 'POST',
  path,
  body: body as Record<string, unknown>,
  headers: path === '/messages' ? { 'anthropic-version': '2023-06-01' } : {},
  isStream: body.stream === true,
})

function wholeOf<T>(won: Won): T {
  if (won.kind === 'whole') return jsonOf<T>(won.text)
  won.reader.close()
  throw new PenstockError('a stream came where none was asked for', {
    code: 'malformed',
    origin: 'provider',
    retryable: false,
    target: won.target.name,
  })
}

function jsonOf<T>(text: string): T {
  try {
    return JSON.parse(text) as T
  } catch (cause) {
    throw new PenstockError('the answer is no JSON', { code: 'malformed', origin: 'provider', retryable: false, cause })
  }
}

const invalid = (message: string): PenstockError =>
  new PenstockError(message, { code: 'invalid_request', origin: 'client', retryable: false })
