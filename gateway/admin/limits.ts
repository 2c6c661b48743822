// Limits in the admin API: the whole set of one place at a time. Owns their HTTP form; what they mean is account/.
//
//   {meter, window, time_zone?, max | max_usd, model?, hard?}
//
// `*` in the place of an id gives each project, team, user, key or end user a limit of its own. An answer has the `version` of the
// place's set; a change that names it as `expected_version` is refused where somebody else was faster.
import { and, asc, eq } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { MAX_END_USER_CHARS } from '../../protocol/request.ts'
import { formatUsd } from '../../protocol/units.ts'
import { EACH, LIMIT_WINDOWS, type LimitRule, type LimitScope } from '../account/limit.ts'
import { type LimitRow, limitRow, limitRule } from '../account/limit-rows.ts'
import { RULES_MAX } from '../account/rule-book.ts'
import { isTimeZone } from '../account/windows.ts'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import { type Database, QueryFailed, type Statement } from '../db/port.ts'
import { limitRules } from '../db/schema/limits.ts'
import { sha256Hex } from '../hash.ts'
import { ModelName } from '../policy/targets.ts'
import { announceRules, bumpRules } from './announce.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, conflict, invalid, notFound } from './context.ts'
import { idParam, readInput, Usd } from './input.ts'
import { requireKey } from './keys.ts'
import { requireUser } from './membership.ts'
import { findProject, requireOrganisation } from './organisations.ts'
import { requireTeam } from './teams.ts'

/** Limits of one place: every meter and window, and some models of their own. */
const LIMITS_MAX = 100
/** Far beyond any real rate, and exact as a JSON number. */
const COUNT_MAX = 1_000_000_000_000
/** One thousand million dollars: a sum of a few such still fits 64 bits. */
const BUDGET_MAX_NANO_USD = 1_000_000_000n * 1_000_000_000n
/** SQLSTATE of the guards below. */
const DIVISION_BY_ZERO = '22012'
/** Of a version: two sets of one place that somebody works on do not share 64 bits. */
const VERSION_CHARS = 16

const count = z.int().min(0).max(COUNT_MAX)
const where = { model: ModelName.optional(), hard: z.boolean().default(true) }
const span = {
  window: z.enum(LIMIT_WINDOWS),
  /** Where days and months begin. */
  time_zone: z.string().max(64).refine(isTimeZone, 'must be the name of an IANA time zone').default('UTC'),
}
const LimitInput = z.discriminatedUnion('meter', [
  z.strictObject({ meter: z.enum(['requests', 'input_tokens', 'output_tokens']), ...span, max: count, ...where }),
  z.strictObject({ meter: z.literal('money'), ...span, max_usd: Usd(BUDGET_MAX_NANO_USD), ...where }),
  z.strictObject({ meter: z.literal('concurrency'), max: count, ...where }),
])
type LimitInput = z.infer<typeof LimitInput>

const LimitsInput = z.strictObject({
  limits: z
    .array(LimitInput)
    .max(LIMITS_MAX)
    .superRefine((all, context) => {
      const seen = new Set<string>()
      for (const [index, one] of all.entries()) {
        const window = one.meter === 'concurrency' ? '' : ` per ${one.window} in ${one.time_zone}`
        const key = `${one.hard ? 'hard' : 'soft'} ${one.meter}${window} for ${one.model ?? 'every model'}`
        if (seen.has(key)) context.addIssue({ code: 'custom', path: [index], message: `is a second limit on ${key}` })
        seen.add(key)
      }
    }),
  /** Fails where the set is another one by now. Absent: it is replaced, whatever it is. */
  expected_version: z.string().max(64).optional(),
})

/** One place that carries limits, found to exist. */
type Holder = { orgId: string; scope: LimitScope; scopeId: string }

