// Issuers that people can sign in with, in the admin API. Owns the HTTP form of this gateway's registration there: its client
// id is the audience of the issuer's tokens, its secret is sealed and never shown. The signing in is ../dashboard/oidc.ts.
//
//   PUT    /organisations/:org/issuers/:issuer/sign-in-client     {client_secret?, scopes?, listed?}; GET; DELETE
import { and, eq } from 'drizzle-orm'
import { Hono } from 'hono'
import * as z from 'zod'
import { clientSecretName } from '../dashboard/oidc-client.ts'
import { connect } from '../db/connect.ts'
import { builder, query, toStatement } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { signInClients } from '../db/schema/sessions.ts'
import { sealSecret } from '../policy/secrets.ts'
import { audited } from './audit.ts'
import { type AdminContext, type AdminEnv, invalid, notFound, Refusal } from './context.ts'
import { readInput } from './input.ts'
import { type IssuerRow, requireIssuer, requireTrust } from './issuers.ts'
import { denied, requireCover } from './permissions.ts'

const SECRET_CHARS_MAX = 1_000
const SCOPES_DEFAULT = 'openid email profile'

const ClientInput = z.strictObject({
  /** Null takes it away: a public client, held by PKCE alone. */
  client_secret: z
    .string()
    .regex(/^[\x20-\x7e]+$/, 'must be visible ASCII characters')
    .max(SECRET_CHARS_MAX)
    .nullish(),
  scopes: z
    .string()
    .max(500)
    .regex(/^[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*$/, 'must be words with a space between them')
    .refine((text) => text.split(' ').includes('openid'), 'must include openid')
    .optional(),
  /** Offers it on the sign-in page to everybody; the operator alone. */
  listed: z.boolean().optional(),
})

type ClientRow = typeof signInClients.$inferSelect

export const signInClientRoutes = new Hono<AdminEnv>()
  .put('/:org/issuers/:issuer/sign-in-client', put)
  .get('/:org/issuers/:issuer/sign-in-client', async (c) => {
    const database = connect(c.env)
    const issuer = await requireIssuer(c, database)
    const row = await findClient(database, issuer)
    if (row === undefined) throw notFound('sign-in client')
    return c.json(clientView(row, issuer))
  })
  .delete('/:org/issuers/:issuer/sign-in-client', remove)

/** Safe to repeat. What is not named stays as it is. */
async function put(c: AdminContext) {
  const input = await readInput(c, ClientInput)
  const { actor } = c.var
  const database = connect(c.env)
  const issuer = await requireIssuer(c, database)
  requireTrust(actor)
  requireCover(actor, issuer.maxRole)
  if (issuer.service) throw invalid('issuer', 'names services, and people sign in')
  if (input.listed !== undefined && actor.kind !== 'operator') {
    throw denied("Only the operator's token may list an issuer on everybody's sign-in page.")
  }
  const before = await findClient(database, issuer)
  const now = new Date().toISOString()
  const clientRef = before?.clientRef ?? crypto.randomUUID()
  const row: ClientRow = {
    orgId: issuer.orgId,
    issuerId: issuer.issuerId,
    clientRef,
    secretCiphertext:
      input.client_secret === undefined
        ? (before?.secretCiphertext ?? null)
        : input.client_secret === null
          ? null
          : await sealed(c, clientRef, input.client_secret),
    scopes: input.scopes ?? before?.scopes ?? SCOPES_DEFAULT,
    listed: input.listed ?? before?.listed ?? false,
    createdAt: before?.createdAt ?? now,
    updatedAt: now,
  }
  const { secretCiphertext, scopes, listed, updatedAt } = row
  await database.batch([
    toStatement(
      builder
        .insert(signInClients)
        .values(row)
        .onConflictDoUpdate({
          target: [signInClients.orgId, signInClients.issuerId],
          set: { clientRef, secretCiphertext, scopes, listed, updatedAt },
        }),
    ),
    audited(c, {
      action: 'sign_in_client.put',
      orgId: issuer.orgId,
      objectId: issuer.issuerId,
      details: {
        ...(before !== undefined && { before: clientView(before, issuer) }),
        after: clientView(row, issuer),
        secret_changed: input.client_secret !== undefined,
      },
    }),
  ])
  return c.json(clientView(row, issuer), before === undefined ? 201 : 200)
}

/** Sessions that began this way go on until they are over; they end with the issuer. */
async function remove(c: AdminContext) {
  const database = connect(c.env)
  const issuer = await requireIssuer(c, database)
  requireTrust(c.get('actor'))
  requireCover(c.get('actor'), issuer.maxRole)
  const row = await findClient(database, issuer)
  if (row === undefined) throw notFound('sign-in client')
  await database.batch([
    toStatement(builder.delete(signInClients).where(isOf(issuer))),
    audited(c, {
      action: 'sign_in_client.delete',
      orgId: issuer.orgId,
      objectId: issuer.issuerId,
      details: { before: clientView(row, issuer) },
    }),
  ])
  return c.json({ deleted: true })
}

async function findClient(database: Database, issuer: IssuerRow): Promise<ClientRow | undefined> {
  const [row] = await query(database, (db) => db.select().from(signInClients).where(isOf(issuer)))
  return row
}

const isOf = ({ orgId, issuerId }: IssuerRow) =>
  and(eq(signInClients.orgId, orgId), eq(signInClients.issuerId, issuerId))

async function sealed(c: AdminContext, clientRef: string, secret: string): Promise<string> {
  const random = (count: number) => crypto.getRandomValues(new Uint8Array(count))
  const text = await sealSecret(c.env.SECRETS_KEK, clientSecretName(clientRef), secret, random)
  if (text.ok) return text.value
  const message = 'Secrets cannot be stored: SECRETS_KEK is not 32 bytes in base64.'
  throw new Refusal({ code: 'unavailable', message })
}

function clientView(row: ClientRow, issuer: IssuerRow) {
  return {
    id: row.clientRef,
    issuer_id: row.issuerId,
    org_id: row.orgId,
    client_id: issuer.audience,
    has_secret: row.secretCiphertext !== null,
    scopes: row.scopes,
    listed: row.listed,
    created_at: row.createdAt,
    updated_at: row.updatedAt,
  }
}
