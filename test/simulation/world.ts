// The deterministic world: virtual time, who runs next, what goes wrong. Owns the queue of everything that waits, the
// order in which it goes on, crashes, the count of faults, and the trace. What the parts do is in their own files.
//
// Every wait of the simulated system parks here. One entry at a time goes on, chosen by the seed among all that may; it
// runs until everything it started waits again, then the next is chosen. Nothing else decides an order, so one seed is
// one history.
import type { Random } from './random.ts'

/** Something that can die: an isolate, a request in it, an instance of an account object. What it waited for is forgotten. */
export class Life {
  readonly name: string
  readonly #parent: Life | undefined
  #ended = false
  /** Present: a crash may end it at any wait. Called once, after the end. */
  readonly #onCrash: (() => void) | undefined

  constructor(name: string, options: { parent?: Life; onCrash?: () => void } = {}) {
    this.name = name
    this.#parent = options.parent
    this.#onCrash = options.onCrash
  }

  get alive(): boolean {
    return !this.#ended && (this.#parent === undefined || this.#parent.alive)
  }

  get canCrash(): boolean {
    return this.#onCrash !== undefined
  }

  end(): void {
    this.#ended = true
  }

  crash(): void {
    if (this.#ended) return
    this.#ended = true
    this.#onCrash?.()
  }
}

/** An entry of the queue; `cancelled` takes it out. */
export type Parked = {
  atMs: number
  life: Life
  label: string
  resume: () => void
  cancelled: boolean
  /** Nobody waits for it: a world in which only such things wait is quiet. */
  background: boolean
}

export type FaultKind =
  | 'crash'
  | 'death'
  | 'request_lost'
  | 'reply_lost'
  | 'duplicated'
  | 'outage'
  | 'write_unanswered'
  | 'write_late'
  | 'serialisation'
  | 'clock_forward'
  | 'clock_back'
  | 'alarm_twice'
  | 'alarm_late'
  | 'eviction'
  | 'storage_lost'

/** Now and then time passes although something could run: whatever is slow meets the timers of others. */
const JUMP_CHANCE = 1 / 24
/** Beyond this a timer is not in a race with anything. */
const JUMP_MAX_MS = 30_000
/** More steps than the longest history takes by far: a loop that never ends is found here. */
const STEPS_MAX = 20_000

/** The rules, as failures name them. */
export const INVARIANTS = [
  // Of each answer of the account: books.ts.
  'answers_fit', // a call is answered as what it is, with what it asked for
  'limit_kept', // nothing is admitted beyond a hard limit or credit, by its worst case
  'refusal_justified', // nothing is refused that fits, and a refusal tells the true sums
  'revoked_refused', // a revoked key gets nothing
  'idempotent', // one key, one body, one run
  'one_end', // the first end of a hold stands, whatever comes again
  // Of the end of a history: checker.ts.
  'hold_before_dispatch', // no target was asked without a hold
  'no_open_holds', // nothing is held any more
  'outbox_empty', // everything reached the record
  'no_conflicts', // nothing met another fact under its identity
  'one_attempt_row', // one row per attempt, and its corrections
  'one_request_row', // one row per request, with the sum of its attempts
  'record_is_the_books', // nothing stands in the record that never was
  'charge_true', // usage, cost and payer of rows are those of the end that stood
  'charge_delivered', // nobody pays for what was not delivered
  'client_told_truth', // who saw an answer pays, who saw a failure does not
  'ledger_balanced', // each transfer and all together sum up to zero
  'ledger_is_the_rows', // balances are the sums of what was charged, absorbed and owed
  'counters_are_the_rows', // counters are the sums of rows
  'history_ends', // nothing goes on for ever, nobody waits for ever
] as const
export type Invariant = (typeof INVARIANTS)[number]

/** The simulated system broke a rule. */
export class Violation extends Error {
  override name = 'Violation'
  readonly invariant: Invariant
  constructor(invariant: Invariant, detail: string) {
    super(`${invariant}: ${detail}`)
    this.invariant = invariant
  }
}

export type WorldOptions = { random: Random; startMs: number; faultsMax: number; traced: boolean }

export class World {
  readonly random: Random
  readonly network = new Life('network')
  nowMs: number
  /** Whoever goes on now: timers that name nobody are this one's. */
  current: Life = this.network
  /** What was met, and how often. */
  readonly reached = new Map<string, number>()
  /** When the record failed somebody last. */
  troubleAtMs = Number.NEGATIVE_INFINITY
  readonly trace: string[] | undefined
  faultsLeft: number
  /** Of any entry whose life can crash. */
  crashChance = 0
  steps = 0
  #parked: Parked[] = []
  #failure: unknown

