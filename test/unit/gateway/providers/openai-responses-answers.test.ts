// Answers of OpenAI's Responses API: whatever of a stream is missing, doubled or out of order, and that a stream says what the same
// answer says in one piece.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'
import { ResponsesDecoder } from '../../../../gateway/providers/openai-responses-decoder.ts'
import type { Tool } from '../../../../protocol/request.ts'
import { collected } from '../routes/support/answers.ts'

const LOOK: Tool = { name: 'look.up', parameters: { type: 'object' } }
const decoder = () =>
  new ResponsesDecoder({ tools: [LOOK] }, { usageDialect: 'openai', sealMark: 'openai', answerId: 'answer' })

function read(...events: object[]): ProviderEvent[] {
  const reader = decoder()
  const stream = events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join('')
  return [...reader.push(new TextEncoder().encode(stream)), ...reader.end()]
}

const done = (over: object = {}) => ({ type: 'response.completed', response: { status: 'completed', ...over } })

describe('an answer of the responses route', () => {
  test('misses nothing where only the ends of its parts arrive', () => {
    expect(
      read(
        { type: 'response.reasoning_summary_text.done', output_index: 0, summary_index: 0, text: 'Hm.' },
        { type: 'response.reasoning_text.done', output_index: 0, content_index: 0, text: 'hidden twice' },
        { type: 'response.output_text.delta', output_index: 1, content_index: 0, delta: 'On' },
        { type: 'response.output_text.done', output_index: 1, content_index: 0, text: 'One.' },
        {
          type: 'response.content_part.done',
          output_index: 1,
          content_index: 0,
          part: { type: 'output_text', text: 'One.' },
        },
        { type: 'response.refusal.done', output_index: 1, content_index: 1, refusal: 'No.' },
        { type: 'response.function_call_arguments.delta', output_index: 2, delta: '{' },
        {
          type: 'response.output_item.done',
          output_index: 2,
          item: { type: 'function_call', call_id: 'c', name: 'look_up', arguments: '{}' },
        },
        done(),
      ).map((event) =>
        'text' in event ? event.text : event.type === 'tool_call' ? `${event.name}${event.arguments}` : event.type,
      ),
    ).toEqual(['Hm.', 'On', 'e.', 'No.', 'look.up{}', 'finish'])
  })

  test('that goes on after its end, or ends twice, says nothing more', () => {
    const events = read(done(), { type: 'response.output_text.delta', delta: 'x' }, done())
    expect(events.map(({ type }) => type)).toEqual(['finish'])
  })

  test('with a call that has no name, or more items than any answer, is broken', () => {
    const nameless = {
      type: 'response.output_item.added',
      output_index: 0,
      item: { type: 'function_call', call_id: 'c' },
    }
    expect(read(nameless, done()).at(-1)).toMatchObject({ type: 'error', failure: { kind: 'malformed' } })
    const many = Array.from({ length: 5000 }, (_, at) => ({
      type: 'response.output_item.added',
      output_index: at,
      item: { type: 'message' },
    }))
    expect(read(...many, done()).at(-1)).toMatchObject({ type: 'error', failure: { kind: 'malformed' } })
  })

  test('misses nothing where items are only begun, and repeats nothing where the end counts them otherwise', () => {
    const begun = { type: 'response.output_item.added', output_index: 0, item: { type: 'message', content: [] } }
    const piece = { type: 'response.output_text.delta', output_index: 0, content_index: 0, delta: 'One.' }
    const item = { type: 'message', content: [{ type: 'output_text', text: 'One.' }] }
    const texts = (...events: object[]) => read(...events).flatMap((event) => ('text' in event ? event.text : []))
    expect(texts(begun, done({ output: [item] })).join('')).toBe('One.')
    const call = { type: 'function_call', call_id: 'c', name: 'look_up' }
    const called = read(
      { type: 'response.output_item.added', output_index: 0, item: { ...call, arguments: '' } },
      done({
        output: [
          { type: 'reasoning', summary: [] },
          { ...call, arguments: '{"a":1}' },
        ],
      }),
    )
    expect(called.flatMap((event) => (event.type === 'tool_call' ? event.arguments : [])).join('')).toBe('{"a":1}')
    expect(texts(begun, piece, done({ output: [{ type: 'reasoning', summary: [] }, item] })).join('')).toBe('One.')
  })

  test('misses no message and no call of which nothing but the end tells', () => {
    const thought = { type: 'response.reasoning_summary_text.delta', output_index: 0, summary_index: 0, delta: 'Hm.' }
    const piece = { type: 'response.output_text.delta', output_index: 0, content_index: 0, delta: 'One.' }
    const item = { type: 'message', content: [{ type: 'output_text', text: 'One.' }] }
    const call = { type: 'function_call', call_id: 'c', name: 'look_up', arguments: '{"a":1}' }
    const begun = { type: 'response.output_item.added', output_index: 0, item: { ...call, arguments: '' } }
    const told = (...events: object[]) =>
      read(...events).flatMap((event) => {
        if (event.type === 'tool_call') return event.arguments
        return event.type === 'delta' || event.type === 'thought' ? event.text : []
      })
    const whole = done({ output: [{ type: 'reasoning', summary: [] }, item, call] })
    expect(told(thought, whole).join('')).toBe('Hm.One.{"a":1}')
    expect(told(piece, whole).join('')).toBe('One.{"a":1}')
    expect(told(begun, whole).join('')).toBe('{"a":1}One.')
  })

  test('may repeat itself at its end in an event that is larger than those of other routes', () => {
    const long = 'x'.repeat(3 * 1024 * 1024)
    const item = { type: 'message', content: [{ type: 'output_text', text: long }] }
    const events = read(
      { type: 'response.output_text.delta', output_index: 0, content_index: 0, delta: 'x' },
      { type: 'response.output_item.done', output_index: 0, item },
      done({ output: [item] }),
    )
    expect(events.map((event) => ('text' in event ? event.text.length : event.type))).toEqual([
      1,
      long.length - 1,
      'finish',
    ])
  })

  test('that is still under way, or was cancelled, is no answer', () => {
    const whole = (status: string) => decoder().whole(JSON.stringify({ object: 'response', status, output: [] }))
    expect(whole('in_progress')).toMatchObject([{ type: 'error', failure: { kind: 'malformed' } }])
    expect(whole('cancelled')).toMatchObject([{ type: 'error', failure: { code: 'upstream_error' } }])
    expect(read({ type: 'response.cancelled', response: {} })).toMatchObject([{ type: 'error' }])
  })
})

