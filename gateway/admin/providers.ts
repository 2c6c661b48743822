// Upstream providers in the admin API. Owns their HTTP form; their keys are provider-keys.ts. A secret goes in and never comes
// out: no answer, log, error or audit row has any part of it, and none follows its provider to another host.
import { and, asc, eq, inArray } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { models, providerKeys, providers } from '../db/schema/catalog.ts'
import { completeProvider, providerFields, secretFault } from '../policy/provider-form.ts'
import { DEFAULT_KEY } from '../policy/secrets.ts'
import { FLEET, ProviderName } from '../policy/targets.ts'
import { audited } from './audit.ts'
import { changeCatalog } from './catalog-change.ts'
import {
  deleteOtherKeys,
  deleteProviders,
  fieldsOf,
  type KeyRow,
  keyRow,
  keyView,
  normalModel,
  type ProviderRow,
  providerRow,
  putKeys,
  putProviders,
} from './catalog-rows.ts'
import { type AdminContext, type AdminEnv, conflict, invalid, notFound } from './context.ts'
import { fieldPath, readInput, readQuery } from './input.ts'
import { after, PageQuery, pageOf } from './paging.ts'
import { providerHealth } from './provider-health.ts'
import { isOtherHost, sealedFor } from './provider-secrets.ts'

const ProviderInput = z.strictObject({
  ...providerFields(),
  /** Of the key `default`. Kept as it is where absent on a later call. */
  secret: z.string().optional(),
})
/** Names of a refusal: enough to go and look. */
const MODELS_NAMED_MAX = 5

export const providerRoutes = new Hono<AdminEnv>()
  .get('/', async (c) => {
    const { limit, cursor } = readQuery(c, PageQuery)
    const database = connect(c.env)
    const rows = await query(database, (db) =>
      db
        .select()
        .from(providers)
        .where(and(after(cursor, providers.name)))
        .orderBy(asc(providers.name))
        .limit(limit + 1),
    )
    const names = rows.map(({ name }) => name)
    const keys = names.length === 0 ? [] : await keysOf(database, names)
    return c.json(
      pageOf(
        rows,
        limit,
        (row) => [row.name],
        (row) => providerView(row, keys),
      ),
    )
  })
  .get('/health', providerHealth)
  .get('/:name', async (c) => {
    const database = connect(c.env)
    const row = await requireProvider(database, providerParam(c))
    return c.json(providerView(row, await keysOf(database, [row.name])))
  })
  .put('/:name', put)
  .delete('/:name', async (c) => {
    const name = providerParam(c)
    await changeCatalog(c, async (database) => {
      const row = await requireProvider(database, name)
      const users = await modelsOf(database, name)
      if (users.length > 0) {
        const named = users.slice(0, MODELS_NAMED_MAX).join(', ')
        const more = users.length > MODELS_NAMED_MAX ? ` and ${users.length - MODELS_NAMED_MAX} more` : ''
        throw conflict(`The provider is a target of the models ${named}${more}; take it out of them first.`)
      }
      const details = { kind: row.kind, base_url: row.baseUrl }
      return {
        statements: [...deleteProviders([name]), audited(c, { action: 'provider.delete', objectId: name, details })],
        answer: undefined,
      }
    })
    return c.json({ deleted: true })
  })

async function put(c: AdminContext) {
  const name = providerParam(c)
  const { secret, ...form } = await readInput(c, ProviderInput)
  const completed = completeProvider(form)
  if (!completed.ok) throw invalid(fieldPath(completed.error.path), completed.error.message)
  const fields = completed.value
  const fault = secret === undefined ? undefined : secretFault(fields.kind, secret)
  if (fault !== undefined) throw invalid('secret', fault)
  const view = await changeCatalog(c, async (database) => {
    const [existing, keys] = await Promise.all([providerByName(database, name), keysOf(database, [name])])
    const moves = existing !== undefined && isOtherHost(existing.baseUrl, fields.base_url)
    if (secret === undefined && existing === undefined) throw invalid('secret', 'is required for a new provider')
    if (secret === undefined && moves) throw invalid('secret', 'is required when the host of base_url changes')
    const nowIso = new Date().toISOString()
    const row = providerRow(name, fields, existing, nowIso)
    const others = keys.filter((key) => key.name !== DEFAULT_KEY)
    const before = keys.find((key) => key.name === DEFAULT_KEY)
    const first =
      secret === undefined
        ? before
        : keyRow(name, DEFAULT_KEY, await sealedFor(c.env, name, DEFAULT_KEY, secret), {}, before, nowIso)
    const stays = [...(first === undefined ? [] : [first]), ...(moves ? [] : others)]
    const details = {
      ...fields,
      secret_replaced: secret !== undefined,
      ...(moves && others.length > 0 ? { keys_dropped: others.map((key) => key.name) } : {}),
    }
    return {
      statements: [
        ...putProviders([row]),
        ...(secret === undefined || first === undefined ? [] : putKeys([first])),
        ...(moves ? [deleteOtherKeys(name, [DEFAULT_KEY])] : []),
        audited(c, { action: 'provider.put', objectId: name, details }),
      ],
      answer: providerView(row, stays),
    }
  })
  return c.json(view)
}

export async function requireProvider(database: Database, name: string): Promise<ProviderRow> {
  const row = await providerByName(database, name)
  if (row === undefined) throw notFound('provider')
  return row
}

async function providerByName(database: Database, name: string): Promise<ProviderRow | undefined> {
  const [row] = await query(database, (db) => db.select().from(providers).where(eq(providers.name, name)))
  return row
}

/** By name. */
export const keysOf = (database: Database, names: string[]): Promise<KeyRow[]> =>
  query(database, (db) =>
    db.select().from(providerKeys).where(inArray(providerKeys.provider, names)).orderBy(asc(providerKeys.name)),
  )

/** Names of the models that have the provider among their targets. */
async function modelsOf(database: Database, provider: string): Promise<string[]> {
  const rows = await query(database, (db) => db.select().from(models).orderBy(asc(models.name)))
  return rows
    .filter((row) => normalModel(row).targets.some((target) => target.provider === provider))
    .map(({ name }) => name)
}

export function providerParam(c: AdminContext): string {
  const parsed = ProviderName.safeParse(c.req.param('name'))
  if (!parsed.success) throw invalid('name', parsed.error.issues[0]?.message ?? 'is not a provider name')
  if (parsed.data === FLEET) throw invalid('name', `"${FLEET}" means the deployment's own backends`)
  return parsed.data
}

/** @param keys May hold those of other providers. */
function providerView(row: ProviderRow, keys: readonly KeyRow[]) {
  return {
    name: row.name,
    ...fieldsOf(row),
    keys: keys
      .filter(({ provider }) => provider === row.name)
      .toSorted((a, b) => (a.name < b.name ? -1 : 1))
      .map(keyView),
    created_at: row.createdAt,
    updated_at: row.updatedAt,
  }
}
