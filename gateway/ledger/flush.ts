// Outbox → Postgres. Owns the statements, the derived identities and the check that a fact found under its identity is
// the same fact. Delivery is at least once (the outbox keeps an entry until Postgres has confirmed it); the unique keys
// make the effect exactly once, also where a commit happened and its answer was lost.
import { getTableColumns, getTableName } from 'drizzle-orm'
import type { PgTable } from 'drizzle-orm/pg-core'
import { utcDay } from '../account/windows.ts'
import type { Database, SqlValue, Statement } from '../db/port.ts'
import { ledgerAccounts } from '../db/schema/ledger.ts'
import { limitEvents } from '../db/schema/limits.ts'
import { usageAttempts, usageRequests } from '../db/schema/usage.ts'
import { sha256Hex } from '../hash.ts'
import type { PriceQuote } from '../meter/price.ts'
import { mapParts } from '../meter/usage.ts'
import { openDays } from './ledger-days.ts'
import { type AttemptRow, encodeText, type LimitEvent, type OutboxEntry, type RequestRow } from './outbox.ts'
import { assertBalanced, type LedgerAccount } from './postings.ts'
import { attemptIdentity, type Conflict } from './record.ts'
import { dirtyBuckets } from './rollups.ts'

/** Rows per statement, largest first: a batch is cut into powers of two, so few distinct statements get prepared. */
const CHUNK_ROWS_MAX = 64

type AttemptInsert = typeof usageAttempts.$inferInsert
type RequestInsert = typeof usageRequests.$inferInsert

/**
 * Writes all entries in one transaction; entries that are there already change nothing. Ledger entries are written only
 * for attempts that stand in Postgres with exactly these contents, so a conflict cannot unbalance the ledger.
 * @returns the rows that Postgres kept out because another fact has their identity
 * @throws DatabaseUnavailable where it may or may not have been written: repeat. QueryFailed: nothing was written.
 */
export async function writeEntries(database: Database, entries: OutboxEntry[]): Promise<Conflict[]> {
  const attempts = entries.flatMap((entry) => entry.attempts).map(attemptInsert)
  const requests = entries.flatMap(requestsOf).map(requestInsert)
  const ledger = ledgerRows(entries, attempts)
  const statements: Statement[] = [
    ...chunks(attempts).map((rows) => insertStatement(ATTEMPTS, rows)),
    ...chunks(requests).map((rows) => insertStatement(REQUESTS, rows)),
    ...chunks(ledger.accounts).map((rows) => insertStatement(ACCOUNTS, rows)),
    ...chunks(ledger.entries).map(entriesStatement),
    ...chunks(entries.flatMap((entry) => entry.events ?? []).map(eventInsert)).map((rows) =>
      insertStatement(EVENTS, rows),
    ),
    ...dirtyBuckets(entries),
    ...openDays(entries),
  ]
  if (statements.length === 0) return []
  const results = await database.batch(statements)
  const attemptsEnd = chunks(attempts).length
  const written = (from: number, to: number) => results.slice(from, to).reduce((sum, result) => sum + result.count, 0)
  const conflicts: Conflict[] = []
  if (written(0, attemptsEnd) < attempts.length)
    conflicts.push(
      ...(await conflictsIn(database, 'usage_attempts', ['request_id', 'attempt', 'kind'], attempts, attemptIdentity)),
    )
  if (written(attemptsEnd, attemptsEnd + chunks(requests).length) < requests.length)
    conflicts.push(
      ...(await conflictsIn(database, 'usage_requests', ['request_id'], requests, ({ requestId }) => requestId)),
    )
  return conflicts
}

const requestsOf = (entry: OutboxEntry): RequestRow[] => (entry.request === undefined ? [] : [entry.request])

/** A list in pieces of 64, 32, 16, … rows. */
export function chunks<T>(rows: T[]): T[][] {
  const pieces: T[][] = []
  let from = 0
  for (let size = CHUNK_ROWS_MAX; size >= 1; size /= 2) {
    while (rows.length - from >= size) {
      pieces.push(rows.slice(from, from + size))
      from += size
    }
  }
  return pieces
}

type Target = { name: string; columns: { field: string; column: string }[]; texts: Map<number, string> }

const target = (table: PgTable): Target => ({
  name: getTableName(table),
  columns: Object.entries(getTableColumns(table)).map(([field, { name }]) => ({ field, column: name })),
  texts: new Map(),
})

const ATTEMPTS = target(usageAttempts)
const REQUESTS = target(usageRequests)
const ACCOUNTS = target(ledgerAccounts)
const EVENTS = target(limitEvents)

