// Durable Object that keeps answers for a while. Owns their age, the bound on their bytes (least recently used go first)
// and that what has expired is deleted. Sharded per organisation; loses nothing that anybody is owed.
import { DurableObject } from 'cloudflare:workers'
import type { Env } from '../env.ts'

/** Of one answer in UTF-8; a value in the storage may have twice as much. */
export const ANSWER_BYTES_MAX = 1024 * 1024
/** Of one object, and sixteen times that of an organisation: a full object is listed and summed in milliseconds. */
const SHARD_BYTES_MAX = 64 * 1024 * 1024
/** What a row takes beside its answer. */
const ROW_BYTES = 256
/** A use is noted this often: every read a write would make the cache slower than it is exact. */
const TOUCH_INTERVAL_MS = 60_000
/** Expired answers are deleted in rounds at least so far apart. */
const SWEEP_INTERVAL_MS = 60_000
const EVICTED_PER_STATEMENT = 64

/** Name of the object: the organisation and the key's first hex digit, sixteen objects each. */
export const answerCacheName = (orgId: string, key: string): string => `${orgId}/${key.slice(0, 1)}`

/** Names of all objects of an organisation. */
export const answerCacheNames = (orgId: string): string[] =>
  Array.from('0123456789abcdef', (digit) => answerCacheName(orgId, digit))

export type KeptAnswer = { answer: string; storedAtMs: number }

export class AnswerCache extends DurableObject<Env> {
  #bytes: number

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    const { sql } = ctx.storage
    sql.exec(`CREATE TABLE IF NOT EXISTS answers (
      key TEXT PRIMARY KEY, answer TEXT NOT NULL, bytes INTEGER NOT NULL, stored_at_ms INTEGER NOT NULL,
      expires_at_ms INTEGER NOT NULL, used_at_ms INTEGER NOT NULL)`)
    sql.exec('CREATE INDEX IF NOT EXISTS answers_by_use ON answers (used_at_ms, bytes)')
    sql.exec('CREATE INDEX IF NOT EXISTS answers_by_end ON answers (expires_at_ms, bytes)')
    this.#bytes = sql.exec<{ bytes: number }>('SELECT coalesce(sum(bytes), 0) AS bytes FROM answers').one().bytes
  }

  /** @param ageMaxMs Of the caller: an answer that its writer would have kept longer may be too old for it. */
  async find(key: string, nowMs: number, ageMaxMs: number): Promise<KeptAnswer | undefined> {
    type Row = { answer: string; stored_at_ms: number; expires_at_ms: number; used_at_ms: number }
    const [row] = this.ctx.storage.sql
      .exec<Row>('SELECT answer, stored_at_ms, expires_at_ms, used_at_ms FROM answers WHERE key = ?', key)
      .toArray()
    if (row === undefined || nowMs >= row.expires_at_ms || nowMs - row.stored_at_ms >= ageMaxMs) return undefined
    if (nowMs - row.used_at_ms >= TOUCH_INTERVAL_MS)
      this.ctx.storage.sql.exec('UPDATE answers SET used_at_ms = ? WHERE key = ?', nowMs, key)
    return { answer: row.answer, storedAtMs: row.stored_at_ms }
  }

  /** Keeps an answer, in place of an older one. One that is too large is not kept. */
  async keep(key: string, answer: string, nowMs: number, ttlMs: number): Promise<void> {
    const answerBytes = new TextEncoder().encode(answer).byteLength
    if (answerBytes > ANSWER_BYTES_MAX) return
    const bytes = answerBytes + ROW_BYTES
    const { sql } = this.ctx.storage
    this.#forget('DELETE FROM answers WHERE key = ? RETURNING bytes', key)
    if (this.#bytes + bytes > SHARD_BYTES_MAX) this.#sweep(nowMs)
    while (this.#bytes + bytes > SHARD_BYTES_MAX && this.#evict(this.#bytes + bytes - SHARD_BYTES_MAX)) {}
    sql.exec(
      'INSERT INTO answers (key, answer, bytes, stored_at_ms, expires_at_ms, used_at_ms) VALUES (?, ?, ?, ?, ?, ?)',
      key,
      answer,
      bytes,
      nowMs,
      nowMs + ttlMs,
      nowMs,
    )
    this.#bytes += bytes
    await this.#sweepAt(nowMs + ttlMs, nowMs)
  }

  /** Deletes everything. */
  async clear(): Promise<void> {
    this.ctx.storage.sql.exec('DELETE FROM answers')
    this.#bytes = 0
  }

  override async alarm(): Promise<void> {
    const nowMs = Date.now()
    this.#sweep(nowMs)
    const next = this.ctx.storage.sql
      .exec<{ at_ms: number | null }>('SELECT min(expires_at_ms) AS at_ms FROM answers')
      .one().at_ms
    if (next !== null) await this.#sweepAt(next, nowMs)
  }

  /** How much is kept, for tests. */
  async inspect(): Promise<{ answers: number; bytes: number }> {
    const { answers } = this.ctx.storage.sql.exec<{ answers: number }>('SELECT count(*) AS answers FROM answers').one()
    return { answers, bytes: this.#bytes }
  }

  #sweep(nowMs: number): void {
    this.#forget('DELETE FROM answers WHERE expires_at_ms <= ? RETURNING bytes', nowMs)
  }

  async #sweepAt(expiresAtMs: number, nowMs: number): Promise<void> {
    const { storage } = this.ctx
    const atMs = Math.max(expiresAtMs, nowMs + SWEEP_INTERVAL_MS)
    const due = await storage.getAlarm()
    if (due === null || due > atMs) await storage.setAlarm(atMs)
  }

  /** Deletes the answers that were used longest ago until `bytes` are free, some at a time; whether there were any. */
  #evict(bytes: number): boolean {
    type Row = { key: string; bytes: number }
    const oldest = this.ctx.storage.sql
      .exec<Row>('SELECT key, bytes FROM answers ORDER BY used_at_ms LIMIT ?', EVICTED_PER_STATEMENT)
      .toArray()
    let freed = 0
    for (const row of oldest) {
      if (freed >= bytes) break
      freed += row.bytes
      this.#forget('DELETE FROM answers WHERE key = ? RETURNING bytes', row.key)
    }
    return oldest.length > 0
  }

  #forget(statement: string, parameter: string | number): void {
    for (const row of this.ctx.storage.sql.exec<{ bytes: number }>(statement, parameter)) this.#bytes -= row.bytes
  }
}
