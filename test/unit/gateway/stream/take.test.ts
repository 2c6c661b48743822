// Goal: an upstream that shows that it is at work is waited for, a silent one is not, and what breaks off before anything passed
// the filters is the attempt's failure.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { ProviderEvent } from '../../../../gateway/providers/event.ts'
import { type AnswerFilter, FilterChain } from '../../../../gateway/stream/filter.ts'
import { EventReader } from '../../../../gateway/stream/reader.ts'
import { Stop, Stopped } from '../../../../gateway/stream/stop.ts'
import { type Taking, takeFirstContent, takeFirstPassed, takeRest, takeWhole } from '../../../../gateway/stream/take.ts'
import { Tally } from '../../../../gateway/stream/tally.ts'
import { err, ok } from '../../../../protocol/result.ts'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

const delta = (text: string, outputTokens: number): ProviderEvent => ({ type: 'delta', choice: 0, text, outputTokens })
const finish: ProviderEvent = { type: 'finish', choice: 0, reason: 'stop', outputTokens: 9 }

/** Batches with `everyMs` before each; nothing after them where `isStuck`. */
function takingOf(batches: ProviderEvent[][], everyMs: number, isStuck = false): Taking {
  async function* events() {
    for (const batch of batches) {
      await new Promise((resolve) => setTimeout(resolve, everyMs))
      yield batch
    }
    if (isStuck) await new Promise(() => {})
  }
  const stop = new Stop()
  const tally = new Tally()
  const reader = new EventReader({ label: 'x', events: events(), close: () => {} }, stop, tally)
  stop.arm(1000, 'first_content')
  return { reader, stop, tally, choices: 1, firstContentMs: 1000, idleMs: 1000, onProgress: () => {} }
}

/** What it comes to when all timers may run. */
async function outcomeOf<T>(taking: Promise<T>): Promise<T | string> {
  const outcome = taking.catch((error: unknown) => {
    if (error instanceof Stopped) return error.reason
    throw error
  })
  await vi.advanceTimersByTimeAsync(60_000)
  return outcome
}

const signs: ProviderEvent[][] = [[], [], [], []]

test('after the first content every batch is a sign of life, one without events too', async () => {
  const rest = takeRest(takingOf([...signs, [delta('x', 1), finish]], 700), [delta('a', 1)], async () => undefined)
  expect(await outcomeOf(rest)).toBeUndefined()
  const whole = takeWhole(takingOf([[delta('a', 1)], ...signs, [delta('x', 2), finish]], 700))
  expect(await outcomeOf(whole)).toMatchObject({ ok: true, value: [{ text: 'ax' }] })
  const stuck = takeRest(takingOf([...signs], 700, true), [delta('a', 1)], async () => undefined)
  expect(await outcomeOf(stuck)).toBe('idle')
})

test('a sign of life alone is no first content', async () => {
  expect(await outcomeOf(takeFirstContent(takingOf([...signs, [delta('x', 1)]], 700)))).toBe('first_content')
  expect(await outcomeOf(takeWhole(takingOf([...signs, [delta('x', 1), finish]], 700)))).toBe('first_content')
})

test('tokens that are counted and held back are waited for, as long as there are more of them', async () => {
  const growing = [1, 2, 3, 4].map((count) => [delta('', count)])
  const first = takeFirstContent(takingOf([...growing, [delta('x', 5)]], 700))
  expect(await outcomeOf(first)).toMatchObject({ ok: true, value: [delta('x', 5)] })
  const whole = takeWhole(takingOf([...growing, [delta('x', 5), finish]], 700))
  expect(await outcomeOf(whole)).toMatchObject({ ok: true, value: [{ text: 'x' }] })
  const still = [1, 1, 1, 1].map((count) => [delta('', count)])
  expect(await outcomeOf(takeFirstContent(takingOf([...still, [delta('x', 2)]], 700)))).toBe('first_content')
})

test('a target that fails before anything passed the filters has failed; a filter that refuses has answered', async () => {
  const held: AnswerFilter = { push: async () => ok([]), end: async () => ok([]) }
  const failure = { code: 'upstream_error', message: 'broken', kind: 'in_band' } as const
  const broken = takingOf([[{ type: 'error', failure }]], 10)
  expect(await outcomeOf(takeFirstPassed(broken, [delta('x', 1)], new FilterChain([() => held])))).toEqual(err(failure))
  const quiet = takeFirstPassed(takingOf([...signs], 700, true), [delta('x', 1)], new FilterChain([() => held]))
  expect(await outcomeOf(quiet)).toBe('idle')
  const refusal = { code: 'content_filtered', message: 'no' } as const
  const refusing: AnswerFilter = { push: async () => err(refusal), end: async () => ok([]) }
  const refused = takeFirstPassed(takingOf([], 10, true), [delta('x', 1)], new FilterChain([() => refusing]))
  expect(await outcomeOf(refused)).toEqual(ok({ passed: [], isOver: true, refusal }))
})
