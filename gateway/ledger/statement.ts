// What an organisation used in a month, line by line, beside what the ledger took for it. Owns the statement's SQL and its lines;
// the HTTP form is admin/statements.ts.
//
// Months are cut where the ledger cuts them: by the instant at which an attempt ended, which is its transfer's time. Lines come from
// the rows of attempts and sums from the ledger's entries, in one statement, so that the two can be held against each other to the
// nano-dollar whatever is written meanwhile; both by way of the days that are made of them (ledger-days.ts), and directly where none
// is. Lines of estimates that were put right later stand apart, as corrections.
import * as z from 'zod'
import { windowOf } from '../account/windows.ts'
import { parseStored } from '../db/json.ts'
import type { Database } from '../db/port.ts'
import { LIST_BASIS_POINTS } from '../meter/price.ts'
import { mapParts, USAGE_PARTS, type UsagePart } from '../meter/usage.ts'
import { balanceBefore, LINE_COLUMNS, LINE_SUMS, linesOfRows } from './ledger-days.ts'

export type Month = { fromMs: number; toMs: number }

export type StatementLine = {
  kind: 'usage' | 'correction'
  projectId: string
  keyId: string
  model: string
  provider: string
  modelServed: string
  priceVersionId: string | undefined
  basisPoints: number | undefined
  attempts: number
  guessedAttempts: number
  units: Record<UsagePart, bigint>
  amountNanoUsd: bigint
  parts: StatementPart[]
  /** What is left of the amount when its parts are added up: each attempt is rounded once. Absent where parts have no amounts. */
  roundingNanoUsd: bigint | undefined
}
/** Of a part that was used. Without a price and an amount where it is not one product of two numbers. */
export type StatementPart = {
  part: UsagePart
  units: bigint
  /** Nano-dollars per million units, the mark-up included, as decimal text. */
  unitPrice: string | undefined
  amountNanoUsd: bigint | undefined
}

export type LedgerMonth = { openingNanoUsd: bigint; usageNanoUsd: bigint; creditNanoUsd: bigint }

/** A statement of more is for the export of rows. */
const LINES_MAX = 20_000
const DAY_MS = 86_400_000

/** `2026-11` on a zone's clock. @throws RangeError for an unknown zone */
export function monthSpan(month: string, timeZone: string): Month | undefined {
  const middleMs = Date.parse(`${month}-15T12:00:00Z`)
  const { startMs, endMs } = windowOf('month', timeZone, middleMs)
  return startMs === undefined || endMs === undefined ? undefined : { fromMs: startMs, toMs: endMs }
}

/** Months from the first entry of the ledger to now, newest first; none without an entry. */
export async function monthsOf(database: Database, orgId: string, timeZone: string, nowMs: number): Promise<Month[]> {
  const { rows } = await database.run({
    text: 'SELECT occurred_at FROM ledger_entries WHERE org_id = $1 ORDER BY occurred_at LIMIT 1',
    params: [orgId],
  })
  const first = rows[0]?.[0]
  if (first === undefined) return []
  const months: Month[] = []
  for (let atMs = Date.parse(String(first)); atMs <= nowMs; ) {
    const { startMs = 0, endMs = nowMs + 1 } = windowOf('month', timeZone, atMs)
    months.unshift({ fromMs: startMs, toMs: endMs })
    atMs = endMs
  }
  return months
}

const CREDIT = `(SELECT account_id FROM ledger_accounts WHERE org_id = $1::uuid AND name = 'customer_credit')`
const DAYS = `d.org_id = $1::uuid AND d.day >= $4::date AND d.day < $5::date`
const BEGIN = `$4::date::timestamp AT TIME ZONE 'UTC'`
const END = `$5::date::timestamp AT TIME ZONE 'UTC'`

/**
 * $1 organisation, $2 and $3 the month, $4 the first day (UTC) that is whole in it and $5 the one after the last. `spans` is what days
 * that are made leave of the month: its two ends, and days that are not.
 */
