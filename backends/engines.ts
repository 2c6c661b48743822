// The agent's engines. Owns making them, how they share the cores, which one a request gets, who may help it with its prompt,
// and what they are together: ready, full, drained; one engine is engine-unit.ts.
import { createHash } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { readFileSync, readlinkSync } from 'node:fs'
import { availableParallelism, hostname } from 'node:os'
import type { CapacityFrame, EngineRole } from '../protocol/capacity.ts'
import type { Ready } from '../protocol/engine-status.ts'
import type { DesiredState } from '../protocol/report.ts'
import type { CanaryTiming } from './canary.ts'
import { CanaryReference } from './canary-reference.ts'
import type { Config } from './config.ts'
import type { EngineLimits } from './dispatch.ts'
import type { SocketDirectory } from './engine/socket-path.ts'
import { type EngineOptions, EngineSupervisor } from './engine/spawn.ts'
import { EngineUnit } from './engine-unit.ts'
import { remoteAddress } from './handoff/addresses.ts'
import type { Log } from './log.ts'

type Events = {
  /** An engine is up, anew or for the first time. */
  ready: [unit: EngineUnit]
  down: [unit: EngineUnit]
  stats: []
  /** A role, or whether an engine takes work. */
  changed: []
  /** None of them can serve this model. */
  failed: [message: string]
}

export type ReadyFields = {
  /** Of the first engine that takes requests, or of the first one. */
  pid?: number
  contextTokens: number
  sequencesMax: number
  /** Those that are up. */
  engines: { name: string; role: EngineRole; pid?: number }[]
}

export type EnginesOptions = {
  config: Config
  sockets: SocketDirectory
  log: Log
  overrides?: Pick<EngineOptions, 'env' | 'timing'> | undefined
  canary?: Partial<CanaryTiming> | undefined
  /** The agent's own queues. */
  queues: () => { requests: Queue; prompts: Queue; draining: boolean }
}

type Queue = { queued: number; queueMax: number }

export class Engines extends EventEmitter<Events> {
  readonly units: readonly EngineUnit[]
  readonly #log: Log
  #wasReady = false
  /** Names of those that can never be started. */
  readonly #failed = new Set<string>()

