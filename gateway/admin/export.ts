// Usage and ledger as files. Owns the columns and the order of the rows; the form is csv.ts and export-stream.ts. Instants
// are UTC, money is decimal text, tokens are whole numbers; adding up a column of a whole file gives what the API sums.
//
//   GET /usage/export?org=&from=&to=&format=csv|json     and the filters of /usage; a line is a row of an attempt:
//        corrections (`adjustment`, `reversal`) are lines of their own. The customer pays the lines with charge `customer`.
//   GET /ledger/export?org=&from=&to=&account=&format=   a line is one entry, by the time of its transfer
//
// `json` is one JSON object per line. The last line is `end` with the number of rows: a file without it was cut.
import { and, asc, eq, getTableColumns, gte, lt, lte, sql } from 'drizzle-orm'
import * as z from 'zod'
import { formatUsd } from '../../protocol/units.ts'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import { ledgerEntries } from '../db/schema/ledger.ts'
import { usageAttempts } from '../db/schema/usage.ts'
import { LEDGER_ACCOUNTS } from '../ledger/postings.ts'
import { PART_NAMES, USAGE_PARTS } from '../meter/usage.ts'
import type { AdminContext } from './context.ts'
import type { Cell, Decimal } from './csv.ts'
import { download, EXPORT_PAGE_ROWS } from './export-stream.ts'
import { readQuery } from './input.ts'
import { accountNames, nameOf, ofAccount } from './ledger-accounts.ts'
import { unitPricesJson } from './usage-json.ts'
import { filterParameters, Moment, matching, type Range, rangeOf } from './usage-range.ts'

const Format = z.enum(['csv', 'json']).default('csv')
const UsageQuery = z.strictObject({ ...filterParameters, format: Format })
const LedgerQuery = z.strictObject({
  org: z.uuid().toLowerCase(),
  from: Moment.optional(),
  to: Moment.optional(),
  account: z.enum(LEDGER_ACCOUNTS).optional(),
  format: Format,
})

type UsageRow = Omit<typeof usageAttempts.$inferSelect, 'rawUsage' | 'payloadHash' | 'route'>
type EntryRow = typeof ledgerEntries.$inferSelect
type Column<Row> = readonly [name: string, cell: (row: Row) => Cell]

const decimal = (amount: bigint): Decimal => ({ decimal: amount.toString() })
const usd = (amountNanoUsd: bigint): Decimal => ({ decimal: formatUsd(amountNanoUsd) })
const day = (atMs: number): string => new Date(atMs).toISOString().slice(0, 10)
const iso = (atMs: number): string => new Date(atMs).toISOString()

const USAGE_COLUMNS: readonly Column<UsageRow>[] = [
  ['request_id', (row) => row.requestId],
  ['attempt', (row) => row.attempt],
  ['kind', (row) => row.kind],
  ['org_id', (row) => row.orgId],
  ['project_id', (row) => row.projectId],
  ['key_id', (row) => row.keyId],
  ['user_id', (row) => row.userId],
  ['team_id', (row) => row.teamId],
  ['end_user', (row) => row.endUser],
  ['provider', (row) => row.provider],
  ['model', (row) => row.modelRequested],
  ['model_served', (row) => row.modelServed],
  ['stream', (row) => row.stream],
  ['status', (row) => row.status],
  ['http_status', (row) => row.httpStatus],
  ['charge', (row) => row.charge],
  ['usage_source', (row) => row.usageSource],
  ['inconsistent', (row) => row.inconsistent],
  ...USAGE_PARTS.map((part): Column<UsageRow> => [PART_NAMES[part], (row) => Number(row[part])]),
  ['cost_nanousd', (row) => decimal(row.costNanoUsd)],
  ['cost_usd', (row) => usd(row.costNanoUsd)],
  ['provider_cost_nanousd', (row) => (row.providerCostNanoUsd === null ? null : decimal(row.providerCostNanoUsd))],
  ['provider_cost_usd', (row) => (row.providerCostNanoUsd === null ? null : usd(row.providerCostNanoUsd))],
  ['pricing', (row) => row.pricing],
  ['price_version_id', (row) => row.priceVersionId],
  ['unit_prices', (row) => (row.unitPrices === null ? null : JSON.stringify(unitPricesJson(row.unitPrices)))],
  ['started_at', (row) => row.startedAt],
  ['first_token_at', (row) => row.firstTokenAt],
  ['ended_at', (row) => row.endedAt],
  ['recorded_at', (row) => row.recordedAt],
]

