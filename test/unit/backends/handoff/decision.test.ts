import { describe, expect, test } from 'vitest'
import { isRemoteAddress, remoteAddress } from '../../../../backends/handoff/addresses.ts'
import {
  type Computer,
  decide,
  type Facts,
  type FarLoad,
  type Helper,
  tokenMs,
} from '../../../../backends/handoff/decision.ts'
import { bytesPerToken } from '../../../../backends/handoff/layout.ts'
import { MEASURED_FOR_MS, TransferMeter } from '../../../../backends/handoff/transfer-meter.ts'
import type { EngineRole } from '../../../../protocol/capacity.ts'

const MODEL = { baseMs: 5, prefillTokenMs: 2, decodeSequenceMs: 1, kvTokenMs: 0.001 }
const engine = (role: EngineRole, changes: Partial<Computer> = {}): Computer => ({
  role,
  model: MODEL,
  prefillTokensQueued: 0,
  decodingSequences: 0,
  decodeKvTokens: 0,
  stepTokens: { mixed: 64, alone: 128 },
  ...changes,
})
type Rest = { bytesPerSecond?: number; heldTokens?: number }
const near = (changes: Partial<Computer> = {}, rest: Rest & { load?: Computer } = {}): Helper => ({
  way: 'near',
  load: engine('prefill', changes),
  overheadMs: 4,
  heldTokens: 0,
  ...rest,
})
/** Of another host; what the gateway knows of it, or nothing. */
const far = (load?: Partial<FarLoad>, rest: Rest = {}): Helper => ({
  way: 'far',
  ...(load === undefined ? {} : { load: { prefillTokensQueued: 0, model: MODEL, ...load } }),
  overheadMs: 25,
  heldTokens: 0,
  ...rest,
})
const facts = (changes: Partial<Facts> = {}): Facts => ({
  wholeTokens: changes.missingTokens ?? 512,
  missingTokens: 512,
  missingBytes: 512 * 20_000,
  blockTokens: 16,
  leftMs: 60_000,
  own: engine('decode'),
  helpers: [near()],
  ...changes,
})
const busy = { decodingSequences: 4, decodeKvTokens: 4000 }

describe('a prompt', () => {
  const table: [string, Partial<Facts>, string][] = [
    ['goes from a decode engine to an idle prefill engine', {}, 'remote'],
    ['of fewer than four blocks stays', { missingTokens: 63, missingBytes: 63 * 20_000 }, 'short'],
    ['of which all is there stays', { missingTokens: 0, missingBytes: 0 }, 'short'],
    ['stays on an idle engine that does both', { own: engine('both') }, 'cheaper'],
    [
      'leaves an engine that does both for one that is idle, where it would disturb others',
      { own: engine('both', busy) },
      'remote',
    ],
    [
      'stays where the other one that does both is as busy',
      { own: engine('both', busy), helpers: [near(busy, { load: engine('both', busy) })] },
      'cheaper',
    ],
    [
      'stays where the prefill engine has a queue of its own',
      { helpers: [near({ prefillTokensQueued: 4096 })] },
      'cheaper',
    ],
    [
      'goes into a short queue where the decode engine is busy',
      { own: engine('decode', busy), helpers: [near({ prefillTokensQueued: 1024 })] },
      'remote',
    ],
    ['stays where the way is slow', { helpers: [near({}, { bytesPerSecond: 1e6 })] }, 'cheaper'],
    [
      'stays where the other engine computes slowly',
      { helpers: [near({ model: { ...MODEL, prefillTokenMs: 20 } })] },
      'cheaper',
    ],
    ['stays where another engine would compute anew what the decode engine has', { wholeTokens: 4096 }, 'cheaper'],
    [
      'goes where its beginning is held too',
      { wholeTokens: 4096, helpers: [near({}, { heldTokens: 3584 })] },
      'remote',
    ],
    ['stays where its deadline leaves no time for a second try', { leftMs: 1500 }, 'no_time'],
    ['that would pay misses a prefill engine where there is none', { helpers: [] }, 'nobody'],
    ['misses one of another host too', { helpers: [], missed: 'far' }, 'nobody'],
    [
      'that is short misses nobody of another host',
      { helpers: [], missed: 'far', missingTokens: 496, missingBytes: 0 },
      'cheaper',
    ],
    ['misses nothing on an engine that does both', { own: engine('both', busy), helpers: [] }, 'cheaper'],
    ['goes to another host that the gateway names', { helpers: [far()] }, 'remote'],
    [
      'stays where the gateway says that the other host is busy',
      { helpers: [far({ prefillTokensQueued: 4096 })] },
      'cheaper',
    ],
    [
      'stays where the gateway says that the other host is slow',
      { helpers: [far({ model: { ...MODEL, prefillTokenMs: 20 } })] },
      'cheaper',
    ],
    [
      'goes to another host that has its beginning',
      { wholeTokens: 4096, helpers: [far({}, { heldTokens: 3584 })] },
      'remote',
    ],
    [
      'stays where the network was measured to be slow',
      { helpers: [far(undefined, { bytesPerSecond: 2e6 })] },
      'cheaper',
    ],
  ]
  test.each(table)('%s', (_, changes, expected) => {
    const decision = decide(facts(changes))
    expect(decision.place === 'remote' ? 'remote' : decision.reason).toBe(expected)
  })

  test('is offered to those who pay, the cheapest first', () => {
    const helpers = [near({ prefillTokensQueued: 200 }), near({ prefillTokensQueued: 50_000 }), near(), near()]
    expect(decide(facts({ helpers }))).toMatchObject({ place: 'remote', helpers: [2, 3, 0] })
  })

  test('goes to one that nobody has measured yet, as if it were as fast as this engine', () => {
    const { model: _, ...unknown } = engine('prefill')
    const quick = engine('decode', { model: { ...MODEL, prefillTokenMs: 0.1 } })
    const idle: Helper = { way: 'far', load: { prefillTokensQueued: 0 }, overheadMs: 25, heldTokens: 0 }
    for (const helper of [near({}, { load: unknown }), idle, far()])
      expect(decide(facts({ own: quick, missingBytes: 1e5, helpers: [helper] })).place).toBe('remote')
    const busy = near({}, { load: { ...unknown, prefillTokensQueued: 5000 } })
    expect(decide(facts({ own: quick, missingBytes: 1e5, helpers: [busy] })).place).toBe('local')
  })

  test('is offered to hosts by their queues and speeds as the gateway knows them, and to unknown ones as if they were idle', () => {
    const helpers = [
      far({ prefillTokensQueued: 300 }),
      far(),
      far({ model: { ...MODEL, prefillTokenMs: 1 } }),
      far({ prefillTokensQueued: 100 }),
      far({ prefillTokensQueued: 50_000 }),
    ]
    expect(decide(facts({ helpers }))).toMatchObject({ place: 'remote', helpers: [2, 1, 3, 0], queueMs: 0 })
  })

  test('that pays goes on paying when more of it is missing', () => {
    const places = [64, 128, 256, 512, 1024, 4096].map(
      (missingTokens) => decide(facts({ missingTokens, missingBytes: missingTokens * 20_000 })).place,
    )
    expect([...places].sort()).toEqual(places)
    expect(places.at(-1)).toBe('remote')
  })

  test('is judged before anything is measured', () => {
    const { model: _, ...unknown } = engine('decode')
    expect(tokenMs(unknown)).toBe(1)
    expect(tokenMs({ prefillTokensPerSecond: 500 })).toBe(2)
    const { model: __, ...idle } = engine('prefill')
    expect(decide(facts({ own: unknown, helpers: [near({}, { load: idle })] }))).toMatchObject({
      place: 'remote',
    })
  })
})

