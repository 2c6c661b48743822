import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  BLOCK_EVENT_KINDS,
  encodeFrame,
  FINISH_REASONS,
  FRAME_BODY_BYTES_MAX,
  FRAME_HEADER_BYTES,
  type Frame,
  FrameDecoder,
  FrameError,
  POOLINGS,
  REJECT_CODES,
} from '../../../protocol/engine-frames.ts'
import { RESERVE_CODES } from '../../../protocol/engine-handoff.ts'
import { GRAMMAR_KINDS } from '../../../protocol/engine-sampling.ts'

type Golden = { hex: string; frame: Record<string, unknown> }

const goldens: { bytes: Uint8Array; frame: Frame }[] = (
  JSON.parse(
    readFileSync(new URL('../../../protocol/engine-frames.golden.json', import.meta.url), 'utf8'),
    // JSON has neither 64-bit integers nor bytes: the file writes strings that end in n, and lists of numbers.
    (key, value: unknown) => {
      if (key === 'bytes' || key === 'secret') return Uint8Array.from(value as number[])
      return typeof value === 'string' && /^-?\d+n$/.test(value) ? BigInt(value.slice(0, -1)) : value
    },
  ) as Golden[]
).map(({ hex, frame }) => ({ bytes: Uint8Array.from(Buffer.from(hex, 'hex')), frame: frame as unknown as Frame }))

test('the golden file covers every frame type', () => {
  const types = new Set(goldens.map(({ frame }) => frame.type))
  expect([...types].sort()).toEqual(
    'admitted blocks cancel credit embedding fatal finished hello ping pong push ready rejected release renew reserve reserved shutdown stats submit tokens transferred vocabulary'.split(
      ' ',
    ),
  )
})

test('every golden frame encodes to its bytes and decodes from them', () => {
  for (const { bytes, frame } of goldens) {
    expect(Buffer.from(encodeFrame(frame)).toString('hex')).toBe(Buffer.from(bytes).toString('hex'))
    expect(new FrameDecoder().push(bytes)).toEqual([frame])
  }
})

test('frames arrive whole however the stream is cut', () => {
  const stream = Buffer.concat(goldens.map(({ bytes }) => bytes))
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1 }), (sizes) => {
      const decoder = new FrameDecoder()
      const frames: Frame[] = []
      let at = 0
      for (let i = 0; at < stream.length; i++) {
        const size = sizes[i % sizes.length] ?? 1
        frames.push(...decoder.push(stream.subarray(at, at + size)))
        at += size
      }
      expect(frames).toEqual(goldens.map(({ frame }) => frame))
    }),
    { numRuns: 50 },
  )
})

test('a body cut short by any number of bytes is refused, never guessed', () => {
  for (const { bytes } of goldens) {
    const bodyBytes = bytes.length - FRAME_HEADER_BYTES
    for (let kept = 0; kept < bodyBytes; kept++) {
      const cut = bytes.slice(0, FRAME_HEADER_BYTES + kept)
      new DataView(cut.buffer).setUint32(0, kept, true)
      expect(() => new FrameDecoder().push(cut)).toThrow(FrameError)
    }
  }
})

test('bytes left over in a body are refused', () => {
  for (const { bytes } of goldens) {
    const longer = new Uint8Array(bytes.length + 1)
    longer.set(bytes)
    new DataView(longer.buffer).setUint32(0, longer.length - FRAME_HEADER_BYTES, true)
    expect(() => new FrameDecoder().push(longer)).toThrow(FrameError)
  }
})

test('a changed byte gives a frame or a FrameError, nothing else', () => {
  fc.assert(
    fc.property(fc.nat(goldens.length - 1), fc.nat(), fc.integer({ min: 1, max: 255 }), (which, where, change) => {
      const mutated = (goldens[which]?.bytes ?? new Uint8Array()).slice()
      const at = where % mutated.length
      mutated[at] = (mutated[at] ?? 0) ^ change
      try {
        new FrameDecoder().push(mutated)
      } catch (thrown) {
        expect(thrown).toBeInstanceOf(FrameError)
      }
    }),
    { numRuns: 3000 },
  )
})

test('any bytes at all give frames or a FrameError, nothing else', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      try {
        new FrameDecoder().push(bytes)
      } catch (thrown) {
        expect(thrown).toBeInstanceOf(FrameError)
      }
    }),
    { numRuns: 2000 },
  )
})

test('a frame over the size limit is refused from its header alone', () => {
  const header = new Uint8Array(FRAME_HEADER_BYTES)
  new DataView(header.buffer).setUint32(0, FRAME_BODY_BYTES_MAX + 1, true)
  header.set([1, 5], 4)
  expect(() => new FrameDecoder().push(header)).toThrow(/limit/)
})

test('a list that claims more items than its frame can hold is refused before it is allocated', () => {
  const body = new Uint8Array(FRAME_HEADER_BYTES + 4)
  const view = new DataView(body.buffer)
  view.setUint32(0, 4, true)
  body.set([66, 5], 4)
  view.setUint32(FRAME_HEADER_BYTES, 0xffff_ffff, true)
  expect(() => new FrameDecoder().push(body)).toThrow(/does not fit/)
})

