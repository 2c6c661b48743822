// The quick reading of plain chunks says what the schema says, whatever servers put where.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { OpenAiDecoder } from '../../../../gateway/providers/openai-decoder.ts'

const odd = fc.constantFrom(null, false, '', 0, 1, -1, 1.5, '1', 'x', [], {}, ['x'], { text: 'x' }, [{ text: 'x' }])
const field = <T>(usual: fc.Arbitrary<T>) =>
  fc.option(fc.oneof({ weight: 4, arbitrary: usual }, { weight: 1, arbitrary: odd }), { nil: undefined })
const text = fc.constantFrom('', 'a', 'ä', 'Hello')
const piece = fc.record({
  role: field(fc.constant('assistant')),
  content: field(text),
  refusal: field(text),
  reasoning_content: field(text),
  reasoning_details: field(fc.constant([{ type: 'reasoning.text', text: 'hm' }])),
  tool_calls: field(fc.constantFrom([], [{ index: 0, id: 'c', function: { name: 'f', arguments: '{}' } }])),
  function_call: field(fc.constant({ name: 'f', arguments: '{}' })),
})
const choice = fc.record({
  index: field(fc.constantFrom(0, 0, 0, 1)),
  delta: field(piece),
  message: field(piece),
  text: field(text),
  finish_reason: field(fc.constantFrom(null, 'stop', 'length', 'error')),
  stop_reason: field(text),
  error: field(fc.constant({ message: 'no' })),
  logprobs: field(fc.constant({ content: [{ token: 'a', logprob: -1, top_logprobs: [] }] })),
})
const chunk = fc.record({
  id: field(fc.constant('chatcmpl-1')),
  object: field(fc.constantFrom('chat.completion.chunk', 'error')),
  choices: field(fc.array(choice, { maxLength: 2 })),
  usage: field(fc.constant({ prompt_tokens: 3, completion_tokens: 2 })),
  service_tier: field(fc.constant('default')),
  data: field(fc.constant([{ index: 0, embedding: [1, 2] }])),
  error: field(fc.constant({ message: 'no' })),
})

test('a chunk that is read quickly gives the events that the schema gives', () => {
  const events = (chunks: object[], extra: object) => {
    const decoder = new OpenAiDecoder(2)
    const bytes = (one: object) => new TextEncoder().encode(`data: ${JSON.stringify({ ...one, ...extra })}\n\n`)
    return [...chunks.flatMap((one) => decoder.push(bytes(one))), ...decoder.end()]
  }
  fc.assert(
    fc.property(fc.array(chunk, { minLength: 1, maxLength: 4 }), (chunks) => {
      // An empty object here means nothing, and only the schema knows.
      expect(events(chunks, {})).toEqual(events(chunks, { x_groq: {} }))
    }),
    { numRuns: 1_000 },
  )
})
