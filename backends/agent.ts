// One agent: engines, queue, server and membership tied together. Owns the life cycle, what an administrator wants of it, and
// the path of a dispatch from arrival to release; options and signals are main.ts, the engines engines.ts.
import { randomUUID } from 'node:crypto'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { DispatchEvent } from '../protocol/dispatch.ts'
import type { Pooling } from '../protocol/engine-frames.ts'
import type { Failure } from '../protocol/errors.ts'
import type { DesiredState } from '../protocol/report.ts'
import { Admission } from './admission.ts'
import { answerFormatOf } from './answer-format.ts'
import { createAuthority, gatewayKeys } from './authority.ts'
import type { CanaryTiming } from './canary.ts'
import { createChatRenderer } from './chat.ts'
import type { Config } from './config.ts'
import type { TextModel } from './dispatch.ts'
import { createSocketDirectory, type SocketDirectory } from './engine/socket-path.ts'
import type { EngineOptions } from './engine/spawn.ts'
import { Engines, type ReadyFields } from './engines.ts'
import { Handoffs } from './handoff/handoffs.ts'
import { createPrefillAuthority } from './handoff/prefill-authority.ts'
import type { SequencesOptions } from './handoff/sequences.ts'
import type { Refusal } from './http-body.ts'
import { type Identity, loadIdentity } from './identity.ts'
import { prepareJob } from './jobs.ts'
import type { Log } from './log.ts'
import { type AgentCounters, metricsText } from './metrics.ts'
import { readModelFile } from './model-reader.ts'
import { OpenWork } from './open-work.ts'
import { HeldChunks } from './prefix/held-chunks.ts'
import { KvHistory } from './prefix/kv-history.ts'
import { Reporter } from './report.ts'
import { type Arrival, createAgentServer, type StreamOpener } from './server.ts'
import { createTokenizer } from './tokens.ts'
import { grammarVocabulary } from './vocabulary.ts'

/** Time for the last bytes of drained streams to leave. */
const CLOSE_GRACE_MS = 1000
/** For streams that were told to move: to say so, and to cancel what they have. */
const MOVE_WAIT_MS = 2000

export type AgentEvents = {
  listening: (url: string) => void
  /** When all engines have come up or failed to, and each time that one is ready after that. */
  ready: (fields: ReadyFields) => void
  /** The engine cannot serve this model: the agent will not become ready. */
  failed: (message: string) => void
}

/** Only the last token of a decoder has seen the whole text; models of embeddings made from decoders use it. */
const DEFAULT_POOLING: Pooling = 'last'

/** Settings that only tests change. */
export type AgentOverrides = {
  engine?: Pick<EngineOptions, 'env' | 'timing'>
  handoff?: SequencesOptions['timing']
  canary?: Partial<CanaryTiming>
  random?: () => number
}

