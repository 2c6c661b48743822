// The output of a response as it grows: items, their parts, and the events that tell of each step. Owns which event follows
// which and when an item is over; the response around them is responses-answer.ts. Pure.
import type {
  ItemStatus,
  OutputFunctionCall,
  OutputMessage,
  OutputReasoning,
  OutputTextPart,
  ReasoningTextPart,
  RefusalPart,
  ResponseEventBody,
  ResponseLogprob,
  ResponseOutputItem,
  SummaryPart,
} from '../../protocol/dialects/responses.ts'
import type { LogprobEntry } from '../../protocol/dispatch.ts'
import type { Seal } from '../../protocol/request.ts'
import type { ProviderEvent } from '../providers/event.ts'
import { sealText } from './seals.ts'

/** Two bytes a character at most: an answer, its copy in the last event and that event's text fit an isolate together. */
const OUTPUT_CHARS_MAX = 8 * 1024 * 1024
/** A logprob entry and each of its alternatives, roughly. */
const LOGPROB_CHARS = 80
/** A character has four bytes at most, and so few tokens; more without text are of something else. */
const UNSAID_TOKENS_MAX = 64

type Open =
  | { kind: 'message'; index: number; item: OutputMessage; part: OutputTextPart | RefusalPart | undefined }
  | { kind: 'reasoning'; index: number; item: OutputReasoning; part: ReasoningTextPart | SummaryPart | undefined }
  | { kind: 'call'; index: number; item: OutputFunctionCall; call: number; seal: Seal | undefined }

type Emit = (event: ResponseEventBody) => void

export class ResponseOutput {
  readonly items: ResponseOutputItem[] = []
  readonly #name: string
  readonly #asSummary: boolean
  readonly #emit: Emit
  #open: Open | undefined
  #chars = 0
  /** Of tokens that have shown no text yet. */
  #unsaid: LogprobEntry[] = []

  /**
   * @param name Of the response: begins the ids of its items.
   * @param asSummary Thoughts are shown as summaries, because the caller asked for those; else as they are.
   * @param emit Takes the events, in their order.
   */
  constructor(name: string, asSummary: boolean, emit: Emit) {
    this.#name = name
    this.#asSummary = asSummary
    this.#emit = emit
  }

  /** @throws Error where the answer is over its bound, or a target goes on with a call that was over. */
  see(event: ProviderEvent & { type: 'delta' | 'thought' | 'refusal' | 'tool_call' }): void {
    switch (event.type) {
      case 'delta':
        this.#said(event.text, event.logprobs ?? [])
        return
      case 'refusal':
        if (event.text !== '') this.#refusal(event.text)
        return
      case 'thought':
        if (event.text !== '' || event.seal !== undefined) this.#thought(event.text, event.seal)
        return
      case 'tool_call':
        this.#toolCall(event)
        return
      default:
        event satisfies never
    }
  }

