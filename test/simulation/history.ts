// One history: a seed becomes a plan, the plan is lived through, and what is left is checked. Owns how the parts are put
// together, the calm at the end, and what is reported of a history that broke a rule.
import { AccountCore } from '../../gateway/account/account-core.ts'
import type { AccountPorts } from '../../gateway/account/ports.ts'
import type { AccountRecord } from '../../gateway/ledger/record.ts'
import { AccountHost } from './account-host.ts'
import { Books } from './books.ts'
import { check } from './checker.ts'
import { type ClientPorts, type Exchange, type Visit, visit } from './client.ts'
import { Isolate, type IsolateFault } from './isolate.ts'
import { type AdminAct, type Mishap, makePlan, type Plan } from './plan.ts'
import { ProviderModel } from './provider-model.ts'
import { Random } from './random.ts'
import { RecordModel } from './record-model.ts'
import type { SimulatedStorage } from './sqlite.ts'
import { type Invariant, Life, type Parked, Violation, World } from './world.ts'

/** What a seeded fault puts in place of the product's own. */
export type Mutant = {
  /** Changes what the object is given. */
  ports?(ports: AccountPorts): AccountPorts
  /** Changes what callers reach. */
  core?(core: AccountCore, ports: AccountPorts): AccountCore
  record?(record: AccountRecord): AccountRecord
  /** Changes an isolate's order of work. */
  isolate?: IsolateFault
  /** The platform forgets alarms. */
  losesAlarms?: boolean
}

export type HistoryOptions = {
  traced?: boolean
  faultsMax?: number
  mutant?: Mutant | undefined
  storage: SimulatedStorage
}

export type Outcome = {
  failure: { invariant: Invariant | 'nothing_thrown'; message: string } | undefined
  steps: number
  faults: number
  reached: Map<string, number>
  trace: string[] | undefined
}

/** Nothing may be open any more after this: the longest deadline, its grace, the grace of the request, and a slow clock. */
const CALM_MS = 15 * 60_000

/** The lane takes its timers from the runtime: in a thread of histories they are the world's. */
function lendTimers(world: World): () => void {
  const { setTimeout: set, clearTimeout: clear } = globalThis
  Object.assign(globalThis, {
    setTimeout: (then: () => void, delayMs: number) => world.timer(then, delayMs),
    clearTimeout: (parked: Parked | null | undefined) => {
      if (parked != null) parked.cancelled = true
    },
  })
  return () => Object.assign(globalThis, { setTimeout: set, clearTimeout: clear })
}

/** Lives through one history. Never throws: what is thrown is the history's failure. */
export async function runHistory(seed: number, options: HistoryOptions): Promise<Outcome> {
  const random = new Random(seed)
  const plan = makePlan(seed, random)
  const faultsMax = options.faultsMax ?? plan.faultsMax
  const world = new World({ random, startMs: plan.startMs, faultsMax, traced: options.traced === true })
  const takeBack = lendTimers(world)
  let failure: Outcome['failure']
  try {
    await new History(plan, world, options).run()
  } catch (error) {
    const invariant: Invariant | 'nothing_thrown' = error instanceof Violation ? error.invariant : 'nothing_thrown'
    failure = { invariant, message: error instanceof Error ? (error.stack ?? error.message) : String(error) }
  } finally {
    takeBack()
  }
  return {
    failure,
    steps: world.steps,
    faults: faultsMax - world.faultsLeft,
    reached: world.reached,
    trace: world.trace,
  }
}

class History {
  readonly #plan: Plan
  readonly #world: World
  readonly #storage: SimulatedStorage
  readonly #record: RecordModel
  readonly #books: Books
  readonly #host: AccountHost
  readonly #providers: ProviderModel
  readonly #isolates: Isolate[]
  readonly #exchanges: Exchange[] = []
  readonly #mutant: Mutant
  #visiting = 0