const STATEMENT = `
  WITH spans AS MATERIALIZED (
      SELECT d.day::timestamp AT TIME ZONE 'UTC' AS begun, (d.day + 1)::timestamp AT TIME ZONE 'UTC' AS ended
        FROM ledger_days d WHERE ${DAYS} AND NOT d.made
      UNION ALL SELECT $2::timestamptz, ${BEGIN} WHERE $2::timestamptz < ${BEGIN}
      UNION ALL SELECT ${END}, $3::timestamptz WHERE ${END} < $3::timestamptz),
    lines AS (
      SELECT ${[...LINE_COLUMNS, ...LINE_SUMS].map((column) => `s.${column}`).join(', ')}
        FROM ledger_days d JOIN statement_days s ON s.org_id = d.org_id AND s.day = d.day WHERE ${DAYS} AND d.made
      UNION ALL SELECT l.* FROM spans CROSS JOIN LATERAL (${linesOfRows('$1::uuid', 'spans.begun', 'spans.ended')} OFFSET 0) AS l),
    moves AS MATERIALIZED (
      SELECT s.purpose, s.amount_nanousd FROM ledger_days d JOIN ledger_day_sums s
        ON s.org_id = d.org_id AND s.account_id = ${CREDIT} AND s.day = d.day WHERE ${DAYS} AND d.made
      UNION ALL SELECT e.purpose, e.amount_nanousd FROM spans CROSS JOIN LATERAL (SELECT purpose, amount_nanousd FROM ledger_entries x
        WHERE x.org_id = $1::uuid AND x.occurred_at >= spans.begun AND x.occurred_at < spans.ended AND x.account_id = ${CREDIT}
        OFFSET 0) AS e)
  SELECT * FROM (SELECT ${LINE_COLUMNS.map((column) => `${column}::text`).join(', ')},
      ${LINE_SUMS.map((column) => `sum(${column})::text`).join(', ')}
    FROM lines GROUP BY ${LINE_COLUMNS.join(', ')} LIMIT ${LINES_MAX + 1}) AS shown
  UNION ALL
  SELECT 'ledger', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    (${balanceBefore('$1::uuid', CREDIT, `($2::timestamptz AT TIME ZONE 'UTC')::date`)}
      + coalesce((SELECT sum(e.amount_nanousd) FROM ledger_entries e WHERE e.org_id = $1::uuid AND e.account_id = ${CREDIT}
        AND e.occurred_at >= ($2::timestamptz AT TIME ZONE 'UTC')::date::timestamp AT TIME ZONE 'UTC'
        AND e.occurred_at < $2::timestamptz), 0))::text,
    coalesce(-sum(CASE WHEN purpose = 'usage' THEN amount_nanousd ELSE 0 END), 0)::text,
    coalesce(sum(CASE WHEN purpose = 'grant' THEN amount_nanousd ELSE 0 END), 0)::text,
    ${USAGE_PARTS.map(() => 'NULL').join(', ')}
    FROM moves`

export type Statement = { lines: StatementLine[]; ledger: LedgerMonth; truncated: boolean }

