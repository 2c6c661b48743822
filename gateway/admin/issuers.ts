// Issuers of tokens in the admin API. Owns their HTTP form and who may trust whom: what a token can do at most is bounded
// by `max_role`, and whoever registers an issuer has to have that role's rights. Checking tokens is auth/token.ts.
import { and, desc, eq } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import type { Actor } from '../auth/actor.ts'
import { Algorithms } from '../auth/issuers.ts'
import { parseJwks } from '../auth/key-sets.ts'
import { ROLES } from '../auth/roles.ts'
import { connect } from '../db/connect.ts'
import { parseStored } from '../db/json.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import { type Database, QueryFailed, UNIQUE_VIOLATION } from '../db/port.ts'
import { tokenIssuers } from '../db/schema/people.ts'
import { parseUpstreamUrl } from '../policy/upstream-url.ts'
import { announceTokens } from './announce-user.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, conflict, invalid, notFound } from './context.ts'
import { DisplayName, idParam, readInput } from './input.ts'
import { listOfOrganisation } from './organisation-list.ts'
import { findProject, requireOrganisation } from './organisations.ts'
import { olderThan } from './paging.ts'
import { denied, requireCover } from './permissions.ts'

const CLOCK_SKEW_MAX_S = 60
const CLOCK_SKEW_DEFAULT_S = 30
const TOKEN_AGE_MIN_S = 60
/** A token that lives longer is a key without the means to take it back. */
const TOKEN_AGE_MAX_S = 24 * 3600
const ISSUER_CHARS_MAX = 500
const AUDIENCE_CHARS_MAX = 255

const Claim = z.string().regex(/^[\x21-\x7e]{1,100}$/, 'must be 1-100 visible ASCII characters')
const Word = (charsMax: number) =>
  z
    .string()
    .regex(/^\P{Cc}+$/u, 'must not hold control characters')
    .max(charsMax)

/** What can be changed later; `issuer` and `audience` are what the row is. */
const changeable = {
  name: DisplayName,
  /** One of `jwks_uri` and `jwks`. */
  jwks_uri: z.string().max(ISSUER_CHARS_MAX),
  jwks: z.unknown(),
  /** Lets the keys lie on a private network; the operator alone. */
  allow_private: z.boolean(),
  algorithms: Algorithms,
  subject_claim: Claim,
  role_claim: Claim.nullable(),
  max_role: z.enum(ROLES),
  project_id: z.uuid().toLowerCase(),
  clock_skew_seconds: z.int().min(0).max(CLOCK_SKEW_MAX_S),
  token_age_max_seconds: z.int().min(TOKEN_AGE_MIN_S).max(TOKEN_AGE_MAX_S),
}
const NewIssuer = z.strictObject({
  ...z.object(changeable).partial().shape,
  id: z.uuid().toLowerCase().optional(),
  issuer: Word(ISSUER_CHARS_MAX),
  audience: Word(AUDIENCE_CHARS_MAX),
  algorithms: Algorithms,
  max_role: z.enum(ROLES),
  /** Whose project the tokens' usage counts for. */
  project_id: z.uuid().toLowerCase(),
  /** Names services and no people. */
  service: z.boolean().default(false),
})
const IssuerChange = z.strictObject(z.object(changeable).partial().shape)
type Change = z.infer<typeof IssuerChange>

export type IssuerRow = typeof tokenIssuers.$inferSelect

export const issuerRoutes = new Hono<AdminEnv>()
  .post('/:org/issuers', create)
  .get('/:org/issuers', (c) =>
    listOfOrganisation(c, {
      rows: (database, orgId, { limit, cursor }) =>
        query(database, (db) =>
          db
            .select()
            .from(tokenIssuers)
            .where(and(eq(tokenIssuers.orgId, orgId), olderThan(cursor, tokenIssuers.createdAt, tokenIssuers.issuerId)))
            .orderBy(desc(tokenIssuers.createdAt), desc(tokenIssuers.issuerId))
            .limit(limit + 1),
        ),
      position: (row) => [row.createdAt, row.issuerId],
      show: issuerView,
    }),
  )
  .get('/:org/issuers/:issuer', async (c) => c.json(issuerView(await requireIssuer(c, connect(c.env)))))
  .patch('/:org/issuers/:issuer', change)
  .delete('/:org/issuers/:issuer', remove)

