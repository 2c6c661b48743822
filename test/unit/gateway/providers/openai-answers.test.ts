// Calls, thoughts and refusals out of OpenAI-compatible streams, in all the ways in which servers send them.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'
import { type DecoderOptions, OpenAiDecoder } from '../../../../gateway/providers/openai-decoder.ts'
import { Collector } from '../../../../gateway/stream/collect.ts'

type Delta = Record<string, unknown>

/** A stream whose chunks have these deltas, ended with this reason. */
function read(deltas: Delta[], finish: string | undefined = 'stop', options: DecoderOptions = {}): ProviderEvent[] {
  const decoder = new OpenAiDecoder(1, options)
  const chunks: object[] = deltas.map((delta) => ({ id: 'chatcmpl-7', choices: [{ index: 0, delta }] }))
  if (finish !== undefined) chunks.push({ choices: [{ index: 0, delta: {}, finish_reason: finish }] })
  const text = `${chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')}data: [DONE]\n\n`
  const bytes = new TextEncoder().encode(text)
  const events: ProviderEvent[] = []
  for (let at = 0; at < bytes.length; at += 7) events.push(...decoder.push(bytes.subarray(at, at + 7)))
  return [...events, ...decoder.end()]
}

function collected(events: ProviderEvent[]) {
  const collector = new Collector()
  for (const event of events) collector.see(event)
  return collector.complete(1)?.[0]
}

const piece = (index: number | undefined, id?: string, name?: string, args?: unknown): Delta => ({
  tool_calls: [
    {
      ...(index === undefined ? {} : { index }),
      ...(id === undefined ? {} : { id }),
      type: 'function',
      function: { ...(name === undefined ? {} : { name }), ...(args === undefined ? {} : { arguments: args }) },
    },
  ],
})

const TWO = [
  { type: 'tool_call', id: 'a', name: 'look', arguments: '{"x":1}' },
  { type: 'tool_call', id: 'b', name: 'wait', arguments: '{"y":2}' },
]

