// Tables of migrations/0005_people.sql, which owns their meaning and constraints, as drizzle sees them.
import { boolean, integer, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'
import { ROLES } from '../../auth/roles.ts'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })

export const users = pgTable(
  'users',
  {
    orgId: uuid('org_id').notNull(),
    userId: uuid('user_id').notNull(),
    kind: text('kind', { enum: ['person', 'service'] }).notNull(),
    handle: text('handle').notNull(),
    name: text('name').notNull(),
    issuerId: uuid('issuer_id'),
    subject: text('subject'),
    createdAt: instant('created_at').notNull(),
    suspendedAt: instant('suspended_at'),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.userId] })],
)

export const memberships = pgTable(
  'memberships',
  {
    orgId: uuid('org_id').notNull(),
    userId: uuid('user_id').notNull(),
    role: text('role', { enum: ROLES }).notNull(),
    projects: text('projects'),
    createdAt: instant('created_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.userId] })],
)

export const teams = pgTable(
  'teams',
  {
    orgId: uuid('org_id').notNull(),
    teamId: uuid('team_id').notNull(),
    slug: text('slug').notNull(),
    name: text('name').notNull(),
    createdAt: instant('created_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.teamId] })],
)

export const teamMembers = pgTable(
  'team_members',
  {
    orgId: uuid('org_id').notNull(),
    teamId: uuid('team_id').notNull(),
    userId: uuid('user_id').notNull(),
    createdAt: instant('created_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.teamId, table.userId] })],
)

export const tokenIssuers = pgTable(
  'token_issuers',
  {
    orgId: uuid('org_id').notNull(),
    issuerId: uuid('issuer_id').notNull(),
    name: text('name').notNull(),
    issuer: text('issuer').notNull(),
    audience: text('audience').notNull(),
    jwksUri: text('jwks_uri'),
    jwks: text('jwks'),
    allowPrivate: boolean('allow_private').notNull(),
    algorithms: text('algorithms').notNull(),
    subjectClaim: text('subject_claim').notNull(),
    roleClaim: text('role_claim'),
    maxRole: text('max_role', { enum: ROLES }).notNull(),
    projectId: uuid('project_id').notNull(),
    service: boolean('service').notNull(),
    clockSkewS: integer('clock_skew_s').notNull(),
    tokenAgeMaxS: integer('token_age_max_s').notNull(),
    createdAt: instant('created_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.issuerId] })],
)