  constructor(options: WorldOptions) {
    this.random = options.random
    this.nowMs = options.startMs
    this.faultsLeft = options.faultsMax
    this.trace = options.traced ? [] : undefined
  }

  /** Waits for a turn, at the earliest after `delayMs`. Never resolves where the life ends before. */
  step(life: Life, label: string, delayMs = 0): Promise<void> {
    return new Promise((resolve) => this.park(life, label, delayMs, resolve))
  }

  park(life: Life, label: string, delayMs: number, resume: () => void, background = false): Parked {
    const parked: Parked = { atMs: this.nowMs + delayMs, life, label, resume, cancelled: false, background }
    this.#parked.push(parked)
    return parked
  }

  /** Work that nobody waits for. What it throws ends the history. */
  spawn(work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      this.#failure ??= error
    })
  }

  fail(error: unknown): void {
    this.#failure ??= error
  }

  /** Nothing is left that could go on. */
  get isEmpty(): boolean {
    return !this.#parked.some((entry) => !entry.cancelled && entry.life.alive)
  }

  /** Nothing is left but what stays in the background. */
  get isQuiet(): boolean {
    return !this.#parked.some((entry) => !entry.background && !entry.cancelled && entry.life.alive)
  }

  note(situation: string): void {
    this.reached.set(situation, (this.reached.get(situation) ?? 0) + 1)
  }

  /** Timers of product code that takes them from the runtime; they die with whoever runs now. */
  timer(then: () => void, delayMs: number): Parked {
    return this.park(this.current, `timer ${delayMs} ms`, delayMs, then)
  }

  say(text: () => string): void {
    this.trace?.push(`${this.nowMs} ${text()}`)
  }

  /** Whether this goes wrong here. Draws in any case, so that fewer faults leave the draws before them as they are. */
  fault(kind: FaultKind, chance: number): boolean {
    if (!this.random.chance(chance) || this.faultsLeft <= 0) return false
    this.faultsLeft--
    this.note(`fault: ${kind}`)
    this.trace?.push(`${this.nowMs} fault ${kind}`)
    return true
  }

  /**
   * Lets everything go on until `until` says so.
   * @throws Violation, or whatever the simulated system threw where nobody expected it
   */
  async run(until: () => boolean): Promise<void> {
    for (;;) {
      await settled()
      if (this.#failure !== undefined) throw this.#failure
      if (until()) return
      this.#go()
    }
  }

  #go(): void {
    const next = this.#next()
    if (next === undefined) throw new Violation('history_ends', 'everything waits for something that never comes')
    if (++this.steps > STEPS_MAX) throw new Violation('history_ends', `still going on after ${STEPS_MAX} steps`)
    const { life, label } = next
    if (life.canCrash && this.fault('crash', this.crashChance)) {
      this.trace?.push(`${this.nowMs} ${life.name} dies at: ${label}`)
      life.crash()
      return
    }
    this.trace?.push(`${this.nowMs} ${life.name}: ${label}`)
    this.current = life
    next.resume()
  }

  /** The entry that goes on; time passes where nothing can. */
  #next(): Parked | undefined {
    const parked = this.#parked
    let ready = 0
    let earliestMs = Number.POSITIVE_INFINITY
    for (let index = 0; index < parked.length; ) {
      const entry = parked[index] as Parked
      if (entry.cancelled || !entry.life.alive) {
        const last = parked.pop()
        if (last !== undefined && last !== entry) parked[index] = last
        continue
      }
      if (entry.atMs <= this.nowMs) {
        // What may go on stands first, so that the choice needs no list of its own.
        parked[index] = parked[ready] as Parked
        parked[ready++] = entry
      } else if (entry.atMs < earliestMs) earliestMs = entry.atMs
      index++
    }
    if (parked.length === 0) return undefined
    const jumps = this.random.chance(JUMP_CHANCE) && earliestMs - this.nowMs <= JUMP_MAX_MS
    if (ready === 0 || jumps) {
      this.nowMs = earliestMs
      for (let index = ready; index < parked.length; index++) {
        const entry = parked[index] as Parked
        if (entry.atMs > earliestMs) continue
        parked[index] = parked[ready] as Parked
        parked[ready++] = entry
      }
    }
    const index = this.random.below(ready)
    const chosen = parked[index]
    const last = parked.pop()
    if (last !== undefined && last !== chosen) parked[index] = last
    return chosen
  }
}

/** Resolves when everything that can go on without a turn has done so: the runtime runs ticks after the last microtask. */
const settled = (): Promise<void> => new Promise((resolve) => process.nextTick(resolve))
