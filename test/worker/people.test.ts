// Users, roles, teams and service accounts in workerd with the real migrations: who may change whom, and how soon a change
// reaches keys and tokens.
import { env } from 'cloudflare:test'
import { beforeAll, describe, expect, test } from 'vitest'
import { ROLES } from '../../gateway/auth/roles.ts'
import { admin, type Json, newAsk, newName, newTenant, present, type Tenant } from './support/admin.ts'
import { newPerson, type Person, TestIssuer } from './support/people.ts'

let tenant: Tenant
let issuer: TestIssuer
let owner: Person
let manager: Person

beforeAll(async () => {
  tenant = await newTenant()
  issuer = await TestIssuer.register(tenant)
  owner = await newPerson(issuer, 'owner')
  manager = await newPerson(issuer, 'admin')
})

const org = (path: string) => `/organisations/${tenant.orgId}${path}`
const as = (person: Person, method: string, path: string, body?: unknown) =>
  admin(method, path, body, { token: person.token })
const said = ({ status, body }: { status: number; body: Json }) => [status, body?.error?.param ?? body?.error?.code]
const accepted = async (credential: string) => (await present(credential)).ok

describe('users', () => {
  test('are made once by e-mail address, whoever asks how often and in which case', async () => {
    const email = `${newName('Ann')}@Example.com`
    const made = await Promise.all(
      [email, email.toUpperCase(), email.toLowerCase()].map((one) =>
        admin('POST', org('/users'), { email: one, role: 'viewer' }),
      ),
    )
    expect(new Set(made.map(({ body }) => body.id)).size).toBe(1)
    expect(made.filter(({ status }) => status === 201)).toHaveLength(1)
    expect(made[0]?.body).toMatchObject({
      kind: 'person',
      email: email.toLowerCase(),
      role: 'viewer',
      projects: null,
      suspended_at: null,
    })
    expect((await admin('GET', org(`/users/${made[0]?.body.id}`))).body).toEqual(made[0]?.body)
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['no e-mail address', { email: 'x' }, 'email'],
    ['an unknown role', { role: 'root' }, 'role'],
    ['projects without a role', { projects: [crypto.randomUUID()] }, 'projects'],
    ['projects for an admin', { role: 'admin', projects: [crypto.randomUUID()] }, 'projects'],
    ['a project of nobody', { role: 'developer', projects: [crypto.randomUUID()] }, 'projects[0]'],
    ['no project at all', { role: 'developer', projects: [] }, 'projects'],
    ['a subject without an issuer', { subject: 's' }, 'issuer_id'],
    ['an issuer of nobody', { issuer_id: crypto.randomUUID(), subject: 's' }, 'issuer_id'],
    ['a password', { password: 'x' }, 'password'],
  ])('with %s are refused by the field', async (_, wrong, param) => {
    expect(said(await admin('POST', org('/users'), { email: `${newName('u')}@example.com`, ...wrong }))).toEqual([
      400,
      param,
    ])
  })

  test('of one organisation are not there for another', async () => {
    const other = await newTenant()
    for (const [method, body] of [['GET'], ['PATCH', { name: 'x' }]] as const) {
      expect((await admin(method, `/organisations/${other.orgId}/users/${owner.userId}`, body)).status).toBe(404)
    }
    expect((await as(owner, 'GET', `/organisations/${other.orgId}/users`)).status).toBe(404)
  })

  test('share no subject of an issuer', async () => {
    const taken = { email: `${newName('u')}@example.com`, issuer_id: issuer.issuerId, subject: owner.subject }
    const second = await admin('POST', org('/users'), taken)
    expect(second.status).toBe(400)
    const free = await newPerson(issuer, 'viewer')
    const stolen = { issuer_id: issuer.issuerId, subject: owner.subject }
    expect(said(await admin('PATCH', org(`/users/${free.userId}`), stolen))).toEqual([400, 'subject'])
  })
})

