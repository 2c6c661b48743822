// Answers of /v1/completions, whole and streamed. Owns their shape, and the text offsets that only this dialect has. Pure.
import type { CompletionLogprobs, TextCompletion } from '../../protocol/dialects/openai.ts'
import type { LogprobEntry } from '../../protocol/dispatch.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { Usage } from '../meter/usage.ts'
import type { ProviderEvent } from '../providers/event.ts'
import type { CollectedChoice } from '../stream/collect.ts'
import { SSE_DONE, sseData } from '../stream/sse.ts'
import { type AnswerEncoder, type AnswerMeta, answerId, chunkFailure, createdSeconds, wireUsage } from './answer.ts'
import { COMPLETION_NAMES } from './field-names.ts'

type Choice = TextCompletion['choices'][number]

export class CompletionAnswer implements AnswerEncoder {
  readonly errorDialect = 'openai'
  readonly fieldNames = COMPLETION_NAMES
  readonly #meta: AnswerMeta
  readonly #id: string
  /** Characters of the tokens sent so far, by choice. */
  readonly #offsets = new Map<number, number>()

  constructor(meta: AnswerMeta) {
    this.#meta = meta
    this.#id = answerId('cmpl', meta)
  }

  events(batch: ProviderEvent[]): string {
    let text = ''
    for (const event of batch) {
      if (event.type === 'delta') {
        const logprobs = this.#logprobs(event.choice, event.logprobs)
        if (event.text === '' && logprobs === null) continue
        text += this.#chunk({ index: event.choice, text: event.text, logprobs, finish_reason: null })
      } else if (event.type === 'finish') {
        text += this.#chunk({ index: event.choice, text: '', logprobs: null, finish_reason: event.reason })
      }
    }
    return text
  }

  end(usage: Usage): string {
    if (!this.#meta.includeUsage) return SSE_DONE
    const last: TextCompletion = { ...this.#head(), choices: [], usage: wireUsage(usage) }
    return sseData(last) + SSE_DONE
  }

  failure(failure: Failure): string {
    return chunkFailure(failure, this.fieldNames)
  }

  whole(choices: CollectedChoice[], usage: Usage): TextCompletion {
    return {
      ...this.#head(),
      choices: choices.map((choice) => ({
        index: choice.index,
        text: choice.text,
        logprobs: this.#logprobs(choice.index, choice.logprobs),
        finish_reason: choice.finish,
      })),
      usage: wireUsage(usage),
    }
  }

  #head(): Omit<TextCompletion, 'choices'> {
    return {
      id: this.#id,
      object: 'text_completion',
      created: createdSeconds(this.#meta),
      model: this.#meta.model,
    }
  }

  #chunk(choice: Choice): string {
    const chunk: TextCompletion = { ...this.#head(), choices: [choice] }
    return sseData(this.#meta.includeUsage ? { ...chunk, usage: null } : chunk)
  }

  #logprobs(choice: number, entries: LogprobEntry[] | undefined): CompletionLogprobs | null {
    if (entries === undefined || entries.length === 0) return null
    let offset = this.#offsets.get(choice) ?? 0
    const textOffset = entries.map((entry) => {
      const at = offset
      offset += entry.text.length
      return at
    })
    this.#offsets.set(choice, offset)
    const hasTop = entries.some((entry) => entry.top.length > 0)
    return {
      tokens: entries.map((entry) => entry.text),
      token_logprobs: entries.map((entry) => entry.logprob),
      // The dialect counts the chosen token among the alternatives, also where it is not one of the likeliest.
      top_logprobs: hasTop
        ? entries.map((entry) => Object.fromEntries([...entry.top, entry].map((top) => [top.text, top.logprob])))
        : null,
      text_offset: textOffset,
    }
  }
}
