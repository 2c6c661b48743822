// An answer's text, as it comes, into text, thoughts and tool calls ○. Owns where one ends and the next begins; how a model
// writes them is answer-format.ts, what a call looks like call-text.ts.
//
//   thought ──</think>──▶ text ──mark──▶ call ──its end──▶ text …
//
// Text flows as soon as it cannot be the beginning of a mark; a call is told when it is whole. What begins like a call and is
// none is text after all, with its marks: nothing the model wrote is lost.
import {
  BARE_MARK,
  CALL_CLOSE,
  CALL_OPEN,
  LIST_MARK,
  THOUGHT_CLOSE,
  THOUGHT_OPEN,
  type ToolFormat,
} from './answer-format.ts'
import { callOfText, JsonSpan, listedCalls, listedStart, type WrittenCall } from './call-text.ts'

export type AnswerPart = { type: 'text' | 'thought'; text: string } | ({ type: 'call' } & WrittenCall)

export type AnswerPlan = {
  /** Undefined: calls are text. */
  tools?: ToolFormat
  /** Those on offer: a bare object is a call only if it names one of them. */
  toolNames: ReadonlySet<string>
  /** Whether thoughts are told apart. */
  hasThoughts: boolean
  /** Where the prompt left off: the template may have begun a thought, and a forced call begins behind its mark. */
  startsIn: 'text' | 'thought' | 'call'
  /** After the first call the answer is over. */
  isOneCall: boolean
}

