// Tables of migrations/0014_sessions.sql, which owns their meaning and constraints, as drizzle sees them.
import { boolean, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })

export const dashboardSessions = pgTable('dashboard_sessions', {
  sessionId: uuid('session_id').primaryKey(),
  tokenHash: text('token_hash').notNull(),
  orgId: uuid('org_id'),
  userId: uuid('user_id'),
  issuerId: uuid('issuer_id'),
  subject: text('subject'),
  bounds: text('bounds').notNull(),
  createdAt: instant('created_at').notNull(),
  lastSeenAt: instant('last_seen_at').notNull(),
  expiresAt: instant('expires_at').notNull(),
  address: text('address'),
})

export const signInLinks = pgTable('sign_in_links', {
  codeHash: text('code_hash').primaryKey(),
  linkId: uuid('link_id').notNull(),
  orgId: uuid('org_id'),
  userId: uuid('user_id'),
  bounds: text('bounds').notNull(),
  createdAt: instant('created_at').notNull(),
  expiresAt: instant('expires_at').notNull(),
  sessionId: uuid('session_id'),
})

export const signInClients = pgTable(
  'sign_in_clients',
  {
    orgId: uuid('org_id').notNull(),
    issuerId: uuid('issuer_id').notNull(),
    clientRef: uuid('client_ref').notNull(),
    secretCiphertext: text('secret_ciphertext'),
    scopes: text('scopes').notNull(),
    listed: boolean('listed').notNull(),
    createdAt: instant('created_at').notNull(),
    updatedAt: instant('updated_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.issuerId] })],
)
