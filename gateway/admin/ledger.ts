// The ledger in the admin API. Owns the check that an organisation's books balance, made of sums over the entries
// themselves: nothing here trusts a stored balance.
//
//   GET /ledger/check?org=
import { eq, sql } from 'drizzle-orm'
import { Hono } from 'hono'
import { z } from 'zod'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import { ledgerAccounts, ledgerEntries } from '../db/schema/ledger.ts'
import { usageAttempts } from '../db/schema/usage.ts'
import type { AdminEnv } from './context.ts'
import { readQuery } from './input.ts'
import { moneyJson } from './usage-json.ts'

const CheckQuery = z.strictObject({ org: z.uuid() })
/** Transfers named where some do not sum to zero: enough to start looking. */
const UNBALANCED_SHOWN_MAX = 20

const sumOf = (column: typeof ledgerEntries.amountNanoUsd | typeof usageAttempts.costNanoUsd) =>
  sql<string>`coalesce(sum(${column}), 0)::text`

export const ledgerRoutes = new Hono<AdminEnv>()

/**
 * `balanced`: every transfer, and so the whole, sums to zero. `matches_usage`: what customer_credit lost is what the
 * usage rows charge.
 */
ledgerRoutes.get('/check', async (c) => {
  const { org } = readQuery(c, CheckQuery)
  const database = connect(c.env)
  const [accounts, unbalanced, [charged]] = await Promise.all([
    query(database, (db) =>
      db
        .select({ name: ledgerAccounts.name, balance: sumOf(ledgerEntries.amountNanoUsd) })
        .from(ledgerEntries)
        .innerJoin(
          ledgerAccounts,
          sql`${ledgerAccounts.orgId} = ${ledgerEntries.orgId} and ${ledgerAccounts.accountId} = ${ledgerEntries.accountId}`,
        )
        .where(eq(ledgerEntries.orgId, org))
        .groupBy(ledgerAccounts.name)
        .orderBy(ledgerAccounts.name),
    ),
    query(database, (db) =>
      db
        .select({ transferId: ledgerEntries.transferId, sum: sumOf(ledgerEntries.amountNanoUsd) })
        .from(ledgerEntries)
        .where(eq(ledgerEntries.orgId, org))
        .groupBy(ledgerEntries.transferId)
        .having(sql`sum(${ledgerEntries.amountNanoUsd}) <> 0`)
        .limit(UNBALANCED_SHOWN_MAX),
    ),
    query(database, (db) =>
      db
        .select({ sum: sumOf(usageAttempts.costNanoUsd) })
        .from(usageAttempts)
        .where(sql`${usageAttempts.orgId} = ${org} and ${usageAttempts.charge} = 'customer'`),
    ),
  ])
  const balances = accounts.map(({ name, balance }) => ({ name, balance: BigInt(balance) }))
  const sum = balances.reduce((total, { balance }) => total + balance, 0n)
  const credit = balances.find(({ name }) => name === 'customer_credit')?.balance ?? 0n
  return c.json({
    org_id: org,
    balanced: sum === 0n && unbalanced.length === 0,
    matches_usage: credit + BigInt(charged?.sum ?? 0) === 0n,
    ...moneyJson('sum', sum),
    accounts: balances.map(({ name, balance }) => ({ name, ...moneyJson('balance', balance) })),
    unbalanced_transfers: unbalanced.map(({ transferId, sum }) => ({
      id: transferId,
      ...moneyJson('sum', BigInt(sum)),
    })),
  })
})