test('a float that is not finite is refused', () => {
  const bytes = encodeFrame({ type: 'tokens', tokens: [{ id: 1n, token: 2, logprob: 0, top: [] }] })
  new DataView(bytes.buffer).setFloat32(FRAME_HEADER_BYTES + 4 + 12, Number.NaN, true)
  expect(() => new FrameDecoder().push(bytes)).toThrow(/finite/)
})

test('a secret that is not 16 bytes is refused before it is sent', () => {
  const grant = { id: 1n, generation: 1n, secret: new Uint8Array(15) }
  expect(() => encodeFrame({ type: 'reserved', id: 1n, code: 'ok', grant, blocks: 1, cachedBlocks: 0 })).toThrow(
    FrameError,
  )
})

const u32 = fc.integer({ min: 0, max: 0xffff_ffff })
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })
const f32 = fc.float({ noNaN: true, noDefaultInfinity: true }).map((value) => value + 0)
const text = fc.string({ unit: 'grapheme' })
const top = fc.array(fc.record({ token: u32, logprob: f32 }), { maxLength: 5 })

const submit = fc.record({
  type: fc.constant('submit' as const),
  id: u64,
  prompt: fc.array(u32),
  maxNewTokens: u32,
  creditTokens: u32,
  temperature: f32,
  topP: f32,
  topK: u32,
  minP: f32,
  repetitionPenalty: f32,
  presencePenalty: f32,
  frequencyPenalty: f32,
  seed: u64,
  logprobsTop: fc.integer({ min: 0, max: 20 }),
  stopIds: fc.array(u32),
  bias: fc.array(fc.record({ id: u32, bias: f32 })),
  priority: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
  deadlineMs: u32,
  tenant: u64,
  salt: u64,
  pooling: fc.constantFrom(...POOLINGS),
  grammar: fc.record({ kind: fc.constantFrom(...GRAMMAR_KINDS), text }),
  reservation: fc.bigInt({ min: 1n, max: 2n ** 64n - 1n }),
  output: fc.array(u32, { minLength: 1 }),
})

const grant = fc.record({ id: u64, generation: u64, secret: fc.uint8Array({ minLength: 16, maxLength: 16 }) })
const handoff: fc.Arbitrary<Frame> = fc.oneof(
  fc.record({ type: fc.constant('reserve' as const), id: u64, tokens: fc.array(u32), salt: u64, leaseMs: u32 }),
  fc.record({ type: fc.constant('renew' as const), id: u64, leaseMs: u32 }),
  fc.record({ type: fc.constant('release' as const), id: u64 }),
  fc.record({
    type: fc.constant('push' as const),
    id: u64,
    tokens: fc.array(u32),
    firstBlock: u32,
    address: text,
    grant,
    priority: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
    deadlineMs: u32,
    tenant: u64,
    salt: u64,
  }),
  fc.record({
    type: fc.constant('reserved' as const),
    id: u64,
    code: fc.constantFrom(...RESERVE_CODES),
    grant,
    blocks: u32,
    cachedBlocks: u32,
  }),
  fc.record({ type: fc.constant('transferred' as const), id: u64, complete: fc.boolean() }),
)

const frame: fc.Arbitrary<Frame> = fc.oneof(
  fc.record({ type: fc.constant('hello' as const), protocol: u32 }),
  fc.record({ type: fc.constant('cancel' as const), id: u64 }),
  fc.record({ type: fc.constant('credit' as const), id: u64, tokens: u32 }),
  fc.record({ type: fc.constant('ping' as const), nonce: u64 }),
  fc.record({ type: fc.constant('pong' as const), nonce: u64 }),
  fc.record({ type: fc.constant('fatal' as const), message: text }),
  fc.record({ type: fc.constant('embedding' as const), id: u64, values: fc.array(f32) }),
  fc.record({
    type: fc.constant('blocks' as const),
    sequence: u64,
    events: fc.array(fc.record({ kind: fc.constantFrom(...BLOCK_EVENT_KINDS), hash: u64, parent: u64 })),
  }),
  fc.record({ type: fc.constant('admitted' as const), id: u64, cachedTokens: u32, hashes: fc.array(u64) }),
  fc.record({
    type: fc.constant('vocabulary' as const),
    tokens: fc.array(fc.record({ control: fc.boolean(), bytes: fc.uint8Array({ maxLength: 20 }) })),
    endIds: fc.array(u32),
  }),
  fc.record({
    type: fc.constant('tokens' as const),
    tokens: fc.array(fc.record({ id: u64, token: u32, logprob: f32, top })),
  }),
  fc.record({
    type: fc.constant('finished' as const),
    id: u64,
    reason: fc.constantFrom(...FINISH_REASONS),
    promptTokens: u32,
    cachedTokens: u32,
    outputTokens: u32,
  }),
  fc.record({
    type: fc.constant('rejected' as const),
    id: u64,
    code: fc.constantFrom(...REJECT_CODES),
    message: text,
  }),
)

test('what is encoded is what is decoded', () => {
  fc.assert(
    fc.property(fc.array(fc.oneof<fc.Arbitrary<Frame>[]>(frame, submit, handoff), { maxLength: 5 }), (frames) => {
      const bytes = Buffer.concat(frames.map((each) => encodeFrame(each)))
      expect(new FrameDecoder().push(bytes)).toEqual(frames)
    }),
    { numRuns: 500 },
  )
})
