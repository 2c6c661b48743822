// Guards in the admin API: an organisation's content rules and what its tools can reach, each as a whole set; and emptying its
// response cache. Owns their HTTP form; what they do is guard/ and cache/. A webhook's secret goes in and never comes out.
//
//   PUT    /organisations/:org/guard-hooks         {hooks: [{name, kind, stages, project_id?, …settings, secret?}]}; GET
//   PUT    /organisations/:org/tool-capabilities   {untagged, tools: [{pattern, capabilities}]}; GET
//   DELETE /organisations/:org/answer-cache
import { asc, eq } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { answerCacheNames } from '../cache/answer-cache.ts'
import { connect } from '../db/connect.ts'
import { parseStored } from '../db/json.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database, Statement } from '../db/port.ts'
import { guardHooks, guardSettings, toolCapabilities } from '../db/schema/guards.ts'
import { CAPABILITIES } from '../guard/capability.ts'
import { HOOK_SETTINGS, HOOK_STAGES, hookOf } from '../guard/hook.ts'
import { forgetGuards, StoredCapabilities, StoredStages, storedHook } from '../guard/rules.ts'
import { hookSecretName } from '../guard/webhook.ts'
import { sealSecret } from '../policy/secrets.ts'
import { parseUpstreamUrl } from '../policy/upstream-url.ts'
import { told } from './announce.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, invalid, Refusal } from './context.ts'
import { idParam, readInput, Slug } from './input.ts'
import { findProject, requireOrganisation } from './organisations.ts'
import { requirePermission } from './permissions.ts'

/** Every request runs through all of them. */
const HOOKS_MAX = 32
const TOOLS_MAX = 500
/** Room for both sets at their bounds. */
const BODY_BYTES_MAX = 512 * 1024

const hookFields = {
  name: Slug,
  stages: z
    .array(z.enum(HOOK_STAGES))
    .min(1)
    .refine((all) => new Set(all).size === all.length, 'must not name a stage twice'),
  /** Absent: every project of the organisation. */
  project_id: z.uuid().toLowerCase().optional(),
}
const HookInput = z.discriminatedUnion('kind', [
  HOOK_SETTINGS.regex.extend({ kind: z.literal('regex'), ...hookFields }),
  HOOK_SETTINGS.pii.extend({ kind: z.literal('pii'), ...hookFields }),
  HOOK_SETTINGS.webhook.extend({
    kind: z.literal('webhook'),
    ...hookFields,
    /** Kept as it is where absent on a later call. */
    secret: z
      .string()
      .min(16, 'must have at least 16 characters')
      .max(256)
      .regex(/^[\x21-\x7e]+$/, 'must be visible ASCII without spaces')
      .optional(),
  }),
])
type HookInput = z.infer<typeof HookInput>

/** The first of two that have the same name. */
function unique<T>(field: string, nameOf: (one: T) => string) {
  return (all: readonly T[], context: z.RefinementCtx<T[]>) => {
    const seen = new Set<string>()
    for (const [index, one] of all.entries()) {
      if (seen.has(nameOf(one)))
        context.addIssue({ code: 'custom', path: [index, field], message: 'stands there twice' })
      seen.add(nameOf(one))
    }
  }
}

const HooksInput = z.strictObject({
  hooks: z
    .array(HookInput)
    .max(HOOKS_MAX)
    .superRefine(unique('name', (hook: HookInput) => hook.name)),
})

const ToolTagInput = z.strictObject({
  pattern: z
    .string()
    .regex(
      /^(?:[A-Za-z0-9_.-]{1,128}|[A-Za-z0-9_.-]{0,128}\*)$/,
      'must be the name of a tool, or its beginning and "*"',
    ),
  capabilities: z.array(z.enum(CAPABILITIES)).max(CAPABILITIES.length),
})
const ToolsInput = z.strictObject({
  /** What a tool without a tag can reach. */
  untagged: z.enum(['none', 'all']).default('none'),
  tools: z
    .array(ToolTagInput)
    .max(TOOLS_MAX)
    .superRefine(unique('pattern', (tool: z.infer<typeof ToolTagInput>) => tool.pattern)),
})

