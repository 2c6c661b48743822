// The check that an organisation's books are right. Owns what is compared with what; made of the entries and rows
// themselves: no stored balance is trusted. One statement, so that everything is seen at one moment while rows are being
// written.
import type { Database, SqlValue } from '../db/port.ts'
import type { LedgerAccount } from './postings.ts'

/** Of each kind of fault this many are named: enough to start looking. */
export const FAULTS_SHOWN_MAX = 20

export type FaultKind =
  /** The entries of a transfer do not sum to zero. */
  | 'unbalanced_transfer'
  /** An entry that belongs to no usage row, no grant, or no known account. */
  | 'orphan_entry'
  /** Money of a usage row or a grant that has no entry of that amount. */
  | 'missing_entry'
  /** The stored sums of a day are not those of its entries: balances and statements that read them are wrong. */
  | 'wrong_day'
/** @param id of the transfer; of a missing entry the request with attempt, kind and purpose, or the grant */
export type Fault = { kind: FaultKind; id: string; amountNanoUsd: bigint }

export type Checked = {
  /** Of accounts with entries. */
  balances: Map<string, bigint>
  /** What the balances must be by the rows; absent where only a part of the time was looked at. */
  expected: Map<LedgerAccount, bigint> | undefined
  faults: Fault[]
}

/**
 * Checks everything, or what happened in a range: entries by their transfer's time, rows by the start of their attempt.
 * @throws DatabaseUnavailable also where the whole is too much for one statement: check it piece by piece.
 */
export async function checkLedger(
  database: Database,
  orgId: string,
  range?: { fromMs: number; toMs: number },
): Promise<Checked> {
  const params: SqlValue[] = [orgId]
  if (range !== undefined) params.push(new Date(range.fromMs).toISOString(), new Date(range.toMs).toISOString())
  const within = (column: string) =>
    range === undefined ? '' : ` AND ${column} >= $2::timestamptz AND ${column} < $3::timestamptz`
  const { rows } = await database.run({ text: statement(within, range === undefined), params })
  const balances = new Map<string, bigint>()
  const expected = new Map<LedgerAccount, bigint>()
  const faults: Fault[] = []
  for (const row of rows) {
    const [what, name, value] = [String(row[0]), String(row[1]), BigInt(String(row[2]))]
    if (what === 'balance') balances.set(name, value)
    else if (isExpected(what, name)) expected.set(name, value)
    else if (isFault(what)) faults.push({ kind: what, id: name, amountNanoUsd: value })
  }
  return { balances, expected: range === undefined ? expected : undefined, faults }
}

const EXPECTED = [
  'customer_credit',
  'gateway_absorbed',
  'usage_revenue',
  'provider_cost',
  'provider_payable',
  'promotions',
  'payment_clearing',
  'customer_holds',
] as const satisfies readonly LedgerAccount[]
const isExpected = (what: string, name: string): name is (typeof EXPECTED)[number] =>
  what === 'expected' && EXPECTED.some((account) => account === name)
const FAULT_KINDS: readonly FaultKind[] = ['unbalanced_transfer', 'orphan_entry', 'missing_entry', 'wrong_day']
const isFault = (what: string): what is FaultKind => FAULT_KINDS.some((kind) => kind === what)

