// From a key to its caller, in workerd with the real migrations: the key's life, the directory's copies, and what is
// left of both while Postgres is away.
import { env, runInDurableObject } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { forgetKeys } from '../../gateway/auth/authenticate.ts'
import {
  Directory,
  directoryName,
  FRESH_MS,
  type Lookup,
  RETRY_AFTER_MS,
  STALE_MAX_MS,
} from '../../gateway/auth/directory.ts'
import { hashKey, makeKey } from '../../gateway/auth/keys.ts'
import { connect } from '../../gateway/db/connect.ts'
import type { Env } from '../../gateway/env.ts'
import { admin, newAsk, newTenant, present, type Tenant, withoutDatabase } from './support/admin.ts'

const randomKey = () => makeKey((count) => crypto.getRandomValues(new Uint8Array(count)))
const T0 = Date.parse('2026-11-22T00:00:00Z')
const codeOf = (result: Awaited<ReturnType<typeof present>>) => (result.ok ? 'ok' : result.error.code)
const keyPath = ({ orgId, keyId }: Tenant) => `/organisations/${orgId}/keys/${keyId}`

/** A directory on the storage of the real one for this key, with other bindings: as after a restart. */
async function directoryOf<T>(hash: string, bindings: Env, use: (directory: Directory) => Promise<T>): Promise<T> {
  const stub = env.DIRECTORY.getByName(directoryName(hash))
  return runInDurableObject(stub, (_, state) => use(new Directory(state, bindings)))
}

