// Seeded faults: for each rule a system that breaks it, so that a rule which sees nothing is found out. Owns the faults;
// they come in through ports or stand in front of the product's own classes, and no product code knows of them.
import type { AccountCore } from '../../gateway/account/account-core.ts'
import type { AccountCall, AccountReply } from '../../gateway/account/contract.ts'
import { Counts } from '../../gateway/account/counts.ts'
import { Idempotency } from '../../gateway/account/idempotency.ts'
import { OpenHolds } from '../../gateway/account/open-holds.ts'
import type { AccountPorts, Sql } from '../../gateway/account/ports.ts'
import { RuleIndex } from '../../gateway/account/rule-index.ts'
import { Store } from '../../gateway/account/store.ts'
import { DatabaseUnavailable } from '../../gateway/db/port.ts'
import { decodeEntry, encodeText } from '../../gateway/ledger/outbox.ts'
import type { AccountRecord } from '../../gateway/ledger/record.ts'
import type { Mutant } from './history.ts'
import type { Invariant } from './world.ts'

export type SeededFault = {
  name: string
  /** The rules that are meant to see it; any of them may be first. */
  seenBy: Invariant[]
  mutant?: Mutant
  /** Changes classes of the product in this thread. Returns how to take it back. */
  patch?(): () => void
}

/** Replaces a method of a class. */
function replace<T, K extends keyof T>(of: { prototype: T }, name: K, make: (original: T[K]) => T[K]): () => void {
  const original = of.prototype[name]
  of.prototype[name] = make(original)
  return () => {
    of.prototype[name] = original
  }
}

type Exec = Sql['exec']
type Bindings = Parameters<Exec>[1][]

/** An account whose statements pass through here; `undefined` leaves the statement as it is. */
const sqlThrough = (
  change: (query: string, bindings: Bindings, exec: Exec) => ReturnType<Exec> | undefined,
): Mutant => ({
  ports: (ports: AccountPorts) => {
    const exec: Exec = (query, ...bindings) => {
      const changed = change(query, bindings, ports.sql.exec)
      // Rows of a changed statement look like those of the statement it stands for.
      return changed === undefined ? ports.sql.exec(query, ...bindings) : (changed as never)
    }
    return { ...ports, sql: { exec } }
  },
})

/** An account whose batches pass through here. */
const batchThrough = (
  change: (calls: AccountCall[], batch: AccountCore['batch']) => Promise<AccountReply[]>,
): Mutant => ({
  core: (core) => {
    const batch = core.batch.bind(core)
    core.batch = (calls) => change(calls, batch)
    return core
  },
})

const recordThrough = (change: (record: AccountRecord) => Partial<AccountRecord>): Mutant => ({
  record: (record) => ({
    write: (entries) => record.write(entries),
    readRules: (orgId) => record.readRules(orgId),
    sum: (orgId, question) => record.sum(orgId, question),
    ...change(record),
  }),
})

/** A statement that does nothing. */
const nothing = {
  toArray: () => [],
  rowsWritten: 0,
  [Symbol.iterator]: () => [][Symbol.iterator](),
} as ReturnType<Exec>

/** Accounts whose outbox entries pass through here, in their stored form. */
const outboxThrough = (change: (entry: StoredEntry) => StoredEntry) => () =>
  replace(
    Store,
    'append',
    (original) =>
      function (this: Store, entry) {
        const changed = change(JSON.parse(encodeText(entry)) as StoredEntry)
        original.call(this, decodeEntry(JSON.stringify(changed)))
      },
  )

type StoredEntry = { attempts: Record<string, unknown>[]; transfers: unknown[]; request?: unknown }

const hasAttempt = ({ attempts }: StoredEntry, field: string, value: string): boolean =>
  attempts.some((row) => row[field] === value)

const inserts = (table: string) => (query: string) => query.startsWith(`INSERT INTO ${table} `)
const isHoldInsert = inserts('holds')

