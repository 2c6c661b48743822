// One of the agent's engines with everything that is known of it. Owns its role and the change from one to another, its cost
// model and its capacity frames; the process is engine/spawn.ts, which engine gets what engines.ts.
//
//   both, decode ──setRole(prefill)──▶ leaving ──nothing runs, or the grace is over──▶ prefill
//   prefill ──setRole(decode, both)──▶ that role, at once: an engine can do everything
//
// leaving   takes nothing new and says `draining` with its old role; what runs goes on
import { setTimeout as sleep } from 'node:timers/promises'
import type { CapacityFrame, EngineRole, KvTransfer } from '../protocol/capacity.ts'
import type { Ready, Stats } from '../protocol/engine-status.ts'
import { Canary, type CanaryTiming } from './canary.ts'
import type { CanaryReference } from './canary-reference.ts'
import { CapacityTracker } from './capacity.ts'
import type { EngineConnection } from './engine/client.ts'
import type { EngineState, EngineSupervisor } from './engine/spawn.ts'
import type { Candidate } from './engine-choice.ts'
import { EngineWork } from './engine-work.ts'
import type { Computer, Helper } from './handoff/decision.ts'
import { bytesPerToken } from './handoff/layout.ts'
import { StepFit } from './handoff/step-model.ts'
import { TransferMeter } from './handoff/transfer-meter.ts'
import type { Log } from './log.ts'
import type { ChunkEnd } from './prompt-chunks.ts'

/** The engine's own default: half of a step is left to those that decode. */
const MIXED_SHARE = 1 / 2
/** How often it is looked whether an engine that leaves its role has become idle. */
const LEAVING_POLL_MS = 50
/** After the last stream was told to move: the time to say so and to cancel. */
const MOVED_WAIT_MS = 10_000

export type UnitOptions = {
  /** Unique within the agent. */
  name: string
  role: EngineRole
  model: string
  supervisor: EngineSupervisor
  /** Prompt tokens in a step that also decodes; absent: as the engine does by default. */
  prefillTokens?: number
  /** Where other hosts reach it; absent: nowhere. */
  publicAddress?: (ready: Ready) => string | undefined
  /** Names the machine. */
  host: string
  /** One engine alone has no name in its frames. */
  isAlone: boolean
  /** Of the agent: its queue, and whether it takes work at all. */
  queue: (unit: EngineUnit) => { requestsQueued: number; requestsQueuedMax: number; draining: boolean }
  changed: () => void
  log: Log
  canary?: Partial<CanaryTiming>
  /** Of the agent: all its engines compute one model with one build. */
  canaryReference: CanaryReference
}

const monotonicMs = () => performance.now()

export class EngineUnit {
  readonly name: string
  readonly startRole: EngineRole
  readonly supervisor: EngineSupervisor
  readonly #options: UnitOptions
  readonly #tracker: CapacityTracker
  readonly canary: Canary
  readonly #meters = { near: new TransferMeter(monotonicMs), far: new TransferMeter(monotonicMs) }
  #fit = new StepFit()
  #step: bigint | undefined
  #statsAtMs = Number.NEGATIVE_INFINITY
  #role: EngineRole
  #leaving = false
  #switching: AbortController | undefined
  #moving = new AbortController()
  #ready: Ready | undefined
  /** Requests that it was given. */
  readonly work = new EngineWork()
  /** Tokens of pushes to others that have not ended. */
  pushTokens = 0
  /** Sequences whose prompt is being handed over. */
  pendingSequences = 0

