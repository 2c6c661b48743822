// The least that a Durable Object can do: what an account's figures are held against.
import { DurableObject } from 'cloudflare:workers'

/** Rows stay few, so that the table's size is no part of what is measured. */
const ROWS = 1000

export class Bare extends DurableObject {
  #written = 0

  constructor(ctx: DurableObjectState, env: Cloudflare.Env) {
    super(ctx, env)
    ctx.storage.sql.exec('CREATE TABLE IF NOT EXISTS bare (id INTEGER PRIMARY KEY, value TEXT NOT NULL)')
  }

  /** A call and its answer. */
  ping(): number {
    return this.#written
  }

  /** A call whose answer waits for one durable row. */
  write(value: string): number {
    this.ctx.storage.sql.exec('INSERT OR REPLACE INTO bare (id, value) VALUES (?, ?)', this.#written++ % ROWS, value)
    return this.#written
  }
}
