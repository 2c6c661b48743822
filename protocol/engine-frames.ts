// Wire 5, agent ↔ engine: binary frames (engine-frames.md is the specification, the C++ side is native-engine/src/serve/frames.h).
// Owns encoding and decoding; the socket, credits policy and supervision are backends/engine.

import {
  HANDOFF_TYPE_CODES,
  type HandoffAgentFrame,
  type HandoffEngineFrame,
  readHandoff,
  writeHandoff,
} from './engine-handoff.ts'
import {
  readBias,
  readGrammar,
  readShape,
  type Sampling,
  writeBias,
  writeGrammar,
  writeLogprobs,
  writeShape,
} from './engine-sampling.ts'
import { type Ready, readReady, readStats, type Stats, writeReady, writeStats } from './engine-status.ts'
import { FrameError, FrameReader, FrameWriter } from './frame-bytes.ts'

export { FrameError }

export const ENGINE_PROTOCOL = 5
export const FRAME_HEADER_BYTES = 8
export const FRAME_BODY_BYTES_MAX = 16 * 1024 * 1024
const FRAME_VERSION = 5

export type TokenLogprob = { token: number; logprob: number }

export const POOLINGS = ['mean', 'last'] as const
export type Pooling = (typeof POOLINGS)[number]

export type Submit = Sampling & {
  type: 'submit'
  id: bigint
  prompt: number[]
  maxNewTokens: number
  creditTokens: number
  seed: bigint
  stopIds: number[]
  priority: number
  /** 0 = none. */
  deadlineMs: number
  tenant: bigint
  /** Prefix cache: only sequences with equal salts share blocks. */
  salt: bigint
  /** Absent: generate; else the prompt is embedded, and output and sampling are unused. */
  pooling?: Pooling
  /** Whose blocks and first token it takes over. */
  reservation?: bigint
  /** Sampled in an earlier life of the sequence, in another engine; counts as output and is not sent again. */
  output?: number[]
}

/** What grammars are made of: every id's bytes, and which ids end a generation. */
export type VocabularyFrame = {
  type: 'vocabulary'
  tokens: { control: boolean; bytes: Uint8Array }[]
  endIds: number[]
}

export type AgentFrame =
  | { type: 'hello'; protocol: number }
  | Submit
  | { type: 'cancel'; id: bigint }
  | { type: 'credit'; id: bigint; tokens: number }
  | { type: 'ping'; nonce: bigint }
  | { type: 'shutdown' }
  | VocabularyFrame
  | HandoffAgentFrame

export type SampledToken = { id: bigint; token: number; logprob: number; top: TokenLogprob[] }

export const FINISH_REASONS = ['stop', 'length', 'cancelled', 'deadline', 'internal', 'grammar', 'transfer'] as const
export type FinishReason = (typeof FINISH_REASONS)[number]
export const REJECT_CODES = ['invalid', 'too_long', 'queue_full', 'draining'] as const
export type RejectCode = (typeof REJECT_CODES)[number]

export type Finished = {
  type: 'finished'
  id: bigint
  reason: FinishReason
  promptTokens: number
  cachedTokens: number
  outputTokens: number
}

export const BLOCK_EVENT_KINDS = ['stored', 'removed', 'cleared'] as const
export type BlockEvent = { kind: (typeof BLOCK_EVENT_KINDS)[number]; hash: bigint; parent: bigint }

export type EngineFrame =
  | Ready
  | { type: 'tokens'; tokens: SampledToken[] }
  | Finished
  | { type: 'rejected'; id: bigint; code: RejectCode; message: string }
  | Stats
  | { type: 'pong'; nonce: bigint }
  | { type: 'fatal'; message: string }
  | { type: 'embedding'; id: bigint; values: number[] }
  | { type: 'blocks'; sequence: bigint; events: BlockEvent[] }
  | { type: 'admitted'; id: bigint; cachedTokens: number; hashes: bigint[] }
  | HandoffEngineFrame

export type Frame = AgentFrame | EngineFrame

const TYPE_CODES = {
  hello: 1,
  submit: 2,
  cancel: 3,
  credit: 4,
  ping: 5,
  shutdown: 6,
  vocabulary: 7,
  ready: 65,
  tokens: 66,
  finished: 67,
  rejected: 68,
  stats: 69,
  pong: 70,
  fatal: 71,
  embedding: 72,
  blocks: 73,
  admitted: 74,
  ...HANDOFF_TYPE_CODES,
} as const satisfies Record<Frame['type'], number>