export const limitRoutes = new Hono<AdminEnv>()
  .put('/:org/limits', async (c) => replace(c, await orgHolder(c)))
  .get('/:org/limits', async (c) => show(c, await orgHolder(c)))
  .put('/:org/projects/:project/limits', async (c) => replace(c, await projectHolder(c)))
  .get('/:org/projects/:project/limits', async (c) => show(c, await projectHolder(c)))
  .put('/:org/keys/:key/limits', async (c) => replace(c, await keyHolder(c)))
  .get('/:org/keys/:key/limits', async (c) => show(c, await keyHolder(c)))
  .put('/:org/teams/:team/limits', async (c) => replace(c, await teamHolder(c)))
  .get('/:org/teams/:team/limits', async (c) => show(c, await teamHolder(c)))
  .put('/:org/users/:user/limits', async (c) => replace(c, await userHolder(c)))
  .get('/:org/users/:user/limits', async (c) => show(c, await userHolder(c)))
  .put('/:org/end-users/:end_user/limits', async (c) => replace(c, await endUserHolder(c)))
  .get('/:org/end-users/:end_user/limits', async (c) => show(c, await endUserHolder(c)))

async function orgHolder(c: AdminContext): Promise<Holder> {
  const orgId = idParam(c, 'org', 'organisation')
  await requireOrganisation(connect(c.env), orgId)
  return { orgId, scope: 'org', scopeId: orgId }
}

const projectHolder = (c: AdminContext) =>
  holder(c, 'project', async (database, orgId) => {
    const scopeId = idParam(c, 'project', 'project')
    if ((await findProject(database, orgId, scopeId)) === undefined) throw notFound('project')
    return scopeId
  })

/** All keys of a line of rotations have the same limits. */
const keyHolder = (c: AdminContext) =>
  holder(c, 'key', async (database, orgId) => {
    const { keyId, lineId } = await requireKey(database, orgId, idParam(c, 'key', 'API key'))
    return lineId ?? keyId
  })

const teamHolder = (c: AdminContext) =>
  holder(c, 'team', async (database, orgId) => {
    const scopeId = idParam(c, 'team', 'team')
    await requireTeam(database, orgId, scopeId)
    return scopeId
  })

const userHolder = (c: AdminContext) =>
  holder(c, 'user', async (database, orgId) => {
    const scopeId = idParam(c, 'user', 'user')
    await requireUser(database, orgId, scopeId)
    return scopeId
  })

/** End users are known to the caller alone: any name of theirs may have limits. */
const endUserHolder = (c: AdminContext) =>
  holder(c, 'end_user', async (database, orgId) => {
    await requireOrganisation(database, orgId)
    const name = c.req.param('end_user') ?? ''
    if (name === '' || name.length > MAX_END_USER_CHARS || /\p{Cc}/u.test(name) || !name.isWellFormed())
      throw notFound('end user')
    return name
  })

/** @param find The id of the place in the path, after a look whether it exists. */
async function holder(
  c: AdminContext,
  scope: Exclude<LimitScope, 'org'>,
  find: (database: Database, orgId: string) => Promise<string>,
): Promise<Holder> {
  const orgId = idParam(c, 'org', 'organisation')
  const database = connect(c.env)
  if (c.req.param(scope) !== EACH) return { orgId, scope, scopeId: await find(database, orgId) }
  await requireOrganisation(database, orgId)
  return { orgId, scope, scopeId: EACH }
}

/** Replaces the place's whole set; an empty one lifts every limit. Safe to repeat. */
async function replace(c: AdminContext, place: Holder) {
  const { limits: input, expected_version: expected } = await readInput(c, LimitsInput)
  const database = connect(c.env)
  const { orgId, scope, scopeId } = place
  const before = await rowsOf(database, place)
  if (expected !== undefined && expected !== versionOf(before)) throw changedMeanwhile()
  const nowIso = new Date().toISOString()
  const rows = input.map((one) => {
    const made = limitRow(orgId, ruleOf(one, crypto.randomUUID(), place), nowIso)
    // What stays as it is keeps its identity, and with it what was already told about it.
    return before.find((row) => meaningOf(row) === meaningOf(made)) ?? made
  })
  await database
    .batch([
      bumpRules(orgId),
      ...(expected === undefined ? [] : [stillStand(place, before)]),
      toStatement(builder.delete(limitRules).where(ofHolder(place))),
      ...(rows.length === 0 ? [] : [toStatement(builder.insert(limitRules).values(rows))]),
      rulesBound(orgId),
      audited(c, {
        action: 'limits.replace',
        orgId,
        objectId: scopeId,
        details: { scope, limits: rows.map((row) => limitView(limitRule(row))) },
      }),
    ])
    .catch(async (error: unknown) => {
      if (!(error instanceof QueryFailed && error.sqlState === DIVISION_BY_ZERO)) throw error
      // Two guards, one SQLSTATE: which of them it was the rows say.
      if (expected !== undefined && expected !== versionOf(await rowsOf(database, place))) throw changedMeanwhile()
      throw invalid('limits', `would be more than the ${RULES_MAX} limits an organisation can have`)
    })
  await announceRules(c.env, orgId)
  return c.json(await stored(database, place))
}

