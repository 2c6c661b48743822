// What may be called, where it runs, what it costs. Owns the isolate's copies of the catalog and which of its answers
// a key may see; the rows are written by admin/.
import { asc, eq } from 'drizzle-orm'
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Principal } from '../auth/principal.ts'
import { FactCache } from '../db/cache.ts'
import { connect } from '../db/connect.ts'
import { parseStored } from '../db/json.ts'
import { query } from '../db/orm.ts'
import { PATIENCE_MS, withPatience } from '../db/patience.ts'
import { type Database, DatabaseUnavailable } from '../db/port.ts'
import { models, providers } from '../db/schema/catalog.ts'
import type { Env } from '../env.ts'
import type { PriceQuote } from '../meter/price.ts'
import { findMarkups, type Markup, markupInForce } from './markup.ts'
import type { Plan, ProviderConfig, Target } from './plan.ts'
import { findPrices, type PriceVersion, priceInForce, priceKey } from './price-book.ts'
import { openSecret } from './secrets.ts'
import { ModelName, STANDARD_TIER, StoredTargets } from './targets.ts'

/** How long a change can stay unseen in an isolate. */
const FRESH_MS = 10_000
/** How long the catalog outlives Postgres: prices and targets rarely change within ten minutes. */
const STALE_MAX_MS = 600_000
/** While one request renews a copy, or after that failed, the others go on with it. */
const RENEWAL_MS = 1_000
/** Short: a model that was just added must be there soon. */
const ABSENT_MS = 1_000
/** Prices and mark-ups that begin this soon travel with the copy, so that they start on time even while it is stale. */
const PRICE_HORIZON_MS = STALE_MAX_MS + FRESH_MS
const CACHED_MODELS_MAX = 1_000
const CACHED_PROVIDERS_MAX = 200
const CACHED_ORGANISATIONS_MAX = 2_000
const LISTED_MODELS_MAX = 2_000
const LIST = 'all'

type CatalogModel = { targets: Omit<Target, 'price'>[]; prices: PriceVersion[][] }
export type ModelListing = { name: string; createdAtMs: number }
type ProviderRow = typeof providers.$inferSelect

const modelCache = new FactCache<CatalogModel | undefined>(CACHED_MODELS_MAX)
const listCache = new FactCache<ModelListing[]>(1)
const providerCache = new FactCache<ProviderRow | undefined>(CACHED_PROVIDERS_MAX)
const markupCache = new FactCache<Markup[]>(CACHED_ORGANISATIONS_MAX)

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
      renewed(modelCache, modelName, nowMs, () => loadModel(connect(env), modelName, nowMs)),
      renewed(markupCache, orgId, nowMs, () => findMarkups(connect(env), orgId, nowMs, PRICE_HORIZON_MS)),
    ]),
  )
  if (!found.ok) return found
  const [model, markups] = found.value
  if (model === undefined) return err(modelNotFound(modelName))
  const { targets, prices } = model
  const priceOf = (target: Omit<Target, 'price'>, index: number): PriceQuote | undefined => {
    const quote = priceInForce(prices[index] ?? [], nowMs)
    const basisPoints = markupInForce(markups, target, nowMs)
    return quote === undefined || basisPoints === undefined ? quote : { ...quote, basisPoints }
  }
  return ok({
    model: modelName,
    targets: targets.map((target, index) => ({ ...target, price: priceOf(target, index) })),
  })
}

/** The models this key may use, by name. @returns Failure `unavailable` as in `findPlan`. */
export async function listModels(
  principal: Principal,
  env: Env,
  nowMs: number,
): Promise<Result<ModelListing[], Failure>> {
  const all = await unlessUnavailable(renewed(listCache, LIST, nowMs, () => loadList(connect(env))))
  return all.ok ? ok(all.value.filter(({ name }) => maySee(principal, name))) : all
}

/**
 * A registered upstream with its secret in clear; `undefined` where there is none of this name.
 * @throws DatabaseUnavailable where Postgres is away and this isolate has no copy; Error where the secret does not
 *   open under this deployment's SECRETS_KEK.
 */
export async function findProvider(name: string, env: Env, nowMs: number): Promise<ProviderConfig | undefined> {
  const row = await renewed(providerCache, name, nowMs, () => loadProvider(connect(env), name))
  if (row === undefined) return undefined
  const secret = await openSecret(env.SECRETS_KEK, row.name, row.secretCiphertext)
  if (!secret.ok) throw new Error(`the secret of provider ${row.name} cannot be opened: ${secret.error.reason}`)
  const { kind, baseUrl, usageDialect, cutoff } = row
  return { name: row.name, kind, baseUrl, secret: secret.value, usageDialect, cutoff }
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
    db.select({ targets: models.targets }).from(models).where(eq(models.name, name)),
  )
  if (row === undefined) return undefined
  const stored = parseStored(row.targets, StoredTargets, 'models.targets')
  const targets = stored.map((target) => ({
    provider: target.provider,
    model: target.model,
    contextTokens: target.context_tokens,
    ...(target.output_tokens_max === undefined ? {} : { outputTokensMax: target.output_tokens_max }),
    ...serviceOf(target.service_tier),
  }))
  const book = await findPrices(database, targets, nowMs, PRICE_HORIZON_MS)
  return { targets, prices: targets.map((target) => book.get(priceKey(target)) ?? []) }
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

async function loadProvider(database: Database, name: string): Promise<ProviderRow | undefined> {
  const [row] = await query(database, (db) => db.select().from(providers).where(eq(providers.name, name)))
  return row
}

/** The copy while fresh, else a new one; an older one where Postgres is away or silent. @throws DatabaseUnavailable */
async function renewed<T>(cache: FactCache<T>, key: string, nowMs: number, load: () => Promise<T>): Promise<T> {
  const copy = cache.get(key, nowMs)
  if (copy?.fresh) return copy.value
  cache.postpone(key, nowMs + RENEWAL_MS)
  const renewal = load().then((value) => {
    if (value === undefined) cache.set(key, value, nowMs + ABSENT_MS)
    else cache.set(key, value, nowMs + FRESH_MS, nowMs + STALE_MAX_MS)
    return value
  })
  if (copy === undefined) return renewal
  try {
    const answer = await withPatience(renewal, PATIENCE_MS)
    return answer === undefined ? copy.value : answer.value
  } catch (error) {
    if (error instanceof DatabaseUnavailable) return copy.value
    throw error
  }
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
