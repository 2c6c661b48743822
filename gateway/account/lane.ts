// The way of an isolate's requests to the accounts. Owns that calls which wait for the same account travel together: one
// Durable Object call and one durable write for many requests. What a call means is contract.ts.
//
//   call ─▶ nobody is under way? ─yes─▶ leads: sends itself and all that wait ─┬─▶ answers go to those they belong to
//                 │no                                                         └─▶ the first that waits is told to lead
//                 ▼
//              waits ──told its answer─▶ done      ──told to lead─▶ leads      ──the batch was lost─▶ goes alone
//
// An idle lane sends at once: what gathers is what arrives while one is under way. Where an account makes its writes durable
// in the isolate's own thread, nothing arrives during that, and batches would stay small however many wait outside: a lane
// that is busy waits some of the time that a batch takes before it sends the next one.
//
// A call to an object belongs to the request that makes it and dies with it, so no request carries others for longer
// than one batch. Where a leader dies, nobody tells those who wait for it: each has a timer of its own, sends its call
// again and sets the lane going. All calls are safe to repeat, so a batch that arrived after all does no harm. The timer
// also marks a waiting request as alive: the runtime ends one that has nothing but another request's promise to wait for.
import type { Result } from '../../protocol/result.ts'
import type { Usage } from '../meter/usage.ts'
import type { Appointments } from '../stream/appointments.ts'
import { within } from '../stream/within.ts'
import { BATCH_CALLS_MAX } from './account-core.ts'
import type { AccountCall, AccountReply, AccountRpc, Denial, Hold, ReserveAsk, Settled, SettleEnd } from './contract.ts'

/** What a request may ask of an account; the rest of the contract is for administrators. */
export type AccountCalls = Pick<AccountRpc, 'reserve' | 'checkpoint' | 'settle'>

export type LanePorts = {
  /** A stub that is made for this call: one that has seen an exception may stay broken. */
  account: () => Pick<AccountRpc, 'batch'>
  /** Of the request that calls: keeps a batch alive for those in it. */
  waitUntil: (work: Promise<unknown>) => void
  nowMs: () => number
  /** Of the request that calls. Default: a timer for each wait. */
  appointments?: Appointments | undefined
}

/** A healthy account answers in milliseconds. After this a batch counts as lost, and so does the request that led it. */
const LOST_AFTER_MS = 2_000
/** A lane is busy where a batch and those that wait behind it are this many; with fewer nobody else is likely to come. */
const BUSY_CALLS_MIN = 4
/** Of a batch's own time, what the next one waits for others; and no longer than this, whatever an account takes. */
const GATHER_SHARE = 0.5
const GATHER_MAX_MS = 3
/** Reservations beyond this are refused: the account is slower than its callers, and a longer queue makes none faster. */
const WAITING_MAX = 2_000

/** Too many calls wait for this account. */
export class LaneFull extends Error {
  override name = 'LaneFull'
}

/** All lanes of an isolate; one lives as long as calls are under way. */
export class Lanes {
  readonly #lanes = new Map<string, Lane>()
  readonly #lostAfterMs: number

  constructor(lostAfterMs = LOST_AFTER_MS) {
    this.#lostAfterMs = lostAfterMs
  }

  /** An organisation's account as one request calls it. @throws of each method: Error where the account failed */
  account(orgId: string, ports: LanePorts): AccountCalls {
    const send = (call: AccountCall): Promise<AccountReply> => {
      let lane = this.#lanes.get(orgId)
      if (lane === undefined) {
        lane = new Lane(this.#lostAfterMs, () => this.#lanes.delete(orgId))
        this.#lanes.set(orgId, lane)
      }
      return lane.send(call, ports)
    }
    return {
      async reserve(ask: ReserveAsk): Promise<Result<Hold, Denial>> {
        const reply = await send({ kind: 'reserve', ask })
        if (reply.kind === 'reserve') return reply.result
        throw unexpected(reply)
      },
      async checkpoint(holdId: string, usage: Usage): Promise<void> {
        const reply = await send({ kind: 'checkpoint', holdId, usage })
        if (reply.kind !== 'checkpoint') throw unexpected(reply)
      },
      async settle(end: SettleEnd): Promise<Settled> {
        const reply = await send({ kind: 'settle', end })
        if (reply.kind === 'settle') return reply.settled
        throw unexpected(reply)
      },
    }
  }
}

const unexpected = (reply: AccountReply): Error =>
  new Error(reply.kind === 'failed' ? reply.error : `the account answered another call (${reply.kind})`)

/** What a waiting call is told, by whoever leads. */
type Word =
  | { kind: 'reply'; reply: AccountReply }
  /** The account refused the batch as a whole, and more calls would only make it worse. */
  | { kind: 'refused'; error: unknown }
  /** After waiting for others. */
  | { kind: 'lead'; gatherMs: number }
  | { kind: 'alone' }

/** A batch under way. */
type Flight = { startedAtMs: number }

type Waiter = {
  call: AccountCall
  /** Absent while it waits in the queue. */
  flight: Flight | undefined
  /** Absent until it was told. */
  word: Word | undefined
  wake: () => void
}

class Lane {
  /** In the order of their calls. */
  readonly #waiting: Waiter[] = []
  #flight: Flight | undefined
  readonly #lostAfterMs: number
  readonly #onIdle: () => void

