// Answers of /v1/messages, whole and streamed. Owns their shape and the order of their events; the events come from any
// provider. Pure.
import {
  type AnswerBlock,
  type BlockDelta,
  type DeltaUsage,
  type Message,
  OWN_SEALS,
  REFUSAL_CATEGORIES,
  type Stopped,
  type StreamEvent,
  type Usage as WireUsage,
} from '../../protocol/dialects/messages.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { Seal } from '../../protocol/request.ts'
import { messagesFailureBody } from '../errors.ts'
import { inputTokens, NO_USAGE, outputTokens, type Usage } from '../meter/usage.ts'
import type { FinishReason, ProviderEvent, RefusalDetails } from '../providers/event.ts'
import type { AnswerPart, CollectedChoice } from '../stream/collect.ts'
import type { AnswerEncoder, AnswerMeta } from './answer.ts'
import { inCallersWords, MESSAGES_NAMES } from './field-names.ts'
import { sealText } from './seals.ts'

/** What the answer ended with, as far as it is known. */
type Ending = {
  reason: FinishReason
  stopString?: string | undefined
  refusal?: RefusalDetails | undefined
  hasCalls: boolean
  isRefused: boolean
}

/** The block that is being sent. */
type Open = { index: number; type: 'text' | 'thinking' } | { index: number; type: 'tool_use'; call: number }

const NOT_STOPPED: Stopped = { stop_reason: null, stop_sequence: null, stop_details: null }

export class MessagesAnswer implements AnswerEncoder {
  readonly errorDialect = 'messages'
  readonly fieldNames = MESSAGES_NAMES
  readonly #meta: AnswerMeta
  #isStarted = false
  #blocks = 0
  #open: Open | undefined
  /** What the target said of its usage so far: the first event of the stream tells it. */
  #usage: Usage = NO_USAGE
  #ending: Ending = { reason: 'stop', hasCalls: false, isRefused: false }

  constructor(meta: AnswerMeta) {
    this.#meta = meta
  }

  /** @throws Error where a target goes on with a call that was over: its block is closed, and no client could add to it. */
  events(batch: ProviderEvent[]): string {
    let text = ''
    for (const event of batch) {
      switch (event.type) {
        case 'accepted':
        case 'usage':
          this.#usage = event.usage
          break
        case 'delta':
          if (event.text !== '') text += this.#piece('text', { type: 'text_delta', text: event.text })
          break
        case 'refusal':
          if (event.text === '') break
          this.#ending.isRefused = true
          text += this.#piece('text', { type: 'text_delta', text: event.text })
          break
        case 'thought':
          text += this.#thought(event.text, event.seal)
          break
        case 'tool_call':
          text += this.#call(event)
          break
        case 'finish':
          text += this.#start() + this.#close()
          this.#ending.reason = event.reason
          this.#ending.stopString = event.stopString
          this.#ending.refusal = event.refusal
          break
        case 'embedding':
        case 'error':
          break
        default:
          event satisfies never
      }
    }
    return text
  }

