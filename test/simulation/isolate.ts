// Model of an isolate of the gateway: the request path around the real lane, settlement and tally. Owns the order of
// hold, dispatch, delivery and settle as gateway/attempts.ts and gateway/lifecycle.ts have it, without HTTP, and that all
// of it vanishes when the isolate dies.
import type { Estimate, ReserveAsk, Subject } from '../../gateway/account/contract.ts'
import { type AccountCalls, Lanes } from '../../gateway/account/lane.ts'
import type { PriceQuote } from '../../gateway/meter/price.ts'
import type { ProviderEvent } from '../../gateway/providers/event.ts'
import { Settlement } from '../../gateway/settlement.ts'
import { Tally } from '../../gateway/stream/tally.ts'
import type { ErrorCode } from '../../protocol/errors.ts'
import { mayFallOver } from '../../protocol/errors.ts'
import type { AccountHost } from './account-host.ts'
import type { Feed, ProviderModel, Script } from './provider-model.ts'
import { Life, type Parked, type World } from './world.ts'

/** Shorter than in production, so that all of them come due within one history. */
const FIRST_CONTENT_MS = 8_000
const IDLE_MS = 8_000
const SETTLE_WAIT_MS = 1_000

export type Target = {
  provider: string
  model: string
  price: PriceQuote | undefined
  estimate: Estimate
  script: Script
}

/** What a client asks for. */
export type Order = {
  subject: Subject
  model: string
  stream: boolean
  deadlineMs: number
  /** The caller set the deadline, so what was computed until then is the caller's. */
  deadlineIsCallers: boolean
  targets: Target[]
  idempotency: { keyHash: string; bodyHash: string } | undefined
}

/** The client's end of one HTTP exchange. */
export interface Connection {
  /** Called once with the request id, when the gateway has taken the request on. */
  began(requestId: string): void
  /** Anything the client can see of an attempt's answer. */
  content(attempt: number): void
  ended(outcome: Outcome): void
  /** Set by the server side: what happens when the client goes. */
  onGone: (() => void) | undefined
  readonly gone: boolean
}

export type Outcome = 'ok' | ErrorCode | 'lost'

type StopReason = 'client_gone' | 'deadline' | 'first_content' | 'idle'

class Stopped extends Error {
  readonly reason: StopReason
  constructor(reason: StopReason) {
    super(reason)
    this.reason = reason
  }
}

/** Ends the waits of a request, or of one of its attempts. The first reason stands. */
class Stop {
  reason: StopReason | undefined
  readonly #wakes = new Set<(reason: StopReason) => void>()

  stop(reason: StopReason): void {
    if (this.reason !== undefined) return
    this.reason = reason
    for (const wake of this.#wakes) wake(reason)
  }

  /** A stop that ends with this one or before it. */
  child(): Stop {
    const child = new Stop()
    if (this.reason !== undefined) child.stop(this.reason)
    else this.#wakes.add((reason) => child.stop(reason))
    return child
  }

  race<T>(promise: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const wake = (reason: StopReason) => reject(new Stopped(reason))
      if (this.reason !== undefined) wake(this.reason)
      else this.#wakes.add(wake)
      const done = (then: () => void) => {
        this.#wakes.delete(wake)
        then()
      }
      promise.then(
        (value) => done(() => resolve(value)),
        (error: unknown) => done(() => reject(error)),
      )
    })
  }
}

/** Seeded faults of an isolate. */
export type IsolateFault = 'dispatches_unheld' | 'bills_failures' | 'gives_answers_away' | 'bills_one_more'

export type IsolatePorts = {
  world: World
  account: AccountHost
  providers: ProviderModel
  name: string
  fault: IsolateFault | undefined
}

export class Isolate {
  readonly life: Life
  /** Its clock against the true time. */
  skewMs = 0
  readonly #ports: IsolatePorts
  readonly #lanes = new Lanes()
  readonly #connections = new Set<Connection>()

