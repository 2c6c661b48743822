// The door of the admin API. Owns which credentials open it and who then calls; what the caller may do is permissions.ts.
// No route behind it is open by default.
import { createMiddleware } from 'hono/factory'
import type { Failure } from '../../protocol/errors.ts'
import type { Actor, KeyCredential } from '../auth/actor.ts'
import { authenticate, looksLikeToken, presentedCredential } from '../auth/authenticate.ts'
import { clientAddress } from '../auth/client-address.ts'
import { parseKey } from '../auth/keys.ts'
import type { Principal } from '../auth/principal.ts'
import { scopeRefusal } from '../auth/scopes.ts'
import { sessionOf } from '../dashboard/request.ts'
import { type AdminContext, type AdminEnv, Refusal } from './context.ts'

const TOKEN_CHARS_MIN = 32

/**
 * Passes `Authorization: Bearer` with ADMIN_TOKEN (the operator), with a user's token, or with a user's API key whose
 * scopes name administration; and, where none of these is there, a browser that is signed in to the dashboard. An ADMIN_TOKEN
 * too short to be a secret opens nothing.
 */
export const guard = createMiddleware<AdminEnv>(async (c, next) => {
  c.set('clientAddress', clientAddress(c.req.raw, c.env))
  const presented = presentedCredential(c.req.raw.headers)
  const session = presented === undefined ? await sessionOf(c) : undefined
  c.set('session', session)
  c.set('actor', session?.actor ?? (await actorOf(c, presented ?? '')))
  await next()
  // What a browser got for one user must not be there for the next one.
  if (session === undefined) return
  c.header('cache-control', 'no-store')
  c.header('x-content-type-options', 'nosniff')
})

async function actorOf(c: AdminContext, presented: string): Promise<Actor> {
  // The operator's secret may have any form, that of a token too.
  if (await isOperator(presented, c.env.ADMIN_TOKEN)) return { kind: 'operator' }
  if (parseKey(presented) === undefined && !looksLikeToken(presented)) {
    requireUsableToken(c.env.ADMIN_TOKEN)
    const message =
      'The admin API needs "Authorization: Bearer" with ADMIN_TOKEN, a user\'s token, or an API key that administers.'
    throw new Refusal({ code: 'invalid_api_key', message })
  }
  const waitUntil = (work: Promise<unknown>) => c.executionCtx.waitUntil(work)
  const found = await authenticate(c.req.raw.headers, c.env, Date.now(), waitUntil, { fresh: true })
  if (!found.ok) throw new Refusal(found.error)
  const refusal = scopeRefusal(found.value, 'admin', c.get('clientAddress'))
  if (refusal !== undefined) throw new Refusal(refusal)
  return memberOf(found.value)
}

/** @throws Refusal for a key that belongs to nobody: it has no role to administer with. */
function memberOf(principal: Principal): Actor {
  const { orgId, userId, roles, projects } = principal
  if (userId === undefined || roles === undefined || roles.length === 0) {
    const failure: Failure = {
      code: 'permission_denied',
      message: 'This API key belongs to no user and cannot administer.',
    }
    throw new Refusal(failure)
  }
  return { kind: 'member', orgId, userId, roles, projects, key: keyOf(principal) }
}

function keyOf(principal: Principal): KeyCredential | undefined {
  if (principal.credential !== 'key') return undefined
  const {
    keyId,
    projectId,
    teamId,
    endUser,
    modelsAllowed,
    routesAllowed = [],
    addressesAllowed,
    capabilitiesAllowed,
    cacheTtlMs,
    expiresAtMs,
  } = principal
  return {
    keyId,
    projectId,
    teamId,
    endUser,
    modelsAllowed,
    routesAllowed,
    addressesAllowed,
    capabilitiesAllowed,
    cacheTtlMs,
    expiresAtMs,
  }
}

function isUsable(adminToken: unknown): adminToken is string {
  return typeof adminToken === 'string' && adminToken.length >= TOKEN_CHARS_MIN
}

function requireUsableToken(adminToken: unknown): void {
  if (isUsable(adminToken)) return
  const message = `The admin API is closed: ADMIN_TOKEN has fewer than ${TOKEN_CHARS_MIN} characters.`
  throw new Refusal({ code: 'unavailable', message })
}

const isOperator = async (presented: string, adminToken: unknown): Promise<boolean> =>
  isUsable(adminToken) && (await sameText(presented, adminToken))

/** Compares digests, in a time that depends on neither text: how much of a guess is right does not show. */
async function sameText(left: string, right: string): Promise<boolean> {
  const digest = async (text: string) =>
    new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
  const [a, b] = [await digest(left), await digest(right)]
  return a.reduce((difference, byte, index) => difference | (byte ^ (b[index] ?? 0)), 0) === 0
}