describe('a key', () => {
  test('names its caller and what it may use, the same from the stored copy as from Postgres', async () => {
    const scopes = {
      models: ['a', 'b'],
      routes: ['chat', 'models'],
      addresses: ['10.0.0.0/8', '2001:db8::/32'],
      end_user: 'customer-7',
      expires_at: '2099-01-01T00:00:00Z',
    }
    const { orgId, projectId, keyId, key } = await newTenant(scopes)
    const result = await present(key)
    expect(result).toEqual({
      ok: true,
      value: {
        credential: 'key',
        orgId,
        projectId,
        keyId,
        keyPrefix: key.slice(0, 12),
        modelsAllowed: ['a', 'b'],
        routesAllowed: ['chat', 'models'],
        addressesAllowed: ['10.0.0.0/8', '2001:db8::/32'],
        endUser: 'customer-7',
        expiresAtMs: Date.parse('2099-01-01T00:00:00Z'),
      },
    })
    forgetKeys()
    expect(await present(key)).toEqual(result)
  })

  test('passes as a bearer token and as x-api-key, and not in other forms', async () => {
    const { key } = await newTenant()
    const { authenticate } = await import('../../gateway/auth/authenticate.ts')
    const by = async (headers: Record<string, string>) =>
      (await authenticate(new Headers(headers), env, Date.now(), () => {})).ok
    expect(await by({ authorization: `Bearer ${key}` })).toBe(true)
    expect(await by({ authorization: `bearer  ${key} ` })).toBe(true)
    expect(await by({ 'x-api-key': key })).toBe(true)
    expect(await by({ authorization: key })).toBe(false)
    expect(await by({ authorization: `Basic ${key}` })).toBe(false)
    expect(await by({ authorization: 'Bearer ' })).toBe(false)
    expect(await by({ 'x-api-key': '' })).toBe(false)
    expect(await by({})).toBe(false)
  })

  test('is refused with one character changed, dropped or added, without a look-up', async () => {
    const { key } = await newTenant()
    const asked: unknown[] = []
    const counting = { ...env, DIRECTORY: directoryThat(async (...call) => asked.push(call)) }
    for (const wrong of [
      key.slice(0, -1),
      `${key}0`,
      key.replace(/.$/, (c) => (c === '0' ? '1' : '0')),
      `psk_${key}`,
    ]) {
      expect(codeOf(await present(wrong, T0, counting))).toBe('invalid_api_key')
    }
    expect(asked).toEqual([])
  })

  test('unknown or revoked: the same words after the same look-up, which carries the hash alone', async () => {
    const revoked = await newTenant()
    await admin('DELETE', keyPath(revoked))
    const unknown = randomKey()
    const asked: unknown[][] = []
    const counting = {
      ...env,
      DIRECTORY: directoryThat(async (name, hash, nowMs) => {
        asked.push([name, hash])
        return env.DIRECTORY.getByName(name).lookup(hash, nowMs)
      }),
    }
    const answers = [await present(unknown, T0, counting), await present(revoked.key, T0, counting)]
    expect(answers[0]).toEqual(answers[1])
    expect(codeOf(answers[0] as never)).toBe('invalid_api_key')
    const hashes = await Promise.all([hashKey(unknown), hashKey(revoked.key)])
    expect(asked).toEqual(hashes.map((hash) => [hash.slice(0, 2), hash]))
  })

  test('ends at its expiry, to the millisecond, also from a copy', async () => {
    const { key } = await newTenant({ expires_at: '2099-01-01T00:00:00Z' })
    const endMs = Date.parse('2099-01-01T00:00:00Z')
    expect(codeOf(await present(key, endMs - 1))).toBe('ok')
    expect(codeOf(await present(key, endMs))).toBe('invalid_api_key')
  })

  test('revoked: refused at once here, and by the account for isolates that still have a copy', async () => {
    const tenant = await newTenant()
    expect(codeOf(await present(tenant.key))).toBe('ok')
    const first = await admin('DELETE', keyPath(tenant))
    expect(codeOf(await present(tenant.key))).toBe('invalid_api_key')
    const { orgId, projectId, keyId } = tenant
    const ask = newAsk({ orgId, projectId, keyId })
    const reserved = await env.ACCOUNT.getByName(orgId).reserve(ask)
    expect(reserved).toEqual({ ok: false, error: { reason: 'key_revoked' } })
    // Safe to repeat, in both spellings.
    const again = await admin('POST', `${keyPath(tenant)}/revoke`)
    expect(again.body).toEqual(first.body)
  })

  test('gets a new scope at once where the change was made', async () => {
    const tenant = await newTenant()
    const seen = async () => {
      const result = await present(tenant.key)
      return result.ok ? result.value.modelsAllowed : result.error
    }
    expect(await seen()).toEqual(undefined)
    await admin('PATCH', keyPath(tenant), { models: ['only'] })
    expect(await seen()).toEqual(['only'])
    await admin('PATCH', keyPath(tenant), { models: null })
    expect(await seen()).toEqual(undefined)
  })
})

describe('the isolate', () => {
  test('asks the directory once in five seconds, renews behind the answer, and never uses a copy of ten', async () => {
    const { key } = await newTenant()
    const askedAtMs: number[] = []
    const counting = {
      ...env,
      DIRECTORY: directoryThat((name, hash, nowMs) => {
        askedAtMs.push(nowMs)
        return env.DIRECTORY.getByName(name).lookup(hash, nowMs)
      }),
    }
    for (const afterMs of [0, 1, 4_999, 5_000, 5_001, 9_999, 10_000, 20_000]) {
      expect(codeOf(await present(key, T0 + afterMs, counting))).toBe('ok')
    }
    expect(askedAtMs.map((ms) => ms - T0)).toEqual([0, 5_000, 10_000, 20_000])
  })

  test('a directory that breaks off is a 503, not a 401', async () => {
    const broken = { ...env, DIRECTORY: directoryThat(() => Promise.reject(new Error('overloaded'))) }
    expect(codeOf(await present(randomKey(), T0, broken))).toBe('unavailable')
  })
})

