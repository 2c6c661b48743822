// Bytes of a dispatch's answer into provider events. Owns the decoding of wire 2; who asked and why is backend.ts. Pure.
import type { CapacityFrame } from '../../protocol/capacity.ts'
import { DispatchEvent, type DispatchUsage, MAX_EVENT_BYTES } from '../../protocol/dispatch.ts'
import { LineSplitter } from '../stream/lines.ts'
import type { ProviderEvent, Reported } from './event.ts'
import { fleetFault } from './fleet-fault.ts'
import { normaliseFleet } from './fleet-usage.ts'

/** A line that is no event of this wire: the peer is broken, or speaks another version. */
export class BadEvent extends Error {
  override name = 'BadEvent'
}

export type Decoded = { events: ProviderEvent[]; frames: CapacityFrame[]; ended: boolean }

/**
 * Cut at any byte. After `ended` nothing more is expected; a body that is over before it was lost its sender.
 * @throws LineTooLong, BadEvent.
 */
export class DispatchDecoder {
  readonly #lines = new LineSplitter(MAX_EVENT_BYTES)
  #ended = false

  push(chunk: Uint8Array): Decoded {
    const decoded: Decoded = { events: [], frames: [], ended: false }
    for (const line of this.#lines.push(chunk)) this.#line(line, decoded)
    decoded.ended = this.#ended
    return decoded
  }

  /** A last line whose line end was lost still counts where it is whole. */
  end(): Decoded {
    const decoded: Decoded = { events: [], frames: [], ended: false }
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
    switch (event.type) {
      case 'accepted':
        decoded.events.push({ type: 'accepted', usage: normaliseFleet(event.usage).usage })
        return
      case 'delta': {
        const { choice, text, outputTokens, logprobs } = event
        decoded.events.push({ type: 'delta', choice, text, outputTokens, ...(logprobs ? { logprobs } : {}) })
        return
      }
      case 'thought':
      case 'finish':
      case 'embedding':
        decoded.events.push(event)
        return
      case 'tool_call': {
        const { type, choice, call, id, name, arguments: text, outputTokens } = event
        const first = { ...(id === undefined ? {} : { id }), ...(name === undefined ? {} : { name }) }
        decoded.events.push({ type, choice, call, ...first, arguments: text, outputTokens })
        return
      }
      case 'usage':
        this.#ended = true
        decoded.events.push({ type: 'usage', ...reported(event.usage) })
        return
      case 'tokens':
        return
      case 'moved':
        this.#ended = true
        decoded.events.push({
          type: 'error',
          failure: { code: 'backend_lost', message: 'The backend cannot go on.', kind: 'broken_off' },
          ...reported(event.usage),
        })
        return
      case 'error': {
        this.#ended = true
        const { code, message, param, retryAfterMs, usage } = event
        decoded.events.push({
          type: 'error',
          failure: {
            code,
            message,
            ...(param === undefined ? {} : { param }),
            ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
            kind: fleetFault(code, 'in_band'),
          },
          ...(usage === undefined ? {} : reported(usage)),
        })
        return
      }
      case 'capacity':
        decoded.frames.push(event.frame)
        return
      default:
        return event satisfies never
    }
  }
}

function parseEvent(line: string): DispatchEvent {
  let json: unknown
  try {
    json = JSON.parse(line)
  } catch {
    throw new BadEvent('a line of the dispatch is not JSON')
  }
  const plain = plainDelta(json)
  if (plain !== undefined) return plain
  const parsed = DispatchEvent.safeParse(json)
  if (!parsed.success) throw new BadEvent('a line of the dispatch is not an event')
  return parsed.data
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/**
 * A delta without logprobs, checked by hand as the schema would check it: nearly every event is one, and the schema costs
 * many times as much where the runtime forbids generated code. Anything else is undefined and goes to the schema.
 */
export function plainDelta(json: unknown): DispatchEvent | undefined {
  if (typeof json !== 'object' || json === null) return undefined
  const { type, choice, text, outputTokens, logprobs } = json as Record<string, unknown>
  if (type !== 'delta' || logprobs !== undefined) return undefined
  if (!isCount(choice) || typeof text !== 'string' || !isCount(outputTokens)) return undefined
  return { type, choice, text, outputTokens }
}

function reported(raw: DispatchUsage): Reported {
  const { usage, inconsistent } = normaliseFleet(raw)
  return { usage, rawUsage: JSON.stringify(raw), ...(inconsistent ? { inconsistent } : {}) }
}
