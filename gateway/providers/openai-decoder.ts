// Answers of OpenAI-compatible servers into provider events: streams, whole bodies, embeddings, and errors inside any. Owns the
// tolerant reading; HTTP is openai-compatible.ts. Pure.
import { z } from 'zod'
import type { LogprobEntry } from '../../protocol/dispatch.ts'
import type { Failure } from '../../protocol/errors.ts'
import { RAW_USAGE_CHARS_MAX } from '../account/contract.ts'
import { rawUsageText, withOtherModels } from '../meter/normalise.ts'
import { outputTokens } from '../meter/usage.ts'
import { encodeVector } from '../stream/vector.ts'
import type { FinishReason, ProviderEvent } from './event.ts'
import { type SeenUsage, type UsageDialect, UsageReader } from './usage-dialect.ts'

const ERROR_TEXT_MAX = 500

const TokenLogprob = z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.number()).nullish() })

/** Tolerant: unknown fields pass, and of known ones only what is read has to be right. */
const Choice = z.object({
  index: z.number().int().nonnegative().default(0),
  /** What a model thinks aloud has two names, and is not passed on. */
  delta: z
    .object({ content: z.string().nullish(), reasoning_content: z.unknown(), reasoning: z.unknown() })
    .partial()
    .nullish(),
  message: z.object({ content: z.string().nullish() }).nullish(),
  text: z.string().nullish(),
  finish_reason: z.string().nullish(),
  logprobs: z
    .object({
      content: z.array(TokenLogprob.extend({ top_logprobs: z.array(TokenLogprob).nullish() })).nullish(),
      tokens: z.array(z.string()).nullish(),
      token_logprobs: z.array(z.number().nullable()).nullish(),
      top_logprobs: z.array(z.record(z.string(), z.number()).nullable()).nullish(),
    })
    .nullish(),
})
/** By hand below: a validator that visits each of a million numbers takes seconds. */
const Vector = z.object({ index: z.number().int().nonnegative(), embedding: z.unknown() })
const Chunk = z.object({
  data: z.array(Vector).nullish(),
  choices: z.array(Choice).nullish(),
  usage: z.unknown().optional(),
  /** Its name in one dialect. */
  usageMetadata: z.unknown().optional(),
  service_tier: z.string().nullish(),
  error: z.unknown().optional(),
})

const encoder = new TextEncoder()
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/

/** A vector in either of its two forms as base64; undefined where it is neither. */
function vectorText(embedding: unknown): string | undefined {
  if (typeof embedding === 'string') return BASE64.test(embedding) ? embedding : undefined
  if (!Array.isArray(embedding) || embedding.length === 0) return undefined
  return embedding.every((value) => Number.isFinite(value)) ? encodeVector(embedding) : undefined
}

const tokenOf = (text: string, logprob: number, bytes?: number[] | null) => ({
  text,
  bytes: bytes ?? [...encoder.encode(text)],
  logprob,
})

function logprobsOf(choice: z.infer<typeof Choice>): LogprobEntry[] | undefined {
  const from = choice.logprobs
  if (from === undefined || from === null) return undefined
  if (from.content !== undefined && from.content !== null) {
    return from.content.map((one) => ({
      ...tokenOf(one.token, one.logprob, one.bytes),
      top: (one.top_logprobs ?? []).map((top) => tokenOf(top.token, top.logprob, top.bytes)),
    }))
  }
  return (from.tokens ?? []).map((token, i) => ({
    ...tokenOf(token, from.token_logprobs?.[i] ?? 0),
    top: Object.entries(from.top_logprobs?.[i] ?? {}).map(([text, logprob]) => tokenOf(text, logprob)),
  }))
}

/** Their words for why it ended; anything else ended by itself. */
function finishOf(reason: string): FinishReason {
  switch (reason) {
    case 'length':
    case 'max_tokens':
      return 'length'
    case 'content_filter':
      return 'content_filter'
    default:
      return 'stop'
  }
}

/**
 * Reads chunk after chunk, and keeps the counts that a server without usage leaves to us: at least one token for each
 * chunk with text or thought, exactly as many as there are logprobs where they come along.
 */
