// Bytes of a dispatch's answer into its events. Owns the decoding of wire 2; what they mean to a caller is fleet-events.ts, who
// asked and why backend.ts. Pure.
import type { CapacityFrame } from '../../protocol/capacity.ts'
import { DispatchEvent, MAX_EVENT_BYTES } from '../../protocol/dispatch.ts'
import type { KvNews } from '../../protocol/report.ts'
import { LineSplitter } from '../stream/lines.ts'

/** A line that is no event of this wire: the peer is broken, or speaks another version. */
export class BadEvent extends Error {
  override name = 'BadEvent'
}

/** `events` without capacity, whose frames and news are apart. */
export type Decoded = { events: DispatchEvent[]; frames: CapacityFrame[]; kv: KvNews[]; ended: boolean }

/**
 * Cut at any byte. After `ended` nothing more is expected; a body that is over before it was lost its sender.
 * @throws LineTooLong, BadEvent.
 */
export class DispatchDecoder {
  readonly #lines = new LineSplitter(MAX_EVENT_BYTES)
  #ended = false

  push(chunk: Uint8Array): Decoded {
    const decoded: Decoded = { events: [], frames: [], kv: [], ended: false }
    for (const line of this.#lines.push(chunk)) this.#line(line, decoded)
    decoded.ended = this.#ended
    return decoded
  }

  /** A last line whose line end was lost still counts where it is whole. */
  end(): Decoded {
    const decoded: Decoded = { events: [], frames: [], kv: [], ended: false }
    const rest = this.#lines.end()
    try {
      if (rest !== undefined) this.#line(rest, decoded)
    } catch (error) {
      // Half a line is what a killed agent leaves: not an event, and no fault beside the missing end.
      if (!(error instanceof BadEvent)) throw error
    }
    decoded.ended = this.#ended
    return decoded
  }

  #line(line: string, decoded: Decoded): void {
    if (this.#ended || line.trim() === '') return
    const event = parseEvent(line)
    if (event.type === 'capacity') {
      decoded.frames.push(event.frame)
      if (event.kv !== undefined) decoded.kv.push(event.kv)
      return
    }
    decoded.events.push(event)
    this.#ended = event.type === 'usage' || event.type === 'error' || event.type === 'moved'
  }
}

function parseEvent(line: string): DispatchEvent {
  let json: unknown
  try {
    json = JSON.parse(line)
  } catch {
    throw new BadEvent('a line of the dispatch is not JSON')
  }
  const plain = plainEvent(json)
  if (plain !== undefined) return plain
  const parsed = DispatchEvent.safeParse(json)
  if (!parsed.success) throw new BadEvent('a line of the dispatch is not an event')
  return parsed.data
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/**
 * A delta without logprobs or the ids of its tokens, checked by hand as the schema would check them: nearly every event is one
 * of the two, and the schema costs many times as much where the runtime forbids generated code. Anything else is undefined and
 * goes to the schema.
 */
export function plainEvent(json: unknown): DispatchEvent | undefined {
  if (typeof json !== 'object' || json === null) return undefined
  const { type, choice, text, outputTokens, logprobs, ids } = json as Record<string, unknown>
  if (!isCount(choice)) return undefined
  if (type === 'tokens') return Array.isArray(ids) && ids.every(isCount) ? { type, choice, ids } : undefined
  if (type !== 'delta' || logprobs !== undefined) return undefined
  if (typeof text !== 'string' || !isCount(outputTokens)) return undefined
  return { type, choice, text, outputTokens }
}