  constructor(options: EnginesOptions) {
    super()
    const { config, sockets, log } = options
    this.#log = log
    const names = engineNames(config.engines)
    const threads = threadsOf(config, availableParallelism())
    const canaryReference = new CanaryReference()
    this.units = config.engines.map((role, index) => {
      const name = names[index] ?? role
      const settings = engineOptions(config, { role, index, sockets, threads: threads[index] })
      const ownLog: Log = (level, event, fields) =>
        log(level, event, names.length === 1 ? fields : { ...fields, engine: name })
      const supervisor = new EngineSupervisor({ ...settings, ...options.overrides }, ownLog)
      const unit: EngineUnit = new EngineUnit({
        name,
        role,
        model: config.modelName,
        supervisor,
        ...(config.prefillTokens === undefined ? {} : { prefillTokens: config.prefillTokens }),
        publicAddress: (ready: Ready) => remoteAddress(ready.kvAddress ?? '', publicAt(config, index)),
        host: hostName(),
        isAlone: names.length === 1,
        queue: (self) => this.#share(self, options.queues()),
        changed: () => this.emit('changed'),
        log: ownLog,
        canaryReference,
        canary: {
          ...(config.canaryIdleMs === undefined ? {} : { idleMs: config.canaryIdleMs }),
          ...options.canary,
        },
      })
      supervisor.on('ready', () => {
        this.#wasReady = true
        this.emit('ready', unit)
      })
      supervisor.on('down', () => this.emit('down', unit))
      supervisor.on('stats', () => this.emit('stats'))
      supervisor.on('failed', (message) => this.#oneFailed(unit, message))
      return unit
    })
  }

  /** Runs them all until `stop`. */
  async run(): Promise<void> {
    for (const { canary } of this.units) canary.start()
    await Promise.all(this.units.map(({ supervisor }) => supervisor.run()))
  }
  async stop(): Promise<void> {
    for (const { canary } of this.units) canary.stop()
    await Promise.all(this.units.map(({ supervisor }) => supervisor.stop()))
  }
  kill(): void {
    for (const { supervisor } of this.units) supervisor.kill()
  }

  /** Takes requests now. */
  get serving(): EngineUnit[] {
    return this.units.filter((unit) => unit.finishes && unit.connection !== undefined)
  }
  /** Whether any engine is meant to finish requests: where none is, prompts of others are all that this agent does. */
  get isForPromptsOnly(): boolean {
    return this.units.every((unit) => unit.role === 'prefill')
  }
  /** Does what it is there for. */
  get isReady(): boolean {
    if (!this.isForPromptsOnly) return this.serving.length > 0
    return this.units.some((unit) => unit.takesPrompts && unit.connection !== undefined)
  }
  /** Each engine is up, or has been tried in vain: nobody gets further by waiting. */
  get isSettled(): boolean {
    return this.isReady && this.units.every((unit) => unit.state !== 'starting')
  }
  /** That takes requests; where none does, any. */
  get first(): EngineUnit | undefined {
    return this.serving[0] ?? this.units.find(({ ready }) => ready !== undefined) ?? this.units[0]
  }
  /** Absent: none is up. */
  readyFields(): ReadyFields | undefined {
    const ready = this.first?.ready
    if (ready === undefined) return undefined
    const pidOf = ({ supervisor: { pid } }: EngineUnit) => (pid === undefined ? {} : { pid })
    return {
      ...(this.first === undefined ? {} : pidOf(this.first)),
      contextTokens: ready.contextTokens,
      sequencesMax: Math.max(this.slots.now, ready.sequencesMax),
      engines: this.units
        .filter((unit) => unit.ready !== undefined)
        .map((unit) => ({ name: unit.name, role: unit.role, ...pidOf(unit) })),
    }
  }
  /** Sequences at once: now, and when every engine is up. */
  get slots(): { now: number; most: number } {
    const sum = (units: readonly EngineUnit[]) => units.reduce((all, unit) => all + unit.sequencesMax, 0)
    return { now: sum(this.serving), most: sum(this.units.filter((unit) => unit.finishes)) }
  }

  /** What a request may ask for, whichever engine gets it; absent: none is up. */
  limits(): (EngineLimits & { embeddingDims: number }) | undefined {
    const all = this.serving.flatMap(({ ready }) => ready ?? [])
    const first = all[0]
    if (first === undefined) return undefined
    return {
      contextTokens: Math.min(...all.map(({ contextTokens }) => contextTokens)),
      vocabularyTokens: Math.min(...all.map(({ vocabSize }) => vocabSize)),
      sequencesMax: this.slots.most,
      grammars: all.every(({ features }) => features.grammars),
      embeddingDims: first.embeddingDims,
    }
  }

  frames(): CapacityFrame[] {
    return this.units.flatMap((unit) => unit.frame() ?? [])
  }
  fingerprint(): string {
    return this.units.map((unit) => unit.fingerprint()).join('|')
  }

  /** Engines that are not named have the role that they were started with. @param graceMs for what runs in an old role. */
  setRoles(roles: DesiredState['roles'], graceMs: number): void {
    for (const unit of this.units) {
      const role = roles[unit.name] ?? unit.startRole
      unit.setRole(role, graceMs).catch((thrown: unknown) => {
        this.#log('error', 'role_failed', { engine: unit.name, reason: String(thrown) })
      })
    }
  }

  /** A queue is told once, shared among those that it is for. */
  #share(unit: EngineUnit, queues: ReturnType<EnginesOptions['queues']>) {
    const isForPrompts = unit.role === 'prefill'
    const sharers = this.units.filter((other) => (other.role === 'prefill') === isForPrompts)
    const { queued, queueMax } = isForPrompts ? queues.prompts : queues.requests
    const at = sharers.indexOf(unit)
    const part = (whole: number) => Math.floor(whole / sharers.length) + (at < whole % sharers.length ? 1 : 0)
    return { requestsQueued: part(queued), requestsQueuedMax: part(queueMax), draining: queues.draining }
  }