describe('the directory', () => {
  test('does not ask Postgres for a minute, then sees a change made there by hand', async () => {
    const tenant = await newTenant()
    const hash = await hashKey(tenant.key)
    const revoked = (lookup: Lookup) => lookup.found === 'key' && lookup.record.revoked
    await directoryOf(hash, env, async (directory) => {
      expect(revoked(await directory.lookup(hash, T0))).toBe(false)
      await connect(env).run({ text: 'update api_keys set revoked_at = now() where hash = $1', params: [hash] })
      expect(revoked(await directory.lookup(hash, T0 + FRESH_MS - 1))).toBe(false)
      expect(revoked(await directory.lookup(hash, T0 + FRESH_MS))).toBe(true)
    })
  })

  test('asks again at once after an invalidation', async () => {
    const tenant = await newTenant()
    const hash = await hashKey(tenant.key)
    await directoryOf(hash, env, async (directory) => {
      await directory.lookup(hash, T0)
      await connect(env).run({ text: 'update api_keys set revoked_at = now() where hash = $1', params: [hash] })
      await directory.invalidate(['0'.repeat(64), hash])
      expect(await directory.lookup(hash, T0 + 1)).toMatchObject({ found: 'key', record: { revoked: true } })
    })
  })

  test('an answer that set out before an invalidation is asked for again', async () => {
    const tenant = await newTenant()
    const hash = await hashKey(tenant.key)
    const gate = Promise.withResolvers<void>()
    let questions = 0
    const slow = withPool((statement) => {
      const answer = env.DATABASE_POOL.getByName('pool').run(statement)
      return questions++ === 0 ? answer.then((read) => gate.promise.then(() => read)) : answer
    })
    await directoryOf(hash, slow, async (directory) => {
      const lookup = directory.lookup(hash, T0)
      await expect.poll(() => questions).toBe(1)
      await admin('PATCH', keyPath(tenant), { models: ['new'] })
      await directory.invalidate([hash])
      gate.resolve()
      expect(await lookup).toMatchObject({ record: { principal: { modelsAllowed: ['new'] } } })
      expect(questions).toBe(2)
    })
  })

  test('many callers of one key share one question', async () => {
    const { key } = await newTenant()
    const hash = await hashKey(key)
    let questions = 0
    const counting = withPool((statement) => {
      questions++
      return env.DATABASE_POOL.getByName('pool').run(statement)
    })
    await directoryOf(hash, counting, async (directory) => {
      const answers = await Promise.all(Array.from({ length: 20 }, () => directory.lookup(hash, T0)))
      expect(new Set(answers.map(({ found }) => found))).toEqual(new Set(['key']))
    })
    expect(questions).toBe(1)
  })

  test('keeps no trace of unknown keys', async () => {
    const hash = await hashKey(randomKey())
    const stub = env.DIRECTORY.getByName(directoryName(hash))
    expect(await stub.lookup(hash, T0)).toEqual({ found: 'nothing' })
    const rows = await runInDurableObject(stub, (_, state) =>
      state.storage.sql.exec('SELECT count(*) AS n FROM keys WHERE hash = ?', hash).one(),
    )
    expect(rows).toEqual({ n: 0 })
  })

  test('forgets a key whose row is gone', async () => {
    const { key } = await newTenant()
    const hash = await hashKey(key)
    await directoryOf(hash, env, async (directory) => {
      expect((await directory.lookup(hash, T0)).found).toBe('key')
      await connect(env).run({ text: 'delete from api_keys where hash = $1', params: [hash] })
      expect((await directory.lookup(hash, T0 + FRESH_MS)).found).toBe('nothing')
    })
  })
})

