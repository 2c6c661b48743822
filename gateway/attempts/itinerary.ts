// Which target a request goes to next. Owns the request's way through the order that routing made: what it has tried, which key
// it takes at each, and when it has nowhere left to go. The order is routing/order.ts, what a failure means routing/verdict.ts.
//
//   stored answer ─▶ places in their order ─▶ after a failure: another machine or key of the same target, at once
//                                                              else the next place
//                                                              else one that failed in passing, after a wait
import { type Failure, mayFallOver } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { errorText, log } from '../observe/log.ts'
import { findProvider } from '../policy/catalog.ts'
import type { Plan, ProviderKey, Target } from '../policy/plan.ts'
import { FLEET } from '../policy/targets.ts'
import { HttpProvider } from '../providers/http.ts'
import type { OpenContext, Provider } from '../providers/provider.ts'
import { vendorOf } from '../providers/vendors.ts'
import { retryWaitMs, WAIT_MAX_MS } from '../routing/backoff.ts'
import { targetName } from '../routing/hints.ts'
import { chooseKey } from '../routing/keys.ts'
import type { Place } from '../routing/order.ts'
import type { Role } from '../routing/trace.ts'
import { verdictOf } from '../routing/verdict.ts'
import { longestTokenPrompt } from '../stream/estimate.ts'
import type { Candidate, Job, Progress } from './job.ts'

/** A target that has so little time left cannot answer: the wait before it would be for nothing. */
const ATTEMPT_MIN_MS = 500

type Turn = { place: Place; turn: number }
/** A target that was asked, and may be asked again. */
type Asked = Turn & { tries: number; retryAfterMs?: number }
/** Why a place cannot be asked. */
type Unusable = { failure: Failure; barredUntilMs?: number }
type Way = { provider: Provider; key?: ProviderKey }

export class Itinerary {
  readonly #job: Job
  readonly #plan: Plan
  readonly #progress: Progress
  #ahead: Turn[]
  /** By place; keys of this request's attempts there. */
  readonly #keysTried = new Map<Place, Set<string>>()
  readonly #mayAskAgain = new Map<Place, Asked>()
  readonly #tries = new Map<Place, number>()
  #servesCached: boolean

  constructor(job: Job, plan: Plan, places: readonly Place[], progress: Progress) {
    this.#job = job
    this.#plan = plan
    this.#progress = progress
    this.#ahead = places.map((place, index) => ({ place, turn: index + 1 }))
    this.#servesCached = job.cached !== undefined
  }

  /** Where to begin. */
  async first(): Promise<Result<Candidate, Failure>> {
    const { cached, request } = this.#job
    if (this.#servesCached && cached !== undefined) {
      this.#servesCached = false
      const step = { target: cached.target, role: 'cache', waitedMs: 0 } as const
      return ok({ ...cached, step: { ...step }, waitMs: 0, request })
    }
    return this.#next('primary')
  }