/** One frame, header included. */
export function encodeFrame(frame: Frame): Uint8Array {
  const w = new FrameWriter()
  w.u32(0)
  w.u8(TYPE_CODES[frame.type])
  w.u8(FRAME_VERSION)
  w.u16(0)
  writeBody(w, frame)
  w.patchU32(0, w.length - FRAME_HEADER_BYTES)
  return w.finish()
}

function writeTop(w: FrameWriter, top: readonly TokenLogprob[]) {
  w.list(top, (t) => {
    w.u32(t.token)
    w.f32(t.logprob)
  })
}

function writeBody(w: FrameWriter, f: Frame): void {
  switch (f.type) {
    case 'hello':
      return w.u32(f.protocol)
    case 'submit':
      w.u64(f.id)
      w.list(f.prompt, (id) => w.u32(id))
      w.u32(f.maxNewTokens)
      w.u32(f.creditTokens)
      writeShape(w, f)
      w.u64(f.seed)
      writeLogprobs(w, f)
      w.list(f.stopIds, (id) => w.u32(id))
      writeBias(w, f)
      w.i32(f.priority)
      w.u32(f.deadlineMs)
      w.u64(f.tenant)
      w.u64(f.salt)
      w.u8(f.pooling === undefined ? 0 : POOLINGS.indexOf(f.pooling) + 1)
      writeGrammar(w, f.grammar)
      w.u64(f.reservation ?? 0n)
      return w.list(f.output ?? [], (id) => w.u32(id))
    case 'cancel':
      return w.u64(f.id)
    case 'credit':
      w.u64(f.id)
      return w.u32(f.tokens)
    case 'ping':
    case 'pong':
      return w.u64(f.nonce)
    case 'shutdown':
      return
    case 'vocabulary':
      w.list(f.tokens, (token) => {
        w.u8(token.control ? 1 : 0)
        w.bytes(token.bytes)
      })
      return w.list(f.endIds, (id) => w.u32(id))
    case 'ready':
      return writeReady(w, f)
    case 'tokens':
      return w.list(f.tokens, (t) => {
        w.u64(t.id)
        w.u32(t.token)
        w.f32(t.logprob)
        writeTop(w, t.top)
      })
    case 'finished':
      w.u64(f.id)
      w.u8(FINISH_REASONS.indexOf(f.reason) + 1)
      w.u32(f.promptTokens)
      w.u32(f.cachedTokens)
      return w.u32(f.outputTokens)
    case 'rejected':
      w.u64(f.id)
      w.u8(REJECT_CODES.indexOf(f.code) + 1)
      return w.str(f.message)
    case 'stats':
      return writeStats(w, f)
    case 'fatal':
      return w.str(f.message)
    case 'embedding':
      w.u64(f.id)
      return w.list(f.values, (value) => w.f32(value))
    case 'blocks':
      w.u64(f.sequence)
      return w.list(f.events, (event) => {
        w.u8(BLOCK_EVENT_KINDS.indexOf(event.kind) + 1)
        w.u64(event.hash)
        w.u64(event.parent)
      })
    case 'admitted':
      w.u64(f.id)
      w.u32(f.cachedTokens)
      return w.list(f.hashes, (hash) => w.u64(hash))
    default:
      return writeHandoff(w, f)
  }
}

function readTop(r: FrameReader): TokenLogprob[] {
  return r.list(8, () => ({ token: r.u32(), logprob: r.f32() }))
}

function pick<T>(table: readonly T[], code: number, what: string): T {
  const found = table[code - 1]
  if (found === undefined) throw new FrameError(`unknown ${what} ${code}`)
  return found
}

function readFlag(r: FrameReader): boolean {
  const flags = r.u8()
  if (flags > 1) throw new FrameError(`unknown flags ${flags}`)
  return flags === 1
}

function readSubmit(r: FrameReader): Submit {
  const head = { id: r.u64(), prompt: r.list(4, r.u32), maxNewTokens: r.u32(), creditTokens: r.u32() }
  const shape = readShape(r)
  const seed = r.u64()
  const logprobs = r.u8()
  const stopIds = r.list(4, r.u32)
  const bias = readBias(r)
  const tail = { priority: r.i32(), deadlineMs: r.u32(), tenant: r.u64(), salt: r.u64() }
  const pooling = r.u8()
  const grammar = readGrammar(r)
  const reservation = r.u64()
  const output = r.list(4, r.u32)
  const submit: Submit = { type: 'submit', ...head, ...shape, seed, stopIds, bias, ...tail }
  if (logprobs > 0) submit.logprobsTop = logprobs - 1
  if (pooling > 0) submit.pooling = pick(POOLINGS, pooling, 'pooling')
  if (grammar !== undefined) submit.grammar = grammar
  if (reservation > 0n) submit.reservation = reservation
  if (output.length > 0) submit.output = output
  return submit
}