describe('tool calls', () => {
  test.each<[string, Delta[]]>([
    [
      'in pieces by index',
      [
        piece(0, 'a', 'look', ''),
        piece(0, undefined, undefined, '{"x"'),
        piece(0, undefined, undefined, ':1}'),
        piece(1, 'b', 'wait', ''),
        piece(1, undefined, undefined, '{"y":2}'),
      ],
    ],
    [
      'with id and name in every piece',
      [
        piece(0, 'a', 'look', '{"x"'),
        piece(0, 'a', 'look', ':1}'),
        piece(1, 'b', 'wait', '{"y"'),
        piece(1, 'b', 'wait', ':2}'),
      ],
    ],
    ['whole, each in one chunk', [piece(0, 'a', 'look', '{"x":1}'), piece(1, 'b', 'wait', '{"y":2}')]],
    ['whole, all numbered 0', [piece(0, 'a', 'look', '{"x":1}'), piece(0, 'b', 'wait', '{"y":2}')]],
    [
      'without an index',
      [
        piece(undefined, 'a', 'look', '{"x":'),
        piece(undefined, undefined, undefined, '1}'),
        piece(undefined, 'b', 'wait', '{"y":2}'),
      ],
    ],
    [
      'side by side, piece by piece',
      [
        piece(0, 'a', 'look', '{"x"'),
        piece(1, 'b', 'wait', '{"y"'),
        piece(0, undefined, undefined, ':1}'),
        piece(1, undefined, undefined, ':2}'),
      ],
    ],
    ['with objects for arguments', [piece(0, 'a', 'look', { x: 1 }), piece(1, 'b', 'wait', { y: 2 })]],
    [
      'all in one chunk',
      [{ tool_calls: [...TWO.map(({ id, name, arguments: args }) => ({ id, function: { name, arguments: args } }))] }],
    ],
  ])('sent %s come out one after the other', (_, deltas) => {
    for (const finish of ['tool_calls', 'stop']) {
      const events = read(deltas, finish)
      expect(collected(events)).toMatchObject({ parts: TWO, finish: 'tool_calls' })
      const calls = events.flatMap((event) => (event.type === 'tool_call' ? [event.call] : []))
      expect(calls).toEqual(calls.toSorted((a, b) => a - b))
    }
  })

  test('flow as they come where no other waits for them', () => {
    const events = read([piece(0, 'a', 'look', '{"x"'), piece(0, undefined, undefined, ':1}')])
    expect(events).toMatchObject([
      { type: 'tool_call', call: 0, id: 'a', name: 'look', arguments: '{"x"', outputTokens: 1 },
      { type: 'tool_call', call: 0, arguments: ':1}', outputTokens: 2 },
      { type: 'finish', reason: 'tool_calls', outputTokens: 2 },
    ])
  })

  test('without an id get one of their own, unlike that of another answer', () => {
    const events = read([piece(0, undefined, 'look', '{}'), piece(1, '', 'wait', '')])
    expect(collected(events)?.parts).toMatchObject([{ id: 'call_chatcmpl7_0_0' }, { id: 'call_chatcmpl7_0_1' }])
  })

  test('of the older kind are calls too', () => {
    const deltas = [{ function_call: { name: 'look', arguments: '{"x"' } }, { function_call: { arguments: ':1}' } }]
    expect(collected(read(deltas, 'function_call'))).toMatchObject({
      parts: [{ type: 'tool_call', name: 'look', arguments: '{"x":1}' }],
      finish: 'tool_calls',
    })
  })

  test('that were cut off by the limit stay cut off', () => {
    expect(collected(read([piece(0, 'a', 'look', '{"x')], 'length'))).toMatchObject({ finish: 'length' })
  })

  test('without a name have broken the answer', () => {
    expect(read([piece(0, 'a', undefined, '{}')]).at(-1)).toMatchObject({ failure: { kind: 'malformed' } })
  })

  test('that were announced and never made end nothing', () => {
    expect(collected(read([{ content: 'hi' }], 'tool_calls'))).toMatchObject({ text: 'hi', finish: 'stop' })
  })

  test('before an end mark without a reason are an answer', () => {
    expect(collected(read([piece(0, 'a', 'look', '{}')], ''))).toMatchObject({ finish: 'tool_calls' })
  })

  test('of a whole body are read like those of a stream', () => {
    const decoder = new OpenAiDecoder(1)
    const message = {
      role: 'assistant',
      content: null,
      reasoning_content: 'Hm.',
      tool_calls: [{ id: 'a', type: 'function', function: { name: 'look', arguments: '{"x":1}' } }],
    }
    const events = decoder.whole(JSON.stringify({ choices: [{ index: 0, message, finish_reason: 'tool_calls' }] }))
    expect(collected(events)).toMatchObject({ parts: [{ type: 'thought', text: 'Hm.' }, TWO[0]], finish: 'tool_calls' })
    expect(decoder.isComplete).toBe(true)
  })
})

describe('thoughts', () => {
  test.each<[string, Delta[]]>([
    ['reasoning_content', [{ reasoning_content: 'Hm, ' }, { reasoning_content: 'so.' }, { content: 'Yes' }]],
    ['reasoning', [{ reasoning: 'Hm, ' }, { reasoning: 'so.' }, { content: 'Yes' }]],
    ['both at once', [{ reasoning_content: 'Hm, so.', reasoning: 'Hm, so.' }, { content: 'Yes' }]],
    [
      'parts of the content',
      [
        { content: [{ type: 'thinking', thinking: [{ type: 'text', text: 'Hm, so.' }] }] },
        { content: [{ type: 'text', text: 'Yes' }] },
      ],
    ],
    ['details alone', [{ reasoning_details: [{ type: 'reasoning.text', text: 'Hm, so.' }] }, { content: 'Yes' }]],
    ['the chunk of the text', [{ reasoning: 'Hm, so.', content: 'Yes' }]],
  ])('in %s come before the text', (_, deltas) => {
    expect(collected(read(deltas))).toMatchObject({
      parts: [
        { type: 'thought', text: 'Hm, so.' },
        { type: 'text', text: 'Yes' },
      ],
    })
  })

  test('with details that must come back are sealed before what follows them', () => {
    const events = read(
      [
        { reasoning: 'Hm, ', reasoning_details: [{ type: 'reasoning.text', text: 'Hm, ', index: 0 }] },
        { reasoning: 'so.', reasoning_details: [{ type: 'reasoning.text', text: 'so.', index: 0, signature: 's' }] },
        { reasoning_details: [{ type: 'reasoning.encrypted', data: 'xyz', index: 1 }] },
        { content: 'Yes' },
      ],
      'stop',
      { sealMark: 'openrouter' },
    )
    const value = JSON.stringify([
      { type: 'reasoning.text', text: 'Hm, so.', index: 0, signature: 's' },
      { type: 'reasoning.encrypted', data: 'xyz', index: 1 },
    ])
    expect(collected(events)?.parts).toEqual([
      { type: 'thought', text: 'Hm, so.', seal: { by: 'openrouter', value } },
      { type: 'text', text: 'Yes' },
    ])
    // A server whose thoughts need no proof gives none.
    expect(JSON.stringify(read([{ reasoning_details: [{ type: 'reasoning.text', text: 'a' }] }]))).not.toContain('seal')
  })

  test('that cannot be read are sealed as such', () => {
    const encrypted = [{ reasoning_details: [{ type: 'reasoning.encrypted', data: 'xyz' }] }, { content: 'Yes' }]
    expect(collected(read(encrypted, 'stop', { sealMark: 'openrouter' }))?.parts[0]).toMatchObject({
      type: 'thought',
      text: '',
      seal: { isRedacted: true },
    })
  })

  test('count as tokens, like pieces of calls and refusals', () => {
    const events = read([{ reasoning: 'a' }, { content: 'b' }, piece(0, 'a', 'look', '{}'), { refusal: 'c' }])
    expect(events.flatMap((event) => ('outputTokens' in event ? [event.outputTokens] : []))).toEqual([1, 2, 3, 4, 4])
  })
})

