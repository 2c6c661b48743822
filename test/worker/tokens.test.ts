// From a token to its caller, in workerd with the real migrations: what is taken, what is refused, and how long a verdict,
// a key set and a membership count.
import { env } from 'cloudflare:test'
import { exportSPKI, SignJWT, UnsecuredJWT } from 'jose'
import { beforeAll, describe, expect, test } from 'vitest'
import { REFRESH_COOLDOWN_MS } from '../../gateway/auth/key-sets.ts'
import { forgetTokens } from '../../gateway/auth/token.ts'
import type { Fetch } from '../../gateway/policy/reach.ts'
import { admin, newName, newTenant, present, type Tenant, withoutDatabase } from './support/admin.ts'
import { jwksOf, keyPair, newPerson, type Person, TestIssuer } from './support/people.ts'

const VERDICT_MS = 60_000

let tenant: Tenant
let issuer: TestIssuer
let alice: Person

beforeAll(async () => {
  tenant = await newTenant()
  issuer = await TestIssuer.register(tenant, { algorithms: ['ES256', 'RS256', 'EdDSA'], clock_skew_seconds: 30 })
  alice = await newPerson(issuer, 'developer')
})

const verdict = async (token: string, nowMs?: number) => {
  const result = await present(token, nowMs)
  return result.ok ? 'ok' : `${result.error.code}: ${result.error.message}`
}
const claims = (change = {}) => issuer.claims({ sub: alice.subject, ...change })
const text = (value: unknown) =>
  btoa(JSON.stringify(value)).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')

describe('a good token', () => {
  test('names its user, organisation and project, and what bounds its role', async () => {
    expect(await present(alice.token)).toEqual({
      ok: true,
      value: {
        credential: 'token',
        orgId: tenant.orgId,
        projectId: tenant.projectId,
        keyId: alice.userId,
        keyPrefix: 'token',
        userId: alice.userId,
        roles: ['developer', 'owner'],
        expiresAtMs: expect.any(Number),
      },
    })
  })

  test('counts for the only team of its user, and for none where there are several', async () => {
    const person = await newPerson(issuer, 'developer')
    const team = async () => {
      const made = await admin('POST', `/organisations/${tenant.orgId}/teams`, { slug: newName('team') })
      await admin('PUT', `/organisations/${tenant.orgId}/teams/${made.body.id}/members/${person.userId}`)
      return made.body.id
    }
    const first = await team()
    expect(await present(person.token)).toMatchObject({ value: { teamId: first } })
    await team()
    expect(await present(person.token)).not.toHaveProperty('value.teamId')
  })

  test('of a user bound to projects counts for one of them', async () => {
    const path = `/organisations/${tenant.orgId}/projects`
    const other = (await admin('POST', path, { slug: newName('bound') })).body.id
    const person = await newPerson(issuer, 'developer', { projects: [other] })
    expect(await present(person.token)).toMatchObject({ value: { projectId: other, projects: [other] } })
  })
})