export class OpenAiDecoder {
  readonly #outputTokens = new Map<number, number>()
  readonly #finished = new Set<number>()
  readonly #choices: number
  readonly #usage: UsageReader
  readonly #tierAsked: string | undefined
  #tierServed: string | undefined
  /** The newest count, while more may come. */
  #running: SeenUsage | undefined
  #hasInconsistentUsage = false
  #sawDone = false
  #failed = false

  /**
   * @param choices How many choices the request asked for.
   * @param dialect What the usage objects mean.
   * @param tierAsked The service the provider was asked for by name; another one in the answer is a price not agreed on.
   */
  constructor(choices: number, dialect: UsageDialect = 'openai', tierAsked?: string) {
    this.#choices = choices
    this.#tierAsked = tierAsked
    this.#usage = new UsageReader(dialect)
  }

  /** Whether the answer is complete: the end mark, or every choice finished where a server has no end mark. */
  get isComplete(): boolean {
    return this.#failed || this.#sawDone || this.#finished.size >= this.#choices
  }

  /** The server's counts contradicted each other: an operator may want to look. */
  get hasInconsistentUsage(): boolean {
    return this.#hasInconsistentUsage
  }

  get #mayGoOn(): boolean {
    return !this.#sawDone && this.#finished.size < this.#choices
  }

  /** After the end mark or an error nothing more counts. */
  get isOver(): boolean {
    return this.#failed || this.#sawDone
  }

  /** Data of one event, or a whole JSON body. */
  read(data: string, eventName = 'message'): ProviderEvent[] {
    if (this.isOver || data === '') return []
    if (data.trim() === '[DONE]') {
      this.#sawDone = true
      return this.end()
    }
    let json: unknown
    try {
      json = JSON.parse(data)
    } catch {
      return [this.#fail('The provider sent an event that is not JSON.')]
    }
    const parsed = Chunk.safeParse(json)
    if (!parsed.success) return [this.#fail('The provider sent an event of an unknown shape.')]
    const { data: vectors, choices, usage, usageMetadata, error } = parsed.data
    if ((error !== undefined && error !== null) || eventName === 'error') {
      return [this.#fail(`The provider broke off with an error: ${errorWords(error ?? json)}`)]
    }
    this.#tierServed = parsed.data.service_tier ?? this.#tierServed
    const events: ProviderEvent[] = []
    for (const choice of choices ?? []) this.#choice(choice, events)
    for (const vector of vectors ?? []) {
      const values = vectorText(vector.embedding)
      if (values === undefined) return [this.#fail('The provider sent an embedding that is none.')]
      if (vector.index >= this.#choices || this.#finished.has(vector.index)) continue
      this.#finished.add(vector.index)
      events.push({ type: 'embedding', choice: vector.index, values })
    }
    const seen = this.#usage.see(usage ?? usageMetadata)
    if (seen !== undefined) events.push(this.#counted(seen))
    return events
  }

  /**
   * What the end of the stream makes certain: a count that came before the last choice finished, and that covers every
   * token seen, was the last word.
   */
  end(): ProviderEvent[] {
    const seen = this.#running
    if (seen === undefined || this.#mayGoOn) return []
    this.#running = undefined
    let seenTokens = 0
    for (const tokens of this.#outputTokens.values()) seenTokens += tokens
    return outputTokens(seen.usage) < seenTokens ? [] : [this.#counted(seen)]
  }

  /** Before every choice has finished a count is what stands so far: some servers send one with each chunk. */
  #counted(seen: SeenUsage): ProviderEvent {
    const { usage, providerCostNanoUsd, ...read } = withOtherModels(seen)
    const isOtherTier =
      this.#tierAsked !== undefined && this.#tierServed !== undefined && this.#tierServed !== this.#tierAsked
    const inconsistent = read.inconsistent || isOtherTier
    const rawUsage = rawUsageText(seen.raw, RAW_USAGE_CHARS_MAX)
    const isRunning = this.#mayGoOn
    this.#running = isRunning ? seen : undefined
    this.#hasInconsistentUsage ||= inconsistent
    return {
      type: 'usage',
      usage,
      ...(isRunning ? { isRunning } : {}),
      ...(rawUsage === undefined ? {} : { rawUsage }),
      ...(inconsistent ? { inconsistent } : {}),
      ...(providerCostNanoUsd === undefined ? {} : { providerCostNanoUsd }),
    }
  }

  #choice(choice: z.infer<typeof Choice>, events: ProviderEvent[]): void {
    const { index } = choice
    // An index nobody asked for would make a choice that nobody pays for.
    if (index >= this.#choices) return
    const text = choice.delta?.content ?? choice.message?.content ?? choice.text ?? ''
    const logprobs = logprobsOf(choice)
    // Thoughts are billed like text: whoever hangs up during them has had them computed.
    if (text !== '' || hasThought(choice) || (logprobs !== undefined && logprobs.length > 0)) {
      const tokens = (this.#outputTokens.get(index) ?? 0) + Math.max(1, logprobs?.length ?? 1)
      this.#outputTokens.set(index, tokens)
      const alternatives = logprobs === undefined ? {} : { logprobs }
      events.push({ type: 'delta', choice: index, text, outputTokens: tokens, ...alternatives })
    }
    const reason = choice.finish_reason
    if (typeof reason === 'string' && reason !== '' && !this.#finished.has(index)) {
      this.#finished.add(index)
      const tokens = this.#outputTokens.get(index) ?? 0
      events.push({ type: 'finish', choice: index, reason: finishOf(reason), outputTokens: tokens })
    }
  }

  #fail(message: string): ProviderEvent {
    this.#failed = true
    return { type: 'error', failure: { code: 'upstream_error', message } }
  }
}

const isText = (value: unknown): boolean => typeof value === 'string' && value !== ''
const hasThought = ({ delta }: z.infer<typeof Choice>): boolean =>
  isText(delta?.reasoning_content) || isText(delta?.reasoning)

/** The human part of an error body, cut short; empty where there is none. */
function errorWords(error: unknown): string {
  const message = typeof error === 'string' ? error : (error as { message?: unknown } | null | undefined)?.message
  return typeof message === 'string' ? message.slice(0, ERROR_TEXT_MAX) : 'no message'
}

/** How long a provider asks to wait: `retry-after-ms`, `retry-after` in seconds or as a date. */
export function retryAfter(headers: Headers, nowMs: number): number | undefined {
  const ms = Number(headers.get('retry-after-ms') ?? Number.NaN)
  if (Number.isFinite(ms) && ms >= 0) return ms
  const text = headers.get('retry-after')
  if (text === null) return undefined
  const seconds = Number(text)
  if (Number.isFinite(seconds)) return seconds >= 0 ? seconds * 1000 : undefined
  const dateMs = Date.parse(text)
  return Number.isNaN(dateMs) ? undefined : Math.max(0, dateMs - nowMs)
}

/**
 * An HTTP error of a provider. Faults of the caller's request stay the caller's; everything about the operator's
 * account (key, quota, unknown model) is the target's, and another target may do better.
 * @param text Body, already bounded and without secrets.
 */
export function statusFailure(status: number, text: string, headers: Headers, nowMs: number): Failure {
  let error: { message?: unknown; code?: unknown; param?: unknown } = {}
  try {
    const json = JSON.parse(text) as { error?: unknown } | null
    const inner = json?.error
    if (typeof inner === 'object' && inner !== null) error = inner
    else if (typeof inner === 'string') error = { message: inner }
  } catch {
    // An HTML page of some proxy: the status says enough.
  }
  const wait = retryAfter(headers, nowMs)
  const retryAfterMs = wait === undefined ? {} : { retryAfterMs: wait }
  switch (status) {
    case 400:
    case 413:
    case 422: {
      if (error.code === 'context_length_exceeded') {
        return { code: 'context_length_exceeded', message: errorWords(error) }
      }
      const param = typeof error.param === 'string' ? { param: error.param.slice(0, 200) } : {}
      const code = status === 413 ? 'request_too_large' : 'invalid_request'
      return { code, message: `The provider refused the request: ${errorWords(error)}`, ...param }
    }
    case 401:
    case 402:
    case 403:
      return { code: 'upstream_error', message: 'The provider does not accept the credentials it is registered with.' }
    case 404:
      return { code: 'upstream_error', message: 'The provider does not know the model it is registered for.' }
    case 429:
    case 503:
    case 529:
      return { code: 'overloaded', message: 'The provider is over its limit right now.', ...retryAfterMs }
    default:
      return { code: 'upstream_error', message: `The provider answered with status ${status}.`, ...retryAfterMs }
  }
}
