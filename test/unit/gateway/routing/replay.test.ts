// A small made trace whose rows all begin alike, over eight workers, through the gateway's own routing: the trap that sends
// everything to one worker whoever follows the longest match alone.
import { describe, expect, test } from 'vitest'
import { type ReplayOptions, replay } from '../../../../bench/routing/replay.ts'
import { ceiling, madeTrace } from '../../../../bench/routing/trace.ts'

const options: Omit<ReplayOptions, 'rule'> = {
  workers: 8,
  worker: { prefillTokensPerSecond: 8000, cacheBlocks: Number.POSITIVE_INFINITY, sequencesMax: 256, kvTokensMax: 2e6 },
  isolates: 2,
  seed: 3,
}

describe('a trace that begins with one block in every row', () => {
  const rows = madeTrace(300, 11, 4)
  const best = ceiling(rows)

  test('is routed to where its prefixes are, evenly', () => {
    const { hitRate, rowsSkew, workSkew } = replay(rows, { ...options, rule: 'penstock' })
    expect(hitRate).toBeGreaterThanOrEqual(0.9 * best)
    expect(hitRate).toBeLessThanOrEqual(best + 0.02)
    expect(rowsSkew).toBeLessThanOrEqual(1.25)
    expect(workSkew).toBeLessThanOrEqual(1.25)
  })

  test('shows the trap: the longest prefix alone uses one worker', () => {
    expect(replay(rows, { ...options, rule: 'longest prefix' })).toMatchObject({ rowsSkew: 8 })
  })

  test('is answered sooner than by turns or by load alone', () => {
    const ours = replay(rows, { ...options, rule: 'penstock' })
    for (const rule of ['round robin', 'least load'] as const) {
      const theirs = replay(rows, { ...options, rule })
      expect(ours.hitRate).toBeGreaterThan(theirs.hitRate)
      expect(ours.ttftMeanMs).toBeLessThan(theirs.ttftMeanMs)
    }
  })

  test('gives the same figures for the same seed', () => {
    expect(replay(rows, { ...options, rule: 'penstock' })).toEqual(replay(rows, { ...options, rule: 'penstock' }))
  })
})
