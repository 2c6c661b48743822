// Days of the ledger: what a day's entries did to each account, and the lines that its attempts give on a statement. Owns when they are
// made, the marks that say whether they are, and the SQL of balances that reads them; what a statement reads is statement.ts.
//
// The rule of rollups.ts: whoever writes entries or attempts says in its transaction that their days are not made; whoever makes a day
// holds its mark first, makes it from the entries and rows themselves, and says last that it is made. A day that is not made is read
// from entries and rows. So every balance is exact at every moment, and nothing is ever added to a stored sum. The ledger's check
// holds the sums against the entries.
import type { Database, Statement } from '../db/port.ts'
import { QueryFailed } from '../db/port.ts'
import { PART_NAMES, USAGE_PARTS } from '../meter/usage.ts'
import { errorText, log } from '../observe/log.ts'
import type { OutboxEntry } from './outbox.ts'

/** Days that one call makes at most: each reads a day of rows. */
const DAYS_PER_ROLL = 4
const DAY_MS = 86_400_000

const iso = (atMs: number): string => new Date(atMs).toISOString()
const dayOf = (atMs: number): string => iso(atMs).slice(0, 10)

/** Holds a day and says that its sums are not made any more, for the transaction that writes entries or attempts of it. */
export const openDay = (orgId: string, atMs: number): Statement => ({
  text: `INSERT INTO ledger_days (org_id, day, made) VALUES ($1, $2, false) ON CONFLICT (org_id, day) DO UPDATE SET made = false`,
  params: [orgId, dayOf(atMs)],
})

/** The same for all days of these, mostly one. Sorted, so that two writers wait for each other in one direction. */
export function openDays(entries: readonly OutboxEntry[]): Statement[] {
  const days = new Map<string, [orgId: string, atMs: number]>()
  for (const { attempts, transfers } of entries) {
    for (const { orgId, endedAtMs } of attempts) days.set(`${orgId} ${dayOf(endedAtMs)}`, [orgId, endedAtMs])
    for (const { orgId, occurredAtMs } of transfers) days.set(`${orgId} ${dayOf(occurredAtMs)}`, [orgId, occurredAtMs])
  }
  return [...days].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, [orgId, atMs]]) => openDay(orgId, atMs))
}

/** What tells lines of a statement apart. */
export const LINE_COLUMNS = [
  'kind',
  'project_id',
  'key_id',
  'model_requested',
  'provider',
  'model_served',
  'price_version_id',
  'unit_prices',
  'pricing',
] as const
/** What is added up in them: columns of `statement_days`. */
export const LINE_SUMS = [
  'attempts',
  'guessed_attempts',
  'cost_nanousd',
  ...USAGE_PARTS.map((part) => PART_NAMES[part]),
]

const OF_ROWS: Record<string, string> = {
  kind: `CASE WHEN kind = 'attempt' THEN 'usage' ELSE 'correction' END`,
  attempts: `CASE WHEN kind = 'attempt' THEN 1 ELSE 0 END`,
  guessed_attempts: `CASE WHEN kind = 'attempt' AND usage_source <> 'provider' THEN 1 ELSE 0 END`,
}

/** SQL: lines of attempts that ended within two instants (expressions). */
export function linesOfRows(orgId: string, from: string, to: string): string {
  const columns = LINE_COLUMNS.map((column) => `${OF_ROWS[column] ?? column} AS ${column}`)
  const sums = LINE_SUMS.map((column) => `sum(${OF_ROWS[column] ?? column})::bigint AS ${column}`)
  const groups = LINE_COLUMNS.map((_, index) => index + 1).join(', ')
  return `SELECT ${[...columns, ...sums].join(', ')} FROM usage_attempts
    WHERE org_id = ${orgId} AND ended_at >= ${from} AND ended_at < ${to} AND charge = 'customer' GROUP BY ${groups}`
}

