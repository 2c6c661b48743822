// What each series of limits has counted, in the account's SQLite. Owns the counters, which of them are complete, and
// how long they are kept; what a row counts for is amounts.ts, where complete counters come from is seeding.ts.
//
//   (no row)  nothing is known: no counter is kept
//   ready     every window that ends after `covered_from_ms` is complete: what it counted before came from the record,
//             and since then each end has moved it in its own transaction. It rises as old windows are dropped, so that
//             a window which lost its counter can never pass for one that counted nothing
//
// Values are decimal text and added in bigint: SQLite turns an integer that overflows into a float. Within a transaction they
// are added in memory and written once, at its end: the ends of a batch mostly move the same counters.
import type { AccountState } from './contract.ts'
import type { Sql } from './ports.ts'
import type { Series } from './rule-index.ts'
import { type WindowSpan, windowOf } from './windows.ts'

const TABLES = [
  `CREATE TABLE IF NOT EXISTS series (
    series_id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, covered_from_ms INTEGER NOT NULL)`,
  `CREATE TABLE IF NOT EXISTS counts (
    series_id INTEGER NOT NULL, subject TEXT NOT NULL, window_key TEXT NOT NULL, value TEXT NOT NULL,
    drop_after_ms INTEGER, PRIMARY KEY (series_id, subject, window_key)) WITHOUT ROWID`,
]

/** Counters outlive their window by this: room for clocks that differ. Asks from further back are refused, not guessed. */
export const COUNTS_KEPT_MS = 3_600_000
/** Most counters that `inspect` shows. */
const SHOWN_MAX = 1_000

/** Before every window. */
const SINCE_EVER_MS = Number.MIN_SAFE_INTEGER

/** Values kept in memory: more than are busy at a time. */
const VALUES_KEPT = 10_000

export type Count = { subject: string; span: WindowSpan; value: bigint }
/** A row, or one to be. */
type Value = Count & { seriesId: number }

export class Counts {
  readonly #sql: Sql
  /** Copies of rows, because every reservation asks. */
  readonly #ready = new Map<string, { id: number; coveredFromMs: number }>()
  /** Copies of values, and those that are ahead of their row. */
  readonly #values = new Map<string, Value>()
  readonly #unwritten = new Set<Value>()
  /** Rises with each addition. */
  changes = 0

  constructor(sql: Sql) {
    this.#sql = sql
    for (const statement of TABLES) sql.exec(statement)
    this.load()
  }

  /** Reads the copies again: after a transaction that was undone. */
  load(): void {
    this.#ready.clear()
    this.#forgetValues()
    type Row = { series_id: number; name: string; covered_from_ms: number }
    for (const row of this.#sql.exec<Row>('SELECT series_id, name, covered_from_ms FROM series').toArray())
      this.#ready.set(row.name, { id: row.series_id, coveredFromMs: row.covered_from_ms })
  }

  /** Whether the window of now is complete. Not so where the clock was far ahead, and by it old windows were dropped. */
  isReady(series: Series, nowMs: number): boolean {
    const ready = this.#ready.get(series.name)
    return ready !== undefined && isComplete(ready.coveredFromMs, windowOf(series.window, series.timeZone, nowMs))
  }

  /** What a window has counted; `undefined` where that is not known. */
  value(series: Series, subject: string, span: WindowSpan): bigint | undefined {
    const ready = this.#ready.get(series.name)
    if (ready === undefined || !isComplete(ready.coveredFromMs, span)) return undefined
    return this.#known(ready.id, subject, span).value
  }

  /**
   * In a transaction, at whose end `write` is called: counts on. Without effect where the series is not ready or the window
   * is not kept.
   */
  add(series: Series, subject: string, span: WindowSpan, amount: bigint): void {
    const ready = this.#ready.get(series.name)
    if (amount === 0n || ready === undefined || !isComplete(ready.coveredFromMs, span)) return
    const known = this.#known(ready.id, subject, span)
    known.value += amount
    this.#unwritten.add(known)
    this.changes++
  }

  /** In a transaction: what was counted in it. */
  write(): void {
    for (const { seriesId, subject, span, value } of this.#unwritten) {
      this.#sql.exec(
        `INSERT INTO counts (series_id, subject, window_key, value, drop_after_ms) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET value = excluded.value`,
        seriesId,
        subject,
        span.key,
        value.toString(),
        span.endMs === undefined ? null : span.endMs + COUNTS_KEPT_MS,
      )
    }
    this.#unwritten.clear()
  }

