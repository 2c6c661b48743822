// What every upstream looks like from inside: one call that opens a stream of events. Owns the interface; the events are
// event.ts. Implementations: backend.ts (own fleet), http.ts (vendors, each described by a Vendor).
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import type { Result } from '../../protocol/result.ts'
import type { Env } from '../env.ts'
import type { CutoffPolicy, Target } from '../policy/plan.ts'
import type { Fetch } from '../policy/reach.ts'
import type { RouteFacts } from '../routing/decision.ts'
import type { Service } from '../routing/door.ts'
import type { AnswerJournal, KeptAnswer } from './answer-journal.ts'
import type { ProviderEvent } from './event.ts'

export type OpenContext = {
  env: Env
  /** Of the client's request, for tracing upstream. */
  requestId: string
  attempt: number
  /** Own fleet only: opaque id for fair sharing between tenants. */
  tenant: string
  /** Time left to the request's deadline. */
  deadlineInMs: number
  /** Output bound the hold was taken for; absent: the target's window. */
  maxOutputTokens?: number
  /** Ends the call and the stream. Providers pass it to `fetch` and add nothing to it. */
  signal: AbortSignal
  fetch: Fetch
  /** Keeps work alive that nobody waits for. */
  waitUntil: (work: Promise<unknown>) => void
  nowMs: () => number
  random: () => number
  newId: () => string
  /** Backends this request has used already, over all attempts. The provider adds to it. */
  backendsTried: Set<string>
  /** Own fleet only: what the operator has promised for the model; absent: nothing. */
  service?: Service
  /** Own fleet only: told by what a backend was chosen, each time that one is. */
  onRoute?: (facts: RouteFacts) => void
  /** Own fleet only: how long an answer that broke off waits for a backend that goes on with it. */
  resumeWaitMs: number
  /** Own fleet only: told each time that the answer goes on at another backend. */
  onMove?: (move: Move) => void
  /** Own fleet only: is told all that a backend says; absent: nobody goes on with the answer after this process. */
  journal?: AnswerJournal
  /** Own fleet only: what this very attempt had come to when the process before this one died. */
  kept?: KeptAnswer
}

/** An answer left a backend in its middle. */
export type Move = { from: string; reason: string }

export type Upstream = {
  /** Who answers, for headers and logs: the provider's name, for own backends with the id of the one that answers now. */
  readonly label: string
  /**
   * Batches, as they arrived: what comes together goes on together. One without events is a sign of life. Throws only what the
   * network throws.
   */
  events: AsyncIterable<ProviderEvent[]>
  /** Called once when the stream is over, however it ended. */
  close(): void
}

export interface Provider {
  /** What becomes of an answer that nobody waits for any more. */
  readonly cutoff: CutoffPolicy
  /**
   * Sends the request. `err` where nothing was computed: refused, unreachable, over a limit.
   * The network's own errors come out as a Failure; an abort of `signal` may throw.
   */
  open(request: InferenceRequest, target: Target, context: OpenContext): Promise<Result<Upstream, Failure>>
  /** Whether another try of the same target may reach another machine. */
  hasAlternative(target: Target, context: OpenContext): Promise<boolean>
}