describe('without Postgres', () => {
  test('a known key works on from its durable copy for a day, and not longer', async () => {
    const { key } = await newTenant()
    const hash = await hashKey(key)
    await env.DIRECTORY.getByName(directoryName(hash)).lookup(hash, T0)
    await directoryOf(hash, withoutDatabase(), async (directory) => {
      expect((await directory.lookup(hash, T0 + FRESH_MS)).found).toBe('key')
      expect((await directory.lookup(hash, T0 + STALE_MAX_MS - 1)).found).toBe('key')
      expect((await directory.lookup(hash, T0 + STALE_MAX_MS)).found).toBe('unavailable')
    })
  })

  test('a stale copy of a key is not shown to the admin API, whose roles may have changed', async () => {
    const { key } = await newTenant()
    const hash = await hashKey(key)
    await env.DIRECTORY.getByName(directoryName(hash)).lookup(hash, T0)
    await directoryOf(hash, withoutDatabase(), async (directory) => {
      await directory.invalidate([hash])
      expect((await directory.lookup(hash, T0 + 1)).found).toBe('key')
      expect((await directory.lookup(hash, T0 + 1 + RETRY_AFTER_MS, true)).found).toBe('unavailable')
    })
  })

  test('a known key is not held up by a Postgres that stays silent, and gets the late answer next time', async () => {
    const tenant = await newTenant()
    const hash = await hashKey(tenant.key)
    await env.DIRECTORY.getByName(directoryName(hash)).lookup(hash, T0)
    await admin('PATCH', keyPath(tenant), { models: ['new'] })
    const gate = Promise.withResolvers<void>()
    const silent = withPool(async (statement) => {
      await gate.promise
      return env.DATABASE_POOL.getByName('pool').run(statement)
    })
    await directoryOf(hash, silent, async (directory) => {
      const first = await directory.lookup(hash, T0 + 1)
      expect(first).toMatchObject({ found: 'key' })
      expect(first).not.toHaveProperty('record.principal.modelsAllowed')
      gate.resolve()
      const later = () => directory.lookup(hash, T0 + 1 + RETRY_AFTER_MS)
      await expect.poll(later).toMatchObject({ record: { principal: { modelsAllowed: ['new'] } } })
    })
  })

  test('an unknown key is a 503 with a time to come back, not a 401', async () => {
    const key = randomKey()
    const hash = await hashKey(key)
    await directoryOf(hash, withoutDatabase(), async (directory) => {
      const dead = { ...env, DIRECTORY: directoryThat((_, asked, nowMs) => directory.lookup(asked, nowMs)) }
      const result = await present(key, T0, dead)
      expect(result).toMatchObject({ ok: false, error: { code: 'unavailable', retryAfterMs: RETRY_AFTER_MS } })
    })
  })

  test('a revocation holds although the copy that is served is older', async () => {
    const { key } = await newTenant()
    const hash = await hashKey(key)
    await env.DIRECTORY.getByName(directoryName(hash)).lookup(hash, T0)
    await directoryOf(hash, withoutDatabase(), async (directory) => {
      await directory.revoke(hash)
      const late = await directory.lookup(hash, T0 + STALE_MAX_MS - 1)
      expect(late).toMatchObject({ found: 'key', record: { revoked: true } })
    })
  })

  test('a copy that is called old does not take the key away, and callers do not wait for each failure anew', async () => {
    const { key } = await newTenant()
    const hash = await hashKey(key)
    await env.DIRECTORY.getByName(directoryName(hash)).lookup(hash, T0)
    let questions = 0
    const refusing = withPool(async () => {
      questions++
      return { outcome: 'unavailable', message: 'gone' }
    })
    await directoryOf(hash, refusing, async (directory) => {
      await directory.invalidate([hash])
      for (const afterMs of [1, 2, RETRY_AFTER_MS, RETRY_AFTER_MS + 1, RETRY_AFTER_MS + 2]) {
        expect((await directory.lookup(hash, T0 + afterMs)).found).toBe('key')
      }
    })
    expect(questions).toBe(2)
  })
})

type Call = (name: string, hash: string, nowMs: number) => Promise<unknown>

function directoryThat(lookup: Call): Env['DIRECTORY'] {
  const namespace = {
    getByName: (name: string) => ({ lookup: (hash: string, nowMs: number) => lookup(name, hash, nowMs) }),
  }
  return namespace as unknown as Env['DIRECTORY']
}

function withPool(run: (statement: never) => Promise<unknown>): Env {
  return { ...env, DATABASE_POOL: { getByName: () => ({ run }) } as unknown as Env['DATABASE_POOL'] }
}
