// Tool calls of one choice out of the pieces in which servers send them. Owns which piece belongs to which call: by index, by
// id, or by order where a server gives neither; and when the arguments of a call are whole. Pure.
//
// Pieces of a call go out as they come. A call that begins while the arguments of the one before it are still incomplete
// comes from a server that sends several side by side: its pieces wait until the one before it is whole, since events tell of
// one call after the other.
import { MAX_BODY_BYTES } from '../../protocol/request.ts'
import type { ToolCallPiece } from './openai-chunk.ts'

/** Beyond it an answer is broken: no request can have asked for so many. */
const CALLS_MAX = 1024
/** Arguments of all calls of a choice: more than that no request can give back, as its body is bounded. */
const ARGUMENTS_CHARS_MAX = MAX_BODY_BYTES

/** A piece that may go out: `id` and `name` with the first one of a call. */
export type ReadyPiece = { call: number; id?: string; name?: string; arguments: string }

type Call = {
  key: string | undefined
  /** As the server sent it; empty: it sent none. */
  givenId: string
  /** No other call of the choice has it. */
  id: string
  name: string
  arguments: string
  extent: JsonExtent
  sentChars: number
  isOpened: boolean
  /** Something else went out behind it. */
  isOver: boolean
}

/** Ids made here are unlike those of other answers of a conversation. */
const ID_CHARS_MAX = 24
export const idPrefixOf = (id: string, choice: number): string => {
  const own = id.replaceAll(/[^A-Za-z0-9]/g, '').slice(-ID_CHARS_MAX)
  return `${own === '' ? '' : `${own}_`}${choice}_`
}

export class CallReader {
  readonly #calls: Call[] = []
  /** The call whose pieces go out; those behind it wait. */
  #current = 0
  readonly #ids = new Set<string>()
  #argumentChars = 0

  get count(): number {
    return this.#calls.length
  }

  /** Whether a call that began has no name, which makes it one that nobody can answer. */
  get hasNameless(): boolean {
    return this.#calls.some((call) => call.name === '')
  }

  /** Whether a call went out whose arguments are not whole: no other part may begin before they are. */
  get isMidCall(): boolean {
    const call = this.#calls[this.#current]
    return call?.isOpened === true && !call.extent.isWhole
  }

