// The capacity frame: what an engine of this backend says about its load ○. Owns how its statistics and the agent's own queue
// become one frame, and the frame numbers; sending is report.ts and session.ts.
import {
  type CapacityFrame,
  type EngineRole,
  type KvTransfer,
  MAC_TYPES,
  type NotReadyReason,
  type StepModel,
} from '../protocol/capacity.ts'
import type { Ready, Stats } from '../protocol/engine-status.ts'

export type AgentLoad = {
  requestsQueued: number
  requestsQueuedMax: number
  draining: boolean
  /** Blocks in the engine's prefix cache. */
  prefixBlocks: number
  role: EngineRole
  /** It gives up its role: nothing must be routed to it until it has another. */
  leaving?: boolean
  /** It gives wrong answers, or none: the same. */
  fault?: NotReadyReason
  /** Canaries that failed, in a row. */
  canaryFailures?: number
  /** Absent: the agent's only one. */
  engine?: string
  transfer?: KvTransfer
  stepModel?: StepModel
}

/** A change of KV use by less than this share of the pool is not worth a report of its own. */
const KV_CHANGE_SHARE = 1 / 16

/** An engine life's epoch as the gateway sees it. */
const epochText = (epoch: bigint): string => epoch.toString(16).padStart(16, '0')

export class CapacityTracker {
  readonly #model: string
  readonly #load: () => AgentLoad
  #ready: Ready | undefined
  #stats: Stats | undefined
  #up = false
  #sequence = 0

  constructor(model: string, load: () => AgentLoad) {
    this.#model = model
    this.#load = load
  }

  engineReady(ready: Ready): void {
    this.#ready = ready
    this.#stats = undefined
    this.#up = true
    this.#sequence = 0
  }
  /** Frames say `draining` until the next engine is ready: nothing must be routed here meanwhile. */
  engineDown(): void {
    this.#up = false
    this.#stats = undefined
  }
  engineStats(stats: Stats): void {
    this.#stats = stats
  }

  /** A frame with the next number; `undefined` before the first engine was ready. */
  frame(): CapacityFrame | undefined {
    const ready = this.#ready
    if (ready === undefined) return undefined
    const stats = this.#stats
    const load = this.#load()
    const frame: CapacityFrame = {
      model: this.#model,
      role: load.role,
      epoch: epochText(ready.epoch),
      sequence: this.#sequence++,
      contextTokensMax: ready.contextTokens,
      blockTokens: ready.blockTokens,
      kvBlocksTotal: stats?.blocksTotal ?? ready.blocksTotal,
      kvBlocksUsed: stats?.blocksUsed ?? 0,
      kvBlocksCached: load.prefixBlocks,
      sequencesRunning: stats?.running ?? 0,
      sequencesWaiting: stats?.waiting ?? 0,
      sequencesMax: ready.sequencesMax,
      requestsQueued: load.requestsQueued,
      requestsQueuedMax: load.requestsQueuedMax,
      prefillTokensQueued: Number(stats?.prefillTokensQueued ?? 0n),
      decodeKvTokens: Number(stats?.decodeKvTokens ?? 0n),
      stepMs: (stats?.stepUs ?? 0) / 1000,
      draining: load.draining || load.leaving === true || load.fault !== undefined || !this.#up,
      grammars: ready.features.grammars,
    }
    if (load.fault !== undefined) frame.notReady = load.fault
    if (load.canaryFailures !== undefined && load.canaryFailures > 0) frame.canaryFailures = load.canaryFailures
    if (load.engine !== undefined) frame.engine = load.engine
    if (load.stepModel !== undefined) frame.stepModel = load.stepModel
    if (load.transfer !== undefined) frame.transfer = load.transfer
    // The engine sends 0 for what it has not measured; the frame leaves it out.
    if (stats !== undefined && stats.prefillTokensPerSecond > 0)
      frame.measuredPrefillTokensPerSecond = stats.prefillTokensPerSecond
    if (stats !== undefined && stats.decodeTokensPerSecond > 0)
      frame.measuredDecodeTokensPerSecond = stats.decodeTokensPerSecond
    if (stats !== undefined && stats.memoryBytesPerSecond > 0) frame.memoryBytesPerSecond = stats.memoryBytesPerSecond
    if (ready.memoryBytesPerSecondMax > 0n) frame.memoryBytesPerSecondMax = Number(ready.memoryBytesPerSecondMax)
    // An engine that gives wrong answers has no speed, and its frame other things to say.
    if (load.fault === undefined) Object.assign(frame, gauges(ready, stats))
    return frame
  }

  /** A text that differs where two states differ in what a router decides by. */
  fingerprint(): string {
    const stats = this.#stats
    const load = this.#load()
    const total = stats?.blocksTotal ?? 0
    const kvStep = total === 0 ? 0 : Math.floor((stats?.blocksUsed ?? 0) / total / KV_CHANGE_SHARE)
    const sequences = [stats?.running ?? 0, stats?.waiting ?? 0, load.requestsQueued]
    const state = [
      this.#ready?.epoch ?? '',
      this.#up,
      load.draining,
      load.role,
      load.leaving === true,
      load.fault ?? '',
    ]
    return [...state, ...sequences, kvStep].join(' ')
  }
}

const GIGA = 1e9

/** How near to what the machine can do at best. */
function gauges(
  { macType, macsPerSecondMax }: Ready,
  stats: Stats | undefined,
): Pick<CapacityFrame, 'macs' | 'busyShare'> {
  const rate = (stats?.macsPerSecond ?? 0) / GIGA
  const most = Number(macsPerSecondMax) / GIGA
  return {
    ...(macType === undefined ? {} : { macs: [rate, Number(most.toPrecision(4)), MAC_TYPES.indexOf(macType)] }),
    ...(stats === undefined || stats.step === 0n ? {} : { busyShare: Math.round(100 * stats.busyShare) / 100 }),
  }
}