/**
 * Rows into a table, known ones skipped. Written out here, because the query builder takes milliseconds for a batch of
 * this width; the text depends on the number of rows alone and is made once per size.
 */
function insertStatement(into: Target, rows: object[]): Statement {
  const params: SqlValue[] = []
  for (const row of rows) {
    const values: Readonly<Record<string, unknown>> = { ...row }
    for (const { field } of into.columns) params.push(sqlValue(values[field]))
  }
  const known = into.texts.get(rows.length)
  if (known !== undefined) return { text: known, params }
  const width = into.columns.length
  const tuples = rows.map((_, row) => `(${into.columns.map((_, index) => `$${row * width + index + 1}`).join(', ')})`)
  const columns = into.columns.map(({ column }) => column).join(', ')
  const text = `INSERT INTO ${into.name} (${columns}) VALUES ${tuples.join(', ')} ON CONFLICT DO NOTHING`
  into.texts.set(rows.length, text)
  return { text, params }
}

function sqlValue(value: unknown): SqlValue {
  if (value === undefined || value === null) return null
  if (typeof value === 'bigint') return value.toString()
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return value
  throw new TypeError(`a ${typeof value} has no column type`)
}

const iso = (atMs: number): string => new Date(atMs).toISOString()

/** What attempts and requests have in common as columns */
function sharedColumns(row: AttemptRow | RequestRow) {
  return {
    orgId: row.orgId,
    requestId: row.requestId,
    projectId: row.projectId,
    keyId: row.keyId,
    userId: row.userId ?? null,
    teamId: row.teamId ?? null,
    endUser: row.endUser ?? null,
    // Left out where they are not there, so that rows from before there were any keep the hash they have.
    ...(row.tags === undefined ? {} : { tags: row.tags }),
    ...(row.backendId === undefined ? {} : { backendId: row.backendId }),
    provider: row.provider,
    modelRequested: row.modelRequested,
    modelServed: row.modelServed,
    stream: row.stream,
    status: row.status,
    httpStatus: row.httpStatus ?? null,
    ...mapParts((part) => BigInt(row.usage[part])),
    costNanoUsd: row.costNanoUsd,
    usageDay: utcDay(row.startedAtMs),
    startedAt: iso(row.startedAtMs),
    firstTokenAt: row.firstTokenAtMs === undefined ? null : iso(row.firstTokenAtMs),
    endedAt: iso(row.endedAtMs),
    recordedAt: iso(row.recordedAtMs),
  }
}

function attemptInsert(row: AttemptRow): AttemptInsert {
  const hashed = withHash({
    ...sharedColumns(row),
    keyLineId: row.keyLineId ?? row.keyId,
    attempt: row.attempt,
    kind: row.kind,
    charge: row.charge,
    usageSource: row.usageSource,
    pricing: row.pricing,
    priceVersionId: row.price?.priceVersionId ?? null,
    unitPrices: row.price === undefined ? null : encodeText(unitPrices(row.price)),
    providerCostNanoUsd: row.providerCostNanoUsd ?? null,
    ...(row.cacheSavingsNanoUsd === undefined ? {} : { cacheSavingsNanoUsd: row.cacheSavingsNanoUsd }),
    rawUsage: row.rawUsage ?? null,
    inconsistent: row.inconsistent ?? false,
  })
  // Outside the hash: it explains a fact and is none, and rows written before there was a route keep the hash they have.
  return { ...hashed, route: row.route ?? null }
}

/** The prices themselves, in one order, however the row came here; the version's id has a column of its own. */
const unitPrices = ({ perMillion, contextTiers, basisPoints }: PriceQuote) => ({
  perMillion,
  contextTiers: contextTiers?.map((tier) => ({
    aboveInputTokens: tier.aboveInputTokens,
    perMillion: tier.perMillion,
  })),
  basisPoints,
})

function requestInsert(row: RequestRow): RequestInsert {
  return withHash({ ...sharedColumns(row), attempts: row.attempts })
}

/** One that is known already says the same thing again: only its value and time can differ. */
function eventInsert(event: LimitEvent): typeof limitEvents.$inferInsert {
  const { orgId, limitId, subject, windowKey, kind, max, value, occurredAtMs } = event
  return { orgId, limitId, subject, windowKey, kind, maxValue: max, value, occurredAt: iso(occurredAtMs) }
}

