// Runs the engine process and keeps it running. Owns start, liveness, restart and stop; frames are client.ts.
//
//   starting ──READY──▶ ready ──process or connection ends, no PONG, no step──▶ down ──back-off──▶ starting
//      │  └────────── ends before READY ──────────────────────────────────────────▲
//      └─ exit code 2 (bad model or options) ─▶ failed          any ──stop()──▶ stopped
//
// Exit code 4, a GPU that is lost, is an end like others: a new process may have it again.
//
// `connection` is set in `ready` only. In `failed` and `stopped` no process runs and none will be started.
import { type ChildProcess, spawn } from 'node:child_process'
import { EventEmitter } from 'node:events'
import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Stats } from '../../protocol/engine-status.ts'
import { type Log, messageOf } from '../log.ts'
import { EngineConnection } from './client.ts'
import type { SocketDirectory } from './socket-path.ts'

/** Loading weights from a slow disk takes minutes at worst. */
const START_TIMEOUT_MS = 300_000
const CONNECT_RETRY_MS = 25
const PING_INTERVAL_MS = 1000
/** The engine's socket thread does nothing slow; silence this long on a loaded machine means it hangs. */
const PONG_TIMEOUT_MS = 10_000
/** A single step of a large prefill on a slow CPU may take tens of seconds; with no step for this long it hangs. */
const STEP_TIMEOUT_MS = 120_000
const RESTART_DELAY_MIN_MS = 200
const RESTART_DELAY_MAX_MS = 10_000
/** An engine that ran this long was healthy: its end starts the back-off anew. */
const HEALTHY_AFTER_MS = 60_000
/** SHUTDOWN, then SIGKILL. */
const STOP_GRACE_MS = 3000
const EXIT_BAD_MODEL = 2
/** Kept for the message of a failed start. */
const STDERR_TAIL_CHARS = 2000

export type EngineState = 'starting' | 'ready' | 'down' | 'failed' | 'stopped'

export type EngineOptions = {
  enginePath: string
  modelPath: string
  sockets: SocketDirectory
  threads?: number
  kvMib?: number
  /** `cpu`, `cuda` or `cuda:N`. */
  device?: string
  deviceMemoryMib?: number
  /** `own`, `cublaslt` or `auto`. */
  gemm?: string
  /** `f16`, `q8_0`, `f32` or `bf16`. */
  kvType?: string
  /** `none`, `q8_0` or `q4_0`: what weights in F32, F16 and BF16 are turned into. */
  quantize?: string
  /** Prompt tokens in a step that also decodes. */
  prefillTokens?: number
  contextTokens?: number
  sequencesMax?: number
  /** Other engines may hand K and V over to it. Default: no. */
  receivesKv?: boolean
  /** Besides those of this host: `tcp:HOST:PORT` to listen on. */
  kvTcp?: string
  /** Absent: the agent's own environment. */
  env?: NodeJS.ProcessEnv
  /** Absent: the constants above; tests shorten them. */
  timing?: Partial<EngineTiming>
}

export type EngineTiming = {
  pingIntervalMs: number
  pongTimeoutMs: number
  stepTimeoutMs: number
  restartDelayMinMs: number
}

type Events = { ready: []; down: [reason: string]; failed: [message: string]; stats: [Stats] }

function engineArguments(options: EngineOptions, socketPath: string, kvPath: string | undefined): string[] {
  const list = ['--model', options.modelPath, '--socket', socketPath]
  const add = (flag: string, value: number | string | undefined) => {
    if (value !== undefined) list.push(flag, String(value))
  }
  add('--threads', options.threads)
  add('--kv-mib', options.kvMib)
  add('--device', options.device)
  add('--device-memory-mib', options.deviceMemoryMib)
  add('--gemm', options.gemm)
  add('--kv-type', options.kvType)
  add('--quantize', options.quantize)
  add('--prefill-tokens', options.prefillTokens)
  add('--context', options.contextTokens)
  add('--sequences', options.sequencesMax)
  // Best first: within a host nothing goes through a network.
  if (kvPath !== undefined) add('--kv-listen', [`unix:${kvPath}`, options.kvTcp ?? []].flat().join(' '))
  list.push('--die-with-parent')
  return list
}

