// Parts of one choice's answer as events of the wire. Owns the numbers and ids of its calls; what a part is, is answer-parts.ts.
import { randomUUID } from 'node:crypto'
import type { DispatchEvent } from '../protocol/dispatch.ts'
import type { AnswerPart } from './answer-parts.ts'
import { pieces } from './text-pieces.ts'

const ID_CHARS = 24

export class PartWriter {
  readonly #choice: number
  #calls = 0
  readonly #ids = new Set<string>()

  constructor(choice: number) {
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

  /** The model's own where it gave one that is not used yet: its template wants it back as it was. */
  #idOf(own: string | undefined): string {
    const id =
      own === undefined || this.#ids.has(own) ? `call_${randomUUID().replaceAll('-', '').slice(0, ID_CHARS)}` : own
    this.#ids.add(id)
    return id
  }
}
