// Callers' promises that two requests are one. Owns the table of idempotency keys and what a second request under a key
// is told; a key's hash comes in, the key itself is known to nobody here.
//
//   (none) ──granted──▶ open ──ended well──▶ answered    a second request: conflict where its body differs,
//                        │                               else running while open, answered afterwards
//                        └──failed──▶ failed ──granted──▶ open, under the new request's id
import type { RequestRow } from '../ledger/outbox.ts'
import type { Denial, ReserveAsk } from './contract.ts'
import type { Sql } from './ports.ts'

const TABLES = [
  `CREATE TABLE IF NOT EXISTS idempotency (
    row_id INTEGER PRIMARY KEY AUTOINCREMENT, key_hash TEXT NOT NULL UNIQUE, request_id TEXT NOT NULL,
    body_hash TEXT NOT NULL, state TEXT NOT NULL, forget_at_ms INTEGER NOT NULL)`,
]

/** Long past every client's own retries. */
export const IDEMPOTENCY_KEPT_MS = 24 * 3_600_000
/**
 * Keys kept at most, some 1.5 GB of the 10 GB an object may store. Past it an ask with a new key is refused: forgetting
 * an old key early could run and charge its request twice.
 */
const ROWS_MAX = 5_000_000
const FULL_RETRY_MS = 60_000

type State = 'open' | 'answered' | 'failed'
type Row = { request_id: string; body_hash: string; state: State; forget_at_ms: number }

export class Idempotency {
  readonly #sql: Sql

  constructor(sql: Sql) {
    this.#sql = sql
    for (const statement of TABLES) sql.exec(statement)
  }

  /** Why an ask under its key may not run; `undefined` where it may. */
  refusal(ask: ReserveAsk, nowMs: number): Denial | undefined {
    if (ask.idempotency === undefined) return undefined
    const { keyHash, bodyHash } = ask.idempotency
    const row = this.#row(keyHash)
    if (row === undefined || row.forget_at_ms <= nowMs)
      return this.#isFull() ? { reason: 'unavailable', retryAfterMs: FULL_RETRY_MS } : undefined
    const { request_id: requestId } = row
    if (row.body_hash !== bodyHash) return { reason: 'idempotency_conflict', requestId }
    if (row.state === 'failed') return undefined
    return { reason: row.state === 'open' ? 'idempotency_running' : 'idempotency_answered', requestId }
  }

  /** In the transaction that grants it: the key belongs to this request. */
  opened(ask: ReserveAsk, nowMs: number): void {
    if (ask.idempotency === undefined) return
    const { keyHash, bodyHash } = ask.idempotency
    this.#sql.exec('DELETE FROM idempotency WHERE key_hash = ?', keyHash)
    this.#sql.exec(
      'INSERT INTO idempotency (key_hash, request_id, body_hash, state, forget_at_ms) VALUES (?, ?, ?, ?, ?)',
      keyHash,
      ask.requestId,
      bodyHash,
      'open',
      nowMs + IDEMPOTENCY_KEPT_MS,
    )
  }

  /** In the transaction that ends the request. Without effect where the key has gone over to another one. */
  ended(keyHash: string, requestId: string, end: Pick<RequestRow, 'status' | 'firstTokenAtMs'>): void {
    // A caller that hung up in the middle of an answer has had and paid it.
    const answered = end.status === 'ok' || (end.status === 'client_cancelled' && end.firstTokenAtMs !== undefined)
    const query = 'UPDATE idempotency SET state = ? WHERE key_hash = ? AND request_id = ?'
    this.#sql.exec(query, answered ? 'answered' : 'failed', keyHash, requestId)
  }

  /** In a transaction: forgets old keys. Answers whether more may be waiting. */
  sweep(nowMs: number, rowsMax: number): boolean {
    // In the order they came, which is the order they go, up to jumps of the clock.
    const old = this.#sql
      .exec<{ row_id: number; forget_at_ms: number }>(
        'SELECT row_id, forget_at_ms FROM idempotency ORDER BY row_id LIMIT ?',
        rowsMax,
      )
      .toArray()
      .filter(({ forget_at_ms }) => forget_at_ms <= nowMs)
    for (const { row_id } of old) this.#sql.exec('DELETE FROM idempotency WHERE row_id = ?', row_id)
    return old.length >= rowsMax
  }

  #row(keyHash: string): Row | undefined {
    const query = 'SELECT request_id, body_hash, state, forget_at_ms FROM idempotency WHERE key_hash = ?'
    return this.#sql.exec<Row>(query, keyHash).toArray()[0]
  }

  /** Ids rise and old rows go first: their span bounds the number of rows without counting them. */
  #isFull(): boolean {
    const query = 'SELECT MIN(row_id) AS first, MAX(row_id) AS last FROM idempotency'
    const [row] = this.#sql.exec<{ first: number | null; last: number | null }>(query).toArray()
    return row?.first != null && row.last != null && row.last - row.first >= ROWS_MAX
  }
}
