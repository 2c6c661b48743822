import { describe, expect, test } from 'vitest'
import { CapacityTracker } from '../../../backends/capacity.ts'
import { HANDOVER_OUTCOMES, type HandoverOutcome } from '../../../backends/handoff/handover.ts'
import { metricsText } from '../../../backends/metrics.ts'
import { CapacityFrame } from '../../../protocol/capacity.ts'
import type { Ready, Stats } from '../../../protocol/engine-status.ts'

const READY: Ready = {
  type: 'ready',
  protocol: 2,
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
  macsPerSecondMax: 0n,
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
  macsPerSecond: 0,
  busyShare: 0,
  preemptions: 0n,
  promptTokens: 0n,
  cachedTokens: 0n,
}

function tracker() {
  const load = { requestsQueued: 0, requestsQueuedMax: 9, draining: false, prefixBlocks: 0, role: 'both' as const }
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

test('a frame says what the machine can do at best, and how near to it the engine is', () => {
  const { capacity } = tracker()
  capacity.engineReady({
    ...READY,
    memoryBytesPerSecondMax: 20_000_000_000n,
    macType: 'int8',
    macsPerSecondMax: 5_000_000_000n,
  })
  capacity.engineStats({ ...STATS, memoryBytesPerSecond: 1e10, macsPerSecond: 4e9, busyShare: 0.504 })
  expect(CapacityFrame.parse(capacity.frame())).toMatchObject({
    memoryBytesPerSecond: 1e10,
    memoryBytesPerSecondMax: 2e10,
    macs: [4, 5, 1],
    busyShare: 0.5,
  })
  capacity.engineReady(READY)
  for (const name of ['macs', 'busyShare']) expect(capacity.frame()).not.toHaveProperty(name)
})

test('an engine whose answers are wrong takes no work, and its frame says why', () => {
  const { capacity, load } = tracker()
  capacity.engineReady(READY)
  const before = capacity.fingerprint()
  expect(capacity.frame()).not.toHaveProperty('notReady')
  Object.assign(load, { fault: 'canary_wrong', canaryFailures: 2 })
  expect(CapacityFrame.parse(capacity.frame())).toMatchObject({
    draining: true,
    notReady: 'canary_wrong',
    canaryFailures: 2,
  })
  expect(capacity.fingerprint()).not.toBe(before)
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

test('cached blocks are those of the prefix cache, in use or not', () => {
  const { capacity, load } = tracker()
  capacity.engineReady(READY)
  load.prefixBlocks = 40
  expect(capacity.frame()).toMatchObject({ kvBlocksCached: 40 })
})

describe('metrics', () => {
  const counters = {
    dispatches: 1,
    refusals: 2,
    failures: 3,
    inputTokens: 4,
    cachedInputTokens: 5,
    outputTokens: 6,
    engineRestarts: 7,
  }
  const numbers = () => {
    const { capacity } = tracker()
    capacity.engineReady(READY)
    capacity.engineStats(STATS)
    const stats = { ...STATS, preemptions: 2n, promptTokens: 90n, cachedTokens: 64n }
    const outcomes = Object.fromEntries(HANDOVER_OUTCOMES.map((outcome) => [outcome, 0])) as Record<
      HandoverOutcome,
      number
    >
    const handoffs = { outcomes, tokens: 0, bytes: 0, degraded: 0, pushed: 0, pushesRefused: 0 }
    const canary = { passed: 9, wrong: 1, timeouts: 0, cancelled: 2 }
    const engine = { frame: capacity.frame(), stats, reservations: 3, canary }
    return { model: 'a "model"', engines: [engine], counters, handoffs }
  }

  test('are one line per value, with help, type and the model', () => {
    const text = metricsText(numbers())
    const sample = '# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{model_name="a \\"model\\""} 0.5\n'
    expect(text).toContain(sample)
    expect(text).toMatch(/^penstock_output_tokens_total\{.*\} 6$/m)
    for (const block of text.trimEnd().split('# HELP ').slice(1)) {
      const [head = '', type, ...values] = block.trimEnd().split('\n')
      const name = head.split(' ')[0]
      expect(type).toMatch(new RegExp(`^# TYPE ${name} (gauge|counter)$`))
      expect(values.length).toBeGreaterThan(0)
      for (const value of values) expect(value).toMatch(new RegExp(`^${name}\\{.*\\} \\d+(\\.\\d+)?$`))
    }
  })

  test('tell several engines apart, and say what became of prompts that were to be handed over', () => {
    const { engines, handoffs, ...rest } = numbers()
    const named = ['prefill-0', 'decode-0'].flatMap((name) => engines.map((engine) => ({ ...engine, name })))
    const text = metricsText({ ...rest, engines: named, handoffs: { ...handoffs, degraded: 4 } })
    expect(text).toContain('penstock_reservations{model_name="a \\"model\\"",engine="decode-0"} 3\n')
    expect(text.match(/^# TYPE penstock_reservations /gm)).toHaveLength(1)
    expect(text).toContain('outcome="arrived"} 0\n')
    expect(text).toMatch(/^penstock_prefill_degraded_total\{.*\} 4$/m)
  })

  test('count preemptions and what the prefix cache found', () => {
    const text = metricsText(numbers())
    expect(text).toMatch(/^vllm:num_preemptions_total\{.*\} 2$/m)
    expect(text).toMatch(/^vllm:prefix_cache_queries_total\{.*\} 90$/m)
    expect(text).toMatch(/^vllm:prefix_cache_hits_total\{.*\} 64$/m)
  })

  test('leave out what is not known before the first engine', () => {
    const { engines, ...rest } = numbers()
    const unknown = engines.map(({ canary }) => ({ frame: undefined, stats: undefined, reservations: 0, canary }))
    const text = metricsText({ ...rest, engines: unknown })
    expect(text).not.toContain('vllm:')
    expect(text).toContain('penstock_dispatches_total')
  })
})