export class Agent {
  readonly #config: Config
  readonly #log: Log
  readonly #model: TextModel
  readonly #pooling: Pooling
  readonly #sockets: SocketDirectory
  readonly #engines: Engines
  readonly #handoffs: Handoffs
  readonly #admission: Admission
  readonly #server: Server
  readonly #identity: Identity
  readonly #counters: AgentCounters = {
    dispatches: 0,
    refusals: 0,
    failures: 0,
    inputTokens: 0,
    cachedInputTokens: 0,
    outputTokens: 0,
    engineRestarts: 0,
  }
  #reporter: Reporter | undefined
  #running: Promise<void> | undefined
  /** This process is ending. */
  #draining = false
  /** An administrator wants no work here. */
  #held = false
  #moveTimer: NodeJS.Timeout | undefined
  #announced = false
  readonly #work = new OpenWork()
  /** Of this life. */
  readonly #epoch = randomUUID()
  readonly #kvHistory = new KvHistory(this.#epoch)

  private constructor(
    config: Config,
    parts: { log: Log; model: TextModel; pooling: Pooling; identity: Identity },
    overrides: AgentOverrides,
  ) {
    this.#config = config
    this.#log = parts.log
    this.#model = parts.model
    this.#pooling = parts.pooling
    this.#identity = parts.identity
    this.#sockets = createSocketDirectory(config.stateDir)
    this.#admission = new Admission(config.queueRequestsMax, nowMs)
    this.#engines = new Engines({
      config,
      sockets: this.#sockets,
      log: parts.log,
      overrides: overrides.engine,
      canary: overrides.canary,
      queues: () => ({
        requests: this.#admission,
        prompts: this.#handoffs.desk,
        draining: this.#draining || this.#held,
      }),
    })
    this.#handoffs = new Handoffs({
      engines: this.#engines,
      identity: this.#identity,
      model: config.modelName,
      nowMs,
      random: overrides.random ?? Math.random,
      ...(overrides.handoff === undefined ? {} : { timing: overrides.handoff }),
    })
    const keys = gatewayKeys(config.gatewayUrl)
    const refused = () => {
      this.#counters.refusals++
    }
    this.#server = createAgentServer({
      authority: createAuthority(this.#identity.backendId, keys, Date.now),
      closed: () => this.#closed(),
      dispatch: (arrival, open) => this.#dispatch(arrival, open),
      prefill: {
        authority: createPrefillAuthority(this.#identity.backendId, keys, Date.now),
        // Work of others, which a drain waits for as for its own.
        desk: { push: (ask, signal) => this.#work.run(() => this.#handoffs.desk.push(ask, signal)) },
        model: config.modelName,
        closed: () => this.#stopped(),
        refused,
        nowMs,
      },
      health: () => this.#health(),
      metrics: () =>
        metricsText({
          model: config.modelName,
          engines: this.#engines.units.map((unit) => ({
            ...(this.#engines.units.length === 1 ? {} : { name: unit.name }),
            frame: unit.frame(),
            stats: unit.connection?.stats,
            reservations: unit.connection?.openReservations ?? 0,
            canary: unit.canary.counters,
          })),
          counters: this.#counters,
          handoffs: this.#handoffs.counters,
        }),
      refused,
      nowMs,
      log: parts.log,
    })
  }

  /**
   * Reads the model's text side and the identity; nothing runs yet.
   * @throws ModelFileError for a model whose text cannot be handled.
   */
  static async create(config: Config, log: Log, overrides: AgentOverrides = {}): Promise<Agent> {
    const identity = await loadIdentity(config.stateDir)
    const file = await readModelFile(config.modelPath)
    const tokenizer = createTokenizer(file)
    const answers = answerFormatOf(file, tokenizer.vocabulary)
    const model: TextModel = { tokenizer, render: createChatRenderer(file, tokenizer.guard, answers.tools), answers }
    if (file.embeddingSizes !== undefined) model.embeddingSizes = file.embeddingSizes
    const pooling = config.pooling ?? file.pooling ?? DEFAULT_POOLING
    return new Agent(config, { log, model, pooling, identity }, overrides)
  }

  get backendId(): string {
    return this.#identity.backendId
  }
  /** Of the first engine that takes requests, or of the first one. */
  get enginePid(): number | undefined {
    return this.#engines.first?.supervisor.pid
  }
  /** By name. */
  enginePids(): Record<string, number | undefined> {
    return Object.fromEntries(this.#engines.units.map(({ name, supervisor }) => [name, supervisor.pid]))
  }
  /** Dispatches between arrival and their last byte. */
  get openDispatches(): number {
    return this.#work.open
  }

  /** Listens, starts the engines, and joins the fleet once one of them is ready. */
  async start(events: AgentEvents): Promise<void> {
    const url = await this.#listen()
    events.listening(url)
    const held = new HeldChunks(() => this.#reporter?.changed(), this.#kvHistory)
    const reporter = new Reporter({
      gatewayUrl: this.#config.gatewayUrl,
      publicUrl: this.#config.publicUrl ?? url,
      identity: this.#identity,
      ...(this.#config.joinToken === undefined ? {} : { joinToken: this.#config.joinToken }),
      epoch: this.#epoch,
      frames: () => this.#engines.frames(),
      fingerprint: () => this.#engines.fingerprint(),
      kv: held,
      onDesired: (desired) => this.#desire(desired),
      log: this.#log,
    })
    this.#reporter = reporter
    const engines = this.#engines
    const changed = () => {
      const { now, most } = engines.slots
      this.#admission.setSlotsMax(now, most)
      // Whoever waits for an engine that only computes prompts from now on would wait until its deadline.
      if (engines.units.every((unit) => !unit.finishes)) this.#admission.dropAll(PROMPTS_ONLY)
      this.#handoffs.desk.enginesChanged()
      reporter.changed()
    }
    const announce = (isNew: boolean) => {
      if (!engines.isSettled || (this.#announced && !isNew)) return
      this.#announced = true
      const fields = engines.readyFields()
      if (fields !== undefined) events.ready(fields)
    }
    engines.on('ready', ({ connection }) => {
      if (connection !== undefined) held.follow(connection.chunks)
      if (connection?.ready.features.grammars === true)
        connection.setVocabulary(grammarVocabulary(this.#model.tokenizer.vocabulary))
      changed()
      announce(true)
      if (!this.#draining) reporter.start()
    })
    engines.on('down', () => {
      this.#counters.engineRestarts++
      changed()
      announce(false)
    })
    engines.on('changed', changed)
    engines.on('stats', () => reporter.changed())
    engines.on('failed', (message) => {
      this.#admission.close({ code: 'engine_lost', message: 'the engine cannot serve its model' })
      events.failed(message)
    })
    this.#running = engines.run()
  }

  /** Refuses new work, lets open streams end within the grace or move elsewhere, leaves the fleet, ends the engines. */
  async drain(graceMs: number): Promise<void> {
    if (this.#draining) return
    this.#draining = true
    this.#log('info', 'draining', { open: this.#work.open })
    clearTimeout(this.#moveTimer)
    this.#admission.close({ code: 'overloaded', message: 'this backend is shutting down' })
    this.#handoffs.desk.setClosed(true)
    const left = this.#reporter?.leave()
    await this.#work.allOver(graceMs)
    if (this.#work.open > 0) {
      this.#moveAll()
      await this.#work.allOver(Math.min(graceMs, MOVE_WAIT_MS))
    }
    await this.#engines.stop()
    await this.#running
    await left
    await this.#close()
  }

  /** Streams go on elsewhere, prompts of others are computed by those who asked. */
  #moveAll(): void {
    for (const unit of this.#engines.units) unit.moveAll()
    this.#handoffs.desk.cancelAll()
  }

  /** Each revision once: an administrator's word stands until the next. */
  #desire({ revision, draining, roles }: DesiredState): void {
    if (this.#draining) return
    this.#log('info', 'desired', { revision, draining })
    const graceMs = this.#config.drainGraceMs
    if (draining !== this.#held) {
      this.#held = draining
      clearTimeout(this.#moveTimer)
      this.#handoffs.desk.setClosed(draining)
      if (draining) {
        this.#admission.close(HELD)
        this.#moveTimer = setTimeout(() => this.#moveAll(), graceMs)
        this.#moveTimer.unref()
      } else this.#admission.open()
    }
    this.#engines.setRoles(roles, graceMs)
    this.#reporter?.changed()
  }

  /** Ends everything now; streams break off. */
  kill(): void {
    this.#engines.kill()
    this.#server.closeAllConnections()
    this.#sockets.remove()
  }

  async #close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    this.#server.closeIdleConnections()
    const timer = setTimeout(() => this.#server.closeAllConnections(), CLOSE_GRACE_MS)
    await closed
    clearTimeout(timer)
    this.#sockets.remove()
  }

  async #listen(): Promise<string> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(this.#config.listenPort, this.#config.listenHost, resolve)
    })
    const { address, port, family } = this.#server.address() as AddressInfo
    return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`
  }

  /** No work of any kind. */
  #stopped(): Refusal | undefined {
    if (this.#draining) return unavailable('overloaded', 'this backend is shutting down')
    if (this.#held) return { status: 503, failure: HELD }
    return undefined
  }

  #closed(): Refusal | undefined {
    const stopped = this.#stopped()
    if (stopped !== undefined) return stopped
    if (this.#engines.isForPromptsOnly) return { status: 503, failure: PROMPTS_ONLY }
    return this.#engines.serving.length > 0 ? undefined : unavailable('engine_lost', 'the engine is not running')
  }

  #health(): { ready: boolean; body: object } {
    const ready = !this.#draining && !this.#held && this.#engines.isReady
    return {
      ready,
      body: {
        live: true,
        ready,
        engines: this.#engines.units.map(({ name, role, state, canary: { fault } }) => ({
          name,
          role,
          state,
          ...(fault === undefined ? {} : { notReady: fault }),
        })),
        draining: this.#draining || this.#held,
        joined: this.#reporter?.joined ?? false,
        model: this.#config.modelName,
        openDispatches: this.#work.open,
      },
    }
  }

  async #dispatch(arrival: Arrival, open: StreamOpener): Promise<Refusal | undefined> {
    return await this.#work.run(() => this.#serve(arrival, open))
  }

  async #serve({ request, deadlineAtMs, signal }: Arrival, open: StreamOpener): Promise<Refusal | undefined> {
    if (request.model !== this.#config.modelName)
      return {
        status: 404,
        failure: { code: 'model_not_found', message: 'this model is not served here', param: 'model' },
      }
    const limits = this.#engines.limits()
    if (limits === undefined) return this.#closed() ?? unavailable('engine_lost', 'the engine is not running')
    const job = await prepareJob(request, { model: this.#model, limits, pooling: this.#pooling })
    if (!job.ok) return { status: 400, failure: job.error }

    const { slots } = job.value
    const ask = { slots, tenant: request.tenant, priority: request.priority, deadlineAtMs }
    const entered = await this.#admission.enter(ask, signal)
    if (!entered.ok) return { status: refusalStatus(entered.error), failure: entered.error }
    if (this.#engines.serving.length === 0) {
      entered.value.release()
      return this.#closed() ?? unavailable('engine_lost', 'the engine is not running')
    }
    const sequences = this.#handoffs.open(request, deadlineAtMs)
    this.#counters.dispatches++
    this.#reporter?.changed()
    try {
      const write = open()
      const result = await job.value.run({
        connection: sequences,
        prefillPlace: () => sequences.place,
        moving: sequences.moving,
        sink: { write: (events: readonly DispatchEvent[]) => write(events) },
        capacity: () => (sequences.unit ?? this.#engines.serving[0])?.frame(),
        ...(request.kvSeen === undefined ? {} : { kvNews: this.#kvHistory.after(request.kvSeen) }),
        nowMs,
        signal,
        queuedMs: entered.value.queuedMs,
        deadlineAtMs,
      })
      this.#counters.inputTokens += result.usage.inputTokens
      this.#counters.cachedInputTokens += result.usage.cachedInputTokens
      this.#counters.outputTokens += result.usage.outputTokens
      // A client that leaves is no failure of this host.
      if (result.failure !== undefined && result.failure.code !== 'cancelled') {
        this.#counters.failures++
        this.#log('warn', 'dispatch_failed', {
          requestId: request.requestId,
          code: result.failure.code,
          ...result.usage,
        })
      }
      return undefined
    } finally {
      sequences.close()
      entered.value.release()
      this.#reporter?.changed()
    }
  }
}

/** A drain lasts: asking again soon is no use. */
const HELD: Failure = { code: 'overloaded', message: 'this backend takes no work', retryAfterMs: 10_000 }

const PROMPTS_ONLY: Failure = {
  code: 'overloaded',
  message: 'this backend computes prompts for others only',
  retryAfterMs: 1000,
}

const unavailable = (code: 'overloaded' | 'engine_lost', message: string): Refusal => ({
  status: 503,
  failure: { code, message, retryAfterMs: 1000 },
})

const nowMs = (): number => performance.now()

function refusalStatus(failure: Failure): Refusal['status'] {
  if (failure.code === 'invalid_request') return 400
  return failure.code === 'overloaded' && failure.retryAfterMs !== undefined ? 429 : 503
}
