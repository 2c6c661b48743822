// Whether an idle engine still computes what it computed before: a tiny greedy request that nobody asked for, now and then. Owns when it
// is sent, what is held against the engine, and when the engine is given up; readiness follows from `fault` in engine-unit.ts, and the
// process's own liveness (an answer to pings, steps) is engine/spawn.ts.
//
//   idle for `idleMs` ──▶ running ──right tokens──▶ well     ──other tokens, no end in time──▶ not ready, asked again soon
//                            │ └─ work arrives: cancelled at once, and nothing is learned ─┘        └─ `failuresMax` in a row: restarted
//
// No answer is right because it came first. Each question is asked twice: once token by token, then again with the first half of that
// answer given, under a salt of its own. Then the second half follows from a prompt that was computed as matrices are multiplied,
// and has to be the same. The probability of each token has to be a number, and no less than an even share: it is said to be
// the likeliest. What both ways agree on is held against the other engines of the agent (canary-reference.ts), over all their lives:
// an engine's answer depends on its model and build alone, bit for bit. The prompts' beginnings are found in the prefix cache from the
// second time on, so that memory is read as well; they take a few blocks, always the same.
import type { NotReadyReason } from '../protocol/capacity.ts'
import type { SampledToken } from '../protocol/engine-frames.ts'
import type { CanaryReference } from './canary-reference.ts'
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
const GIVEN_TOKENS = OUTPUT_TOKENS / 2
/** Strides through the vocabulary, so that the prompt is no word of anybody's. */
const STRIDE = 7919
/** Of their own: no tenant shares blocks with them, nor one way with the other. */
const SALTS = { decoded: 0xca_9a_27n, computed: 0xca_9a_28n }
/** A distribution that is flat but for rounding is that of dead weights. */
const FLATNESS = 1e-4

export type CanaryOptions = {
  /** Of the engine, within the agent. */
  name: string
  reference: CanaryReference
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
    let sequence: Sequence | undefined
    let isOver = false
    let tokens: readonly SampledToken[] = []
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
    const ask = (salt: bigint, output: readonly number[], then: () => void) => {
      const said: SampledToken[] = []
      tokens = said
      sequence = connection.submit(
        { ...QUESTION, prompt, salt, ...(output.length === 0 ? {} : { output: [...output] }) },
        {
          token: (token) => said.push(token),
          end: (end) => {
            if (isOver) return
            // A queue that is full, a connection that ends: others see to those.
            if (end.kind !== 'finished' || end.finished.reason !== 'length') return over(() => {})
            if (said.every((token) => isLikely(token, vocabSize))) then()
            else over(() => this.#failed(connection, 'canary_wrong', idsOf(said)))
          },
        },
      )
    }
    const decode = () =>
      ask(SALTS.decoded, [], () => {
        const decoded = idsOf(tokens)
        const given = decoded.slice(0, GIVEN_TOKENS)
        // Not work of somebody else's.
        connection.onWork = undefined
        ask(SALTS.computed, given, () => over(() => this.#answered(connection, decoded, [...given, ...idsOf(tokens)])))
        connection.onWork = giveWay
      })
    const giveWay = () => {
      sequence?.cancel()
      over(() => {
        this.counters.cancelled++
      })
    }
    const timer = setTimeout(() => {
      sequence?.cancel()
      over(() => this.#failed(connection, 'canary_timeout', idsOf(tokens)))
    }, this.#timing.timeoutMs)
    timer.unref()
    decode()
    connection.onWork = giveWay
  }

  /** @param computed The same answer, its second half by the other way. */
  #answered(connection: EngineConnection, decoded: readonly number[], computed: readonly number[]): void {
    const { reference, name } = this.#options
    if (!isSame(decoded, computed)) return this.#failed(connection, 'canary_wrong', computed, decoded)
    if (!reference.hear(name, decoded)) return this.#failed(connection, 'canary_wrong', decoded)
    this.counters.passed++
    this.#failures = 0
    this.#set(undefined)
  }

  #failed(
    connection: EngineConnection,
    fault: NotReadyReason,
    tokens: readonly number[],
    expected = this.#options.reference.expected,
  ): void {
    if (fault === 'canary_wrong') this.counters.wrong++
    else this.counters.timeouts++
    this.#failures++
    this.#options.log('error', 'canary_failed', {
      fault,
      failures: this.#failures,
      tokens: tokens.join(' '),
      expected: expected?.join(' '),
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
  logprobsTop: 1,
}

const idsOf = (tokens: readonly SampledToken[]): number[] => tokens.map(({ token }) => token)

const isSame = (one: readonly number[], other: readonly number[]): boolean =>
  one.length === other.length && one.every((token, at) => token === other[at])

/** What the likeliest token's probability can be. */
function isLikely({ token, logprob, top }: SampledToken, vocabSize: number): boolean {
  const [first] = top
  return first?.token === token && logprob <= FLATNESS && logprob >= FLATNESS - Math.log(vocabSize)
}
