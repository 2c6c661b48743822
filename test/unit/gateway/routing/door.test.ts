// Who is turned away at the door of the own fleet, and when they are told to come back.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ModelPolicy } from '../../../../gateway/policy/model-policy.ts'
import type { Expected } from '../../../../gateway/routing/decision.ts'
import { serviceOf, turnedAway } from '../../../../gateway/routing/door.ts'

const expected = (waitMs: number, over: Partial<Expected['prediction']> = {}, isMeasured = true): Expected => {
  const prediction = {
    waitMs,
    workMs: 500,
    ttftMs: waitMs + 500,
    itlMs: 20,
    itlAloneMs: 10,
    place: 'here',
    ...over,
  } as const
  return { row: 0, prediction, uncachedTokens: 500, matchedTokens: 0, load: 1, isMeasured, contextTokensMax: 8192 }
}
const first = (firstTokenMs: number, priority = 0) => ({ priority, targets: { firstTokenMs } })

describe('the door', () => {
  test.each<[string, Expected, number, Parameters<typeof turnedAway>[2], number | undefined]>([
    ['nothing is promised and time is left', expected(9000), 60_000, undefined, undefined],
    ['the deadline fits', expected(9000), 9500, undefined, undefined],
    ['the deadline does not fit', expected(9000), 5000, undefined, 4500],
    ['the promise fits', expected(1000), 60_000, first(1500), undefined],
    ['the promise does not fit', expected(4000), 60_000, first(1500), 3000],
    ['nobody has measured anything', expected(90_000, {}, false), 100, first(1), undefined],
    ['the fleet is idle, and too slow for the promise', expected(0, { ttftMs: 9000 }), 60_000, first(1500), undefined],
    [
      'a long prompt alone misses the promise, the queue does not',
      expected(1000, { ttftMs: 9000 }),
      60_000,
      first(1500),
      undefined,
    ],
    [
      'a long prompt misses the promise, and so does the queue',
      expected(2000, { ttftMs: 9000 }),
      60_000,
      first(1500),
      500,
    ],
    ['a higher class passes most of the queue', expected(4000), 60_000, first(1500, 10), undefined],
    ['a lower class is passed', expected(800), 60_000, first(1500, -10), 250],
    ['tokens come fast enough', expected(0), 60_000, { priority: 0, targets: { interTokenMs: 25 } }, undefined],
    [
      'tokens come too slowly for all who are there',
      expected(0),
      60_000,
      { priority: 0, targets: { interTokenMs: 15 } },
      1280,
    ],
    [
      'tokens come too slowly for one alone',
      expected(0),
      60_000,
      { priority: 0, targets: { interTokenMs: 5 } },
      undefined,
    ],
  ])('when %s', (_, best, deadlineInMs, service, retryAfterMs) => {
    const failure = turnedAway(best, deadlineInMs, service)
    expect(failure?.retryAfterMs).toBe(retryAfterMs)
    if (failure !== undefined) expect(failure).toMatchObject({ code: 'overloaded', kind: 'overloaded' })
  })

  test('never turns away from an idle fleet, names a time within bounds, and lets higher classes in where it lets lower ones', () => {
    const figure = fc.integer({ min: 1, max: 100_000 })
    fc.assert(
      fc.property(figure, figure, figure, figure, (waitMs, workMs, deadlineInMs, firstTokenMs) => {
        const best = (wait: number) => expected(wait, { workMs, ttftMs: wait + workMs, itlMs: 10 })
        expect(turnedAway(best(0), deadlineInMs, first(firstTokenMs))).toBeUndefined()
        const [low, middle, high] = [-1, 0, 1].map((priority) =>
          turnedAway(best(waitMs), deadlineInMs, first(firstTokenMs, priority)),
        )
        if (low === undefined) expect(middle).toBeUndefined()
        if (middle === undefined) expect(high).toBeUndefined()
        for (const one of [low, middle, high]) {
          if (one === undefined) continue
          expect(one.retryAfterMs).toBeGreaterThanOrEqual(250)
          expect(one.retryAfterMs).toBeLessThanOrEqual(60_000)
        }
      }),
    )
  })

  test('knows what a policy promises', () => {
    expect(serviceOf(ModelPolicy.parse({}))).toBeUndefined()
    expect(serviceOf(ModelPolicy.parse({ priority: 5 }))).toEqual({ priority: 5 })
    const policy = ModelPolicy.parse({ first_token_target_ms: 2000, inter_token_target_ms: 50 })
    expect(serviceOf(policy)).toEqual({ priority: 0, targets: { firstTokenMs: 2000, interTokenMs: 50 } })
    expect(ModelPolicy.safeParse({ priority: 101 }).success).toBe(false)
    expect(ModelPolicy.safeParse({ first_token_target_ms: 0 }).success).toBe(false)
  })
})
