// Answers of Bedrock's Converse interface into provider events: event streams, whole answers, and exceptions inside either.
// Owns the tolerant reading and the count of what was seen; the frames are aws-event-stream.ts, what exceptions mean
// bedrock-failure.ts. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { isJson, type Json, jsonOrEmpty } from '../meter/normalise.ts'
import { type AwsMessage, BadFrame, EventStreamDecoder } from './aws-event-stream.ts'
import { NO_TOOL } from './bedrock-encoder.ts'
import { bedrockInBandFailure } from './bedrock-failure.ts'
import { BEDROCK_SEAL } from './bedrock-messages.ts'
import { askedCacheTtl } from './cache-hints.ts'
import type { FinishReason, ProviderEvent } from './event.ts'
import { PieceCount } from './piece-count.ts'
import { ReportedUsage } from './reported-usage.ts'
import { CallerToolNames } from './tool-names.ts'
import { UsageReader } from './usage-dialect.ts'
import type { AnswerDecoder } from './vendor.ts'

/** Blocks come one after the other; as many open at once are a broken peer. */
const OPEN_BLOCKS_MAX = 64

type OpenBlock = { kind: 'thought'; signature: string } | { kind: 'call'; call: number; hasPieces: boolean }

export class BedrockDecoder implements AnswerDecoder {
  readonly #frames = new EventStreamDecoder()
  readonly #names: CallerToolNames
  readonly #usage: ReportedUsage
  readonly #stop: readonly string[]
  readonly #tierAsked: string | undefined
  readonly #answerId: string
  readonly #blocks = new Map<number, OpenBlock>()
  #tierServed: string | undefined
  readonly #pieces = new PieceCount()
  #calls = 0
  #hasUsage = false
  #finished = false
  #failed = false
  #isOver = false

  /**
   * @param answerId For ids of calls that come without one; unlike that of other answers of a conversation.
   * @param tierAsked The service that was asked for by name; another one in the answer is a price not agreed on.
   */
  constructor(request: InferenceRequest, answerId: string, tierAsked?: string) {
    this.#answerId = answerId
    this.#names = new CallerToolNames(request.tools)
    this.#usage = new ReportedUsage(new UsageReader('bedrock', askedCacheTtl(request)))
    this.#stop = request.stop
    this.#tierAsked = tierAsked
  }

  /** There is no end mark: the reason and the usage are the two last events. */
  get isOver(): boolean {
    return this.#failed || this.#isOver
  }

  get isComplete(): boolean {
    return this.#failed || this.#finished
  }

  get hasInconsistentUsage(): boolean {
    return this.#usage.isInconsistent
  }