  constructor(plan: Plan, world: World, options: HistoryOptions) {
    const mutant = options.mutant ?? {}
    this.#plan = plan
    this.#world = world
    this.#mutant = mutant
    this.#storage = options.storage
    this.#storage.wipe()
    this.#record = new RecordModel(world)
    this.#record.book = plan.book
    this.#record.faults = plan.recordFaults
    this.#books = new Books(world, () => this.#host.nowMs())
    this.#providers = new ProviderModel(world)
    this.#host = new AccountHost({
      world,
      storage: this.#storage,
      record: this.#record,
      books: this.#books,
      losesAlarms: mutant.losesAlarms === true,
      make: (given) => {
        const record = mutant.record?.(given.record) ?? given.record
        const ports = mutant.ports?.({ ...given, record }) ?? { ...given, record }
        const core = new AccountCore(ports)
        return mutant.core?.(core, ports) ?? core
      },
    })
    this.#host.faults = plan.hostFaults
    this.#host.skewMs = plan.skewMs.account
    this.#host.latencyMs = plan.latencyMs
    this.#isolates = Array.from({ length: plan.isolates }, (_, index) => this.#makeIsolate(index, 0))
  }

  async run(): Promise<void> {
    const { admin, mishaps, visits, later, crashChance } = this.#plan
    const world = this.#world
    world.crashChance = crashChance
    this.#visit(visits)
    for (const act of admin) this.#administer(act)
    for (const mishap of mishaps) this.#befall(mishap)
    await this.#calm()
    if (later.length > 0) {
      world.note('fault: storage_lost')
      this.#host.evict()
      this.#storage.wipe()
      this.#books.storageLost()
      this.#visit(later)
      await this.#calm()
    }
    await check({
      books: this.#books,
      record: this.#record,
      state: await this.#host.core().inspect(),
      deliveries: this.#providers.deliveries,
      exchanges: this.#exchanges,
    })
  }

  #makeIsolate(index: number, generation: number): Isolate {
    const ports = {
      world: this.#world,
      account: this.#host,
      providers: this.#providers,
      name: `isolate ${index}.${generation}`,
      fault: this.#mutant.isolate,
    }
    const isolate = new Isolate(ports, () => {
      this.#isolates[index] = this.#makeIsolate(index, generation + 1)
    })
    isolate.skewMs = this.#plan.skewMs.isolates[index] ?? 0
    return isolate
  }

  #visit(visits: Visit[]): void {
    const ports: ClientPorts = {
      world: this.#world,
      exchanges: this.#exchanges,
      isolate: () => this.#world.random.pick(this.#isolates),
    }
    for (const one of visits) {
      this.#visiting++
      this.#world.spawn(
        visit(one, ports).then(() => {
          this.#visiting--
        }),
      )
    }
  }

  /** The record first, then the news; the news may be lost, and come in any order. */
  #administer(act: AdminAct): void {
    const world = this.#world
    const life = new Life('admin')
    world.park(life, act.kind, act.atMs, () => {
      const account = this.#host.admin(life)
      if (act.kind === 'flush') return world.spawn(account.flush().catch(() => {}))
      if (act.kind === 'revoke') return world.spawn(account.setKeyRevoked(act.keyId, act.revoked).catch(() => {}))
      // Versions rise with each change in the record, whatever order they were meant in.
      const book = { ...act.book, version: this.#record.book.version + 1 }
      this.#record.book = book
      world.note('rules changed')
      world.spawn(
        world
          .step(life, 'news of rules', world.random.below(5_000))
          .then(() => account.setRules(book))
          .catch(() => {}),
      )
    })
  }

  #befall(mishap: Mishap): void {
    const world = this.#world
    world.park(world.network, mishap.kind, mishap.atMs, () => {
      if (mishap.kind === 'outage') {
        if (!world.fault('outage', 1)) return
        this.#record.downUntilMs = world.nowMs + mishap.forMs
        return
      }
      if (mishap.kind === 'death') {
        if (world.fault('death', 1)) world.random.pick(this.#isolates).life.crash()
        return
      }
      if (!world.fault(mishap.byMs < 0 ? 'clock_back' : 'clock_forward', 1)) return
      if (mishap.of === 'account') this.#host.skewMs += mishap.byMs
      else for (const isolate of this.#isolates) isolate.skewMs += mishap.byMs
    })
  }

  /** Everybody finishes, nothing more goes wrong, and the account gets the time it is entitled to. */
  async #calm(): Promise<void> {
    const world = this.#world
    await world.run(() => this.#visiting === 0 && world.isQuiet)
    const { faultsLeft } = world
    world.faultsLeft = 0
    this.#record.downUntilMs = 0
    const untilMs = world.nowMs + CALM_MS
    await world.run(() => world.isEmpty || (world.isQuiet && this.#isSettled()) || world.nowMs > untilMs)
    world.faultsLeft = faultsLeft
  }

  #isSettled(): boolean {
    for (const { ask, state } of this.#books.attempts.values())
      if (state === 'held' || !this.#record.requests.has(ask.requestId)) return false
    const [left] = this.#storage.sql.exec<{ rows: number }>('SELECT COUNT(*) AS rows FROM outbox').toArray()
    return left === undefined || left.rows === 0
  }
}
