// From a token (JWT) to the caller. Owns the order of the checks and how long a verdict counts; issuers are issuers.ts,
// their keys key-sets.ts, users members.ts. Nothing in a token is believed before its signature is checked: until then
// its claims choose which registered issuer to check it against, and nothing else.
import { decodeJwt, decodeProtectedHeader, errors, type JWTPayload, jwtVerify } from 'jose'
import * as z from 'zod'
import type { Failure } from '../../protocol/errors.ts'
import { late } from '../../protocol/late.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { FactCache } from '../db/cache.ts'
import { connect } from '../db/connect.ts'
import { PATIENCE_MS, withPatience } from '../db/patience.ts'
import { DatabaseUnavailable } from '../db/port.ts'
import type { Env } from '../env.ts'
import { log } from '../observe/log.ts'
import type { Fetch } from '../policy/reach.ts'
import { findIssuer, type Issuer, TOKEN_ALGORITHMS } from './issuers.ts'
import { keySetFor } from './key-sets.ts'
import { hashKey } from './keys.ts'
import { findMember, type MemberRecord } from './members.ts'
import type { Principal } from './principal.ts'
import { ROLES, type Role } from './roles.ts'

/** Refused before anything is parsed or hashed; large tokens with many groups have 4 KB. */
const TOKEN_CHARS_MAX = 8_192
/** How long a suspension or a lost membership can stay unseen in an isolate; the account refuses such a user earlier. */
const VERDICT_MS = 60_000
/** While Postgres is away a verdict is renewed this often, from the user as it last was. */
const VERDICT_WITHOUT_DATABASE_MS = 5_000
const MEMBER_STALE_MAX_MS = 600_000
const CACHED_TOKENS_MAX = 5_000

const Header = late(() => z.object({ alg: z.enum(TOKEN_ALGORITHMS), kid: z.string().min(1).max(200) }))
const text = late(() => z.string().min(1).max(500))
const Claimed = late(() =>
  z.object({ iss: text, aud: z.union([text.transform((one) => [one]), z.array(text).min(1).max(10)]) }),
)
const Subject = late(() => z.string().min(1).max(255))

/** By SHA-256 of the whole token: two tokens with a common beginning are two tokens. Refusals are not kept. */
const verdicts = new FactCache<Principal>(CACHED_TOKENS_MAX)
/** Users as they last were, for when Postgres is away. */
const members = new FactCache<MemberRecord>(CACHED_TOKENS_MAX)

/** `fresh`: no earlier verdict counts, and no copy of issuer or user. */
export type TokenTools = { env: Env; nowMs: number; fetch: Fetch; fresh: boolean }

/**
 * Whose token this is. `credential` is any text of three parts.
 * @returns Failure `invalid_api_key`, or `unavailable` where nobody can tell now whether the token is good.
 */
export async function verifyToken(credential: string, tools: TokenTools): Promise<Result<Principal, Failure>> {
  if (credential.length > TOKEN_CHARS_MAX) return refuse(`it has more than ${TOKEN_CHARS_MAX} characters`)
  const hash = hashKey(credential)
  const known = tools.fresh ? undefined : verdicts.get(hash, tools.nowMs)
  if (known !== undefined) return ok(known.value)
  try {
    const judged = await judge(credential, tools)
    if (!judged.ok) return judged
    const { principal, untilMs } = judged.value
    verdicts.set(hash, principal, untilMs)
    return ok(principal)
  } catch (error) {
    if (!(error instanceof DatabaseUnavailable)) throw error
    log('warn', 'token_check_unavailable', { reason: error.message })
    return unavailable(2_000)
  }
}

/** Drops this isolate's verdicts: after a change of users or issuers made through it, it must not lag behind. */
export function forgetTokens(): void {
  verdicts.clear()
  members.clear()
}

async function judge(
  credential: string,
  tools: TokenTools,
): Promise<Result<{ principal: Principal; untilMs: number }, Failure>> {
  const { env, nowMs } = tools
  const claimed = unverified(credential)
  if (claimed === undefined) return refuse('it is malformed, unsigned, or signed in a way that is not taken')
  const issuer = await findIssuer({ issuer: claimed.iss, audiences: claimed.aud }, connect(env), nowMs, tools.fresh)
  if (issuer === 'none') return refuse('its issuer and audience are not registered here')
  if (!issuer.algorithms.includes(claimed.alg)) return refuse('its issuer does not sign with this algorithm')
  const set = await keySetFor(issuer, claimed.kid, nowMs, tools.fetch)
  if (!set.ok) {
    return set.error.reason === 'unreachable'
      ? unavailable(set.error.retryAfterMs)
      : refuse('its issuer does not have the key that it names')
  }
  const payload = await verified(credential, issuer, set.value.resolve, nowMs)
  if (!payload.ok) return payload
  const subject = Subject.safeParse(payload.value[issuer.subjectClaim])
  if (!subject.success) return refuse('it names no subject')
  const roles = rolesOf(payload.value, issuer)
  if (roles === undefined) return refuse('its claim of a role names none')
  const found = await memberOf(issuer, subject.data, tools)
  if (found === undefined || (found.member.kind === 'service') !== issuer.service) {
    return refuse('its subject is no active user of the organisation')
  }
  const expiresAtMs = ((payload.value.exp ?? 0) + issuer.clockSkewS) * 1000
  const principal = principalOf(issuer, found.member, roles, expiresAtMs)
  return ok({ principal, untilMs: Math.min(expiresAtMs, nowMs + found.countsMs) })
}