  /** One that fails when others have been seen to work takes nothing from them. */
  #oneFailed(unit: EngineUnit, message: string): void {
    this.#failed.add(unit.name)
    this.emit('down', unit)
    if (!this.#wasReady || this.#failed.size === this.units.length) this.emit('failed', message)
  }
}

/** `prefill-0`, `decode-0`, `decode-1`, …: by the role at the start, whatever it is later. */
export function engineNames(roles: readonly EngineRole[]): string[] {
  const seen = new Map<EngineRole, number>()
  return roles.map((role) => {
    const count = seen.get(role) ?? 0
    seen.set(role, count + 1)
    return `${role}-${count}`
  })
}

/**
 * Threads of each engine; undefined: it takes what it finds. Engines of one role share the cores. Engines of different roles each
 * have them all: one is idle while the other is not, and where both work the system divides them; measured on two cores, an engine
 * each with half of them loses a quarter of the throughput, and gains little evenness (`npm run bench:disaggregation`).
 */
export function threadsOf(
  config: Pick<Config, 'engines' | 'threads' | 'prefillThreads' | 'decodeThreads'>,
  cores: number,
): (number | undefined)[] {
  const { engines } = config
  return engines.map((role) => {
    const own = role === 'prefill' ? config.prefillThreads : role === 'decode' ? config.decodeThreads : undefined
    const alike = engines.filter((one) => one === role).length
    return own ?? config.threads ?? (engines.length === 1 ? undefined : Math.max(1, Math.floor(cores / alike)))
  })
}

type EnginePlace = { role: EngineRole; index: number; sockets: SocketDirectory; threads: number | undefined }

function engineOptions(config: Config, { role, index, sockets, threads }: EnginePlace): EngineOptions {
  const options: EngineOptions = { enginePath: config.enginePath, modelPath: config.modelPath, sockets }
  const ofRole = role === 'prefill' ? config.prefillKvMib : role === 'decode' ? config.decodeKvMib : undefined
  const kvMib = ofRole ?? config.kvMib
  if (threads !== undefined) options.threads = threads
  if (kvMib !== undefined) options.kvMib = kvMib
  if (config.device !== undefined) options.device = config.device
  if (config.deviceMemoryMib !== undefined) options.deviceMemoryMib = config.deviceMemoryMib
  if (config.gemm !== undefined) options.gemm = config.gemm
  if (config.kvType !== undefined) options.kvType = config.kvType
  if (config.quantize !== undefined) options.quantize = config.quantize
  if (config.prefillTokens !== undefined) options.prefillTokens = config.prefillTokens
  if (config.contextTokens !== undefined) options.contextTokens = config.contextTokens
  if (config.sequencesMax !== undefined) options.sequencesMax = config.sequencesMax
  // Any of them may be a decode engine later.
  if (config.engines.length > 1 || config.kvListen !== undefined) options.receivesKv = true
  if (config.kvListen !== undefined) {
    const { host, port } = config.kvListen
    options.kvTcp = `tcp:${host}:${port === 0 ? 0 : port + index}`
  }
  return options
}

/** Ports count up with the engines, as those they listen on do. */
function publicAt(config: Config, index: number): string | undefined {
  if (config.kvPublic === undefined) return undefined
  const { host, port } = config.kvPublic
  return `tcp:${host}:${port + index}`
}

/** Different where memory and sockets are not shared: another machine, another boot, another container. */
function hostName(): string {
  let text = hostname()
  try {
    text = `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8')} ${readlinkSync('/proc/self/ns/mnt')}`
  } catch {
    // Not Linux: its name has to do.
  }
  return createHash('sha256').update(text).digest('hex').slice(0, 32)
}
