// Answers of OpenAI-compatible servers into provider events: streams, whole bodies, embeddings, and errors inside any. Owns the
// order of events and the counts; where things stand in a chunk is openai-chunk.ts, whose fault an error is
// openai-failure.ts. Pure.
import type { Failure, UpstreamFaultKind } from '../../protocol/errors.ts'
import { RAW_USAGE_CHARS_MAX } from '../account/contract.ts'
import { type Json, rawUsageText, withOtherModels } from '../meter/normalise.ts'
import { outputTokens } from '../meter/usage.ts'
import { SseDecoder, type SseEvent } from '../stream/sse.ts'
import type { FinishReason, ProviderEvent } from './event.ts'
import { CallReader, idPrefixOf } from './openai-calls.ts'
import { type Choice, isAnything, isFault, logprobsOf, readChunk, saidOf, vectorText } from './openai-chunk.ts'
import { inBandFailure } from './openai-failure.ts'
import { ThoughtDetails } from './thought-details.ts'
import { type SeenUsage, type UsageDialect, UsageReader } from './usage-dialect.ts'
import type { AnswerDecoder } from './vendor.ts'

export type DecoderOptions = {
  /** What the usage objects mean. */
  usageDialect?: UsageDialect
  /** The service the provider was asked for by name; another one in the answer is a price not agreed on. */
  tierAsked?: string
  /** The request's, to tell which one ended an answer where a server says it. */
  stops?: readonly string[]
  /** Whose thoughts these are, where they must be given back unchanged. */
  sealMark?: string | undefined
  /** Stands for the id of an answer that has none. Default: nothing. */
  answerId?: string
}

type Growing = {
  outputTokens: number
  calls: CallReader
  details: ThoughtDetails
  /** What came in the middle of a call, which is over when the next part begins: it goes out behind the call. */
  held: HeldPart[]
  heldChars: number
  /** A piece of it came by itself: a message that is whole would say it again. */
  hasStreamed: boolean
}

type HeldPart = Extract<ProviderEvent, { type: 'delta' | 'thought' | 'refusal' }>

/** What may wait for the end of a call: servers let a line end or a thought slip in, not an answer. */
const HELD_CHARS_MAX = 1024 * 1024

/** Their words for why it ended. `undefined`: it did not end, it was broken off. */
function finishOf(reason: string): FinishReason | undefined {
  switch (reason.toLowerCase()) {
    case 'length':
    case 'max_tokens':
    // Mistral's word for the end of the window.
    case 'model_length':
      return 'length'
    case 'content_filter':
    case 'safety':
    case 'recitation':
      return 'content_filter'
    case 'tool_calls':
    case 'function_call':
      return 'tool_calls'
    // Mistral and OpenRouter; SGLang and vLLM; DeepSeek where its engine has no room.
    case 'error':
    case 'abort':
    case 'insufficient_system_resource':
      return undefined
    default:
      return 'stop'
  }
}

/**
 * Reads chunk after chunk, and keeps the counts that a server without usage leaves to us: at least one token for each chunk
 * with text, thought or a piece of a call, exactly as many as there are logprobs where they come along.
 */
export class OpenAiDecoder implements AnswerDecoder {
  readonly #sse = new SseDecoder()
  readonly #growing = new Map<number, Growing>()
  readonly #finished = new Set<number>()
  readonly #choices: number
  readonly #usage: UsageReader
  readonly #options: DecoderOptions
  #answerId: string
  #tierServed: string | undefined
  /** The newest count, while more may come. */
  #running: SeenUsage | undefined
  #hasInconsistentUsage = false
  #sawDone = false
  #failed = false

  /** @param choices How many choices the request asked for. */
  constructor(choices: number, options: DecoderOptions = {}) {
    this.#choices = choices
    this.#options = options
    this.#answerId = options.answerId ?? ''
    this.#usage = new UsageReader(options.usageDialect ?? 'openai')
  }

  get isComplete(): boolean {
    return this.#failed || this.#sawDone || this.#finished.size >= this.#choices
  }

  get hasInconsistentUsage(): boolean {
    return this.#hasInconsistentUsage
  }

  get isOver(): boolean {
    return this.#failed || this.#sawDone
  }

