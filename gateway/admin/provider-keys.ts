// A provider's keys in the admin API: several spread its load and its rate limits, and one can be exchanged while others work.
// Owns their HTTP form; which one a request uses is routing/.
import { and, eq } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { builder, toStatement } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { providerKeys } from '../db/schema/catalog.ts'
import { KEYS_MAX, KeyName, KeyWeight } from '../policy/config-document.ts'
import { secretFault } from '../policy/provider-form.ts'
import { audited } from './audit.ts'
import { changeCatalog } from './catalog-change.ts'
import { type KeyRow, keyRow, keyView, type ProviderRow, putKeys } from './catalog-rows.ts'
import { type AdminContext, type AdminEnv, conflict, invalid, notFound } from './context.ts'
import { readInput } from './input.ts'
import { sealedFor } from './provider-secrets.ts'
import { keysOf, providerParam, requireProvider } from './providers.ts'

/** What is absent stays as it is; on a new key the weight is 1, and it is used. */
const KeyInput = z.strictObject({
  /** Required for a new key. */
  secret: z.string().optional(),
  weight: KeyWeight.optional(),
  /** A disabled key is kept, and no request uses it. */
  disabled: z.boolean().optional(),
})

export const providerKeyRoutes = new Hono<AdminEnv>()
  .get('/:name/keys', async (c) => {
    const { keys } = await keysOfParam(c, connect(c.env))
    return c.json({ data: keys.map(keyView) })
  })
  .get('/:name/keys/:key', async (c) => {
    const { keys } = await keysOfParam(c, connect(c.env))
    return c.json(keyView(requireKey(keys, keyParam(c))))
  })
  .put('/:name/keys/:key', async (c) => {
    const name = keyParam(c)
    const { secret, ...change } = await readInput(c, KeyInput)
    const view = await changeCatalog(c, async (database) => {
      const { provider, keys } = await keysOfParam(c, database)
      const existing = keys.find((key) => key.name === name)
      const fault = secret === undefined ? undefined : secretFault(provider.kind, secret)
      if (fault !== undefined) throw invalid('secret', fault)
      if (existing === undefined && keys.length >= KEYS_MAX) {
        throw conflict(`The provider has ${KEYS_MAX} keys already; delete one of them first.`)
      }
      const ciphertext =
        secret === undefined ? existing?.secretCiphertext : await sealedFor(c.env, provider.name, name, secret)
      if (ciphertext === undefined) throw invalid('secret', 'is required for a new key')
      const row = keyRow(provider.name, name, ciphertext, change, existing, new Date().toISOString())
      const { weight, disabled } = keyView(row)
      const details = { key: name, weight, disabled, secret_replaced: secret !== undefined }
      return {
        statements: [...putKeys([row]), audited(c, { action: 'provider.key.put', objectId: provider.name, details })],
        answer: keyView(row),
      }
    })
    return c.json(view)
  })
  .delete('/:name/keys/:key', async (c) => {
    const name = keyParam(c)
    await changeCatalog(c, async (database) => {
      const { provider, keys } = await keysOfParam(c, database)
      requireKey(keys, name)
      if (keys.length === 1) throw conflict('It is the last key of the provider; disable it, or delete the provider.')
      const one = and(eq(providerKeys.provider, provider.name), eq(providerKeys.name, name))
      return {
        statements: [
          toStatement(builder.delete(providerKeys).where(one)),
          audited(c, { action: 'provider.key.delete', objectId: provider.name, details: { key: name } }),
        ],
        answer: undefined,
      }
    })
    return c.json({ deleted: true })
  })

async function keysOfParam(c: AdminContext, database: Database): Promise<{ provider: ProviderRow; keys: KeyRow[] }> {
  const provider = await requireProvider(database, providerParam(c))
  return { provider, keys: await keysOf(database, [provider.name]) }
}

function requireKey(keys: readonly KeyRow[], name: string): KeyRow {
  const key = keys.find((one) => one.name === name)
  if (key === undefined) throw notFound('key of this provider')
  return key
}

function keyParam(c: AdminContext): string {
  const parsed = KeyName.safeParse(c.req.param('key'))
  if (!parsed.success) throw invalid('key', parsed.error.issues[0]?.message ?? 'is not a key name')
  return parsed.data
}