/** Safe to repeat by issuer and audience: the row that is there is the answer. */
async function create(c: AdminContext) {
  const orgId = idParam(c, 'org', 'organisation')
  const input = await readInput(c, NewIssuer)
  const database = connect(c.env)
  await requireOrganisation(database, orgId)
  requireTrust(c.get('actor'))
  const row = await changed(
    c,
    database,
    {
      orgId,
      issuerId: input.id ?? crypto.randomUUID(),
      name: input.name ?? input.issuer.slice(0, 200),
      issuer: input.issuer,
      audience: input.audience,
      jwksUri: null,
      jwks: null,
      allowPrivate: false,
      algorithms: '[]',
      subjectClaim: 'sub',
      roleClaim: null,
      maxRole: input.max_role,
      projectId: input.project_id,
      service: input.service,
      clockSkewS: CLOCK_SKEW_DEFAULT_S,
      tokenAgeMaxS: TOKEN_AGE_MAX_S,
      createdAt: new Date().toISOString(),
    },
    input,
  )
  if (row.jwksUri === null && row.jwks === null) throw invalid('jwks_uri', 'is missing: give it, or the keys as "jwks"')
  try {
    await database.batch([
      toStatement(builder.insert(tokenIssuers).values(row)),
      audited(c, { action: 'issuer.create', orgId, objectId: row.issuerId, details: { after: issuerView(row) } }),
    ])
  } catch (error) {
    if (!(error instanceof QueryFailed) || error.sqlState !== UNIQUE_VIOLATION) throw error
    const existing = await findByClaims(database, input.issuer, input.audience)
    if (existing === undefined) throw invalid('id', 'is taken by another issuer')
    // Two organisations could not tell whose such a token is.
    if (existing.orgId !== orgId)
      throw conflict('These issuer and audience are registered already; use an audience of your own.')
    return c.json(issuerView(existing), 200)
  }
  announceTokens()
  return c.json(issuerView(row), 201)
}

/** Safe to repeat. Tokens are judged by the new row within ten seconds everywhere, and verdicts within a minute. */
async function change(c: AdminContext) {
  const input = await readInput(c, IssuerChange)
  const database = connect(c.env)
  const before = await requireIssuer(c, database)
  const { orgId, issuerId } = before
  requireTrust(c.get('actor'))
  requireCover(c.get('actor'), before.maxRole)
  const { orgId: _, issuerId: __, ...set } = await changed(c, database, before, input)
  const after: IssuerRow = { orgId, issuerId, ...set }
  await database.batch([
    toStatement(builder.update(tokenIssuers).set(set).where(issuerIs(orgId, issuerId))),
    audited(c, {
      action: 'issuer.change',
      orgId,
      objectId: issuerId,
      details: { before: issuerView(before), after: issuerView(after) },
    }),
  ])
  announceTokens()
  return c.json(issuerView(after))
}

async function remove(c: AdminContext) {
  const database = connect(c.env)
  const row = await requireIssuer(c, database)
  const { orgId, issuerId } = row
  requireTrust(c.get('actor'))
  requireCover(c.get('actor'), row.maxRole)
  await database.batch([
    toStatement(builder.delete(tokenIssuers).where(issuerIs(orgId, issuerId))),
    // Another issuer that takes the id later inherits neither.
    ...['sign_in_clients', 'dashboard_sessions'].map((table) => ({
      text: `DELETE FROM ${table} WHERE org_id = $1 AND issuer_id = $2`,
      params: [orgId, issuerId],
    })),
    audited(c, { action: 'issuer.delete', orgId, objectId: issuerId, details: { before: issuerView(row) } }),
  ])
  announceTokens()
  return c.json({ deleted: true })
}

