// Outbox → Postgres. Owns the statements, the derived identities and the check that a fact found under its identity is
// the same fact. Delivery is at least once (the outbox keeps an entry until Postgres has confirmed it); the unique keys
// make the effect exactly once, also where a commit happened and its answer was lost.
import { getTableColumns, getTableName } from 'drizzle-orm'
import type { PgTable } from 'drizzle-orm/pg-core'
import { utcDay } from '../account/windows.ts'
import type { Database, Statement } from '../db/port.ts'
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
  const events = entries.flatMap((entry) => entry.events ?? []).map(eventInsert)
  const facts: { text: string; rows: object[] }[] = [
    { text: ATTEMPTS, rows: attempts },
    { text: REQUESTS, rows: requests },
    { text: ACCOUNTS, rows: ledger.accounts },
    { text: LEDGER_ENTRIES, rows: ledger.entries },
    { text: EVENTS, rows: events },
  ].filter(({ rows }) => rows.length > 0)
  const statements: Statement[] = [
    ...facts.map(({ text, rows }) => ({ text, params: [rowsText(rows)] })),
    ...dirtyBuckets(entries),
    ...openDays(entries),
  ]
  if (statements.length === 0) return []
  const results = await database.batch(statements)
  const written = (text: string) => results[facts.findIndex((one) => one.text === text)]?.count ?? 0
  const conflicts: Conflict[] = []
  if (written(ATTEMPTS) < attempts.length)
    conflicts.push(
      ...(await conflictsIn(database, 'usage_attempts', ['request_id', 'attempt', 'kind'], attempts, attemptIdentity)),
    )
  if (written(REQUESTS) < requests.length)
    conflicts.push(
      ...(await conflictsIn(database, 'usage_requests', ['request_id'], requests, ({ requestId }) => requestId)),
    )
  return conflicts
}

const requestsOf = (entry: OutboxEntry): RequestRow[] => (entry.request === undefined ? [] : [entry.request])

type Column = { field: string; column: string; type: string }

/**
 * Rows as one parameter, an array of JSON objects: a value of its own for each column of each row takes many times as long to send,
 * and the text of the statement is the same for any number of rows, so it is prepared once. Written out here, because the query
 * builder takes milliseconds for a batch of this width.
 */
function insertInto(table: string, columns: Column[], others: Column[] = [], where = ''): string {
  const fields = columns.map(({ field }) => `v."${field}"`).join(', ')
  const types = [...columns, ...others].map(({ field, type }) => `"${field}" ${type}`).join(', ')
  return `INSERT INTO ${table} (${columns.map(({ column }) => column).join(', ')}) SELECT ${fields}
    FROM json_to_recordset($1::text::json) AS v(${types}) ${where}ON CONFLICT DO NOTHING`
}

const columnsOf = (table: PgTable): Column[] =>
  Object.entries(getTableColumns(table)).map(([field, column]) => ({
    field,
    column: column.name,
    type: column.getSQLType(),
  }))

const insertAll = (table: PgTable): string => insertInto(getTableName(table), columnsOf(table))

const ATTEMPTS = insertAll(usageAttempts)
const REQUESTS = insertAll(usageRequests)
const ACCOUNTS = insertAll(ledgerAccounts)
const EVENTS = insertAll(limitEvents)
/** Only beside an attempt that stands there with exactly the contents that they were made of. */
const LEDGER_ENTRIES = insertInto(
  'ledger_entries',
  [
    { field: 'orgId', column: 'org_id', type: 'uuid' },
    { field: 'transferId', column: 'transfer_id', type: 'uuid' },
    { field: 'accountId', column: 'account_id', type: 'uuid' },
    { field: 'amountNanoUsd', column: 'amount_nanousd', type: 'bigint' },
    { field: 'purpose', column: 'purpose', type: 'text' },
    { field: 'requestId', column: 'request_id', type: 'uuid' },
    { field: 'attempt', column: 'attempt', type: 'integer' },
    { field: 'kind', column: 'kind', type: 'text' },
    { field: 'occurredAt', column: 'occurred_at', type: 'timestamptz' },
  ],
  [{ field: 'payloadHash', column: 'payload_hash', type: 'text' }],
  `WHERE EXISTS (SELECT 1 FROM usage_attempts u WHERE u.org_id = v."orgId" AND u.request_id = v."requestId"
      AND u.attempt = v.attempt AND u.kind = v.kind AND u.payload_hash = v."payloadHash")
    `,
)

/** JSON for Postgres, which reads no half of a surrogate pair and no number that it cannot hold exactly. */
const rowsText = (rows: readonly object[]): string => JSON.stringify(rows.map(jsonRow))

function jsonRow(row: object): Record<string, string | number | boolean> {
  const values: Record<string, string | number | boolean> = {}
  for (const [field, value] of Object.entries(row) as [string, unknown][]) {
    if (value === undefined || value === null) continue
    if (typeof value === 'bigint') values[field] = value.toString()
    else if (typeof value === 'string') values[field] = value.toWellFormed()
    else if (typeof value === 'number' || typeof value === 'boolean') values[field] = value
    else throw new TypeError(`a ${typeof value} has no column type`)
  }
  return values
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
  const values = row as Record<string, unknown>
  const columns = namesInOrder(row).map((name) => {
    const value = values[name]
    return [name, typeof value === 'bigint' ? value.toString() : value]
  })
  return { ...row, payloadHash: sha256Hex(JSON.stringify(columns)) }
}

/** Sorting some forty names takes longer than the rest of a row, and rows have few sets of them. */
const ordersKnown = new Map<string, readonly string[]>()

function namesInOrder(row: object): readonly string[] {
  const names = Object.keys(row)
  const shape = names.join()
  const known = ordersKnown.get(shape) ?? names.toSorted()
  ordersKnown.set(shape, known)
  return known
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
