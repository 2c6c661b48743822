import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MessagesAnswer } from '../../../../gateway/routes/messages-answer.ts'
import { parseMessages } from '../../../../gateway/routes/messages-requests.ts'
import type { AnswerBlock, Message, StreamEvent } from '../../../../protocol/dialects/messages.ts'
import { answers, called, collected, finished, META, said, sseEvents, thought, USAGE } from './support/answers.ts'

type Events = Parameters<typeof collected>[0]

type InStream = Exclude<StreamEvent, { type: 'error' }>

const whole = (...events: Events) => new MessagesAnswer(META).whole(collected(events), USAGE)
const streamed = (...events: Events) => {
  const answer = new MessagesAnswer(META)
  const text = answer.events([...events]) + answer.end(USAGE)
  return sseEvents(text).map(({ event, data }) => {
    expect((data as InStream).type).toBe(event)
    return data as InStream
  })
}

describe('a whole answer', () => {
  test('has its blocks in the order in which they came, and usage in disjoint parts', () => {
    const answer = whole(
      said('thought', 'hm'),
      thought('', { by: 'anthropic', value: 'SIG' }),
      said('delta', 'Let me see.'),
      called(0, '{"a":1}', { id: 'c', name: 'f' }),
      finished('tool_calls'),
    )
    expect(answer).toEqual({
      id: 'msg_0195c0de000070008000000000000001',
      type: 'message',
      role: 'assistant',
      model: 'm',
      content: [
        { type: 'thinking', thinking: 'hm', signature: 'SIG' },
        { type: 'text', text: 'Let me see.', citations: null },
        { type: 'tool_use', id: 'c', name: 'f', input: { a: 1 }, caller: { type: 'direct' } },
      ],
      stop_reason: 'tool_use',
      stop_sequence: null,
      stop_details: null,
      container: null,
      diagnostics: null,
      usage: {
        input_tokens: 10,
        cache_creation_input_tokens: 70,
        cache_read_input_tokens: 20,
        cache_creation: { ephemeral_5m_input_tokens: 30, ephemeral_1h_input_tokens: 40 },
        output_tokens: 12,
        output_tokens_details: { thinking_tokens: 7 },
        server_tool_use: null,
        inference_geo: null,
        service_tier: null,
        speed: null,
      },
    })
  })

  const refusal = { type: 'refusal', category: null, explanation: null }
  const withheld = (details: { category?: string; explanation?: string }) => ({
    ...finished('content_filter'),
    refusal: details,
  })
  test.each([
    [[finished('stop')], { stop_reason: 'end_turn', stop_sequence: null, stop_details: null }],
    [[finished('length')], { stop_reason: 'max_tokens' }],
    [[finished('stop', 'END')], { stop_reason: 'stop_sequence', stop_sequence: 'END' }],
    [[finished('tool_calls')], { stop_reason: 'tool_use' }],
    [[called(0, '{}', { id: 'c', name: 'f' }), finished('stop')], { stop_reason: 'tool_use' }],
    [[finished('content_filter')], { stop_reason: 'refusal', stop_details: refusal }],
    [
      [withheld({ category: 'cyber', explanation: 'No malware.' })],
      { stop_reason: 'refusal', stop_details: { ...refusal, category: 'cyber', explanation: 'No malware.' } },
    ],
    [[withheld({ category: 'yet to come' })], { stop_reason: 'refusal', stop_details: refusal }],
    [[said('refusal', 'No.'), finished('stop')], { stop_reason: 'refusal', stop_details: refusal }],
  ])('of %j ends with %j', (events, stopped) => {
    expect(whole(...events)).toMatchObject(stopped)
    expect(streamed(...events).find(({ type }) => type === 'message_delta')).toMatchObject({ delta: stopped })
  })

  test.each([
    ['', {}],
    ['{"a":[1]}', { a: [1] }],
    ['{"a":', { INVALID_JSON: '{"a":' }],
    ['[1]', { INVALID_JSON: '[1]' }],
  ])('has the arguments %j as the input %j', (json, input) => {
    const { content } = whole(called(0, json, { id: 'c', name: 'f' }), finished('tool_calls'))
    expect(content).toMatchObject([{ input }])
  })
})