/** The row with the changes, each checked. @throws Refusal */
async function changed(c: AdminContext, database: Database, row: IssuerRow, input: Change): Promise<IssuerRow> {
  const actor = c.get('actor')
  const maxRole = input.max_role ?? row.maxRole
  requireCover(actor, maxRole)
  const projectId = input.project_id ?? row.projectId
  if (input.project_id !== undefined && (await findProject(database, row.orgId, projectId)) === undefined) {
    throw invalid('project_id', 'is not a project of this organisation')
  }
  const allowPrivate = input.allow_private ?? row.allowPrivate
  if (allowPrivate && actor.kind !== 'operator' && input.allow_private !== false) {
    throw denied("Only the operator's token may let keys be fetched from a private network.")
  }
  return {
    ...row,
    ...keysOf(row, input, allowPrivate),
    name: input.name ?? row.name,
    allowPrivate,
    algorithms: input.algorithms === undefined ? row.algorithms : JSON.stringify([...new Set(input.algorithms)]),
    subjectClaim: input.subject_claim ?? row.subjectClaim,
    roleClaim: input.role_claim === undefined ? row.roleClaim : input.role_claim,
    maxRole,
    projectId,
    clockSkewS: input.clock_skew_seconds ?? row.clockSkewS,
    tokenAgeMaxS: input.token_age_max_seconds ?? row.tokenAgeMaxS,
  }
}

/** Where the keys are: the address in its normal form, or the keys; a new one replaces the other. @throws Refusal */
function keysOf(row: IssuerRow, input: Change, allowPrivate: boolean): Pick<IssuerRow, 'jwksUri' | 'jwks'> {
  if (input.jwks_uri !== undefined && input.jwks !== undefined)
    throw invalid('jwks', 'stands beside jwks_uri: give one of them')
  if (input.jwks !== undefined) {
    const jwks = parseJwks(input.jwks)
    if (!jwks.ok) throw invalid('jwks', jwks.error)
    return { jwksUri: null, jwks: jwks.value }
  }
  const uri = input.jwks_uri ?? row.jwksUri
  if (uri === null) return { jwksUri: null, jwks: row.jwks }
  const url = parseUpstreamUrl(uri, { allowPrivate })
  if (!url.ok) throw invalid('jwks_uri', url.error)
  return { jwksUri: url.value, jwks: null }
}

/** A key can be cut down to little, and an issuer of its own would give all of it back. @throws Refusal */
export function requireTrust(actor: Actor): void {
  if (actor.kind === 'member' && actor.key !== undefined) {
    throw denied('An API key cannot register, change or delete issuers; use a token of a user.')
  }
}

async function findByClaims(database: Database, issuer: string, audience: string): Promise<IssuerRow | undefined> {
  const [row] = await query(database, (db) =>
    db
      .select()
      .from(tokenIssuers)
      .where(and(eq(tokenIssuers.issuer, issuer), eq(tokenIssuers.audience, audience))),
  )
  return row
}

export async function requireIssuer(c: AdminContext, database: Database): Promise<IssuerRow> {
  const [orgId, issuerId] = [idParam(c, 'org', 'issuer'), idParam(c, 'issuer', 'issuer')]
  const [row] = await query(database, (db) => db.select().from(tokenIssuers).where(issuerIs(orgId, issuerId)))
  if (row === undefined) throw notFound('issuer')
  return row
}

const issuerIs = (orgId: string, issuerId: string) =>
  and(eq(tokenIssuers.orgId, orgId), eq(tokenIssuers.issuerId, issuerId))

const StoredJwks = z.object({ keys: z.array(z.looseObject({ kid: z.string() })) })

function issuerView(row: IssuerRow) {
  return {
    id: row.issuerId,
    org_id: row.orgId,
    name: row.name,
    issuer: row.issuer,
    audience: row.audience,
    jwks_uri: row.jwksUri,
    /** Ids alone: what a key is called says which one it is. */
    jwks_kids:
      row.jwks === null ? null : parseStored(row.jwks, StoredJwks, 'token_issuers.jwks').keys.map(({ kid }) => kid),
    allow_private: row.allowPrivate,
    algorithms: parseStored(row.algorithms, Algorithms, 'token_issuers.algorithms'),
    subject_claim: row.subjectClaim,
    role_claim: row.roleClaim,
    max_role: row.maxRole,
    project_id: row.projectId,
    service: row.service,
    clock_skew_seconds: row.clockSkewS,
    token_age_max_seconds: row.tokenAgeMaxS,
    created_at: row.createdAt,
  }
}