  get #mayGoOn(): boolean {
    return !this.#sawDone && this.#finished.size < this.#choices
  }

  push(chunk: Uint8Array): ProviderEvent[] {
    return this.#framed(() => this.#sse.push(chunk))
  }

  end(): ProviderEvent[] {
    return [...this.#framed(() => this.#sse.end()), ...this.#settled()]
  }

  /** Some servers send events under another type than theirs, or under none. */
  whole(text: string): ProviderEvent[] {
    if (/^(data|event|id|retry)?:/.test(text)) return [...this.push(new TextEncoder().encode(text)), ...this.end()]
    return this.#read(text, 'message', 'ok_with_error')
  }

  #framed(take: () => SseEvent[]): ProviderEvent[] {
    if (this.isOver) return []
    let events: SseEvent[]
    try {
      events = take()
    } catch {
      return [this.#malformed('The provider sent an event over the bound of this gateway.')]
    }
    return events.flatMap(({ event, data }) => this.#read(data, event, 'in_band'))
  }

  /** Data of one event, or a whole JSON body. */
  #read(data: string, eventName: string, errorKind: 'in_band' | 'ok_with_error'): ProviderEvent[] {
    if (this.isOver || data === '') return []
    if (data.trim() === '[DONE]') {
      const rest = this.#unfinished()
      if (this.#failed) return rest
      this.#sawDone = true
      return [...rest, ...this.#settled()]
    }
    const isErrorEvent = eventName === 'error'
    let json: unknown
    try {
      json = JSON.parse(data)
    } catch {
      if (isErrorEvent) return [this.#broken(data, errorKind)]
      return [this.#malformed('The provider sent an event that is not JSON.')]
    }
    const chunk = readChunk(json)
    if (chunk === undefined) {
      return [
        isErrorEvent
          ? this.#broken(json, errorKind)
          : this.#malformed('The provider sent an event of an unknown shape.'),
      ]
    }
    const { choices, data: vectors, error } = chunk
    const hasNothing = choices === undefined && vectors === undefined && isError(json)
    if (isFault(error) || isErrorEvent || hasNothing) return [this.#broken(json, errorKind)]
    this.#answerId = chunk.id || this.#answerId
    this.#tierServed = chunk.service_tier ?? this.#tierServed
    const events: ProviderEvent[] = []
    for (const choice of choices ?? []) {
      if (isFault(choice.error)) return [...events, this.#broken(choice, errorKind)]
      const fault = this.#choice(choice, events)
      if (fault !== undefined) return [...events, fault]
    }
    for (const vector of vectors ?? []) {
      const values = vectorText(vector.embedding)
      if (values === undefined) return [this.#malformed('The provider sent an embedding that is none.')]
      if (vector.index >= this.#choices || this.#finished.has(vector.index)) continue
      this.#finished.add(vector.index)
      events.push({ type: 'embedding', choice: vector.index, values })
    }
    const { usage, usageMetadata, x_groq } = chunk
    const seen = this.#usage.see(usage ?? usageMetadata ?? x_groq?.usage)
    if (seen !== undefined) events.push(this.#counted(seen))
    return events
  }

  /**
   * What the end of the stream makes certain: a count that came before the last choice finished, and that covers every
   * token seen, was the last word.
   */
  #settled(): ProviderEvent[] {
    const seen = this.#running
    if (seen === undefined || this.#mayGoOn || this.#failed) return []
    this.#running = undefined
    let seenTokens = 0
    for (const { outputTokens: tokens } of this.#growing.values()) seenTokens += tokens
    return outputTokens(seen.usage) < seenTokens ? [] : [this.#counted(seen)]
  }

  /** Before every choice has finished a count is what stands so far: some servers send one with each chunk. */
  #counted(seen: SeenUsage): ProviderEvent {
    const { usage, providerCostNanoUsd, ...read } = withOtherModels(seen)
    const { tierAsked } = this.#options
    const isOtherTier = tierAsked !== undefined && this.#tierServed !== undefined && this.#tierServed !== tierAsked
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

  #choice(choice: Choice, events: ProviderEvent[]): ProviderEvent | undefined {
    const index = choice.index ?? 0
    // An index nobody asked for would make a choice that nobody pays for.
    if (index >= this.#choices) return undefined
    const growing = this.#growingOf(index)
    const said = saidOf(choice, growing.hasStreamed)
    const logprobs = logprobsOf(choice)
    const hasLogprobs = logprobs !== undefined && logprobs.length > 0
    if (isAnything(said) || hasLogprobs) {
      growing.hasStreamed = true
      // Thoughts and calls are billed like text: whoever hangs up during them has had them computed.
      growing.outputTokens += Math.max(1, logprobs?.length ?? 1)
    }
    const outputTokens = growing.outputTokens
    const { calls } = growing
    const isMidCall = calls.isMidCall
    growing.details.see(said.details)
    const parts: HeldPart[] = []
    if (said.thought !== '') parts.push({ type: 'thought', choice: index, text: said.thought, outputTokens })
    // The proof comes with the last piece of a thought, and one in the middle of a call ends with the next text.
    const isPastThoughts = said.text !== '' || said.refusal !== '' || (said.calls.length > 0 && !isMidCall)
    if (isPastThoughts) parts.push(...this.#seal(index, growing))
    // Beside a call probabilities are those of its own tokens, for which no dialect has a place.
    if (said.text !== '' || (hasLogprobs && said.calls.length === 0 && !isMidCall)) {
      const alternatives = logprobs === undefined ? {} : { logprobs }
      parts.push({ type: 'delta', choice: index, text: said.text, outputTokens, ...alternatives })
    }
    if (said.refusal !== '') parts.push({ type: 'refusal', choice: index, text: said.refusal, outputTokens })
    growing.held.push(...parts)
    for (const part of parts) growing.heldChars += part.text.length
    if (!isMidCall) this.#release(growing, events)
    else if (growing.heldChars > HELD_CHARS_MAX) {
      return this.#malformed('The provider sent too much in the middle of a tool call.')
    }
    if (said.calls.length > 0) {
      const ready = calls.push(said.calls, idPrefixOf(this.#answerId, index))
      if (ready === undefined) return this.#malformed('The provider sent tool calls that no answer can have.')
      for (const piece of ready) events.push({ type: 'tool_call', choice: index, ...piece, outputTokens })
      if (!calls.isMidCall) this.#release(growing, events)
    }
    const { finish_reason: reason } = choice
    if (typeof reason !== 'string' || reason === '' || this.#finished.has(index)) return undefined
    return this.#finish(index, reason, choice.stop_reason, events)
  }

  #finish(index: number, word: string, stopReason: unknown, events: ProviderEvent[]): ProviderEvent | undefined {
    const reason = finishOf(word)
    if (reason === undefined) return this.#broken({ message: `it ended with '${word.slice(0, 100)}'` }, 'in_band')
    const growing = this.#growingOf(index)
    const fault = this.#close(index, growing, events)
    if (fault !== undefined) return fault
    this.#finished.add(index)
    const stopString = this.#options.stops?.find((stop) => stop === stopReason)
    events.push({
      type: 'finish',
      choice: index,
      reason: withCalls(reason, growing.calls.count > 0),
      outputTokens: growing.outputTokens,
      ...(stopString === undefined ? {} : { stopString }),
    })
    return undefined
  }

  /** Everything held back of a choice: calls that waited for others, what waited for calls, the proof of its thoughts. */
  #close(index: number, growing: Growing, events: ProviderEvent[]): ProviderEvent | undefined {
    for (const piece of growing.calls.end()) {
      events.push({ type: 'tool_call', choice: index, ...piece, outputTokens: growing.outputTokens })
    }
    growing.held.push(...this.#seal(index, growing))
    this.#release(growing, events)
    return growing.calls.hasNameless ? this.#malformed('The provider sent a tool call without a name.') : undefined
  }

  /** A server that sends its end mark without having said why choices ended: what they hold goes out before it. */
  #unfinished(): ProviderEvent[] {
    const events: ProviderEvent[] = []
    for (const [index, growing] of this.#growing) {
      if (this.#finished.has(index)) continue
      const fault = this.#close(index, growing, events)
      if (fault !== undefined) return [...events, fault]
      if (growing.calls.count === 0) continue
      this.#finished.add(index)
      events.push({ type: 'finish', choice: index, reason: 'tool_calls', outputTokens: growing.outputTokens })
    }
    return events
  }

  /** No call is open: what waited for it goes out. */
  #release(growing: Growing, events: ProviderEvent[]): void {
    if (growing.held.length === 0) return
    growing.calls.interrupt()
    for (const part of growing.held) events.push({ ...part, outputTokens: growing.outputTokens })
    growing.held = []
    growing.heldChars = 0
  }

  #seal(index: number, growing: Growing): HeldPart[] {
    const { sealMark } = this.#options
    const value = growing.details.take()
    if (sealMark === undefined || value === undefined) return []
    const seal = { by: sealMark, value, ...(growing.details.wasRedacted ? { isRedacted: true } : {}) }
    return [{ type: 'thought', choice: index, text: '', outputTokens: growing.outputTokens, seal }]
  }

  #growingOf(index: number): Growing {
    const known = this.#growing.get(index)
    if (known !== undefined) return known
    const growing: Growing = {
      outputTokens: 0,
      calls: new CallReader(),
      details: new ThoughtDetails(),
      held: [],
      heldChars: 0,
      hasStreamed: false,
    }
    this.#growing.set(index, growing)
    return growing
  }

  #malformed(message: string): ProviderEvent {
    return this.#fail({ code: 'upstream_error', message, kind: 'malformed' satisfies UpstreamFaultKind })
  }

  #broken(raw: unknown, kind: 'in_band' | 'ok_with_error'): ProviderEvent {
    return this.#fail(inBandFailure(raw, kind))
  }

  #fail(failure: Failure): ProviderEvent {
    this.#failed = true
    return { type: 'error', failure }
  }
}

/** Some servers end with `stop` after calls, and some say `tool_calls` where there are none. */
function withCalls(reason: FinishReason, hasCalls: boolean): FinishReason {
  if (reason === 'stop' && hasCalls) return 'tool_calls'
  return reason === 'tool_calls' && !hasCalls ? 'stop' : reason
}

/** Whether a body without choices or vectors is an error all the same: some servers send one at the top level. */
function isError(json: unknown): boolean {
  const body = json as Json
  return (
    body.object === 'error' ||
    (typeof body.message === 'string' && (body.code !== undefined || body.type !== undefined))
  )
}
