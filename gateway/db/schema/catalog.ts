// Tables of migrations/0002_catalog.sql, 0007_prices.sql and 0011_routing.sql, which own their meaning and constraints, as
// drizzle sees them.
import { bigint, boolean, date, integer, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'
import { PART_NAMES, type PartName } from '../../meter/usage.ts'
import { CUTOFF_POLICIES } from '../../policy/plan.ts'
import { PROVIDER_KINDS } from '../../providers/kinds.ts'
import { USAGE_DIALECTS } from '../../providers/usage-dialect.ts'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })

/** The type needs one name at least; there are thirteen. */
const [firstPart = PART_NAMES.inputUncached, ...otherParts]: PartName[] = Object.values(PART_NAMES)
const part = () => text('part', { enum: [firstPart, ...otherParts] }).notNull()

export const models = pgTable('models', {
  name: text('name').primaryKey(),
  targets: text('targets').notNull(),
  policy: text('policy'),
  createdAt: instant('created_at').notNull(),
  updatedAt: instant('updated_at').notNull(),
})

export const providers = pgTable('providers', {
  name: text('name').primaryKey(),
  kind: text('kind', { enum: PROVIDER_KINDS }).notNull(),
  baseUrl: text('base_url').notNull(),
  allowPrivate: boolean('allow_private').notNull(),
  preset: text('preset'),
  options: text('options').notNull(),
  usageDialect: text('usage_dialect', { enum: USAGE_DIALECTS }).notNull(),
  cutoff: text('cutoff', { enum: CUTOFF_POLICIES }).notNull(),
  createdAt: instant('created_at').notNull(),
  updatedAt: instant('updated_at').notNull(),
})

export const providerKeys = pgTable(
  'provider_keys',
  {
    provider: text('provider').notNull(),
    name: text('name').notNull(),
    secretCiphertext: text('secret_ciphertext').notNull(),
    weight: integer('weight').notNull(),
    createdAt: instant('created_at').notNull(),
    disabledAt: instant('disabled_at'),
  },
  (table) => [primaryKey({ columns: [table.provider, table.name] })],
)

export const catalogRevision = pgTable('catalog_revision', {
  id: integer('id').primaryKey(),
  revision: bigint('revision', { mode: 'number' }).notNull(),
})

export const configVersions = pgTable('config_versions', {
  version: bigint('version', { mode: 'number' }).primaryKey(),
  document: text('document').notNull(),
  checksum: text('checksum').notNull(),
  appliedAt: instant('applied_at').notNull(),
  actor: text('actor').notNull(),
  note: text('note'),
})

export const priceVersions = pgTable('price_versions', {
  priceVersionId: uuid('price_version_id').primaryKey(),
  provider: text('provider').notNull(),
  model: text('model').notNull(),
  serviceTier: text('service_tier').notNull(),
  effectiveFrom: instant('effective_from').notNull(),
  effectiveTo: instant('effective_to'),
  source: text('source'),
  sourceDate: date('source_date', { mode: 'string' }),
  createdAt: instant('created_at').notNull(),
})

export const priceParts = pgTable(
  'price_parts',
  {
    priceVersionId: uuid('price_version_id').notNull(),
    part: part(),
    nanoUsdPerMillion: bigint('nanousd_per_million', { mode: 'bigint' }).notNull(),
  },
  (table) => [primaryKey({ columns: [table.priceVersionId, table.part] })],
)

export const priceTierParts = pgTable(
  'price_tier_parts',
  {
    priceVersionId: uuid('price_version_id').notNull(),
    aboveInputTokens: bigint('above_input_tokens', { mode: 'number' }).notNull(),
    part: part(),
    nanoUsdPerMillion: bigint('nanousd_per_million', { mode: 'bigint' }).notNull(),
  },
  (table) => [primaryKey({ columns: [table.priceVersionId, table.aboveInputTokens, table.part] })],
)

export const priceMarkups = pgTable(
  'price_markups',
  {
    orgId: uuid('org_id').notNull(),
    markupId: uuid('markup_id').notNull(),
    provider: text('provider').notNull(),
    model: text('model').notNull(),
    basisPoints: integer('basis_points'),
    effectiveFrom: instant('effective_from').notNull(),
    createdAt: instant('created_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.orgId, table.markupId] })],
)