type Item = { type: string; [field: string]: unknown }

const words = fc.string({ minLength: 1, maxLength: 12, unit: 'grapheme' })
const item: fc.Arbitrary<Item> = fc.oneof(
  fc.record({
    type: fc.constant('message'),
    content: fc.array(
      fc.oneof(
        fc.record({ type: fc.constant('output_text'), text: words }),
        fc.record({ type: fc.constant('refusal'), refusal: words }),
      ),
      { maxLength: 2 },
    ),
  }),
  fc.record(
    {
      type: fc.constant('reasoning'),
      id: fc.constantFrom('rs_1', 'rs_2'),
      summary: fc.array(fc.record({ type: fc.constant('summary_text'), text: words }), { maxLength: 3 }),
      encrypted_content: fc.constantFrom('gAAA', 'gBBB'),
    },
    { requiredKeys: ['type', 'id', 'summary'] },
  ),
  fc.record({
    type: fc.constant('function_call'),
    name: fc.constant('look_up'),
    arguments: fc.constantFrom('', '{}', '{"a":"}"}', '{"a":[1,2]}'),
  }),
)
const items = fc
  .array(item, { maxLength: 5 })
  .map((list) => list.map((one, at): Item => (one.type === 'function_call' ? { ...one, call_id: `call_${at}` } : one)))

const half = (text: string): string[] => {
  const characters = [...text]
  const middle = Math.ceil(characters.length / 2)
  return [characters.slice(0, middle).join(''), characters.slice(middle).join('')]
}
const listOf = (value: unknown): Item[] => (Array.isArray(value) ? value : [])

/** The events that tell of one item, piece by piece and then whole. */
function told(one: Item, output_index: number): object[] {
  const pieces = (type: string, text: unknown, at: object) => [
    ...half(String(text)).map((delta) => ({ type: `response.${type}.delta`, output_index, ...at, delta })),
    { type: `response.${type}.done`, output_index, ...at, [FINAL[type] ?? 'text']: text },
  ]
  return [
    { type: 'response.output_item.added', output_index, item: { ...one, content: [], summary: [], arguments: '' } },
    ...(one.type === 'function_call' ? pieces('function_call_arguments', one.arguments, {}) : []),
    ...listOf(one.summary).flatMap(({ text }, summary_index) =>
      pieces('reasoning_summary_text', text, { summary_index }),
    ),
    ...listOf(one.content).flatMap((part, content_index) =>
      part.type === 'refusal'
        ? pieces('refusal', part.refusal, { content_index })
        : pieces('output_text', part.text, { content_index }),
    ),
    { type: 'response.output_item.done', output_index, item: one },
  ]
}
const FINAL: Record<string, string> = { refusal: 'refusal', function_call_arguments: 'arguments' }

describe('any answer', () => {
  const ended = (output: Item[]) => done({ id: 'resp_1', output, usage: { input_tokens: 3, output_tokens: 4 } })
  const partsOf = (events: ProviderEvent[]) => collected(events).map(({ parts, finish }) => ({ parts, finish }))

  test('says the same as a stream, in one piece, and at its end alone', () => {
    fc.assert(
      fc.property(items, (output) => {
        const streamed = partsOf(read(...output.flatMap(told), ended(output)))
        expect(partsOf(read(ended(output)))).toEqual(streamed)
        const body = JSON.stringify({ object: 'response', status: 'completed', id: 'resp_1', output })
        expect(partsOf(decoder().whole(body))).toEqual(streamed)
      }),
      { numRuns: 200 },
    )
  })

  test('that is shuffled, doubled or full of holes is read to one end, without a throw', () => {
    const events = items.chain((output) => fc.shuffledSubarray([...output.flatMap(told), ended(output)]))
    fc.assert(
      fc.property(events, (list) => {
        const seen = read(...list, ...list)
        const ends = seen.filter(({ type }) => type === 'finish' || type === 'error')
        expect(ends.length).toBeLessThanOrEqual(1)
        const counts = seen.flatMap((event) => ('outputTokens' in event ? [event.outputTokens] : []))
        expect(counts).toEqual(counts.toSorted((a, b) => a - b))
      }),
      { numRuns: 200 },
    )
  })
})
