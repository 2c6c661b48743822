// A complete answer as the events it would come in. Owns the way back from what collect.ts gathered, for answers that were held
// back as a whole and go on to where events are expected. Pure.
import type { ProviderEvent } from '../providers/event.ts'
import type { CollectedChoice } from './collect.ts'
import type { Tally } from './tally.ts'

/** In the order of event.ts. Tokens are counted already: the events carry none, and `tally`'s count comes as the usage. */
export function replay(choices: readonly CollectedChoice[], tally: Tally): ProviderEvent[] {
  const { usage, source, ...said } = tally.counted()
  const events = choices.flatMap(choiceEvents)
  // A count that is the gateway's own is no report of the target's.
  if (source !== 'provider') return events
  return [...events, { type: 'usage', usage, ...said }]
}

function choiceEvents({
  index: choice,
  parts,
  logprobs,
  finish,
  stopString,
  refusal,
  values,
}: CollectedChoice): ProviderEvent[] {
  if (values !== undefined) return [{ type: 'embedding', choice, values }]
  const events: ProviderEvent[] = []
  let calls = 0
  let probabilities = logprobs
  for (const part of parts) {
    const seal = 'seal' in part && part.seal !== undefined ? { seal: part.seal } : {}
    switch (part.type) {
      case 'text':
        events.push({
          type: 'delta',
          choice,
          text: part.text,
          outputTokens: 0,
          ...(probabilities.length === 0 ? {} : { logprobs: probabilities }),
        })
        probabilities = []
        break
      case 'refusal':
        events.push({ type: 'refusal', choice, text: part.text, outputTokens: 0 })
        break
      case 'thought':
        events.push({ type: 'thought', choice, text: part.text, outputTokens: 0, ...seal })
        break
      case 'tool_call':
        events.push({
          type: 'tool_call',
          choice,
          call: calls++,
          id: part.id,
          name: part.name,
          arguments: part.arguments,
          outputTokens: 0,
          ...seal,
        })
        break
      default:
        part satisfies never
    }
  }
  events.push({
    type: 'finish',
    choice,
    reason: finish,
    outputTokens: 0,
    ...(stopString === undefined ? {} : { stopString }),
    ...(refusal === undefined ? {} : { refusal }),
  })
  return events
}