/** First keys of a call as an object; an object that begins otherwise is an answer in JSON, which flows. */
const BARE_HEAD = /^\{\s*(?:"(?:name|type|function|parameters|arguments|id)?|$)/
const BARE_KEY = /^\{\s*"(?:name|type|function|parameters|arguments|id)"/
const BARE_HEAD_CHARS = 32

const SPACE = /^\s+/
const BETWEEN_BARE = /^[\s;]+/

export class AnswerParts {
  readonly #plan: AnswerPlan
  #state: 'start' | 'text' | 'thought' | 'call' | 'plain'
  #held = ''
  /** What is dropped right behind a thought or a call: white space, and what parts bare calls. */
  #skips: RegExp | undefined
  #calls = 0
  /** Where the search for a call's closing tag goes on. */
  #searchedChars = 0
  /** The object or list that the call is written as, once it has begun. */
  #span: JsonSpan | undefined
  /** The mark of the call that is being read, for when it is none. */
  #mark = ''

  constructor(plan: AnswerPlan) {
    this.#plan = plan
    this.#state = plan.startsIn === 'text' ? 'start' : plan.startsIn
    this.#skips = plan.startsIn === 'thought' ? SPACE : undefined
  }

  get calls(): number {
    return this.#calls
  }

  /** Nothing more is wanted of this answer. */
  get isOver(): boolean {
    return this.#plan.isOneCall && this.#calls > 0
  }

  push(text: string): AnswerPart[] {
    if (this.isOver) return []
    this.#held += text
    const parts: AnswerPart[] = []
    while (!this.isOver && this.#step(parts));
    return parts
  }

  /** The end of the answer: what was held is what it looks like now. */
  flush(): AnswerPart[] {
    if (this.isOver) return []
    const parts: AnswerPart[] = []
    for (;;) {
      while (!this.isOver && this.#step(parts));
      if (this.isOver) return parts
      if (this.#state !== 'call') break
      this.#endCall(parts)
    }
    this.#say(parts, this.#state === 'thought' ? 'thought' : 'text', this.#held)
    this.#held = ''
    return parts
  }

  /** Takes one decision; false where more text is needed for the next. */
  #step(parts: AnswerPart[]): boolean {
    if (this.#skips !== undefined) {
      this.#held = this.#held.replace(this.#skips, '')
      if (this.#held === '') return false
      this.#skips = undefined
    }
    switch (this.#state) {
      case 'start':
        return this.#start()
      case 'thought':
        return this.#until(parts, THOUGHT_CLOSE, 'thought', () => {
          this.#state = this.#plan.tools === 'bare' ? 'start' : 'text'
          this.#skips = SPACE
        })
      case 'text': {
        const mark = this.#textMark()
        if (mark === undefined) {
          this.#state = 'plain'
          return true
        }
        return this.#until(parts, mark, 'text', (space) => this.#beginCall(space + mark))
      }
      case 'plain':
        this.#say(parts, 'text', this.#held)
        this.#held = ''
        return false
      case 'call':
        return this.#readCall(parts)
      default:
        return this.#state satisfies never
    }
  }

  /** What only the beginning of an answer can be: a thought, or a call without a mark. */
  #start(): boolean {
    const begun = this.#held.trimStart()
    if (begun === '') return false
    if (this.#plan.hasThoughts && isHead(begun, THOUGHT_OPEN)) {
      if (!begun.startsWith(THOUGHT_OPEN)) return false
      this.#held = begun.slice(THOUGHT_OPEN.length)
      this.#skips = SPACE
      this.#state = 'thought'
      return true
    }
    if (this.#plan.tools === 'bare' && begun.startsWith('{')) {
      // The space before it is its mark: it is text again where this is no call.
      this.#beginCall(this.#held.slice(0, this.#held.length - begun.length))
      this.#held = begun
      return true
    }
    this.#state = 'text'
    return true
  }

  #textMark(): string | undefined {
    switch (this.#plan.tools) {
      case 'tagged':
        return CALL_OPEN
      case 'listed':
        return LIST_MARK
      case 'bare':
        return BARE_MARK
      case undefined:
        return undefined
      default:
        return this.#plan.tools satisfies never
    }
  }

  /** Says what stands before the mark; white space before it is dropped, and held where a mark may follow. */
  #until(parts: AnswerPart[], mark: string, type: 'text' | 'thought', then: (space: string) => void): boolean {
    const at = this.#held.indexOf(mark)
    if (at >= 0) {
      const before = this.#held.slice(0, at)
      const said = before.trimEnd()
      this.#say(parts, type, said)
      this.#held = this.#held.slice(at + mark.length)
      then(before.slice(said.length))
      return true
    }
    const sure = this.#held.slice(0, this.#held.length - headLength(this.#held, mark)).trimEnd()
    this.#say(parts, type, sure)
    this.#held = this.#held.slice(sure.length)
    return false
  }

  #beginCall(mark: string): void {
    this.#state = 'call'
    this.#mark = mark
    this.#searchedChars = 0
    this.#span = undefined
  }

  #readCall(parts: AnswerPart[]): boolean {
    switch (this.#plan.tools) {
      case 'tagged':
        return this.#readTagged(parts)
      case 'listed':
        return this.#readListed(parts)
      case 'bare':
        return this.#readBare(parts)
      case undefined:
        this.#state = 'plain'
        return true
      default:
        return this.#plan.tools satisfies never
    }
  }

  #readTagged(parts: AnswerPart[]): boolean {
    const at = this.#held.indexOf(CALL_CLOSE, this.#searchedChars)
    if (at < 0) {
      this.#searchedChars = Math.max(0, this.#held.length - CALL_CLOSE.length)
      return false
    }
    const after = at + CALL_CLOSE.length
    const isObject = this.#beginsWith('{')
    const end = isObject ? this.#jsonEnd() : undefined
    if (isObject && (end === undefined || end > at)) {
      // The tag is part of an argument.
      this.#searchedChars = Math.max(after, end ?? 0)
      return true
    }
    const call = callOfText(this.#held.slice(0, at))
    if (call === undefined) {
      this.#giveUp(parts)
      return true
    }
    this.#held = this.#held.slice(after)
    this.#tell(parts, [call])
    return true
  }

  #readListed(parts: AnswerPart[]): boolean {
    if (this.#span === undefined) {
      const start = listedStart(this.#held)
      if (start === undefined) return false
      this.#span = new JsonSpan(start)
    }
    const end = this.#span.end(this.#held)
    if (end === undefined) return false
    const calls = listedCalls(this.#held.slice(0, end))
    if (calls === undefined) {
      this.#giveUp(parts)
      return true
    }
    this.#held = this.#held.slice(end)
    this.#tell(parts, calls)
    return true
  }

  #readBare(parts: AnswerPart[]): boolean {
    const body = this.#held.trimStart()
    if (body === '') return false
    const isHeadOfCall = body.length < BARE_HEAD_CHARS ? BARE_HEAD.test(body) : BARE_KEY.test(body)
    const end = isHeadOfCall ? this.#jsonEnd() : undefined
    if (isHeadOfCall && end === undefined) return false
    const call = end === undefined ? undefined : callOfText(this.#held.slice(0, end))
    if (call === undefined || !this.#plan.toolNames.has(call.name)) {
      this.#giveUp(parts)
      return true
    }
    this.#held = this.#held.slice(end)
    this.#tell(parts, [call])
    this.#skips = BETWEEN_BARE
    this.#state = 'start'
    return true
  }

  #beginsWith(character: string): boolean {
    return this.#held.trimStart().startsWith(character)
  }

  #jsonEnd(): number | undefined {
    this.#span ??= new JsonSpan(this.#held.length - this.#held.trimStart().length)
    return this.#span.end(this.#held)
  }

  /** The answer ended inside a call: a whole object without its closing tag is one. */
  #endCall(parts: AnswerPart[]): void {
    const end = this.#plan.tools === 'tagged' && this.#beginsWith('{') ? this.#jsonEnd() : undefined
    const call = end === undefined ? undefined : callOfText(this.#held.slice(0, end))
    if (call === undefined) {
      this.#giveUp(parts)
      return
    }
    this.#held = this.#held.slice(end).trimStart()
    this.#tell(parts, [call])
  }

  /** No call after all: its mark is text, and what followed is read again as such. */
  #giveUp(parts: AnswerPart[]): void {
    this.#say(parts, 'text', this.#mark)
    this.#mark = ''
    this.#state = 'text'
  }

  #tell(parts: AnswerPart[], calls: readonly WrittenCall[]): void {
    const wanted = this.#plan.isOneCall ? calls.slice(0, 1) : calls
    for (const call of wanted) parts.push({ type: 'call', ...call })
    this.#calls += wanted.length
    this.#mark = ''
    this.#state = 'text'
    this.#skips = SPACE
  }

  #say(parts: AnswerPart[], type: 'text' | 'thought', text: string): void {
    if (text === '') return
    const last = parts.at(-1)
    if (last?.type === type) last.text += text
    else parts.push({ type, text })
  }
}

/** Whether one of the two begins with the other. */
const isHead = (text: string, mark: string): boolean => text.startsWith(mark) || mark.startsWith(text)

/** Length of the longest tail of a text that could begin the mark. */
function headLength(text: string, mark: string): number {
  for (let length = Math.min(mark.length - 1, text.length); length > 0; length--) {
    if (mark.startsWith(text.slice(text.length - length))) return length
  }
  return 0
}
