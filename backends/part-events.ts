// Parts of one choice's answer as events of the wire. Owns the numbers and ids of its calls; what a part is, is answer-parts.ts.
import { createHash } from 'node:crypto'
import type { DispatchEvent } from '../protocol/dispatch.ts'
import type { AnswerPart } from './answer-parts.ts'
import { pieces } from './text-pieces.ts'

const ID_CHARS = 24

export class PartWriter {
  readonly #requestId: string
  readonly #choice: number
  #calls = 0
  readonly #ids = new Set<string>()

  constructor(requestId: string, choice: number) {
    this.#requestId = requestId
    this.#choice = choice
  }

  /** @param outputTokens Sampled so far, those of the parts included. */
  events(parts: readonly AnswerPart[], outputTokens: number): DispatchEvent[] {
    return parts.flatMap((part): DispatchEvent[] => {
      const at = { choice: this.#choice, outputTokens }
      if (part.type !== 'call') {
        const type = part.type === 'text' ? 'delta' : 'thought'
        return pieces(part.text).map((text) => ({ type, ...at, text }))
      }
      const first = { id: this.#idOf(part.id), name: part.name }
      const call = this.#calls++
      return pieces(part.arguments).map((text, index) => ({
        type: 'tool_call',
        ...at,
        call,
        ...(index === 0 ? first : {}),
        arguments: text,
      }))
    })
  }

  /**
   * The model's own where it gave one that is not used yet: its template wants it back as it was. Else one that every backend
   * makes alike, since another one may go on with the answer.
   */
  #idOf(own: string | undefined): string {
    const id = own === undefined || this.#ids.has(own) ? this.#madeId() : own
    this.#ids.add(id)
    return id
  }

  #madeId(): string {
    const text = `${this.#requestId} ${this.#choice} ${this.#calls}`
    return `call_${createHash('sha256').update(text).digest('hex').slice(0, ID_CHARS)}`
  }
}
