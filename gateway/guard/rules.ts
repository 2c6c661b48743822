// An organisation's guards as the request path has them. Owns the isolate's copies: a guard fails closed, so without a copy and
// without Postgres a request is refused; with a copy, also with one that says "no guards", it goes on for STALE_MAX_MS.
import { asc, eq } from 'drizzle-orm'
import * as z from 'zod'
import type { Failure } from '../../protocol/errors.ts'
import { late } from '../../protocol/late.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { FactCache } from '../db/cache.ts'
import { connect } from '../db/connect.ts'
import { parseStored } from '../db/json.ts'
import { query } from '../db/orm.ts'
import { type Database, DatabaseUnavailable } from '../db/port.ts'
import { renewed } from '../db/renewed.ts'
import { guardHooks, guardSettings, toolCapabilities } from '../db/schema/guards.ts'
import type { Env } from '../env.ts'
import { errorText, log } from '../observe/log.ts'
import { CAPABILITIES, type Capability } from './capability.ts'
import { HOOK_STAGES, type Hook, hookOf, StoredHook } from './hook.ts'
import type { ToolTags } from './rule-of-two.ts'

export type GuardRules = {
  /** In their order, of all projects and both stages. */
  hooks: readonly Hook[]
  tools: ToolTags
}

/** The same as for the catalog, which every request needs as well. */
const LIFETIMES = { freshMs: 10_000, staleMaxMs: 600_000 }
const CACHED_ORGANISATIONS_MAX = 2_000

export const StoredStages = late(() => z.array(z.enum(HOOK_STAGES)).min(1))
export const StoredCapabilities = late(() => z.array(z.enum(CAPABILITIES)))

/** What a tool without a tag can reach. */
const UNTAGGED: Readonly<Record<'none' | 'all', readonly Capability[]>> = { none: [], all: CAPABILITIES }

const cache = new FactCache<GuardRules>(CACHED_ORGANISATIONS_MAX)

/** @returns Failure `unavailable` where nobody can tell now what has to be checked. */
export async function findGuards(orgId: string, env: Env, nowMs: number): Promise<Result<GuardRules, Failure>> {
  try {
    return ok(await renewed(cache, orgId, nowMs, LIFETIMES, () => loadGuards(connect(env), orgId)))
  } catch (error) {
    if (!(error instanceof DatabaseUnavailable))
      log('error', 'guards_unreadable', { org: orgId, error: errorText(error) })
    const message = 'The content rules of this organisation cannot be read right now.'
    return err({ code: 'unavailable', message, retryAfterMs: 2_000 })
  }
}

/** Drops this isolate's copies: after a change made through it, it must not lag behind. */
export function forgetGuards(): void {
  cache.clear()
}

/** @throws Error where a stored rule cannot be run: going on without it would be worse. */
async function loadGuards(database: Database, orgId: string): Promise<GuardRules> {
  const [hookRows, tagRows, settings] = await Promise.all([
    query(database, (db) =>
      db.select().from(guardHooks).where(eq(guardHooks.orgId, orgId)).orderBy(asc(guardHooks.position)),
    ),
    query(database, (db) => db.select().from(toolCapabilities).where(eq(toolCapabilities.orgId, orgId))),
    query(database, (db) => db.select().from(guardSettings).where(eq(guardSettings.orgId, orgId))),
  ])
  const tags = tagRows.map(({ pattern, capabilities }) => ({
    pattern,
    capabilities: parseStored(capabilities, StoredCapabilities, 'tool_capabilities.capabilities'),
  }))
  const untagged = UNTAGGED[settings[0]?.untaggedTools ?? 'none']
  return { hooks: hookRows.map(runnable), tools: { tags, untagged } }
}

function runnable(row: typeof guardHooks.$inferSelect): Hook {
  const { hookId, name, projectId, secretCiphertext } = row
  const identity = {
    hookId,
    name,
    stages: parseStored(row.stages, StoredStages, 'guard_hooks.stages'),
    ...(projectId === null ? {} : { projectId }),
    ...(secretCiphertext === null ? {} : { secretCiphertext }),
  }
  const hook = hookOf(identity, storedHook(row))
  if (!hook.ok) throw new Error(`content rule ${hookId} cannot be run: ${hook.error.param} ${hook.error.message}`)
  return hook.value
}

/** What a row says of its rule. @throws Error where it says something else. */
export function storedHook({ kind, settings }: Pick<typeof guardHooks.$inferSelect, 'kind' | 'settings'>): StoredHook {
  return parseStored(`{"kind":${JSON.stringify(kind)},"settings":${settings}}`, StoredHook, 'guard_hooks.settings')
}
