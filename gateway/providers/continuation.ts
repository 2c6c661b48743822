// One answer out of several dispatches ○. Owns what of an answer has gone on, what the next backend needs to go on with it, and
// what of its answer the first one has told already. Who is asked, and when, is backend-resume.ts.
//
//   first backend    tokens told: The, quick, brown      gone on: "The quick bro" ✂
//   next backend     resumes behind those tokens         tells: "The quick brown fox"      goes on: "wn fox"
//
// A choice's answer is counted in units: a character is one, and so is the beginning of a tool call. A hash over the units shows
// that what is left out is what was told; where it is not, the answer ends with a failure, and no garbled text goes on.
import {
  type DispatchEvent,
  type DispatchRequest,
  type DispatchUsage,
  MAX_RESUMED_TOKENS,
} from '../../protocol/dispatch.ts'

type EventOf<T extends DispatchEvent['type']> = Extract<DispatchEvent, { type: T }>
type Spoken = EventOf<'delta' | 'thought' | 'tool_call'>

/**
 * `refused`: a backend cannot go on with what another one began. `diverged`: it says something else than the first one did, which
 * ends the answer; the others may not. `gateway_lost`: the process that held the stream died, the backend did not.
 */
export type BreakReason =
  | 'draining'
  | 'engine_lost'
  | 'backend_lost'
  | 'overloaded'
  | 'refused'
  | 'diverged'
  | 'gateway_lost'

/** An answer that broke off. `failure` is what the caller is told where nobody goes on with it. */
export type Broken = { reason: BreakReason; failure: EventOf<'error'> }

/** `isOver`: nothing follows. */
export type Taken = { events: DispatchEvent[]; isOver: boolean; broken?: Broken }

const NOT_CONTINUED = 'The answer could not be continued as it had begun.'

type Choice = {
  ids: TokenLog
  passed: Units
  /** What the running dispatch has said of what was passed on before it; absent where that is behind. */
  repeated?: Units
  logprobs: number
  /** Most tokens that were known to be sampled. */
  outputTokens: number
  isFinished: boolean
}

/** What of a request decides how its answer goes on. */
export type Continued = { choices: number; withLogprobs: boolean }

export class Continuation {
  readonly #request: Continued
  readonly #choices = new Map<number, Choice>()
  /** Ids that may still be remembered, of all choices together; once it was too little, the rest is computed again. */
  #room = MAX_RESUMED_TOKENS
  #isFull = false
  #isFirst = true
  #prompt: Pick<DispatchUsage, 'inputTokens' | 'cachedInputTokens'> | undefined
  /** Of choices that were over before the running dispatch began. */
  #outputBefore = 0

  constructor(request: Continued) {
    this.#request = request
  }

  /** Tokens told, a choice that is over or text: without any of it another backend begins as well as it goes on. */
  get hasBegun(): boolean {
    return this.#some(({ ids, passed, isFinished }) => ids.length > 0 || passed.count > 0 || isFinished)
  }

  /** Something of the answer has gone on. */
  get hasPassed(): boolean {
    return this.#some(({ passed, isFinished }) => passed.count > 0 || isFinished)
  }

