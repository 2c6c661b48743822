// The frames of wire 5 by which an engine describes itself: what it is, and how much it does. Owns their fields and bytes; the rest of
// the wire is engine-frames.ts, the meaning engine-frames.md.
import { MAC_TYPES } from './capacity.ts'
import { FrameError, type FrameReader, type FrameWriter } from './frame-bytes.ts'

type MacType = (typeof MAC_TYPES)[number]

/** The only bit of `READY.features`: a peer of the same protocol sets no other. */
const FEATURE_GRAMMARS = 1

export type Ready = {
  type: 'ready'
  protocol: number
  epoch: bigint
  arch: string
  modelName: string
  vocabSize: number
  contextTokens: number
  blockTokens: number
  blocksTotal: number
  sequencesMax: number
  stepTokensMax: number
  threads: number
  kvFingerprint: string
  /** Of the machine, measured at the engine's start with its threads; 0: not measured. */
  memoryBytesPerSecondMax: bigint
  /** What most of the model's products are computed in, and what the next is the rate of; absent: not known. */
  macType?: MacType
  /** Multiply-adds; 0: not measured. */
  macsPerSecondMax: bigint
  embeddingDims: number
  features: { grammars: boolean }
  /** Where `PUSH` of other engines may go; absent: nowhere. */
  kvAddress?: string
}

export type Stats = {
  type: 'stats'
  step: bigint
  blocksTotal: number
  blocksUsed: number
  blocksCached: number
  running: number
  waiting: number
  prefillTokensQueued: bigint
  decodeKvTokens: bigint
  stepUs: number
  stepPrefillTokens: number
  stepDecodeTokens: number
  prefillTokensPerSecond: number
  decodeTokensPerSecond: number
  /** Read by steps that only decode; 0: not measured, or long ago. */
  memoryBytesPerSecond: number
  /** Multiply-adds of steps that compute prompts; 0: not measured, or long ago. */
  macsPerSecond: number
  /** Of the last seconds, 0 to 1. */
  busyShare: number
  /** These three since the engine started. */
  preemptions: bigint
  promptTokens: bigint
  cachedTokens: bigint
}

export function writeReady(w: FrameWriter, f: Ready): void {
  w.u32(f.protocol)
  w.u64(f.epoch)
  w.str(f.arch)
  w.str(f.modelName)
  for (const value of [f.vocabSize, f.contextTokens, f.blockTokens, f.blocksTotal]) w.u32(value)
  for (const value of [f.sequencesMax, f.stepTokensMax, f.threads]) w.u32(value)
  w.str(f.kvFingerprint)
  w.u64(f.memoryBytesPerSecondMax)
  w.u8(f.macType === undefined ? 0 : MAC_TYPES.indexOf(f.macType) + 1)
  w.u64(f.macsPerSecondMax)
  w.u32(f.embeddingDims)
  w.u32(f.features.grammars ? FEATURE_GRAMMARS : 0)
  w.str(f.kvAddress ?? '')
}

export function writeStats(w: FrameWriter, f: Stats): void {
  w.u64(f.step)
  for (const value of [f.blocksTotal, f.blocksUsed, f.blocksCached, f.running, f.waiting]) w.u32(value)
  w.u64(f.prefillTokensQueued)
  w.u64(f.decodeKvTokens)
  for (const value of [f.stepUs, f.stepPrefillTokens, f.stepDecodeTokens]) w.u32(value)
  for (const value of [f.prefillTokensPerSecond, f.decodeTokensPerSecond, f.memoryBytesPerSecond]) w.f32(value)
  for (const value of [f.macsPerSecond, f.busyShare]) w.f32(value)
  for (const value of [f.preemptions, f.promptTokens, f.cachedTokens]) w.u64(value)
}

function readFeatures(r: FrameReader): Ready['features'] {
  const bits = r.u32()
  if (bits > FEATURE_GRAMMARS) throw new FrameError(`unknown features ${bits}`)
  return { grammars: bits === FEATURE_GRAMMARS }
}

function readMacType(r: FrameReader): { macType?: MacType } {
  const code = r.u8()
  if (code > MAC_TYPES.length) throw new FrameError(`unknown type of products ${code}`)
  const macType = MAC_TYPES[code - 1]
  return macType === undefined ? {} : { macType }
}

export function readReady(r: FrameReader): Ready {
  const ready: Ready = {
    type: 'ready',
    protocol: r.u32(),
    epoch: r.u64(),
    arch: r.str(),
    modelName: r.str(),
    vocabSize: r.u32(),
    contextTokens: r.u32(),
    blockTokens: r.u32(),
    blocksTotal: r.u32(),
    sequencesMax: r.u32(),
    stepTokensMax: r.u32(),
    threads: r.u32(),
    kvFingerprint: r.str(),
    memoryBytesPerSecondMax: r.u64(),
    ...readMacType(r),
    macsPerSecondMax: r.u64(),
    embeddingDims: r.u32(),
    features: readFeatures(r),
  }
  const kvAddress = r.str()
  if (kvAddress !== '') ready.kvAddress = kvAddress
  return ready
}

export function readStats(r: FrameReader): Stats {
  return {
    type: 'stats',
    step: r.u64(),
    blocksTotal: r.u32(),
    blocksUsed: r.u32(),
    blocksCached: r.u32(),
    running: r.u32(),
    waiting: r.u32(),
    prefillTokensQueued: r.u64(),
    decodeKvTokens: r.u64(),
    stepUs: r.u32(),
    stepPrefillTokens: r.u32(),
    stepDecodeTokens: r.u32(),
    prefillTokensPerSecond: r.f32(),
    decodeTokensPerSecond: r.f32(),
    memoryBytesPerSecond: r.f32(),
    macsPerSecond: r.f32(),
    busyShare: r.f32(),
    preemptions: r.u64(),
    promptTokens: r.u64(),
    cachedTokens: r.u64(),
  }
}