describe('nobody grants more than they have', () => {
  test('an admin gives every role but that of an owner, and acts on no owner', async () => {
    for (const role of ROLES) {
      const body = { email: `${newName('new')}@example.com`, role }
      expect((await as(manager, 'POST', org('/users'), body)).status).toBe(role === 'owner' ? 403 : 201)
    }
    const target = await newPerson(issuer, 'viewer')
    expect((await as(manager, 'PUT', org(`/users/${target.userId}/membership`), { role: 'owner' })).status).toBe(403)
    expect((await as(manager, 'PUT', org(`/users/${manager.userId}/membership`), { role: 'owner' })).status).toBe(403)
    for (const [method, path, body] of [
      ['PUT', '/membership', { role: 'viewer' }],
      ['DELETE', '/membership', undefined],
      ['PATCH', '', { suspended: true }],
      ['PATCH', '', { issuer_id: issuer.issuerId, subject: 'me' }],
    ] as const) {
      expect((await as(manager, method, org(`/users/${owner.userId}${path}`), body)).status).toBe(403)
    }
  })

  test('an issuer cannot be given a role above that of who registers it', async () => {
    const body = {
      issuer: `https://${newName('idp')}.example.com`,
      audience: 'x',
      algorithms: ['ES256'],
      project_id: tenant.projectId,
      jwks_uri: 'https://idp.example.com/keys',
    }
    expect((await as(manager, 'POST', org('/issuers'), { ...body, max_role: 'owner' })).status).toBe(403)
    const made = await as(manager, 'POST', org('/issuers'), { ...body, max_role: 'admin' })
    expect(made.status).toBe(201)
    expect((await as(manager, 'PATCH', org(`/issuers/${made.body.id}`), { max_role: 'owner' })).status).toBe(403)
    expect((await as(manager, 'PATCH', org(`/issuers/${made.body.id}`), { allow_private: true })).status).toBe(403)
    // One above them is not theirs to point at other keys.
    expect(
      (await as(manager, 'PATCH', org(`/issuers/${issuer.issuerId}`), { jwks_uri: 'https://x.example.com/' })).status,
    ).toBe(403)
    expect((await as(manager, 'DELETE', org(`/issuers/${issuer.issuerId}`))).status).toBe(403)
  })

  test('a restricted key cannot say whose tokens are taken, and an unrestricted one can', async () => {
    const key = async (fields: Record<string, unknown>) => {
      const body = { project_id: tenant.projectId, name: 'k', user_id: manager.userId, routes: ['admin'], ...fields }
      return (await admin('POST', org('/keys'), body)).body.key as string
    }
    const target = await newPerson(issuer, 'viewer')
    const identity = (token: string) =>
      admin('PATCH', org(`/users/${target.userId}`), { issuer_id: issuer.issuerId, subject: newName('sub') }, { token })
    for (const restriction of [{ models: ['m'] }, { end_user: 'c' }, { expires_at: '2099-01-01T00:00:00Z' }]) {
      const token = await key(restriction)
      expect((await identity(token)).status).toBe(403)
      const body = { slug: newName('svc'), role: 'viewer', issuer_id: issuer.issuerId, subject: newName('sub') }
      expect((await admin('POST', org('/service-accounts'), body, { token })).status).toBe(403)
    }
    expect((await identity(await key({}))).status).toBe(200)
  })

  test('a token below its user’s role gives away no more than the token has', async () => {
    const weak = await TestIssuer.register(tenant, { max_role: 'developer' })
    const person = await newPerson(weak, 'owner')
    const key = { project_id: tenant.projectId, name: 'k' }
    expect(
      (await as(person, 'POST', org('/users'), { email: `${newName('x')}@example.com`, role: 'viewer' })).status,
    ).toBe(403)
    expect((await as(person, 'POST', org('/keys'), { ...key, routes: ['admin'] })).status).toBe(403)
    expect((await as(person, 'POST', org('/keys'), key)).status).toBe(201)
  })
})

