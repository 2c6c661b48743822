// What must be true when everything has come to rest. Owns the rules about the record, the account and the clients, each
// under its own name; rules about single answers of the account are books.ts. Amounts are compared with the books, with
// what the targets really delivered, and with what the clients really saw.
import type { AccountState } from '../../gateway/account/contract.ts'
import { EACH, seriesOf } from '../../gateway/account/limit.ts'
import type { AttemptRow } from '../../gateway/ledger/outbox.ts'
import { USAGE_PARTS, type Usage } from '../../gateway/meter/usage.ts'
import type { Booked, Books } from './books.ts'
import type { Exchange } from './client.ts'
import type { Delivery } from './provider-model.ts'
import type { RecordModel } from './record-model.ts'
import { subjectAt } from './record-model.ts'
import { windowName } from './windows-model.ts'
import { type Invariant, Violation } from './world.ts'

export type Rest = {
  books: Books
  record: RecordModel
  state: AccountState
  deliveries: Delivery[]
  exchanges: Exchange[]
}

/** @throws Violation naming the first rule that does not hold */
export function check(rest: Rest): void {
  const rows = rowsOf(rest.record)
  nothingIsOpen(rest)
  holdBeforeDispatch(rest)
  oneAttemptRow(rest, rows)
  oneRequestRow(rest)
  chargeIsTrue(rest, rows)
  chargeIsDelivered(rest)
  clientsWereToldTheTruth(rest)
  ledgerIsBalanced(rest)
  ledgerIsTheRows(rest)
  countersAreTheRows(rest)
}

const fail = (invariant: Invariant, detail: string): never => {
  throw new Violation(invariant, detail)
}

function nothingIsOpen({ state, books }: Rest): void {
  if (state.openHolds.length > 0) fail('no_open_holds', state.openHolds.map(({ holdId }) => holdId).join(', '))
  for (const one of books.attempts.values())
    if (one.state === 'held') fail('no_open_holds', `the books still hold ${one.holdId}`)
  if (state.conflicts > 0) fail('no_conflicts', `${state.conflicts} facts met others under their identity`)
  if (state.rejectedRows > 0) fail('no_conflicts', `${state.rejectedRows} entries were refused by the record`)
  if (state.outboxRows > 0) fail('outbox_empty', `${state.outboxRows} rows never reached the record`)
}

function holdBeforeDispatch({ books, deliveries }: Rest): void {
  for (const { requestId, attempt } of deliveries)
    if (!books.attempts.has(`${requestId}.${attempt}`))
      fail('hold_before_dispatch', `${requestId}.${attempt} was sent without a hold`)
}

/** Rows of each attempt, by `requestId.attempt`. */
function rowsOf(record: RecordModel): Map<string, AttemptRow[]> {
  const rows = new Map<string, AttemptRow[]>()
  for (const row of record.attempts.values()) {
    const key = `${row.requestId}.${row.attempt}`
    const known = rows.get(key)
    if (known === undefined) rows.set(key, [row])
    else known.push(row)
  }
  return rows
}

function oneAttemptRow({ books }: Rest, rows: ReadonlyMap<string, AttemptRow[]>): void {
  for (const { holdId, state } of books.attempts.values()) {
    const kinds = (rows.get(holdId) ?? []).map(({ kind }) => kind).sort()
    const text = kinds.join(', ')
    const isRight =
      state === 'late' ? text === 'adjustment, attempt' || text === 'adjustment, attempt, reversal' : text === 'attempt'
    if (!isRight) fail('one_attempt_row', `${holdId} (${state}) has rows: ${text}`)
  }
  for (const holdId of rows.keys())
    if (!books.attempts.has(holdId)) fail('record_is_the_books', `${holdId} stands in the record and in no book`)
}

