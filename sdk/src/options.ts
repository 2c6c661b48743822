// What a client and a call can be told. Owns names, units, defaults, and how hints become headers.
import type { Breaker, BreakerState } from './breaker.ts'
import type { Dialect } from './dialect.ts'
import type { AttemptRecord, ErrorCode, Usage } from './errors.ts'
import type { UsageOutcome, UsageRecord } from './usage-queue.ts'

/**
 * A key, or a function that gets one each time that it is needed.
 *
 * @example
 * ```ts
 * const apiKey: Secret = async () => (await fetch('https://keys.example.com/model-key')).text()
 * ```
 */
export type Secret = string | (() => string | Promise<string>)

/**
 * Where the gateway is.
 *
 * @example
 * ```ts
 * const gateway: GatewayOptions = { baseUrl: 'https://models.example.com', apiKey: 'psk_…' }
 * ```
 */
export type GatewayOptions = {
  /** With or without `/v1` at its end, e.g. `https://models.example.com`. */
  baseUrl: string
  apiKey: Secret
  /** On each request. */
  headers?: Record<string, string>
}

/**
 * A provider that is called with your own key while the gateway is down, and only then.
 *
 * @example
 * ```ts
 * const spare: DirectProvider = {
 *   name: 'spare',
 *   baseUrl: 'https://api.example.com/v1',
 *   apiKey: ownKey,
 *   models: { small: 'their-small' },
 * }
 * ```
 */
export type DirectProvider = {
  /** For errors, hooks and records; not `gateway`. */
  name: string
  /** Up to and including the version, e.g. `https://api.openai.com/v1`. */
  baseUrl: string
  apiKey: Secret
  /** From the gateway's model names to this provider's. A model that is not named is not sent here. */
  models: Record<string, string>
  /** What it speaks. Default: `chat`, `completions`, `embeddings`. */
  dialects?: readonly Dialect[]
  /** How the key is sent. Default: `bearer`. */
  auth?: 'bearer' | 'x-api-key'
  headers?: Record<string, string>
}

/**
 * What of the routing a caller may narrow; none can widen what the key may use.
 *
 * @example
 * ```ts
 * const hints: RoutingHints = { order: ['fleet'], maxLatencyMs: 500, maxPriceUsdPerMillion: '0.5' }
 * await penstock.chat.completions.create({ model: 'small', messages }, { hints })
 * ```
 */
export type RoutingHints = {
  /** Providers or `provider/model`, tried in this order first. */
  order?: readonly string[]
  only?: readonly string[]
  ignore?: readonly string[]
  /** Most USD per million tokens, as a decimal number in text. */
  maxPriceUsdPerMillion?: string
  /** Longest expected time to the first token. */
  maxLatencyMs?: number
  region?: string
  /** Lets the gateway ask a second target where the first is slow; both are charged. */
  hedge?: boolean
  cache?: 'use' | 'refresh' | 'off'
  cacheTtlSeconds?: number
}

/**
 * One try, as it ended.
 *
 * @example
 * ```ts
 * const onAttempt = ({ target, durationMs, code }: AttemptEvent) => console.log(target, durationMs, code ?? 'ok')
 * ```
 */
export type AttemptEvent = AttemptRecord & { model: string | undefined; idempotencyKey: string }

/**
 * Called as things happen; what a hook throws is not seen by the call.
 *
 * @example
 * ```ts
 * const hooks: Hooks = {
 *   onFallback: ({ from, to, code }) => console.warn(`${from} says ${code}, asking ${to}`),
 *   onUsage: ({ outputTokens, isMetered }) => console.log(outputTokens, isMetered ? 'billed' : 'own key'),
 * }
 * ```
 */
export type Hooks = {
  /** After each try. */
  onAttempt?: (attempt: AttemptEvent) => void
  /** A further target is about to be asked. */
  onFallback?: (change: { from: string; to: string; code: ErrorCode }) => void
  /** Once per answer that told its usage, also of one that broke off. */
  onUsage?: (usage: UsageEvent) => void
  onBreaker?: (change: { target: string; state: BreakerState }) => void
  /** A direct call's usage begins to wait for the gateway: store it if it has to outlive this run. */
  onUsageRecord?: (record: UsageRecord) => void
  /** The gateway has it, or never will: what was stored of it can go. */
  onUsageReported?: (outcome: UsageOutcome) => void
}

/**
 * What one answer used, and who counted it.
 *
 * @example
 * ```ts
 * const isOnTheBill = ({ isMetered }: UsageEvent) => isMetered
 * ```
 */
