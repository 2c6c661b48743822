// Answers for the tests of encoders: random ones as a provider's events, and the events of what a client was sent.
import fc from 'fast-check'
import { NO_USAGE, type Usage } from '../../../../../gateway/meter/usage.ts'
import type { FinishReason, ProviderEvent } from '../../../../../gateway/providers/event.ts'
import { type CollectedChoice, Collector } from '../../../../../gateway/stream/collect.ts'
import type { Seal } from '../../../../../protocol/request.ts'

export const META = {
  requestId: '0195c0de-0000-7000-8000-000000000001',
  model: 'm',
  createdAtMs: 1_700_000_000_999,
  includeUsage: true,
}

export const USAGE: Usage = {
  ...NO_USAGE,
  inputUncached: 10,
  inputCacheRead: 20,
  inputCacheWrite5m: 30,
  inputCacheWrite1h: 40,
  outputText: 5,
  outputReasoning: 7,
}

type Piece = 'delta' | 'thought' | 'refusal'

export const said = (type: Piece, text: string): ProviderEvent => ({ type, choice: 0, text, outputTokens: 1 })
export const thought = (text: string, seal: Seal): ProviderEvent => ({
  type: 'thought',
  choice: 0,
  text,
  outputTokens: 1,
  seal,
})
export const called = (
  call: number,
  json: string,
  first?: { id: string; name: string; seal?: Seal },
): ProviderEvent => ({
  type: 'tool_call',
  choice: 0,
  call,
  arguments: json,
  outputTokens: 1,
  ...first,
})
export const finished = (reason: FinishReason, stopString?: string): ProviderEvent => ({
  type: 'finish',
  choice: 0,
  reason,
  outputTokens: 9,
  ...(stopString === undefined ? {} : { stopString }),
})

export function collected(events: readonly ProviderEvent[]): CollectedChoice[] {
  const collector = new Collector()
  for (const event of events) collector.see(event)
  const choices = collector.complete(1)
  if (choices === undefined) throw new Error('not finished')
  return choices
}

const text = fc.string({ unit: 'grapheme', maxLength: 6 })
const seal: fc.Arbitrary<Seal> = fc.record({
  by: fc.constantFrom('anthropic', 'gemini', 'openai'),
  value: fc.base64String({ minLength: 4, maxLength: 8 }),
})

/** Events of one part, its text cut anywhere. */
const part = fc.oneof(
  fc.tuple(fc.constantFrom('delta' as const, 'refusal' as const), fc.array(text, { minLength: 1, maxLength: 3 })),
  fc.tuple(fc.constant('thought' as const), fc.array(text, { minLength: 1, maxLength: 3 }), fc.option(seal)),
  fc.tuple(fc.constant('hidden' as const), seal),
  fc.tuple(fc.constant('call' as const), fc.dictionary(fc.string({ maxLength: 3 }), text), fc.option(seal)),
)

/** A whole answer as a provider may send it. */
export const answers: fc.Arbitrary<ProviderEvent[]> = fc.array(part, { maxLength: 6 }).map((parts) => {
  const events: ProviderEvent[] = [{ type: 'accepted', usage: NO_USAGE }]
  let calls = 0
  for (const one of parts) {
    switch (one[0]) {
      case 'delta':
      case 'refusal':
        for (const piece of one[1]) events.push(said(one[0], piece))
        break
      case 'thought':
        for (const piece of one[1]) events.push(said('thought', piece))
        if (one[2] !== null) events.push(thought('', one[2]))
        break
      case 'hidden': {
        // It is a thought of its own only where the one before it is over, which a piece without text does not end.
        const before = events.findLast((event) => !('text' in event && event.text === '') || 'seal' in event)
        if (before?.type === 'thought' && before.seal === undefined) events.push(said('delta', '.'))
        events.push(thought('', { ...one[1], isRedacted: true }))
        break
      }
      case 'call': {
        const json = JSON.stringify(one[1])
        const call = calls++
        const first = { id: `call_${call}`, name: 'f', ...(one[2] === null ? {} : { seal: one[2] }) }
        events.push(called(call, json.slice(0, 3), first), called(call, json.slice(3)))
        break
      }
    }
  }
  return [...events, finished(calls > 0 ? 'tool_calls' : 'stop')]
})

/** Data and names of the events in a client's stream. */
export function sseEvents(stream: string): { event: string | undefined; data: unknown }[] {
  return stream
    .split('\n\n')
    .filter((block) => block !== '' && block !== 'data: [DONE]')
    .map((block) => {
      const lines = block.split('\n')
      const event = lines.find((line) => line.startsWith('event: '))?.slice(7)
      const data: unknown = JSON.parse(lines.find((line) => line.startsWith('data: '))?.slice(6) ?? 'null')
      return { event, data }
    })
}