  /** Known to be sampled, of all choices. */
  get tokensSampled(): number {
    let sampled = 0
    for (const { outputTokens, ids } of this.#choices.values()) sampled += Math.max(outputTokens, ids.length)
    return sampled
  }

  /** Events of the running dispatch, in their order. */
  take(events: readonly DispatchEvent[]): Taken {
    const taken: Taken = { events: [], isOver: false }
    for (const event of events) {
      // Of a choice that nobody asked for nothing is kept: there is no end to their numbers.
      if ('choice' in event && event.choice >= this.#request.choices) continue
      this.#see(event, taken)
      if (taken.isOver || taken.broken !== undefined) break
    }
    return taken
  }

  /** The running dispatch ended without its last event. */
  lost(): Taken {
    const message = 'The backend stopped answering in the middle of the stream.'
    return this.#ended({ reason: 'backend_lost', failure: { type: 'error', code: 'backend_lost', message } })
  }

  /** What the next dispatch resumes; its events are taken from here on. */
  resume(): NonNullable<DispatchRequest['resume']> {
    this.#isFirst = false
    this.#isFull = false
    this.#outputBefore = 0
    const choices: NonNullable<DispatchRequest['resume']>['choices'] = []
    for (let index = 0; index < this.#request.choices; index++) {
      const choice = this.#choice(index)
      if (choice.isFinished) {
        this.#outputBefore += choice.outputTokens
        continue
      }
      // Probabilities that were not passed on are computed again, with the tokens that they are of.
      if (this.#request.withLogprobs) this.#room += choice.ids.cut(choice.logprobs)
      if (choice.passed.count > 0) choice.repeated = new Units()
      else delete choice.repeated
      choices.push({ choice: index, tokenIds: choice.ids.all() })
    }
    return { choices }
  }

  #see(event: DispatchEvent, taken: Taken): void {
    switch (event.type) {
      case 'accepted':
        if (!this.#isFirst) return
        this.#notePrompt(event.usage)
        taken.events.push(event)
        return
      case 'tokens': {
        const { ids } = this.#choice(event.choice)
        this.#isFull ||= this.#room < event.ids.length
        if (!this.#isFull) this.#room -= ids.push(event.ids)
        return
      }
      case 'delta':
      case 'thought':
      case 'tool_call':
        return this.#spoken(event, taken)
      case 'finish': {
        const choice = this.#choice(event.choice)
        if (choice.isFinished) return
        if (choice.repeated !== undefined) return this.#diverged(taken)
        choice.isFinished = true
        choice.outputTokens = event.outputTokens
        this.#room += choice.ids.cut(0)
        taken.events.push(event)
        return
      }
      case 'embedding':
        taken.events.push(event)
        return
      case 'usage':
        if (this.#isFirst) this.#notePrompt(event.usage)
        taken.events.push({ type: 'usage', usage: this.#total(event.usage) })
        taken.isOver = true
        return
      case 'moved': {
        const failure = { type: 'error', code: 'backend_lost', message: 'The backend cannot go on.' } as const
        this.#end(taken, { reason: event.reason, failure: { ...failure, usage: this.#atLeast(event.usage) } })
        return
      }
      case 'error': {
        const failure = event.usage === undefined ? event : { ...event, usage: this.#atLeast(event.usage) }
        const reason = this.#breakReason(event.code)
        if (reason === 'refused')
          return this.#end(taken, { reason, failure: { ...failure, code: 'backend_lost', message: NOT_CONTINUED } })
        if (reason !== undefined) return this.#end(taken, { reason, failure })
        taken.events.push(failure)
        taken.isOver = true
        return
      }
      case 'capacity':
        return
      default:
        return event satisfies never
    }
  }

  /** Undefined: the failure is the answer's. One that was taken on is none of the caller's any more where another began it. */
  #breakReason(code: EventOf<'error'>['code']): BreakReason | undefined {
    if (code === 'engine_lost' || code === 'backend_lost' || code === 'overloaded') return code
    return this.#isFirst || code === 'deadline_exceeded' || code === 'cancelled' ? undefined : 'refused'
  }

  /** What of it was not passed on yet. */
  #spoken(event: Spoken, taken: Taken): void {
    const choice = this.#choice(event.choice)
    if (choice.isFinished) return
    choice.outputTokens = Math.max(choice.outputTokens, event.outputTokens)
    const rest = choice.repeated === undefined ? event : unsaid(event, choice.repeated, choice.passed.count)
    if (choice.repeated?.count === choice.passed.count) {
      if (choice.repeated.hash !== choice.passed.hash) return this.#diverged(taken)
      delete choice.repeated
    }
    if (rest === undefined) return
    choice.passed.add(rest)
    if (rest.type === 'delta') choice.logprobs += rest.logprobs?.length ?? 0
    taken.events.push(rest)
  }

  #diverged(taken: Taken): void {
    taken.broken = { reason: 'diverged', failure: { type: 'error', code: 'backend_lost', message: NOT_CONTINUED } }
  }

  #ended(broken: Broken): Taken {
    const taken: Taken = { events: [], isOver: false }
    this.#end(taken, broken)
    return taken
  }

  /** Where only the last count is missing nothing is: each choice has told its own. */
  #end(taken: Taken, broken: Broken): void {
    const finished = [...this.#choices.values()].filter(({ isFinished }) => isFinished)
    if (finished.length < this.#request.choices || this.#prompt === undefined) {
      taken.broken = broken
      return
    }
    const outputTokens = finished.reduce((sum, choice) => sum + choice.outputTokens, 0)
    taken.events.push({ type: 'usage', usage: { ...this.#prompt, outputTokens } })
    taken.isOver = true
  }

  #notePrompt({ inputTokens, cachedInputTokens }: DispatchUsage): void {
    this.#prompt = { inputTokens, cachedInputTokens }
  }

  /** The prompt counts once, as the first backend counted it; what it sampled is part of what the next one counts. */
  #total(usage: DispatchUsage): DispatchUsage {
    if (this.#isFirst || this.#prompt === undefined) return usage
    return { ...this.#prompt, outputTokens: usage.outputTokens + this.#outputBefore }
  }

  /** Of a dispatch that failed: what an earlier one has computed is not undone by that. */
  #atLeast(usage: DispatchUsage): DispatchUsage {
    if (this.#isFirst) {
      this.#notePrompt(usage)
      return usage
    }
    const total = this.#total(usage)
    return { ...total, outputTokens: Math.max(total.outputTokens, this.tokensSampled) }
  }

  #choice(index: number): Choice {
    const known = this.#choices.get(index)
    if (known !== undefined) return known
    const choice = { ids: new TokenLog(), passed: new Units(), logprobs: 0, outputTokens: 0, isFinished: false }
    this.#choices.set(index, choice)
    return choice
  }

  #some(test: (choice: Choice) => boolean): boolean {
    for (const choice of this.#choices.values()) if (test(choice)) return true
    return false
  }
}

/** What of an event is behind the first `upTo` units of an answer of which `repeated` has come before; undefined: nothing. */
function unsaid(event: Spoken, repeated: Units, upTo: number): Spoken | undefined {
  if (event.type === 'tool_call') {
    const { id: _id, name: _name, ...piece } = event
    repeated.add({ ...event, arguments: '' })
    const said = event.arguments.slice(0, upTo - repeated.count)
    repeated.add({ ...piece, arguments: said })
    const left = event.arguments.slice(said.length)
    return left === '' ? undefined : { ...piece, arguments: left }
  }
  const said = event.text.slice(0, upTo - repeated.count)
  repeated.add({ ...event, text: said })
  const text = event.text.slice(said.length)
  const hasMore = text !== '' || (event.type === 'delta' && (event.logprobs?.length ?? 0) > 0)
  return hasMore ? { ...event, text } : undefined
}

/** How much of an answer there is, and a hash of it that does not depend on how it was cut into events. */
class Units {
  #count = 0
  // FNV-1a twice, with multipliers of their own: 64 bits without large integers. It guards against mistakes, not malice.
  #one = 0x811c9dc5
  #other = 0x9747b28c
  #kind = ''

  get count(): number {
    return this.#count
  }

  get hash(): string {
    return `${this.#one}.${this.#other}`
  }

  add(event: Spoken): void {
    if (event.type !== 'tool_call') {
      this.#text(event.type, event.text)
      return
    }
    const { call, id, name, arguments: text } = event
    const kind = `call ${call}`
    if (id !== undefined || name !== undefined) {
      this.#count++
      this.#kind = kind
      this.#mix(`${kind}\n${id}\n${name}\n`)
    }
    this.#text(kind, text)
  }

  #text(kind: string, text: string): void {
    if (text === '') return
    if (kind !== this.#kind) this.#mix(`\n${kind}\n`)
    this.#kind = kind
    this.#count += text.length
    this.#mix(text)
  }

  #mix(text: string): void {
    let one = this.#one
    let other = this.#other
    for (let at = 0; at < text.length; at++) {
      const unit = text.charCodeAt(at)
      one = Math.imul(one ^ unit, 0x01000193)
      other = Math.imul(other ^ unit, 0x5bd1e995) ^ (other >>> 15)
    }
    this.#one = one
    this.#other = other
  }
}

const FIRST_IDS = 64

/** Four bytes a token: a full isolate remembers many answers at once. */
class TokenLog {
  #ids = new Uint32Array(0)
  #length = 0

  get length(): number {
    return this.#length
  }

  /** @returns how many were added. */
  push(ids: readonly number[]): number {
    const length = this.#length + ids.length
    if (length > this.#ids.length) {
      const larger = new Uint32Array(Math.max(FIRST_IDS, 2 * length))
      larger.set(this.#ids.subarray(0, this.#length))
      this.#ids = larger
    }
    this.#ids.set(ids, this.#length)
    this.#length = length
    return ids.length
  }

  /** Keeps the first `length`. @returns how many were dropped. */
  cut(length: number): number {
    const dropped = Math.max(0, this.#length - length)
    this.#length -= dropped
    if (length === 0) this.#ids = new Uint32Array(0)
    return dropped
  }

  all(): number[] {
    return [...this.#ids.subarray(0, this.#length)]
  }
}
