// Durable Object with a durable copy of key → principal. Owns how old a copy may be, and that a key goes on working
// while Postgres does not. One object per first byte of the hash; a key is here from its first use on.
//
//   no copy ──Postgres knows the key──▶ fresh (≤ 60 s) ──▶ stale ──Postgres answers──▶ fresh, or gone
//                                                           └──Postgres unreachable──▶ served stale (≤ 24 h)
//   invalidate: fresh → stale, at once. Copies of unknown keys are never stored: guesses cannot fill the storage.
import { DurableObject } from 'cloudflare:workers'
import { connect } from '../db/connect.ts'
import { PATIENCE_MS, withPatience } from '../db/patience.ts'
import { type Database, DatabaseUnavailable } from '../db/port.ts'
import type { Env } from '../env.ts'
import { decodeRecord, encodeRecord, findKey, type KeyRecord } from './key-record.ts'

/** How long a change that the admin API did not announce (made in Postgres by hand) can stay unnoticed. */
export const FRESH_MS = 60_000
/** How long callers go on without Postgres. Past this a revocation made elsewhere would stay unseen for too long. */
export const STALE_MAX_MS = 24 * 3_600_000
/** After a failed question Postgres is left alone this long, so that callers do not wait for each failure anew. */
export const RETRY_AFTER_MS = 2_000
/** Questions of one object to Postgres at a time: a flood of guessed keys must not take every connection. */
const QUESTIONS_MAX = 16
/** Hashes per statement; below the 100 bound parameters of the storage. */
const HASHES_PER_STATEMENT = 90

export type Lookup =
  | { found: 'key'; record: KeyRecord }
  | { found: 'nothing' }
  /** Postgres cannot be asked and there is no copy young enough. */
  | { found: 'unavailable'; retryAfterMs: number }

type Copy = { record: KeyRecord; readAtMs: number; freshUntilMs: number }

export class Directory extends DurableObject<Env> {
  readonly #database: Database
  readonly #questions = new Map<string, Promise<KeyRecord | undefined>>()
  /** Rises with each invalidation: an answer that set out before it may be old and is not kept as fresh. */
  #generation = 0
  #databaseDownUntilMs = 0

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#database = connect(env)
    ctx.storage.sql.exec(`CREATE TABLE IF NOT EXISTS keys (
      hash TEXT PRIMARY KEY, record TEXT NOT NULL, read_at_ms INTEGER NOT NULL, fresh_until_ms INTEGER NOT NULL
    ) WITHOUT ROWID`)
  }

  /**
   * Who the key with this hash belongs to. @param hash SHA-256 of the key, hex. @param nowMs Epoch milliseconds.
   * @param upToDate A copy that is stale serves nobody, also while Postgres is away. Default: false.
   */
  async lookup(hash: string, nowMs: number, upToDate = false): Promise<Lookup> {
    const known = this.#read(hash)
    if (known !== undefined && nowMs < known.freshUntilMs) return { found: 'key', record: known.record }
    const copy = upToDate ? undefined : known
    if (nowMs < this.#databaseDownUntilMs) return this.#withoutDatabase(copy, nowMs)
    const isKnown = this.#questions.has(hash) || (upToDate && known !== undefined)
    if (this.#questions.size >= QUESTIONS_MAX && !isKnown) return this.#withoutDatabase(copy, nowMs)
    try {
      const question = this.#ask(hash, nowMs)
      const answer = copy === undefined ? { value: await question } : await withPatience(question, PATIENCE_MS)
      if (answer === undefined) throw new DatabaseUnavailable('Postgres is silent')
      const record = answer.value
      return record === undefined ? { found: 'nothing' } : { found: 'key', record }
    } catch (error) {
      if (!(error instanceof DatabaseUnavailable)) throw error
      this.#databaseDownUntilMs = nowMs + RETRY_AFTER_MS
      // Read again: an invalidation may have come while the question was under way.
      return this.#withoutDatabase(upToDate ? undefined : this.#read(hash), nowMs)
    }
  }

  /** The copies of these keys are old: the next look-up asks Postgres. Keys without a copy are ignored. */
  async invalidate(hashes: string[]): Promise<void> {
    this.#generation++
    for (let at = 0; at < hashes.length; at += HASHES_PER_STATEMENT) {
      const some = hashes.slice(at, at + HASHES_PER_STATEMENT)
      const marks = some.map(() => '?').join(', ')
      this.ctx.storage.sql.exec(`UPDATE keys SET fresh_until_ms = 0 WHERE hash IN (${marks})`, ...some)
    }
  }

  /** The key is revoked whatever its copy says, also while Postgres is away. Safe to repeat. */
  async revoke(hash: string): Promise<void> {
    this.#generation++
    const copy = this.#read(hash)
    if (copy !== undefined) this.#write(hash, { ...copy, record: { ...copy.record, revoked: true } })
  }

  /** One question per key at a time; callers of the same key share it. */
  #ask(hash: string, nowMs: number): Promise<KeyRecord | undefined> {
    const running = this.#questions.get(hash)
    if (running !== undefined) return running
    const question = this.#refresh(hash, nowMs).finally(() => this.#questions.delete(hash))
    this.#questions.set(hash, question)
    return question
  }

  async #refresh(hash: string, nowMs: number): Promise<KeyRecord | undefined> {
    const generation = this.#generation
    const record = await findKey(this.#database, hash)
    if (generation !== this.#generation) return this.#refresh(hash, nowMs)
    if (record === undefined) this.ctx.storage.sql.exec('DELETE FROM keys WHERE hash = ?', hash)
    else this.#write(hash, { record, readAtMs: nowMs, freshUntilMs: nowMs + FRESH_MS })
    return record
  }

  #withoutDatabase(copy: Copy | undefined, nowMs: number): Lookup {
    if (copy !== undefined && nowMs < copy.readAtMs + STALE_MAX_MS) return { found: 'key', record: copy.record }
    return { found: 'unavailable', retryAfterMs: RETRY_AFTER_MS }
  }

  #read(hash: string): Copy | undefined {
    type Row = { record: string; read_at_ms: number; fresh_until_ms: number }
    const [row] = this.ctx.storage.sql
      .exec<Row>('SELECT record, read_at_ms, fresh_until_ms FROM keys WHERE hash = ?', hash)
      .toArray()
    if (row === undefined) return undefined
    return { record: decodeRecord(row.record), readAtMs: row.read_at_ms, freshUntilMs: row.fresh_until_ms }
  }

  #write(hash: string, copy: Copy): void {
    this.ctx.storage.sql.exec(
      `INSERT INTO keys (hash, record, read_at_ms, fresh_until_ms) VALUES (?, ?, ?, ?)
       ON CONFLICT (hash) DO UPDATE SET record = excluded.record, read_at_ms = excluded.read_at_ms,
         fresh_until_ms = excluded.fresh_until_ms`,
      hash,
      encodeRecord(copy.record),
      copy.readAtMs,
      copy.freshUntilMs,
    )
  }
}

/** Name of the object that keeps this key: the first byte of its hash. */
export function directoryName(hash: string): string {
  return hash.slice(0, 2)
}
