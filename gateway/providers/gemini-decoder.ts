// Gemini's answers into provider events: streams of chunks with whole parts, bodies in one piece, embeddings, and errors
// inside any of them. Owns the tolerant reading; HTTP is gemini.ts, errors gemini-failure.ts. Pure.

import type { LogprobEntry } from '../../protocol/dispatch.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { Seal } from '../../protocol/request.ts'
import { RAW_USAGE_CHARS_MAX } from '../account/contract.ts'
import { isJson, type Json, jsonOrEmpty, rawUsageText } from '../meter/normalise.ts'
import { outputTokens } from '../meter/usage.ts'
import { LineTooLong } from '../stream/lines.ts'
import { SseDecoder } from '../stream/sse.ts'
import { encodeVector } from '../stream/vector.ts'
import type { FinishReason, ProviderEvent, Reported } from './event.ts'
import { GEMINI_SEAL } from './gemini-contents.ts'
import { geminiInBandFailure, rpcError } from './gemini-failure.ts'
import { jsonOrUndefined } from './json-text.ts'
import { type SeenUsage, UsageReader } from './usage-dialect.ts'
import type { AnswerDecoder } from './vendor.ts'

/** Google breaks streams off with its error as bare JSON lines in place of an event; none is longer. */
const BARE_ERROR_BYTES_MAX = 16 * 1024
/** Of the name of an answer, in the ids made from it: some clients bound an id to 64 characters. */
const ANSWER_ID_CHARS_MAX = 40
/** Words for an unknown ending, in a message. */
const REASON_CHARS_MAX = 60

const encoder = new TextEncoder()

/** What stands of one candidate. */
type Candidate = {
  outputTokens: number
  calls: number
  /** The newest reason given; older models send one with every chunk, so only the end of the stream makes it count. */
  finish?: FinishReason
}

/**
 * Reads chunk after chunk. There is no end mark: an answer is complete when the stream is over and every candidate has
 * given its reason to stop. Usage is a running total in every chunk.
 */
export class GeminiDecoder implements AnswerDecoder {
  readonly #sse = new SseDecoder()
  readonly #usage = new UsageReader('gemini')
  readonly #candidates = new Map<number, Candidate>()
  readonly #choices: number
  readonly #tierAsked: string | undefined
  #tierServed: string | undefined
  #seen: SeenUsage | undefined
  #answerId = ''
  /** The last bytes of the stream: where an error stands that is no event. */
  #tail: Uint8Array[] = []
  #tailBytes = 0
  #hasInconsistentUsage = false
  #isConcluded = false
  #failed = false

  /**
   * @param choices How many choices the request asked for, or vectors.
   * @param tierAsked The service asked for by name; another one in the answer is a price not agreed on.
   */
  constructor(choices: number, tierAsked?: string) {
    this.#choices = choices
    this.#tierAsked = tierAsked
  }

  get isOver(): boolean {
    return this.#failed
  }

  get isComplete(): boolean {
    return this.#failed || this.#isConcluded
  }

  get hasInconsistentUsage(): boolean {
    return this.#hasInconsistentUsage
  }

