// This gateway as a client of an issuer (OpenID Connect). Owns reading its registration, where the issuer's endpoints are, and
// exchanging a code for an ID token. An issuer is called at the address that it was registered under and at those that it
// names there, under the rules for all upstreams; what it says is bounded, and what of it is believed is token.ts's to judge.
import { and, asc, eq } from 'drizzle-orm'
import * as z from 'zod'
import { err, ok, type Result } from '../../protocol/result.ts'
import { FactCache } from '../db/cache.ts'
import { query } from '../db/orm.ts'
import type { Database } from '../db/port.ts'
import { tokenIssuers } from '../db/schema/people.ts'
import { signInClients } from '../db/schema/sessions.ts'
import { organisations } from '../db/schema/tenancy.ts'
import type { Env } from '../env.ts'
import { type Fetch, type Reach, reachOf } from '../policy/reach.ts'
import { openSecret } from '../policy/secrets.ts'
import { parseUpstreamUrl } from '../policy/upstream-url.ts'
import { readLimited } from '../providers/bounded-body.ts'

/** How long endpoints that an issuer moved are still used. */
const FRESH_MS = 600_000
/** Everybody can begin to sign in: an issuer that does not answer is asked this often. */
const UNREACHABLE_MS = 10_000
const FETCH_TIMEOUT_MS = 10_000
/** Metadata has 10 KB, a token with many groups as much. */
const ANSWER_CHARS_MAX = 128 * 1024
const CACHED_ISSUERS_MAX = 500
const LISTED_MAX = 50

const Metadata = z.object({
  issuer: z.string(),
  authorization_endpoint: z.string().max(2_000),
  token_endpoint: z.string().max(2_000),
  token_endpoint_auth_methods_supported: z.array(z.string()).max(50).optional(),
})
const Tokens = z.object({ id_token: z.string().min(1) })
const Refused = z.object({ error: z.string().regex(/^[\x20\x21\x23-\x5b\x5d-\x7e]{1,100}$/) })

export type SignInClient = {
  client: typeof signInClients.$inferSelect
  issuer: typeof tokenIssuers.$inferSelect
}
export type Endpoints = { authorization: string; token: string; secretInBody: boolean }

const endpoints = new FactCache<Endpoints | 'unreachable'>(CACHED_ISSUERS_MAX)

/** What a client's secret is sealed under; no provider's name holds a colon. */
export const clientSecretName = (clientRef: string): string => `sign-in-client:${clientRef}`

export async function findSignInClient(database: Database, clientRef: string): Promise<SignInClient | undefined> {
  const [row] = await query(database, (db) =>
    db
      .select({ client: signInClients, issuer: tokenIssuers })
      .from(signInClients)
      .innerJoin(tokenIssuers, ofClient)
      .where(eq(signInClients.clientRef, clientRef)),
  )
  return row
}

/** What the sign-in page offers: the issuers of one organisation, or those that the operator lists for everybody. */
export async function listSignInClients(
  database: Database,
  slug: string | undefined,
): Promise<{ id: string; name: string }[]> {
  const wanted = slug === undefined ? eq(signInClients.listed, true) : eq(organisations.slug, slug)
  return query(database, (db) =>
    db
      .select({ id: signInClients.clientRef, name: tokenIssuers.name })
      .from(signInClients)
      .innerJoin(tokenIssuers, ofClient)
      .innerJoin(organisations, eq(organisations.orgId, signInClients.orgId))
      .where(wanted)
      .orderBy(asc(tokenIssuers.name), asc(signInClients.clientRef))
      .limit(LISTED_MAX),
  )
}

const ofClient = and(eq(tokenIssuers.orgId, signInClients.orgId), eq(tokenIssuers.issuerId, signInClients.issuerId))

/** The issuer's endpoints, as it publishes them. @returns a sentence about why there are none */
export async function discover(
  { issuer }: SignInClient,
  nowMs: number,
  fetch: Fetch,
): Promise<Result<Endpoints, string>> {
  const silent = 'The issuer does not answer, or does not publish how to sign in with it.'
  const key = JSON.stringify([issuer.issuer, issuer.allowPrivate])
  const known = endpoints.get(key, nowMs)?.value
  if (known !== undefined) return known === 'unreachable' ? err(silent) : ok(known)
  const found = await published(issuer, fetch)
  endpoints.set(key, found ?? 'unreachable', nowMs + (found === undefined ? UNREACHABLE_MS : FRESH_MS))
  return found === undefined ? err(silent) : ok(found)
}