describe('a token is refused', () => {
  test.each<[string, () => Promise<string>, string]>([
    ['without a signature', async () => new UnsecuredJWT(claims()).encode(), 'malformed'],
    [
      'with the algorithm "none" and a key id',
      async () => `${text({ alg: 'none', kid: 'k1' })}.${text(claims())}.`,
      'malformed',
    ],
    [
      'with the public key as a shared secret',
      async () => {
        const pem = await exportSPKI((await keyPair('k1')).publicKey)
        return new SignJWT(claims()).setProtectedHeader({ alg: 'HS256', kid: 'k1' }).sign(new TextEncoder().encode(pem))
      },
      'malformed',
    ],
    ['with an algorithm that its issuer does not use', () => issuer.sign(claims(), { alg: 'PS256' }), 'algorithm'],
    [
      'with an algorithm of the issuer and a key of another kind',
      () => issuer.sign(claims(), { alg: 'EdDSA' }),
      'signature',
    ],
    ['without a key id', () => issuer.sign(claims(), { header: { kid: undefined } }), 'malformed'],
    [
      'signed by another key under the right id',
      () => issuer.sign(claims(), { kid: 'k1', key: 'stranger' }),
      'signature',
    ],
    [
      'with a key id that its issuer does not have',
      () => issuer.sign(claims(), { kid: 'k2' }),
      'does not have the key',
    ],
    ['of another issuer', () => issuer.sign(claims({ iss: 'https://elsewhere.example.com' })), 'not registered'],
    ['for another audience', () => issuer.sign(claims({ aud: 'another-service' })), 'not registered'],
    ['without an audience', () => issuer.sign(claims({ aud: undefined })), 'malformed'],
    ['without an expiry', () => issuer.sign(claims({ exp: undefined })), '"exp"'],
    ['without a time of issue', () => issuer.sign(claims({ iat: undefined })), '"iat"'],
    [
      'after its expiry and the skew',
      () => issuer.sign(claims({ exp: Math.floor(Date.now() / 1000) - 31 })),
      'expired',
    ],
    ['before its time and the skew', () => issuer.sign(claims({ nbf: Math.floor(Date.now() / 1000) + 60 })), '"nbf"'],
    ['issued in the future', () => issuer.sign(claims({ iat: Math.floor(Date.now() / 1000) + 120 })), '"iat"'],
    [
      'older than its issuer allows, whatever its expiry says',
      () =>
        issuer.sign(claims({ iat: Math.floor(Date.now() / 1000) - 90_000, exp: Math.floor(Date.now() / 1000) + 600 })),
      'too old',
    ],
    ['of a subject that nobody knows', () => issuer.sign(claims({ sub: 'nobody' })), 'no active user'],
    ['without a subject', () => issuer.sign(claims({ sub: undefined })), 'no subject'],
    ['with a subject that is no text', () => issuer.sign(claims({ sub: 7 as never })), 'no subject'],
    [
      'with a critical header that nobody understands',
      () => issuer.sign(claims(), { header: { crit: ['b64x'], b64x: true } }),
      'signature',
    ],
    ['with more than 8192 characters', () => issuer.sign(claims({ groups: 'g'.repeat(8_192) })), 'characters'],
    [
      'with a claim changed after signing',
      async () => {
        const [head, , signature] = (await issuer.sign(claims())).split('.')
        return `${head}.${text(claims({ sub: 'owner' }))}.${signature}`
      },
      'signature',
    ],
    ['that is garbage of three parts', async () => 'a.b.c', 'malformed'],
    ['that is empty parts', async () => '..', 'not an API key'],
  ])('%s', async (_, make, why) => {
    const said = await verdict(await make())
    expect(said).toMatch(/^invalid_api_key/)
    expect(said).toContain(why)
  })

  test('that is within the skew passes, on both sides', async () => {
    const nowS = Math.floor(Date.now() / 1000)
    expect(await verdict(await issuer.sign(claims({ exp: nowS - 10 })))).toBe('ok')
    expect(await verdict(await issuer.sign(claims({ nbf: nowS + 10 })))).toBe('ok')
  })

  test('with several audiences of different issuers: which organisation is meant would be a guess', async () => {
    const other = await newTenant()
    const theirs = await TestIssuer.register(other, { issuer: issuer.issuer, audience: 'theirs' })
    await newPerson(theirs, 'owner', { subject: alice.subject, email: 'twin@example.com' })
    expect(await verdict(await issuer.sign(claims({ aud: ['penstock', 'theirs'] })))).toContain('not registered')
    expect(await verdict(await issuer.sign(claims({ aud: ['penstock', 'nobody'] })))).toBe('ok')
    // The same subject of the same issuer, for the other audience, is the other organisation's user.
    expect(await present(await issuer.sign(claims({ aud: 'theirs' })))).toMatchObject({ value: { orgId: other.orgId } })
  })

  test('where the issuer is for services and the subject a person, and the other way round', async () => {
    const services = await TestIssuer.register(tenant, { service: true })
    const person = await newPerson(services, 'developer')
    expect(await verdict(person.token)).toContain('no active user')
    const subject = newName('job')
    const job = { slug: subject, issuer_id: services.issuerId, subject, role: 'developer' }
    expect((await admin('POST', `/organisations/${tenant.orgId}/service-accounts`, job)).status).toBe(201)
    expect(await verdict(await services.token(subject))).toBe('ok')
  })
})