/** Lines by project, key and model. @throws DatabaseUnavailable, QueryFailed */
export async function readStatement(database: Database, orgId: string, { fromMs, toMs }: Month): Promise<Statement> {
  const iso = (atMs: number) => new Date(atMs).toISOString()
  const day = (atMs: number) => iso(atMs).slice(0, 10)
  const firstMs = Math.ceil(fromMs / DAY_MS) * DAY_MS
  const afterMs = Math.max(firstMs, Math.floor(toMs / DAY_MS) * DAY_MS)
  const { rows } = await database.run({
    text: STATEMENT,
    params: [orgId, iso(fromMs), iso(toMs), day(firstMs), day(afterMs)],
  })
  const ledger: LedgerMonth = { openingNanoUsd: 0n, usageNanoUsd: 0n, creditNanoUsd: 0n }
  const lines: StatementLine[] = []
  for (const row of rows) {
    if (row[0] !== 'ledger') {
      lines.push(lineOf(row))
      continue
    }
    ledger.openingNanoUsd = BigInt(String(row[9]))
    ledger.usageNanoUsd = BigInt(String(row[10]))
    ledger.creditNanoUsd = BigInt(String(row[11]))
  }
  const order = (line: StatementLine) =>
    [line.kind === 'usage' ? 0 : 1, line.projectId, line.keyId, line.model, line.provider, line.modelServed].join('\n')
  lines.sort((a, b) => (order(a) < order(b) ? -1 : order(a) > order(b) ? 1 : 0))
  return { lines: lines.slice(0, LINES_MAX), ledger, truncated: lines.length > LINES_MAX }
}

/** As ledger/flush.ts stores them; rows from before context tiers hold the table alone. */
const Table = z.partialRecord(z.enum(USAGE_PARTS), z.string())
const Prices = z.union([
  z.object({
    perMillion: Table,
    contextTiers: z.array(z.unknown()).optional(),
    basisPoints: z.number().optional(),
  }),
  Table.transform((perMillion) => ({ perMillion, contextTiers: undefined, basisPoints: undefined })),
])

function lineOf(row: unknown[]): StatementLine {
  const text = (index: number) => String(row[index])
  const units = mapParts((part) => BigInt(text(12 + USAGE_PARTS.indexOf(part))))
  const amountNanoUsd = BigInt(text(11))
  const prices = row[7] === null ? undefined : parseStored(text(7), Prices, 'usage_attempts.unit_prices')
  // By length of prompt, or in the place of one that is missing: no single price made the amount.
  const isOneProduct = row[8] === 'priced' && (prices?.contextTiers ?? []).length === 0
  const basisPoints = prices?.basisPoints
  const parts = USAGE_PARTS.filter((part) => units[part] !== 0n).map((part): StatementPart => {
    const listed = prices?.perMillion[part]
    const price =
      listed === undefined || !isOneProduct ? undefined : BigInt(listed) * BigInt(basisPoints ?? LIST_BASIS_POINTS)
    const used = units[part]
    if (price === undefined) return { part, units: used, unitPrice: undefined, amountNanoUsd: undefined }
    return { part, units: used, unitPrice: scaled(price, 4), amountNanoUsd: rounded(used * price, MILLIONFOLD) }
  })
  const hasAmounts = parts.every((part) => part.amountNanoUsd !== undefined)
  const shown = parts.reduce((sum, part) => sum + (part.amountNanoUsd ?? 0n), 0n)
  return {
    kind: row[0] === 'correction' ? 'correction' : 'usage',
    projectId: text(1),
    keyId: text(2),
    model: text(3),
    provider: text(4),
    modelServed: text(5),
    priceVersionId: row[6] === null ? undefined : text(6),
    basisPoints,
    attempts: Number(row[9]),
    guessedAttempts: Number(row[10]),
    units,
    amountNanoUsd,
    parts,
    roundingNanoUsd: hasAmounts ? amountNanoUsd - shown : undefined,
  }
}

const MILLIONFOLD = 1_000_000n * BigInt(LIST_BASIS_POINTS)

/** Half away from zero, so that a correction is the mirror of what it takes back. */
function rounded(amount: bigint, divisor: bigint): bigint {
  const half = divisor / 2n
  return (amount < 0n ? amount - half : amount + half) / divisor
}

/** A whole number with the last `digits` behind the point, as decimal text without zeros at its end. */
function scaled(amount: bigint, digits: number): string {
  const text = amount.toString().padStart(digits + 1, '0')
  return `${text.slice(0, -digits)}.${text.slice(-digits)}`.replace(/\.?0+$/, '')
}
