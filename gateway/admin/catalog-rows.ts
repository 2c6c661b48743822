// Rows of providers, their keys and models. Owns their way to and from the forms of policy/, and the statements that write
// them, a bounded number of rows each; who may write them when is catalog-change.ts.
import { and, asc, eq, inArray, notInArray, sql } from 'drizzle-orm'
import { parseStored } from '../db/json.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database, Statement } from '../db/port.ts'
import { models, providerKeys, providers } from '../db/schema/catalog.ts'
import type { NormalConfig, NormalKey, NormalModel } from '../policy/config-document.ts'
import { ModelPolicy } from '../policy/model-policy.ts'
import type { ProviderFields } from '../policy/provider-form.ts'
import { StoredOptions } from '../policy/provider-options.ts'
import { StoredTargets } from '../policy/targets.ts'

export type ProviderRow = typeof providers.$inferSelect
export type KeyRow = typeof providerKeys.$inferSelect
export type ModelRow = typeof models.$inferSelect
export type CatalogRows = { providers: ProviderRow[]; keys: KeyRow[]; models: ModelRow[] }

/** Rows of one statement: some ten parameters each. */
const ROWS_PER_STATEMENT = 500

/** All of it, by name. The three reads belong together only within `changeCatalog`. */
export async function readCatalog(database: Database): Promise<CatalogRows> {
  const [providerRows, keys, modelRows] = await Promise.all([
    query(database, (db) => db.select().from(providers).orderBy(asc(providers.name))),
    query(database, (db) => db.select().from(providerKeys).orderBy(asc(providerKeys.provider), asc(providerKeys.name))),
    query(database, (db) => db.select().from(models).orderBy(asc(models.name))),
  ])
  return { providers: providerRows, keys, models: modelRows }
}

/** What stands, without secrets and times. */
export function normalOf(rows: CatalogRows): NormalConfig {
  const keysOf = (provider: string) => rows.keys.filter((key) => key.provider === provider)
  return {
    providers: Object.fromEntries(
      rows.providers.map((row) => [
        row.name,
        { ...fieldsOf(row), keys: Object.fromEntries(keysOf(row.name).map((key) => [key.name, normalKey(key)])) },
      ]),
    ),
    models: Object.fromEntries(rows.models.map((row) => [row.name, normalModel(row)])),
  }
}

export function fieldsOf(row: ProviderRow): ProviderFields {
  return {
    kind: row.kind,
    base_url: row.baseUrl,
    allow_private: row.allowPrivate,
    ...(row.preset === null ? {} : { preset: row.preset }),
    options: parseStored(row.options, StoredOptions, 'providers.options'),
    usage_dialect: row.usageDialect,
    cutoff: row.cutoff,
  }
}

const normalKey = ({ weight, disabledAt }: KeyRow): NormalKey => ({ weight, disabled: disabledAt !== null })

export const normalModel = (row: ModelRow): NormalModel => ({
  targets: parseStored(row.targets, StoredTargets, 'models.targets'),
  ...(row.policy === null ? {} : { policy: parseStored(row.policy, ModelPolicy, 'models.policy') }),
})

/** @param existing The row that it replaces. */
export function providerRow(
  name: string,
  fields: ProviderFields,
  existing: ProviderRow | undefined,
  nowIso: string,
): ProviderRow {
  return {
    name,
    kind: fields.kind,
    baseUrl: fields.base_url,
    allowPrivate: fields.allow_private,
    preset: fields.preset ?? null,
    options: JSON.stringify(fields.options),
    usageDialect: fields.usage_dialect,
    cutoff: fields.cutoff,
    createdAt: existing?.createdAt ?? nowIso,
    updatedAt: nowIso,
  }
}

/**
 * @param change What stays as it is, or gets its default on a new key, where it is absent.
 * @param existing The row that it replaces.
 */
export function keyRow(
  provider: string,
  name: string,
  secretCiphertext: string,
  { weight, disabled }: { weight?: number | undefined; disabled?: boolean | undefined },
  existing: KeyRow | undefined,
  nowIso: string,
): KeyRow {
  const disabledAt = existing?.disabledAt ?? null
  return {
    provider,
    name,
    secretCiphertext,
    weight: weight ?? existing?.weight ?? 1,
    createdAt: existing?.createdAt ?? nowIso,
    disabledAt: disabled === undefined ? disabledAt : disabled ? (disabledAt ?? nowIso) : null,
  }
}

/** As the admin API shows it: nothing of the secret. */
export const keyView = ({ name, weight, createdAt, disabledAt }: KeyRow) => ({
  name,
  weight,
  disabled: disabledAt !== null,
  created_at: createdAt,
  disabled_at: disabledAt,
})

export function modelRow(
  name: string,
  { targets, policy }: NormalModel,
  existing: ModelRow | undefined,
  nowIso: string,
): ModelRow {
  return {
    name,
    targets: JSON.stringify(targets),
    policy: policy === undefined ? null : JSON.stringify(policy),
    createdAt: existing?.createdAt ?? nowIso,
    updatedAt: nowIso,
  }
}

export const putProviders = (rows: ProviderRow[]): Statement[] =>
  chunksOf(rows).map((some) =>
    toStatement(
      builder
        .insert(providers)
        .values(some)
        .onConflictDoUpdate({
          target: providers.name,
          set: {
            kind: sql`excluded.kind`,
            baseUrl: sql`excluded.base_url`,
            allowPrivate: sql`excluded.allow_private`,
            preset: sql`excluded.preset`,
            options: sql`excluded.options`,
            usageDialect: sql`excluded.usage_dialect`,
            cutoff: sql`excluded.cutoff`,
            updatedAt: sql`excluded.updated_at`,
          },
        }),
    ),
  )

export const putKeys = (rows: KeyRow[]): Statement[] =>
  chunksOf(rows).map((some) =>
    toStatement(
      builder
        .insert(providerKeys)
        .values(some)
        .onConflictDoUpdate({
          target: [providerKeys.provider, providerKeys.name],
          set: {
            secretCiphertext: sql`excluded.secret_ciphertext`,
            weight: sql`excluded.weight`,
            disabledAt: sql`excluded.disabled_at`,
          },
        }),
    ),
  )

export const putModels = (rows: ModelRow[]): Statement[] =>
  chunksOf(rows).map((some) =>
    toStatement(
      builder
        .insert(models)
        .values(some)
        .onConflictDoUpdate({
          target: models.name,
          set: { targets: sql`excluded.targets`, policy: sql`excluded.policy`, updatedAt: sql`excluded.updated_at` },
        }),
    ),
  )

/** With all their keys. */
export const deleteProviders = (names: string[]): Statement[] =>
  chunksOf(names).flatMap((some) => [
    toStatement(builder.delete(providerKeys).where(inArray(providerKeys.provider, some))),
    toStatement(builder.delete(providers).where(inArray(providers.name, some))),
  ])

export const deleteModels = (names: string[]): Statement[] =>
  chunksOf(names).map((some) => toStatement(builder.delete(models).where(inArray(models.name, some))))

/** @param kept Names of the provider's keys that stay; at least one. */
export const deleteOtherKeys = (provider: string, kept: string[]): Statement =>
  toStatement(
    builder.delete(providerKeys).where(and(eq(providerKeys.provider, provider), notInArray(providerKeys.name, kept))),
  )

function chunksOf<T>(items: T[]): T[][] {
  const count = Math.ceil(items.length / ROWS_PER_STATEMENT)
  return Array.from({ length: count }, (_, index) =>
    items.slice(index * ROWS_PER_STATEMENT, (index + 1) * ROWS_PER_STATEMENT),
  )
}
