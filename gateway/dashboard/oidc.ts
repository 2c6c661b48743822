// Signing in with an issuer (OpenID Connect, authorization code). Owns the way there and back, and what ties both to one
// browser: state, nonce and the verifier of PKCE travel in a sealed cookie, nothing is stored. Who the ID token is of is judged
// as for every token (auth/token.ts): users, roles and bounds are the same as in the API.
//
//   GET /dashboard/oidc/:client/start?return_to=   ─▶ the issuer ─▶   GET /dashboard/oidc/callback?code=&state=   ─▶ return_to
import { decodeJwt } from 'jose'
import * as z from 'zod'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { AdminContext } from '../admin/context.ts'
import type { Actor } from '../auth/actor.ts'
import { verifyToken } from '../auth/token.ts'
import { connect } from '../db/connect.ts'
import { parseStored } from '../db/json.ts'
import { log } from '../observe/log.ts'
import type { Fetch } from '../policy/reach.ts'
import { openSecret, sealSecret } from '../policy/secrets.ts'
import { cookieHeader, isFromElsewhere, ownOrigin, readCookie, returnPath } from './browser.ts'
import { discover, exchange, findSignInClient, type SignInClient } from './oidc-client.ts'
import { notSignedIn, plainPage } from './pages.ts'
import { beginSession, findSession, type NewSession } from './sessions.ts'
import { Turns } from './turns.ts'

export const OIDC_PATH = '/dashboard/oidc/'
const CALLBACK_PATH = `${OIDC_PATH}callback`
/** Long enough to find one's second factor. */
const PENDING_S = 600
/** What the cookie is sealed under; no provider's name holds a colon. */
const PENDING_NAME = 'sign-in:pending'
const SECRET_BYTES = 32
const PARAMETER_CHARS_MAX = 4_096
/** Of one issuer, in one isolate: a slow one keeps nobody else's people out. */
const turns = new Turns(8)
/** Clients that are looked up at once: whoever makes up ids of them asks Postgres no more than this. */
const lookups = new Turns(16)

const Pending = z.object({
  client: z.uuid(),
  state: z.string(),
  nonce: z.string(),
  verifier: z.string(),
  returnTo: z.string(),
  untilMs: z.number(),
})
type Pending = z.infer<typeof Pending>

/** Why nobody was signed in: for the page, and in a word for the log. */
type Trouble = { status: number; word: string; text: string }

/** Sends the browser to the issuer. */
export function startOidc(c: AdminContext, fetch: Fetch): Promise<Response> {
  const clientRef = z.uuid().safeParse(c.req.param('client'))
  const name = clientRef.success ? clientRef.data.toLowerCase() : ''
  return turns.run(name, () => start(c, name, fetch))
}

async function start(c: AdminContext, clientRef: string, fetch: Fetch): Promise<Response> {
  const nowMs = Date.now()
  const client = clientRef === '' ? undefined : await lookedUp(c, clientRef)
  if (client === undefined) return failed(c, UNKNOWN)
  // Another site could have people sign in to an account of its own there, and they would work in it without noticing.
  if (isFromElsewhere(c.req.raw)) return asking(c, client)
  const endpoints = await discover(client, nowMs, fetch)
  if (!endpoints.ok) return failed(c, { status: 502, word: 'issuer_silent', text: endpoints.error })
  const pending: Pending = {
    client: client.client.clientRef,
    state: randomText(),
    nonce: randomText(),
    verifier: randomText(),
    returnTo: returnPath(c.req.query('return_to')),
    untilMs: nowMs + PENDING_S * 1000,
  }
  const random = (count: number) => crypto.getRandomValues(new Uint8Array(count))
  const sealed = await sealSecret(c.env.SECRETS_KEK, PENDING_NAME, JSON.stringify(pending), random)
  if (!sealed.ok)
    return failed(c, { status: 503, word: 'kek_invalid', text: 'SECRETS_KEK of this gateway is not usable.' })
  const url = new URL(endpoints.value.authorization)
  const asked: Record<string, string> = {
    response_type: 'code',
    client_id: client.issuer.audience,
    redirect_uri: redirectUri(c),
    scope: client.client.scopes,
    state: pending.state,
    nonce: pending.nonce,
    code_challenge: await challengeOf(pending.verifier),
    code_challenge_method: 'S256',
  }
  for (const [name, value] of Object.entries(asked)) url.searchParams.set(name, value)
  return redirect(302, url.href, cookieHeader(c.req.raw, 'oidc', sealed.value, PENDING_S))
}