  constructor(ports: IsolatePorts, onCrash: () => void) {
    this.#ports = ports
    this.life = new Life(ports.name, {
      onCrash: () => {
        for (const connection of this.#connections) connection.ended('lost')
        onCrash()
      },
    })
  }

  /** Serves one exchange. */
  serve(order: Order, connection: Connection): void {
    const { world } = this.#ports
    const requestId = world.random.uuid()
    const life = new Life(`${this.life.name}/${requestId.slice(0, 4)}`, {
      parent: this.life,
      onCrash: () => {
        this.#connections.delete(connection)
        connection.ended('lost')
      },
    })
    this.#connections.add(connection)
    connection.began(requestId)
    world.current = life
    const serving = new Serving(this, this.#ports, this.#lanes, { requestId, order, connection, life })
    world.spawn(
      serving.run().then((outcome) => {
        if (!life.alive) return
        this.#connections.delete(connection)
        connection.ended(outcome)
      }),
    )
  }

  nowMs(): number {
    return this.#ports.world.nowMs + this.skewMs
  }
}

type Request = { requestId: string; order: Order; connection: Connection; life: Life }
type Attempt = {
  number: number
  target: Target
  settlement: Settlement
  tally: Tally
  firstTokenAtMs: number | undefined
}

/** One request on its way. */
class Serving {
  readonly #isolate: Isolate
  readonly #ports: IsolatePorts
  readonly #of: Request
  readonly #stop = new Stop()
  readonly #account: AccountCalls
  readonly #deadlineAtMs: number
  #attempts = 0

  constructor(isolate: Isolate, ports: IsolatePorts, lanes: Lanes, of: Request) {
    this.#isolate = isolate
    this.#ports = ports
    this.#of = of
    this.#deadlineAtMs = isolate.nowMs() + of.order.deadlineMs
    this.#account = lanes.account(of.order.subject.orgId, {
      account: () => ports.account.stub(of.life),
      waitUntil: () => {},
      nowMs: () => isolate.nowMs(),
    })
  }

  async run(): Promise<Outcome> {
    const { order, connection, life } = this.#of
    const timer = this.#arm(this.#stop, order.deadlineMs, 'deadline')
    if (connection.gone) this.#stop.stop('client_gone')
    connection.onGone = () => {
      this.#ports.world.park(life, 'the client has gone', 5, () => this.#stop.stop('client_gone'))
    }
    const outcome = await this.#attemptAll()
    timer.cancelled = true
    return outcome
  }