  push(chunk: Uint8Array): ProviderEvent[] {
    if (this.isOver) return []
    const events: ProviderEvent[] = []
    try {
      for (const message of this.#frames.push(chunk)) {
        events.push(...this.#read(message))
        if (this.isOver) break
      }
    } catch (error) {
      if (!(error instanceof BadFrame)) throw error
      events.push(this.#malformed(`The provider sent a damaged stream: ${error.message}.`))
    }
    return events
  }

  end(): ProviderEvent[] {
    // Once the answer has said why it ended only counts can be missing.
    if (this.isOver || this.#finished) return []
    if (this.#frames.isInside) return [this.#broken('The provider closed the stream in the middle of a message.')]
    return []
  }

  whole(text: string): ProviderEvent[] {
    if (this.isOver || text === '') return []
    const json = parsed(text)
    if (json === undefined) return [this.#malformed('The provider sent an answer that is no JSON object.')]
    const message = jsonOrEmpty(json.output).message
    if (!isJson(message)) return [this.#fail(bedrockInBandFailure('', json, 'ok_with_error'))]
    const events: ProviderEvent[] = []
    for (const [index, block] of (Array.isArray(message.content) ? message.content : []).entries()) {
      events.push(...this.#block(index, jsonOrEmpty(block)))
    }
    return this.#failed ? events : [...events, ...this.#event('messageStop', json), ...this.#event('metadata', json)]
  }

  #read({ headers, payload }: AwsMessage): ProviderEvent[] {
    if (this.isOver) return []
    const type = headers.get(':message-type')
    if (type === 'error') {
      const body = { message: headers.get(':error-message') ?? '' }
      return [this.#fail(bedrockInBandFailure(headers.get(':error-code') ?? '', body, 'in_band'))]
    }
    const json = parsed(new TextDecoder().decode(payload))
    if (type === 'exception') {
      return [this.#fail(bedrockInBandFailure(headers.get(':exception-type') ?? '', json ?? {}, 'in_band'))]
    }
    if (json === undefined) return [this.#malformed('The provider sent an event that is no JSON object.')]
    return this.#event(headers.get(':event-type') ?? '', json)
  }

  #event(type: string, json: Json): ProviderEvent[] {
    const index = typeof json.contentBlockIndex === 'number' ? json.contentBlockIndex : 0
    switch (type) {
      case 'contentBlockStart': {
        const call = jsonOrEmpty(json.start).toolUse
        return isJson(call) ? this.#call(index, call) : []
      }
      case 'contentBlockDelta':
        return this.#delta(index, jsonOrEmpty(json.delta))
      case 'contentBlockStop':
        return this.#close(index)
      case 'messageStop':
        return this.#reason(json)
      case 'metadata':
        return this.#counted(json)
      default:
        // `messageStart`, and what is yet to come.
        return []
    }
  }

  /** One of a whole answer's blocks. */
  #block(index: number, block: Json): ProviderEvent[] {
    if (isJson(block.toolUse)) {
      const call = this.#call(index, block.toolUse)
      const pieces = this.#delta(index, { toolUse: { input: JSON.stringify(block.toolUse.input ?? {}) } })
      return [...call, ...pieces, ...this.#close(index)]
    }
    const thought = jsonOrEmpty(block.reasoningContent)
    const { text, signature } = jsonOrEmpty(thought.reasoningText)
    const deltas =
      block.reasoningContent === undefined
        ? [block]
        : [{ reasoningContent: { text } }, { reasoningContent: { signature } }, { reasoningContent: thought }]
    return [...deltas.flatMap((delta) => this.#delta(index, delta)), ...this.#close(index)]
  }

  #call(index: number, { toolUseId, name }: Json): ProviderEvent[] {
    if (name === NO_TOOL) return [this.#malformed('The model called a tool in an answer that was to be without.')]
    if (this.#blocks.size >= OPEN_BLOCKS_MAX) return [this.#malformed('The provider opened too many blocks at once.')]
    const call = this.#calls++
    this.#blocks.set(index, { kind: 'call', call, hasPieces: false })
    const id = textOf(toolUseId) || `call_${this.#answerId}_${call}`
    const callerName = this.#names.of(textOf(name))
    return [
      { type: 'tool_call', choice: 0, call, id, name: callerName, arguments: '', outputTokens: this.#pieces.more() },
    ]
  }

  #delta(index: number, delta: Json): ProviderEvent[] {
    const text = textOf(delta.text)
    if (text !== '') return [{ type: 'delta', choice: 0, text, outputTokens: this.#pieces.more() }]
    if (isJson(delta.reasoningContent)) return this.#thought(index, delta.reasoningContent)
    const piece = textOf(jsonOrEmpty(delta.toolUse).input)
    if (piece === '') return []
    const block = this.#blocks.get(index)
    const outputTokens = this.#pieces.more()
    if (block?.kind !== 'call') return []
    block.hasPieces = true
    return [{ type: 'tool_call', choice: 0, call: block.call, arguments: piece, outputTokens }]
  }

  #thought(index: number, { text, signature, redactedContent }: Json): ProviderEvent[] {
    const redacted = textOf(redactedContent)
    if (redacted !== '') {
      const seal = { by: BEDROCK_SEAL, value: redacted, isRedacted: true }
      return [{ type: 'thought', choice: 0, text: '', outputTokens: this.#pieces.more(), seal }]
    }
    const block = this.#blocks.get(index)
    if (block === undefined && textOf(signature) !== '' && this.#blocks.size < OPEN_BLOCKS_MAX) {
      this.#blocks.set(index, { kind: 'thought', signature: textOf(signature) })
    } else if (block?.kind === 'thought') block.signature += textOf(signature)
    const words = textOf(text)
    return words === '' ? [] : [{ type: 'thought', choice: 0, text: words, outputTokens: this.#pieces.more() }]
  }

  #close(index: number): ProviderEvent[] {
    const block = this.#blocks.get(index)
    this.#blocks.delete(index)
    if (block?.kind === 'thought') {
      const seal = { by: BEDROCK_SEAL, value: block.signature }
      return [{ type: 'thought', choice: 0, text: '', outputTokens: this.#pieces.atLeastOne(), seal }]
    }
    if (block?.kind === 'call' && !block.hasPieces) {
      return [{ type: 'tool_call', choice: 0, call: block.call, arguments: '{}', outputTokens: this.#pieces.tokens }]
    }
    return []
  }

  #reason(json: Json): ProviderEvent[] {
    const reason = textOf(json.stopReason)
    if (reason === '' || this.#finished) return []
    if (reason.startsWith('malformed_'))
      return [this.#malformed('The model wrote an answer that the provider cannot read.')]
    this.#finished = true
    const stopString =
      reason === 'stop_sequence' ? this.#stopString(jsonOrEmpty(json.additionalModelResponseFields)) : ''
    const finish: ProviderEvent = {
      type: 'finish',
      choice: 0,
      reason: finishOf(reason),
      outputTokens: this.#pieces.tokens,
      ...(stopString === '' ? {} : { stopString }),
    }
    return [finish, ...this.#ended()]
  }

  /** Told by the model's own answer; of a single string there is no doubt. */
  #stopString(fields: Json): string {
    const told = textOf(jsonOrEmpty(fields.delta).stop_sequence) || textOf(fields.stop_sequence)
    const [only = '', ...others] = this.#stop
    return told || (others.length === 0 ? only : '')
  }

  #counted({ usage, serviceTier }: Json): ProviderEvent[] {
    const running = this.#usage.running(usage)
    if (running.length > 0) this.#hasUsage = true
    this.#tierServed = textOf(jsonOrEmpty(serviceTier).type) || this.#tierServed
    return [...running, ...this.#ended()]
  }

  #ended(): ProviderEvent[] {
    if (!this.#finished || !this.#hasUsage) return []
    this.#isOver = true
    const isOther =
      this.#tierAsked !== undefined && this.#tierServed !== undefined && this.#tierServed !== this.#tierAsked
    return this.#usage.final(isOther)
  }

  #malformed(message: string): ProviderEvent {
    return this.#fail({ code: 'upstream_error', message, kind: 'malformed' })
  }

  #broken(message: string): ProviderEvent {
    return this.#fail({ code: 'upstream_error', message, kind: 'broken_off' })
  }

  #fail(failure: Failure): ProviderEvent {
    this.#failed = true
    return { type: 'error', failure }
  }
}

const textOf = (value: unknown): string => (typeof value === 'string' ? value : '')

function parsed(text: string): Json | undefined {
  try {
    const json: unknown = JSON.parse(text)
    return isJson(json) ? json : undefined
  } catch {
    return undefined
  }
}

/** Their words for why it ended; anything else ended by itself. */
function finishOf(reason: string): FinishReason {
  switch (reason) {
    case 'max_tokens':
    case 'model_context_window_exceeded':
      return 'length'
    case 'tool_use':
      return 'tool_calls'
    case 'guardrail_intervened':
    case 'content_filtered':
    case 'refusal':
      return 'content_filter'
    default:
      return 'stop'
  }
}