/** Where the issuer sends the browser back to. The cookie is taken away in every case: one way there, one way back. */
export async function finishOidc(c: AdminContext, fetch: Fetch): Promise<Response> {
  const done = cookieHeader(c.req.raw, 'oidc', '', 0)
  const began = await pendingOf(c)
  if (!began.ok) return failed(c, began.error, done)
  const client = await lookedUp(c, began.value.client)
  if (client === undefined) return failed(c, UNKNOWN, done)
  const back: Return = { pending: began.value, client, fetch }
  const signed = await turns.run(began.value.client, () => identified(c, back))
  if (!signed.ok) return failed(c, signed.error, done)
  const cookie = await beginSession(c, signed.value, {
    sessionId: crypto.randomUUID(),
    details: { by: 'issuer', issuer_id: client.issuer.issuerId },
    replaced: await findSession(c.req.raw, c.env, Date.now()),
  })
  return redirect(303, began.value.returnTo, done, cookie)
}

const lookedUp = (c: AdminContext, clientRef: string): Promise<SignInClient | undefined> =>
  lookups.run('', () => findSignInClient(connect(c.env), clientRef))

/** What this browser began. */
async function pendingOf(c: AdminContext): Promise<Result<Pending, Trouble>> {
  const cookie = readCookie(c.req.raw, 'oidc')
  const opened = cookie === undefined ? undefined : await openSecret(c.env.SECRETS_KEK, PENDING_NAME, cookie)
  if (opened?.ok !== true) return err(NOT_BEGUN)
  const pending = parseStored(opened.value, Pending, 'the cookie of a sign-in')
  if (Date.now() >= pending.untilMs) return err(NOT_BEGUN)
  // Whoever lures somebody to a callback of their own would have them work in a foreign account.
  return c.req.query('state') === pending.state ? ok(pending) : err(NOT_BEGUN)
}

type Return = { pending: Pending; client: SignInClient; fetch: Fetch }

/** From what the issuer sent back to whom it is. */
async function identified(c: AdminContext, { pending, client, fetch }: Return): Promise<Result<NewSession, Trouble>> {
  const { code, error, iss } = c.req.query()
  if (iss !== undefined && iss !== client.issuer.issuer) return err(NOT_BEGUN)
  if (error !== undefined) return err(saidNo(error))
  if (code === undefined || code.length > PARAMETER_CHARS_MAX) return err(saidNo('no_code'))
  const nowMs = Date.now()
  const endpoints = await discover(client, nowMs, fetch)
  if (!endpoints.ok) return err({ status: 502, word: 'issuer_silent', text: endpoints.error })
  const given = { code, verifier: pending.verifier, redirectUri: redirectUri(c) }
  const token = await exchange(client, endpoints.value, given, { env: c.env, fetch })
  if (!token.ok) {
    const text = `The issuer did not take the code that it gave out: ${token.error}. Begin again; if that does not help, an administrator has to look at the client's registration there.`
    return err({ status: 502, word: 'code_refused', text })
  }
  const found = await verifyToken(token.value, { env: c.env, nowMs, fetch, fresh: true })
  if (!found.ok) {
    const text = `${found.error.message} If you should have access here, ask an administrator to register you${subjectText(client, token.value)}.`
    return err({ status: found.error.code === 'unavailable' ? 503 : 403, word: 'token_refused', text })
  }
  const { issuer } = client
  // Its signature is checked; what stands in it is the issuer's word.
  const claims = decodeJwt(token.value)
  const audiences = [claims.aud ?? []].flat()
  const isTheirs =
    claims.iss === issuer.issuer && audiences.includes(issuer.audience) && found.value.orgId === issuer.orgId
  const isOurs = claims.nonce === pending.nonce && (claims.azp === undefined || claims.azp === issuer.audience)
  const { orgId, userId, roles = [], projects } = found.value
  if (!isTheirs || !isOurs || userId === undefined) return err(OTHER_TOKEN)
  if (issuer.subjectClaim === 'email' && claims.email_verified === false) return err(UNVERIFIED)
  const actor: Actor = { kind: 'member', orgId, userId, roles, projects }
  const subject = claims[issuer.subjectClaim]
  return ok({ actor, bounds: roles, identity: { issuerId: issuer.issuerId, subject: String(subject) } })
}

