// Double-entry postings. Owns which accounts usage and grants of credit move and the rule that every transfer sums to zero.
// Pure; identities and SQL are flush.ts and grants.ts. Amounts leave the first account and arrive at the second: the sign of a
// balance says which way an account has been used, and the balances of an organisation always sum to zero.
import type { AttemptKind, AttemptRow } from './outbox.ts'

/**
 * - `customer_credit`: what the customer has left; below zero is owed (post-paid, or an overdraft).
 * - `usage_revenue`: all usage at list price. Net revenue is this plus `gateway_absorbed`, its contra account.
 * - `gateway_absorbed`: list price of attempts the customer does not pay, so that the loss stays visible.
 * - `provider_cost`, `provider_payable`: what providers charge us, where they say so.
 * - `payment_clearing`, `promotions`: where credit comes from: money the customer paid, and gifts. Below zero by what was
 *   granted; the books of whoever runs this take it up from there.
 * - `customer_holds`: always zero here. What is set aside for running requests is the Account object's state, shown beside
 *   the balance. Written down, each hold would be two more transfers (credit to holds and back) that triple the ledger and
 *   cancel out within seconds, and a ledger that lags by an outage would show money as held that is long settled.
 */
export type LedgerAccount =
  | 'customer_credit'
  | 'customer_holds'
  | 'usage_revenue'
  | 'provider_cost'
  | 'provider_payable'
  | 'gateway_absorbed'
  | 'promotions'
  | 'payment_clearing'

export const LEDGER_ACCOUNTS = [
  'customer_credit',
  'customer_holds',
  'usage_revenue',
  'provider_cost',
  'provider_payable',
  'gateway_absorbed',
  'promotions',
  'payment_clearing',
] as const satisfies readonly LedgerAccount[]

export type LedgerEntry = { account: LedgerAccount; amountNanoUsd: bigint }

/** Identity: (org, request, attempt, kind, purpose). */
export type Transfer = {
  orgId: string
  requestId: string
  attempt: number
  kind: AttemptKind
  purpose: 'usage' | 'provider_cost'
  occurredAtMs: number
  entries: LedgerEntry[]
}

/** The transfers an attempt row stands for; none for a row without money. */
export function transfersOf(row: AttemptRow): Transfer[] {
  const payer: LedgerAccount = row.charge === 'customer' ? 'customer_credit' : 'gateway_absorbed'
  const moves: [Transfer['purpose'], LedgerAccount, LedgerAccount, bigint][] = [
    ['usage', payer, 'usage_revenue', row.costNanoUsd],
    ['provider_cost', 'provider_cost', 'provider_payable', row.providerCostNanoUsd ?? 0n],
  ]
  return moves
    .filter(([, , , amount]) => amount !== 0n)
    .map(([purpose, from, to, amount]) => {
      const transfer: Transfer = {
        orgId: row.orgId,
        requestId: row.requestId,
        attempt: row.attempt,
        kind: row.kind,
        purpose,
        occurredAtMs: row.endedAtMs,
        entries: [
          { account: from, amountNanoUsd: -amount },
          { account: to, amountNanoUsd: amount },
        ],
      }
      assertBalanced(transfer)
      return transfer
    })
}

export type GrantKind = 'payment' | 'promotion'

/** What a grant of credit moves; below zero it takes credit back to where it came from. */
export function grantEntries(kind: GrantKind, amountNanoUsd: bigint): LedgerEntry[] {
  const source: LedgerAccount = kind === 'payment' ? 'payment_clearing' : 'promotions'
  const entries: LedgerEntry[] = [
    { account: source, amountNanoUsd: -amountNanoUsd },
    { account: 'customer_credit', amountNanoUsd },
  ]
  assertSumsToZero(entries, 'grant')
  return entries
}

/**
 * Checked wherever a transfer is made or written, in production too.
 * @throws Error where entries do not sum to zero, are zero, or name an account twice.
 */
export const assertBalanced = (transfer: Transfer): void =>
  assertSumsToZero(transfer.entries, `transfer of request ${transfer.requestId}`)

function assertSumsToZero(entries: readonly LedgerEntry[], what: string): void {
  let sum = 0n
  for (const { amountNanoUsd } of entries) {
    if (amountNanoUsd === 0n) throw new Error(`ledger ${what} has an empty entry`)
    sum += amountNanoUsd
  }
  if (sum !== 0n) throw new Error(`ledger ${what} is off balance by ${sum}`)
  if (new Set(entries.map((entry) => entry.account)).size !== entries.length)
    throw new Error(`ledger ${what} names an account twice`)
}
