// What own backends say, in the words of every provider ○. Owns the translation event by event; what of an answer is said is
// continuation.ts.
import type { DispatchEvent, DispatchUsage } from '../../protocol/dispatch.ts'
import type { ProviderEvent, Reported } from './event.ts'
import { fleetFault } from './fleet-fault.ts'
import { normaliseFleet } from './fleet-usage.ts'

export const providerEvents = (events: readonly DispatchEvent[]): ProviderEvent[] => events.flatMap(providerEvent)

function providerEvent(event: DispatchEvent): ProviderEvent | [] {
  switch (event.type) {
    case 'accepted':
      return { type: 'accepted', usage: normaliseFleet(event.usage).usage }
    case 'delta': {
      const { choice, text, outputTokens, logprobs } = event
      return { type: 'delta', choice, text, outputTokens, ...(logprobs ? { logprobs } : {}) }
    }
    case 'thought':
    case 'finish':
    case 'embedding':
      return event
    case 'tool_call': {
      const { type, choice, call, id, name, arguments: text, outputTokens } = event
      const first = { ...(id === undefined ? {} : { id }), ...(name === undefined ? {} : { name }) }
      return { type, choice, call, ...first, arguments: text, outputTokens }
    }
    case 'usage':
      return { type: 'usage', ...reported(event.usage) }
    case 'error': {
      const { code, message, param, retryAfterMs, usage } = event
      return {
        type: 'error',
        failure: {
          code,
          message,
          ...(param === undefined ? {} : { param }),
          ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
          kind: fleetFault(code, 'in_band'),
        },
        ...(usage === undefined ? {} : reported(usage)),
      }
    }
    // Between backends and the gateway.
    case 'tokens':
    case 'moved':
    case 'capacity':
      return []
    default:
      return event satisfies never
  }
}

function reported(raw: DispatchUsage): Reported {
  const { usage, inconsistent } = normaliseFleet(raw)
  return { usage, rawUsage: JSON.stringify(raw), ...(inconsistent ? { inconsistent } : {}) }
}
