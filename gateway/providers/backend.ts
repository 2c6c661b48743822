// The own fleet as a provider: picks a backend, signs and sends the dispatch, reads the events. Owns wire 2's sending
// side and what each kind of refusal means. Which backend is best is routing/pick.ts.

import { DISPATCH_PATH, DispatchRefusal, type DispatchRequest } from '../../protocol/dispatch.ts'
import { type Failure, mayFallOver } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { backendParty, GATEWAY_ISSUER } from '../../protocol/signing.ts'
import { signBody } from '../fleet/body-token.ts'
import { signingKey } from '../fleet/signing-key.ts'
import { errorText, log } from '../observe/log.ts'
import type { Target } from '../policy/plan.ts'
import { Dispatches } from '../routing/dispatches.ts'
import { type Decision, pick } from '../routing/pick.ts'
import { FleetView } from '../routing/snapshot.ts'
import { readLimited } from './bounded-body.ts'
import { DispatchDecoder } from './dispatch-decoder.ts'
import type { ProviderEvent } from './event.ts'
import { fleetFault } from './fleet-fault.ts'
import { dispatchOf, fleetWire } from './fleet-wire.ts'
import { jsonOrUndefined } from './json-text.ts'
import type { OpenContext, Provider, Upstream } from './provider.ts'

/** Backends asked before the attempt gives up: a fleet where three in a row refuse is full, not unlucky. */
const BACKENDS_PER_ATTEMPT_MAX = 3
/** While an answer's head is awaited, how often the fleet is asked whether the backend still lives. */
const LIVENESS_CHECK_MS = 1000
/** A refusal is one short JSON object. */
const REFUSAL_BYTES_MAX = 16 * 1024

/** The fleet has not heard from the backend for too long: waiting for its answer is pointless. */
class BackendGone extends Error {
  override name = 'BackendGone'
}

type Chosen = { backendId: string; url: string }

export class BackendProvider implements Provider {
  /** What nobody waits for need not be computed: the engine counts exactly, and stops at once. */
  readonly cutoff = 'cancel'
  readonly #view: FleetView
  readonly #dispatches: Dispatches

  constructor(view = new FleetView(), dispatches = new Dispatches()) {
    this.#view = view
    this.#dispatches = dispatches
  }

  async hasAlternative(target: Target, context: OpenContext): Promise<boolean> {
    const decision = await this.#decide(target, context, false).catch(() => undefined)
    return decision?.chosen !== undefined
  }

  async open(request: InferenceRequest, target: Target, context: OpenContext): Promise<Result<Upstream, Failure>> {
    const wire = fleetWire(request)
    if (!wire.ok) return wire
    const { grammarParam } = wire.value
    let refusal: Failure | undefined
    for (let asked = 0; asked < BACKENDS_PER_ATTEMPT_MAX; asked++) {
      let decision: Decision
      try {
        decision = await this.#decide(target, context, grammarParam !== undefined)
      } catch (error) {
        log('error', 'fleet_unreachable', { requestId: context.requestId, error: errorText(error) })
        return err(refusal ?? { code: 'no_target', message: 'The fleet cannot be reached right now.' })
      }
      const { chosen } = decision
      if (chosen === undefined) {
        if (refusal === undefined && grammarParam !== undefined && cannot(decision)) {
          const message = `Model '${target.model}' does not support '${grammarParam}'.`
          return err({ code: 'invalid_request', message, param: grammarParam })
        }
        if (refusal === undefined) {
          log('warn', 'no_backend', { requestId: context.requestId, model: target.model, ...verdictCounts(decision) })
        }
        return err(refusal ?? { code: 'no_target', message: `No backend is up for model '${target.model}'.` })
      }
      context.backendsTried.add(chosen.backendId)
      const answer = await this.#dispatch(chosen, dispatchOf(request, wire.value, target, context), context)
      if (answer.ok) return answer
      if (!mayFallOver(answer.error.code)) return answer
      refusal = kinder(refusal, answer.error)
    }
    return err(refusal ?? { code: 'no_target', message: `No backend is up for model '${target.model}'.` })
  }