describe('a stream', () => {
  test('has its events in the one order that clients know, each under its name', () => {
    const events = streamed(
      { type: 'accepted', usage: { ...USAGE, outputText: 0, outputReasoning: 0 } },
      said('thought', 'h'),
      said('thought', 'm'),
      thought('', { by: 'anthropic', value: 'SIG' }),
      thought('', { by: 'anthropic', value: 'DATA', isRedacted: true }),
      said('delta', 'a'),
      said('delta', 'b'),
      called(0, '', { id: 'c', name: 'f' }),
      called(0, '{}'),
      called(1, '{"x":1}', { id: 'd', name: 'g' }),
      finished('tool_calls'),
    )
    const use = { type: 'tool_use', input: {}, caller: { type: 'direct' } }
    expect(events).toMatchObject([
      {
        type: 'message_start',
        message: { content: [], stop_reason: null, usage: { input_tokens: 10, output_tokens: 0 } },
      },
      { type: 'content_block_start', index: 0, content_block: { type: 'thinking', thinking: '', signature: '' } },
      { type: 'content_block_delta', index: 0, delta: { type: 'thinking_delta', thinking: 'h' } },
      { type: 'content_block_delta', index: 0, delta: { type: 'thinking_delta', thinking: 'm' } },
      { type: 'content_block_delta', index: 0, delta: { type: 'signature_delta', signature: 'SIG' } },
      { type: 'content_block_stop', index: 0 },
      { type: 'content_block_start', index: 1, content_block: { type: 'redacted_thinking', data: 'DATA' } },
      { type: 'content_block_stop', index: 1 },
      { type: 'content_block_start', index: 2, content_block: { type: 'text', text: '' } },
      { type: 'content_block_delta', index: 2, delta: { type: 'text_delta', text: 'a' } },
      { type: 'content_block_delta', index: 2, delta: { type: 'text_delta', text: 'b' } },
      { type: 'content_block_stop', index: 2 },
      { type: 'content_block_start', index: 3, content_block: { ...use, id: 'c', name: 'f' } },
      { type: 'content_block_delta', index: 3, delta: { type: 'input_json_delta', partial_json: '{}' } },
      { type: 'content_block_stop', index: 3 },
      { type: 'content_block_start', index: 4, content_block: { ...use, id: 'd', name: 'g' } },
      { type: 'content_block_delta', index: 4, delta: { type: 'input_json_delta', partial_json: '{"x":1}' } },
      { type: 'content_block_stop', index: 4 },
      {
        type: 'message_delta',
        delta: { stop_reason: 'tool_use', stop_sequence: null },
        usage: { input_tokens: 10, cache_read_input_tokens: 20, cache_creation_input_tokens: 70, output_tokens: 12 },
      },
      { type: 'message_stop' },
    ])
    expect(events).toHaveLength(20)
  })

  test('without a word has its begin and its end', () => {
    expect(streamed(finished('stop')).map(({ type }) => type)).toEqual([
      'message_start',
      'message_delta',
      'message_stop',
    ])
  })

  test('whose target goes on with a call that was over breaks off: nothing of its arguments is lost in silence', () => {
    const answer = new MessagesAnswer(META)
    answer.events([called(0, '{"a"', { id: 'c', name: 'f' }), called(1, '{}', { id: 'd', name: 'g' })])
    expect(() => answer.events([called(0, ':1}')])).toThrow('a tool call goes on that was over')
  })

  test('that broke off ends in an error event, and nothing says that it is complete', () => {
    const answer = new MessagesAnswer(META)
    const text = answer.events([said('delta', 'a')]) + answer.failure({ code: 'overloaded', message: 'full' })
    expect(sseEvents(text).at(-1)).toEqual({
      event: 'error',
      data: {
        type: 'error',
        error: { type: 'overloaded_error', message: 'full', details: { error_code: 'overloaded' } },
        request_id: META.requestId,
      },
    })
    expect(text).not.toContain('message_stop')
  })
})

/** What a client makes of the events. */
function assembled(events: InStream[]): Pick<Message, 'content' | 'stop_reason'> {
  const content: AnswerBlock[] = []
  const json: string[] = []
  let reason: Message['stop_reason'] = null
  for (const event of events) {
    if (event.type === 'content_block_start') {
      expect(event.index).toBe(content.length)
      content.push({ ...event.content_block })
      json.push('')
    }
    if (event.type === 'message_delta') reason = event.delta.stop_reason
    if (event.type !== 'content_block_delta') continue
    expect(event.index).toBe(content.length - 1)
    const block = content[event.index]
    const { delta } = event
    if (delta.type === 'text_delta' && block?.type === 'text') block.text += delta.text
    else if (delta.type === 'thinking_delta' && block?.type === 'thinking') block.thinking += delta.thinking
    else if (delta.type === 'signature_delta' && block?.type === 'thinking') block.signature = delta.signature
    else if (delta.type === 'input_json_delta' && block?.type === 'tool_use') json[event.index] += delta.partial_json
    else throw new Error(`a ${delta.type} in a ${block?.type}`)
  }
  for (const [index, block] of content.entries()) {
    if (block.type === 'tool_use') block.input = JSON.parse(json[index] || '{}')
  }
  return { content, stop_reason: reason }
}

test('what a client puts together from a stream is the whole answer, however the batches fall', () => {
  fc.assert(
    fc.property(answers, fc.array(fc.nat(12), { maxLength: 4 }), (events, cuts) => {
      const answer = new MessagesAnswer(META)
      const ends = [...cuts, events.length].sort((a, b) => a - b)
      const stream = ends.map((end, index) => answer.events(events.slice(ends[index - 1] ?? 0, end))).join('')
      const sent = sseEvents(stream + answer.end(USAGE)).map(({ data }) => data as InStream)
      const { content, stop_reason } = whole(...events)
      expect(assembled(sent)).toEqual({ content, stop_reason })
    }),
    { numRuns: 200 },
  )
})

test('an answer that is sent back is read as what the provider said', () => {
  fc.assert(
    fc.property(answers, (events) => {
      const results = collected(events)[0]?.parts.flatMap((part) =>
        part.type === 'tool_call' ? [{ type: 'tool_result', tool_use_id: part.id }] : [],
      )
      const { content } = whole(...events)
      const messages = [
        { role: 'assistant', content },
        { role: 'user', content: results?.length ? results : 'go on' },
      ]
      const parsed = parseMessages({ model: 'm', max_tokens: 1, messages })
      if (!parsed.ok) throw new Error(parsed.error.message)
      const { input } = parsed.value.request
      const parts = input.kind === 'chat' ? input.messages[0]?.content : []
      // The words of a refusal are text in this dialect, and neighbours become one.
      const saidOf = (all: typeof parts) =>
        (all ?? []).map((part) => (part.type === 'refusal' ? { ...part, type: 'text' } : part))
      const textOf = (all: typeof parts) =>
        saidOf(all)
          .map((part) => (part.type === 'text' ? part.text : ''))
          .join('')
      const others = (all: typeof parts) => saidOf(all).filter(({ type }) => type !== 'text')
      expect(textOf(parts)).toBe(textOf(collected(events)[0]?.parts))
      expect(others(parts)).toEqual(others(collected(events)[0]?.parts))
    }),
    { numRuns: 200 },
  )
})