describe('the role', () => {
  test('is never above the issuer’s bound, and a claim narrows it further', async () => {
    const narrow = await TestIssuer.register(tenant, { max_role: 'admin', role_claim: 'role' })
    const owner = await newPerson(narrow, 'owner')
    const roles = async (role: unknown) => {
      const result = await present(await narrow.token(owner.subject, { role }))
      return result.ok ? result.value.roles : result.error.code
    }
    expect(await roles('developer')).toEqual(['owner', 'admin', 'developer'])
    expect(await roles('owner')).toEqual(['owner', 'admin'])
    expect(await roles(['staff', 'viewer'])).toEqual(['owner', 'admin', 'viewer'])
    for (const none of [undefined, 'root', [], ['viewer', 'admin'], { role: 'owner' }])
      expect(await roles(none)).toBe('invalid_api_key')
  })
})

describe('a verdict', () => {
  test('belongs to the whole token: two with an equal beginning are two', async () => {
    const good = await issuer.sign(claims())
    const nowMs = Date.now()
    expect(await verdict(good, nowMs)).toBe('ok')
    const [head, body, signature = ''] = good.split('.')
    const forged = `${head}.${body}.${signature.slice(0, -4)}${signature.endsWith('AAAA') ? 'BBBB' : 'AAAA'}`
    expect(forged.slice(0, -4)).toBe(good.slice(0, -4))
    expect(await verdict(forged, nowMs)).toContain('signature')
    const mallory = `${head}.${text(claims({ sub: 'mallory' }))}.${signature}`
    expect(await verdict(mallory, nowMs)).toContain('signature')
  })

  test('ends with its token, to the second and the skew', async () => {
    const nowMs = Math.floor(Date.now() / 1000) * 1000
    const token = await issuer.sign(claims({ exp: nowMs / 1000 + 5 }))
    expect(await verdict(token, nowMs)).toBe('ok')
    expect(await verdict(token, nowMs + 34_999)).toBe('ok')
    expect(await verdict(token, nowMs + 35_000)).toContain('expired')
  })

  test('sees a lost membership, a suspension and a deleted issuer at once here, and within a minute elsewhere', async () => {
    const person = await newPerson(issuer, 'developer')
    const path = `/organisations/${tenant.orgId}/users/${person.userId}`
    const nowMs = Date.now()
    expect(await verdict(person.token, nowMs)).toBe('ok')
    // Written behind this isolate's back: as it was done in another one.
    const rename = { text: 'UPDATE users SET suspended_at = now() WHERE user_id = $1', params: [person.userId] }
    const { connect } = await import('../../gateway/db/connect.ts')
    await connect(env).run(rename)
    expect(await verdict(person.token, nowMs + VERDICT_MS - 1)).toBe('ok')
    expect(await verdict(person.token, nowMs + VERDICT_MS)).toContain('no active user')
    await admin('PATCH', path, { suspended: false })
    expect(await verdict(person.token)).toBe('ok')
    await admin('PATCH', path, { suspended: true })
    expect(await verdict(person.token)).toContain('no active user')
    await admin('PATCH', path, { suspended: false })
    expect(await verdict(person.token)).toBe('ok')
    await admin('DELETE', `${path}/membership`)
    expect(await verdict(person.token)).toContain('no active user')

    const own = await TestIssuer.register(tenant)
    const other = await newPerson(own, 'viewer')
    expect(await verdict(other.token)).toBe('ok')
    await admin('DELETE', `/organisations/${tenant.orgId}/issuers/${own.issuerId}`)
    expect(await verdict(other.token)).toContain('not registered')
  })

  test('goes on for a known user while Postgres is away, and is a 503 for an unknown one and for administration', async () => {
    const person = await newPerson(issuer, 'developer')
    const nowMs = Date.now()
    expect(await verdict(person.token, nowMs)).toBe('ok')
    const dead = withoutDatabase()
    const later = await present(person.token, nowMs + VERDICT_MS + 1, dead)
    expect(later.ok).toBe(true)
    const fresh = await present(person.token, nowMs + VERDICT_MS + 1, dead, { fresh: true })
    expect(fresh).toMatchObject({ error: { code: 'unavailable' } })
    forgetTokens()
    expect(await present(person.token, nowMs + 2 * VERDICT_MS, dead)).toMatchObject({ error: { code: 'unavailable' } })
  })
})