/** What the issuer calls them, of a token that may be anybody's: told to whoever brought it, and to nobody else. */
function subjectText({ issuer }: SignInClient, token: string): string {
  try {
    const subject = decodeJwt(token)[issuer.subjectClaim]
    return typeof subject === 'string' ? ` under the subject ${subject.slice(0, 255)}` : ''
  } catch {
    return ''
  }
}

const UNKNOWN: Trouble = {
  status: 404,
  word: 'client_unknown',
  text: 'Nobody signs in by this address any more. Choose again on the sign-in page.',
}
const NOT_BEGUN: Trouble = {
  status: 400,
  word: 'not_begun_here',
  text: 'This sign-in was not begun in this browser, was begun more than ten minutes ago, or is over already. Begin again.',
}
const OTHER_TOKEN: Trouble = {
  status: 403,
  word: 'token_of_another',
  text: 'The issuer answered with a token that is not of this sign-in. Begin again; if it happens again, tell an administrator.',
}
const UNVERIFIED: Trouble = {
  status: 403,
  word: 'email_unverified',
  text: 'The issuer has not verified your e-mail address yet. Verify it there, then begin again.',
}

/** @param word `error` of the issuer: shown where it is a word. */
function saidNo(word: string): Trouble {
  const said = /^[a-z_]{1,60}$/.test(word) ? word : 'unknown_error'
  const text =
    said === 'access_denied'
      ? 'The issuer did not let you in, or you said no there.'
      : `The issuer answered with the error ${said}. Begin again; if that does not help, an administrator has to look at the client's registration there.`
  return { status: 403, word: said, text }
}

/** A page of our own to go on from. */
function asking(c: AdminContext, { issuer }: SignInClient): Response {
  const { pathname, search } = new URL(c.req.url)
  const text = `You come from another site, to sign in to Penstock with ${issuer.name} (${issuer.issuer}).`
  return plainPage(200, { title: 'Sign in', text, link: { href: `${pathname}${search}`, text: 'Go on' } })
}

function failed(c: AdminContext, { status, word, text }: Trouble, cookie?: string): Response {
  log('info', 'sign_in_failed', { requestId: c.get('requestId'), reason: word })
  const page = notSignedIn(status, text)
  if (cookie !== undefined) page.headers.append('set-cookie', cookie)
  return page
}

function redirect(status: 302 | 303, location: string, ...cookies: string[]): Response {
  const headers = new Headers({ location, 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' })
  for (const cookie of cookies) headers.append('set-cookie', cookie)
  return new Response(null, { status, headers })
}

const redirectUri = (c: AdminContext): string => `${ownOrigin(c.req.raw)}${CALLBACK_PATH}`

const randomText = (): string => base64Url(crypto.getRandomValues(new Uint8Array(SECRET_BYTES)))

const challengeOf = async (verifier: string): Promise<string> =>
  base64Url(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(verifier))))

function base64Url(bytes: Uint8Array): string {
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))
  return text.replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')
}