  constructor(options: UnitOptions) {
    this.#options = options
    this.name = options.name
    this.startRole = options.role
    this.#role = options.role
    this.supervisor = options.supervisor
    this.#tracker = new CapacityTracker(options.model, () => {
      const transfer = this.#transfer()
      const { model } = this.#fit
      return {
        ...options.queue(this),
        ...(options.isAlone ? {} : { engine: options.name }),
        role: this.#role,
        leaving: this.#leaving,
        ...(this.canary.fault === undefined ? {} : { fault: this.canary.fault }),
        canaryFailures: this.canary.failures,
        prefixBlocks: this.connection?.prefixBlocks ?? 0,
        ...(transfer === undefined ? {} : { transfer }),
        ...(model === undefined ? {} : { stepModel: model }),
      }
    })
    const { supervisor } = options
    this.canary = new Canary({
      name: options.name,
      reference: options.canaryReference,
      connection: () => this.connection,
      isIdle: () => this.openSequences === 0 && this.pushTokens === 0 && (this.connection?.openReservations ?? 0) === 0,
      changed: options.changed,
      log: options.log,
      nowMs: monotonicMs,
      ...(options.canary === undefined ? {} : { timing: options.canary }),
    })
    supervisor.on('ready', () => this.#isReady())
    supervisor.on('down', () => this.#tracker.engineDown())
    supervisor.on('failed', () => this.#tracker.engineDown())
    supervisor.on('stats', (stats) => this.#learn(stats))
  }

  get role(): EngineRole {
    return this.#role
  }
  get state(): EngineState {
    return this.supervisor.state
  }
  get connection(): EngineConnection | undefined {
    return this.supervisor.connection
  }
  /** Of the life that is on now. */
  get ready(): Ready | undefined {
    return this.connection?.ready
  }
  /** Takes requests and ends them. */
  get finishes(): boolean {
    return this.#role !== 'prefill' && !this.#leaving && this.canary.fault === undefined
  }
  /** Computes prompts for others. */
  get takesPrompts(): boolean {
    return this.#role !== 'decode' && !this.#leaving && this.canary.fault === undefined
  }
  /** Fires when what runs here must go on elsewhere. */
  get moving(): AbortSignal {
    return this.#moving.signal
  }
  /** At once, in the life that is on or in the last one. */
  get sequencesMax(): number {
    return this.#ready?.sequencesMax ?? 0
  }
  get bytesPerToken(): number {
    return bytesPerToken(this.#ready?.kvFingerprint ?? '')
  }
  /** Requests that it has, in one way or another. */
  get openSequences(): number {
    return (this.connection?.openSequences ?? 0) + this.pendingSequences
  }
  /** For engines of other hosts. */
  get publicAddress(): string | undefined {
    return this.ready === undefined ? undefined : this.#options.publicAddress?.(this.ready)
  }

  frame(): CapacityFrame | undefined {
    return this.#tracker.frame()
  }
  fingerprint(): string {
    return this.#tracker.fingerprint()
  }

  /** Its load as the one that would compute a prompt. @param exceptTokens what it was given of this very prompt. */
  computer(exceptTokens = 0): Computer {
    const stats = this.connection?.stats
    const isIdle = stats === undefined || stats.running === 0
    const shownTokens = Number(stats?.prefillTokensQueued ?? 0n)
    const shown = stats === undefined ? undefined : { prefillTokensQueued: shownTokens, atMs: this.#statsAtMs }
    const givenTokens = this.work.queuedTokens(shown, exceptTokens)
    // Of pushes the statistics alone know how far they are.
    const pushedTokens = this.pushTokens > 0 ? Math.max(shownTokens, this.pushTokens) : 0
    const alone = this.#ready?.stepTokensMax ?? 1
    const computer: Computer = {
      role: this.#role,
      prefillTokensQueued: Math.max(givenTokens, pushedTokens),
      decodingSequences: isIdle ? 0 : stats.stepDecodeTokens,
      decodeKvTokens: isIdle ? 0 : Number(stats.decodeKvTokens),
      stepTokens: { alone, mixed: this.#options.prefillTokens ?? Math.max(1, Math.floor(alone * MIXED_SHARE)) },
    }
    const { model } = this.#fit
    if (model !== undefined) computer.model = model
    const rate = stats?.prefillTokensPerSecond ?? 0
    if (rate > 0) computer.prefillTokensPerSecond = rate
    return computer
  }

  /** As one of those that may finish a request. */
  candidate(chunks: readonly ChunkEnd[], helpers: readonly Helper[]): Candidate {
    const { blockTokens = 1, blocksTotal = 0 } = this.#ready ?? {}
    const table = this.connection?.chunks
    const isHeld = ({ chunk }: ChunkEnd) => table?.holds(chunk) === true || this.work.awaits(chunk)
    const own = this.computer()
    const { kvTokens } = this.work.pending
    return {
      own: { ...own, decodeKvTokens: own.decodeKvTokens + kvTokens },
      helpers,
      heldTokens: chunks.findLast(isHeld)?.tokens ?? 0,
      blockTokens,
      bytesPerToken: this.bytesPerToken,
      busy: this.openSequences,
      slots: Math.max(1, this.sequencesMax),
      kvUsedTokens: (this.connection?.stats?.blocksUsed ?? 0) * blockTokens + kvTokens,
      kvTotalTokens: blocksTotal * blockTokens,
    }
  }

  /** What moving blocks to this engine took. @param from an engine of the same agent, or one of another host. */
  meter(from: 'near' | 'far'): TransferMeter {
    return this.#meters[from]
  }

  /**
   * Takes another role, now or when what the old one has begun is over; the last call counts.
   * @param graceMs for what runs; after it `moving` fires.
   */
  async setRole(role: EngineRole, graceMs: number): Promise<void> {
    this.#switching?.abort()
    this.#switching = undefined
    const switching = new AbortController()
    if (role !== 'prefill' || this.#role === 'prefill') {
      if (this.#role === role && !this.#leaving) return
      this.#leaving = false
      this.#role = role
      return this.#options.changed()
    }
    this.#switching = switching
    this.#leaving = true
    this.#options.changed()
    await this.#idle(graceMs, switching.signal)
    if (!switching.signal.aborted && this.openSequences > 0) {
      this.#moving.abort()
      await this.#idle(MOVED_WAIT_MS, switching.signal)
      // Told once; whoever comes later has nothing to do with it.
      this.#moving = new AbortController()
    }
    if (switching.signal.aborted) return
    this.#leaving = false
    this.#role = role
    this.#options.changed()
  }

  /** The agent drains: what runs here must go on elsewhere. */
  moveAll(): void {
    this.#moving.abort()
    this.#moving = new AbortController()
  }

  async #idle(waitMs: number, signal: AbortSignal): Promise<void> {
    const endMs = performance.now() + waitMs
    while (!signal.aborted && this.openSequences > 0 && performance.now() < endMs)
      await sleep(LEAVING_POLL_MS, undefined, { signal, ref: false }).catch(() => {})
  }

  #isReady(): void {
    const ready = this.connection?.ready
    if (ready === undefined) return
    this.#ready = ready
    this.#step = undefined
    // Another machine's worth of cores may be free by now: costs of an old life are not those of a new one.
    this.#fit = new StepFit()
    this.#tracker.engineReady(ready)
    this.canary.engineReady()
  }

  #learn(stats: Stats): void {
    this.#tracker.engineStats(stats)
    this.#statsAtMs = monotonicMs()
    // Told every second, also where nothing was computed since.
    if (stats.step === this.#step) return
    this.#step = stats.step
    this.#fit.add({
      tookMs: stats.stepUs / 1000,
      prefillTokens: stats.stepPrefillTokens,
      decodeSequences: stats.stepDecodeTokens,
      kvTokens: Number(stats.decodeKvTokens),
      prefillTokensPerSecond: stats.prefillTokensPerSecond,
    })
  }

  #transfer(): KvTransfer | undefined {
    const ready = this.#ready
    if (ready?.kvAddress === undefined) return undefined
    const rate = this.#meters.far.bytesPerSecond ?? this.#meters.near.bytesPerSecond
    return {
      fingerprint: ready.kvFingerprint,
      host: this.#options.host,
      remote: this.#options.publicAddress?.(ready) !== undefined,
      bytesPerToken: this.bytesPerToken,
      ...(rate === undefined ? {} : { measuredBytesPerSecond: rate }),
      reservations: this.connection?.openReservations ?? 0,
    }
  }
}
