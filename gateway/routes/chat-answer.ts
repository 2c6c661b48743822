// Answers of /v1/chat/completions, whole and streamed. Owns their shape; the events come from any provider. Pure.
import type { ChatCompletion, ChatCompletionChunk, ChatLogprobs } from '../../protocol/dialects/openai.ts'
import type { LogprobEntry } from '../../protocol/dispatch.ts'
import type { Usage } from '../meter/usage.ts'
import type { ProviderEvent } from '../providers/event.ts'
import type { CollectedChoice } from '../stream/collect.ts'
import { SSE_DONE, sseData } from '../stream/sse.ts'
import { type AnswerEncoder, type AnswerMeta, answerId, createdSeconds, wireUsage } from './answer.ts'

type ChunkChoice = ChatCompletionChunk['choices'][number]

export class ChatAnswer implements AnswerEncoder {
  readonly #meta: AnswerMeta
  readonly #id: string
  /** Choices whose role chunk went out. */
  readonly #opened = new Set<number>()

  constructor(meta: AnswerMeta) {
    this.#meta = meta
    this.#id = answerId('chatcmpl', meta)
  }

  events(batch: ProviderEvent[]): string {
    let text = ''
    for (const event of batch) {
      if (event.type === 'delta') {
        const hasLogprobs = event.logprobs !== undefined && event.logprobs.length > 0
        if (event.text === '' && !hasLogprobs) continue
        text += this.#open(event.choice)
        text += this.#chunk({
          index: event.choice,
          delta: { content: event.text },
          logprobs: event.logprobs === undefined ? null : chatLogprobs(event.logprobs),
          finish_reason: null,
        })
      } else if (event.type === 'finish') {
        text += this.#open(event.choice)
        text += this.#chunk({ index: event.choice, delta: {}, logprobs: null, finish_reason: event.reason })
      }
    }
    return text
  }

  end(usage: Usage): string {
    if (!this.#meta.includeUsage) return SSE_DONE
    const last: ChatCompletionChunk = { ...this.#head(), choices: [], usage: wireUsage(usage) }
    return sseData(last) + SSE_DONE
  }

  whole(choices: CollectedChoice[], usage: Usage): ChatCompletion {
    return {
      id: this.#id,
      object: 'chat.completion',
      created: createdSeconds(this.#meta),
      model: this.#meta.model,
      choices: choices.map((choice) => ({
        index: choice.index,
        message: { role: 'assistant', content: choice.text, refusal: null },
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

  /** The role comes first, once per choice, in a chunk of its own. */
  #open(choice: number): string {
    if (this.#opened.has(choice)) return ''
    this.#opened.add(choice)
    return this.#chunk({
      index: choice,
      delta: { role: 'assistant', content: '' },
      logprobs: null,
      finish_reason: null,
    })
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
