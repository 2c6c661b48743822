// What the loop over targets works with: the job it is given, the world it acts on, one attempt, what became known. Owns the
// types and the default times.
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import type { Result } from '../../protocol/result.ts'
import type { LimitState, ReserveAsk } from '../account/contract.ts'
import type { Lanes } from '../account/lane.ts'
import type { Principal } from '../auth/principal.ts'
import type { Env } from '../env.ts'
import type { ErrorDialect } from '../errors.ts'
import type { CutoffPolicy, ProviderKey, Target } from '../policy/plan.ts'
import type { Fetch } from '../policy/reach.ts'
import type { AnswerJournal, KeptAnswer } from '../providers/answer-journal.ts'
import type { Provider } from '../providers/provider.ts'
import type { Health } from '../routing/health.ts'
import type { Hints } from '../routing/hints.ts'
import type { Step } from '../routing/trace.ts'
import type { Settlement } from '../settlement.ts'
import type { Appointments } from '../stream/appointments.ts'
import type { CollectedChoice } from '../stream/collect.ts'
import type { FilterMaker } from '../stream/filter.ts'
import type { EventReader } from '../stream/reader.ts'
import type { Stop } from '../stream/stop.ts'
import type { Taking } from '../stream/take.ts'
import type { Tally } from '../stream/tally.ts'

export type Timings = {
  /** Longest life of a request; callers can only shorten it. */
  deadlineMs: number
  /** From sending an attempt to its first content. A model's policy may say otherwise. */
  firstContentMs: number
  /** Between two signs of life after the first content. A model's policy may say otherwise. */
  idleMs: number
  /** From an own backend's end in mid-answer until another one has gone on with it. */
  resumeMs: number
  /** Silence towards the client after which a comment is sent. */
  keepAliveMs: number
  /** Longest wait for the response cache; past it the request goes on without. */
  cacheMs: number
  /** Waits for webhooks of content rules, all those of one request together. */
  hooksMs: number
}

/** A chat answer of a full window on a slow engine ends within minutes; a queue of a minute is still worth waiting for. */
export const DEFAULT_TIMINGS: Timings = {
  deadlineMs: 600_000,
  firstContentMs: 120_000,
  // Vendors send nothing for minutes while they think where it is not shown, or build the arguments of a call.
  idleMs: 300_000,
  // An engine that died is back within a second or two, an agent within ten; a host that is new takes longer than anyone waits.
  resumeMs: 20_000,
  keepAliveMs: 10_000,
  // A store in the same place answers within a few milliseconds; one that does not is not worth waiting for.
  cacheMs: 50,
  hooksMs: 3_000,
}

/** The world outside, so that tests can stand in for it. */
export type Ports = {
  fetch: Fetch
  nowMs: () => number
  random: () => number
  newId: () => string
  sleep: (ms: number) => Promise<void>
  timings: Timings
  /** Own backends. */
  fleet: Provider
  /** The way to the accounts. */
  lanes: Lanes
  /** What this isolate knows of its targets. */
  health: Health
}

export type Job = {
  env: Env
  waitUntil: (work: Promise<unknown>) => void
  requestId: string
  receivedAtMs: number
  deadlineAtMs: number
  /** What the request waits for by the clock. Default: a timer for each. */
  appointments?: Appointments
  /** The caller shortened the deadline, so what was computed until then is the caller's. */
  deadlineIsCallers: boolean
  principal: Principal
  request: InferenceRequest
  isStream: boolean
  /** Opaque tenant id on the fleet's wire. */
  tenant: string
  /** The caller's promise that a second request under its key is this one. */
  idempotency?: NonNullable<ReserveAsk['idempotency']> | undefined
  ports: Ports
  /** What the caller wants of the choice among targets. */
  hints: Hints
  /** What reports file it under, in canonical form (routes/tags.ts). */
  tags?: string | undefined
  /** A stored answer, tried before the plan's targets. */
  cached?: { target: Target; provider: Provider }
  /** What every batch of the answer goes through, in this order. Default: nothing. */
  filters?: readonly FilterMaker[]
  /** Whose status an error has in the usage rows. Default `openai`. */
  errorDialect?: ErrorDialect
  /** Told what the account thinks of it: undefined with the first hold, or the failure where there never was one. */
  onVerdict?: (refusal: Failure | undefined) => void
  /** Added to the response, whatever it says. */
  answerHeaders?: Readonly<Record<string, string>>
  /** Keeps what the answer's next life would need. Default: it has none. */
  journal?: AnswerJournal
  /** An earlier life of this request: its last attempt goes on, under the hold that it had. */
  kept?: KeptAnswer
}

/** What became known on the way; headers and logs read it. */
export type Progress = {
  /** Attempts at an answer for the caller. */
  attempts: number
  /** Highest number given to a hold; shadows have theirs among them. */
  numbered: number
  /** The attempts, in the order they began. */
  steps: Step[]
  target?: Target
  label?: string
  requests?: LimitState
  tokens?: LimitState
  /** Soft limits that are passed. */
  warnings?: string[]
  /** The response head is out with status 200, whatever comes. */
  headSent: boolean
}

/** A target with the way to it, about to be asked. */
export type Candidate = {
  target: Target
  provider: Provider
  /** Of a registered provider; own backends and stored answers have none. */
  key?: ProviderKey
  step: Step
  /** To be waited for before it is asked. */
  waitMs: number
  /** As this target is asked: a cascade may want more of it than the caller does. */
  request: InferenceRequest
}

export type Attempt = {
  /** Of its hold. */
  number: number
  candidate: Candidate
  target: Target
  settlement: Settlement
  /** Ends the waits for its answer. */
  stop: Stop
  /** Ends the call to the upstream: the same, unless the rest of a cut-off answer is read without a client. */
  upstreamStop: Stop
  cutoff: CutoffPolicy
  /** Set once the upstream has begun to answer. */
  reader: EventReader | undefined
  tally: Tally
  sentAtMs: number
  firstTokenAtMs: number | undefined
  /** Time that its client, and not the target, was waited for. */
  clientWaitMs: number
  /** Called once, at the first content. */
  onFirstContent: () => void
  /** It is not open any more, for the isolate's own counts. */
  release: () => void
}

export type Won<T> = {
  attempt: Attempt
  taking: Taking
  taken: T
  /** Nothing follows what was taken: the target's answer is complete. */
  isComplete: boolean
}

/** How an answer is taken before the client hears of it. */
export type Taker<T> = {
  take: (taking: Taking) => Promise<Result<T, Failure>>
  /** What a complete answer would have been taken as. */
  fromWhole: (choices: CollectedChoice[], tally: Tally) => T
  /** Whether the target's content rules kept back all of this many choices: the client has nothing of them yet. */
  isWithheld: (taken: T, choices: number) => boolean
}