test('a refusal is told apart from text', () => {
  expect(collected(read([{ refusal: 'I ' }, { refusal: 'cannot.' }]))?.parts).toEqual([
    { type: 'refusal', text: 'I cannot.' },
  ])
})

test.each(['error', 'abort', 'insufficient_system_resource'])('an answer that ends with %s is broken off', (reason) => {
  expect(read([{ content: 'half' }], reason).at(-1)).toMatchObject({ type: 'error', failure: { kind: 'in_band' } })
})

test('the stop string that ended an answer is told where the server tells it', () => {
  const decoder = new OpenAiDecoder(1, { stops: ['END'] })
  const chunk = { choices: [{ index: 0, delta: {}, finish_reason: 'stop', stop_reason: 'END' }] }
  expect(decoder.whole(JSON.stringify(chunk))).toMatchObject([{ type: 'finish', stopString: 'END' }])
})

test('usage is found where one server hides it', () => {
  const decoder = new OpenAiDecoder(1)
  const chunk = {
    choices: [{ delta: {}, finish_reason: 'stop' }],
    x_groq: { usage: { prompt_tokens: 3, completion_tokens: 2 } },
  }
  expect(decoder.whole(JSON.stringify(chunk)).at(-1)).toMatchObject({ type: 'usage', usage: { inputUncached: 3 } })
})

test('an event over the bound ends the answer instead of the process', () => {
  const decoder = new OpenAiDecoder(1)
  const events = decoder.push(new TextEncoder().encode(`data: ${'x'.repeat(1024 * 1024 + 1)}`))
  expect(events).toMatchObject([{ type: 'error', failure: { kind: 'malformed' } }])
  expect(decoder.isOver).toBe(true)
})

test.each([
  ['event: error\ndata: {"message":"boom"}\n\n', 'boom'],
  ['event: error\ndata: boom\n\n', 'boom'],
  ['data: {"choices":[{"delta":{"content":""},"error":{"code":502,"message":"boom"}}]}\n\n', 'boom'],
  ['data: {"object":"error","message":"boom","code":500}\n\n', 'boom'],
])('an error inside a stream as %j has broken it off, and nothing after it counts', (text, words) => {
  const decoder = new OpenAiDecoder(1)
  const events = decoder.push(new TextEncoder().encode(`${text}data: {"choices":[{"delta":{"content":"late"}}]}\n\n`))
  expect(events).toMatchObject([{ type: 'error', failure: { code: 'upstream_error', kind: 'in_band' } }])
  expect(JSON.stringify(events)).toContain(words)
})

const more = (args: string): Delta => piece(0, undefined, undefined, args)
const LOOK_PART = { type: 'tool_call', id: 'a', name: 'look', arguments: '{"a":1}' }
const LOGPROBS = { content: [{ token: 'x', logprob: -1, bytes: [120] }] }