  async #attemptAll(): Promise<Outcome> {
    const { targets } = this.#of.order
    let previous: Settlement | undefined
    let failure: ErrorCode = 'no_target'
    for (const [index, target] of targets.entries()) {
      this.#attempts++
      const reserved = await this.#reserve(target)
      if (!('hold' in reserved)) {
        if (this.#ports.fault === 'dispatches_unheld')
          await this.#ports.providers.open(
            this.#of.life,
            { requestId: this.#of.requestId, attempt: this.#attempts },
            target.script,
          )
        previous?.conclude()
        return reserved.refused
      }
      previous = reserved
      const attempt: Attempt = {
        number: this.#attempts,
        target,
        settlement: reserved,
        tally: new Tally(),
        firstTokenAtMs: undefined,
      }
      const outcome = await this.#attempt(attempt)
      if (outcome.won || outcome.code === 'ok') return outcome.code
      failure = outcome.code
      const goesOn = mayFallOver(failure) && this.#stop.reason === undefined && index + 1 < targets.length
      const isBilled = this.#isCallersDoing(failure) || this.#ports.fault === 'bills_failures'
      const settling = this.#end(attempt, failure, isBilled ? 'customer' : 'absorbed', !goesOn)
      if (!goesOn) return failure
      await Promise.race([settling, this.#sleep(SETTLE_WAIT_MS)])
    }
    return failure
  }

  async #reserve(target: Target): Promise<Settlement | { refused: ErrorCode }> {
    const { requestId, order } = this.#of
    const ask: ReserveAsk = {
      ...order.subject,
      requestId,
      attempt: this.#attempts,
      modelRequested: order.model,
      provider: target.provider,
      modelServed: target.model,
      estimate: target.estimate,
      price: target.price,
      startedAtMs: this.#isolate.nowMs(),
      deadlineAtMs: this.#deadlineAtMs,
      stream: order.stream,
      idempotency: this.#attempts === 1 ? order.idempotency : undefined,
    }
    const settlementOf = (hold: Settlement['hold']) =>
      new Settlement(
        hold,
        requestId,
        { account: this.#account, waitUntil: () => {}, sleep: (ms) => this.#sleep(ms) },
        this.#isolate.nowMs(),
      )
    const reserving = this.#account.reserve(ask)
    try {
      const reserved = await this.#stop.race(reserving)
      if (reserved.ok) return settlementOf(reserved.value)
      this.#ports.world.note(`denied: ${reserved.error.reason}`)
      return { refused: codeOf(reserved.error.reason) }
    } catch (error) {
      if (!(error instanceof Stopped)) return { refused: 'unavailable' }
      // The answer may still come, and with it a hold that nobody uses.
      const release = async () => {
        const late = await reserving
        if (!late.ok) return
        this.#ports.world.note('hold came after the client had gone')
        await settlementOf(late.value).end({
          ...factsOf(new Tally(), 'client_cancelled', this.#isolate.nowMs(), 499),
          charge: 'absorbed',
          final: true,
        })
      }
      this.#ports.world.spawn(release().catch(() => {}))
      return { refused: codeOfStop(error.reason) }
    }
  }

  async #attempt(attempt: Attempt): Promise<{ won: boolean; code: 'ok' | ErrorCode }> {
    const { order, requestId, life, connection } = this.#of
    const { providers } = this.#ports
    const stop = this.#stop.child()
    let timer = this.#arm(stop, FIRST_CONTENT_MS, 'first_content')
    let feed: Feed | undefined
    let sent = false
    try {
      const opened = await stop.race(
        providers.open(life, { requestId, attempt: attempt.number }, attempt.target.script),
      )
      if ('code' in opened) return { won: false, code: opened.code }
      feed = opened
      for (;;) {
        const batch = await stop.race(feed.next())
        if (batch === undefined) break
        for (const event of batch) attempt.tally.see(event)
        const failed = batch.find((event): event is ProviderEvent & { type: 'error' } => event.type === 'error')
        if (failed !== undefined) return this.#over(attempt, sent, failed.failure.code)
        if (!batch.some((event) => event.type === 'delta') && !sent) continue
        attempt.firstTokenAtMs ??= this.#isolate.nowMs()
        attempt.settlement.checkpoint(attempt.tally.counted().usage, this.#isolate.nowMs())
        if (order.stream) {
          sent = true
          connection.content(attempt.number)
        }
        timer.cancelled = true
        timer = this.#arm(stop, IDLE_MS, 'idle')
      }
      if (attempt.tally.finishedCount === 0) return this.#over(attempt, sent, 'upstream_error')
      void this.#end(attempt, 'ok', this.#ports.fault === 'gives_answers_away' ? 'absorbed' : 'customer', true)
      connection.content(attempt.number)
      return { won: true, code: 'ok' }
    } catch (error) {
      if (!(error instanceof Stopped)) throw error
      return this.#over(attempt, sent, codeOfStop(error.reason))
    } finally {
      timer.cancelled = true
      feed?.close()
    }
  }

  /** A failure after the first content is the client's to see, and what was sent is the client's to pay. */
  #over(attempt: Attempt, sent: boolean, code: ErrorCode): { won: boolean; code: ErrorCode } {
    if (sent) void this.#end(attempt, code, 'customer', true)
    return { won: sent, code }
  }

  #end(attempt: Attempt, code: 'ok' | ErrorCode, charge: 'customer' | 'absorbed', final: boolean): Promise<void> {
    const status = code === 'cancelled' ? 'client_cancelled' : code
    const facts = factsOf(attempt.tally, status, this.#isolate.nowMs(), code === 'ok' ? 200 : 502)
    if (this.#ports.fault === 'bills_one_more') facts.usage = { ...facts.usage, outputText: facts.usage.outputText + 1 }
    return attempt.settlement.end({
      ...facts,
      charge,
      final,
      ...(attempt.firstTokenAtMs === undefined ? {} : { firstTokenAtMs: attempt.firstTokenAtMs }),
      ...(attempt.tally.providerCostNanoUsd === undefined
        ? {}
        : { providerCostNanoUsd: attempt.tally.providerCostNanoUsd }),
    })
  }

  #isCallersDoing(code: ErrorCode): boolean {
    return code === 'cancelled' || (code === 'deadline_exceeded' && this.#of.order.deadlineIsCallers)
  }

  #sleep(ms: number): Promise<void> {
    return this.#ports.world.step(this.#of.life, `sleep ${ms} ms`, ms)
  }

  #arm(stop: Stop, ms: number, reason: StopReason): Parked {
    return this.#ports.world.park(this.#of.life, `timer: ${reason}`, ms, () => stop.stop(reason))
  }
}

function factsOf(tally: Tally, status: 'ok' | 'client_cancelled' | ErrorCode, endedAtMs: number, httpStatus: number) {
  const { usage, source } = tally.counted()
  return { usage, usageSource: source, status, endedAtMs, httpStatus }
}

function codeOfStop(reason: StopReason): ErrorCode {
  if (reason === 'client_gone') return 'cancelled'
  return reason === 'deadline' ? 'deadline_exceeded' : 'upstream_error'
}

function codeOf(reason: string): ErrorCode {
  switch (reason) {
    case 'rate_limited':
    case 'concurrency_limited':
    case 'price_unknown':
      return reason
    case 'budget_exhausted':
    case 'credit_exhausted':
      return 'budget_exhausted'
    case 'key_revoked':
      return 'invalid_api_key'
    case 'idempotency_conflict':
    case 'idempotency_running':
    case 'idempotency_answered':
      return 'conflict'
    default:
      return 'unavailable'
  }
}