function statement(within: (column: string) => string, whole: boolean): string {
  const usage = (sum: string, where = 'true') =>
    `SELECT coalesce(sum(${sum}), 0) FROM usage_attempts u WHERE u.org_id = $1::uuid AND ${where}`
  const grants = (where: string) =>
    `SELECT coalesce(sum(g.amount_nanousd), 0) FROM credit_grants g WHERE g.org_id = $1::uuid AND ${where}`
  const expected = (account: (typeof EXPECTED)[number], sum: string) => `SELECT 'expected', '${account}', ${sum}`
  const missing = (purpose: string, amount: string) =>
    `(SELECT 'missing_entry', u.request_id::text || '/' || u.attempt::text || '/' || u.kind || '/${purpose}', ${amount}::numeric
      FROM usage_attempts u WHERE u.org_id = $1::uuid${within('u.started_at')} AND ${amount} <> 0 AND NOT EXISTS (
        SELECT 1 FROM ledger_entries e WHERE e.org_id = u.org_id AND e.request_id = u.request_id AND e.attempt = u.attempt
          AND e.kind = u.kind AND e.purpose = '${purpose}' AND e.amount_nanousd = ${amount}) LIMIT ${FAULTS_SHOWN_MAX})`
  const arms = [
    `SELECT 'balance', coalesce(a.name, e.account_id::text), sum(e.amount_nanousd) FROM ledger_entries e
      LEFT JOIN ledger_accounts a ON a.org_id = e.org_id AND a.account_id = e.account_id
      WHERE e.org_id = $1::uuid${within('e.occurred_at')} GROUP BY 2`,
    `(SELECT 'unbalanced_transfer', e.transfer_id::text, sum(e.amount_nanousd) FROM ledger_entries e
      WHERE e.org_id = $1::uuid${within('e.occurred_at')} GROUP BY e.transfer_id HAVING sum(e.amount_nanousd) <> 0 LIMIT ${FAULTS_SHOWN_MAX})`,
    `(SELECT 'orphan_entry', e.transfer_id::text, e.amount_nanousd::numeric FROM ledger_entries e
      WHERE e.org_id = $1::uuid${within('e.occurred_at')} AND (
        NOT EXISTS (SELECT 1 FROM ledger_accounts a WHERE a.org_id = e.org_id AND a.account_id = e.account_id)
        OR e.purpose = 'grant' AND NOT EXISTS (SELECT 1 FROM credit_grants g WHERE g.org_id = e.org_id AND g.grant_id = e.transfer_id)
        OR e.purpose <> 'grant' AND NOT EXISTS (SELECT 1 FROM usage_attempts u WHERE u.org_id = e.org_id
          AND u.request_id = e.request_id AND u.attempt = e.attempt AND u.kind = e.kind)) LIMIT ${FAULTS_SHOWN_MAX})`,
    missing('usage', 'u.cost_nanousd'),
    missing('provider_cost', 'u.provider_cost_nanousd'),
    `(SELECT 'missing_entry', g.grant_id::text, g.amount_nanousd::numeric FROM credit_grants g
      WHERE g.org_id = $1::uuid${within('g.occurred_at')} AND NOT EXISTS (SELECT 1 FROM ledger_entries e WHERE e.org_id = g.org_id
        AND e.transfer_id = g.grant_id AND e.purpose = 'grant' AND e.amount_nanousd = g.amount_nanousd) LIMIT ${FAULTS_SHOWN_MAX})`,
  ]
  if (whole)
    arms.push(
      `(SELECT 'wrong_day', coalesce(e.day, s.day)::text || '/' || coalesce(e.account_id, s.account_id)::text,
        coalesce(e.amount, 0) - coalesce(s.amount, 0)
        FROM (SELECT (x.occurred_at AT TIME ZONE 'UTC')::date AS day, x.account_id, x.purpose, sum(x.amount_nanousd) AS amount
          FROM ledger_entries x WHERE x.org_id = $1::uuid GROUP BY 1, 2, 3) AS e
        FULL JOIN (SELECT m.day, m.account_id, m.purpose, m.amount_nanousd::numeric AS amount FROM ledger_day_sums m
          JOIN ledger_days d ON d.org_id = m.org_id AND d.day = m.day AND d.made WHERE m.org_id = $1::uuid) AS s
          ON s.day = e.day AND s.account_id = e.account_id AND s.purpose = e.purpose
        LEFT JOIN ledger_days u ON u.org_id = $1::uuid AND u.day = coalesce(e.day, s.day)
        WHERE coalesce(u.made, true) AND coalesce(e.amount, 0) <> coalesce(s.amount, 0) LIMIT ${FAULTS_SHOWN_MAX})`,
      expected('customer_credit', `(${grants('true')}) - (${usage('u.cost_nanousd', `u.charge = 'customer'`)})`),
      expected('gateway_absorbed', `-(${usage('u.cost_nanousd', `u.charge = 'absorbed'`)})`),
      expected('usage_revenue', `(${usage('u.cost_nanousd')})`),
      expected('provider_cost', `-(${usage('u.provider_cost_nanousd')})`),
      expected('provider_payable', `(${usage('u.provider_cost_nanousd')})`),
      expected('promotions', `-(${grants(`g.kind = 'promotion'`)})`),
      expected('payment_clearing', `-(${grants(`g.kind = 'payment'`)})`),
      expected('customer_holds', '0::numeric'),
    )
  return arms.join(' UNION ALL ')
}