function oneRequestRow({ books, record }: Rest): void {
  const requests = new Map<string, Booked[]>()
  for (const one of books.attempts.values())
    requests.set(one.ask.requestId, [...(requests.get(one.ask.requestId) ?? []), one])
  for (const [requestId, attempts] of requests) {
    const row = record.requests.get(requestId)
    if (row === undefined) return fail('one_request_row', `${requestId} has no row`)
    // What came after the row was written stands in rows of attempts only.
    if (attempts.some(({ state, isBelated }) => state === 'late' || state === 'expired' || isBelated)) continue
    const paid = attempts.filter(({ payer }) => payer === 'customer')
    const cost = sum(paid.map(({ costNanoUsd }) => costNanoUsd))
    if (row.costNanoUsd !== cost) fail('one_request_row', `${requestId} says ${row.costNanoUsd}, its attempts ${cost}`)
    if (row.attempts !== attempts.length)
      fail('one_request_row', `${requestId} says ${row.attempts} attempts of ${attempts.length}`)
  }
  for (const requestId of record.requests.keys())
    if (!requests.has(requestId))
      fail('record_is_the_books', `request ${requestId} stands in the record and in no book`)
}

/** Rows of an attempt add up to what the books say it used, cost, and who pays. */
function chargeIsTrue({ books }: Rest, rows: ReadonlyMap<string, AttemptRow[]>): void {
  for (const one of books.attempts.values()) {
    const own = rows.get(one.holdId) ?? []
    const cost = sum(own.map(({ costNanoUsd }) => costNanoUsd))
    const paid = sum(own.filter(({ charge }) => charge === 'customer').map(({ costNanoUsd }) => costNanoUsd))
    if (cost !== one.costNanoUsd) fail('charge_true', `${one.holdId} cost ${one.costNanoUsd}, its rows say ${cost}`)
    if (paid !== (one.payer === 'customer' ? one.costNanoUsd : 0n))
      fail('charge_true', `${one.holdId} was charged ${paid}`)
    for (const part of USAGE_PARTS) {
      const used = own.reduce((total, row) => total + row.usage[part], 0)
      if (used !== one.usage[part])
        fail('charge_true', `${one.holdId} used ${text(one.usage)}, its rows say ${used} ${part}`)
    }
  }
}

/** Nobody pays for what no target delivered, and an attempt that was settled says exactly what came. */
function chargeIsDelivered({ books, deliveries }: Rest): void {
  const delivered = new Map(deliveries.map((one) => [`${one.requestId}.${one.attempt}`, one]))
  for (const one of books.attempts.values()) {
    const delivery = delivered.get(one.holdId)
    if (delivery === undefined) {
      if (!isNothing(one.usage)) fail('charge_delivered', `${one.holdId} was never sent and used ${text(one.usage)}`)
    } else if (one.state === 'expired') {
      const isMore = USAGE_PARTS.some((part) => one.usage[part] > delivery.usage[part])
      if (isMore && !delivery.isFinal)
        fail('charge_delivered', `${one.holdId} expired with ${text(one.usage)} of ${text(delivery.usage)}`)
    } else if (!sameUsage(one.usage, delivery.usage)) {
      fail('charge_delivered', `${one.holdId} used ${text(one.usage)}, delivered were ${text(delivery.usage)}`)
    }
  }
}

/** Who saw an answer pays for it; who was told of a failure and saw nothing does not. */
function clientsWereToldTheTruth({ books, exchanges }: Rest): void {
  for (const { requestId, outcome, seen, gone, order } of exchanges) {
    if (requestId === undefined) continue
    for (const one of books.attempts.values()) {
      // The end of an expired hold was lost: the last checkpoint is all that is known.
      if (one.ask.requestId !== requestId || one.state === 'expired') continue
      const saw = seen.has(one.ask.attempt)
      if (saw && one.payer !== 'customer') fail('client_told_truth', `${one.holdId} was seen and given away`)
      const failed = outcome !== undefined && outcome !== 'ok' && outcome !== 'lost' && outcome !== 'cancelled'
      const callersDoing = gone || (outcome === 'deadline_exceeded' && order.deadlineIsCallers)
      if (!saw && failed && !callersDoing && one.payer === 'customer' && one.costNanoUsd > 0n)
        fail('client_told_truth', `${one.holdId} cost ${one.costNanoUsd}, its client was told ${outcome}`)
    }
  }
}