test('a known user is not held up by a Postgres that stays silent', async () => {
  const person = await newPerson(issuer, 'developer')
  const nowMs = Date.now()
  expect(await verdict(person.token, nowMs)).toBe('ok')
  const silent = new Promise<never>(() => {})
  const pools = { getByName: () => ({ run: () => silent }) }
  const on = { ...env, DATABASE_POOL: pools as unknown as typeof env.DATABASE_POOL }
  expect((await present(person.token, nowMs + VERDICT_MS, on)).ok).toBe(true)
})

describe('the keys of an issuer', () => {
  /** Serves what `keys` says at the moment, and counts. */
  function published(initial: Record<string, string>) {
    const state = { keys: initial, fetches: [] as string[], answer: undefined as Response | undefined }
    const fetch: Fetch = async (url, init) => {
      state.fetches.push(url)
      expect(init.redirect).toBe('manual')
      return state.answer?.clone() ?? Response.json(await jwksOf(state.keys))
    }
    return { state, fetch }
  }

  async function remote() {
    const url = `https://${newName('keys')}.example.com/jwks`
    const own = await TestIssuer.register(tenant, { jwks_uri: url })
    const person = await newPerson(own, 'developer')
    return { own, person, url }
  }
  const ask = async (token: string, fetch: Fetch, nowMs: number) => {
    const result = await present(token, nowMs, env, { fetch })
    return result.ok ? 'ok' : result.error.code
  }

  test('are fetched once from the registered address, and again when they are ten minutes old', async () => {
    const { own, person, url } = await remote()
    const { state, fetch } = published({ k1: 'k1' })
    const nowMs = Date.now()
    for (const afterMs of [0, 1, 61_000, 599_999]) {
      const at = nowMs + afterMs
      expect(await ask(await own.sign(own.claims({ sub: person.subject }, at)), fetch, at)).toBe('ok')
    }
    expect(state.fetches).toEqual([url])
    const at = nowMs + 600_000
    expect(await ask(await own.sign(own.claims({ sub: person.subject }, at)), fetch, at)).toBe('ok')
    expect(state.fetches).toEqual([url, url])
  })

  test('a storm of unknown key ids causes one fetch in a cooldown, one after another and all at once', async () => {
    const { own, person } = await remote()
    const { state, fetch } = published({ k1: 'k1' })
    const nowMs = Date.now()
    const stranger = async (index: number, at: number) =>
      ask(
        await own.sign(own.claims({ sub: person.subject, jti: `${index}` }, at), { kid: `made-up-${index}`, key: 'x' }),
        fetch,
        at,
      )
    expect(await ask(person.token, fetch, nowMs)).toBe('ok')
    for (let index = 0; index < 20; index++) expect(await stranger(index, nowMs + index)).toBe('invalid_api_key')
    expect(state.fetches).toHaveLength(1)
    const later = nowMs + REFRESH_COOLDOWN_MS
    await Promise.all(Array.from({ length: 20 }, (_, index) => stranger(100 + index, later)))
    expect(state.fetches).toHaveLength(2)
  })

  test('a rotated key is found once the cooldown is over, and the one taken back is refused with it', async () => {
    const { own, person } = await remote()
    const { state, fetch } = published({ k1: 'k1' })
    const nowMs = Date.now()
    expect(await ask(person.token, fetch, nowMs)).toBe('ok')
    state.keys = { k2: 'k2' }
    const at = nowMs + REFRESH_COOLDOWN_MS
    const rotated = (jti: string) => own.sign(own.claims({ sub: person.subject, jti }, at), { kid: 'k2' })
    expect(await ask(await rotated('1'), fetch, nowMs + 1)).toBe('invalid_api_key')
    expect(await ask(await rotated('2'), fetch, at)).toBe('ok')
    expect(state.fetches).toHaveLength(2)
    expect(await ask(await own.sign(own.claims({ sub: person.subject, jti: 'old' }, at)), fetch, at)).toBe(
      'invalid_api_key',
    )
  })

  test.each<[string, () => Response | Promise<Response>]>([
    ['a redirect', () => new Response(null, { status: 302, headers: { location: 'http://169.254.169.254/' } })],
    ['an error', () => new Response('{"keys": []}', { status: 500 })],
    ['text', () => new Response('<html>')],
    ['no keys', () => Response.json({ keys: [] })],
    ['a shared secret', () => Response.json({ keys: [{ kty: 'oct', kid: 'k1', k: 'c2VjcmV0' }] })],
    ['more than a set can have', () => new Response(`{"keys": [], "padding": "${'x'.repeat(300_000)}"}`)],
  ])('an address that answers with %s is a 503, asked once in a cooldown', async (_, answer) => {
    const { person } = await remote()
    const { state, fetch } = published({ k1: 'k1' })
    state.answer = await answer()
    const nowMs = Date.now()
    expect(await ask(person.token, fetch, nowMs)).toBe('unavailable')
    expect(await ask(person.token, fetch, nowMs + 1)).toBe('unavailable')
    expect(state.fetches).toHaveLength(1)
    state.answer = undefined
    expect(await ask(person.token, fetch, nowMs + REFRESH_COOLDOWN_MS)).toBe('ok')
  })

  test('stay in use for an hour while their address is silent, and no longer', async () => {
    const { own, person } = await remote()
    const { state, fetch } = published({ k1: 'k1' })
    const nowMs = Date.now()
    expect(await ask(person.token, fetch, nowMs)).toBe('ok')
    state.answer = new Response(null, { status: 500 })
    const at = async (afterMs: number) =>
      ask(await own.sign(own.claims({ sub: person.subject }, nowMs + afterMs)), fetch, nowMs + afterMs)
    expect(await at(3_599_000)).toBe('ok')
    expect(await at(3_601_000)).toBe('unavailable')
  })

  test('of another organisation sign nothing here', async () => {
    const other = await newTenant()
    const theirs = await TestIssuer.register(other, { jwks: await jwksOf({ k1: 'their-key' }) })
    const forged = await theirs.sign(issuer.claims({ sub: alice.subject }), { key: 'their-key' })
    expect(await verdict(forged)).toContain('signature')
  })
})

