// The account's outbox on its way to the record. Owns when it is written, the pauses after failures, and that nothing
// else reads or writes the record meanwhile. What an entry is and how it is written is ledger/.
import { drain, type OutboxStorage } from '../ledger/drain.ts'
import type { AttemptRow, OutboxEntry } from '../ledger/outbox.ts'
import { errorText } from '../observe/log.ts'
import type { AccountPorts } from './ports.ts'
import type { Store } from './store.ts'

/** Rows reach Postgres this long after their settle: long enough that a steady trickle is written in batches too. */
const FLUSH_DELAY_MS = 250
/** Pauses after failed flushes double from the first to the last. The last bounds how late rows are after an outage. */
const FLUSH_BACKOFF_MIN_MS = 500
const FLUSH_BACKOFF_MAX_MS = 15_000
/** Batches per flush; the rest follows with the next one, so that expiries are not kept waiting. */
const FLUSH_ROUNDS_MAX = 50
/** Entries that Postgres refused are tried again this often: the cause is code or a person, not time. */
const REJECTED_RETRY_MS = 3_600_000
/** Entries read at a time. */
const READ_ROWS_MAX = 500

/** The ports that a delivery uses, with a transaction that its account watches. */
export type DeliveryPorts = Pick<AccountPorts, 'transaction' | 'now' | 'record' | 'log'>

export class Delivery {
  readonly #ports: DeliveryPorts
  readonly #store: Store
  /** Kept beside the table, because counting rows costs time per row. */
  #rows = 0
  #failures = 0
  #dueAtMs: number | undefined
  #exclusive: Promise<unknown> = Promise.resolve()

  constructor(ports: DeliveryPorts, store: Store) {
    this.#ports = ports
    this.#store = store
  }

  /** Counts the entries again. */
  load(): void {
    this.#rows = this.#store.outboxCounts().rows
  }

  /** Entries that wait. */
  get rows(): number {
    return this.#rows
  }

  /** When the next flush is due; `undefined` where nothing waits. */
  get dueAtMs(): number | undefined {
    if (this.#rows === 0) return undefined
    this.#dueAtMs ??= Math.max(this.#ports.now(), this.#store.nextOutboxAtMs() ?? 0)
    return this.#dueAtMs
  }

  /** In a transaction. The caller counts it by `appended` once that stands. */
  append(entry: OutboxEntry): void {
    this.#store.append(entry)
  }

  appended(entries: number, nowMs: number): void {
    this.#rows += entries
    if (entries === 0) return
    // A time further off than any pause was set by a clock that has been set back since.
    const isLost = this.#dueAtMs !== undefined && this.#dueAtMs > nowMs + REJECTED_RETRY_MS
    if (this.#dueAtMs === undefined || isLost) this.#dueAtMs = nowMs + FLUSH_DELAY_MS
  }

  /** Never rejects: a record that is away only postpones. */
  async flush(options: { includeRejected: boolean }): Promise<void> {
    await this.alone(async () => {
      this.#dueAtMs = undefined
      try {
        const dueMs = options.includeRejected ? Number.MAX_SAFE_INTEGER : this.#ports.now()
        const done = await drain(this.#ports.record, this.#outbox(dueMs), FLUSH_ROUNDS_MAX)
        this.#failures = 0
        if (!done) this.#dueAtMs = this.#ports.now()
      } catch (error) {
        const pauseMs = Math.min(FLUSH_BACKOFF_MAX_MS, FLUSH_BACKOFF_MIN_MS * 2 ** Math.min(this.#failures, 10))
        this.#failures++
        this.#dueAtMs = this.#ports.now() + pauseMs
        this.#ports.log('warn', 'outbox_flush_failed', { rows: this.#rows, pauseMs, error: errorText(error) })
      }
    })
  }

  /** Runs work after all that was asked for before, with nothing else at the record. */
  async alone(work: () => Promise<void>): Promise<void> {
    const turn = this.#exclusive.then(work)
    this.#exclusive = turn.catch(() => {})
    await turn
  }

  /**
   * Within `alone`: writes until nothing is left that may be tried now. What may have been committed without an answer is
   * confirmed by that.
   * @throws DatabaseUnavailable, QueryFailed
   */
  async drain(): Promise<void> {
    const outbox = this.#outbox(this.#ports.now())
    while (!(await drain(this.#ports.record, outbox, FLUSH_ROUNDS_MAX))) {
      // Entries that arrive meanwhile are written too, until none is left.
    }
  }

  /** The attempts of all entries that wait. */
  waiting(): AttemptRow[] {
    const found: AttemptRow[] = []
    let afterId = 0
    for (;;) {
      const rows = this.#store.outboxBatch(Number.MAX_SAFE_INTEGER, afterId, READ_ROWS_MAX)
      for (const row of rows) {
        afterId = row.id
        found.push(...row.entry().attempts)
      }
      if (rows.length < READ_ROWS_MAX) return found
    }
  }

  #outbox(dueMs: number): OutboxStorage {
    let afterId = 0
    return {
      // Each entry is offered once per drain, so that one that is refused cannot come round again.
      batch: (rowsMax) => this.#store.outboxBatch(dueMs, afterId, rowsMax),
      confirm: (ids) => {
        this.#ports.transaction(() => this.#store.deleteOutbox(ids))
        this.#rows -= ids.length
        afterId = Math.max(afterId, ...ids)
      },
      reject: (id, reason) => {
        this.#store.rejectOutbox(id, reason, this.#ports.now() + REJECTED_RETRY_MS)
        afterId = Math.max(afterId, id)
        this.#ports.log('error', 'outbox_entry_rejected', { id, reason })
      },
    }
  }
}
