// The account's SQLite: holds, outbox, revoked keys, meta. Owns these tables, every statement on them and the copies of their
// rows; counters are counts.ts, decisions admission.ts and holds.ts, transactions account-core.ts. Money is stored as decimal
// text: reading a large integer as a JS number loses nano-dollars.
import { CONFLICT, type OutboxRow } from '../ledger/drain.ts'
import { decodeEntry, encodeText, type OutboxEntry } from '../ledger/outbox.ts'
import type { AccountState } from './contract.ts'
import type { HoldRecord, HoldState } from './holds.ts'
import { byAttempt, KnownHolds } from './known-holds.ts'
import type { Sql } from './ports.ts'
import { decodeHold, encodeHold, type StoredHold } from './stored-hold.ts'

const TABLES = [
  // With rowids, so that rows lie in the order in which they came and the holds of a batch share their pages: sorted by their
  // random ids, each changes a page of its own, and twice as much is written as with the index beside them. Objects made
  // before this have the table so sorted, and every statement means the same on it.
  `CREATE TABLE IF NOT EXISTS holds (
    request_id TEXT NOT NULL, attempt INTEGER NOT NULL, state TEXT NOT NULL, request_closed INTEGER NOT NULL,
    due_at_ms INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (request_id, attempt))`,
  // Serves: the open holds at start, the next due hold, the holds due by now.
  'CREATE INDEX IF NOT EXISTS holds_by_due ON holds (state, due_at_ms)',
  `CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, payload TEXT NOT NULL,
    retry_at_ms INTEGER NOT NULL DEFAULT 0, rejection TEXT)`,
  'CREATE TABLE IF NOT EXISTS revoked_keys (key_id TEXT PRIMARY KEY) WITHOUT ROWID',
  'CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID',
]

const HOLD_STATES: HoldState[] = ['held', 'settled', 'released', 'expired_estimated', 'settled_late']
/** Most rows of each list that `inspect` shows. */
const INSPECT_ROWS_MAX = 1_000
const REJECTION_TEXT_MAX = 500
/** Entries kept beside their text until they are written: several flushes' worth, some 5 KB each. */
const FRESH_ENTRIES_MAX = 2_000
/** Keys whose standing is kept: more than are busy at a time. */
const KEYS_KEPT = 1_000

export class Store {
  readonly #sql: Sql
  readonly #known = new KnownHolds()
  /** Entries that this instance has appended, so that their text need not be read back. */
  readonly #fresh = new Map<number, OutboxEntry>()
  readonly #keysRevoked = new Map<string, boolean>()

  constructor(sql: Sql) {
    this.#sql = sql
    for (const statement of TABLES) sql.exec(statement)
  }

  /** Drops every copy of a row: after a transaction that was undone. */
  forgetCopies(): void {
    this.#known.clear()
    this.#fresh.clear()
    this.#keysRevoked.clear()
  }

  // Holds

  /** Every remembered attempt of a request, first attempt first. */
  attempts(requestId: string): readonly HoldRecord[] {
    return (
      this.#known.of(requestId) ?? this.#holds('SELECT * FROM holds WHERE request_id = ? ORDER BY attempt', requestId)
    )
  }

  openHolds(): HoldRecord[] {
    return this.#holds("SELECT * FROM holds WHERE state = 'held'")
  }

  /** A new hold beside the other attempts of its request, as `attempts` gave them. */
  addHold(hold: HoldRecord, others: readonly HoldRecord[]): void {
    this.#write(hold)
    this.#known.learn(hold.terms.requestId, [...others, hold].sort(byAttempt))
  }

  putHold(hold: HoldRecord): void {
    this.#write(hold)
    this.#known.put(hold)
  }

