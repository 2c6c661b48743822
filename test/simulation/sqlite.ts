// The storage of an account object on node:sqlite: what the object sees as its SQL and its transactions. Owns the
// adaptor and that a database is used by one history after the other. Real SQLite runs the product's real statements.
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import type { Sql, SqlCursor, SqlRow } from '../../gateway/account/ports.ts'

type Value = string | number | null

type Prepared = { statement: StatementSync; reads: boolean; writes: string | undefined; creates: boolean }

const WRITES = /^\s*INSERT INTO (\w+)/
const READS = /^\s*(SELECT|WITH|PRAGMA)|\bRETURNING\b/i

export class SimulatedStorage {
  readonly #database = new DatabaseSync(':memory:')
  readonly #statements = new Map<string, Prepared>()
  readonly #limited = new Map<string, { before: string; after: string } | false>()
  readonly #created = new Set<string>()
  /** Tables with rows. */
  readonly #written = new Set<string>()
  #depth = 0
  /** Statements run, for tuning. */
  statements = 0

  readonly sql: Sql = {
    exec: <Row extends SqlRow>(query: string, ...bindings: Value[]) => this.#exec<Row>(query, bindings),
  }

  /** All or nothing; may stand inside another one. */
  transaction<T>(work: () => T): T {
    const nested = this.#depth > 0
    const point = `inner_${this.#depth}`
    this.#run(nested ? `SAVEPOINT ${point}` : 'BEGIN')
    this.#depth++
    try {
      const result = work()
      this.#depth--
      this.#run(nested ? `RELEASE ${point}` : 'COMMIT')
      return result
    } catch (error) {
      this.#depth--
      if (nested) {
        this.#run(`ROLLBACK TO ${point}`)
        this.#run(`RELEASE ${point}`)
      } else this.#run('ROLLBACK')
      throw error
    }
  }

  /** As if the object had never stored anything. */
  wipe(): void {
    if (this.#depth > 0) throw new Error('storage is wiped inside a transaction')
    this.#run('BEGIN')
    for (const table of this.#written) this.#run(`DELETE FROM ${table}`)
    if (this.#written.size > 0) this.#run('DELETE FROM sqlite_sequence')
    this.#run('COMMIT')
    this.#written.clear()
  }

  #exec<Row extends SqlRow>(query: string, bindings: Value[]): SqlCursor<Row> {
    this.statements++
    const last = bindings.at(-1)
    const bound = typeof last === 'number' ? this.#withLiteralLimit(query, last) : query
    if (bound !== query) bindings.pop()
    const { statement, reads, writes, creates } = this.#prepared(bound)
    if (writes !== undefined) this.#written.add(writes)
    // What exists stays: only rows are wiped.
    if (creates && this.#created.has(query)) return new Cursor<Row>([], 0)
    if (creates) this.#created.add(query)
    if (!reads) return new Cursor<Row>([], Number(statement.run(...bindings).changes))
    // The statement says what its rows look like; the caller names the type, as it does in production.
    return new Cursor<Row>(statement.all(...bindings) as Row[], 0)
  }

  /** SQLite compiles a statement anew whenever a LIMIT is bound again; with a literal it stays compiled. */
  #withLiteralLimit(query: string, last: number): string {
    const known = this.#limited.get(query)
    if (known !== undefined) return known === false ? query : `${known.before}${last}${known.after}`
    const at = query.lastIndexOf('?')
    const isLimit = at >= 0 && query.slice(0, at).endsWith('LIMIT ')
    this.#limited.set(query, isLimit && { before: query.slice(0, at), after: query.slice(at + 1) })
    return this.#withLiteralLimit(query, last)
  }

  #run(query: string): void {
    this.#prepared(query).statement.run()
  }

  #prepared(query: string): Prepared {
    const known = this.#statements.get(query)
    if (known !== undefined) return known
    const made: Prepared = {
      statement: this.#database.prepare(query),
      reads: READS.test(query),
      writes: WRITES.exec(query)?.[1],
      creates: query.startsWith('CREATE '),
    }
    this.#statements.set(query, made)
    return made
  }
}

/** The rows of a statement, as the runtime hands them out. */
class Cursor<Row> implements SqlCursor<Row> {
  readonly rowsWritten: number
  readonly #rows: Row[]

  constructor(rows: Row[], rowsWritten: number) {
    this.#rows = rows
    this.rowsWritten = rowsWritten
  }

  toArray(): Row[] {
    return this.#rows
  }

  [Symbol.iterator](): Iterator<Row> {
    return this.#rows[Symbol.iterator]()
  }
}