  end(usage: Usage): string {
    return (
      this.#start() +
      this.#close() +
      sse({ type: 'message_delta', delta: { ...stopped(this.#ending), container: null }, usage: deltaUsage(usage) }) +
      sse({ type: 'message_stop' })
    )
  }

  failure(failure: Failure): string {
    return sse(messagesFailureBody(inCallersWords(failure, this.fieldNames), this.#meta.requestId))
  }

  whole(choices: CollectedChoice[], usage: Usage): Message {
    const [choice] = choices
    const parts = choice?.parts ?? []
    const ending: Ending = {
      reason: choice?.finish ?? 'stop',
      stopString: choice?.stopString,
      refusal: choice?.refusal,
      hasCalls: parts.some(({ type }) => type === 'tool_call'),
      isRefused: parts.some(({ type }) => type === 'refusal'),
    }
    return { ...this.#message(usage), ...stopped(ending), content: joined(parts).flatMap(blocksOf) }
  }

  #message(usage: Usage): Message {
    return {
      id: `msg_${this.#meta.requestId.replaceAll('-', '')}`,
      type: 'message',
      role: 'assistant',
      model: this.#meta.model,
      content: [],
      ...NOT_STOPPED,
      container: null,
      diagnostics: null,
      usage: wireUsage(usage),
    }
  }

  /** The first event of the stream, once. */
  #start(): string {
    if (this.#isStarted) return ''
    this.#isStarted = true
    return sse({ type: 'message_start', message: this.#message(this.#usage) })
  }

  #close(): string {
    if (this.#open === undefined) return ''
    const { index } = this.#open
    this.#open = undefined
    return sse({ type: 'content_block_stop', index })
  }

  /** Ends what is open and begins the next block. */
  #begin(block: AnswerBlock): { index: number; text: string } {
    const text = this.#start() + this.#close()
    const index = this.#blocks++
    return { index, text: text + sse({ type: 'content_block_start', index, content_block: block }) }
  }

  #delta(delta: BlockDelta): string {
    return this.#open === undefined ? '' : sse({ type: 'content_block_delta', index: this.#open.index, delta })
  }

  #piece(type: 'text' | 'thinking', delta: BlockDelta): string {
    return this.#need(type) + this.#delta(delta)
  }

  /** Opens a block of this type unless one is open. */
  #need(type: 'text' | 'thinking'): string {
    if (this.#open?.type === type) return ''
    const { index, text } = this.#begin(
      type === 'text' ? { type, text: '', citations: null } : { type, thinking: '', signature: '' },
    )
    this.#open = { index, type }
    return text
  }

  #thought(thinking: string, seal: Seal | undefined): string {
    const said = thinking === '' ? '' : this.#piece('thinking', { type: 'thinking_delta', thinking })
    if (seal === undefined) return said
    const signature = sealText(seal, OWN_SEALS)
    if (seal.isRedacted === true && this.#open?.type !== 'thinking') return this.#redacted(signature)
    return said + this.#piece('thinking', { type: 'signature_delta', signature }) + this.#close()
  }

  /** A block that comes whole. */
  #redacted(data: string): string {
    const { index, text } = this.#begin({ type: 'redacted_thinking', data })
    return text + sse({ type: 'content_block_stop', index })
  }

  #call(event: ProviderEvent & { type: 'tool_call' }): string {
    const { call, id, name, seal } = event
    let text = ''
    if (!(this.#open?.type === 'tool_use' && this.#open.call === call)) {
      if (id === undefined || name === undefined) throw new Error('a tool call goes on that was over')
      this.#ending.hasCalls = true
      if (seal !== undefined) text += this.#redacted(sealText(seal, OWN_SEALS, 'call'))
      const begun = this.#begin({ type: 'tool_use', id, name, input: {}, caller: { type: 'direct' } })
      this.#open = { index: begun.index, type: 'tool_use', call }
      text += begun.text
    }
    const json = event.arguments
    return json === '' ? text : text + this.#delta({ type: 'input_json_delta', partial_json: json })
  }
}

/** One event; clients of this dialect tell events apart by name. */
const sse = (event: StreamEvent): string => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`

function deltaUsage(usage: Usage): DeltaUsage {
  const written = usage.inputCacheWrite5m + usage.inputCacheWrite1h
  return {
    input_tokens: inputTokens(usage) - usage.inputCacheRead - written,
    cache_creation_input_tokens: written,
    cache_read_input_tokens: usage.inputCacheRead,
    output_tokens: outputTokens(usage),
    output_tokens_details: { thinking_tokens: usage.outputReasoning },
    server_tool_use: null,
  }
}

const wireUsage = (usage: Usage): WireUsage => ({
  ...deltaUsage(usage),
  cache_creation: {
    ephemeral_5m_input_tokens: usage.inputCacheWrite5m,
    ephemeral_1h_input_tokens: usage.inputCacheWrite1h,
  },
  inference_geo: null,
  service_tier: null,
  speed: null,
})

function stopped({ reason, stopString, refusal, hasCalls, isRefused }: Ending): Stopped {
  if (isRefused || reason === 'content_filter') {
    const category = REFUSAL_CATEGORIES.find((known) => known === refusal?.category) ?? null
    const stop_details = { type: 'refusal', category, explanation: refusal?.explanation ?? null } as const
    return { stop_reason: 'refusal', stop_sequence: null, stop_details }
  }
  switch (reason) {
    case 'length':
      return { ...NOT_STOPPED, stop_reason: 'max_tokens' }
    case 'tool_calls':
      return { ...NOT_STOPPED, stop_reason: 'tool_use' }
    case 'stop':
      if (stopString !== undefined) return { ...NOT_STOPPED, stop_reason: 'stop_sequence', stop_sequence: stopString }
      // A target that was told which tool to call may say that it simply stopped.
      return { ...NOT_STOPPED, stop_reason: hasCalls ? 'tool_use' : 'end_turn' }
    default:
      return reason satisfies never
  }
}

/** The words of a refusal are text in this dialect: neighbours become one. */
function joined(parts: readonly AnswerPart[]): AnswerPart[] {
  const made: AnswerPart[] = []
  for (const part of parts) {
    const said: AnswerPart = part.type === 'refusal' ? { type: 'text', text: part.text } : part
    const last = made.at(-1)
    if (last?.type === 'text' && said.type === 'text')
      made[made.length - 1] = { type: 'text', text: last.text + said.text }
    else made.push(said)
  }
  return made
}

function blocksOf(part: AnswerPart): AnswerBlock[] {
  switch (part.type) {
    case 'text':
    case 'refusal':
      return [{ type: 'text', text: part.text, citations: null }]
    case 'thought': {
      const { seal, text } = part
      const signature = seal === undefined ? '' : sealText(seal, OWN_SEALS)
      if (seal?.isRedacted === true && text === '') return [{ type: 'redacted_thinking', data: signature }]
      return [{ type: 'thinking', thinking: text, signature }]
    }
    case 'tool_call': {
      const { id, name, seal } = part
      const use: AnswerBlock = {
        type: 'tool_use',
        id,
        name,
        input: inputOf(part.arguments),
        caller: { type: 'direct' },
      }
      if (seal === undefined) return [use]
      return [{ type: 'redacted_thinking', data: sealText(seal, OWN_SEALS, 'call') }, use]
    }
    default:
      return part satisfies never
  }
}

/** Arguments are an object in this dialect; what a model wrote that is none is kept in the form its clients know for that. */
function inputOf(json: string): unknown {
  if (json.trim() === '') return {}
  try {
    const input: unknown = JSON.parse(json)
    if (typeof input === 'object' && input !== null && !Array.isArray(input)) return input
  } catch {
    // Below.
  }
  return { INVALID_JSON: json }
}
