// The catalog as one document in the admin API: what stands, what a document would change, applying it, going back. Owns the
// HTTP form and that a dry run answers the plan that applying would carry out; the plan is config-plan.ts.
import { and, desc, lt } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { configVersions } from '../db/schema/catalog.ts'
import { diffConfig, type ObjectChange } from '../policy/config-diff.ts'
import { ConfigDocument, configJsonSchema, documentOf, type NormalConfig } from '../policy/config-document.ts'
import { audited } from './audit.ts'
import { changeCatalog } from './catalog-change.ts'
import { normalOf, readCatalog } from './catalog-rows.ts'
import { type ConfigPlan, planConfig, secretsOf, statementsOf, type Wanted } from './config-plan.ts'
import {
  lastVersion,
  stateOf,
  versionByNumber,
  versionDocument,
  versionStatements,
  versionView,
} from './config-versions.ts'
import { type AdminContext, type AdminEnv, conflict, notFound } from './context.ts'
import { readInput, readQuery } from './input.ts'
import { pageParameters } from './paging.ts'

/** Two thousand models of a few targets each. */
const BODY_BYTES_MAX = 2 * 1024 * 1024
/** Names of changed objects in an audit row; the versions hold everything. */
const AUDITED_CHANGES_MAX = 500
const NOTE_CHARS_MAX = 500
const DRIFT_NOTE = 'What stood before the next version, after changes by other calls.'

const versionNumber = z.number().int().min(1)
const common = {
  /** By provider and key, for keys whose secret is not to be kept. */
  secrets: z.record(z.string().max(63), z.record(z.string().max(63), z.string())).default({}),
  /** Answers the plan and changes nothing. */
  dry_run: z.boolean().default(false),
  /** Fails where the last version is another one. 0: there is none yet. */
  expected_version: versionNumber.or(z.literal(0)).optional(),
  note: z
    .string()
    .min(1)
    .max(NOTE_CHARS_MAX)
    .regex(/^[^\p{Cc}]*$/u, 'must not hold control characters')
    .optional(),
}
const ApplyInput = z.strictObject({
  document: ConfigDocument,
  /** Removes what the document does not name. */
  prune: z.boolean().default(false),
  ...common,
})
const RollbackInput = z.strictObject({ version: versionNumber, ...common })
type Common = Omit<z.infer<typeof RollbackInput>, 'version'>

const DiffNumber = z
  .string()
  .regex(/^[1-9]\d{0,14}$/, 'must be the number of a version')
  .transform(Number)
const DiffQuery = z.strictObject({ from: DiffNumber, to: DiffNumber.optional() })

const VersionsQuery = z.strictObject({
  limit: pageParameters.limit,
  /** The version below which the page begins, as the page before told it. */
  cursor: z
    .string()
    .regex(/^[1-9]\d{0,14}$/, 'is not a cursor of this list')
    .transform(Number)
    .optional(),
})

export const configRoutes = new Hono<AdminEnv>()
  .get('/', async (c) => {
    const { last, state } = await readState(connect(c.env))
    const known = last === undefined ? undefined : stateOf(last)
    return c.json({
      version: last?.version ?? 0,
      document: documentOf(state),
      // What other calls have changed since that version; absent where the version cannot be compared.
      ...(known === undefined ? {} : { drift: diffConfig(known, state) }),
    })
  })
  .get('/schema', (c) => c.json(configJsonSchema()))
  .get('/versions', async (c) => {
    const { limit, cursor } = readQuery(c, VersionsQuery)
    const { version, checksum, appliedAt, actor, note } = configVersions
    const rows = await query(connect(c.env), (db) =>
      db
        .select({ version, checksum, appliedAt, actor, note })
        .from(configVersions)
        .where(and(cursor === undefined ? undefined : lt(version, cursor)))
        .orderBy(desc(version))
        .limit(limit + 1),
    )
    const page = rows.slice(0, limit)
    const lowest = page.at(-1)?.version
    const hasMore = rows.length > limit && lowest !== undefined
    return c.json({ data: page.map(versionView), ...(hasMore ? { next_cursor: String(lowest) } : {}) })
  })
  /** What turns one version into another, or into what stands. */
  .get('/diff', async (c) => {
    const { from, to } = readQuery(c, DiffQuery)
    const database = connect(c.env)
    const stood = async (version: number) => {
      const state = stateOf(await requireVersion(database, version))
      if (state === undefined) throw conflict(`Version ${version} has a form that this build does not read.`)
      return state
    }
    const before = await stood(from)
    const changes = diffConfig(before, to === undefined ? (await readState(database)).state : await stood(to))
    return c.json({ from, to: to ?? null, changes, summary: summaryOf(changes) })
  })
  .get('/versions/:version', async (c) => {
    const row = await requireVersion(connect(c.env), Number(/^[1-9]\d{0,14}$/.exec(c.req.param('version'))?.[0] ?? 0))
    return c.json({ ...versionView(row), document: versionDocument(row) })
  })
  .post('/apply', async (c) => {
    const { document, prune, ...rest } = await readInput(c, ApplyInput, BODY_BYTES_MAX)
    const wanted = { document, prune, secrets: secretsOf(document, rest.secrets) }
    return c.json(await change(c, 'config.apply', rest, { prune }, async () => wanted))
  })
  .post('/rollback', async (c) => {
    const { version, ...rest } = await readInput(c, RollbackInput, BODY_BYTES_MAX)
    const wanted = async (database: Database): Promise<Wanted> => {
      const document = versionDocument(await requireVersion(database, version))
      return { document, prune: true, secrets: rest.secrets }
    }
    return c.json(await change(c, 'config.rollback', rest, { to: version }, wanted))
  })

