// Limits in the admin API: the whole set of one scope at a time. Owns their HTTP form; what they mean is account/.
import { and, asc, eq, type SQL } from 'drizzle-orm'
import { Hono } from 'hono'
import { z } from 'zod'
import { formatUsd } from '../../protocol/units.ts'
import type { LimitRule, LimitScope } from '../account/contract.ts'
import { limitRow, limitRule } from '../auth/key-record.ts'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { apiKeys, limits } from '../db/schema/tenancy.ts'
import { announceScopeChanged, keysOfOrg } from './announce.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, notFound } from './context.ts'
import { idParam, readInput, Usd } from './input.ts'
import { requireKey } from './keys.ts'
import { findProject, requireOrganisation } from './organisations.ts'

/** One per meter and window: there are seven. */
const LIMITS_MAX = 7
/** Far beyond any real rate, and exact as a JSON number. */
const COUNT_MAX = 1_000_000_000_000
/** One thousand million dollars: a sum of a few such still fits 64 bits. */
const BUDGET_MAX_NANO_USD = 1_000_000_000n * 1_000_000_000n

const count = z.int().min(0).max(COUNT_MAX)
const LimitInput = z.discriminatedUnion('meter', [
  z.strictObject({ meter: z.literal('requests'), window: z.enum(['minute', 'hour', 'day']), max: count }),
  z.strictObject({ meter: z.literal('concurrency'), max: count }),
  z.strictObject({
    meter: z.literal('money'),
    window: z.enum(['day', 'month', 'lifetime']),
    max_usd: Usd(BUDGET_MAX_NANO_USD),
  }),
])
type LimitInput = z.infer<typeof LimitInput>

const LimitsInput = z.strictObject({
  limits: z
    .array(LimitInput)
    .max(LIMITS_MAX)
    .superRefine((all, context) => {
      const seen = new Set<string>()
      for (const [index, one] of all.entries()) {
        const key = one.meter === 'concurrency' ? one.meter : `${one.meter} per ${one.window}`
        if (seen.has(key)) context.addIssue({ code: 'custom', path: [index], message: `is a second limit on ${key}` })
        seen.add(key)
      }
    }),
})

/** One place that carries limits, found to exist, and which keys lie under it. */
type Holder = { orgId: string; scope: LimitScope; scopeId: string; keys: SQL | undefined }

export const limitRoutes = new Hono<AdminEnv>()
  .put('/:org/limits', async (c) => replace(c, await orgHolder(c)))
  .get('/:org/limits', async (c) => show(c, await orgHolder(c)))
  .put('/:org/projects/:project/limits', async (c) => replace(c, await projectHolder(c)))
  .get('/:org/projects/:project/limits', async (c) => show(c, await projectHolder(c)))
  .put('/:org/keys/:key/limits', async (c) => replace(c, await keyHolder(c)))
  .get('/:org/keys/:key/limits', async (c) => show(c, await keyHolder(c)))

async function orgHolder(c: AdminContext): Promise<Holder> {
  const orgId = idParam(c, 'org', 'organisation')
  await requireOrganisation(connect(c.env), orgId)
  return { orgId, scope: 'org', scopeId: orgId, keys: keysOfOrg(orgId) }
}

async function projectHolder(c: AdminContext): Promise<Holder> {
  const [orgId, scopeId] = [idParam(c, 'org', 'project'), idParam(c, 'project', 'project')]
  if ((await findProject(connect(c.env), orgId, scopeId)) === undefined) throw notFound('project')
  return { orgId, scope: 'project', scopeId, keys: and(keysOfOrg(orgId), eq(apiKeys.projectId, scopeId)) }
}

async function keyHolder(c: AdminContext): Promise<Holder> {
  const [orgId, scopeId] = [idParam(c, 'org', 'API key'), idParam(c, 'key', 'API key')]
  await requireKey(connect(c.env), orgId, scopeId)
  return { orgId, scope: 'key', scopeId, keys: and(keysOfOrg(orgId), eq(apiKeys.keyId, scopeId)) }
}

/** Replaces the scope's whole set; an empty one lifts every limit. Safe to repeat. */
async function replace(c: AdminContext, holder: Holder) {
  const { limits: input } = await readInput(c, LimitsInput)
  const database = connect(c.env)
  const { orgId, scope, scopeId } = holder
  const rules = input.map((one) => ruleOf(one, scope, scopeId))
  const inserts =
    rules.length === 0 ? [] : [toStatement(builder.insert(limits).values(rules.map((rule) => limitRow(orgId, rule))))]
  await database.batch([
    toStatement(builder.delete(limits).where(ofHolder(holder))),
    ...inserts,
    audited(c, {
      action: 'limits.replace',
      orgId,
      objectId: scopeId,
      details: { scope, limits: rules.map(limitView) },
    }),
  ])
  await announceScopeChanged(c.env, database, holder.keys)
  return c.json(await stored(database, holder))
}

async function show(c: AdminContext, holder: Holder) {
  return c.json(await stored(connect(c.env), holder))
}

async function stored(database: Database, holder: Holder) {
  const rows = await query(database, (db) =>
    db.select().from(limits).where(ofHolder(holder)).orderBy(asc(limits.meter), asc(limits.timeWindow)),
  )
  return { scope: holder.scope, scope_id: holder.scopeId, limits: rows.map((row) => limitView(limitRule(row))) }
}

function ofHolder({ orgId, scope, scopeId }: Holder) {
  return and(eq(limits.orgId, orgId), eq(limits.scope, scope), eq(limits.scopeId, scopeId))
}

function ruleOf(input: LimitInput, scope: LimitScope, scopeId: string): LimitRule {
  if (input.meter !== 'money') return { scope, scopeId, ...input }
  return { scope, scopeId, meter: 'money', window: input.window, maxNanoUsd: input.max_usd }
}

function limitView(rule: LimitRule) {
  switch (rule.meter) {
    case 'requests':
      return { meter: rule.meter, window: rule.window, max: rule.max }
    case 'concurrency':
      return { meter: rule.meter, max: rule.max }
    case 'money':
      return { meter: rule.meter, window: rule.window, max_usd: formatUsd(rule.maxNanoUsd) }
    default:
      return rule satisfies never
  }
}
