// The account of one organisation as a Durable Object. Owns the joint to the platform: storage, clock, alarm, Postgres.
// What an account does is account-core.ts; its usage is rolled up beside that by ledger/roller.ts. One call is one
// transaction, and the runtime lets no answer out before it is durable: what a caller was told, the account remembers.
import { DurableObject } from 'cloudflare:workers'
import type { Result } from '../../protocol/result.ts'
import { connect } from '../db/connect.ts'
import { PATIENCE_MS, withPatience } from '../db/patience.ts'
import type { Env } from '../env.ts'
import { lateRecord } from '../ledger/late-record.ts'
import type { AccountRecord } from '../ledger/record.ts'
import { Roller } from '../ledger/roller.ts'
import type { Usage } from '../meter/usage.ts'
import { log } from '../observe/log.ts'
import { AccountCore } from './account-core.ts'
import type {
  AccountCall,
  AccountReply,
  AccountRpc,
  AccountState,
  Denial,
  Hold,
  ReserveAsk,
  Settled,
  SettleEnd,
} from './contract.ts'
import type { RuleBook } from './limit.ts'
import type { LimitReadings } from './limit-reader.ts'

/** Long enough that the answers have left: where objects share a thread, as in workerd, a write holds up everyone. */
const AFTERWARDS_MS = 20

export class Account extends DurableObject<Env> implements AccountRpc {
  /** Instance fields are out of reach for Workers RPC; the suites swap these two. */
  now: () => number = () => Date.now()
  record: AccountRecord
  readonly #core: AccountCore
  readonly #roller: Roller
  /** The one alarm, for all who asked: the earliest of their times. */
  #alarmAtMs: number | undefined

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    const database = connect(env)
    this.record = lateRecord(database)
    const { storage } = ctx
    const now = () => this.now()
    const wakeAt = (atMs: number) => this.#wakeAt(atMs)
    this.#roller = new Roller({ database, now, wakeAt, background: (work) => ctx.waitUntil(work) }, ctx.id.name)
    this.#core = new AccountCore({
      sql: storage.sql,
      transaction: (work) => storage.transactionSync(work),
      now,
      setAlarm: wakeAt,
      afterwards: (work) => void setTimeout(work, AFTERWARDS_MS),
      record: {
        write: async (entries) => {
          const conflicts = await this.record.write(entries)
          this.#roller.written(entries)
          return conflicts
        },
        readRules: (orgId) => this.record.readRules(orgId),
        sum: (orgId, question) => this.record.sum(orgId, question),
      },
      patience: async (work) => void (await withPatience(work, PATIENCE_MS)),
      log,
    })
    void ctx.blockConcurrencyWhile(async () => {
      this.#alarmAtMs = (await storage.getAlarm()) ?? undefined
      this.#core.start(this.#alarmAtMs)
    })
  }

  reserve(ask: ReserveAsk): Promise<Result<Hold, Denial>> {
    return this.#core.reserve(ask)
  }

  checkpoint(holdId: string, usage: Usage): Promise<void> {
    return this.#core.checkpoint(holdId, usage)
  }

  settle(end: SettleEnd): Promise<Settled> {
    return this.#core.settle(end)
  }

  batch(calls: AccountCall[]): Promise<AccountReply[]> {
    return this.#core.batch(calls)
  }

  setKeyRevoked(keyId: string, revoked: boolean): Promise<void> {
    return this.#core.setKeyRevoked(keyId, revoked)
  }

  setRules(book: RuleBook): Promise<void> {
    return this.#core.setRules(book)
  }

  inspect(): Promise<AccountState> {
    return this.#core.inspect()
  }

  limits(orgId: string): Promise<LimitReadings> {
    return this.#core.limits.read(orgId)
  }

  flush(options?: { includeRejected: boolean }): Promise<{ outboxRows: number }> {
    return this.#core.flush(options)
  }

  override async alarm(): Promise<void> {
    this.#alarmAtMs = undefined
    await this.#core.alarm()
    this.#roller.alarm()
  }

  #wakeAt(atMs: number): void {
    if (this.#alarmAtMs !== undefined && this.#alarmAtMs <= atMs) return
    this.#alarmAtMs = atMs
    // Not awaited: it is part of this event's writes, and the answer waits for those. A failure resets the object.
    void this.ctx.storage.setAlarm(atMs)
  }
}