/** The hash covers every column in the order of their names, so that it does not depend on how the row was built. */
function withHash<T extends object>(row: T): T & { payloadHash: string } {
  const columns = Object.entries(row).sort(([a], [b]) => (a < b ? -1 : 1))
  return { ...row, payloadHash: sha256Hex(encodeText(columns)) }
}

type EntryRow = {
  orgId: string
  transferId: string
  accountId: string
  amountNanoUsd: bigint
  purpose: string
  requestId: string
  attempt: number
  kind: string
  occurredAt: string
  payloadHash: string
}

function ledgerRows(entries: OutboxEntry[], attempts: AttemptInsert[]) {
  const hashes = new Map(attempts.map((row) => [attemptIdentity(row), row.payloadHash]))
  const accounts = new Map<string, { orgId: string; accountId: string; name: LedgerAccount }>()
  const rows: EntryRow[] = []
  for (const transfer of entries.flatMap((entry) => entry.transfers)) {
    assertBalanced(transfer)
    const { orgId, requestId, attempt, kind, purpose } = transfer
    const payloadHash = hashes.get(attemptIdentity(transfer))
    if (payloadHash === undefined) throw new Error(`a transfer of request ${requestId} comes without its attempt`)
    const transferId = derivedUuid(['transfer', orgId, requestId, String(attempt), kind, purpose])
    for (const { account, amountNanoUsd } of transfer.entries) {
      const accountId = accounts.get(`${orgId}/${account}`)?.accountId ?? derivedUuid(['account', orgId, account])
      accounts.set(`${orgId}/${account}`, { orgId, accountId, name: account })
      const occurredAt = iso(transfer.occurredAtMs)
      const identity = { orgId, transferId, accountId, requestId, attempt }
      rows.push({ ...identity, amountNanoUsd, purpose, kind, occurredAt, payloadHash })
    }
  }
  return { accounts: [...accounts.values()], entries: rows }
}

function entriesStatement(rows: EntryRow[]): Statement {
  const params: Statement['params'] = []
  const tuples = rows.map((row) => {
    const at = params.length
    params.push(row.orgId, row.transferId, row.accountId, row.amountNanoUsd.toString(), row.purpose)
    params.push(row.requestId, row.attempt, row.kind, row.occurredAt, row.payloadHash)
    const types = ['uuid', 'uuid', 'uuid', 'bigint', 'text', 'uuid', 'int', 'text', 'timestamptz', 'text']
    return `(${types.map((type, index) => `$${at + index + 1}::${type}`).join(', ')})`
  })
  const columns = 'org_id, transfer_id, account_id, amount_nanousd, purpose, request_id, attempt, kind, occurred_at'
  const text = `INSERT INTO ledger_entries (${columns}) SELECT ${columns}
    FROM (VALUES ${tuples.join(', ')}) AS v (${columns}, payload_hash)
    WHERE EXISTS (SELECT 1 FROM usage_attempts u WHERE u.org_id = v.org_id AND u.request_id = v.request_id
      AND u.attempt = v.attempt AND u.kind = v.kind AND u.payload_hash = v.payload_hash)
    ON CONFLICT DO NOTHING`
  return { text, params }
}

/** Compares hashes of all rows with what stands in Postgres; runs only after a row was not new. */
async function conflictsIn<T extends AttemptInsert | RequestInsert>(
  database: Database,
  table: Conflict['table'],
  keyColumns: string[],
  rows: T[],
  identity: (row: T) => string,
): Promise<Conflict[]> {
  const [first] = rows
  if (first === undefined) return []
  const ids = [...new Set(rows.map((row) => row.requestId))]
  const places = ids.map((_, index) => `$${index + 2}::uuid`).join(', ')
  const { rows: found } = await database.run({
    text: `SELECT ${keyColumns.join(', ')}, payload_hash FROM ${table} WHERE org_id = $1 AND request_id IN (${places})`,
    params: [first.orgId, ...ids],
  })
  const hashes = new Map(found.map((row) => [row.slice(0, -1).join('/'), String(row.at(-1))]))
  return rows
    .filter((row) => hashes.get(identity(row)) !== row.payloadHash)
    .map((row) => ({ table, identity: identity(row) }))
}

/** A version 8 UUID (RFC 9562) made of a hash: the same names always give the same id. */
export function derivedUuid(names: string[]): string {
  const hash = sha256Hex(names.join('/'))
  const variant = ((Number.parseInt(hash.charAt(16), 16) & 0x3) | 0x8).toString(16)
  return `${hash.slice(0, 8)}-${hash.slice(8, 12)}-8${hash.slice(13, 16)}-${variant}${hash.slice(17, 20)}-${hash.slice(20, 32)}`
}
