// What an organisation used in a month, line by line, beside what the ledger took for it. Owns the statement's SQL and its lines;
// the HTTP form is admin/statements.ts.
//
// Months are cut where the ledger cuts them: by the instant at which an attempt ended, which is its transfer's time. Lines come from
// the rows of attempts and sums from the ledger's entries, in one statement, so that the two can be held against each other to the
// nano-dollar whatever is written meanwhile. Lines of estimates that were put right later stand apart, as corrections.
import { z } from 'zod'
import { windowOf } from '../account/windows.ts'
import { parseStored } from '../db/json.ts'
import type { Database } from '../db/port.ts'
import { LIST_BASIS_POINTS } from '../meter/price.ts'
import { mapParts, PART_NAMES, USAGE_PARTS, type UsagePart } from '../meter/usage.ts'

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
/** An attempt ends at most so long after it began, and its correction after that. */
const REACH_DAYS = 3
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

const PARTS = USAGE_PARTS.map((part) => PART_NAMES[part])

/** $1 organisation, $2 and $3 the month, $4 and $5 the days its rows began on. */
const STATEMENT = `
  SELECT * FROM (SELECT CASE WHEN kind = 'attempt' THEN 'usage' ELSE 'correction' END AS kind, project_id::text, key_id::text,
      model_requested, provider, model_served, price_version_id, unit_prices, pricing,
      sum(CASE WHEN kind = 'attempt' THEN 1 ELSE 0 END)::text,
      sum(CASE WHEN kind = 'attempt' AND usage_source <> 'provider' THEN 1 ELSE 0 END)::text,
      sum(cost_nanousd)::text, ${PARTS.map((column) => `sum(${column})::text`).join(', ')}
    FROM usage_attempts
    WHERE org_id = $1::uuid AND usage_day >= $4::date AND usage_day <= $5::date
      AND ended_at >= $2::timestamptz AND ended_at < $3::timestamptz AND charge = 'customer'
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 LIMIT ${LINES_MAX + 1}) AS lines
  UNION ALL
  SELECT 'ledger', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    coalesce(sum(CASE WHEN e.occurred_at < $2::timestamptz THEN e.amount_nanousd ELSE 0 END), 0)::text,
    coalesce(-sum(CASE WHEN e.occurred_at >= $2::timestamptz AND e.purpose = 'usage' THEN e.amount_nanousd ELSE 0 END), 0)::text,
    coalesce(sum(CASE WHEN e.occurred_at >= $2::timestamptz AND e.purpose = 'grant' THEN e.amount_nanousd ELSE 0 END), 0)::text,
    ${PARTS.map(() => 'NULL').join(', ')}
    FROM ledger_accounts a JOIN ledger_entries e ON e.org_id = a.org_id AND e.account_id = a.account_id
    WHERE a.org_id = $1::uuid AND a.name = 'customer_credit' AND e.occurred_at < $3::timestamptz`

export type Statement = { lines: StatementLine[]; ledger: LedgerMonth; truncated: boolean }

/** Lines by project, key and model. @throws DatabaseUnavailable, QueryFailed */
export async function readStatement(database: Database, orgId: string, { fromMs, toMs }: Month): Promise<Statement> {
  const iso = (atMs: number) => new Date(atMs).toISOString()
  const day = (atMs: number) => iso(atMs).slice(0, 10)
  const { rows } = await database.run({
    text: STATEMENT,
    params: [orgId, iso(fromMs), iso(toMs), day(fromMs - REACH_DAYS * DAY_MS), day(toMs)],
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
