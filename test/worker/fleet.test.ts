// The fleet in workerd: who gets in, whose word counts, and what routing sees of it.
import { createExecutionContext, env, evictDurableObject } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { createApp } from '../../gateway/app.ts'
import { admin, type Json } from './support/admin.ts'
import { encode, FakeAgent, fleet, frame } from './support/fake-agent.ts'

const app = createApp()
const model = () => `model-${crypto.randomUUID()}`

async function post(path: string, body: Uint8Array | object, token: string | undefined) {
  const bytes = body instanceof Uint8Array ? body : encode(body)
  const request = new Request(`http://gateway.test${path}`, {
    method: 'POST',
    headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
    body: bytes,
  })
  const response = await app.fetch(request, env, createExecutionContext())
  return { status: response.status, body: (await response.json()) as Json }
}

async function signedPost(agent: FakeAgent, path: string, body: object, over: Parameters<FakeAgent['sign']>[1] = {}) {
  const bytes = encode(body)
  return post(path, bytes, await agent.sign(bytes, over))
}

const newToken = async (body: object = {}): Promise<string> =>
  (await admin('POST', '/backends/tokens', body)).body.token
const seen = async (agent: FakeAgent) =>
  (await fleet().view({ chunks: [], wantsSnapshot: true })).snapshot?.backends.find(
    (backend) => backend.backendId === agent.backendId,
  )
const report = (agent: FakeAgent, sequence: number, frames = [frame('m')]) => ({
  version: 1,
  backendId: agent.backendId,
  epoch: agent.epoch,
  sequence,
  frames,
})

describe('joining', () => {
  test('takes a token from the admin API once, and from then on the key alone', async () => {
    const agent = new FakeAgent(() => [])
    const name = model()
    const token = await newToken({ label: 'rack 1' })
    const first = await signedPost(agent, '/fleet/join', await agent.joinBody([frame(name)], token))
    expect(first).toEqual({
      status: 200,
      body: { backendId: agent.backendId, reportIntervalMs: 1000, staleAfterMs: 3500 },
    })
    expect(await seen(agent)).toMatchObject({ url: agent.url, frames: [{ model: name }] })
    expect((await signedPost(agent, '/fleet/join', await agent.joinBody([]))).status).toBe(200)
    const another = new FakeAgent(() => [])
    expect((await signedPost(another, '/fleet/join', await another.joinBody([], token))).status).toBe(401)
    const listed = (await admin('GET', '/backends')).body.data
    expect(listed).toContainEqual(expect.objectContaining({ id: agent.backendId, label: 'rack 1', state: 'live' }))
    expect(JSON.stringify(listed)).not.toContain(another.backendId)
  })

  test('with one token by many at once lets exactly one in', async () => {
    const token = await newToken()
    const agents = Array.from({ length: 6 }, () => new FakeAgent(() => []))
    const answers = await Promise.all(
      agents.map(async (agent) => signedPost(agent, '/fleet/join', await agent.joinBody([], token))),
    )
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 401, 401, 401, 401, 401])
  })

  test.each([
    ['no token', async (_: FakeAgent) => undefined],
    ['an invented token', async (_: FakeAgent) => 'pst_enrol_guess'],
  ])('is refused with %s', async (_, make) => {
    const agent = new FakeAgent(() => [])
    const answer = await signedPost(agent, '/fleet/join', await agent.joinBody([], await make(agent)))
    expect(answer).toMatchObject({ status: 401, body: { error: { code: 'invalid_api_key' } } })
    expect(await seen(agent)).toBeUndefined()
  })

  test('is refused as a backend that is enrolled with another key, also with a fresh token', async () => {
    const owner = new FakeAgent(() => [])
    await owner.join([])
    const thief = new FakeAgent(() => [])
    const body = { ...(await thief.joinBody([], await newToken())), backendId: owner.backendId }
    const answer = await signedPost(thief, '/fleet/join', body, { issuer: `backend:${owner.backendId}` })
    expect(answer.status).toBe(403)
    expect((await seen(owner))?.url).toBe(owner.url)
  })

  test.each(['ftp://host', 'http://user:secret@host', 'http://host/?q=1', 'http://host/#x', 'not a url'])(
    'is refused with the address %s',
    async (url) => {
      const agent = new FakeAgent(() => [])
      const body = { ...(await agent.joinBody([], await newToken())), url }
      expect(await signedPost(agent, '/fleet/join', body)).toMatchObject({
        status: 400,
        body: { error: { param: 'url' } },
      })
    },
  )

  test('ends an older life for good: its reports are void and it cannot join again', async () => {
    const agent = new FakeAgent(() => [])
    const name = model()
    await agent.join([frame(name)])
    agent.epoch = 'life-2'
    expect((await signedPost(agent, '/fleet/join', await agent.joinBody([frame(name)]))).status).toBe(200)
    agent.epoch = 'life-1'
    expect(await signedPost(agent, '/fleet/report', report(agent, 9))).toMatchObject({ body: { next: 'resync' } })
    expect((await signedPost(agent, '/fleet/join', await agent.joinBody([]))).status).toBe(403)
    expect((await seen(agent))?.frames).toMatchObject([{ model: name }])
  })
})