async function show(c: AdminContext, place: Holder) {
  return c.json(await stored(connect(c.env), place))
}

async function stored(database: Database, place: Holder) {
  const rows = await rowsOf(database, place)
  return {
    scope: place.scope,
    scope_id: place.scopeId,
    version: versionOf(rows),
    limits: rows.map((row) => limitView(limitRule(row))),
  }
}

const idsOf = (rows: readonly LimitRow[]): string =>
  rows
    .map(({ limitId }) => limitId)
    .sort()
    .join(',')

/** Of a place's set: a limit that says something else has another id, so the ids say which set it is. */
const versionOf = (rows: readonly LimitRow[]): string => sha256Hex(idsOf(rows)).slice(0, VERSION_CHARS)

const changedMeanwhile = () =>
  conflict('These limits are no longer those of `expected_version`: somebody changed them. Read them again.')

const rowsOf = (database: Database, place: Holder): Promise<LimitRow[]> =>
  query(database, (db) =>
    db
      .select()
      .from(limitRules)
      .where(ofHolder(place))
      .orderBy(asc(limitRules.meter), asc(limitRules.timeWindow), asc(limitRules.model), asc(limitRules.limitId)),
  )

function ofHolder({ orgId, scope, scopeId }: Holder) {
  return and(eq(limitRules.orgId, orgId), eq(limitRules.scope, scope), eq(limitRules.scopeId, scopeId))
}

/** Two rows of one place that say the same thing. */
const meaningOf = ({ meter, timeWindow, timeZone, model, hard, maxCount, maxNanoUsd }: LimitRow): string =>
  [meter, timeWindow, timeZone, model, hard, maxCount, maxNanoUsd].join('|')

/** Fails where the place has other limits than were read. Behind the statement that makes changes wait for each other. */
const stillStand = ({ orgId, scope, scopeId }: Holder, rows: readonly LimitRow[]): Statement => ({
  text: `SELECT 1 / (CASE WHEN coalesce(string_agg(limit_id::text, ',' ORDER BY limit_id), '') = $4 THEN 1 ELSE 0 END)
    FROM limit_rules WHERE org_id = $1 AND scope = $2 AND scope_id = $3`,
  params: [orgId, scope, scopeId, idsOf(rows)],
})

/**
 * Fails where the organisation now has more limits than its account can hold. In the transaction that adds them, after
 * the statement that makes such transactions wait for each other.
 */
const rulesBound = (orgId: string): Statement => ({
  text: `SELECT 1 / (CASE WHEN count(*) > ${RULES_MAX} THEN 0 ELSE 1 END) FROM limit_rules WHERE org_id = $1`,
  params: [orgId],
})

function ruleOf(input: LimitInput, limitId: string, { scope, scopeId }: Holder): LimitRule {
  const { hard, model } = input
  const place = { limitId, scope, scopeId, hard, ...(model === undefined ? {} : { model }) }
  if (input.meter === 'concurrency') return { ...place, meter: input.meter, max: input.max }
  const range = { window: input.window, timeZone: input.time_zone }
  if (input.meter === 'money') return { ...place, ...range, meter: input.meter, maxNanoUsd: input.max_usd }
  return { ...place, ...range, meter: input.meter, max: input.max }
}

function limitView(rule: LimitRule) {
  const { limitId: id, meter, hard, model } = rule
  const place = { id, meter, ...(model === undefined ? {} : { model }), hard }
  if (rule.meter === 'concurrency') return { ...place, max: rule.max }
  const range = { window: rule.window, time_zone: rule.timeZone }
  if (rule.meter === 'money') return { ...place, ...range, max_usd: formatUsd(rule.maxNanoUsd) }
  return { ...place, ...range, max: rule.max }
}