describe('in the middle of a tool call', () => {
  test.each<[string, Delta]>([
    ['a line end', { content: '\n' }],
    ['a thought', { reasoning: 'hm' }],
    ['a refusal', { refusal: 'no' }],
    [
      'a thought to be given back',
      { reasoning: 'hm', reasoning_details: [{ type: 'reasoning.text', text: 'hm', index: 0 }] },
    ],
  ])('%s waits until the call is whole', (_, between) => {
    const events = read([piece(0, 'a', 'look', '{"a":'), between, more('1}'), { content: 'so' }], 'tool_calls', {
      sealMark: 'openrouter',
    })
    const types = events.map(({ type }) => type)
    expect(types.lastIndexOf('tool_call')).toBe(1)
    expect(collected(events)?.parts[0]).toEqual(LOOK_PART)
    expect(JSON.stringify(collected(events)?.parts.slice(1))).toContain('so')
  })

  test('what never became whole is followed by what waited for it', () => {
    const events = read([piece(0, 'a', 'look', '{"a":'), { content: 'so' }], 'length')
    expect(events).toMatchObject([
      { type: 'tool_call', arguments: '{"a":' },
      { type: 'delta', text: 'so', outputTokens: 2 },
      { type: 'finish', reason: 'length' },
    ])
  })

  test('braces inside of strings end nothing', () => {
    const events = read([piece(0, 'a', 'look', '{"a":"}\\"}'), { content: '\n' }, more('"}')])
    expect(collected(events)?.parts[0]).toMatchObject({ arguments: '{"a":"}\\"}"}' })
  })

  test('probabilities of its tokens are left out', () => {
    const decoder = new OpenAiDecoder(1)
    const events = [piece(0, 'a', 'look', '{"a":'), more('1}'), {}].flatMap((delta) =>
      decoder.push(
        new TextEncoder().encode(`data: ${JSON.stringify({ choices: [{ delta, logprobs: LOGPROBS }] })}\n\n`),
      ),
    )
    expect(events.map(({ type }) => type)).toEqual(['tool_call', 'tool_call', 'delta'])
  })

  test('a call that goes on when it was over has broken the answer, white space aside', () => {
    const call = [piece(0, 'a', 'look', '{"a":1}'), { content: 'so' }]
    expect(collected(read([...call, more(' \n')]))?.parts).toEqual([LOOK_PART, { type: 'text', text: 'so' }])
    expect(read([...call, more('2}')]).at(-1)).toMatchObject({ failure: { kind: 'malformed' } })
  })

  test('more than an answer can hold back ends it', () => {
    const long = { content: 'x'.repeat(600_000) }
    const events = read([piece(0, 'a', 'look', '{"a":'), long, long])
    expect(events.at(-1)).toMatchObject({ failure: { kind: 'malformed' } })
  })
})

/** Calls and other parts in any pieces; the calls one after the other, the rest anywhere. */
test('a call is over when the next part begins, whatever the server mixes', () => {
  const mixed = fc.array(
    fc.record({
      args: fc.dictionary(
        fc.string({ maxLength: 3 }),
        fc.oneof(fc.string({ maxLength: 6 }), fc.constant({ a: ['}'] })),
      ),
      cuts: fc.array(fc.nat(30), { maxLength: 3 }),
      noise: fc.array(fc.constantFrom({ content: '\n' }, { reasoning: 'hm' }, { refusal: 'no' }, {}), { maxLength: 4 }),
    }),
    { maxLength: 4 },
  )
  fc.assert(
    fc.property(mixed, (calls) => {
      const wanted = calls.map(({ args }, at) => ({ id: `c${at}`, arguments: JSON.stringify(args) }))
      const deltas = calls.flatMap(({ cuts, noise }, at) => {
        const text = wanted[at]?.arguments ?? ''
        const places = [0, ...cuts.map((cut) => Math.min(cut, text.length)).sort((a, b) => a - b), text.length]
        return places.slice(1).flatMap((to, n) => {
          const part = text.slice(places[n], to)
          return [n === 0 ? piece(at, `c${at}`, 'look', part) : piece(at, undefined, undefined, part), noise[n] ?? {}]
        })
      })
      const events = read(deltas, 'tool_calls')
      const parts = collected(events)?.parts ?? []
      expect(parts.filter(({ type }) => type === 'tool_call')).toMatchObject(wanted)
      const order = events.map((event) => (event.type === 'tool_call' ? event.call : -1))
      for (const call of wanted.keys()) {
        const span = order.slice(order.indexOf(call), order.lastIndexOf(call) + 1)
        expect(new Set(span).size).toBe(1)
      }
      const said = deltas.filter((delta) => 'content' in delta || 'refusal' in delta || 'reasoning' in delta)
      expect(events.filter(({ type }) => ['delta', 'refusal', 'thought'].includes(type)).length).toBe(said.length)
    }),
  )
})