describe('a signed body', () => {
  const cases: [string, (agent: FakeAgent, body: Uint8Array) => Promise<string | undefined>][] = [
    ['without a token', async () => undefined],
    ['with a token that is none', async () => 'abc'],
    [
      'signed by another key',
      (agent, body) => new FakeAgent(() => []).sign(body, { issuer: `backend:${agent.backendId}` }),
    ],
    ['of another audience', (agent, body) => agent.sign(body, { audience: 'somebody-else' })],
    ['of another issuer', (agent, body) => agent.sign(body, { issuer: 'backend:other' })],
    ['too old', (agent, body) => agent.sign(body, { nowMs: Date.now() - 120_000 })],
    ['from the future', (agent, body) => agent.sign(body, { nowMs: Date.now() + 120_000 })],
    ['for another body', (agent) => agent.sign(encode({ other: true }))],
    [
      'with the algorithm none',
      async (agent, body) => {
        const [, payload] = (await agent.sign(body)).split('.')
        return `${btoa('{"alg":"none"}').replaceAll('=', '')}.${payload}.`
      },
    ],
  ]
  test.each(cases)('%s is refused and changes nothing', async (_, sign) => {
    const agent = new FakeAgent(() => [])
    await agent.join([frame('before')])
    const body = encode(report(agent, 0, [frame('after')]))
    expect((await post('/fleet/report', body, await sign(agent, body))).status).toBe(401)
    expect((await seen(agent))?.frames).toMatchObject([{ model: 'before' }])
  })

  test('counts once: the same token again is refused', async () => {
    const agent = new FakeAgent(() => [])
    await agent.join([])
    const body = encode(report(agent, 0))
    const token = await agent.sign(body)
    expect((await post('/fleet/report', body, token)).status).toBe(200)
    expect((await post('/fleet/report', body, token)).status).toBe(401)
  })

  test('over the limit is refused', async () => {
    const agent = new FakeAgent(() => [])
    const body = new Uint8Array(300 * 1024).fill(0x20)
    expect((await post('/fleet/report', body, await agent.sign(body))).status).toBe(413)
  })
})

describe('reports', () => {
  test('in order replace the frames; a gap counts and asks for a resync; an old one changes nothing', async () => {
    const agent = new FakeAgent(() => [])
    await agent.join([frame('zero')])
    const say = async (sequence: number, name: string) =>
      (await signedPost(agent, '/fleet/report', report(agent, sequence, [frame(name)]))).body.next
    expect(await say(0, 'first')).toBe('continue')
    expect(await say(1, 'second')).toBe('continue')
    expect(await say(5, 'gap')).toBe('resync')
    expect(await say(3, 'old')).toBe('continue')
    expect((await seen(agent))?.frames).toMatchObject([{ model: 'gap' }])
  })

  test('of an unknown backend ask for a join', async () => {
    const agent = new FakeAgent(() => [])
    expect(await signedPost(agent, '/fleet/report', report(agent, 0))).toMatchObject({ body: { next: 'resync' } })
  })

  test('after the object was restarted ask for a join, which needs no token', async () => {
    const agent = new FakeAgent(() => [])
    await agent.join([frame('m')])
    await evictDurableObject(fleet())
    expect(await seen(agent)).toBeUndefined()
    expect(await signedPost(agent, '/fleet/report', report(agent, 0))).toMatchObject({ body: { next: 'resync' } })
    expect((await signedPost(agent, '/fleet/join', await agent.joinBody([frame('m')]))).status).toBe(200)
    expect(await seen(agent)).toBeDefined()
  })
})

describe('leaving', () => {
  test('takes a backend out of routing and leaves it enrolled; a zombie cannot say goodbye for its successor', async () => {
    const agent = new FakeAgent(() => [])
    await agent.join([frame('m')])
    const goodbye = { version: 1, backendId: agent.backendId, epoch: 'another-life' }
    expect((await signedPost(agent, '/fleet/leave', goodbye)).status).toBe(200)
    expect(await seen(agent)).toBeDefined()
    expect((await signedPost(agent, '/fleet/leave', { ...goodbye, epoch: agent.epoch })).status).toBe(200)
    expect(await seen(agent)).toBeUndefined()
    expect((await signedPost(agent, '/fleet/join', await agent.joinBody([]))).status).toBe(200)
  })

  test('an object that begins anew awaits who is enrolled, until they report or say goodbye', async () => {
    const [stays, goes] = [new FakeAgent(() => []), new FakeAgent(() => [])]
    await stays.join([frame('m')])
    await goes.join([frame('m')])
    await evictDurableObject(fleet())
    const awaited = async () => {
      const { snapshot } = await fleet().view({ chunks: [], wantsSnapshot: true })
      return [stays, goes].map(({ backendId }) => snapshot?.awaited?.includes(backendId))
    }
    expect(await awaited()).toEqual([true, true])
    const goodbye = { version: 1, backendId: goes.backendId, epoch: goes.epoch }
    expect((await signedPost(goes, '/fleet/leave', { ...goodbye, epoch: 'another-life' })).status).toBe(200)
    expect(await awaited()).toEqual([true, true])
    expect((await signedPost(goes, '/fleet/leave', goodbye)).status).toBe(200)
    expect((await signedPost(stays, '/fleet/join', await stays.joinBody([frame('m')]))).status).toBe(200)
    expect(await awaited()).toEqual([false, false])
  })

  test('by an administrator ends the enrolment', async () => {
    const agent = new FakeAgent(() => [])
    await agent.join([frame('m')])
    expect((await admin('DELETE', `/backends/${agent.backendId}`)).status).toBe(200)
    expect((await admin('DELETE', `/backends/${agent.backendId}`)).status).toBe(404)
    expect(await seen(agent)).toBeUndefined()
    expect((await signedPost(agent, '/fleet/join', await agent.joinBody([]))).status).toBe(401)
  })
})

test.each([{ ttl_seconds: 0 }, { ttl_seconds: 10_000_000 }, { label: 5 }, { unknown: 1 }])(
  'the token request %j names its wrong field',
  async (body) => {
    const answer = await admin('POST', '/backends/tokens', body)
    expect(answer.status).toBe(400)
    expect(answer.body.error.type).toBe('invalid_request_error')
  },
)
