// A model of the system of record: what Postgres promises, in memory. Owns unique keys, transactions that happen as a
// whole or not at all, and everything that can go wrong on the way there and back: an outage, an answer that is lost
// after the commit, a commit that comes after the caller gave up, serialisation failures beyond the retries.
import type { RuleBook } from '../../gateway/account/limit.ts'
import { DatabaseUnavailable, QueryFailed } from '../../gateway/db/port.ts'
import type { AttemptRow, OutboxEntry, RequestRow } from '../../gateway/ledger/outbox.ts'
import type { Transfer } from '../../gateway/ledger/postings.ts'
import type { AccountRecord, Conflict, RecordedSum, SumQuestion } from '../../gateway/ledger/record.ts'
import { inputTokens, outputTokens, USAGE_PARTS } from '../../gateway/meter/usage.ts'
import type { Life, World } from './world.ts'

/** A lost answer is noticed when the patience of the caller ends. */
const PATIENCE_MS = 5_000
const READ_FAULTS = 0.15
/** SQLSTATE of a violated CHECK, and of a transaction that lost against another. */
const CHECK_VIOLATION = '23514'
const SERIALISATION_FAILURE = '40001'

export type RecordFaults = { unanswered: number; late: number; serialisation: number }

/** One row of `ledger_entries`. */
export type RecordedEntry = { transfer: Transfer; account: string; amountNanoUsd: bigint }

export class RecordModel {
  readonly attempts = new Map<string, AttemptRow>()
  readonly requests = new Map<string, RequestRow>()
  /** By transfer and account. */
  readonly entries = new Map<string, RecordedEntry>()
  readonly events = new Set<string>()
  book: RuleBook = { version: 1, limits: [] }
  /** Nothing gets through before. */
  downUntilMs = 0
  faults: RecordFaults = { unanswered: 0, late: 0, serialisation: 0 }
  readonly #world: World

  constructor(world: World) {
    this.#world = world
  }

  get isDown(): boolean {
    return this.#world.nowMs < this.downUntilMs
  }

  /** The record as one instance of an account reaches it. */
  client(life: Life): AccountRecord {
    return {
      write: (entries) => this.#ask(life, 'write', () => this.#write(entries)),
      readRules: () => this.#ask(life, 'read rules', () => this.book),
      sum: (_orgId, question) => this.#ask(life, 'sum', () => this.sum(question)),
    }
  }

  /** What rows add up to, by the id at the scope. */
  sum(question: SumQuestion): RecordedSum[] {
    const sums = new Map<string, bigint>()
    for (const row of this.attempts.values()) {
      const subject = subjectAt(row, question.scope)
      if (subject === undefined || !isAskedFor(row, subject, question)) continue
      const value = this.valueOf(row, question.meter)
      if (value !== 0n) sums.set(subject, (sums.get(subject) ?? 0n) + value)
    }
    return [...sums].map(([subject, value]) => ({ subject, value }))
  }

  /** What a row counts for. */
  valueOf(row: AttemptRow, meter: SumQuestion['meter']): bigint {
    if (meter === 'requests') return row.kind === 'attempt' && row.attempt === 1 ? 1n : 0n
    if (row.charge !== 'customer') return 0n
    if (meter === 'money') return row.costNanoUsd
    return BigInt(meter === 'input_tokens' ? inputTokens(row.usage) : outputTokens(row.usage))
  }

