// The SQLite of stored responses: the responses, the items of their conversations, their numbered events. Owns these tables and
// every statement on them; what is written when is runs.ts.
import type { JournalNews, Written } from './run-journal.ts'
import { eventsOf, type Owner } from './stored-run.ts'

const TABLES = [
  // One row: one response. `body` is a RunHead.
  `CREATE TABLE IF NOT EXISTS runs (
    name TEXT PRIMARY KEY, state TEXT NOT NULL, due_at_ms INTEGER NOT NULL, body TEXT NOT NULL) WITHOUT ROWID`,
  // Serves: those that run, what is due of the others, and the next one that will be.
  'CREATE INDEX IF NOT EXISTS runs_by_due ON runs (state, due_at_ms)',
  // One row: a piece of a long text. A value may have 2 MB.
  `CREATE TABLE IF NOT EXISTS texts (
    run TEXT NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL, piece TEXT NOT NULL, PRIMARY KEY (run, kind, at)) WITHOUT ROWID`,
  // One row: a piece of the events `first` to `last`, which were written together.
  `CREATE TABLE IF NOT EXISTS events (
    run TEXT NOT NULL, first INTEGER NOT NULL, at INTEGER NOT NULL, last INTEGER NOT NULL, piece TEXT NOT NULL,
    PRIMARY KEY (run, first, at)) WITHOUT ROWID`,
  // One row: lines of what the next life of a run goes on from.
  `CREATE TABLE IF NOT EXISTS journal (
    run TEXT NOT NULL, at INTEGER NOT NULL, piece TEXT NOT NULL, PRIMARY KEY (run, at)) WITHOUT ROWID`,
  // One row: the end of a hold that its account has yet to take. `body` is an Owed (owed-ends.ts).
  'CREATE TABLE IF NOT EXISTS owed (hold TEXT PRIMARY KEY, due_at_ms INTEGER NOT NULL, body TEXT NOT NULL) WITHOUT ROWID',
]

/** Three bytes a character at most, below the 2 MB of a value. */
const PIECE_CHARS = 512 * 1024
/** What one answer carries of the events, unless a single batch has more. */
const PAGE_CHARS = 256 * 1024

export type RunHead = {
  owner: Owner
  state: 'running' | 'ended'
  isBackground: boolean
  /** It can be followed as a stream; `only`: it is nothing else, and goes with its events. */
  stream?: 'only' | 'also'
  expiresAtMs: number
  /** When the events go; absent while they come, and where there are none. */
  eventsUntilMs?: number
  /** They were over their bound or are too old, and are gone. */
  areEventsLost?: boolean
  /** Of the request that made it, where that came with an idempotency key. */
  bodyHash?: string
}

type EventPage = { text: string; last: number }
/** Of one that runs: `job`: what is to be done; `attempt`: what is being done; `lives`: how often it was begun. */
type Kind = 'response' | 'items' | 'job' | 'attempt' | 'lives'

export class RunStore {
  readonly #sql: SqlStorage

  constructor(sql: SqlStorage) {
    this.#sql = sql
    for (const statement of TABLES) sql.exec(statement)
  }

  /** Of all that is stored. */
  get bytes(): number {
    return this.#sql.databaseSize
  }

  head(name: string): RunHead | undefined {
    const [row] = this.#sql.exec<{ body: string }>('SELECT body FROM runs WHERE name = ?', name).toArray()
    // Written by this class alone.
    return row === undefined ? undefined : (JSON.parse(row.body) as RunHead)
  }

