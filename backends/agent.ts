// One agent: engine, queue, server and membership tied together. Owns the life cycle and the path of a dispatch from
// arrival to release; options and signals are main.ts.
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { DispatchEvent, DispatchRequest } from '../protocol/dispatch.ts'
import type { Pooling } from '../protocol/engine-frames.ts'
import type { Failure } from '../protocol/errors.ts'
import { ok, type Result } from '../protocol/result.ts'
import { Admission } from './admission.ts'
import { answerFormatOf } from './answer-format.ts'
import { createAuthority, gatewayKeys } from './authority.ts'
import { CapacityTracker } from './capacity.ts'
import { createChatRenderer } from './chat.ts'
import type { Config } from './config.ts'
import { type EngineLimits, prepareDispatch, type TextModel } from './dispatch.ts'
import {
  type EmbeddingLimits,
  type EmbeddingRequest,
  isEmbedding,
  prepareEmbedding,
  runEmbedding,
} from './embedding.ts'
import { createSocketDirectory, type SocketDirectory } from './engine/socket-path.ts'
import { type EngineOptions, EngineSupervisor } from './engine/spawn.ts'
import { type Identity, loadIdentity } from './identity.ts'
import type { Log } from './log.ts'
import { type AgentCounters, metricsText } from './metrics.ts'
import { readModelFile } from './model-reader.ts'
import { Reporter } from './report.ts'
import { type Arrival, createAgentServer, type Refusal, type StreamOpener } from './server.ts'
import { runSession, type SessionContext, type SessionResult } from './session.ts'
import { createTokenizer } from './tokens.ts'
import { grammarVocabulary } from './vocabulary.ts'

/** Time for the last bytes of drained streams to leave. */
const CLOSE_GRACE_MS = 1000

export type AgentEvents = {
  listening: (url: string) => void
  /** Each time an engine is ready. */
  ready: (fields: { pid?: number; contextTokens: number; sequencesMax: number }) => void
  /** The engine cannot serve this model: the agent will not become ready. */
  failed: (message: string) => void
}

/** Only the last token of a decoder has seen the whole text; models of embeddings made from decoders use it. */
const DEFAULT_POOLING: Pooling = 'last'

/** Settings that only tests change. */
export type AgentOverrides = { engine?: Pick<EngineOptions, 'env' | 'timing'> }

