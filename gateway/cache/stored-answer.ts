// An answer as the cache keeps it. Owns the JSON form: what was said, with neighbouring pieces joined, and what it had cost
// in tokens, for information. Counts of a replay are always zero: nothing is computed. Pure.
import * as z from 'zod'
import { LogprobEntry } from '../../protocol/dispatch.ts'
import { late } from '../../protocol/late.ts'
import { parseStored } from '../db/json.ts'
import { inputTokens, outputTokens, type Usage } from '../meter/usage.ts'
import type { ProviderEvent } from '../providers/event.ts'

const choice = late(() => z.number())
const text = late(() => z.string())
const Seal = late(() => z.object({ by: z.string(), value: z.string(), isRedacted: z.boolean().exactOptional() }))
const seal = late(() => Seal.exactOptional())
const outputTokensOfReplay = late(() => z.literal(0))

const StoredEvent = late(() =>
  z.discriminatedUnion('type', [
    z.object({
      type: z.literal('delta'),
      choice,
      text,
      outputTokens: outputTokensOfReplay,
      logprobs: z.array(LogprobEntry).exactOptional(),
    }),
    z.object({ type: z.literal('thought'), choice, text, outputTokens: outputTokensOfReplay, seal }),
    z.object({
      type: z.literal('tool_call'),
      choice,
      call: z.number(),
      id: z.string().exactOptional(),
      name: z.string().exactOptional(),
      arguments: z.string(),
      outputTokens: outputTokensOfReplay,
      seal,
    }),
    z.object({
      type: z.literal('finish'),
      choice,
      reason: z.enum(['stop', 'length', 'tool_calls']),
      outputTokens: outputTokensOfReplay,
      stopString: z.string().exactOptional(),
    }),
    z.object({ type: z.literal('embedding'), choice, values: z.string() }),
  ]),
)
export type StoredEvent = z.infer<typeof StoredEvent>

const StoredAnswer = late(() =>
  z.object({
    events: z.array(StoredEvent),
    /** What the answer took when it was computed. */
    tokens: z.object({ input: z.number(), output: z.number() }).exactOptional(),
  }),
)
export type StoredAnswer = z.infer<typeof StoredAnswer>

export const encodeAnswer = (answer: StoredAnswer): string => JSON.stringify(answer)

/** @throws Error where the text is of another form. */
export const decodeAnswer = (stored: string): StoredAnswer => parseStored(stored, StoredAnswer, 'the response cache')

/** Gathers an answer from its events; `complete` tells whether it is one to be kept. */
export class AnswerGatherer {
  readonly #charsMax: number
  readonly #choices = new Map<number, StoredEvent[]>()
  readonly #finished = new Set<number>()
  #usage: Usage | undefined
  #chars = 0
  #isUnfit = false
  #hasContent = false

  /** @param charsMax Beyond it the answer is not kept, and no more of it is gathered. */
  constructor(charsMax: number) {
    this.#charsMax = charsMax
  }

  see(event: ProviderEvent): void {
    if (this.#isUnfit) return
    switch (event.type) {
      case 'accepted':
        return
      case 'usage':
        if (event.isRunning !== true) this.#usage = event.usage
        return
      // Another try may go better: an error, a refusal and what a filter withheld are not worth repeating.
      case 'error':
      case 'refusal':
        this.#drop()
        return
      case 'finish': {
        const { choice, reason, stopString } = event
        if (reason === 'content_filter') return this.#drop()
        this.#finished.add(choice)
        const said = stopString === undefined ? {} : { stopString }
        this.#add({ type: 'finish', choice, reason, outputTokens: 0, ...said }, 0)
        return
      }
      case 'embedding':
        this.#finished.add(event.choice)
        this.#hasContent = true
        this.#add({ type: 'embedding', choice: event.choice, values: event.values }, event.values.length)
        return
      case 'delta':
        if (event.text === '' && event.logprobs === undefined) return
        this.#hasContent ||= event.text !== ''
        this.#add({ ...event, outputTokens: 0 }, event.text.length + LOGPROB_CHARS * (event.logprobs?.length ?? 0))
        return
      case 'thought':
        this.#add({ ...event, outputTokens: 0 }, event.text.length + (event.seal?.value.length ?? 0))
        return
      case 'tool_call':
        this.#hasContent = true
        this.#add({ ...event, outputTokens: 0 }, event.arguments.length + (event.seal?.value.length ?? 0))
        return
      default:
        event satisfies never
    }
  }

  /**
   * The answer where it is whole and fit to be given again: every one of `count` choices ended, something was said.
   * @param mayBeCut Whether the end of a choice at a length is what was asked for.
   */
  complete(count: number, mayBeCut: boolean): StoredAnswer | undefined {
    if (this.#isUnfit || !this.#hasContent) return undefined
    const events: StoredEvent[] = []
    for (let index = 0; index < count; index++) {
      if (!this.#finished.has(index)) return undefined
      events.push(...(this.#choices.get(index) ?? []))
    }
    if (!mayBeCut && events.some((event) => event.type === 'finish' && event.reason === 'length')) return undefined
    const usage = this.#usage
    if (usage === undefined) return { events }
    return { events, tokens: { input: inputTokens(usage), output: outputTokens(usage) } }
  }

  #add(event: StoredEvent, chars: number): void {
    this.#chars += chars
    if (this.#chars > this.#charsMax) return this.#drop()
    const before = this.#choices.get(event.choice)
    if (before === undefined) this.#choices.set(event.choice, [event])
    else if (!joined(before.at(-1), event)) before.push(event)
  }

  #drop(): void {
    this.#isUnfit = true
    this.#choices.clear()
  }
}

/** A few numbers and the token's text for each of its alternatives, roughly. */
const LOGPROB_CHARS = 100

/** Adds a piece to the one before it where both are of one part; whether it did. */
function joined(last: StoredEvent | undefined, next: StoredEvent): boolean {
  if (last?.type === 'delta' && next.type === 'delta') {
    last.text += next.text
    if (next.logprobs !== undefined) last.logprobs = [...(last.logprobs ?? []), ...next.logprobs]
    return true
  }
  // A seal closes its thought.
  if (last?.type === 'thought' && next.type === 'thought' && last.seal === undefined) {
    last.text += next.text
    if (next.seal !== undefined) last.seal = next.seal
    return true
  }
  if (last?.type === 'tool_call' && next.type === 'tool_call' && last.call === next.call) {
    last.arguments += next.arguments
    if (next.seal !== undefined) last.seal = next.seal
    return true
  }
  return false
}
