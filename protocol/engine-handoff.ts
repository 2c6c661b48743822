// The frames of wire 5 by which K and V move between engines: what is said to the engine that gets them and to the one that
// computes them. Owns their fields and bytes; the rest of the wire is engine-frames.ts, the meaning engine-frames.md.

import { readSampling, type Sampling, writeSampling } from './engine-sampling.ts'
import { FrameError, type FrameReader, type FrameWriter } from './frame-bytes.ts'

export const TRANSFER_SECRET_BYTES = 16

/** Names one transfer and proves the right to write: passed on as it is, from `RESERVED` to `PUSH`. */
export type TransferGrant = {
  id: bigint
  generation: bigint
  /** 16 bytes; never logged. */
  secret: Uint8Array
}

/** Sets blocks aside for a prompt that another engine computes. */
export type Reserve = { type: 'reserve'; id: bigint; tokens: number[]; salt: bigint; leaseMs: number }

/** A token for each seed, drawn behind what is pushed: the first `promptTokens` of it are the prompt, the rest output. */
export type Draw = Sampling & { promptTokens: number; seeds: bigint[] }

/** Computes a prompt and hands its blocks from `firstBlock` on to another engine, and first tokens where they are wanted. */
export type Push = {
  type: 'push'
  id: bigint
  tokens: number[]
  firstBlock: number
  address: string
  grant: TransferGrant
  priority: number
  /** 0 = none. */
  deadlineMs: number
  tenant: bigint
  salt: bigint
  draw?: Draw
}

export const RESERVE_CODES = ['ok', 'invalid', 'too_long', 'no_room', 'draining'] as const
export type ReserveCode = (typeof RESERVE_CODES)[number]

export type Reserved = {
  type: 'reserved'
  id: bigint
  code: ReserveCode
  /** Means something only where the code is ok; likewise the numbers of blocks. */
  grant: TransferGrant
  blocks: number
  /** The first ones, which are there already: `PUSH.first_block`. */
  cachedBlocks: number
}

export type HandoffAgentFrame =
  | Reserve
  | { type: 'renew'; id: bigint; leaseMs: number }
  | { type: 'release'; id: bigint }
  | Push

export type HandoffEngineFrame = Reserved | { type: 'transferred'; id: bigint; complete: boolean }

export type HandoffFrame = HandoffAgentFrame | HandoffEngineFrame

export const HANDOFF_TYPE_CODES = {
  reserve: 8,
  renew: 9,
  release: 10,
  push: 11,
  reserved: 75,
  transferred: 76,
} as const satisfies Record<HandoffFrame['type'], number>

function writeGrant(w: FrameWriter, grant: TransferGrant) {
  if (grant.secret.length !== TRANSFER_SECRET_BYTES) throw new FrameError(`a secret of ${grant.secret.length} bytes`)
  w.u64(grant.id)
  w.u64(grant.generation)
  for (const byte of grant.secret) w.u8(byte)
}

function writeDraw(w: FrameWriter, draw: Draw): void {
  w.u32(draw.promptTokens)
  w.list(draw.seeds, (seed) => w.u64(seed))
  writeSampling(w, draw)
}

export function writeHandoff(w: FrameWriter, f: HandoffFrame): void {
  w.u64(f.id)
  switch (f.type) {
    case 'reserve':
      w.list(f.tokens, (token) => w.u32(token))
      w.u64(f.salt)
      return w.u32(f.leaseMs)
    case 'renew':
      return w.u32(f.leaseMs)
    case 'release':
      return
    case 'push':
      w.list(f.tokens, (token) => w.u32(token))
      w.u32(f.firstBlock)
      w.str(f.address)
      writeGrant(w, f.grant)
      w.i32(f.priority)
      w.u32(f.deadlineMs)
      w.u64(f.tenant)
      w.u64(f.salt)
      w.u8(f.draw === undefined ? 0 : 1)
      return f.draw === undefined ? undefined : writeDraw(w, f.draw)
    case 'reserved':
      w.u8(RESERVE_CODES.indexOf(f.code))
      writeGrant(w, f.grant)
      w.u32(f.blocks)
      return w.u32(f.cachedBlocks)
    case 'transferred':
      return w.u8(f.complete ? 1 : 0)
    default:
      f satisfies never
  }
}

function readGrant(r: FrameReader): TransferGrant {
  return { id: r.u64(), generation: r.u64(), secret: Uint8Array.from({ length: TRANSFER_SECRET_BYTES }, r.u8) }
}

function readReserveCode(r: FrameReader): ReserveCode {
  const code = r.u8()
  const found = RESERVE_CODES[code]
  if (found === undefined) throw new FrameError(`unknown reserve code ${code}`)
  return found
}

function readTruth(r: FrameReader): boolean {
  const value = r.u8()
  if (value > 1) throw new FrameError(`a truth of ${value}`)
  return value === 1
}

/** Absent: not a type of this file. */
export function readHandoff(type: number, r: FrameReader): HandoffFrame | undefined {
  switch (type) {
    case HANDOFF_TYPE_CODES.reserve:
      return { type: 'reserve', id: r.u64(), tokens: r.list(4, r.u32), salt: r.u64(), leaseMs: r.u32() }
    case HANDOFF_TYPE_CODES.renew:
      return { type: 'renew', id: r.u64(), leaseMs: r.u32() }
    case HANDOFF_TYPE_CODES.release:
      return { type: 'release', id: r.u64() }
    case HANDOFF_TYPE_CODES.push: {
      const what = { id: r.u64(), tokens: r.list(4, r.u32), firstBlock: r.u32() }
      const where = { address: r.str(), grant: readGrant(r) }
      const how = { priority: r.i32(), deadlineMs: r.u32(), tenant: r.u64(), salt: r.u64() }
      const push: Push = { type: 'push', ...what, ...where, ...how }
      if (readTruth(r)) push.draw = { promptTokens: r.u32(), seeds: r.list(8, r.u64), ...readSampling(r) }
      return push
    }
    case HANDOFF_TYPE_CODES.reserved: {
      const head = { id: r.u64(), code: readReserveCode(r), grant: readGrant(r) }
      return { type: 'reserved', ...head, blocks: r.u32(), cachedBlocks: r.u32() }
    }
    case HANDOFF_TYPE_CODES.transferred:
      return { type: 'transferred', id: r.u64(), complete: readTruth(r) }
    default:
      return undefined
  }
}