type Unverified = z.infer<typeof Header> & z.infer<typeof Claimed>

function unverified(credential: string): Unverified | undefined {
  try {
    const header = Header.safeParse(decodeProtectedHeader(credential))
    const claims = Claimed.safeParse(decodeJwt(credential))
    return header.success && claims.success ? { ...header.data, ...claims.data } : undefined
  } catch {
    return undefined
  }
}

async function verified(
  credential: string,
  issuer: Issuer,
  key: Parameters<typeof jwtVerify>[1],
  nowMs: number,
): Promise<Result<JWTPayload, Failure>> {
  try {
    const { payload } = await jwtVerify(credential, key, {
      algorithms: issuer.algorithms,
      issuer: issuer.issuer,
      audience: issuer.audience,
      requiredClaims: ['exp', 'iat'],
      clockTolerance: issuer.clockSkewS,
      maxTokenAge: issuer.tokenAgeMaxS,
      currentDate: new Date(nowMs),
    })
    return ok(payload)
  } catch (error) {
    if (error instanceof errors.JWTExpired) return refuse('it has expired or is too old')
    if (error instanceof errors.JWTClaimValidationFailed)
      return refuse(`its claim "${error.claim}" is missing or wrong`)
    // Whatever else the library found: a signature that does not fit, a key that is none.
    if (error instanceof errors.JOSEError || error instanceof TypeError) return refuse('its signature does not fit')
    throw error
  }
}

/** The most the token lets its user do; a claim of a role narrows it further. Undefined: the claim is there to be, and is not. */
function rolesOf(payload: JWTPayload, { roleClaim, maxRole }: Issuer): Role[] | undefined {
  if (roleClaim === undefined) return [maxRole]
  const claim: unknown = payload[roleClaim]
  const named = ROLES.filter((role) => (Array.isArray(claim) ? claim.includes(role) : claim === role))
  // Several would have to widen each other, and which of them was meant is the issuer's to say.
  return named.length === 1 ? [maxRole, ...named] : undefined
}

async function memberOf(
  { orgId, issuerId }: Issuer,
  subject: string,
  { env, nowMs, fresh }: TokenTools,
): Promise<{ member: MemberRecord; countsMs: number } | undefined> {
  // Ids of issuers are unique within an organisation alone.
  const key = JSON.stringify([orgId, issuerId, subject])
  const copy = fresh ? undefined : members.get(key, nowMs)?.value
  const asking = findMember(connect(env), { orgId, issuerId, subject }).then((member) => {
    if (member === undefined) members.delete(key)
    else members.set(key, member, nowMs + MEMBER_STALE_MAX_MS)
    return member
  })
  try {
    const answer = copy === undefined ? { value: await asking } : await withPatience(asking, PATIENCE_MS)
    if (answer === undefined) throw new DatabaseUnavailable('Postgres is silent')
    return answer.value === undefined ? undefined : { member: answer.value, countsMs: VERDICT_MS }
  } catch (error) {
    if (copy === undefined || !(error instanceof DatabaseUnavailable)) throw error
    return { member: copy, countsMs: VERDICT_WITHOUT_DATABASE_MS }
  }
}

function principalOf(issuer: Issuer, member: MemberRecord, roles: Role[], expiresAtMs: number): Principal {
  const { userId, projects, teamId } = member
  const [firstProject = issuer.projectId] = projects ?? []
  return {
    credential: 'token',
    orgId: issuer.orgId,
    projectId: projects === undefined || projects.includes(issuer.projectId) ? issuer.projectId : firstProject,
    // A revocation of the user reaches the account under the same id.
    keyId: userId,
    keyPrefix: 'token',
    userId,
    roles: [...new Set([member.role, ...roles])],
    expiresAtMs,
    ...(projects === undefined ? {} : { projects }),
    ...(teamId === undefined ? {} : { teamId }),
  }
}

const refuse = (why: string): Result<never, Failure> =>
  err({ code: 'invalid_api_key', message: `The token was refused: ${why}.` })

const unavailable = (retryAfterMs: number): Result<never, Failure> =>
  err({ code: 'unavailable', message: 'Tokens cannot be checked right now.', retryAfterMs })
