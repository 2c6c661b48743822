// Durable Object that holds the Postgres connections of a gateway without Hyperdrive. Owns how many there are, how many
// callers may wait and when a dead pool is thrown away. In an object, because a socket belongs to the I/O context that
// opened it and only an object has one that outlives a request.
import { DurableObject } from 'cloudflare:workers'
import type { Env } from '../env.ts'
import { type Driver, openDriver, ServerUnreachable } from './driver.ts'
import { type Database, DatabaseUnavailable, type SqlResult, type Statement } from './port.ts'
import { type Reply, reply, unwrapReply } from './reply.ts'
import { Slots } from './slots.ts'

/** Small: one object is one thread, and four connections keep it busy. */
const CONNECTIONS_MAX = 4
const WAITERS_MAX = 256
const WAIT_MAX_MS = 3_000
/** Idle connections close, so that an unused gateway holds none. */
const IDLE_TIMEOUT_S = 60
/** Postgres ends a statement after this. */
const STATEMENT_TIMEOUT_MS = 5_000
/** Past this Postgres itself must be gone (a dead host answers nothing): the connections are dropped. */
const SILENCE_MAX_MS = 8_000
/** After a failed connection everyone is refused at once this long: waiting for the next failure helps nobody. */
const REFUSE_MS = 250
const POOL_NAME = 'pool'

export class DatabasePool extends DurableObject<Env> {
  #driver: Driver | undefined
  #unreachableUntilMs = 0
  readonly #slots = new Slots({ slots: CONNECTIONS_MAX, waitersMax: WAITERS_MAX, waitMaxMs: WAIT_MAX_MS })

  run(statement: Statement): Promise<Reply<SqlResult>> {
    return reply(() => this.#inSlot((driver) => driver.run(statement)))
  }

  batch(statements: Statement[]): Promise<Reply<SqlResult[]>> {
    return reply(() => this.#inSlot((driver) => driver.batch(statements)))
  }

  async #inSlot<T>(work: (driver: Driver) => Promise<T>): Promise<T> {
    const refusal = await this.#slots.acquire()
    if (refusal !== undefined) throw new DatabaseUnavailable(`too many statements wait for Postgres (${refusal})`)
    try {
      if (Date.now() < this.#unreachableUntilMs) throw new DatabaseUnavailable('Postgres could not be reached just now')
      return await this.#unlessSilent(work)
    } catch (error) {
      if (error instanceof ServerUnreachable) this.#unreachableUntilMs = Date.now() + REFUSE_MS
      throw error
    } finally {
      this.#slots.release()
    }
  }

  async #unlessSilent<T>(work: (driver: Driver) => Promise<T>): Promise<T> {
    const driver = this.#open()
    const silence = Promise.withResolvers<never>()
    const timer = setTimeout(() => {
      if (this.#driver === driver) this.#driver = undefined
      this.ctx.waitUntil(driver.close().catch(() => {}))
      silence.reject(new DatabaseUnavailable(`Postgres did not answer within ${SILENCE_MAX_MS} ms`))
    }, SILENCE_MAX_MS)
    try {
      return await Promise.race([work(driver), silence.promise])
    } finally {
      clearTimeout(timer)
    }
  }

  #open(): Driver {
    const url = this.env.DATABASE_URL
    if (url === undefined) throw new DatabaseUnavailable('DATABASE_URL is not set')
    this.#driver ??= openDriver(url, {
      connectionsMax: CONNECTIONS_MAX,
      idleTimeoutS: IDLE_TIMEOUT_S,
      statementTimeoutMs: STATEMENT_TIMEOUT_MS,
    })
    return this.#driver
  }
}

/** The port over the object. */
export function pooledDatabase(pools: DurableObjectNamespace<DatabasePool>): Database {
  return {
    run: (statement) => unwrapReply(() => pools.getByName(POOL_NAME).run(statement)),
    batch: (statements) => unwrapReply(() => pools.getByName(POOL_NAME).batch(statements)),
  }
}