describe('the last owner', () => {
  const only = async () => {
    const own = await newTenant()
    const idp = await TestIssuer.register(own)
    const person = await newPerson(idp, 'owner')
    return { idp, person, path: `/organisations/${own.orgId}/users/${person.userId}` }
  }

  test('is not removed, demoted or suspended, not by itself and not by the operator', async () => {
    const { person, path } = await only()
    for (const token of [person.token, env.ADMIN_TOKEN]) {
      const answers = [
        await admin('DELETE', `${path}/membership`, undefined, { token }),
        await admin('PUT', `${path}/membership`, { role: 'admin' }, { token }),
        await admin('PATCH', path, { suspended: true }, { token }),
      ]
      expect(answers.map(said)).toEqual(Array(3).fill([409, 'conflict']))
    }
    expect((await admin('GET', path)).body).toMatchObject({ role: 'owner', suspended_at: null })
    expect((await admin('PUT', `${path}/membership`, { role: 'owner' })).status).toBe(200)
  })

  test('stays where several remove each other at once', async () => {
    const { idp, person } = await only()
    const others = await Promise.all(Array.from({ length: 4 }, () => newPerson(idp, 'owner')))
    const path = (userId: string) => `/organisations/${idp.orgId}/users/${userId}/membership`
    const removals = await Promise.all([person, ...others].map(({ userId }) => admin('DELETE', path(userId))))
    expect(removals.map(({ status }) => status).toSorted()).toEqual([200, 200, 200, 200, 409])
    const { body } = await admin('GET', `/organisations/${idp.orgId}/users`)
    expect(body.data.filter((user: Json) => user.role === 'owner')).toHaveLength(1)
  })

  test('a suspended one does not count', async () => {
    const { idp, path } = await only()
    const second = await newPerson(idp, 'owner')
    expect(
      (await admin('PATCH', `/organisations/${idp.orgId}/users/${second.userId}`, { suspended: true })).status,
    ).toBe(200)
    expect((await admin('DELETE', `${path}/membership`)).status).toBe(409)
  })
})

type Change = [method: string, path: string, body?: unknown]

describe('what a user loses its credentials lose', () => {
  const withKey = async (fields: Record<string, unknown> = {}) => {
    const person = await newPerson(issuer, 'developer', fields)
    const made = await as(person, 'POST', org('/keys'), { project_id: tenant.projectId, name: 'own' })
    expect(made.status).toBe(201)
    return { person, keyId: made.body.id as string, key: made.body.key as string, path: org(`/users/${person.userId}`) }
  }
  const reserve = async (keyId: string, userId: string) => {
    const { orgId, projectId } = tenant
    const reserved = await env.ACCOUNT.getByName(orgId).reserve(newAsk({ orgId, projectId, keyId, userId }))
    return reserved.ok ? 'ok' : reserved.error.reason
  }

  test('with the membership and with a suspension: refused at once here, and by the account for other isolates', async () => {
    const { person, keyId, key, path } = await withKey()
    const changes: [Change, Change][] = [
      [
        ['PATCH', path, { suspended: true }],
        ['PATCH', path, { suspended: false }],
      ],
      [
        ['DELETE', `${path}/membership`],
        ['PUT', `${path}/membership`, { role: 'developer' }],
      ],
    ]
    for (const [end, back] of changes) {
      expect([await accepted(key), await accepted(person.token)]).toEqual([true, true])
      expect(await reserve(keyId, person.userId)).toBe('ok')
      expect((await admin(...end)).status).toBe(200)
      expect([await accepted(key), await accepted(person.token)]).toEqual([false, false])
      expect(await reserve(keyId, person.userId)).toBe('key_revoked')
      expect(await reserve(person.userId, person.userId)).toBe('key_revoked')
      expect((await admin(...back)).status).toBe(200)
      expect(await reserve(keyId, person.userId)).toBe('ok')
    }
    expect([await accepted(key), await accepted(person.token)]).toEqual([true, true])
  })

  test('a key revoked before stays so when its user comes back', async () => {
    const { person, keyId, key, path } = await withKey()
    await admin('DELETE', org(`/keys/${keyId}`))
    await admin('PATCH', path, { suspended: true })
    await admin('PATCH', path, { suspended: false })
    expect(await accepted(key)).toBe(false)
    expect(await reserve(keyId, person.userId)).toBe('key_revoked')
  })

  test('with a project: keys of it are refused, and work again with it', async () => {
    const { key, path } = await withKey()
    const other = (await admin('POST', org('/projects'), { slug: newName('other') })).body.id
    await admin('PUT', `${path}/membership`, { role: 'developer', projects: [other] })
    expect(await accepted(key)).toBe(false)
    await admin('PUT', `${path}/membership`, { role: 'developer', projects: [other, tenant.projectId] })
    expect(await accepted(key)).toBe(true)
  })
})

