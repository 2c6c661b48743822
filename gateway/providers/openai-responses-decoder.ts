// Answers of OpenAI's Responses API into provider events: streams of items, whole responses, and errors inside either. Owns the order
// of events and what has been said of each item already, since everything comes in pieces and then once more whole; where
// things stand in an item is openai-responses-output.ts, whose fault an error is openai-failure.ts. Pure.
//
// A response ends with one event that says how (completed, incomplete, failed); the numbers of events are not looked at, so
// events that are missing or unknown cost nothing but what they would have said.
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { isJson, type Json, jsonOrEmpty } from '../meter/normalise.ts'
import { LineTooLong } from '../stream/lines.ts'
import { SseDecoder, type SseEvent } from '../stream/sse.ts'
import type { FinishReason, ProviderEvent } from './event.ts'
import { jsonOrUndefined } from './json-text.ts'
import { CallReader, idPrefixOf } from './openai-calls.ts'
import { inBandFailure } from './openai-failure.ts'
import { finishOf, itemParts, logprobsIn, type Part, type PartKind, textIn } from './openai-responses-output.ts'
import { sealValue } from './openai-responses-seal.ts'
import { ReportedUsage } from './reported-usage.ts'
import { CallerToolNames } from './tool-names.ts'
import { type UsageDialect, UsageReader } from './usage-dialect.ts'
import type { AnswerDecoder } from './vendor.ts'

export type ResponsesDecoderOptions = {
  usageDialect: UsageDialect
  /** The service that was asked for by name; another one in the answer is a price not agreed on. */
  tierAsked?: string
  /** Whose thoughts these are. */
  sealMark: string
  /** Stands for the id of a response that has none. */
  answerId: string
}

/** The last event repeats the whole answer with every probability, and the request's tools: both are bounded by such a body. */
const EVENT_BYTES_MAX = 8 * 1024 * 1024
/** Items and parts of one answer; real ones have a few. */
const PLACES_MAX = 4096
/** What may wait for the end of a call. */
const HELD_CHARS_MAX = 1024 * 1024

type HeldPart = Extract<ProviderEvent, { type: 'delta' | 'thought' | 'refusal' }>

type Item = {
  /** Thoughts are told in full or in summary; the kind that came first is shown. */
  shown: 'thought' | 'summary' | undefined
  /** Of what is shown: the part that was written last. */
  lastPart: number
  hasThought: boolean
  isSealed: boolean
}

export class ResponsesDecoder implements AnswerDecoder {
  readonly #sse = new SseDecoder(EVENT_BYTES_MAX)
  readonly #names: CallerToolNames
  readonly #options: ResponsesDecoderOptions
  readonly #usage: ReportedUsage
  readonly #calls = new CallReader()
  readonly #items = new Map<number, Item>()
  /** Characters of each part that went out. */
  readonly #seenChars = new Map<string, number>()
  /** Calls that were begun, by their place. */
  readonly #callIds = new Map<number, string>()
  /** Text, or a refusal of the model's. */
  #hasSaid = false
  #held: HeldPart[] = []
  #heldChars = 0
  #answerId: string
  #tokens = 0
  #isOver = false

  constructor(request: Pick<InferenceRequest, 'tools'>, options: ResponsesDecoderOptions) {
    this.#names = new CallerToolNames(request.tools)
    this.#options = options
    this.#answerId = options.answerId
    this.#usage = new ReportedUsage(new UsageReader(options.usageDialect))
  }

  get isOver(): boolean {
    return this.#isOver
  }

  /** The event that ends a response is the end of the stream. */
  get isComplete(): boolean {
    return this.#isOver
  }

  get hasInconsistentUsage(): boolean {
    return this.#usage.isInconsistent
  }

  push(chunk: Uint8Array): ProviderEvent[] {
    return this.#framed(() => this.#sse.push(chunk))
  }