test('the rate of the way counts newer hand-overs more, and is bounded where nothing was left over', () => {
  let nowMs = 1000
  const meter = new TransferMeter(() => nowMs)
  expect(meter.bytesPerSecond).toBeUndefined()
  meter.add(1e6, 0)
  expect(meter.bytesPerSecond).toBeCloseTo(1e11, -8)
  for (let at = 0; at < 200; at++) meter.add(1e6, 10)
  expect(meter.bytesPerSecond).toBeCloseTo(1e8, -6)
  meter.add(0, 10)
  meter.add(1e6, Number.NaN)
  expect(meter.bytesPerSecond).toBeCloseTo(1e8, -6)
  nowMs += MEASURED_FOR_MS + 1
  // A way that was slow once is tried again.
  expect(meter.bytesPerSecond).toBeUndefined()
})

test('a layout tells how large a token is, or nothing', () => {
  const layout = (type: string) => `llama;layers=30;kv_heads=3;head_dim=64;block_tokens=16;type=${type};k=dim.token`
  expect(bytesPerToken(layout('f16'))).toBe(2 * 30 * 3 * 64 * 2)
  expect(bytesPerToken(layout('q8_0'))).toBe((2 * 30 * 3 * 64 * 34) / 32)
  expect(bytesPerToken(layout('f8'))).toBe(0)
  expect(bytesPerToken('another engine')).toBe(0)
})

describe('of an engine’s addresses', () => {
  test.each([
    ['unix:/run/a b.sock tcp:10.0.0.1:7900', undefined, 'tcp:10.0.0.1:7900'],
    ['unix:/run/a tcp:odd.sock tcp:0.0.0.0:7900', 'tcp:10.0.0.9:80', 'tcp:10.0.0.9:80'],
    ['unix:/run/a.sock tcp:0.0.0.0:7900', undefined, undefined],
    ['tcp:[::]:7900', undefined, undefined],
    ['unix:/run/a.sock', 'tcp:10.0.0.9:80', undefined],
    ['', undefined, undefined],
  ])('%j other hosts get one that they can reach', (addresses, known, expected) => {
    expect(remoteAddress(addresses, known)).toBe(expected)
  })

  test.each([
    'unix:/run/a.sock',
    'tcp:localhost:80',
    'tcp:10.0.0.1:80 unix:/run/a.sock',
    'tcp:10.0.0.1',
    'http://10.0.0.1:80',
  ])('%j is none that a stranger may name', (address) => expect(isRemoteAddress(address, '10.0.0.2')).toBe(false))

  test.each(['tcp:10.0.0.1:7900', 'tcp:[fd00::1]:7900'])('%j is one', (address) => {
    expect(isRemoteAddress(address, '10.0.0.2')).toBe(true)
  })

  test.each([
    'tcp:127.0.0.1:80',
    'tcp:127.9.9.9:80',
    'tcp:[::1]:80',
    'tcp:[::ffff:7f00:1]:80',
    'tcp:[0:0:0:0:0:0:0:1]:80',
  ])('%j is for neighbours on this machine alone', (address) => {
    expect(isRemoteAddress(address, '10.0.0.2')).toBe(false)
    expect(isRemoteAddress(address, undefined)).toBe(false)
    expect(isRemoteAddress(address, '::ffff:127.0.0.1')).toBe(true)
  })

  test.each(['tcp:0.0.0.0:80', 'tcp:[::]:80', 'tcp:[::ffff:0.0.0.0]:80', 'tcp:256.1.1.1:80', 'tcp:1.1:80'])(
    '%j is no place',
    (address) => expect(isRemoteAddress(address, '127.0.0.1')).toBe(false),
  )
})