describe('a developer bound to projects', () => {
  test('sees and manages those, and nothing that concerns the whole organisation', async () => {
    const mine = (await admin('POST', org('/projects'), { slug: newName('mine') })).body.id
    const person = await newPerson(issuer, 'developer', { projects: [mine] })
    const list = await as(person, 'GET', org('/projects'))
    expect(list.body.data.map((project: Json) => project.id)).toEqual([mine])
    expect((await as(person, 'GET', org(`/projects/${mine}`))).status).toBe(200)
    expect((await as(person, 'GET', org(`/projects/${tenant.projectId}`))).status).toBe(404)

    const made = await as(person, 'POST', org('/keys'), { project_id: mine, name: 'k' })
    expect(made.status).toBe(201)
    expect(said(await as(person, 'POST', org('/keys'), { project_id: tenant.projectId, name: 'k' }))).toEqual([
      400,
      'project_id',
    ])
    const keys = await as(person, 'GET', org('/keys'))
    expect(keys.body.data.map((key: Json) => key.id)).toEqual([made.body.id])
    for (const [method, path] of [
      ['GET', ''],
      ['PATCH', ''],
      ['DELETE', ''],
      ['POST', '/rotate'],
    ] as const) {
      const body = method === 'GET' ? undefined : {}
      expect((await as(person, method, org(`/keys/${tenant.keyId}${path}`), body)).status).toBe(404)
    }
    const usage = (query: string) => as(person, 'GET', `/usage?org=${tenant.orgId}${query}`)
    expect((await usage(`&project=${mine}`)).status).toBe(200)
    expect(said(await usage(''))).toEqual([400, 'project'])
    expect((await usage(`&project=${tenant.projectId}`)).status).toBe(404)
    expect((await usage(`&project=${mine}&project=${tenant.projectId}`)).status).toBe(404)
    expect((await as(person, 'GET', org('/users'))).status).toBe(403)
  })
})

describe('a developer', () => {
  test('manages its own keys, revokes the project’s, and makes none that would count for nobody', async () => {
    const [one, two] = [await newPerson(issuer, 'developer'), await newPerson(issuer, 'developer')]
    const key = { project_id: tenant.projectId, name: 'k' }
    const own = (await as(one, 'POST', org('/keys'), key)).body
    expect(own).toMatchObject({ user_id: one.userId, made_by: one.userId })
    expect((await as(one, 'POST', org('/keys'), { ...key, user_id: null })).status).toBe(403)
    const project = (await as(manager, 'POST', org('/keys'), { ...key, user_id: null })).body
    expect(project).toMatchObject({ user_id: null, made_by: manager.userId })
    expect((await as(one, 'POST', org(`/keys/${project.id}/rotate`), { overlap_seconds: 0 })).status).toBe(403)
    expect((await as(one, 'POST', org('/keys'), { ...key, user_id: two.userId })).status).toBe(403)
    for (const [id, status] of [
      [own.id, 403],
      [project.id, 200],
    ]) {
      expect((await as(two, 'GET', org(`/keys/${id}`))).status).toBe(200)
      expect((await as(two, 'PATCH', org(`/keys/${id}`), { name: 'n' })).status).toBe(403)
      expect((await as(two, 'DELETE', org(`/keys/${id}`))).status).toBe(status)
    }
    expect((await as(one, 'DELETE', org(`/keys/${own.id}`))).status).toBe(200)
  })
})

describe('service accounts', () => {
  test('call with keys of their own, made by who covers their role', async () => {
    const made = await admin('POST', org('/service-accounts'), { slug: newName('ci'), role: 'admin' })
    expect(made.body).toMatchObject({ kind: 'service', role: 'admin' })
    const body = { project_id: tenant.projectId, name: 'ci', user_id: made.body.id, routes: ['admin'] }
    const developer = await newPerson(issuer, 'developer')
    expect((await as(developer, 'POST', org('/keys'), body)).status).toBe(403)
    const key = await as(manager, 'POST', org('/keys'), body)
    expect(key.status).toBe(201)
    const listed = await admin('GET', org('/users'), undefined, { token: key.body.key })
    expect(listed.status).toBe(200)
    const services = await admin('GET', org('/service-accounts'), undefined, { token: key.body.key })
    expect(services.body.data.every((user: Json) => user.kind === 'service')).toBe(true)
  })
})

