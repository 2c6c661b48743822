import { describe, expect, test } from 'vitest'
import type { Principal } from '../../../../gateway/auth/principal.ts'
import { excessRight, type Rights } from '../../../../gateway/auth/rights.ts'
import { covers, PERMISSIONS, permits, ROLES } from '../../../../gateway/auth/roles.ts'
import { scopeRefusal } from '../../../../gateway/auth/scopes.ts'

const NOW_MS = Date.parse('2026-11-22T00:00:00Z')

describe('a key made by a key', () => {
  const maker: Rights = {
    projectId: 'p1',
    teamId: 't1',
    endUser: 'customer',
    models: ['a', 'b'],
    routes: ['chat', 'admin'],
    addresses: ['10.0.0.0/8', '2001:db8::/32'],
    capabilities: ['files', 'code'],
    cacheTtlMs: 60_000,
    expiresAtMs: NOW_MS,
  }

  test('may have the same rights, or less of each', () => {
    expect(excessRight(maker, maker)).toBeUndefined()
    const less: Rights = {
      ...maker,
      cacheTtlMs: undefined,
      capabilities: ['code'],
      models: [],
      routes: ['chat'],
      addresses: ['10.1.2.3'],
      expiresAtMs: NOW_MS - 1,
    }
    expect(excessRight(less, maker)).toBeUndefined()
  })

  test.each<[string, Partial<Rights>, string]>([
    ['another project', { projectId: 'p2' }, 'project_id'],
    ['another team', { teamId: 't2' }, 'team_id'],
    ['no team', { teamId: undefined }, 'team_id'],
    ['another end user', { endUser: 'other' }, 'end_user'],
    ['no end user', { endUser: undefined }, 'end_user'],
    ['a model more', { models: ['a', 'c'] }, 'models'],
    ['every model', { models: undefined }, 'models'],
    ['a route more', { routes: ['chat', 'embeddings'] }, 'routes'],
    ['every route', { routes: undefined }, 'routes'],
    ['a network beside', { addresses: ['11.0.0.0/8'] }, 'addresses'],
    ['a wider network', { addresses: ['0.0.0.0/0'] }, 'addresses'],
    ['one network within and one beyond', { addresses: ['10.0.0.1', '::1'] }, 'addresses'],
    ['every address', { addresses: undefined }, 'addresses'],
    ['a capability more', { capabilities: ['files', 'network'] }, 'capabilities'],
    ['any two capabilities', { capabilities: undefined }, 'capabilities'],
    ['an older cache', { cacheTtlMs: 60_001 }, 'cache'],
    ['a later end', { expiresAtMs: NOW_MS + 1 }, 'expires_at'],
    ['no end', { expiresAtMs: undefined }, 'expires_at'],
  ])('cannot have %s', (_, more, param) => {
    expect(excessRight({ ...maker, ...more }, maker)?.param).toBe(param)
  })

  test('cannot administer because its maker is not restricted to routes', () => {
    expect(excessRight({ projectId: 'p1', routes: ['admin'] }, { projectId: 'p1' })?.param).toBe('routes')
    expect(excessRight({ projectId: 'p1' }, { projectId: 'p1' })).toBeUndefined()
  })

  test('has no cache from a maker that has none', () => {
    expect(excessRight({ projectId: 'p1', cacheTtlMs: 1 }, { projectId: 'p1' })?.param).toBe('cache')
  })
})

describe('a role', () => {
  test('covers itself; the owner covers all, and only an owner covers an owner', () => {
    for (const role of ROLES) {
      expect(covers([role], role)).toBe(true)
      expect(covers(['owner'], role)).toBe(true)
      expect(covers([role], 'owner')).toBe(role === 'owner')
    }
    expect(covers(['admin'], 'admin')).toBe(true)
    expect(covers(['billing'], 'developer')).toBe(false)
    expect(covers(['developer'], 'billing')).toBe(false)
    expect(covers([], 'viewer')).toBe(false)
  })

  test('within another permits what both do, and no roles permit nothing', () => {
    for (const permission of PERMISSIONS) {
      expect(permits([], permission)).toBe(false)
      for (const a of ROLES) {
        for (const b of ROLES)
          expect(permits([a, b], permission)).toBe(permits([a], permission) && permits([b], permission))
      }
    }
    expect(covers(['owner', 'developer'], 'admin')).toBe(false)
  })

  test('is never the operator', () => {
    for (const role of ROLES) expect(permits([role], 'operator')).toBe(false)
  })
})

describe('a scope', () => {
  const key: Principal = { credential: 'key', orgId: 'o', projectId: 'p', keyId: 'k', keyPrefix: 'psk_x' }
  const address = '10.1.2.3'

  test('without restrictions takes every route but administration', () => {
    for (const scope of ['chat', 'completions', 'embeddings', 'models'] as const) {
      expect(scopeRefusal(key, scope, undefined)).toBeUndefined()
    }
    expect(scopeRefusal(key, 'admin', undefined)).toMatchObject({ code: 'permission_denied' })
    expect(scopeRefusal({ ...key, routesAllowed: ['admin'] }, 'admin', undefined)).toBeUndefined()
  })

  test('of routes takes those alone and names itself', () => {
    const chat: Principal = { ...key, routesAllowed: ['chat'] }
    expect(scopeRefusal(chat, 'chat', undefined)).toBeUndefined()
    for (const scope of ['completions', 'embeddings', 'models', 'admin'] as const) {
      expect(scopeRefusal(chat, scope, undefined)?.message).toContain('"routes"')
    }
    expect(scopeRefusal({ ...key, routesAllowed: [] }, 'chat', undefined)).toBeDefined()
  })

  test('of addresses takes those alone, and nobody where the address is not known', () => {
    const bound: Principal = { ...key, addressesAllowed: ['10.0.0.0/8'] }
    expect(scopeRefusal(bound, 'chat', address)).toBeUndefined()
    for (const other of ['11.0.0.1', '::1', 'x', '', undefined]) {
      expect(scopeRefusal(bound, 'chat', other)).toMatchObject({
        code: 'permission_denied',
        message: expect.stringContaining('"addresses"'),
      })
    }
    expect(scopeRefusal({ ...key, addressesAllowed: [] }, 'chat', address)).toBeDefined()
  })

  test('of a user whose role does not use tokens takes no inference', () => {
    for (const role of ROLES) {
      const refused = scopeRefusal({ ...key, roles: [role] }, 'chat', undefined)
      expect(refused === undefined).toBe(permits([role], 'inference.use'))
      expect(scopeRefusal({ ...key, roles: [role] }, 'models', undefined)).toBeUndefined()
    }
  })
})
