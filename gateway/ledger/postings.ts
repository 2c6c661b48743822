// Double-entry postings of usage. Owns which accounts an attempt moves and the rule that every transfer sums to zero.
// Pure; identities and SQL are flush.ts. Amounts leave the first account and arrive at the second: the sign of a
// balance says which way an account has been used, and the balances of an organisation always sum to zero.
import type { AttemptKind, AttemptRow } from './outbox.ts'

/**
 * - `customer_credit`: what the customer has left; below zero is owed (no top-ups are required to use the gateway).
 * - `usage_revenue`: all usage at list price. Net revenue is this plus `gateway_absorbed`, its contra account.
 * - `gateway_absorbed`: list price of attempts the customer does not pay, so that the loss stays visible.
 * - `provider_cost`, `provider_payable`: what providers charge us, where they say so.
 */
export type LedgerAccount =
  | 'customer_credit'
  | 'usage_revenue'
  | 'provider_cost'
  | 'provider_payable'
  | 'gateway_absorbed'

export const LEDGER_ACCOUNTS = [
  'customer_credit',
  'usage_revenue',
  'provider_cost',
  'provider_payable',
  'gateway_absorbed',
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

/**
 * Checked wherever a transfer is made or written, in production too.
 * @throws Error where entries do not sum to zero, are zero, or name an account twice.
 */
export function assertBalanced(transfer: Transfer): void {
  let sum = 0n
  for (const { amountNanoUsd } of transfer.entries) {
    if (amountNanoUsd === 0n) throw new Error(`ledger transfer of request ${transfer.requestId} has an empty entry`)
    sum += amountNanoUsd
  }
  if (sum !== 0n) throw new Error(`ledger transfer of request ${transfer.requestId} is off balance by ${sum}`)
  if (new Set(transfer.entries.map((entry) => entry.account)).size !== transfer.entries.length)
    throw new Error(`ledger transfer of request ${transfer.requestId} names an account twice`)
}
