// What a run's journal leaves to its next life, and what it does not: its bound holds over all lives together, and what an answer has
// used is there where no entries tell it.
import { describe, expect, test } from 'vitest'
import { NO_USAGE } from '../../../../gateway/meter/usage.ts'
import type { Target } from '../../../../gateway/policy/plan.ts'
import { type KeptRun, keptOf, leftOf, RunJournal, type Written } from '../../../../gateway/runs/run-journal.ts'
import type { DispatchEvent } from '../../../../protocol/dispatch.ts'
import type { InferenceRequest } from '../../../../protocol/request.ts'

const request = { model: 'm', input: { kind: 'chat', messages: [] }, tools: [] } as unknown as InferenceRequest
const targetOf = (provider: string) => ({ provider, model: 'm' }) as Target
const text = (chars: number, outputTokens: number): DispatchEvent => ({
  type: 'delta',
  choice: 0,
  text: 'x'.repeat(chars),
  outputTokens,
})
const MIB = 1024 * 1024

/** A life of a run over what those before it have written. */
function life(written: Written, work: (journal: RunJournal) => void): Written {
  const before: KeptRun | undefined = keptOf(written, request, true)
  const journal = new RunJournal(
    () => 1000,
    () => {},
    before,
  )
  work(journal)
  const news = journal.take()
  if (news === undefined) return written
  return { head: news.head ?? written.head, entries: (news.isAnew ? '' : written.entries) + news.entries }
}
const BLANK: Written = { head: '', entries: '' }
const began = (provider: string) => (journal: RunJournal) => journal.began(1, targetOf(provider))

describe('the bound of a journal', () => {
  const speaks = (mib: number) => (journal: RunJournal) => {
    journal.began(1, targetOf('fleet'))
    for (let told = 0; told < mib; told++) journal.told(1, [text(MIB, told + 1)])
  }

  test('holds over the lives of a run', () => {
    const first = life(BLANK, speaks(20))
    expect(keptOf(first, request, true)?.chars).toBe(first.entries.length)
    const second = life(first, speaks(11))
    expect(keptOf(second, request, true)).toBeDefined()
    const third = life(second, speaks(2))
    expect(keptOf(third, request, true)).toBeUndefined()
    expect(third.entries).toBe('')
  })

  test('is of one attempt: another one begins anew', () => {
    const written = life(life(BLANK, speaks(20)), (journal) => {
      journal.began(2, targetOf('fleet'))
      for (let told = 0; told < 20; told++) journal.told(2, [text(MIB, told + 1)])
    })
    expect(keptOf(written, request, true)?.kept.attempt).toBe(2)
  })
})

describe('what is left of an attempt', () => {
  const usage = { ...NO_USAGE, inputUncached: 5, outputText: 3 }

  test('is nothing before one has begun', () => {
    expect(leftOf(BLANK, request)).toBeUndefined()
  })

  test('of an own backend is what it told, and who told it last', () => {
    const written = life(life(BLANK, began('fleet')), (journal) => {
      journal.leg(1, { leg: 'one', seed: 1 }, true)
      const accepted = { inputTokens: 7, cachedInputTokens: 0, outputTokens: 0 }
      journal.told(1, [{ type: 'accepted', usage: accepted, queueMs: 0 }, text(3, 2)])
      journal.leg(1, { leg: 'two', seed: 1 }, false)
      journal.counted(1, usage, true)
    })
    expect(leftOf(written, request)).toMatchObject({
      attempt: 1,
      counted: { usage: { inputUncached: 7, outputText: 2 }, source: 'stream_partial' },
      isFree: false,
      backendId: 'two',
    })
  })

  test('of a vendor is what was counted last, by its own policy', () => {
    const written = life(life(BLANK, began('vendor')), (journal) => {
      journal.counted(1, { ...usage, outputText: 1 }, true)
      journal.counted(1, usage, true)
      // A trial beside it, whose answer nobody gets.
      journal.began(2, undefined)
      journal.counted(2, NO_USAGE, false)
    })
    const left = { attempt: 1, counted: { usage, source: 'stream_partial' }, isFree: true, firstTokenAtMs: 1000 }
    expect(leftOf(written, request)).toEqual(left)
    expect(keptOf(written, request, false)?.kept).not.toHaveProperty('counted')
    // Asked again it counts from its beginning.
    expect(leftOf(life(written, began('vendor')), request)).toMatchObject({ counted: { usage: NO_USAGE } })
  })

  test('of more than is kept is what was counted since, and before that unknown', () => {
    const lost = life(life(BLANK, began('fleet')), (journal) => {
      journal.told(1, [text(MIB, 1)])
      journal.lose()
    })
    expect(leftOf(lost, request)).toBeUndefined()
    const counted = life(BLANK, (journal) => {
      journal.began(1, targetOf('fleet'))
      journal.lose()
      journal.counted(1, usage, false)
    })
    expect(leftOf(counted, request)).toMatchObject({ counted: { usage } })
  })
})