function readBody(type: number, r: FrameReader): Frame {
  switch (type) {
    case TYPE_CODES.hello:
      return { type: 'hello', protocol: r.u32() }
    case TYPE_CODES.submit:
      return readSubmit(r)
    case TYPE_CODES.cancel:
      return { type: 'cancel', id: r.u64() }
    case TYPE_CODES.credit:
      return { type: 'credit', id: r.u64(), tokens: r.u32() }
    case TYPE_CODES.ping:
      return { type: 'ping', nonce: r.u64() }
    case TYPE_CODES.shutdown:
      return { type: 'shutdown' }
    case TYPE_CODES.vocabulary:
      return {
        type: 'vocabulary',
        tokens: r.list(5, () => ({ control: readFlag(r), bytes: Uint8Array.from(r.bytes()) })),
        endIds: r.list(4, r.u32),
      }
    case TYPE_CODES.ready:
      return readReady(r)
    case TYPE_CODES.tokens:
      return {
        type: 'tokens',
        tokens: r.list(20, () => ({ id: r.u64(), token: r.u32(), logprob: r.f32(), top: readTop(r) })),
      }
    case TYPE_CODES.finished:
      return {
        type: 'finished',
        id: r.u64(),
        reason: pick(FINISH_REASONS, r.u8(), 'finish reason'),
        promptTokens: r.u32(),
        cachedTokens: r.u32(),
        outputTokens: r.u32(),
      }
    case TYPE_CODES.rejected:
      return { type: 'rejected', id: r.u64(), code: pick(REJECT_CODES, r.u8(), 'reject code'), message: r.str() }
    case TYPE_CODES.stats:
      return readStats(r)
    case TYPE_CODES.pong:
      return { type: 'pong', nonce: r.u64() }
    case TYPE_CODES.fatal:
      return { type: 'fatal', message: r.str() }
    case TYPE_CODES.embedding:
      return { type: 'embedding', id: r.u64(), values: r.list(4, r.f32) }
    case TYPE_CODES.blocks:
      return {
        type: 'blocks',
        sequence: r.u64(),
        events: r.list(17, () => ({
          kind: pick(BLOCK_EVENT_KINDS, r.u8(), 'block event'),
          hash: r.u64(),
          parent: r.u64(),
        })),
      }
    case TYPE_CODES.admitted:
      return { type: 'admitted', id: r.u64(), cachedTokens: r.u32(), hashes: r.list(8, r.u64) }
    default: {
      const frame = readHandoff(type, r)
      if (frame === undefined) throw new FrameError(`unknown frame type ${type}`)
      return frame
    }
  }
}

/**
 * Splits a byte stream into frames. Feed it whatever arrives; it keeps what is incomplete.
 * @throws FrameError on a malformed frame: close the connection, later bytes have no meaning.
 */
export class FrameDecoder {
  #pending = new Uint8Array(0)

  push(chunk: Uint8Array): Frame[] {
    let bytes = chunk
    if (this.#pending.length > 0) {
      bytes = new Uint8Array(this.#pending.length + chunk.length)
      bytes.set(this.#pending)
      bytes.set(chunk, this.#pending.length)
    }
    const frames: Frame[] = []
    let at = 0
    while (bytes.length - at >= FRAME_HEADER_BYTES) {
      const view = new DataView(bytes.buffer, bytes.byteOffset + at, FRAME_HEADER_BYTES)
      const bodyBytes = view.getUint32(0, true)
      if (view.getUint8(5) !== FRAME_VERSION || view.getUint16(6, true) !== 0)
        throw new FrameError('not a frame header')
      if (bodyBytes > FRAME_BODY_BYTES_MAX) throw new FrameError(`frame of ${bodyBytes} bytes is over the limit`)
      const end = at + FRAME_HEADER_BYTES + bodyBytes
      if (bytes.length < end) break
      const reader = new FrameReader(bytes.subarray(at + FRAME_HEADER_BYTES, end))
      frames.push(readBody(view.getUint8(4), reader))
      reader.end()
      at = end
    }
    this.#pending = bytes.slice(at)
    return frames
  }
}
