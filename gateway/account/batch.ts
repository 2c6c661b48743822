// Calls that share one transaction. Owns that one which fails leaves no trace and costs the others nothing, and that only
// a bug pays for it: whatever a call refuses, it refuses before its first write, so there is nothing to undo, and the
// savepoint around each call is made only once one has failed in the midst of its writes. Pure.
import type { AccountPorts, Sql } from './ports.ts'

export type BatchPorts<Call, Done> = {
  /** All of the work's writes or none; memory is made again from the tables where it is none. */
  transaction: AccountPorts['transaction']
  /** The same inside of it, without the care for memory. */
  savepoint: AccountPorts['transaction']
  perform: (call: Call) => Done
  /** Lets memory follow what a call did: the next one is checked against it. */
  follow: (done: Done) => void
  /** Rises with everything that a call changes. */
  changes: () => number
  /** What a call changed in memory before it failed is wrong now. */
  undone: () => void
}

/** What each call did, in order; its error where it failed. @throws what the transaction as a whole failed with */
export function runBatch<Call, Done>(calls: readonly Call[], ports: BatchPorts<Call, Done>): (Done | Error)[] {
  let isHalfDone = false
  const together = (call: Call): Done | Error => {
    const before = ports.changes()
    try {
      const done = ports.perform(call)
      ports.follow(done)
      return done
    } catch (error) {
      isHalfDone = ports.changes() !== before
      if (isHalfDone) throw error
      return errorOf(error)
    }
  }
  const apart = (call: Call): Done | Error => {
    try {
      const done = ports.savepoint(() => ports.perform(call))
      ports.follow(done)
      return done
    } catch (error) {
      ports.undone()
      return errorOf(error)
    }
  }
  try {
    return ports.transaction(() => calls.map(together))
  } catch (error) {
    if (!isHalfDone) throw error
    return ports.transaction(() => calls.map(apart))
  }
}

const errorOf = (error: unknown): Error => (error instanceof Error ? error : new Error(String(error)))

/** SQL that counts the statements which may write. */
export class WatchedSql implements Sql {
  writes = 0
  readonly #sql: Sql

  constructor(sql: Sql) {
    this.#sql = sql
  }

  exec: Sql['exec'] = (query, ...bindings) => {
    if (!query.startsWith('SELECT ')) this.writes++
    return this.#sql.exec(query, ...bindings)
  }
}