  putHead(name: string, head: RunHead): void {
    this.#sql.exec(
      `INSERT INTO runs (name, state, due_at_ms, body) VALUES (?, ?, ?, ?)
       ON CONFLICT DO UPDATE SET state = excluded.state, due_at_ms = excluded.due_at_ms, body = excluded.body`,
      name,
      head.state,
      Math.min(head.expiresAtMs, head.eventsUntilMs ?? head.expiresAtMs),
      JSON.stringify(head),
    )
  }

  /** Those that are not ended. */
  running(): string[] {
    return this.#names("SELECT name FROM runs WHERE state = 'running'")
  }

  /** Those that have ended and of which something is to go by now. */
  due(nowMs: number, rowsMax: number): string[] {
    const query = "SELECT name FROM runs WHERE state = 'ended' AND due_at_ms <= ? ORDER BY due_at_ms LIMIT ?"
    return this.#names(query, nowMs, rowsMax)
  }

  nextDueAtMs(): number | undefined {
    const query = "SELECT min(due_at_ms) AS next FROM runs WHERE state = 'ended'"
    return this.#sql.exec<{ next: number | null }>(query).one().next ?? undefined
  }

  putText(name: string, kind: Kind, text: string): void {
    this.dropText(name, kind)
    for (const [at, piece] of piecesOf(text)) {
      this.#sql.exec('INSERT INTO texts (run, kind, at, piece) VALUES (?, ?, ?, ?)', name, kind, at, piece)
    }
  }

  text(name: string, kind: Kind): string {
    const query = 'SELECT piece FROM texts WHERE run = ? AND kind = ? ORDER BY at'
    let text = ''
    for (const row of this.#sql.exec<{ piece: string }>(query, name, kind)) text += row.piece
    return text
  }

  hasText(name: string, kind: Kind): boolean {
    const query = 'SELECT 1 FROM texts WHERE run = ? AND kind = ? LIMIT 1'
    return this.#sql.exec(query, name, kind).toArray().length > 0
  }

  dropText(name: string, kind: Kind): void {
    this.#sql.exec('DELETE FROM texts WHERE run = ? AND kind = ?', name, kind)
  }

  /** Number of the last event; -1: none. */
  lastEvent(name: string): number {
    const query = 'SELECT last FROM events WHERE run = ? ORDER BY first DESC, at DESC LIMIT 1'
    const [row] = this.#sql.exec<{ last: number }>(query, name).toArray()
    return row?.last ?? -1
  }

  /** Adds events that follow the last one. */
  append(name: string, text: string): void {
    const first = this.lastEvent(name) + 1
    const last = first + eventsOf(text).length - 1
    const query = 'INSERT INTO events (run, first, at, last, piece) VALUES (?, ?, ?, ?, ?)'
    for (const [at, piece] of piecesOf(text)) this.#sql.exec(query, name, first, at, last, piece)
  }

  /** Events after that number, as many as fit a page; undefined where there are none. */
  page(name: string, after: number): EventPage | undefined {
    let text = ''
    let last = after
    let open: { first: number; last: number; text: string } | undefined
    const take = () => {
      if (open === undefined) return
      text += eventsOf(open.text)
        .slice(Math.max(0, after + 1 - open.first))
        .join('')
      last = open.last
      open = undefined
    }
    const rows = this.#sql.exec<{ first: number; last: number; piece: string }>(
      `SELECT first, last, piece FROM events
       WHERE run = ?1 AND last >= ?2
         AND first >= (SELECT coalesce(max(first), 0) FROM events WHERE run = ?1 AND first <= ?2)
       ORDER BY first, at`,
      name,
      after + 1,
    )
    for (const row of rows) {
      if (open?.first !== row.first) {
        take()
        if (text.length >= PAGE_CHARS) return { text, last }
        open = { first: row.first, last: row.last, text: '' }
      }
      open.text += row.piece
    }
    take()
    return text === '' ? undefined : { text, last }
  }

  dropEvents(name: string): void {
    this.#sql.exec('DELETE FROM events WHERE run = ?', name)
  }

  /** All events, piece by piece. */
  *pieces(name: string): Generator<string> {
    const query = 'SELECT piece FROM events WHERE run = ? ORDER BY first, at'
    for (const row of this.#sql.exec<{ piece: string }>(query, name)) yield row.piece
  }

  addToJournal(name: string, { head, entries, isAnew }: JournalNews): void {
    if (isAnew) this.#sql.exec('DELETE FROM journal WHERE run = ?', name)
    if (head !== undefined) this.putText(name, 'attempt', head)
    const query = 'SELECT coalesce(max(at) + 1, 0) AS next FROM journal WHERE run = ?'
    const { next } = this.#sql.exec<{ next: number }>(query, name).one()
    for (const [at, piece] of piecesOf(entries))
      this.#sql.exec('INSERT INTO journal (run, at, piece) VALUES (?, ?, ?)', name, next + at, piece)
  }

  journal(name: string): Written {
    const query = 'SELECT piece FROM journal WHERE run = ? ORDER BY at'
    let entries = ''
    for (const row of this.#sql.exec<{ piece: string }>(query, name)) entries += row.piece
    return { head: this.text(name, 'attempt'), entries }
  }

  /** What only one that runs needs. */
  dropWork(name: string): void {
    for (const kind of ['job', 'attempt', 'lives'] as const) this.dropText(name, kind)
    this.#sql.exec('DELETE FROM journal WHERE run = ?', name)
  }

  putOwed(hold: string, dueAtMs: number, body: string): void {
    const query = 'INSERT OR REPLACE INTO owed (hold, due_at_ms, body) VALUES (?, ?, ?)'
    this.#sql.exec(query, hold, dueAtMs, body)
  }

  /** The first that is due by then. */
  owed(byMs: number): { hold: string; body: string } | undefined {
    const query = 'SELECT hold, body FROM owed WHERE due_at_ms <= ? ORDER BY due_at_ms LIMIT 1'
    return this.#sql.exec<{ hold: string; body: string }>(query, byMs).toArray()[0]
  }

  owedDueAtMs(): number | undefined {
    return this.#sql.exec<{ next: number | null }>('SELECT min(due_at_ms) AS next FROM owed').one().next ?? undefined
  }

  dropOwed(hold: string): void {
    this.#sql.exec('DELETE FROM owed WHERE hold = ?', hold)
  }

  remove(name: string): void {
    this.dropEvents(name)
    this.#sql.exec('DELETE FROM journal WHERE run = ?', name)
    this.#sql.exec('DELETE FROM texts WHERE run = ?', name)
    this.#sql.exec('DELETE FROM runs WHERE name = ?', name)
  }

  #names(query: string, ...values: (string | number)[]): string[] {
    return this.#sql
      .exec<{ name: string }>(query, ...values)
      .toArray()
      .map(({ name }) => name)
  }
}

function* piecesOf(text: string): Generator<[number, string]> {
  for (let at = 0, from = 0; from < text.length; at++) {
    let to = from + PIECE_CHARS
    // Half a surrogate pair is no character, and the storage would replace it.
    if (/[\ud800-\udbff]/.test(text.charAt(to - 1))) to--
    yield [at, text.slice(from, to)]
    from = to
  }
}