/** Drops this isolate's copies. */
export function forgetEndpoints(): void {
  endpoints.clear()
}

async function published(
  { issuer, allowPrivate }: SignInClient['issuer'],
  fetch: Fetch,
): Promise<Endpoints | undefined> {
  const base = parseUpstreamUrl(issuer, { allowPrivate })
  if (!base.ok) return undefined
  const answer = await ask(
    `${base.value}/.well-known/openid-configuration`,
    {},
    { fetch, reach: reachOf(allowPrivate) },
  )
  const metadata = Metadata.safeParse(answer?.status === 200 ? answer.json : undefined)
  // Else one issuer could have another one's users sign in here.
  if (!metadata.success || metadata.data.issuer !== issuer) return undefined
  const { authorization_endpoint, token_endpoint, token_endpoint_auth_methods_supported: methods } = metadata.data
  if (!isReachable(authorization_endpoint, allowPrivate) || !isReachable(token_endpoint, allowPrivate)) return undefined
  // Without a list it is the header.
  const secretInBody = methods !== undefined && !methods.includes('client_secret_basic')
  return { authorization: authorization_endpoint, token: token_endpoint, secretInBody }
}

/** Endpoints may have a query of their own; for the rest they are addresses like those of other upstreams. */
function isReachable(endpoint: string, allowPrivate: boolean): boolean {
  return parseUpstreamUrl(endpoint.split('?')[0] ?? '', { allowPrivate }).ok && !endpoint.includes('#')
}

/** A code for the ID token that it stands for. @returns the issuer's own word where it refuses */
export async function exchange(
  { client, issuer }: SignInClient,
  endpoint: Endpoints,
  given: { code: string; verifier: string; redirectUri: string },
  tools: { env: Env; fetch: Fetch },
): Promise<Result<string, string>> {
  const form = new URLSearchParams({
    grant_type: 'authorization_code',
    code: given.code,
    redirect_uri: given.redirectUri,
    code_verifier: given.verifier,
  })
  const headers = new Headers({ 'content-type': 'application/x-www-form-urlencoded' })
  if (client.secretCiphertext === null) form.set('client_id', issuer.audience)
  else {
    const name = clientSecretName(client.clientRef)
    const secret = await openSecret(tools.env.SECRETS_KEK, name, client.secretCiphertext)
    if (!secret.ok) return err('its client secret cannot be opened')
    if (endpoint.secretInBody) {
      form.set('client_id', issuer.audience)
      form.set('client_secret', secret.value)
    } else headers.set('authorization', basic(issuer.audience, secret.value))
  }
  const way = { fetch: tools.fetch, reach: reachOf(issuer.allowPrivate) }
  const answer = await ask(endpoint.token, { method: 'POST', headers, body: form.toString() }, way)
  if (answer === undefined) return err('it does not answer')
  const tokens = Tokens.safeParse(answer.json)
  if (answer.status === 200 && tokens.success) return ok(tokens.data.id_token)
  const refused = Refused.safeParse(answer.json)
  return err(refused.success ? refused.data.error : `status ${answer.status} without an ID token`)
}

/** Both parts are encoded as in forms first (RFC 6749, 2.3.1). */
function basic(id: string, secret: string): string {
  const encoded = (text: string) => new URLSearchParams({ '': text }).toString().slice(1)
  return `Basic ${btoa(`${encoded(id)}:${encoded(secret)}`)}`
}

/** Status and JSON of an answer; undefined where there is none in time, or none that could be read. */
async function ask(
  url: string,
  init: { method?: string; headers?: Headers; body?: string },
  { fetch, reach }: { fetch: Fetch; reach: Reach },
): Promise<{ status: number; json: unknown } | undefined> {
  const headers = init.headers ?? new Headers()
  headers.set('accept', 'application/json')
  try {
    const signal = AbortSignal.timeout(FETCH_TIMEOUT_MS)
    const response = await fetch(url, { ...init, headers, redirect: 'manual', signal }, reach)
    const text = await readLimited(response, ANSWER_CHARS_MAX + 1)
    if (text.length > ANSWER_CHARS_MAX) return undefined
    return { status: response.status, json: JSON.parse(text) }
  } catch {
    return undefined
  }
}