  /** The target that an earlier life of this request was at. */
  async again(target: Target): Promise<Result<Candidate, Failure>> {
    const found = this.#ahead.find(({ place }) => targetName(place.target) === targetName(target))
    if (found === undefined) {
      const message = `Model '${this.#plan.model}' is not served any more by the target that had begun to answer.`
      return err({ code: 'no_target', message })
    }
    this.#ahead = this.#ahead.filter((one) => one !== found)
    // As it was: its hold was taken at that price.
    const turn = { ...found, place: { ...found.place, target } }
    const way = await this.#way(target, turn.place)
    return 'provider' in way ? ok(this.#candidate(turn, 'primary', way, 0)) : err(way.failure)
  }

  /** A second target beside one that is silent; it will not be asked again in its turn. */
  async beside(): Promise<Candidate | undefined> {
    if (!this.#hasAttempts) return undefined
    const next = await this.#next('hedge', { mayWait: false })
    return next.ok ? next.value : undefined
  }

  /** A larger model after an answer that was not good enough: places behind this one in the catalog. */
  async larger(than: Candidate): Promise<Candidate | undefined> {
    this.#ahead = this.#ahead.filter(({ place }) => isLarger(place, than))
    const next = await this.#next('cascade', { mayWait: false })
    return next.ok ? next.value : undefined
  }

  /** Whether `larger` may find something: only then is an answer held back and looked at. */
  hasLarger(than: Candidate): boolean {
    return this.#hasAttempts && this.#ahead.some(({ place }) => isLarger(place, than))
  }

  /** Whom to ask after a failure; undefined: nobody. */
  async after(
    candidate: Candidate,
    failure: Failure,
    context: OpenContext,
    hadContent: boolean,
  ): Promise<Candidate | undefined> {
    if (!this.#hasAttempts) return undefined
    const { step, target, provider, request } = candidate
    const { place, turn = 0 } = step
    if (place === undefined) {
      const next = await this.#next('primary')
      return next.ok ? next.value : undefined
    }
    // The caller wants no probabilities: they were for the cascade, which does without.
    if (request !== this.#job.request && isAboutLogprobs(failure)) {
      return { ...candidate, step: this.#step({ place, turn }, 'retry'), waitMs: 0, request: this.#job.request }
    }
    const verdict = verdictOf(failure, this.#plan.policy, { isFleet: target.provider === FLEET, hadContent })
    if (verdict.next === 'none') return undefined
    // Another machine with the same model finds the same fault in a request.
    if (mayFallOver(failure.code) && (await provider.hasAlternative(target, context))) {
      return { ...candidate, step: this.#step({ place, turn }, 'retry'), waitMs: 0 }
    }
    if (verdict.otherKey) {
      const other = await this.#way(target, place)
      if ('provider' in other) return this.#candidate({ place, turn }, 'retry', other, 0)
    }
    if (verdict.next === 'larger_window') {
      this.#ahead = this.#ahead.filter((one) => one.place.target.contextTokens > target.contextTokens)
    }
    if (verdict.sameAgain) {
      const { retryAfterMs } = failure
      const tries = this.#tries.get(place) ?? 1
      this.#mayAskAgain.set(place, { place, turn, tries, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) })
    }
    const next = await this.#next('fallback')
    return next.ok ? next.value : this.#again()
  }

  get #hasAttempts(): boolean {
    return this.#progress.attempts < this.#plan.policy.attempts_max
  }

  /**
   * The next place that can be asked; where only barred ones are left, the first of them, after its time. What is passed over
   * because it is barred stays ahead.
   */
  async #next(role: Role, { mayWait } = { mayWait: true }): Promise<Result<Candidate, Failure>> {
    const { ports } = this.#job
    let failure: Failure = { code: 'no_target', message: `No target is up for model '${this.#plan.model}'.` }
    const barred: (Turn & { untilMs: number })[] = []
    for (let turn = this.#ahead.shift(); turn !== undefined; turn = this.#ahead.shift()) {
      const way = await this.#way(turn.place.target, turn.place)
      if ('provider' in way) {
        // Their time may have come until the next look.
        this.#ahead.push(...barred)
        return ok(this.#candidate(turn, role, way, 0))
      }
      failure = way.failure
      if (way.barredUntilMs !== undefined) barred.push({ ...turn, untilMs: way.barredUntilMs })
    }
    barred.sort((one, other) => one.untilMs - other.untilMs)
    const [first, ...others] = barred
    if (first === undefined) return err(failure)
    const leftMs = Math.max(0, first.untilMs - ports.nowMs())
    const waitMs = retryWaitMs(1, leftMs, ports.random())
    if (mayWait && waitMs !== undefined && this.#fits(waitMs)) {
      const way = await this.#way(first.place.target, first.place, ports.nowMs() + waitMs)
      if ('provider' in way) {
        this.#ahead = others
        return ok(this.#candidate(first, role, way, waitMs))
      }
    }
    this.#ahead = barred
    const message = 'The provider is over its limit right now and named the time to come back.'
    return err({ code: 'overloaded', message, kind: 'rate_limited', retryAfterMs: leftMs })
  }

  /** The place that failed in passing and is the first to be willing again, as far as budget and time allow. */
  async #again(): Promise<Candidate | undefined> {
    const { ports } = this.#job
    const waits = [...this.#mayAskAgain.values()]
      .map((asked) => ({ asked, waitMs: retryWaitMs(asked.tries, asked.retryAfterMs, ports.random()) }))
      .filter((one): one is { asked: Asked; waitMs: number } => one.waitMs !== undefined && this.#fits(one.waitMs))
      .toSorted((a, b) => a.asked.tries - b.asked.tries || a.waitMs - b.waitMs)
    for (const { asked, waitMs } of waits) {
      const { place } = asked
      if (!ports.health.takeRetry(place.target, ports.nowMs())) {
        log('warn', 'retry_budget_spent', { requestId: this.#job.requestId, target: targetName(place.target) })
        continue
      }
      this.#mayAskAgain.delete(place)
      this.#keysTried.delete(place)
      const way = await this.#way(place.target, place, ports.nowMs() + waitMs)
      if ('provider' in way) return this.#candidate(asked, 'retry', way, waitMs)
    }
    return undefined
  }

  #fits(waitMs: number): boolean {
    const { deadlineAtMs, ports } = this.#job
    return waitMs <= WAIT_MAX_MS && ports.nowMs() + waitMs + ATTEMPT_MIN_MS < deadlineAtMs
  }

  /** How a target is reached, with the key to use. @param atMs When it will be asked; default now. */
  async #way(target: Target, place: Place, atMs = this.#job.ports.nowMs()): Promise<Way | Unusable> {
    const { request, requestId, env, ports } = this.#job
    const { provider } = target
    const promptTokens = longestTokenPrompt(request)
    if (promptTokens >= target.contextTokens) {
      const message = `The prompt has ${promptTokens} tokens; the context window has ${target.contextTokens}, and the answer needs room too.`
      return { failure: { code: 'context_length_exceeded', message, param: 'prompt' } }
    }
    if (provider === FLEET) return { provider: ports.fleet }
    const down: Failure = { code: 'no_target', message: `No target is up for model '${this.#plan.model}'.` }
    try {
      const config = await findProvider(provider, env, ports.nowMs())
      if (config === undefined) {
        log('warn', 'provider_not_registered', { requestId, provider })
        return { failure: down }
      }
      const tried = this.#keysTried.get(place) ?? new Set()
      const standing = (key: ProviderKey) => ports.health.keyStanding(provider, key, target.model, atMs)
      const choice = chooseKey(config.keys, standing, tried, ports.random())
      if (choice === undefined) return { failure: down }
      if ('untilMs' in choice) return { failure: down, barredUntilMs: choice.untilMs }
      const { key } = choice
      this.#keysTried.set(place, tried.add(key.name))
      return { provider: new HttpProvider(config, vendorOf(config.kind), key), key }
    } catch (error) {
      log('error', 'provider_unreadable', { requestId, provider, error: errorText(error) })
      return { failure: down }
    }
  }

  #candidate(turn: Turn, role: Role, { provider, key }: Way, waitMs: number): Candidate {
    const { place } = turn
    const withKey = key === undefined ? {} : { key }
    const step = { ...this.#step(turn, role), ...withKey, waitedMs: waitMs }
    this.#tries.set(place, (this.#tries.get(place) ?? 0) + 1)
    const { target } = place
    const candidate = { target, provider, ...withKey, step, waitMs, request: this.#job.request }
    return { ...candidate, request: this.#asked(candidate) }
  }

  #step({ place, turn }: Turn, role: Role): Candidate['step'] {
    return { target: place.target, role, place, turn, waitedMs: 0 }
  }

  /** Confidence is measured by probabilities: where an answer may be followed by a larger model's, they are asked for. */
  #asked(candidate: Candidate): InferenceRequest {
    const { request } = this.#job
    const { cascade } = this.#plan.policy
    const wanted = cascade?.escalate_on.includes('low_confidence') === true && request.input.kind === 'chat'
    return wanted && request.logprobs === undefined && this.hasLarger(candidate)
      ? { ...request, logprobs: { top: 0 } }
      : request
  }
}

const isLarger = (place: Place, than: Candidate): boolean =>
  than.step.place !== undefined && place.index > than.step.place.index

const isAboutLogprobs = ({ code, param, message }: Failure): boolean =>
  code === 'invalid_request' && /logprobs/.test(`${param} ${message}`)
