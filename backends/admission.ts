// Who may compute, and when. Owns the bounded queue in front of the engine ○ (timers belong to the caller's `signal`);
// the engine's own scheduler decides the order of steps among those admitted.
//
// Slots are sequences, not requests: a request of n choices takes n at once. Order: higher priority first, within one
// priority tenants take turns, within one tenant first come first served. The request whose turn it is waits for enough
// slots and nobody passes it, so a wide request is not starved by narrow ones.
import type { Failure } from '../protocol/errors.ts'
import { err, ok, type Result } from '../protocol/result.ts'

export type Ask = {
  /** Sequences needed, >= 1. */
  slots: number
  tenant: string
  priority: number
  /** On the clock that `nowMs` reads. */
  deadlineAtMs: number
}

export type Ticket = { queuedMs: number; release: () => void }

type Waiting = Ask & { enqueuedMs: number; admit: (ticket: Ticket) => void; drop: (failure: Failure) => void }

/** Weight of the newest service time in the running average: about the last ten requests count. */
const SERVICE_TIME_WEIGHT = 0.1
const RETRY_AFTER_MIN_MS = 250
const RETRY_AFTER_MAX_MS = 60_000

export class Admission {
  readonly #queueMax: number
  readonly #nowMs: () => number
  /** Priority → tenant → requests; a Map keeps tenants in the order of their turns. */
  readonly #queues = new Map<number, Map<string, Waiting[]>>()
  #slotsMax = 0
  #widthMax = 0
  #slotsUsed = 0
  #queued = 0
  #queuedSlots = 0
  #serviceMs: number | undefined
  #closed: Failure | undefined

  /** @param queueMax requests that may wait. */
  constructor(queueMax: number, nowMs: () => number) {
    this.#queueMax = queueMax
    this.#nowMs = nowMs
  }

  get queued(): number {
    return this.#queued
  }
  get queueMax(): number {
    return this.#queueMax
  }
  get slotsUsed(): number {
    return this.#slotsUsed
  }

  /**
   * The engines' limit; 0 while there is none. Waiting requests stay in line over a restart.
   * @param widthMax what they have together when all of them are up: a wider request never has its turn.
   */
  setSlotsMax(slotsMax: number, widthMax: number = slotsMax): void {
    this.#slotsMax = slotsMax
    this.#widthMax = widthMax
    this.#advance()
  }

  /** Refuses everything until `open`, those who wait included. */
  close(failure: Failure): void {
    this.#closed = failure
    this.dropAll(failure)
  }

