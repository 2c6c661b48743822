import { describe, expect, test } from 'vitest'
import { AnswerGatherer, decodeAnswer, encodeAnswer } from '../../../../gateway/cache/stored-answer.ts'
import { NO_USAGE } from '../../../../gateway/meter/usage.ts'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'

const USAGE: ProviderEvent = {
  type: 'usage',
  usage: { ...NO_USAGE, inputUncached: 7, inputCacheRead: 1, outputText: 3 },
}
const text = (words: string, choice = 0): ProviderEvent => ({ type: 'delta', choice, text: words, outputTokens: 1 })
const finish = (reason: 'stop' | 'length' | 'content_filter' | 'tool_calls' = 'stop', choice = 0): ProviderEvent => ({
  type: 'finish',
  choice,
  reason,
  outputTokens: 3,
})

function gather(events: ProviderEvent[], { count = 1, mayBeCut = false, charsMax = 1_000 } = {}) {
  const gatherer = new AnswerGatherer(charsMax)
  for (const event of events) gatherer.see(event)
  return gatherer.complete(count, mayBeCut)
}

describe('an answer that is kept', () => {
  test('has its pieces joined, its counts at zero and what it took beside it', () => {
    const answer = gather([
      { type: 'accepted', usage: NO_USAGE },
      { type: 'thought', choice: 0, text: 'Hm', outputTokens: 1 },
      { type: 'thought', choice: 0, text: '.', outputTokens: 2, seal: { by: 'x', value: 's1' } },
      { type: 'thought', choice: 0, text: 'So', outputTokens: 2 },
      text('a'),
      text(''),
      text('b'),
      { type: 'tool_call', choice: 0, call: 0, id: 'c1', name: 'look', arguments: '{"a"', outputTokens: 2 },
      { type: 'tool_call', choice: 0, call: 0, arguments: ':1}', outputTokens: 3 },
      { type: 'tool_call', choice: 0, call: 1, id: 'c2', name: 'look', arguments: '{}', outputTokens: 3 },
      finish('tool_calls'),
      USAGE,
    ])
    expect(answer).toEqual({
      events: [
        { type: 'thought', choice: 0, text: 'Hm.', outputTokens: 0, seal: { by: 'x', value: 's1' } },
        { type: 'thought', choice: 0, text: 'So', outputTokens: 0 },
        { type: 'delta', choice: 0, text: 'ab', outputTokens: 0 },
        { type: 'tool_call', choice: 0, call: 0, id: 'c1', name: 'look', arguments: '{"a":1}', outputTokens: 0 },
        { type: 'tool_call', choice: 0, call: 1, id: 'c2', name: 'look', arguments: '{}', outputTokens: 0 },
        { type: 'finish', choice: 0, reason: 'tool_calls', outputTokens: 0 },
      ],
      tokens: { input: 8, output: 3 },
    })
    if (answer !== undefined) expect(decodeAnswer(encodeAnswer(answer))).toEqual(answer)
  })

  test('has its choices one after the other, however they came', () => {
    const answer = gather([text('b1', 1), text('a1'), text('b2', 1), text('a2'), finish('stop', 1), finish()], {
      count: 2,
    })
    expect(answer?.events.map((event) => ('text' in event ? event.text : event.type))).toEqual([
      'a1a2',
      'finish',
      'b1b2',
      'finish',
    ])
  })

  test('may be vectors', () => {
    const events: ProviderEvent[] = [{ type: 'embedding', choice: 0, values: 'AAAA' }, USAGE]
    expect(gather(events)?.events).toEqual([events[0]])
  })

  test('does not change the events that it saw', () => {
    const first = text('a')
    gather([first, text('b'), finish()])
    expect(first).toEqual(text('a'))
  })
})

describe('an answer that is not kept', () => {
  test.each<[string, ProviderEvent[]]>([
    ['has a choice without an end', [text('a'), USAGE]],
    ['says nothing', [finish(), USAGE]],
    ['was withheld by a filter', [text('a'), finish('content_filter')]],
    ['is a refusal', [{ type: 'refusal', choice: 0, text: 'no', outputTokens: 1 }, finish()]],
    ['broke off', [text('a'), finish(), { type: 'error', failure: { code: 'upstream_error', message: '' } }]],
    ['was cut by its target', [text('a'), finish('length')]],
    ['is too long', [text('x'.repeat(600)), text('x'.repeat(600)), finish()]],
  ])('%s', (_, events) => {
    expect(gather(events)).toBeUndefined()
  })

  test('except where the cut is what the caller asked for', () => {
    expect(gather([text('a'), finish('length')], { mayBeCut: true })?.events).toHaveLength(2)
  })
})
