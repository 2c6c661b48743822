// Tables of migrations/0004_ledger.sql and 0010_credit.sql, which own their meaning and constraints, as drizzle sees them.
import { bigint, integer, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'
import { LEDGER_ACCOUNTS } from '../../ledger/postings.ts'

export const ledgerAccounts = pgTable(
  'ledger_accounts',
  {
    orgId: uuid('org_id').notNull(),
    accountId: uuid('account_id').notNull(),
    name: text('name', { enum: LEDGER_ACCOUNTS }).notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.accountId] })],
)

export const ledgerEntries = pgTable(
  'ledger_entries',
  {
    orgId: uuid('org_id').notNull(),
    transferId: uuid('transfer_id').notNull(),
    accountId: uuid('account_id').notNull(),
    amountNanoUsd: bigint('amount_nanousd', { mode: 'bigint' }).notNull(),
    purpose: text('purpose', { enum: ['usage', 'provider_cost', 'hold', 'grant'] }).notNull(),
    requestId: uuid('request_id'),
    attempt: integer('attempt'),
    kind: text('kind', { enum: ['attempt', 'adjustment', 'reversal'] }),
    occurredAt: timestamp('occurred_at', { withTimezone: true, mode: 'string' }).notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.transferId, table.accountId] })],
)

export const creditGrants = pgTable(
  'credit_grants',
  {
    orgId: uuid('org_id').notNull(),
    grantId: uuid('grant_id').notNull(),
    kind: text('kind', { enum: ['payment', 'promotion'] }).notNull(),
    amountNanoUsd: bigint('amount_nanousd', { mode: 'bigint' }).notNull(),
    note: text('note').notNull(),
    occurredAt: timestamp('occurred_at', { withTimezone: true, mode: 'string' }).notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.grantId] })],
)
