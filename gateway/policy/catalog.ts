// What may be called, where it runs, what it costs. Owns the isolate's copies of the catalog and which of its answers
// a key may see; the rows are written by admin/.
import { and, asc, eq, isNull } from 'drizzle-orm'
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Principal } from '../auth/principal.ts'
import { FactCache } from '../db/cache.ts'
import { connect } from '../db/connect.ts'
import { parseStored } from '../db/json.ts'
import { query } from '../db/orm.ts'
import { type Database, DatabaseUnavailable } from '../db/port.ts'
import { renewed } from '../db/renewed.ts'
import { models, providerKeys, providers } from '../db/schema/catalog.ts'
import type { Env } from '../env.ts'
import type { PriceQuote } from '../meter/price.ts'
import { log } from '../observe/log.ts'
import { findMarkups, type Markup, markupInForce } from './markup.ts'
import { defaultModelPolicy, ModelPolicy } from './model-policy.ts'
import type { Plan, ProviderConfig, ProviderKey, Target } from './plan.ts'
import { findPrices, type PriceVersion, priceInForce, priceKey } from './price-book.ts'
import { optionsOf, StoredOptions } from './provider-options.ts'
import { reachOf } from './reach.ts'
import { keySubject, openSecret } from './secrets.ts'
import { ModelName, STANDARD_TIER, StoredTargets } from './targets.ts'

/** How long a change can stay unseen in an isolate. */
const FRESH_MS = 10_000
/** How long the catalog outlives Postgres: prices and targets rarely change within ten minutes. */
const STALE_MAX_MS = 600_000
/** Short: a model that was just added must be there soon. */
const ABSENT_MS = 1_000
const LIFETIMES = { freshMs: FRESH_MS, staleMaxMs: STALE_MAX_MS, absentMs: ABSENT_MS }
/** Prices and mark-ups that begin this soon travel with the copy, so that they start on time even while it is stale. */
const PRICE_HORIZON_MS = STALE_MAX_MS + FRESH_MS
const CACHED_MODELS_MAX = 1_000
const CACHED_PROVIDERS_MAX = 200
const CACHED_ORGANISATIONS_MAX = 2_000
const LISTED_MODELS_MAX = 2_000
const LIST = 'all'

type CatalogModel = { targets: Omit<Target, 'price'>[]; prices: PriceVersion[][]; policy: ModelPolicy }
export type ModelListing = { name: string; createdAtMs: number }
type KeyRow = typeof providerKeys.$inferSelect
type CatalogProvider = { row: typeof providers.$inferSelect; keys: KeyRow[] }

const modelCache = new FactCache<CatalogModel | undefined>(CACHED_MODELS_MAX)
const listCache = new FactCache<ModelListing[]>(1)
const providerCache = new FactCache<CatalogProvider | undefined>(CACHED_PROVIDERS_MAX)
const markupCache = new FactCache<Markup[]>(CACHED_ORGANISATIONS_MAX)
/** Copies with their secrets open, for as long as the copy lives: opening one costs more than the rest of finding it. */
const openedProviders = new WeakMap<CatalogProvider, { kek: string; config: ProviderConfig }>()

/**
 * The ordered targets behind a model name, each with the price in force at `nowMs` and what the organisation pays of it.
 * @returns Failure `permission_denied` for every name outside the key's scope, whether it exists or not;
 *   `model_not_found`; `unavailable` where Postgres is away and this isolate has no copy.
 */
export async function findPlan(
  principal: Principal,
  modelName: string,
  env: Env,
  nowMs: number,
): Promise<Result<Plan, Failure>> {
  if (!ModelName.safeParse(modelName).success) return err(modelNotFound(modelName))
  if (!maySee(principal, modelName)) {
    const message = `This API key may not use the model "${modelName}".`
    return err({ code: 'permission_denied', message, param: 'model' })
  }
  const { orgId } = principal
  const found = await unlessUnavailable(
    Promise.all([
      renewed(modelCache, modelName, nowMs, LIFETIMES, () => loadModel(connect(env), modelName, nowMs)),
      renewed(markupCache, orgId, nowMs, LIFETIMES, () => findMarkups(connect(env), orgId, nowMs, PRICE_HORIZON_MS)),
    ]),
  )
  if (!found.ok) return found
  const [model, markups] = found.value
  if (model === undefined) return err(modelNotFound(modelName))
  const { targets, prices, policy } = model
  const priceOf = (target: Omit<Target, 'price'>, index: number): PriceQuote | undefined => {
    const quote = priceInForce(prices[index] ?? [], nowMs)
    const basisPoints = markupInForce(markups, target, nowMs)
    return quote === undefined || basisPoints === undefined ? quote : { ...quote, basisPoints }
  }
  return ok({
    model: modelName,
    policy,
    targets: targets.map((target, index) => ({ ...target, price: priceOf(target, index) })),
  })
}

/** The models this key may use, by name. @returns Failure `unavailable` as in `findPlan`. */
export async function listModels(
  principal: Principal,
  env: Env,
  nowMs: number,
): Promise<Result<ModelListing[], Failure>> {
  const all = await unlessUnavailable(renewed(listCache, LIST, nowMs, LIFETIMES, () => loadList(connect(env))))
  return all.ok ? ok(all.value.filter(({ name }) => maySee(principal, name))) : all
}