describe('registering an issuer', () => {
  const path = () => `/organisations/${tenant.orgId}/issuers`
  const good = async () => ({
    issuer: `https://${newName('idp')}.example.com`,
    audience: 'a',
    algorithms: ['RS256'],
    max_role: 'viewer',
    project_id: tenant.projectId,
    jwks_uri: 'https://idp.example.com/keys',
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['a shared-secret algorithm', { algorithms: ['HS256'] }, 'algorithms[0]'],
    ['the algorithm none', { algorithms: ['none'] }, 'algorithms[0]'],
    ['no algorithm', { algorithms: [] }, 'algorithms'],
    ['more skew than a minute', { clock_skew_seconds: 61 }, 'clock_skew_seconds'],
    ['a longer life than a day', { token_age_max_seconds: 86_401 }, 'token_age_max_seconds'],
    ['keys on plain http', { jwks_uri: 'http://idp.example.com/keys' }, 'jwks_uri'],
    ['keys on a private network', { jwks_uri: 'https://10.0.0.1/keys' }, 'jwks_uri'],
    [
      'keys where machines hand out credentials',
      { jwks_uri: 'http://169.254.169.254/x', allow_private: true },
      'jwks_uri',
    ],
    ['keys in two places', { jwks: { keys: [] } }, 'jwks'],
    ['keys nowhere', { jwks_uri: undefined }, 'jwks_uri'],
    [
      'a private key',
      { jwks_uri: undefined, jwks: { keys: [{ kty: 'OKP', crv: 'Ed25519', x: 'x', d: 'd', kid: '1' }] } },
      'jwks',
    ],
    ['a shared key', { jwks_uri: undefined, jwks: { keys: [{ kty: 'oct', k: 'k', kid: '1' }] } }, 'jwks'],
    ['a project of nobody', { project_id: crypto.randomUUID() }, 'project_id'],
  ])('with %s is refused', async (_, wrong, param) => {
    const answer = await admin('POST', path(), { ...(await good()), ...wrong })
    expect([answer.status, answer.body.error.param]).toEqual([400, param])
  })

  test('is safe to repeat, and the same issuer and audience cannot be two organisations’', async () => {
    const body = await good()
    const [first, again] = [await admin('POST', path(), body), await admin('POST', path(), body)]
    expect([first.status, again.status]).toEqual([201, 200])
    expect(again.body).toEqual(first.body)
    const other = await newTenant()
    const stolen = await admin('POST', `/organisations/${other.orgId}/issuers`, {
      ...body,
      project_id: other.projectId,
    })
    expect([stolen.status, stolen.body.error.code]).toEqual([409, 'conflict'])
  })
})
