// The own fleet as a provider: picks a backend, signs and sends the dispatch. Owns wire 2's sending side and what each kind of
// refusal means. Which backend is best is routing/pick.ts, reading the answer and going on with it elsewhere backend-resume.ts.
import { DISPATCH_PATH, DispatchRefusal, type DispatchRequest, type DispatchUsage } from '../../protocol/dispatch.ts'
import { type Failure, mayFallOver } from '../../protocol/errors.ts'
import { choiceCount, type InferenceRequest } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { backendParty, GATEWAY_ISSUER } from '../../protocol/signing.ts'
import { signBody } from '../fleet/body-token.ts'
import { signPrefillGrant } from '../fleet/prefill-grant.ts'
import { signingKey } from '../fleet/signing-key.ts'
import { errorText, log } from '../observe/log.ts'
import type { Target } from '../policy/plan.ts'
import { type Chosen, type Decision, factsOf } from '../routing/decision.ts'
import { turnedAway } from '../routing/door.ts'
import type { Ask } from '../routing/pick.ts'
import { FleetRouter, type Routed } from '../routing/router.ts'
import { FleetView } from '../routing/snapshot.ts'
import { type KeptAnswer, measured } from './answer-journal.ts'
import { FleetStream, type Leg, type StreamFleet } from './backend-resume.ts'
import { readLimited } from './bounded-body.ts'
import { Continuation } from './continuation.ts'
import { enginesOf } from './failed-backends.ts'
import { anyAsk, fleetAsk } from './fleet-ask.ts'
import { fleetFault } from './fleet-fault.ts'
import { dispatchOf, fleetWire } from './fleet-wire.ts'
import { jsonOrUndefined } from './json-text.ts'
import type { OpenContext, Provider, Upstream } from './provider.ts'

/** Backends asked before the attempt gives up: a fleet where three in a row refuse is full, not unlucky. */
const BACKENDS_PER_ATTEMPT_MAX = 3
/** While an answer's head is awaited, how often the fleet is asked whether the backend still lives. */
const LIVENESS_CHECK_MS = 1000
/** A backend that has left may still be at work on what it has. */
const ABSENT_MS = 10_000
/** Between two looks whether a model is served yet. */
const SERVED_LOOK_MS = 200
/** A refusal is one short JSON object. */
const REFUSAL_BYTES_MAX = 16 * 1024

/** The fleet has not heard from the backend for too long: waiting for its answer is pointless. */
class BackendGone extends Error {
  override name = 'BackendGone'
}

export class BackendProvider implements Provider {
  /** What nobody waits for need not be computed: the engine counts exactly, and stops at once. */
  readonly cutoff = 'cancel'
  readonly #view: FleetView
  readonly #router: FleetRouter
  /** Requests, by what they have tried, and the models that had no room for them: another try at once would not either. */
  readonly #turnedAway = new WeakMap<ReadonlySet<string>, Set<string>>()

  constructor(view = new FleetView(), router = new FleetRouter()) {
    this.#view = view
    this.#router = router
  }