describe('two calls stay two', () => {
  const names = (deltas: Delta[]) => collected(read(deltas))?.parts
  test.each<[string, Delta[]]>([
    ['with one index and empty ids', [piece(0, '', 'look', '{"x":1}'), piece(0, '', 'wait', '{"y":2}')]],
    ['of one name, with one index and empty ids', [piece(0, '', 'look', '{"x":1}'), piece(0, '', 'look', '{"y":2}')]],
    ['with one id and two indexes', [piece(0, 'c', 'look', '{"x":1}'), piece(1, 'c', 'wait', '{"y":2}')]],
    ['with one id and one index', [piece(0, 'c', 'look', '{"x":1}'), piece(0, 'c', 'wait', '{"y":2}')]],
    [
      'in pieces that repeat the id',
      [
        piece(0, 'c', 'look', '{"x"'),
        piece(0, 'c', undefined, ':1}'),
        piece(1, 'c', 'wait', '{"y"'),
        piece(1, 'c', undefined, ':2}'),
      ],
    ],
  ])('%s', (_, deltas) => {
    const parts = names(deltas) ?? []
    expect(parts).toMatchObject([{ arguments: '{"x":1}' }, { arguments: '{"y":2}' }])
    expect(new Set(parts.map((part) => ('id' in part ? part.id : ''))).size).toBe(2)
  })

  test('and one that is sent once more at its end stays one', () => {
    expect(names([piece(0, 'a', 'look', '{"a"'), more(':1}'), piece(0, 'a', 'look', '{"a":1}')])).toEqual([LOOK_PART])
    expect(names([piece(0, 'a', 'look', '{"a":1}'), piece(0, 'a', 'look', '')])).toEqual([LOOK_PART])
  })

  test('without ids in answers without one they are told apart by what the caller passes in', () => {
    const decoder = new OpenAiDecoder(1, { answerId: 'k7' })
    const message = { tool_calls: [{ function: { name: 'look', arguments: '{}' } }] }
    const events = decoder.whole(JSON.stringify({ choices: [{ message, finish_reason: 'tool_calls' }] }))
    expect(events[0]).toMatchObject({ id: 'call_k7_0_0' })
  })
})

describe('an optional field of a wrong type', () => {
  test.each<[string, Record<string, unknown>]>([
    ['refusal: false', { delta: { content: 'hi', refusal: false } }],
    ["index: '0'", { index: '0', delta: { content: 'hi' } }],
    ['error: false', { delta: { content: 'hi' }, error: false }],
    ['error: {}', { delta: { content: 'hi' }, error: {} }],
    ['tool_calls: {}', { delta: { content: 'hi', tool_calls: {} } }],
    ['function_call: {}', { delta: { content: 'hi', function_call: {} } }],
    ['an empty delta', { delta: {}, message: { content: 'hi' } }],
  ])('%s leaves the answer whole', (_, choice) => {
    const decoder = new OpenAiDecoder(1)
    const events = decoder.whole(JSON.stringify({ error: false, choices: [{ ...choice, finish_reason: 'stop' }] }))
    expect(events).toMatchObject([{ type: 'delta', text: 'hi' }, { type: 'finish' }])
  })

  test('a whole message behind its own pieces adds nothing', () => {
    const decoder = new OpenAiDecoder(1)
    const chunks = [{ delta: { content: 'hi' } }, { delta: {}, message: { content: 'hi' }, finish_reason: 'stop' }]
    const text = chunks.map((choice) => `data: ${JSON.stringify({ choices: [choice] })}\n\n`).join('')
    expect(decoder.push(new TextEncoder().encode(text)).map(({ type }) => type)).toEqual(['delta', 'finish'])
  })
})

test('events under another content type than theirs are read as events', () => {
  const decoder = new OpenAiDecoder(1)
  const chunk = { choices: [{ delta: { content: 'hi' }, finish_reason: 'stop' }] }
  const events = decoder.whole(`data: ${JSON.stringify(chunk)}\n\ndata: [DONE]`)
  expect(events).toMatchObject([{ type: 'delta', text: 'hi' }, { type: 'finish' }])
  expect(decoder.isComplete).toBe(true)
})
