import { expect, test } from 'vitest'
import { CapacityTracker } from '../../../backends/capacity.ts'
import { metricsText } from '../../../backends/metrics.ts'
import { CapacityFrame } from '../../../protocol/capacity.ts'
import type { Ready, Stats } from '../../../protocol/engine-frames.ts'

const READY: Ready = {
  type: 'ready',
  protocol: 1,
  epoch: 0xabcn,
  arch: 'llama',
  modelName: 'm',
  vocabSize: 100,
  contextTokens: 512,
  blockTokens: 16,
  blocksTotal: 64,
  sequencesMax: 8,
  stepTokensMax: 128,
  threads: 2,
  kvFingerprint: 'f',
  memoryBytesPerSecondMax: 0n,
  embeddingDims: 64,
  features: { grammars: false },
}
const STATS: Stats = {
  type: 'stats',
  step: 1n,
  blocksTotal: 64,
  blocksUsed: 32,
  blocksCached: 3,
  running: 2,
  waiting: 1,
  prefillTokensQueued: 70n,
  decodeKvTokens: 300n,
  stepUs: 4200,
  stepPrefillTokens: 0,
  stepDecodeTokens: 2,
  prefillTokensPerSecond: 0,
  decodeTokensPerSecond: 96.5,
  memoryBytesPerSecond: 0,
  preemptions: 0n,
  promptTokens: 0n,
  cachedTokens: 0n,
}

function tracker() {
  const load = { requestsQueued: 0, requestsQueuedMax: 9, draining: false }
  return { load, capacity: new CapacityTracker('model', () => load) }
}

test('there is no frame before the first engine', () => {
  expect(tracker().capacity.frame()).toBeUndefined()
})

test('a frame carries what the engine says, and leaves out what it has not measured', () => {
  const { capacity } = tracker()
  capacity.engineReady(READY)
  capacity.engineStats(STATS)
  const frame = CapacityFrame.parse(capacity.frame())
  expect(frame).toMatchObject({ epoch: '0000000000000abc', kvBlocksUsed: 32, stepMs: 4.2, sequencesRunning: 2 })
  expect(frame.measuredDecodeTokensPerSecond).toBe(96.5)
  expect(frame).not.toHaveProperty('measuredPrefillTokensPerSecond')
  expect(frame).not.toHaveProperty('memoryBytesPerSecondMax')
})

test('frames are numbered within an epoch, and a new engine begins a new one', () => {
  const { capacity } = tracker()
  capacity.engineReady(READY)
  expect([capacity.frame()?.sequence, capacity.frame()?.sequence]).toEqual([0, 1])
  capacity.engineDown()
  expect(capacity.frame()).toMatchObject({ draining: true, sequence: 2, sequencesRunning: 0 })
  capacity.engineReady({ ...READY, epoch: 5n })
  expect(capacity.frame()).toMatchObject({ draining: false, sequence: 0, epoch: '0000000000000005' })
})

test('the fingerprint changes with what a router decides by, and not with every step', () => {
  const { capacity, load } = tracker()
  capacity.engineReady(READY)
  capacity.engineStats(STATS)
  const before = capacity.fingerprint()
  capacity.engineStats({ ...STATS, step: 2n, decodeKvTokens: 301n, stepUs: 1 })
  expect(capacity.fingerprint()).toBe(before)
  capacity.engineStats({ ...STATS, running: 3 })
  expect(capacity.fingerprint()).not.toBe(before)
  capacity.engineStats({ ...STATS, blocksUsed: 60 })
  expect(capacity.fingerprint()).not.toBe(before)
  capacity.engineStats(STATS)
  load.requestsQueued = 1
  expect(capacity.fingerprint()).not.toBe(before)
})

test('metrics are one line per value with help and type', () => {
  const { capacity } = tracker()
  capacity.engineReady(READY)
  capacity.engineStats(STATS)
  const counters = {
    dispatches: 1,
    refusals: 2,
    failures: 3,
    inputTokens: 4,
    cachedInputTokens: 5,
    outputTokens: 6,
    engineRestarts: 7,
  }
  const text = metricsText(capacity.frame(), counters)
  expect(text).toContain('# TYPE penstock:kv_cache_usage_perc gauge\npenstock:kv_cache_usage_perc 0.5\n')
  expect(text).toContain('penstock_output_tokens_total 6\n')
  expect(metricsText(undefined, counters)).not.toContain('kv_cache')
})
