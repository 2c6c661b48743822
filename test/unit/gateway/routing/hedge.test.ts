// Goal: of two attempts beside each other the one that lost is charged to whoever ended it: the caller where the other one was
// quicker, the gateway where it had failed by itself.
import { expect, test } from 'vitest'
import { hedged } from '../../../../gateway/attempts/hedge.ts'
import type { Attempt, Job, Won } from '../../../../gateway/attempts/job.ts'
import { Stop } from '../../../../gateway/stream/stop.ts'
import type { Failure } from '../../../../protocol/errors.ts'
import { err, type Result } from '../../../../protocol/result.ts'

const broken: Failure = { code: 'upstream_error', message: 'broken', kind: 'broken_off' }

test('one that failed in the same moment in which the other answered has failed, and is not cancelled', async () => {
  const background: Promise<unknown>[] = []
  // The race looks at no more of a job and of an attempt.
  const job = { waitUntil: (work: Promise<unknown>) => background.push(work) } as unknown as Job
  const attemptOf = () =>
    ({ stop: new Stop(), firstTokenAtMs: undefined, onFirstContent: () => {} }) as unknown as Attempt
  const [first, second] = [attemptOf(), attemptOf()]
  const outcomes = new Map([first, second].map((one) => [one, Promise.withResolvers<Result<Won<string>, Failure>>()]))
  const failed: [Attempt, Failure][] = []
  const winner = await hedged<string>(job, first, {
    afterMs: 0,
    send: (attempt) => {
      if (attempt === second) {
        queueMicrotask(() => {
          second.onFirstContent()
          outcomes.get(first)?.resolve(err(broken))
        })
      }
      return { attempt, outcome: outcomes.get(attempt)?.promise ?? Promise.reject(new Error('not an attempt')) }
    },
    second: async () => second,
    onFailed: async (attempt, failure) => {
      failed.push([attempt, failure])
    },
  })
  await Promise.all(background)
  expect(winner.attempt).toBe(second)
  expect(failed).toEqual([[first, broken]])
})