type HookRow = typeof guardHooks.$inferSelect

export const guardRoutes = new Hono<AdminEnv>()
  .get('/:org/guard-hooks', async (c) => c.json({ hooks: (await hookRows(...(await place(c)))).map(hookView) }))
  .put('/:org/guard-hooks', replaceHooks)
  .get('/:org/tool-capabilities', async (c) => c.json(await toolsView(...(await place(c)))))
  .put('/:org/tool-capabilities', replaceTools)
  .delete('/:org/answer-cache', async (c) => {
    const [database, orgId] = await place(c)
    await database.batch([audited(c, { action: 'answer_cache.clear', orgId, objectId: orgId, details: {} })])
    await told(answerCacheNames(orgId).map((name) => c.env.ANSWER_CACHE.getByName(name).clear()))
    return c.json({ deleted: true })
  })

async function place(c: AdminContext): Promise<[database: Database, orgId: string]> {
  const orgId = idParam(c, 'org', 'organisation')
  const database = connect(c.env)
  await requireOrganisation(database, orgId)
  return [database, orgId]
}

/** Replaces the whole set; an empty one lifts every rule. Safe to repeat. */
async function replaceHooks(c: AdminContext) {
  const [database, orgId] = await place(c)
  const { hooks } = await readInput(c, HooksInput, BODY_BYTES_MAX)
  const before = await hookRows(database, orgId)
  const rows: HookRow[] = []
  for (const [position, input] of hooks.entries()) {
    rows.push(
      await hookRow(c, { database, orgId, position, before: before.find(({ name }) => name === input.name) }, input),
    )
  }
  await replace(database, orgId, undefined, [
    toStatement(builder.delete(guardHooks).where(eq(guardHooks.orgId, orgId))),
    ...(rows.length === 0 ? [] : [toStatement(builder.insert(guardHooks).values(rows))]),
    audited(c, {
      action: 'guard_hooks.replace',
      orgId,
      objectId: orgId,
      details: { before: before.map(hookView), after: rows.map(hookView) },
    }),
  ])
  return c.json({ hooks: rows.map(hookView) })
}

async function replaceTools(c: AdminContext) {
  const [database, orgId] = await place(c)
  const { untagged, tools } = await readInput(c, ToolsInput, BODY_BYTES_MAX)
  const before = await toolsView(database, orgId)
  const rows = tools.map(({ pattern, capabilities }) => ({
    orgId,
    pattern,
    capabilities: JSON.stringify([...new Set(capabilities)]),
  }))
  await replace(database, orgId, untagged, [
    toStatement(builder.delete(toolCapabilities).where(eq(toolCapabilities.orgId, orgId))),
    ...(rows.length === 0 ? [] : [toStatement(builder.insert(toolCapabilities).values(rows))]),
    audited(c, {
      action: 'tool_capabilities.replace',
      orgId,
      objectId: orgId,
      details: { before, after: { untagged, tools } },
    }),
  ])
  return c.json(await toolsView(database, orgId))
}

/**
 * One replacement of an organisation's guards after the other: the settings' row, written first, makes them wait.
 * @param untagged Absent: as it is.
 */
async function replace(
  database: Database,
  orgId: string,
  untagged: 'none' | 'all' | undefined,
  statements: Statement[],
): Promise<void> {
  const updatedAt = new Date().toISOString()
  const settings = builder
    .insert(guardSettings)
    .values({ orgId, untaggedTools: untagged ?? 'none', updatedAt })
    .onConflictDoUpdate({
      target: guardSettings.orgId,
      set: { ...(untagged === undefined ? {} : { untaggedTools: untagged }), updatedAt },
    })
  try {
    await database.batch([toStatement(settings), ...statements])
  } finally {
    forgetGuards()
  }
}

type HookPlace = { database: Database; orgId: string; position: number; before: HookRow | undefined }