  /** Refuses those who wait. */
  dropAll(failure: Failure): void {
    for (const waiting of this.#all()) waiting.drop(failure)
    this.#queues.clear()
    this.#queued = 0
    this.#queuedSlots = 0
  }

  /** Takes requests again. */
  open(): void {
    this.#closed = undefined
  }

  /**
   * Waits for a turn.
   * @param signal ends the wait; its reason must be a Failure.
   */
  async enter(ask: Ask, signal: AbortSignal): Promise<Result<Ticket, Failure>> {
    if (this.#closed !== undefined) return err(this.#closed)
    if (this.#isTooWide(ask)) return err(this.#tooWide(ask))
    if (signal.aborted) return err(signal.reason as Failure)
    const enqueuedMs = this.#nowMs()
    if (this.#queued === 0 && this.#slotsUsed + ask.slots <= this.#slotsMax) return ok(this.#take(ask, enqueuedMs))
    const waitMs = this.estimatedWaitMs()
    if (this.#queued >= this.#queueMax)
      return err(this.#overloaded(`the queue of ${this.#queueMax} requests is full`, waitMs))
    if (enqueuedMs + waitMs > ask.deadlineAtMs)
      return err(
        this.#overloaded(`the expected wait of ${Math.ceil(waitMs)} ms is longer than the deadline allows`, waitMs),
      )
    return await this.#wait(ask, enqueuedMs, signal)
  }

  /** Expected wait of a request that joins the queue now; 0 until a request has been served. */
  estimatedWaitMs(): number {
    if (this.#serviceMs === undefined || this.#slotsMax === 0) return 0
    return (this.#serviceMs * (this.#queuedSlots + 1)) / this.#slotsMax
  }

  #isTooWide({ slots }: Ask): boolean {
    return this.#widthMax > 0 && slots > this.#widthMax
  }

  #tooWide({ slots }: Ask): Failure {
    const message = `the request asks for ${slots} sequences at once, this backend computes at most ${this.#widthMax}`
    return { code: 'invalid_request', message, param: 'n' }
  }

  #overloaded(reason: string, waitMs: number): Failure {
    const retryAfterMs = Math.round(Math.min(RETRY_AFTER_MAX_MS, Math.max(RETRY_AFTER_MIN_MS, waitMs)))
    return { code: 'overloaded', message: `this backend is busy: ${reason}`, retryAfterMs }
  }

  #wait(ask: Ask, enqueuedMs: number, signal: AbortSignal): Promise<Result<Ticket, Failure>> {
    return new Promise((resolve) => {
      const leave = () => {
        this.#remove(waiting)
        resolve(err(signal.reason as Failure))
        this.#advance()
      }
      const waiting: Waiting = {
        ...ask,
        enqueuedMs,
        admit: (ticket) => {
          signal.removeEventListener('abort', leave)
          resolve(ok(ticket))
        },
        drop: (failure) => {
          signal.removeEventListener('abort', leave)
          resolve(err(failure))
        },
      }
      signal.addEventListener('abort', leave, { once: true })
      const tenants = this.#queues.get(ask.priority) ?? new Map<string, Waiting[]>()
      this.#queues.set(ask.priority, tenants)
      const line = tenants.get(ask.tenant) ?? []
      tenants.set(ask.tenant, line)
      line.push(waiting)
      this.#queued++
      this.#queuedSlots += ask.slots
      this.#advance()
    })
  }

  /** Admits from the head of the order for as long as the head fits. */
  #advance(): void {
    for (;;) {
      const head = this.#head()
      if (head === undefined) return
      if (this.#isTooWide(head)) {
        // The engine came back smaller than it was.
        this.#remove(head)
        head.drop(this.#tooWide(head))
        continue
      }
      if (this.#slotsUsed + head.slots > this.#slotsMax) return
      this.#remove(head)
      this.#yieldTurn(head)
      head.admit(this.#take(head, head.enqueuedMs))
    }
  }

  #head(): Waiting | undefined {
    let highest: number | undefined
    for (const priority of this.#queues.keys()) if (highest === undefined || priority > highest) highest = priority
    if (highest === undefined) return undefined
    for (const line of this.#queues.get(highest)?.values() ?? []) return line[0]
    return undefined
  }

  /** Puts the tenant that was just served behind the others of its priority. */
  #yieldTurn(served: Waiting): void {
    const tenants = this.#queues.get(served.priority)
    const line = tenants?.get(served.tenant)
    if (tenants === undefined || line === undefined) return
    tenants.delete(served.tenant)
    tenants.set(served.tenant, line)
  }

  #remove(waiting: Waiting): void {
    const tenants = this.#queues.get(waiting.priority)
    const line = tenants?.get(waiting.tenant)
    const at = line?.indexOf(waiting) ?? -1
    if (tenants === undefined || line === undefined || at < 0) return
    line.splice(at, 1)
    if (line.length === 0) tenants.delete(waiting.tenant)
    if (tenants.size === 0) this.#queues.delete(waiting.priority)
    this.#queued--
    this.#queuedSlots -= waiting.slots
  }

  #take(ask: Ask, enqueuedMs: number): Ticket {
    const admittedMs = this.#nowMs()
    this.#slotsUsed += ask.slots
    let released = false
    return {
      queuedMs: Math.max(0, admittedMs - enqueuedMs),
      release: () => {
        if (released) return
        released = true
        this.#slotsUsed -= ask.slots
        const servedMs = this.#nowMs() - admittedMs
        this.#serviceMs =
          this.#serviceMs === undefined
            ? servedMs
            : this.#serviceMs + SERVICE_TIME_WEIGHT * (servedMs - this.#serviceMs)
        this.#advance()
      },
    }
  }

  *#all(): Generator<Waiting> {
    for (const tenants of this.#queues.values()) for (const line of tenants.values()) yield* line
  }
}