describe('teams', () => {
  test('have members, which is safe to repeat, and keys of members alone', async () => {
    const slug = newName('team')
    const [first, again] = [await admin('POST', org('/teams'), { slug }), await admin('POST', org('/teams'), { slug })]
    expect([first.status, again.status]).toEqual([201, 200])
    const path = org(`/teams/${first.body.id}`)
    const [member, stranger] = [await newPerson(issuer, 'developer'), await newPerson(issuer, 'developer')]
    const key = { project_id: tenant.projectId, name: 'k', team_id: first.body.id }
    for (let time = 0; time < 2; time++)
      expect((await admin('PUT', `${path}/members/${member.userId}`)).status).toBe(200)
    expect((await admin('GET', `${path}/members`)).body.data.map((user: Json) => user.user_id)).toEqual([member.userId])
    expect(said(await as(stranger, 'POST', org('/keys'), key))).toEqual([400, 'team_id'])
    expect((await as(stranger, 'POST', org('/keys'), { ...key, user_id: null })).status).toBe(403)
    const made = await as(member, 'POST', org('/keys'), key)
    expect(made.status).toBe(201)
    expect(await present(made.body.key)).toMatchObject({ value: { teamId: first.body.id } })
    // What counts for a team that nobody sees, or for one that the user left, would be nobody's.
    expect((await admin('DELETE', `${path}/members/${member.userId}`)).status).toBe(409)
    expect((await admin('DELETE', path)).status).toBe(409)
    await admin('DELETE', org(`/keys/${made.body.id}`))
    for (let time = 0; time < 2; time++)
      expect((await admin('DELETE', `${path}/members/${member.userId}`)).status).toBe(200)
    expect((await admin('DELETE', path)).status).toBe(200)
    expect((await admin('GET', path)).status).toBe(404)
  })
})

describe('the audit log', () => {
  test('names the user and the key that did it, shows before and after, and is for owners and admins', async () => {
    const person = await newPerson(issuer, 'viewer')
    await as(manager, 'PUT', org(`/users/${person.userId}/membership`), { role: 'billing' })
    const { body } = await as(
      manager,
      'GET',
      `/audit?org_id=${tenant.orgId}&actor=${manager.userId}&action=membership.put`,
    )
    expect(body.data[0]).toMatchObject({
      actor: 'member',
      user_id: manager.userId,
      key_id: null,
      object_id: person.userId,
      details: { before: { role: 'viewer' }, after: { role: 'billing' } },
    })
    const byOperator = await as(manager, 'GET', `/audit?org_id=${tenant.orgId}&actor=operator`)
    expect(byOperator.body.data.every((act: Json) => act.actor === 'operator' && act.user_id === null)).toBe(true)
    expect((await as(person, 'GET', `/audit?org_id=${tenant.orgId}`)).status).toBe(403)
    expect(said(await as(manager, 'GET', '/audit'))).toEqual([400, 'org'])
    const other = await newTenant()
    expect((await as(manager, 'GET', `/audit?org_id=${other.orgId}`)).status).toBe(404)
    expect((await as(manager, 'GET', `/audit?org_id=${tenant.orgId}&org=${other.orgId}`)).status).toBe(404)
  })

  test('has the address of the caller where the deployment knows it', async () => {
    const slug = newName('address')
    const { adminApp } = await import('../../gateway/admin/index.ts')
    const headers = {
      authorization: `Bearer ${env.ADMIN_TOKEN}`,
      'x-real-ip': '192.0.2.44',
      'cf-connecting-ip': '192.0.2.45',
    }
    const init = { method: 'POST', headers, body: JSON.stringify({ slug }) }
    await adminApp.request(org('/teams'), init, { ...env, CLIENT_ADDRESS: 'x-real-ip' })
    const { body } = await admin('GET', `/audit?org_id=${tenant.orgId}&action=team.create`)
    expect(body.data[0]).toMatchObject({ details: { slug }, address: '192.0.2.44' })
  })
})
