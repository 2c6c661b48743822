// The fleet's sums, its lines of the last minutes, and what a change would do.
import { describe, expect, test } from 'vitest'
import type { Backend, Engine } from '../../../dashboard/app/wire-admin.ts'
import {
  cachedOnly,
  leftAlone,
  loadOf,
  macs,
  pendingOf,
  predictedStepMs,
  rolesAfter,
  unreadyText,
  unservedWith,
} from '../../../dashboard/pages/fleet/figures.ts'
import { line, recorded } from '../../../dashboard/pages/fleet/history.ts'

const engine = (change: Partial<Engine> = {}): Engine => ({
  model: 'm',
  engine: 'decode-0',
  role: 'decode',
  draining: false,
  context_tokens: 4096,
  requests_queued: 0,
  requests_queued_max: 64,
  sequences_running: 0,
  sequences_waiting: 0,
  sequences_max: 8,
  kv_blocks_used: 0,
  kv_blocks_cached: 0,
  kv_blocks_total: 100,
  block_tokens: 16,
  prefill_tokens_queued: 0,
  decode_kv_tokens: 0,
  step_ms: 0,
  prefill_tokens_per_second: null,
  decode_tokens_per_second: null,
  memory_bytes_per_second: null,
  memory_bytes_per_second_max: null,
  macs_per_second: null,
  macs_per_second_max: null,
  macs_type: null,
  busy_share: null,
  ready: true,
  not_ready_reason: null,
  transfer: null,
  step_model: null,
  ...change,
})
const backend = (id: string, change: Partial<Backend> = {}): Backend => ({
  id,
  url: `http://${id}.example`,
  label: id,
  enrolled_at: '2026-11-22T10:00:00Z',
  state: 'live',
  report_age_ms: 300,
  desired: null,
  kv_chunks: 0,
  kv_chunks_left_out: 0,
  models: [engine()],
  ...change,
})

describe('sums', () => {
  test('bandwidth is summed over engines that run and have measured it', () => {
    const load = loadOf([
      engine({ sequences_running: 2, memory_bytes_per_second: 30, memory_bytes_per_second_max: 100 }),
      engine({ sequences_running: 1, memory_bytes_per_second: 10, memory_bytes_per_second_max: null }),
      engine({ sequences_running: 0, memory_bytes_per_second: 90, memory_bytes_per_second_max: 100 }),
    ])
    expect(load).toMatchObject({ running: 3, bandwidth: 30, bandwidthMax: 100 })
    expect(loadOf([engine()])).toMatchObject({ bandwidth: undefined, bandwidthMax: undefined })
  })

  test('arithmetic is summed over engines that computed prompts of late and know their ceiling', () => {
    const load = loadOf([
      engine({ macs_per_second: 30e9, macs_per_second_max: 100e9 }),
      engine({ macs_per_second: 10e9 }),
      engine({ macs_per_second_max: 100e9 }),
    ])
    expect(load).toMatchObject({ arithmetic: 30e9, arithmeticMax: 100e9 })
    expect(loadOf([engine()])).toMatchObject({ arithmetic: undefined, arithmeticMax: undefined })
    expect([macs(30e9), macs(1.24e12), macs(0.4e9)]).toEqual(['30 GMAC/s', '1.2 TMAC/s', '0.4 GMAC/s'])
  })

  test('an engine that lives and is given nothing says why', () => {
    expect(unreadyText(engine())).toBeUndefined()
    expect(unreadyText(engine({ ready: false, not_ready_reason: 'canary_wrong' }))).toContain('failed')
    expect(unreadyText(engine({ ready: false, not_ready_reason: 'canary_timeout' }))).toContain('no answer')
  })

  test('cached blocks that sequences hold are counted once', () => {
    expect(cachedOnly(30, 50, 100)).toBe(20)
    expect(cachedOnly(50, 30, 100)).toBe(0)
    expect(cachedOnly(90, 200, 100)).toBe(10)
  })

  test('a step is predicted by the engine’s own model at its present load', () => {
    const step_model = { base_ms: 10, prefill_token_ms: 1, decode_sequence_ms: 2, kv_token_ms: 0.5 }
    expect(predictedStepMs(engine({ step_model, sequences_running: 3, decode_kv_tokens: 4 }))).toBe(18)
    expect(predictedStepMs(engine())).toBeUndefined()
  })
})

describe('what follows', () => {
  test('a model is left alone where no other live worker finishes requests of it', () => {
    const only = backend('a')
    const prefill = backend('b', { models: [engine({ role: 'prefill' })] })
    const silent = backend('c', { state: 'stale' })
    expect(leftAlone([only, prefill, silent], only)).toEqual(['m'])
    expect(leftAlone([only, prefill, backend('d')], only)).toEqual([])
    expect(leftAlone([only, prefill], prefill)).toEqual([])
  })

  test('roles that would leave nobody to finish requests are told', () => {
    const only = backend('a', { models: [engine(), engine({ engine: 'prefill-0', role: 'prefill' })] })
    expect(unservedWith([only], only, { 'decode-0': 'prefill' })).toEqual(['m'])
    expect(unservedWith([only], only, { 'decode-0': 'prefill', 'prefill-0': 'both' })).toEqual([])
    expect(unservedWith([only, backend('b')], only, { 'decode-0': 'prefill' })).toEqual([])
  })

  test('roles asked for before stay, and one can be taken back', () => {
    expect(rolesAfter({ a: 'both' }, { b: 'prefill' })).toEqual({ a: 'both', b: 'prefill' })
    expect(rolesAfter({ a: 'both', b: 'prefill' }, { a: 'start' })).toEqual({ b: 'prefill' })
  })

  test('what was asked for and has not come about is pending', () => {
    const desired = { revision: 1, draining: true, roles: { 'decode-0': 'both' as const } }
    expect(pendingOf(backend('a', { desired }))).toEqual(['Asked to drain', 'decode-0 asked to be both'])
    expect(pendingOf(backend('a', { desired: null }))).toEqual([])
    const done = backend('a', { desired, state: 'draining', models: [engine({ role: 'both', draining: true })] })
    expect(pendingOf(done)).toEqual([])
  })
})

describe('lines of the last minutes', () => {
  const running = (sequences: number) => [backend('a', { models: [engine({ sequences_running: sequences })] })]
  const runningLine = (history: ReturnType<typeof recorded>) => line(history, ({ all }) => all.running)

  test('a second is one value, one that was skipped holds the value before, and more of them are a gap', () => {
    let history = recorded([], running(1), 10_000)
    history = recorded(history, running(2), 10_400)
    history = recorded(history, running(5), 12_000)
    history = recorded(history, running(3), 16_000)
    expect(runningLine(history).slice(-8)).toEqual([undefined, 2, 2, 5, undefined, undefined, undefined, 3])
    expect(runningLine(history)).toHaveLength(60)
  })

  test('no more than five minutes are kept', () => {
    let history = recorded([], running(1), 0)
    for (let second = 1; second <= 400; second++) history = recorded(history, running(second), second * 1_000)
    expect(history).toHaveLength(300)
    expect(runningLine(history)).toHaveLength(300)
    expect(runningLine(history).at(0)).toBe(101)
  })

  test('workers that do not report are in no sum', () => {
    const silent = backend('b', { state: 'stale', models: [engine({ sequences_running: 7 })] })
    expect(runningLine(recorded([], [...running(1), silent], 0)).at(-1)).toBe(1)
  })
})