/** @throws Refusal naming the field, where the rule could not be run as it is */
async function hookRow(
  c: AdminContext,
  { database, orgId, position, before }: HookPlace,
  input: HookInput,
): Promise<HookRow> {
  const at = (field: string) => `hooks[${position}].${field}`
  const projectId = input.project_id ?? null
  if (projectId !== null && (await findProject(database, orgId, projectId)) === undefined) {
    throw invalid(at('project_id'), 'is not a project of this organisation')
  }
  const hookId = before?.hookId ?? crypto.randomUUID()
  const { name, kind, stages } = input
  let settings: object
  let secretCiphertext: string | null = null
  if (input.kind === 'webhook') {
    const { url: asked, secret, allow_private, timeout_ms, on_failure, message } = input
    const url = parseUpstreamUrl(asked, { allowPrivate: allow_private })
    if (!url.ok) throw invalid(at('url'), url.error)
    settings = { url: url.value, allow_private, timeout_ms, on_failure, message }
    secretCiphertext = await ciphertextFor(c, at('secret'), hookId, { secret, url: url.value, before })
  } else {
    const { name: _name, kind: _kind, stages: _stages, project_id: _project, ...rest } = input
    settings = rest
  }
  const now = new Date().toISOString()
  const row: HookRow = {
    orgId,
    hookId,
    name,
    projectId,
    position,
    kind,
    stages: JSON.stringify(stages),
    settings: JSON.stringify(settings),
    secretCiphertext,
    createdAt: before?.createdAt ?? now,
    updatedAt: now,
  }
  const identity = { hookId, name, stages, ...(secretCiphertext === null ? {} : { secretCiphertext }) }
  const runnable = hookOf(identity, storedHook(row))
  if (!runnable.ok) throw invalid(at(runnable.error.param), runnable.error.message)
  return row
}

/**
 * The new secret sealed, or the one that is there. Where a webhook goes is the deployment's to say: it sees prompts and
 * answers, and its address is called from inside. A secret never follows it to another host.
 */
async function ciphertextFor(
  c: AdminContext,
  param: string,
  hookId: string,
  { secret, url, before }: { secret: string | undefined; url: string; before: HookRow | undefined },
): Promise<string> {
  const known = before?.kind === 'webhook' ? storedHook(before) : undefined
  const knownUrl = known?.kind === 'webhook' ? known.settings.url : undefined
  if (knownUrl !== url) requirePermission(c.get('actor'), 'operator')
  if (secret === undefined) {
    const isSameHost = knownUrl !== undefined && new URL(knownUrl).origin === new URL(url).origin
    if (isSameHost && before?.secretCiphertext != null) return before.secretCiphertext
    throw invalid(param, 'is required for a new webhook, and where its host changes')
  }
  const random = (count: number) => crypto.getRandomValues(new Uint8Array(count))
  const sealed = await sealSecret(c.env.SECRETS_KEK, hookSecretName(hookId), secret, random)
  if (sealed.ok) return sealed.value
  const message = 'Secrets cannot be stored: SECRETS_KEK is not 32 bytes in base64.'
  throw new Refusal({ code: 'unavailable', message })
}

const hookRows = (database: Database, orgId: string): Promise<HookRow[]> =>
  query(database, (db) =>
    db.select().from(guardHooks).where(eq(guardHooks.orgId, orgId)).orderBy(asc(guardHooks.position)),
  )

function hookView(row: HookRow) {
  return {
    id: row.hookId,
    name: row.name,
    kind: row.kind,
    stages: parseStored(row.stages, StoredStages, 'guard_hooks.stages'),
    project_id: row.projectId,
    ...storedHook(row).settings,
    created_at: row.createdAt,
    updated_at: row.updatedAt,
  }
}

async function toolsView(database: Database, orgId: string) {
  const [rows, [settings]] = await Promise.all([
    query(database, (db) =>
      db
        .select()
        .from(toolCapabilities)
        .where(eq(toolCapabilities.orgId, orgId))
        .orderBy(asc(toolCapabilities.pattern)),
    ),
    query(database, (db) => db.select().from(guardSettings).where(eq(guardSettings.orgId, orgId))),
  ])
  return {
    untagged: settings?.untaggedTools ?? 'none',
    tools: rows.map(({ pattern, capabilities }) => ({
      pattern,
      capabilities: parseStored(capabilities, StoredCapabilities, 'tool_capabilities.capabilities'),
    })),
  }
}
