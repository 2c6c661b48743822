// Whether an idle engine still computes what it computed before: a tiny greedy request that nobody asked for, now and then. Owns when it
// is sent, what is held against the engine, and when the engine is given up; readiness follows from `fault` in engine-unit.ts, and the
// process's own liveness (an answer to pings, steps) is engine/spawn.ts.
//
//   idle for `idleMs` ──▶ running ──same tokens──▶ well     ──other tokens, no end in time──▶ not ready, asked again soon
//                            │ └─ work arrives: cancelled at once, and nothing is learned ─┘        └─ `failuresMax` in a row: restarted
//
// The first whole answer is what later ones are held against, over all lives of the engine: an engine's answer depends on its model
// and build alone, bit for bit. The prompt's beginning is found in the prefix cache from the second time on, so that memory is
// read as well; it takes a few blocks, always the same.
import type { NotReadyReason } from '../protocol/capacity.ts'
import type { EngineConnection, Sequence } from './engine/client.ts'
import { GREEDY } from './engine/greedy.ts'
import type { Log } from './log.ts'

export type CanaryTiming = {
  /** Without any work, before the engine is asked. 0: never. */
  idleMs: number
  /** For the whole answer of an engine that has nothing else to do. */
  timeoutMs: number
  /** Between two looks, and from a failure to the next try. */
  pollMs: number
}

/** Most of a minute's idleness: a fault is found before long, and a day of it costs some 2,900 tiny requests. */
const CANARY_TIMING: CanaryTiming = { idleMs: 30_000, timeoutMs: 20_000, pollMs: 1000 }
/** In a row, before the process is ended: one may be a machine's bad moment. */
const FAILURES_MAX = 3
/** Four blocks and some: enough rows that matrices are multiplied as they are for prompts. */
const PROMPT_TOKENS = 72
const OUTPUT_TOKENS = 8
/** Strides through the vocabulary, so that the prompt is no word of anybody's. */
const STRIDE = 7919
/** Of its own: no tenant shares blocks with it. */
const SALT = 0xca_9a_27n

export type CanaryOptions = {
  connection: () => EngineConnection | undefined
  /** Nothing runs or waits here, as far as the agent knows. */
  isIdle: () => boolean
  /** `fault` is another. */
  changed: () => void
  log: Log
  nowMs: () => number
  timing?: Partial<CanaryTiming>
}

export type CanaryCounters = { passed: number; wrong: number; timeouts: number; cancelled: number }

export class Canary {
  readonly counters: CanaryCounters = { passed: 0, wrong: 0, timeouts: 0, cancelled: 0 }
  readonly #options: CanaryOptions
  readonly #timing: CanaryTiming
  #expected: readonly number[] | undefined
  #fault: NotReadyReason | undefined
  #failures = 0
  #idleSinceMs: number | undefined
  #running = false
  #timer: NodeJS.Timeout | undefined

  constructor(options: CanaryOptions) {
    this.#options = options
    this.#timing = { ...CANARY_TIMING, ...options.timing }
  }

  /** Why the engine is to be given nothing; undefined: it is well, or nobody has found otherwise. */
  get fault(): NotReadyReason | undefined {
    return this.#fault
  }
  /** In a row. */
  get failures(): number {
    return this.#failures
  }

  start(): void {
    if (this.#timing.idleMs <= 0 || this.#timer !== undefined) return
    this.#timer = setInterval(() => this.#look(), this.#timing.pollMs)
    this.#timer.unref()
  }
  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Another process: what was held against the last one is not held against it. */
  engineReady(): void {
    this.#idleSinceMs = undefined
    this.#failures = 0
    this.#set(undefined)
  }

  #look(): void {
    const { connection: find, isIdle, nowMs } = this.#options
    const connection = find()
    if (this.#running) return
    if (connection === undefined || !isIdle()) {
      this.#idleSinceMs = undefined
      return
    }
    this.#idleSinceMs ??= nowMs()
    // Whom nothing is given is asked again at once: it may be well by now.
    if (this.#fault === undefined && nowMs() - this.#idleSinceMs < this.#timing.idleMs) return
    this.#ask(connection)
  }

  #ask(connection: EngineConnection): void {
    this.#running = true
    const tokens: number[] = []
    let isOver = false
    const over = (outcome: () => void) => {
      if (isOver) return
      isOver = true
      clearTimeout(timer)
      connection.onWork = undefined
      this.#running = false
      this.#idleSinceMs = undefined
      outcome()
    }
    const { vocabSize } = connection.ready
    const prompt = Array.from({ length: PROMPT_TOKENS }, (_, index) => (1 + index * STRIDE) % vocabSize)
    const sequence: Sequence = connection.submit(
      { ...QUESTION, prompt },
      {
        token: ({ token }) => tokens.push(token),
        end: (end) => {
          if (end.kind === 'finished' && end.finished.reason === 'length')
            over(() => this.#answered(connection, tokens))
          // A queue that is full, a connection that ends: others see to those.
          else over(() => {})
        },
      },
    )
    const timer = setTimeout(() => {
      sequence.cancel()
      over(() => this.#failed(connection, 'canary_timeout', tokens))
    }, this.#timing.timeoutMs)
    timer.unref()
    connection.onWork = () => {
      sequence.cancel()
      over(() => {
        this.counters.cancelled++
      })
    }
  }

  #answered(connection: EngineConnection, tokens: readonly number[]): void {
    this.#expected ??= tokens
    const isSame =
      tokens.length === this.#expected.length && tokens.every((token, at) => token === this.#expected?.[at])
    if (!isSame) return this.#failed(connection, 'canary_wrong', tokens)
    this.counters.passed++
    this.#failures = 0
    this.#set(undefined)
  }

  #failed(connection: EngineConnection, fault: NotReadyReason, tokens: readonly number[]): void {
    if (fault === 'canary_wrong') this.counters.wrong++
    else this.counters.timeouts++
    this.#failures++
    this.#options.log('error', 'canary_failed', {
      fault,
      failures: this.#failures,
      tokens: tokens.join(' '),
      expected: this.#expected?.join(' '),
    })
    this.#set(fault)
    if (this.#failures >= FAILURES_MAX) connection.destroy(`${fault} ${this.#failures} times in a row`)
  }

  #set(fault: NotReadyReason | undefined): void {
    if (this.#fault === fault) return
    this.#fault = fault
    this.#options.changed()
  }
}

/** To a fixed number of tokens: nothing ends it early. */
const QUESTION = {
  ...GREEDY,
  maxNewTokens: OUTPUT_TOKENS,
  creditTokens: OUTPUT_TOKENS,
  priority: 0,
  deadlineMs: 0,
  tenant: 0n,
  salt: SALT,
}
