// Empties an outbox into the system of record. Owns what happens to an entry that cannot be written: a database that does not work
// stops the drain and keeps everything; an entry that Postgres refuses for its contents is set aside, so that it holds
// up nothing behind it. Storage comes in as a port.
import { DatabaseUnavailable, QueryFailed } from '../db/port.ts'
import type { OutboxEntry } from './outbox.ts'
import { type AccountRecord, concerns } from './record.ts'

/** A stored entry. @throws of `entry`: Error where what is stored cannot be read */
export type OutboxRow = { id: number; entry: () => OutboxEntry }

export interface OutboxStorage {
  /** The oldest entries that may be tried now. */
  batch(rowsMax: number): OutboxRow[]
  /** They are in Postgres: forget them. */
  confirm(ids: number[]): void
  /** Keep the entry, do not try it again soon. */
  reject(id: number, reason: string): void
}

/** Entries per transaction: some hundred kilobytes, far below every database's limit. */
const BATCH_ROWS_MAX = 100
/** The rejection of an entry whose identity belongs to another fact. */
export const CONFLICT = 'conflict'
/** Integrity and data errors: what is in the rows is wrong. Anything else is wrong with the database or its schema. */
const REFUSED_STATE = /^(22|23)/

/**
 * Writes entries in batches until none is due or `roundsMax` batches went; answers whether none is left.
 * @throws DatabaseUnavailable, QueryFailed where the database as a whole does not take entries; what was confirmed stays so.
 */
export async function drain(
  record: Pick<AccountRecord, 'write'>,
  outbox: OutboxStorage,
  roundsMax: number,
): Promise<boolean> {
  for (let round = 0; round < roundsMax; round++) {
    const rows = outbox.batch(BATCH_ROWS_MAX)
    if (rows.length === 0) return true
    await write(record, outbox, readable(outbox, rows))
  }
  return outbox.batch(1).length === 0
}

type Readable = { id: number; entry: OutboxEntry }

function readable(outbox: OutboxStorage, rows: OutboxRow[]): Readable[] {
  const entries: Readable[] = []
  for (const { id, entry } of rows) {
    try {
      entries.push({ id, entry: entry() })
    } catch (error) {
      outbox.reject(id, String(error))
    }
  }
  return entries
}

/** One transaction for all; where Postgres refuses what is in it, halves, down to the entry that is at fault. */
async function write(record: Pick<AccountRecord, 'write'>, outbox: OutboxStorage, entries: Readable[]): Promise<void> {
  if (entries.length === 0) return
  try {
    const conflicts = await record.write(entries.map(({ entry }) => entry))
    if (conflicts.length === 0) return outbox.confirm(entries.map(({ id }) => id))
    const [kept, written] = partition(entries, ({ entry }) => conflicts.some((conflict) => concerns(conflict, entry)))
    outbox.confirm(written.map(({ id }) => id))
    for (const { id } of kept) outbox.reject(id, CONFLICT)
  } catch (error) {
    if (error instanceof DatabaseUnavailable) throw error
    if (error instanceof QueryFailed && !REFUSED_STATE.test(error.sqlState)) throw error
    const [first] = entries
    if (entries.length === 1 && first !== undefined) return outbox.reject(first.id, String(error))
    const middle = entries.length >> 1
    await write(record, outbox, entries.slice(0, middle))
    await write(record, outbox, entries.slice(middle))
  }
}

function partition<T>(values: T[], test: (value: T) => boolean): [T[], T[]] {
  const [yes, no]: [T[], T[]] = [[], []]
  for (const value of values) (test(value) ? yes : no).push(value)
  return [yes, no]
}