  constructor(lostAfterMs: number, onIdle: () => void) {
    this.#lostAfterMs = lostAfterMs
    this.#onIdle = onIdle
  }

  async send(call: AccountCall, ports: LanePorts): Promise<AccountReply> {
    const word = this.#isFree(ports.nowMs()) ? await this.#lead(call, ports) : await this.#wait(call, ports)
    switch (word.kind) {
      case 'reply':
        return word.reply
      case 'refused':
        throw word.error
      case 'alone':
        return alone(call, ports)
      default:
        return word satisfies never
    }
  }

  #isLost(flight: Flight, nowMs: number): boolean {
    return nowMs - flight.startedAtMs >= this.#lostAfterMs
  }

  #isFree(nowMs: number): boolean {
    return this.#flight === undefined || this.#isLost(this.#flight, nowMs)
  }

  /** Waits to be told, and looks after the lane from time to time. */
  async #wait(call: AccountCall, ports: LanePorts): Promise<Exclude<Word, { kind: 'lead' }>> {
    if (call.kind === 'reserve' && this.#waiting.length >= WAITING_MAX)
      throw new LaneFull(`${WAITING_MAX} calls already wait for this account`)
    // Made here: what waits on a promise goes on in the request that made it, whoever resolves it.
    const told = Promise.withResolvers<void>()
    const waiter: Waiter = { call, flight: undefined, word: undefined, wake: told.resolve }
    this.#waiting.push(waiter)
    for (;;) {
      await within(told.promise, this.#lostAfterMs, ports.appointments)
      const { word } = waiter
      if (word !== undefined) {
        if (word.kind !== 'lead') return word
        if (word.gatherMs > 0) await within(new Promise(() => {}), word.gatherMs, ports.appointments)
        return this.#lead(call, ports)
      }
      const nowMs = ports.nowMs()
      if (waiter.flight === undefined) {
        // A long queue that moves is no reason to act.
        if (!this.#isFree(nowMs)) continue
        this.#waiting.splice(this.#waiting.indexOf(waiter), 1)
        return this.#lead(call, ports)
      }
      if (!this.#isLost(waiter.flight, nowMs)) continue
      this.#land(waiter.flight, nowMs)
      return { kind: 'alone' }
    }
  }

  /** Sends this call with those that wait. Never rejects. */
  #lead(call: AccountCall, ports: LanePorts): Promise<Exclude<Word, { kind: 'lead' }>> {
    const flight: Flight = { startedAtMs: ports.nowMs() }
    this.#flight = flight
    const others = this.#waiting.splice(0, BATCH_CALLS_MAX - 1)
    for (const waiter of others) waiter.flight = flight
    const sending = this.#fly(flight, call, others, ports)
    ports.waitUntil(sending)
    return sending
  }

  async #fly(
    flight: Flight,
    call: AccountCall,
    others: Waiter[],
    ports: LanePorts,
  ): Promise<Exclude<Word, { kind: 'lead' }>> {
    const calls = [call, ...others.map((waiter) => waiter.call)]
    let words: Exclude<Word, { kind: 'lead' }>[]
    try {
      const replies = await ports.account().batch(calls)
      words = calls.map((_, index) => {
        const reply = replies[index]
        return reply === undefined ? { kind: 'alone' } : { kind: 'reply', reply }
      })
    } catch (error) {
      // Whatever one call did to the others: each tries once for itself.
      const word: Word = isOverload(error) ? { kind: 'refused', error } : { kind: 'alone' }
      words = calls.map(() => word)
    }
    // First, so that the next batch is under way while these answers are read.
    const nowMs = ports.nowMs()
    const isBusy = calls.length + this.#waiting.length >= BUSY_CALLS_MIN
    const gatherMs = isBusy ? Math.min(GATHER_MAX_MS, Math.floor(GATHER_SHARE * (nowMs - flight.startedAtMs))) : 0
    this.#land(flight, nowMs, gatherMs)
    for (const [index, waiter] of others.entries()) tell(waiter, words[index + 1] ?? { kind: 'alone' })
    return words[0] ?? { kind: 'alone' }
  }

  /** The flight is over, or lost: the next batch is the first waiter's to send. */
  #land(flight: Flight, nowMs: number, gatherMs = 0): void {
    // A lost one may still land when another has taken its place.
    if (this.#flight !== flight) return
    const next = this.#waiting.shift()
    this.#flight = next === undefined ? undefined : { startedAtMs: nowMs }
    if (next === undefined) this.#onIdle()
    else tell(next, { kind: 'lead', gatherMs })
  }
}

function tell(waiter: Waiter, word: Word): void {
  waiter.word ??= word
  waiter.wake()
}

async function alone(call: AccountCall, ports: LanePorts): Promise<AccountReply> {
  const [reply] = await ports.account().batch([call])
  if (reply === undefined) throw new Error('the account gave no answer')
  return reply
}

/** The platform marks errors of an object that has more calls than it can take. */
const isOverload = (error: unknown): boolean =>
  error instanceof Error && 'overloaded' in error && error.overloaded === true
