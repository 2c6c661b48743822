import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ChatAnswer } from '../../../../gateway/routes/chat-answer.ts'
import type { ChatCompletionChunk } from '../../../../protocol/dialects/openai.ts'
import type { AssistantMessage } from '../../../../protocol/dialects/openai-chat.ts'
import { answers, called, collected, finished, META, said, sseEvents, thought, USAGE } from './support/answers.ts'

const whole = (...events: Parameters<typeof collected>[0]) => new ChatAnswer(META).whole(collected(events), USAGE)
const chunksOf = (stream: string) => sseEvents(stream).map(({ data }) => data as ChatCompletionChunk)
const deltas = (...events: Parameters<typeof collected>[0]) =>
  chunksOf(new ChatAnswer(META).events([...events])).map(({ choices }) => choices[0]?.delta)

describe('a whole answer', () => {
  test('has calls beside what was said, and null content where nothing was', () => {
    const silent = whole(called(0, '{"a"', { id: 'c', name: 'f' }), called(0, ':1}'), finished('tool_calls'))
    expect(silent.choices[0]).toEqual({
      index: 0,
      message: {
        role: 'assistant',
        content: null,
        refusal: null,
        tool_calls: [{ id: 'c', type: 'function', function: { name: 'f', arguments: '{"a":1}' } }],
      },
      logprobs: null,
      finish_reason: 'tool_calls',
    })
    const both = whole(said('delta', 'Well'), called(0, '{}', { id: 'c', name: 'f' }), finished('tool_calls'))
    expect(both.choices[0]?.message.content).toBe('Well')
  })

  test('has thoughts, proofs and refusals in fields of their own', () => {
    const { choices, usage } = whole(
      said('thought', 'hm'),
      thought('!', { by: 'anthropic', value: 'SIG' }),
      thought('', { by: 'openai', value: 'DATA', isRedacted: true }),
      said('refusal', 'No.'),
      finished('stop'),
    )
    expect(choices[0]?.message).toEqual({
      role: 'assistant',
      content: null,
      refusal: 'No.',
      reasoning_content: 'hm!',
      reasoning_details: [
        { type: 'reasoning.text', text: 'hm!', signature: 'penstock:anthropic:t:SIG', index: 0 },
        { type: 'reasoning.encrypted', data: 'penstock:openai:r:DATA', index: 1 },
      ],
    })
    expect(usage).toEqual({
      prompt_tokens: 100,
      completion_tokens: 12,
      total_tokens: 112,
      prompt_tokens_details: { cached_tokens: 20, cache_write_tokens: 70 },
      completion_tokens_details: { reasoning_tokens: 7 },
    })
  })

  test('that is empty has empty content', () => {
    expect(whole(finished('stop')).choices[0]?.message).toEqual({ role: 'assistant', content: '', refusal: null })
  })
})

describe('a stream', () => {
  test('opens with the role, names a call once and numbers all its pieces', () => {
    const seal = { by: 'gemini', value: 'SIG' }
    const events = [
      called(0, '', { id: 'a', name: 'f', seal }),
      called(0, '{}'),
      called(1, '{"x":1}', { id: 'b', name: 'g' }),
      finished('tool_calls'),
    ]
    expect(deltas(...events)).toEqual([
      { role: 'assistant', content: null },
      {
        tool_calls: [
          {
            index: 0,
            id: 'a',
            type: 'function',
            function: { name: 'f', arguments: '' },
            extra_content: { google: { thought_signature: 'penstock:gemini:t:SIG' } },
          },
        ],
      },
      { tool_calls: [{ index: 0, function: { arguments: '{}' } }] },
      { tool_calls: [{ index: 1, id: 'b', type: 'function', function: { name: 'g', arguments: '{"x":1}' } }] },
      {},
    ])
  })

  test('shows thoughts and refusals as they come', () => {
    expect(deltas(said('thought', 'hm'), said('delta', 'a'), said('refusal', 'No'), finished('stop'))).toEqual([
      { role: 'assistant', content: null },
      { reasoning_content: 'hm' },
      { content: 'a' },
      { refusal: 'No' },
      {},
    ])
  })

  test('ends with usage and the end mark, and without either where it broke off', () => {
    const answer = new ChatAnswer(META)
    expect(answer.end(USAGE)).toMatch(/"total_tokens":112.*\n\ndata: \[DONE\]\n\n$/)
    const broken = answer.failure({ code: 'upstream_error', message: 'gone' })
    expect(broken).toContain('"code":"upstream_error"')
    expect(broken).not.toContain('[DONE]')
  })
})

/** What a client makes of the chunks. */
function assembled(chunks: ChatCompletionChunk[]): { message: AssistantMessage; finish: string | null } {
  const message: AssistantMessage = { role: 'assistant', content: null, refusal: null }
  let finish: string | null = null
  for (const { choices } of chunks) {
    const [choice] = choices
    if (choice === undefined) continue
    finish = choice.finish_reason ?? finish
    const { content, refusal, reasoning_content: shown, reasoning_details: details, tool_calls: calls } = choice.delta
    if (typeof content === 'string') message.content = (message.content ?? '') + content
    if (refusal !== undefined) message.refusal = (message.refusal ?? '') + refusal
    if (shown !== undefined) message.reasoning_content = (message.reasoning_content ?? '') + shown
    if (details !== undefined) message.reasoning_details = [...(message.reasoning_details ?? []), ...details]
    for (const { index, ...call } of calls ?? []) {
      message.tool_calls ??= []
      const known = message.tool_calls[index]
      if (known !== undefined) known.function.arguments += call.function.arguments
      else if ('id' in call) message.tool_calls[index] = call
    }
  }
  return { message, finish }
}

test('what a client puts together from a stream is the whole answer, however the batches fall', () => {
  fc.assert(
    fc.property(answers, fc.array(fc.nat(12), { maxLength: 4 }), (events, cuts) => {
      const answer = new ChatAnswer(META)
      const ends = [...cuts, events.length].sort((a, b) => a - b)
      const stream = ends.map((end, index) => answer.events(events.slice(ends[index - 1] ?? 0, end))).join('')
      const { message, finish } = assembled(chunksOf(stream))
      const expected = whole(...events).choices[0]
      // A stream cannot know at its begin that nothing will be said.
      expect({ ...message, content: message.content ?? '' }).toEqual({
        ...expected?.message,
        content: expected?.message.content ?? '',
      })
      expect(finish).toBe(expected?.finish_reason)
    }),
    { numRuns: 200 },
  )
})
