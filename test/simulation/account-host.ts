// Where an account object lives: at most one instance of it over storage that outlasts instances. Owns calls to it with
// all that can happen to them, its alarm, its clock, crashes and evictions. The object itself is the product's own.
//
//   caller ──request──▶ [lost | twice | late] ──▶ instance ──reply──▶ [lost | late] ──▶ caller
//
// A reply never shows what is not stored, and an instance that dies takes with it only what it had not stored: nothing
// waits between a change of the storage and its commit.
import type { AccountCore } from '../../gateway/account/account-core.ts'
import type { AccountCall, AccountReply, AccountRpc } from '../../gateway/account/contract.ts'
import type { AccountPorts } from '../../gateway/account/ports.ts'
import type { AccountRecord } from '../../gateway/ledger/record.ts'
import type { Books } from './books.ts'
import type { RecordModel } from './record-model.ts'
import type { SimulatedStorage } from './sqlite.ts'
import { Life, type Parked, type World } from './world.ts'

export type HostFaults = { request: number; reply: number; duplicate: number; eviction: number; alarm: number }

/** The platform tries an alarm that failed again after this. */
const ALARM_RETRY_MS = 2_000
const AFTERWARDS_MS = 20
/** A duplicate is slower than the original by at most this. */
const DUPLICATE_DELAY_MS = 20_000

type Instance = { life: Life; core: AccountCore; pending: Set<() => void> }

export type HostOptions = {
  world: World
  storage: SimulatedStorage
  record: RecordModel
  books: Books
  /** Makes the object; mutants come in here. */
  make: (ports: AccountPorts) => AccountCore
  /** A platform that forgets what it promised: a seeded fault. */
  losesAlarms: boolean
}

export class AccountHost {
  /** Longest way of a message, one way. */
  latencyMs = 30
  /** Its clock against the true time. */
  skewMs = 0
  faults: HostFaults = { request: 0, reply: 0, duplicate: 0, eviction: 0, alarm: 0 }
  readonly #of: HostOptions
  #instance: Instance | undefined
  #instances = 0
  #alarm: Parked | undefined
  /** Asked for and not yet served: what the platform keeps beside the storage. */
  alarmAtMs: number | undefined

  constructor(options: HostOptions) {
    this.#of = options
  }

  nowMs(): number {
    return this.#of.world.nowMs + this.skewMs
  }

