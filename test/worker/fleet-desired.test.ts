// What an administrator asks of a backend: from the admin API to the agent's next report, and into routing.
import { evictDurableObject } from 'cloudflare:test'
import { calculateJwkThumbprint } from 'jose'
import { describe, expect, test } from 'vitest'
import { admin } from './support/admin.ts'
import { encode, FakeAgent, fleet, frame } from './support/fake-agent.ts'

const engines = () => [
  frame('m', { engine: 'gpu0', role: 'prefill' }),
  frame('m', {
    engine: 'gpu1',
    role: 'decode',
    stepModel: { baseMs: 5, prefillTokenMs: 0.1, decodeSequenceMs: 0.2, kvTokenMs: 0.0001 },
    transfer: { fingerprint: 'layout', host: 'h1', remote: true, bytesPerToken: 4096, reservations: 2 },
  }),
]

async function joined(): Promise<FakeAgent> {
  const agent = new FakeAgent(() => [])
  await agent.join(engines())
  return agent
}
const reply = async (agent: FakeAgent) => {
  const answer = await agent.report(engines())
  if (!answer.ok) throw new Error(answer.error.message)
  return answer.value
}
const seen = async (agent: FakeAgent) => {
  const { snapshot } = await fleet().view({ chunks: [], wantsSnapshot: true })
  return snapshot?.backends.find(({ backendId }) => backendId === agent.backendId)
}
const listed = async (agent: FakeAgent) =>
  (await admin('GET', '/backends')).body.data.find((one: { id: string }) => one.id === agent.backendId)

describe('what is asked of a backend', () => {
  test('is told with the next report, once per change, and outlives the object', async () => {
    const agent = await joined()
    expect(await reply(agent)).toEqual({ next: 'continue' })
    const asked = await admin('PATCH', `/backends/${agent.backendId}`, { draining: true })
    const first = { revision: 1, draining: true, roles: {} }
    expect(asked).toMatchObject({ status: 200, body: { id: agent.backendId, desired: first } })
    expect(await reply(agent)).toEqual({ next: 'continue', desired: first })
    // Asking again is no change.
    await admin('PATCH', `/backends/${agent.backendId}`, { draining: true })
    expect(await reply(agent)).toEqual({ next: 'continue', desired: first })
    await admin('PATCH', `/backends/${agent.backendId}`, { draining: false, roles: { gpu1: 'both' } })
    const second = { revision: 2, draining: false, roles: { gpu1: 'both' } }
    expect(await reply(agent)).toEqual({ next: 'continue', desired: second })
    await evictDurableObject(fleet())
    expect(await reply(agent)).toEqual({ next: 'resync' })
    const body = encode(await agent.joinBody(engines()))
    await fleet().join({ body, token: await agent.sign(body) })
    expect(await reply(agent)).toEqual({ next: 'continue', desired: second })
    expect((await listed(agent)).desired).toEqual(second)
  })

  test('counts for routing at once, and is shown beside what is', async () => {
    const agent = await joined()
    await admin('PATCH', `/backends/${agent.backendId}`, { draining: true, roles: { gpu0: 'both' } })
    expect((await seen(agent))?.frames.map(({ draining }) => draining)).toEqual([true, true])
    expect(await listed(agent)).toMatchObject({
      state: 'live',
      desired: { revision: 1, draining: true, roles: { gpu0: 'both' } },
      kv_chunks: 0,
      models: [
        { engine: 'gpu0', role: 'prefill', draining: false, transfer: null, step_model: null },
        {
          engine: 'gpu1',
          role: 'decode',
          transfer: { fingerprint: 'layout', host: 'h1', remote: true, bytes_per_token: 4096, reservations: 2 },
          step_model: { base_ms: 5, prefill_token_ms: 0.1, decode_sequence_ms: 0.2, kv_token_ms: 0.0001 },
        },
      ],
    })
    await admin('PATCH', `/backends/${agent.backendId}`, { draining: false })
    expect((await seen(agent))?.frames.map(({ draining }) => draining)).toEqual([false, false])
  })

  test.each([
    [{}, 'nothing'],
    [{ draining: 'yes' }, 'draining that is neither'],
    [{ roles: { gpu0: 'both' }, extra: 1 }, 'a field that is not known'],
    [{ roles: { gpu0: 'fast' } }, 'a role that is none'],
    [{ roles: { gpu9: 'both' } }, 'an engine that it does not have'],
    [{ roles: Object.fromEntries(Array.from({ length: 65 }, (_, at) => [`gpu${at}`, 'both'])) }, 'too many engines'],
  ])('is refused: %j, %s', async (body, _what) => {
    const agent = await joined()
    expect(await admin('PATCH', `/backends/${agent.backendId}`, body)).toMatchObject({
      status: 400,
      body: { error: { code: 'invalid_request' } },
    })
    expect(await reply(agent)).toEqual({ next: 'continue' })
  })

  test('of one that is not enrolled is not found, and ends with the enrolment', async () => {
    const nobody = await admin('PATCH', `/backends/${crypto.randomUUID()}`, { draining: true })
    expect(nobody.status).toBe(404)
    const agent = await joined()
    await admin('PATCH', `/backends/${agent.backendId}`, { draining: true })
    await admin('DELETE', `/backends/${agent.backendId}`)
    await agent.join(engines())
    expect(await reply(agent)).toEqual({ next: 'continue' })
  })

  test('is in the audit log', async () => {
    const agent = await joined()
    await admin('PATCH', `/backends/${agent.backendId}`, { draining: true })
    const { body } = await admin('GET', '/audit?limit=50')
    expect(JSON.stringify(body)).toContain(agent.backendId)
  })
})

test("a backend's view names its key by the thumbprint of RFC 7638", async () => {
  const agent = await joined()
  const { kty, crv, x } = await agent.publicKey()
  expect((await seen(agent))?.keyThumbprint).toBe(await calculateJwkThumbprint({ kty, crv, x }))
})
