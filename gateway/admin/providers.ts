// Upstream providers in the admin API. Owns their HTTP form. The secret goes in and never comes out: no answer, log,
// error or audit row has any part of it.
import { and, asc, eq, sql } from 'drizzle-orm'
import { Hono } from 'hono'
import { z } from 'zod'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { providers } from '../db/schema/catalog.ts'
import { forgetCatalog } from '../policy/catalog.ts'
import { CUTOFF_POLICIES } from '../policy/plan.ts'
import { sealSecret } from '../policy/secrets.ts'
import { FLEET, ProviderName } from '../policy/targets.ts'
import { parseUpstreamUrl } from '../policy/upstream-url.ts'
import { USAGE_DIALECTS } from '../providers/usage-dialect.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, invalid, notFound, Refusal } from './context.ts'
import { readInput, readQuery } from './input.ts'
import { after, PageQuery, pageOf } from './paging.ts'

const ProviderInput = z.strictObject({
  kind: z.literal('openai_compatible'),
  base_url: z.string(),
  /** Lets `base_url` point into a private network, also by plain http. */
  allow_private: z.boolean().default(false),
  /** Kept as it is where absent on a later call. Goes into a header, hence visible ASCII. */
  secret: z
    .string()
    .min(1)
    .max(4096)
    .regex(/^[\x21-\x7e]+$/, 'must be visible ASCII without spaces')
    .optional(),
  /** What its usage objects mean. */
  usage_dialect: z.enum(USAGE_DIALECTS).default('openai'),
  /** What becomes of an answer that is cut off in its middle. */
  cutoff: z.enum(CUTOFF_POLICIES).default('cancel'),
})

type ProviderRow = typeof providers.$inferSelect

export const providerRoutes = new Hono<AdminEnv>()
  .get('/', async (c) => {
    const { limit, cursor } = readQuery(c, PageQuery)
    const rows = await query(connect(c.env), (db) =>
      db
        .select()
        .from(providers)
        .where(and(after(cursor, providers.name)))
        .orderBy(asc(providers.name))
        .limit(limit + 1),
    )
    return c.json(pageOf(rows, limit, (row) => [row.name], providerView))
  })
  .get('/:name', async (c) => {
    const row = await providerByName(connect(c.env), nameParam(c))
    if (row === undefined) throw notFound('provider')
    return c.json(providerView(row))
  })
  .put('/:name', async (c) => {
    const name = nameParam(c)
    const input = await readInput(c, ProviderInput)
    const url = parseUpstreamUrl(input.base_url, { allowPrivate: input.allow_private })
    if (!url.ok) throw invalid('base_url', url.error)
    const database = connect(c.env)
    const existing = await providerByName(database, name)
    const now = new Date().toISOString()
    const row: ProviderRow = {
      name,
      kind: input.kind,
      baseUrl: url.value,
      allowPrivate: input.allow_private,
      secretCiphertext: await ciphertextFor(c, name, input.secret, existing, url.value),
      usageDialect: input.usage_dialect,
      cutoff: input.cutoff,
      createdAt: existing?.createdAt ?? now,
      updatedAt: now,
    }
    const put = builder
      .insert(providers)
      .values(row)
      .onConflictDoUpdate({
        target: providers.name,
        set: {
          kind: sql`excluded.kind`,
          baseUrl: sql`excluded.base_url`,
          allowPrivate: sql`excluded.allow_private`,
          secretCiphertext: sql`excluded.secret_ciphertext`,
          usageDialect: sql`excluded.usage_dialect`,
          cutoff: sql`excluded.cutoff`,
          updatedAt: sql`excluded.updated_at`,
        },
      })
    const { kind, baseUrl, allowPrivate, usageDialect, cutoff } = row
    const details = {
      kind,
      base_url: baseUrl,
      allow_private: allowPrivate,
      usage_dialect: usageDialect,
      cutoff,
      secret_replaced: input.secret !== undefined,
    }
    await database.batch([toStatement(put), audited(c, { action: 'provider.put', objectId: name, details })])
    forgetCatalog()
    return c.json(providerView(row))
  })

/** The new secret sealed, or the one that is there; the latter never follows an upstream to another host. */
async function ciphertextFor(
  c: AdminContext,
  name: string,
  secret: string | undefined,
  existing: ProviderRow | undefined,
  baseUrl: string,
): Promise<string> {
  if (secret === undefined) {
    if (existing === undefined) throw invalid('secret', 'is required for a new provider')
    if (new URL(existing.baseUrl).origin === new URL(baseUrl).origin) return existing.secretCiphertext
    throw invalid('secret', 'is required when the host of base_url changes')
  }
  const random = (count: number) => crypto.getRandomValues(new Uint8Array(count))
  const sealed = await sealSecret(c.env.SECRETS_KEK, name, secret, random)
  if (sealed.ok) return sealed.value
  const message = 'Secrets cannot be stored: SECRETS_KEK is not 32 bytes in base64.'
  throw new Refusal({ code: 'unavailable', message })
}

async function providerByName(database: Database, name: string): Promise<ProviderRow | undefined> {
  const [row] = await query(database, (db) => db.select().from(providers).where(eq(providers.name, name)))
  return row
}

function nameParam(c: AdminContext): string {
  const parsed = ProviderName.safeParse(c.req.param('name'))
  if (!parsed.success) throw invalid('name', parsed.error.issues[0]?.message ?? 'is not a provider name')
  if (parsed.data === FLEET) throw invalid('name', `"${FLEET}" means the deployment's own backends`)
  return parsed.data
}

function providerView(row: ProviderRow) {
  return {
    name: row.name,
    kind: row.kind,
    base_url: row.baseUrl,
    allow_private: row.allowPrivate,
    usage_dialect: row.usageDialect,
    cutoff: row.cutoff,
    created_at: row.createdAt,
    updated_at: row.updatedAt,
  }
}
