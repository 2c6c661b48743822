import { describe, expect, test } from 'vitest'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'
import { Collector } from '../../../../gateway/stream/collect.ts'
import { type AnswerFilter, FilterChain } from '../../../../gateway/stream/filter.ts'
import { replay } from '../../../../gateway/stream/replay.ts'
import { Tally } from '../../../../gateway/stream/tally.ts'
import { err, ok } from '../../../../protocol/result.ts'

const delta = (text: string): ProviderEvent => ({ type: 'delta', choice: 0, text, outputTokens: 1 })
const textOf = (events: ProviderEvent[]) => events.map((event) => (event.type === 'delta' ? event.text : '')).join('')

/** Holds back one batch, and says its name behind each. */
class Late implements AnswerFilter {
  readonly #name: string
  #held: ProviderEvent[] = []
  constructor(name: string) {
    this.#name = name
  }
  async push(batch: ProviderEvent[]) {
    const out = this.#held
    this.#held = [...batch, delta(this.#name)]
    return ok(out)
  }
  async end() {
    return ok(this.#held)
  }
}

describe('a chain of filters', () => {
  test('passes what one lets through to the next, held-back text included', async () => {
    const chain = new FilterChain([() => new Late('1'), () => new Late('2')])
    const out: ProviderEvent[] = []
    for (const batch of [[delta('a')], [delta('b')], [delta('c')]]) {
      const passed = await chain.push(batch)
      if (passed.ok) out.push(...passed.value)
    }
    const last = await chain.end()
    if (last.ok) out.push(...last.value)
    expect(textOf(out)).toBe('a12b12c12')
  })

  test('a refusal ends it', async () => {
    const failure = { code: 'content_filtered', message: 'no' } as const
    const refusing: AnswerFilter = { push: async () => err(failure), end: async () => ok([]) }
    const chain = new FilterChain([() => refusing, () => new Late('x')])
    expect(await chain.push([delta('a')])).toEqual(err(failure))
    expect(await new FilterChain([() => new Late('1'), () => ({ ...refusing })]).end()).toEqual(ok([]))
  })
})

test('an answer that was collected comes out of its replay as it was', () => {
  const events: ProviderEvent[] = [
    { type: 'accepted', usage: new Tally().counted().usage },
    { type: 'thought', choice: 0, text: 'hm', outputTokens: 1, seal: { by: 'x', value: 'sealed' } },
    delta('Hel'),
    delta('lo'),
    { type: 'tool_call', choice: 0, call: 0, id: 'c0', name: 'f', arguments: '{"a"', outputTokens: 4 },
    { type: 'tool_call', choice: 0, call: 0, arguments: ':1}', outputTokens: 5 },
    { type: 'tool_call', choice: 0, call: 1, id: 'c1', name: 'g', arguments: '{}', outputTokens: 6 },
    { type: 'finish', choice: 0, reason: 'tool_calls', outputTokens: 6 },
    { type: 'refusal', choice: 1, text: 'no', outputTokens: 1 },
    { type: 'finish', choice: 1, reason: 'stop', outputTokens: 1, stopString: 'END' },
  ]
  const tally = new Tally()
  const collect = (from: ProviderEvent[]) => {
    const collector = new Collector()
    for (const event of from) collector.see(event)
    return collector.complete(2)
  }
  for (const event of events) tally.see(event)
  const choices = collect(events)
  if (choices === undefined) throw new Error('incomplete')
  const again = replay(choices, tally)
  expect(collect(again)).toEqual(choices)
  // The counts are the first stream's: nothing here counts as tokens again.
  const second = new Tally()
  for (const event of again) second.see(event)
  expect(second.counted().usage).toEqual(new Tally().counted().usage)
})