  async #decide(target: Target, context: OpenContext, wantsGrammar: boolean): Promise<Decision> {
    const snapshot = await this.#view.read(context.env, context.nowMs)
    const local = {
      inFlight: this.#dispatches.inFlight,
      inhibited: this.#dispatches.inhibited(context.nowMs()),
      tried: context.backendsTried,
    }
    return pick(target.model, snapshot, local, context.random(), wantsGrammar)
  }

  async #dispatch(chosen: Chosen, dispatch: DispatchRequest, context: OpenContext): Promise<Result<Upstream, Failure>> {
    const { backendId } = chosen
    const body = new TextEncoder().encode(JSON.stringify(dispatch))
    const end = this.#dispatches.begin(backendId)
    let response: Response
    try {
      response = await this.#sendTwice(chosen, body, context)
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
    this.#dispatches.recovered(backendId)
    return ok({ label: `fleet/${backendId}`, events: this.#events(backendId, response.body, context), close: end })
  }

  /**
   * A kept-alive connection may have been closed by the other side at the moment it is used again. Without a head of an
   * answer nothing was delivered, so one more try bills nothing twice; at worst a backend that had queued the first one
   * computes for nobody until it notices. The token is a new one, since tokens count once.
   */
  async #sendTwice(chosen: Chosen, body: Uint8Array, context: OpenContext): Promise<Response> {
    try {
      return await this.#send(chosen, body, context)
    } catch (error) {
      if (context.signal.aborted || error instanceof BackendGone) throw error
      return await this.#send(chosen, body, context)
    }
  }

  /** The head of the answer, given up early where the fleet stops hearing from the backend. */
  async #send(chosen: Chosen, body: Uint8Array, context: OpenContext): Promise<Response> {
    const token = await signBody({
      key: await signingKey(context.env),
      issuer: GATEWAY_ISSUER,
      audience: backendParty(chosen.backendId),
      body,
      nowMs: context.nowMs(),
      jti: context.newId(),
    })
    const gone = new AbortController()
    const watch = setInterval(() => {
      const check = async () => {
        const snapshot = await this.#view.read(context.env, context.nowMs)
        const backend = snapshot.backends.find((one) => one.backendId === chosen.backendId)
        if (backend === undefined || backend.reportAgeMs > snapshot.staleAfterMs) {
          gone.abort(new BackendGone('the backend stopped reporting'))
        }
      }
      check().catch(() => {})
    }, LIVENESS_CHECK_MS)
    try {
      return await context.fetch(`${chosen.url}${DISPATCH_PATH}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
        body,
        redirect: 'manual',
        signal: AbortSignal.any([context.signal, gone.signal]),
      })
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

  async *#events(
    backendId: string,
    body: ReadableStream<Uint8Array>,
    context: OpenContext,
  ): AsyncGenerator<ProviderEvent[]> {
    const reader = body.getReader()
    const decoder = new DispatchDecoder()
    try {
      for (;;) {
        const { done, value } = await reader.read()
        const decoded = done ? decoder.end() : decoder.push(value)
        for (const frame of decoded.frames) this.#view.observe(backendId, frame)
        for (const event of decoded.events) {
          if (event.type === 'error' && event.failure.code === 'engine_lost') this.#distrust(backendId, context)
        }
        if (decoded.events.length > 0) yield decoded.events
        if (decoded.ended) return
        if (done) break
      }
      this.#distrust(backendId, context)
      log('warn', 'backend_lost', { requestId: context.requestId, backendId, error: 'the answer ended early' })
      yield [lost()]
    } catch (error) {
      if (context.signal.aborted) throw error
      this.#distrust(backendId, context)
      log('warn', 'backend_lost', { requestId: context.requestId, backendId, error: errorText(error) })
      yield [lost()]
    } finally {
      // Closing the answer is the cancel: an agent still generating stops at its next write.
      await reader.cancel().catch(() => {})
    }
  }

  #distrust(backendId: string, context: OpenContext): void {
    this.#dispatches.inhibit(backendId, context.nowMs())
    this.#view.expire()
  }
}

/** Backends are up, and none can hold its output to a format. */
const cannot = (decision: Decision): boolean =>
  decision.considered.some(({ verdict }) => verdict === 'no_grammars') &&
  decision.considered.every(({ verdict }) => verdict === 'no_grammars' || verdict === 'other_model')

const lost = (): ProviderEvent => ({
  type: 'error',
  failure: {
    code: 'backend_lost',
    message: 'The backend stopped answering in the middle of the stream.',
    kind: 'broken_off',
  },
})

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