  /** Ends what is open. `incomplete`: it was cut off. */
  close(status: Exclude<ItemStatus, 'in_progress'>): void {
    const open = this.#open
    if (open === undefined) return
    this.#closePart()
    this.#open = undefined
    open.item.status = status
    const { index, item } = open
    if (open.kind === 'call') {
      const { name, arguments: text } = open.item
      this.#emit({
        type: 'response.function_call_arguments.done',
        item_id: item.id,
        output_index: index,
        name,
        arguments: text,
      })
    }
    this.#emit({ type: 'response.output_item.done', output_index: index, item })
    // The dialect has no place for the seal of a call, and the caller must be able to give it back.
    if (open.kind === 'call' && open.seal !== undefined) this.#sealOfCall(open.seal)
  }

  /** What is open stays as far as it came, and nothing tells of it: the response itself ends. */
  cut(): void {
    if (this.#open !== undefined) this.#open.item.status = 'incomplete'
    this.#open = undefined
  }

  #grow(chars: number): void {
    this.#chars += chars
    if (this.#chars > OUTPUT_CHARS_MAX) throw new Error(`the answer has more than ${OUTPUT_CHARS_MAX} characters`)
  }

  /**
   * Tokens without text are of a character that is yet to come, or of a call: only with text behind them are they part of a
   * message.
   */
  #said(delta: string, entries: readonly LogprobEntry[]): void {
    const all = [...this.#unsaid, ...entries]
    if (delta === '' && this.#open?.kind !== 'message') {
      if (all.length <= UNSAID_TOKENS_MAX) this.#unsaid = all
      return
    }
    this.#unsaid = []
    if (delta !== '' || all.length > 0) this.#text(delta, all)
  }

  #text(delta: string, entries: readonly LogprobEntry[]): void {
    this.#grow(delta.length + LOGPROB_CHARS * entries.reduce((sum, entry) => sum + 1 + entry.top.length, 0))
    const { index, item, part, content_index } = this.#messagePart('output_text', () => ({
      type: 'output_text',
      text: '',
      annotations: [],
      logprobs: [],
    }))
    if (part.type !== 'output_text') return
    const logprobs = entries.map(logprobOf)
    part.text += delta
    for (const one of logprobs) part.logprobs.push(one)
    const at = { item_id: item.id, output_index: index, content_index }
    this.#emit({ type: 'response.output_text.delta', ...at, delta, logprobs })
  }

  #refusal(delta: string): void {
    this.#grow(delta.length)
    const { index, item, part, content_index } = this.#messagePart('refusal', () => ({ type: 'refusal', refusal: '' }))
    if (part.type !== 'refusal') return
    part.refusal += delta
    this.#emit({ type: 'response.refusal.delta', item_id: item.id, output_index: index, content_index, delta })
  }

  /** The part of the open message that goes on, or a new one; a new message where none is open. */
  #messagePart(type: 'output_text' | 'refusal', begin: () => OutputTextPart | RefusalPart) {
    let open = this.#open
    if (open?.kind !== 'message') {
      this.close('completed')
      const index = this.items.length
      const item: OutputMessage = {
        id: this.#id('msg', index),
        type: 'message',
        role: 'assistant',
        status: 'in_progress',
        content: [],
      }
      open = { kind: 'message', index, item, part: undefined }
      this.#add(open)
    }
    let { part } = open
    const { index, item } = open
    if (part?.type !== type) {
      this.#closePart()
      part = begin()
      open.part = part
      item.content.push(part)
      const at = { item_id: item.id, output_index: index, content_index: item.content.length - 1 }
      this.#emit({ type: 'response.content_part.added', ...at, part })
    }
    return { index, item, part, content_index: item.content.length - 1 }
  }

  #thought(delta: string, seal: Seal | undefined): void {
    this.#unsaid = []
    this.#grow(delta.length + (seal?.value.length ?? 0))
    let open = this.#open
    if (open?.kind !== 'reasoning') {
      this.close('completed')
      const index = this.items.length
      const item: OutputReasoning = {
        id: this.#id('rs', index),
        type: 'reasoning',
        status: 'in_progress',
        summary: [],
        ...(this.#asSummary ? {} : { content: [] }),
      }
      open = { kind: 'reasoning', index, item, part: undefined }
      this.#add(open)
    }
    if (delta !== '') this.#thoughtText(open, delta)
    if (seal === undefined) return
    open.item.encrypted_content = sealText(seal)
    this.close('completed')
  }

  #thoughtText(open: Open & { kind: 'reasoning' }, delta: string): void {
    const { item, index } = open
    const at = { item_id: item.id, output_index: index }
    if (this.#asSummary) {
      if (open.part === undefined) {
        const part: SummaryPart = { type: 'summary_text', text: '' }
        open.part = part
        item.summary.push(part)
        this.#emit({ type: 'response.reasoning_summary_part.added', ...at, summary_index: 0, part })
      }
      open.part.text += delta
      this.#emit({ type: 'response.reasoning_summary_text.delta', ...at, summary_index: 0, delta })
      return
    }
    if (open.part === undefined) {
      const part: ReasoningTextPart = { type: 'reasoning_text', text: '' }
      open.part = part
      item.content = [part]
      this.#emit({ type: 'response.content_part.added', ...at, content_index: 0, part })
    }
    open.part.text += delta
    this.#emit({ type: 'response.reasoning_text.delta', ...at, content_index: 0, delta })
  }

  #toolCall(event: ProviderEvent & { type: 'tool_call' }): void {
    this.#unsaid = []
    this.#grow(event.arguments.length + (event.seal?.value.length ?? 0))
    let open = this.#open
    if (open?.kind !== 'call' || open.call !== event.call) {
      // A call is over when the next part begins; what was said to be over cannot change any more.
      if (event.id === undefined || event.name === undefined) throw new Error('a tool call goes on that was over')
      this.close('completed')
      const index = this.items.length
      const item: OutputFunctionCall = {
        id: this.#id('fc', index),
        type: 'function_call',
        status: 'in_progress',
        call_id: event.id,
        name: event.name,
        arguments: '',
      }
      open = { kind: 'call', index, item, call: event.call, seal: undefined }
      this.#add(open)
    }
    if (event.seal !== undefined) open.seal = event.seal
    if (event.arguments === '') return
    const { item, index } = open
    item.arguments += event.arguments
    this.#emit({
      type: 'response.function_call_arguments.delta',
      item_id: item.id,
      output_index: index,
      delta: event.arguments,
    })
  }

  #sealOfCall(seal: Seal): void {
    const index = this.items.length
    const item: OutputReasoning = {
      id: this.#id('rs', index),
      type: 'reasoning',
      status: 'completed',
      summary: [],
      encrypted_content: sealText(seal, undefined, 'call'),
    }
    this.items.push(item)
    this.#emit({ type: 'response.output_item.added', output_index: index, item })
    this.#emit({ type: 'response.output_item.done', output_index: index, item })
  }

  #add(open: Open): void {
    this.#open = open
    this.items.push(open.item)
    this.#emit({ type: 'response.output_item.added', output_index: open.index, item: open.item })
  }

  #closePart(): void {
    const open = this.#open
    if (open === undefined || open.kind === 'call' || open.part === undefined) return
    const { part, item, index } = open
    const at = { item_id: item.id, output_index: index }
    const content_index = open.kind === 'message' ? open.item.content.length - 1 : 0
    open.part = undefined
    switch (part.type) {
      case 'output_text': {
        const { text, logprobs } = part
        this.#emit({ type: 'response.output_text.done', ...at, content_index, text, logprobs })
        break
      }
      case 'refusal':
        this.#emit({ type: 'response.refusal.done', ...at, content_index, refusal: part.refusal })
        break
      case 'reasoning_text':
        this.#emit({ type: 'response.reasoning_text.done', ...at, content_index, text: part.text })
        break
      case 'summary_text':
        this.#emit({ type: 'response.reasoning_summary_text.done', ...at, summary_index: 0, text: part.text })
        this.#emit({ type: 'response.reasoning_summary_part.done', ...at, summary_index: 0, part })
        return
      default:
        part satisfies never
    }
    this.#emit({ type: 'response.content_part.done', ...at, content_index, part })
  }

  #id(kind: string, index: number): string {
    return `${kind}_${this.#name}_${index}`
  }
}

const logprobOf = (entry: LogprobEntry): ResponseLogprob => ({
  token: entry.text,
  logprob: entry.logprob,
  bytes: entry.bytes,
  top_logprobs: entry.top.map((top) => ({ token: top.text, logprob: top.logprob, bytes: top.bytes })),
})
