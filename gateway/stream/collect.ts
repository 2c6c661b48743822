// A whole answer gathered from its events, for clients that do not stream. Owns the bound on its size. Pure.
import type { LogprobEntry } from '../../protocol/dispatch.ts'
import type { ContentPart } from '../../protocol/request.ts'
import type { FinishReason, ProviderEvent, RefusalDetails } from '../providers/event.ts'
import { vectorLength } from './vector.ts'

/** An isolate has 128 MB for all its requests; no window of real models fills this with text. */
const ANSWER_BYTES_MAX = 24 * 1024 * 1024
/** Memory of one logprob entry and of each of its alternatives, roughly. */
const LOGPROB_BYTES = 100

/** Memory of one value of an embedding, as a decimal number of the answer's text. */
const VALUE_BYTES = 22

export type CollectedChoice = {
  index: number
  /** What was said, thought, refused and called, in the order it came; neighbours of one kind are one part. */
  parts: AnswerPart[]
  /** All that was said. */
  text: string
  logprobs: LogprobEntry[]
  finish: FinishReason
  /** The one of the request's that ended it. */
  stopString?: string
  /** Why a target withheld it, where it says so. */
  refusal?: RefusalDetails
  /** Of an embedding, in place of text: base64. */
  values?: string
}

/** What an assistant can say: as it is sent back in the next request's messages. */
export type AnswerPart = Exclude<ContentPart, { type: 'image' }>

type Growing = {
  parts: AnswerPart[]
  /** Place in `parts` of the call with this number. */
  calls: Map<number, number>
  logprobs: LogprobEntry[]
  finish: FinishReason | undefined
  stopString?: string
  refusal?: RefusalDetails
  values?: string
}

export class Collector {
  readonly #choices = new Map<number, Growing>()
  #bytes = 0

  see(event: ProviderEvent): void {
    if (event.type === 'accepted' || event.type === 'usage' || event.type === 'error') return
    const choice: Growing = this.#choices.get(event.choice) ?? {
      parts: [],
      calls: new Map(),
      logprobs: [],
      finish: undefined,
    }
    this.#choices.set(event.choice, choice)
    switch (event.type) {
      case 'finish':
        choice.finish = event.reason
        if (event.stopString !== undefined) choice.stopString = event.stopString
        if (event.refusal !== undefined) choice.refusal = event.refusal
        return
      case 'embedding':
        this.#bytes += VALUE_BYTES * vectorLength(event.values)
        choice.values = event.values
        choice.finish = 'stop'
        return
      case 'delta':
        for (const entry of event.logprobs ?? []) {
          this.#bytes += LOGPROB_BYTES * (1 + entry.top.length)
          choice.logprobs.push(entry)
        }
        this.#said(choice, 'text', event.text)
        return
      case 'refusal':
        this.#said(choice, 'refusal', event.text)
        return
      case 'thought': {
        const part = this.#said(choice, 'thought', event.text, event.seal !== undefined)
        if (part?.type === 'thought' && event.seal !== undefined) {
          this.#bytes += 2 * event.seal.value.length
          part.seal = event.seal
        }
        return
      }
      case 'tool_call':
        this.#called(choice, event)
        return
      default:
        event satisfies never
    }
  }

  /** Adds to the last part where it is of this kind and open, else begins one. */
  #said(choice: Growing, type: 'text' | 'refusal' | 'thought', text: string, force = false): AnswerPart | undefined {
    // Two bytes a UTF-16 unit at most.
    this.#bytes += 2 * text.length
    const last = choice.parts.at(-1)
    if (last?.type === type && !(last.type === 'thought' && last.seal !== undefined)) {
      last.text += text
      return last
    }
    if (text === '' && !force) return undefined
    const part: AnswerPart = { type, text }
    choice.parts.push(part)
    return part
  }

  #called(choice: Growing, event: ProviderEvent & { type: 'tool_call' }): void {
    this.#bytes += 2 * event.arguments.length
    const at = choice.calls.get(event.call)
    const known = at === undefined ? undefined : choice.parts[at]
    if (known?.type === 'tool_call') {
      known.arguments += event.arguments
      if (event.seal !== undefined) known.seal = event.seal
      return
    }
    choice.calls.set(event.call, choice.parts.length)
    choice.parts.push({
      type: 'tool_call',
      id: event.id ?? '',
      name: event.name ?? '',
      arguments: event.arguments,
      ...(event.seal === undefined ? {} : { seal: event.seal }),
    })
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
      const { values, finish, parts, stopString, refusal } = choice
      const text = parts.map((part) => (part.type === 'text' ? part.text : '')).join('')
      choices.push({
        index,
        parts,
        text,
        logprobs: choice.logprobs,
        finish,
        ...(stopString === undefined ? {} : { stopString }),
        ...(refusal === undefined ? {} : { refusal }),
        ...(values === undefined ? {} : { values }),
      })
    }
    return choices
  }
}