  /**
   * In a transaction: the series is ready with these counts, in place of those it had.
   * @param coveredFrom The first window that is complete.
   */
  seed(series: Series, coveredFrom: WindowSpan, counts: Count[]): void {
    this.keepOnly((name) => name !== series.name)
    const coveredFromMs = coveredFrom.startMs ?? SINCE_EVER_MS
    const [row] = this.#sql
      .exec<{ series_id: number }>(
        'INSERT INTO series (name, covered_from_ms) VALUES (?, ?) RETURNING series_id',
        series.name,
        coveredFromMs,
      )
      .toArray()
    if (row === undefined) throw new Error(`series ${series.name} was not stored`)
    this.#ready.set(series.name, { id: row.series_id, coveredFromMs })
    for (const { subject, span, value } of counts) this.add(series, subject, span, value)
    this.write()
  }

  /** In a transaction: forgets every series that is not wanted; should its rule come back it is seeded anew. */
  keepOnly(isWanted: (series: string) => boolean): void {
    this.write()
    this.#forgetValues()
    for (const [name, { id }] of [...this.#ready]) {
      if (isWanted(name)) continue
      this.#sql.exec('DELETE FROM counts WHERE series_id = ?', id)
      this.#sql.exec('DELETE FROM series WHERE series_id = ?', id)
      this.#ready.delete(name)
    }
  }

  /** In a transaction: drops counters of windows long past. Answers whether more may be waiting. */
  sweep(nowMs: number, rowsMax: number): boolean {
    this.write()
    this.#forgetValues()
    const sweptToMs = nowMs - COUNTS_KEPT_MS
    this.#sql.exec('UPDATE series SET covered_from_ms = ? WHERE covered_from_ms < ?', sweptToMs, sweptToMs)
    for (const ready of this.#ready.values()) ready.coveredFromMs = Math.max(ready.coveredFromMs, sweptToMs)
    const dropped = this.#sql.exec(
      `DELETE FROM counts WHERE (series_id, subject, window_key) IN
        (SELECT series_id, subject, window_key FROM counts WHERE drop_after_ms <= ? LIMIT ?)`,
      nowMs,
      rowsMax,
    ).rowsWritten
    return dropped >= rowsMax
  }

  /** Who has counted most in a window. Decimal texts of counts are ordered by length, then by digits. */
  fullest(series: string, span: WindowSpan, subjectsMax: number): string[] {
    const ready = this.#ready.get(series)
    if (ready === undefined) return []
    const query = `SELECT subject FROM counts WHERE series_id = ? AND window_key = ?
      ORDER BY length(value) DESC, value DESC, subject LIMIT ?`
    const rows = this.#sql.exec<{ subject: string }>(query, ready.id, span.key, subjectsMax).toArray()
    return rows.map(({ subject }) => subject)
  }

  shown(): AccountState['counters'] {
    type Row = { series: string; subject: string; window_key: string; value: string }
    const query = `SELECT name AS series, subject, window_key, value FROM counts JOIN series USING (series_id)
      ORDER BY name, subject, window_key LIMIT ?`
    return this.#sql
      .exec<Row>(query, SHOWN_MAX)
      .toArray()
      .map(({ series, subject, window_key, value }) => ({
        series,
        subject,
        windowKey: window_key,
        value: BigInt(value),
      }))
  }

  #forgetValues(): void {
    this.#values.clear()
    this.#unwritten.clear()
  }

  #known(seriesId: number, subject: string, span: WindowSpan): Value {
    // A window's key holds no newline.
    const at = `${seriesId}\n${span.key}\n${subject}`
    const known = this.#values.get(at)
    if (known !== undefined) return known
    if (this.#values.size >= VALUES_KEPT && this.#unwritten.size === 0) this.#values.clear()
    const value = { seriesId, subject, span, value: this.#stored(seriesId, subject, span.key) }
    this.#values.set(at, value)
    return value
  }

  #stored(seriesId: number, subject: string, windowKey: string): bigint {
    const query = 'SELECT value FROM counts WHERE series_id = ? AND subject = ? AND window_key = ?'
    const [row] = this.#sql.exec<{ value: string }>(query, seriesId, subject, windowKey).toArray()
    return BigInt(row?.value ?? 0)
  }
}

const isComplete = (coveredFromMs: number, span: WindowSpan): boolean =>
  span.endMs === undefined || span.endMs > coveredFromMs
