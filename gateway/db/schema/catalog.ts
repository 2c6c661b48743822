// Tables of migrations/0002_catalog.sql, which owns their meaning and constraints, as drizzle sees them.
import { bigint, boolean, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core'

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' })

export const models = pgTable('models', {
  name: text('name').primaryKey(),
  targets: text('targets').notNull(),
  createdAt: instant('created_at').notNull(),
  updatedAt: instant('updated_at').notNull(),
})

export const providers = pgTable('providers', {
  name: text('name').primaryKey(),
  kind: text('kind', { enum: ['openai_compatible'] }).notNull(),
  baseUrl: text('base_url').notNull(),
  allowPrivate: boolean('allow_private').notNull(),
  secretCiphertext: text('secret_ciphertext').notNull(),
  createdAt: instant('created_at').notNull(),
  updatedAt: instant('updated_at').notNull(),
})

export const priceVersions = pgTable('price_versions', {
  priceVersionId: uuid('price_version_id').primaryKey(),
  provider: text('provider').notNull(),
  model: text('model').notNull(),
  effectiveFrom: instant('effective_from').notNull(),
  createdAt: instant('created_at').notNull(),
})

export const priceParts = pgTable(
  'price_parts',
  {
    priceVersionId: uuid('price_version_id').notNull(),
    part: text('part', {
      enum: [
        'input_uncached',
        'input_cache_read',
        'input_cache_write_5m',
        'input_cache_write_1h',
        'output_text',
        'output_reasoning',
      ],
    }).notNull(),
    nanoUsdPerMillion: bigint('nanousd_per_million', { mode: 'bigint' }).notNull(),
  },
  (table) => [primaryKey({ columns: [table.priceVersionId, table.part] })],
)