/**
 * Plans and, unless it is a dry run, writes: the rows, the version, and the audit row, or nothing.
 * @throws Refusal `conflict` where the last version is not the expected one.
 */
async function change(
  c: AdminContext,
  action: string,
  { dry_run: isDryRun, expected_version: expected, note }: Common,
  about: Record<string, unknown>,
  wanted: (database: Database) => Promise<Wanted>,
) {
  return changeCatalog(c, async (database) => {
    const { rows, last, state } = await readState(database)
    const version = last?.version ?? 0
    if (expected !== undefined && expected !== version) {
      throw conflict(`The configuration is at version ${version}, not ${expected}: somebody changed it. Plan again.`)
    }
    const asked = await wanted(database)
    const plan = await planConfig(rows, asked, c.env)
    const answer = { dry_run: isDryRun, version, ...planView(plan) }
    if (isDryRun || (plan.changes.length === 0 && plan.secrets.length === 0)) return { statements: [], answer }
    const nowIso = new Date().toISOString()
    const actor = actorOf(c)
    // Secrets have no history: a change of them alone leaves the document as it is.
    const versions = plan.changes.length === 0 ? [] : [{ state: plan.after, actor, note }]
    if (versions.length > 0 && hasDrifted(last === undefined ? undefined : stateOf(last), state)) {
      versions.unshift({ state, actor, note: DRIFT_NOTE })
    }
    const reached = version + versions.length
    const details = { ...about, version: reached, note, ...auditView(plan) }
    return {
      statements: [
        ...(await statementsOf(plan, rows, asked.secrets, c.env, nowIso)),
        ...(versions.length === 0 ? [] : await versionStatements(version + 1, versions, nowIso)),
        audited(c, { action, objectId: String(reached), details }),
      ],
      answer: { ...answer, version: reached },
    }
  })
}

async function readState(database: Database) {
  const [rows, last] = await Promise.all([readCatalog(database), lastVersion(database)])
  return { rows, last, state: normalOf(rows) }
}

/** Whether going back to what stood now would need a version that nobody has written. */
const hasDrifted = (known: NormalConfig | undefined, state: NormalConfig): boolean =>
  diffConfig(known ?? { providers: {}, models: {} }, state).length > 0

function planView({ changes, secrets }: ConfigPlan) {
  return { changes, secrets, summary: { ...summaryOf(changes), secrets: secrets.length } }
}

function summaryOf(changes: readonly ObjectChange[]) {
  const count = (action: ObjectChange['action']) => changes.filter((one) => one.action === action).length
  return { added: count('add'), changed: count('change'), removed: count('remove') }
}

const auditView = (plan: ConfigPlan) => ({
  summary: planView(plan).summary,
  changes: plan.changes.slice(0, AUDITED_CHANGES_MAX).map(({ object, name, action }) => ({ object, name, action })),
  secrets: plan.secrets,
})

const actorOf = (c: AdminContext): string => {
  const actor = c.get('actor')
  return actor.kind === 'operator' ? actor.kind : actor.userId
}

async function requireVersion(database: Database, version: number) {
  const row = await versionByNumber(database, version)
  if (row === undefined) throw notFound('version of the configuration')
  return row
}