/**
 * A registered upstream with the secrets of its keys in clear; `undefined` where there is none of this name, or none of
 * its keys is in use.
 * @throws DatabaseUnavailable where Postgres is away and this isolate has no copy; Error where no secret opens under this
 *   deployment's SECRETS_KEK.
 */
export async function findProvider(name: string, env: Env, nowMs: number): Promise<ProviderConfig | undefined> {
  const found = await renewed(providerCache, name, nowMs, LIFETIMES, () => loadProvider(connect(env), name))
  if (found === undefined) return undefined
  const opened = openedProviders.get(found)
  if (opened?.kek === env.SECRETS_KEK) return opened.config
  const keys = await openKeys(found.keys, env.SECRETS_KEK)
  if (keys.length === 0) return undefined
  const { row } = found
  const config: ProviderConfig = {
    name: row.name,
    kind: row.kind,
    baseUrl: row.baseUrl.replace(/\/+$/, ''),
    reach: reachOf(row.allowPrivate),
    keys,
    ...(row.preset === null ? {} : { preset: row.preset }),
    options: optionsOf(parseStored(row.options, StoredOptions, 'providers.options')),
    usageDialect: row.usageDialect,
    cutoff: row.cutoff,
  }
  openedProviders.set(found, { kek: env.SECRETS_KEK, config })
  return config
}

/** The keys that open; one that does not takes none of the others with it. @throws Error where none of them opens. */
async function openKeys(rows: readonly KeyRow[], kek: string): Promise<ProviderKey[]> {
  const keys: ProviderKey[] = []
  let unreadable: string | undefined
  for (const { provider, name, secretCiphertext, weight } of rows) {
    const secret = await openSecret(kek, keySubject(provider, name), secretCiphertext)
    if (secret.ok) {
      keys.push({ name, secret: secret.value, weight })
      continue
    }
    const { reason } = secret.error
    unreadable = `the secret of provider ${provider} (key ${name}) cannot be opened: ${reason}`
    log('error', 'provider_key_unreadable', { provider, key: name, reason })
  }
  if (keys.length === 0 && unreadable !== undefined) throw new Error(unreadable)
  return keys
}

/** Drops this isolate's copies: after a change made through it, it must not lag behind. */
export function forgetCatalog(): void {
  modelCache.clear()
  listCache.clear()
  providerCache.clear()
  markupCache.clear()
}

async function loadModel(database: Database, name: string, nowMs: number): Promise<CatalogModel | undefined> {
  const [row] = await query(database, (db) =>
    db.select({ targets: models.targets, policy: models.policy }).from(models).where(eq(models.name, name)),
  )
  if (row === undefined) return undefined
  const stored = parseStored(row.targets, StoredTargets, 'models.targets')
  const targets = stored.map((target) => ({
    provider: target.provider,
    model: target.model,
    contextTokens: target.context_tokens,
    ...(target.output_tokens_max === undefined ? {} : { outputTokensMax: target.output_tokens_max }),
    ...serviceOf(target.service_tier),
    ...(target.image_tokens_max === undefined ? {} : { imageTokensMax: target.image_tokens_max }),
    ...(target.weight === undefined ? {} : { weight: target.weight }),
    ...(target.region === undefined ? {} : { region: target.region }),
  }))
  const policy = row.policy === null ? defaultModelPolicy() : parseStored(row.policy, ModelPolicy, 'models.policy')
  const book = await findPrices(database, targets, nowMs, PRICE_HORIZON_MS)
  return { targets, prices: targets.map((target) => book.get(priceKey(target)) ?? []), policy }
}

/** The standard service is what a provider gives who asks for none. */
const serviceOf = (tier: string | undefined): Pick<Target, 'serviceTier'> =>
  tier === undefined || tier === STANDARD_TIER ? {} : { serviceTier: tier }

async function loadList(database: Database): Promise<ModelListing[]> {
  const rows = await query(database, (db) =>
    db
      .select({ name: models.name, createdAt: models.createdAt })
      .from(models)
      .orderBy(asc(models.name))
      .limit(LISTED_MODELS_MAX),
  )
  return rows.map(({ name, createdAt }) => ({ name, createdAtMs: Date.parse(createdAt) }))
}

/** With the keys in use, by name. One statement: a key never stands beside an address of another moment. */
async function loadProvider(database: Database, name: string): Promise<CatalogProvider | undefined> {
  const rows = await query(database, (db) =>
    db
      .select({ row: providers, key: providerKeys })
      .from(providers)
      .leftJoin(providerKeys, and(eq(providerKeys.provider, providers.name), isNull(providerKeys.disabledAt)))
      .where(eq(providers.name, name))
      .orderBy(asc(providerKeys.name)),
  )
  const [first] = rows
  return first && { row: first.row, keys: rows.flatMap(({ key }) => (key === null ? [] : [key])) }
}

async function unlessUnavailable<T>(work: Promise<T>): Promise<Result<T, Failure>> {
  try {
    return ok(await work)
  } catch (error) {
    if (!(error instanceof DatabaseUnavailable)) throw error
    const message = 'The model catalog cannot be read right now.'
    return err({ code: 'unavailable', message, retryAfterMs: 2_000 })
  }
}

function maySee(principal: Principal, model: string): boolean {
  return principal.modelsAllowed === undefined || principal.modelsAllowed.includes(model)
}

function modelNotFound(name: string): Failure {
  const shown = name.length > 128 ? `${name.slice(0, 128)}…` : name
  return { code: 'model_not_found', message: `There is no model "${shown}".`, param: 'model' }
}