  push(chunk: Uint8Array): ProviderEvent[] {
    if (this.#failed) return []
    this.#keepTail(chunk)
    try {
      return this.#readAll(this.#sse.push(chunk).map(({ data }) => data))
    } catch (error) {
      if (!(error instanceof LineTooLong)) throw error
      return [this.#malformed('The provider sent an event that is too long.')]
    }
  }

  end(): ProviderEvent[] {
    if (this.#failed) return []
    const events: ProviderEvent[] = []
    for (const { data } of this.#sse.end()) {
      // Half an event is what a broken connection leaves: no fault beside the missing end, which http.ts tells.
      if (jsonOrUndefined(data) === undefined) return this.#bareError()
      events.push(...this.#readAll([data]))
    }
    if (this.#failed) return events
    return this.#isFinished ? [...events, ...this.#conclude()] : [...events, ...this.#bareError()]
  }

  whole(text: string): ProviderEvent[] {
    if (this.#failed) return []
    const json = jsonOrUndefined(text)
    if (json === undefined) return [this.#malformed('The provider sent an answer that is not JSON.')]
    const events = (Array.isArray(json) ? json : [json]).flatMap((one) => this.#read(one, 'ok_with_error'))
    return this.#isFinished && !this.#failed ? [...events, ...this.#conclude()] : events
  }

  #readAll(datas: string[]): ProviderEvent[] {
    const events: ProviderEvent[] = []
    for (const data of datas) {
      // Other servers of this form close with the mark of another dialect.
      if (this.#failed || data === '' || data.trim() === '[DONE]') continue
      const json = jsonOrUndefined(data)
      if (json === undefined) events.push(this.#malformed('The provider sent an event that is not JSON.'))
      else events.push(...this.#read(json, 'in_band'))
    }
    return events
  }

  #read(chunk: unknown, place: 'in_band' | 'ok_with_error'): ProviderEvent[] {
    if (this.#failed) return []
    const error = rpcError(chunk)
    if (error !== undefined) return [this.#fail(geminiInBandFailure(error, place))]
    if (!isJson(chunk)) return [this.#malformed('The provider sent an event of an unknown shape.')]
    if (typeof chunk.responseId === 'string') this.#answerId = chunk.responseId
    this.#noteUsage(chunk.usageMetadata)
    const events: ProviderEvent[] = []
    for (const candidate of listOf(chunk.candidates)) {
      const failure = this.#candidate(candidate, events)
      if (failure !== undefined) return [...events, this.#fail(failure)]
    }
    if (Array.isArray(chunk.embeddings)) return this.#embeddings(chunk.embeddings)
    const blocked = jsonOrEmpty(chunk.promptFeedback).blockReason
    if (typeof blocked === 'string' && blocked !== '' && blocked !== 'BLOCKED_REASON_UNSPECIFIED') {
      return [...events, this.#fail(refusedPrompt(blocked))]
    }
    if (chunk.usageMetadata !== undefined && this.#seen !== undefined) {
      events.push({ type: 'usage', ...this.#reported(this.#seen), isRunning: true })
    }
    return events
  }

  /** @returns what ends the answer as a failure. */
  #candidate(candidate: Json, events: ProviderEvent[]): Failure | undefined {
    const index = typeof candidate.index === 'number' ? candidate.index : 0
    // An index nobody asked for would make a choice that nobody pays for.
    if (!Number.isInteger(index) || index < 0 || index >= this.#choices) return undefined
    const state: Candidate = this.#candidates.get(index) ?? { outputTokens: 0, calls: 0 }
    this.#candidates.set(index, state)
    const logprobs = logprobsOf(candidate.logprobsResult)
    let entries = logprobs
    for (const part of listOf(jsonOrEmpty(candidate.content).parts)) {
      if (this.#part(part, { index, state, entries, events })) entries = undefined
    }
    if (entries !== undefined) {
      const counted = this.#count(state, entries.length)
      events.push({ type: 'delta', choice: index, text: '', outputTokens: counted, logprobs: entries })
    }
    const reason = candidate.finishReason
    if (typeof reason !== 'string' || reason === '' || reason === 'FINISH_REASON_UNSPECIFIED') return undefined
    const ending = endingOf(reason, state.calls > 0)
    if (typeof ending !== 'string') return ending
    state.finish = ending
    return undefined
  }

  /** @returns whether the entries went out with it. */
  #part(
    part: Json,
    to: { index: number; state: Candidate; entries: LogprobEntry[] | undefined; events: ProviderEvent[] },
  ): boolean {
    const { index: choice, state, entries, events } = to
    const signature = part.thoughtSignature
    const seal: Seal | undefined =
      typeof signature === 'string' && signature !== '' ? { by: GEMINI_SEAL, value: signature } : undefined
    const sealed = seal === undefined ? {} : { seal }
    if (isJson(part.functionCall)) {
      const { id, name, args } = part.functionCall
      if (typeof name !== 'string' || name === '') return false
      const call = state.calls++
      events.push({
        type: 'tool_call',
        choice,
        call,
        id: typeof id === 'string' && id !== '' ? id : this.#callId(choice, call),
        name,
        arguments: JSON.stringify(isJson(args) ? args : {}),
        outputTokens: this.#count(state, 1),
        ...sealed,
      })
      return false
    }
    const text = typeof part.text === 'string' ? part.text : ''
    if (part.thought === true) {
      if (text === '' && seal === undefined) return false
      events.push({ type: 'thought', choice, text, outputTokens: this.#count(state, text === '' ? 0 : 1), ...sealed })
      return false
    }
    if (text !== '') {
      const counted = this.#count(state, Math.max(1, entries?.length ?? 1))
      const alternatives = entries === undefined ? {} : { logprobs: entries }
      events.push({ type: 'delta', choice, text, outputTokens: counted, ...alternatives })
    }
    // The proof of what was thought on the way, on words that are said or on none.
    if (seal !== undefined) events.push({ type: 'thought', choice, text: '', outputTokens: state.outputTokens, seal })
    return text !== '' && entries !== undefined
  }

  /** At least `more` than before; what Google has counted by now where there is one candidate to count for. */
  #count(state: Candidate, more: number): number {
    const counted = this.#choices === 1 && this.#seen !== undefined ? outputTokens(this.#seen.usage) : 0
    state.outputTokens = Math.max(state.outputTokens + more, counted)
    return state.outputTokens
  }

  /** Models before the third generation send no ids; clients and the next request need them. */
  #callId(choice: number, call: number): string {
    const answer = this.#answerId.replace(/[^A-Za-z0-9_-]/g, '').slice(0, ANSWER_ID_CHARS_MAX)
    return ['call', answer, choice, call].filter((part) => part !== '').join('_')
  }

  #embeddings(embeddings: unknown[]): ProviderEvent[] {
    const events: ProviderEvent[] = []
    for (const [choice, embedding] of embeddings.slice(0, this.#choices).entries()) {
      const values = jsonOrEmpty(embedding).values
      if (!Array.isArray(values) || values.length === 0 || !values.every((value) => Number.isFinite(value))) {
        return [this.#malformed('The provider sent an embedding that is none.')]
      }
      this.#candidates.set(choice, { outputTokens: 0, calls: 0, finish: 'stop' })
      events.push({ type: 'embedding', choice, values: encodeVector(values) })
    }
    if (this.#isFinished) this.#isConcluded = true
    if (this.#seen !== undefined) events.push({ type: 'usage', ...this.#reported(this.#seen) })
    return events
  }

  get #isFinished(): boolean {
    for (let index = 0; index < this.#choices; index++) {
      if (this.#candidates.get(index)?.finish === undefined) return false
    }
    return true
  }

  /** Every candidate has stopped and nothing more comes: the last reasons and the last total are the final ones. */
  #conclude(): ProviderEvent[] {
    if (this.#isConcluded) return []
    this.#isConcluded = true
    const events: ProviderEvent[] = []
    for (let choice = 0; choice < this.#choices; choice++) {
      const { finish, outputTokens: tokens = 0 } = this.#candidates.get(choice) ?? {}
      if (finish !== undefined) events.push({ type: 'finish', choice, reason: finish, outputTokens: tokens })
    }
    if (this.#seen !== undefined) events.push({ type: 'usage', ...this.#reported(this.#seen) })
    return events
  }

  #noteUsage(raw: unknown): void {
    const seen = this.#usage.see(raw)
    if (seen === undefined) return
    this.#seen = seen
    if (typeof seen.raw.serviceTier === 'string') this.#tierServed = seen.raw.serviceTier
  }

  #reported(seen: SeenUsage): Reported {
    const isOtherTier =
      this.#tierAsked !== undefined && this.#tierServed !== undefined && this.#tierServed !== this.#tierAsked
    const inconsistent = seen.inconsistent || isOtherTier
    this.#hasInconsistentUsage ||= inconsistent
    const rawUsage = rawUsageText(seen.raw, RAW_USAGE_CHARS_MAX)
    return {
      usage: seen.usage,
      ...(rawUsage === undefined ? {} : { rawUsage }),
      ...(inconsistent ? { inconsistent } : {}),
    }
  }

  #keepTail(chunk: Uint8Array): void {
    this.#tail.push(chunk)
    this.#tailBytes += chunk.length
    for (let first = this.#tail[0]; first !== undefined; first = this.#tail[0]) {
      if (this.#tailBytes - first.length < BARE_ERROR_BYTES_MAX) return
      this.#tailBytes -= first.length
      this.#tail.shift()
    }
  }

  /** An error at the end of the stream that stands there as JSON and not as an event; empty where there is none. */
  #bareError(): ProviderEvent[] {
    const bytes = new Uint8Array(this.#tailBytes)
    let at = 0
    for (const part of this.#tail) {
      bytes.set(part, at)
      at += part.length
    }
    const text = new TextDecoder().decode(bytes.subarray(-BARE_ERROR_BYTES_MAX))
    const start = /(^|\n)[ \t]*(\[\s*)?\{[ \t\r]*\n?\s*"error"/.exec(text)
    const error = start === null ? undefined : rpcError(jsonOrUndefined(text.slice(start.index)))
    return error === undefined ? [] : [this.#fail(geminiInBandFailure(error, 'in_band'))]
  }

  #malformed(message: string): ProviderEvent {
    return this.#fail({ code: 'upstream_error', message, kind: 'malformed' })
  }

  /** What was used until then is told with it. */
  #fail(failure: Failure): ProviderEvent {
    this.#failed = true
    return { type: 'error', failure, ...(this.#seen === undefined ? {} : this.#reported(this.#seen)) }
  }
}

const listOf = (value: unknown): Json[] => (Array.isArray(value) ? value.filter(isJson) : [])

/** Their words for why it ended: a reason for the caller, or a failure where what came is not what was asked for. */
function endingOf(reason: string, hasCalls: boolean): FinishReason | Failure {
  switch (reason) {
    case 'STOP':
      return hasCalls ? 'tool_calls' : 'stop'
    case 'MAX_TOKENS':
    // More than one call gives: the model would go on in another one.
    case 'CONTINUATION':
      return 'length'
    case 'SAFETY':
    case 'RECITATION':
    case 'LANGUAGE':
    case 'BLOCKLIST':
    case 'PROHIBITED_CONTENT':
    case 'SPII':
    case 'IMAGE_SAFETY':
    case 'IMAGE_PROHIBITED_CONTENT':
    case 'IMAGE_RECITATION':
      return 'content_filter'
    default: {
      // `MALFORMED_FUNCTION_CALL`, `OTHER` and whatever comes to be: the model did not get to the end of its answer.
      const words = reason.replace(/[^A-Z_]/gi, '').slice(0, REASON_CHARS_MAX)
      return { code: 'upstream_error', message: `The model broke its answer off: ${words}.`, kind: 'malformed' }
    }
  }
}

const refusedPrompt = (reason: string): Failure => ({
  code: 'content_filtered',
  message: `The provider's content rules refused the prompt: ${reason.slice(0, REASON_CHARS_MAX)}.`,
  kind: 'content_filter',
})

/** One entry a token; undefined where there are none. */
function logprobsOf(result: unknown): LogprobEntry[] | undefined {
  const { chosenCandidates, topCandidates } = jsonOrEmpty(result)
  const chosen = listOf(chosenCandidates)
  if (chosen.length === 0) return undefined
  const tops = Array.isArray(topCandidates) ? topCandidates : []
  return chosen.map((one, i) => ({
    ...tokenOf(one),
    top: listOf(jsonOrEmpty(tops[i]).candidates).map(tokenOf),
  }))
}

function tokenOf({ token, logProbability }: Json): Omit<LogprobEntry, 'top'> {
  const text = typeof token === 'string' ? token : ''
  // A probability of one is left out, as JSON of protocol buffers leaves out every zero.
  return { text, bytes: [...encoder.encode(text)], logprob: typeof logProbability === 'number' ? logProbability : 0 }
}
