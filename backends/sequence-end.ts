// What the end of a sequence means to the caller ○. Owns the translation of the engine's words into failures; what is
// done about them is session.ts and embedding.ts.
import type { Failure } from '../protocol/errors.ts'
import type { SequenceEnd } from './engine/client.ts'

export type Outcome = { reason: 'stop' | 'length'; failure?: undefined } | { failure: Failure }

/** The engine names the field at fault first. */
const OF_GRAMMAR = /^grammar: /

/**
 * @param promptTokens of the sequence's prompt, for the message of one that does not fit.
 * @param grammarParam the caller's field that the sequence's grammar came in.
 */
export function outcomeOf(end: SequenceEnd, promptTokens: number, grammarParam?: string): Outcome {
  switch (end.kind) {
    case 'lost':
      return { failure: { code: 'engine_lost', message: 'the engine stopped while it computed this request' } }
    case 'rejected':
      switch (end.code) {
        case 'invalid':
          if (grammarParam !== undefined && OF_GRAMMAR.test(end.message)) {
            const message = `the format of the answer cannot be used: ${end.message.replace(OF_GRAMMAR, '')}`
            return { failure: { code: 'invalid_request', message, param: grammarParam } }
          }
          return { failure: { code: 'invalid_request', message: `the engine refused the request: ${end.message}` } }
        case 'too_long': {
          const message = `the prompt of ${promptTokens} tokens does not fit the engine: ${end.message}`
          return { failure: { code: 'context_length_exceeded', message } }
        }
        case 'queue_full':
        case 'draining':
          return { failure: { code: 'overloaded', message: `the engine takes no request: ${end.message}` } }
        default:
          return end.code satisfies never
      }
    case 'finished':
      switch (end.finished.reason) {
        case 'stop':
          return { reason: 'stop' }
        case 'length':
          return { reason: 'length' }
        case 'deadline':
          return {
            failure: { code: 'deadline_exceeded', message: 'the deadline passed before the answer was complete' },
          }
        case 'cancelled':
          return { failure: { code: 'engine_lost', message: 'the engine cancelled the request' } }
        case 'internal':
          return { failure: { code: 'internal', message: 'the engine failed on this request' } }
        case 'grammar':
          return { failure: { code: 'internal', message: 'the output format left no token to choose from' } }
        case 'transfer':
          return { failure: { code: 'internal', message: 'the keys and values could not be handed over' } }
        default:
          return end.finished.reason satisfies never
      }
    default:
      return end satisfies never
  }
}