  /** The account as a caller reaches it. A caller that is dead reaches nothing. */
  stub(caller: Life): Pick<AccountRpc, 'batch'> {
    return { batch: (calls) => this.#call(caller, `batch of ${calls.length}`, (core) => this.#batch(core, calls)) }
  }

  /** Calls of administrators. */
  admin(caller: Life): Pick<AccountRpc, 'setRules' | 'setKeyRevoked' | 'flush'> {
    return {
      setRules: (book) =>
        this.#call(caller, 'set rules', async (core) => {
          await core.setRules(book)
          this.#of.books.rulesTold(book)
        }),
      setKeyRevoked: (keyId, revoked) =>
        this.#call(caller, 'revoke', async (core) => {
          await core.setKeyRevoked(keyId, revoked)
          this.#of.books.keyRevoked(keyId, revoked)
        }),
      flush: () => this.#call(caller, 'flush', (core) => core.flush()),
    }
  }

  /** The instance, for a look inside without a call. */
  core(): AccountCore {
    return this.#alive().core
  }

  /** The platform moves the object, or its machine dies. */
  evict(): void {
    this.#instance?.life.crash()
  }

  async #batch(core: AccountCore, calls: AccountCall[]): Promise<AccountReply[]> {
    const { books } = this.#of
    if (calls.length > 1) this.#of.world.note('calls travel together')
    const replies = await core.batch(calls)
    if (replies.length !== calls.length) books.broken(`a batch of ${calls.length} was answered with ${replies.length}`)
    for (const [index, call] of calls.entries()) {
      const reply = replies[index]
      if (reply !== undefined) books.answered(call, reply)
    }
    return replies
  }

  #call<T>(caller: Life, label: string, work: (core: AccountCore) => Promise<T>): Promise<T> {
    const { world } = this.#of
    return new Promise<T>((resolve, reject) => {
      const reply = (name: string, then: () => void) => {
        world.park(caller, `${label}: ${name}`, world.random.below(this.latencyMs), then)
      }
      const broke = (reason: string) => reply(reason, () => reject(new Error(reason)))
      if (!caller.alive) return
      world.park(world.network, `account ← ${label}`, world.random.below(this.latencyMs), () => {
        if (world.fault('request_lost', this.faults.request)) return broke('request lost')
        if (world.fault('duplicated', this.faults.duplicate)) {
          world.park(world.network, `account ← ${label} again`, world.random.below(DUPLICATE_DELAY_MS), () => {
            this.#enter(
              label,
              work,
              () => {},
              () => {},
            )
          })
        }
        this.#enter(
          label,
          work,
          (value) => {
            if (world.fault('reply_lost', this.faults.reply)) broke('reply lost')
            else reply('answer', () => resolve(value))
          },
          (error) => reply('error', () => reject(error)),
        )
      })
    })
  }

  /** Runs a method of the instance; where the instance dies meanwhile, its callers hear of it. */
  #enter<T>(
    label: string,
    work: (core: AccountCore) => Promise<T>,
    then: (value: T) => void,
    otherwise: (error: unknown) => void,
  ): void {
    const { world } = this.#of
    if (world.fault('eviction', this.faults.eviction)) this.evict()
    const { life, core, pending } = this.#alive()
    world.current = life
    let told = false
    const tell = (word: () => void) => {
      pending.delete(reset)
      if (told) return
      told = true
      word()
    }
    const reset = () => tell(() => otherwise(new Error(`the object was reset during: ${label}`)))
    pending.add(reset)
    work(core).then(
      (value) => tell(() => then(value)),
      (error: unknown) => {
        // A violation is about the history and not for the caller.
        if (error instanceof Error && error.name === 'Violation') world.fail(error)
        tell(() => otherwise(error))
      },
    )
  }

  #alive(): Instance {
    const known = this.#instance
    if (known !== undefined) return known
    const { world, storage, record, make } = this.#of
    const pending = new Set<() => void>()
    const life = new Life(`account#${++this.#instances}`, {
      onCrash: () => {
        this.#instance = undefined
        for (const reset of [...pending]) reset()
      },
    })
    const core = make({
      sql: storage.sql,
      transaction: (run) => storage.transaction(run),
      now: () => this.nowMs(),
      setAlarm: (atMs) => this.#setAlarm(atMs),
      // Lost where the instance dies before.
      afterwards: (work) => void world.park(life, 'afterwards', AFTERWARDS_MS, work),
      record: this.#observed(record.client(life)),
      log: (_level, event) => world.say(() => `  ${event}`),
    })
    const instance: Instance = { life, core, pending }
    this.#instance = instance
    core.start(this.alarmAtMs)
    return instance
  }

  /** The books learn of rules that the account asks for by itself. */
  #observed(record: AccountRecord): AccountRecord {
    const { books } = this.#of
    return {
      write: (entries) => record.write(entries),
      sum: (orgId, question) => record.sum(orgId, question),
      readRules: async (orgId) => {
        const book = await record.readRules(orgId)
        books.rulesTold(book)
        return book
      },
    }
  }

  #setAlarm(atMs: number): void {
    this.alarmAtMs = atMs
    // The alarm runs on the clock of the machine that the object is on.
    this.#park(Math.max(1, atMs - this.nowMs()))
  }

  #park(delayMs: number): void {
    const { world } = this.#of
    if (this.#alarm !== undefined) this.#alarm.cancelled = true
    const late = world.fault('alarm_late', this.faults.alarm) ? world.random.below(90_000) : 0
    if (this.#of.losesAlarms) return
    this.#alarm = world.park(world.network, 'alarm', delayMs + late, () => this.#ring(), true)
  }

  /** At least once: the alarm stands until the object has served it. */
  #ring(): void {
    const { world } = this.#of
    const servedAtMs = this.alarmAtMs
    this.alarmAtMs = undefined
    this.#alarm = undefined
    if (world.fault('alarm_twice', this.faults.alarm)) {
      world.park(world.network, 'alarm again', world.random.below(500), () => {
        this.#enter(
          'alarm',
          (core) => this.#serveAlarm(core),
          () => {},
          () => {},
        )
      })
    }
    const again = () => {
      if (this.alarmAtMs !== undefined || servedAtMs === undefined) return
      this.alarmAtMs = servedAtMs
      this.#park(ALARM_RETRY_MS)
    }
    this.#enter(
      'alarm',
      (core) => this.#serveAlarm(core),
      () => {},
      again,
    )
  }

  async #serveAlarm(core: AccountCore): Promise<void> {
    const nowMs = this.nowMs()
    const serving = core.alarm()
    this.#of.books.alarmRang(nowMs)
    await serving
  }
}