export async function usageExport(c: AdminContext): Promise<Response> {
  const asked = readQuery(c, UsageQuery)
  const range = rangeOf(asked, 'UTC', Date.now())
  const database = connect(c.env)
  const t = usageAttempts
  const { rawUsage: _raw, payloadHash: _hash, route: _route, ...shown } = getTableColumns(t)
  const wanted = and(matching(t, asked), lte(t.usageDay, day(range.toMs)), lt(t.startedAt, iso(range.toMs)))
  // The day leads the index; rows of one instant are sorted by the rest.
  const behind = (after: UsageRow | undefined) =>
    after === undefined
      ? and(gte(t.usageDay, day(range.fromMs)), gte(t.startedAt, iso(range.fromMs)))
      : and(
          gte(t.usageDay, after.usageDay),
          gte(t.startedAt, after.startedAt),
          sql`(${t.startedAt}, ${t.requestId}, ${t.attempt}, ${t.kind})
            > (${after.startedAt}, ${after.requestId}, ${after.attempt}, ${after.kind})`,
        )
  return download(c, asked.format, {
    fileName: fileName('usage', asked.org, range),
    columns: USAGE_COLUMNS.map(([name]) => name),
    page: (after: UsageRow | undefined) =>
      query(database, (db) =>
        db
          .select(shown)
          .from(t)
          .where(and(wanted, behind(after)))
          .orderBy(asc(t.usageDay), asc(t.startedAt), asc(t.requestId), asc(t.attempt), asc(t.kind))
          .limit(EXPORT_PAGE_ROWS),
      ),
    cells: (row) => USAGE_COLUMNS.map(([, cell]) => cell(row)),
  })
}

export async function ledgerExport(c: AdminContext): Promise<Response> {
  const asked = readQuery(c, LedgerQuery)
  const range = rangeOf(asked, 'UTC', Date.now())
  const database = connect(c.env)
  const names = await accountNames(database, asked.org)
  const t = ledgerEntries
  const columns: readonly Column<EntryRow>[] = [
    ['transfer_id', (row) => row.transferId],
    ['org_id', (row) => row.orgId],
    ['account', (row) => nameOf(names, row.accountId)],
    ['amount_nanousd', (row) => decimal(row.amountNanoUsd)],
    ['amount_usd', (row) => usd(row.amountNanoUsd)],
    ['purpose', (row) => row.purpose],
    ['request_id', (row) => row.requestId],
    ['attempt', (row) => row.attempt],
    ['kind', (row) => row.kind],
    ['occurred_at', (row) => row.occurredAt],
  ]
  return download(c, asked.format, {
    fileName: fileName('ledger', asked.org, range),
    columns: columns.map(([name]) => name),
    page: (after: EntryRow | undefined) =>
      query(database, (db) =>
        db
          .select()
          .from(t)
          .where(
            and(
              eq(t.orgId, asked.org),
              lt(t.occurredAt, iso(range.toMs)),
              ofAccount(names, asked.account),
              after === undefined
                ? gte(t.occurredAt, iso(range.fromMs))
                : sql`(${t.occurredAt}, ${t.transferId}, ${t.accountId})
                    > (${after.occurredAt}, ${after.transferId}, ${after.accountId})`,
            ),
          )
          .orderBy(asc(t.occurredAt), asc(t.transferId), asc(t.accountId))
          .limit(EXPORT_PAGE_ROWS),
      ),
    cells: (row) => columns.map(([, cell]) => cell(row)),
  })
}

const fileName = (what: string, orgId: string, { fromMs, toMs }: Range): string =>
  `${what}-${orgId}-${day(fromMs)}-${day(toMs)}`
