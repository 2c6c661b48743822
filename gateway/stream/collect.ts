// A whole answer gathered from its events, for clients that do not stream. Owns the bound on its size. Pure.
import type { LogprobEntry } from '../../protocol/dispatch.ts'
import type { FinishReason, ProviderEvent } from '../providers/event.ts'
import { vectorLength } from './vector.ts'

/** An isolate has 128 MB for all its requests; no window of real models fills this with text. */
const ANSWER_BYTES_MAX = 24 * 1024 * 1024
/** Memory of one logprob entry and of each of its alternatives, roughly. */
const LOGPROB_BYTES = 100

/** Memory of one value of an embedding, as a decimal number of the answer's text. */
const VALUE_BYTES = 22

export type CollectedChoice = {
  index: number
  text: string
  logprobs: LogprobEntry[]
  finish: FinishReason
  /** Of an embedding, in place of text: base64. */
  values?: string
}

type Growing = { parts: string[]; logprobs: LogprobEntry[]; finish: FinishReason | undefined; values?: string }

export class Collector {
  readonly #choices = new Map<number, Growing>()
  #bytes = 0

  see(event: ProviderEvent): void {
    if (event.type !== 'delta' && event.type !== 'finish' && event.type !== 'embedding') return
    const choice = this.#choices.get(event.choice) ?? { parts: [], logprobs: [], finish: undefined }
    this.#choices.set(event.choice, choice)
    if (event.type === 'finish') {
      choice.finish = event.reason
      return
    }
    if (event.type === 'embedding') {
      this.#bytes += VALUE_BYTES * vectorLength(event.values)
      choice.values = event.values
      choice.finish = 'stop'
      return
    }
    // Two bytes a UTF-16 unit at most.
    this.#bytes += 2 * event.text.length
    choice.parts.push(event.text)
    for (const entry of event.logprobs ?? []) {
      this.#bytes += LOGPROB_BYTES * (1 + entry.top.length)
      choice.logprobs.push(entry)
    }
  }

  get isTooLarge(): boolean {
    return this.#bytes > ANSWER_BYTES_MAX
  }

  /** The choices in order; undefined where one of `count` has not finished. */
  complete(count: number): CollectedChoice[] | undefined {
    const choices: CollectedChoice[] = []
    for (let index = 0; index < count; index++) {
      const choice = this.#choices.get(index)
      if (choice?.finish === undefined) return undefined
      const { values, finish } = choice
      const text = choice.parts.join('')
      choices.push({ index, text, logprobs: choice.logprobs, finish, ...(values === undefined ? {} : { values }) })
    }
    return choices
  }
}