  end(): ProviderEvent[] {
    // Half an event is what a broken connection leaves: no fault beside the missing end, which http.ts tells.
    return this.#framed(() => this.#sse.end().filter(({ data }) => jsonOrUndefined(data) !== undefined))
  }

  /** Some servers send events under another type than theirs, or under none. */
  whole(text: string): ProviderEvent[] {
    if (/^(data|event|id|retry)?:/.test(text)) return [...this.push(new TextEncoder().encode(text)), ...this.end()]
    return this.#text(text, 'message', 'ok_with_error')
  }

  #framed(take: () => SseEvent[]): ProviderEvent[] {
    if (this.#isOver) return []
    let read: SseEvent[]
    try {
      read = take()
    } catch (error) {
      if (!(error instanceof LineTooLong)) throw error
      return [this.#malformed('The provider sent an event over the bound of this gateway.')]
    }
    return read.flatMap(({ event, data }) => this.#text(data, event, 'in_band'))
  }

  #text(data: string, eventName: string, where: 'in_band' | 'ok_with_error'): ProviderEvent[] {
    // The mark comes from servers that end every stream with it.
    if (this.#isOver || data.trim() === '' || data.trim() === '[DONE]') return []
    const json = jsonOrUndefined(data)
    if (eventName === 'error') return [this.#fail(inBandFailure(json ?? data, where))]
    if (json === undefined) return [this.#malformed('The provider sent an event that is not JSON.')]
    if (!isJson(json)) return [this.#malformed('The provider sent an event of an unknown shape.')]
    return this.#event(json, eventName, where)
  }

  #event(json: Json, eventName: string, where: 'in_band' | 'ok_with_error'): ProviderEvent[] {
    const type = typeof json.type === 'string' ? json.type : eventName
    const index = numberOf(json.output_index)
    const part = numberOf(json.content_index ?? json.summary_index)
    switch (type) {
      case 'response.created':
      case 'response.queued':
      case 'response.in_progress':
        this.#seeId(jsonOrEmpty(json.response))
        return []
      case 'response.output_item.added':
        return this.#begun(index, jsonOrEmpty(json.item))
      case 'response.output_item.done':
        return this.#itemWhole(index, jsonOrEmpty(json.item))
      case 'response.content_part.done':
        return this.#partsWhole(index, itemParts({ content: [json.part] }, part))
      case 'response.output_text.delta':
        return this.#grow(index, { kind: 'text', part, text: textIn(json.delta), logprobs: logprobsIn(json.logprobs) })
      case 'response.output_text.done':
        return this.#partsWhole(index, [
          { kind: 'text', part, text: textIn(json.text), logprobs: logprobsIn(json.logprobs) },
        ])
      case 'response.refusal.delta':
        return this.#grow(index, { kind: 'refusal', part, text: textIn(json.delta) })
      case 'response.refusal.done':
        return this.#partsWhole(index, [{ kind: 'refusal', part, text: textIn(json.refusal) }])
      case 'response.reasoning_text.delta':
        return this.#grow(index, { kind: 'thought', part, text: textIn(json.delta) })
      case 'response.reasoning_text.done':
        return this.#partsWhole(index, [{ kind: 'thought', part, text: textIn(json.text) }])
      case 'response.reasoning_summary_text.delta':
      case 'response.reasoning_summary.delta':
        return this.#grow(index, { kind: 'summary', part, text: textIn(json.delta) })
      case 'response.reasoning_summary_text.done':
      case 'response.reasoning_summary.done':
        return this.#partsWhole(index, [{ kind: 'summary', part, text: textIn(json.text) }])
      case 'response.reasoning_summary_part.done':
        return this.#partsWhole(index, [{ kind: 'summary', part, text: textIn(jsonOrEmpty(json.part).text) }])
      case 'response.function_call_arguments.delta':
        return this.#call(index, { arguments: textIn(json.delta) })
      case 'response.function_call_arguments.done':
        return this.#callWhole(index, json)
      case 'response.completed':
      case 'response.incomplete':
      case 'response.failed':
      case 'response.cancelled':
        return this.#ended(jsonOrEmpty(json.response), type.slice('response.'.length), where)
      case 'error':
        return [this.#fail(inBandFailure(json, where))]
      default:
        if (json.object === 'response') return this.#ended(json, '', where)
        return !type.startsWith('response.') && isError(json) ? [this.#fail(inBandFailure(json, where))] : []
    }
  }

  #seeId({ id }: Json): void {
    if (typeof id === 'string' && id !== '') this.#answerId = id
  }

  /**
   * An item begins: of a call, that it is one and of which tool; the others say nothing before their first piece. The first of
   * all is a sign that the prompt was taken on: a model may think for minutes with nothing to show, and whoever leaves
   * meanwhile has had it read.
   */
  #begun(index: number, item: Json): ProviderEvent[] {
    const isFirst = this.#items.size === 0
    if (this.#itemAt(index) === undefined) return [this.#tooMany()]
    const sign: ProviderEvent[] = isFirst ? [{ type: 'delta', choice: 0, text: '', outputTokens: this.#tokens }] : []
    if (item.type !== 'function_call') return sign
    this.#callIds.set(index, callId(item))
    const call = { id: callId(item), name: textIn(item.name), arguments: textIn(item.arguments) }
    return [...sign, ...this.#call(index, call)]
  }

  #itemWhole(index: number, item: Json): ProviderEvent[] {
    const known = this.#itemAt(index)
    if (known === undefined) return [this.#tooMany()]
    if (item.type === 'function_call') return this.#callWhole(index, item)
    if (item.type !== 'message' && item.type !== 'reasoning') return []
    const events = this.#partsWhole(index, itemParts(item))
    if (item.type !== 'reasoning' || known.isSealed || this.#isOver) return events
    const value = sealValue(item.id, item.encrypted_content)
    if (value === undefined) return events
    known.isSealed = true
    // A thought that is not shown has cost something, too.
    if (this.#tokens === 0) this.#tokens++
    const seal = { by: this.#options.sealMark, value, ...(known.hasThought ? {} : { isRedacted: true }) }
    return [...events, ...this.#say({ type: 'thought', choice: 0, text: '', outputTokens: this.#tokens, seal })]
  }

  /** What of these parts has not been said yet. */
  #partsWhole(index: number, parts: readonly Part[]): ProviderEvent[] {
    return parts.flatMap((part) => {
      if (this.#isOver) return []
      const seen = this.#seenChars.get(placeOf(index, part)) ?? 0
      if (part.text.length <= seen) return []
      // Probabilities are of the whole text: with a rest of it they would be of another one.
      return this.#grow(index, seen === 0 ? part : { kind: part.kind, part: part.part, text: part.text.slice(seen) })
    })
  }

  #grow(index: number, { kind, part, text, logprobs = [] }: Part): ProviderEvent[] {
    if (text === '' && logprobs.length === 0) return []
    const item = this.#itemAt(index)
    const place = placeOf(index, { kind, part })
    const before = this.#seenChars.get(place) ?? 0
    if (item === undefined || (before === 0 && this.#seenChars.size >= PLACES_MAX)) return [this.#tooMany()]
    this.#seenChars.set(place, before + text.length)
    // A piece is a token at least.
    this.#tokens += Math.max(1, logprobs.length)
    const common = { choice: 0, outputTokens: this.#tokens }
    switch (kind) {
      case 'text':
        this.#hasSaid = true
        return this.#say({ type: 'delta', ...common, text, ...(logprobs.length === 0 ? {} : { logprobs }) })
      case 'refusal':
        this.#hasSaid = true
        return this.#say({ type: 'refusal', ...common, text })
      case 'thought':
      case 'summary': {
        item.shown ??= kind
        if (item.shown !== kind) return []
        const gap = item.hasThought && item.lastPart !== part ? '\n\n' : ''
        item.hasThought = true
        item.lastPart = part
        return this.#say({ type: 'thought', ...common, text: gap + text })
      }
      default:
        return kind satisfies never
    }
  }

  /** In the middle of a call other parts wait: a call is over when the next part begins. */
  #say(part: HeldPart): ProviderEvent[] {
    this.#held.push(part)
    this.#heldChars += part.text.length
    if (!this.#calls.isMidCall) return this.#release()
    return this.#heldChars > HELD_CHARS_MAX
      ? [this.#malformed('The provider sent too much in the middle of a tool call.')]
      : []
  }

  #release(): ProviderEvent[] {
    if (this.#held.length === 0) return []
    this.#calls.interrupt()
    const events = this.#held.map((part) => ({ ...part, outputTokens: this.#tokens }))
    this.#held = []
    this.#heldChars = 0
    return events
  }

  #call(index: number, piece: { id?: string; name?: string; arguments: string }): ProviderEvent[] {
    if (this.#itemAt(index) === undefined) return [this.#tooMany()]
    const place = placeOf(index, { kind: 'call', part: 0 })
    const seen = this.#seenChars.get(place)
    const { id, name, arguments: text } = piece
    this.#seenChars.set(place, (seen ?? 0) + text.length)
    if (seen === undefined || text !== '') this.#tokens++
    const ready = this.#calls.push(
      [
        {
          index,
          ...(id === undefined ? {} : { id }),
          function: { ...(name === undefined ? {} : { name: this.#names.of(name) }), arguments: text },
        },
      ],
      idPrefixOf(this.#answerId, 0),
    )
    if (ready === undefined) return [this.#malformed('The provider sent tool calls that no answer can have.')]
    return [...this.#pieces(ready), ...(this.#calls.isMidCall ? [] : this.#release())]
  }

  /** The arguments once more, or for the first time; a call without any is one of an empty object. */
  #callWhole(index: number, call: Json): ProviderEvent[] {
    const seen = this.#seenChars.get(placeOf(index, { kind: 'call', part: 0 }))
    const text = textIn(call.arguments) || (seen === undefined || seen === 0 ? '{}' : '')
    const name = textIn(call.name)
    const rest = text.slice(seen ?? 0)
    const isNamed = seen !== undefined && name === ''
    if (rest === '' && isNamed) return []
    return this.#call(index, {
      ...(call.type === 'function_call' ? { id: callId(call), name } : {}),
      arguments: rest,
    })
  }

  /** Calls of which nothing but the beginning was told: without this they would be calls without arguments. */
  #missedArguments(output: unknown): ProviderEvent[] {
    if (!Array.isArray(output)) return []
    const calls = output.map(jsonOrEmpty).filter(({ type }) => type === 'function_call')
    return [...this.#callIds].flatMap(([index, id]) => {
      const isTold = this.#seenChars.get(placeOf(index, { kind: 'call', part: 0 })) !== 0
      const call = isTold ? undefined : calls.find((one) => callId(one) === id)
      return call === undefined ? [] : this.#callWhole(index, call)
    })
  }

  /** Messages, or calls, where none was begun before the end: else the answer would be its thoughts alone, or its words. */
  #missedItems(output: unknown): ProviderEvent[] {
    if (!Array.isArray(output)) return []
    const missed = new Set([...(this.#hasSaid ? [] : ['message']), ...(this.#calls.count > 0 ? [] : ['function_call'])])
    const next = Math.max(-1, ...this.#items.keys()) + 1
    return output.map(jsonOrEmpty).flatMap((item, at) => {
      return missed.has(textIn(item.type)) ? this.#itemWhole(next + at, item) : []
    })
  }

  #pieces(ready: ReturnType<CallReader['end']>): ProviderEvent[] {
    return ready.map((piece) => ({ type: 'tool_call', choice: 0, ...piece, outputTokens: this.#tokens }))
  }

  /** @param byEvent The status, where the response itself says none. */
  #ended(response: Json, byEvent: string, where: 'in_band' | 'ok_with_error'): ProviderEvent[] {
    this.#seeId(response)
    const events: ProviderEvent[] = []
    // A body in one piece, or a stream that said nothing before its end. After the first piece only what is known by its
    // id, or of a kind that was not begun, is taken from here: some servers count the items of their streams otherwise.
    if (this.#seenChars.size === 0 && Array.isArray(response.output)) {
      for (const [index, item] of response.output.entries()) events.push(...this.#itemWhole(index, jsonOrEmpty(item)))
    } else events.push(...this.#missedArguments(response.output), ...this.#missedItems(response.output))
    if (this.#isOver) return events
    const status = textIn(response.status) || byEvent
    this.#usage.running(response.usage)
    if (isFault(response.error) || status === 'failed' || status === 'cancelled') {
      return [...events, this.#failedWith(inBandFailure({ error: jsonOrEmpty(response.error) }, where), response)]
    }
    const incomplete = textIn(jsonOrEmpty(response.incomplete_details).reason)
    const reason = finishOf(status, incomplete)
    if (reason === undefined) return [...events, this.#malformed('The provider sent a response without its end.')]
    events.push(...this.#pieces(this.#calls.end()), ...this.#release())
    if (this.#calls.hasNameless) {
      return [...events, this.#malformed('The provider sent a tool call without a name.')]
    }
    this.#isOver = true
    const finish: FinishReason = reason === 'stop' && this.#calls.count > 0 ? 'tool_calls' : reason
    events.push({ type: 'finish', choice: 0, reason: finish, outputTokens: this.#tokens })
    return [...events, ...this.#usage.final(this.#isOtherTier(response))]
  }

  #isOtherTier({ service_tier: served }: Json): boolean {
    const { tierAsked } = this.#options
    return tierAsked !== undefined && typeof served === 'string' && served !== tierAsked
  }

  /** What had been computed when it failed is told with the failure. */
  #failedWith(failure: Failure, response: Json): ProviderEvent {
    const [counted] = this.#usage.final(this.#isOtherTier(response))
    this.#isOver = true
    if (counted?.type !== 'usage') return { type: 'error', failure }
    const { type: _, isRunning: __, ...reported } = counted
    return { type: 'error', failure, ...reported }
  }

  #itemAt(index: number): Item | undefined {
    const known = this.#items.get(index)
    if (known !== undefined) return known
    if (this.#items.size >= PLACES_MAX) return undefined
    const item: Item = { shown: undefined, lastPart: 0, hasThought: false, isSealed: false }
    this.#items.set(index, item)
    return item
  }

  #tooMany(): ProviderEvent {
    return this.#malformed('The provider sent more items than an answer can have.')
  }

  #malformed(message: string): ProviderEvent {
    return this.#fail({ code: 'upstream_error', message, kind: 'malformed' })
  }

  #fail(failure: Failure): ProviderEvent {
    this.#isOver = true
    return { type: 'error', failure }
  }
}

const placeOf = (index: number, { kind, part }: { kind: PartKind | 'call'; part: number }): string =>
  `${index}.${kind}.${part}`

const numberOf = (value: unknown): number => (typeof value === 'number' && Number.isSafeInteger(value) ? value : 0)

/** The item's own id stands in where a server sends no other. */
const callId = (item: Json): string => textIn(item.call_id) || textIn(item.id)

const isFault = (error: unknown): boolean => isJson(error) && Object.keys(error).length > 0

/** A body that is none of the API's: some servers send their errors at the top level. */
const isError = (json: Json): boolean =>
  isFault(json.error) ||
  typeof json.error === 'string' ||
  json.object === 'error' ||
  (typeof json.message === 'string' && json.code !== undefined)