/** Lengths stand before texts, so that no two lines can be written the same. */
const told = (column: string) => `coalesce(length(${column}::text)::text || ':' || ${column}::text, '-')`
const LINE_ID = `md5(${LINE_COLUMNS.map(told).join(` || '/' || `)})::uuid`

/** $1 organisation, $2 the day, $3 and $4 its two ends. In one transaction that holds the day. */
const MAKE_DAY = [
  `DELETE FROM ledger_day_sums WHERE org_id = $1::uuid AND day = $2::date`,
  `DELETE FROM statement_days WHERE org_id = $1::uuid AND day = $2::date`,
]
const MAKE_DAY_FROM_ROWS = [
  `INSERT INTO ledger_day_sums (org_id, account_id, day, purpose, amount_nanousd)
    SELECT $1::uuid, account_id, $2::date, purpose, sum(amount_nanousd)::bigint FROM ledger_entries
    WHERE org_id = $1::uuid AND occurred_at >= $3::timestamptz AND occurred_at < $4::timestamptz GROUP BY account_id, purpose`,
  `INSERT INTO statement_days (org_id, day, line_id, ${[...LINE_COLUMNS, ...LINE_SUMS].join(', ')})
    SELECT $1::uuid, $2::date, ${LINE_ID}, ${[...LINE_COLUMNS, ...LINE_SUMS].join(', ')}
    FROM (${linesOfRows('$1::uuid', '$3::timestamptz', '$4::timestamptz')}) AS lines`,
]

/**
 * Makes days that are over, the newest first.
 * @returns whether more wait
 * @throws DatabaseUnavailable
 */
export async function makeLedgerDays(database: Database, orgId: string, nowMs: number): Promise<boolean> {
  const { rows } = await database.run({
    text: `SELECT day::text FROM ledger_days WHERE org_id = $1::uuid AND NOT made AND day < $2::date
      ORDER BY day DESC LIMIT ${DAYS_PER_ROLL + 1}`,
    params: [orgId, dayOf(nowMs)],
  })
  for (const [found] of rows.slice(0, DAYS_PER_ROLL)) {
    const day = String(found)
    const fromMs = Date.parse(day)
    const params = [orgId, day]
    const ends = [...params, iso(fromMs), iso(fromMs + DAY_MS)]
    try {
      await database.batch([
        openDay(orgId, fromMs),
        ...MAKE_DAY.map((text) => ({ text, params })),
        ...MAKE_DAY_FROM_ROWS.map((text) => ({ text, params: ends })),
        { text: `UPDATE ledger_days SET made = true WHERE org_id = $1::uuid AND day = $2::date`, params },
      ])
    } catch (error) {
      // What cannot be made is read from its entries, and holds up no other.
      log('error', 'ledger_day_failed', { orgId, day, error: errorText(error) })
      if (!(error instanceof QueryFailed)) throw error
    }
  }
  return rows.length > DAYS_PER_ROLL
}

/**
 * SQL: what the entries of an account sum to before a day, or of all days: sums of days that are made, and entries of the others.
 * @param account expression of its id
 * @param before expression of a date; absent: all
 */
export function balanceBefore(orgId: string, account: string, before?: string): string {
  const until = before === undefined ? '' : ` AND d.day < ${before}`
  return `(coalesce((SELECT sum(s.amount_nanousd) FROM ledger_days d JOIN ledger_day_sums s
      ON s.org_id = d.org_id AND s.account_id = ${account} AND s.day = d.day WHERE d.org_id = ${orgId} AND d.made${until}), 0)
    + coalesce((SELECT sum(e.amount_nanousd) FROM ledger_days d CROSS JOIN LATERAL (SELECT amount_nanousd FROM ledger_entries x
      WHERE x.org_id = ${orgId} AND x.occurred_at >= d.day::timestamp AT TIME ZONE 'UTC'
        AND x.occurred_at < (d.day + 1)::timestamp AT TIME ZONE 'UTC' AND x.account_id = ${account} OFFSET 0) AS e
      WHERE d.org_id = ${orgId} AND NOT d.made${until}), 0))`
}
