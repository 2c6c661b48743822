// What is worth telling about limits, once: the first time a window passes a soft limit and the first time a hard one
// refuses. Owns the marks that keep a second telling away; the events themselves travel in the outbox, and their unique
// key in Postgres is what makes them single even where marks were lost.
import type { LimitEvent } from '../ledger/outbox.ts'
import type { Sql } from './ports.ts'
import type { WindowSpan } from './windows.ts'

const TABLES = [
  `CREATE TABLE IF NOT EXISTS notices (
    limit_id TEXT NOT NULL, subject TEXT NOT NULL, window_key TEXT NOT NULL, kind TEXT NOT NULL,
    drop_after_ms INTEGER, PRIMARY KEY (limit_id, subject, window_key, kind)) WITHOUT ROWID`,
]

/** Past this many the account tells no more until old windows are swept: limits hold all the same. Some 20 MB. */
export const NOTICES_MAX = 100_000
/** Marks outlive their window by this: ends may come late. */
const KEPT_MS = 24 * 3_600_000
/** The largest value that the table of events takes. */
const VALUE_MAX = 2n ** 63n - 1n

export type Notice = Omit<LimitEvent, 'orgId' | 'windowKey'> & { span: WindowSpan }

export class Notices {
  readonly #sql: Sql
  #rows = 0

  constructor(sql: Sql) {
    this.#sql = sql
    for (const statement of TABLES) sql.exec(statement)
    this.load()
  }

  /** Reads the count again: after a transaction that was undone. */
  load(): void {
    this.#rows = this.#sql.exec<{ rows: number }>('SELECT COUNT(*) AS rows FROM notices').toArray()[0]?.rows ?? 0
  }

  /** In a transaction: the events of those notices that are news. */
  news(orgId: string, notices: readonly Notice[]): LimitEvent[] {
    const events: LimitEvent[] = []
    for (const { span, ...notice } of notices) {
      if (this.#rows >= NOTICES_MAX || !this.#mark(notice.limitId, notice.subject, span, notice.kind)) continue
      this.#rows++
      const value = notice.value > VALUE_MAX ? VALUE_MAX : notice.value
      events.push({ ...notice, value, orgId, windowKey: span.key })
    }
    return events
  }

  /** In a transaction: forgets windows long past. Answers whether more may be waiting. */
  sweep(nowMs: number, rowsMax: number): boolean {
    const dropped = this.#sql.exec(
      `DELETE FROM notices WHERE (limit_id, subject, window_key, kind) IN
        (SELECT limit_id, subject, window_key, kind FROM notices WHERE drop_after_ms <= ? LIMIT ?)`,
      nowMs,
      rowsMax,
    ).rowsWritten
    this.load()
    return dropped >= rowsMax
  }

  #mark(limitId: string, subject: string, span: WindowSpan, kind: string): boolean {
    const query = 'SELECT 1 AS known FROM notices WHERE limit_id = ? AND subject = ? AND window_key = ? AND kind = ?'
    if (this.#sql.exec(query, limitId, subject, span.key, kind).toArray().length > 0) return false
    this.#sql.exec(
      'INSERT INTO notices (limit_id, subject, window_key, kind, drop_after_ms) VALUES (?, ?, ?, ?, ?)',
      limitId,
      subject,
      span.key,
      kind,
      span.endMs === undefined ? null : span.endMs + KEPT_MS,
    )
    return true
  }
}
