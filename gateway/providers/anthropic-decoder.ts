// Answers of Anthropic's Messages API into provider events: streams of content blocks, whole messages, and errors inside
// either. Owns the tolerant reading and the count of what was seen; what errors mean is anthropic-failure.ts. Pure.

import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { isJson, type Json, jsonOrEmpty } from '../meter/normalise.ts'
import { LineTooLong } from '../stream/lines.ts'
import { SseDecoder, type SseEvent } from '../stream/sse.ts'
import { anthropicInBandFailure, errorObject } from './anthropic-failure.ts'
import { ANTHROPIC_SEAL } from './anthropic-messages.ts'
import { askedCacheTtl } from './cache-hints.ts'
import type { FinishReason, ProviderEvent, RefusalDetails } from './event.ts'
import { jsonOrUndefined } from './json-text.ts'
import { PieceCount } from './piece-count.ts'
import { ReportedUsage } from './reported-usage.ts'
import { CallerToolNames } from './tool-names.ts'
import { UsageReader } from './usage-dialect.ts'
import type { AnswerDecoder } from './vendor.ts'

/** Blocks come one after the other; as many open at once are a broken peer. */
const OPEN_BLOCKS_MAX = 64
/** Of what the vendor says of a refusal: real ones are a sentence. */
const REFUSAL_CHARS_MAX = 2000

type OpenBlock =
  | { kind: 'text' }
  | { kind: 'thought'; signature: string | undefined }
  | { kind: 'call'; call: number; input: unknown; hasPieces: boolean }
  /** Of tools that run at the vendor, or of a kind that is yet to come. */
  | { kind: 'other' }

export class AnthropicDecoder implements AnswerDecoder {
  readonly #sse = new SseDecoder()
  readonly #names: CallerToolNames
  readonly #usage: ReportedUsage
  readonly #blocks = new Map<number, OpenBlock>()
  #messageId = 'call'
  readonly #pieces = new PieceCount()
  #calls = 0
  #hasBlocks = false
  /** The object of the beginning counts no answer; only a later one is the last word. */
  #hasFinalUsage = false
  #finished = false
  #failed = false
  #sawStop = false

  constructor(request: InferenceRequest) {
    this.#names = new CallerToolNames(request.tools)
    this.#usage = new ReportedUsage(new UsageReader('anthropic', askedCacheTtl(request)))
  }

  get isOver(): boolean {
    return this.#failed || this.#sawStop
  }

  /** Nothing but the end mark comes after the reason. */
  get isComplete(): boolean {
    return this.#failed || this.#finished
  }

  get hasInconsistentUsage(): boolean {
    return this.#usage.isInconsistent
  }

  push(chunk: Uint8Array): ProviderEvent[] {
    return this.#framed(() => this.#sse.push(chunk))
  }