  #write(hold: HoldRecord): void {
    const row = encodeHold(hold)
    this.#sql.exec(
      `INSERT INTO holds (request_id, attempt, state, request_closed, due_at_ms, body) VALUES (?, ?, ?, ?, ?, ?)
       ON CONFLICT DO UPDATE SET state = excluded.state, request_closed = excluded.request_closed,
         due_at_ms = excluded.due_at_ms, body = excluded.body`,
      row.request_id,
      row.attempt,
      row.state,
      row.request_closed,
      row.due_at_ms,
      row.body,
    )
  }

  /** Holds whose time has come, the longest due first within a state. */
  dueHolds(nowMs: number, rowsMax: number): HoldRecord[] {
    const due: HoldRecord[] = []
    for (const state of HOLD_STATES) {
      if (due.length >= rowsMax) break
      const query = 'SELECT * FROM holds WHERE state = ? AND due_at_ms <= ? ORDER BY due_at_ms LIMIT ?'
      due.push(...this.#holds(query, state, nowMs, rowsMax - due.length))
    }
    return due
  }

  /** When the next hold is due. */
  nextDueAtMs(): number | undefined {
    let next: number | undefined
    for (const state of HOLD_STATES) {
      const query = 'SELECT due_at_ms FROM holds WHERE state = ? ORDER BY due_at_ms LIMIT 1'
      for (const row of this.#sql.exec<{ due_at_ms: number }>(query, state))
        if (next === undefined || row.due_at_ms < next) next = row.due_at_ms
    }
    return next
  }

  deleteHold(hold: HoldRecord): void {
    const { requestId, attempt } = hold.terms
    this.#known.forget(requestId)
    this.#sql.exec('DELETE FROM holds WHERE request_id = ? AND attempt = ?', requestId, attempt)
  }

  // Outbox

  append(entry: OutboxEntry): void {
    const [row] = this.#sql
      .exec<{ id: number }>('INSERT INTO outbox (payload) VALUES (?) RETURNING id', encodeText(entry))
      .toArray()
    if (row !== undefined && this.#fresh.size < FRESH_ENTRIES_MAX) this.#fresh.set(row.id, entry)
  }

  /** The oldest entries after an id that may be tried at this time. */
  outboxBatch(dueMs: number, afterId: number, rowsMax: number): OutboxRow[] {
    const query = 'SELECT id FROM outbox WHERE id > ? AND retry_at_ms <= ? ORDER BY id LIMIT ?'
    const ids = this.#sql.exec<{ id: number }>(query, afterId, dueMs, rowsMax).toArray()
    return ids.map(({ id }) => ({ id, entry: () => this.#fresh.get(id) ?? this.#stored(id) }))
  }

  deleteOutbox(ids: number[]): void {
    this.#sql.exec('DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?))', JSON.stringify(ids))
    for (const id of ids) this.#fresh.delete(id)
  }

  rejectOutbox(id: number, reason: string, retryAtMs: number): void {
    const query = 'UPDATE outbox SET rejection = ?, retry_at_ms = ? WHERE id = ?'
    this.#sql.exec(query, reason.slice(0, REJECTION_TEXT_MAX), retryAtMs, id)
    this.#fresh.delete(id)
  }

  outboxCounts(): { rows: number; rejected: number; conflicts: number } {
    type Row = { rows: number; rejected: number; conflicts: number }
    const query = `SELECT COUNT(*) AS rows, COUNT(rejection) AS rejected,
      COUNT(CASE WHEN rejection = ? THEN 1 END) AS conflicts FROM outbox`
    const [row] = this.#sql.exec<Row>(query, CONFLICT).toArray()
    return row ?? { rows: 0, rejected: 0, conflicts: 0 }
  }

  /** When the next entry may be tried; 0 for one that never failed. */
  nextOutboxAtMs(): number | undefined {
    const [row] = this.#sql.exec<{ at: number | null }>('SELECT MIN(retry_at_ms) AS at FROM outbox').toArray()
    return row?.at ?? undefined
  }

  // Revoked keys and meta

  isKeyRevoked(keyId: string): boolean {
    const known = this.#keysRevoked.get(keyId)
    if (known !== undefined) return known
    const revoked = this.#sql.exec('SELECT 1 FROM revoked_keys WHERE key_id = ?', keyId).toArray().length > 0
    if (this.#keysRevoked.size >= KEYS_KEPT) this.#keysRevoked.clear()
    this.#keysRevoked.set(keyId, revoked)
    return revoked
  }

  setKeyRevoked(keyId: string, revoked: boolean): void {
    if (revoked) this.#sql.exec('INSERT INTO revoked_keys (key_id) VALUES (?) ON CONFLICT DO NOTHING', keyId)
    else this.#sql.exec('DELETE FROM revoked_keys WHERE key_id = ?', keyId)
    this.#keysRevoked.delete(keyId)
  }

  meta(name: MetaName): string | undefined {
    const [row] = this.#sql.exec<{ value: string }>('SELECT value FROM meta WHERE name = ?', name).toArray()
    return row?.value
  }

  setMeta(name: MetaName, value: string): void {
    const query = 'INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value'
    this.#sql.exec(query, name, value)
  }

  openHoldsShown(): AccountState['openHolds'] {
    const query = "SELECT * FROM holds WHERE state = 'held' ORDER BY due_at_ms LIMIT ?"
    return this.#holds(query, INSPECT_ROWS_MAX).map(({ granted, terms }) => ({
      holdId: granted.holdId,
      heldNanoUsd: granted.heldNanoUsd,
      startedAtMs: terms.startedAtMs,
      deadlineAtMs: terms.deadlineAtMs,
    }))
  }

  /** @throws Error where it is gone, or was not written here. */
  #stored(id: number): OutboxEntry {
    const [row] = this.#sql.exec<{ payload: string }>('SELECT payload FROM outbox WHERE id = ?', id).toArray()
    if (row === undefined) throw new Error(`entry ${id} of the outbox is gone`)
    return decodeEntry(row.payload)
  }

  #holds(query: string, ...bindings: (string | number)[]): HoldRecord[] {
    return this.#sql
      .exec<StoredHold>(query, ...bindings)
      .toArray()
      .map(decodeHold)
  }
}

/** `org_id`: whose account this is. `sweep_at_ms`: when old counters, notices and keys are cleared away next. */
export type MetaName = 'org_id' | 'sweep_at_ms'