  /**
   * @param idPrefix For ids of calls that a server gives none.
   * @returns Undefined where there are more calls, or longer ones, than an answer can have, or one that was over goes on.
   */
  push(pieces: readonly ToolCallPiece[], idPrefix: string): ReadyPiece[] | undefined {
    const ready: ReadyPiece[] = []
    for (const piece of pieces) {
      const text = argumentText(piece.function?.arguments)
      const call = this.#callOf(piece, text, idPrefix)
      if (call === undefined) return undefined
      if (isRepeated(call, piece, text)) continue
      if (call.isOver && text.trim() !== '') return undefined
      const name = piece.function?.name ?? ''
      // Some servers repeat the name with each piece.
      if (call.name === '') call.name = name
      // White space behind the end says nothing, and may come when the call is over.
      if (!call.extent.isWhole || text.trim() !== '') call.arguments += text
      call.extent.see(text)
      this.#argumentChars += text.length
      if (this.#argumentChars > ARGUMENTS_CHARS_MAX) return undefined
      this.#release(ready, false)
    }
    return ready
  }

  /** Another part of the answer begins: a call that went out is over. */
  interrupt(): void {
    const call = this.#calls[this.#current]
    if (call?.isOpened === true) call.isOver = true
  }

  /** The answer is over: what waited goes out. */
  end(): ReadyPiece[] {
    const ready: ReadyPiece[] = []
    this.#release(ready, true)
    return ready
  }

  #release(ready: ReadyPiece[], isOver: boolean): void {
    for (;;) {
      const call = this.#calls[this.#current]
      if (call === undefined) return
      if (call.name !== '' && (!call.isOpened || call.sentChars < call.arguments.length)) {
        const first = call.isOpened ? {} : { id: call.id, name: call.name }
        ready.push({ call: this.#current, ...first, arguments: call.arguments.slice(call.sentChars) })
        call.isOpened = true
        call.sentChars = call.arguments.length
      }
      const hasNext = this.#current + 1 < this.#calls.length
      if (!hasNext || !(isOver || call.extent.isWhole)) return
      call.isOver = true
      this.#current++
    }
  }

  #callOf(piece: ToolCallPiece, text: string, idPrefix: string): Call | undefined {
    const key = typeof piece.index === 'number' ? `${piece.index}` : undefined
    const known = this.#known(piece, key, text)
    if (known !== undefined) return known
    if (this.#calls.length >= CALLS_MAX) return undefined
    const givenId = piece.id ?? ''
    const call: Call = {
      key,
      givenId,
      id: this.#freeId(givenId === '' ? `call_${idPrefix}${this.#calls.length}` : givenId),
      name: '',
      arguments: '',
      extent: new JsonExtent(),
      sentChars: 0,
      isOpened: false,
      isOver: false,
    }
    this.#calls.push(call)
    this.#ids.add(call.id)
    return call
  }

  /** Some servers give every call the same id, and a result could not say which one it is of. */
  #freeId(wanted: string): string {
    let id = wanted
    for (let round = 1; this.#ids.has(id); round++) id = `${wanted}_${round}`
    return id
  }

  #known(piece: ToolCallPiece, key: string | undefined, text: string): Call | undefined {
    const id = piece.id ?? ''
    const name = piece.function?.name ?? ''
    const byId =
      id === ''
        ? undefined
        : this.#calls.findLast(
            (call) => call.givenId === id && (key === undefined || call.key === undefined || call.key === key),
          )
    if (byId !== undefined) return isAnother(byId, id, name, text) ? undefined : byId
    if (key === undefined) return id === '' && name === '' ? this.#calls.at(-1) : undefined
    const byKey = this.#calls.findLast((call) => call.key === key)
    return byKey === undefined || isAnother(byKey, id, name, text) ? undefined : byKey
  }
}

/**
 * Whether a piece that points at a known call begins another one: some servers number every call 0, and then another id,
 * or a name behind arguments that are whole, is all that tells.
 */
function isAnother(call: Call, id: string, name: string, text: string): boolean {
  if (name === '' || call.name === '') return false
  if (id !== '' && call.givenId !== id) return true
  if (call.name !== name) return call.extent.isWhole || call.arguments.trim() === ''
  return call.extent.isWhole && text.trim() !== '' && !(id !== '' && text === call.arguments)
}

/** Some servers end a call with all of it once more. */
const isRepeated = (call: Call, piece: ToolCallPiece, text: string): boolean =>
  call.extent.isWhole && call.givenId !== '' && call.givenId === piece.id && text === call.arguments

/** Servers that think in objects send the arguments as one. */
const argumentText = (value: unknown): string => {
  if (typeof value === 'string') return value
  return value === undefined || value === null ? '' : JSON.stringify(value)
}

/** Where JSON text ends, found piece by piece: by its brackets, as arguments are objects. */
class JsonExtent {
  #depth = 0
  #hasBegun = false
  #isInString = false
  #isEscaped = false

  get isWhole(): boolean {
    return this.#hasBegun && this.#depth === 0
  }

  see(text: string): void {
    for (const char of text) {
      if (this.#isEscaped) this.#isEscaped = false
      else if (this.#isInString) {
        if (char === '\\') this.#isEscaped = true
        else if (char === '"') this.#isInString = false
      } else if (char === '"') this.#isInString = true
      else if (char === '{' || char === '[') {
        this.#depth++
        this.#hasBegun = true
      } else if ((char === '}' || char === ']') && this.#depth > 0) this.#depth--
    }
  }
}