  end(): ProviderEvent[] {
    // Half an event is what a broken connection leaves: no fault beside the missing end, which http.ts tells.
    const last = this.#framed(() => this.#sse.end().filter(({ data }) => jsonOrUndefined(data) !== undefined))
    // Without its end mark the answer is still whole once it has said why it ended.
    if (this.isOver || !this.#finished) return last
    return [...last, ...this.#stopped()]
  }

  #framed(read: () => SseEvent[]): ProviderEvent[] {
    if (this.isOver) return []
    let events: SseEvent[]
    try {
      events = read()
    } catch (error) {
      if (!(error instanceof LineTooLong)) throw error
      return [this.#malformed('The provider sent an event without an end.')]
    }
    return events.flatMap(({ data }) => this.#text(data, 'in_band'))
  }

  whole(text: string): ProviderEvent[] {
    return this.#text(text, 'ok_with_error')
  }

  #text(data: string, where: 'in_band' | 'ok_with_error'): ProviderEvent[] {
    if (this.isOver || data.trim() === '') return []
    const json = jsonOrUndefined(data)
    if (json === undefined) return [this.#malformed('The provider sent an event that is not JSON.')]
    if (!isJson(json)) return [this.#malformed('The provider sent an event of an unknown shape.')]
    const error = errorObject(json)
    if (error !== undefined || json.type === 'error') return [this.#fail(anthropicInBandFailure(error ?? json, where))]
    return this.#event(json)
  }

  #event(json: Json): ProviderEvent[] {
    switch (json.type) {
      case 'message_start':
        return this.#start(jsonOrEmpty(json.message))
      case 'content_block_start':
        return this.#open(indexOf(json), jsonOrEmpty(json.content_block))
      case 'content_block_delta':
        return this.#delta(indexOf(json), jsonOrEmpty(json.delta))
      case 'content_block_stop':
        return this.#close(indexOf(json))
      case 'message_delta':
        return this.#reason(jsonOrEmpty(json.delta), json.usage)
      case 'message_stop':
        return this.#stopped()
      case 'message':
        return this.#message(json)
      default:
        // `ping`, and what is yet to come.
        return []
    }
  }

  #start(message: Json): ProviderEvent[] {
    // Some proxies send the beginning twice; after content it is another answer, and this one has no end.
    if (this.#hasBlocks) return [this.#malformed('The provider began another answer in the middle of one.')]
    if (typeof message.id === 'string') this.#messageId = message.id.slice(0, 64)
    return this.#usage.running(message.usage)
  }

  #message(message: Json): ProviderEvent[] {
    const events = this.#start({ id: message.id })
    for (const [index, block] of (Array.isArray(message.content) ? message.content : []).entries()) {
      events.push(...this.#open(index, jsonOrEmpty(block)), ...this.#close(index))
    }
    return [...events, ...this.#reason(message, message.usage), ...this.#stopped()]
  }

  #open(index: number, block: Json): ProviderEvent[] {
    if (this.#blocks.size >= OPEN_BLOCKS_MAX) return [this.#malformed('The provider opened too many blocks at once.')]
    this.#hasBlocks = true
    switch (block.type) {
      case 'text':
        this.#blocks.set(index, { kind: 'text' })
        return this.#said('delta', textOf(block.text))
      case 'thinking':
        this.#blocks.set(index, { kind: 'thought', signature: textOf(block.signature) || undefined })
        return this.#said('thought', textOf(block.thinking))
      case 'redacted_thinking': {
        this.#blocks.set(index, { kind: 'other' })
        const seal = { by: ANTHROPIC_SEAL, value: textOf(block.data), isRedacted: true }
        return seal.value === ''
          ? []
          : [{ type: 'thought', choice: 0, text: '', outputTokens: this.#pieces.more(), seal }]
      }
      case 'tool_use': {
        const call = this.#calls++
        this.#blocks.set(index, { kind: 'call', call, input: block.input, hasPieces: false })
        const id = textOf(block.id) || `${this.#messageId}_${call}`
        const name = this.#names.of(textOf(block.name))
        return [{ type: 'tool_call', choice: 0, call, id, name, arguments: '', outputTokens: this.#pieces.more() }]
      }
      default:
        this.#blocks.set(index, { kind: 'other' })
        return []
    }
  }

  #delta(index: number, delta: Json): ProviderEvent[] {
    const block = this.#blocks.get(index)
    switch (delta.type) {
      case 'text_delta':
        return this.#said('delta', textOf(delta.text))
      case 'thinking_delta':
        return this.#said('thought', textOf(delta.thinking))
      case 'signature_delta':
        if (block?.kind === 'thought') block.signature = textOf(delta.signature) || undefined
        return []
      case 'input_json_delta': {
        const piece = textOf(delta.partial_json)
        if (piece === '') return []
        const outputTokens = this.#pieces.more()
        if (block?.kind !== 'call') return []
        block.hasPieces = true
        return [{ type: 'tool_call', choice: 0, call: block.call, arguments: piece, outputTokens }]
      }
      default:
        // Citations and the like: billed as output, and nothing a caller could read.
        this.#pieces.more()
        return []
    }
  }

  #close(index: number): ProviderEvent[] {
    const block = this.#blocks.get(index)
    this.#blocks.delete(index)
    if (block?.kind === 'thought' && block.signature !== undefined) {
      const seal = { by: ANTHROPIC_SEAL, value: block.signature }
      return [{ type: 'thought', choice: 0, text: '', outputTokens: this.#pieces.atLeastOne(), seal }]
    }
    if (block?.kind === 'call' && !block.hasPieces) {
      const text = JSON.stringify(isJson(block.input) ? block.input : {})
      return [{ type: 'tool_call', choice: 0, call: block.call, arguments: text, outputTokens: this.#pieces.tokens }]
    }
    return []
  }

  /** The reason of the end comes with the count, which may be told several times and is the whole each time. */
  #reason(delta: Json, usage: unknown): ProviderEvent[] {
    const counted = this.#usage.running(usage)
    if (counted.length > 0) this.#hasFinalUsage = true
    const reason = delta.stop_reason
    if (typeof reason !== 'string' || reason === '' || this.#finished) return counted
    this.#finished = true
    const stopString = reason === 'stop_sequence' ? textOf(delta.stop_sequence) : ''
    const refusal = reason === 'refusal' ? refusalOf(jsonOrEmpty(delta.stop_details)) : undefined
    return [
      ...counted,
      {
        type: 'finish',
        choice: 0,
        reason: finishOf(reason),
        outputTokens: this.#pieces.tokens,
        ...(stopString === '' ? {} : { stopString }),
        ...(refusal === undefined ? {} : { refusal }),
      },
    ]
  }

  #stopped(): ProviderEvent[] {
    if (this.isOver) return []
    if (!this.#finished) return [this.#malformed('The provider ended the answer without a reason.')]
    this.#sawStop = true
    return this.#hasFinalUsage ? this.#usage.final() : []
  }

  #said(type: 'delta' | 'thought', text: string): ProviderEvent[] {
    if (text === '') return []
    return [{ type, choice: 0, text, outputTokens: this.#pieces.more() }]
  }

  #malformed(message: string): ProviderEvent {
    return this.#fail({ code: 'upstream_error', message, kind: 'malformed' })
  }

  #fail(failure: Failure): ProviderEvent {
    this.#failed = true
    return { type: 'error', failure }
  }
}

const textOf = (value: unknown): string => (typeof value === 'string' ? value : '')

const indexOf = ({ index }: Json): number => (typeof index === 'number' ? index : 0)

/** Undefined where the vendor says nothing of it. */
function refusalOf(details: Json): RefusalDetails | undefined {
  const category = textOf(details.category).slice(0, REFUSAL_CHARS_MAX)
  const explanation = textOf(details.explanation).slice(0, REFUSAL_CHARS_MAX)
  if (category === '' && explanation === '') return undefined
  return { ...(category === '' ? {} : { category }), ...(explanation === '' ? {} : { explanation }) }
}

/** Their words for why it ended; anything else ended by itself. */
function finishOf(reason: string): FinishReason {
  switch (reason) {
    case 'max_tokens':
    case 'model_context_window_exceeded':
    // A turn that the vendor interrupted is not whole.
    case 'pause_turn':
      return 'length'
    case 'tool_use':
      return 'tool_calls'
    case 'refusal':
      return 'content_filter'
    default:
      return 'stop'
  }
}