export class EngineSupervisor extends EventEmitter<Events> {
  readonly #options: EngineOptions
  readonly #log: Log
  readonly #timing: EngineTiming
  #state: EngineState = 'starting'
  #connection: EngineConnection | undefined
  #child: ChildProcess | undefined
  #exited: Promise<void> = Promise.resolve()
  #failure: string | undefined
  readonly #stopping = new AbortController()

  constructor(options: EngineOptions, log: Log) {
    super()
    this.#options = options
    this.#log = log
    this.#timing = {
      pingIntervalMs: PING_INTERVAL_MS,
      pongTimeoutMs: PONG_TIMEOUT_MS,
      stepTimeoutMs: STEP_TIMEOUT_MS,
      restartDelayMinMs: RESTART_DELAY_MIN_MS,
      ...options.timing,
    }
  }

  /** A socket's end is seen before its process's: from then on nothing can be asked of that engine. */
  get state(): EngineState {
    return this.#state === 'ready' && this.connection === undefined ? 'down' : this.#state
  }
  get connection(): EngineConnection | undefined {
    return this.#connection?.closed === true ? undefined : this.#connection
  }
  /** Why the engine cannot be started at all. */
  get failure(): string | undefined {
    return this.#failure
  }
  get pid(): number | undefined {
    return this.#child?.pid
  }

  /** Runs until `stop` or a permanent failure. */
  async run(): Promise<void> {
    let delayMs = this.#timing.restartDelayMinMs
    while (!this.#stopping.signal.aborted) {
      this.#state = 'starting'
      const startedMs = performance.now()
      const end = await this.#life()
      if (this.#stopping.signal.aborted) break
      if (end.permanent) {
        this.#state = 'failed'
        this.#failure = end.reason
        this.#log('error', 'engine_failed', { reason: end.reason })
        this.emit('failed', end.reason)
        return
      }
      this.#state = 'down'
      if (performance.now() - startedMs > HEALTHY_AFTER_MS) delayMs = this.#timing.restartDelayMinMs
      const waitMs = Math.round(delayMs * (0.5 + Math.random() / 2))
      this.#log('warn', 'engine_down', { reason: end.reason, restartInMs: waitMs })
      this.emit('down', end.reason)
      delayMs = Math.min(delayMs * 2, RESTART_DELAY_MAX_MS)
      await sleep(waitMs, undefined, { signal: this.#stopping.signal }).catch(() => {})
    }
    this.#state = 'stopped'
  }

  /** Ends the process: politely for `STOP_GRACE_MS`, then by SIGKILL. Resolves when it is gone. */
  async stop(): Promise<void> {
    this.#stopping.abort()
    this.#connection?.shutdown()
    const child = this.#child
    if (child !== undefined) {
      if (this.#connection === undefined) child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), STOP_GRACE_MS)
      await this.#exited
      clearTimeout(timer)
    }
    this.#state = 'stopped'
  }

  /** Ends the process at once, without waiting. */
  kill(): void {
    this.#stopping.abort()
    this.#child?.kill('SIGKILL')
  }

  /** One process from start to end. */
  async #life(): Promise<{ permanent: boolean; reason: string }> {
    const socketPath = this.#options.sockets.next()
    const kvPath = this.#options.receivesKv === true ? this.#options.sockets.next() : undefined
    const child = spawn(this.#options.enginePath, engineArguments(this.#options, socketPath, kvPath), {
      stdio: ['ignore', 'pipe', 'pipe'],
      // A group of its own: Ctrl-C in a terminal reaches the agent alone, which lets open streams end first.
      detached: true,
      ...(this.#options.env === undefined ? {} : { env: this.#options.env }),
    })
    this.#child = child
    const stderr = this.#collect(child)
    const ended = new AbortController()
    const exit = new Promise<{ code?: number; text: string; spawned: boolean }>((resolve) => {
      child.once('error', (error) => resolve({ text: error.message, spawned: false }))
      child.once('close', (code, signal) =>
        resolve({ ...(code === null ? {} : { code }), text: signal ?? `exit code ${code}`, spawned: true }),
      )
    })
    this.#exited = exit.then(() => ended.abort())
    const lost: { reason?: string } = {}
    const connecting = this.#connect(socketPath, ended.signal, (reason) => {
      lost.reason ??= reason
      // Whatever ended the connection, this process serves no more.
      child.kill('SIGKILL')
    })
    const connection = await connecting.catch((thrown: unknown) => {
      lost.reason ??= messageOf(thrown)
      child.kill('SIGKILL')
      return undefined
    })
    let watch: Promise<void> | undefined
    if (connection !== undefined && !connection.closed && !ended.signal.aborted) {
      this.#connection = connection
      this.#state = 'ready'
      this.#log('info', 'engine_ready', {
        pid: child.pid,
        arch: connection.ready.arch,
        contextTokens: connection.ready.contextTokens,
        sequencesMax: connection.ready.sequencesMax,
        blocksTotal: connection.ready.blocksTotal,
      })
      this.emit('ready')
      watch = this.#watch(connection, ended.signal)
    }
    // The process's end is known sooner than the socket's on a machine under load.
    child.once('exit', (code, signal) => connection?.destroy(`the engine ended with ${signal ?? `exit code ${code}`}`))
    if (child.exitCode !== null || child.signalCode !== null) connection?.destroy('the engine ended')
    const { code, text, spawned } = await exit
    connection?.destroy(`the engine ended with ${text}`)
    this.#connection = undefined
    this.#child = undefined
    await watch
    rmSync(socketPath, { force: true })
    if (kvPath !== undefined) rmSync(kvPath, { force: true })
    const tail = stderr()
    if (!spawned) return { permanent: true, reason: `cannot run ${this.#options.enginePath}: ${text}` }
    if (code === EXIT_BAD_MODEL) return { permanent: true, reason: tail || 'the engine refused its model or options' }
    const reason = connection === undefined ? `before it was ready: ${text}` : (lost.reason ?? text)
    return { permanent: false, reason: tail === '' ? reason : `${reason}; last words: ${tail}` }
  }

  async #connect(path: string, ended: AbortSignal, closed: (reason: string) => void): Promise<EngineConnection> {
    const signal = AbortSignal.any([ended, this.#stopping.signal, AbortSignal.timeout(START_TIMEOUT_MS)])
    for (;;) {
      try {
        return await EngineConnection.open(path, { stats: (stats) => this.emit('stats', stats), closed }, signal)
      } catch (thrown) {
        const message = messageOf(thrown)
        // The socket appears when the engine is far enough; every other fault is final.
        if (signal.aborted || !/ENOENT|ECONNREFUSED/.test(message)) throw thrown
        await sleep(CONNECT_RETRY_MS, undefined, { signal })
      }
    }
  }

  /** Kills a process that no longer answers or no longer computes. Ends with the process. */
  async #watch(connection: EngineConnection, ended: AbortSignal): Promise<void> {
    let step: bigint | undefined
    let steppedMs = performance.now()
    while (!ended.aborted && !connection.closed) {
      const waiting = new AbortController()
      const signal = AbortSignal.any([ended, waiting.signal])
      const answered = await Promise.race([
        connection.ping().then(() => true),
        sleep(this.#timing.pongTimeoutMs, false, { signal }).catch(() => true),
      ])
      waiting.abort()
      if (ended.aborted || connection.closed) return
      if (!answered) return connection.destroy(`no PONG for ${this.#timing.pongTimeoutMs} ms`)
      const stats = connection.stats
      const now = performance.now()
      // While a slow reader holds back its allowance, standing still is no fault.
      const mayStand = stats === undefined || stats.running === 0 || connection.starvedSequences > 0
      if (mayStand || stats.step !== step) steppedMs = now
      step = stats?.step
      if (now - steppedMs > this.#timing.stepTimeoutMs)
        return connection.destroy(`no step for ${this.#timing.stepTimeoutMs} ms with ${stats?.running} running`)
      await sleep(this.#timing.pingIntervalMs, undefined, { signal: ended }).catch(() => {})
    }
  }

  /** Passes the engine's own lines on as log fields and keeps the last ones. */
  #collect(child: ChildProcess): () => string {
    let tail = ''
    let line = ''
    const read = (chunk: string) => {
      tail = (tail + chunk).slice(-STDERR_TAIL_CHARS)
      line += chunk
      const lines = line.split('\n')
      line = (lines.pop() ?? '').slice(-STDERR_TAIL_CHARS)
      for (const text of lines) if (text.trim() !== '') this.#log('info', 'engine_says', { text: text.trim() })
    }
    child.stderr?.setEncoding('utf8').on('data', read)
    child.stdout?.setEncoding('utf8').on('data', read)
    return () => tail.trim()
  }
}