  async hasAlternative(target: Target, context: OpenContext): Promise<boolean> {
    if (this.#turnedAway.get(context.backendsTried)?.has(target.model) === true) return false
    const routed = await this.#decide(anyAsk(target.model), context, context.backendsTried).catch(() => undefined)
    return routed?.decision.chosen !== undefined
  }

  async open(request: InferenceRequest, target: Target, context: OpenContext): Promise<Result<Upstream, Failure>> {
    const wire = fleetWire(request)
    if (!wire.ok) return wire
    const { grammarParam } = wire.value
    const deadlineAtMs = context.nowMs() + context.deadlineInMs
    const { kept } = context
    const begun = kept?.entries[0]
    // Chosen here, so that every backend that computes a part of the answer draws alike.
    const seed =
      begun !== undefined && 'leg' in begun ? begun.seed : Math.floor(context.random() * Number.MAX_SAFE_INTEGER)
    const dispatch = (deadlineInMs: number, resume?: DispatchRequest['resume']): DispatchRequest =>
      dispatchOf(request, wire.value, target, { ...context, seed, deadlineInMs, resume })
    let ask = fleetAsk(request, wire.value, target, context)
    const stream = (first: Leg | KeptAnswer): Upstream => {
      const choices = choiceCount(request)
      const continuation = new Continuation({ choices, withLogprobs: request.logprobs !== undefined })
      const fleet = this.#streamFleet(ask, context, seed, dispatch)
      return upstream(new FleetStream(first, fleet, continuation, context, deadlineAtMs))
    }
    if (kept !== undefined) {
      if (kept.isWhole || measured(kept.entries, request).hasBegun) return ok(stream(kept))
      await this.#untilServed(target.model, context)
    }
    let refusal: Failure | undefined
    /** Of those that refused for other reasons. */
    let widestAsked = 0
    for (let asked = 0; asked < BACKENDS_PER_ATTEMPT_MAX; asked++) {
      let routed: Routed
      try {
        routed = await this.#decide(ask, context, context.backendsTried)
      } catch (error) {
        log('error', 'fleet_unreachable', { requestId: context.requestId, error: errorText(error) })
        return err(refusal ?? { code: 'no_target', message: 'The fleet cannot be reached right now.' })
      }
      const { decision } = routed
      const { chosen, expected } = decision
      if (chosen === undefined || expected === undefined) {
        if (refusal === undefined && grammarParam !== undefined && cannot(decision)) {
          const message = `Model '${target.model}' does not support '${grammarParam}'.`
          return err({ code: 'invalid_request', message, param: grammarParam })
        }
        if (refusal === undefined && isTooLong(decision)) {
          const { contextTokensMax } = decision
          const message =
            `The prompt has some ${decision.promptTokens} tokens; the longest window for model '${target.model}' ` +
            `holds ${contextTokensMax}, one of them for the answer.`
          return err({ code: 'context_length_exceeded', message, param: 'prompt', kind: 'context_length' })
        }
        if (refusal === undefined) {
          log('warn', 'no_backend', { requestId: context.requestId, model: target.model, ...verdictCounts(decision) })
        }
        return err(refusal ?? { code: 'no_target', message: `No backend is up for model '${target.model}'.` })
      }
      const leftMs = deadlineAtMs - context.nowMs()
      const refused = turnedAway(expected, leftMs, context.service)
      if (refused !== undefined) {
        const models = this.#turnedAway.get(context.backendsTried) ?? new Set()
        this.#turnedAway.set(context.backendsTried, models.add(target.model))
        log('info', 'turned_away', { requestId: context.requestId, model: target.model, ...factsOf(decision) })
        return err(kinder(refusal, refused))
      }
      context.backendsTried.add(chosen.backendId)
      const answer = await this.#dispatch(chosen, { ask, routed }, dispatch(leftMs), context)
      if (answer.ok) return ok(stream(answer.value))
      const { contextTokensMax } = expected
      if (answer.error.code === 'context_length_exceeded') {
        // It has counted; a larger window of the same model may hold the prompt all the same.
        ask = { ...ask, windowRefused: contextTokensMax }
        refusal = contextTokensMax >= widestAsked ? answer.error : kinder(refusal, answer.error)
        continue
      }
      if (!mayFallOver(answer.error.code)) return answer
      widestAsked = Math.max(widestAsked, contextTokensMax)
      refusal = kinder(refusal, answer.error)
    }
    return err(refusal ?? { code: 'no_target', message: `No backend is up for model '${target.model}'.` })
  }

  async #decide(ask: Ask, context: OpenContext, tried: ReadonlySet<string>): Promise<Routed> {
    const decide = async (): Promise<Routed> => {
      const { snapshot, matches } = await this.#view.readFor(context.env, context.nowMs, ask.chunks)
      return this.#router.decide(ask, snapshot, matches, tried, context.nowMs(), context.random())
    }
    const routed = await decide()
    // By an old copy nobody is refused: whoever has joined since is not in it.
    return routed.decision.chosen === undefined && this.#view.renew(context.nowMs()) ? await decide() : routed
  }

