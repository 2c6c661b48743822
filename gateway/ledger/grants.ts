// Grants of credit in the book of record. Owns the rows of a grant and its transfer, which are written together, once: the
// grant's id is made by whoever grants, and it is the transfer's id too. The HTTP form is admin/credit.ts.
import { and, eq } from 'drizzle-orm'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database, Statement } from '../db/port.ts'
import { creditGrants, ledgerAccounts, ledgerEntries } from '../db/schema/ledger.ts'
import { derivedUuid } from './flush.ts'
import { balanceBefore, openDay } from './ledger-days.ts'
import { type GrantKind, grantEntries } from './postings.ts'

export type Grant = {
  orgId: string
  grantId: string
  kind: GrantKind
  /** Below zero: a correction. Never zero. */
  amountNanoUsd: bigint
  note: string
  /** ISO 8601 */
  occurredAt: string
}

/**
 * For one transaction. A grant or a transfer that has the id already makes it fail with UNIQUE_VIOLATION and writes
 * nothing: `knownGrant` tells which.
 */
export async function grantStatements(grant: Grant): Promise<Statement[]> {
  const { orgId, grantId, kind, amountNanoUsd, occurredAt } = grant
  const entries = await Promise.all(
    grantEntries(kind, amountNanoUsd).map(async ({ account, amountNanoUsd: amount }) => ({
      account,
      amount,
      accountId: derivedUuid(['account', orgId, account]),
    })),
  )
  // In the order of their ids, as everywhere: two grants that make the same accounts wait for each other in one direction.
  entries.sort((a, b) => (a.accountId < b.accountId ? -1 : 1))
  const accounts = entries.map(({ account, accountId }) => ({ orgId, accountId, name: account }))
  const rows = entries.map(({ accountId, amount }) => ({
    orgId,
    transferId: grantId,
    accountId,
    amountNanoUsd: amount,
    purpose: 'grant' as const,
    occurredAt,
  }))
  return [
    toStatement(builder.insert(creditGrants).values(grant)),
    toStatement(builder.insert(ledgerAccounts).values(accounts).onConflictDoNothing()),
    toStatement(builder.insert(ledgerEntries).values(rows)),
    openDay(orgId, Date.parse(occurredAt)),
  ]
}

export async function knownGrant(database: Database, orgId: string, grantId: string): Promise<Grant | undefined> {
  const [row] = await query(database, (db) =>
    db
      .select()
      .from(creditGrants)
      .where(and(eq(creditGrants.orgId, orgId), eq(creditGrants.grantId, grantId))),
  )
  return row
}

export type Credit = {
  /** Balance of customer_credit: grants less what was charged, as far as it has reached the ledger. */
  balanceNanoUsd: bigint
  paidNanoUsd: bigint
  promotedNanoUsd: bigint
}

export async function readCredit(database: Database, orgId: string): Promise<Credit> {
  const account = derivedUuid(['account', orgId, 'customer_credit'])
  const granted = (kind: GrantKind) =>
    `(SELECT coalesce(sum(amount_nanousd), 0)::text FROM credit_grants WHERE org_id = $1::uuid AND kind = '${kind}')`
  const { rows } = await database.run({
    text: `SELECT ${balanceBefore('$1::uuid', '$2::uuid')}::text, ${granted('payment')}, ${granted('promotion')}`,
    params: [orgId, account],
  })
  const [balance, paid, promoted] = (rows[0] ?? []).map((value) => BigInt(String(value)))
  return { balanceNanoUsd: balance ?? 0n, paidNanoUsd: paid ?? 0n, promotedNanoUsd: promoted ?? 0n }
}