function ledgerIsBalanced({ record }: Rest): void {
  const transfers = new Map<string, bigint>()
  let total = 0n
  for (const { transfer, amountNanoUsd } of record.entries.values()) {
    const key = `${transfer.requestId}.${transfer.attempt} ${transfer.kind} ${transfer.purpose}`
    transfers.set(key, (transfers.get(key) ?? 0n) + amountNanoUsd)
    total += amountNanoUsd
  }
  for (const [key, amount] of transfers) if (amount !== 0n) fail('ledger_balanced', `${key} is off by ${amount}`)
  if (total !== 0n) fail('ledger_balanced', `all entries sum up to ${total}`)
}

/** Balances are what the books say was charged, absorbed and owed to providers. */
function ledgerIsTheRows({ books, record }: Rest): void {
  const balances = new Map<string, bigint>()
  for (const { account, amountNanoUsd } of record.entries.values())
    balances.set(account, (balances.get(account) ?? 0n) + amountNanoUsd)
  const all = [...books.attempts.values()]
  const paid = sum(all.filter(({ payer }) => payer === 'customer').map(({ costNanoUsd }) => costNanoUsd))
  const absorbed = sum(all.filter(({ payer }) => payer === 'absorbed').map(({ costNanoUsd }) => costNanoUsd))
  const owed = sum(all.map(({ owedNanoUsd }) => owedNanoUsd))
  const expected: [string, bigint][] = [
    ['customer_credit', -paid],
    ['gateway_absorbed', -absorbed],
    ['usage_revenue', paid + absorbed],
    ['provider_cost', -owed],
    ['provider_payable', owed],
  ]
  for (const [account, amount] of expected)
    if ((balances.get(account) ?? 0n) !== amount)
      fail('ledger_is_the_rows', `${account} stands at ${balances.get(account) ?? 0n}, not ${amount}`)
}

/** Each counter of a rule in force is the sum over rows of its window; windows are told apart by the model's own names. */
function countersAreTheRows({ books, record, state }: Rest): void {
  for (const rule of books.rules?.limits ?? []) {
    if (rule.meter === 'concurrency') continue
    const series = seriesOf(rule)
    const shown = new Map<string, string[]>()
    for (const counter of state.counters) {
      if (counter.series !== series || counter.value === 0n) continue
      shown.set(counter.subject, [...(shown.get(counter.subject) ?? []), String(counter.value)])
    }
    // A series that was never asked for, or only since its rule came, keeps no counters.
    if (!state.counters.some((counter) => counter.series === series)) continue
    const windows = new Map<string, { subject: string; value: bigint }>()
    for (const row of record.attempts.values()) {
      const subject = subjectAt(row, rule.scope)
      if (subject === undefined || (rule.scopeId !== EACH && rule.scopeId !== subject)) continue
      if (rule.model !== undefined && rule.model !== row.modelRequested) continue
      const key = `${subject} ${windowName(rule.window, rule.timeZone, row.startedAtMs)}`
      const known = windows.get(key) ?? { subject, value: 0n }
      known.value += record.valueOf(row, rule.meter)
      windows.set(key, known)
    }
    const summed = new Map<string, string[]>()
    for (const { subject, value } of windows.values())
      if (value !== 0n) summed.set(subject, [...(summed.get(subject) ?? []), String(value)])
    for (const [subject, values] of shown) {
      // Windows from before the series was kept have sums and no counter.
      const missing = [...(summed.get(subject) ?? [])]
      for (const value of values) {
        const at = missing.indexOf(value)
        if (at < 0)
          fail('counters_are_the_rows', `${series} of ${subject}: ${values} counted, rows say ${summed.get(subject)}`)
        missing.splice(at, 1)
      }
    }
  }
}

const sum = (amounts: bigint[]): bigint => amounts.reduce((total, amount) => total + amount, 0n)
const sameUsage = (a: Usage, b: Usage): boolean => USAGE_PARTS.every((part) => a[part] === b[part])
const isNothing = (usage: Usage): boolean => USAGE_PARTS.every((part) => usage[part] === 0)
const text = (usage: Usage): string =>
  JSON.stringify(usage, (_key, value: unknown) => (value === 0 ? undefined : value))