export type UsageEvent = Usage & {
  target: string
  model: string | undefined
  requestId: string | undefined
  idempotencyKey: string
  /** Counted by the gateway, and so billed there. False: a direct call. */
  isMetered: boolean
}

/**
 * What a client is made of.
 *
 * @example
 * ```ts
 * const options: ClientOptions = {
 *   gateway: { baseUrl: 'http://127.0.0.1:8787', apiKey },
 *   deadlineMs: 60_000,
 *   afterContent: 'restart',
 * }
 * ```
 */
export type ClientOptions = {
  gateway: GatewayOptions
  /** Tried in order. Default: none. */
  direct?: readonly DirectProvider[]
  /** For a whole call with all its tries, in milliseconds. Default: 600,000. */
  deadlineMs?: number
  /** Until the head of a streamed answer, per try. Default: 30,000. */
  headTimeoutMs?: number
  /** Without a single byte inside an answer that is streamed. Default: 120,000; the gateway shows life every 15 s at least. */
  idleTimeoutMs?: number
  /** Tries of all targets together. Default: 5. */
  attemptsMax?: number
  /** See {@link CallOptions.afterContent}. Default: `error`. */
  afterContent?: AfterContent
  /** See {@link CallOptions.resume}. Default: false. */
  resume?: boolean
  /** See {@link CallOptions.hedgeAfterMs}. Default: never. */
  hedgeAfterMs?: number
  hooks?: Hooks
  /** Posts the usage of direct calls to the gateway, which shows it and never bills it. Default: true. */
  reportUsage?: boolean
  /** Records that an earlier client could not post: see {@link Hooks.onUsageRecord}. One that was posted is not counted twice. */
  unreported?: readonly UsageRecord[]
  /** By target; give several clients the same map to let them learn from each other. */
  breakers?: Map<string, Breaker>
  /** Default: the global one. */
  fetch?: typeof fetch
}

/**
 * When a stream breaks off after content: `error` throws a StreamInterruptedError; `restart` asks again and begins the answer
 * anew, behind an event `penstock.restart`, so that what was shown can be taken back.
 *
 * @example
 * ```ts
 * const afterContent: AfterContent = 'restart'
 * const stream = await penstock.chat.completions.create({ model: 'small', messages, stream: true }, { afterContent })
 * ```
 */
export type AfterContent = 'error' | 'restart'

/**
 * What one call may say for itself; what it leaves out is the client's.
 *
 * @example
 * ```ts
 * const call: CallOptions = { signal: AbortSignal.timeout(5_000), idempotencyKey: 'order-17' }
 * await penstock.chat.completions.create({ model: 'small', messages }, call)
 * ```
 */
export type CallOptions = {
  signal?: AbortSignal
  deadlineMs?: number
  /**
   * One logical call is run once, however often it is sent: with a key of your own, a call whose answer was lost ends as
   * `conflict`. Default: a fresh one per call, and another where an answer was lost with its connection.
   */
  idempotencyKey?: string
  hints?: RoutingHints
  headers?: Record<string, string>
  /** A background response is continued instead, at the event where it broke off. */
  afterContent?: AfterContent
  /**
   * The gateway keeps the stream, and one that breaks off is taken up behind its last event, also where the gateway itself died.
   * Leaving the stream ends it by a call of its own. Default: the client's.
   */
  resume?: boolean
  /**
   * Asks the first direct provider too where the gateway has not begun to answer by then; the first content wins and the other is
   * stopped. Both may be charged. Not for calls with tools.
   */
  hedgeAfterMs?: number
}

export const DEFAULTS = {
  deadlineMs: 600_000,
  headTimeoutMs: 30_000,
  idleTimeoutMs: 120_000,
  attemptsMax: 5,
  dialects: ['chat', 'completions', 'embeddings'] as readonly Dialect[],
} as const

/** The gateway's headers for hints. */
export function hintHeaders(hints: RoutingHints | undefined): Record<string, string> {
  if (hints === undefined) return {}
  const pairs: [string, string | undefined][] = [
    ['x-penstock-order', hints.order?.join(',')],
    ['x-penstock-only', hints.only?.join(',')],
    ['x-penstock-ignore', hints.ignore?.join(',')],
    ['x-penstock-max-price', hints.maxPriceUsdPerMillion],
    ['x-penstock-max-latency-ms', hints.maxLatencyMs?.toString()],
    ['x-penstock-region', hints.region],
    ['x-penstock-hedge', hints.hedge?.toString()],
    ['x-penstock-cache', hints.cache],
    ['x-penstock-cache-ttl-s', hints.cacheTtlSeconds?.toString()],
  ]
  return Object.fromEntries(pairs.filter((pair): pair is [string, string] => pair[1] !== undefined))
}