  /** One exchange. The work runs whether or not its caller lives to hear of it. */
  #ask<T>(life: Life, label: string, work: () => T): Promise<T> {
    const world = this.#world
    return new Promise<T>((resolve, reject) => {
      const answer = (name: string, delayMs: number, then: () => void) => {
        world.park(life, `${label}: ${name}`, delayMs, then)
      }
      const refuse = (name: string, delayMs: number, error: Error) =>
        answer(name, delayMs, () => {
          world.troubleAtMs = world.nowMs
          reject(error)
        })
      const unavailable = (delayMs: number) =>
        refuse('no answer', delayMs, new DatabaseUnavailable('the record does not answer'))
      world.park(world.network, `record ← ${label}`, world.random.below(20), () => {
        if (this.isDown) {
          world.note(`record down at: ${label}`)
          return unavailable(world.random.below(PATIENCE_MS))
        }
        // Counters take many reads: as many faults in each of them would leave an account that knows nothing.
        const rate = label === 'write' ? 1 : READ_FAULTS
        if (world.fault('serialisation', rate * this.faults.serialisation))
          return refuse('serialisation failure', 500, new QueryFailed('could not serialise', SERIALISATION_FAILURE))
        if (world.fault('write_late', rate * this.faults.late)) {
          // Under way while the caller has given up: it happens when nobody expects it any more.
          world.park(world.network, `record ← late ${label}`, world.random.below(4 * PATIENCE_MS), () => attempt(work))
          return unavailable(world.random.below(PATIENCE_MS))
        }
        const outcome = attempt(work)
        if (world.fault('write_unanswered', rate * this.faults.unanswered))
          return unavailable(world.random.below(PATIENCE_MS))
        answer('answer', world.random.below(20), () => (outcome.ok ? resolve(outcome.value) : reject(outcome.error)))
      })
    })
  }

  #write(entries: OutboxEntry[]): Conflict[] {
    // All checks stand before the first change: a transaction that fails leaves nothing.
    for (const entry of entries) for (const row of entry.attempts) assertRow(row)
    const conflicts: Conflict[] = []
    for (const entry of entries) {
      for (const row of entry.attempts)
        if (!insert(this.attempts, attemptIdentity(row), row))
          conflicts.push({ table: 'usage_attempts', identity: attemptIdentity(row) })
      if (entry.request !== undefined && !insert(this.requests, entry.request.requestId, entry.request))
        conflicts.push({ table: 'usage_requests', identity: entry.request.requestId })
      for (const event of entry.events ?? [])
        this.events.add([event.limitId, event.subject, event.windowKey, event.kind].join('/'))
    }
    const refused = new Set(conflicts.map(({ identity }) => identity))
    for (const transfer of entries.flatMap((entry) => entry.transfers)) {
      const attempt = attemptIdentity(transfer)
      if (refused.has(attempt) || !this.attempts.has(attempt)) continue
      for (const { account, amountNanoUsd } of transfer.entries) {
        const key = `${attempt}/${transfer.purpose}/${account}`
        if (!this.entries.has(key)) this.entries.set(key, { transfer, account, amountNanoUsd })
      }
    }
    return conflicts
  }
}

export const attemptIdentity = (row: { requestId: string; attempt: number; kind: string }): string =>
  `${row.requestId}/${row.attempt}/${row.kind}`

/** The id a row counts for at a scope; undefined where it has none. */
export function subjectAt(
  row: Pick<AttemptRow, 'orgId' | 'projectId' | 'keyId' | 'userId' | 'teamId' | 'endUser'>,
  scope: SumQuestion['scope'],
) {
  switch (scope) {
    case 'org':
      return row.orgId
    case 'project':
      return row.projectId
    case 'team':
      return row.teamId
    case 'user':
      return row.userId
    case 'key':
      return row.keyId
    case 'end_user':
      return row.endUser
    default:
      return scope satisfies never
  }
}

function isAskedFor(row: AttemptRow, subject: string, question: SumQuestion): boolean {
  const { scopeId, model, fromMs, toMs } = question
  return (
    (scopeId === '*' || scopeId === subject) &&
    (model === undefined || model === row.modelRequested) &&
    (fromMs === undefined || row.startedAtMs >= fromMs) &&
    (toMs === undefined || row.startedAtMs < toMs)
  )
}

/** Answers whether the row is there now with these contents. */
function insert<T extends object>(into: Map<string, T>, identity: string, row: T): boolean {
  const known = into.get(identity)
  if (known === undefined) into.set(identity, row)
  return known === undefined || sameContents(known, row)
}

/** Absent and undefined are the same, as they are in columns. */
function sameContents(a: object, b: object): boolean {
  const [left, right] = [new Map<string, unknown>(Object.entries(a)), new Map<string, unknown>(Object.entries(b))]
  for (const name of new Set([...left.keys(), ...right.keys()])) {
    const [one, other] = [left.get(name), right.get(name)]
    if (one === other) continue
    const areObjects = typeof one === 'object' && typeof other === 'object' && one !== null && other !== null
    if (!areObjects || !sameContents(one, other)) return false
  }
  return true
}

/** The CHECK constraints that a wrong computation could break. @throws QueryFailed */
function assertRow(row: AttemptRow): void {
  const isWrong =
    (row.kind === 'attempt' && (row.costNanoUsd < 0n || USAGE_PARTS.some((part) => row.usage[part] < 0))) ||
    (row.kind === 'attempt' && row.pricing === 'price_missing' && row.costNanoUsd !== 0n)
  if (isWrong) throw new QueryFailed('a check of usage_attempts is violated', CHECK_VIOLATION)
}

type Outcome<T> = { ok: true; value: T } | { ok: false; error: unknown }

function attempt<T>(work: () => T): Outcome<T> {
  try {
    return { ok: true, value: work() }
  } catch (error) {
    return { ok: false, error }
  }
}