export const MUTANTS: SeededFault[] = [
  {
    name: 'an end that is repeated is charged again',
    seenBy: ['one_end'],
    mutant: sqlThrough((query, bindings, exec) => {
      if (!query.includes('FROM holds WHERE request_id = ? ORDER BY attempt')) return undefined
      const rows = exec(query, ...bindings).toArray()
      for (const row of rows) if (rows.length === 1 && row.state === 'settled') row.state = 'held'
      return {
        toArray: () => rows,
        rowsWritten: 0,
        [Symbol.iterator]: () => rows[Symbol.iterator](),
      } as ReturnType<Exec>
    }),
  },
  {
    name: 'an expiry forgets the checkpoint',
    seenBy: ['charge_true'],
    mutant: batchThrough((calls, batch) =>
      Promise.all(
        calls.map(async (call): Promise<AccountReply> => {
          if (call.kind === 'checkpoint') return { kind: 'checkpoint' }
          const [reply] = await batch([call])
          return reply ?? { kind: 'failed', error: 'no reply' }
        }),
      ),
    ),
  },
  {
    name: 'admission ignores what is held',
    seenBy: ['limit_kept', 'refusal_justified'],
    patch: () => replace(OpenHolds, 'held', () => () => 0n),
  },
  {
    name: 'admission ignores what runs',
    seenBy: ['limit_kept'],
    patch: () => replace(OpenHolds, 'running', () => () => 0),
  },
  {
    name: 'admission ignores limits of keys',
    seenBy: ['limit_kept'],
    patch: () =>
      replace(
        RuleIndex,
        'applying',
        (original) =>
          function (this: RuleIndex, subject, model) {
            const applying = original.call(this, subject, model)
            return { ...applying, gauges: applying.gauges.filter(({ series }) => series.scope !== 'key') }
          },
      ),
  },
  {
    name: 'a window ends a millisecond late',
    seenBy: ['limit_kept', 'refusal_justified', 'counters_are_the_rows'],
    mutant: batchThrough((calls, batch) =>
      batch(
        calls.map((call) =>
          call.kind === 'reserve' ? { ...call, ask: { ...call.ask, startedAtMs: call.ask.startedAtMs - 1 } } : call,
        ),
      ),
    ),
  },
  {
    name: 'a revoked key goes on',
    seenBy: ['revoked_refused'],
    patch: () => replace(Store, 'isKeyRevoked', () => () => false),
  },
  {
    name: 'rules that are older win',
    seenBy: ['limit_kept', 'refusal_justified'],
    mutant: {
      core: (core) => {
        const setRules = core.setRules.bind(core)
        core.setRules = (book) => setRules({ ...book, version: 1_000 - book.version })
        return core
      },
    },
  },
  {
    name: 'an idempotency key is ignored',
    seenBy: ['idempotent'],
    patch: () => replace(Idempotency, 'refusal', () => () => undefined),
  },
  {
    name: 'replies of a batch change places',
    // A refusal names nobody: that it went to another shows by its sums.
    seenBy: ['answers_fit', 'limit_kept', 'refusal_justified'],
    mutant: batchThrough(async (calls, batch) => (await batch(calls)).reverse()),
  },
  {
    name: 'an entry is confirmed before its commit',
    seenBy: ['one_attempt_row', 'one_request_row'],
    mutant: recordThrough((record) => ({
      write: async (entries) => {
        record.write(entries).catch(() => {})
        return []
      },
    })),
  },
  {
    name: 'an attempt that broke off leaves no row',
    seenBy: ['one_attempt_row'],
    patch: outboxThrough((entry) =>
      hasAttempt(entry, 'usageSource', 'stream_partial') ? { ...entry, attempts: [], transfers: [] } : entry,
    ),
  },
  {
    name: 'a release leaves no row',
    seenBy: ['one_attempt_row'],
    patch: outboxThrough((entry) =>
      hasAttempt(entry, 'status', 'overloaded') ? { ...entry, attempts: [], transfers: [] } : entry,
    ),
  },
  {
    name: 'a request leaves no row',
    seenBy: ['one_request_row'],
    patch: outboxThrough(({ request: _left, ...entry }) => entry),
  },
  {
    name: 'an entry carries a fact too many',
    seenBy: ['record_is_the_books'],
    mutant: recordThrough((record) => ({
      write: (entries) => {
        for (const { attempts } of entries)
          attempts.push(...attempts.map((row) => ({ ...row, attempt: row.attempt + 50 })))
        return record.write(entries)
      },
    })),
  },
  {
    name: 'the record never answers',
    seenBy: ['outbox_empty'],
    mutant: recordThrough(() => ({ write: () => Promise.reject(new DatabaseUnavailable('gone for good')) })),
  },
  {
    name: 'an alarm comes at once whatever was asked for',
    seenBy: ['history_ends'],
    mutant: { ports: (ports) => ({ ...ports, setAlarm: () => ports.setAlarm(0) }) },
  },
  {
    name: 'admission counts what is held twice',
    seenBy: ['refusal_justified'],
    patch: () =>
      replace(
        OpenHolds,
        'held',
        (original) =>
          function (this: OpenHolds, ...of) {
            return 2n * original.apply(this, of)
          },
      ),
  },
  {
    name: 'one token more is billed than came',
    seenBy: ['charge_delivered'],
    mutant: { isolate: 'bills_one_more' },
  },
  {
    name: 'a request is closed twice',
    seenBy: ['no_conflicts'],
    mutant: sqlThrough((query, bindings, exec) => {
      if (!isHoldInsert(query)) return undefined
      const [requestId, attempt, state, , dueAtMs, body] = bindings
      return exec(query, requestId ?? null, attempt ?? null, state ?? null, 0, dueAtMs ?? null, body ?? null)
    }),
  },
  {
    name: 'a hold is granted and not stored',
    seenBy: ['answers_fit'],
    patch: () => replace(Store, 'addHold', () => () => {}),
  },
  {
    name: 'a transfer is off by one nano-dollar',
    seenBy: ['ledger_balanced'],
    mutant: recordThrough((record) => ({
      write: (entries) => {
        for (const { transfers } of entries)
          for (const { entries: sides } of transfers) if (sides[0] !== undefined) sides[0].amountNanoUsd += 1n
        return record.write(entries)
      },
    })),
  },
  {
    name: 'a transfer moves half the charge',
    seenBy: ['ledger_is_the_rows'],
    mutant: recordThrough((record) => ({
      write: (entries) => {
        for (const { transfers } of entries)
          for (const { entries: sides } of transfers) for (const side of sides) side.amountNanoUsd /= 2n
        return record.write(entries)
      },
    })),
  },
  {
    name: 'seeding counts what waits twice',
    seenBy: ['limit_kept', 'refusal_justified', 'counters_are_the_rows'],
    patch: () =>
      replace(
        Counts,
        'seed',
        (original) =>
          function (this: Counts, series, coveredFrom, counts) {
            original.call(this, series, coveredFrom, [...counts, ...counts.slice(-1)])
          },
      ),
  },
  {
    name: 'a counter is not moved by an end',
    seenBy: ['limit_kept', 'refusal_justified', 'counters_are_the_rows'],
    patch: () => replace(Counts, 'add', () => () => {}),
  },
  {
    name: 'a charge is cut to what was held',
    seenBy: ['charge_true', 'charge_delivered'],
    mutant: batchThrough((calls, batch) =>
      batch(
        calls.map((call) =>
          call.kind === 'settle' && call.end.usage.outputText > 100
            ? { ...call, end: { ...call.end, usage: { ...call.end.usage, outputText: 100 } } }
            : call,
        ),
      ),
    ),
  },
  {
    name: 'a hold never expires',
    seenBy: ['no_open_holds'],
    mutant: sqlThrough((query, bindings) =>
      query.includes('due_at_ms') && query.startsWith('SELECT') && bindings[0] === 'held' ? nothing : undefined,
    ),
  },
  {
    name: 'the platform forgets alarms',
    seenBy: ['no_open_holds', 'outbox_empty'],
    mutant: { losesAlarms: true },
  },
  {
    name: 'a target is asked before the hold is there',
    seenBy: ['hold_before_dispatch'],
    mutant: { isolate: 'dispatches_unheld' },
  },
  {
    name: 'a failed attempt is billed',
    seenBy: ['client_told_truth'],
    mutant: { isolate: 'bills_failures' },
  },
  {
    name: 'an answer is given away',
    seenBy: ['client_told_truth'],
    mutant: { isolate: 'gives_answers_away' },
  },
]
