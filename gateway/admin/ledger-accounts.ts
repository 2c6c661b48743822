// Names of ledger accounts. Owns the way between them and the ids that entries carry; which accounts there are and what
// they mean is ledger/postings.ts.
import { eq, type SQL, sql } from 'drizzle-orm'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { ledgerAccounts, ledgerEntries } from '../db/schema/ledger.ts'
import type { LedgerAccount } from '../ledger/postings.ts'

/** Id to name, of the accounts that an organisation has used. */
export type AccountNames = ReadonlyMap<string, LedgerAccount>

export async function accountNames(database: Database, orgId: string): Promise<AccountNames> {
  const rows = await query(database, (db) => db.select().from(ledgerAccounts).where(eq(ledgerAccounts.orgId, orgId)))
  return new Map(rows.map(({ accountId, name }) => [accountId, name]))
}

/** The id itself where nothing names it: an entry that the ledger's check reports. */
export const nameOf = (names: AccountNames, accountId: string): string => names.get(accountId) ?? accountId

/** Only entries of this account; none where it was never used. */
export function ofAccount(names: AccountNames, account: LedgerAccount | undefined): SQL | undefined {
  if (account === undefined) return undefined
  const id = [...names].find(([, name]) => name === account)?.[0]
  return id === undefined ? sql`false` : eq(ledgerEntries.accountId, id)
}