  /** Backends join a gateway that is new within a second or two: one that goes on with another's requests does not refuse them for that. */
  async #untilServed(model: string, { env, nowMs, resumeWaitMs, signal }: OpenContext): Promise<void> {
    const untilMs = nowMs() + resumeWaitMs
    for (;;) {
      const snapshot = await this.#view.read(env, nowMs).catch(() => undefined)
      const isServed = snapshot?.backends.some(({ frames }) => frames.some((frame) => frame.model === model))
      if (isServed === true || nowMs() >= untilMs || signal.aborted) return
      await new Promise((resolve) => setTimeout(resolve, SERVED_LOOK_MS))
    }
  }

  /** How a stream of this request that breaks off finds its next backend. */
  #streamFleet(
    ask: Ask,
    context: OpenContext,
    seed: number,
    dispatch: (deadlineInMs: number, resume: DispatchRequest['resume']) => DispatchRequest,
  ): StreamFleet {
    return {
      model: ask.model,
      seed,
      snapshot: () => this.#view.read(context.env, context.nowMs),
      observe: (backendId, frame) => this.#view.observe(backendId, frame),
      hear: (backendId, news) => {
        this.#view.hear(backendId, news, context.nowMs())
        this.#router.dropped(news.removed, backendId)
      },
      distrust: (backendId) => this.#distrust(backendId, context),
      reopen: async (resume, leftOut, deadlineInMs) => {
        const routed = await this.#decide(ask, context, leftOut).catch(() => undefined)
        const chosen = routed?.decision.chosen
        if (routed === undefined || chosen === undefined) return err(undefined)
        context.backendsTried.add(chosen.backendId)
        const answer = await this.#dispatch(chosen, { ask, routed }, dispatch(deadlineInMs, resume), context)
        return answer.ok ? answer : err({ backendId: chosen.backendId, failure: answer.error })
      },
    }
  }

  async #dispatch(
    chosen: Chosen,
    { ask, routed }: { ask: Ask; routed: Routed },
    dispatched: DispatchRequest,
    context: OpenContext,
  ): Promise<Result<Leg, Failure>> {
    const { backendId } = chosen
    const { nowMs } = context
    const facts = factsOf(routed.decision)
    if (facts !== undefined) context.onRoute?.(facts)
    const prefill = await this.#prefillWorkers(routed, dispatched, context)
    const kvSeen = this.#view.kvSeen(backendId)
    const dispatch = { ...dispatched, kvSeen, ...(prefill.length === 0 ? {} : { prefill }) }
    const engines = enginesOf(await this.#view.read(context.env, nowMs), backendId)
    const body = new TextEncoder().encode(JSON.stringify(dispatch))
    const sentAtMs = nowMs()
    const { firstToken, end } = this.#router.begin(ask, routed, sentAtMs)
    const abandon = new AbortController()
    let response: Response
    try {
      response = await this.#sendTwice(chosen, body, context, abandon)
    } catch (error) {
      end()
      if (context.signal.aborted) throw error
      this.#distrust(backendId, context)
      log('warn', 'backend_unreachable', { requestId: context.requestId, backendId, error: errorText(error) })
      return err({ code: 'backend_lost', message: 'The backend could not be reached.', kind: 'connect' })
    }
    if (response.status !== 200 || response.body === null) {
      const failure = await this.#refusal(backendId, response, context)
      end()
      return err(failure)
    }
    this.#router.ledger.recovered(backendId)
    const answeredAtMs = nowMs()
    const { waitMs } = routed.decision.expected?.prediction ?? {}
    this.#router.ledger.answered(backendId, answeredAtMs - sentAtMs, answeredAtMs, waitMs)
    // Of an answer that began elsewhere the prompt is longer than the caller's text; of token ids nothing is to be learnt.
    const isTelling = dispatch.resume === undefined && ask.promptTokens === undefined
    const counted = (usage: DispatchUsage) =>
      isTelling ? this.#router.sizes.learn(ask.model, ask.promptChars, usage) : undefined
    return ok({ backendId, engines, body: response.body, abandon, firstToken, counted, end })
  }

  /** Others that the agent may ask to compute the prompt, each with the right to. */
  async #prefillWorkers(
    { decision, prefill }: Routed,
    { model, requestId, tenant }: DispatchRequest,
    context: OpenContext,
  ): Promise<NonNullable<DispatchRequest['prefill']>> {
    const { keyThumbprint } = decision
    if (prefill.length === 0 || keyThumbprint === undefined) return []
    const { env, nowMs, newId, deadlineInMs } = context
    const shared = { key: await signingKey(env), keyThumbprint, model, requestId, tenant, nowMs: nowMs(), deadlineInMs }
    return await Promise.all(
      prefill.map(async ({ backend: { backendId, url }, load }) => ({
        backendId,
        url,
        load,
        grant: await signPrefillGrant({ ...shared, prefillBackendId: backendId, jti: newId() }),
      })),
    )
  }

  /**
   * A kept-alive connection may have been closed by the other side at the moment it is used again. Without a head of an
   * answer nothing was delivered, so one more try bills nothing twice; at worst a backend that had queued the first one
   * computes for nobody until it notices. The token is a new one, since tokens count once.
   */
  async #sendTwice(
    chosen: Chosen,
    body: Uint8Array,
    context: OpenContext,
    abandon: AbortController,
  ): Promise<Response> {
    try {
      return await this.#send(chosen, body, context, abandon)
    } catch (error) {
      if (context.signal.aborted || error instanceof BackendGone) throw error
      return await this.#send(chosen, body, context, abandon)
    }
  }

  /** The head of the answer, given up early where the fleet stops hearing from the backend. */
  async #send(chosen: Chosen, body: Uint8Array, context: OpenContext, abandon: AbortController): Promise<Response> {
    const token = await signBody({
      key: await signingKey(context.env),
      issuer: GATEWAY_ISSUER,
      audience: backendParty(chosen.backendId),
      body,
      nowMs: context.nowMs(),
      jti: context.newId(),
    })
    let presentAtMs = context.nowMs()
    const watch = setInterval(() => {
      const check = async () => {
        const snapshot = await this.#view.read(context.env, context.nowMs)
        const backend = snapshot.backends.find((one) => one.backendId === chosen.backendId)
        const nowMs = context.nowMs()
        if (backend !== undefined) presentAtMs = nowMs
        // A Fleet object that is new has not heard from anybody yet.
        const isGone =
          backend === undefined ? nowMs - presentAtMs >= ABSENT_MS : backend.reportAgeMs > snapshot.staleAfterMs
        if (isGone) {
          abandon.abort(new BackendGone('the backend stopped reporting'))
        }
      }
      check().catch(() => {})
    }, LIVENESS_CHECK_MS)
    try {
      const init = {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
        body,
        redirect: 'manual',
        signal: AbortSignal.any([context.signal, abandon.signal]),
      } as const
      // Backends are the operator's own, mostly inside.
      return await context.fetch(`${chosen.url}${DISPATCH_PATH}`, init, 'anywhere')
    } finally {
      clearInterval(watch)
    }
  }

  async #refusal(backendId: string, response: Response, context: OpenContext): Promise<Failure> {
    const text = await readLimited(response, REFUSAL_BYTES_MAX).catch(() => '')
    const parsed = DispatchRefusal.safeParse(jsonOrUndefined(text))
    const fields = { requestId: context.requestId, backendId, status: response.status }
    if (!parsed.success) {
      this.#distrust(backendId, context)
      log('warn', 'backend_refusal_unreadable', fields)
      return { code: 'backend_lost', message: 'The backend gave an answer that is none.', kind: 'malformed' }
    }
    const { code, message, param, retryAfterMs } = parsed.data
    log('info', 'backend_refused', { ...fields, code })
    switch (code) {
      case 'invalid_api_key':
      case 'permission_denied':
      case 'not_found':
        // About the gateway's own token or wire, never about the caller's key.
        this.#distrust(backendId, context)
        return {
          code: 'backend_lost',
          message: 'The backend does not accept dispatches from this gateway.',
          kind: 'credentials',
        }
      case 'model_not_found':
        this.#view.expire()
        return { code: 'no_target', message: 'The backend does not serve this model any more.', kind: 'unknown_model' }
      case 'no_target':
      case 'engine_lost':
      case 'backend_lost':
      case 'internal':
        this.#distrust(backendId, context)
        break
      default:
        break
    }
    return {
      code,
      message,
      ...(param === undefined ? {} : { param }),
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
      kind: fleetFault(code, 'status'),
    }
  }

  #distrust(backendId: string, context: OpenContext): void {
    this.#router.ledger.inhibit(backendId, context.nowMs())
    this.#view.expire()
  }
}

/** Backends are up, and none can hold its output to a format. */
const cannot = (decision: Decision): boolean =>
  decision.considered.some(({ verdict }) => verdict === 'no_grammars') &&
  decision.considered.every(({ verdict }) => verdict === 'no_grammars' || verdict === 'other_model')

const upstream = (stream: FleetStream): Upstream => ({
  get label() {
    return stream.label
  },
  events: stream.events(),
  close: () => stream.close(),
})

/** Backends are up, and the prompt surely fits none. */
const isTooLong = (decision: Decision): boolean =>
  decision.considered.some(({ verdict }) => verdict === 'too_long') &&
  decision.considered.every(({ verdict }) => verdict === 'too_long' || verdict === 'other_model')

/** Of two refusals the one that tells the caller more: full with a time to come back, before anything else. */
function kinder(before: Failure | undefined, now: Failure): Failure {
  if (before?.code !== 'overloaded') return now
  if (now.code !== 'overloaded') return before
  return (now.retryAfterMs ?? Infinity) < (before.retryAfterMs ?? Infinity) ? now : before
}

function verdictCounts(decision: Decision): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { verdict } of decision.considered) counts[verdict] = (counts[verdict] ?? 0) + 1
  return counts
}
