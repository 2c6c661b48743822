// The playground's answers: reading the stream, figures, and the call's body.
import { describe, expect, test } from 'vitest'
import {
  begun,
  failed,
  isOver,
  routeSteps,
  takeEvents,
  tokensPerSecond,
  withEvent,
} from '../../../dashboard/pages/playground/answer.ts'
import { bodyOf } from '../../../dashboard/pages/playground/run.ts'

const chunk = (delta: object, rest: object = {}) =>
  JSON.stringify({ choices: [{ index: 0, delta, finish_reason: null, ...rest }] })

describe('events of a stream', () => {
  test('are taken whole, wherever the pieces were cut', () => {
    const text = 'data: {"a":1}\n\n: alive\n\ndata: one\ndata: two\n\ndata: [DONE]\n\n'
    for (let at = 0; at <= text.length; at++) {
      const first = takeEvents(text.slice(0, at))
      const second = takeEvents(first.rest + text.slice(at))
      expect([...first.events, ...second.events]).toEqual(['{"a":1}', 'one\ntwo', '[DONE]'])
      expect(second.rest).toBe('')
    }
  })

  test('make an answer with its first token, its usage and its end', () => {
    let answer = begun('m', 100)
    answer = withEvent(answer, chunk({ role: 'assistant', content: '' }), 110)
    expect(answer.state).toBe('waiting')
    answer = withEvent(answer, chunk({ content: 'Hel' }), 150)
    answer = withEvent(answer, chunk({ content: 'lo' }), 160)
    answer = withEvent(answer, chunk({}, { finish_reason: 'stop' }), 170)
    answer = withEvent(
      answer,
      JSON.stringify({
        choices: [],
        usage: { prompt_tokens: 5, completion_tokens: 2, prompt_tokens_details: { cached_tokens: 4 } },
      }),
      171,
    )
    answer = withEvent(answer, '[DONE]', 172)
    expect(answer).toMatchObject({ text: 'Hello', state: 'done', firstMs: 150, endedMs: 170, finish: 'stop' })
    expect(answer.usage).toEqual({ input: 5, cached: 4, output: 2, reasoning: 0 })
  })

  test('a thought is content, and no text', () => {
    const answer = withEvent(begun('m', 0), chunk({ reasoning_content: 'Hm.' }), 5)
    expect(answer).toMatchObject({ thought: 'Hm.', text: '', firstMs: 5, state: 'streaming' })
  })

  test('an error inside the stream, or what is no event, fails it and keeps the text', () => {
    const begunText = withEvent(begun('m', 0), chunk({ content: 'a' }), 1)
    const broken = withEvent(begunText, '{"error":{"message":"It broke."}}', 2)
    expect(broken).toMatchObject({ state: 'failed', failure: 'It broke.', text: 'a' })
    expect(isOver(broken)).toBe(true)
    expect(withEvent(begunText, '{"choices"', 2).state).toBe('failed')
  })
})

describe('figures', () => {
  const answer = { ...begun('m', 0), firstMs: 100, endedMs: 1_100 }

  test('the rate counts tokens behind the first one', () => {
    expect(tokensPerSecond(answer, 101)).toBe(100)
  })

  test('there is none where one piece held everything, or nobody counted', () => {
    expect(tokensPerSecond({ ...answer, endedMs: 105 }, 101)).toBeUndefined()
    expect(tokensPerSecond(answer, undefined)).toBeUndefined()
    expect(tokensPerSecond(failed(begun('m', 0), 'x', 5), 10)).toBeUndefined()
  })

  test('a route is its steps', () => {
    expect(routeSteps('rack/a:b:connect>fleet/small:ok(120ms;75%)')).toEqual([
      { target: 'rack/a:b', outcome: 'connect', prediction: undefined },
      { target: 'fleet/small', outcome: 'ok', prediction: '120ms;75%' },
    ])
  })
})

test('a field that is empty is not sent', () => {
  const empty = { system: '', temperature: '', topP: '', maxTokens: '', seed: '', stop: '', json: false }
  expect(bodyOf('m', [], empty)).toEqual({
    model: 'm',
    messages: [],
    stream: true,
    stream_options: { include_usage: true },
  })
  expect(bodyOf('m', [], { ...empty, temperature: '0', maxTokens: '7', stop: 'a\n\nb' })).toMatchObject({
    temperature: 0,
    max_completion_tokens: 7,
    stop: ['a', 'b'],
  })
})