export class Agent {
  readonly #config: Config
  readonly #log: Log
  readonly #model: TextModel
  readonly #pooling: Pooling
  readonly #sockets: SocketDirectory
  readonly #engine: EngineSupervisor
  readonly #admission: Admission
  readonly #capacity: CapacityTracker
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
  #draining = false
  #open = 0
  #idle: (() => void) | undefined

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
    this.#engine = new EngineSupervisor(engineOptions(config, this.#sockets, overrides), parts.log)
    this.#admission = new Admission(config.queueRequestsMax, () => performance.now())
    this.#capacity = new CapacityTracker(config.modelName, () => ({
      requestsQueued: this.#admission.queued,
      requestsQueuedMax: this.#admission.queueMax,
      draining: this.#draining,
      prefixBlocks: this.#engine.connection?.prefixBlocks ?? 0,
    }))
    this.#server = createAgentServer({
      authority: createAuthority(this.#identity.backendId, gatewayKeys(config.gatewayUrl), Date.now),
      closed: () => this.#closed(),
      dispatch: (arrival, open) => this.#dispatch(arrival, open),
      health: () => this.#health(),
      metrics: () =>
        metricsText({
          model: config.modelName,
          frame: this.#capacity.frame(),
          stats: this.#engine.connection?.stats,
          counters: this.#counters,
        }),
      refused: () => {
        this.#counters.refusals++
      },
      nowMs: () => performance.now(),
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
  get enginePid(): number | undefined {
    return this.#engine.pid
  }
  /** Dispatches between arrival and their last byte. */
  get openDispatches(): number {
    return this.#open
  }

  /** Listens, starts the engine, and joins the fleet once it is ready. */
  async start(events: AgentEvents): Promise<void> {
    const url = await this.#listen()
    events.listening(url)
    const reporter = new Reporter({
      gatewayUrl: this.#config.gatewayUrl,
      publicUrl: this.#config.publicUrl ?? url,
      identity: this.#identity,
      ...(this.#config.joinToken === undefined ? {} : { joinToken: this.#config.joinToken }),
      epoch: randomUUID(),
      frames: () => [this.#capacity.frame()].filter((frame) => frame !== undefined),
      fingerprint: () => this.#capacity.fingerprint(),
      log: this.#log,
    })
    this.#reporter = reporter
    this.#engine.on('ready', () => {
      const ready = this.#engine.connection?.ready
      if (ready === undefined) return
      this.#capacity.engineReady(ready)
      if (ready.features.grammars)
        this.#engine.connection?.setVocabulary(grammarVocabulary(this.#model.tokenizer.vocabulary))
      this.#admission.setSlotsMax(ready.sequencesMax)
      const pid = this.#engine.pid
      events.ready({
        ...(pid === undefined ? {} : { pid }),
        contextTokens: ready.contextTokens,
        sequencesMax: ready.sequencesMax,
      })
      if (!this.#draining) reporter.start()
      reporter.changed()
    })
    this.#engine.on('down', () => {
      this.#counters.engineRestarts++
      this.#capacity.engineDown()
      this.#admission.setSlotsMax(0)
      reporter.changed()
    })
    this.#engine.on('stats', (stats) => {
      this.#capacity.engineStats(stats)
      reporter.changed()
    })
    this.#engine.on('failed', (message) => {
      this.#capacity.engineDown()
      this.#admission.close({ code: 'engine_lost', message: 'the engine cannot serve its model' })
      events.failed(message)
    })
    this.#running = this.#engine.run()
  }

  /** Refuses new work, lets open streams end within the grace, leaves the fleet, ends the engine. */
  async drain(graceMs: number): Promise<void> {
    if (this.#draining) return
    this.#draining = true
    this.#log('info', 'draining', { open: this.#open })
    this.#admission.close({ code: 'overloaded', message: 'this backend is shutting down' })
    const left = this.#reporter?.leave()
    if (this.#open > 0) {
      const idle = new Promise<void>((resolve) => {
        this.#idle = resolve
      })
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, graceMs)
      })
      await Promise.race([idle, late])
      clearTimeout(timer)
    }
    await this.#engine.stop()
    await this.#running
    await left
    await this.#close()
  }

  /** Ends everything now; streams break off. */
  kill(): void {
    this.#engine.kill()
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

  #closed(): Refusal | undefined {
    if (this.#draining)
      return {
        status: 503,
        failure: { code: 'overloaded', message: 'this backend is shutting down', retryAfterMs: 1000 },
      }
    if (this.#engine.state !== 'ready')
      return { status: 503, failure: { code: 'engine_lost', message: 'the engine is not running', retryAfterMs: 1000 } }
    return undefined
  }

  #health(): { ready: boolean; body: object } {
    const ready = !this.#draining && this.#engine.state === 'ready'
    return {
      ready,
      body: {
        live: true,
        ready,
        engine: this.#engine.state,
        draining: this.#draining,
        joined: this.#reporter?.joined ?? false,
        model: this.#config.modelName,
        openDispatches: this.#open,
      },
    }
  }

  async #dispatch(arrival: Arrival, open: StreamOpener): Promise<Refusal | undefined> {
    this.#open++
    try {
      return await this.#serve(arrival, open)
    } finally {
      this.#open--
      if (this.#open === 0) this.#idle?.()
    }
  }

  async #serve({ request, deadlineAtMs, signal }: Arrival, open: StreamOpener): Promise<Refusal | undefined> {
    if (request.model !== this.#config.modelName)
      return {
        status: 404,
        failure: { code: 'model_not_found', message: 'this model is not served here', param: 'model' },
      }
    const ready = this.#engine.connection?.ready
    if (ready === undefined) return this.#closed()
    const limits = {
      contextTokens: ready.contextTokens,
      vocabularyTokens: ready.vocabSize,
      sequencesMax: ready.sequencesMax,
      grammars: ready.features.grammars,
    }
    const tenant = createHash('sha256').update(request.tenant).digest().readBigUInt64LE()
    const job = isEmbedding(request)
      ? await this.#embeddingJob(request, { ...limits, embeddingDims: ready.embeddingDims }, tenant)
      : await this.#generationJob(request, limits, tenant)
    if (!job.ok) return { status: 400, failure: job.error }

    const { slots } = job.value
    const ask = { slots, tenant: request.tenant, priority: request.priority, deadlineAtMs }
    const entered = await this.#admission.enter(ask, signal)
    if (!entered.ok) return { status: refusalStatus(entered.error), failure: entered.error }
    const connection = this.#engine.connection
    if (connection === undefined) {
      entered.value.release()
      return { status: 503, failure: { code: 'engine_lost', message: 'the engine is not running', retryAfterMs: 1000 } }
    }
    this.#counters.dispatches++
    this.#reporter?.changed()
    try {
      const write = open()
      const result = await job.value.run({
        connection,
        sink: { write: (events: readonly DispatchEvent[]) => write(events) },
        capacity: () => this.#capacity.frame(),
        nowMs: () => performance.now(),
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
      entered.value.release()
      this.#reporter?.changed()
    }
  }

  async #generationJob(
    request: DispatchRequest,
    limits: EngineLimits,
    tenant: bigint,
  ): Promise<Result<EngineJob, Failure>> {
    const prepared = await prepareDispatch(request, this.#model, limits, { randomSeed, tenant })
    if (!prepared.ok) return prepared
    const slots = prepared.value.choices.length
    return ok({ slots, run: (context) => runSession(prepared.value, context) })
  }

  async #embeddingJob(
    request: EmbeddingRequest,
    limits: Omit<EmbeddingLimits, 'pooling'>,
    tenant: bigint,
  ): Promise<Result<EngineJob, Failure>> {
    const prepared = await prepareEmbedding(request, this.#model, { ...limits, pooling: this.#pooling }, tenant)
    if (!prepared.ok) return prepared
    const { slots } = prepared.value
    return ok({ slots, run: (context) => runEmbedding(prepared.value, context) })
  }
}

/** What a request asks of the engine, ready to run. `slots` are sequences at once. */
type EngineJob = { slots: number; run: (context: SessionContext) => Promise<SessionResult> }

const randomSeed = (): bigint => randomBytes(8).readBigUInt64LE()

function refusalStatus(failure: Failure): Refusal['status'] {
  if (failure.code === 'invalid_request') return 400
  return failure.code === 'overloaded' && failure.retryAfterMs !== undefined ? 429 : 503
}

function engineOptions(config: Config, sockets: SocketDirectory, overrides: AgentOverrides): EngineOptions {
  const options: EngineOptions = {
    enginePath: config.enginePath,
    modelPath: config.modelPath,
    sockets,
    ...overrides.engine,
  }
  if (config.threads !== undefined) options.threads = config.threads
  if (config.kvMib !== undefined) options.kvMib = config.kvMib
  if (config.kvType !== undefined) options.kvType = config.kvType
  if (config.quantize !== undefined) options.quantize = config.quantize
  if (config.prefillTokens !== undefined) options.prefillTokens = config.prefillTokens
  if (config.contextTokens !== undefined) options.contextTokens = config.contextTokens
  if (config.sequencesMax !== undefined) options.sequencesMax = config.sequencesMax
  return options
}
