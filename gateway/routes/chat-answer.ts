// Answers of /v1/chat/completions, whole and streamed. Owns their shape; the events come from any provider. Pure.
import type { ChatCompletion, ChatCompletionChunk, ChatLogprobs } from '../../protocol/dialects/openai.ts'
import type { AssistantMessage, MessageDelta, ReasoningDetail, ToolCall } from '../../protocol/dialects/openai-chat.ts'
import type { LogprobEntry } from '../../protocol/dispatch.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { Seal } from '../../protocol/request.ts'
import type { Usage } from '../meter/usage.ts'
import type { ProviderEvent } from '../providers/event.ts'
import type { AnswerPart, CollectedChoice } from '../stream/collect.ts'
import { SSE_DONE, sseData } from '../stream/sse.ts'
import { type AnswerEncoder, type AnswerMeta, answerId, chunkFailure, createdSeconds, wireUsage } from './answer.ts'
import { CHAT_NAMES } from './field-names.ts'
import { sealText } from './seals.ts'

type ChunkChoice = ChatCompletionChunk['choices'][number]

/** A thought is told again as a whole when its proof comes; of a longer one only the text is told, as it came. */
const THOUGHT_CHARS_MAX = 1024 * 1024

/** What was thought since the last proof, and how many proofs there were. */
type Thinking = { text: string; proofs: number }

export class ChatAnswer implements AnswerEncoder {
  readonly errorDialect = 'openai'
  readonly fieldNames = CHAT_NAMES
  readonly #meta: AnswerMeta
  readonly #id: string
  /** Choices whose role chunk went out. */
  readonly #opened = new Set<number>()
  readonly #thinking = new Map<number, Thinking>()

  constructor(meta: AnswerMeta) {
    this.#meta = meta
    this.#id = answerId('chatcmpl', meta)
  }

  events(batch: ProviderEvent[]): string {
    let text = ''
    for (const event of batch) {
      switch (event.type) {
        case 'delta': {
          const hasLogprobs = event.logprobs !== undefined && event.logprobs.length > 0
          if (event.text === '' && !hasLogprobs) break
          text += this.#delta(event.choice, { content: event.text }, event.logprobs)
          break
        }
        case 'thought': {
          const delta = this.#thought(event)
          if (delta !== undefined) text += this.#delta(event.choice, delta)
          break
        }
        case 'refusal':
          if (event.text !== '') text += this.#delta(event.choice, { refusal: event.text })
          break
        case 'tool_call':
          text += this.#delta(event.choice, { tool_calls: [callDelta(event)] })
          break
        case 'finish':
          text += this.#open(event.choice, '')
          text += this.#chunk({ index: event.choice, delta: {}, logprobs: null, finish_reason: event.reason })
          break
        case 'accepted':
        case 'embedding':
        case 'usage':
        case 'error':
          break
        default:
          event satisfies never
      }
    }
    return text
  }

  end(usage: Usage): string {
    if (!this.#meta.includeUsage) return SSE_DONE
    const last: ChatCompletionChunk = { ...this.#head(), choices: [], usage: wireUsage(usage) }
    return sseData(last) + SSE_DONE
  }

  failure(failure: Failure): string {
    return chunkFailure(failure, this.fieldNames)
  }

  whole(choices: CollectedChoice[], usage: Usage): ChatCompletion {
    return {
      id: this.#id,
      object: 'chat.completion',
      created: createdSeconds(this.#meta),
      model: this.#meta.model,
      choices: choices.map((choice) => ({
        index: choice.index,
        message: messageOf(choice),
        logprobs: choice.logprobs.length === 0 ? null : chatLogprobs(choice.logprobs),
        finish_reason: choice.finish,
      })),
      usage: wireUsage(usage),
    }
  }

  #head(): Omit<ChatCompletionChunk, 'choices'> {
    return {
      id: this.#id,
      object: 'chat.completion.chunk',
      created: createdSeconds(this.#meta),
      model: this.#meta.model,
    }
  }

  #chunk(choice: ChunkChoice): string {
    const chunk: ChatCompletionChunk = { ...this.#head(), choices: [choice] }
    return sseData(this.#meta.includeUsage ? { ...chunk, usage: null } : chunk)
  }

  #delta(choice: number, delta: MessageDelta, logprobs?: LogprobEntry[]): string {
    // A thought ends where something else begins.
    if (delta.reasoning_content === undefined && delta.reasoning_details === undefined && delta.content !== '') {
      const thinking = this.#thinking.get(choice)
      if (thinking !== undefined) thinking.text = ''
    }
    const opening = this.#open(choice, delta.content === undefined ? null : '')
    return (
      opening +
      this.#chunk({
        index: choice,
        delta,
        logprobs: logprobs === undefined ? null : chatLogprobs(logprobs),
        finish_reason: null,
      })
    )
  }

  /** The role comes first, once per choice, in a chunk of its own. */
  #open(choice: number, content: string | null): string {
    if (this.#opened.has(choice)) return ''
    this.#opened.add(choice)
    return this.#chunk({ index: choice, delta: { role: 'assistant', content }, logprobs: null, finish_reason: null })
  }

  #thought(event: ProviderEvent & { type: 'thought' }): MessageDelta | undefined {
    const thinking = this.#thinking.get(event.choice) ?? { text: '', proofs: 0 }
    this.#thinking.set(event.choice, thinking)
    const shown: MessageDelta = event.text === '' ? {} : { reasoning_content: event.text }
    if (thinking.text.length <= THOUGHT_CHARS_MAX) thinking.text += event.text
    if (event.seal === undefined) return event.text === '' ? undefined : shown
    const whole = thinking.text
    thinking.text = ''
    if (whole.length > THOUGHT_CHARS_MAX) return shown
    return { ...shown, reasoning_details: [reasoningDetail(whole, event.seal, thinking.proofs++)] }
  }
}

function reasoningDetail(text: string, seal: Seal, index: number): ReasoningDetail {
  const proof = sealText(seal)
  return seal.isRedacted === true && text === ''
    ? { type: 'reasoning.encrypted', data: proof, index }
    : { type: 'reasoning.text', text, signature: proof, index }
}

const sealed = (seal: Seal | undefined): Pick<ToolCall, 'extra_content'> =>
  seal === undefined ? {} : { extra_content: { google: { thought_signature: sealText(seal) } } }

function callDelta(event: ProviderEvent & { type: 'tool_call' }): NonNullable<MessageDelta['tool_calls']>[number] {
  const { call: index, id, name, seal } = event
  if (id === undefined || name === undefined) return { index, function: { arguments: event.arguments } }
  return { index, id, type: 'function', function: { name, arguments: event.arguments }, ...sealed(seal) }
}

/** The collected parts as the one message that this dialect has. */
function messageOf({ parts, text }: CollectedChoice): AssistantMessage {
  const of = <Type extends AnswerPart['type']>(type: Type) =>
    parts.filter((part): part is Extract<AnswerPart, { type: Type }> => part.type === type)
  const refusals = of('refusal')
  const thoughts = of('thought')
  const shown = thoughts.map((thought) => thought.text).join('')
  const details: ReasoningDetail[] = []
  for (const thought of thoughts) {
    if (thought.seal === undefined || thought.text.length > THOUGHT_CHARS_MAX) continue
    details.push(reasoningDetail(thought.text, thought.seal, details.length))
  }
  const calls = of('tool_call').map((call): ToolCall => {
    const called = { name: call.name, arguments: call.arguments }
    return { id: call.id, type: 'function', function: called, ...sealed(call.seal) }
  })
  const isSilent = text === '' && (calls.length > 0 || refusals.length > 0)
  return {
    role: 'assistant',
    content: isSilent ? null : text,
    refusal: refusals.length === 0 ? null : refusals.map((refusal) => refusal.text).join(''),
    ...(shown === '' ? {} : { reasoning_content: shown }),
    ...(details.length === 0 ? {} : { reasoning_details: details }),
    ...(calls.length === 0 ? {} : { tool_calls: calls }),
  }
}

function chatLogprobs(entries: LogprobEntry[]): ChatLogprobs {
  return {
    content: entries.map((entry) => ({
      token: entry.text,
      logprob: entry.logprob,
      bytes: entry.bytes,
      top_logprobs: entry.top.map((top) => ({ token: top.text, logprob: top.logprob, bytes: top.bytes })),
    })),
    refusal: null,
  }
}
